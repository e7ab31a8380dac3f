"""TFLite Micro: the memory plan, the C array, and TFLite Micro itself where it is installed."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st

from tfcompress import targets, tflite
from tfcompress.export import micro

DATA = Path(__file__).parent.parent / "data"
INT8 = str(DATA / "digits_int8.tflite")
installed = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None, reason="tflite-micro is not installed"
)
buffers = st.lists(
    st.tuples(st.integers(1, 500), st.integers(0, 9), st.integers(0, 9)).map(
        lambda b: (b[0], min(b[1:]), max(b[1:]))
    ),
    max_size=20,
)


@given(buffers)
def test_a_plan_never_overlaps_what_lives_together(given):
    offsets, total = micro.plan(given)
    for i, (size, first, last) in enumerate(given):
        assert offsets[i] + size <= total
        for j, (other, start, end) in enumerate(given[:i]):
            apart = offsets[i] + size <= offsets[j] or offsets[j] + other <= offsets[i]
            assert apart or last < start or end < first
    busy = [sum(s for s, a, b in given if a <= t <= b) for t in range(10)]
    assert total >= max(busy)


def test_a_plan_by_hand():
    assert micro.plan([(10, 0, 1), (30, 1, 2), (20, 2, 3)]) == ([30, 0, 30], 50)
    assert micro.plan([]) == ([], 0)


def test_the_arena_of_a_small_network():
    model = tflite.load(INT8)
    planned = micro.plan(micro.lifetimes(model, model.subgraphs[0]))[1]
    # Image 8x8 and the first map 6x6x6, each rounded up to 16 bytes, live together.
    assert planned == 64 + 224
    assert 2000 < micro.arena(model) < 2600


def test_c_array(tmp_path):
    found = micro.compile(INT8, str(tmp_path), targets.load("micro").to_dict())
    assert found["path"] is None
    header, source = (Path(f).read_text() for f in found["files"])
    data = bytes(int(b, 16) for b in re.findall(r"0x([0-9a-f]{2})", source))
    assert data == Path(INT8).read_bytes()
    assert "alignas(16) const unsigned char g_model[]" in source
    for line in ("AddConv2D();", "AddFullyConnected();", "AddReshape();", "g_model_operators = 4"):
        assert line in header
    again = micro.compile(INT8, str(tmp_path / "."), targets.load("micro").to_dict())
    assert [Path(f).read_text() for f in again["files"]] == [header, source]


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
def test_the_c_array_compiles(tmp_path):
    options = {"options": {"array": "g_digits"}}
    micro.compile(INT8, str(tmp_path), targets.load("micro").to_dict() | options)
    (tmp_path / "main.cc").write_text(
        '#include "micro-model.h"\n#include <cstdint>\n#include <cstdio>\n'
        "struct R { int n = 0; void AddConv2D() { ++n; } void AddReshape() { ++n; }\n"
        "void AddFullyConnected() { ++n; } void AddSoftmax() { ++n; } };\n"
        "int main() { R r; g_digits_register(r);\n"
        'std::printf("%zu %d %d", g_digits_len, r.n, (int)((std::uintptr_t)g_digits % 16)); }\n'
    )
    command = ["g++", "-std=c++17", "-Wall", "-Werror", "main.cc", "micro-model.cc", "-o", "main"]
    subprocess.run(command, cwd=tmp_path, check=True)
    told = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True).stdout
    assert told == f"{Path(INT8).stat().st_size} 4 0"


def test_methods_of_the_resolver():
    names = {"DEPTHWISE_CONV_2D": "DepthwiseConv2D", "L2_POOL_2D": "L2Pool2D", "PADV2": "PadV2",
             "BATCH_TO_SPACE_ND": "BatchToSpaceNd", "SPLIT_V": "SplitV", "ADD_N": "AddN",
             "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTM"}
    assert {op: micro._method(op) for op in names} == names


def test_missing_kernels():
    ops = [{"op": name} for name in ("CONV_2D", "GELU", "SELECT", "GELU")]
    assert micro.missing(ops) == ["GELU", "SELECT"]


@installed
def test_tflite_micro_itself_agrees(tmp_path):
    model = tflite.load(INT8)
    guess = micro.arena(model)
    found = micro.run(INT8, guess)
    assert found["error"] == "" and found["difference"] <= 1
    assert found["head"] == micro.plan(micro.lifetimes(model, model.subgraphs[0]))[1]
    assert abs(found["total"] - guess) < 0.1 * guess
    told = micro.compile(INT8, str(tmp_path), targets.load("micro").to_dict())
    ram = next(m for m in told["measurements"] if m["name"] == "ram")
    assert ram["values"] == [found["total"]] and "measured" in ram["note"]


# Looks for the operators of each file in a process of its own, as a wrong one may end the process.
ASK = """
import os, sys
from tflite_micro import runtime
for file in sys.argv[1:]:
    if not os.fork():
        os.dup2(1, 2)
        try:
            runtime.Interpreter.from_file(file, arena_size=100_000)
        except RuntimeError:
            pass
        os._exit(0)
    os.wait()
"""


@installed
@pytest.mark.slow
def test_every_listed_kernel_is_one_of_tflite_micro(tmp_path):
    """One operator of each kind, and whether TFLite Micro looks for it in vain."""
    names = [n for n in micro.rules()["ops"] if n in vars(schema.BuiltinOperator)]
    files = [one(n, tmp_path / f"{n}.tflite") for n in [*names, "GELU"]]
    command = [sys.executable, "-P", "-c", ASK, *map(str, files)]
    done = subprocess.run(command, capture_output=True, errors="replace", text=True)
    absent = re.findall(r"Didn't find op for builtin opcode '(\w+)'", done.stdout)
    assert absent == ["GELU"]


def one(name, file):
    model = tflite.load(INT8)
    code = getattr(schema.BuiltinOperator, name)
    softmax = model.subgraphs[0].operators[-1]
    model.operatorCodes[softmax.opcodeIndex].builtinCode = code
    model.operatorCodes[softmax.opcodeIndex].deprecatedBuiltinCode = min(code, 127)
    softmax.builtinOptions, softmax.builtinOptionsType = None, 0
    file.write_bytes(tflite.dump(model))
    return file
