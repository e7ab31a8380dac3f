"""Arm Ethos-U: compiled by Vela, with the cycles, time and memory that Vela estimates.

Vela (`ethos-u-vela`, Arm) turns what the NPU can run into one `ethos-u` operator and leaves the
rest to TFLite Micro on the CPU. It has a model of the hardware: its figures are estimates, no
measurements. No runtime on a host runs that operator; it computes the same integers as the int8
operators that it replaces, which is why the artifact is proved on the file before compiling.
"""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from .. import tflite
from ..errors import MissingExtra, TargetError

SECONDS = 900
FLAGS = {  # option of a target -> flag of Vela
    "accelerator": "--accelerator-config",
    "config": "--config",
    "system_config": "--system-config",
    "memory_mode": "--memory-mode",
    "optimise": "--optimise",
}


def compile(path: str, out_folder: str, target: dict) -> dict:
    """Compile an int8 file for an Ethos-U.

    Args:
        path: The int8 .tflite file.
        out_folder: Where the compiled file and Vela's tables go.
        target: `Target.to_dict()`; `options` has `accelerator` and may have `system_config`,
            `memory_mode`, `config` and `optimise` ("Size" or "Performance").

    Returns:
        See `compilers.compile`. `path` is the compiled `<name>_vela.tflite`; without Vela it is
        None: the int8 file, which Vela takes, stays the artifact.

    Raises:
        TargetError: Vela cannot compile the file, or puts nothing of it on the NPU.
        ModelError: The file cannot be read as TFLite.
    """
    if not there():
        return _uncompiled(MissingExtra("ethos-u-vela", "ethos-u"), target)
    ops = tflite.operations(tflite.load(path))
    _refuse(ops)
    told = _run(path, out_folder, target.get("options", {}))
    stem = Path(path).stem
    made = Path(out_folder) / f"{stem}_vela.tflite"
    if not made.is_file():
        raise TargetError("Vela wrote no file", "run with --debug to see its log")
    found = summary(out_folder, stem) | shares(told)
    if not found["npu_ops"] or math.isnan(found["cycles"]):
        raise TargetError(
            "Vela puts nothing of this file on the NPU",
            "the operations must be int8: look at the precisions in the report",
        )
    by = f"estimate by Vela {importlib.metadata.version('ethos-u-vela')}, {found['config']}"
    return {
        "path": str(made),
        "files": [str(f) for f in sorted(Path(out_folder).glob(f"{stem}_*.csv"))],
        "measurements": _measurements(found, by),
        "findings": _findings(found, target),
        "fallbacks": [_fallback(op, ops) for op in refused(told)],
    }


def there() -> bool:
    """Whether Vela is installed."""
    return importlib.util.find_spec("ethosu") is not None


def _uncompiled(missing: MissingExtra, target: dict) -> dict:
    """The answer where there is no Vela: nothing is estimated, and the int8 file is shipped."""
    return {
        "path": None,
        "files": [],
        "measurements": [
            {"name": name, "unit": unit, "values": [], "note": missing.unmeasured}
            for name, unit in (("npu_latency_estimate", "ms"), ("npu_ops", "share"),
                               ("ram", "bytes"), ("flash", "bytes"))
        ],
        "findings": [{
            "level": "warning",
            "text": f"not compiled for {target['options']['accelerator']}: {missing.message}; "
            "the int8 file is the one to give to Vela",
            "advice": missing.hint,
        }],
        "fallbacks": [],
    }


def _refuse(ops: list[dict]) -> None:
    """Raise for what would crash Vela."""
    for op in ops:
        for tensor in op["inputs"]:
            if tensor and tensor["dtype"] == "int4":
                raise TargetError(
                    f"{op['op']} has int4 weights, which Vela cannot compile",
                    "use int8 weights for an Ethos-U",
                )


def _run(path: str, out_folder: str, options: dict) -> str:
    """Run Vela; what it prints."""
    flags = [part for key, flag in FLAGS.items() if key in options for part in (flag, options[key])]
    command = [sys.executable, "-m", "ethosu.vela", str(path), "--output-dir", str(out_folder)]
    command += [*flags, "--verbose-performance", "--show-cpu-operations"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env=os.environ | {"PYTHONHASHSEED": "0"},
        )
    except subprocess.TimeoutExpired:
        raise TargetError(
            f"Vela took more than {SECONDS} seconds", "make the model smaller"
        ) from None
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise TargetError(f"Vela was killed by {name}", "the file holds what it cannot compile")
    if done.returncode:
        lines = [x for x in (done.stdout + done.stderr).splitlines() if x.startswith("Error")]
        why = lines[-1].removeprefix("Error:").strip() if lines else f"status {done.returncode}"
        raise TargetError(f"Vela failed: {why}", "check [options] of the target")
    return done.stdout


