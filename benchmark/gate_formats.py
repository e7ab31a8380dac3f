"""What a check came to, for people and for machines. Standard library only.

`table` for a terminal; `json` rows as size-limit prints them; `junit` XML; `github` annotations
(and `markdown` for its step summary); `sarif` 2.1.0; `benchmark` rows for github-action-benchmark
(`customSmallerIsBetter`). Each takes a `Told` and returns text.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree as xml

from .. import __version__
from ..errors import UsageError, meant
from . import growth, words
from .gate import FAILED, INCONCLUSIVE, PASSED, SKIPPED, Check, show
from .gate_limits import MEASURES

MARKS = {PASSED: "✓", FAILED: "✕", INCONCLUSIVE: "?", SKIPPED: "–"}
COLORS = {PASSED: "32", FAILED: "1;31", INCONCLUSIVE: "33", SKIPPED: "2"}
SHOWN = 12  # layers that grew
UNITS = {"bytes": "bytes", "gzip": "bytes", "parameters": "values", "peak_memory": "bytes",
         "latency": "ratio", "metric_drop": "share", "metric": "share", "snr": "dB"}
SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
RULES = {
    "limit": "A figure is beyond its limit",
    "artifact": "An artifact is missing, failed or was rejected",
    "fallback": "An operation is kept in a wider type than the target asks for",
    "finding": "Something about the artifact that its users must know",
}


@dataclass(frozen=True)
class Told:
    """What there is to say: checks, findings of the reports, growth by target.

    `file` is the configuration's; `width` and `color` are the terminal's.
    """

    checks: tuple[Check, ...]
    findings: tuple[dict, ...] = ()
    growth: dict[str, list[dict]] = field(default_factory=dict)
    file: Path = Path("tfcompress.toml")
    width: int = 100
    color: bool = False


def counts(told: Told) -> str:
    """`5 passed, 1 failed`."""
    found = [(s, sum(c.status == s for c in told.checks)) for s in MARKS]
    return ", ".join(f"{n} {s}" for s, n in found if n) or "nothing checked"


# ---- People ---------------------------------------------------------------------------------

def table(told: Told) -> str:
    """For a terminal: a line per check, then what grew."""
    rows = [[MARKS[c.status], words.clean(c.target), MEASURES[c.measure].title
             if c.measure in MEASURES else c.measure, *_cells(c)] for c in told.checks]
    heads = ["", "Target", "Measure", "Now", "Baseline", "Limit"]
    widths = [max(len(r[i]) for r in [heads, *rows]) for i in range(len(heads))]
    lines = [_line(heads, widths)]
    for row, one in zip(rows, told.checks, strict=True):
        lines.append(_colored(_line(row, widths), COLORS[one.status], told.color))
    for one in told.checks:
        if one.status != PASSED:
            text = f"{MARKS[one.status]} {words.clean(one.target)}: {words.clean(one.text)}"
            lines += [""] * (lines[-1] != "" and len(lines) == len(rows) + 1)
            lines.append(_colored(text, COLORS[one.status], told.color))
    for target, entries in told.growth.items():
        lines += ["", f"{words.clean(target)}, layer by layer:"]
        lines += [f"  {growth.told(e)}" for e in entries[:SHOWN]]
        lines += [f"  and {len(entries) - SHOWN} more"] * (len(entries) > SHOWN)
    return "\n".join([*lines, "", counts(told)]) + "\n"


def _line(cells: list[str], widths: list[int]) -> str:
    left, right = cells[:3], cells[3:]
    parts = [c.ljust(w) for c, w in zip(left, widths, strict=False)]
    parts += [c.rjust(w) for c, w in zip(right, widths[3:], strict=True)]
    return "  ".join(parts).rstrip()


def _cells(one: Check) -> list[str]:
    """Value, baseline, limit."""
    figure, key = one.figure, one.measure
    if key not in MEASURES:
        return ["", "", ""]
    # A ratio has its baseline in its name, and no figure of it.
    values = (figure.value, None if key == "latency" else figure.base, one.limit)
    cells = ["–" if v is None else show(key, v) for v in values]
    if one.limit is None:
        cells[2] = one.allowed
    if figure.low is not None and figure.low != figure.high:
        ends = (show(key, v).removesuffix(" ×") for v in (figure.low, figure.high))
        cells[0] += f" [{', '.join(ends)}]"
    return cells[:2] + [("≥ " if MEASURES[key].more else "≤ ") + cells[2]]


def _colored(text: str, code: str, color: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if color else text


def markdown(told: Told) -> str:
    """For GitHub's step summary, or a comment on a merge request."""
    lines = [f"### tfcompress check: {counts(told)}", "",
             "| | Target | Measure | Now | Baseline | Limit |", "|---|---|---|--:|--:|--:|"]
    for one in told.checks:
        title = MEASURES[one.measure].title if one.measure in MEASURES else one.measure
        cells = [MARKS[one.status], one.target, title, *_cells(one)]
        lines.append("| " + " | ".join(_cell(c) for c in cells) + " |")
    lines += ["", *(f"- **{_cell(c.target)}**: {_cell(c.text)}" for c in told.checks
                    if c.status != PASSED)]
    for target, entries in told.growth.items():
        lines += ["", f"<details><summary>{_cell(target)}, layer by layer</summary>", "",
                  "| Layer | Before | After | Grew | |", "|---|--:|--:|--:|---|"]
        for e in entries[:SHOWN]:
            figures = (f"{e[k]:,}" for k in ("before", "after"))
            cells = (e["layer"], *figures, f"{e['grew']:+,}", e["what"])
            lines.append("| " + " | ".join(_cell(c) for c in cells) + " |")
        lines += ["", "</details>"]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text that Markdown leaves as it is, in a table's cell too."""
    text = words.clean(text).replace("\n", " ")
    return re.sub(r"([\\`*_{}\[\]<>|#&])", r"\\\1", text)


