"""Layers that carry what one Keras has and the other has not.

`TFOp` calls a TensorFlow function from Keras 3, `Hosted` calls a Keras 3 operation or layer from
tf_keras. Both keep the arguments of their call as JSON values, so models with them can be saved,
cloned and loaded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from . import scan


class Unbridgeable(Exception):
    """Something in the model has no counterpart; the text says what."""


def is_symbolic(value: Any) -> bool:
    """Whether `value` is a tensor of a graph under construction, of either Keras."""
    return hasattr(value, "_keras_history")


def encode(value: Any, tensors: list) -> Any:
    """Arguments of a call as JSON values; tensors move to `tensors` and leave their place.

    Raises:
        Unbridgeable: An argument cannot be written as JSON.
    """
    if is_symbolic(value):
        tensors.append(value)
        return {"tensor": len(tensors) - 1}
    if isinstance(value, dict):
        return {"dict": [[k, encode(v, tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        parts = [encode(v, tensors) for v in value]
        return {"tuple": parts} if isinstance(value, tuple) else parts
    if isinstance(value, slice):
        return {"slice": [encode(v, tensors) for v in (value.start, value.stop, value.step)]}
    if value is Ellipsis:
        return {"ellipsis": True}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "as_numpy_dtype"):
        return value.name
    if hasattr(value, "numpy"):
        value = value.numpy()
    if hasattr(value, "tolist"):
        return {"array": value.tolist(), "dtype": str(value.dtype)}
    raise Unbridgeable(f"an argument of type {type(value).__name__} cannot be kept")


def decode(value: Any, tensors: list) -> Any:
    """What `encode` was given, with `tensors` in the places of its tensors."""
    if isinstance(value, list):
        return [decode(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    kind, inside = next(iter(value.items()))
    if kind == "tensor":
        return tensors[inside]
    if kind == "dict":
        return {k: decode(v, tensors) for k, v in inside}
    if kind == "tuple":
        return tuple(decode(v, tensors) for v in inside)
    if kind == "slice":
        return slice(*(decode(v, tensors) for v in inside))
    if kind == "ellipsis":
        return Ellipsis
    import numpy as np

    return np.array(inside, dtype=value["dtype"])


def as_list(inputs: Any) -> list:
    return list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]


def own_objects() -> dict[str, Any]:
    """The Keras 3 objects of this package that a saved model may name."""
    return {"tfcompress>TFOp": tf_op_class(),
            "tfcompress>hard_sigmoid_keras2": hard_sigmoid_keras2()}


@functools.cache
def hard_sigmoid_keras2() -> Callable:
    """clip(0.2 x + 0.5, 0, 1): Keras 3 gave the name to clip(x / 6 + 0.5, 0, 1)."""
    import keras

    @keras.saving.register_keras_serializable(package="tfcompress")
    def hard_sigmoid_keras2(x: Any) -> Any:
        return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)

    return hard_sigmoid_keras2


@functools.cache
def activation_of_keras3(function: Callable) -> Callable:
    """A Keras 3 activation for tf_keras, under a name that tf_keras does not have itself."""
    import tf_keras

    def activation(x: Any) -> Any:
        return function(x)

    activation.__name__ = activation.__qualname__ = f"{function.__name__}_keras3"
    return tf_keras.saving.register_keras_serializable(package="tfcompress")(activation)


@functools.cache
def tf_op_class() -> type:
    """The Keras 3 layer that calls one TensorFlow function."""
    import keras

    @keras.saving.register_keras_serializable(package="tfcompress")
    class TFOp(keras.layers.Layer):
        """Calls `tf.<symbol>` with `arguments`, a mapping written by `encode`."""

        def __init__(self, symbol: str, arguments: dict, **kwargs: Any):
            super().__init__(**kwargs)
            self.symbol, self.arguments = symbol, arguments

        def call(self, inputs: Any) -> Any:
            from tensorflow.python.util import tf_export

            if not scan.known_op(self.symbol):
                raise ValueError(f"tf.{self.symbol} is not a function that only computes")
            function = tf_export.get_symbol_from_name(self.symbol)
            return function(**decode(self.arguments, as_list(inputs)))

        def get_config(self) -> dict:
            return super().get_config() | {"symbol": self.symbol, "arguments": self.arguments}

    return TFOp


@functools.cache
def hosted_class() -> type:
    """The tf_keras layer that calls a Keras 3 operation or layer."""
    import keras
    import tf_keras

    @tf_keras.saving.register_keras_serializable(package="tfcompress")
    class Hosted(tf_keras.layers.Layer):
        """Calls `hosted`, at inference, and holds its variables.

        `arguments` is `[args, kwargs]`, written by `encode`.
        """

        def __init__(self, hosted: Any, arguments: list, **kwargs: Any):
            super().__init__(**kwargs)
            if isinstance(hosted, dict):
                hosted = keras.saving.deserialize_keras_object(hosted)
            self.arguments = arguments
            self.hosted = lambda: hosted  # hidden from tf_keras, which would wrap it
            self.tensors = [v.value for v in getattr(hosted, "variables", ())]

        def call(self, inputs: Any) -> Any:
            args, kwargs = decode(self.arguments, as_list(inputs))
            hosted = self.hosted()
            if not isinstance(hosted, keras.layers.Layer):
                return hosted.call(*args, **kwargs)
            if hosted._call_has_training_arg:
                kwargs["training"] = False
            return hosted(*args, **kwargs)

        def get_config(self) -> dict:
            hosted = keras.saving.serialize_keras_object(self.hosted())
            return super().get_config() | {"hosted": hosted, "arguments": self.arguments}

    return Hosted
