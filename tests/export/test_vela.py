"""Vela, really run: what it compiles, what it tells, and what it refuses."""

import hashlib
import importlib.util
import math
from pathlib import Path

import pytest

from tfcompress import targets, tflite
from tfcompress.errors import MissingExtra, TargetError
from tfcompress.export import vela

DATA = Path(__file__).parent.parent / "data"
INT8 = str(DATA / "digits_int8.tflite")
installed = pytest.mark.skipif(
    importlib.util.find_spec("ethosu") is None, reason="ethos-u-vela is not installed"
)


def target(name="ethos-u55-128", **options):
    record = targets.load(name).to_dict()
    return record | {"options": record["options"] | options}


@installed
@pytest.mark.slow
@pytest.mark.parametrize("name", [t.name for t in targets.load_all() if t.compiler == "vela"])
def test_every_built_in_accelerator(name, tmp_path):
    found = vela.compile(INT8, str(tmp_path), target(name))
    by_name = {m["name"]: m for m in found["measurements"]}
    assert by_name["npu_ops"]["values"] == [1.0]
    assert 0 < by_name["npu_latency_estimate"]["values"][0] < 1
    assert by_name["npu_cycles"]["values"][0] > 1000
    assert by_name["ram"]["values"][0] > 0
    assert "estimate by Vela" in by_name["npu_latency_estimate"]["note"]
    ops = [op["op"] for op in tflite.operations(tflite.load(found["path"]))]
    assert ops == ["ethos-u"]
    assert found["fallbacks"] == [] and "before Vela" in found["findings"][0]["text"]


@installed
@pytest.mark.slow
def test_more_macs_need_fewer_cycles_and_bytes_repeat(tmp_path):
    small = vela.compile(INT8, str(tmp_path / "a"), target())
    again = vela.compile(INT8, str(tmp_path / "b"), target())
    large = vela.compile(INT8, str(tmp_path / "c"), target("ethos-u55-256"))

    def cycles(made):
        return next(m["values"][0] for m in made["measurements"] if m["name"] == "npu_cycles")

    def digest(made):
        return hashlib.sha256(Path(made["path"]).read_bytes()).hexdigest()

    assert cycles(large) < cycles(small) == cycles(again)
    assert digest(small) == digest(again) != digest(large)


@installed
@pytest.mark.slow
def test_a_float_file_is_an_error(tmp_path):
    with pytest.raises(TargetError, match="nothing of this file on the NPU"):
        vela.compile(str(DATA / "digits.tflite"), str(tmp_path), target())


@installed
@pytest.mark.slow
def test_a_wrong_option_is_an_error(tmp_path):
    with pytest.raises(TargetError, match="Vela failed"):
        vela.compile(INT8, str(tmp_path), target(memory_mode="Nowhere"))


def test_int4_weights_are_refused_before_vela_dies_of_them(tmp_path):
    model = tflite.load(INT8)
    graph = model.subgraphs[0]
    graph.tensors[graph.operators[0].inputs[1]].type = 17  # INT4
    file = tmp_path / "m.tflite"
    file.write_bytes(tflite.dump(model))
    with pytest.raises((TargetError, MissingExtra), match="int4 weights|not installed"):
        vela.compile(str(file), str(tmp_path), target())


def test_what_vela_prints():
    told = """
Warning (supported operators) operator: GATHER, ofm: 'model/embedding/Gather'
Reason: Unsupported opType

CPU operators = 2 (20.0%)
   CPU: Passthrough = model/embedding/Gather (outputs [1, 16, 1, 32])
   CPU: Select = model/mask (outputs [1, 16])
NPU operators = 8 (80.0%)
"""
    assert vela.shares(told) == {"npu_ops": 8, "cpu_ops": 2}
    assert vela.refused(told) == [
        {"op": "GATHER", "tensor": "model/embedding/Gather", "why": "Unsupported opType"},
        {"op": "SELECT", "tensor": "model/mask", "why": ""},
    ]


def test_a_summary_without_npu_operators(tmp_path):
    columns = {
        "accelerator_configuration": "U", "system_config": "S", "memory_mode": "M",
        "core_clock": "5e8", "inference_time": "0.0", "cycles_total": "0", "nn_macs": "nan",
        "sram_memory_used": "1.5", "dram_memory_used": "0", "on_chip_flash_memory_used": "0",
        "off_chip_flash_memory_used": "2",
    }
    table = ",".join(columns) + "\n" + ",".join(columns.values()) + "\n"
    (tmp_path / "m_summary_S.csv").write_text(table)
    found = vela.summary(tmp_path, "m")
    assert math.isnan(found["cycles"]) and (found["sram"], found["flash"]) == (1536, 2048)
    with pytest.raises(TargetError, match="no summary"):
        vela.summary(tmp_path, "other")
