"""How much each layer hurts when it alone is pruned, or alone gets fewer bits.

One layer at a time has its kernels (or what it gives) changed, the model is run on the samples,
and the kernels are put back. The model is traced once as it is and once with a switch behind each
rounding of the int8 file; everything else is an assignment to a variable.

What one layer alone costs says nothing yet of several together, so two combinations are chosen
from the single results and measured: the largest share of weights that can be pruned, and the
layers that can take 4-bit weights, each with `GOAL_DB` left.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .models import load
from .training import flow, forms, kernels, prune, sites
from .training.kernels import Kernel

GOAL_DB = 20.0  # what a combination of changed layers must leave: an error of a tenth
TRIES = 5  # to find a combination that does; each asks half the noise of the one before
FEWEST = 8  # samples, however slow the model is
Judge = Callable[[list], dict]  # outputs of the changed model -> what is left of them
Tell = Callable[[float | None, str], None]


@dataclass(frozen=True)
class Setting:
    """One way to change a layer: `prune` a share, or round `weights` or `activations` to bits."""

    name: str
    kind: str
    amount: float


SETTINGS = (
    Setting("prune-50", "prune", 0.5),
    Setting("prune-70", "prune", 0.7),
    Setting("prune-90", "prune", 0.9),
    Setting("weights-8", "weights", 8),
    Setting("weights-4", "weights", 4),
    Setting("weights-2", "weights", 2),
    Setting("activations-8", "activations", 8),
)


@dataclass
class Layer:
    """The kernels of one layer, and the switches of the roundings behind it."""

    name: str
    kernels: list[Kernel]
    switches: list[int]

    @property
    def weights(self) -> int:
        return sum(math.prod(k.variable.shape) for k in self.kernels)


def measure(loaded: load.Loaded, arrays: list, judge: Callable[[list, int], Judge],
            progress: Tell, seconds: float = math.inf) -> dict:
    """Every layer under every setting of `SETTINGS`.

    Args:
        loaded: A Keras 3 model; its weights are the same afterwards.
        arrays: One array per input, N rows each.
        judge: From the model's own outputs and their number of rows to a `Judge`; what that
            returns has at least `snr`, in dB.
        progress: Told the share of the runs that are done.
        seconds: Fewer rows are taken, down to `FEWEST`, where all of them would take longer.

    Returns:
        `settings`: `[{"name", "kind", "amount"}]`. `layers`: `[{"layer", "weights", "score",
        "results": {setting's name: what the judge said}}]` in the model's order; `score` is the
        mean SNR over the settings, the lower the more sensitive. `skipped`: `[{"layer", "why"}]`.
        `combined`: see `_combine`. `rows`, `runs` and `seconds` that it took.
    """
    start = time.perf_counter()
    progress(None, "running the model as it is")
    reference = load.call(loaded, arrays)
    try:
        switched, which, places = _switched(loaded, arrays)
        load.call(switched, arrays)
    except Exception:  # a model that cannot be called so is measured without its activations
        switched, which, places = None, None, []
    layers, skipped = _layers(loaded.model, places)
    total = sum(len(_settings_of(layer)) for layer in layers)
    rows = _fit(loaded, arrays, total, seconds)
    if rows < len(arrays[0]):
        arrays = [a[:rows] for a in arrays]
        reference = load.call(loaded, arrays)
    judged = judge(reference, rows)
    done, results = 0, []
    for layer in layers:
        found = {}
        for setting in _settings_of(layer):
            progress(done / total, f"{layer.name}: {setting.name}")
            if setting.kind == "activations":
                which.assign([float(i in layer.switches) for i in range(which.shape[0])])
                found[setting.name] = judged(load.call(switched, arrays))
            else:
                found[setting.name] = _changed(loaded, arrays, [(layer, setting)], judged)
            done += 1
        results.append({"layer": layer.name, "weights": layer.weights, "score": _score(found),
                        "results": found})
    progress(None, "several layers together")
    combined = _combine(layers, results, lambda changes: _changed(loaded, arrays, changes, judged))
    return {"settings": [dataclasses.asdict(s) for s in SETTINGS], "layers": results,
            "skipped": skipped, "combined": combined, "rows": rows, "runs": total,
            "seconds": round(time.perf_counter() - start, 1)}


def _settings_of(layer: Layer) -> list[Setting]:
    return [s for s in SETTINGS
            if (layer.switches if s.kind == "activations" else layer.kernels)]


def _fit(loaded: load.Loaded, arrays: list, runs: int, seconds: float) -> int:
    """As many rows as `runs` runs over them fit into the time."""
    rows = len(arrays[0])
    start = time.perf_counter()
    load.call(loaded, arrays)
    needed = (time.perf_counter() - start) * runs
    return rows if needed <= seconds else min(rows, max(FEWEST, int(rows * seconds / needed)))


def _layers(model: Any, places: list[str]) -> tuple[list[Layer], list[dict]]:
    """Layers with kernels and layers with roundings, in the model's order."""
    found, skipped = kernels.find(model, embeddings=True)
    order = [x.path or x.name for x in model._flatten_layers()]
    layers: dict[str, Layer] = {}
    for kernel in found:
        layers.setdefault(kernel.layer, Layer(kernel.layer, [], [])).kernels.append(kernel)
    for number, place in enumerate(places):
        layers.setdefault(place, Layer(place, [], [])).switches.append(number)
    known = {name: i for i, name in enumerate(order)}
    return (sorted(layers.values(), key=lambda x: known.get(x.name, len(known))),
            [s for s in skipped if s["layer"] not in layers])


