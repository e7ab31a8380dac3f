"""What each layer of an .onnx file costs, and how far it is from the float file. In a child."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

from ...errors import DataError, TfcompressError
from ..tflite.calibrate import Samples
from . import graph as og

SAMPLES = 16
MOST_MACS = 10_000_000_000  # that comparing may take, all samples together
PACKED = "_int4"  # initializers that hold two values in a byte
ROUNDED = "_real"  # what a tensor is called once it has been rounded and scaled back
CEILING_DB = 100.0


def run(payload: dict, progress) -> dict:
    """The layers of an .onnx file, compared with its float original where there is one.

    Args:
        payload: `artifact`, `float`, `samples`, `why` and `must`, as for `benchmark.layers.run`.
        progress: Called with the share done and a text.

    Returns:
        `layers`, `note` and `findings` (none), as `benchmark.layers.run` gives them.

    Raises:
        ModelError: The artifact cannot be read.
    """
    model = og.load(payload["artifact"])
    rows = table(model)
    work = sum(r["macs"] for r in rows)
    count = min(SAMPLES, MOST_MACS // work) if work else SAMPLES
    why = payload.get("why") or next((text for missing, text in (
        (not payload.get("float"), "there is no float file to compare it with"),
        (not payload.get("samples"), "there were no data"),
        (not count and not payload.get("must"), "the model is too heavy for it")) if missing), "")
    known: dict[str, float] = {}
    if not why:
        try:
            known = compare(og.load(payload["float"]), model, payload["samples"],
                            max(count, 1), progress)
        except TfcompressError as error:
            why = error.message
    for row in rows:
        outputs = row.pop("outputs")
        row["snr_db"] = next((known[n] for n in reversed(outputs) if n in known), None)
    if not why and any(r["snr_db"] is None for r in rows):
        why = "of some layers: the two files do not compute the same tensors there"
    return {"layers": rows, "note": why, "findings": []}


def table(model) -> list[dict]:
    """The layers of a graph in its order; see `benchmark.layers.table`.

    Quantizing and scaling back are steps of the layer whose tensor they round.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    weights, kinds = og.constants(graph), og.types(model)
    work, owners = og.macs_by_node(model), _owners(graph)
    scales = {i for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")
              for i in n.input[1:]}
    rows: dict[str, dict] = {}
    seen: set[str] = set()
    for node in graph.node:
        layer = owners[node.name] or node.op_type
        row = rows.setdefault(layer, {
            "layer": layer, "ops": Counter(), "dtypes": Counter(), "gives": "", "bytes": 0,
            "none": 0, "macs": 0, "outputs": []})
        row["ops"][node.op_type] += 1
        row["macs"] += work.get(node.name, 0)
        if node.op_type != "DequantizeLinear" or node.input[0] not in weights:
            row["outputs"] += node.output
            kind = kinds.get(node.output[0])
            row["gives"] = helper.tensor_dtype_to_np_dtype(kind).name if kind else row["gives"]
        for name in node.input:
            if name in weights and name not in scales and name not in seen:
                seen.add(name)
                _weigh(numpy_helper.to_array(weights[name]), name, row)
    return [_finished(row) for row in rows.values()]


def weights(model) -> list[dict]:
    """The kernels of a graph, as `tflite.describe` lists those of a .tflite file.

    Returns:
        `{"tensor", "layer", "dtype", "shape", "bytes"}` each; biases and scales are left out.
    """
    from onnx import numpy_helper

    graph = model.graph
    constants, owners = og.constants(graph), _owners(graph)
    scales = {i for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")
              for i in n.input[1:]}
    found: dict[str, dict] = {}
    for node in graph.node:
        for name in node.input:
            if name not in constants or name in scales or name in found:
                continue
            values = numpy_helper.to_array(constants[name])
            if values.ndim < 2 or values.dtype.kind not in "fiu" or values.dtype.itemsize == 8:
                continue
            found[name] = {"tensor": name, "layer": owners[node.name],
                           "dtype": "int4" if name.endswith(PACKED) else values.dtype.name,
                           "shape": list(values.shape), "bytes": values.nbytes}
    return list(found.values())


