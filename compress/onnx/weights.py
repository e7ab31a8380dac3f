"""Weights of ONNX nodes in fewer bits, with activations in float."""

from __future__ import annotations

import math

from . import graph as og
from . import qdq

MICROSOFT = "com.microsoft"
# Inputs that hold weights, and the axis of their output channels.
WEIGHTS = {"Conv": {1: 0}, "ConvTranspose": {1: 1}, "Gemm": {1: 1}, "MatMul": {1: -1},
           "LSTM": {1: 1, 2: 1}, "GRU": {1: 1, 2: 1}, "RNN": {1: 1, 2: 1}, "Gather": {0: 0}}
FEWEST = 256  # values of a weight below which eight bits save nothing
BLOCK = 32  # values that share one scale in four bits


def is_stored(tensor) -> bool:
    """Whether a constant is worth fewer bits."""
    return tensor.data_type == og.FLOAT and math.prod(tensor.dims) >= FEWEST


def eight_bits(model, names: set[str]) -> None:
    """Constants of nodes as int8 with one scale per output channel.

    They are widened by Cast and Mul, which the runtime computes once when it loads the file; it
    would run a DequantizeLinear anew at every inference.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    weights = og.constants(graph)
    done: dict[tuple, str] = {}
    added = []

    def stored(name: str, axis: int) -> str:
        """The name of the widened tensor."""
        if (name, axis) not in done:
            made = f"{name}_axis{axis}"
            steps, scale = _rounded(numpy_helper.to_array(weights[name]), axis)
            graph.initializer.extend([numpy_helper.from_array(steps, f"{made}_int8"),
                                      numpy_helper.from_array(scale, f"{made}_scale")])
            added.extend([helper.make_node("Cast", [f"{made}_int8"], [f"{made}_steps"],
                                           f"{made}_cast", to=og.FLOAT),
                          helper.make_node("Mul", [f"{made}_steps", f"{made}_scale"],
                                           [f"{made}_real"], f"{made}_widen")])
            done[name, axis] = f"{made}_real"
        return done[name, axis]

    for node in [n for n in graph.node if n.name in names]:
        for place, axis in WEIGHTS.get(node.op_type, {}).items():
            if place >= len(node.input) or not _stored_at(node, place, weights):
                continue
            name = node.input[place]
            axis = qdq.channel_axis(node, axis, len(weights[name].dims))
            if node.op_type == "Gather":
                _table(graph, node, name, added, stored(name, axis))
            else:
                node.input[place] = stored(name, axis)
        for name in matrices(node, weights):
            for body in og.bodies(node):
                qdq.rename(body, name, stored(name, 1))
    graph.node.extend(added)


def matrices(node, weights: dict) -> list[str]:
    """Matrices that the body of a loop or branch takes from outside."""
    return sorted(n for n in og.captured(node) if n in weights and len(weights[n].dims) == 2
                  and is_stored(weights[n]))


def _stored_at(node, place: int, weights: dict) -> bool:
    return node.input[place] in weights and is_stored(weights[node.input[place]])


def _rounded(values, axis: int):
    """Symmetric int8 steps and the scale of every slice along `axis`, shaped to be multiplied."""
    import numpy as np

    others = tuple(i for i in range(values.ndim) if i != axis)
    scale = np.abs(values).max(axis=others, keepdims=True) / 127
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    return np.clip(np.rint(values / scale), -127, 127).astype(np.int8), scale


def _table(graph, node, name: str, added: list, stored: str) -> None:
    """An embedding looks its rows up in eight bits, and their scales beside them."""
    from onnx import helper

    made, out, index = stored.removesuffix("_real"), node.output[0], node.input[1]
    added += [helper.make_node("Gather", [f"{made}_int8", index], [f"{out}_int8"],
                               f"{node.name}_rows", axis=0),
              helper.make_node("Cast", [f"{out}_int8"], [f"{out}_steps"], f"{node.name}_cast",
                               to=og.FLOAT),
              helper.make_node("Gather", [f"{made}_scale", index], [f"{out}_scale"],
                               f"{node.name}_scales", axis=0),
              helper.make_node("Mul", [f"{out}_steps", f"{out}_scale"], [out],
                               f"{node.name}_widen")]
    graph.node.remove(node)


def four_bits(model, names: set[str]) -> None:
    """Matrix products as com.microsoft.MatMulNBits: 4 bits and a scale for each 32 weights."""
    from onnx import helper, numpy_helper

    graph = model.graph
    weights = og.constants(graph)
    done: dict[tuple, int] = {}
    for at, node in enumerate(list(graph.node)):
        if node.name not in names:
            continue
        name = node.input[1]
        values = numpy_helper.to_array(weights[name])
        flipped = node.op_type == "Gemm" and qdq.channel_axis(node, 1, 2) == 0
        values = values.T if flipped else values
        size, width = values.shape
        if (name, flipped) not in done:
            packed, scale = _packed(values)
            graph.initializer.extend([numpy_helper.from_array(packed, f"{name}_int4"),
                                      numpy_helper.from_array(scale, f"{name}_int4_scale")])
            done[name, flipped] = 1
        product = node.output[0]
        bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else ""
        out = f"{product}_product" if bias else product
        graph.node.remove(node)
        graph.node.insert(at, helper.make_node(
            "MatMulNBits", [node.input[0], f"{name}_int4", f"{name}_int4_scale"], [out], node.name,
            domain=MICROSOFT, K=size, N=width, bits=4, block_size=BLOCK, accuracy_level=4))
        if bias:
            graph.node.append(helper.make_node("Add", [out, bias], [product], f"{node.name}_bias"))
    _extend(model)


def _packed(values):
    """(N, blocks, 16) bytes of two steps each, low half first, and (N * blocks) float32 scales.

    The value of a step s is (s - 8) * scale; the largest of a block by magnitude is -8 steps.
    """
    import numpy as np

    size, width = values.shape
    count = -(-size // BLOCK)
    rows = np.zeros((width, count * BLOCK), np.float32)
    rows[:, :size] = values.T
    rows = rows.reshape(width, count, BLOCK)
    largest = np.take_along_axis(rows, np.abs(rows).argmax(-1)[..., None], -1)
    scale = (largest / -8).astype(np.float32)
    scale = np.where(scale != 0, scale, 1).astype(np.float32)
    steps = np.clip(np.rint(rows / scale) + 8, 0, 15).astype(np.uint8)
    return steps[..., 0::2] | steps[..., 1::2] << 4, scale.reshape(-1)


def dynamic(model, names: set[str]) -> None:
    """LSTM as com.microsoft.DynamicQuantizeLSTM: int8 weights, and inputs rounded as they come."""
    import numpy as np
    from onnx import helper, numpy_helper

    graph = model.graph
    weights = og.constants(graph)
    for at, node in enumerate(list(graph.node)):
        if node.name not in names:
            continue
        inputs = [*node.input, *[""] * (8 - len(node.input))]
        for place in (1, 2):
            values = numpy_helper.to_array(weights[node.input[place]])
            scale = np.abs(values).max(axis=2, keepdims=True) / 127
            scale = np.where(scale > 0, scale, 1).astype(np.float32)
            steps = np.rint(values / scale).astype(np.int8).transpose(0, 2, 1)
            made = f"{node.name}/{'_WR'[place]}"
            parts = {"int8": np.ascontiguousarray(steps), "scale": scale[..., 0],
                     "zero": np.zeros(scale.shape[:2], np.int8)}
            graph.initializer.extend(numpy_helper.from_array(v, f"{made}_{k}")
                                     for k, v in parts.items())
            inputs[place] = f"{made}_int8"
            inputs += [f"{made}_scale", f"{made}_zero"]
        graph.node.remove(node)
        made = helper.make_node("DynamicQuantizeLSTM", inputs, node.output, node.name,
                                domain=MICROSOFT)
        graph.node.insert(at, made)
        graph.node[at].attribute.extend(a for a in node.attribute if a.name != "layout")
    _extend(model)


def _extend(model) -> None:
    from onnx import helper

    if not any(o.domain == MICROSOFT for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
