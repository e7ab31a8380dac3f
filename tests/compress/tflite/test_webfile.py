"""Files whose ends LiteRT.js and the GPU delegate take, still computing the same."""

import numpy as np
from floatfiles import FloatFile

from tfcompress import tflite
from tfcompress.benchmark.runtimes import open_session
from tfcompress.compress.tflite.webfile import for_browser


def _session(content, path):
    path.write_bytes(content)
    return open_session(path, "litert")


def test_wide_and_boolean_ends_become_int32(tmp_path):
    build = FloatFile()
    x = build.input("x", (1, 3))
    build.op("CAST", [x], (1, 3))
    build.graph.tensors[-1].type = 4  # int64
    wide = len(build.graph.tensors) - 1
    same = build.compare("GREATER", x, np.zeros(3))
    before = build.save(tmp_path / "a.tflite", {"count": wide, "is": same}).read_bytes()
    content, notes = for_browser(before)
    assert len(notes) == 2 and "int64" in notes[0] and "'is'" in notes[1]
    session = _session(content, tmp_path / "b.tflite")
    assert {s["name"]: s["dtype"] for s in session.outputs} == {"count": "int32", "is": "int32"}
    found = dict(zip([s["name"] for s in session.outputs],
                     session.run([np.array([[2.0, -3.0, 0.0]])]), strict=True))
    assert found["count"].tolist() == [[2, -3, 0]] and found["is"].tolist() == [[1, 0, 0]]


def test_an_input_of_another_type_is_cast(tmp_path):
    build = FloatFile()
    x = build.input("x", (1, 2))
    build.graph.tensors[x].type = 4
    out = build.op("CAST", [x], (1, 2))
    before = build.save(tmp_path / "a.tflite", {"y": out}).read_bytes()
    content, notes = for_browser(before)
    session = _session(content, tmp_path / "b.tflite")
    assert session.inputs[0]["dtype"] == "int32" and session.inputs[0]["name"] == "x"
    assert session.run([np.array([[5, 7]])])[0].tolist() == [[5.0, 7.0]]
    assert notes == ["input 'x' is int32 in the file (int64 in the model): "
                     "LiteRT.js has no such tensors"]


def test_one_tensor_under_two_names_becomes_two(tmp_path):
    build = FloatFile()
    x = build.input("x", (1, 3))
    y = build.add(x, [1.0, 1.0, 1.0])
    build.save(tmp_path / "a.tflite", {"first": y})
    build.model.signatureDefs[0].outputs += [build._entry(b"second", y), build._entry(b"same", x)]
    build.graph.outputs = [y, y, x]
    content, notes = for_browser(tflite.dump(build.model))
    assert not notes
    model = tflite.load(content)
    ends = [e.tensorIndex for e in model.signatureDefs[0].outputs]
    assert len(set(ends)) == 3 and not set(ends) & set(model.subgraphs[0].inputs)
    session = _session(content, tmp_path / "b.tflite")
    found = dict(zip([s["name"] for s in session.outputs],
                     session.run([np.array([[1.0, 2.0, 3.0]])]), strict=True))
    assert found["first"].tolist() == found["second"].tolist() == [[2, 3, 4]]
    assert found["same"].tolist() == [[1, 2, 3]]


def test_other_files_stay_as_they_are(tmp_path):
    build = FloatFile()
    x = build.input("x", (1, 3))
    before = build.save(tmp_path / "a.tflite", {"y": build.add(x, [1, 1, 1])}).read_bytes()
    assert for_browser(before) == (before, [])
