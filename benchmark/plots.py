"""The plots of the report as inline SVG. Standard library only.

Labels stand above their marks, never
beside them: a phone needs no other layout. Colours come from `report.css` by class, and every
status also has a shape of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..artifact import Report, Row, quantile
from . import families, summary, svg, words

LINE = 36  # pixels from one row to the next
HEAD = 26  # pixels of a heading above rows
REACH = 0.08  # a share further than this from the source's is drawn at the plot's edge
FIT = {"narrow": 40, "wide": 56}  # characters that fit in a row, by the width of the page
STRIP = 150  # raw samples drawn per row


ARROW = '<path class="arrow" d="M8-4 13 0 8 4" transform="rotate({turn})"/>'


def _rows(key: str, title: str, rows: list[Row], best: Row | None, said: Callable[[Row], str],
          draw: Callable[[Row, float], str], axis: svg.Axis | None = None,
          tick: Callable[[float], str] = lambda v: f"{v:g}", behind: str = "",
          line: int = LINE, heads: dict[int, str] | None = None) -> str:
    """For each row name and figure above, what `draw` makes of it below; an axis at the foot.

    `heads` has headings by the `id` of the row that they stand above.
    """
    top, heads, above = 4, heads or {}, 0
    foot = top + line * len(rows) + HEAD * len(heads)
    parts = [svg.grid(axis, top, foot, tick) if axis else "", behind.replace("FOOT", f"{foot:g}")]
    for at, row in enumerate(rows):
        if id(row) in heads:
            y = top + line * at + HEAD * above
            parts.append(f'<text x="0" y="{y + 14}" class="head">{svg.text(heads[id(row)])}</text>')
            above += 1
        y = top + line * at + HEAD * above
        strong = " best" if row is best else ""
        parts.append(f'{_name(row.target, y + 12, strong, len(said(row)))}'
                     f'<text x="100%" y="{y + 12}" class="said{strong}">'
                     f"{svg.text(said(row))}</text>")
        parts.append(draw(row, y + 24))
    told = "; ".join(f"{row.target}: {said(row)}" for row in rows)
    return svg.frame(key, title, told, foot + (20 if axis else 2), parts)


def _name(name: str, y: float, strong: str, beside: int) -> str:
    """A target's name, as long as the width allows with `beside` characters on the same line."""
    fits = {kind: words.short(name, max(8, count - beside)) for kind, count in FIT.items()}
    if len(set(fits.values())) == 1:
        fits = {"": fits["wide"]}
    return "".join(f'<text x="0" y="{y:g}" class="{kind}{strong}">{svg.text(text)}</text>'
                   for kind, text in fits.items())


def sizes(report: Report) -> svg.Plot | None:
    """Bars of the file sizes; the solid part is what gzip leaves."""
    rows = [r for r in report.rows if r.value("size") is not None]
    if not rows:
        return None
    largest = max(max(r.value("size"), r.value("size_gzip") or 0) for r in rows) or 1

    def said(row):
        ratio = summary.times_smaller(report, row)
        return words.size(row.value("size")) + (f", {ratio}" if ratio else "")

    def draw(row, y):
        raw, packed = row.value("size"), row.value("size_gzip")
        hint = f"{row.target}: {words.size(raw)}"
        hint += f", gzip {words.size(packed)}" if packed else ""

        def bar(value, kind):
            return (f'<rect x="0" y="{y - 6:g}" width="{svg.across(value / largest)}" height="9" '
                    f'class="bar {svg.kind(row)}{kind}"><title>{svg.text(hint)}</title></rect>')

        return bar(raw, " pale") + bar(min(raw, packed), "") if packed else bar(raw, "")

    zipped = any(r.value("size_gzip") for r in rows)
    caption = "Bytes on disk." + (" The solid part is what gzip leaves." if zipped else "")
    drawn = _rows("size", "File size of each artifact", rows, summary.pick(report), said, draw)
    return svg.Plot("size", "Size", drawn, caption)