# ---- Machines -------------------------------------------------------------------------------

def rows(told: Told) -> str:
    """JSON rows as size-limit prints them (`name`, `passed`, `size`, `sizeLimit`), and more.

    Only `failed` does not pass; `status` says where a check was skipped or inconclusive.
    """
    found = []
    for one in told.checks:
        figure = one.figure
        row = {"name": one.name, "passed": one.status != FAILED, "size": _plain(figure.value),
               "sizeLimit": _plain(one.limit), "unit": UNITS.get(one.measure, ""),
               "target": one.target, "measure": one.measure, "status": one.status,
               "baseline": _plain(figure.base), "limit": one.allowed, "text": one.text}
        if figure.low is not None:
            row["interval"] = [_plain(figure.low), _plain(figure.high)]
        if one.measure == "bytes" and one.target in told.growth:
            row["growth"] = told.growth[one.target]
        found.append(row)
    return json.dumps(found, indent=1) + "\n"


def _plain(value: float | None) -> float | str | None:
    """JSON has no infinity."""
    if value is None or abs(value) < float("inf"):
        return value
    return str(value)


def junit(told: Told) -> str:
    """JUnit XML: a suite per target, a case per check."""
    root = xml.Element("testsuites", name="tfcompress check", **_totals(told.checks))
    for target in dict.fromkeys(c.target for c in told.checks):
        mine = tuple(c for c in told.checks if c.target == target)
        suite = xml.SubElement(root, "testsuite", name=words.clean(target), **_totals(mine))
        for one in mine:
            case = xml.SubElement(suite, "testcase", name=one.measure,
                                  classname=f"tfcompress.{words.clean(target)}")
            text = words.clean(one.text)
            if one.status == FAILED:
                failure = xml.SubElement(case, "failure", message=text, type="limit")
                entries = told.growth.get(target, ()) if one.measure == "bytes" else ()
                failure.text = "\n".join([text, *map(growth.told, entries)])
            elif one.status == SKIPPED:
                xml.SubElement(case, "skipped", message=text)
            else:
                xml.SubElement(case, "system-out").text = text
    xml.indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + xml.tostring(root, "unicode") + "\n"


def _totals(checks: tuple[Check, ...]) -> dict[str, str]:
    return {"tests": str(len(checks)), "errors": "0",
            "failures": str(sum(c.status == FAILED for c in checks)),
            "skipped": str(sum(c.status == SKIPPED for c in checks))}


