import os
import shutil
import subprocess
import sys
import time

import measure_samples as given_models
import numpy as np
import pytest
from measure_samples import model

from tfcompress.benchmark import latency, runtimes


def artifact(name, **more) -> dict:
    return {"name": name, "path": model(name), "runtime": "litert", **more}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Two good files, one that is not there and one that is no model, at one and two threads."""
    broken = tmp_path_factory.mktemp("broken") / "broken.tflite"
    broken.write_bytes(b"no model")
    seen = []
    found = latency.measure(
        [artifact("digits"), artifact("digits_int8"),
         {"name": "absent", "path": "/nowhere/absent.tflite", "runtime": "litert"},
         {"name": "broken", "path": str(broken), "runtime": "litert"}],
        [1, 2], 0.4, lambda f, t: seen.append(f))
    return found, seen


def test_every_measurement_is_there_with_raw_samples(measured):
    for name in ("digits", "digits_int8"):
        found = {m.name: m for m in measured[0][name]}
        assert {k: m.unit for k, m in found.items()} == latency.NAMES
        for key in ("latency", "latency_threads"):
            assert latency.ENOUGH <= len(found[key].values) <= latency.MOST
            assert all(0 < v < 1000 for v in found[key].values)
        assert found["latency"].note.startswith("1 thread, batch 1")
        assert found["latency_threads"].note.startswith("2 threads")
        assert "load" in found["latency"].note and "cores" in found["latency"].note
        assert 0 < found["peak_memory"].p50 < 100 << 20
        assert 1 <= len(found["load_time"].values) <= 5
        overall = 1000 / found["latency"].summary()["mean"]
        rates = found["throughput"].values
        assert min(rates) * 0.999 <= overall <= max(rates) * 1.001


def test_a_failure_is_a_note_and_not_an_exception(measured):
    for name, words in (("absent", "no such file"), ("broken", "litert cannot run")):
        assert {m.name for m in measured[0][name]} == set(latency.NAMES)
        assert all(not m.values and m.note.startswith("not measured: ") and words in m.note
                   for m in measured[0][name])


def test_progress_rises_to_the_end(measured):
    seen = measured[1]
    assert seen == sorted(seen) and 0 <= seen[0] and seen[-1] == 1.0


def test_the_process_that_dies_costs_only_its_own_row(tmp_path):
    """A file is cut off after it was mapped: the process gets SIGBUS in the middle of its work."""
    victim = tmp_path / "victim.tflite"
    shutil.copy(model("digits"), victim)
    calls = []

    def kill(fraction, text):
        if text == "measuring latency" and not calls:
            calls.append(1)
            out = subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, text=True)
            os.kill(int(out.stdout.split()[0]), 9)

    found = latency.measure([{**artifact("digits"), "path": str(victim), "name": "victim"},
                             artifact("digits_int8")], [1], 5.0, kill)
    assert all("SIGKILL" in m.note and not m.values for m in found["victim"])
    assert all(m.values for m in found["digits_int8"])


def test_time_is_kept_and_slow_models_get_fewer_samples():
    lane = latency._Lane({}, 1, bursts=[[400.0]] * 4, spent=1.6)
    assert not lane.done(0.5)
    lane.bursts.append([400.0])
    assert lane.done(0.5)
    fast = latency._Lane({}, 1, bursts=[[0.1] * 29], spent=0.6)
    assert not fast.done(0.5)
    fast.bursts.append([0.1])
    assert fast.done(0.5)
    assert latency._Lane({}, 1, bursts=[[0.1] * 100] * 10, spent=0.01).done(0.5)
    start = time.perf_counter()
    latency.measure([artifact("digits_int8")], [1], 0.3)
    assert time.perf_counter() - start < 10


def test_the_first_sample_is_the_input(tmp_path):
    images = given_models.digits()[0]
    given_models.write(tmp_path, [images], [np.zeros((1, 10))])
    rows, origin = latency._input([{"shape": [1, 8, 8, 1], "dtype": "int8", "scale": 0.1,
                                    "zero_point": 0}], str(tmp_path / "held"), 0)
    assert origin == "first sample" and np.array_equal(rows[0], images[:1])
    found = latency.measure([artifact("digits", samples=str(tmp_path / "held"))], [1], 0.1)
    assert "first sample" in found["digits"][0].note


@pytest.mark.parametrize("spec, low, high", [
    ({"dtype": "float32", "scale": 0.0}, -1, 1), ({"dtype": "int32", "scale": 0.0}, 0, 1),
    ({"dtype": "uint8", "scale": 0.0}, 0, 255), ({"dtype": "int8", "scale": 0.5}, -59, 69)])
def test_random_input_is_seeded_and_in_range(spec, low, high):
    spec = {"shape": [1, 50, 7], "zero_point": -10, **spec}
    (a,), _ = latency._input([spec], None, 3)
    (b,), _ = latency._input([spec], None, 3)
    assert np.array_equal(a, b) and a.shape == (1, 50, 7) and len(np.unique(a)) > 1
    assert low <= a.min() and a.max() <= high
    assert not np.array_equal(a, latency._input([spec], None, 4)[0][0])


def test_peak_memory_sees_what_was_freed_again():
    base = latency.reset_peak()
    block = bytearray(os.urandom(1 << 20) * 64)
    del block
    assert latency.peak_bytes() - base > 50 << 20


def test_idle_processes_do_not_disturb():
    """After `settle`, a process whose threads just worked uses no processor time."""
    latency.prepare({"path": model("digits"), "runtime": "litert", "threads": 2, "seed": 0,
                     "samples": None}, None)
    latency.burst({}, None)
    used = time.process_time()
    time.sleep(0.1)
    assert time.process_time() - used < 0.02


class Interrupted(runtimes.Litert):
    """A file whose every sixth invocation is interrupted for long, as on a busy machine."""

    def ready(self, arrays):
        invoke, calls = super().ready(arrays), iter(range(10**9))

        def sometimes():
            invoke()
            if next(calls) % 6 == 5:
                time.sleep(0.06)

        return sometimes


def test_an_interrupted_warm_up_does_not_shrink_the_bursts(monkeypatch):
    """Bursts of single invocations would time cold caches: several times what users wait."""
    monkeypatch.setitem(runtimes.RUNTIMES, "litert", Interrupted)
    latency.prepare({"path": model("digits"), "runtime": "litert", "threads": 1, "seed": 0,
                     "samples": None}, None)
    assert len(latency.burst({"most": 30}, None)["ms"]) == 30


@pytest.mark.slow
def test_keras_and_savedmodel_are_measured_too(tmp_path):
    subprocess.run([sys.executable, str(given_models.DATA / "make.py"), str(tmp_path)], check=True)
    found = latency.measure(
        [{"name": "keras", "path": str(tmp_path / "digits.keras"), "runtime": "keras"},
         {"name": "saved", "path": str(tmp_path / "digits"), "runtime": "tensorflow"},
         artifact("digits")], [1], 0.5)
    p50 = {name: next(m.p50 for m in ms if m.name == "latency") for name, ms in found.items()}
    assert p50["digits"] < p50["keras"] and p50["digits"] < p50["saved"]
    assert all(m.values for ms in found.values() for m in ms)
