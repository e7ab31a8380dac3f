import json
import math

import measure_samples as given_models
import numpy as np
import pytest
from measure_samples import DIGITS, ORDER, model, payload, quiet, write
from sklearn import metrics as peer

from tfcompress.benchmark import compare, runtimes, tasks
from tfcompress.errors import DataError, ModelError, UsageError


@pytest.fixture(scope="module")
def digits():
    """Images, labels and the float file's scores: here the float file is the source model."""
    images, labels = given_models.digits()
    scores, = runtimes.open_session(model("digits"), "litert").run([images])
    return images, labels, scores


@pytest.fixture(scope="module")
def places(digits, tmp_path_factory):
    images, labels, scores = digits
    return write(tmp_path_factory.mktemp("digits"), [images], [scores], labels)


def values(result: dict) -> dict:
    json.dumps(result, allow_nan=False)
    return {m["name"]: m["values"][0] if m["values"] else None for m in result["measurements"]}


def run(*args, **more) -> tuple[dict, dict]:
    result = compare.run(payload(*args, **more), quiet)
    return values(result), result


def logarithm(folder, source, labels=None, **more):
    """Compare `logarithm` with a source whose outputs are `source` on x = exp(log)."""
    x = np.exp(more.pop("log", source)).astype(np.float32)
    at = write(folder, [x], [np.asarray(source, np.float32)], labels, names=("x",))
    return run(model("logarithm"), at, {"inputs": ["x"], "outputs": ["y"]}, **more)


def test_the_source_itself_is_equal(places):
    found, result = run(model("digits"), places, DIGITS)
    assert found["snr"] == "inf" and found["max_error"] == 0 and found["agreement"] == 1
    assert found["cosine"] == pytest.approx(1) and found["accuracy_drop"] == 0
    assert result["findings"] == []


def test_int8_equals_a_computation_in_one_piece(places, digits):
    images, labels, reference = digits
    found, result = run(model("digits_int8"), places, DIGITS)
    scores, = runtimes.open_session(model("digits_int8"), "litert").run([images])
    noise = ((scores - reference).astype(np.float64) ** 2).sum()
    assert found["snr"] == pytest.approx(
        10 * math.log10((reference.astype(np.float64) ** 2).sum() / noise), abs=1e-6)
    assert found["agreement"] == pytest.approx((scores.argmax(1) == reference.argmax(1)).mean())
    assert found["accuracy"] == pytest.approx(peer.accuracy_score(labels, scores.argmax(1)))
    assert found["source_accuracy"] == pytest.approx((reference.argmax(1) == labels).mean())
    assert found["accuracy_drop"] == pytest.approx(found["source_accuracy"] - found["accuracy"])
    assert found["top5"] >= found["accuracy"] > 0.9
    assert found["snr"] > 20 and result["findings"] == []
    assert result["task"]["metric"] == "accuracy"
    assert result["io"]["inputs"][0]["dtype"] == "int8"
    note = next(m["note"] for m in result["measurements"] if m["name"] == "accuracy_drop")
    assert "95 % interval" in note and f"{len(labels)} samples" in note


def test_a_collapse_is_said_in_words(places):
    found, result = run(model("digits_saturated"), places, DIGITS)
    assert found["snr"] < 10 and found["accuracy_drop"] > 0.05
    text = " ".join(f["text"] for f in result["findings"] if f["level"] == "error")
    assert "collapsed" in text and "accuracy goes from" in text and "SNR" in text
    assert all(f["advice"] for f in result["findings"])


def test_limit_and_progress(places, digits):
    seen = []
    at = payload(model("digits"), places, DIGITS, limit=40)
    result = compare.run(at, lambda f, t: seen.append((f, t)))
    assert seen[-1] == (1.0, "40 of 40 samples") and len(seen) == 2
    note = next(m["note"] for m in result["measurements"] if m["name"] == "accuracy_drop")
    assert "40 samples" in note


def test_one_hot_labels_are_classes(tmp_path, digits, places):
    images, labels, scores = digits
    at = write(tmp_path, [images], [scores], np.eye(10, dtype=np.float32)[labels])
    assert run(model("digits_int8"), at, DIGITS)[0] == run(model("digits_int8"), places, DIGITS)[0]


def test_float_labels_that_number_classes_are_classes(tmp_path, digits):
    images, labels, scores = digits
    at = write(tmp_path, [images], [scores], labels.astype(np.float32)[:, None])
    assert run(model("digits"), at, DIGITS)[0]["accuracy"] > 0.9


