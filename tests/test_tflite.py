"""Reading .tflite files: known contents, and bytes that are not one."""

import numpy as np
import pytest
from conftest import ROOT
from floatfiles import FloatFile
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress import tflite
from tfcompress.errors import ModelError


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    build = FloatFile()
    x = build.conv(build.input("image", (1, 8, 8, 3)), np.ones((4, 3, 3, 3)), relu=True)
    weights = np.ones((5, 4), "f4")
    weights[0] = 0
    path = tmp_path_factory.mktemp("f") / "m.tflite"
    return build.save(path, {"y": build.dense(build.mean(x), weights)})


def test_describe(file):
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


def test_dump_keeps_the_model_and_aligns_data(file):
    again = tflite.dump(tflite.load(file))
    assert again == tflite.dump(tflite.load(again))
    assert tflite.describe(again)["subgraphs"] == tflite.describe(file)["subgraphs"]
    for buffer in tflite.load(again).buffers:
        if buffer.data is not None:
            assert again.find(bytes(buffer.data)) >= 0
    weights = tflite.load(again).buffers[1].data
    base = np.frombuffer(again, np.uint8)
    offset = weights.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    if 0 <= offset < len(again):  # a view of the bytes, so its place is known
        assert offset % tflite.ALIGNMENT == 0


def test_int4_is_unpacked():
    build = FloatFile()
    index = build.tensor([5], "w", np.array([0x2F, 0x87, 0x01], np.uint8), "INT4")
    values = tflite.constant(build.model, build.graph.tensors[index])
    assert values.tolist() == [-1, 2, 7, -8, 1]


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


@pytest.mark.parametrize("text", [b"", b"TFL3", b"not a model at all", b"PK\x03\x04" + b"\0" * 50])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "x.tflite"
    path.write_bytes(text)
    with pytest.raises(ModelError, match="is not a TFLite file"):
        tflite.describe(path)


def test_missing_file(tmp_path):
    with pytest.raises(ModelError, match="cannot read"):
        tflite.describe(tmp_path / "none.tflite")
    with pytest.raises(ModelError, match="cannot read"):
        tflite.describe(tmp_path)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_garbage_behind_the_identifier(tail):
    _only_model_errors(b"\x18\0\0\0" + tflite.IDENTIFIER + tail)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_truncated_and_flipped(file, data):
    whole = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(8, len(whole) - 1))] = data.draw(st.integers(0, 255))
    _only_model_errors(bytes(whole[: data.draw(st.integers(0, len(whole)))]))


def _only_model_errors(data):
    try:
        found = tflite.describe(data)
    except ModelError as error:
        assert error.message and error.hint
    else:
        assert isinstance(found["macs"], int)


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

    assert tflite._readers(Graph, {"m/dense/MatMul": "dense"}) == {0: "dense", 1: "dense"}
