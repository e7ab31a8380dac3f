"""Pixels to channels: convolutions of few channels on large images, on a quarter of the places.

A block of 2 x 2 pixels of 16 channels holds the same numbers as one place of 64 channels, and a
3 x 3 convolution between images of pixels is a 3 x 3 convolution between images of blocks, three of
four weights being zero. Matrix units multiply tiles of fixed size (AMX: 16 places x 64 inputs x 16
outputs at least), which 16 channels fill by a quarter: there the blocks take a quarter of
the time. On processors without them the zeros are multiplied too and it does not pay: measure.
"""

from __future__ import annotations

from typing import Any

from ... import tflite
from .surgery import Editor, compact

SIDE = 2
SAME = 0  # padding, in the schema
POINTWISE = ("ADD", "SUB", "MUL", "RELU", "RELU6", "MAXIMUM", "MINIMUM", "QUANTIZE", "DEQUANTIZE")


def to_blocks(content: bytes) -> tuple[bytes, int]:
    """Compute the first part of a network on blocks of 2 x 2 pixels; every number stays the same.

    Starts at inputs of four axes and ends where convolutions of stride 2 halve the image. Weights
    of the convolutions between become up to sixteen times larger.

    Args:
        content: A .tflite file, quantized or not.

    Returns:
        Its bytes, and how many convolutions work on blocks (0: the file as it came).

    Raises:
        ModelError: It is not a .tflite file.
    """
    model = tflite.load(content)
    edit = Editor(model)
    blocked = _region(edit)
    convolutions = [op for op in edit.graph.operators if edit.kind(op) == "CONV_2D"
                    and op.inputs[0] in blocked]
    if not convolutions or len({i for op in convolutions for i in op.inputs[1:]}) != \
            sum(len(op.inputs) - 1 for op in convolutions):
        return content, 0
    for op in convolutions:
        _convolve(edit, op)
    for index in sorted(blocked - set(edit.graph.inputs)):
        _reshape(edit.graph.tensors[index])
    for index in set(edit.graph.inputs) & blocked:
        _enter(edit, index)
    compact(model)
    return tflite.dump(model), len(convolutions)


def _region(edit: Editor) -> set[int]:
    """The tensors that become blocks: their readers and writers can all work on blocks."""
    graph = edit.graph
    blocked = {i for i in graph.inputs if _divides(edit, i)}
    while True:
        size = len(blocked)
        for op in graph.operators:
            if op.outputs and op.inputs and op.inputs[0] in blocked and _keeps_size(edit, op):
                blocked.add(op.outputs[0])
        if len(blocked) == size:
            break
    while True:
        bad = {i for i in blocked if i in graph.outputs or not edit.consumers(i)
               or not all(_can(edit, op, blocked) for op in edit.consumers(i))
               or (edit.producer(i) and not _can(edit, edit.producer(i), blocked))}
        if not bad:
            return blocked
        blocked -= bad


def _divides(edit: Editor, index: int) -> bool:
    shape = edit.graph.tensors[index].shape
    return len(shape) == 4 and shape[1] % SIDE == 0 and shape[2] % SIDE == 0


def _keeps_size(edit: Editor, op: Any) -> bool:
    return edit.kind(op) in POINTWISE or (edit.kind(op) == "CONV_2D" and _strides(op) == (1, 1))


def _strides(op: Any) -> tuple[int, int]:
    return op.builtinOptions.strideH, op.builtinOptions.strideW


def _can(edit: Editor, op: Any, blocked: set[int]) -> bool:
    """Whether an operator works on blocks, when its neighbours in `blocked` do."""
    kind, graph = edit.kind(op), edit.graph
    if kind in POINTWISE:
        scales = [graph.tensors[i].quantization for i in op.inputs]
        return all(i in blocked for i in (*op.inputs, *op.outputs)) and \
            all(q is None or q.scale is None or len(q.scale) == 1 for q in scales)
    if kind != "CONV_2D" or op.inputs[0] not in blocked:
        return False
    options = op.builtinOptions
    weight = graph.tensors[op.inputs[1]]
    whole = (options.dilationHFactor, options.dilationWFactor) == (1, 1) and \
        options.padding == SAME and edit.is_constant(op.inputs[1]) and \
        edit.dtype(op.inputs[1]) in ("int8", "float32") and \
        all(i >= 0 and edit.is_constant(i) for i in op.inputs[1:]) and \
        weight.shape[3] == graph.tensors[op.inputs[0]].shape[3]
    return whole and _strides(op) in ((1, 1), (SIDE, SIDE)) and \
        (op.outputs[0] in blocked) == (_strides(op) == (1, 1)) and \
        all(_window(int(weight.shape[a]), _strides(op)[0]) for a in (1, 2))