def latencies(report: Report) -> svg.Plot | None:
    """For each row the median, p10 to p90, and the raw samples as a strip, family by family."""
    groups = families.groups(report)
    rows = [r for g in groups for r in g.rows if r.value("latency") is not None]
    if not rows:
        return None
    soft = {g.key: f", {families.SOFTWARE}" for g in groups if all(map(families.adapter, g.rows))}
    heads = {id(r): words.sentence(g.title) + soft.get(g.key, "") for g in groups
             if (r := next((r for r in g.rows if r.value("latency") is not None), None))}
    found = {id(r): r.get("latency") for r in rows}
    middles = [m.p50 for m in found.values()]
    unit = next(iter(found.values())).unit
    top = max(quantile(m.values, 0.9) for m in found.values()) * 1.08
    low = min(quantile(m.values, 0.02) for m in found.values()) * 0.9
    log = low > 0 and max(middles) / min(middles) > 5
    axis = svg.Axis(low if log else 0.0, top, log)
    beyond = sum(v > top for m in found.values() for v in m.values)

    def said(row):
        m = found[id(row)]
        around = words.spread(m)
        beside = f" ({around.removesuffix(unit).strip()})" if around else ""
        alone = families.adapter(row) and families.family(report, row) not in soft
        return f"{f'{families.SOFTWARE}, ' if alone else ''}{words.digits3(m.p50)} {unit}{beside}"

    def draw(row, y):
        m = found[id(row)]
        told = m.summary()
        step = max(1, math.ceil(len(m.values) / STRIP))
        samples = m.values[::step] if len(m.values) > 1 else ()
        strip = "".join(svg.line(axis.at(v), y + 5, axis.at(v), y + 10, "raw")
                        for v in samples if v <= top)
        wide = svg.line(axis.at(told["p10"]), y, axis.at(told["p90"]), y, "whisker")
        hint = f"{row.target}: p50 {words.digits3(m.p50)} {m.unit}, n = {told['n']}"
        return f"{strip}{wide}{svg.mark(row, axis.at(m.p50), y, hint)}"

    caption = "; ".join(["Time for one sample", *summary.latency_notes(report)]) + ". "
    if len(heads) > 1:
        caption += "Different headings are different runtimes: compare within one. "
    caption += "Dot: median; line: p10 to p90; ticks: raw samples."
    caption += " Logarithmic scale." if log else ""
    if beyond:
        caption += f" {beyond} slower sample{'s' if beyond > 1 else ''} beyond the edge."
    heads = heads if len(heads) > 1 or soft else {}
    drawn = _rows("latency", "Latency of each artifact", rows, summary.pick(report), said, draw,
                  axis, lambda v: f"{v:,g} {unit}", line=44, heads=heads)
    return svg.Plot("latency", "Latency", drawn, caption)


def quality(report: Report) -> svg.Plot | None:
    """The task's metric as dots with 95 % intervals; a dashed line stands at the source."""
    name = summary.metric(report)
    rows = [r for r in report.rows if name and math.isfinite(r.value(name) or 0)
            and r.value(name) is not None]
    if not rows or not any(r.target != "source" for r in rows):
        return None
    source = summary.source_row(report)
    before = source.value(name) if source else None
    paired = before is not None and any(summary.change(report, r, name) for r in rows)
    spans = {id(r): _span(report, r, name, before, paired) for r in rows}
    close = near(report, rows, name)
    reach = [v for r in close for v in (r.value(name), *(spans[id(r)] or ())) if math.isfinite(v)]
    low, high = min(reach, default=0.0), max(reach, default=1.0)
    pad = (high - low) * 0.08 or abs(high) * 0.05 or 0.05
    limit = 1.0 if name in ("accuracy", "top5", "auc") else math.inf
    axis = svg.Axis(max(0.0, low - pad), min(limit, high + pad))
    count = summary.evaluated(report)

    def said(row):
        return words.number(name, row.value(name), "", count)

    def draw(row, y):
        if row not in close:
            return _off(row, axis.at(row.value(name)), y, f"{row.target}: {said(row)}")
        span = spans[id(row)]
        wide = svg.line(axis.at(span[0]), y, axis.at(span[1]), y, "whisker") if span else ""
        return wide + svg.mark(row, axis.at(row.value(name)), y, f"{row.target}: {said(row)}")

    behind = ""
    if before is not None:
        at = svg.across(axis.at(before))
        behind = f'<line x1="{at}" y1="4" x2="{at}" y2="FOOT" class="ref"/>'
    better = "higher" if words.HIGHER_IS_BETTER.get(name, True) else "lower"
    caption = f"{words.title(name)}, {better} is better."
    if any(spans.values()):
        caption += " Lines: 95 % intervals" + (
            " of the change from the source, paired." if paired else " (Wilson).")
    caption += " Dashed: the source model." if behind else ""
    caption += " Arrows: off the scale." if len(close) < len(rows) else ""
    shown = ((lambda v: f"{100 * v:g} %") if name in words.SHARES else (lambda v: f"{v:g}"))
    drawn = _rows("quality", f"{words.title(name)} of each artifact", rows, summary.pick(report),
                  said, draw, axis, shown, behind)
    return svg.Plot("quality", words.title(name), drawn, caption, summary.is_random(report, name))


