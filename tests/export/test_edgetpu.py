"""The Edge TPU's rules, its log, and the run of a compiler that stands on PATH."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tfcompress import targets, tflite
from tfcompress.errors import TargetError
from tfcompress.export import edgetpu, edgetpu_rules

DATA = Path(__file__).parent.parent / "data"
PAIRS = {k: v for k, v in json.loads((DATA / "edgetpu_pairs.json").read_text()).items()
         if k != "about"}

# In the form in which edgetpu_compiler 16 prints it with -s; the figures are this test's own.
LIMITED = "Operation is otherwise supported, but not mapped due to some unspecified limitation"
LOG = f"""Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 61 ms.

Input model: m.tflite
Input size: 4.18KiB
Output model: m_edgetpu.tflite
Output size: 24.00KiB
On-chip memory used for caching model parameters: 2.50KiB
On-chip memory remaining for caching model parameters: 7.25MiB
Off-chip memory used for streaming uncached model parameters: 0.00B
Number of Edge TPU subgraphs: 1
Total number of operations: 5
Operation log: m_edgetpu.log

Model successfully compiled but not all operations are supported by the Edge TPU.
Number of operations that will run on Edge TPU: 3
Number of operations that will run on CPU: 2

Operator                       Count      Status

CONV_2D                        2          Mapped to Edge TPU
RESHAPE                        1          Mapped to Edge TPU
FULLY_CONNECTED                1          {LIMITED}
SOFTMAX                        1          More than one subgraph is not supported
Compilation child process completed within timeout period.
Compilation succeeded!
"""


def tensor(number, shape, dtype="int8", scales=1, constant=False, **more):
    return {"tensor": number, "name": f"t{number}", "shape": list(shape), "dtype": dtype,
            "scales": scales, "constant": constant, "bytes": 1, **more}


def op(name, inputs, outputs, version=1, **options):
    return {"index": 0, "op": name, "version": version, "options": options, "inputs": inputs,
            "outputs": outputs, "macs": 0}


def unary(name, shape, out=None, version=1, extra=(), **options):
    return op(name, [tensor(0, shape), *extra], [tensor(9, out or shape)], version, **options)


def values(*numbers):
    return tensor(5, [len(numbers)], "int32", 0, True, values=list(numbers))


@pytest.mark.parametrize("name", PAIRS)
def test_agrees_with_the_makers_compiler_operation_by_operation(name):
    for each in PAIRS[name]["ops"]:
        for end in each["inputs"] + each["outputs"]:
            if end:
                end["name"] = ""
    found = edgetpu_rules.place(PAIRS[name]["ops"])
    assert "".join(p["where"][0] for p in found) == PAIRS[name]["where"]


@pytest.mark.skipif("EDGETPU_PAIRS" not in os.environ, reason="EDGETPU_PAIRS names no folder")
def test_agrees_with_compiled_files():
    folder = Path(os.environ["EDGETPU_PAIRS"])
    compiled = sorted(folder.glob("*_edgetpu.tflite"))
    assert compiled
    for file in compiled:
        source = folder / file.name.replace("_edgetpu", "")
        guess = [p["where"] for p in edgetpu.predict(source)["ops"]]
        assert guess == edgetpu.mapping(source, file), file.name


# An operation, and a word of the reason why it stays on the CPU; "" where it does not.
CASES = {
    "plain": (unary("LOGISTIC", [1, 8, 8, 3]), ""),
    "unknown": (unary("HARD_SWISH", [1, 8]), "no HARD_SWISH"),
    "custom": (unary("TFLite_Detection_PostProcess", [1, 8]), "no TFLite_Detection"),
    "float": (op("QUANTIZE", [tensor(0, [1, 8], "float32", 0)], [tensor(1, [1, 8])]), "float32"),
    "8 to 8 bits": (op("QUANTIZE", [tensor(0, [1, 8], "uint8")], [tensor(1, [1, 8])]), ""),
    "new version": (unary("ADD", [1, 8], version=4), "version 4"),
    "batch": (unary("RELU", [2, 8, 8, 3]), "innermost"),
    "three dimensions": (unary("RELU", [1, 5, 8, 8, 3][1:]), "innermost"),
    "fused pool": (unary("MAX_POOL_2D", [1, 8, 8, 3], fusedActivationFunction=1), "fused"),
    "grouped": (unary("CONV_2D", [1, 8, 8, 6], extra=[tensor(1, [4, 3, 3, 3], constant=True)]),
                "grouped"),
    "dilation": (unary("CONV_2D", [1, 8, 8, 3], extra=[tensor(1, [4, 3, 3, 3], constant=True)],
                       dilationWFactor=2, dilationHFactor=1), "dilations"),
    "computed weights": (unary("FULLY_CONNECTED", [1, 8], [1, 4], extra=[tensor(1, [4, 8])]),
                         "no constants"),
    "dense": (unary("FULLY_CONNECTED", [1, 8], [1, 4], extra=[tensor(1, [4, 8], constant=True)]),
              ""),
    "dense rows": (unary("FULLY_CONNECTED", [7, 8], [7, 4],
                         extra=[tensor(1, [4, 8], constant=True)]), "7 rows"),
    "dense channels": (unary("FULLY_CONNECTED", [1, 8], [1, 4],
                             extra=[tensor(1, [4, 8], scales=4, constant=True)]), "4 weight sc"),
    "mean": (unary("MEAN", [1, 7, 7, 6], [1, 6], extra=[values(1, 2)]), ""),
    "mean of channels": (unary("MEAN", [1, 7, 7, 6], [1, 7, 7], extra=[values(3)]), "multiple"),
    "mean of batch": (unary("MEAN", [1, 7, 7, 6], [7, 7, 6], extra=[values(0)]), "batch"),
    "mean of many": (unary("MEAN", [1, 256, 128, 3], [1, 3], extra=[values(1, 2)]), "positions"),
    "pad": (unary("PAD", [1, 4, 4, 3], extra=[values(0, 0, 1, 1, 1, 1, 0, 0)]), ""),
    "pad of batch": (unary("PAD", [1, 4, 4, 3], extra=[values(0, 1, 1, 1, 1, 1, 0, 0)]), "batch"),
    "long softmax": (unary("SOFTMAX", [1, 16001]), "16001"),
    "twice": (unary("RESIZE_BILINEAR", [1, 16, 16, 8], [1, 32, 32, 8]), ""),
    "a pixel": (unary("RESIZE_BILINEAR", [1, 1, 1, 8], [1, 3, 3, 8]), "single pixel"),
    "16 times": (unary("RESIZE_BILINEAR", [1, 8, 8, 8], [1, 128, 128, 8]), "16 times"),
    "strides": (unary("STRIDED_SLICE", [1, 8], [1, 4],
                      extra=[values(0, 0), values(1, 8), values(1, 2)]), "strides"),
    "slice": (unary("STRIDED_SLICE", [1, 8], [1, 4],
                    extra=[values(0, 0), values(1, 4), values(1, 1)]), ""),
    "reshape": (unary("RESHAPE", [1, 8], [1, 2, 4], extra=[tensor(1, [3], "int32", 0)]), "int32"),
    "prelu": (unary("PRELU", [1, 8, 8, 3], extra=[tensor(1, [8, 8, 3], constant=True)]), "alpha"),
    "split": (op("SPLIT", [values(0), tensor(0, [4, 8])], [tensor(1, [2, 8])]), "batch"),
    "joined constant": (op("CONCATENATION", [tensor(0, [1, 8]), tensor(1, [1, 8], constant=True)],
                           [tensor(2, [1, 16])]), "constants"),
    "joined zeros": (op("CONCATENATION",
                        [tensor(0, [1, 8]), tensor(1, [1, 8], constant=True, zero=True)],
                        [tensor(2, [1, 16])]), ""),
}


@pytest.mark.parametrize("case", CASES)
def test_rules(case):
    one, word = CASES[case]
    (found,) = edgetpu_rules.place([one])
    assert found["where"] == ("cpu" if word else "tpu")
    assert word in found["why"] and bool(word) == bool(found["why"])


def test_every_rule_of_the_table_has_a_function_and_is_used():
    named = {key for table in edgetpu_rules.rules()["ops"].values() for key in table}
    assert named - {"version"} == set(edgetpu_rules.RULES)


def chain(*kinds):
    return [op(kind, [tensor(i, [1, 8])], [tensor(i + 1, [1, 8])]) for i, kind in enumerate(kinds)]


def test_only_the_first_group_is_mapped_unless_asked():
    ops = chain("RELU", "TANH", "GELU", "RELU")
    assert [p["where"] for p in edgetpu_rules.place(ops)] == ["tpu", "tpu", "cpu", "cpu"]
    several = edgetpu_rules.place(ops, multiple_subgraphs=True)
    assert [p["where"] for p in several] == ["tpu", "tpu", "cpu", "tpu"]


def test_a_branch_that_needs_nothing_from_the_cpu_is_mapped():
    ops = [
        op("GELU", [tensor(0, [1, 8])], [tensor(1, [1, 8])]),
        op("RELU", [tensor(2, [1, 8])], [tensor(3, [1, 8])]),
        op("GELU", [tensor(3, [1, 8])], [tensor(4, [1, 8])]),
        op("TANH", [tensor(3, [1, 8])], [tensor(5, [1, 8])]),
        op("ADD", [tensor(1, [1, 8]), tensor(5, [1, 8])], [tensor(6, [1, 8])]),
    ]
    found = edgetpu_rules.place(ops)
    assert [p["where"] for p in found] == ["cpu", "tpu", "cpu", "tpu", "tpu"]


def test_our_own_int8_file(tmp_path):
    found = edgetpu.predict(DATA / "digits_int8.tflite")
    assert [p["where"] for p in found["ops"]] == ["tpu", "tpu", "tpu", "cpu", "cpu"]
    assert "10 weight scales" in found["ops"][3]["why"]
    assert 0.5 < found["macs_on_tpu"] < 1 and found["fits_cache"] and not found["problem"]
    assert found["estimate_ms"] > 1


def test_a_float_file_is_placed_as_planned():
    ops = tflite.operations(tflite.load(DATA / "digits.tflite"))
    assert {p["where"] for p in edgetpu_rules.place(ops, planned=True)} == {"tpu"}
    assert {p["status"] for p in edgetpu_rules.place(ops)} == {"type"}


def test_a_computed_shape_is_refused_whole(tmp_path):
    model = tflite.load(DATA / "digits_int8.tflite")
    reshape = model.subgraphs[0].operators[2]
    model.subgraphs[0].tensors[reshape.inputs[1]].buffer = 0
    file = tmp_path / "m.tflite"
    file.write_bytes(tflite.dump(model))
    found = edgetpu.predict(file)
    assert "shape is computed" in found["problem"]
    assert {p["where"] for p in found["ops"]} == {"cpu"} and found["on_tpu"] == 0
    told = edgetpu.compile(str(file), str(tmp_path), {"options": {}})["findings"]
    assert any(f["level"] == "error" and "refuse" in f["text"] for f in told)


def test_more_than_one_subgraph_is_refused_whole(tmp_path):
    model = tflite.load(DATA / "digits_int8.tflite")
    model.subgraphs.append(model.subgraphs[0])
    file = tmp_path / "m.tflite"
    file.write_bytes(tflite.dump(model))
    assert "more than one subgraph" in edgetpu.predict(file)["problem"]


def test_the_log():
    found = edgetpu.parse_log(LOG)
    assert found["version"] == "16.0.384591198"
    assert (found["on_tpu"], found["on_cpu"]) == (3, 2)
    assert (found["cached"], found["streamed"]) == (2560, 0)
    assert found["free"] == round(7.25 * 2**20)
    assert found["ops"][2]["op"] == "FULLY_CONNECTED" and "unspecified" in found["ops"][2]["status"]
    assert found["error"] == ""


def test_a_log_of_a_failure():
    text = "ERROR: Restored.\nCompilation failed: Model too large.\nCompilation failed! \n"
    assert edgetpu.parse_log(text)["error"] == "Model too large."


def test_without_a_compiler_the_file_itself_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = edgetpu.compile(str(DATA / "digits_int8.tflite"), str(tmp_path), {"options": {}})
    assert found["path"] is None
    by_name = {m["name"]: m for m in found["measurements"]}
    assert by_name["npu_latency"]["values"] == []
    assert by_name["npu_latency"]["note"].startswith(
        "not measured: edgetpu_compiler is not on PATH; install")
    assert "estimate" in by_name["npu_latency_estimate"]["note"]
    assert by_name["npu_ops"]["values"] == [0.6]
    assert "not on PATH" in found["findings"][0]["text"]
    assert [f["op"] for f in found["fallbacks"]] == ["FULLY_CONNECTED", "SOFTMAX"]


def stand_in(folder, status, made=None):
    """A program that answers as the closed compiler does, put on PATH in its place."""
    (folder / "log").write_text(LOG if not status else "Compilation failed: too large\n")
    lines = ["#!/bin/sh", f'cat "{folder}/log"']
    if made:
        lines.append(f'cp "{made}" "$3/digits_int8_edgetpu.tflite"')
    tool = folder / "edgetpu_compiler"
    tool.write_text("\n".join([*lines, f"exit {status}", ""]))
    tool.chmod(0o755)


def compiled(folder):
    """digits_int8 with its first three operations in one custom operator."""
    model = tflite.load(DATA / "digits_int8.tflite")
    graph = model.subgraphs[0]
    first, last = graph.operators[0], graph.operators[2]
    code = type(model.operatorCodes[0])()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = 32, 32, 1
    code.customCode = b"edgetpu-custom-op"
    model.operatorCodes.append(code)
    merged = type(first)()
    merged.opcodeIndex = len(model.operatorCodes) - 1
    merged.inputs, merged.outputs = first.inputs[:1], last.outputs
    graph.operators = [merged, *graph.operators[3:]]
    file = folder / "made.tflite"
    file.write_bytes(tflite.dump(model))
    return file


def test_with_a_compiler_its_file_decides(tmp_path, monkeypatch):
    stand_in(tmp_path, 0, compiled(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = edgetpu.compile(
        str(DATA / "digits_int8.tflite"), str(tmp_path), targets.load("edge-tpu").to_dict()
    )
    assert Path(found["path"]).name == "digits_int8_edgetpu.tflite"
    by_name = {m["name"]: m for m in found["measurements"]}
    assert by_name["npu_ops"]["values"] == [0.6] and "16.0" in by_name["npu_ops"]["note"]
    assert by_name["npu_parameters"]["values"] == [2560]
    if not by_name["npu_latency"]["values"]:
        assert "no Edge TPU; connect one and install" in by_name["npu_latency"]["note"]
    assert [f["op"] for f in found["fallbacks"]] == ["FULLY_CONNECTED", "SOFTMAX"]
    assert "unspecified limitation" in found["fallbacks"][0]["why"]


def test_a_compiler_that_fails(tmp_path, monkeypatch):
    stand_in(tmp_path, 1)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(TargetError, match="too large"):
        edgetpu.compile(str(DATA / "digits_int8.tflite"), str(tmp_path), {"options": {}})


@pytest.mark.skipif(not shutil.which("edgetpu_compiler"), reason="edgetpu_compiler is not on PATH")
def test_the_real_compiler_agrees(tmp_path):
    file = str(DATA / "digits_int8.tflite")
    made = edgetpu.compile(file, str(tmp_path), {"options": {}})["path"]
    guess = [p["where"] for p in edgetpu.predict(file)["ops"]]
    assert guess == edgetpu.mapping(file, made)
