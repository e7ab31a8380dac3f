"""Structured pruning: channels, heads and units are really removed from a Keras 3 model.

    model --> channels hang together? --> how important? --> which go, for the budget
          --> the same model with smaller numbers, through its configuration --> weights sliced
          --> proof: it computes what the original computes with those channels silenced

The result is a plain model of the same construction: the same layers by the same names, inputs
and outputs unchanged. What is not understood stays whole and is named with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..models import signature
from ..training import kernels
from . import importance
from .groups import MAKES, READS, Channels, graph_of, path_of
from .slimming import Sizes, choose, families

WHAT = {"units": "units", "filters": "channels", "output_dim": "dimensions",
        "output_shape": "outputs", "num_heads": "heads", "num_query_heads": "heads",
        "key_dim": "key size", "value_dim": "value size", "head_dim": "key size"}
TOLERANCE = 1e-3  # of the outputs' largest value, between the two sides of the proof
ROWS = 2  # samples in the proof


@dataclass(frozen=True)
class Slimmed:
    """A smaller model and what was done.

    Attributes:
        model: The smaller model; the given one itself where nothing could be removed.
        removed: `{"layer", "what", "before", "after"}`, counts of channels, heads, units.
        skipped: `{"layer", "why"}` of layers that stayed whole, or of which a part could not go.
        notes: What a reader must know, in words.
        before: `{"parameters", "macs", "bytes"}` of the given model, see `measure`.
        after: The same of the smaller one.
        proof: Largest difference between the smaller model's outputs and the given model's with
            the removed channels silenced, relative to the largest output; None where normalizing
            over channels makes the two differ, or the inputs are not numbers.
    """

    model: Any
    removed: list[dict]
    skipped: list[dict]
    notes: list[str]
    before: dict[str, int | None]
    after: dict[str, int | None]
    proof: float | None = field(default=None)


def measure(model: Any) -> dict[str, int | None]:
    """What a Keras 3 model costs.

    Returns:
        `parameters`; `macs`, multiplications in one sample (free dimensions count once, layers
        that are not understood nothing), None for a model of written code; `bytes`, an estimate
        of the weights in an int8 .tflite with a scale per channel and BatchNormalization folded.
    """
    if graph_of(model) is None:
        import math

        shapes = [tuple(v.shape) for v in model.weights]
        return {"parameters": sum(map(math.prod, shapes)), "macs": None,
                "bytes": sum(math.prod(s) * (1 if len(s) > 1 else 4) for s in shapes)}
    return Sizes(Channels(model), model).summary()


def shrink(model: Any, stage: Any, *, batches: list = (), loss: Callable | None = None,
           progress: Callable[[float | None, str], None] = lambda *_: None) -> Slimmed:
    """A smaller model, in which `stage.to` of the parameters, macs or bytes remain.

    Args:
        model: A Keras 3 model, built; it is not changed.
        stage: A `recipe.Structured`: `to`, `of`, `importance`, `scope`, `layers`, `multiple`.
        batches: `(input tensors in order, labels or None)` each, for `importance = "taylor"`; the
            first also serves the proof, which draws random inputs where there is none.
        loss: `(outputs, labels)` -> a scalar, for `taylor`; None squares the outputs.
        progress: Called with the share that is done and what is being done.

    Returns:
        A `Slimmed`. A model of written code, or one that its configuration cannot build, comes
        back as it is, with the reason in `skipped`.
    """
    import numpy as np

    if graph_of(model) is None:
        return _unchanged(model, "a model of written code: its layers' sizes cannot be changed")
    progress(0.0, "following channels")
    graph = Channels(model)
    _not_chosen(graph, stage.layers)
    roots = np.array([graph.atoms.find(a) for a in range(len(graph.atoms.parent))], int)
    sizes = Sizes(graph, model)
    before = sizes.summary()
    progress(0.3, f"judging channels by {stage.importance}")
    _, pack = signature.inputs(model, "keras3")
    kind, notes = stage.importance, []
    if kind == "taylor" and not batches:
        kind = "magnitude"
        notes.append("no data for the Taylor criterion: channels were judged by magnitude")
    run = _runner(model, pack)
    try:
        scores = importance.scores(graph, roots, kind, run, list(batches), loss)
    except Exception as error:  # only gradients can fail, and with whatever they like
        if kind != "taylor":
            raise
        kind, text = "magnitude", " ".join(str(error).split())[:200]
        notes.append(f"no gradients for the Taylor criterion ({text}): channels were judged by "
                     "magnitude")
        scores = importance.scores(graph, roots, kind, run, [], None)
    found = families(graph, roots, scores, stage.multiple, kind != "taylor")
    reached = choose(sizes, found, stage.of, stage.to, stage.scope)
    gone = {root for f in found for root in f.order[:f.gone]}
    skipped = _skipped(graph, found)
    if not gone:
        return Slimmed(model, [], skipped, [*notes, "no channel could be removed"], before, before)
    if not reached:
        share = sizes.total(stage.of) / before[stage.of]
        notes.append(f"{share:.1%} of the {stage.of} remain, not {stage.to:.1%}: "
                     f"the rest cannot be removed")
    keep = _Keep(roots, np.isin(np.arange(len(roots)), list(gone)))
    progress(0.6, "building the smaller model")
    try:
        small = _rebuild(model, graph, keep)
        proof = _prove(model, small, graph, keep, pack, batches)
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        return _unchanged(model, f"cannot be built with other sizes: {text}", skipped)
    if proof is not None and not proof <= _tolerance(model):
        return _unchanged(model, f"the smaller model differs by {proof:.2g} from the original with "
                                 "the same channels silenced", skipped)
    if proof is None:
        notes.append("not compared with the original with silenced channels: " + (
            "normalization over channels makes the two differ" if _touched(graph, keep)
            else "its inputs are not numbers"))
    progress(1.0, f"{len(gone)} sets of channels removed")
    return Slimmed(small, _removed(graph, keep), skipped, notes, before, sizes.summary(), proof)


def _unchanged(model: Any, why: str, skipped: list[dict] = ()) -> Slimmed:
    size = measure(model)
    return Slimmed(model, [], [{"layer": model.name, "why": why}, *skipped],
                   ["no channel could be removed"], size, size)


@dataclass(frozen=True)
class _Keep:
    """Which of labelled indices stay: `roots` per atom, and which of these are gone."""

    roots: Any
    gone: Any

    def mask(self, atoms: Any) -> Any:
        return (atoms < 0) | ~self.gone[self.roots[atoms]]

    def count(self, atoms: Any) -> int:
        return int(self.mask(atoms).sum())


# What stays whole, and why


def _not_chosen(graph: Channels, layers: str) -> None:
    for weight in graph.weights.values():
        if not kernels.chosen(weight.op, layers):
            for axis, role in weight.roles.items():
                if role in MAKES:
                    graph.atoms.freeze(weight.labels[axis], "not among the layers chosen")


def _skipped(graph: Channels, found: list) -> list[dict]:
    """Each layer that makes channels of which some could not go, with the first reason."""
    few = {root: f for f in found for root in f.order
           if len(f.order) * f.per <= f.multiple or not (f.gone or f.block())}
    why: dict[str, str] = dict(graph.opaque)

    def reason(atom: int) -> str | None:
        if atom < 0:
            return "its channels are those of the model's input"
        small = graph.atoms.find(atom) in few
        return graph.atoms.why(atom) or ("it has too few channels" if small else None)

    for weight in graph.weights.values():
        if weight.kind != "kernel":
            continue
        roles = MAKES if any(r in MAKES for r in weight.roles.values()) else ("own",)
        for axis, role in weight.roles.items():
            reasons = [reason(a) for a in weight.labels[axis].tolist()] if role in roles else []
            if any(reasons):
                why.setdefault(weight.layer, next(r for r in reasons if r))
    return [{"layer": layer, "why": text} for layer, text in why.items()]


def _removed(graph: Channels, keep: _Keep) -> list[dict]:
    found = []
    for edit in graph.edits.values():
        what, before = WHAT.get(edit.key[0]), len(edit.labels)
        after = keep.count(edit.labels)
        if what and after < before:
            found.append({"layer": path_of(edit.op), "what": what, "before": before,
                          "after": after})
    return found


# Building the smaller model


def _rebuild(model: Any, graph: Channels, keep: _Keep) -> Any:
    """The same construction with other numbers, and the weights that stay."""
    from keras.src.saving.serialization_lib import SafeModeScope

    config = model.get_config()
    by_op: dict[int, list] = {}
    for edit in graph.edits.values():
        by_op.setdefault(id(edit.op), []).append(edit)
    for op, entry in _entries(model, config):
        for edit in by_op.get(id(op), []):
            _set(entry, edit.key, keep.count(edit.labels), len(edit.labels))
    _forget_shapes(config)
    with SafeModeScope(False):  # whatever code the model holds has been loaded, and so allowed
        small = type(model).from_config(config, custom_objects=custom_objects(model))
    _copy_weights(model, small, graph, keep)
    _copy_assets(model, small)
    return small


def custom_objects(model: Any) -> dict[str, Any]:
    """The classes of a model's layers that are not Keras's own, under all their names."""
    import keras

    kinds = {type(layer) for layer in model._flatten_layers(include_self=True)
             if not type(layer).__module__.startswith("keras.")}
    return {name: kind for kind in kinds
            for name in (kind.__name__, keras.saving.get_registered_name(kind))}


def _entries(model: Any, config: dict):
    """Every operation with its entry in the model's configuration, inner ones too."""
    graph = graph_of(model)
    by_name = {op.name: op for op in graph.operations}
    for entry in config["layers"]:
        op = by_name.get(entry["config"].get("name", entry.get("name")))
        if op is not None:
            yield from _entry(op, entry)


