"""What is told of a .tflite file whose contents are known."""

import pytest
from conftest import ROOT
from floatfiles import FloatFile, small

from tfcompress import tflite
from tfcompress.tflite import contents


def test_describe(tmp_path):
    file = small(tmp_path / "m.tflite")
    found = tflite.describe(file)
    assert found["bytes"] == file.stat().st_size
    assert found["histogram"] == {"CONV_2D": 1, "FULLY_CONNECTED": 1, "MEAN": 1}
    assert found["macs"] == 8 * 8 * 4 * 3 * 3 * 3 + 5 * 4
    # kernel, bias and dense weights; the axes of MEAN are no weights
    assert found["parameters"] == 4 * 27 + 4 + 20
    assert found["weights"]["bytes"] == 4 * found["parameters"]
    assert found["weights"]["dtypes"] == {"float32": 1.0}
    assert found["weights"]["zeros"] == pytest.approx(8 / 132)
    assert found["signature"] == "serving_default"
    assert found["inputs"] == [
        {
            "name": "image",
            "tensor": "image",
            "shape": [1, 8, 8, 3],
            "dtype": "float32",
            "scale": None,
            "zero_point": None,
        }
    ]
    op = found["subgraphs"][0]["ops"][0]
    assert op["op"] == "CONV_2D" and op["inputs"][1]["constant"]
    assert [t["shape"] for t in op["outputs"]] == [[1, 8, 8, 4]]
    assert tflite.describe(file.read_bytes()) == found


def test_layer_names():
    def named(*names):
        build = FloatFile()
        build.graph.outputs = []
        build.model.signatureDefs = []
        for name in names:
            build.tensor([1], name)
        return tflite.layer_names(build.model)

    traced_twice = named(
        "m_1/conv_1/Relu;m_1/bn_1/add",
        "m_1/mha_1/key_1/MatMul",
        "m_1/ln_1/moments/mean",
        "constant",
    )
    assert list(traced_twice.values()) == ["conv", "mha/key", "ln", ""]
    assert list(named("m/conv1/Relu", "m/dense_2/MatMul").values()) == ["conv1", "dense_2"]


def test_operations_tell_what_an_accelerator_asks():
    ops = tflite.operations(tflite.load(ROOT / "tests/data/digits_int8.tflite"))
    kinds = ["CONV_2D", "CONV_2D", "RESHAPE", "FULLY_CONNECTED", "SOFTMAX"]
    assert [op["op"] for op in ops] == kinds
    image, kernel, bias = ops[1]["inputs"]
    assert (image["shape"], image["scales"], image["constant"]) == ([1, 6, 6, 6], 1, False)
    assert (kernel["dtype"], kernel["scales"], kernel["bytes"]) == ("int8", 8, 8 * 3 * 3 * 6)
    assert kernel["constant"] and "values" not in bias
    assert ops[1]["options"]["strideW"] == 2 and ops[1]["version"] >= 1
    assert ops[2]["inputs"][1]["values"][-1] == 32
    assert ops[0]["macs"] == 36 * 6 * 9


def test_a_weight_behind_a_dequantize_belongs_to_its_reader():
    class Op:
        def __init__(self, inputs, outputs):
            self.inputs, self.outputs = inputs, outputs

    class Tensor:
        def __init__(self, name):
            self.name = name.encode()

    class Graph:
        tensors = [Tensor(n) for n in ("half", "whole", "m/dense/MatMul")]
        operators = [Op([0], [1]), Op([1], [2])]

    assert contents._readers(Graph, {"m/dense/MatMul": "dense"}) == {0: "dense", 1: "dense"}