def _changed(loaded: load.Loaded, arrays: list, changes: list[tuple[Layer, Setting]],
             judged: Judge) -> dict:
    """What is left of the outputs with some layers changed; their kernels are put back."""
    before = []
    try:
        for layer, setting in changes:
            for kernel in layer.kernels:
                values = kernel.variable.numpy()
                before.append((kernel.variable, values))
                kernel.variable.assign(changed(kernel, values, setting))
        return judged(load.call(loaded, arrays))
    finally:
        for variable, values in before:
            variable.assign(values)


def changed(kernel: Kernel, values: Any, setting: Setting) -> Any:
    """The kernel with its smallest weights zero, or rounded symmetrically per channel."""
    import numpy as np
    import tensorflow as tf

    wide = np.asarray(tf.cast(values, tf.float32))
    if setting.kind == "prune":
        made = wide * prune.mask(kernel, wide, "unstructured", setting.amount)
    else:
        made = forms.fake_quantize(tf.constant(wide), int(setting.amount), kernel.channels)
    return np.asarray(made).astype(values.dtype)


def _score(found: dict) -> float:
    """Mean SNR in dB over the settings; beyond 0 and 60 dB there is nothing to tell apart."""
    levels = [min(60.0, max(0.0, r["snr"])) for r in found.values()]
    return sum(levels) / len(levels) if levels else 60.0


# Activations


