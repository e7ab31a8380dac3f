"""The parts of the page that decide: the picks, and what every artifact costs against its worth."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from ..artifact import Report
from . import pareto, picks, summary, svg, words
from .markup import esc, random_mark

NUMBERS = "Numbers stand for rows of the table."
AXES = {"size": "Size", "size_gzip": "Size, gzip", "latency": "Latency"}


def script() -> str:
    """The page's only script. It stands in the page as it is: no text of a model goes into it."""
    return (Path(__file__).parent / "report.js").read_text(encoding="utf-8")


def allowed(code: str) -> str:
    """The part of the content security policy under which this script runs and no other can."""
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return f"script-src 'sha256-{digest}'"


def picked(report: Report) -> str:
    """The picks as cards; empty where there was no choice."""
    if not picks.worth_telling(report):
        return ""
    places = {row.target: at for at, row in enumerate(report.rows)}
    cards = "".join(
        f'<div><dt>{esc(p.title)}</dt><dd>{_target(p.target, places)}'
        f"<p>{words.UNIT.sub(words.GLUE, esc(p.why))}</p></dd></div>" for p in picks.every(report))
    return (f'<section aria-labelledby="picks">\n<h2 id="picks">What to take</h2>\n'
            f'<dl class="picks">{cards}</dl>\n<p class="note">{esc(picks.budget(report))}</p>\n'
            "</section>")


def _target(target: str | None, places: dict[str, int]) -> str:
    if target is None:
        return '<b class="dull">none</b>'
    return f'<b><a href="#t{places[target]}">{esc(target)}</a></b>'


def tradeoffs(report: Report) -> str:
    """The scatter plots, with a choice of axes that needs no script."""
    found = pareto.charts(report)
    if not found:
        return ""
    across = [a for a in pareto.ACROSS if any(c.across == a for c in found)]
    upwards = [u for u in pareto.UPWARDS if any(c.upwards == u for c in found)]
    names = {u: words.title(_metric(report, u)) for u in upwards}
    choice = _choice("Across", "across", [(a, AXES[a]) for a in across])
    choice += _choice("Upwards", "upwards", [(u, names[u]) for u in upwards])
    # What cannot be drawn for a pair of axes says so in the place of the plot.
    pairs = {(c.across, c.upwards): c for c in found}
    drawn = "\n".join(_chart(pairs.get((a, u)), a, u) for a in across for u in upwards)
    return (f'<section aria-labelledby="trade" class="explore">\n<h2 id="trade">Trade-offs</h2>\n'
            f'<div class="axes">{choice}</div>\n{drawn}\n<p class="note">Each mark leads to the '
            "account of its target.</p>\n</section>")


def _metric(report: Report, upwards: str) -> str:
    return summary.metric(report) or "" if upwards == "metric" else upwards


def _choice(legend: str, name: str, options: list[tuple[str, str]]) -> str:
    made = "".join(
        f'<label><input type="radio" name="{name}" class="{name}-{key}"'
        f'{" checked" if at == 0 else ""}><span>{esc(title)}</span></label>'
        for at, (key, title) in enumerate(options))
    return f'<fieldset><legend>{legend}</legend>{made}</fieldset>'


def _chart(chart: pareto.Chart | None, across: str, upwards: str) -> str:
    if chart is None:
        inside = ('<p class="quiet">Nothing to draw: fewer than two artifacts have both figures in '
                  "one place.</p>")
    else:
        inside = f'<div class="figures">{"".join(map(_figure, chart.plots))}</div>'
        if chart.alone:
            said = words.listed(list(chart.alone))
            inside += f'<p class="note">Alone in its place and not drawn: {esc(said)}.</p>'
    return f'<div class="chart a-{across} u-{upwards}">{inside}</div>'


def _figure(plot: svg.Plot) -> str:
    kinds = pareto.numbered(plot)
    told = f' <span class="when {" ".join(kinds)}">{NUMBERS}</span>' if kinds else ""
    return (f'<figure class="trade"><figcaption><h3>{esc(plot.title)}'
            f"{random_mark(plot.random)}</h3><p>{esc(plot.caption)}{told}</p></figcaption>"
            f"{plot.svg}</figure>")