def _owners(graph) -> dict[str, str]:
    """Node name -> layer: its own, of what it writes, of who reads that, or of what it reads."""
    own = og.layers(graph)
    scoped = og.scopes([n for node in graph.node for n in node.output])
    readers, made_by = og.consumers(graph), og.producers(graph)
    found: dict[str, str] = {}
    for node in reversed(graph.node):
        reading = (found.get(r.name, "") for n in node.output for r in readers.get(n, ()))
        if node.op_type == "DequantizeLinear" and node.input[0] not in made_by:
            found[node.name] = next(filter(None, reading), "")  # a weight belongs to its reader
            continue
        written = (scoped.get(n, "") for n in node.output)
        found[node.name] = next(filter(None, (*written, own[node.name], *reading)), "")
    for node in graph.node:
        before = (found.get(made_by[n].name, "") for n in node.input if n in made_by)
        found[node.name] = found[node.name] or next(filter(None, before), "")
    return found


def _weigh(values, name: str, row: dict) -> None:
    import numpy as np

    if values.dtype.kind not in "fiu" or values.ndim == 0 or values.dtype.itemsize == 8:
        return  # shapes and indices are no weights
    packed = name.endswith(PACKED)
    row["bytes"] += values.nbytes
    row["dtypes"]["int4" if packed else values.dtype.name] += values.size * (2 if packed else 1)
    row["none"] += 0 if packed else values.size - int(np.count_nonzero(values))


def _finished(row: dict) -> dict:
    values, none = sum(row["dtypes"].values()), row.pop("none")
    known = values and "int4" not in row["dtypes"]  # zeros of packed values are not counted
    return row | {"ops": dict(row["ops"]), "dtypes": dict(row["dtypes"]),
                  "zeros": none / values if known else None}


def compare(exact, made, samples: str, count: int, progress) -> dict[str, float]:
    """SNR in dB of every float tensor of `made` that `exact` computes under the same name.

    A tensor that `made` rounds counts as what its readers get: rounded, and scaled back.

    Raises:
        DataError: The samples do not fit the files.
    """
    import numpy as np

    left, right = _tensors(exact), _tensors(made)
    pairs = {n: n + ROUNDED if n + ROUNDED in right else n for n in left if n in right}
    try:
        runners = [og.probe(model, sorted(set(names))) for model, names in (
            (exact, pairs), (made, pairs.values()))]
        rows = Samples(samples, {n: runners[0].inputs[n] for n in _order(samples, runners[0])})
        signal, noise = Counter(), Counter()
        for k in range(min(count, rows.count)):
            found = [runner.run(rows.row(k)) for runner in runners]
            for name, other in pairs.items():
                a, b = (np.asarray(f[n], np.float64) for f, n in zip(found, (name, other),
                                                                   strict=True))
                if a.shape == b.shape:
                    signal[name] += float((a * a).sum())
                    noise[name] += float(((a - b) ** 2).sum())
            progress((k + 1) / count, f"{k + 1} of {count} samples")
    except TfcompressError:
        raise
    except Exception as error:  # ONNX Runtime's own, of many kinds
        raise DataError(f"onnxruntime cannot compare them: {type(error).__name__}",
                        "the figures of the whole file stand beside its target") from None
    known = {n: _decibels(signal[n], noise[n]) for n in signal}
    return known | {other: known[n] for n, other in pairs.items() if n in known}


def _tensors(model) -> set[str]:
    """The tensors of the main graph that hold real numbers."""
    known = og.types(model)
    real = (1, 10, 11)  # FLOAT, FLOAT16, DOUBLE
    return {n for node in model.graph.node for n in node.output
            if n and known.get(n) in real and node.op_type not in ("Constant", "Shape")}


def _order(samples: str, runner) -> list[str]:
    """The inputs in the order in which the samples stand, where the samples say."""
    file = Path(samples) / "samples.json"
    names = json.loads(file.read_text(encoding="utf-8")).get("names") if file.is_file() else None
    return names if names and set(names) == set(runner.inputs) else list(runner.inputs)


def _decibels(signal: float, noise: float) -> float:
    if not math.isfinite(signal) or not math.isfinite(noise):
        return -CEILING_DB
    if noise == 0:
        return CEILING_DB
    found = 10 * math.log10(max(signal, 1e-30) / noise)
    return round(max(-CEILING_DB, min(CEILING_DB, found)), 2)
