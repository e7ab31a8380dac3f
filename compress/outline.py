"""What a model consists of: its layers with their outputs and parameters.

Layers that hold other layers and have no weights of their own are models or wrappers; recurrent
layers and wrappers stand for what is inside them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from .models.load import Loaded
from .training import flow

# At inference these give what they get, so nothing of them is in any artifact.
ONLY_IN_TRAINING = ("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D",
                    "GaussianDropout", "GaussianNoise", "AlphaDropout", "ActivityRegularization",
                    "AutoContrast", "AugMix", "CutMix", "MixUp", "RandAugment")


def layers(loaded: Loaded) -> list[dict]:
    """`[{"name", "type", "shape", "parameters", "holds", "note"}]` in the model's order.

    `name` is the path under which stages know the layer, `shape` that of its first output (None
    where it is free or not known), `holds` the names of layers that it stands for. A SavedModel
    has no layers: the list is empty.
    """
    model = loaded.model
    if not hasattr(model, "_flatten_layers"):
        return []
    rows = [(layer, _row(layer, whole)) for layer, whole in _walk(model, set())]
    missing = [row for _, row in rows if row["shape"] is None]
    if missing and loaded.kind == "keras3":
        shapes = _traced(loaded)
        for layer, row in rows:
            row["shape"] = row["shape"] or shapes.get(id(layer))
    return [row for _, row in rows]


def _walk(layer: Any, seen: set[int], within: bool = False) -> Iterator[tuple[Any, bool]]:
    """Each layer once, and whether it stands for all that is inside it."""
    for part in _parts(layer):
        if id(part) in seen:
            continue
        seen.add(id(part))
        inside = _parts(part)
        whole = not inside or not hasattr(part, "_layers") or flow.is_leaf(part)
        if not _is_model(part) and not (within and whole and not part.weights):
            yield part, whole
        if not whole or _is_model(part):
            yield from _walk(part, seen, within or not _is_model(part))


def _parts(layer: Any) -> list:
    """The layers directly inside one."""
    if _is_model(layer):
        return list(layer.layers)
    if hasattr(layer, "_layers"):
        return list(layer._layers)
    return list(layer._flatten_layers(include_self=False, recursive=False))


def _is_model(layer: Any) -> bool:
    return any(kind.__name__ == "Model" for kind in type(layer).__mro__)


def _row(layer: Any, whole: bool) -> dict:
    inside = list(layer._flatten_layers(include_self=False, recursive=True))
    parts = set() if whole else {id(w) for x in inside for w in x.weights}
    weights = [w for w in layer.weights if id(w) not in parts]
    return {"name": _path(layer), "type": type(layer).__name__, "shape": _shape(layer),
            "parameters": sum(math.prod(w.shape) for w in weights),
            "holds": [_path(x) for x in inside] if whole else [], "note": _note(layer)}


def _traced(loaded: Loaded) -> dict[int, list]:
    """Shapes of the first output of each layer's first call, seen while the model is traced."""
    import tensorflow as tf

    found: dict[int, list] = {}

    def around(op: Any, nth: int, call: Any, arguments: Any) -> Any:
        results = call()
        first = next(iter(flow.flatten(results)), None)
        if getattr(first, "shape", None) is not None:
            found.setdefault(id(op), list(first.shape))
        return results

    specs = [tf.TensorSpec((1, *s.shape[1:]), s.dtype) for s in loaded.inputs]
    with flow.listening(around):
        try:
            tf.function(lambda *t: loaded.run(list(t))).get_concrete_function(*specs)
        except Exception:  # a model that cannot be traced has no shapes to show
            return found
    return found


def _path(layer: Any) -> str:
    return getattr(layer, "path", None) or layer.name


def _shape(layer: Any) -> list | None:
    """The shape of the first output, where the layer is used in a graph or says what it makes."""
    try:
        output = layer.output
    except Exception:  # not in a graph, or used several times
        try:
            nodes = layer._inbound_nodes
            output = nodes[0].output_tensors if nodes else None
        except AttributeError:
            output = None
    while isinstance(output, (list, tuple)) and output:
        output = output[0]
    if isinstance(output, dict):
        output = next(iter(output.values()), None)
    shape = getattr(output, "shape", None)
    return None if shape is None else [None if d is None else int(d) for d in shape]


def _note(layer: Any) -> str:
    kind = type(layer).__name__
    if kind in ONLY_IN_TRAINING or kind.startswith("Random"):
        return "no effect at inference, left out of every artifact"
    policy = getattr(getattr(layer, "_dtype_policy", None), "compute_dtype", None)
    if policy in ("float16", "bfloat16", "float64"):
        return f"computes in {policy}: float32 in TFLite"
    return ""
