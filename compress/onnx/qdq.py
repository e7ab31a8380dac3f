"""QuantizeLinear and DequantizeLinear around the nodes that ONNX Runtime shall run in integers.

Activations are unsigned bytes with a zero point, weights signed bytes per output channel, biases
32-bit integers in the scale of their products. What only moves values keeps its input's scale, a
clamp at zero is the quantization's own, and a product that is read in float is left in float: so
the runtime finds its integer kernels without conversions in between.
"""

from __future__ import annotations

from ..tflite import grids
from . import graph as og

SAME = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "MaxPool",
        "Pad", "Resize")  # the output has the input's scale
CLAMPS = ("Relu", "Clip")
PRODUCTS = ("Gemm", "MatMul")  # have kernels with integer inputs and float outputs
LARGEST_BIAS = 2 ** 30


class Writer:
    """Rewrites one graph.

    Args:
        model: A `ModelProto` with unique node names; it is changed.
        names: The nodes that become integers.
        ranges: Tensor name -> smallest and largest value.
        axes: Operator -> input that holds weights -> axis of its output channels.
        data: Operator -> how many of its inputs hold data; all where not named.
    """

    def __init__(self, model, names: set[str], ranges: dict, axes: dict, data: dict):
        self.graph, self.axes, self.data = model.graph, axes, data
        self.ranges = dict(ranges)
        self.weights = og.constants(self.graph)
        self.nodes = [n for n in self.graph.node if n.name in names]
        self.names = names
        self.outputs = {o.name for o in self.graph.output}
        self.params: dict[str, tuple] = {}
        self.real: dict[str, str] = {}  # tensor -> its values after quantization
        self.added: list = []

    def write(self) -> None:
        self._drop_clamps()
        self.read_by = og.consumers(self.graph)
        data = {n.name: self._data(n) for n in self.nodes}
        for node in self.nodes:
            for name in data[node.name]:
                if name not in self.weights:
                    self._parameters(name)
            source = data[node.name][0]
            for name in node.output:
                if node.op_type in SAME and name:
                    self.params[name] = self.params[source]
        for node in self.nodes:
            self._weights(node)
            for name in node.output:
                if name and not (node.op_type in PRODUCTS and self._only_floats(name)):
                    self._around(name, written=True)
            for place, name in enumerate(data[node.name]):
                if name in self.weights:
                    node.input[place] = self._constant(name)
                elif name not in self.real:
                    self._around(name, written=False)
        for name, real in self.real.items():
            made_here = any(name in n.output for n in self.nodes)
            for node in self.read_by.get(name, ()):
                if made_here or node.name in self.names:
                    og.replace_input([node], name, real)
                    for body in og.bodies(node):
                        rename(body, name, real)
        self.graph.node.extend(self.added)
        self._rename_outputs()

    def _data(self, node) -> list[str]:
        count = self.data.get(node.op_type, len(node.input))
        if node.op_type in self.axes:
            count = 1 if node.input[min(self.axes[node.op_type])] in self.weights else 2
        return list(node.input[:count])

    def _drop_clamps(self) -> None:
        """A clamp at zero behind an integer node is what an unsigned byte does anyway."""
        made_by, read_by = og.producers(self.graph), og.consumers(self.graph)
        for node in list(self.nodes):
            before = made_by.get(node.input[0])
            if node.op_type not in CLAMPS or before is None or before.name not in self.names or (
                    before.op_type in (*SAME, *CLAMPS)):
                continue
            low, high = self._bounds(node)
            out = node.output[0]
            if low != 0 or len(read_by.get(node.input[0], ())) != 1 or (
                    node.input[0] in self.outputs or out not in self.ranges):
                continue
            self.ranges[out] = 0.0, min(self.ranges[out][1], high)
            before.output[list(before.output).index(node.input[0])] = out
            self.graph.node.remove(node)
            self.nodes.remove(node)

    def _bounds(self, node) -> tuple[float, float]:
        from onnx import numpy_helper

        ends = [0.0 if node.op_type == "Relu" else -float("inf"), float("inf")]
        for i, name in enumerate(node.input[1:3] if node.op_type == "Clip" else ()):
            if name in self.weights:
                ends[i] = float(numpy_helper.to_array(self.weights[name]).reshape(-1)[0])
            elif name:
                return -float("inf"), float("inf")
        return ends[0], ends[1]

    def _only_floats(self, name: str) -> bool:
        return not any(n.name in self.names for n in self.read_by.get(name, ()))

    def _parameters(self, name: str) -> tuple:
        """Scale and zero point of an activation."""
        if name not in self.params:
            self.params[name] = _affine(*self.ranges[name])
        return self.params[name]

    def _around(self, name: str, written: bool) -> None:
        scale, zero = self._parameters(name)
        self._initializer(f"{name}_scale", scale)
        self._initializer(f"{name}_zero", zero)
        raw = f"{name}_raw" if written and name in self.outputs else name
        self._node("QuantizeLinear", [raw, f"{name}_scale", f"{name}_zero"], f"{name}_steps")
        self._node("DequantizeLinear", [f"{name}_steps", f"{name}_scale", f"{name}_zero"],
                   name if raw != name else f"{name}_real")
        if raw == name:
            self.real[name] = f"{name}_real"
        else:
            self.real[name] = name

    def _rename_outputs(self) -> None:
        """An output of the model is what comes behind its last conversion."""
        for node in self.nodes:
            for i, name in enumerate(node.output):
                if name in self.outputs and self.real.get(name) == name:
                    node.output[i] = f"{name}_raw"

    def _weights(self, node) -> None:
        import numpy as np
        from onnx import numpy_helper

        for place, axis in self.axes.get(node.op_type, {}).items():
            name = node.input[place]
            if name not in self.weights:
                continue
            values = numpy_helper.to_array(self.weights[name])
            axis = channel_axis(node, axis, values.ndim)
            others = tuple(i for i in range(values.ndim) if i != axis)
            scale = (np.abs(values).max(axis=others) / 127).astype(np.float32)
            scale = np.where(scale > 0, scale, np.float32(1))
            grid = grids.find(grids.matrix_of(values, axis))
            if grid:  # the weights are on steps already, which training or the user chose
                scale = grid.scale.astype(np.float32)
            step, _ = self._parameters(node.input[0])
            bias = node.input[2] if len(node.input) > 2 else ""
            if bias:  # the bias must fit into 32 bits of the products' scale
                bias_values = numpy_helper.to_array(self.weights[bias]).astype(np.float64)
                scale = np.maximum(scale, np.abs(bias_values) / (float(step) * LARGEST_BIAS))
                scale = scale.astype(np.float32)
            shape = [-1 if i == axis else 1 for i in range(values.ndim)]
            steps = np.clip(np.rint(values / scale.reshape(shape)), -127, 127).astype(np.int8)
            node.input[place] = self._stored(f"{node.name}/weights", steps, scale, axis)
            if bias:
                product = (scale * step).astype(np.float32)
                steps = np.rint(bias_values / product).astype(np.int32)
                node.input[2] = self._stored(f"{node.name}/bias", steps, product, 0)

    def _constant(self, name: str) -> str:
        import numpy as np
        from onnx import numpy_helper

        if f"{name}_real" not in self.real.values():
            values = numpy_helper.to_array(self.weights[name])
            scale, zero = _affine(float(values.min()), float(values.max()))
            steps = np.clip(np.rint(values / scale) + zero, 0, 255).astype(np.uint8)
            self._initializer(f"{name}_steps", steps)
            self._initializer(f"{name}_scale", scale)
            self._initializer(f"{name}_zero", zero)
            self._node("DequantizeLinear", [f"{name}_steps", f"{name}_scale", f"{name}_zero"],
                       f"{name}_real")
            self.real[name] = f"{name}_real"
        return f"{name}_real"

    def _stored(self, name: str, steps, scale, axis: int) -> str:
        import numpy as np

        self._initializer(f"{name}_steps", steps)
        self._initializer(f"{name}_scale", scale)
        self._initializer(f"{name}_zero", np.zeros(scale.shape, steps.dtype))
        self._node("DequantizeLinear", [f"{name}_steps", f"{name}_scale", f"{name}_zero"], name,
                   axis=axis)
        return name

    def _initializer(self, name: str, value) -> None:
        from onnx import numpy_helper

        self.graph.initializer.append(numpy_helper.from_array(value, name))

    def _node(self, kind: str, inputs: list[str], output: str, **attributes) -> None:
        from onnx import helper

        self.added.append(helper.make_node(kind, inputs, [output], f"{output}_{kind}",
                                           **attributes))


def channel_axis(node, axis: int, rank: int) -> int:
    """Axis of a weight's output channels; Gemm's depends on whether it is transposed."""
    if node.op_type == "Gemm":
        flipped = next((a.i for a in node.attribute if a.name == "transB"), 0)
        return 0 if flipped else 1
    return axis % rank


def _affine(low: float, high: float) -> tuple:
    """Scale and zero point (0-d arrays) of unsigned bytes that hold zero exactly."""
    import numpy as np

    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / 255)
    scale = scale if scale > 1e-30 else np.float32(1)
    zero = np.uint8(np.clip(np.rint(-low / float(scale)), 0, 255))
    return np.array(scale, np.float32), np.array(zero, np.uint8)


def rename(body, old: str, new: str) -> None:
    """Let the nodes of a body read the outer tensor `new`."""
    for node in body.node:
        og.replace_input([node], old, new)
        for inner in og.bodies(node):
            rename(inner, old, new)
    for output in body.output:
        if output.name == old:
            output.name = new
