"""A model to a SavedModel whose `serving_default` keeps the names of inputs and outputs."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import artifact
from ..artifact import TensorSpec

WIDE_FLOATS = ("float16", "bfloat16", "float64")


def to_saved_model(model, path: str | Path, *, inputs: Sequence[TensorSpec],
                   outputs: Sequence[TensorSpec]) -> None:
    """Write `model` as a SavedModel folder that plain TensorFlow loads and serves.

    Augmentation and dropout are off. The first axis of every input stays free unless the model
    itself fixes it; other axes are as in `inputs`. The folder appears whole or not at all.

    Args:
        model: A Keras 3 or tf_keras model, or a signature of a loaded SavedModel.
        path: The folder to make; an existing one is replaced.
        inputs: Names, shapes (None where free) and dtypes, in the model's order.
        outputs: The names that the outputs shall have, in the model's order.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".saving-") as folder:
        made = Path(folder) / "model"
        save(trace(model, inputs, outputs), made, model)
        if path.exists():
            shutil.rmtree(path)
        os.replace(made, path)


def trace(model, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]):
    """The concrete function of `model` at inference, with the specs' shapes.

    Its arguments are called as `argument_names` says.
    """
    import tensorflow as tf

    names = argument_names(inputs)
    specs = {n: tf.TensorSpec(s.shape, s.dtype, name=n)
             for n, s in zip(names, inputs, strict=True)}

    def serve(**tensors):
        results = call(model, [tensors[n] for n in names], inputs, outputs)
        # Without the identity, two outputs that are one tensor would share one name.
        return {spec.name: tf.identity(t) for spec, t in zip(outputs, results, strict=True)}

    with _without_seeds():
        return tf.function(serve, autograph=False).get_concrete_function(**specs)


@contextlib.contextmanager
def _without_seeds() -> Iterator[None]:
    """Keras's random layers advance a seed even at inference; no variable shall be written."""
    import tensorflow as tf
    from keras.src.random.seed_generator import SeedGenerator

    original = SeedGenerator.next
    SeedGenerator.next = lambda self, ordered=True: tf.zeros([2], tf.uint32)
    try:
        yield
    finally:
        SeedGenerator.next = original


def argument_names(inputs: Sequence[TensorSpec]) -> list[str]:
    """What the inputs are called where names are arguments: in SavedModels, say."""
    return artifact.argument_names([s.name for s in inputs])


def save(function, folder: str | Path, model: Any = None, gradients: bool = True) -> None:
    """Save a concrete function as the `serving_default` of a new SavedModel.

    Given the same function, the bytes are the same in every process. `gradients` are those that
    functions define for themselves, as swish does; a model that is only converted needs none, and
    is saved in less time without.
    """
    import tensorflow as tf
    from tensorflow.core.protobuf import fingerprint_pb2

    module = tf.Module()
    held = {id(v.handle): v for v in function.graph.variables}
    outer = [id(o) for o, _ in function.graph.captures]
    module.variables_ = [held[o] for o in outer if o in held]
    module.tables_ = [t for t in _tables(model) if id(t.resource_handle) in outer]
    tf.saved_model.save(module, str(folder), {"serving_default": function},
                        tf.saved_model.SaveOptions(experimental_custom_gradients=gradients))
    file = Path(folder) / "fingerprint.pb"
    if file.exists():  # it holds a random identifier beside the digests
        fingerprint = fingerprint_pb2.FingerprintDef.FromString(file.read_bytes())
        fingerprint.uuid = ""
        fingerprint.checkpoint_hash = 0
        file.write_bytes(fingerprint.SerializeToString(deterministic=True))


def _tables(model) -> list:
    """The lookup tables of a model's layers: a function does not keep them alive."""
    from tensorflow.python.trackable.resource import CapturableResource

    layers = model._flatten_layers() if hasattr(model, "_flatten_layers") else ()
    return [v for layer in layers for _, v in sorted(vars(layer).items())
            if isinstance(v, CapturableResource)]


def call(model, tensors: Sequence[Any], inputs: Sequence[TensorSpec],
         outputs: Sequence[TensorSpec] = ()) -> list:
    """`model` at inference on flat tensors in the model's order; flat outputs in its order."""
    import tensorflow as tf

    if hasattr(model, "structured_input_signature"):
        results = model(**{s.name: t for s, t in zip(inputs, tensors, strict=True)})
        if isinstance(results, dict):
            return [results[spec.name] for spec in outputs] if outputs else list(results.values())
        return tf.nest.flatten(results)
    structure = _structure(model)
    if isinstance(structure, _Arguments):
        results = model(**structure.bind(tensors), training=False)
    elif structure is not None:
        results = model(tf.nest.pack_sequence_as(structure, list(tensors)), training=False)
    else:
        packed = tensors[0] if len(tensors) == 1 else list(tensors)
        results = _call_inference(model, packed)
    return tf.nest.flatten(results)


def _call_inference(model, packed):
    try:
        return model(packed, training=False)
    except TypeError as error:
        if "training" not in str(error):
            raise
        return model(packed)


class _Arguments(dict):
    """The shapes with which a subclassed model's several call arguments were built."""

    def bind(self, tensors: Sequence[Any]) -> dict:
        import tensorflow as tf

        rest = list(tensors)
        bound = {}
        for name, shape in self.items():
            marks = _marks(shape)
            count = len(tf.nest.flatten(marks))
            bound[name.removesuffix("_shape")] = tf.nest.pack_sequence_as(marks, rest[:count])
            rest = rest[count:]
        return bound


def _structure(model):
    """How a model takes its flat inputs: a nest of placeholders, named arguments, or None."""
    for attribute in ("_inputs_struct", "_nested_inputs"):
        found = getattr(model, attribute, None)
        if found is not None:
            import tensorflow as tf

            return tf.nest.map_structure(lambda _: 0, found)
    shapes = getattr(model, "_build_shapes_dict", None)
    if not shapes:
        return None
    if len(shapes) == 1:
        marks = _marks(next(iter(shapes.values())))
        return marks if isinstance(marks, (dict, list, tuple)) else None
    return _Arguments(shapes)


def _marks(shape):
    """A nest of shapes as the same nest of zeros (a shape is itself a list or tuple)."""
    if isinstance(shape, dict):
        return {key: _marks(value) for key, value in shape.items()}
    if isinstance(shape, (list, tuple)) and any(isinstance(s, (list, tuple, dict)) for s in shape):
        return [_marks(value) for value in shape]
    return 0
