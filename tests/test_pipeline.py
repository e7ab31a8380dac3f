"""The main job on the shipped example, as a user runs it: real processes, real runtimes."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from conftest import ROOT

import tfcompress
from tfcompress import store

pytestmark = pytest.mark.slow

TARGETS = [
    "keras",
    "saved-model",
    "tflite-float32",
    "tflite-float16",
    "tflite-dynamic",
    "tflite-int8",
    "tflite-int16x8",
    "tflite-int4",
]


def command(examples, *argv, model="digits.keras", data="digits.npz"):
    found = [sys.executable, "-m", "tfcompress", "shrink", str(examples / model)]
    return [*found, *(["--data", str(examples / data)] if data else []), *argv]


def run(examples, *argv, cwd=None, env=None, **kinds):
    done = subprocess.run(
        command(examples, *argv, **kinds),
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | (env or {}),
    )
    return done


def flags(targets):
    return [f for t in targets for f in ("--target", t)]


def figures(row):
    return {m["name"]: m["summary"].get("p50") for m in row["measurements"]}


def left_behind(folder):
    return sorted(p.name for p in Path(folder).iterdir())


@pytest.fixture(scope="module")
def everything(examples, tmp_path_factory):
    """Every target of the example, made once."""
    folder = tmp_path_factory.mktemp("all")
    done = run(examples, *flags(TARGETS), "--json", "--output", "out", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert not done.stderr  # quiet where nobody watches, and no noise from TensorFlow
    return folder / "out", json.loads(done.stdout)


def test_every_target_is_there_and_keeps_the_accuracy(everything):
    folder, report = everything
    rows = {r["target"]: r for r in report["rows"]}
    assert list(rows) == ["source", *TARGETS]
    before = figures(rows["source"])["accuracy"]
    assert before > 0.98
    for name in TARGETS:
        row = rows[name]
        assert row["status"] == "ok" and (folder / row["artifact"]["path"]).exists()
        assert figures(row)["accuracy"] >= before - 0.01, name
        assert figures(row)["latency"] > 0 and figures(row)["size"] > 0
    snr = {name: figures(rows[name])["snr"] for name in TARGETS}
    assert snr["tflite-float32"] == "inf" or snr["tflite-float32"] >= 60
    assert snr["tflite-int8"] >= 20 and snr["tflite-int16x8"] >= 30
    size = {name: figures(rows[name])["size"] for name in TARGETS}
    assert size["tflite-int8"] < size["tflite-float16"] < size["tflite-float32"]
    assert size["tflite-int4"] < size["tflite-float16"]


def test_int8_is_integer_from_end_to_end_and_keeps_its_names(everything, examples):
    from ai_edge_litert.interpreter import Interpreter

    folder, _ = everything
    interpreter = Interpreter(str(folder / "tflite-int8.tflite"))
    runner = interpreter.get_signature_runner("serving_default")
    assert {k: v["dtype"] for k, v in runner.get_input_details().items()} == {"image": np.int8}
    assert {k: v["dtype"] for k, v in runner.get_output_details().items()} == {"digit": np.int8}
    types = {t["dtype"] for t in interpreter.get_tensor_details()}
    assert np.float32 not in types
    data = np.load(examples / "digits.npz")
    scale, zero = runner.get_input_details()["image"]["quantization"]
    x = np.clip(np.round(data["x_test"] / scale) + zero, -128, 127).astype(np.int8)
    right = [
        runner(image=a[None])["digit"].argmax() == y for a, y in zip(x, data["y_test"], strict=True)
    ]
    assert np.mean(right) > 0.97


def test_the_report_keeps_to_its_schema_and_the_manifest_to_the_files(everything):
    folder, report = everything
    schema = json.loads((ROOT / "benchmark" / "report_schema.json").read_text())
    jsonschema.validate(json.loads((folder / "report.json").read_text()), schema)
    manifest = json.loads((folder / "manifest.json").read_text())
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert found == {"manifest.json", *manifest["files"]}
    for name, entry in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"]
    assert manifest["source"]["sha256"] == report["source"]["sha256"]


def test_every_layer_is_told_with_its_cost_and_its_error(everything):
    _, told = everything
    rows = {r["target"]: r for r in told["rows"]}
    for name in (t for t in TARGETS if t.startswith("tflite")):
        layers, row = rows[name]["io"]["layers"], figures(rows[name])
        assert {"dense", "digit"} <= {f["layer"] for f in layers}
        assert sum(f["macs"] for f in layers) == row["macs"]
        assert sum(sum(f["dtypes"].values()) for f in layers) == row["parameters"]
        if name == "tflite-float32":
            assert rows[name]["io"]["layers_note"] == "nothing is rounded in it"
        else:
            assert all(f["snr_db"] > 10 for f in layers), name
    kinds = [p["pick"] for p in told["picks"]]
    assert kinds[0] == "smallest" and "fastest" in kinds and kinds[-1] == "most_accurate"


def test_the_keras_file_is_the_same_model_without_code(everything, examples):
    import keras

    folder, _ = everything
    x = np.load(examples / "digits.npz")["x_test"][:50].astype(np.float32)
    outputs = [
        keras.saving.load_model(p, compile=False)(x, training=False).numpy()
        for p in (examples / "digits.keras", folder / "keras.keras")
    ]
    assert (outputs[0] == outputs[1]).all()


def test_a_second_run_does_nothing_and_another_target_reuses_the_steps(everything, examples):
    folder, report = everything
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    again = run(examples, *flags(TARGETS), "--output", "out", cwd=folder.parent)
    assert again.returncode == 0 and "nothing to do" in again.stdout
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    one = run(examples, "--target", "tflite-int8", "--json", "--output", "one", cwd=folder.parent)
    steps = json.loads(one.stdout)["rows"][1]["artifact"]["steps"]
    assert [s["name"] for s in steps] == ["convert", "quantize"] and all(s["cached"] for s in steps)


def test_a_damaged_output_is_made_again(everything, examples):
    folder, _ = everything
    path = folder / "tflite-int8.tflite"
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    run(examples, *flags(TARGETS), "--output", "out", cwd=folder.parent)
    assert path.read_bytes() == good


def test_the_same_input_gives_the_same_bytes(everything, examples, tmp_path):
    folder, _ = everything
    kept = [t for t in TARGETS if t != "saved-model"]
    done = run(
        examples,
        *flags(kept),
        "--output",
        "out",
        cwd=tmp_path,
        env={"TFCOMPRESS_CACHE": str(tmp_path / "store")},
    )
    assert done.returncode == 0
    for path in folder.glob("*.tflite"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes(), path.name
    assert (folder / "keras.keras").read_bytes() == (tmp_path / "out" / "keras.keras").read_bytes()


def test_a_killed_run_leaves_nothing_and_resumes(examples, tmp_path):
    env = {"TFCOMPRESS_CACHE": str(tmp_path / "store")}
    (tmp_path / "work").mkdir()
    argv = command(examples, "--json", "--output", "out")
    process = subprocess.Popen(
        argv, cwd=tmp_path / "work", env=os.environ | env, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while not list((tmp_path / "store").glob("*/[0-9a-f]*/float.tflite")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert left_behind(tmp_path / "work") == []
    done = run(examples, "--json", "--output", "out", cwd=tmp_path / "work", env=env)
    steps = json.loads(done.stdout)["rows"][1]["artifact"]["steps"]
    assert done.returncode == 0 and steps[0]["name"] == "convert" and steps[0]["cached"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_and_leaves_nothing(examples, tmp_path, number):
    env = {"TFCOMPRESS_CACHE": str(tmp_path / "store")}
    (tmp_path / "work").mkdir()
    process = subprocess.Popen(
        command(examples, "--fresh"),
        cwd=tmp_path / "work",
        text=True,
        env=os.environ | env,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells ignore it for "&"
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "store").glob("*/[0-9a-f]*/float.tflite")):  # much is still to do
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130 and len(told.splitlines()) == 2 and "interrupted" in told
    assert left_behind(tmp_path / "work") == []
    children = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True)
    assert not children.stdout


def test_random_data_are_marked_everywhere(examples, tmp_path):
    done = run(examples, "--data", "random", "--json", "--output", "out", cwd=tmp_path, data=None)
    report = json.loads(done.stdout)
    snr = next(m for m in report["rows"][1]["measurements"] if m["name"] == "snr")
    assert report["data"]["random"] and "random" in snr["note"]
    assert "random" in (tmp_path / "out" / "report.md").read_text()
    assert "random" in (tmp_path / "out" / "report.html").read_text()


def test_a_loss_beyond_the_allowed_is_exit_code_8(examples, tmp_path):
    done = run(
        examples,
        "--target",
        "tflite-int4",
        "--max-drop",
        "0",
        "--json",
        "--output",
        "out",
        cwd=tmp_path,
    )
    assert done.returncode == 8
    row = json.loads(done.stdout)["rows"][1]
    assert row["status"] == "rejected" and "accuracy" in row["error"]["message"]


def test_labels_must_be_as_many_as_the_classes(examples, tmp_path):
    (tmp_path / "few.txt").write_text("zero\none\n")
    done = run(examples, "--labels", "few.txt", cwd=tmp_path)
    assert done.returncode == 2 and "has 2 labels" in done.stderr
    (tmp_path / "all.txt").write_text("\n".join(map(str, range(10))))
    assert run(examples, "--labels", "all.txt", "--output", "out", cwd=tmp_path).returncode == 0
    with zipfile.ZipFile(tmp_path / "out" / "tflite-int8.tflite") as packed:
        assert packed.read(packed.namelist()[0]).split() == [b"%d" % i for i in range(10)]


def test_a_full_disk_under_the_store_is_told(examples, tmp_path):
    small = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000)); "
        "from tfcompress.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    argv = command(examples, "--output", str(tmp_path / "out"))[3:]
    done = subprocess.run(
        [sys.executable, "-c", small, *argv],
        capture_output=True,
        text=True,
        env=os.environ | {"TFCOMPRESS_CACHE": str(tmp_path / "store")},
    )
    assert done.returncode == 6 and len(done.stderr.splitlines()) == 2, done.stderr
    assert not (tmp_path / "out").exists()


def test_float_io_by_option(examples, tmp_path):
    done = run(examples, "--io", "float32", "--json", "--output", "out", cwd=tmp_path)
    io = json.loads(done.stdout)["rows"][1]["io"]
    assert {io["inputs"][0]["dtype"], io["outputs"][0]["dtype"]} == {"float32"}


DEADLY = """
import os, signal, sys
import keras

