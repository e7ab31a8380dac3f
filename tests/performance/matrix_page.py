"""docs/compatibility.md from docs/compatibility.json: the same page for the same figures.

    python tests/performance/matrix_page.py

Standard library only, besides the targets' own data.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import constructs

DOCS = Path(__file__).parents[2] / "docs"
DATA, PAGE = DOCS / "compatibility.json", DOCS / "compatibility.md"

HEAD = """\
# What becomes what

Small Keras models of one construct each, converted for each target, and the artifact run by the
target's own runtime: LiteRT, ONNX Runtime, and LiteRT.js and TensorFlow.js on WebAssembly in a
headless Chromium. The figure is the signal-to-noise ratio against the Keras model in dB, of the
worst output over 16 samples that were not calibrated on.

| sign | means |
| --- | --- |
| ✓ | at least 40 dB; for targets with 8-bit numbers at least 20 dB |
| ◐ | the same, with some operations kept in wider types to get there; the report names them |
| ✗ | below that; or no artifact, and the note says why |
| = | equal to the last bit |

This page is written by `python tests/performance/matrix.py` from
[its measurements](compatibility.json), of {date}: {versions}.
Weights are random and inputs are noise: how much a trained model loses, only its own data tell.
"""
APPLICATIONS = """\
## keras.applications

16 images calibrate, 8 others judge. Each BatchNormalization has the statistics of these images, and
shifts that let most values pass: in a deep net of plain random weights each layer multiplies the
rounding errors of those before, which trained ones do not. A cell left empty was not measured.

"""


LATE = "not measured: it takes more than {} seconds"


def floor_db(target: str) -> float:
    """The SNR from which on a target's artifact counts: 40 dB, and 20 dB with 8-bit numbers."""
    from tfcompress import targets

    return 40.0 if targets.load(target).quantization in ("none", "float16") else 20.0


def good(record: dict, target: str) -> bool:
    """Whether an artifact was made and is near enough."""
    return float(record.get("snr_db", "-inf")) >= floor_db(target)


def reason(name: str, target: str, record: dict) -> str:
    """Why it is not: in our own words where the cause is known, else the error."""
    for family in (target, target.partition("-")[0]):
        if told := constructs.REASONS.get(name, {}).get(family):
            return told
    return record.get("error", "")


def render(record: dict) -> str:
    """The page."""
    found, notes = record["models"], Notes()
    about = ", ".join(f"{n} {v}" for n, v in record["versions"].items() if n != "machine")
    parts = [HEAD.format(date=record["date"], versions=about)]
    plain = {n for group in constructs.GROUPS.values() for n in group}
    parts.append("## Totals\n\n" + _table(
        ["target", "constructs", "models of keras.applications"],
        [[f"`{target}`", _count(found, plain, target),
          _count(found, constructs.APPLICATIONS, target)] for target in constructs.TARGETS]))
    for title, group in constructs.GROUPS.items():
        rows = [[label, *_cells(name, found.get(name, {}), constructs.TARGETS, notes)]
                for name, label in group.items()]  # fmt: skip
        parts.append(f"## {title}\n\n" + _table(["", *map(_short, constructs.TARGETS)], rows))
    targets = constructs.APPLICATION_TARGETS
    rows = [[f"{name}, {size} px", *_cells(name, found[name], targets, notes)]
            for name, size in constructs.APPLICATIONS.items() if name in found]  # fmt: skip
    left = [name for name in constructs.APPLICATIONS if name not in found]
    parts.append(APPLICATIONS + _table(["", *map(_short, targets)], rows))
    if left:
        parts.append(f"Not measured, for the time they take: {', '.join(left)}.\n")
    return "\n".join([*parts, *notes.lines()])


class Notes:
    """Footnotes; the same text is the same note."""

    def __init__(self):
        self.texts: list[str] = []

    def __call__(self, text: str) -> str:
        if not text:
            return ""
        if text not in self.texts:
            self.texts.append(text)
        return f"[^{self.texts.index(text) + 1}]"

    def lines(self) -> list[str]:
        return ["", *(f"[^{i}]: {text}" for i, text in enumerate(self.texts, 1)), ""] \
            if self.texts else []


def _cells(name: str, found: dict, targets, notes: Notes) -> list[str]:
    cells = []
    for target in targets:
        record = found.get(target)
        if record is None:
            cells.append("")
            continue
        if "late" in record:
            cells.append(f"–{notes(LATE.format(record['late']))}")
            continue
        snr = record.get("snr_db")
        figure = "=" if snr == "inf" else "" if snr is None else f"{max(snr, 0):.0f}"
        if good(record, target):
            cells.append(f"{'◐' if 'wider' in record else '✓'} {figure}")
        else:
            why = reason(name, target, record)
            cells.append(f"✗ {figure}{notes(why) if why else ''}")
    return cells


def measured(found: dict, names, target: str) -> list[dict]:
    """The records of a target that have a verdict."""
    records = (found.get(n, {}).get(target, {"late": 0}) for n in names)
    return [r for r in records if "late" not in r]


def _count(found: dict, names, target: str) -> str:
    records = measured(found, names, target)
    return f"{sum(good(r, target) for r in records)} of {len(records)}" if records else ""


def _short(target: str) -> str:
    return target.replace("-", " ", 1) if not target.startswith("litert") else target


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def dump(record: dict) -> str:
    """The record as JSON, a line for each model."""
    rest = {k: v for k, v in record.items() if k != "models"}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(found, ensure_ascii=False)}"
                       for name, found in record["models"].items())  # fmt: skip
    return json.dumps(rest, indent=1)[:-2] + ',\n "models": {\n' + lines + "\n }\n}\n"


def write() -> None:
    """Write the page anew."""
    PAGE.write_text(render(json.loads(DATA.read_text())), encoding="utf-8")


if __name__ == "__main__":
    write()
