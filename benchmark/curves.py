"""The training curves of the report as inline SVG: one line per stage, epochs from left to right.

Lines are drawn in a box of their own that stretches with the page (`vector-effect` keeps their
width), everything else as in `plots`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from ..artifact import Report
from . import svg, trained, words

TOP, FOOT = 26, 204  # pixels down to the first and the last line of the plot
STRIP = 40  # pixels that belong to the zeros, at the foot
LEFT, RIGHT = 0.12, 0.985  # shares of the width between which epochs stand
DOTS = 40  # epochs up to which each has a dot with its figures
WIDE = {"narrow": 326, "wide": 480}  # the page's widths, for labels that must fit
LOG = 15  # a loss that falls by more than this factor is drawn on a logarithmic scale


@dataclass(frozen=True)
class Point:
    """One epoch: its place along the plot, the stage's number, and its record."""

    at: float
    stage: int
    record: dict


def every(report: Report) -> list[svg.Plot]:
    """Loss and metric by epoch; nothing where no epoch was trained."""
    stages = trained.stages(report)
    points = [Point(0.0, n, r) for n, s in enumerate(stages) for r in s.epochs]
    if not points:
        return []
    axis = svg.Axis(0.5, len(points) + 0.5, False, LEFT, RIGHT)
    points = [Point(axis.at(i + 1), p.stage, p.record) for i, p in enumerate(points)]
    name = trained.metric_name(report)
    title = words.title(name)

    def percent(value: float) -> str:
        return trained.metric(report, value)

    found = [
        _plot("loss", "Loss", "loss", stages, points, axis, words.digits3),
        _plot("metric", title, name, stages, points, axis, percent),
    ]
    random = bool(report.data.get("random"))
    return [dataclasses.replace(p, random=random) for p in found if p]


def _plot(key: str, title: str, name: str, stages: list[trained.Stage], points: list[Point],
          axis: svg.Axis, said: Callable[[float], str]) -> svg.Plot | None:
    kinds = {k: [(p, v) for p in points if (v := trained.number(p.record, k)) is not None]
             for k in (key, f"validation_{key}")}
    values = [v for pairs in kinds.values() for _, v in pairs]
    if not values:
        return None
    strip = key == "metric" and any(trained.number(p.record, "sparsity") for p in points)
    up = _upright(values, key, name, FOOT - (STRIP if strip else 0))
    both = all(kinds.values())
    parts = [_bands(stages, points, axis), _levels(up, name if key == "metric" else "loss")]
    for kind, pairs in kinds.items():
        style = "held" if kind.startswith("validation") or not both else "fit"
        parts.append(_line(pairs, up, style))
        if len(points) <= DOTS:
            told = "validation" if kind.startswith("validation") else "training"
            parts += [_dot(p, up.at(v), style, f"{_where(stages, p)}: {told} {said(v)}")
                      for p, v in pairs]
    if strip:
        parts.append(_zeros(points))
    parts.append(_epochs(axis))
    lower = name in trained.LOWER or key == "loss"
    caption = f"By epoch, {'lower' if lower else 'higher'} is better."
    if not both:
        caption += " On the samples it trained on." if kinds[key] else " On held-out samples."
    caption += " Logarithmic scale." if up.log else ""
    caption += " Shaded: share of zeros." if strip else ""
    drawn = svg.frame(f"train-{key}", f"{title} by epoch", _described(stages, key, said),
                      FOOT + 20, parts)
    return svg.Plot(f"train-{key}", title, drawn, caption)


def _upright(values: list[float], key: str, name: str, foot: float) -> svg.Axis:
    """The axis upwards: at returns pixels."""
    low, high = min(values), max(values)
    log = key == "loss" and low > 0 and high / low > LOG
    if log:
        return svg.Axis(low / 1.15, high * 1.15, True, foot, TOP)
    pad = (high - low) * 0.08 or abs(high) * 0.05 or 0.05
    floor = 0.0 if low >= 0 else -math.inf
    roof = 1.0 if name in words.SHARES and key == "metric" else math.inf
    return svg.Axis(max(floor, low - pad), min(roof, high + pad), False, foot, TOP)


def _levels(up: svg.Axis, name: str) -> str:
    """Lines across with their figures above them, at the left."""
    parts = []
    for value in up.ticks(6):
        down = up.at(value)
        shown = f"{100 * value:g} %" if name in words.SHARES else f"{value:g}"
        parts.append(svg.line(0, down, 1, down, "grid"))
        parts.append(f'<text x="0" y="{down - 4:.1f}" class="tick">{svg.text(shown)}</text>')
    return "".join(parts)


