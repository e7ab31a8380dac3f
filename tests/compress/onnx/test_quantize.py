"""ONNX files in fewer bits: what the runtime really runs, how far it differs, and what is told."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from onnxfiles import OnnxFile, cnn, recurrent, samples

from tfcompress import targets
from tfcompress.compress.onnx import quantize as onnx_quantize
from tfcompress.errors import DataError, ModelError


def quantize(file, folder, *names, **payload):
    changed = payload.pop("target", {})
    told = [targets.load(n).to_dict() | changed for n in names]
    return onnx_quantize.run({"float": str(file), "samples": None, "targets": told,
                              "out": str(folder)} | payload, lambda *_: None)["targets"]


def run(path, feed):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0]


def operators(path):
    return Counter(n.op_type for n in onnx.load(path).graph.node)


def fused(path, folder):
    """The operators after ONNX Runtime has fused what it can."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "fused.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return operators(folder / "fused.onnx")


def test_int8_runs_in_integers_from_end_to_end(tmp_path):
    file = cnn(tmp_path / "float.onnx")
    made = quantize(file, tmp_path, "onnx-int8")["onnx-int8"]
    assert made["snr_db"] > 30
    assert not made["fallbacks"]
    ops = fused(made["path"], tmp_path)
    assert ops["QLinearConv"] == 2 and ops["QLinearAdd"] == 1 and ops["QGemm"] == 1
    assert not {"Conv", "Relu", "Gemm", "Add"} & set(ops)
    x = np.random.default_rng(5).normal(size=(3, 8, 12, 12)).astype("f4")
    wanted, got = (run(p, {"x": x}) for p in (file, made["path"]))
    assert 0 < np.abs(wanted - got).max() < 0.1 * np.abs(wanted).max()


def test_weights_are_signed_per_channel_and_activations_unsigned(tmp_path):
    made = quantize(cnn(tmp_path / "float.onnx"), tmp_path, "onnx-int8")["onnx-int8"]
    graph = onnx.load(made["path"]).graph
    kinds = Counter((t.data_type, len(t.dims)) for t in graph.initializer)
    assert kinds[TensorProto.INT8, 4] == 2
    assert kinds[TensorProto.UINT8, 0] >= 4
    scales = {t.name: t.dims for t in graph.initializer if t.name.endswith("weights_scale")}
    assert sorted(d[0] for d in scales.values()) == [10, 16, 16]
    assert [i.type.tensor_type.elem_type for i in graph.input] == [TensorProto.FLOAT]


def test_weights_that_are_on_a_grid_keep_their_integers(tmp_path):
    """Few values, in some channels without the largest, times a BatchNormalization's factors."""
    model = onnx.load(cnn(tmp_path / "plain.onnx"))
    rng = np.random.default_rng(0)
    for tensor in [t for t in model.graph.initializer if len(t.dims) == 4]:
        levels = rng.choice([-90, -31, 0, 0, 0, 17, 64], tuple(tensor.dims))
        levels[0, 0, 0, 0] = 127
        factors = rng.uniform(0.5, 2, (len(levels), 1, 1, 1))
        tensor.CopyFrom(onnx.numpy_helper.from_array(
            (levels * factors / 2000).astype("f4"), tensor.name))
    onnx.save(model, tmp_path / "float.onnx")
    made = quantize(tmp_path / "float.onnx", tmp_path, "onnx-int8")["onnx-int8"]
    for tensor in onnx.load(made["path"]).graph.initializer:
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 4:
            found = onnx.numpy_helper.to_array(tensor)
            assert set(np.unique(found)) == {-90, -31, 0, 17, 64, 127}


@pytest.mark.parametrize("name", ["onnx-int8", "onnx-float16", "onnx-int4"])
def test_the_same_bytes_twice(tmp_path, name):
    file = cnn(tmp_path / "float.onnx")
    first, second = (quantize(file, tmp_path / d, name)[name]["path"] for d in "ab")
    assert open(first, "rb").read() == open(second, "rb").read()


