"""What an accelerator will not run, known before any training.

    check(tflite.operations(model), target) -> findings

Works on a float file too, where types and operator versions are still to come: what is checked then
are the operators, their shapes and their parameters.
"""

from __future__ import annotations

import functools
import tomllib
from collections import Counter
from pathlib import Path

from . import edgetpu_rules, micro

FLOATS = ("float32", "float16", "float64")
SHOWN = 8


def check(ops: list[dict], target: dict) -> list[dict]:
    """Which operations a target with a compiler leaves to the CPU, or cannot run at all.

    Args:
        ops: From `tflite.operations`, of a float or an integer file.
        target: `Target.to_dict()`.

    Returns:
        Findings as `artifact.Row` has them, each with `op`, `tensor` (its first output) and
        `where` (`cpu`, or `nowhere` where the target has no kernel at all). Empty where all is well
        and for targets without a compiler.
    """
    checker = CHECKS.get(target.get("compiler", ""))
    return checker(ops, target) if checker else []


def is_float(ops: list[dict]) -> bool:
    """Whether a file is still to be quantized: it computes in floats only."""
    dtypes = {t["dtype"] for op in ops for t in op["outputs"] if t}
    return bool(dtypes & set(FLOATS)) and not dtypes & set(edgetpu_rules.BYTES8)


def _edgetpu(ops: list[dict], target: dict) -> list[dict]:
    several = bool(target.get("options", {}).get("multiple_subgraphs"))
    placed = edgetpu_rules.place(ops, several, planned=is_float(ops))
    found = [
        _finding(p["op"], p["tensor"], "cpu", f"stays on the CPU: {p['why']}", _ADVICE["edgetpu"])
        for p in placed
        if p["where"] == "cpu" and p["status"] != "subgraph"
    ]
    behind = sum(p["status"] == "subgraph" for p in placed)
    if behind:
        text = f"{behind} further operations stay on the CPU because they come after those"
        found.append(_finding("", "", "cpu", text, _ADVICE["edgetpu"]))
    return found


def _vela(ops: list[dict], target: dict) -> list[dict]:
    family = target["options"]["accelerator"].rpartition("-")[0]
    table = ethos_rules()
    known = set(table["ops"][table["families"].get(family, "u55")])
    return [
        _finding(op["op"], _name(op), "cpu", f"stays on the CPU: {family} has no {op['op']}",
                 _ADVICE["vela"])
        for op in ops
        if op["op"] not in known
    ]


def _micro(ops: list[dict], target: dict) -> list[dict]:
    absent = set(micro.missing(ops))
    return [
        _finding(op["op"], _name(op), "nowhere", f"TFLite Micro has no {op['op']}",
                 _ADVICE["micro"]) | {"level": "error"}
        for op in ops
        if op["op"] in absent
    ]


@functools.cache
def ethos_rules() -> dict:
    """The table of `rules/ethos-u.toml`."""
    path = Path(__file__).parent / "rules" / "ethos-u.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _name(op: dict) -> str:
    return op["outputs"][0]["name"] if op["outputs"] else ""


def _finding(op: str, tensor: str, where: str, text: str, advice: str) -> dict:
    words = f"{op} {text}" if op and not text.startswith("TFLite") else text
    return {"level": "warning", "text": words, "advice": advice, "op": op, "tensor": tensor,
            "where": where}


def totals(findings: list[dict]) -> str:
    """Findings in one line: "RESIZE_BILINEAR 2, ARG_MAX 1"; empty for none."""
    counts = Counter(f["op"] for f in findings if f["op"]).most_common(SHOWN)
    return ", ".join(f"{op} {n}" for op, n in counts)


_ADVICE = {
    "edgetpu": "replace it, or end the model before it: what follows stays on the CPU too",
    "vela": "replace it, or accept the time that it takes on the CPU",
    "micro": "replace the layer, or write the kernel and register it",
}
CHECKS = {"edgetpu": _edgetpu, "vela": _vela, "micro": _micro}
