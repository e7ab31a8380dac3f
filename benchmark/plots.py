"""The plots of the report as inline SVG. Standard library only.

Positions across are percentages of the page's column and positions down are pixels, so that the
plots stretch with the page while their text keeps its size. Labels stand above their marks, never
beside them: a phone needs no other layout. Colours come from `report.css` by class, and every
status also has a shape of its own.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..artifact import Report, Row, quantile
from . import words

LINE = 36  # pixels from one row to the next
REACH = 0.08  # a share further than this from the source's is drawn at the plot's edge
NAME = 28  # characters of a target's name in the scatter plot
FIT = {"narrow": 43, "wide": 58}  # characters that fit in a row, by the width of the page
STRIP = 150  # raw samples drawn per row
MARKS = {
    "source": '<circle r="4.5"/>',
    "ok": '<circle r="5"/>',
    "rejected": '<path d="M0-5.5 5.5 4.5H-5.5Z"/>',
}


_ARROW = '<path class="arrow" d="M8-4 13 0 8 4" transform="rotate({turn})"/>'


@dataclass(frozen=True)
class Plot:
    """A drawing and the words around it."""

    key: str
    title: str
    svg: str
    caption: str
    random: bool = False


@dataclass(frozen=True)
class Axis:
    """Maps values to shares of the width (or height), and knows its round ticks."""

    low: float
    high: float
    log: bool = False
    start: float = 0.015
    end: float = 0.985

    def at(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        low, high, value = (map(math.log10, (self.low, self.high, value)) if self.log
                            else (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / ((high - low) or 1.0)

    def ticks(self, count: int = 4) -> list[float]:
        """At most about `count` round values between the ends."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for steps in ((1, 2, 5), (1, 3), (1,)):
                found = [s * 10.0 ** p for p in powers for s in steps]
                found = [v for v in found if self.low <= v <= self.high]
                if len(found) <= count + 1:
                    break
            return found if len(found) > 1 else [self.low, self.high]
        rough = (self.high - self.low) / count
        if rough <= 0:
            return [self.low]
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(i * step, 12) for i in range(first, last + 1)]


def _text(value: object) -> str:
    return html.escape(words.clean(value))


def _across(share: float) -> str:
    return f"{100 * share:.2f}%"


def _mark(row: Row, share: float, y: float, hint: str, extra: str = "") -> str:
    kind = "source" if row.target == "source" else row.status
    return (f'<svg x="{_across(share)}" y="{y:g}" class="mark {kind}" overflow="visible">'
            f'{MARKS.get(kind, MARKS["ok"])}{extra}<title>{_text(hint)}</title></svg>')


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return (f'<line x1="{_across(x1)}" y1="{y1:g}" x2="{_across(x2)}" y2="{y2:g}" '
            f'class="{kind}"/>')


def _svg(key: str, title: str, described: str, height: float, inside: Iterable[str]) -> str:
    return (f'<svg class="plot" role="img" aria-labelledby="{key}-t {key}-d" width="100%" '
            f'height="{height:g}"><title id="{key}-t">{_text(title)}</title>'
            f'<desc id="{key}-d">{_text(described)}</desc>{"".join(inside)}</svg>')


def _rows(key: str, title: str, rows: list[Row], best: Row | None, said: Callable[[Row], str],
          draw: Callable[[Row, float], str], axis: Axis | None = None,
          tick: Callable[[float], str] = lambda v: f"{v:g}", behind: str = "",
          line: int = LINE) -> str:
    """One line per row: name and figure above, what `draw` makes of it below, an axis at the foot."""
    top = 4
    foot = top + line * len(rows)
    parts = [_grid(axis, top, foot, tick) if axis else "", behind.replace("FOOT", f"{foot:g}")]
    for at, row in enumerate(rows):
        y = top + line * at
        strong = " best" if row is best else ""
        parts.append(f'{_name(row.target, y + 12, strong, len(said(row)))}'
                     f'<text x="100%" y="{y + 12}" class="said{strong}">{_text(said(row))}</text>')
        parts.append(draw(row, y + 24))
    told = "; ".join(f"{row.target}: {said(row)}" for row in rows)
    return _svg(key, title, told, foot + (20 if axis else 2), parts)


