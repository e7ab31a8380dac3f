"""Sparse tensors: the same numbers in fewer bytes, where the runtime takes them."""

import hypothesis.strategies as st
import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings

from tfcompress import tflite
from tfcompress.compress.tflite import sparse, surgery, trim

DATA = ROOT / "tests" / "data"


def pruned(name, share):
    """A file whose kernels have this share of zeros."""
    model = tflite.load((DATA / name).read_bytes())
    for tensor in model.subgraphs[0].tensors:
        values = tflite.constant(model, tensor)
        if values is None or values.dtype not in (np.float32, np.int8) or values.ndim < 2:
            continue
        size = np.abs(values.astype(np.float64))
        left = np.where(size <= np.quantile(size, share), 0, values).astype(values.dtype)
        model.buffers[tensor.buffer].data = np.frombuffer(left.tobytes(), np.uint8)
    return trim.trim(tflite.dump(model), names=True)


def kernels(content):
    return {t["tensor"]: (t["shape"], t["zeros"], t["distinct"])
            for t in tflite.describe(content)["tensors"]}


def test_a_pruned_file_gets_smaller_and_computes_the_same_bits():
    content = pruned("digits.tflite", 0.8)
    made, said = sparse.proven(content)
    assert "stored without zeros" in said
    assert len(trim.trim(made)) < 0.7 * len(trim.trim(content))
    assert tflite.describe(made)["histogram"]["DENSIFY"] == 2
    # What the tables say of the weights is what they said before.
    assert kernels(made) == kernels(content)
    smaller = tflite.describe(made)["weights"]["bytes"]
    assert smaller < 0.5 * tflite.describe(content)["weights"]["bytes"]


def test_files_that_gain_nothing_stay_as_they_are():
    for content in (pruned("digits.tflite", 0.0), pruned("digits_int8.tflite", 0.9)):
        made, said = sparse.proven(content)
        assert made == content and "no weights have zeros enough" in said


def test_a_file_that_the_runtime_refuses_is_given_back(monkeypatch):
    """XNNPACK refuses int8 FULLY_CONNECTED behind DENSIFY: the reason for `INTEGER`."""
    content = pruned("digits_int8.tflite", 0.9)
    model = tflite.load(content)
    edit = surgery.Editor(model)
    op = next(o for o in edit.graph.operators if edit.kind(o) == "FULLY_CONNECTED")
    values = tflite.constant(model, edit.graph.tensors[op.inputs[1]])
    sparse._store(edit, op.inputs[1], values, sparse.Encoding(1, 1, 0))
    refused = tflite.dump(model)
    monkeypatch.setattr(sparse, "compressed", lambda _: (refused, {"tensors": ["w"], "bytes": 1}))
    made, said = sparse.proven(content)
    assert made == content and "does not take sparse tensors" in said


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_what_is_stored_is_what_comes_back(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=4), label="shape"))
    rng = np.random.default_rng(data.draw(st.integers(0, 99), label="seed"))
    values = rng.integers(-127, 128, shape).astype(np.int8)
    values[rng.random(shape) < data.draw(st.floats(0, 1), label="zeros")] = 0
    values.flat[0] = 1
    axis = data.draw(st.integers(0, len(shape) - 1), label="axis")
    block = data.draw(st.sampled_from([b for b in sparse.BLOCKS if shape[axis] % b == 0]))
    model = tflite.load((DATA / "digits_int8.tflite").read_bytes())
    edit = surgery.Editor(model)
    index = next(i for i, t in enumerate(edit.graph.tensors)
                 if t.shape is not None and len(t.shape) == 4 and edit.is_constant(i))
    edit.graph.tensors[index].shape = np.array(shape, np.int32)
    sparse._store(edit, index, values, sparse.Encoding(axis, block, 0))
    again = tflite.load(tflite.dump(model))
    found = [t for t in again.subgraphs[0].tensors if t.sparsity is not None]
    assert np.array_equal(tflite.constant(again, found[0]), values)


@pytest.mark.parametrize("zeros, least", [(0.5, None), (0.8, 0.55), (0.95, 0.2)])
def test_the_smallest_encoding_is_chosen(zeros, least):
    rng = np.random.default_rng(0)
    values = rng.integers(1, 127, (16, 3, 3, 32)).astype(np.int8)
    values[rng.random(values.shape) < zeros] = 0
    best = sparse.best_encoding(values)
    if least is None:
        assert best is None  # a byte of index for each byte of value
    else:
        assert best.bytes <= least * values.nbytes and best.block == 1
    grouped = rng.random((16, 3, 3, 8)) < zeros
    values = np.where(grouped.repeat(4, -1), 0, rng.integers(1, 127, values.shape)).astype(np.int8)
    assert sparse.best_encoding(values).block == 4
