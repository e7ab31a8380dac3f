"""The whole command: what it writes, prints and refuses."""

import json
import os
import subprocess
import sys

import pytest

from tfcompress import cli, inspecting
from tfcompress.steps import Options


def inspect(*argv, cwd=None):
    return subprocess.run([sys.executable, "-m", "tfcompress", "inspect", *argv],
                          capture_output=True, text=True, cwd=cwd, env=os.environ)


@pytest.mark.parametrize("argv, code, told", [
    ([], 2, "model"),
    (["nowhere.keras"], 3, "nowhere.keras"),
    (["MODEL", "--target", "tflite-int9"], 2, "unknown target"),
    (["MODEL", "--data", "nowhere.npz"], 4, "nowhere.npz"),
    (["MODEL", "--data", "random", "--samples", "0"], 2, "samples"),
    (["MODEL", "--metric", "f1"], 2, "f1"),
    (["MODEL"], 3, "m.keras"),
])
def test_bad_input_has_the_codes_of_shrink(tmp_path, capsys, monkeypatch, argv, code, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.keras").write_bytes(b"PK\x05\x06" + bytes(18) + b"\xff")
    assert cli.main(["inspect", *("m.keras" if a == "MODEL" else a for a in argv)]) == code
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and told in said[0] and os.listdir(tmp_path) == ["m.keras"]


def test_arguments_are_checked_without_tensorflow():
    code = ("import sys\nfrom tfcompress import cli\n"
            "cli.main(['inspect', 'nowhere.keras', '--data', 'random'])\n"
            "heavy = {'numpy', 'tensorflow', 'keras', 'ai_edge_litert', 'h5py'}\n"
            "sys.exit(len(heavy & set(sys.modules)) and 99)")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.slow
def test_the_example_from_end_to_end(examples, tmp_path):
    argv = [str(examples / "digits.keras"), "--data", str(examples / "digits.npz"),
            "--samples", "32", "--target", "tflite-int8", "--target", "edge-tpu",
            "--target", "keras"]
    done = inspect(*argv, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Most sensitive:" in done.stdout and "●  keras" in done.stdout
    assert done.stdout.rstrip().endswith("digits-inspect/inspect.html")
    folder = tmp_path / "digits-inspect"
    assert sorted(os.listdir(folder)) == ["inspect.html", "inspect.json", "manifest.json"]
    told = json.loads((folder / "inspect.json").read_text())
    rows = {r["name"]: r for r in told["layers"]}
    assert rows["dense"]["parameters"] == 16_448 and rows["dense"]["macs"] == 16_384
    assert rows["conv2d_1"]["macs"] == 4 * 4 * 9 * 32 * 32
    assert rows["separable_conv2d_1"]["macs"] == 4 * 4 * (9 * 32 + 32 * 64)
    assert sum(r["macs"] for r in told["layers"]) == told["totals"]["macs"]
    assert rows["dropout"]["note"] and told["sensitivity"]["rows"] == 32
    assert [t["runs"] for t in told["targets"]][2] == "yes"
    again = inspect(*argv, "--json", cwd=tmp_path)  # every step is in the store
    assert json.loads(again.stdout)["sensitivity"] == told["sensitivity"]


@pytest.mark.slow
def test_a_saved_model_has_operators_and_targets_but_no_sensitivity(tmp_path, monkeypatch):
    import tensorflow as tf

    monkeypatch.chdir(tmp_path)

    class Wave(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((1, 8), tf.float32, name="x")])
        def __call__(self, x):
            return {"y": tf.math.sin(tf.matmul(x, tf.ones((8, 4))), name="wave")}

    tf.saved_model.save(Wave(), str(tmp_path / "wave"))
    found = inspecting.run(Options("wave", ("tflite-int8", "keras"), data="random")).inspection
    assert found.sensitivity is None and any("saved-model" in n for n in found.notes)
    assert found.totals["operators"].keys() >= {"SIN"} and found.totals["macs"] == 32
    assert [t["runs"] for t in found.targets] == ["partly", "no"]


@pytest.mark.slow
def test_a_model_that_cannot_be_converted_is_inspected_all_the_same(tmp_path, monkeypatch):
    import keras

    monkeypatch.chdir(tmp_path)
    x = keras.Input((4, 4))
    model = keras.Model(x, keras.layers.Dense(2)(keras.ops.svd(x)[0]))
    model.save("singular.keras")
    found = inspecting.run(Options("singular.keras", ("tflite-int8", "saved-model"))).inspection
    assert [t["runs"] for t in found.targets] == ["no", "yes"]
    assert "cannot be converted" in found.targets[0]["problems"][0]["what"]
    assert [r["parameters"] for r in found.layers if r["type"] == "Dense"] == [10]
    assert found.totals["macs"] is None and "needs data" in found.notes[0]
