"""The compatibility matrix: its page is drawn from its data, and the data hold when done anew."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

SWEEPS = ROOT / "tests" / "performance"
AGAIN = ["mlp", "conv1d", "layernorm", "lstm"]
TARGETS = ["tflite-float32", "tflite-int8", "onnx-float32", "onnx-int8"]


@pytest.fixture(scope="module")
def pages():
    sys.path.insert(0, str(SWEEPS))
    try:
        import matrix_page
    finally:
        sys.path.remove(str(SWEEPS))
    return matrix_page


def test_the_page_is_drawn_from_its_data(pages):
    record = json.loads(pages.DATA.read_text())
    assert len(record["models"]) > 100
    assert (ROOT / "docs" / "compatibility.md").read_text() == pages.render(record)


def test_every_failure_says_why(pages):
    for name, found in json.loads(pages.DATA.read_text())["models"].items():
        for target, record in found.items():
            told = record.keys() & {"error", "snr_db", "late"}
            assert pages.good(record, target) or told, name


def test_what_was_not_measured_is_not_counted(pages):
    found = {"cnn": {"tfjs": {"snr_db": 50.0}}, "mlp": {"tfjs": {"late": 9}}, "conv1d": {}}
    assert pages._count(found, found, "tfjs") == "1 of 1"
    notes = pages.Notes()
    assert pages._cells("mlp", found["mlp"], ["tfjs", "onnx-int8"], notes) == ["–[^1]", ""]
    assert "9 seconds" in notes.texts[0]


CHILD = """
import os, sys, time
sys.path.insert(0, {sweeps!r})
import sweep

def one(job):
    if job == "slow":
        time.sleep(60)
    if job == "deadly":
        os.abort()
    return {{"said": job}}

sweep.answer(one)
"""


def test_a_job_that_hangs_or_kills_costs_only_itself(monkeypatch):
    monkeypatch.syspath_prepend(str(SWEEPS))
    import sweep

    command = [sys.executable, "-c", CHILD.format(sweeps=str(SWEEPS))]
    told = dict(sweep.sweep(command, ["a", "slow", "deadly", "b"], limit=3))
    assert told == {"a": {"said": "a"}, "slow": {"late": 3}, "deadly": {"error": sweep.KILLED},
                    "b": {"said": "b"}}  # fmt: skip


@pytest.mark.slow
def test_some_constructs_done_anew_give_the_same_verdicts(pages, tmp_path):
    kept = json.loads(pages.DATA.read_text())["models"]
    names = [n for n in kept if n in AGAIN] or sorted(kept)[::40]
    command = [sys.executable, str(SWEEPS / "matrix.py"), *names, "--json", tmp_path / "m.json"]
    for target in TARGETS:
        command += ["--target", target]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    again = json.loads((tmp_path / "m.json").read_text())["models"]
    for name in names:
        for target in TARGETS:
            before, now = kept[name][target], again[name][target]
            assert pages.good(now, target) == pages.good(before, target), (name, target, now)
