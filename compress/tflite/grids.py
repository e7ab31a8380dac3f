"""Integers that weights are on already: found in the float values, and put into an int8 file.

A quantizer gives each channel the scale max |w| / 127. Weights that were trained with one scale for
the kernel are on coarser steps in all but the largest channels, so it would round them once more,
and the 16 values of a clustered kernel would become other integers in each channel. Here the steps
are read off the weights: the file computes with the very values that were trained, the integers are
the same in every channel, and gzip finds them. A BatchNormalization that is folded into the weights
multiplies whole channels, so it changes scales alone. One scale for all channels is written once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ... import tflite

MOST = 127
FOUR_BITS = 7  # steps of kernels that `int4` stores
NEAR = 1e-3  # of a step, to which weights are on a grid
EVEN = 1e-6  # relative difference of scales that are one
# Places of weights and bias among an operator's inputs, and the axis of output channels.
KERNELS = {"CONV_2D": (1, 2, 0), "FULLY_CONNECTED": (1, 2, 0), "DEPTHWISE_CONV_2D": (1, 2, 3),
           "TRANSPOSE_CONV": (1, 3, 0)}


@dataclass(frozen=True)
class Grid:
    """Weights as `levels` (channels, inputs) from -127 to 127 times `scale` of their channel;
    `one` says that all channels have the same."""

    levels: Any
    scale: Any
    one: bool

    @classmethod
    def of(cls, levels: Any, scale: Any) -> Grid:
        """Channels without weights take the scale of the others where these have one."""
        import numpy as np

        live = np.asarray(scale, np.float64)[np.abs(levels).max(1) > 0]
        one = len(live) > 0 and live.max() - live.min() <= EVEN * live.max()
        scale = np.full(len(levels), live.max()) if one else np.asarray(scale, np.float64)
        return cls(np.asarray(levels, np.int8), scale, bool(one))


def find(matrix: Any) -> Grid | None:
    """The grid of weights that are on one, other than that which quantizers choose themselves.

    Args:
        matrix: Float weights, (channels, inputs).
    """
    import numpy as np

    matrix = np.asarray(matrix, np.float64)
    largest = np.abs(matrix).max(1, initial=0)
    top = largest.max(initial=0)
    if not 0 < top < np.inf:
        return None
    scale = top / MOST
    levels = np.round(matrix / scale)
    if np.abs(matrix / scale - levels).max() <= NEAR:
        return Grid(levels.astype(np.int8), np.full(len(matrix), scale), True)
    live = np.flatnonzero(largest)
    possible: dict[int, list[int]] = {}
    for channel in live:
        possible[channel] = _possible(matrix[channel] / largest[channel])
        if not possible[channel]:
            return None
    if all(FOUR_BITS in p for p in possible.values()) or \
            all(p == [MOST] for p in possible.values()):
        return None
    levels, scale = np.zeros(matrix.shape, np.int8), np.full(len(matrix), scale)
    known: set[int] = set()
    for channel in sorted(live, key=lambda c: (len(possible[c]), -len(np.unique(matrix[c])))):
        options = [np.round(matrix[channel] / largest[channel] * m).astype(np.int8)
                   for m in possible[channel]]
        fresh = [len({*map(int, np.unique(o))} - known) for o in options]
        best = len(fresh) - 1 - int(np.argmin(fresh[::-1]))  # of equals the finest
        levels[channel], scale[channel] = options[best], largest[channel] / possible[channel][best]
        known |= {*map(int, np.unique(levels[channel]))}
    return Grid(levels, scale, False)


def _possible(row: Any) -> list[int]:
    """Into how many steps the largest weight of a channel (which is 1 here) can be divided."""
    import numpy as np

    values = np.unique(np.abs(row))
    if len(values) > MOST + 1:
        return []
    steps = np.arange(1, MOST + 1)
    products = np.outer(steps, values)
    return [int(m) for m in steps[np.abs(products - np.round(products)).max(1) <= NEAR]]


class Weights:
    """The grids of a float file's constants, each looked for once."""

    def __init__(self, model: Any):
        self.values = {}
        for graph in model.subgraphs:
            for tensor in graph.tensors:
                if tflite.dtype_names()[tensor.type] == "float32" and \
                        model.buffers[tensor.buffer].data is not None:
                    self.values[tensor.name] = model, tensor
        self.found: dict[tuple, Grid | None] = {}

    def grid(self, tensor: Any, axis: int) -> Grid | None:
        """The grid of the constant that a quantized tensor was made from."""
        key = tensor.name, axis
        if key not in self.found:
            values = self.bias(tensor)
            same = values is not None and tuple(values.shape) == tuple(tensor.shape)
            self.found[key] = find(matrix_of(values, axis)) if same and values.ndim > 1 else None
        return self.found[key]

    def bias(self, tensor: Any) -> Any:
        """The float values of the constant, or None."""
        held = self.values.get(tensor.name)
        return None if held is None else tflite.constant(*held)


