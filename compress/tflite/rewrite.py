"""Exact changes of a float .tflite file that leave more of it to integer kernels."""

from __future__ import annotations

from ... import tflite
from .surgery import Editor


def rewrite(model) -> None:
    """Change a float `ModelT` in place; it computes the same numbers.

    An AVERAGE_POOL_2D over the whole image becomes MEAN, whose int8 output has a scale of its own
    (a pool's has that of its input, too coarse for averages). NEG and SQUARE become MUL. A SPLIT
    with parts that nobody reads becomes one STRIDED_SLICE for each of the others (the runtime does
    not prepare such a SPLIT in int8).
    """
    edit = Editor(model)
    for op in list(edit.graph.operators):
        kind = edit.kind(op)
        if not op.inputs or edit.dtype(op.inputs[-1]) != "float32":
            continue
        if kind == "AVERAGE_POOL_2D" and _is_global(edit, op):
            options = edit.schema.ReducerOptionsT()
            options.keepDims = True
            axes = edit.add_constant("axes", "int32", [1, 2])
            edit.become(op, "MEAN", [op.inputs[0], axes], "ReducerOptions", options)
        elif kind in ("NEG", "SQUARE"):
            other = (op.inputs[0] if kind == "SQUARE"
                     else edit.add_constant("minus_one", "float32", [-1.0]))
            edit.become(op, "MUL", [op.inputs[0], other], "MulOptions",
                        edit.schema.MulOptionsT())
        elif kind == "SPLIT" and not all(_is_read(edit, i) for i in op.outputs):
            _slice(edit, op)


def _is_global(edit: Editor, op) -> bool:
    options, shape = op.builtinOptions, edit.graph.tensors[op.inputs[0]].shape
    return (options.fusedActivationFunction == 0 and options.padding == 1
            and [options.filterHeight, options.filterWidth] == [int(n) for n in shape[1:3]])


def _is_read(edit: Editor, index: int) -> bool:
    return index in edit.graph.outputs or bool(edit.consumers(index))


def _slice(edit: Editor, op) -> None:
    """A STRIDED_SLICE for every part of a SPLIT that is read."""
    axis = tflite.constant(edit.model, edit.graph.tensors[op.inputs[0]])
    shape = [int(n) for n in edit.graph.tensors[op.inputs[1]].shape]
    if axis is None or not shape:
        return
    axis = int(axis.ravel()[0]) % len(shape)
    size = shape[axis] // len(op.outputs)
    ones = edit.add_constant("strides", "int32", [1] * len(shape))
    for part, index in enumerate(op.outputs):
        if _is_read(edit, index):
            begin, end = [0] * len(shape), list(shape)
            begin[axis], end[axis] = part * size, (part + 1) * size
            inputs = [op.inputs[1], edit.add_constant("begin", "int32", begin),
                      edit.add_constant("end", "int32", end), ones]
            edit.operator("STRIDED_SLICE", inputs, [index], before=op)
            new = next(o for o in edit.graph.operators if o.outputs == [index])
            edit.become(new, "STRIDED_SLICE", inputs, "StridedSliceOptions",
                        edit.schema.StridedSliceOptionsT())
    edit.remove(op)