def summary(folder: str | Path, stem: str) -> dict:
    """Vela's summary of one network.

    Returns:
        `cycles` (NaN where nothing runs on the NPU), `seconds` per inference, `sram`, `dram`,
        `flash` (on and off the chip together) in bytes, `macs`, `clock` in Hz, and `config`: the
        accelerator, system and memory mode in words.

    Raises:
        TargetError: Vela wrote no summary.
    """
    tables = sorted(Path(folder).glob(f"{stem}_summary_*.csv"))
    if not tables:
        raise TargetError("Vela wrote no summary", "check the version of ethos-u-vela")
    with open(tables[0], encoding="utf-8", newline="") as file:
        row = list(csv.DictReader(file))[-1]

    def kib(*names):
        return round(sum(float(row[n]) for n in names) * 1024)

    return {
        "cycles": float(row["cycles_total"]) if float(row["inference_time"]) else math.nan,
        "seconds": float(row["inference_time"]),
        "sram": kib("sram_memory_used"),
        "dram": kib("dram_memory_used"),
        "flash": kib("on_chip_flash_memory_used", "off_chip_flash_memory_used"),
        "macs": float(row["nn_macs"]) if row["nn_macs"] != "nan" else 0.0,
        "clock": float(row["core_clock"]),
        "config": ", ".join(
            (row["accelerator_configuration"], row["system_config"], row["memory_mode"])
        ),
    }


def shares(told: str) -> dict:
    """Numbers of operators on the NPU and the CPU, from what Vela prints."""
    found = dict(re.findall(r"^(CPU|NPU) operators = ([0-9]+)", told, re.MULTILINE))
    return {"npu_ops": int(found.get("NPU", 0)), "cpu_ops": int(found.get("CPU", 0))}


def refused(told: str) -> list[dict]:
    """`{"op", "tensor", "why"}` of each operator that Vela leaves to the CPU, as far as it says."""
    pattern = r"operator: (\S+), ofm: '([^']*)'\s*\n(?:Reason: )?([^\n]*)"
    found = {}
    for op, tensor, why in re.findall(pattern, told):
        found.setdefault(tensor, {"op": op, "tensor": tensor, "why": why.strip()})
    for op, tensor in re.findall(r"^ +CPU: (\S+) = (.*) \(outputs ", told, re.MULTILINE):
        found.setdefault(tensor, {"op": op.upper(), "tensor": tensor, "why": ""})
    return list(found.values())


def _fallback(refusal: dict, ops: list[dict]) -> dict:
    by_tensor = {t["name"]: op["op"] for op in ops for t in op["outputs"] if t}
    return {
        "op": by_tensor.get(refusal["tensor"], refusal["op"]),
        "tensor": refusal["tensor"],
        "layer": "",
        "precision": "on the CPU",
        "why": refusal["why"] or "Vela left it to the CPU",
        "cost": "",
    }


def _measurements(found: dict, by: str) -> list[dict]:
    def record(name, unit, value, note=by):
        return {"name": name, "unit": unit, "values": [float(value)], "note": note}

    everything = found["npu_ops"] + found["cpu_ops"]
    records = [
        record("npu_latency_estimate", "ms", found["seconds"] * 1000),
        record("npu_cycles", "cycles", found["cycles"]),
        record("npu_ops", "share", found["npu_ops"] / everything, "as placed by Vela"),
        record("ram", "bytes", found["sram"], f"SRAM, {by}"),
        record("dram", "bytes", found["dram"]),
        record("flash", "bytes", found["flash"]),
    ]
    records = [r for r in records if r["name"] != "dram" or found["dram"]]
    if found["cpu_ops"]:
        records[0]["note"] += "; without the operators on the CPU"
    return records


def _findings(found: dict, target: dict) -> list[dict]:
    notes = [{
        "level": "info",
        "text": "proved on the int8 file before Vela: no host runtime runs the NPU's operator, "
        "which computes the same integers",
        "advice": "",
    }]
    if found["cpu_ops"]:
        notes.append({
            "level": "warning",
            "text": f"{found['cpu_ops']} of {found['cpu_ops'] + found['npu_ops']} operators stay "
            "on the CPU",
            "advice": "the fallbacks name them and say why",
        })
    return notes
