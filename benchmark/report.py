"""The report of a run: `report.json` for programs, `.html` and `.md` for people, and a table.

    write(report, folder)      all three files
    read(folder)               the report back from its JSON
    table(report, 80, True)    the summary for a terminal
"""

from __future__ import annotations

import json
import math
import os
import re
import textwrap
from pathlib import Path

from .. import store
from ..artifact import SCHEMA_VERSION, Report, Row
from ..errors import OutputError, UsageError
from . import basis, families, layers_page, page, picks, shrinking, summary, trained, words

STATUS = {"ok": "● ok", "rejected": "▲ rejected", "failed": "✕ failed"}
FEW_LAYERS = 40  # that the Markdown shows
COLORS = {"ok": "green", "rejected": "yellow", "failed": "red"}


def html(report: Report) -> str:
    """The report as one HTML page that needs no other file and no network."""
    return page.render(report)


def write(report: Report, folder: str | Path) -> None:
    """Write `report.json`, `report.md` and `report.html` into an existing folder.

    Raises:
        OutputError: The folder cannot be written.
    """
    folder = Path(folder)
    try:
        record = json.dumps(finite(picks.added(report).to_dict()), indent=1, ensure_ascii=False,
                            default=str)
        for name, text in (("report.json", record + "\n"), ("report.md", markdown(report)),
                           ("report.html", html(report))):
            (folder / name).write_text(text, encoding="utf-8", errors="replace", newline="\n")
    except OSError as error:
        raise OutputError(f"cannot write the report: {error}",
                          "check the folder and its free space") from error


def save_page(text: str, path: str | Path) -> None:
    """Write a page to a file of the user's choice, whole or not at all.

    Raises:
        OutputError: There is something else in its place, or it cannot be written.
    """
    path = Path(path)
    try:
        if path.exists() and b'content="tfcompress' not in path.read_bytes()[:4096]:
            raise OutputError(f"{path} is there and is no page of tfcompress",
                              "give another file, or remove it")
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        beside.write_text(text, encoding="utf-8", errors="replace", newline="\n")
        beside.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}",
                          "check the folder and its free space") from error


