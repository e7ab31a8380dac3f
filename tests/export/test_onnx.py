"""Float conversion to ONNX: constructs of the zoo, names, dimensions, what the file promises."""

import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

TESTS = Path(__file__).parent.parent

# Of every kind one: layers, topologies, what tf2onnx lacks, what needs a fixed batch.
CONSTRUCTS = ["cnn", "conv2d_groups", "conv2d_transpose_valid", "lstm", "gru", "gru_reset_before",
              "simplernn", "gru_masked", "mha", "transformer_encoder", "normalization",
              "discretization", "mel_spectrogram", "act_celu", "op_logaddexp", "integer_lookup",
              "string_lookup", "resizing_area", "op_median"]  # fmt: skip


def test_negative_padding_becomes_output_padding():
    from tfcompress.export.onnx import _pad_output

    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], pads=[0, 0, -1, 0], strides=[3, 3])
    _pad_output(node)
    told = {a.name: list(a.ints) for a in node.attribute}
    assert told["pads"] == [0, 0, 0, 0]
    assert told["output_padding"] == [1, 0]


def test_finish_keeps_inputs_that_nothing_reads():
    from tfcompress.artifact import TensorSpec
    from tfcompress.export.onnx import finish

    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["unk__7", 3]) for n in "by"]
    graph = helper.make_graph([helper.make_node("Neg", ["b"], ["y"])], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[
        helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)])  # fmt: skip
    specs = [TensorSpec(n, (None, 3), "float32") for n in "ab"]
    made = onnx.load_from_string(finish(model, ["a", "b"], ["y"], specs))
    assert [i.name for i in made.graph.input] == ["a", "b"]
    assert made.graph.input[1].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [o.domain for o in made.opset_import] == [""]


def test_runtimes_keep_zeros_before_a_largest_value():
    from tfcompress.artifact import TensorSpec
    from tfcompress.export.onnx import finish

    nodes = [helper.make_node("Pad", ["x", "p"], ["y"]),
             helper.make_node("MaxPool", ["y"], ["z"], kernel_shape=[3, 3], strides=[2, 2])]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 8, 8]),
            helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 2, 4, 4])]
    pads = onnx.numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "p")
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [pads])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made = finish(model, ["x"], ["z"], [TensorSpec("x", (1, 2, 8, 8), "float32")])
    x = np.full((1, 2, 8, 8), -1, "float32")
    got = onnxruntime.InferenceSession(made).run(None, {"x": x})[0]
    assert (got[0, 0, 0] == 0).all() and (got[0, 0, 1:, 1:] == -1).all()


@pytest.fixture(scope="module")
def convert(tmp_path_factory):
    from tfcompress.compress import lower
    from tfcompress.compress.models import load
    from tfcompress.export.onnx import to_onnx

    def run(model, **options):
        loaded = load.describe(model, {}, [])
        path = tmp_path_factory.mktemp("converted") / "model.onnx"
        record = to_onnx(model, path, inputs=loaded.inputs, outputs=loaded.outputs, lower=lower,
                         progress=lambda *_: None, **options)  # fmt: skip
        return record, path
    return run


@pytest.mark.slow
def test_constructs_are_faithful(tmp_path):
    command = [sys.executable, str(TESTS / "performance" / "matrix.py"), "--target",
               "onnx-float32", "--json", str(tmp_path / "found.json"), *CONSTRUCTS]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = {n: r["onnx-float32"] for n, r in
             json.loads((tmp_path / "found.json").read_text())["models"].items()}  # fmt: skip
    worse = {n: r.get("error", r.get("snr_db")) for n, r in found.items()
             if float(r.get("snr_db", "-inf")) < 60}  # fmt: skip
    assert set(found) == set(CONSTRUCTS) and not worse


@pytest.mark.slow
@pytest.mark.parametrize("name, has, has_not, batch", [
    ("gru", "GRU", "Loop", None), ("gru_reset_before", "GRU", "Loop", None),
    ("simplernn", "RNN", "Loop", None), ("lstm", "LSTM", "Loop", None),
    ("gru_masked", "Loop", "LSTM", None), ("resizing_area", "", "Loop", 1)])  # fmt: skip
def test_operators_and_batch(convert, name, has, has_not, batch):
    import zoo

    record, path = convert(zoo.build(name, zoo.models()[name]))
    ops = {node.op_type for node in onnx.load(path).graph.node}
    assert (not has or has in ops) and has_not not in ops and record["batch"] == batch


