"""What a report says as a whole: its columns, cells and notes, which artifact to take, and why."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass

from ..artifact import Measurement, Report, Row
from . import families, trained, words

AGAINST_TRAINED = "against the trained model"  # how such a measurement's note begins


def readable(report: Report) -> Report:
    """The report with its latencies in microseconds where milliseconds would read `0.00749`."""
    middles = [v for r in report.rows if (v := r.value("latency")) is not None]
    if not middles or min(middles) >= 0.1 or max(middles) >= 10:
        return report

    def finer(m: Measurement) -> Measurement:
        if m.unit != "ms" or not m.name.startswith(("latency", *families.ON_CHIP)):
            return m
        return dataclasses.replace(m, unit="µs", values=tuple(1000 * v for v in m.values))

    rows = (dataclasses.replace(r, measurements=tuple(map(finer, r.measurements)))
            for r in report.rows)
    return dataclasses.replace(report, rows=tuple(rows))


def evaluated(report: Report) -> int | None:
    return report.data.get("evaluated") or None


FEW = 100  # judged samples, below which the report warns of its own figures


def few(report: Report) -> str:
    """A warning where so few samples judged that the accuracies are coarse; empty otherwise."""
    count = evaluated(report)
    if not count or count >= FEW or report.data.get("random"):
        return ""
    shares = any(r.value(n) is not None for r in report.rows for n in ("accuracy", "agreement"))
    share = f", each of them {words.digits3(100 / count)} points of accuracy or agreement"
    return (f"Judged on {count} sample{'s' * (count > 1)} only{share if shares else ''}: give more "
            "data before you trust a difference.")


def is_random(report: Report, name: str) -> bool:
    """Whether the measurement called `name` says nothing because the data were random."""
    return bool(report.data.get("random")) and words.CHANGE.sub("", name) in words.ON_DATA


def source_row(report: Report) -> Row | None:
    return next((r for r in report.rows if r.target == "source"), None)


def made(report: Report) -> list[Row]:
    """The rows of targets, without the source's."""
    return [r for r in report.rows if r.target != "source"]


def reference(report: Report, short: bool = False) -> str:
    """What SNR, cosine and largest difference are measured against, by the measurements' notes."""
    found = (m for r in made(report) if (m := r.get("snr")) and m.values)
    changed = any(m.note.startswith(AGAINST_TRAINED) for m in found)
    kind = "trained" if changed else "source"
    return kind if short else f"the {kind} model"


def metric(report: Report) -> str | None:
    """The name of the task's metric: what the data say, or the first that any row has."""
    named = report.data.get("metric")
    return next((n for n in (named, *words.HIGHER_IS_BETTER)
                 if n and any(r.value(n) is not None for r in report.rows)), None)


def interval(report: Report, name: str | None, value: float | None) -> tuple[float, float] | None:
    """The confidence interval of an accuracy on the evaluated samples, None for other metrics."""
    if is_random(report, name or ""):
        return None
    count = evaluated(report)
    if name in ("accuracy", "top5") and count and value is not None and 0 <= value <= 1:
        return words.wilson(value, count)
    return None


def change(report: Report, row: Row, name: str | None) -> tuple[float, float] | None:
    """The 95 % confidence interval of accuracy after minus before, both seen on the same samples.

    None where the comparison gave no such interval, and on random data.
    """
    found = row.get(f"{name}_drop") if not is_random(report, name or "") else None
    said = found and re.search(r"95 % interval (\S+) to (\S+) points", found.note)
    if not said:
        return None
    low, high = sorted(-float(v.replace("−", "-")) / 100 for v in said.groups())
    return low, high


def interval_note(report: Report) -> str:
    """What the ranges beside the metric are; empty where there are none."""
    name, count = metric(report), evaluated(report) or 0
    if not name:
        return ""
    if any(change(report, r, name) for r in report.rows):
        return (f"Below {_lower(name)}: the change in points and its 95 % confidence interval, "
                f"paired on the same {count:,} samples; of the source, Wilson's score interval.")
    if any(interval(report, name, r.value(name)) for r in report.rows):
        return (f"Ranges beside {_lower(name)}: 95 % Wilson score intervals, n = {count:,}. All "
                "rows saw the same samples, so differences between rows are known better than "
                "the intervals suggest.")
    return ""


def times_smaller(report: Report, row: Row, name: str = "size") -> str:
    """How this file's size compares with the source's, in words; empty where it cannot be said."""
    source = source_row(report)
    before, after = source and source.value(name), row.value(name)
    if row.target == "source" or not before or not after:
        return ""
    if words.digits3(before / after) == "1.00":
        return "same size"
    if before > after:
        return f"{words.digits3(before / after)}× smaller"
    return f"{words.digits3(after / before)}× larger"