def _window(size: int, stride: int) -> tuple[int, int] | None:
    """First and last block, counted from the output's, under a window of `size` pixels.

    None where padding `SAME` would put the window of blocks elsewhere.
    """
    before = max(size - stride, 0) // 2
    first, last = -before // SIDE, ((SIDE - 1 if stride == 1 else 0) + size - 1 - before) // SIDE
    return (first, last) if (last - first) // 2 == -first else None


def _convolve(edit: Editor, op: Any) -> None:
    """Give a convolution the weights that do the same on blocks."""
    import numpy as np

    stride = _strides(op)[0]
    weight = edit.graph.tensors[op.inputs[1]]
    values = tflite.constant(edit.model, weight)
    outputs, high, wide, depth = values.shape
    phases = range(SIDE) if stride == 1 else (0,)
    rows, columns = _window(high, stride), _window(wide, stride)
    made = np.zeros((len(phases), len(phases), outputs, rows[1] - rows[0] + 1,
                     columns[1] - columns[0] + 1, SIDE, SIDE, depth), values.dtype)
    places = [[(p, k, *divmod(p + k - max(size - stride, 0) // 2, SIDE))
               for p in phases for k in range(size)] for size in (high, wide)]
    for p, y, block_y, in_y in places[0]:
        for q, x, block_x, in_x in places[1]:
            made[p, q, :, block_y - rows[0], block_x - columns[0], in_y, in_x] = values[:, y, x]
    copies = len(phases) ** 2
    made = made.reshape(copies * outputs, *made.shape[3:5], SIDE * SIDE * depth)
    _replace(edit, weight, made)
    for index in op.inputs[2:]:
        bias = edit.graph.tensors[index]
        _replace(edit, bias, np.tile(tflite.constant(edit.model, bias), copies))
    for index in op.inputs[1:]:
        _repeat_scales(edit.graph.tensors[index].quantization, copies)
    op.builtinOptions.strideH = op.builtinOptions.strideW = 1


def _replace(edit: Editor, tensor: Any, values: Any) -> None:
    """Other values for a constant, in a buffer of its own."""
    import numpy as np

    buffer = edit.schema.BufferT()
    buffer.data = np.ascontiguousarray(values).view(np.uint8).ravel()
    edit.model.buffers.append(buffer)
    tensor.buffer = len(edit.model.buffers) - 1
    tensor.shape = np.array(values.shape, np.int32)


def _repeat_scales(quantization: Any, copies: int) -> None:
    import numpy as np

    if quantization is None or quantization.scale is None or len(quantization.scale) == 1:
        return
    quantization.scale = np.tile(quantization.scale, copies)
    quantization.zeroPoint = np.tile(quantization.zeroPoint, copies)
    quantization.min = quantization.max = None


def _reshape(tensor: Any) -> None:
    import numpy as np

    rows, high, wide, depth = (int(n) for n in tensor.shape)
    tensor.shape = np.array([rows, high // SIDE, wide // SIDE, SIDE * SIDE * depth], np.int32)
    tensor.shapeSignature = None


def _enter(edit: Editor, index: int) -> None:
    """Blocks of an input, made by SPACE_TO_DEPTH."""
    readers = edit.consumers(index)
    tensor = edit.graph.tensors[index]
    made = edit.tensor(index, edit.name(index) + "_blocks", edit.dtype(index), tensor.quantization)
    _reshape(edit.graph.tensors[made])
    edit.rewire(readers, index, made)
    edit.operator("SPACE_TO_DEPTH", [index], [made], before=readers[0])
    op = next(o for o in edit.graph.operators if o.outputs == [made])
    options = edit.schema.SpaceToDepthOptionsT()
    options.blockSize = SIDE
    edit.become(op, "SPACE_TO_DEPTH", [index], "SpaceToDepthOptions", options)