def _span(report: Report, row: Row, name: str, before: float | None,
          paired: bool) -> tuple[float, float] | None:
    """Where the row's metric may lie: the source's plus the paired change, or Wilson's interval."""
    if not paired:
        return summary.interval(report, name, row.value(name))
    ends = summary.change(report, row, name)
    return (before + ends[0], before + ends[1]) if ends else None


def near(report: Report, rows: list[Row], name: str) -> list[Row]:
    """The rows that set the scale: one collapsed model must not hide how the others differ."""
    source = summary.source_row(report)
    middle = source.value(name) if source else None
    if name == "snr" or middle is None or not math.isfinite(middle):
        return rows
    shares = name in words.SHARES or name == "auc"
    limit = max(REACH, 2 * summary.allowed_drop(report)) if shares else 0.5 * abs(middle)
    close = [r for r in rows if abs(r.value(name) - middle) <= limit]
    return close if len(close) > 1 else rows


def _off(row: Row, share: float, y: float, hint: str) -> str:
    """A mark at the edge of a plot and an arrow that points beyond it."""
    left = share < 0.5
    arrow = ARROW.format(turn=180 if left else 0)
    return svg.mark(row, share + (0.04 if left else -0.04), y, hint, arrow)


def noise(report: Report) -> svg.Plot | None:
    """SNR against the reference as dots; identical outputs (infinite SNR) stand at the edge."""
    rows = [r for r in report.rows if r.value("snr") is not None and not math.isnan(r.value("snr"))]
    if not rows:
        return None
    known = [r.value("snr") for r in rows if math.isfinite(r.value("snr"))]
    endless = len(known) < len(rows)
    high = max([40.0, *known]) * (1.15 if endless else 1.03)
    axis = svg.Axis(min([0.0, *known]), high)

    def said(row):
        value = row.value("snr")
        return "identical" if value == math.inf else words.number("snr", value)

    def draw(row, y):
        share = axis.at(row.value("snr"))
        stem = svg.line(axis.at(0.0), y, share, y, "stem")
        return stem + svg.mark(row, share, y, f"{row.target}: {said(row)}")

    against = summary.reference(report)
    caption = f"Decibels against {against}'s outputs; 20 dB is an error of a tenth."
    caption += " Identical outputs stand at the right edge." if endless else ""
    drawn = _rows("noise", f"SNR of each artifact against {against}", rows,
                  summary.pick(report), said, draw, axis, lambda v: f"{v:g} dB".replace("-", "−"))
    return svg.Plot("noise", "Signal to noise", drawn, caption, summary.is_random(report, "snr"))


def shares(parts: dict[str, float], key: str) -> str:
    """A bar of the shares of weights per dtype."""
    told = ", ".join(f"{name} {words.percent(value)}" for name, value in parts.items())
    drawn, start = [], 0.0
    for at, (name, value) in enumerate(parts.items()):
        drawn.append(f'<rect x="{svg.across(start)}" width="{svg.across(value)}" height="10" '
                     f'class="share s{at % 4}">'
                     f"<title>{svg.text(name)} {words.percent(value)}</title>"
                     "</rect>")
        start += value
    return svg.frame(key, "Share of weights per type", told, 10, drawn)


def every(report: Report) -> list[svg.Plot]:
    """The plots for which there is something to show, in the order of a decision."""
    found = (draw(report) for draw in (sizes, latencies, quality, noise))
    return [plot for plot in found if plot]