def _bands(stages: list[trained.Stage], points: list[Point], axis: svg.Axis) -> str:
    """A shade behind each stage's epochs with the stage's name, or its number where that is all."""
    parts, first = [], 0
    for at, stage in enumerate(stages):
        if not stage.epochs:
            continue
        last = first + len(stage.epochs)
        left, right = axis.at(first + 0.5), axis.at(last + 0.5)
        shade = "band" if at % 2 else "band clear"
        parts.append(f'<rect x="{svg.across(left)}" y="0" width="{svg.across(right - left)}" '
                     f'height="{FOOT}" class="{shade}"/>')
        parts.append(svg.line(left, 0, left, FOOT, "stage"))
        for kind, wide in WIDE.items():
            room = (right - left) * wide
            full = f"{at + 1} {stage.short}"
            text = next((t for t in (full, str(at + 1)) if 7 * len(t) + 6 <= room), "")
            parts.append(f'<svg x="{svg.across(left)}" overflow="visible"><text x="5" y="13" '
                         f'class="label {kind}">{svg.text(text)}</text></svg>' if text else "")
        first = last
    return "".join(parts)


def _runs(pairs: list[tuple[Point, float]]) -> list[list[tuple[Point, float]]]:
    """Pairs stage by stage."""
    runs: dict[int, list] = {}
    for point, value in pairs:
        runs.setdefault(point.stage, []).append((point, value))
    return list(runs.values())


def _box(inside: str) -> str:
    """Something drawn in thousandths of the width and pixels down."""
    return (f'<svg x="0" y="0" width="100%" height="{FOOT}" viewBox="0 0 1000 {FOOT}" '
            f'preserveAspectRatio="none" aria-hidden="true">{inside}</svg>')


def _line(pairs: list[tuple[Point, float]], up: svg.Axis, style: str) -> str:
    drawn = []
    for run in _runs(pairs):
        spots = " ".join(f"{1000 * p.at:.1f},{up.at(v):.1f}" for p, v in run)
        drawn.append(f'<polyline points="{spots}" class="curve {style}"/>')
    return _box("".join(drawn))


def _dot(point: Point, down: float, style: str, hint: str) -> str:
    return (f'<svg x="{svg.across(point.at)}" y="{down:.1f}" class="spot {style}" '
            f'overflow="visible"><circle r="3"/><title>{svg.text(hint)}</title></svg>')


def _where(stages: list[trained.Stage], point: Point) -> str:
    return f"{stages[point.stage].short}, epoch {int(point.record.get('epoch', 0)) + 1}"


def _zeros(points: list[Point]) -> str:
    """The share of zeros as a shaded strip at the foot, 100 % at its top."""
    high = STRIP - 14
    pairs = [(p, trained.number(p.record, "sparsity") or 0.0) for p in points]
    half = (points[1].at - points[0].at) / 2 if len(points) > 1 else (RIGHT - LEFT) / 2
    spots = [f"{1000 * (pairs[0][0].at - half):.1f},{FOOT}"]
    for p, share in pairs:
        down = FOOT - high * min(1.0, share)
        spots += [f"{1000 * at:.1f},{down:.1f}" for at in (p.at - half, p.at + half)]
    spots.append(f"{1000 * (pairs[-1][0].at + half):.1f},{FOOT}")
    said = words.number("zeros", pairs[-1][1])
    return (_box(f'<polygon points="{" ".join(spots)}" class="zeros"/>')
            + f'<text x="0" y="{FOOT - 14}" class="tick">Zeros</text>'
            + f'<text x="0" y="{FOOT - 1}" class="tick">{svg.text(said)}</text>')


def _epochs(axis: svg.Axis) -> str:
    parts = []
    for value in axis.ticks(6):
        if value == int(value) and value >= 1:
            parts.append(f'<text x="{svg.across(axis.at(value))}" y="{FOOT + 15}" '
                         f'text-anchor="middle" class="tick">{value:g}</text>')
    return "".join(parts)


def _described(stages: list[trained.Stage], key: str, said: Callable[[float], str]) -> str:
    """The curves in words: the first and the last epoch of each stage."""
    told = []
    for stage in stages:
        for name, kind in (("training", key), ("validation", f"validation_{key}")):
            found = [v for r in stage.epochs if (v := trained.number(r, kind)) is not None]
            if found:
                told.append(f"{stage.short}: {name} {said(found[0])} in the first epoch, "
                            f"{said(found[-1])} in the last of {len(stage.epochs)}")
    return "; ".join(told)
