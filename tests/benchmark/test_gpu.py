"""LiteRT's GPU delegate, on a GPU where there is one and on Chromium's software adapter else."""

import sys

import numpy as np
import pytest
from floatfiles import FloatFile
from web import conv_file

from tfcompress.benchmark import gpu, latency, runtimes
from tfcompress.errors import MissingExtra

LINUX = sys.platform.startswith("linux")


@pytest.fixture(scope="module")
def adapter():
    try:
        return gpu._adapter()
    except MissingExtra as error:
        pytest.skip(f"{error.message}: {error.hint}")


@pytest.mark.slow
def test_outputs_are_those_of_the_cpu(adapter, tmp_path):
    path = conv_file(tmp_path / "m.tflite")
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 3))
    session = runtimes.open_session(path, "litert-gpu")
    want = runtimes.open_session(path, "litert").run([x])[0]
    got = session.run([x])[0]
    assert got.shape == want.shape == (3, 4)
    np.testing.assert_allclose(got, want, rtol=0.02, atol=0.02)  # a GPU may compute in float16
    assert session.left == [] and session.findings == []
    assert session.adapter and session.adapter in session.note
    assert session.note.startswith("software adapter" if session.software else "adapter")


@pytest.mark.slow
def test_operations_left_to_the_cpu_are_named(adapter, tmp_path):
    build = FloatFile()
    x = build.conv(build.input("image", (1, 4, 4, 3)), np.ones((2, 1, 1, 3)))
    x = build.op("RESHAPE", [x, build.constant([1, 2, 2, 2, 4])], (1, 2, 2, 2, 4))
    x = build.op("MEAN", [x, build.constant([1, 2])], (1, 2, 4), "Reducer")
    path = build.save(tmp_path / "m.tflite", {"y": x})
    session = runtimes.open_session(path, "litert-gpu")
    image = np.random.default_rng(0).normal(size=(1, 4, 4, 3))
    want = runtimes.open_session(path, "litert").run([image])[0]
    np.testing.assert_allclose(session.run([image])[0], want, rtol=0.02, atol=0.02)
    assert {"RESHAPE"} <= {o["op"] for o in session.left}
    assert "stay on the CPU" in session.note
    assert "the GPU leaves operations to the CPU: " in session.findings[0]["text"]


@pytest.mark.slow
def test_latency_says_what_it_was_taken_on(adapter, tmp_path):
    path = str(conv_file(tmp_path / "m.tflite"))
    artifact = {"name": "a", "path": path, "runtime": "litert-gpu"}
    found = {m.name: m for m in latency.measure([artifact], [1], seconds=0.3)["a"]}
    assert found["latency"].values and adapter[0] in found["latency"].note


def test_reads_what_the_delegate_prints():
    text = ("INFO: something\nERROR: Following operations are not supported by GPU delegate:\n"
            "GATHER: Only support 1D indices\n"
            "ADD: Tensor dimensions must be less than 5. model/add\n"
            "3 operations will run on the GPU, and the remaining 2 operations will run on the "
            "CPU.\nOTHER: not one of them\n")  # fmt: skip
    assert gpu._left(text, {"model/add"}) == [
        {"op": "GATHER", "why": "Only support 1D indices", "tensor": ""},
        {"op": "ADD", "why": "Tensor dimensions must be less than 5.", "tensor": "model/add"}]
    assert gpu.COUNTS.findall(text) == [("3", "2")]
    assert gpu._left("nothing of the kind", set()) == []


@pytest.mark.skipif(not LINUX, reason="elsewhere the delegate does not draw on Vulkan")
def test_no_adapter_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.Adapters, "found", [])
    with pytest.raises(MissingExtra, match="no Vulkan adapter") as caught:
        runtimes.open_session(conv_file(tmp_path / "m.tflite"), "litert-gpu")
    assert caught.value.exit_code == 5 and "chromium" in caught.value.hint


def test_a_driver_of_the_user_is_left_alone(monkeypatch):
    for name in gpu.CHOSEN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VK_DRIVER_FILES", "/somewhere/icd.json")
    assert gpu.drivers() == ["/somewhere/icd.json"]