def _name(name: str, y: float, strong: str, beside: int) -> str:
    """A target's name, as long as the width allows with `beside` characters on the same line."""
    fits = {kind: words.short(name, max(8, count - beside)) for kind, count in FIT.items()}
    if len(set(fits.values())) == 1:
        fits = {"": fits["wide"]}
    return "".join(f'<text x="0" y="{y:g}" class="{kind}{strong}">{_text(text)}</text>'
                   for kind, text in fits.items())


def _grid(axis: Axis, top: float, foot: float, tick: Callable[[float], str]) -> str:
    parts = []
    for value in axis.ticks():
        share = axis.at(value)
        side = "start" if share < 0.06 else "end" if share > 0.94 else "middle"
        spot = 0.0 if side == "start" else 1.0 if side == "end" else share
        parts.append(_line(share, top, share, foot, "grid"))
        parts.append(f'<text x="{_across(spot)}" y="{foot + 15:g}" text-anchor="{side}" '
                     f'class="tick">{_text(tick(value))}</text>')
    return "".join(parts)


def sizes(report: Report) -> Plot | None:
    """Bars of the file sizes; the solid part is what gzip leaves."""
    rows = [r for r in report.rows if r.value("size") is not None]
    if not rows:
        return None
    largest = max(max(r.value("size"), r.value("size_gzip") or 0) for r in rows) or 1

    def said(row):
        return ", ".join(t for t in (words.size(row.value("size")), words.times_smaller(report, row))
                         if t)

    def draw(row, y):
        kind = "source" if row.target == "source" else row.status
        raw, packed = row.value("size"), row.value("size_gzip")
        hint = f"{row.target}: {words.size(raw)}" + (f", gzip {words.size(packed)}" if packed else "")
        whole = (f'<rect x="0" y="{y - 6:g}" width="{_across(raw / largest)}" height="9" '
                 f'class="bar {kind}{" pale" if packed else ""}"><title>{_text(hint)}</title></rect>')
        if not packed:
            return whole
        return whole + (f'<rect x="0" y="{y - 6:g}" width="{_across(min(raw, packed) / largest)}" '
                        f'height="9" class="bar {kind}"><title>{_text(hint)}</title></rect>')

    zipped = any(r.value("size_gzip") for r in rows)
    caption = "Bytes on disk." + (" The solid part is what gzip leaves." if zipped else "")
    return Plot("size", "Size", _rows("size", "File size of each artifact", rows, words.pick(report),
                                      said, draw), caption)


def latencies(report: Report) -> Plot | None:
    """For each row the median, p10 to p90, and the raw samples as a strip."""
    rows = [r for r in report.rows if r.value("latency") is not None]
    if not rows:
        return None
    found = {id(r): r.get("latency") for r in rows}
    middles = [m.p50 for m in found.values()]
    top = max(quantile(m.values, 0.9) for m in found.values()) * 1.08
    log = min(middles) > 0 and max(middles) / min(middles) > 5
    axis = Axis(min(quantile(m.values, 0.02) for m in found.values()) * 0.9 if log else 0.0, top, log)
    beyond = sum(v > top for m in found.values() for v in m.values)

    def said(row):
        m = found[id(row)]
        around = words.spread(m)
        return f"{words.digits3(m.p50)} ms" + (f" ({around.removesuffix(' ms')})" if around else "")

    def draw(row, y):
        m = found[id(row)]
        summary = m.summary()
        step = max(1, math.ceil(len(m.values) / STRIP))
        drawn = m.values[::step] if len(m.values) > 1 else ()
        strip = "".join(_line(axis.at(v), y + 5, axis.at(v), y + 10, "raw") for v in drawn if v <= top)
        wide = _line(axis.at(summary["p10"]), y, axis.at(summary["p90"]), y, "whisker")
        hint = f"{row.target}: p50 {words.digits3(m.p50)} ms, n = {summary['n']}"
        return f"{strip}{wide}{_mark(row, axis.at(m.p50), y, hint)}"

    notes = {m.note for m in found.values() if m.note}
    caption = f"Milliseconds per sample{', ' + words.listed(sorted(notes)) if notes else ''}. "
    caption += "Dot: median; line: p10 to p90; ticks: raw samples."
    caption += " Logarithmic scale." if log else ""
    if beyond:
        caption += f" {beyond} slower sample{'s' if beyond > 1 else ''} beyond the edge."
    svg = _rows("latency", "Latency of each artifact", rows, words.pick(report), said, draw, axis,
                lambda v: f"{v:,g} ms", line=44)
    return Plot("latency", "Latency", svg, caption)