def finite(value: object) -> object:
    """JSON has no infinity and no NaN: they are written as `"inf"`, `"-inf"` and `"nan"`."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def read(path: str | Path) -> Report:
    """The report in a run's folder, or in its `report.json`.

    Raises:
        UsageError: There is none, it is not a report, or a newer version wrote it.
    """
    path = Path(path)
    path = path / "report.json" if path.is_dir() else path
    try:
        record = store.read_json(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}",
                         "give the output folder of a run, or its report.json") from None
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}",
                         "give a report.json of tfcompress") from None
    version = record.get("schema_version") if isinstance(record, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise UsageError(f"{path} is not a report: it has no schema_version",
                         "give a report.json of tfcompress")
    if version != SCHEMA_VERSION:
        raise UsageError(f"{path} has schema version {version}, not {SCHEMA_VERSION}",
                         "use the tfcompress version that wrote it")
    try:
        return picks.added(Report.from_dict(record))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path} is not a whole report: {type(error).__name__} {error}",
                         "run tfcompress again to write it anew") from None


# The terminal

def table(report: Report, width: int = 80, color: bool = False) -> str:
    """The summary and the findings as text for a terminal.

    Args:
        report: The report.
        width: Columns of the terminal.
        color: Whether the terminal takes ANSI colours; `NO_COLOR` in the environment wins.
    """
    import io

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    report = summary.readable(shrinking.explained(report))
    color = color and not os.environ.get("NO_COLOR")
    console = Console(file=io.StringIO(), width=width, force_terminal=color, legacy_windows=False,
                      color_system="standard" if color else None, highlight=False, markup=False)
    shown = [k for k in _terminal_columns(report, width) if k in summary.columns(report)]
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    best = summary.pick(report)
    longest = max((len(r.target) for r in report.rows), default=0)
    grid.add_column("Target", overflow="fold", min_width=min(longest, max(14, width - 62)))
    for key in shown:
        grid.add_column(summary.column_title(report, key), justify="right", no_wrap=True)
    grid.add_column("Status", no_wrap=True)
    for row in report.rows:
        name = words.short(row.target, max(14, width - 62)).replace("\n", " ")
        name = Text(name, "bold" if row is best else "")
        cells = [Text(_plain_cell(report, row, key, width)) for key in shown]
        status = Text(STATUS.get(row.status, row.status), COLORS.get(row.status, ""))
        grid.add_row(name, *cells, status)
    console.print(grid)
    for text, style in _lines(report):
        whole = words.UNIT.sub(words.GLUE, text)  # a figure and its unit stay on one line
        for line in textwrap.wrap(whole, width, subsequent_indent="   ",
                                  break_on_hyphens=False) or [""]:
            console.print(Text(line.replace(words.GLUE, " "), style))
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def _terminal_columns(report: Report, width: int) -> list[str]:
    """The columns in their order; a narrow terminal goes without the latency, then the SNR.

    Zeros and shared values show in the gzip, which comes before the SNR where there was training.
    """
    found = ["size", "latency", "metric" if summary.metric(report) else "agreement", "snr"]
    limits = ((76, "latency"), (64, "snr"))
    if report.training is not None:
        found.insert(1, "size_gzip")
        limits = ((90, "snr"), (80, "latency"), (64, "size_gzip"))
    for least, key in limits:
        if width < least:
            found.remove(key)
    return found


def _plain_cell(report: Report, row: Row, key: str, width: int) -> str:
    """A cell in few characters: the metric without its value before, which the source row shows."""
    made = summary.cell(report, row, key)
    main = made.main.rpartition("→ ")[2]
    if (key == "size" or (key == "size_gzip" and width >= 100)) and made.sub:
        main += f" ({made.sub.split('×')[0]}×)" if made.sub.endswith("smaller") else ""
    return ("–" if main == "not measured" else main) + ("*" if made.random else "")


def _lines(report: Report) -> list[tuple[str, str]]:
    """The sentences under the terminal's table, each with its style."""
    said = [("", ""), ("".join(text for text, _ in summary.verdict(report)), "bold")]
    if picks.worth_telling(report):
        said += [(f"{p.title}: {words.clean(p.target or 'none')}. {p.why}", "")
                 for p in picks.every(report)[1:]]  # the verdict names the smallest
    said += [(f"·  {line}", "") for line in families.lines(report)]
    said += [(f"·  {line}", "") for line in trained.lines(report)]
    if report.training is not None and (row := summary.pick(report) or _first(report)):
        said += [(f"·  {words.short(row.target, 40)}: {words.clean(f['text'])}", "")
                 for f in row.findings if f.get("about") == "storage"]
    for row in summary.made(report):
        name = words.short(row.target, 40)
        if row.error:
            said.append((f"{STATUS.get(row.status, row.status)}  {name}: {words.error_text(row)}",
                         COLORS.get(row.status, "")))
        said += [(f"{words.LEVELS.get(f.get('level'), '·')}  {name}: {words.finding_text(f)}", "")
                 for f in row.findings if f.get("about") not in words.ABOUT]
    said += [(f"·  not measured: {line}", "dim") for line in summary.missing(report)]
    if report.data.get("random"):
        said.append(("*  random data: these figures say nothing of real inputs", "yellow"))
    if few := summary.few(report):
        said.append((f"▲  {few}", "yellow"))
    return [(text.replace("\n", " "), style) for text, style in said]


def _first(report: Report) -> Row | None:
    return next((r for r in summary.made(report) if r.artifact), None)


# Markdown

def markdown(report: Report) -> str:
    """The report in GitHub-flavoured Markdown."""
    report = summary.readable(shrinking.explained(report))
    name = Path(str(report.source.get("path", "model"))).name
    parts = [f"# {_md(name)}", _sentence(summary.verdict(report)),
             _sentence(summary.problems(report))]
    if report.data.get("random"):
        parts.append("\\* **Random data**: these figures say nothing of real inputs.")
    if few := summary.few(report):
        parts.append(f"**{_md(few)}**")
    if picks.worth_telling(report):
        parts += ["## What to take", "\n".join(
            f"- {_md(p.title)}: **{_md(p.target or 'none')}**. {_md(p.why)}"
            for p in picks.every(report)), _md(picks.budget(report))]
    parts += ["## Targets", _md_summary(report)]
    parts += [f"Not measured: {_md(line)}." for line in summary.missing(report)]
    parts += _md_training(report)
    parts += [_md_target(report, row) for row in summary.made(report)]
    parts += _md_source(report)
    if report.data:
        parts += ["## Data", _md_record(report.data, ("notes",)),
                  _md_list(report.data.get("notes"))]
    if report.environment:
        parts += ["## Environment", _md_record(report.environment)]
    if report.command:
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", report.command)), default=0))
        parts += ["## To make this again", f"{fence}sh\n{words.clean(report.command)}\n{fence}"]
    if report.recipe:
        parts.append(_md_record(report.recipe, words.TOLD))
    when = f", {_md(basis.moment(report.created))}" if report.created else ""
    parts.append(f"tfcompress {_md(report.version)}{when}. "
                 "Sizes are decimal: 1 kB = 1000 bytes.")
    return "\n\n".join(p for p in parts if p) + "\n"