@pytest.mark.parametrize("shift, hint", [(1, "subtract 1"), (-1, "number the model's outputs")])
def test_labels_out_of_range_are_a_data_error(tmp_path, digits, shift, hint):
    images, labels, scores = digits
    at = write(tmp_path, [images], [scores], labels + shift)
    with pytest.raises(DataError, match="labels run from") as caught:
        run(model("digits"), at, DIGITS)
    assert hint in caught.value.hint


def test_labels_go_to_the_output_that_has_their_classes():
    few, many = np.zeros((20, 3), np.float32), np.zeros((20, 12), np.float32)
    assert tasks.find(np.arange(20) % 12, [few, many], None).output == 1
    assert tasks.find(np.arange(20) % 3, [few, many], None).output == 0
    with pytest.raises(DataError, match="classes 0 to 2"):
        tasks.find(np.arange(20), [few, many], None)


def test_shuffled_labels_warn_about_the_data(tmp_path, digits):
    images, labels, scores = digits
    mixed = np.random.default_rng(1).permutation(labels)
    at = write(tmp_path, [images], [scores], mixed)
    found, result = run(model("digits"), at, DIGITS)
    assert found["accuracy"] < 0.2
    warning, = result["findings"]
    assert warning["level"] == "warning" and "0 to 16" in warning["text"]


def test_several_inputs_and_outputs_keep_their_order(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 70, 3)).astype(np.float32)
    at = write(tmp_path, [x, y], [x - y, x + y + 1], names=ORDER["inputs"])
    found, result = run(model("order"), at, ORDER)
    assert found["max_error"] == pytest.approx(1, abs=1e-5)
    snr = next(m for m in result["measurements"] if m["name"] == "snr")
    assert "a_sum" in snr["note"] and "z_difference inf dB" in snr["note"]


def test_outputs_that_the_source_draws_at_random_are_left_out(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 70, 3)).astype(np.float32)
    at = write(tmp_path, [x, y], [x - y, x + y + rng.normal(size=x.shape)], names=ORDER["inputs"])
    told = tmp_path / "reference" / "step.json"
    told.write_text(json.dumps({"drawn": [1]}))
    found, result = run(model("order"), at, ORDER)
    assert found["snr"] == "inf"
    assert [f["level"] for f in result["findings"]] == ["info"]
    assert "not compared: a_sum" in result["findings"][0]["text"]
    told.write_text(json.dumps({"drawn": [0, 1]}))
    found, result = run(model("order"), at, ORDER)
    assert found["snr"] is None and [f["level"] for f in result["findings"]] == ["info"]


def test_one_logit_has_auc_and_accuracy():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, 1))
    labels = (logits[:, 0] + rng.normal(size=200) > 0).astype(np.int64)
    logits = logits.astype(np.float32)
    task = tasks.find(labels, [logits], None)
    assert (task.kind, task.names, task.threshold) == ("side", ("accuracy", "auc"), 0.0)
    scores = tasks.Scores()
    for start in range(0, 200, 32):
        scores.add(task, labels[start:start + 32], logits[start:start + 32])
    found = scores.values(task)
    assert found["auc"] == pytest.approx(peer.roc_auc_score(labels, logits[:, 0]))
    assert found["accuracy"] == pytest.approx(peer.accuracy_score(labels, logits[:, 0] > 0))
    assert tasks.find(labels, [1 / (1 + np.exp(-logits))], None).threshold == 0.5


@pytest.mark.parametrize("labels, reference, expected", [
    (np.zeros((8, 4, 5), np.uint8), np.random.rand(8, 4, 5, 3), ("classes", ("accuracy",))),
    (np.zeros((8, 4, 5, 1), int), np.random.rand(8, 4, 5, 12), ("classes", ("accuracy", "top5"))),
    (np.ones((8, 4), int) * 5, np.round(np.random.rand(8, 4) * 5), ("equal", ("accuracy",))),
    (np.eye(3)[[0, 1, 2, 0]], np.random.rand(4, 3), ("classes", ("accuracy",))),
    (np.linspace(0, 3, 8), np.random.rand(8, 1), ("values", ("mae", "rmse"))),
    (np.arange(8), np.random.rand(8, 1), ("values", ("mae", "rmse"))),
    (np.random.rand(8, 3), np.random.rand(8, 3), ("values", ("mae", "rmse"))),
    (np.arange(8) % 2 > 0, np.random.rand(8), ("side", ("accuracy", "auc"))),
    (np.zeros((8, 4, 4), int), np.random.randn(8, 4, 4, 1), ("side", ("accuracy",))),
])
def test_the_task_follows_from_labels_and_outputs(labels, reference, expected):
    task = tasks.find(labels, [reference], None)
    assert (task.kind, task.names) == expected