def quality(report: Report) -> Plot | None:
    """The task's metric as dots with 95 % intervals; a dashed line stands at the source."""
    name = words.metric(report)
    rows = [r for r in report.rows if name and r.value(name) is not None]
    if not rows or not any(r.target != "source" for r in rows):
        return None
    spans = {id(r): words.interval(report, name, r.value(name)) for r in rows}
    near = _near(report, rows, name)
    reach = [v for r in near for v in (r.value(name), *(spans[id(r)] or ())) if math.isfinite(v)]
    low, high = min(reach, default=0.0), max(reach, default=1.0)
    pad = (high - low) * 0.08 or abs(high) * 0.05 or 0.05
    limit = 1.0 if name in ("accuracy", "top5", "auc") else math.inf
    axis = Axis(max(0.0, low - pad), min(limit, high + pad))
    count = words.evaluated(report)

    def said(row):
        return words.number(name, row.value(name), "", count)

    def draw(row, y):
        if row not in near:
            return _off(row, axis.at(row.value(name)), y, f"{row.target}: {said(row)}")
        span = spans[id(row)]
        wide = _line(axis.at(span[0]), y, axis.at(span[1]), y, "whisker") if span else ""
        return wide + _mark(row, axis.at(row.value(name)), y, f"{row.target}: {said(row)}")

    source = words.source_row(report)
    before = source.value(name) if source else None
    behind = ""
    if before is not None:
        at = _across(axis.at(before))
        behind = f'<line x1="{at}" y1="4" x2="{at}" y2="FOOT" class="ref"/>'
    better = "higher" if words.HIGHER_IS_BETTER.get(name, True) else "lower"
    caption = f"{words.title(name)}, {better} is better."
    caption += " Bars: 95 % Wilson intervals." if any(spans.values()) else ""
    caption += " Dashed: the source model." if behind else ""
    caption += " Arrows: off the scale." if len(near) < len(rows) else ""
    shown = ((lambda v: f"{100 * v:g} %") if name in words.SHARES else (lambda v: f"{v:g}"))
    svg = _rows("quality", f"{words.title(name)} of each artifact", rows, words.pick(report), said,
                draw, axis, shown, behind)
    return Plot("quality", words.title(name), svg, caption, words.is_random(report, name))


def _near(report: Report, rows: list[Row], name: str) -> list[Row]:
    """The rows that set the scale: a collapsed model must not hide the differences of the others."""
    source = words.source_row(report)
    middle = source.value(name) if source else None
    if name == "snr" or middle is None or not math.isfinite(middle):
        return rows
    shares = name in words.SHARES or name == "auc"
    limit = max(REACH, 2 * words.allowed_drop(report)) if shares else 0.5 * abs(middle)
    near = [r for r in rows if abs(r.value(name) - middle) <= limit]
    return near if len(near) > 1 else rows


def _off(row: Row, share: float, y: float, hint: str) -> str:
    """A mark at the edge of a plot and an arrow that points beyond it."""
    left = share < 0.5
    arrow = _ARROW.format(turn=180 if left else 0)
    return _mark(row, share + (0.04 if left else -0.04), y, hint, arrow)


