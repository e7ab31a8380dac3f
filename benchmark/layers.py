"""What each layer of a .tflite file costs, and how far it is from the float file. In a child."""

from __future__ import annotations

import math
from collections import Counter

from .. import tflite
from ..errors import TfcompressError
from .locate import locate

SAMPLES = 16
MOST_MACS = 10_000_000_000  # that comparing may take, all samples together


def run(payload: dict, progress) -> dict:
    """The layers of a file, compared with its float original where there is one.

    Args:
        payload: `artifact` (a .tflite file); `float` (the file it was quantized from, or None),
            `samples` (folder, or None), `why` there is nothing to compare, in words, and `must`:
            whether even a heavy model is compared, on one sample at least.
        progress: Called with the share done and a text.

    Returns:
        `layers`: what `table` gives, with `snr_db` in the place of the tensors, in the order of
        execution; `snr_db` is None where it was not measured, and then `note`
        says why. `findings`: where the error begins, as `locate` has it.

    Raises:
        ModelError: The artifact cannot be read.
    """
    rows = table(payload["artifact"])
    why, known, findings = payload.get("why") or "", {}, []
    count = SAMPLES
    if work := sum(r["macs"] for r in rows):
        count = max(min(SAMPLES, MOST_MACS // work), int(bool(payload.get("must"))))
    if not why and not payload.get("float"):
        why = "there is no float file to compare it with"
    if not why and not payload.get("samples"):
        why = "there were no data"
    if not why and not count:
        why = "the model is too heavy for it"
    if not why:
        try:
            found = locate(payload | {"limit": count}, progress)
            known, findings = found["by_tensor"], found["findings"]
        except TfcompressError as error:
            why = error.message
    for row in rows:
        outputs = row.pop("outputs")
        row["snr_db"] = next((known[n] for n in reversed(outputs) if n in known), None)
    if not why and any(r["snr_db"] is None for r in rows):
        why = "of some layers: the two files do not compute the same tensors there"
    return {"layers": rows, "note": why, "findings": findings}


def table(path: str) -> list[dict]:
    """The layers of a .tflite file in the order of execution.

    Returns:
        `{"layer", "ops", "dtypes", "gives", "bytes", "zeros", "macs", "outputs"}` each: the
        layer's name (its operator's where the file does not tell), its operators with their counts,
        its weights' values by type, the type that it gives on, the bytes of its weights and the
        share of zeros among them (None without weights), multiply-accumulates of one sample, and
        the tensors that it writes. A weight that two layers share counts for the first.

    Raises:
        ModelError: The file cannot be read.
    """
    model = tflite.load(path)
    names = tflite.layer_names(model)
    rows: dict[str, dict] = {}
    seen: set[int] = set()
    started: list[str] = []
    for graph in model.subgraphs:
        for layer, op in zip(_owners(model, graph, names), graph.operators, strict=True):
            kind = tflite.op_name(model, op)
            row = rows.setdefault(layer or kind, {
                "layer": layer or kind, "ops": Counter(), "dtypes": Counter(), "gives": "",
                "bytes": 0, "none": 0, "macs": 0, "outputs": [], "at": len(started)})
            if kind != "DEQUANTIZE" and not row["gives"]:  # those of weights stand at the front
                row["at"] = len(started)
            started.append(layer)
            if written := [graph.tensors[i] for i in op.outputs if i >= 0]:
                row["gives"] = tflite.dtype_names()[written[-1].type] \
                    if kind != "DEQUANTIZE" or row["gives"] else ""
            row["ops"][kind] += 1
            row["macs"] += int(tflite.macs(model, graph, op))
            row["outputs"] += [graph.tensors[i].name.decode() for i in op.outputs if i >= 0]
            for index in op.inputs:
                if index >= 0:
                    _weigh(model, graph.tensors[index], row, seen)
    return [_finished(row) for row in sorted(rows.values(), key=lambda r: r["at"])]


def _owners(model, graph, names: dict[str, str]) -> list[str]:
    """The layer of each operator: of what it writes, else of what reads that, else the last one."""
    own = [next((n for i in op.outputs if i >= 0
                 and (n := names.get(graph.tensors[i].name.decode()))), "")
           for op in graph.operators]
    readers: dict[int, str] = {}
    for at in range(len(own) - 1, -1, -1):
        op = graph.operators[at]
        own[at] = own[at] or next((readers[i] for i in op.outputs if readers.get(i)), "")
        for index in op.inputs:
            readers[index] = own[at] or readers.get(index, "")
    for at in range(1, len(own)):
        own[at] = own[at] or own[at - 1]
    return own


def _weigh(model, tensor, row: dict, seen: set[int]) -> None:
    import numpy as np

    if tensor.buffer in seen or not tflite.is_weight(model, tensor):
        return
    seen.add(tensor.buffer)
    row["bytes"] += len(model.buffers[tensor.buffer].data)
    count = math.prod(int(n) for n in tensor.shape)
    row["dtypes"][tflite.dtype_names()[tensor.type]] += count
    values = tflite.constant(model, tensor)
    if values is not None:
        row["none"] += values.size - int(np.count_nonzero(values))


def _finished(row: dict) -> dict:
    values = sum(row["dtypes"].values())
    none = row.pop("none")
    del row["at"]
    return row | {"ops": dict(row["ops"]), "dtypes": dict(row["dtypes"].most_common()),
                  "zeros": none / values if values else None}
