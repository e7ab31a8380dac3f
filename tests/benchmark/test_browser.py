"""Models in a real headless Chromium, against the same models in LiteRT and TensorFlow."""

import contextlib
import json
import re
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from web import conv_file, needs_browser

from tfcompress.artifact import Measurement
from tfcompress.benchmark import browser, compare, packages, runtimes, transfer
from tfcompress.child import Child
from tfcompress.errors import MissingExtra, ModelError


@pytest.fixture(scope="module")
def fetched():
    needs_browser()
    return packages.fetch()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return conv_file(tmp_path_factory.mktemp("web") / "m.tflite")


@pytest.fixture(scope="module")
def session(fetched, model):
    with contextlib.closing(runtimes.open_session(model, "litert-js")) as found:
        yield found


def _wanted(model, x):
    return runtimes.open_session(model, "litert").run([x])[0]


@pytest.mark.slow
def test_outputs_are_those_of_litert(session, model):
    x = np.random.default_rng(0).normal(size=(3, *session.inputs[0]["shape"][1:]))
    np.testing.assert_allclose(session.run([x])[0], _wanted(model, x), rtol=1e-4, atol=1e-5)
    assert session.about["backend"] == "wasm" and session.note == "on wasm"
    assert session.load_ms > 0


@pytest.mark.slow
def test_time_is_taken_in_the_page(session):
    shape = (1, *session.inputs[0]["shape"][1:])
    session.ready([np.zeros(shape, np.float32)])
    times = session.burst(5)
    assert len(times) == 5 and all(0 < t < 60_000 for t in times)


@pytest.mark.slow
def test_counts_what_the_page_loads(session, model):
    found = {m.name: m for m in session.measurements()}
    assert 0 < found["transfer_gzip"].p50 <= Path(model).stat().st_size + 100
    assert found["runtime_transfer"].p50 > 1_000_000
    assert "litert_wasm_internal.wasm" in " ".join(map(str, session._page.fetched["packages"]))


@pytest.mark.slow
def test_only_the_page_may_talk_to_the_server(session):
    port = session._page.port

    def ask(path, **headers):
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
        try:
            return urllib.request.urlopen(request, timeout=5).status
        except urllib.error.HTTPError as error:
            return error.code

    assert ask("/command") == 403
    assert ask("/command", **{"X-Token": "wrong"}) == 403
    assert ask("/page.html") == 200
    outside = ("/model/../m.tflite", "/model/%2e%2e/%2e%2e/etc/passwd", "/../browser.py",
               "/packages/..%2f..%2fwhole", "/%2e%2e/browser.py")
    assert {ask(path) for path in outside} == {404}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/answer", b"x", method="POST")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=5)
    assert caught.value.code == 403


@pytest.mark.slow
def test_another_model_in_the_same_page(session, model, tmp_path):
    other = conv_file(tmp_path / "other.tflite", channels=3, seed=1)
    x = np.random.default_rng(1).normal(size=(1, 8, 8, 3))
    try:
        session.open(str(other))
        np.testing.assert_allclose(session.run([x])[0], _wanted(other, x), rtol=1e-4, atol=1e-5)
        (tmp_path / "broken.tflite").write_bytes(b"TFL3" * 10)
        with pytest.raises(ModelError, match="litert on wasm"):
            session.open(str(tmp_path / "broken.tflite"))
    finally:
        session.open(str(model))


@pytest.mark.slow
def test_a_page_that_dies_is_one_clear_error(fetched, model):
    with contextlib.closing(runtimes.open_session(model, "litert-js")) as session:
        session._page._process.stdin.close()  # so the browser is ended
        with pytest.raises(ModelError, match="the browser ended"):
            session.run([np.zeros((1, *session.inputs[0]["shape"][1:]), np.float32)])


@pytest.mark.slow
def test_no_browser_outlives_the_process_that_started_it(fetched, model, monkeypatch):
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)  # so the browser's profile is known
        with Child("judge") as child:
            child.call("benchmark.latency:prepare", {
                "path": str(model), "runtime": "litert-js", "threads": 1, "seed": 0}, None)
            assert _running(folder)
        end = time.monotonic() + 20
        while (left := _running(folder)) and time.monotonic() < end:
            time.sleep(0.2)
        assert not left


@pytest.mark.slow
def test_temporary_files_may_lie_far_down(fetched, model, tmp_path, monkeypatch):
    """Chromium does not start where the path of its socket is too long."""
    far = tmp_path / ("far" * 30)
    far.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(far))
    monkeypatch.setenv("TMPDIR", str(far))
    with contextlib.closing(runtimes.open_session(model, "litert-js")) as session:
        assert session.run([np.zeros((1, *session.inputs[0]["shape"][1:]), np.float32)])


