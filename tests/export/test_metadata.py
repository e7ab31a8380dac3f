"""TFLite Metadata: written, read back, and readable by others."""

import zipfile

import numpy as np
import pytest
from floatfiles import FloatFile

from tfcompress import tflite
from tfcompress.errors import ModelError
from tfcompress.export import metadata

LABELS = ["cat", "dog", "größe"]
SCALE = {"mean": [123.0, 117.0, 104.0], "std": [58.0, 57.0, 57.5]}


@pytest.fixture
def file(tmp_path):
    build = FloatFile()
    x = build.input("image", (1, 8, 8, 3))
    y = build.dense(build.mean(x), np.eye(3))
    return build.save(tmp_path / "m.tflite", {"scores": y})


def embed(path, labels=LABELS, normalization=SCALE):
    metadata.embed(path, labels=labels, normalization=normalization,
                   provenance={"source": "0" * 64, "recipe": {"target": "tflite-int8"}})


def test_round_trip(file):
    embed(file)
    assert metadata.read(file) == {
        "inputs": ["image"], "outputs": ["scores"], "normalization": SCALE, "labels": LABELS,
        "provenance": {"source": "0" * 64, "recipe": {"target": "tflite-int8"}},
    }


def test_file_without_metadata(file):
    assert metadata.read(file) == {"inputs": [], "outputs": [], "normalization": None,
                                   "labels": None, "provenance": None}


def test_model_still_runs_and_means_the_same(file):
    from ai_edge_litert.interpreter import Interpreter

    def run():
        engine = Interpreter(model_path=str(file))
        return engine.get_signature_runner()(image=np.ones((1, 8, 8, 3), "f4"))["scores"]

    before, described = run(), tflite.describe(file)
    embed(file)
    np.testing.assert_array_equal(run(), before)
    after = tflite.describe(file)
    assert after["subgraphs"] == described["subgraphs"] and after["macs"] == described["macs"]


def test_labels_are_a_zip_that_anything_opens(file):
    embed(file)
    with zipfile.ZipFile(file) as archive:
        assert archive.namelist() == ["labels.txt"] and archive.testzip() is None
        assert archive.read("labels.txt").decode().splitlines() == LABELS


def test_small_and_deterministic_and_repeatable(file):
    size = file.stat().st_size
    embed(file)
    first = file.read_bytes()
    assert len(first) - size < 1000
    embed(file)
    assert file.read_bytes() == first
    embed(file, labels=None, normalization=None)
    found = metadata.read(file)
    assert found["labels"] is None and found["normalization"] is None
    assert not zipfile.is_zipfile(file)


def test_slots_of_the_public_schema(file):
    """The bytes follow metadata_schema.fbs, walked here by hand from the root."""
    embed(file)
    model = tflite.load(file)
    (entry,) = [e for e in model.metadata if e.name == b"TFLITE_METADATA"]
    data = bytes(model.buffers[entry.buffer].data)
    assert data[4:8] == b"M001"

    def u32(at):
        return int.from_bytes(data[at:at + 4], "little")

    def slot(table, number):
        vtable = table - int.from_bytes(data[table:table + 4], "little", signed=True)
        at = vtable + 4 + 2 * number
        return table + int.from_bytes(data[at:at + 2], "little")

    def follow(at):
        return at + u32(at)

    def first(table, number):
        vector = follow(slot(table, number))
        assert u32(vector) == 1
        return follow(vector + 4)

    subgraph = first(u32(0), 3)  # ModelMetadata.subgraph_metadata
    tensor = first(subgraph, 2)  # SubGraphMetadata.input_tensor_metadata
    unit = first(tensor, 4)  # TensorMetadata.process_units
    assert data[slot(unit, 0)] == 1  # ProcessUnitOptions.NormalizationOptions
    mean = follow(slot(follow(slot(unit, 1)), 0))
    assert np.frombuffer(data, "<f4", 3, mean + 4).tolist() == SCALE["mean"]
    scores = first(subgraph, 3)  # SubGraphMetadata.output_tensor_metadata
    labels = first(scores, 6)  # TensorMetadata.associated_files
    assert data[slot(labels, 2)] == 2  # AssociatedFileType.TENSOR_AXIS_LABELS
    name = follow(slot(labels, 0))
    assert data[name + 4:name + 4 + u32(name)] == b"labels.txt"


def test_damaged_metadata(file):
    embed(file)
    model = tflite.load(file)
    (entry,) = [e for e in model.metadata if e.name == b"TFLITE_METADATA"]
    model.buffers[entry.buffer].data = np.frombuffer(b"\xff" * 40, np.uint8)
    file.write_bytes(tflite.dump(model))
    with pytest.raises(ModelError, match="metadata of m.tflite are damaged"):
        metadata.read(file)


def test_not_a_model(tmp_path):
    path = tmp_path / "x.tflite"
    path.write_bytes(b"hello")
    with pytest.raises(ModelError):
        embed(path)
    assert path.read_bytes() == b"hello" and list(tmp_path.iterdir()) == [path]
