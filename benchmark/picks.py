"""Which artifact to take: the smallest, the fastest and the most accurate within the budget.

Each pick says why in one sentence with the figures. What random data, a program in the place of a
graphics processor, or noise have decided is no pick, or the sentence says so.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from ..artifact import Measurement, Report, Row
from . import families, summary, words

TITLES = {"smallest": "Smallest", "fastest": "Fastest", "most_accurate": "Most accurate"}
NAMED = 3  # targets that a sentence names


@dataclass(frozen=True)
class Pick:
    """One answer.

    Attributes:
        kind: A key of `TITLES`.
        target: The artifact's target; None where nothing can be picked, and `why` says why.
        why: One sentence with the figures.
        family: For the fastest: where it was timed, in words.
        near: Targets that are as good within what was measured: equal, or within noise.
    """

    kind: str
    target: str | None
    why: str
    family: str = ""
    near: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What it is, for people; of the fastest with the place where it is the fastest."""
        return TITLES[self.kind] + (f", {self.family}" if self.family else "")

    def to_dict(self) -> dict:
        return {"pick": self.kind, "target": self.target, "why": self.why,
                "family": self.family or None, "near": list(self.near)}


def added(report: Report) -> Report:
    """The report with its picks as records, as `report.json` has them."""
    return dataclasses.replace(report, picks=tuple(p.to_dict() for p in every(report)))


def every(report: Report) -> list[Pick]:
    """All picks: one smallest, one fastest for each family, one most accurate.

    Nothing is picked where no artifact is within the budget (`summary.within_budget`); rejected
    and failed targets never are.
    """
    report = summary.readable(report)
    rows = summary.fitting(report)
    if not rows:
        return []
    return [_smallest(report, rows), *_fastest(report, rows), _most_accurate(report, rows)]


def worth_telling(report: Report) -> bool:
    """Whether there was a choice: with one artifact the verdict says all there is."""
    return len(summary.fitting(report)) > 1


def budget(report: Report) -> str:
    """What every pick had to keep, as a sentence."""
    rows = summary.fitting(report)
    if not rows or summary.within_budget(report, rows[0]) is None:
        why = "the data were random" if report.data.get("random") else "nothing was compared"
        return f"How well the artifacts work is unknown, because {why}: size and time alone decide."
    said = summary.criterion(report, rows[0])
    given = report.recipe.get("max_drop") is not None
    limit = "" if given else "; --max-drop sets another limit"
    apart = [words.clean(r.target) for r in summary.made(report)
             if r.status == "ok" and r not in rows]
    out = f" Outside it: {words.listed(apart)}." if apart else ""
    return f"Chosen among what {said}{limit}.{out}"


def _smallest(report: Report, rows: list[Row]) -> Pick:
    sized = sorted((r for r in rows if r.value("size")), key=lambda r: r.value("size"))
    if not sized:
        return Pick("smallest", None, "No size was measured.")
    best, *others = sized
    why = words.size(best.value("size"))
    if ratio := summary.times_smaller(report, best):
        why += f", {ratio} than the source" if ratio != "same size" else ", as the source"
    why += summary.change_of(report, best)
    equal = [r for r in others if r.value("size") == best.value("size")]
    if equal:
        why += f"; {_names(equal)} {_have(equal)} the same size"
    elif others:
        apart = words.size(others[0].value("size"))
        if apart == words.size(best.value("size")):
            apart = f"{others[0].value('size') - best.value('size'):,.0f} bytes more"
        why += f"; next is {words.clean(others[0].target)} with {apart}"
    return Pick("smallest", best.target, words.sentence(why) + "." + _unjudged(report, best),
                near=_targets(equal))


def _fastest(report: Report, rows: list[Row]) -> list[Pick]:
    """One pick for each family with a choice; where no family has one, for each at all."""
    groups = [(g, [r for r in g.rows if r in rows]) for g in families.groups(report)]
    groups = [(g, found) for g, found in groups if found]
    if not groups:
        return [Pick("fastest", None, "Not picked: no latency was measured.")]
    several = [(g, found) for g, found in groups if len(found) > 1]
    label = families.several(report)
    return [_fastest_of(report, g, found, label) for g, found in several or groups]


