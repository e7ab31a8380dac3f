"""Trimming on files of this package's own quantizer: fewer bytes, the same outputs."""

import numpy as np
import pytest
from conftest import ROOT
from smallfiles import images, outputs, residual

from tfcompress import tflite
from tfcompress.compress.tflite import trim
from tfcompress.errors import ModelError


@pytest.fixture(scope="module", params=["tflite-int8", "tflite-float32", "tflite-dynamic"])
def file(request, tmp_path_factory):
    return residual(tmp_path_factory.mktemp("files"), request.param)


def test_computes_the_same_with_fewer_bytes(file):
    made = trim.trim(file)
    assert len(made) < len(file) - 500
    for image in images(5):
        assert np.array_equal(outputs(made, image), outputs(file, image))


def test_keeps_names_of_the_ends_and_the_signature(file):
    before, after = tflite.describe(file), tflite.describe(trim.trim(file))
    for key in ("inputs", "outputs", "signature", "histogram", "macs"):
        assert after[key] == before[key], key


def test_is_deterministic_and_done_at_once(file):
    made = trim.trim(file)
    assert trim.trim(file) == made
    assert trim.trim(made) == made


def test_constants_stay_aligned(file):
    made = trim.trim(file)
    model = tflite.load(made)
    data = [b.data.tobytes() for b in model.buffers if b.data is not None and b.data.any()]
    weights = [d for d in data if len(d) > 64]
    assert len(weights) >= 3
    for values in weights:
        assert made.count(values) == 1
        assert made.find(values) % tflite.ALIGNMENT == 0


def test_zero_points_and_equal_tables_are_written_once(file):
    model = tflite.load(file)
    zeros = {len(t.quantization.zeroPoint) for t in model.subgraphs[0].tensors
             if t.quantization is not None and t.quantization.zeroPoint is not None}
    if not zeros:
        pytest.skip("a float file has none")
    longest = bytes(8 * max(zeros))
    assert file.count(longest) > trim.trim(file).count(longest)


def test_what_people_wrote_into_the_file_is_kept(file):
    model = tflite.load(file)
    from ai_edge_litert import schema_py_generated as schema

    for name, text in ((b"TFLITE_METADATA", b"labels.txt"), (b"CONVERSION_METADATA", b"when")):
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = np.frombuffer(text, np.uint8)
        model.buffers.append(buffer)
        entry.name, entry.buffer = name, len(model.buffers) - 1
        model.metadata = [*(model.metadata or []), entry]
    made = trim.trim(tflite.dump(model))
    after = tflite.load(made)
    kept = {m.name: after.buffers[m.buffer].data.tobytes() for m in after.metadata}
    assert kept == {b"TFLITE_METADATA": b"labels.txt"}
    assert b"when" not in made


def test_free_dimensions_are_kept(file):
    model = tflite.load(file)
    graph = model.subgraphs[0]
    tensor = graph.tensors[graph.inputs[0]]
    tensor.shapeSignature = np.array([-1, *tensor.shape[1:]], np.int32)
    after = tflite.load(trim.trim(tflite.dump(model))).subgraphs[0]
    assert list(after.tensors[after.inputs[0]].shapeSignature) == [-1, 16, 16, 3]


def test_a_file_into_itself(file, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(file)
    before, after = trim.trim_file(path, path)
    assert (before, after) == (len(file), path.stat().st_size)
    assert path.read_bytes() == trim.trim(file)
    assert [p.name for p in tmp_path.iterdir()] == ["model.tflite"]


def test_what_is_no_tflite_file_is_refused():
    with pytest.raises(ModelError):
        trim.trim(b"PK\3\4 not this")


def test_files_behind_the_model_stay(tmp_path):
    import zipfile

    path = tmp_path / "m.tflite"
    path.write_bytes((ROOT / "tests" / "data" / "digits_int8.tflite").read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", "zero\none\n")
    trim.trim_file(path, path)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt") == b"zero\none\n"
    assert path.read_bytes()[4:8] == b"TFL3"
