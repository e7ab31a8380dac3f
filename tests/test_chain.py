"""The compression chain through the whole command, on the shipped example."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

import tfcompress
from tfcompress.benchmark import runtimes

LABELLED = "digits.npz"


def command(examples, *argv, data=None):
    data = str(data or examples / LABELLED)
    model = str(examples / "digits.keras")
    return [sys.executable, "-m", "tfcompress", "shrink", model, "--data", data, "--json", *argv]


def run(examples, *argv, cwd, data=None, env=None):
    done = subprocess.run(command(examples, *argv, data=data), capture_output=True, text=True,
                          cwd=cwd, env=os.environ | (env or {}))
    assert not done.stderr
    return done.returncode, json.loads(done.stdout)


def figure(record, target, name):
    row = next(r for r in record["rows"] if r["target"] == target)
    return next(m["summary"]["p50"] for m in row["measurements"] if m["name"] == name)


@pytest.mark.parametrize("flags, told", [
    (["--recipe", "prun"], "did you mean 'prune'?"),
    (["--prune", "1.5"], "from 0.01 to 0.99"),
    (["--prune", "2:2"], "2:4"),
    (["--prune-to", "half"], "0.5"),
    (["--cluster", "1"], "from 2 to 256"),
    (["--recipe", "qat", "--prune", "0.5"], "add the stage to the recipe's file"),
    (["--backend", "tmot", "--qat"], "native, tfmot"),
    (["--batch-size", "8"], "add a stage"),
])
def test_a_recipe_that_cannot_be_is_refused_before_any_work(examples, tmp_path, flags, told):
    start = time.monotonic()
    code, record = run(examples, *flags, cwd=tmp_path)
    assert code == 2 and told in record["error"]["hint"]
    assert time.monotonic() - start < 5 and not list(tmp_path.iterdir())


def test_training_needs_data(examples, tmp_path):
    with pytest.raises(tfcompress.errors.DataError, match="training needs data"):
        tfcompress.shrink(examples / "digits.keras", "keras", prune="0.5",
                          output=str(tmp_path / "out"))


@pytest.fixture(scope="module")
def chained(examples, tmp_path_factory):
    """prune -> cluster -> QAT of the example, to three targets."""
    folder = tmp_path_factory.mktemp("chain")
    code, record = run(examples, "--prune", "0.6", "--cluster", "16", "--qat", "--epochs", "8",
                       "-t", "tflite-int8", "-t", "tflite-float32", "-t", "keras", "-o", "out",
                       cwd=folder)
    assert code == 0
    return folder / "out", record


@pytest.mark.slow
def test_zeros_and_shared_values_are_in_the_file_itself(chained):
    _, record = chained
    tensors = record["rows"][1]["io"]["tensors"]
    assert len(tensors) == 8 and {t["dtype"] for t in tensors} == {"int8"}
    for tensor in tensors:
        depthwise = tensor["shape"][0] == 1  # left whole
        assert tensor["zeros"] < 0.2 if depthwise else tensor["zeros"] >= 0.59, tensor
        assert tensor["distinct"] <= 16, tensor


@pytest.mark.slow
def test_the_integer_file_computes_what_was_trained(chained):
    """Activations have the learned ranges, and the accuracy is nearly the source's."""
    folder, record = chained
    assert figure(record, "tflite-int8", "snr") > 40  # against the model with its roundings
    assert figure(record, "tflite-int8", "accuracy_drop") < 0.02
    assert figure(record, "keras", "accuracy_drop") < 0.02
    assert not any(r["fallbacks"] for r in record["rows"])
    session = runtimes.open_session(str(folder / "tflite-int8.tflite"), "litert", 1, None)
    assert session.inputs[0]["dtype"] == session.outputs[0]["dtype"] == "int8"


@pytest.mark.slow
def test_the_report_says_how_it_was_trained(chained):
    _, record = chained
    training = record["training"]
    assert [h["stage"] for h in training["history"]] == \
        ["prune"] * 8 + ["cluster"] * 8 + ["qat"] * 8
    assert training["metric_name"] == "accuracy" and len(training["kernels"]) == 8
    assert [s["stage"] for s in record["recipe"]["recipe"]["stages"]] == ["prune", "cluster", "qat"]
    assert record["data"]["trained_on"] == 1200
    steps = [s["name"] for s in record["rows"][1]["artifact"]["steps"]]
    assert steps == ["train", "quantize"]


@pytest.mark.slow
def test_sparse_weights_shrink_under_gzip(chained):
    _, record = chained
    assert figure(record, "tflite-int8", "size_gzip") < 0.75 * figure(record, "tflite-int8", "size")


@pytest.mark.slow
def test_unlabelled_data_and_a_recipe_file_do(examples, tmp_path):
    with np.load(examples / LABELLED) as data:
        np.savez(tmp_path / "images.npz", x=data["x_train"])
    (tmp_path / "mine.toml").write_text(
        '[training]\nepochs = 6\n[[stages]]\nstage = "prune"\nsparsity = 0.5\nlayers = "conv*"\n'
        '[[stages]]\nstage = "qat"\n')
    code, record = run(examples, "--recipe", "mine.toml", "-o", "out", cwd=tmp_path,
                       data=tmp_path / "images.npz")
    assert code == 0 and record["data"]["trained_on"] == 960 and not record["data"]["labels"]
    assert record["training"]["metric_name"] == "agreement"
    assert figure(record, "tflite-int8", "agreement") > 0.95
    assert {s["layer"] for s in record["training"]["skipped"] if s["stage"] == "prune"} >= {"dense"}