def test_regression_has_mae_and_rmse_and_no_agreement(tmp_path):
    y = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    found, result = logarithm(tmp_path, y, labels=y + 0.5, log=y + 0.25)
    assert found["source_mae"] == pytest.approx(0.5, abs=1e-5)
    assert [found["mae"], found["rmse"]] == pytest.approx([0.25, 0.25], abs=1e-5)
    assert found["mae_rise"] == pytest.approx(-0.25, abs=1e-5)
    assert result["task"]["drop"] == pytest.approx(-0.5, abs=1e-4)
    assert "agreement" not in found


def agreement_of(folder, reference, output, labels=None) -> float | None:
    at = write(folder, [np.zeros((len(reference), 1))], [reference], labels)
    data = compare._Data(payload("", at, {}))
    tally = compare._Tally(data, tasks.find(labels, [reference], None))
    tally.add(slice(0, len(reference)), [output])
    return {m.name: m.p50 for m in tally.result(["y"])[0]}.get("agreement")


def test_agreement_is_only_given_where_outputs_decide_something(tmp_path):
    rng = np.random.default_rng(0)
    maps = rng.random((40, 3, 3, 4)).astype(np.float32)
    assert agreement_of(tmp_path / "picture", maps, maps) is None
    soft = maps / maps.sum(-1, keepdims=True)
    other = soft.copy()
    other[:10] = 1 - other[:10]
    share = (soft.argmax(-1) == other.argmax(-1)).mean()
    assert agreement_of(tmp_path / "segments", soft, other) == pytest.approx(share)
    dense = maps.argmax(-1)
    assert agreement_of(tmp_path / "labelled", maps * 9, other, dense) == pytest.approx(share)
    one = rng.random((40, 1)).astype(np.float32)
    flipped = np.where(np.arange(40)[:, None] < 4, 1 - one, one)
    assert agreement_of(tmp_path / "probability", one, flipped) == pytest.approx(0.9)
    assert agreement_of(tmp_path / "positive", one + 3, flipped + 3) is None
    target = rng.normal(size=40).astype(np.float32)
    assert agreement_of(tmp_path / "regression", one - 0.5, flipped - 0.5, target) is None
    found = rng.integers(0, 5, (40, 6))
    wrong = found.copy()
    wrong[:20] += 1
    assert agreement_of(tmp_path / "indices", found, wrong) == pytest.approx(0.5)


@pytest.mark.parametrize("noise, level, words", [
    (0.02, "warning", "nearly tie"), (0.25, "error", "decides as the source model does on only")])
def test_flipped_near_ties_are_no_collapse(tmp_path, noise, level, words):
    rng = np.random.default_rng(0)
    reference = (1 + 0.01 * rng.normal(size=(60, 5))).astype(np.float32)
    at = write(tmp_path, [np.zeros((60, 1))], [reference])
    tally = compare._Tally(compare._Data(payload("", at, {})), None)
    tally.add(slice(0, 60), [reference + noise * rng.normal(size=(60, 5)).astype(np.float32)])
    finding, = tally.result(["scores"])[1]
    assert finding["level"] == level and words in finding["text"]


def test_the_metric_can_be_chosen_and_must_fit(places, tmp_path):
    found, result = run(model("digits"), places, DIGITS, metric="top5")
    assert "accuracy" not in found and result["task"]["metric"] == "top5"
    for metric, words in (("auc", "does not fit"), ("f2", "unknown metric")):
        with pytest.raises(UsageError, match=words):
            run(model("digits"), places, DIGITS, metric=metric)
    y = np.ones((4, 4), np.float32)
    with pytest.raises(UsageError, match="needs labels"):
        logarithm(tmp_path, y, metric="accuracy")


@pytest.mark.parametrize("metric", [None, "mae", "accuracy"])
def test_labels_that_fit_nothing_are_an_error_in_the_data(tmp_path, metric):
    y = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    with pytest.raises(DataError, match="fit no output"):
        logarithm(tmp_path, y, labels=np.zeros((30, 7), np.float32), metric=metric)


