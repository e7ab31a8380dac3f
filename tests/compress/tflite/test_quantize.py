"""Post-training quantization on real files, written by hand: no TensorFlow is needed."""

import json
import math

import numpy as np
import pytest
from conftest import ROOT
from floatfiles import FloatFile

from tfcompress import targets, tflite
from tfcompress.compress.tflite import calibrate, quantize, recipes, rewrite
from tfcompress.errors import DataError, ModelError


def nothing(*_):
    pass


def save_samples(folder, *arrays, random=False):
    (folder / "inputs").mkdir(parents=True, exist_ok=True)
    for i, array in enumerate(arrays):
        np.save(folder / "inputs" / f"{i}.npy", array)
    (folder / "samples.json").write_text(json.dumps({"random": random}))
    return str(folder)


def cnn(tmp_path, seed=0):
    """A small convolutional net: its file and 24 samples."""
    rng = np.random.default_rng(seed)
    build = FloatFile()
    x = build.input("image", (1, 8, 8, 3))
    x = build.conv(x, rng.normal(size=(8, 3, 3, 3), scale=0.3), relu=True)
    x = build.mean(x)
    x = build.dense(x, rng.normal(size=(4, 8), scale=0.5))
    path = build.save(tmp_path / "cnn.tflite", {"logits": x})
    images = rng.random((24, 8, 8, 3), np.float32)
    return path, save_samples(tmp_path / "samples", images)


def softmax_1000(tmp_path):
    """1000 nearly equal probabilities: int8's fixed softmax scale of 1/256 loses them all."""
    rng = np.random.default_rng(1)
    build = FloatFile()
    x = build.input("x", (1, 16))
    x = build.dense(x, rng.normal(size=(1000, 16), scale=0.1))
    path = build.save(tmp_path / "mlp.tflite", {"probabilities": build.softmax(x)})
    return path, save_samples(tmp_path / "samples", rng.normal(size=(24, 16)).astype("f4"))


def run(path, samples, out, *names, progress=nothing, strict=False, **changes):
    chosen = [targets.load(name).to_dict() | changes for name in names]
    payload = {"float": str(path), "samples": samples, "targets": chosen, "out": str(out),
               "names": {}, "strict": strict}
    return quantize.run(payload, progress)["targets"]


EVERY = ("tflite-float32", "tflite-float16", "tflite-dynamic", "tflite-int8", "tflite-int16x8",
         "tflite-int4")


def test_every_target_from_one_float_file(tmp_path):
    path, samples = cnn(tmp_path)
    said = []
    made = run(path, samples, tmp_path / "out", *EVERY, progress=lambda _, text: said.append(text))
    assert [text for text in said if text.startswith("target:")] == [f"target:{n}" for n in EVERY]
    for name in EVERY:
        result = made[name]
        least = targets.load(name).min_snr_db
        assert result["snr_db"] is None or result["snr_db"] >= least, name
        assert tflite.describe(result["path"])["outputs"][0]["name"] == "logits"
        json.dumps(result, allow_nan=False)
    assert (tmp_path / "out" / "tflite-float32.tflite").read_bytes() == path.read_bytes()
    assert made["tflite-float32"]["snr_db"] is None


def test_int8_is_integer_from_end_to_end(tmp_path):
    path, samples = cnn(tmp_path)
    result = run(path, samples, tmp_path, "tflite-int8")["tflite-int8"]
    found = tflite.describe(result["path"])
    assert result["fallbacks"] == []
    assert "QUANTIZE" not in found["histogram"] and "DEQUANTIZE" not in found["histogram"]
    assert found["inputs"][0]["dtype"] == found["outputs"][0]["dtype"] == "int8"
    assert found["inputs"][0]["scale"] == pytest.approx(1 / 255, rel=0.02)
    assert found["weights"]["dtypes"]["int8"] > 0.9
    # It runs on integers and says what the float file says.
    images = np.load(tmp_path / "samples" / "inputs" / "0.npy")
    float_run, int_run = (calibrate.Runner(open(p, "rb").read()) for p in (path, result["path"]))
    a, b = (r.run({"image": images[3:4]})["logits"] for r in (float_run, int_run))
    assert np.abs(a - b).max() < 0.05 * np.abs(a).max()