def _md(text: object) -> str:
    """Text in which nothing is Markdown or HTML, on one line."""
    plain = " ".join(words.clean(text).split())
    plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    plain = re.sub(r"([\\\\`*_\[\]|~#!$])", r"\\\1", plain)
    return plain.replace("@", "&#64;").replace("://", ":&#47;/")


def _sentence(pieces: list[tuple[str, bool]]) -> str:
    return "".join(f"**{_md(t)}**" if strong else t if t == " " else _spaced(t)
                   for t, strong in pieces).strip()


def _spaced(text: str) -> str:
    """Escaped text that keeps one space at either end, where it meets its neighbours."""
    return " " * text.startswith(" ") + _md(text) + " " * text.endswith(" ")


def _md_table(head: list[str], rows: list[list[str]], right: int = 0) -> str:
    """A table; columns from number `right` on are aligned right when `right` is given."""
    kept = [i for i in range(len(head)) if any(r[i] for r in rows)]
    rule = ["--:" if right and right <= i else "---" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(line[i] for i in kept)} |" for line in (head, rule, *rows))


def _md_summary(report: Report) -> str:
    keys = summary.columns(report)
    rows = []
    for row in report.rows:
        name = _md(row.target)
        cells = [_md_cell(summary.cell(report, row, k)) for k in keys]
        rows.append([f"**{name}**" if row is summary.pick(report) else name,
                     STATUS.get(row.status, _md(row.status)), *cells])
    head = ["Target", "Status", *(_md(summary.column_title(report, k)) for k in keys)]
    text = _md_table(head, rows, 2)
    if told := summary.interval_note(report):
        text += f"\n\n{_md(told)}"
    how = "; ".join(summary.latency_notes(report))
    if "latency" in keys:
        text += f"\n\nLatency: p50 (p10–p90){', ' + _md(how) if how else ''}."
    return text


def _md_cell(made: summary.Cell) -> str:
    text = _md(made.main) + ("\\*" if made.random else "")
    beside = ", ".join(t for t in (made.sub, made.where) if t)
    return f"{text} ({_md(beside)})" if beside else text


def _md_training(report: Report) -> list[str]:
    """The stages, what they reached, and what is to be known of them, in short."""
    if report.training is None:
        return []
    rows = []
    for stage in trained.stages(report):
        last = stage.epochs[-1] if stage.epochs else {}
        best, zeros = stage.best, trained.number(last, "sparsity")
        rows.append([_md(stage.title), _md(stage.detail), str(len(stage.epochs)),
                     "" if best is None else _md(trained.metric(report, best)),
                     "" if zeros is None else _md(words.percent(zeros))])
    head = ["Stage", "How", "Epochs", _md(words.sentence(trained.metric_title(report))), "Zeros"]
    settings = words.sentence("; ".join(trained.settings(report)))
    return ["## Training", _md_table(head, rows, 2) if rows else "",
            f"{_md(settings)}." if settings else "",
            "\n".join(f"- {_md(words.sentence(line))}" for line in trained.lines(report))]


