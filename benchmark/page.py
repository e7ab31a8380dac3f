"""The report as one HTML page: no network, and whole without its one small script (`report.js`).

Every text that comes from a model, a target or the machine passes through `markup.esc`.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..artifact import Report, Row
from . import (
    basis,
    deciding,
    families,
    layers_page,
    plots,
    shrinking,
    summary,
    svg,
    trained,
    training_page,
    words,
)
from .markup import code, esc, grid, notes, random_mark

STATUS = {"ok": ("●", "ok"), "rejected": ("▲", "rejected"), "failed": ("✕", "failed")}
LEVELS = {"info": ("·", "Note"), "warning": ("▲", "Warning"), "error": ("✕", "Problem")}
DIGEST = re.compile(r"\b[0-9a-f]{40,}\b")
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
OPEN_UP_TO = 3  # targets whose details stand open from the start


def render(report: Report) -> str:
    """The whole page."""
    css = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    name = esc(Path(str(report.source.get("path", "model"))).name or "model")
    report = summary.readable(shrinking.explained(report))
    own = deciding.script()
    parts = [_header(report, name), deciding.picked(report), _summary(report),
             deciding.tradeoffs(report), _figures(report), training_page.section(report),
             _targets(report), _source(report), basis.data(report), basis.environment(report),
             f"<script>{own}</script>"]
    allowed = f"{POLICY}; {deciding.allowed(own)}"
    return (f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<meta name="color-scheme" content="light dark">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{allowed}">\n'
            f'<meta name="generator" content="tfcompress {esc(report.version)}">\n'
            f"<title>{name} · tfcompress</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n"
            + "\n".join(p for p in parts if p) + "\n</main>\n</body>\n</html>\n")


def _header(report: Report, name: str) -> str:
    targets = len(summary.made(report))
    facts = [f"{targets} target{'' if targets == 1 else 's'}"]
    if parameters := report.source.get("parameters"):
        facts.insert(0, f"{words.number('parameters', parameters)} parameters")
    if count := summary.evaluated(report):
        facts.append(f"{count:,} held-back samples")
    if report.created:
        facts.append(esc(basis.moment(report.created)))
    troubles, few = summary.problems(report), summary.few(report)
    return (f'<header>\n<p class="over">tfcompress report</p>\n<h1>{name}</h1>\n'
            f'<p class="verdict">{_pieces(summary.verdict(report))}</p>\n'
            + (f'<p class="troubles">{_pieces(troubles)}</p>\n' if troubles else "")
            + (f'<p class="random-note">▲ {RANDOM_NOTE}</p>\n' if report.data.get("random") else "")
            + (f'<p class="random-note">▲ {esc(few)}</p>\n' if few else "")
            + f'<p class="facts">{" · ".join(facts)}</p>\n</header>')


RANDOM_NOTE = ("The data were random. Sizes and times hold; whatever is marked "
               "<em>random data</em> says nothing of real inputs.")


def _pieces(pieces: list[tuple[str, bool]]) -> str:
    """Sentences as HTML; a figure and its unit stay on one line."""
    return "".join(f"<strong>{esc(t)}</strong>" if strong
                   else words.UNIT.sub(words.GLUE, esc(t))
                   for t, strong in pieces)


def status(row: Row) -> str:
    glyph, said = STATUS.get(row.status, ("", row.status))
    return (f'<span class="status {esc(row.status)}"><span aria-hidden="true">{glyph}</span> '
            f"{esc(said)}</span>")


# The summary

def _summary(report: Report) -> str:
    keys, best = summary.columns(report), summary.pick(report)
    titles = [summary.column_title(report, k) for k in keys]
    head = "".join(f'<th scope="col" role="columnheader">{esc(t)}{_under(report, k)}</th>'
                   for k, t in zip(keys, titles, strict=True))
    rows = "\n".join(_summary_row(report, row, at, keys, titles, row is best)
                     for at, row in enumerate(report.rows))
    said = [esc(f"Not measured: {line}.") for line in summary.missing(report)]
    for line in summary.latency_notes(report)[1:]:
        said.append(f"Latency of {esc(line)}.")
    if told := summary.interval_note(report):
        said.insert(0, esc(told))
    slim = "" if len(keys) > 3 else " slim"
    return (f'<section aria-labelledby="summary">\n<h2 id="summary">Targets</h2>\n'
            f'<table class="summary{slim}" role="table"><thead role="rowgroup"><tr role="row">'
            f'<th scope="col" role="columnheader">Target</th>{head}'
            f'<th scope="col" role="columnheader">Status</th></tr></thead>\n'
            f'<tbody role="rowgroup">\n{rows}\n</tbody></table>\n'
            + "".join(f'<p class="note">{n}</p>\n' for n in said) + "</section>")


def _under(report: Report, key: str) -> str:
    """The small print of a column's title."""
    name = summary.metric(report) if key == "metric" else key
    said = {"size": "", "latency": "p50, p10–p90", "metric": "before → after, change",
            "snr": f"against {summary.reference(report, short=True)}",
            "agreement": "top-1, with source"}.get(key, "")
    if key == "metric" and not any(r.value(name) is not None for r in summary.made(report)):
        said = ""
    return f"<small>{said}</small>" if said else ""