@pytest.mark.parametrize("io", ["uint8", "int16", "float32"])
def test_boundary_types(tmp_path, io):
    path, samples = cnn(tmp_path)
    result = run(path, samples, tmp_path, "tflite-int8", io_dtype=io)["tflite-int8"]
    found = tflite.describe(result["path"])
    assert found["inputs"][0]["dtype"] == found["outputs"][0]["dtype"] == io
    assert found["inputs"][0]["name"] == "image"
    assert result["snr_db"] > 25


def test_fallback_rescues_and_says_so(tmp_path):
    path, samples = softmax_1000(tmp_path)
    result = run(path, samples, tmp_path, "tflite-int8")["tflite-int8"]
    assert result["snr_db"] >= 20
    (fallback,) = result["fallbacks"]
    assert fallback["op"] == "SOFTMAX" and fallback["precision"] != "int8"
    assert "SNR" in fallback["cost"] and fallback["why"]
    assert all(isinstance(value, str) for value in fallback.values())
    # The rest is still int8.
    dtypes = {t["dtype"] for op in tflite.describe(result["path"])["subgraphs"][0]["ops"]
              if op["op"] == "FULLY_CONNECTED" for t in op["outputs"]}
    assert dtypes == {"int8"}


def test_strict_makes_a_fallback_an_error(tmp_path):
    path, samples = softmax_1000(tmp_path)
    made = run(path, samples, tmp_path, "tflite-int8", "tflite-dynamic", strict=True)
    error = made["tflite-int8"]["error"]
    assert error["type"] == "TargetError" and "SOFTMAX" in error["message"] and error["hint"]
    assert "path" in made["tflite-dynamic"]  # the other target is made all the same
    assert not (tmp_path / "tflite-int8.tflite").exists()


def test_same_call_same_bytes(tmp_path):
    path, samples = softmax_1000(tmp_path)
    runs = []
    for folder in ("a", "b"):
        made = run(path, samples, tmp_path / folder, *EVERY)
        runs.append([open(made[name]["path"], "rb").read() for name in EVERY])
    assert runs[0] == runs[1]


def test_global_pool_keeps_its_own_scale(tmp_path):
    """A pool over the whole image becomes MEAN, exactly, in quantized files."""
    rng = np.random.default_rng(0)
    build = FloatFile()
    x = build.input("x", (1, 8, 8, 4))
    x = build.pool(build.conv(x, rng.normal(size=(4, 3, 3, 4))), 8)
    path = build.save(tmp_path / "f.tflite", {"y": x})
    parsed = tflite.load(path)
    rewrite.rewrite(parsed)
    row = {"x": rng.normal(size=(1, 8, 8, 4)).astype("f4")}
    before = calibrate.Runner(path.read_bytes()).run(row)["y"]
    after = calibrate.Runner(tflite.dump(parsed)).run(row)["y"]
    assert tflite.describe(tflite.dump(parsed))["histogram"] == {"CONV_2D": 1, "MEAN": 1}
    np.testing.assert_allclose(before.ravel(), after.ravel(), atol=1e-5)


def test_split_with_an_unread_part(tmp_path):
    """The runtime prepares no int8 SPLIT with a part that nobody reads; slices do the same."""
    rng = np.random.default_rng(0)
    build = FloatFile()
    x = build.dense(build.input("x", (1, 8)), rng.normal(size=(12, 8)))
    first, _, third = build.split(x, 3)
    y = build.add_tensors(build.unary("ABS", first), third)
    path = build.save(tmp_path / "f.tflite", {"y": y})
    samples = save_samples(tmp_path / "s", rng.normal(size=(24, 8)).astype("f4"))
    result = run(path, samples, tmp_path, "tflite-int8")["tflite-int8"]
    assert result["fallbacks"] == [] and result["snr_db"] > 25
    assert tflite.describe(result["path"])["histogram"]["STRIDED_SLICE"] == 2


