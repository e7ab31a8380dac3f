"""Metadata properties of .onnx files, through onnx and through the runtime."""

import onnxruntime
import pytest
from onnxfiles import cnn

from tfcompress.errors import ModelError
from tfcompress.export import onnx_metadata


def test_written_read_and_replaced(tmp_path):
    path = cnn(tmp_path / "m.onnx")
    told = {"labels": ["cat", "dog"], "normalization": {"mean": [0.5], "std": [0.25]},
            "provenance": {"source_sha256": "ab", "target": "onnx-int8"}}  # fmt: skip
    onnx_metadata.embed(path, **told)
    assert onnx_metadata.read(path) == told
    there = onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map
    assert there["labels"] == "cat\ndog"
    before = path.read_bytes()
    onnx_metadata.embed(path, **told)
    assert path.read_bytes() == before
    onnx_metadata.embed(path, labels=None, normalization=None, provenance={"target": "other"})
    assert onnx_metadata.read(path)["provenance"] == {"target": "other"}
    assert onnx_metadata.read(path)["labels"] == ["cat", "dog"]


def test_a_file_without_any(tmp_path):
    empty = {"labels": None, "normalization": None, "provenance": None}
    assert onnx_metadata.read(cnn(tmp_path / "m.onnx")) == empty


def test_what_is_not_onnx(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"no model at all")
    with pytest.raises(ModelError, match="not an ONNX file"):
        onnx_metadata.read(tmp_path / "m.onnx")