@pytest.mark.slow
def test_channels_that_are_removed_make_the_file_smaller(examples, tmp_path):
    code, record = run(examples, "--prune-to", "0.5", "--epochs", "6", "--trim", "-o", "out",
                       cwd=tmp_path)
    assert code == 0
    slimmed = record["training"]["slimmed"]
    assert slimmed["after"]["parameters"] <= 0.5 * slimmed["before"]["parameters"]
    assert figure(record, "tflite-int8", "parameters") < 0.6 * slimmed["before"]["parameters"]
    assert figure(record, "tflite-int8", "size") < 25_000
    assert figure(record, "tflite-int8", "accuracy_drop") < 0.02


@pytest.mark.slow
def test_four_bit_weights_take_half_the_bytes(examples, tmp_path):
    (tmp_path / "four.toml").write_text(
        '[training]\nepochs = 6\n[[stages]]\nstage = "qat"\nweight_bits = 4\n')
    code, record = run(examples, "--recipe", "four.toml", "--trim", "-o", "out", cwd=tmp_path)
    assert code == 0
    packed = [t for t in record["rows"][1]["io"]["tensors"] if t["dtype"] == "int4"]
    assert len(packed) == 6
    assert all(t["bytes"] == -(-np.prod(t["shape"]) // 2) and t["distinct"] <= 15 for t in packed)
    assert figure(record, "tflite-int8", "size") < 26_000
    assert figure(record, "tflite-int8", "snr") > 30  # against the model with its roundings
    assert figure(record, "tflite-int8", "accuracy_drop") < 0.02


@pytest.mark.slow
def test_a_run_killed_while_training_goes_on_and_gives_the_same_bytes(examples, tmp_path):
    flags = ("--prune", "0.5", "--epochs", "12", "-t", "keras", "-o", "out")
    env = {"TFCOMPRESS_CACHE": str(tmp_path / "store")}
    (tmp_path / "work").mkdir()
    process = subprocess.Popen(command(examples, *flags), cwd=tmp_path / "work",
                               env=os.environ | env, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list((tmp_path / "store").glob("unfinished/*/state.npz")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not list((tmp_path / "work").iterdir())
    code, record = run(examples, *flags, cwd=tmp_path / "work", env=env)
    assert code == 0 and len(record["training"]["history"]) == 12
    assert not list((tmp_path / "store" / "unfinished").iterdir())
    (tmp_path / "again").mkdir()
    code, _ = run(examples, *flags, cwd=tmp_path / "again",
                  env={"TFCOMPRESS_CACHE": str(tmp_path / "other")})
    assert code == 0
    made = [(tmp_path / place / "out" / "keras.keras").read_bytes() for place in ("work", "again")]
    assert made[0] == made[1]


@pytest.mark.slow
def test_sparse_files_are_smaller_and_judged_like_all_others(examples, tmp_path):
    sizes = {}
    for name, more in (("full", []), ("sparse", ["--sparse"])):
        code, record = run(examples, "--prune", "0.8", "--epochs", "6", "-t", "tflite-float32",
                           "-t", "litert-js", *more, "-o", name, cwd=tmp_path,
                           env={"TFCOMPRESS_CACHE": str(tmp_path / "cache")})
        assert code == 0
        row = record["rows"][1]
        sizes[name] = figure(record, "tflite-float32", "size")
        assert figure(record, "tflite-float32", "snr") > 100
        assert bool(more) == any("stored without zeros" in f["text"] for f in row["findings"])
        assert {t["zeros"] > 0.7 for t in row["io"]["tensors"] if t["bytes"] > 2000} == {True}
        web = record["rows"][2]["findings"]
        assert not any("stored without zeros" in f["text"] for f in web)
    assert sizes["sparse"] < 0.5 * sizes["full"]


@pytest.mark.slow
def test_images_of_any_size_that_become_images_are_trained(tmp_path):
    """A shape that the user fixed holds for the trained model too; its output is rounded itself."""
    import keras

    images = np.random.default_rng(0).random((60, 12, 12, 1)).astype("f4")
    x = keras.Input((None, None, 1))
    y = keras.layers.Conv2D(1, 3, padding="same")(keras.layers.Conv2D(4, 3, padding="same")(x))
    keras.Model(x, y).save(tmp_path / "any.keras")
    np.savez(tmp_path / "data.npz", x=images, y=images / 2)
    done = subprocess.run(
        [sys.executable, "-m", "tfcompress", "shrink", "any.keras", "--data", "data.npz", "--qat",
         "--input-shape", "12,12,1", "-t", "onnx-float32", "-t", "tflite-int8", "--json"],
        capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert figure(json.loads(done.stdout), "onnx-float32", "snr") > 100
    assert float(figure(json.loads(done.stdout), "tflite-int8", "snr")) > 20