def _md_target(report: Report, row: Row) -> str:
    parts = [f"## {_md(row.target)}", f"{STATUS.get(row.status, _md(row.status))}"
             + (f" · {_md(row.artifact.path)}" if row.artifact else "")]
    if row.error:
        parts.append(f"> {_md(words.error_text(row))}")
    for finding in row.findings:
        level = page.LEVELS.get(finding.get("level"), page.LEVELS["info"])[1]
        level = words.ABOUT.get(finding.get("about"), level)
        text = finding.get("text", "")
        text = words.sentence(text) if finding.get("about") in words.ABOUT else text
        parts.append(f"- **{level}.** {_md(text)}"
                     + (f" → {_md(finding['advice'])}" if finding.get("advice") else ""))
        if layers := finding.get("layers"):
            star = "\\*" if report.data.get("random") else ""
            parts.append(_md_table(["Error begins at", "Operation", "Tensor", "SNR"], [
                [*(_md(f.get(k, "")) for k in ("layer", "op", "tensor")),
                 words.decibels(float(f["snr_db"])) + star if f.get("snr_db") is not None else ""]
                for f in layers]))
    if row.fallbacks:
        keys = ("op", "layer", "precision", "why", "cost")
        parts.append(_md_table(["Kept in a wider type", "Layer", "Type", "Why", "Cost"],
                               [[_md(f.get(k, "")) for k in keys] for f in row.fallbacks]))
    parts += [_md_measured(report, row), _md_layers(report, row), _md_signature(row.io)]
    if row.artifact and row.artifact.steps:
        parts.append(_md_table(["Step", "Time", "From", "To"], [
            [_md(s.name), f"{words.digits3(s.seconds)} s" + (" (earlier run)" if s.cached else ""),
             _md(s.digest_in[:12]), _md(s.digest_out[:12])] for s in row.artifact.steps]))
    return "\n\n".join(p for p in parts if p)


def _md_measured(report: Report, row: Row) -> str:
    """All measurements of a row, in one paragraph."""
    said = []
    for m in row.measurements:
        value = words.number(m.name, m.p50, m.unit, summary.evaluated(report)) if m.values else ""
        star = "\\*" if summary.is_random(report, m.name) else ""
        beside = ", ".join(t for t in (words.spread(m), m.note) if t) if m.values else ""
        text = f"{words.title(m.name)} {value}" if m.values else f"{words.title(m.name)}: {m.note}"
        said.append(_md(text) + star + (f" ({_md(beside)})" if beside else ""))
    return " · ".join(said)


def _md_layers(report: Report, row: Row) -> str:
    """The layers of a target's file, where they are few enough to be read here."""
    found = row.io.get("layers") or []
    if not 0 < len(found) <= FEW_LAYERS:
        return ""
    star = "\\*" if report.data.get("random") else ""
    rows = [[_md(f["layer"]), _md(layers_page.operators(f)), _md(layers_page.types(f)),
             words.size(f["bytes"]) if f["bytes"] else "",
             "" if f.get("zeros") is None else words.percent(f["zeros"]),
             words.number("macs", f["macs"]) if f["macs"] else "",
             "" if f.get("snr_db") is None else layers_page.decibels(f) + star] for f in found]
    note = row.io.get("layers_note")
    return "\n\n".join(filter(None, [
        _md_table(["Layer", "Operators", "Weights", "Size", "Zeros", "MACs", "SNR"], rows, 3),
        f"SNR of layers not measured: {_md(note)}." if note else ""]))


def _md_signature(io: dict) -> str:
    rows = []
    for side in ("inputs", "outputs"):
        for t in io.get(side, ()):
            numbers = ["" if t.get(k) is None else _md(words.plain(t[k]))
                       for k in ("scale", "zero_point")]
            rows.append([side[:-1], _md(t.get("name", "")), words.shape(t.get("shape", ())),
                         _md(t.get("dtype", "")), *numbers])
    parts = [_md_table(["", "Name", "Shape", "Type", "Scale", "Zero point"], rows)] if rows else []
    if told := words.operators(io):
        parts.append(f"Operators: {_md(told)}")
    if weights := io.get("weights"):
        shown = (f"{_md(k)} {words.percent(v)}" for k, v in weights.items())
        parts.append(f"Weights: {', '.join(shown)}")
    return "\n\n".join(parts)


def _md_source(report: Report) -> list[str]:
    source, row = report.source, summary.source_row(report)
    said = _md_record(source, words.APART)
    parts = ["## The source model", said, _md_signature(source),
             _md_measured(report, row) if row else "", _md_list(source.get("notes"))]
    if rewrites := source.get("rewrites"):
        parts.append(_md_table(["Rewritten before conversion", "Why", "Layers"], [
            [_md(r.get("what", "")), _md(r.get("why", "")), _md(", ".join(r.get("layers", ())))]
            for r in rewrites]))
    return parts


def _md_record(record: dict, skip: tuple[str, ...] = ()) -> str:
    return "\n".join(f"- {_md(k)}: {_md(v)}" for k, v in words.pairs(record, skip))


def _md_list(notes: list[str] | None) -> str:
    return "\n".join(f"- {_md(n)}" for n in notes or ())