def noise(report: Report) -> Plot | None:
    """SNR against the source model as dots; identical outputs (infinite SNR) stand at the edge."""
    rows = [r for r in report.rows if r.value("snr") is not None and not math.isnan(r.value("snr"))]
    if not rows:
        return None
    known = [r.value("snr") for r in rows if math.isfinite(r.value("snr"))]
    endless = len(known) < len(rows)
    high = max([40.0, *known]) * (1.15 if endless else 1.03)
    axis = Axis(min([0.0, *known]), high)

    def said(row):
        value = row.value("snr")
        return "identical" if value == math.inf else words.number("snr", value)

    def draw(row, y):
        share = axis.at(row.value("snr"))
        stem = _line(axis.at(0.0), y, share, y, "stem")
        return stem + _mark(row, share, y, f"{row.target}: {said(row)}")

    caption = "Decibels against the source model's outputs; 20 dB is an error of a tenth."
    caption += " Identical outputs stand at the right edge." if endless else ""
    svg = _rows("noise", "SNR of each artifact against the source model", rows, words.pick(report),
                said, draw, axis, lambda v: f"{v:g} dB".replace("-", "−"))
    return Plot("noise", "Signal to noise", svg, caption, words.is_random(report, "snr"))


def trade(report: Report) -> Plot | None:
    """Size against the metric (or, without labels, SNR), with the Pareto front."""
    name = words.metric(report)
    if not name or sum(r.value(name) is not None for r in report.rows) < 2:
        name = "snr"
    rows = [r for r in report.rows if r.value("size") and r.value(name) is not None
            and not math.isnan(r.value(name))]
    if len(rows) < 2:
        return None
    up = words.HIGHER_IS_BETTER.get(name, True)
    small = [r.value("size") for r in rows]
    near = _near(report, rows, name)
    goods = [r.value(name) for r in near if math.isfinite(r.value(name))] or [0.0]
    log = max(small) / min(small) > 12
    spare = (max(goods) - min(goods)) * 0.06 or abs(goods[0]) * 0.02 or 0.01
    x = Axis(min(small) * 0.8 if log else 0.0, max(small) * (1.2 if log else 1.04), log, 0.13, 0.97)
    ends = (34.0, 276.0) if up else (276.0, 34.0)
    y = Axis(min(goods) - spare, max(goods) + spare, False, ends[1], ends[0])
    numbers = {id(r): str(at) for at, r in enumerate(report.rows)}
    points = [(r, x.at(r.value("size")), y.at(r.value(name))) for r in rows]
    good = [p for p in points if p[0].status == "ok"]
    hints = {id(r): f"{r.target}: {words.size(r.value('size'))}, "
             f"{words.number(name, r.value(name), '', words.evaluated(report))}" for r in rows}
    told = "; ".join(hints.values())
    title = f"Size against {words.title(name) if name != 'snr' else 'SNR'}"
    parts = [_frame(x, y, name), _front(good), *_labels(points, words.pick(report), numbers)]
    for r, at, down in points:
        beyond = "" if r in near else _ARROW.format(turn=90 if down > 155 else -90)
        parts.append(_mark(r, at, down, hints[id(r)], beyond))
    caption = "Smaller files stand to the left, better ones higher"
    caption += "; the line is the Pareto front: nothing is both smaller and better."
    caption += " Logarithmic size." if log else ""
    caption += " Arrows: off the scale." if len(near) < len(rows) else ""
    caption += " Numbers stand for rows of the table." if any("numbered" in p for p in parts) else ""
    return Plot("trade", title, _svg("trade", title, told, 314, parts), caption,
                words.is_random(report, name))


def _frame(x: Axis, y: Axis, name: str) -> str:
    """Grid of the scatter plot; the labels of the upright axis stand on their lines."""
    parts = [_grid(x, 20, 296, lambda v: words.size(v) if v else "0")]
    for value in y.ticks():
        down = y.at(value)
        shown = f"{100 * value:g} %" if name in words.SHARES else f"{value:g}"
        shown += " dB" if name == "snr" else ""
        parts.append(_line(0, down, 1, down, "grid"))
        parts.append(f'<text x="0" y="{down - 4:.1f}" class="tick">{_text(shown)}</text>')
    return "".join(parts)