def test_recurrent_kernel_gets_int8_weights(tmp_path):
    """UNIDIRECTIONAL_SEQUENCE_LSTM is not AEQ's; its weights are stored in int8 all the same."""
    path = ROOT / "tests" / "data" / "lstm.tflite"
    made = run(path, None, tmp_path, "tflite-dynamic")["tflite-dynamic"]
    (op,) = [op for op in tflite.describe(made["path"])["subgraphs"][0]["ops"]
             if op["op"] == "UNIDIRECTIONAL_SEQUENCE_LSTM"]
    assert made["snr_db"] > 20
    assert {t["dtype"] for t in op["inputs"] if t["constant"] and len(t["shape"]) == 2} == {"int8"}


@pytest.mark.parametrize("kind", ["LEAKY_RELU", "ELU", "EXP", "ABS", "NEG", "SQUARE", "RELU6"])
def test_operators_that_aeq_does_not_know_are_integer(tmp_path, kind):
    rng = np.random.default_rng(0)
    build = FloatFile()
    x = build.input("x", (1, 6, 6, 4))
    x = build.unary(kind, build.conv(x, rng.normal(size=(4, 3, 3, 4), scale=0.2)))
    path = build.save(tmp_path / "f.tflite", {"y": build.conv(x, rng.normal(size=(4, 3, 3, 4)))})
    samples = save_samples(tmp_path / "s", rng.normal(size=(24, 6, 6, 4)).astype("f4"))
    result = run(path, samples, tmp_path, "tflite-int8")["tflite-int8"]
    assert result["fallbacks"] == [] and result["snr_db"] > 25
    assert "DEQUANTIZE" not in tflite.describe(result["path"])["histogram"]


def test_operator_without_integer_form_is_reported(tmp_path):
    rng = np.random.default_rng(0)
    build = FloatFile()
    x = build.unary("SIN", build.input("x", (1, 6, 6, 4)))
    path = build.save(tmp_path / "f.tflite", {"y": build.conv(x, rng.normal(size=(4, 3, 3, 4)))})
    samples = save_samples(tmp_path / "s", rng.normal(size=(24, 6, 6, 4)).astype("f4"))
    result = run(path, samples, tmp_path, "tflite-int8")["tflite-int8"]
    assert [f["op"] for f in result["fallbacks"]] == ["SIN"]
    assert "no int8 form" in result["fallbacks"][0]["why"] and result["snr_db"] > 20


def test_masked_scores_do_not_own_the_range(tmp_path):
    """-1e9 added before a softmax: int8 cannot hold both; only what needs it is widened."""
    rng = np.random.default_rng(0)
    build = FloatFile()
    x = build.dense(build.input("x", (1, 32)), rng.normal(size=(32, 32), scale=0.3))
    mask = np.where(np.arange(32) % 2, -1e9, 0).astype("f4")
    x = build.softmax(build.add(x, mask[None]))
    path = build.save(tmp_path / "f.tflite", {"y": build.dense(x, rng.normal(size=(8, 32)))})
    samples = save_samples(tmp_path / "s", rng.normal(size=(24, 32)).astype("f4"))
    result = run(path, samples, tmp_path, "tflite-int8")["tflite-int8"]
    assert result["snr_db"] >= 20
    assert {"ADD"} <= {f["op"] for f in result["fallbacks"]} <= {"ADD", "SOFTMAX"}


def test_without_samples_random_ones_are_used(tmp_path):
    path, _ = cnn(tmp_path)
    target = targets.load("tflite-int8").to_dict()
    made = quantize.run({"float": str(path), "samples": None, "targets": [target],
                         "out": str(tmp_path), "names": {}}, nothing)
    assert made["calibration"]["random"]
    assert made["targets"]["tflite-int8"]["snr_db"] > 25
    assert made["targets"]["tflite-int8"]["fallbacks"] == []