def _summary_row(report: Report, row: Row, at: int, keys: list[str], titles: list[str],
                 best: bool) -> str:
    kind = "source" if row.target == "source" else row.status
    name = esc(row.target) if row.target == "source" else f'<a href="#t{at}">{esc(row.target)}</a>'
    tag = '<small class="pick">smallest that fits</small>' if best else ""
    if best and summary.within_budget(report, row) is None:
        tag = '<small class="pick">smallest</small>'
    if place := families.place(report, row):
        tag = f"<small>{esc(place)}</small>{tag}"
    first = (f'<th scope="row" role="rowheader"><div><span class="number" aria-hidden="true">{at}'
             f"</span><span>{name}{tag}</span></div></th>")
    if keys and all(not summary.cell(report, row, k).main for k in keys):
        cells = (f'<td role="cell" colspan="{len(keys)}" class="why">'
                 f"{esc(words.error_text(row))}</td>")
    else:
        cells = "".join(_summary_cell(summary.cell(report, row, k), t, k)
                        for k, t in zip(keys, titles, strict=True))
    style = f"{esc(kind)}{' best' if best else ''}"
    return (f'<tr role="row" data-t="{at}" class="{style}">{first}{cells}'
            f'<td role="cell" class="state" data-label="Status">{status(row)}{_warned(row)}</td>'
            "</tr>")


def _warned(row: Row) -> str:
    """How many warnings and problems stand under a row that was made."""
    parts = []
    for level in ("error", "warning"):
        count = sum(f.get("level") == level for f in row.findings)
        glyph, said = LEVELS[level]
        if count:
            parts.append(f"{glyph} {count} {said.lower()}{'s' if count > 1 else ''}")
    return f"<small>{', '.join(parts)}</small>" if parts else ""


def _summary_cell(made: summary.Cell, title: str, key: str) -> str:
    if not made.main:
        return f'<td role="cell" class="none {key}" data-label="{esc(title)}"></td>'
    sub = f"<small>{esc(made.sub)}</small>" if made.sub else ""
    if made.where == families.SOFTWARE:  # the family itself stands under the target's name
        sub += f'<small class="where">{esc(made.where)}</small>'
    dull = ' class="dull"' if made.main == "not measured" else ""
    return (f'<td role="cell" class="{key}" data-label="{esc(title)}">'
            f"<span{dull}>{esc(made.main)}</span>{random_mark(made.random)}{sub}</td>")


# The plots

def _figures(report: Report) -> str:
    drawn = "\n".join(
        f'<figure class="{p.key}"><figcaption><h3>{esc(p.title)}{random_mark(p.random)}</h3>'
        f"<p>{esc(p.caption)}</p></figcaption>{p.svg}</figure>" for p in plots.every(report))
    if not drawn:
        return ""
    absent = [words.clean(r.target) for r in report.rows if r.value("size") is None]
    note = f'<p class="note">Not drawn: {esc(words.listed(absent))}.</p>\n' if absent else ""
    kinds = {"source" if r.target == "source" else r.status for r in report.rows}
    key = '<p class="note key">' + "".join(
        f'<span><svg width="14" height="12" aria-hidden="true"><svg x="7" y="6" '
        f'class="mark {kind}" overflow="visible">{shape}</svg></svg> {kind}</span>'
        for kind, shape in svg.MARKS.items() if kind in kinds) + "</p>"
    return (f'<section aria-labelledby="figures">\n<h2 id="figures">Figures</h2>\n{key}\n'
            f'<div class="figures">\n{drawn}\n</div>\n{note}</section>')


# Each target