def _fastest_of(report: Report, group: families.Group, rows: list[Row], label: bool) -> Pick:
    family = group.title if label else ""
    real = [r for r in rows if not families.adapter(r)]
    if not real:
        names = sorted({families.adapter(r) for r in rows})
        why = (f"Not picked: {_names(rows)} ran on a software adapter ({words.listed(names)}), "
               "whose times say nothing of the hardware.")
        return Pick("fastest", None, words.clean(why), group.title)
    best, *others = sorted(real, key=lambda r: families.timed(report, r).p50)
    found = families.timed(report, best)
    why = _time(found)
    near = [r for r in others if families.overlap(found, families.timed(report, r))]
    if near:
        told = ", ".join(f"{words.clean(r.target)} ({_middle(families.timed(report, r))})"
                         for r in near[:NAMED])
        more = f" and {len(near) - NAMED} more" if len(near) > NAMED else ""
        why += f", within noise of {told}{more}: their ranges from p10 to p90 overlap"
    elif others:
        other = families.timed(report, others[0])
        why += (f", {words.digits3(other.p50 / found.p50)}× faster than the next, "
                f"{words.clean(others[0].target)} ({_middle(other)})")
    else:
        apart = any(families.timed(report, r) for r in group.rows
                    if r not in rows and r.target != "source")
        why += f", the only one {'within the budget' if apart else 'timed'} there"
    if families.estimated(found):
        why += "; an estimate, not a measurement"
    if "busy machine" in found.note:
        why += "; the machine was busy with other work"
    if left := [r for r in rows if families.adapter(r)]:
        why += f"; {_names(left)} ran on a software adapter and {_have(left)} no part in it"
    return Pick("fastest", best.target, f"{why}.{_unjudged(report, best)}", family, _targets(near))


def _most_accurate(report: Report, rows: list[Row]) -> Pick:
    if report.data.get("random"):
        return Pick("most_accurate", None,
                    "Not picked: the data were random, which says nothing of accuracy.")
    names = (summary.metric(report), "agreement", "snr")
    name = next((n for n in names if n and any(_known(r, n) for r in rows)), None)
    if name is None:
        return Pick("most_accurate", None, "Not picked: nothing was compared with the source.")
    sign = -1 if words.HIGHER_IS_BETTER.get(name, True) else 1
    best, *others = sorted((r for r in rows if _known(r, name)),
                           key=lambda r: (sign * r.value(name), r.value("size") or math.inf))
    why = words.sentence(summary.change_of(report, best).removeprefix(", "))
    why += f", {words.size(best.value('size'))}" if best.value("size") else ""
    equal = [r for r in others if r.value(name) == best.value(name)]
    near = [r for r in others if r not in equal and _uncertain(report, best, r, name)]
    if equal:
        why += f"; {_names(equal)} {_have(equal)} the same and {_are(equal)} no smaller"
    if near:
        why += f"; within the uncertainty of {_names(near)}: the 95 % intervals overlap"
    elif not equal and others:
        shown = words.number(name, others[0].value(name), "", summary.evaluated(report))
        why += f"; next is {words.clean(others[0].target)} with {shown}"
    return Pick("most_accurate", best.target, why + ".", near=_targets([*equal, *near]))


def _known(row: Row, name: str) -> bool:
    value = row.value(name)
    return value is not None and not math.isnan(value)


def _uncertain(report: Report, best: Row, row: Row, name: str) -> bool:
    """Whether the intervals of two rows overlap: paired ones where there are, else Wilson's."""
    spans = [summary.change(report, r, name) or summary.interval(report, name, r.value(name))
             for r in (best, row)]
    if name == "agreement" and (count := summary.evaluated(report)):
        spans = [words.wilson(r.value(name), count) for r in (best, row)]
    if None in spans:
        return False
    (low, high), (least, most) = spans
    return low <= most and least <= high


def _time(found: Measurement) -> str:
    around = words.spread(found).removesuffix(found.unit).strip()
    return _middle(found) + (f" (p10–p90 {around})" if around else "")


def _middle(found: Measurement) -> str:
    return f"{words.digits3(found.p50)} {found.unit}"


def _unjudged(report: Report, row: Row) -> str:
    """What must stand behind a figure of an artifact that nothing has judged."""
    if summary.within_budget(report, row) is not None:
        return ""
    why = "the data were random" if report.data.get("random") else "it was not compared"
    return f" How well it works is unknown: {why}."


def _names(rows: list[Row]) -> str:
    names = [words.clean(r.target) for r in rows[:NAMED]]
    if len(rows) > NAMED:
        return f"{', '.join(names)} and {len(rows) - NAMED} more"
    return words.listed(names)


def _have(rows: list[Row]) -> str:
    return "has" if len(rows) == 1 else "have"


def _are(rows: list[Row]) -> str:
    return "is" if len(rows) == 1 else "are"


def _targets(rows: list[Row]) -> tuple[str, ...]:
    return tuple(r.target for r in rows)
