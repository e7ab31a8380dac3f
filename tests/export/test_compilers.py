"""The one door to all compilers, and the rules that are asked before any training."""

from pathlib import Path

import pytest
from floatfiles import FloatFile

from tfcompress import targets, tflite
from tfcompress.errors import UsageError
from tfcompress.export import compilers, npu_rules

DATA = Path(__file__).parent.parent / "data"
INT8 = str(DATA / "digits_int8.tflite")
NAMES = [t.name for t in targets.load_all() if t.compiler]


def silent(fraction, text):
    pass


def test_every_compiler_of_the_targets_is_there():
    assert set(compilers.COMPILERS) == set(targets.COMPILERS)
    assert set(compilers.COMPILERS) - {"web"} == set(npu_rules.CHECKS)
    assert {"edge-tpu", "ethos-u55-128", "ethos-u55-256", "ethos-u65-256", "micro"} <= set(NAMES)


def test_an_answer_has_its_form(tmp_path):
    asked = {"path": INT8, "out": str(tmp_path / "new"), "target": targets.load("micro").to_dict()}
    found = compilers.compile(asked, silent)
    assert set(found) == {"path", "files", "measurements", "findings", "fallbacks"}
    assert all(set(m) == {"name", "unit", "values", "note"} for m in found["measurements"])
    assert all(set(f) == {"level", "text", "advice"} for f in found["findings"])


def test_fallbacks_name_the_layer(tmp_path):
    asked = {"path": INT8, "out": str(tmp_path), "target": targets.load("edge-tpu").to_dict()}
    found = compilers.compile(asked, silent)["fallbacks"]
    assert [(f["op"], f["layer"]) for f in found][0][0] == "FULLY_CONNECTED"
    assert found[0]["layer"] == "digit"


def test_memory_limits_of_a_target(tmp_path):
    file = tmp_path / "board.toml"
    file.write_text(
        'summary = "a board"\nformat = "tflite"\nquantization = "int8"\ncompiler = "micro"\n'
        "[limits]\nram_bytes = 1000\nflash_bytes = 1000000\n"
    )
    target = targets.load(str(file)).to_dict()
    found = compilers.compile({"path": INT8, "out": str(tmp_path), "target": target}, silent)
    assert "bytes of RAM" in found["findings"][0]["text"]
    assert not any("flash" in f["text"] for f in found["findings"] if f["level"] == "error")


@pytest.mark.parametrize(
    "text, told",
    [
        ('compiler = "gcc"', "gcc"),
        ('compiler = "vela"\n[options]\naccelerater = "x"', "accelerater"),
        ('[options]\narray = "x"', "array"),
    ],
)
def test_wrong_compilers_in_target_files(tmp_path, text, told):
    file = tmp_path / "own.toml"
    file.write_text(f'summary = "x"\nformat = "tflite"\n{text}\n')
    with pytest.raises(UsageError, match=told):
        targets.load(str(file))


def check(file, name):
    ops = tflite.operations(tflite.load(file))
    return npu_rules.check(ops, targets.load(name).to_dict())


@pytest.mark.parametrize("name", NAMES)
def test_a_float_file_of_known_operators_has_no_findings(name):
    assert check(DATA / "digits.tflite", name) == []


def test_targets_without_a_compiler_are_not_checked():
    assert check(DATA / "lstm.tflite", "tflite-int8") == []


def test_operators_that_a_target_lacks_are_found_in_a_float_file():
    found = check(DATA / "logarithm.tflite", "edge-tpu")
    assert [f["op"] for f in found if f["op"]] == ["LOG"]
    assert "stays on the CPU" in found[0]["text"] and found[0]["tensor"]
    assert npu_rules.totals(found) == "LOG 1"
    assert check(DATA / "logarithm.tflite", "ethos-u55-128") == []


def test_what_comes_behind_is_counted(tmp_path):
    build = FloatFile()
    x = build.unary("EXP", build.softmax(build.input("x", (1, 8))))
    file = build.save(tmp_path / "m.tflite", {"y": build.softmax(x)})
    found = check(file, "edge-tpu")
    assert [f["op"] for f in found] == ["EXP", ""]
    assert found[1]["text"].startswith("1 further operations")
    assert check(file, "ethos-u55-128") == check(file, "micro") == []


def test_a_kernel_that_a_microcontroller_lacks_is_an_error(tmp_path):
    build = FloatFile()
    x = build.input("x", (1, 8))
    y = build.select(build.compare("LESS", x, [0.0]), x)
    file = build.save(tmp_path / "m.tflite", {"y": y})
    names = [op["op"] for op in tflite.operations(tflite.load(file))]
    found = check(file, "micro")
    assert [f["op"] for f in found] == [n for n in names if n == "SELECT"]
    assert all(f["level"] == "error" and f["where"] == "nowhere" for f in found)