def _targets(report: Report) -> str:
    rows = [(at, r) for at, r in enumerate(report.rows) if r.target != "source"]
    if not rows:
        return ""
    said = "\n".join(_target(report, at, row, len(rows) <= OPEN_UP_TO) for at, row in rows)
    return (f'<section aria-labelledby="details">\n<h2 id="details">Each target</h2>\n{said}\n'
            "</section>")


def _target(report: Report, at: int, row: Row, unfolded: bool) -> str:
    parts = []
    if row.error:
        hint = row.error.get("hint")
        text = words.sentence(row.error.get("message", ""))
        parts.append(f'<div class="finding error"><p>{esc(text)}</p>'
                     + (f'<p class="advice">{esc(hint)}</p>' if hint else "") + "</div>")
    parts += [_finding(report, f) for f in row.findings]
    if row.fallbacks:
        parts.append(grid("Kept in a wider type", [
            ("Operation", lambda f: esc(f.get("op", "")), ""),
            ("Layer", lambda f: code(f.get("layer") or f.get("tensor", "")), ""),
            ("Type", lambda f: esc(f.get("precision", "")), ""),
            ("Why", lambda f: esc(words.minus(f.get("why", ""))), "text"),
            ("Cost", lambda f: esc(words.minus(f.get("cost", "")).replace("->", "→")), "text"),
        ], row.fallbacks))
    inside = {"measurements": _measured(report, row), "layers": layers_page.table(report, row),
              "signature": _signature(row, f"w{at}"),
              "weights": training_page.weights(report, row), "steps": _steps(report, row)}
    if any(inside.values()):
        names = words.sentence(", ".join(name for name, part in inside.items() if part))
        parts.append(f"<details{' open' if unfolded else ''}><summary>{names}</summary>\n"
                     f'<div class="blocks">{"".join(inside.values())}</div></details>')
    if not row.error and not row.findings and not row.fallbacks:
        parts.insert(0, '<p class="quiet">Nothing to note.</p>')
    path = f'<p class="path">{code(row.artifact.path)}</p>' if row.artifact else ""
    return (f'<article id="t{at}" class="{esc(row.status)}">\n<header><h3>{esc(row.target)}</h3>'
            f"{status(row)}{path}</header>\n<div>" + "\n".join(parts) + "</div>\n</article>")


def _finding(report: Report, finding: dict) -> str:
    level = finding.get("level", "info")
    glyph, said = LEVELS.get(level, LEVELS["info"])
    told = f'<span aria-hidden="true">{glyph}</span> {said}'
    told = words.ABOUT.get(finding.get("about"), told)
    advice = finding.get("advice")
    body = (f'<p><b class="level">{told}.</b> '
            f"{esc(_whole(finding.get('text', '')))}</p>")
    body += f'<p class="advice">{esc(advice)}</p>' if advice else ""
    if layers := finding.get("layers"):
        known = [float(f["snr_db"]) for f in layers if f.get("snr_db") is not None]
        full = max([40.0, *(v for v in known if v < float("inf"))])

        def decibels(f: dict) -> str:
            if f.get("snr_db") is None:
                return ""
            value = float(f["snr_db"])
            return f"{esc(words.decibels(value))}{svg.small_bar(value, full)}"

        title = "Where the error begins"
        body += grid(title + " (random data)" if report.data.get("random") else title, [
            ("Layer", lambda f: code(f.get("layer", "")), ""),
            ("Operation", lambda f: esc(f.get("op", "")), ""),
            ("Tensor", lambda f: code(f.get("tensor", "")), ""),
            ("SNR", decibels, "bar"),
        ], layers)
    return f'<div class="finding {esc(level)}">{body}</div>'


def _whole(text: str) -> str:
    """A sentence from its capital to its full stop."""
    text = words.minus(words.sentence(text))
    return text + ("" if text.endswith((".", "!", "?", ":")) or not text else ".")


def _measured(report: Report, row: Row) -> str:
    if not row.measurements:
        return ""
    count = summary.evaluated(report)

    def value(m):
        if not m.values:
            return '<span class="dull">not measured</span>'
        shown = esc(words.number(m.name, m.p50, m.unit, count))
        return shown + random_mark(summary.is_random(report, m.name))

    def note(m):
        said = m.note if m.values else words.reason(m.note)
        exact = f"{m.values[0]:,.0f} {m.unit}" if m.name in words.BYTES and m.values else ""
        said = ", ".join(words.minus(t) for t in (said, exact) if t and t.lower() != words.RANDOM)
        return f'<span class="wrap">{esc(said)}</span>' if len(said) > 30 else esc(said)

    return grid("Measurements", [
        ("", lambda m: esc(words.title(m.name)), ""), ("Median", value, "figure"),
        ("p10–p90", lambda m: esc(words.spread(m)), "figure"),
        ("n", lambda m: f"{len(m.values):,}" if len(m.values) > 1 else "", "figure"),
        ("", note, ""),
    ], row.measurements)


