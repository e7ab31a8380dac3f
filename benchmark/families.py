"""Where each artifact was timed. Latencies of one family compare; across families they mislead.

An artifact for the browser and one for a microcontroller are never timed by the same clock on the
same machine, and a program that stands in for a graphics processor says nothing of one.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from .. import targets
from ..artifact import Measurement, Report, Row
from . import words

# Key: the place in a sentence, and in a few characters.
FAMILIES = {
    "litert": ("LiteRT on the CPU", "LiteRT"),
    "onnx": ("ONNX Runtime on the CPU", "ONNX Runtime"),
    "keras": ("TensorFlow", "TensorFlow"),
    "gpu": ("LiteRT on the GPU", "GPU"),
    "onnx-gpu": ("ONNX Runtime on the GPU", "ONNX GPU"),
    "web": ("the browser", "browser"),
    "npu": ("accelerators and microcontrollers", "accelerator"),
}
BY_RUNTIME = {"litert": "litert", "onnxruntime": "onnx", "keras": "keras", "tensorflow": "keras",
              "onnxruntime-cuda": "onnx-gpu", "onnxruntime-tensorrt": "onnx-gpu",
              "litert-gpu": "gpu", "litert-js": "web", "tfjs": "web",
              "onnxruntime-web": "web"}
BY_FORMAT = {"tflite": "litert", "onnx": "onnx", "keras": "keras", "saved-model": "keras",
             "tfjs": "web"}
# Of an accelerator, the first that was measured or estimated.
ON_CHIP = ("npu_latency", "npu_latency_estimate")
SOFTWARE = "software adapter"
ADAPTER = re.compile(rf"{SOFTWARE}: ([^;]+)")


@dataclass(frozen=True)
class Group:
    """The artifacts of one family that have a latency, in the report's order."""

    key: str
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        return FAMILIES[self.key][0]


def family(report: Report, row: Row) -> str:
    """The key in `FAMILIES` of the place where a row's latency was taken."""
    if row.target == "source":
        return "keras"
    asked = next((t for t in report.recipe.get("targets", ())
                  if isinstance(t, dict) and t.get("name") == row.target), None)
    asked = asked or _built_in().get(row.target) or {}
    if asked.get("compiler") in ("edgetpu", "vela", "micro"):
        return "npu"
    known = BY_RUNTIME.get(str(asked.get("runtime")))
    return known or BY_FORMAT.get(row.artifact.format if row.artifact else "", "litert")


@functools.cache
def _built_in() -> dict[str, dict]:
    return {t.name: t.to_dict() for t in targets.load_all()}


def timed(report: Report, row: Row) -> Measurement | None:
    """The latency of a row in its own family, None where there is none."""
    names = (*ON_CHIP, "latency") if family(report, row) == "npu" else ("latency",)
    return next((m for name in names if (m := row.get(name)) and m.values), None)


def estimated(found: Measurement) -> bool:
    """Whether a latency is a compiler's estimate, not a measurement."""
    return found.name.endswith("_estimate")


def adapter(row: Row) -> str:
    """The program that stood in for a graphics processor while the row was timed; else empty."""
    found = row.get("latency")
    said = ADAPTER.search(found.note) if found else None
    return said[1].strip() if said else ""


def groups(report: Report) -> list[Group]:
    """The families that have a latency, in the order of `FAMILIES`."""
    found = []
    for key in FAMILIES:
        rows = tuple(r for r in report.rows if family(report, r) == key and timed(report, r))
        if rows:
            found.append(Group(key, rows))
    return found


def several(report: Report) -> bool:
    """Whether artifacts (not the source) were timed in more than one family."""
    return len([g for g in groups(report) if any(r.target != "source" for r in g.rows)]) > 1


def place(report: Report, row: Row) -> str:
    """The family in a few words, where the report has several; else empty."""
    known = timed(report, row) and several(report)
    return FAMILIES[family(report, row)][1] if known else ""


def label(report: Report, row: Row) -> str:
    """What must stand beside a latency so that nobody compares it with what it is not."""
    return SOFTWARE if adapter(row) else place(report, row)


def overlap(a: Measurement, b: Measurement) -> bool:
    """Whether the ranges from p10 to p90 of two latencies overlap: they differ within noise."""
    one, other = a.summary(), b.summary()
    return one["p10"] <= other["p90"] and other["p10"] <= one["p90"]


def lines(report: Report) -> list[str]:
    """What must be known of latencies that stand in one table, a sentence each."""
    found = []
    if several(report):
        told = []
        for group in groups(report):
            names = [words.clean(r.target) for r in group.rows if r.target != "source"]
            told += [f"{group.title} ({', '.join(names)})"] if names else []
        found.append("timed by different runtimes, not ranked against each other: "
                     + "; ".join(told))
    for row in report.rows:
        if name := adapter(row):
            found.append(f"{words.clean(row.target)} ran on a software adapter "
                         f"({words.clean(name)}): its latency says nothing of the hardware")
    return found
