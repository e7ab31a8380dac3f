"""What each artifact costs against what it is worth, and which ones nothing beats in both.

One scatter plot for every pair of axes: across the size, the gzipped size or the latency; upwards
the task's metric, agreement or SNR. Sizes are comparable everywhere; latencies are not, so that
they get one plot for each family (`families.py`). All of them are drawn here: the page only says
which pair is shown, and needs no script for it.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from ..artifact import Report, Row
from . import families, plots, summary, svg, words

ACROSS = ("size", "size_gzip", "latency")
UPWARDS = ("metric", "agreement", "snr")
NAME = 28  # characters of a target's name
TICKS = 40  # pixels at the left that belong to the upright axis's labels
GROUP = re.compile(r'<g class="(\w+)" aria-hidden="true">(.*?)</g>', re.S)
TOP, FOOT, HEIGHT = 34.0, 276.0, 314
Point = tuple[Row, float, float]  # where it stands: a share of the width, pixels from above


@dataclass(frozen=True)
class Chart:
    """The plots of one pair of axes.

    Attributes:
        across, upwards: Of `ACROSS` and `UPWARDS`.
        plots: One, or one for each family.
        alone: What is not drawn because nothing else ran in the same place, in words.
    """

    across: str
    upwards: str
    plots: tuple[svg.Plot, ...]
    alone: tuple[str, ...] = ()


def charts(report: Report) -> list[Chart]:
    """Every pair of axes for which at least two artifacts have figures, the usual one first."""
    found = []
    for up in UPWARDS:
        name = summary.metric(report) if up == "metric" else up
        if name is None or (up == "agreement" and summary.metric(report)):
            continue
        for across in ACROSS:
            drawn, alone = _families(report, name) if across == "latency" else (
                [_scatter(report, list(report.rows), across, name, "")], [])
            if plots_ := tuple(p for p in drawn if p):
                found.append(Chart(across, up, plots_, tuple(alone)))
    return found


def _families(report: Report, name: str) -> tuple[list[svg.Plot | None], list[str]]:
    drawn, alone = [], []
    several = families.several(report)
    for group in families.groups(report):
        # The source was timed apart from the artifacts, with all threads.
        rows = [r for r in group.rows if r.value(name) is not None and r.target != "source"]
        plot = _scatter(report, rows, "latency", name, group.key if several else "")
        drawn.append(plot)
        if plot is None:
            alone += [f"{words.clean(r.target)} ({_shown(report, r, 'latency')}, {group.title})"
                      for r in rows]
    return drawn, alone


def value(report: Report, row: Row, across: str) -> float | None:
    """A row's place across; of a latency the median in its own family."""
    if across != "latency":
        return row.value(across)
    found = families.timed(report, row)
    return found.p50 if found else None


def _shown(report: Report, row: Row, name: str) -> str:
    if name != "latency":
        return words.number(name, row.value(name), "", summary.evaluated(report))
    found = families.timed(report, row)
    return f"{words.digits3(found.p50)} {found.unit}"


def front(rows: list[tuple[Row, float, float]]) -> list[Row]:
    """The rows that no other one beats: none is better in one figure and no worse in the other.

    Args:
        rows: Each with two figures, of both of which less is better.
    """
    found, best = [], math.inf
    for row, _, worth in sorted(rows, key=lambda p: (p[1], p[2])):
        if worth < best:
            found.append(row)
            best = worth
    return found