def test_float16_halves_the_weights_and_keeps_the_ends(tmp_path):
    made = quantize(cnn(tmp_path / "float.onnx"), tmp_path, "onnx-float16")["onnx-float16"]
    graph = onnx.load(made["path"]).graph
    assert made["snr_db"] > 50
    assert {t.data_type for t in graph.initializer} == {TensorProto.FLOAT16}
    ends = [v.type.tensor_type.elem_type for v in [*graph.input, *graph.output]]
    assert ends == [TensorProto.FLOAT] * 2


def test_float16_keeps_what_overflows(tmp_path):
    file = OnnxFile()
    x = file.input("x", [4])
    big = file.op("Mul", x, file.constant(np.float32(1e4)))
    big = file.op("Mul", big, file.constant(np.float32(1e4)))
    y = file.op("Mul", big, file.constant(np.float32(1e-8)))
    path = file.save(tmp_path / "float.onnx", {"y": (y, [4])})
    made = quantize(path, tmp_path, "onnx-float16")["onnx-float16"]
    assert made["snr_db"] > 40
    assert {f["precision"] for f in made["fallbacks"]} == {"float32"}
    assert all({"op", "tensor", "layer", "precision", "why", "cost"} == set(f)
               for f in made["fallbacks"])  # fmt: skip


def test_int4_packs_products(tmp_path):
    rng = np.random.default_rng(0)
    file = OnnxFile()
    x = file.input("x", [100])
    w = file.constant((rng.normal(size=(100, 48)) / 10).astype("f4"))
    y = file.op("Gemm", x, w, file.constant(rng.normal(size=48).astype("f4")))
    path = file.save(tmp_path / "float.onnx", {"y": (y, [48])})
    made = quantize(path, tmp_path, "onnx-int4")["onnx-int4"]
    assert operators(made["path"]) == {"MatMulNBits": 1, "Add": 1}
    assert made["snr_db"] > 15
    assert onnx.load(made["path"]).ByteSize() < 0.3 * path.stat().st_size


def test_a_mask_does_not_own_the_range(tmp_path):
    """-1e9 behind a product: what it touches stays in float, and is told."""
    rng = np.random.default_rng(0)
    file = OnnxFile()
    x = file.input("x", [32])
    y = file.op("MatMul", x, file.constant((rng.normal(size=(32, 32)) / 5).astype("f4")))
    mask = np.where(np.arange(32) < 16, 0, -1e9).astype("f4")
    y = file.op("Softmax", file.op("Add", y, file.constant(mask)), axis=-1)
    y = file.op("MatMul", y, file.constant(rng.normal(size=(32, 16)).astype("f4")))
    path = file.save(tmp_path / "float.onnx", {"y": (y, [16])})
    made = quantize(path, tmp_path, "onnx-int8")["onnx-int8"]
    assert made["snr_db"] >= 20


def test_a_file_below_its_goal_gets_wider_types_where_the_error_begins(tmp_path):
    rng = np.random.default_rng(0)
    file = OnnxFile()
    x = file.input("x", [32])
    spread = np.ones(32, "f4")
    spread[0] = 3000  # one channel owns the range, another product does not need it
    y = file.op("Mul", x, file.constant(spread))
    w = (rng.normal(size=(32, 32)) / 5).astype("f4")
    w[0] = 0
    y = file.op("MatMul", y, file.constant(w))
    y = file.op("MatMul", y, file.constant((rng.normal(size=(32, 32)) / 5).astype("f4")))
    path = file.save(tmp_path / "float.onnx", {"y": (y, [32])})
    made = quantize(path, tmp_path, "onnx-int8")["onnx-int8"]
    assert made["snr_db"] >= 20
    wide = {f["tensor"] for f in made["fallbacks"]}
    assert wide == {"model/layer_0/Mul:0", "model/layer_1/MatMul:0"}  # and not the product behind
    refused = quantize(path, tmp_path, "onnx-int8", strict=True)["onnx-int8"]
    assert "wider type" in refused["error"]["message"]


