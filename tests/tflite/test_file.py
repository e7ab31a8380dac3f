"""Reading and writing .tflite files, and bytes that are none."""

import numpy as np
import pytest
from floatfiles import FloatFile, small
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress import tflite
from tfcompress.errors import ModelError


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return small(tmp_path_factory.mktemp("f") / "m.tflite")


def test_dump_keeps_the_model_and_aligns_data(file):
    again = tflite.dump(tflite.load(file))
    assert again == tflite.dump(tflite.load(again))
    assert tflite.describe(again)["subgraphs"] == tflite.describe(file)["subgraphs"]
    for buffer in tflite.load(again).buffers:
        if buffer.data is not None:
            assert again.find(bytes(buffer.data)) >= 0
    weights = tflite.load(again).buffers[1].data
    base = np.frombuffer(again, np.uint8)
    offset = weights.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    if 0 <= offset < len(again):  # a view of the bytes, so its place is known
        assert offset % tflite.ALIGNMENT == 0


def test_int4_is_unpacked():
    build = FloatFile()
    index = build.tensor([5], "w", np.array([0x2F, 0x87, 0x01], np.uint8), "INT4")
    values = tflite.constant(build.model, build.graph.tensors[index])
    assert values.tolist() == [-1, 2, 7, -8, 1]


@pytest.mark.parametrize("text", [b"", b"TFL3", b"not a model at all", b"PK\x03\x04" + b"\0" * 50])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "x.tflite"
    path.write_bytes(text)
    with pytest.raises(ModelError, match="is not a TFLite file"):
        tflite.describe(path)


def test_missing_file(tmp_path):
    with pytest.raises(ModelError, match="cannot read"):
        tflite.describe(tmp_path / "none.tflite")
    with pytest.raises(ModelError, match="cannot read"):
        tflite.describe(tmp_path)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_garbage_behind_the_identifier(tail):
    _only_model_errors(b"\x18\0\0\0" + tflite.IDENTIFIER + tail)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_truncated_and_flipped(file, data):
    whole = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(8, len(whole) - 1))] = data.draw(st.integers(0, 255))
    _only_model_errors(bytes(whole[: data.draw(st.integers(0, len(whole)))]))


def _only_model_errors(data):
    try:
        found = tflite.describe(data)
    except ModelError as error:
        assert error.message and error.hint
    else:
        assert isinstance(found["macs"], int)
