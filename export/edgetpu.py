"""The Coral Edge TPU: which operations it will run, and compiling for it.

    predict("m.tflite")                 -> which operations map, and an estimate of the latency
    compile("m.tflite", "out", target)  -> the compiler's file, where `edgetpu_compiler` is on PATH
    mapping("m.tflite", "m_edgetpu.tflite") -> what the compiler really did
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from .. import tflite
from ..errors import TargetError
from .edgetpu_rules import STATUS, place, rules

TOOL = "edgetpu_compiler"
CUSTOM = "edgetpu-custom-op"
SECONDS = 600
WARM, RUNS = 5, 50
INSTALL = "install the Edge TPU compiler (Debian, x86-64)"
NO_DEVICE = ("no Edge TPU; connect one and install its runtime (Debian: apt-get install "
             "libedgetpu1-std, from Coral's repository)")


def predict(path: str | Path, multiple_subgraphs: bool = False) -> dict:
    """Which operations of a .tflite file the Edge TPU will run. A prediction, not a measurement.

    Args:
        path: An integer .tflite file.
        multiple_subgraphs: The compiler's `-a`: map every group of operations, not only the first.

    Returns:
        ops: See `edgetpu_rules.place`.
        on_tpu: Share of the operations that map; `macs_on_tpu` that of the multiply-accumulates.
        bytes_on_chip: Parameters of the mapped operations.
        fits_cache: Whether they fit the memory on the chip, so that they are loaded only once.
        estimate_ms: Latency on a USB accelerator, fitted to published figures; an estimate.
        problem: Why the compiler will refuse the whole file; empty where it will not.

    Raises:
        ModelError: The file cannot be read as TFLite.
    """
    model = tflite.load(path)
    graph = model.subgraphs[0]
    ops = tflite.operations(model)
    placed = place(ops, multiple_subgraphs=multiple_subgraphs)
    problem = _problem(model, ops)
    if problem:
        placed = [p | {"where": "cpu", "why": problem, "status": "unsupported"} for p in placed]
    mapped = [op for op, p in zip(ops, placed, strict=True) if p["where"] == "tpu"]
    total = sum(op["macs"] for op in ops)
    size = _parameters(mapped)
    return {
        "ops": placed,
        "on_tpu": len(mapped) / len(ops) if ops else 0.0,
        "macs_on_tpu": sum(op["macs"] for op in mapped) / total if total else 0.0,
        "bytes_on_chip": size,
        "fits_cache": size <= rules()["device"]["usable_bytes"],
        "estimate_ms": _estimate(ops, placed, size, graph.outputs),
        "problem": problem,
    }


def _problem(model, ops: list[dict]) -> str:
    """Why the compiler refuses a whole file; empty where it does not."""
    if len(model.subgraphs) > 1:
        return "the file has more than one subgraph (a loop or a branch)"
    for op in ops:
        shape = op["inputs"][1] if op["op"] == "RESHAPE" and len(op["inputs"]) > 1 else None
        if shape and not shape["constant"]:
            return "a shape is computed while the model runs; the compiler takes fixed shapes only"
    return ""


def _parameters(ops: list[dict]) -> int:
    """Bytes of the constants of some operations; one that several read counts once."""
    found = {t["tensor"]: t["bytes"] for op in ops for t in op["inputs"] if t and t["constant"]}
    return sum(found.values())


def _crossing(ops: list[dict], placed: list[dict], outputs: list[int]) -> int:
    """Bytes of the tensors that go into and out of the Edge TPU."""
    read = {"tpu": {}, "cpu": dict.fromkeys(outputs, 0)}
    written = {}
    for op, p in zip(ops, placed, strict=True):
        moving = {t["tensor"]: t["bytes"] for t in op["inputs"] if t and not t["constant"]}
        read[p["where"]] |= moving
        if p["where"] == "tpu":
            written |= {t["tensor"]: t["bytes"] for t in op["outputs"] if t}
    inward = sum(size for i, size in read["tpu"].items() if i not in written)
    return inward + sum(size for i, size in written.items() if i in read["cpu"])


def _estimate(ops: list[dict], placed: list[dict], parameters: int, outputs: list[int]) -> float:
    """Milliseconds on a USB accelerator, from `[speed]` of the rules."""
    speed = rules()["speed"]
    device = rules()["device"]["usable_bytes"]
    total = _crossing(ops, placed, outputs) / speed["transfer_bytes_per_ms"]
    if any(p["where"] == "tpu" for p in placed):
        total += speed["overhead_ms"]
        total += max(parameters - device, 0) / speed["stream_bytes_per_ms"]
    for op, p in zip(ops, placed, strict=True):
        if p["where"] == "tpu":
            total += op["macs"] / speed["macs_per_ms"]
        else:
            sizes = [math.prod(t["shape"]) for t in op["inputs"] + op["outputs"] if t]
            total += op["macs"] / speed["cpu_macs_per_ms"]
            total += max(sizes, default=0) / speed["cpu_values_per_ms"]
    return total


def mapping(source: str | Path, compiled: str | Path) -> list[str]:
    """Where the compiler put each operation of `source`: `tpu` or `cpu`, by reading its result.

    What is mapped has become part of an `edgetpu-custom-op`; an operation that is still there,
    with the name of its output, runs on the CPU.

    Raises:
        ModelError: One of the files cannot be read as TFLite.
    """
    left = Counter(_signature(op) for op in tflite.operations(tflite.load(compiled)))
    where = []
    for op in tflite.operations(tflite.load(source)):
        stays = left[_signature(op)] > 0
        left[_signature(op)] -= stays
        where.append("cpu" if stays else "tpu")
    return where


def _signature(op: dict) -> tuple:
    return op["op"], tuple(t["name"] for t in op["outputs"] if t)


def compile(path: str, out_folder: str, target: dict) -> dict:
    """Compile an int8 file where the compiler is installed, and say what maps in any case.

    Args:
        path: The int8 .tflite file.
        out_folder: Where the compiled file goes.
        target: `Target.to_dict()`; `options` may have `multiple_subgraphs`.

    Returns:
        See `compilers.compile`.

    Raises:
        ModelError: The file cannot be read as TFLite.
        TargetError: The compiler fails.
    """
    several = bool(target.get("options", {}).get("multiple_subgraphs"))
    guess = predict(path, several)
    tool = shutil.which(TOOL)
    log = None
    made = None
    if tool:
        made, log = _run(tool, path, out_folder, several)
    where = mapping(path, made) if made else [p["where"] for p in guess["ops"]]
    device = latency(made) if made else {"values": [], "why": f"{TOOL} is not on PATH; {INSTALL}"}
    return {
        "path": str(made) if made else None,
        "files": [],
        "measurements": [*_measurements(path, guess, where, log), _latency(device)],
        "findings": _findings(guess, where, log),
        "fallbacks": [
            _fallback(p, log)
            for p, place in zip(guess["ops"], where, strict=True)
            if place == "cpu"
        ],
    }


def _fallback(placed: dict, log: dict | None) -> dict:
    """What is said of an operation on the CPU; the compiler's own words where there are any."""
    told = [
        op["status"]
        for op in (log or {"ops": []})["ops"]
        if op["op"] == placed["op"] and op["status"] != STATUS["mapped"]
    ]
    return {
        "op": placed["op"],
        "tensor": placed["tensor"],
        "layer": "",
        "precision": "on the CPU",
        "why": "; ".join(told) or placed["why"] or "the compiler left it to the CPU",
        "cost": "",
    }


