"""A small float file held against targets, without TensorFlow."""

import numpy as np
import pytest
from floatfiles import FloatFile

from tfcompress import preflight, targets, tflite

LAYERS = [
    {"name": "conv", "type": "Conv2D", "shape": None, "parameters": 40, "holds": [], "note": ""},
    {"name": "norm", "type": "BatchNormalization", "shape": None, "parameters": 16, "holds": [],
     "note": ""},
    {"name": "block/dense", "type": "Dense", "shape": None, "parameters": 8, "holds": [],
     "note": ""},
    {"name": "dense", "type": "Dense", "shape": None, "parameters": 8, "holds": [], "note": ""},
    {"name": "lstm", "type": "LSTM", "shape": None, "parameters": 9, "holds": ["lstm/lstm_cell"],
     "note": ""},
]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """x -> DENSE -> SIN -> y; the sine has no int8 form."""
    made = FloatFile()
    x = made.tensor((1, 8), "x")
    made.graph.inputs = [x]
    weights = made.constant(np.ones((4, 8), "f4"))
    y = made.op("FULLY_CONNECTED", [x, weights, -1], (1, 4), "FullyConnected")
    made.graph.tensors[y].name = b"m/dense/MatMul"
    z = made.op("SIN", [y], (1, 4))
    made.graph.tensors[z].name = b"m/wave/Sin"
    made.graph.outputs = [z]
    path = tmp_path_factory.mktemp("file") / "float.tflite"
    path.write_bytes(tflite.dump(made.model))
    return str(path)


def look(file, **changes):
    target = targets.load("tflite-int8").to_dict() | changes
    told = {"float": file, "targets": [target], "layers": LAYERS}
    found = preflight.run(told, lambda *_: None)
    return found, found["targets"]["tflite-int8"]


def test_what_has_no_integer_form_is_named_with_its_layer_and_what_to_do(file):
    found, told = look(file)
    assert [(op["op"], op["layer"], op["macs"]) for op in found["ops"]] == [
        ("FULLY_CONNECTED", "dense", 32), ("SIN", "wave", 0)]
    (problem,) = told["problems"]
    assert told["runs"] == "partly" and problem["op"] == "SIN" and problem["layers"] == ["wave"]
    assert "int8" in problem["what"] and "constant" in problem["advice"]


def test_float_targets_have_nothing_against_it(file):
    assert look(file, quantization="float16")[1] == {
        "runs": "yes", "problems": [], "bytes": look(file, quantization="float16")[1]["bytes"]}


def test_a_denied_operator_is_an_error(file):
    _, told = look(file, quantization="none", ops={"deny": ["SIN"]})
    assert told["runs"] == "no" and told["problems"][0]["level"] == "error"
    assert look(file, quantization="none", ops={"deny": ["COS"]})[1]["runs"] == "yes"


def test_a_file_that_will_be_too_large_is_an_error(file):
    _, told = look(file, quantization="none", limits={"bytes": 100})
    assert told["runs"] == "no" and "100" in told["problems"][0]["what"]


def test_fewer_bits_are_expected_to_take_fewer_bytes(file):
    sizes = [look(file, quantization=q)[1]["bytes"] for q in ("none", "float16", "int8", "int4")]
    assert sizes[0] - sizes[1] == 64 and sizes[0] - sizes[2] == 96 and sizes[0] - sizes[3] == 112


def test_an_accelerators_own_rules_are_asked(file):
    _, told = look(file, compiler="edgetpu", options={})
    assert any("Edge TPU" in p["what"] and p["layers"] == ["wave"] for p in told["problems"])


@pytest.mark.parametrize("scope, layer", [
    ("model/conv/Conv2D", "conv"),
    ("model/block/dense/MatMul", "block/dense"),
    ("model/dense/MatMul", "dense"),
    ("model/lstm/while/lstm_cell/MatMul", "lstm"),
    ("model/lstm/dense/MatMul", "lstm"),
    ("dense/conv/Conv2D", "conv"),
    ("model/elsewhere/Add", ""),
])
def test_scopes_belong_to_the_layer_whose_path_fits_best(scope, layer):
    assert preflight.Owners(FloatFile().model, LAYERS).of(scope) == layer


def test_a_fused_operator_belongs_to_the_layer_that_multiplies():
    owners = preflight.Owners(FloatFile().model, LAYERS)
    fused = ["model/norm/batchnorm/add_1;model/conv/Conv2D"]
    assert owners.owner(fused, [], True) == "conv"
    assert owners.owner(fused, [], False) == "norm"
