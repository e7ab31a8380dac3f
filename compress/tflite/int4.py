"""int8 weights that were trained to have 15 levels, stored as int4: half the bytes, no new error.

TensorFlow's converter writes weights of `weight_bits = 4` as int8: level k of -7 .. 7 becomes
round(k * 127 / 7) in steps of max |w| / 127. Here they become k again, in steps of max |w| / 7, and
the biases, which count in steps of input scale times weight scale, are rounded to the new steps;
quantization-aware training had them there.
"""

from __future__ import annotations

from typing import Any

from ... import tflite
from . import surgery

LEVELS = 7
STEPS = 127 / LEVELS  # int8 steps per int4 step
WEIGHT, BIAS = 1, 2  # places among an operator's inputs
KINDS = ("CONV_2D", "FULLY_CONNECTED")  # int4 kernels exist for these
WIDE = ("DEPTHWISE_CONV_2D",)  # the levels stay in int8 here, in steps of max |w| / 7 too


def pack(content: bytes) -> tuple[bytes, list[str]]:
    """Store what is on 15 levels as int4.

    Args:
        content: An int8 .tflite file.

    Returns:
        The file's bytes, and the names of the weights that are int4 now.

    Raises:
        ModelError: It is not a .tflite file.
    """
    model, done = tflite.load(content), []
    for graph in model.subgraphs:
        for op in graph.operators:
            tensor = graph.tensors[op.inputs[WEIGHT]] if _takes(model, graph, op) else None
            levels = None if tensor is None else _levels(model, tensor)
            if levels is not None and _alone(graph, op):
                _store(model, graph, op, tensor, levels)
                done += [tensor.name.decode()] if tflite.op_name(model, op) in KINDS else []
    surgery.compact(model)
    return tflite.dump(model), done


def _takes(model: Any, graph: Any, op: Any) -> bool:
    """Whether the operator has int8 activations and constant int8 weights."""
    if tflite.op_name(model, op) not in KINDS + WIDE or op.inputs[WEIGHT] < 0:
        return False
    types = [tflite.dtype_names()[graph.tensors[i].type] for i in (op.inputs[0], op.inputs[WEIGHT])]
    weight = graph.tensors[op.inputs[WEIGHT]]
    scale = weight.quantization.scale if weight.quantization is not None else None
    return types == ["int8", "int8"] and scale is not None and \
        model.buffers[weight.buffer].data is not None


def _alone(graph: Any, op: Any) -> bool:
    """Whether no other operator reads its weights or its bias."""
    mine = [i for i in op.inputs[WEIGHT:] if i >= 0]
    return sum(i in o.inputs for o in graph.operators for i in mine) == len(mine)


def _levels(model: Any, tensor: Any) -> Any:
    """The weights as -7 .. 7, or None where they are not on 15 levels."""
    import numpy as np

    values = tflite.constant(model, tensor).astype(np.float64)
    levels = np.round(values / STEPS)
    if np.abs(values - levels * STEPS).max(initial=0) > 0.5001:
        return None
    return levels.astype(np.int8)


def _store(model: Any, graph: Any, op: Any, tensor: Any, levels: Any) -> None:
    import numpy as np

    flat = levels.ravel()
    if tflite.op_name(model, op) in KINDS:
        flat = np.append(flat, np.zeros(flat.size % 2, np.int8)) & 15
        flat = flat[0::2] | (flat[1::2] << 4)
        tensor.type = next(k for k, v in tflite.dtype_names().items() if v == "int4")
    _replace(model, tensor, flat.view(np.uint8))
    old = np.asarray(tensor.quantization.scale, np.float64)
    new = (old * STEPS).astype(np.float32)
    tensor.quantization.scale = new
    tensor.quantization.min = tensor.quantization.max = None
    if len(op.inputs) > BIAS and op.inputs[BIAS] >= 0:
        bias = graph.tensors[op.inputs[BIAS]]
        first = graph.tensors[op.inputs[0]].quantization.scale[0]
        values = tflite.constant(model, bias).astype(np.float64)
        _replace(model, bias, np.round(values / STEPS).astype(np.int32).view(np.uint8))
        if bias.quantization is not None:
            bias.quantization.scale = (new * np.float32(first)).astype(np.float32)


def _replace(model: Any, tensor: Any, data: Any) -> None:
    """Other bytes for a constant, in a buffer of its own: equal constants share one."""
    from ai_edge_litert import schema_py_generated as schema

    buffer = schema.BufferT()
    buffer.data = data
    model.buffers.append(buffer)
    tensor.buffer = len(model.buffers) - 1
