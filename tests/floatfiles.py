"""Small float .tflite files made by hand, for tests that should not wait for TensorFlow."""

from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfcompress import tflite

OPTIONS = {"LEAKY_RELU": "LeakyRelu", "ABS": "Abs", "NEG": "Neg", "SQUARE": "Square", "EXP": "Exp"}


class FloatFile:
    """A graph under construction; every method adds an operator and returns its output tensor."""

    def __init__(self):
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.subgraphs = 3, [self.graph]
        self.model.buffers, self.model.operatorCodes = [schema.BufferT()], []
        self.graph.tensors, self.graph.operators = [], []
        self.graph.inputs, self.graph.name = [], b"main"
        self.count = 0

    def tensor(self, shape, name=None, data=None, dtype="FLOAT32"):
        tensor = schema.TensorT()
        self.count += 1
        tensor.name = (name or f"model/layer_{self.count}/op").encode()
        tensor.shape, tensor.type = list(shape), getattr(schema.TensorType, dtype)
        tensor.buffer = 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.ascontiguousarray(data).view(np.uint8).ravel()
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def constant(self, values):
        values = np.asarray(values)
        values = values.astype("f4" if values.dtype.kind == "f" else "i4")
        return self.tensor(values.shape, f"constant_{self.count}", values,
                           "FLOAT32" if values.dtype.kind == "f" else "INT32")

    def op(self, kind, inputs, shape, options=None, **values):
        code, op = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1
        self.model.operatorCodes.append(code)
        op.opcodeIndex = len(self.model.operatorCodes) - 1
        op.inputs, op.outputs = list(inputs), [self.tensor(shape)]
        if options:
            op.builtinOptionsType = getattr(schema.BuiltinOptions, options + "Options")
            op.builtinOptions = getattr(schema, options + "OptionsT")()
            for name, value in values.items():
                setattr(op.builtinOptions, name, value)
        self.graph.operators.append(op)
        return op.outputs[0]

    def shape(self, index):
        return [int(n) for n in self.graph.tensors[index].shape]

    def input(self, name, shape):
        self.graph.inputs.append(self.tensor(shape, name))
        return self.graph.inputs[-1]

    def conv(self, x, filters, relu=False):
        """Filters (out, height, width, in), stride 1, same padding."""
        bias = self.constant(np.zeros(len(filters), "f4"))
        return self.op("CONV_2D", [x, self.constant(filters), bias],
                       [*self.shape(x)[:3], len(filters)], "Conv2D", strideW=1, strideH=1,
                       dilationWFactor=1, dilationHFactor=1, fusedActivationFunction=int(relu))

    def dense(self, x, weights, relu=False):
        """Weights (out, in)."""
        return self.op("FULLY_CONNECTED", [x, self.constant(weights), -1], [1, len(weights)],
                       "FullyConnected", fusedActivationFunction=int(relu))

    def mean(self, x):
        """Over height and width."""
        return self.op("MEAN", [x, self.constant([1, 2])], [1, self.shape(x)[3]], "Reducer")

    def pool(self, x, size):
        return self.op("AVERAGE_POOL_2D", [x], [1, 1, 1, self.shape(x)[3]], "Pool2D", padding=1,
                       strideW=size, strideH=size, filterWidth=size, filterHeight=size)

    def softmax(self, x):
        return self.op("SOFTMAX", [x], self.shape(x), "Softmax", beta=1.0)

    def add(self, x, values):
        return self.op("ADD", [x, self.constant(values)], self.shape(x), "Add")

    def add_tensors(self, a, b):
        return self.op("ADD", [a, b], self.shape(a), "Add")

    def compare(self, kind, x, values):
        out = self.op(kind, [x, self.constant(values)], self.shape(x), kind.capitalize())
        self.graph.tensors[out].type = schema.TensorType.BOOL
        return out

    def select(self, condition, x):
        """x where the condition holds, else 0."""
        zeros = self.constant(np.zeros(self.shape(x), "f4"))
        return self.op("SELECT_V2", [condition, x, zeros], self.shape(x), "SelectV2")

    def split(self, x, count):
        """Equal parts of the last axis."""
        *shape, last = self.shape(x)
        axis = self.tensor([], f"axis_{self.count}", np.array(len(shape), "i4"), "INT32")
        first = self.op("SPLIT", [axis, x], [*shape, last // count], "Split", numSplits=count)
        parts = [first, *(self.tensor([*shape, last // count]) for _ in range(count - 1))]
        self.graph.operators[-1].outputs = parts
        return parts

    def unary(self, kind, x):
        values = {"alpha": 0.2} if kind == "LEAKY_RELU" else {}
        return self.op(kind, [x], self.shape(x), OPTIONS.get(kind), **values)

    def save(self, path, outputs: dict) -> Path:
        """Write the file with the signature `serving_default` and return its path."""
        self.graph.outputs = list(outputs.values())
        for name, index in outputs.items():
            self.graph.tensors[index].name = name.encode()
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
        signature.inputs = [self._entry(self.graph.tensors[i].name, i) for i in self.graph.inputs]
        signature.outputs = [self._entry(n.encode(), i) for n, i in outputs.items()]
        self.model.signatureDefs = [signature]
        path = Path(path)
        path.write_bytes(tflite.dump(self.model))
        return path

    @staticmethod
    def _entry(name, index):
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        return entry


def small(path):
    """A convolution, a mean and a dense layer, the first fifth of whose weights are zero."""
    build = FloatFile()
    x = build.conv(build.input("image", (1, 8, 8, 3)), np.ones((4, 3, 3, 3)), relu=True)
    weights = np.ones((5, 4), "f4")
    weights[0] = 0
    return build.save(path, {"y": build.dense(build.mean(x), weights)})
