"""Limits held against figures: what passed, what is broken, and what cannot be told apart.

A figure may come with a 95 % confidence interval. A limit is broken only where the whole interval
is beyond it, and kept only where all of it is within; between the two the check is inconclusive.
Standard library only.
"""

from __future__ import annotations

import math
import random
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..artifact import Measurement, Report, Row, quantile
from . import metrics, verdict, words
from .gate_limits import MEASURES, Limit

PASSED, FAILED, INCONCLUSIVE, SKIPPED = "passed", "failed", "inconclusive", "skipped"
DRAWS = 2000
# 97.5 % quantiles of Student's t by degrees of freedom; nearly normal beyond.
STUDENT = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179,
           2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093)
PAIRS = re.compile(r"(\d+) samples, (\d+) lost, (\d+) won")


@dataclass(frozen=True)
class Figure:
    """A value, the ends of its interval (the value itself where it is exact), and the baseline's.

    `why` says why there is no value, `note` what a reader should know about it, and `name` which
    metric it is.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    base: float | None = None
    why: str = ""
    note: str = ""
    name: str = ""

    @property
    def ends(self) -> tuple[float, float]:
        return (self.value if self.low is None else self.low,
                self.value if self.high is None else self.high)


@dataclass(frozen=True)
class Check:
    """One limit of one target, and what came of it.

    Attributes:
        target, measure: Which; `measure` is a key of `MEASURES`, or `artifact` where the file
            itself is the matter.
        status: `passed`, `failed`, `inconclusive` or `skipped`.
        text: One line on it.
        figure: What was found.
        limit: The largest (or, for `metric` and `snr`, smallest) figure that passes; None unknown.
        allowed: The limit as the user wrote it.
    """

    target: str
    measure: str
    status: str
    text: str
    figure: Figure = Figure()
    limit: float | None = None
    allowed: str = ""

    @property
    def name(self) -> str:
        return f"{self.target} {self.measure}"


def check(target: str, key: str, limit: Limit, figure: Figure, required: bool = False) -> Check:
    """Hold one figure against its limit."""
    title = MEASURES[key].title
    most = limit.threshold(1.0 if key == "latency" else figure.base)
    why = figure.why
    if not why and figure.value is None:
        why = "it was not measured"
    if not why and most is None:
        why = "there is nothing to compare it with in the baseline"
    if why:
        status = FAILED if required else SKIPPED
        text = f"{title} not compared: {why}" + (", and it is required" if required else "")
        return Check(target, key, status, text, figure, most, limit.text)
    status = _status(key, figure, most)
    return Check(target, key, status, _sentence(key, figure, most, limit, status), figure, most,
                 limit.text)


def _status(key: str, figure: Figure, most: float) -> str:
    low, high = figure.ends
    if MEASURES[key].more:
        low, high, most = -high, -low, -most
    # The least that floating point can tell apart; the SNR of equal outputs is infinite.
    slack = 1e-9 * max(1.0, abs(most)) if math.isfinite(most) else 0.0
    if low > most + slack:
        return FAILED
    return PASSED if high <= most + slack else INCONCLUSIVE


def _sentence(key: str, figure: Figure, most: float, limit: Limit, status: str) -> str:
    measure, low_high = MEASURES[key], figure.ends
    title = measure.title.replace("metric", words.title(figure.name)) if figure.name else \
        measure.title
    text = f"{title} is {show(key, figure.value)}"
    if key == "latency":
        text += " the baseline's"
    elif figure.base is not None:
        text += f", {_change(key, figure.value, figure.base)}"
    if low_high[0] != low_high[1]:
        text += f" (95 % interval {show(key, low_high[0])} to {show(key, low_high[1])})"
    ends = "at least" if measure.more else "at most"
    text += f"; {ends} {show(key, most)} is allowed"
    if limit.relative:
        text += f" ({limit.text})"
    if status == INCONCLUSIVE:
        text += "; inconclusive: the limit is inside the interval"
    return text + (f"; {figure.note}" if figure.note else "")


def _change(key: str, value: float, base: float) -> str:
    if value == base:
        return "as in the baseline"
    if MEASURES[key].share and base:
        return f"{100 * (value / base - 1):+.1f} % from {show(key, base)}".replace("-", "−")
    return f"from {show(key, base)}"


def show(key: str, value: float) -> str:
    """A figure of a measure, exactly enough to see why it is beyond its limit."""
    if not math.isfinite(value):
        return words.digits3(value)
    unit = MEASURES[key].unit if key in MEASURES else ""
    if key == "latency":
        return f"{value:.3f} ×"
    if key in ("metric_drop", "metric"):
        return f"{value:.4f}".replace("-", "−")
    if key == "snr":
        return words.decibels(value)
    return f"{value:,.0f} {unit}".strip()


# ---- Figures --------------------------------------------------------------------------------

def figures(now: dict, before: dict | None, raced: dict) -> dict[str, Figure]:
    """Everything that is known of an artifact, by measure.

    Args:
        now: Its record (see `record`).
        before: The baseline's, or None.
        raced: What was measured side by side: `latency` and `peak_memory`, as figures.
    """
    before = before or {}
    found = {k: Figure(now.get(k), base=before.get(k), why="" if now.get(k) is not None else
                       "this kind of file does not tell")
             for k in ("bytes", "gzip", "parameters")}
    untold = now.get("why", "the report has no such figure")
    snr, base = (None if r.get("snr") is None else float(r["snr"]) for r in (now, before))
    found["snr"] = Figure(snr, base=base, why="" if snr is not None else untold)
    found["peak_memory"] = Figure(
        now.get("peak_memory"), base=before.get("peak_memory"),
        why="" if now.get("peak_memory") is not None else untold,
        note="RAM of the device" if now.get("planned") else
        "as the runs recorded it, not side by side")
    if now.get("planned"):
        raced = {k: v for k, v in raced.items() if k != "peak_memory"}
    elif now["sha256"] == before.get("sha256"):  # two measurements of one file differ by noise only
        found["peak_memory"] = replace(found["peak_memory"], base=now.get("peak_memory"))
    found |= _metric(now.get("metric"), before.get("metric") or {}, untold)
    return found | raced


def _metric(now: dict | None, before: dict, untold: str) -> dict[str, Figure]:
    if not now:
        return {k: Figure(why=untold) for k in ("metric", "metric_drop")}
    low, high = now.get("interval") or (None, None)
    found = {"metric_drop": Figure(now["drop"], low, high, before.get("drop"), name=now["name"])}
    same = before.get("name") == now["name"]
    base = before.get("value") if same else None
    value, counts = now.get("value"), (now.get("samples"), before.get("samples"))
    ends = (None, None)
    if value is not None and base is not None and all(counts) and now["name"] in words.SHARES:
        ends = tuple(base + d for d in difference(base, counts[1], value, counts[0]))
    why = "" if value is not None else "the data have no labels"
    found["metric"] = Figure(value, *ends, base, why=why, name=now["name"])
    return found


def difference(first: float, n: int, second: float, m: int) -> tuple[float, float]:
    """A 95 % interval for `second - first`, proportions of `n` and of `m` samples.

    Source: Newcombe, "Interval estimation for the difference between independent proportions",
    Statistics in Medicine 17 (1998), method 10.
    """
    low1, high1 = words.wilson(first, n)
    low2, high2 = words.wilson(second, m)
    middle = second - first
    return (middle - math.hypot(second - low2, high1 - first),
            middle + math.hypot(high2 - second, first - low1))


def ratio(rounds: Sequence[tuple[Sequence[float], Sequence[float]]],
          seed: int = 0, draws: int = DRAWS) -> tuple[float, float, float]:
    """How many times the baseline's time the candidate takes, with a 95 % interval.

    Args:
        rounds: Per round (each with processes of its own) the baseline's and the candidate's
            times, one value per burst.
        seed: Of the bootstrap.
        draws: Of the bootstrap.

    Returns:
        The geometric mean of the rounds' ratios of medians, and the ends of its interval: a
        bootstrap over rounds and over the bursts in each, widened as Student's t is for so few
        rounds.
    """
    draw = random.Random(seed)
    middle = statistics.fmean(_log_ratio(a, b) for a, b in rounds)
    many = []
    for _ in range(draws):
        picked = draw.choices(rounds, k=len(rounds))
        many.append(statistics.fmean(
            _log_ratio(draw.choices(a, k=len(a)), draw.choices(b, k=len(b))) for a, b in picked))
    n = len(rounds)
    wider = math.sqrt(n / (n - 1)) * (STUDENT[min(n - 1, len(STUDENT)) - 1] / 1.96)
    low = middle + wider * min(0.0, quantile(many, 0.025) - middle)
    high = middle + wider * max(0.0, quantile(many, 0.975) - middle)
    return math.exp(middle), math.exp(low), math.exp(high)


def _log_ratio(baseline: Sequence[float], candidate: Sequence[float]) -> float:
    return math.log(statistics.median(candidate) / statistics.median(baseline))


def raced(rounds: list[dict[str, list[Measurement]]]) -> dict[str, Figure]:
    """The figures of artifacts that ran side by side.

    Args:
        rounds: Per round, what `latency.measure` found for `baseline` and `candidate`.
    """
    times, peaks = [], []
    for one in rounds:
        if why := unmeasured(one):
            return {"latency": Figure(why=why)}
        by = {who: {m.name: m for m in one[who]} for who in ("baseline", "candidate")}
        times.append(tuple(bursts(by[who]) for who in by))
        peaks.append(tuple(by[w]["peak_memory"].values for w in by))
    found = {"latency": Figure(*ratio(times), base=1.0, note=f"{len(rounds)} rounds side by side")}
    if all(min(a + b, default=0) > 0 and a and b for a, b in peaks):
        base = statistics.median(v for a, _ in peaks for v in a)
        value, low, high = (round(base * r) for r in ratio(peaks))
        found["peak_memory"] = Figure(value, low, high, base, note="measured side by side")
    return found


def bursts(by: dict[str, Measurement]) -> list[float]:
    """The median time of each burst: what interrupts a few invocations is not seen in it.

    Args:
        by: Measurements by name; `throughput` has one value for each burst.
    """
    values, count = by["latency"].values, len(by["throughput"].values)
    size = math.ceil(len(values) / count)
    return [statistics.median(values[i:i + size]) for i in range(0, len(values), size)]


def unmeasured(one: dict[str, list[Measurement]]) -> str:
    """Why a round has no times, empty where it has."""
    for who in ("baseline", "candidate"):
        by = {m.name: m for m in one[who]}
        if not by["throughput"].values:
            return f"the {who}'s file was {by['latency'].note or 'not measured'}"
    return ""


def record(row: Row, report: Report) -> dict:
    """What a report says of an artifact beyond its size, as a baseline keeps it."""
    device = row.value("ram")  # what a microcontroller or an NPU needs: planned, not measured
    found: dict = {"peak_memory": row.value("peak_memory") if device is None else device,
                   "planned": True if device is not None else None}
    if report.data.get("random"):
        return found | {"why": "the report is of random data"}
    snr = row.value("snr")
    found["snr"] = snr if snr is None or math.isfinite(snr) else str(snr)
    if lost := verdict.loss(row):
        name, drop = lost
        count = report.data.get("evaluated")
        found["metric"] = {"name": name, "value": row.value(name), "drop": drop,
                           "samples": count, "interval": _interval(row, name, count)}
    return found


def _interval(row: Row, name: str, count: int | None) -> list[float] | None:
    """Of the drop, where the report tells how many samples were lost and won."""
    made = row.get(f"{name}_drop")
    if made and (pairs := PAIRS.search(made.note)):
        samples, lost, won = map(int, pairs.groups())
        return list(metrics.paired_interval(lost, won, samples))
    agreement = row.value("agreement")
    if name == "top-1 agreement" and count and agreement is not None:
        low, high = words.wilson(agreement, count)
        return [1 - high, 1 - low]
    return None