@dataclass(frozen=True)
class Cell:
    """One cell of the summary.

    Attributes:
        main: The figure.
        sub: What stands beside it.
        random: Whether random data made it.
        where: Of a latency, the family in which it may be compared (`families.label`).
    """

    main: str = ""
    sub: str = ""
    random: bool = False
    where: str = ""


def column_title(report: Report, key: str) -> str:
    return words.title(metric(report) or "") if key == "metric" else words.title(key)


def columns(report: Report) -> list[str]:
    """The columns of the summary for which at least one row has a figure."""
    def has(key):
        name = metric(report) if key == "metric" else key
        return name and any(r.value(name) is not None for r in report.rows)

    return [key for key in words.COLUMNS if has(key)]


def cell(report: Report, row: Row, key: str) -> Cell:
    """What the summary says of `row` in the column `key`."""
    name = metric(report) if key == "metric" else key
    found = row.get(name) if name else None
    if name == "latency" and (timed := families.timed(report, row)):
        found = timed
    if found is None:
        return Cell()
    if not found.values:
        return Cell("not measured")
    main, sub = words.number(name, found.p50, found.unit, evaluated(report)), ""
    if key == "size" or (key == "size_gzip" and report.training is not None):
        sub = times_smaller(report, row, key)
    elif name == "latency":
        sub = "estimate" if families.estimated(found) else words.spread(found)
        return Cell(main, sub, where=families.label(report, row))
    elif name == "snr" and found.p50 == math.inf:
        sub = "identical"
    elif key == "metric":
        source = source_row(report)
        before = source.value(name) if source else None
        if before is not None and row.target != "source":
            first = words.number(name, before, found.unit, evaluated(report))
            main = f"{first.removesuffix(' %')} → {main}"
        if limits := change(report, row, name):
            low, high = (words.points(v).removesuffix(" points") for v in limits)
            sub = f"{words.points(-(row.value(f'{name}_drop') or 0))} [{low}, {high}]"
        elif limits := interval(report, name, found.p50):
            sub = "–".join(f"{100 * v:.1f}" for v in limits) + " %"
    return Cell(main, sub, is_random(report, name))


def latency_notes(report: Report) -> list[str]:
    """How latencies were measured: one line, or one for each way where rows differ."""
    where: dict[str, list[str]] = {}
    for row in report.rows:
        found = row.get("latency")
        if found and found.values and found.note:
            where.setdefault(words.clean(found.note), []).append(words.clean(row.target))
    if len(where) < 2:
        return list(where)
    common = max(where, key=lambda note: len(where[note]))
    return [note if note == common else f"{words.listed(rows)}: {note}"
            for note, rows in sorted(where.items(), key=lambda item: item[0] != common)]


def missing(report: Report) -> list[str]:
    """What could not be measured and why, one line for each reason and its targets."""
    where: dict[tuple[str, str], list[str]] = {}
    for row in report.rows:
        for m in row.measurements:
            if not m.values:
                key = words.title(m.name), words.clean(m.note)
                where.setdefault(key, []).append(words.clean(row.target))
    alike: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for (name, why), rows in where.items():
        alike.setdefault((tuple(rows), why), []).append(name)
    return [f"{words.listed(list(map(words.inside, names)))} of {words.listed(list(rows))}: "
            f"{words.reason(why)}" for (rows, why), names in alike.items()]


def allowed_drop(report: Report) -> float:
    """The loss that the user allows, or one point (a hundredth) where nothing was said."""
    given = report.recipe.get("max_drop")
    return 0.01 if given is None else float(given)


def within_budget(report: Report, row: Row) -> bool | None:
    """Whether a row keeps the metric; without labels the agreement or the SNR (20 dB) decides.

    The agreement may fall by as much as the metric may. Metric and agreement are compared with
    the source model, the SNR of a trained model's artifact with that model. None where nothing
    measured could tell: no data, or random data.
    """
    if report.data.get("random"):
        return None
    name, source, allowed = metric(report), source_row(report), allowed_drop(report)
    before, after = (r.value(name) if r and name else None for r in (source, row))
    if before is not None and after is not None:
        if words.HIGHER_IS_BETTER.get(name, True):
            return before - after <= allowed + 1e-9
        return after <= before * (1 + allowed) + 1e-12
    for name, least in (("agreement", 1 - allowed), ("snr", 20.0)):
        if (value := row.value(name)) is not None:
            return value >= least - 1e-9
    return None


def fitting(report: Report) -> list[Row]:
    """The finished artifacts within the budget, or all of them where nothing was compared."""
    judged = [(within_budget(report, r), r) for r in made(report) if r.status == "ok"]
    return [r for good, r in judged if good] or [r for good, r in judged if good is None]