def matrix_of(values: Any, axis: int) -> Any:
    """An array as (channels, inputs)."""
    import numpy as np

    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


def apply(model: Any, grid_of: Callable[[Any, int], Grid | None],
          bias_of: Callable[[Any], Any] = lambda _: None, one_dense: bool = False) -> int:
    """Store weights on the grids that they are on, and biases in the steps that follow.

    Args:
        model: A quantized `ModelT`; changed in place.
        grid_of: From a weight tensor and its axis of channels to the grid, or None.
        bias_of: From a bias tensor to its float values, or None: its integers are taken then.
        one_dense: Leave dense layers alone whose grid has several scales.

    Returns:
        How many weight tensors were changed.
    """
    done: dict[int, Grid | None] = {}
    for graph in model.subgraphs:
        done.clear()
        settled: set[int] = set()
        for op in graph.operators:
            name = tflite.op_name(model, op)
            if name not in KERNELS:
                continue
            place, beside, axis = KERNELS[name]
            index = op.inputs[place]
            tensor = graph.tensors[index]
            if index not in done:
                grid = grid_of(tensor, axis) if _is_int8(model, tensor) else None
                if grid and one_dense and name == "FULLY_CONNECTED" and not grid.one:
                    grid = None
                done[index] = grid
                if grid:
                    _store(model, tensor, grid, axis)
            grid = done[index]
            bias = op.inputs[beside] if len(op.inputs) > beside else -1
            if grid and bias >= 0 and bias not in settled:
                settled.add(bias)
                _settle(model, graph.tensors[bias], bias_of(graph.tensors[bias]), grid,
                        graph.tensors[op.inputs[2 if name == "TRANSPOSE_CONV" else 0]])
    return sum(grid is not None for grid in done.values())


def _is_int8(model: Any, tensor: Any) -> bool:
    return tflite.dtype_names()[tensor.type] == "int8" and tensor.quantization is not None \
        and tensor.quantization.scale is not None \
        and model.buffers[tensor.buffer].data is not None


def _store(model: Any, tensor: Any, grid: Grid, axis: int) -> None:
    import numpy as np

    shape = np.asarray(tensor.shape)
    moved = grid.levels.reshape([shape[axis], *np.delete(shape, axis)])
    _replace(model, tensor, np.ascontiguousarray(np.moveaxis(moved, 0, axis)))
    _scales(tensor, grid, 1.0, axis)


def _settle(model: Any, tensor: Any, values: Any, grid: Grid, given: Any) -> None:
    """A bias in steps of its input's scale times the new scale of its channel."""
    import numpy as np

    dtype = tflite.dtype_names()[tensor.type]
    old, source = tensor.quantization, given.quantization
    integers = tflite.constant(model, tensor)
    if dtype not in ("int32", "int64") or integers is None or old is None or old.scale is None:
        return
    if values is None:
        values = integers * np.asarray(old.scale, np.float64)
    step = float(source.scale[0])
    _replace(model, tensor, np.round(np.asarray(values, np.float64) / (grid.scale * step)).astype(
        dtype))
    _scales(tensor, grid, step, 0)


def _scales(tensor: Any, grid: Grid, factor: float, axis: int) -> None:
    import numpy as np

    scale = (grid.scale[:1] if grid.one else grid.scale) * factor
    told = tensor.quantization
    told.scale = scale.astype(np.float32)
    told.zeroPoint = np.zeros(len(scale), np.int64)
    told.quantizedDimension = 0 if grid.one else axis
    told.min = told.max = None


def _replace(model: Any, tensor: Any, data: Any) -> None:
    """Other bytes for a constant, in a buffer of its own: equal constants share one."""
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    buffer = schema.BufferT()
    buffer.data = data.view(np.uint8).ravel()
    model.buffers.append(buffer)
    tensor.buffer = len(model.buffers) - 1
