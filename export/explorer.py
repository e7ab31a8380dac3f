"""What each operator of a .tflite costs, as overlays for Google's Model Explorer.

    model-explorer tflite-int8.tflite      then: Upload node data, usage/explorer/*.json

The form is Model Explorer's custom node data (`node_data_builder.ModelNodeData`): graph id to
`{"name", "results": {node: {"value"}}, "gradient"}`. A graph is called by its name in the file, a
node by the name of its output tensor, or by its number where that name is not the only one.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from .. import tflite

FOLDER = "explorer"
# File name: key of a node, title, colours of the smallest and the largest value.
OVERLAYS = {
    "weight-bytes": ("bytes", "Weights (bytes)", "#ffffff", "#f4a259"),
    "macs": ("macs", "Multiply-accumulates", "#ffffff", "#7fb4e6"),
    "zeros": ("zeros", "Zeros among the weights (share)", "#ffffff", "#8cc084"),
    "snr-db": ("snr_db", "SNR (dB)", "#e4572e", "#ffffff"),
}
LEAST_ZEROS = 0.05  # share of zeros in a file from which they are worth a picture


def read(payload: dict, progress) -> dict:
    """What usage notes and overlays need to know of a .tflite.

    Args:
        payload: `{"path": the file}`.
        progress: Not called.

    Returns:
        signature: The first signature's key, or None.
        positions: `{"inputs": [...], "outputs": [...]}`: where the interpreter has the ends that
            `tflite.describe` lists, in its order.
        graphs: `[{"graph", "nodes": [{"node", "tensor", "bytes", "macs", "zeros"}]}]`, one for
            each subgraph; `zeros` is None for an operator without weights.

    Raises:
        ModelError: The file cannot be read as TFLite.
    """
    model = tflite.load(payload["path"])
    graph, first = model.subgraphs[0], next(iter(model.signatureDefs), None)
    positions = {}
    for side in ("inputs", "outputs"):
        indices = list(getattr(graph, side))
        asked = [e.tensorIndex for e in getattr(first, side)] if first else indices
        positions[side] = [indices.index(i) if i in indices else at for at, i in enumerate(asked)]
    return {
        "signature": first and first.signatureKey.decode(),
        "positions": positions,
        "graphs": [{"graph": _graph_id(model, i), "nodes": _nodes(model, graph)}
                   for i, graph in enumerate(model.subgraphs)],
    }


def _graph_id(model, index: int) -> str:
    """What Model Explorer calls a subgraph: its name, its signature, or its number."""
    if name := model.subgraphs[index].name:
        return name.decode("utf-8", "replace")
    keys = [s.signatureKey.decode() for s in model.signatureDefs if s.subgraphIndex == index]
    return keys[0] if keys else f"subgraph_{index}"


def _nodes(model, graph) -> list[dict]:
    count = Counter(t.name for t in graph.tensors)
    widened = {op.outputs[0]: op.inputs[0] for op in graph.operators
               if tflite.op_name(model, op) == "DEQUANTIZE" and op.inputs and op.outputs}
    found = []
    for index, op in enumerate(graph.operators):
        if op.outputs and op.outputs[0] in widened and _stored(model, graph, op.inputs[0]):
            continue  # its weights are told where they are used
        outputs = [graph.tensors[i].name for i in op.outputs if i >= 0]
        own = next((n for n in outputs if n and count[n] == 1), None)
        weights = [graph.tensors[i] for i in (widened.get(i, i) for i in op.inputs)
                   if _stored(model, graph, i)]
        found.append({
            "node": own.decode() if own else str(index),
            "tensor": outputs[0].decode() if outputs else "",
            "bytes": sum(len(model.buffers[t.buffer].data) for t in weights),
            "macs": tflite.macs(model, graph, op),
            "zeros": _zeros(model, [t for t in weights if tflite.is_weight(model, t)]),
        })
    return found


def _stored(model, graph, index: int) -> bool:
    return index >= 0 and model.buffers[graph.tensors[index].buffer].data is not None


def _zeros(model, weights: list) -> float | None:
    """The share of stored zeros; biases count too, as everywhere in the report."""
    import numpy as np

    arrays = [a for t in weights if (a := tflite.constant(model, t)) is not None]
    total = sum(a.size for a in arrays)
    return sum(int(a.size - np.count_nonzero(a)) for a in arrays) / total if total else None


def write(folder: Path, target: str, graphs: list[dict], zeros: float = 0.0,
          layers: list[dict] = ()) -> list[Path]:
    """Write the overlays that say something.

    Args:
        folder: The folder of usage notes.
        target: The target's name, with which the files' names begin.
        graphs: From `read`.
        zeros: The share of zeros in the whole file; few of them get no overlay.
        layers: `[{"tensor", "snr_db"}]` where the error was located.

    Returns:
        The files written.
    """
    known = {layer["tensor"]: layer["snr_db"] for layer in layers}
    files = []
    for what, (key, title, low, high) in OVERLAYS.items():
        if what == "zeros" and zeros < LEAST_ZEROS:
            continue
        data = {}
        for graph in graphs:
            values = {n["node"]: known.get(n["tensor"]) if key == "snr_db" else n[key]
                      for n in graph["nodes"]}
            results = {n: {"value": v} for n, v in values.items() if v is not None}
            if any(r["value"] for r in results.values()):
                stops = [{"stop": 0, "bgColor": low}, {"stop": 1, "bgColor": high}]
                data[graph["graph"]] = {"name": f"{target}: {title}", "results": results,
                                        "gradient": stops}
        if data:
            path = folder / FOLDER / f"{target}-{what}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(data, indent=1) + "\n", encoding="ascii", newline="\n")
            files.append(path)
    return files
