"""What a report says, whatever it is written in: figures as text, cells, notes and the verdict.

Sizes are decimal (1 kB = 1000 bytes). Figures carry three significant digits, shares as many
decimals as the number of samples supports.
"""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass

from ..artifact import Measurement, Report, Row

HIGHER_IS_BETTER = {"accuracy": True, "top5": True, "auc": True, "mae": False, "rmse": False}
TITLES = {
    "size": "Size", "size_gzip": "Gzip", "latency": "Latency", "latency_threads": "Latency, threads",
    "load_time": "Load time", "throughput": "Throughput", "peak_memory": "Peak memory",
    "accuracy": "Accuracy", "top5": "Top-5 accuracy", "auc": "AUC", "mae": "MAE", "rmse": "RMSE",
    "snr": "SNR", "agreement": "Agreement", "cosine": "Cosine similarity",
    "max_error": "Largest difference", "parameters": "Parameters", "macs": "MACs per sample",
    "zeros": "Share of zeros",
}
BYTES = ("size", "size_gzip", "peak_memory")
SHARES = ("accuracy", "top5", "agreement", "zeros")
ON_DATA = {"snr", "agreement", "cosine", "max_error", *HIGHER_IS_BETTER}
COLUMNS = ("size", "size_gzip", "latency", "metric", "snr", "agreement", "peak_memory")
RANDOM = "random data"


def clean(text: object) -> str:
    """Text without control characters and direction overrides, which could rewrite a page."""
    return "".join("\N{REPLACEMENT CHARACTER}" if _steers(c) else c for c in str(text))