def test_nan_outputs_are_found(tmp_path):
    y = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    x = np.exp(y)
    x[7, 2] = -1
    at = write(tmp_path, [x], [y], names=("x",))
    found, result = run(model("logarithm"), at, {"inputs": ["x"], "outputs": ["y"]})
    assert found["snr"] is None and found["max_error"] is None
    assert "1 of 160 values" in result["findings"][0]["text"]
    assert result["findings"][0]["level"] == "error"


def test_a_constant_output_is_found(tmp_path):
    y = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    _, result = logarithm(tmp_path, y, log=np.zeros((40, 4)))
    assert any("same for every sample" in f["text"] for f in result["findings"])


def test_random_data_are_marked_on_every_figure(tmp_path, digits):
    images, labels, scores = digits
    at = write(tmp_path, [images], [scores], random=True)
    _, result = run(model("digits"), at, DIGITS)
    assert all(m["note"].startswith("random data") for m in result["measurements"])


def test_nothing_to_compare_and_another_model(tmp_path, places):
    at = write(tmp_path, [np.zeros((0, 8, 8, 1))], [np.zeros((0, 10))])
    with pytest.raises(DataError, match="no held-back samples"):
        run(model("digits"), at, DIGITS)
    with pytest.raises(ModelError, match="other inputs or outputs|has 2 inputs"):
        run(model("order"), places, {"inputs": None, "outputs": None})


def test_memory_does_not_grow_with_the_samples(tmp_path):
    """80 MB of inputs and outputs pass through far less."""
    import tracemalloc

    rows = 400_000
    y = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.float32, (rows, 4))
    y[:] = np.linspace(0, 1, 4)
    at = write(tmp_path, [np.ones((rows, 4), np.float32)], [y], names=("x",))
    data = compare._Data(payload("", at, {}))
    tally = compare._Tally(data, None)
    tracemalloc.start()
    for start in range(0, rows, 4000):
        tally.add(slice(start, start + 4000), [np.zeros((4000, 4), np.float32)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert tally.fidelity[0].count == rows * 4
    assert peak < 2 << 20


def test_locate_names_the_input_whose_range_is_wrong(places):
    seen = []
    found = compare.locate({"float": model("digits"), "artifact": model("digits_saturated"),
                            "samples": places["samples"], "limit": 3}, lambda *a: seen.append(a))
    assert found["layers"][0]["op"] == "INPUT" and found["layers"][0]["snr_db"] < 10
    assert "calibrate" in found["findings"][0]["advice"]
    assert found["findings"][0]["layers"] == found["layers"] and len(seen) == 3


def test_locate_compares_every_layer_in_execution_order(places):
    found = compare.locate({"float": model("digits"), "artifact": model("digits_int8"),
                            "samples": places["samples"]}, quiet)
    layers = [t["layer"] for t in found["tensors"]]
    assert [layer for layer in layers if layer in ("first", "second", "digit")][:3] == [
        "first", "second", "digit"]
    assert all(t["snr_db"] > 20 for t in found["tensors"])
    assert set(found["tensors"][0]) == {"tensor", "layer", "op", "snr_db"}


def test_locate_finds_the_one_layer_that_was_broken(places, tmp_path):
    """One scale of the second convolution's result is made wrong: the error begins there."""
    from ai_edge_litert.tools import flatbuffer_utils

    broken = flatbuffer_utils.read_model(model("digits_int8"))
    graph = broken.subgraphs[0]
    tensor = next(t for t in graph.tensors if b"/second" in t.name and list(t.shape)[0] == 1)
    tensor.quantization.scale = [tensor.quantization.scale[0] / 8]
    flatbuffer_utils.write_model(broken, str(tmp_path / "broken.tflite"))
    found = compare.locate({"float": model("digits"), "artifact": str(tmp_path / "broken.tflite"),
                            "samples": places["samples"]}, quiet)
    assert found["layers"][0]["layer"] == "second"
    assert found["layers"][0]["op"] == "CONV_2D"


@pytest.mark.parametrize("tensor, layer", [
    ("functional_1/conv_a_1/Relu;functional_1/conv_a_1/BiasAdd", "conv_a"),
    ("model/block_1/Relu", "block_1"), ("model_1/block_1_1/Relu", "block_1"),
    ("StatefulPartitionedCall:0", ""), ("model/inner/dense/MatMul", "dense"),
])
def test_layer_of(tensor, layer):
    from tfcompress.benchmark.locate import layer_of

    assert layer_of(tensor) == layer