def _front(points: list[tuple[Row, float, float]]) -> str:
    """Steps through the points that no other point beats in both size and quality."""
    steps, best = [], math.inf
    for _, at, down in sorted(points, key=lambda p: (p[1], p[2])):
        if down < best:
            steps.append((at, down))
            best = down
    parts = []
    for (x1, y1), (x2, y2) in itertools.pairwise([*steps, (1.0, best)] if steps else []):
        parts.append(_line(x1, y1, x2, y1, "front"))
        parts.append(_line(x2, y1, x2, y2, "front") if y1 != y2 else "")
    return "".join(parts)


def _labels(points: list[tuple[Row, float, float]], best: Row | None,
            numbers: dict[int, str]) -> list[str]:
    """Names beside the points where they fit, numbers where not; one set per width of the page."""
    parts = []
    for kind, width in (("narrow", 326.0), ("wide", 430.0), ("broad", 830.0)):
        taken = [(p[1] * width - 6, p[2] - 6, p[1] * width + 6, p[2] + 6) for p in points]
        drawn = []
        order = sorted(points, key=lambda p: (p[0] is not best, p[0].status != "ok"))
        for row, share, down in order:
            for text in (words.short(row.target, NAME), numbers[id(row)]):
                spot = _place(text, share * width, down, width, taken)
                if spot:
                    break
            if not spot:
                continue
            box, side, dx, dy = spot
            taken.append(box)
            style = "best" if row is best else "numbered" if text == numbers[id(row)] else ""
            drawn.append(f'<svg x="{_across(share)}" y="{down:.1f}" overflow="visible"><text x="{dx}" '
                         f'y="{dy}" text-anchor="{side}" class="label {style}">{_text(text)}</text></svg>')
        parts.append(f'<g class="{kind}" aria-hidden="true">{"".join(drawn)}</g>')
    return parts


def _place(text: str, x: float, y: float, width: float, taken: list[tuple]) -> tuple | None:
    """The first of six places around (x, y), in pixels, where `text` overlaps nothing."""
    wide = 6.7 * len(text) + 2
    for side, dx, dy in (("start", 5, -8), ("end", -5, -8), ("start", 9, 4), ("end", -9, 4),
                         ("start", 5, 17), ("end", -5, 17), ("middle", 0, -11), ("middle", 0, 18)):
        left = x + dx - {"start": 0.0, "middle": wide / 2, "end": wide}[side]
        box = (left, y + dy - 10, left + wide, y + dy + 3)
        inside = box[0] >= 0 and box[2] <= width and box[1] >= 2 and box[3] <= 296
        if inside and not any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3]
                              for t in taken):
            return box, side, dx, dy
    return None


def shares(parts: dict[str, float], key: str) -> str:
    """A bar of the shares of weights per dtype."""
    told = ", ".join(f"{name} {words.percent(value)}" for name, value in parts.items())
    drawn, start = [], 0.0
    for at, (name, value) in enumerate(parts.items()):
        drawn.append(f'<rect x="{_across(start)}" width="{_across(value)}" height="10" '
                     f'class="share s{at % 4}"><title>{_text(name)} {words.percent(value)}</title></rect>')
        start += value
    return _svg(key, "Share of weights per type", told, 10, drawn)


def small_bar(value: float, full: float) -> str:
    """A bar for a table's cell; the figure stands beside it, so it is hidden from readers."""
    share = 1.0 if value == math.inf else max(0.0, min(1.0, value / full))
    return (f'<svg class="small" width="100%" height="8" aria-hidden="true"><rect width="100%" '
            f'height="8" class="track"/><rect width="{_across(share)}" height="8" class="bar"/></svg>')


def every(report: Report) -> list[Plot]:
    """The plots for which there is something to show, in the order of a decision."""
    found = (draw(report) for draw in (sizes, latencies, quality, noise, trade))
    return [plot for plot in found if plot]
