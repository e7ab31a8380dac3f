"""The parts of a plot as SVG: axes, marks, lines, and the frame that tells what it shows.

Positions across are percentages of the page's column and positions down are pixels, so that a
plot stretches with the page while its text keeps its size.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..artifact import Row
from . import words

# The shapes of the marks, one for each status.
MARKS = {
    "source": '<circle r="4.5"/>',
    "ok": '<circle r="5"/>',
    "rejected": '<path d="M0-5.5 5.5 4.5H-5.5Z"/>',
}


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


def text(value: object) -> str:
    return html.escape(words.clean(value))


def across(share: float) -> str:
    return f"{100 * share:.2f}%"


def mark(row: Row, share: float, y: float, hint: str, extra: str = "") -> str:
    shape = kind(row)
    return (f'<svg x="{across(share)}" y="{y:g}" class="mark {shape}" overflow="visible">'
            f'{MARKS[shape]}{extra}<title>{text(hint)}</title></svg>')


def kind(row: Row) -> str:
    """The CSS class of a row's marks."""
    found = "source" if row.target == "source" else row.status
    return found if found in MARKS else "ok"


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return (f'<line x1="{across(x1)}" y1="{y1:g}" x2="{across(x2)}" y2="{y2:g}" '
            f'class="{style}"/>')


def frame(key: str, title: str, described: str, height: float, inside: Iterable[str],
          role: str = "img") -> str:
    """A whole drawing; `role` is `group` where its marks are links of their own."""
    return (f'<svg class="plot" role="{role}" aria-labelledby="{key}-t {key}-d" width="100%" '
            f'height="{height:g}"><title id="{key}-t">{text(title)}</title>'
            f'<desc id="{key}-d">{text(described)}</desc>{"".join(inside)}</svg>')


def grid(axis: Axis, top: float, foot: float, tick: Callable[[float], str]) -> str:
    parts = []
    for value in axis.ticks():
        share = axis.at(value)
        side = "start" if share < 0.06 else "end" if share > 0.94 else "middle"
        spot = 0.0 if side == "start" else 1.0 if side == "end" else share
        parts.append(line(share, top, share, foot, "grid"))
        parts.append(f'<text x="{across(spot)}" y="{foot + 15:g}" text-anchor="{side}" '
                     f'class="tick">{text(tick(value))}</text>')
    return "".join(parts)


def small_bar(value: float, full: float) -> str:
    """A bar for a table's cell; the figure stands beside it, so it is hidden from readers."""
    share = 1.0 if value == math.inf else max(0.0, min(1.0, value / full))
    return (f'<svg class="small" width="100%" height="8" aria-hidden="true"><rect width="100%" '
            f'height="8" class="track"/><rect width="{across(share)}" height="8" class="bar"/>'
            "</svg>")