def _run(tool: str, path: str, out_folder: str, several: bool) -> tuple[Path, dict]:
    """Run the compiler: the file it made, and what its log says."""
    command = [tool, "-s", "-o", str(out_folder), *(["-a"] if several else []), str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise TargetError(
            f"{TOOL} took more than {SECONDS} seconds", "make the model smaller"
        ) from None
    log = parse_log(done.stdout + done.stderr)
    made = Path(out_folder) / f"{Path(path).stem}_edgetpu.tflite"
    if done.returncode or not made.is_file():
        raise TargetError(
            f"{TOOL} failed: {log['error'] or 'it ended with status ' + str(done.returncode)}",
            "leave out the operations that its message names; `tfcompress inspect` lists them",
        )
    return made, log


_SCRIPT = """
import sys, time
import numpy as np
from ai_edge_litert.interpreter import Interpreter, load_delegate
device = load_delegate("libedgetpu.so.1")
model = Interpreter(sys.argv[1], experimental_delegates=[device])
model.allocate_tensors()
for told in model.get_input_details():
    model.set_tensor(told["index"], np.zeros(told["shape"], told["dtype"]))
for n in range(int(sys.argv[2])):
    start = time.perf_counter()
    model.invoke()
    print("ms", (time.perf_counter() - start) * 1000)
"""


def latency(compiled: str | Path) -> dict:
    """Milliseconds of single inferences on an Edge TPU attached to this machine.

    Returns:
        `{"values", "why"}`: `RUNS` times after `WARM` that are left out, or none and the reason.
        The first inference loads the parameters and is always among those left out.
    """
    command = [sys.executable, "-P", "-c", _SCRIPT, str(compiled), str(WARM + RUNS)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return {"values": [], "why": f"no answer in {SECONDS} seconds"}
    if done.returncode:
        lines = (done.stderr or "no reason given").strip().splitlines()
        absent = "libedgetpu" in done.stderr
        return {"values": [], "why": NO_DEVICE if absent else f"it failed: {lines[-1]}"}
    found = re.findall(r"^ms ([0-9.e+-]+)$", done.stdout, re.MULTILINE)
    return {"values": [float(v) for v in found[WARM:]], "why": ""}


def _latency(device: dict) -> dict:
    note = "measured on an Edge TPU" if device["values"] else f"not measured: {device['why']}"
    return {"name": "npu_latency", "unit": "ms", "values": device["values"], "note": note}


def parse_log(text: str) -> dict:
    """What `edgetpu_compiler -s` prints.

    Returns:
        version: The compiler's, as a string; empty where it is not told.
        ops: `[{"op", "count", "status"}]`, the table at the end.
        on_tpu, on_cpu: Numbers of operations.
        cached, free, streamed: Bytes of parameters kept on the chip, bytes left there, bytes that
            are sent for every inference; None where not told.
        error: The last error, empty where there is none.
    """
    table = re.findall(r"^([A-Z][A-Z0-9_]+) +([0-9]+) +(\S.*?)\s*$", text, re.MULTILINE)
    ops = [{"op": name, "count": int(n), "status": status} for name, n, status in table]
    version = re.search(r"Compiler version (\S+)", text)
    errors = re.findall(
        r"^(?:ERROR: |Compilation failed: |Internal compiler error)(.*)$", text, re.MULTILINE
    )
    mapped = sum(op["count"] for op in ops if op["status"] == STATUS["mapped"])
    return {
        "version": version.group(1) if version else "",
        "ops": ops,
        "on_tpu": mapped,
        "on_cpu": sum(op["count"] for op in ops) - mapped,
        "cached": _bytes(text, "On-chip memory used for caching model parameters"),
        "free": _bytes(text, "On-chip memory remaining for caching model parameters"),
        "streamed": _bytes(text, "Off-chip memory used for streaming uncached model parameters"),
        "error": (errors[-1].strip() or "internal compiler error") if errors else "",
    }


def _bytes(text: str, label: str) -> int | None:
    found = re.search(re.escape(label) + r": ([0-9.]+)([KMG]i)?B", text)
    if not found:
        return None
    unit = {None: 1, "Ki": 1024, "Mi": 1024**2, "Gi": 1024**3}[found.group(2)]
    return round(float(found.group(1)) * unit)


def _measurements(path: str, guess: dict, where: list[str], log: dict | None) -> list[dict]:
    by = f"{TOOL} {log['version']}" if log else "predicted, not compiled"
    estimate = "estimate from published figures"
    size = log["cached"] + (log["streamed"] or 0) if log and log["cached"] is not None else None
    return [
        _record("npu_ops", "share", where.count("tpu") / max(len(where), 1), by),
        _record("npu_macs", "share", _macs_share(path, where), by),
        _record("npu_parameters", "bytes", guess["bytes_on_chip"] if size is None else size, by),
        _record("npu_latency_estimate", "ms", guess["estimate_ms"], estimate),
    ]


def _macs_share(path: str, where: list[str]) -> float:
    macs = [op["macs"] for op in tflite.operations(tflite.load(path))]
    mapped = sum(m for m, w in zip(macs, where, strict=True) if w == "tpu")
    return mapped / sum(macs) if sum(macs) else 0.0


def _record(name: str, unit: str, value: float, note: str) -> dict:
    return {"name": name, "unit": unit, "values": [float(value)], "note": note}


def _findings(guess: dict, where: list[str], log: dict | None) -> list[dict]:
    def finding(level, text, advice=""):
        return {"level": level, "text": text, "advice": advice}

    found = []
    if log is None:
        found.append(finding(
            "info",
            f"not compiled: {TOOL} is not on PATH; the file is the one to give it",
            f"{INSTALL} and run {TOOL} -s FILE.tflite",
        ))
    if guess["problem"] and log is None:
        found.append(finding("error", f"the Edge TPU compiler will refuse it: {guess['problem']}"))
    elif "cpu" in where:
        first = guess["ops"][where.index("cpu")]
        found.append(finding(
            "warning",
            f"{where.count('cpu')} of {len(where)} operations stay on the CPU, the first is "
            f"{first['op']}: {first['why'] or 'left there by the compiler'}",
            "what follows it stays on the CPU too: replace it, or end the model before it",
        ))
    if not guess["fits_cache"]:
        size = guess["bytes_on_chip"] / 2**20
        found.append(finding(
            "warning",
            f"the parameters ({size:.1f} MiB) exceed the Edge TPU's memory and are sent for every "
            "inference",
            "a smaller model is several times faster",
        ))
    return found
