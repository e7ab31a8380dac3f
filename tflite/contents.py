"""What is in a .tflite file: operators, ends, weights, multiply-accumulates, layers."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

from ..errors import ModelError
from .file import _stored, constant, dtype_names, load, op_name


def describe(file: str | Path | bytes) -> dict:
    """What a .tflite file holds.

    Returns:
        inputs, outputs: Of the first signature (or of the first subgraph), each `{"name",
            "tensor", "shape", "dtype", "scale", "zero_point"}` (scale and zero point None for
            floats).
        signature: Its key, or None.
        subgraphs: `[{"name", "ops": [...]}]`; an op is `{"index", "op", "layer", "inputs",
            "outputs", "macs"}` with tensors as `{"name", "shape", "dtype", "constant"}`.
        histogram: `{op name: count}`, all subgraphs, most frequent first.
        parameters: Number of stored weight values: constants of a floating type, or of an integer
            type with a quantization scale; a buffer that tensors share counts once.
        weights: `{"bytes", "dtypes": {dtype: share of the values}, "zeros": share of zeros}`.
        tensors: Of each weight matrix or kernel of at least 16 values, largest first: `{"tensor",
            "layer", "dtype", "shape", "bytes", "zeros", "distinct"}`; `distinct` is the number of
            different stored values, in the richest channel where scales are per channel, None
            beyond 256.
        macs: Multiply-accumulates of one inference: output elements times the length of the dot
            product behind each, for convolutions, FULLY_CONNECTED, BATCH_MATMUL and the recurrent
            kernels (their weights once per time step). The body of a WHILE counts once.
        bytes: Size of the file.

    Raises:
        ModelError: The file cannot be read, is not TFLite, or is damaged.
    """
    model = load(file)
    try:
        subgraphs = [_describe_graph(model, graph) for graph in model.subgraphs]
        weights = _weights(model)
        ends = _ends(model)
    except Exception as error:
        raise ModelError(
            f"the TFLite file is damaged: {type(error).__name__}", "copy or convert it again"
        ) from None
    histogram = Counter(op["op"] for graph in subgraphs for op in graph["ops"])
    return {
        **ends,
        "subgraphs": subgraphs,
        "histogram": dict(sorted(histogram.items(), key=lambda kv: (-kv[1], kv[0]))),
        **weights,
        "macs": sum(op["macs"] for graph in subgraphs for op in graph["ops"]),
        "bytes": len(file) if isinstance(file, bytes) else Path(file).stat().st_size,
    }


def _ends(model) -> dict:
    signature = model.signatureDefs[0] if model.signatureDefs else None
    graph = model.subgraphs[signature.subgraphIndex if signature else 0]

    def end(name, tensor):
        quant = tensor.quantization
        scaled = quant is not None and quant.scale is not None and len(quant.scale) == 1
        return {
            "name": name,
            "tensor": tensor.name.decode(),
            "shape": [int(n) for n in tensor.shape],
            "dtype": dtype_names()[tensor.type],
            "scale": float(quant.scale[0]) if scaled else None,
            "zero_point": int(quant.zeroPoint[0]) if scaled else None,
        }

    if signature:
        ins = [end(e.name.decode(), graph.tensors[e.tensorIndex]) for e in signature.inputs]
        outs = [end(e.name.decode(), graph.tensors[e.tensorIndex]) for e in signature.outputs]
        return {"signature": signature.signatureKey.decode(), "inputs": ins, "outputs": outs}
    return {
        "signature": None,
        "inputs": [end(graph.tensors[i].name.decode(), graph.tensors[i]) for i in graph.inputs],
        "outputs": [end(graph.tensors[i].name.decode(), graph.tensors[i]) for i in graph.outputs],
    }


def _describe_graph(model, graph) -> dict:
    names = layer_names(model)

    def show(index):
        tensor = graph.tensors[index]
        return {
            "name": tensor.name.decode(),
            "shape": [int(n) for n in tensor.shape],
            "dtype": dtype_names()[tensor.type],
            "constant": model.buffers[tensor.buffer].data is not None,
        }

    ops = [
        {
            "index": index,
            "op": op_name(model, op),
            "layer": names.get(graph.tensors[op.outputs[0]].name.decode(), "")
            if op.outputs
            else "",
            "inputs": [show(i) for i in op.inputs if i >= 0],
            "outputs": [show(i) for i in op.outputs if i >= 0],
            "macs": macs(model, graph, op),
        }
        for index, op in enumerate(graph.operators)
    ]
    return {"name": (graph.name or b"").decode("utf-8", "replace"), "ops": ops}


def operations(model, graph=None) -> list[dict]:
    """Every operator of a subgraph with what decides whether an accelerator can run it.

    Args:
        model: From `load`.
        graph: A subgraph of it; the first where nothing is given.

    Returns:
        A list of `{"index", "op", "version", "options", "inputs", "outputs", "macs"}`; `options`
        are the schema's own (`strideW`, `fusedActivationFunction`, ...). A tensor is `{"tensor"
        (its number), "name", "shape", "dtype", "scales" (how many; 0 where it is not quantized),
        "constant", "bytes"}`; constants of at most 16 plain integers have their `values`, quantized
        ones `zero` (whether all values are the zero point). A missing optional input is None.
    """
    graph = graph or model.subgraphs[0]
    return [
        {
            "index": index,
            "op": op_name(model, op),
            "version": int(model.operatorCodes[op.opcodeIndex].version or 1),
            "options": _options(op),
            "inputs": [_operand(model, graph, i) for i in op.inputs],
            "outputs": [_operand(model, graph, i) for i in op.outputs],
            "macs": macs(model, graph, op),
        }
        for index, op in enumerate(graph.operators)
    ]


def _options(op) -> dict:
    found = vars(op.builtinOptions) if op.builtinOptions else {}
    return {k: v for k, v in found.items() if isinstance(v, (bool, int, float, str))}


def _operand(model, graph, index: int) -> dict | None:
    if index < 0:
        return None
    tensor = graph.tensors[index]
    data = model.buffers[tensor.buffer].data
    dtype = dtype_names()[tensor.type]
    shape = [int(n) for n in tensor.shape]
    quant = tensor.quantization
    scales = 0 if quant is None or quant.scale is None else len(quant.scale)
    width = {"float64": 8, "int64": 8, "uint64": 8, "int16": 2, "uint16": 2, "float16": 2}
    width |= {"int8": 1, "uint8": 1, "bool": 1, "int4": 0.5}
    found = {
        "tensor": index,
        "name": tensor.name.decode(),
        "shape": shape,
        "dtype": dtype,
        "scales": scales,
        "constant": data is not None,
        "bytes": len(data) if data is not None else int(math.prod(shape) * width.get(dtype, 4)),
    }
    if data is not None and not scales and dtype in ("int32", "int64") and math.prod(shape) <= 16:
        found["values"] = constant(model, tensor).reshape(-1).tolist()
    elif data is not None and scales == 1 and dtype in ("int8", "uint8"):
        found["zero"] = bool((constant(model, tensor) == quant.zeroPoint[0]).all())
    return found


def macs(model, graph, op) -> int:
    """Multiply-accumulates of one operator (see `describe`); 0 for those without dot products."""

    def shape(index):
        return [int(n) for n in graph.tensors[index].shape]

    name = op_name(model, op)
    if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        filters = shape(op.inputs[1])
        depth = filters[1:] if name == "CONV_2D" else filters[1:3]
        return math.prod(shape(op.outputs[0])) * math.prod(depth)
    if name == "TRANSPOSE_CONV":
        return math.prod(shape(op.inputs[2])) * math.prod(shape(op.inputs[1])[:3])
    if name == "CONV_3D":
        return math.prod(shape(op.outputs[0])) * math.prod(shape(op.inputs[1])[:4])
    if name == "FULLY_CONNECTED":
        return math.prod(shape(op.outputs[0])) * shape(op.inputs[1])[-1]
    if name == "BATCH_MATMUL":
        depth = shape(op.inputs[0])[-2 if op.builtinOptions and op.builtinOptions.adjX else -1]
        return math.prod(shape(op.outputs[0])) * depth
    if name in _RECURRENT:
        first = shape(op.inputs[0])
        steps = math.prod(first[:2]) if name.startswith(("UNI", "BI")) else first[0]
        weights = [
            i
            for i in op.inputs[1:]
            if i >= 0
            and len(graph.tensors[i].shape) == 2
            and model.buffers[graph.tensors[i].buffer].data is not None
        ]
        return steps * sum(math.prod(shape(i)) for i in weights)
    return 0


_RECURRENT = (
    "UNIDIRECTIONAL_SEQUENCE_LSTM",
    "BIDIRECTIONAL_SEQUENCE_LSTM",
    "LSTM",
    "RNN",
    "SVDF",
    "UNIDIRECTIONAL_SEQUENCE_RNN",
    "BIDIRECTIONAL_SEQUENCE_RNN",
)


def is_weight(model, tensor) -> bool:
    """Whether a tensor is a stored weight: a constant that is a float, or scaled integers."""
    if model.buffers[tensor.buffer].data is None:
        return False
    quant = tensor.quantization
    scaled = quant is not None and quant.scale is not None and len(quant.scale) > 0
    return dtype_names()[tensor.type].startswith(("float", "bfloat")) or scaled


def _weights(model) -> dict:
    import numpy as np

    counts: Counter = Counter()
    zeros = stored = 0
    seen = set()
    table = []
    names = layer_names(model)
    for graph in model.subgraphs:
        layers = _readers(graph, names)
        for i, tensor in enumerate(graph.tensors):
            if tensor.buffer in seen or not is_weight(model, tensor):
                continue
            seen.add(tensor.buffer)
            size = _stored(model, tensor)
            stored += size
            values = constant(model, tensor)
            count = math.prod(int(n) for n in tensor.shape)
            counts[dtype_names()[tensor.type]] += count
            if values is None:
                continue
            none = values.size - int(np.count_nonzero(values))
            zeros += none
            if count >= LEAST_LISTED and len(tensor.shape) > 1:
                table.append({
                    "tensor": tensor.name.decode(),
                    "layer": names.get(tensor.name.decode()) or layers.get(i, ""),
                    "dtype": dtype_names()[tensor.type],
                    "shape": [int(n) for n in tensor.shape],
                    "bytes": size,
                    "zeros": none / count,
                    "distinct": _distinct(values, tensor.quantization),
                })
    total = sum(counts.values())
    shares = {name: count / total for name, count in counts.most_common()} if total else {}
    return {
        "parameters": total,
        "weights": {"bytes": stored, "dtypes": shares, "zeros": zeros / total if total else 0.0},
        "tensors": sorted(table, key=lambda t: -t["bytes"]),
    }


LEAST_LISTED = 16
MOST_DISTINCT = 256


def _readers(graph, names: dict[str, str]) -> dict[int, str]:
    """Per tensor, the layer of the operator that reads it, through a DEQUANTIZE without a name."""
    found: dict[int, str] = {}
    for op in graph.operators:
        written = [graph.tensors[i].name.decode() for i in op.outputs if i >= 0]
        layer = next((names[n] for n in written if names.get(n)), "")
        for i in op.inputs if op.inputs is not None else ():
            found[int(i)] = found.get(int(i)) or layer
    for op in graph.operators:
        behind = next((found[i] for i in op.outputs if found.get(i)), "")
        for i in op.inputs if op.inputs is not None else ():
            found[int(i)] = found[int(i)] or behind
    return found


def _distinct(values, quantization) -> int | None:
    """Different values of a tensor, in its richest channel where scales are per channel."""
    import numpy as np

    flat = values.reshape(-1)
    if len(np.unique(flat[:4 * MOST_DISTINCT])) > MOST_DISTINCT:
        return None
    scales = () if quantization is None or quantization.scale is None else quantization.scale
    if len(scales) > 1 and values.ndim and values.shape[quantization.quantizedDimension] > 1:
        rows = np.moveaxis(values, quantization.quantizedDimension, 0)
        return max(len(np.unique(row)) for row in rows)
    found = len(np.unique(flat))
    return found if found <= MOST_DISTINCT else None


def layer_names(model) -> dict[str, str]:
    """Tensor name -> the Keras layer it most likely belongs to ("" where the name says nothing).

    Converters keep the scopes of the traced model in tensor names: `model/conv1/Relu;...`. Keras
    3 puts a number behind every scope when a model is traced a second time (`conv1_1/Relu`); this
    holds for all scopes of a file or for none, and only then is it dropped. A model output is
    called after its signature entry.
    """
    found = {
        t.name.decode(): t.name.decode().split(";")[0].split("/")
        for graph in model.subgraphs
        for t in graph.tensors
    }
    scoped = [parts for parts in found.values() if len(parts) > 2]
    numbered = bool(scoped) and all(_NUMBERED.search(parts[1]) for parts in scoped)
    names = {name: _layer(parts, numbered) for name, parts in found.items()}
    for signature in model.signatureDefs:
        tensors = model.subgraphs[signature.subgraphIndex].tensors
        for entry in signature.outputs:
            name = tensors[entry.tensorIndex].name.decode()
            names[name] = names.get(name) or entry.name.decode()
    return names


_NUMBERED = re.compile(r"_\d+$")


def _layer(parts: list[str], numbered: bool) -> str:
    if len(parts) < 3:
        return "" if len(parts) < 2 else parts[0]
    if not numbered:
        return parts[1]
    scopes = []
    for part in parts[1:-1]:
        if not _NUMBERED.search(part):
            break
        scopes.append(_NUMBERED.sub("", part))
    return "/".join(scopes)
