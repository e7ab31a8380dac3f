"""What each layer of an .onnx file costs, and how far it is from the float file."""

import numpy as np
import onnx
import pytest
from onnxfiles import cnn, recurrent, samples

from tfcompress import targets
from tfcompress.compress.onnx import graph as onnx_graph
from tfcompress.compress.onnx import layers as onnx_layers
from tfcompress.compress.onnx import quantize as onnx_quantize


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A float file, its quantized ones by target, and samples."""
    folder = tmp_path_factory.mktemp("onnx")
    exact = cnn(folder / "float.onnx")
    data = samples(folder / "data", np.random.default_rng(7).normal(
        size=(20, 8, 12, 12)).astype("f4"))
    told = [targets.load(n).to_dict() for n in ("onnx-int8", "onnx-float16", "onnx-int4")]
    found = onnx_quantize.run({"float": str(exact), "samples": str(data), "targets": told,
                               "out": str(folder)}, lambda *_: None)["targets"]
    return exact, {n: f["path"] for n, f in found.items()}, data


def run(artifact, exact, data, **more):
    return onnx_layers.run({"artifact": str(artifact), "float": str(exact), "samples": str(data)}
                           | more, lambda *_: None)


def test_layers_add_up_to_the_file(made):
    exact, paths, _ = made
    for path in (exact, *paths.values()):
        rows, whole = onnx_layers.table(onnx_graph.load(path)), onnx_graph.describe(path)
        assert sum(r["macs"] for r in rows) == whole["macs"]
        assert sum(sum(r["ops"].values()) for r in rows) == sum(whole["histogram"].values())
    first = onnx_layers.table(onnx_graph.load(exact))[0]
    assert first["dtypes"] == {"float32": 16 * 8 * 9 + 16} and first["bytes"] == 4 * 1168
    assert first["macs"] == 16 * 8 * 9 * 144 and first["layer"] == "layer_0"


def test_types_and_bytes_are_those_of_the_file(made):
    _, paths, _ = made
    rows = onnx_layers.table(onnx_graph.load(paths["onnx-int8"]))
    kinds = {k for r in rows for k in r["dtypes"]}
    assert "int8" in kinds and "float32" not in kinds
    heavy = max(rows, key=lambda r: r["bytes"])
    assert heavy["dtypes"]["int8"] == 16 * 16 * 9
    assert heavy["bytes"] == 2304 + 4 * heavy["dtypes"]["int32"]


def test_the_last_layers_error_is_that_of_the_outputs(made):
    import onnxruntime

    exact, paths, data = made
    found = run(paths["onnx-int8"], exact, data)
    assert all(15 < r["snr_db"] <= 100 for r in found["layers"]), found
    x = np.load(data / "inputs" / "0.npy")[:onnx_layers.SAMPLES]
    a, b = (onnxruntime.InferenceSession(str(p), providers=["CPUExecutionProvider"])
            .run(None, {"x": x})[0].astype(float) for p in (exact, paths["onnx-int8"]))
    wanted = 10 * np.log10((a * a).sum() / ((a - b) ** 2).sum())
    assert found["layers"][-1]["snr_db"] == pytest.approx(wanted, abs=1.5)


def test_a_file_equals_itself(made):
    exact, _, data = made
    assert {r["snr_db"] for r in run(exact, exact, data)["layers"]} == {100.0}


def test_one_broken_layer_shows_from_there_on(made, tmp_path):
    exact, _, data = made
    model = onnx_graph.load(exact)
    weight = next(t for t in model.graph.initializer if list(t.dims) == [16, 16, 3, 3])
    values = onnx.numpy_helper.to_array(weight) * np.float32(0.5)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    (tmp_path / "broken.onnx").write_bytes(onnx_graph.dump(model))
    known = [r["snr_db"] for r in run(tmp_path / "broken.onnx", exact, data)["layers"]]
    assert known[0] == known[1] == 100.0 and all(v < 30 for v in known[2:])


def test_recurrent_files_are_read(tmp_path):
    file = recurrent(tmp_path / "float.onnx")
    rows = onnx_layers.table(onnx_graph.load(file))
    assert any(r["ops"].get("LSTM") for r in rows) and sum(r["bytes"] for r in rows) > 64_000


@pytest.mark.parametrize(("more", "why"), [
    ({"samples": None}, "no data"), ({"float": None}, "no float file"),
    ({"why": "nothing is rounded in it"}, "nothing is rounded"), ({"float": "no.onnx"}, "no.onnx")])
def test_what_is_not_measured_says_why(made, more, why):
    exact, paths, data = made
    found = run(paths["onnx-int8"], exact, data, **more)
    assert why in found["note"] and {r["snr_db"] for r in found["layers"]} == {None}


def test_samples_that_do_not_fit_are_a_reason_not_a_crash(made, tmp_path):
    exact, paths, _ = made
    other = samples(tmp_path / "data", np.zeros((4, 3, 3), "f4"))
    found = run(paths["onnx-int8"], exact, other)
    assert "cannot compare" in found["note"] and found["layers"]