def _scatter(report: Report, rows: list[Row], across: str, name: str,
             family: str) -> svg.Plot | None:
    rows = [r for r in rows if value(report, r, across) and r.value(name) is not None
            and not math.isnan(r.value(name))]
    if len(rows) < 2 or all(r.target == "source" for r in rows):
        return None
    up = words.HIGHER_IS_BETTER.get(name, True)
    x, log = _axis([value(report, r, across) for r in rows])
    near = plots.near(report, rows, name)
    y = _upright([r.value(name) for r in near if math.isfinite(r.value(name))], name, up)
    points = [(r, x.at(value(report, r, across)), y.at(r.value(name))) for r in rows]
    good = [p for p in points if p[0].status == "ok" and not families.adapter(p[0])] \
        if across == "latency" else [p for p in points if p[0].status == "ok"]
    on_front = front(good)
    numbers = {id(r): str(at) for at, r in enumerate(report.rows)}
    parts = [_frame(x, y, name, _tick(report, rows, across)), _front(good),
             *_labels(points, summary.pick(report), numbers, _steps(good))]
    for r, at, down in points:
        beyond = "" if r in near else plots.ARROW.format(turn=90 if down > 155 else -90)
        told = _hint(report, r, r in on_front)
        number = next(i for i, row in enumerate(report.rows) if row is r)
        parts.append(_point(number, r, told, svg.mark(r, at, down, told, beyond)))
    key = "-".join(filter(None, ("trade", across, name, family)))
    what = {"size": "Size", "size_gzip": "Gzipped size", "latency": "Latency"}[across]
    title = f"{what} against {words.inside(words.title(name))}"
    title += f": {families.FAMILIES[family][0]}" if family else ""
    described = "; ".join(f"{r.target}: {_shown(report, r, across)}, {_shown(report, r, name)}"
                          for r in rows)
    if on_front:
        described += f". On the front: {words.listed([r.target for r in on_front])}."
    caption = _caption(report, rows, across, log, len(near) < len(rows))
    return svg.Plot(key, title, svg.frame(key, title, described, HEIGHT, parts, role="group"),
                    caption, summary.is_random(report, name))


def _axis(found: list[float]) -> tuple[svg.Axis, bool]:
    log = max(found) / min(found) > 12
    left, right = (min(found) * 0.8, max(found) * 1.2) if log else (0.0, max(found) * 1.04)
    return svg.Axis(left, right, log, 0.13, 0.97), log


def _upright(goods: list[float], name: str, up: bool) -> svg.Axis:
    goods = goods or [0.0]
    spare = (max(goods) - min(goods)) * 0.06
    spare = spare or (0.005 if name in words.SHARES else abs(goods[0]) * 0.02 or 0.01)
    most = 1.0 if name in (*words.SHARES, "auc") else math.inf
    ends = (TOP, FOOT) if up else (FOOT, TOP)
    return svg.Axis(min(goods) - spare, min(most, max(goods) + spare), False, ends[1], ends[0])


def _tick(report: Report, rows: list[Row], across: str) -> Callable[[float], str]:
    if across != "latency":
        return lambda v: words.size(v) if v else "0"
    unit = families.timed(report, rows[0]).unit
    return lambda v: f"{v:,g} {unit}"


def _caption(report: Report, rows: list[Row], across: str, log: bool,
             off: bool) -> str:
    what = "Faster ones" if across == "latency" else "Smaller files"
    less = "faster" if across == "latency" else "smaller"
    said = (f"{what} stand to the left, better ones higher; the line is the Pareto front: nothing "
            f"is both {less} and better.")
    said += f" Logarithmic {'time' if across == 'latency' else 'size'}." if log else ""
    said += " Arrows: off the scale." if off else ""
    if across == "latency":
        if any(families.estimated(families.timed(report, r)) for r in rows):
            said += " Estimates of the compilers, not measurements."
        if soft := [words.clean(r.target) for r in rows if families.adapter(r)]:
            said += (f" {words.listed(soft)}: on a software adapter, which says nothing of the "
                     "hardware; not on the front.")
    return said


def _hint(report: Report, row: Row, on_front: bool) -> str:
    """All figures of a row, one a line."""
    lines = [words.clean(row.target) + ("" if row.status == "ok" else f", {row.status}")]
    for key in summary.columns(report):
        made = summary.cell(report, row, key)
        if made.main and made.main != "not measured":
            title = summary.column_title(report, key)
            beside = ", ".join(t for t in (made.sub, made.where,
                                           "random data" if made.random else "") if t)
            lines.append(f"{title}: {made.main}" + (f" ({beside})" if beside else ""))
    if on_front:
        lines.append("on the Pareto front")
    return "\n".join(lines)


def _point(number: int, row: Row, told: str, mark: str) -> str:
    """A mark that leads to the row's account, by click and by keyboard."""
    place = "source" if row.target == "source" else f"t{number}"
    inside = mark.replace("<title>", '<circle r="12" class="reach"/><title>', 1)
    return (f'<a href="#{place}" class="point" data-t="{number}" '
            f'aria-label="{svg.text(", ".join(told.splitlines()))}">{inside}</a>')