def github(told: Told) -> str:
    """Workflow commands that become annotations; passed checks get none."""
    levels = {FAILED: "error", INCONCLUSIVE: "warning", SKIPPED: "notice"}
    lines = []
    for one in told.checks:
        if one.status in levels:
            text = words.clean(one.text)
            if one.status == FAILED and one.measure == "bytes" and one.target in told.growth:
                text += "\n" + "\n".join(map(growth.told, told.growth[one.target][:SHOWN]))
            file, title = (_property(t) for t in (told.file.as_posix(), words.clean(one.name)))
            lines.append(f"::{levels[one.status]} file={file},title={title}::{_message(text)}")
    return "\n".join([*lines, f"tfcompress check: {counts(told)}"]) + "\n"


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")


def sarif(told: Told) -> str:
    """SARIF 2.1.0: broken limits, and what the reports say of operations that a target changed."""
    found = [_result("artifact" if c.measure == "artifact" else "limit", "error", c.target,
                     c.measure, c.text, told) for c in told.checks if c.status == FAILED]
    broken = {(c.target, c.text) for c in told.checks if c.status == FAILED}
    found += [_result(f["kind"], {"info": "note"}.get(f["level"], f["level"]), f["target"],
                      f["layer"], f["text"], told)
              for f in told.findings if (f["target"], f["text"]) not in broken]
    rules = [{"id": key, "shortDescription": {"text": text}} for key, text in RULES.items()]
    driver = {"name": "tfcompress", "version": __version__, "rules": rules}
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0",
                       "runs": [{"tool": {"driver": driver}, "results": found}]}, indent=1) + "\n"


def _result(rule: str, level: str, target: str, what: str, text: str, told: Told) -> dict:
    """The place is the configuration's line on the target: artifacts are seldom committed."""
    name = f"{target}/{what}" if what else target
    uri = {"uri": quote(told.file.as_posix())}
    logical = {"name": what or target, "fullyQualifiedName": name}
    mark = hashlib.sha256(f"{rule} {name} {re.sub('[0-9]+', '', text)}".encode()).hexdigest()
    return {"ruleId": rule, "ruleIndex": list(RULES).index(rule), "level": level,
            "message": {"text": f"{target}: {text}"},
            "locations": [{"physicalLocation": {"artifactLocation": uri, "region":
                                                {"startLine": _line_of(told.file, target)}},
                           "logicalLocations": [logical]}],
            "partialFingerprints": {"tfcompress/v1": mark[:32]}}


def _line_of(file: Path, target: str) -> int:
    """Where a target's table begins, or `[check]`; 1 where neither is found."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return 1
    for ends in (rf"targets\.[\"']?{re.escape(target)}[\"']?", "check"):
        for number, line in enumerate(lines, 1):
            if re.match(rf"\s*\[(.*\.)?{ends}\]", line):
                return number
    return 1


def benchmark(told: Told) -> str:
    """Rows for github-action-benchmark's `customSmallerIsBetter`."""
    found = []
    for one in told.checks:
        figure = one.figure
        if one.measure not in MEASURES or MEASURES[one.measure].more or figure.value is None:
            continue
        row = {"name": f"{one.target} / {MEASURES[one.measure].title}",
               "unit": UNITS[one.measure], "value": figure.value, "extra": one.text}
        if figure.low is not None:
            row["range"] = f"± {max(figure.high - figure.value, figure.value - figure.low):.4g}"
        found.append(row)
    return json.dumps(found, indent=1) + "\n"


FORMATS = {"table": table, "json": rows, "junit": junit, "github": github, "sarif": sarif,
           "benchmark": benchmark, "markdown": markdown}


def outputs(formats: list[str], path: str | None = None) -> list[tuple[str, str | None]]:
    """What `--format NAME`, `--format NAME=FILE` and `--output FILE` ask for: (format, file).

    Raises:
        UsageError: An unknown format, or two that would both be printed or written to one file.
    """
    found = []
    for text in formats or ["table"]:
        name, _, file = text.partition("=")
        if name not in FORMATS:
            raise UsageError(f"unknown format {name!r}",
                             meant(name, FORMATS))
        found.append((name, file or None))
    bare = [name for name, file in found if file is None]
    if len(bare) > 1 or path and not bare:
        raise UsageError("the formats do not say where each goes",
                         "name a file for each but one: --format junit=check.xml --format table")
    return [(name, file or path) for name, file in found]