@keras.saving.register_keras_serializable("deadly")
class Deadly(keras.layers.Layer):
    '''Kills the process wherever the TFLite converter traces it.'''
    def call(self, x):
        frame = sys._getframe()
        while frame:
            if frame.f_code.co_filename.endswith(os.path.join("export", "tflite.py")):
                os.kill(os.getpid(), signal.SIGSEGV)
            frame = frame.f_back
        return x * 2.0
"""


def test_a_converter_that_dies_costs_its_targets_only(tmp_path, monkeypatch):
    (tmp_path / "deadly.py").write_text(DEADLY)
    make = (
        "import deadly, keras; i = keras.Input((4,)); "
        "m = keras.Model(i, keras.layers.Dense(3)(deadly.Deadly()(i))); m.save('m.keras')"
    )
    subprocess.run([sys.executable, "-c", make], cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tfcompress",
            "shrink",
            "m.keras",
            "--data",
            "random",
            "--json",
            "--custom-objects",
            "deadly",
            "--target",
            "tflite-float32",
            "--target",
            "saved-model",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    rows = {r["target"]: r for r in json.loads(done.stdout)["rows"]}
    assert done.returncode == 7
    assert rows["tflite-float32"]["status"] == "failed"
    assert "SIGSEGV" in rows["tflite-float32"]["error"]["message"]
    assert rows["saved-model"]["status"] == "ok"
    assert (tmp_path / "m-tfcompress" / "saved-model").is_dir()


def test_a_disk_that_is_full_leaves_the_old_output(examples, tmp_path):
    out = tmp_path / "out"
    assert run(examples, "--output", str(out)).returncode == 0
    before = store.file_digest(out)
    small = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "
        "from tfcompress.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    argv = command(examples, "--output", str(out), "--io", "float32")[3:]
    done = subprocess.run([sys.executable, "-c", small, *argv], capture_output=True, text=True)
    assert done.returncode in (6, 7) and len(done.stderr.splitlines()) >= 2
    assert "Traceback" not in done.stderr
    assert store.file_digest(out) == before and left_behind(tmp_path) == ["out"]


@pytest.mark.parametrize("data", ["pair", "dict"])
def test_the_python_api_takes_a_model_and_arrays(examples, tmp_path, monkeypatch, data):
    import keras

    monkeypatch.chdir(tmp_path)
    model = keras.saving.load_model(examples / "digits.keras", compile=False)
    arrays = np.load(examples / "digits.npz")
    x, y = arrays["x_test"], arrays["y_test"]
    seen = []
    result = tfcompress.shrink(
        model,
        targets=["tflite-int8"],
        data=(x, y) if data == "pair" else {"image": x, "y": y},
        on_event=lambda *event: seen.append(event),
    )
    assert result.error is None and seen
    assert "tflite-int8" in str(result) and "<table" in result._repr_html_()
    frame = result.to_frame()
    assert frame.loc["tflite-int8", "accuracy"] > 0.97
    assert result.artifact("tflite-int8").is_file()
    with pytest.raises(KeyError):
        result.artifact("onnx")


def test_the_shipped_example_is_what_its_script_makes(examples, tmp_path):
    subprocess.run(
        [sys.executable, str(examples / "make_digits.py"), str(tmp_path)],
        check=True,
        capture_output=True,
    )
    for name in ("x_train", "y_train", "x_test", "y_test"):
        a, b = (np.load(folder / "digits.npz")[name] for folder in (examples, tmp_path))
        assert (a == b).all()
    import keras

    x, y = (np.load(examples / "digits.npz")[k] for k in ("x_test", "y_test"))
    for folder in (examples, tmp_path):
        model = keras.saving.load_model(folder / "digits.keras", compile=False)
        assert (model.predict(x, verbose=0).argmax(1) == y).mean() > 0.98