def rounded(file, path, tensor, low, high):
    """A float file with a tensor rounded to 256 steps from `low` to `high`, as QAT leaves it."""
    model = onnx.load(file)
    scale = (high - low) / 255
    values = {"s": np.float32(scale), "z": np.uint8(round(-low / scale))}
    for node in model.graph.node:
        node.input[:] = ["rounded" if n == tensor else n for n in node.input]
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.array(v), k)
                                   for k, v in values.items())
    pair = [onnx.helper.make_node("QuantizeLinear", [tensor, "s", "z"], ["steps"]),
            onnx.helper.make_node("DequantizeLinear", ["steps", "s", "z"], ["rounded"])]
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*pair, *kept])
    onnx.save(model, path)
    return path


def test_learned_ranges_are_used(tmp_path):
    from tfcompress.compress.onnx import learned as onnx_learned

    file = cnn(tmp_path / "float.onnx")
    learned = rounded(file, tmp_path / "learned.onnx", "x", -2.0, 2.0)
    content, ranges = onnx_learned.strip(learned.read_bytes())
    assert ranges["x"] == pytest.approx((-2.0, 2.0), abs=0.02)
    plain, stripped = onnx.load(file).graph, onnx.load_from_string(content).graph
    assert [n.op_type for n in stripped.node] == [n.op_type for n in plain.node]
    assert [list(n.input) for n in stripped.node] == [list(n.input) for n in plain.node]
    made = quantize(file, tmp_path, "onnx-int8", learned=str(learned),
                    target={"min_snr_db": 0.0})["onnx-int8"]  # fmt: skip
    graph = onnx.load(made["path"]).graph
    found = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    assert found["x_scale"] == pytest.approx(4 / 255)


def test_samples_that_do_not_fit_are_refused(tmp_path):
    file = cnn(tmp_path / "float.onnx")
    folder = samples(tmp_path / "samples", np.zeros((4, 3, 12, 12), "f4"))
    with pytest.raises(DataError, match="do not fit"):
        quantize(file, tmp_path, "onnx-int8", samples=str(folder))


def test_what_is_not_onnx_is_refused(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match="not an ONNX file"):
        quantize(tmp_path / "bad.onnx", tmp_path, "onnx-int8")


def test_describe_counts_what_is_inside(tmp_path):
    from tfcompress.compress.onnx.graph import describe

    file = cnn(tmp_path / "float.onnx")
    made = quantize(file, tmp_path, "onnx-int8")["onnx-int8"]
    before, after = describe(file), describe(made["path"])
    weights = 8 * 16 * 9 + 16 * 16 * 9 + 16 * 10
    assert before["parameters"] == weights + 16 + 16 + 10
    assert before["macs"] == after["macs"] == (8 * 16 + 16 * 16) * 9 * 144 + 160
    assert before["inputs"] == after["inputs"]
    assert after["parameters"] - before["parameters"] in range(-50, 51)
    assert before["weights"]["dtypes"] == {"float32": 1.0}
    assert sum(after["weights"]["dtypes"].values()) == pytest.approx(1)
    assert before["opset"] == 17 and before["histogram"]["Conv"] == 2


def test_weights_of_recurrent_layers_and_tables_shrink(tmp_path):
    file = recurrent(tmp_path / "float.onnx")
    folder = samples(tmp_path / "samples",
                     np.random.default_rng(3).integers(0, 500, (20, 12)).astype("i4"))  # fmt: skip
    made = quantize(file, tmp_path, "onnx-int8", samples=str(folder))["onnx-int8"]
    assert made["snr_db"] > 25
    assert onnx.load(made["path"]).ByteSize() < 0.4 * file.stat().st_size
    ops = operators(made["path"])
    assert ops["DynamicQuantizeLSTM"] == 1 and ops["GRU"] == 1 and ops["Gather"] == 2
    said = {f["op"]: f for f in made["fallbacks"]}
    assert said["GRU"]["precision"] == "int8 weights, float activations"
    assert said["GRU"]["layer"] == "layer_4"
    assert "Cast" not in fused(made["path"], tmp_path) or fused(made["path"], tmp_path)["Cast"] == 1
    graph = onnx.load(made["path"]).graph
    read = {i for n in graph.node for i in n.input} | {o.name for o in graph.output}
    assert all(set(n.output) & read for n in graph.node)