def _frame(x: svg.Axis, y: svg.Axis, name: str, tick: Callable[[float], str]) -> str:
    """Grid of the scatter plot; the labels of the upright axis stand on their lines."""
    parts = [svg.grid(x, 20, 296, tick)]
    for at in y.ticks():
        down = y.at(at)
        shown = f"{100 * at:g} %" if name in words.SHARES else f"{at:g}"
        shown += " dB" if name == "snr" else ""
        parts.append(svg.line(0, down, 1, down, "grid"))
        parts.append(f'<text x="0" y="{down - 4:.1f}" class="tick">{svg.text(shown)}</text>')
    return "".join(parts)


def _front(points: list[Point]) -> str:
    """Steps through the points that no other point beats in both figures."""
    return "".join(svg.line(*ends, "front") for ends in _steps(points))


def numbered(plot: svg.Plot) -> list[str]:
    """The widths of the page (`narrow`, `wide`, `broad`) at which some label is a number."""
    return [kind for kind, drawn in GROUP.findall(plot.svg) if "label numbered" in drawn]


def _steps(points: list[Point]) -> list[tuple[float, float, float, float]]:
    """The lines of the front, (x1, y1, x2, y2) each: level or upright."""
    places = {id(row): (at, down) for row, at, down in points}
    steps = [places[id(row)] for row in front(points)]
    lines = []
    for (x1, y1), (x2, y2) in itertools.pairwise([*steps, (1.0, steps[-1][1])] if steps else []):
        lines.append((x1, y1, x2, y1))
        lines += [(x2, y1, x2, y2)] if y1 != y2 else []
    return lines


def _labels(points: list[Point], best: Row | None, numbers: dict[int, str],
            lines: list[tuple] = ()) -> list[str]:
    """Names beside the points where they fit, numbers where not; one set per width of the page.

    They keep clear of the marks, of each other and of the front's `lines`.
    """
    parts = []
    for kind, width in (("narrow", 326.0), ("wide", 430.0), ("broad", 830.0)):
        taken = [(p[1] * width - 6, p[2] - 6, p[1] * width + 6, p[2] + 6) for p in points]
        taken += [(x1 * width, min(y1, y2) - 1, x2 * width, max(y1, y2) + 1)
                  for x1, y1, x2, y2 in lines]
        order = sorted(points, key=lambda p: (p[0] is not best, p[0].status != "ok"))
        for _ in points:  # those without a place come first in the next try
            spots, without = _arranged(order, width, numbers, taken)
            if not without:
                break
            order = without + [p for p in order if p not in without]
        drawn = []
        for (row, share, down), text, (_, side, dx, dy) in spots:
            style = "best" if row is best else "numbered" if text == numbers[id(row)] else ""
            drawn.append(f'<svg x="{svg.across(share)}" y="{down:.1f}" overflow="visible">'
                         f'<text x="{dx}" y="{dy}" text-anchor="{side}" class="label {style}">'
                         f"{svg.text(text)}</text></svg>")
        parts.append(f'<g class="{kind}" aria-hidden="true">{"".join(drawn)}</g>')
    return parts


def _arranged(order: list[Point], width: float, numbers: dict[int, str],
              taken: list[tuple]) -> tuple[list[tuple], list[Point]]:
    """A place for each label in turn, as (point, text, place), and the points that got none."""
    taken, spots, without = list(taken), [], []
    for point in order:
        row, share, down = point
        for text in (words.short(row.target, NAME), numbers[id(row)]):
            if spot := _place(text, share * width, down, width, taken):
                taken.append(spot[0])
                spots.append((point, text, spot))
                break
        else:
            without.append(point)
    return spots, without


def _place(text: str, x: float, y: float, width: float, taken: list[tuple]) -> tuple | None:
    """The first of eight places around (x, y), in pixels, where `text` overlaps nothing."""
    wide = 7.2 * len(text) + 2
    for side, dx, dy in (("start", 7, -9), ("end", -7, -9), ("start", 9, 4), ("end", -9, 4),
                         ("start", 7, 17), ("end", -7, 17), ("middle", 0, -11), ("middle", 0, 18)):
        left = x + dx - {"start": 0.0, "middle": wide / 2, "end": wide}[side]
        box = (left, y + dy - 10, left + wide, y + dy + 3)
        inside = box[0] >= TICKS and box[2] <= width and box[1] >= 2 and box[3] <= 296
        if inside and not any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3]
                              for t in taken):
            return box, side, dx, dy
    return None