@pytest.mark.slow
def test_names_order_and_free_batch(convert):
    import keras
    from keras import layers as L

    b, a = keras.Input((3,), name="b in"), keras.Input((4,), name="a in")
    first = L.Dense(2, name="z")(L.Concatenate()([b, a]))
    model = keras.Model([b, a], [first, L.Dense(5, name="c")(first)])
    record, path = convert(model)
    session = onnxruntime.InferenceSession(path)
    assert [i.name for i in session.get_inputs()] == [t.name for t in model.inputs]
    assert [o.shape for o in session.get_outputs()] == [["batch", 2], ["batch", 5]]
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(7, n)).astype("f4") for n in (3, 4)]
    got = session.run(None, dict(zip([t.name for t in model.inputs], rows, strict=True)))
    for wanted, g in zip(model(rows), got, strict=True):
        np.testing.assert_allclose(wanted, g, atol=1e-5)
    assert record["opset"] == 17 and record["batch"] is None


@pytest.mark.slow
def test_opset_fixed_batch_and_exact_gelu(convert):
    import keras
    from keras import layers as L

    from tfcompress.errors import TargetError

    model = keras.Sequential([keras.Input((6,)), L.Dense(8, activation="gelu"), L.Dense(3)])
    record, path = convert(model, opset=15, batch=2)
    made = onnx.load(path)
    assert [o.version for o in made.opset_import] == [15]
    assert made.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
    assert Counter(n.op_type for n in made.graph.node)["Erf"] == 1
    assert float(record["snr_db"]) > 100
    with pytest.raises(TargetError, match="opset 3"):
        convert(model, opset=3)


DIGEST = """
import hashlib, sys, tempfile
sys.path.insert(0, {tests!r})
import zoo
from tfcompress.compress import lower
from tfcompress.compress.models import load
from tfcompress.export.onnx import to_onnx
for name in {order}:
    model = zoo.build(name, zoo.models()[name])
    loaded = load.describe(model, {{}}, [])
    path = tempfile.mktemp()
    to_onnx(model, path, inputs=loaded.inputs, outputs=loaded.outputs, lower=lower,
            progress=lambda *_: None)
    if name == "mlp":
        print("digest", hashlib.sha256(open(path, "rb").read()).hexdigest())
"""


@pytest.mark.slow
def test_the_same_bytes_in_another_process():
    """Also behind another conversion of the same process."""
    digests = []
    for order in (["mlp"], ["mlp", "mlp"]):
        code = DIGEST.format(tests=str(TESTS), order=order)
        if len(order) > 1:  # layers are numbered anew, as in a process of their own
            code = code.replace("    model = ", "    keras.backend.clear_session()\n    model = ")
            code = f"import keras{code}"
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        digests.append([line for line in out.stdout.splitlines() if line.startswith("digest")])
    assert digests[0] and digests[0][0] == digests[1][0]
    assert len(hashlib.sha256().hexdigest()) == len(digests[0][0].split()[1])


@pytest.mark.slow
def test_the_workers_calls_from_keras_file_to_described_int8(tmp_path):
    """What the pipeline asks of its processes: one with TensorFlow, one without."""
    import keras
    from keras import layers as L

    from tfcompress import targets
    from tfcompress.child import Child
    from tfcompress.export import onnx_metadata

    model = keras.Sequential([keras.Input((8, 8, 3), name="image"), L.Conv2D(8, 3), L.ReLU(),
                              L.GlobalAveragePooling2D(), L.Dense(4, name="scores")])  # fmt: skip
    model.save(tmp_path / "m.keras")
    with Child("model") as child:
        info = child.call("worker:open_source", {
            "path": str(tmp_path / "m.keras"), "unsafe": False, "custom_objects": [],
            "input_shape": None})  # fmt: skip
        seen = []
        made = child.call("worker:convert_onnx", {"out": str(tmp_path / "float.onnx"), "skip": []},
                          lambda _, text: seen.append(text))  # fmt: skip
    assert seen == ["route:native"] and made["macs"] == 36 * 9 * 3 * 8 + 8 * 4
    with Child("quantization") as child:
        done = child.call("filing:quantize", {
            "float": str(tmp_path / "float.onnx"), "samples": None, "out": str(tmp_path),
            "targets": [targets.load("onnx-int8").to_dict()], "labels": list("abcd"),
            "names": {k: [s["name"] for s in info[k]] for k in ("inputs", "outputs")},
            "normalization": None, "provenance": {"seed": 0}})  # fmt: skip
        file = done["targets"]["onnx-int8"]["path"]
        told = child.call("filing:describe", {"path": file})
        modules = child.call("filing:warm", {"modules": ["json"]})
    assert modules == {}
    assert [i["name"] for i in told["io"]["inputs"]] == ["image"]
    assert told["io"]["ops"]["QuantizeLinear"] >= 2
    assert {m["name"] for m in told["measurements"]} == {
        "size", "size_gzip", "parameters", "macs", "zeros"}  # fmt: skip
    assert onnx_metadata.read(file)["provenance"] == {"seed": 0, "target": "onnx-int8"}
