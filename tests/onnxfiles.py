"""Small float .onnx files made by hand, for tests that should not wait for TensorFlow."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class OnnxFile:
    """A graph under construction; `op` adds a node and returns its first output."""

    def __init__(self, opset: int = 17):
        self.nodes, self.weights, self.inputs, self.opset = [], [], [], opset

    def input(self, name, shape, kind=TensorProto.FLOAT):
        self.inputs.append(helper.make_tensor_value_info(name, kind, ["batch", *shape]))
        return name

    def constant(self, values, name=None):
        name = name or f"constant_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def op(self, kind, *inputs, outputs=1, **attributes):
        name = f"model/layer_{len(self.nodes)}/{kind}"
        names = [f"{name}:{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name, **attributes))
        return names[0]

    def save(self, path, outputs: dict) -> Path:
        """Write the file; `outputs` is `{name: (tensor, shape without batch)}`."""
        for name, (tensor, _) in outputs.items():
            for node in self.nodes:
                for side in (node.input, node.output):
                    for i, each in enumerate(side):
                        if each == tensor:
                            side[i] = name
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", *shape])
                for n, (_, shape) in outputs.items()]  # fmt: skip
        graph = helper.make_graph(self.nodes, "model", self.inputs, ends, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 8
        onnx.checker.check_model(model)
        path = Path(path)
        path.write_bytes(model.SerializeToString(deterministic=True))
        return path


def cnn(path, seed=0) -> Path:
    """Two convolutions with a shortcut, pooling and a product: input `x`, output `y`."""
    rng = np.random.default_rng(seed)
    file = OnnxFile()
    x = file.input("x", [8, 12, 12])

    def conv(x, width, size):
        w = rng.normal(size=(width, x[1], size, size)) / np.sqrt(x[1] * size * size)
        bias = rng.normal(0, 0.1, width).astype("f4")
        return file.op("Conv", x[0], file.constant(w.astype("f4")), file.constant(bias),
                       pads=[size // 2] * 4), width  # fmt: skip

    a = conv((x, 8), 16, 3)
    a = file.op("Relu", a[0]), 16
    b = conv(a, 16, 3)
    c = file.op("Relu", file.op("Add", a[0], b[0]))
    c = file.op("Flatten", file.op("GlobalAveragePool", c))
    w = file.constant((rng.normal(size=(16, 10)) / 4).astype("f4"))
    y = file.op("Gemm", c, w, file.constant(rng.normal(size=10).astype("f4")))
    return file.save(path, {"y": (y, [10])})


def recurrent(path, seed=0) -> Path:
    """A table, an LSTM and a GRU: input `x` of 12 indices below 500, output `y`."""
    rng = np.random.default_rng(seed)
    file = OnnxFile()

    def weights(*shape):
        return file.constant((rng.normal(size=shape) / np.sqrt(shape[-1])).astype("f4"))

    x = file.input("x", [12], TensorProto.INT32)
    x = file.op("Gather", weights(500, 32), x, axis=0)
    x = file.op("Transpose", x, perm=[1, 0, 2])
    x = file.op("LSTM", x, weights(1, 128, 32), weights(1, 128, 32), hidden_size=32)
    x = file.op("GRU", file.op("Squeeze", x, file.constant(np.array([1]))), weights(1, 96, 32),
                weights(1, 96, 32), hidden_size=32, linear_before_reset=1)  # fmt: skip
    x = file.op("ReduceMean", file.op("Squeeze", x, file.constant(np.array([1]))), axes=[0],
                keepdims=0)  # fmt: skip
    return file.save(path, {"y": (x, [32])})


def samples(folder, array) -> Path:
    """A samples folder with one input."""
    (Path(folder) / "inputs").mkdir(parents=True)
    np.save(Path(folder) / "inputs" / "0.npy", array)
    return Path(folder)