def _switched(loaded: load.Loaded, arrays: list) -> tuple[load.Loaded, Any, list[str]]:
    """The model with a switch at each rounding, the switches, and which layer each belongs to.

    A rounding behind a group that TFLite fuses belongs to the layer of the group that has the
    kernel. The range is that of the batch.
    """
    import numpy as np
    import tensorflow as tf

    size = loaded.inputs[0].shape[0] or 1
    seen = flow.record(loaded.run, [
        tf.constant(np.asarray(a[:size]).astype(tf.as_dtype(s.dtype).as_numpy_dtype), s.dtype)
        for a, s in zip(arrays, loaded.inputs, strict=True)], traced="xla" in loaded.compiled)
    plan = sites.plan(seen, ["" for _ in loaded.inputs], set())
    after = [s for s in plan.sites if s.kind == "after"]
    number = {(s.key, s.place): i for i, s in enumerate(after)}
    which = tf.Variable(tf.zeros(len(after)))

    def around(op: Any, nth: int, call: Callable[[], Any], arguments: Any) -> Any:
        import keras

        results, at = call(), 0
        flat = []
        for value in keras.tree.flatten(results):
            if flow.is_float(value):
                spot = number.get(((id(op), nth), at))
                at += 1
                if spot is not None:
                    value = tf.cond(which[spot] > 0, lambda v=value: _rounded(v),
                                    lambda v=value: tf.identity(v))
            flat.append(value)
        return keras.tree.pack_sequence_as(results, flat)

    def run(*tensors):
        with flow.listening(around):
            return loaded.run(list(tensors))

    compiled = tf.function(run, jit_compile=loaded.compiled.get("xla"))
    twin = dataclasses.replace(loaded, compiled=loaded.compiled | {"function": compiled})
    return twin, which, [_owner(seen, s) for s in after]


def _rounded(value: Any) -> Any:
    import tensorflow as tf

    wide = tf.cast(value, tf.float32)
    low = tf.minimum(tf.reduce_min(wide), 0.0)
    high = tf.maximum(tf.reduce_max(wide), low + 1e-6)
    return tf.cast(tf.quantization.fake_quant_with_min_max_vars(wide, low, high), value.dtype)


def _owner(seen: flow.Flow, site: sites.Site) -> str:
    """The layer with the kernel that a rounding's group begins with, else the layer itself."""
    call = next(c for c in seen.calls if c.key == site.key)
    first = call
    while sites.role(first.op) in ("norm", "relu") and first.inputs:
        before = seen.producer(first.inputs[0])
        if before is None:
            break
        first = before
        if sites.role(first.op) == "kernel":
            return _path(first.op)
    return _path(call.op)


def _path(op: Any) -> str:
    return getattr(op, "path", None) or op.name


# Several layers together


def _combine(layers: list[Layer], results: list[dict], run: Callable[[list], dict]) -> dict:
    """The largest combinations of pruned layers, and of 4-bit layers, that leave `GOAL_DB`.

    Errors of different layers are taken as independent, so their noise adds up; what is chosen
    so is measured, and asked for less where the measurement disagrees.

    Returns:
        `prune` and `weights-4`: None where no layer can, or `{"setting", "amount", "layers",
        "left_out", "share" of the weights that the layers hold, "result"}`.
    """
    best = None
    for setting in (s for s in SETTINGS if s.kind == "prune"):
        found = _largest(layers, results, setting, run)
        if found and (best is None
                      or found["share"] * setting.amount > best["share"] * best["amount"]):
            best = found
    four = next(s for s in SETTINGS if s.name == "weights-4")
    return {"prune": best, "weights-4": _largest(layers, results, four, run)}


def _largest(layers: list[Layer], results: list[dict], setting: Setting,
             run: Callable[[list], dict]) -> dict | None:
    able = [(layer, 10 ** (-r["results"][setting.name]["snr"] / 10))
            for layer, r in zip(layers, results, strict=True) if layer.kernels]
    able.sort(key=lambda pair: pair[1] / pair[0].weights)
    whole, budget = sum(layer.weights for layer, _ in able), 10 ** (-GOAL_DB / 10)
    earlier = None
    for _ in range(TRIES):
        taken, noise = [], 0.0
        for layer, alone in able:
            if noise + alone <= budget:
                taken.append(layer)
                noise += alone
        budget /= 2
        if not taken or taken == earlier:
            continue
        earlier = taken
        result = run([(layer, setting) for layer in taken])
        if result["snr"] >= GOAL_DB:
            names = {layer.name for layer in taken}
            return {"setting": setting.name, "amount": setting.amount,
                    "layers": [x.name for x in layers if x.name in names],
                    "left_out": [x.name for x, _ in able if x.name not in names],
                    "share": sum(x.weights for x in taken) / whole, "result": result}
    return None
