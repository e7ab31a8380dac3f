"""On which devices training computes, and how precisely."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


def strategy() -> Any:
    """Mirrored training when there are several GPUs or one is in force already; else None."""
    import tensorflow as tf

    if tf.distribute.has_strategy():
        return tf.distribute.get_strategy()
    many = len(tf.config.list_logical_devices("GPU")) > 1
    return tf.distribute.MirroredStrategy() if many else None


@contextlib.contextmanager
def half_precision(model: Any) -> Iterator[str]:
    """The layers of a model compute in 16 bits for a while; those that give outputs do not.

    Yields:
        The policy: float16 on a GPU, where losses are to be scaled, bfloat16 elsewhere.
    """
    import keras
    import tensorflow as tf

    name = "mixed_float16" if tf.config.list_logical_devices("GPU") else "mixed_bfloat16"
    last = {id(layer) for layer in _last(model)}
    before = []
    for layer in model._flatten_layers():
        policy = layer.dtype_policy
        if id(layer) not in last and getattr(policy, "name", "") == "float32":
            before.append((layer, policy))
            layer.dtype_policy = keras.DTypePolicy(name)
    try:
        yield name
    finally:
        for layer, policy in before:
            layer.dtype_policy = policy


def _last(model: Any) -> Iterator[Any]:
    """The layers that make a model's outputs, in nested models too."""
    import keras

    for tensor in getattr(model, "outputs", None) or ():
        layer = tensor._keras_history.operation
        if isinstance(layer, keras.Layer):
            yield layer
            yield from layer._flatten_layers()
