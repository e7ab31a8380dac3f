"""ONNX Runtime Web in a real headless Chromium, against ONNX Runtime on this machine."""

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnxfiles import OnnxFile, cnn
from web import needs_browser

from tfcompress.benchmark import packages, runtimes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fetched():
    needs_browser()
    return packages.fetch()


def mixed(path) -> Path:
    """Words as int64 and a switch, beside floats of any length; a class as int64."""
    file = OnnxFile()
    word = file.input("word", [2], TensorProto.INT64)
    steps = file.input("steps", ["length", 3])
    switch = file.input("switch", [1], TensorProto.BOOL)
    table = file.constant(np.random.default_rng(0).normal(size=(9, 3)).astype("f4"))
    x = file.op("ReduceMean", file.op("Gather", table, word, axis=0), axes=[1], keepdims=0)
    x = file.op("Add", x, file.op("ReduceMean", steps, axes=[1], keepdims=0))
    x = file.op("Where", switch, x, file.op("Neg", x))
    best = file.op("ArgMax", x, axis=1, keepdims=1)
    file.save(path, {"scores": (x, [3]), "best": (best, [1])})
    model = onnx.load(path)
    model.graph.output[1].type.tensor_type.elem_type = TensorProto.INT64
    onnx.save(model, path)
    return path


def determinant(path) -> Path:
    """An operation that ONNX Runtime Web has on WebAssembly only."""
    file = OnnxFile()
    return file.save(path, {"y": (file.op("Relu", file.op("Det", file.input("x", [3, 3]))), [])})


def both(path, arrays, names=None, backend="wasm"):
    """The session's note, its outputs, and those of ONNX Runtime."""
    with contextlib.closing(runtimes.open_session(
            str(path), f"onnxruntime-web-{backend}", names=names)) as session:
        found = session.run(arrays)
        note = session.note
    return note, found, runtimes.open_session(str(path), "onnxruntime", names=names).run(arrays)


def test_outputs_time_and_transfer(fetched, tmp_path):
    path = cnn(tmp_path / "m.onnx")
    x = np.random.default_rng(0).normal(size=(3, 8, 12, 12)).astype("f4")
    with contextlib.closing(runtimes.open_session(str(path), "onnxruntime-web")) as session:
        wanted = runtimes.open_session(str(path), "onnxruntime").run([x])
        np.testing.assert_allclose(session.run([x])[0], wanted[0], rtol=1e-4, atol=1e-5)
        assert session.note == "on wasm" and session.load_ms > 0
        session.ready([x[:1]])
        assert all(0 < t < 60_000 for t in session.burst(5))
        found = {m.name: m for m in session.measurements()}
        assert 0 < found["transfer_gzip"].p50 <= path.stat().st_size + 100
        assert "2 files" in found["runtime_transfer"].note  # no WebGPU where none was asked for
        other = cnn(tmp_path / "other.onnx", seed=1)
        session.open(str(other))
        wanted = runtimes.open_session(str(other), "onnxruntime").run([x])
        np.testing.assert_allclose(session.run([x])[0], wanted[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [4, 7])
def test_other_types_and_a_free_length(fetched, tmp_path, length):
    rng = np.random.default_rng(length)
    arrays = [rng.integers(0, 9, (5, 2)), rng.normal(size=(5, length, 3)).astype("f4"),
              rng.integers(0, 2, (5, 1)).astype(bool)]
    names = {"inputs": ["word", "steps", "switch"], "outputs": ["best", "scores"]}
    _, found, wanted = both(mixed(tmp_path / "m.onnx"), arrays, names)
    np.testing.assert_array_equal(found[0], wanted[0])
    assert found[0].dtype == np.int32
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make, shape, backend", [
    (cnn, (8, 12, 12), "on webgpu; "), (determinant, (3, 3), "on webgpu and wasm; ")])
def test_the_backend_that_really_ran_is_named(fetched, tmp_path, make, shape, backend):
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("f4")
    note, found, wanted = both(make(tmp_path / "m.onnx"), [x], backend="webgpu")
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-3, atol=1e-3)
    assert note.startswith(backend)
    if not Path("/dev/dri").exists():
        assert "software adapter: " in note


def test_a_file_that_is_none(fetched, tmp_path):
    from tfcompress.errors import ModelError

    (tmp_path / "m.onnx").write_bytes(b"nothing" * 9)
    with pytest.raises(ModelError, match="onnx on wasm"):
        runtimes.open_session(str(tmp_path / "m.onnx"), "onnxruntime-web")