def pick(report: Report) -> Row | None:
    """The smallest finished artifact within the budget, or of all where nothing was compared."""
    fit = [r for r in fitting(report) if r.value("size")]
    return min(fit, key=lambda r: r.value("size"), default=None)


def verdict(report: Report) -> list[tuple[str, bool]]:
    """The one sentence that decides, as (text, strong) pieces."""
    rows, best = made(report), pick(report)
    if not rows:
        return [("No target was asked for.", False)]
    if best is None:
        finished = [r for r in rows if r.status == "ok"]
        if not finished:
            return [("No target gave a usable artifact.", False)]
        return [(f"No artifact {criterion(report, finished[0])}", False),
                *_closest(report, finished)]
    many = sum(r.status == "ok" for r in rows) > 1
    small = words.size(best.value("size"))
    if ratio := times_smaller(report, best):
        small += f", {ratio} than the source" if ratio != "same size" else ", as the source"
    name = (words.clean(best.target), True)
    if within_budget(report, best) is None:
        why = "the data were random" if report.data.get("random") else "it was not compared"
        lead = " is the smallest artifact" if many else " was made"
        return [name, (f"{lead}: {small}. How well it works is unknown, because {why}.", False)]
    change = change_of(report, best)
    lead = " is the smallest artifact that " if many else " "
    return [name, (f"{lead}{criterion(report, best)}: {small}{change}.{_caveat(report, best)}",
                   False)]


def _closest(report: Report, rows: list[Row]) -> list[tuple[str, bool]]:
    """The end of a verdict without a choice: the best of what there is, the smaller of equals."""
    name = metric(report) or "agreement"
    up = words.HIGHER_IS_BETTER.get(name, True)
    known = [r for r in rows if math.isfinite(r.value(name) or math.inf) and r.value(name)]
    if not known:
        return [(".", False)]
    best = min(known, key=lambda r: (-r.value(name) if up else r.value(name),
                                     r.value("size") or math.inf))
    size = best.value("size")
    told = f": {words.size(size)}" if size else ": "
    return [("; the closest is " if len(known) > 1 else "; ", False),
            (words.clean(best.target), True), (f"{told}{change_of(report, best)}.", False)]


def _caveat(report: Report, row: Row) -> str:
    """Where only the export was judged: what is known of what training cost."""
    known = metric(report) or "agreement"
    if reference(report, short=True) == "source" or row.value(known) is not None:
        return ""
    if told := trained.outcome(report):
        return f" What training cost shows only in it: {told}."
    return " What training cost was not measured."


def criterion(report: Report, row: Row) -> str:
    """What the budget asks of `row`, as the end of a sentence: `loses at most 1 point of ...`."""
    name, source = metric(report), source_row(report)
    if name and source and source.value(name) is not None and row.value(name) is not None:
        allowed = allowed_drop(report)
        if name in ("accuracy", "top5"):
            points = f"{100 * allowed:.3g}"
            return f"loses at most {points} point{'' if points == '1' else 's'} of {_lower(name)}"
        if words.HIGHER_IS_BETTER[name]:
            return f"loses at most {allowed:.3g} of {_lower(name)}"
        return f"raises {_lower(name)} by at most {100 * allowed:.3g} %"
    if row.value("agreement") is not None:
        least = f"{100 * (1 - allowed_drop(report)):.3g}"
        return f"agrees with the source on at least {least} % of samples"
    against = "trained model" if reference(report, short=True) == "trained" else "source"
    return f"reaches an SNR of 20 dB against the {against}"


def _lower(name: str) -> str:
    return words.title(name) if words.title(name).isupper() else words.title(name).lower()


def change_of(report: Report, row: Row) -> str:
    """The metric before and after, or else agreement or SNR, as `, accuracy 98.8 → 98.2 %`."""
    for key in ("metric", "agreement", "snr"):
        name = metric(report) if key == "metric" else key
        if name and not is_random(report, name) and row.value(name) is not None:
            first, _, last = cell(report, row, key).main.partition(" → ")
            if last and first == last.removesuffix(" %"):
                return f", {_lower(name)} {last} as before"
            return f", {_lower(name)} {cell(report, row, key).main}"
    return ""


def problems(report: Report) -> list[tuple[str, bool]]:
    """The sentences on what failed or was rejected, as (text, strong) pieces."""
    pieces: list[tuple[str, bool]] = []
    for status, said in (("rejected", "rejected as worse than allowed"), ("failed", "failed")):
        names = [words.clean(r.target) for r in made(report) if r.status == status]
        if not names:
            continue
        for at, name in enumerate(names):
            if at:
                pieces.append((" and " if at == len(names) - 1 else ", ", False))
            pieces.append((name, True))
        was = ("was " if len(names) == 1 else "were ") if status == "rejected" else ""
        pieces.append((f" {was}{said}. ", False))
    return pieces
