"""The source's own runtimes: Keras files and SavedModels in TensorFlow."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import ModelError
from .sessions import (
    SIGNATURE,
    Array,
    Session,
    _batches,
    _filled,
    _fixed,
    _joined,
    _refused,
    _rows,
    _spec,
    dequantize,
)


class _Graph(Session):
    """What both TensorFlow runtimes share: a function from tensors to named tensors."""

    def _call(self, tensors: list) -> list:
        raise NotImplementedError

    @property
    def note(self) -> str:
        """The GPU, where TensorFlow sees one and so puts the model there."""
        import tensorflow as tf

        found = tf.config.list_physical_devices("GPU")
        if not found:
            return ""
        details = tf.config.experimental.get_device_details(found[0])
        return f"on the GPU: {details.get('device_name', found[0].name)}"

    def _tensors(self, arrays: list[Array]) -> list:
        import tensorflow as tf

        return [tf.constant(a.astype(s["dtype"]))
                for a, s in zip(arrays, self.inputs, strict=True)]

    def run(self, arrays: list[Array]) -> list[Array]:
        count = _rows(arrays, self.inputs)
        step = _fixed(self.inputs) or max(count, 1)
        return _joined([[out[:have] for out in self._once(rows)]
                        for rows, have in _batches(arrays, count, step)], len(self.outputs))

    def _once(self, rows: list[Array]) -> list[Array]:
        try:
            outputs = self._call(self._tensors(rows))
        except (ValueError, TypeError) as error:
            raise _refused("the model", "TensorFlow", error) from None
        except Exception as error:  # tf.errors.*: shapes and kernels that only show at run time
            if type(error).__module__.startswith("tensorflow"):
                raise _refused("the model", "TensorFlow", error) from None
            raise
        return [dequantize(o.numpy(), s) for o, s in zip(outputs, self.outputs, strict=True)]

    def ready(self, arrays: list[Array]) -> Callable[[], object]:
        step = _fixed(self.inputs) or 1
        tensors = self._tensors([_filled(a[:1], step) for a in arrays])
        return lambda: self._call(tensors)


class Keras(_Graph):
    """A .keras file, called through a traced function as an application would."""

    def __init__(self, path: str, threads: int):
        _tensorflow(threads)
        import keras
        import tensorflow as tf

        try:
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
        except Exception as error:
            raise _refused(path, "Keras", error) from None
        function = tf.function(lambda x: model(x, training=False))
        structure = model.input if not isinstance(model, keras.Sequential) else model.inputs[0]
        self._function = lambda tensors: keras.tree.flatten(
            function(keras.tree.pack_sequence_as(structure, tensors)))
        names = [t.name for t in model.inputs]
        self.inputs = [_spec(n, t.shape, t.dtype) for n, t in zip(names, model.inputs, strict=True)]
        outputs = list(getattr(model, "output_names", [])) or [t.name for t in model.outputs]
        self.outputs = [_spec(n, t.shape, t.dtype)
                        for n, t in zip(outputs, model.outputs, strict=True)]
        self.tensors = list(range(len(names))), list(range(len(outputs)))

    def _call(self, tensors: list) -> list:
        given, wanted = self.tensors
        results = self._function([tensors[given.index(i)] for i in range(len(given))])
        return [results[i] for i in wanted]


class TensorFlow(_Graph):
    """A SavedModel, through its `serving_default` signature."""

    def __init__(self, path: str, threads: int):
        _tensorflow(threads)
        import tensorflow as tf

        try:
            self._model = tf.saved_model.load(path)  # kept: it owns the variables
        except Exception as error:
            raise _refused(path, "TensorFlow", error) from None
        signatures = self._model.signatures
        if not signatures:
            raise ModelError(f"{path} has no signature", "export it with a signature")
        key = SIGNATURE if SIGNATURE in signatures else next(iter(signatures))
        self._function = signatures[key]
        self.inputs = [_spec(n, t.shape, t.dtype.name)
                       for n, t in self._function.structured_input_signature[1].items()]
        self.outputs = [_spec(n, t.shape, t.dtype.name)
                        for n, t in self._function.structured_outputs.items()]
        self.tensors = list(range(len(self.inputs))), list(range(len(self.outputs)))

    def _call(self, tensors: list) -> list:
        named = dict(zip([s["name"] for s in self.inputs], tensors, strict=True))
        results = self._function(**named)
        return [results[s["name"]] for s in self.outputs]


def _tensorflow(threads: int) -> None:
    """Set TensorFlow's threads; it takes them only before its first operation."""
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        pass
