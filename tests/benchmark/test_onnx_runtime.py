"""ONNX Runtime behind the same seam as the other runtimes, and measured like them."""

import numpy as np
import pytest
from onnxfiles import OnnxFile, cnn

from tfcompress.benchmark.runtimes import RUNTIMES, open_session
from tfcompress.errors import DataError, MissingExtra, ModelError


def test_runs_batches_of_any_size(tmp_path):
    session = open_session(cnn(tmp_path / "m.onnx"), "onnxruntime")
    assert session.inputs[0] == {"name": "x", "shape": [None, 8, 12, 12], "dtype": "float32",
                                 "scale": 0.0, "zero_point": 0}  # fmt: skip
    x = np.random.default_rng(0).normal(size=(5, 8, 12, 12))
    whole = session.run([x])[0]
    assert whole.shape == (5, 10) and whole.dtype == np.float32
    single = np.concatenate([session.run([x[i : i + 1]])[0] for i in range(5)])
    np.testing.assert_allclose(whole, single, atol=1e-5)


def test_takes_inputs_in_the_order_of_the_names(tmp_path):
    file = OnnxFile()
    a, b = file.input("a", [3]), file.input("b", [3])
    path = file.save(tmp_path / "m.onnx", {"y": (file.op("Sub", a, b), [3])})
    one, two = np.ones((1, 3)), np.full((1, 3), 5.0)
    straight = open_session(path, "onnxruntime", names={"inputs": ["a", "b"], "outputs": ["y"]})
    turned = open_session(path, "onnxruntime", names={"inputs": ["b", "a"], "outputs": ["y"]})
    assert straight.run([one, two])[0][0, 0] == -4
    assert turned.run([one, two])[0][0, 0] == 4


def test_refuses_what_does_not_fit(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="ONNX Runtime cannot run"):
        open_session(tmp_path / "bad.onnx", "onnxruntime")
    session = open_session(cnn(tmp_path / "m.onnx"), "onnxruntime")
    with pytest.raises(ModelError, match="ONNX Runtime cannot run"):
        session.run([np.zeros((1, 3, 12, 12))])
    with pytest.raises(DataError):
        session.run([np.zeros((1, 8, 12, 12)), np.zeros((1, 2))])


def test_a_gpu_that_is_not_there_is_told(tmp_path):
    import onnxruntime

    path = cnn(tmp_path / "m.onnx")
    for name in ("onnxruntime-cuda", "onnxruntime-tensorrt"):
        if RUNTIMES[name].PROVIDERS[0] not in onnxruntime.get_available_providers():
            with pytest.raises(MissingExtra, match="no (CUDA|Tensorrt)ExecutionProvider"):
                open_session(path, name)


@pytest.mark.slow
def test_latency_by_the_same_road(tmp_path):
    from tfcompress.benchmark import latency

    path = str(cnn(tmp_path / "m.onnx"))
    found = latency.measure(
        [{"name": "a", "path": path, "runtime": "onnxruntime"},
         {"name": "b", "path": path, "runtime": "onnxruntime-cuda"}], [1], seconds=0.3)  # fmt: skip
    values = {m.name: m for m in found["a"]}
    assert len(values["latency"].values) >= 5 and values["latency"].p50 > 0
    assert values["peak_memory"].values and values["load_time"].values
    if not found["b"][0].values:
        assert found["b"][0].note.startswith("not measured: ")