def _signature(row: Row, key: str) -> str:
    tensors = _sides(row.io)
    parts = _tensors("Signature", tensors) if tensors else ""
    if told := words.operators(row.io):
        parts += f'<div class="block"><h4>Operators</h4><p class="ops">{esc(told)}</p></div>'
    return parts + _weights(row.io.get("weights"), key)


def _sides(io: dict) -> list[dict]:
    return [{"side": side[:-1], **t} for side in ("inputs", "outputs") for t in io.get(side, ())]


def _tensors(title: str, tensors: list[dict]) -> str:
    def plain(value):
        if isinstance(value, (list, tuple)):
            return ", ".join(map(plain, value[:4])) + (" …" if len(value) > 4 else "")
        return "" if value is None else esc(f"{value:.6g}" if isinstance(value, float) else value)

    return grid(title, [
        ("", lambda t: esc(t["side"]), ""), ("Name", lambda t: code(t.get("name", "")), ""),
        ("Shape", lambda t: esc(words.shape(t.get("shape", ()))), "figure"),
        ("Type", lambda t: esc(t.get("dtype", "")), ""),
        ("Scale", lambda t: plain(t.get("scale")), "figure"),
        ("Zero point", lambda t: plain(t.get("zero_point")), "figure"),
    ], tensors)


def _weights(parts: dict | None, key: str) -> str:
    if not parts:
        return ""
    parts = dict(sorted(parts.items(), key=lambda item: -item[1]))
    told = "".join(f'<span><i class="share s{at % 4}"></i>{esc(name)} {words.percent(share)}</span>'
                   for at, (name, share) in enumerate(parts.items()))
    return (f'<div class="block weights"><h4>Weights by type</h4>{plots.shares(parts, key)}'
            f'<p class="key">{told}</p></div>')


def _steps(report: Report, row: Row) -> str:
    if not row.artifact or not row.artifact.steps:
        return ""

    def config(step):
        known = {"recipe": trained.chain(report)} if step.name == "train" else {}
        told = {k: DIGEST.sub(lambda m: m[0][:12], v) if isinstance(v, str) else v
                for k, v in (step.config | known).items() if not _nothing(v)}
        return esc(words.short(words.plain(told), 160)) if told else ""

    return grid("How it was made", [
        ("Step", lambda s: esc(s.name), ""),
        ("Time", lambda s: f"{words.digits3(s.seconds)} s" + (" (earlier run)" if s.cached else ""),
         "figure"),
        ("With", config, "text"),
        ("From", lambda s: code(s.digest_in[:12]), ""),
        ("To", lambda s: code(s.digest_out[:12]), ""),
    ], row.artifact.steps)


def _nothing(value: object) -> bool:
    """Whether an option of a step was left alone: off, empty, or lists of nothing."""
    if isinstance(value, (list, tuple)):
        return all(map(_nothing, value))
    return value is None or value is False or value in ("", {})


# What it all rests on

def _source(report: Report) -> str:
    source = report.source
    tensors = _sides(source)
    plain = {"kind": source.get("format"), "optimizer_bytes": 0, "trainable": True}
    usual = [k for k, v in plain.items() if source.get(k) == v]
    parts = [basis.listing(source, (*words.APART, *usual))]
    parts.append(notes(source.get("notes")))
    if rewrites := source.get("rewrites"):
        parts.append(grid("Rewritten before conversion, with equal outputs", [
            ("What", lambda r: esc(r.get("what", "")), "text"),
            ("Why", lambda r: esc(r.get("why", "")), "text"),
            ("Layers", lambda r: ", ".join(code(n) for n in r.get("layers", ())), "text"),
        ], rewrites))
    row = summary.source_row(report)
    parts.append('<div class="blocks">'
                 + (_tensors("Inputs and outputs", tensors) if tensors else "")
                 + (_measured(report, row) if row else "")
                 + _weights(source.get("weights") or (row.io.get("weights") if row else None), "ws")
                 + "</div>")
    return basis.section("source", "The source model", parts)