def _entry(op: Any, entry: dict):
    yield op, entry
    if graph_of(op) is not None and "layers" in entry["config"]:
        yield from _entries(op, entry["config"])
    for key, name in (("layer", "forward_layer"), ("layer", "layer"),
                      ("backward_layer", "backward_layer")):
        inner, found = getattr(op, name, None), entry["config"].get(key)
        if inner is not None and isinstance(found, dict) and "config" in found:
            yield from _entry(inner, found)


def _set(entry: dict, key: tuple, count: int, before: int) -> None:
    """Write a count to the place that `key` leads to."""
    place: Any = entry if key[0] == "inbound_nodes" else entry["config"]
    if key[0] == "output_shape" and not isinstance(place[key[0]], (list, tuple)):
        place[key[0]] = count
        return
    if count == before:
        return
    for step, following in zip(key, key[1:], strict=False):
        inner = place[step]
        if isinstance(inner, tuple):
            inner = place[step] = list(inner)
        if isinstance(inner, dict) and isinstance(following, int):
            inner = inner["config"] if "config" in inner else inner["items"]
        place = inner
    place[key[-1]] = count


def _forget_shapes(config: Any) -> None:
    """Layers are built anew by the shapes that reach them."""
    if isinstance(config, dict):
        for key in ("build_config", "build_input_shape"):
            config.pop(key, None)
        for value in config.values():
            _forget_shapes(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            _forget_shapes(value)


def _copy_weights(model: Any, small: Any, graph: Channels, keep: _Keep) -> None:
    old, new = model.variables, small.variables
    if len(old) != len(new):
        old, new = model.weights, small.weights
    for source, target in zip(old, new, strict=True):
        value = _sliced(source, graph.weights.get(id(source)), keep)
        if tuple(value.shape) == tuple(target.shape):
            target.assign(value)
        elif "rnn_state" not in source.path:  # a state is made anew for each run
            raise ValueError(f"{source.path} has shape {value.shape}, and {target.shape} is built")


def _sliced(variable: Any, weight: Any, keep: _Keep) -> Any:
    import keras
    import numpy as np

    value = keras.ops.convert_to_numpy(variable)
    if weight is None:
        return value
    for axis, atoms in weight.labels.items():
        value = np.compress(keep.mask(atoms), value, axis=axis)
    if weight.rescale is not None:
        # Attention divides by the square root of the key size, which has become smaller.
        share = keep.count(weight.rescale) / len(weight.rescale)
        value = (value * np.sqrt(share)).astype(value.dtype) if share < 1 else value
    return value


def _copy_assets(model: Any, small: Any) -> None:
    """Vocabularies that were adapted stand in no configuration."""
    import tempfile

    for old, new in zip(model._flatten_layers(), small._flatten_layers(), strict=True):
        if hasattr(old, "save_assets") and hasattr(new, "load_assets"):
            with tempfile.TemporaryDirectory() as folder:
                old.save_assets(folder)
                new.load_assets(folder)


# Proof


def _runner(model: Any, pack: Callable) -> Callable[[list], list]:
    import keras

    def run(tensors: list) -> list:
        args, kwargs = pack(tensors)
        return keras.tree.flatten(model(*args, training=False, **kwargs))

    return run


def silenced(model: Any, graph: Channels, keep: _Keep) -> list[tuple]:
    """`(variable, value)`: what reads the removed channels multiplies them by zero."""
    import keras
    import numpy as np

    changed = []
    for weight in graph.weights.values():
        value = None
        for axis, role in weight.roles.items():
            mask = keep.mask(weight.labels[axis])
            if role not in READS or mask.all():
                continue
            value = keras.ops.convert_to_numpy(weight.variable) if value is None else value
            shape = [-1 if a == axis else 1 for a in range(value.ndim)]
            value = value * mask.reshape(shape).astype(np.float32)
        if value is not None:
            changed.append((weight.variable, keras.ops.convert_to_tensor(
                value, dtype=weight.variable.dtype)))
    return changed


def _touched(graph: Channels, keep: _Keep) -> list[str]:
    return [name for name, parts in graph.inexact.items()
            if any(not keep.mask(atoms).all() for atoms in parts)]


def _prove(model: Any, small: Any, graph: Channels, keep: _Keep, pack: Callable,
           batches: list) -> float | None:
    """The largest relative difference between the two sides; see `Slimmed.proof`.

    Raises:
        ValueError: An output has another shape than before.
    """
    import keras
    import numpy as np

    for a, b in zip(model.outputs, small.outputs, strict=True):
        if tuple(a.shape) != tuple(b.shape) or a.dtype != b.dtype:
            raise ValueError(f"an output has become {b.shape}, it was {a.shape}")
    tensors = _some_inputs(model, batches)
    if tensors is None:
        return None
    signature.reset_states(model)
    with keras.StatelessScope(state_mapping=silenced(model, graph, keep)):
        wanted = _runner(model, pack)(tensors)
    with keras.StatelessScope():
        found = _runner(small, pack)(tensors)
    worst = 0.0
    for a, b in zip(wanted, found, strict=True):
        a, b = (np.asarray(keras.ops.convert_to_numpy(t)).astype("float64") for t in (a, b))
        if not np.isfinite(b).all() and np.isfinite(a).all():
            return float("inf")
        scale = max(float(np.abs(a).max(initial=0)), 1e-6)
        worst = max(worst, float(np.abs(a - b).max(initial=0)) / scale)
    return None if _touched(graph, keep) else worst


def _tolerance(model: Any) -> float:
    half = any("16" in x.compute_dtype for x in model._flatten_layers())
    return 50 * TOLERANCE if half else TOLERANCE


def _some_inputs(model: Any, batches: list) -> list | None:
    import keras
    import numpy as np

    if batches:
        return [t[:ROWS] if model.inputs[0].shape[0] is None else t for t in batches[0][0]]
    rng, made = np.random.default_rng(0), []
    for tensor in model.inputs:
        shape = [ROWS if a == 0 and d is None else d or 32 for a, d in enumerate(tensor.shape)]
        kind = keras.backend.standardize_dtype(tensor.dtype)
        if kind == "string":
            return None
        value = rng.normal(0, 1, shape) if "float" in kind else rng.integers(0, 2, shape)
        made.append(keras.ops.convert_to_tensor(value, dtype=kind))
    return made
