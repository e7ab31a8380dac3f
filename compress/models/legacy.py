"""Models of Keras 2: read by tf_keras, carried to Keras 3 by the bridge, and back.

Keras 3 reads many Keras 2 files, some of them wrongly without a word (`hard_sigmoid` has another
slope), so whatever comes out is compared with tf_keras's own model on random inputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import bridge, hosted, signature

TOLERANCE = 1e-4  # of the largest output, or of 1
TOLERANCE_HALF = 2e-2  # where layers compute in 16 bits


def load(path: Path, model: Any, failure: Exception | None, *, unsafe: bool,
         objects: dict) -> tuple[Any, list[str]]:
    """The best model for a Keras 2 file, and how it was got.

    Args:
        path: The file, already scanned.
        model: What Keras 3 made of it, or None.
        failure: Why Keras 3 could not.
        unsafe: Run code that the file carries.
        objects: The user's own classes by name.

    Raises:
        ModelError: Neither Keras can load it.
    """
    import tf_keras

    from .load import explain

    try:
        old = tf_keras.models.load_model(path, custom_objects=objects, compile=False,
                                         safe_mode=not unsafe)
    except Exception as error:
        if model is not None:
            return model, ["written by Keras 2, read by Keras 3"]
        said = explain(path, failure)
        raise (said if "custom object" in said.message else explain(path, error)) from error
    if model is not None:
        why = _difference(old, model)
        if not why:
            return model, ["written by Keras 2, read by Keras 3; outputs equal tf_keras's"]
    else:
        why = "Keras 3 cannot read it"
    try:
        bridged = bridge.rebuild(old, "keras3")
        problem = _difference(old, bridged)
    except Exception as error:
        problem = " ".join(str(error).split())[:200] or type(error).__name__
    if problem:
        return old, [f"written by Keras 2 and kept in tf_keras: {problem}"]
    notes = [f"written by Keras 2 and rebuilt in Keras 3 ({why}); outputs equal tf_keras's"]
    called = sorted({f"tf.{m.symbol}" for m in bridged._flatten_layers()
                     if isinstance(m, hosted.tf_op_class())})
    if called:
        notes.append(f"a .keras artifact of it loads only where tfcompress is installed: it calls "
                     f"{', '.join(called)}")
    return bridged, notes


def to_tf_keras(model: Any) -> Any:
    """A Keras 3 functional or Sequential model as a tf_keras model with the same outputs.

    Raises:
        Unbridgeable: It cannot be rebuilt, or the rebuilt model gives other outputs.
    """
    twin = bridge.rebuild(model, "tf_keras")
    if problem := _difference(model, twin):
        raise bridge.Unbridgeable(problem)
    return twin


def flat_twin(model: Any) -> tuple[Any, list[tuple[Any, list]]]:
    """`bridge.flat_twin`: a tf_keras model of single layers with the same outputs.

    Returns:
        The model, and for each Keras 3 layer those that hold its weights, in their order.

    Raises:
        Unbridgeable: It cannot be rebuilt, or the rebuilt model gives other outputs.
    """
    twin, pairs = bridge.flat_twin(model)
    if problem := _difference(model, twin):
        raise bridge.Unbridgeable(problem)
    return twin, pairs


def to_keras3(model: Any) -> Any:
    """A tf_keras functional or Sequential model as a Keras 3 model with the same outputs.

    Raises:
        Unbridgeable: It cannot be rebuilt, or the rebuilt model gives other outputs.
    """
    twin = bridge.rebuild(model, "keras3")
    if problem := _difference(model, twin):
        raise bridge.Unbridgeable(problem)
    return twin


def _difference(one: Any, two: Any) -> str:
    """Run both models on the same random inputs; "" if they agree, else what differs."""
    import numpy as np
    import tensorflow as tf

    shapes = [(d.dtype, tuple(d.shape)) for d in one.inputs]
    if [(_name(d), s[1:]) for d, s in shapes] != [(_name(t.dtype), tuple(t.shape)[1:])
                                                  for t in two.inputs]:
        return "the inputs differ"
    for batch in (2, 1):  # some models take one sample only
        try:
            arrays = _samples(one, shapes, batch)
            first = [np.asarray(t) for t in _run(one, arrays)]
            second = [np.asarray(t) for t in _run(two, arrays)]
            break
        except Exception as error:
            failure = " ".join(str(error).split())[:160]
    else:
        return f"it could not be compared: {failure}"
    if [a.shape for a in first] != [b.shape for b in second]:
        return "the shapes of the outputs differ"
    half = any("16" in str(getattr(layer, "compute_dtype", "")) for layer in one.layers)
    for a, b in zip(first, second, strict=True):
        if a.dtype.kind not in "fV":
            if not (a == b).all():
                return "the outputs differ"
            continue
        a, b = (np.asarray(tf.cast(v, tf.float32)) for v in (a, b))
        largest = max(1.0, float(np.abs(a[np.isfinite(a)]).max(initial=0)))
        if not np.allclose(a, b, rtol=0, atol=(TOLERANCE_HALF if half else TOLERANCE) * largest,
                           equal_nan=True):
            return f"the outputs differ by {float(np.nanmax(np.abs(a - b))):.2g}"
    return ""


def _run(model: Any, arrays: list) -> list:
    """Outputs of either Keras, flat."""
    import keras
    import tensorflow as tf

    ours = isinstance(model, keras.Layer)
    tree = keras.tree if ours else tf.nest
    graph = getattr(model, "_functional", None) or model
    struct = graph._inputs_struct if ours else graph._nested_inputs
    packed = tree.pack_sequence_as(struct, [tf.constant(a) for a in arrays])
    outputs = tree.flatten(tf.function(lambda x: model(x, training=False))(packed))
    signature.reset_states(model)
    return outputs


def _samples(model: Any, shapes: list, batch: int) -> list:
    """Seeded inputs; free dimensions are 64 in images and 16 elsewhere, tokens are 0 or 1."""
    import numpy as np

    rng = np.random.default_rng(0)
    tokens = any("Embedding" in type(m).__name__ for m in model._flatten_layers())
    arrays = []
    for dtype, shape in shapes:
        sizes = (shape[0] or batch, *(n or (64 if len(shape) == 4 else 16) for n in shape[1:]))
        if _name(dtype) == "string":
            array = rng.choice(["a", "b"], sizes)
        elif (tokens and len(shape) == 2) or not _name(dtype).startswith(("float", "bfloat")):
            array = rng.integers(0, 2, sizes)
        else:
            array = rng.standard_normal(sizes)
        arrays.append(array.astype(_numpy(dtype)))
    return arrays


def _numpy(dtype: Any) -> Any:
    import tensorflow as tf

    return tf.as_dtype(_name(dtype)).as_numpy_dtype


def _name(dtype: Any) -> str:
    return getattr(dtype, "name", None) or str(dtype)