def _steers(c: str) -> bool:
    bidi = "\u202a" <= c <= "\u202e" or "\u2066" <= c <= "\u2069" or c in "\u2028\u2029"
    return bidi or (unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t")


def short(text: str, length: int) -> str:
    """`text` in at most `length` characters, the middle left out."""
    text = clean(text)
    if len(text) <= length:
        return text
    tail = (length - 1) // 3
    return text[:length - 1 - tail] + "…" + text[len(text) - tail:]


def digits3(value: float) -> str:
    """Three significant digits, whole numbers from 1000 on with thousands separated."""
    if value == 0 or not math.isfinite(value):
        return {0.0: "0", math.inf: "∞", -math.inf: "−∞"}.get(value, "not a number")
    if abs(value) >= 999.5:
        text = f"{round(value):,}" if abs(value) < 1e7 else f"{value:.2e}"
    elif abs(value) < 1e-4:
        text = f"{value:.2e}"
    else:
        text = f"{value:.{max(0, 2 - math.floor(math.log10(abs(float(f'{value:.2e}')))))}f}"
    return text.replace("-", "−")


def scaled(value: float, units: tuple[str, ...]) -> str:
    """A count in the largest of `units`, each 1000 times the one before."""
    for unit in units[:-1]:
        if abs(value) < 999.5:
            return f"{round(value)} {unit}".strip() if unit == units[0] else f"{digits3(value)} {unit}"
        value /= 1000
    return f"{digits3(value)} {units[-1]}"


def size(value: float) -> str:
    return scaled(value, ("B", "kB", "MB", "GB"))


def percent(share: float, count: int | None = None) -> str:
    """A share with the decimals that `count` samples can tell apart; never rounded up to 100."""
    if not math.isfinite(share):
        return digits3(share)
    if share in (0, 1):
        return f"{round(100 * share)} %"
    places = 2 if (count or 0) > 1000 else 1
    if share < 1 and float(f"{100 * share:.{places}f}") >= 100:
        return f"> {100 - 10 ** -places:.{places}f} %"
    return f"{100 * share:.{places}f} %"


def number(name: str, value: float, unit: str = "", count: int | None = None) -> str:
    """One figure of the measurement called `name`, with its unit.

    Args:
        name: Name of the measurement, as in `TITLES`.
        value: In the measurement's own unit.
        unit: Shown after names that have no form of their own.
        count: Samples behind a share.
    """
    if name in BYTES:
        return size(value)
    if name in SHARES:
        return percent(value, None if name == "zeros" else count)
    if name in ("parameters", "macs"):
        return scaled(value, ("", "k", "M", "G"))
    if name == "snr":
        return decibels(value)
    if name == "auc":
        return f"{value:.3f}"
    if name == "cosine":
        return "> 0.9999" if 0.99995 <= value < 1 else f"{value:.4f}"
    return f"{digits3(value)} {unit}".strip() if name not in HIGHER_IS_BETTER else digits3(value)


def decibels(value: float) -> str:
    """An SNR to a tenth of a dB; more would be noise."""
    return f"{value:.1f} dB".replace("-", "−") if math.isfinite(value) else f"{digits3(value)} dB"


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion (Wilson 1927, JASA 22, 209-212)."""
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return max(0.0, middle - half), min(1.0, middle + half)


def title(name: str) -> str:
    return TITLES.get(name, clean(name).replace("_", " ").capitalize())


def evaluated(report: Report) -> int | None:
    return report.data.get("evaluated") or None


def is_random(report: Report, name: str) -> bool:
    """Whether the measurement called `name` says nothing because the data were random."""
    return bool(report.data.get("random")) and name in ON_DATA


def source_row(report: Report) -> Row | None:
    return next((r for r in report.rows if r.target == "source"), None)


def made(report: Report) -> list[Row]:
    """The rows of targets, without the source's."""
    return [r for r in report.rows if r.target != "source"]


def metric(report: Report) -> str | None:
    """The name of the task's metric: what the data say, or the first that any row has."""
    named = report.data.get("metric")
    return next((n for n in (named, *HIGHER_IS_BETTER)
                 if n and any(r.value(n) is not None for r in report.rows)), None)


def interval(report: Report, name: str | None, value: float | None) -> tuple[float, float] | None:
    """The confidence interval of an accuracy on the evaluated samples, None for other metrics."""
    if is_random(report, name or ""):
        return None
    count = evaluated(report)
    if name in ("accuracy", "top5") and count and value is not None and 0 <= value <= 1:
        return wilson(value, count)
    return None


def times_smaller(report: Report, row: Row) -> str:
    """How this file's size compares with the source's, in words; empty where it cannot be said."""
    source = source_row(report)
    before, after = source and source.value("size"), row.value("size")
    if row.target == "source" or not before or not after:
        return ""
    if digits3(before / after) == "1.00":
        return "same size"
    if before > after:
        return f"{digits3(before / after)}× smaller"
    return f"{digits3(after / before)}× larger"


@dataclass(frozen=True)
class Cell:
    """One cell of the summary: the figure, what stands beside it, whether random data made it."""

    main: str = ""
    sub: str = ""
    random: bool = False


def column_title(report: Report, key: str) -> str:
    return title(metric(report) or "") if key == "metric" else title(key)


def columns(report: Report) -> list[str]:
    """The columns of the summary for which at least one row has a figure."""
    def has(key):
        name = metric(report) if key == "metric" else key
        return name and any(r.value(name) is not None for r in report.rows)

    return [key for key in COLUMNS if has(key)]


def cell(report: Report, row: Row, key: str) -> Cell:
    """What the summary says of `row` in the column `key`."""
    name = metric(report) if key == "metric" else key
    found = row.get(name) if name else None
    if found is None:
        return Cell()
    if not found.values:
        return Cell("not measured")
    main, sub = number(name, found.p50, found.unit, evaluated(report)), ""
    if key == "size":
        sub = times_smaller(report, row)
    elif name == "latency":
        sub = spread(found)
    elif name == "snr" and found.p50 == math.inf:
        sub = "identical"
    elif key == "metric":
        source = source_row(report)
        before = source.value(name) if source else None
        if before is not None and row.target != "source":
            first = number(name, before, found.unit, evaluated(report))
            main = f"{first.removesuffix(' %')} → {main}"
        if limits := interval(report, name, found.p50):
            sub = "–".join(f"{100 * v:.1f}" for v in limits) + " %"
    return Cell(main, sub, is_random(report, name))


def spread(found: Measurement) -> str:
    """p10 to p90 in the measurement's unit, empty for single values."""
    if len(found.values) < 2:
        return ""
    summary = found.summary()
    return f"{digits3(summary['p10'])}–{digits3(summary['p90'])} {found.unit}"


def missing(report: Report) -> list[str]:
    """What could not be measured and why, one line for each reason."""
    where: dict[tuple[str, str], list[str]] = {}
    for row in report.rows:
        for m in row.measurements:
            if not m.values:
                where.setdefault((title(m.name), clean(m.note)), []).append(clean(row.target))
    return [f"{name} of {listed(rows)}: {why.removeprefix('not measured').lstrip(': ') or 'unknown'}"
            for (name, why), rows in where.items()]


def listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def allowed_drop(report: Report) -> float:
    """The loss that the user allows, or one point (a hundredth) where nothing was said."""
    given = report.recipe.get("max_drop")
    return 0.01 if given is None else float(given)


def within_budget(report: Report, row: Row) -> bool | None:
    """Whether a row keeps the metric; without labels the agreement (99 %) or SNR (20 dB) decides.

    None where nothing measured could tell: no data, or random data.
    """
    if report.data.get("random"):
        return None
    name, source, allowed = metric(report), source_row(report), allowed_drop(report)
    before, after = (r.value(name) if r and name else None for r in (source, row))
    if before is not None and after is not None:
        if HIGHER_IS_BETTER.get(name, True):
            return before - after <= allowed + 1e-9
        return after <= before * (1 + allowed) + 1e-12
    for name, least in (("agreement", 0.99), ("snr", 20.0)):
        if (value := row.value(name)) is not None:
            return value >= least
    return None


def pick(report: Report) -> Row | None:
    """The smallest finished artifact within the budget; of all, where nothing can tell them apart."""
    rows = [r for r in made(report) if r.status == "ok" and r.value("size")]
    judged = [(within_budget(report, r), r) for r in rows]
    fit = [r for good, r in judged if good] or [r for good, r in judged if good is None]
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
        return [(f"No artifact {_criterion(report, finished[0])}.", False)]
    many = sum(r.status == "ok" for r in rows) > 1
    small = size(best.value("size"))
    if ratio := times_smaller(report, best):
        small += f", {ratio} than the source" if ratio != "same size" else ", as the source"
    name = (clean(best.target), True)
    if within_budget(report, best) is None:
        why = "the data were random" if report.data.get("random") else "it was not compared"
        lead = " is the smallest artifact" if many else " was made"
        return [name, (f"{lead}: {small}. How well it works is unknown, because {why}.", False)]
    change = _change(report, best)
    lead = " is the smallest artifact that " if many else " "
    return [name, (f"{lead}{_criterion(report, best)}: {small}{change}.", False)]


def _criterion(report: Report, row: Row) -> str:
    name, source = metric(report), source_row(report)
    if name and source and source.value(name) is not None and row.value(name) is not None:
        allowed = allowed_drop(report)
        if name in ("accuracy", "top5"):
            points = f"{100 * allowed:.3g}"
            return f"loses at most {points} point{'' if points == '1' else 's'} of {_lower(name)}"
        if HIGHER_IS_BETTER[name]:
            return f"loses at most {allowed:.3g} of {_lower(name)}"
        return f"raises {_lower(name)} by at most {100 * allowed:.3g} %"
    if row.value("agreement") is not None:
        return "agrees with the source on at least 99 % of samples"
    return "stays within 20 dB SNR of the source"


def _lower(name: str) -> str:
    return title(name) if title(name).isupper() else title(name).lower()


def _change(report: Report, row: Row) -> str:
    for key in ("metric", "agreement", "snr"):
        name = metric(report) if key == "metric" else key
        if name and row.value(name) is not None:
            return f", {_lower(name)} {cell(report, row, key).main}"
    return ""


def problems(report: Report) -> list[tuple[str, bool]]:
    """The sentences on what failed or was rejected, as (text, strong) pieces."""
    pieces: list[tuple[str, bool]] = []
    for status, said in (("rejected", "rejected as worse than allowed"), ("failed", "failed")):
        names = [clean(r.target) for r in made(report) if r.status == status]
        if not names:
            continue
        for at, name in enumerate(names):
            if at:
                pieces.append((" and " if at == len(names) - 1 else ", ", False))
            pieces.append((name, True))
        was = ("was " if len(names) == 1 else "were ") if status == "rejected" else ""
        pieces.append((f" {was}{said}. ", False))
    return pieces


def error_text(row: Row) -> str:
    """The error of a row as one line: what is wrong, then what to do."""
    error = row.error or {}
    return " · ".join(clean(error[k]) for k in ("message", "hint") if error.get(k))


LEVELS = {"info": "·", "warning": "▲", "error": "✕"}


def finding_text(finding: dict) -> str:
    """A finding as one line: text, advice, and the layers where the error begins."""
    said = " ".join(clean(finding[k]) for k in ("text", "advice") if finding.get(k))
    if layers := finding.get("layers"):
        first = [clean(f.get("layer") or f.get("tensor") or "?") for f in layers[:3]]
        said += f" The error begins at {', '.join(first)}."
    return said


LABELS = {"sha256": "SHA-256", "cpu": "CPU", "os": "OS", "max_drop": "Largest drop allowed",
          "held_back": "Held back", "load": "Load at start", "kind": "Kind"}


def label(key: str) -> str:
    """A field's name for people."""
    return LABELS.get(key) or clean(key).replace("_", " ").capitalize()


def plain(value: object) -> str:
    """A value of a record as text: yes and no, thousands separated, lists by commas."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(v) for v in value)
    if isinstance(value, dict):
        return ", ".join(f"{clean(k)} = {plain(v)}" for k, v in value.items())
    return clean(value)


def shape(dims: list | tuple) -> str:
    """A shape as `1×32×32×3`; `?` where it is free."""
    return "×".join("?" if d is None else str(d) for d in dims) or "scalar"
