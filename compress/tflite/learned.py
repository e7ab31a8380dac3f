"""Learned ranges out of a float .tflite that was converted with its fake quantization inside.

The converter writes each rounding as a QUANTIZE and a DEQUANTIZE. Without these pairs the file is
the plain float model, and what they held are the ranges of its tensors, ready for any quantizer
that works from file to file.
"""

from __future__ import annotations

from ... import tflite

STEPS = {"uint8": (0, 255), "int8": (-128, 127)}


def strip(content: bytes) -> tuple[bytes, dict[str, tuple[float, float]]]:
    """Take the pairs out.

    Args:
        content: A float file whose activations are rounded by QUANTIZE and DEQUANTIZE.

    Returns:
        The file without them, and `{tensor name: (min, max)}`.
    """
    model = tflite.load(content)
    found: dict[str, tuple[float, float]] = {}
    for graph in model.subgraphs:
        for op in [o for o in graph.operators if tflite.op_name(model, o) == "QUANTIZE"]:
            _take_out(model, graph, op, found)
    return tflite.dump(model), found


def _take_out(model, graph, op, found: dict) -> None:
    source, rounded = op.inputs[0], op.outputs[0]
    tensor = graph.tensors[rounded]
    dtype, params = tflite.dtype_names()[tensor.type], tensor.quantization
    readers = [o for o in graph.operators if rounded in o.inputs]
    ends = {i for r in readers for i in r.outputs} & set(graph.outputs)
    if (dtype not in STEPS or params is None or params.scale is None or rounded in graph.outputs
            or any(tflite.op_name(model, r) != "DEQUANTIZE" for r in readers)
            or (ends and source in graph.inputs) or len(ends) > 1):
        return
    scale, zero = float(params.scale[0]), int(params.zeroPoint[0])
    low, high = STEPS[dtype]
    limits = ((low - zero) * scale, (high - zero) * scale)
    gone = {id(op), *map(id, readers)}
    graph.operators = [o for o in graph.operators if id(o) not in gone]
    if ends:  # the file's output keeps its tensor: what wrote the source writes it now
        target, = ends
        _replace(graph, source, target)
        for one in graph.operators:
            one.outputs = [target if i == source else i for i in one.outputs]
    else:
        target = source
    for reader in readers:
        for old in reader.outputs:
            _replace(graph, old, target)
    found[graph.tensors[target].name.decode()] = limits


def _replace(graph, old: int, new: int) -> None:
    for op in graph.operators:
        op.inputs = [new if i == old else i for i in op.inputs]