def test_isolated_trials_judge_the_same(tmp_path):
    path, samples = softmax_1000(tmp_path)
    target = targets.load("tflite-int8").to_dict()
    payload = {"float": str(path), "samples": samples, "targets": [target], "names": {}}
    here = quantize.run(payload | {"out": str(tmp_path / "a")}, nothing)
    apart = quantize.run(payload | {"out": str(tmp_path / "b"), "isolate": True}, nothing)
    a, b = (made["targets"]["tflite-int8"] for made in (here, apart))
    assert a["snr_db"] == pytest.approx(b["snr_db"]) and a["fallbacks"] == b["fallbacks"]


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_comparisons_of_large_numbers_do_not_abort(tmp_path, scale):
    """The runtime ends the process on int8 comparisons with a scale of 1 or more."""
    build = FloatFile()
    x = build.input("x", (1, 16))
    kept = build.select(build.compare("GREATER", x, np.full((1, 16), scale)), x)
    path = build.save(tmp_path / "f.tflite", {"y": build.dense(kept, np.eye(16))})
    rows = (np.random.default_rng(0).normal(size=(24, 16)) * scale * 10).astype("f4")
    result = run(path, save_samples(tmp_path / "s", rows), tmp_path, "tflite-int8")["tflite-int8"]
    assert ("GREATER" in {f["op"] for f in result["fallbacks"]}) == (scale > 1)
    assert result["snr_db"] > 20


def test_bad_input(tmp_path):
    path, samples = cnn(tmp_path)
    with pytest.raises(ModelError, match="cannot read"):
        run(tmp_path / "none.tflite", samples, tmp_path, "tflite-int8")
    with pytest.raises(DataError, match="samples"):
        run(path, str(tmp_path / "nowhere"), tmp_path, "tflite-int8")


def test_int4_is_smaller_than_int8(tmp_path):
    rng = np.random.default_rng(0)
    build = FloatFile()
    x = build.dense(build.input("x", (1, 64)), rng.normal(size=(256, 64), scale=0.1), relu=True)
    path = build.save(tmp_path / "f.tflite", {"y": build.dense(x, rng.normal(size=(8, 256)))})
    samples = save_samples(tmp_path / "s", rng.normal(size=(16, 64)).astype("f4"))
    made = run(path, samples, tmp_path, "tflite-int4", "tflite-dynamic")
    found = tflite.describe(made["tflite-int4"]["path"])
    assert found["weights"]["dtypes"]["int4"] > 0.8
    assert found["bytes"] < 0.65 * tflite.describe(made["tflite-dynamic"]["path"])["bytes"]


def test_snr_of_known_errors():
    r = [np.array([3.0, 4.0])]
    assert calibrate.snr_db(r, [np.array([3.0, 4.0])]) == math.inf
    assert calibrate.snr_db(r, [np.array([3.0, 4.5])]) == pytest.approx(20.0)
    assert calibrate.snr_db(r, [np.array([np.nan, 4.0])]) == -math.inf


def test_ranges_of_calibration(tmp_path):
    build = FloatFile()
    path = build.save(tmp_path / "f.tflite", {"y": build.unary("ABS", build.input("x", (1, 3)))})
    rows = np.array([[1, -2, 3], [0, 5, -7]], "f4")
    samples = calibrate.Samples(save_samples(tmp_path / "s", rows), {"x": None})
    found = calibrate.calibrate(path.read_bytes(), samples)
    np.testing.assert_allclose(found["x"], [[-2, 3], [-7, 5]])
    np.testing.assert_allclose(found["y"], [[1, 3], [0, 7]])


def test_recipe_matches_whole_names_only():
    (entry, *_) = recipes.recipe({"a/b+c;": "int8"})
    import re

    assert re.search(entry["regex"], "a/b+c;") and not re.search(entry["regex"], "xa/b+c;")