def _running(folder):
    """Ids of the processes that have a browser profile of this folder on their command line."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"{folder}/tfcompress-browser-".encode() in file.read_bytes():
                found.append(file.parent.name)
    return found


@pytest.mark.slow
def test_a_software_adapter_is_called_one(fetched, model):
    found = browser.others({"artifact": str(model), "runtime": "litert-js", "names": None,
                            "backends": ["webgpu", "webgl"], "samples": None, "expected": None},
                           lambda *_: None)["measurements"]
    found = {m["name"]: Measurement.from_dict(m) for m in found}
    note = found["latency_webgpu"].note
    if found["latency_webgpu"].values and not Path("/dev/dri").exists():
        assert "software adapter" in note and note.startswith("on webgpu")
    else:
        assert note.startswith(("not measured", "on webgpu"))
    assert found["latency_webgl"].note.startswith("not measured")


def _judged(tmp_path, model, runtime):
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    (tmp_path / "samples/inputs").mkdir(parents=True)
    (tmp_path / "reference").mkdir()
    np.save(tmp_path / "samples/inputs/0.npy", x)
    np.save(tmp_path / "reference/0.npy", _wanted(model, x))
    (tmp_path / "samples/samples.json").write_text(json.dumps({"count": 4, "names": ["x"]}))
    return compare.run({"artifact": str(model), "runtime": runtime, "names": None,
                        "samples": str(tmp_path / "samples"),
                        "reference": str(tmp_path / "reference")}, lambda *_: None)


def test_no_browser_is_no_failure_of_the_artifact(tmp_path, monkeypatch, model):
    monkeypatch.setenv("TFCOMPRESS_BROWSER", str(tmp_path / "none"))
    with pytest.raises(MissingExtra) as caught:
        browser.find_browser()
    assert caught.value.exit_code == 5 and "TFCOMPRESS_BROWSER" in caught.value.hint
    told = _judged(tmp_path, model, "litert-js")
    assert told["findings"][0]["level"] == "warning"
    assert "not measured on litert-js" in told["findings"][0]["text"]
    assert {m["name"]: m for m in told["measurements"]}["snr"]["values"][0] in ("inf", np.inf)


def test_what_nothing_else_can_run_is_not_measured(tmp_path, monkeypatch, model):
    monkeypatch.setenv("TFCOMPRESS_BROWSER", str(tmp_path / "none"))
    told = _judged(tmp_path, model, "tfjs")
    assert told["measurements"][0]["note"].startswith("not measured: ")
    assert told["measurements"][0]["values"] in ([], ())
    assert told["task"] is None and told["findings"][0]["advice"]


def test_packages_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("TFCOMPRESS_CACHE", str(tmp_path))
    with pytest.raises(MissingExtra) as caught:
        packages.find()
    assert caught.value.hint == "tfcompress setup browser"
    assert "the browser runtimes" in " ".join(runtimes.there("tfjs"))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingExtra, match="npm"):
        packages.fetch()


def test_sizes_are_packed_file_by_file(tmp_path):
    one, two = tmp_path / "a", tmp_path / "b"
    one.write_bytes(bytes(100_000))
    two.write_bytes(bytes(100_000))
    found = {m.name: m for m in transfer.measure([one], [one, two])}
    assert found["transfer_gzip"].p50 < 1000
    packed = found["transfer_brotli"]
    assert packed.p50 < 100 if packed.values else packed.note.startswith("not measured")
    assert "2 files, 200,000 bytes" in found["runtime_transfer"].note


def test_the_report_names_the_browser_and_what_runs_in_it(fetched, tmp_path, monkeypatch):
    pinned = json.loads(packages.PINNED.read_text())
    found = runtimes.versions(["tfjs", "tflite-cpu"])
    assert found["@tensorflow/tfjs"] == pinned["@tensorflow/tfjs"]["version"]
    assert re.search(r"Chrom\w+ \d+\.", found["browser"])
    assert not any(name.startswith("@litertjs/") for name in found)
    assert runtimes.versions(["litert", "onnxruntime"]) == {}
    monkeypatch.setenv("TFCOMPRESS_BROWSER", str(tmp_path / "none"))
    monkeypatch.setenv("TFCOMPRESS_CACHE", str(tmp_path))
    assert runtimes.versions(["litert-js"]) == {}
