"""The comparison of several runs as a table for a terminal and as one HTML page."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

from . import runs, words
from .basis import moment
from .markup import code, esc, grid
from .page import POLICY
from .picks import TITLES as KINDS

TITLES = {"size_gzip": "Gzip"}
LEAST = {"size_gzip": 110, "snr": 92, "agreement": 78, "latency": 74}  # columns a figure needs
MARKS = {"other machine": "†", "other data": "†", "other runtime": "†", "measured otherwise": "†",
         "software adapter": "†", "random data": "*", "within noise": "≈"}
LEGEND = {"≈": "within noise: the ranges from p10 to p90, or the 95 % intervals, overlap",
          "†": "not compared: other machine, data, runtime, or measured otherwise",
          "*": "random data: says nothing of real inputs"}
FEW = 12  # differences that the terminal shows
STATUS = {"ok": "● ok", "rejected": "▲ rejected", "failed": "✕ failed", None: "–"}


def table(found: dict, width: int = 80, color: bool = False) -> str:
    """The comparison as text for a terminal.

    Args:
        found: From `runs.compare`.
        width: Columns of the terminal.
        color: Whether the terminal takes ANSI colours; `NO_COLOR` in the environment wins.
    """
    import io

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    color = color and not os.environ.get("NO_COLOR")
    console = Console(file=io.StringIO(), width=width, force_terminal=color, legacy_windows=False,
                      color_system="standard" if color else None, highlight=False, markup=False)
    keys = [k for k in _figures(found) if width >= LEAST.get(k, 0)]
    made = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    made.add_column("Target", overflow="fold", min_width=14)
    for key in keys:
        made.add_column(_title(key), justify="right", no_wrap=True)
    made.add_column("Status", no_wrap=True)
    used: set[str] = set()
    for target in found["targets"]:
        made.add_row(Text(words.short(target["target"], max(14, width - 62)), "bold"))
        for at, run in enumerate(found["runs"]):
            if target["status"][at] is None:
                made.add_row(Text(f"  {words.short(run['name'], 20)}"), *[""] * len(keys),
                             Text("absent", "dim"))
                continue
            cells = [_plain(target, key, at, used) for key in keys]
            made.add_row(Text(f"  {words.short(run['name'], 20)}"), *map(Text, cells),
                         Text(STATUS.get(target["status"][at], target["status"][at])))
    console.print(made)
    for text, style in _lines(found, used):
        for line in textwrap.wrap(words.UNIT.sub(words.GLUE, text), width,
                                  subsequent_indent="   ", break_on_hyphens=False) or [""]:
            console.print(Text(line.replace(words.GLUE, " "), style))
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def _figures(found: dict) -> list[str]:
    """The names of the figures that any target has, in the order of `runs.FIGURES`."""
    return list(dict.fromkeys(
        f["name"] for key in runs.FIGURES for t in found["targets"] for f in t["figures"]
        if f["name"] == key or key == "metric" and f["name"] in words.HIGHER_IS_BETTER))


def _title(name: str) -> str:
    return TITLES.get(name) or words.title(name)


def _plain(target: dict, key: str, at: int, used: set[str]) -> str:
    figure = next((f for f in target["figures"] if f["name"] == key), None)
    if figure is None or not figure["shown"][at]:
        return ""
    mark = MARKS.get(figure["notes"][at], "")
    used.update(mark)
    change = runs.delta(figure, at).removesuffix(" points").removesuffix(" dB")
    change = "=" if change == "same" else change
    return " ".join(filter(None, [figure["shown"][at], change])) + mark


def _lines(found: dict, used: set[str]) -> list[tuple[str, str]]:
    said = [("", ""), (runs.verdict(found), "bold")]
    said += [(f"▲  {line}", "yellow") for line in found["warnings"]]
    for key in ("appeared", "disappeared"):
        if found[key]:
            said.append((f"·  {key}: {words.listed([words.clean(t) for t in found[key]])}", ""))
    names = [words.clean(r["name"]) for r in found["runs"]]
    for one in found["differences"][:FEW]:
        shown = (f"{words.short(_value(v), 60)} in {name}"
                 for v, name in zip(one["values"], names, strict=True))
        said.append((f"·  {words.clean(one['what'])}: {'; '.join(shown)}", "dim"))
    if (more := len(found["differences"]) - FEW) > 0:
        said.append((f"·  and {more} more differences: --html or --json has them all", "dim"))
    said += [(f"{mark}  {told}", "dim") for mark, told in LEGEND.items() if mark in used]
    return said


def _value(value: object) -> str:
    return "not given" if value is None else words.plain(value)


# The page

def html(found: dict) -> str:
    """The comparison as one HTML page that needs no other file, no script and no network."""
    css = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    names = [r["name"] for r in found["runs"]]
    title = " · ".join(map(esc, names))
    parts = [_header(found, title), _warned(found), _targets(found), _picks(found),
             _differences(found), _runs(found)]
    return (f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<meta name="color-scheme" content="light dark">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
            f'<meta name="generator" content="tfcompress">\n'
            f"<title>{title} · tfcompress</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>"
            "\n" + "\n".join(p for p in parts if p) + "\n</main>\n</body>\n</html>\n")


def _header(found: dict, title: str) -> str:
    return (f'<header>\n<p class="over">tfcompress report, {len(found["runs"])} runs</p>\n'
            f'<h1>{title}</h1>\n<p class="verdict">'
            f"{words.UNIT.sub(words.GLUE, esc(runs.verdict(found)))}</p>\n</header>")


def _warned(found: dict) -> str:
    said = "".join(f'<div class="finding warning"><p><b class="level"><span aria-hidden="true">▲'
                   f"</span> Warning.</b> {esc(line)}.</p></div>"
                   for line in found["warnings"])
    return (f'<section aria-labelledby="before"><h2 id="before">Before you compare</h2>{said}'
            "</section>" if said else "")


def _targets(found: dict) -> str:
    keys = _figures(found)
    everywhere = {k: note for k in keys if (note := _common(found, k))}
    head = "".join(f'<th scope="col">{esc(_title(k))}</th>' for k in keys)
    body = "".join(_target(found, target, keys, everywhere) for target in found["targets"])
    told = ""
    for key, said in (("appeared", "Not in the first run"), ("disappeared", "Not in every run")):
        if found[key]:
            told += f'<p class="note">{said}: {esc(words.listed(found[key]))}.</p>'
    said = "".join(f" {_title(k)} is {_note(note)}." for k, note in everywhere.items())
    return (f'<section aria-labelledby="targets">\n<h2 id="targets">Targets</h2>\n'
            f'<div class="scroll" role="region" tabindex="0" aria-label="Targets">'
            f'<table class="runs"><thead><tr><th scope="col">Run</th>{head}'
            f'<th scope="col">Status</th></tr></thead>{body}</table></div>{told}\n<p class="note">'
            "Changes are against the first run. Latency within noise: the ranges from p10 to p90 "
            f"overlap; metrics: the 95 % intervals.{said}</p></section>")


def _common(found: dict, key: str) -> str:
    """Why a figure is compared in no target and run; empty where the reasons differ."""
    notes = {note for t in found["targets"] for f in t["figures"] if f["name"] == key
             for note, shown in zip(f["notes"][1:], f["shown"][1:], strict=True) if shown}
    note = notes.pop() if len(notes) == 1 else ""
    return "" if note == "within noise" else note


def _target(found: dict, target: dict, keys: list[str], everywhere: dict[str, str]) -> str:
    lines = "".join(_line(run["name"], target, at, keys, everywhere)
                    for at, run in enumerate(found["runs"]))
    return (f'<tbody><tr><th scope="rowgroup" colspan="{len(keys) + 2}">{esc(target["target"])}'
            f"</th></tr>{lines}</tbody>")


def _line(name: str, target: dict, at: int, keys: list[str], everywhere: dict[str, str]) -> str:
    first = f'<th scope="row">{esc(name)}</th>'
    if target["status"][at] is None:
        return f'<tr>{first}<td colspan="{len(keys) + 1}" class="dull">not in this run</td></tr>'
    cells = ""
    for key in keys:
        figure = next((f for f in target["figures"] if f["name"] == key), None)
        shown = esc(figure["shown"][at]) if figure else ""
        note = "" if key in everywhere or not figure else _note(figure["notes"][at])
        beside = ", ".join(t for t in (runs.delta(figure, at), note) if t) if figure else ""
        cells += f"<td>{shown}" + (f"<small>{esc(beside)}</small>" if beside else "") + "</td>"
    status = target["status"][at]
    return (f'<tr>{first}{cells}<td><span class="status {esc(status)}">'
            f"{esc(STATUS.get(status, status))}</span></td></tr>")


def _note(note: str) -> str:
    return f"not compared: {note}" if note and note != "within noise" else note


def _picks(found: dict) -> str:
    lines = [{"run": run["name"], **pick} for run in found["runs"] for pick in run["picks"]]
    if not lines:
        return ""
    lines.sort(key=lambda p: list(KINDS).index(p["pick"]))
    return ('<section aria-labelledby="picks"><h2 id="picks">What to take</h2>' + grid("By run", [
        ("", lambda p: esc(KINDS[p["pick"]] + (f", {p['family']}" if p["family"] else "")),
         "narrow"),
        ("Run", lambda p: esc(p["run"]), ""),
        ("Target", lambda p: esc(p["target"] or "none"), "narrow"),
        ("Why", lambda p: esc(p["why"]), "text"),
    ], lines).replace("<h4>", "<h3>").replace("</h4>", "</h3>") + "</section>")


def _differences(found: dict) -> str:
    if not found["differences"]:
        return ""
    columns = [("", lambda d: code(d["what"]), "")]
    columns += [(run["name"], lambda d, at=at: esc(words.short(_value(d["values"][at]), 200)),
                 "text") for at, run in enumerate(found["runs"])]
    return ('<section aria-labelledby="differences"><h2 id="differences">What else differs</h2>'
            + grid("Source, data, recipe and environment", columns, found["differences"])
            .replace("<h4>", "<h3>").replace("</h4>", "</h3>") + "</section>")


def _runs(found: dict) -> str:
    parts = []
    for run in found["runs"]:
        facts = [("Source", run["source"]), ("SHA-256", run["sha256"]), ("CPU", run["cpu"]),
                 ("Created", run["created"] and moment(run["created"])),
                 ("tfcompress", run["version"])]
        told = "".join(f"<div><dt>{k}</dt><dd>{esc(v)}</dd></div>" for k, v in facts if v)
        again = (f'<pre tabindex="0"><code>{esc(run["command"])}</code></pre>'
                 if run["command"] else "")
        parts.append(f"<h3>{esc(run['name'])}</h3><dl>{told}</dl>{again}")
    return (f'<section aria-labelledby="runs" class="base"><h2 id="runs">Runs</h2><div>'
            f"{''.join(parts)}</div></section>")
