"""Figures, names and lists as text, whatever the report is written in.

Sizes are decimal (1 kB = 1000 bytes). Figures carry three significant digits, shares as many
decimals as the number of samples supports.
"""

from __future__ import annotations

import math
import re
import unicodedata

from ..artifact import Measurement, Row

HIGHER_IS_BETTER = {"accuracy": True, "top5": True, "auc": True, "mae": False, "rmse": False}
TITLES = {
    "size": "Size", "size_gzip": "Gzip", "latency": "Latency",
    "latency_threads": "Latency with threads", "load_time": "Load time",
    "throughput": "Throughput", "peak_memory": "Peak memory",
    "accuracy": "Accuracy", "top5": "Top-5 accuracy", "auc": "AUC", "mae": "MAE", "rmse": "RMSE",
    "snr": "SNR", "agreement": "Agreement", "cosine": "Cosine similarity",
    "max_error": "Largest difference", "parameters": "Parameters", "macs": "MACs per sample",
    "zeros": "Share of zeros",
    "npu_ops": "Operations on the NPU", "npu_macs": "MACs on the NPU",
    "npu_parameters": "Parameters on the chip", "npu_latency": "Latency on the accelerator",
    "npu_latency_estimate": "Latency on the accelerator, estimate",
    "npu_cycles": "Cycles on the NPU", "ram": "RAM", "dram": "DRAM", "flash": "Flash",
    "micro_difference": "Difference from LiteRT in TFLite Micro",
    "latency_webgl": "Latency on WebGL", "latency_webgpu": "Latency on WebGPU",
    "snr_webgl": "SNR on WebGL", "snr_webgpu": "SNR on WebGPU",
    "transfer_gzip": "Download, gzip", "transfer_brotli": "Download, brotli",
    "runtime_transfer": "Download of the runtime",
}
GLUE = "\N{NO-BREAK SPACE}"
UNIT = re.compile(r"(?<=\d) (?=[%kMGBmdµ])")  # between a figure and its unit
NEGATIVE = re.compile(r"(?<![\w.\-–/])-(?=\d)")
BYTES = ("size", "size_gzip", "peak_memory")
SHARES = ("accuracy", "top5", "agreement", "zeros")
BITS = {"float64": 64, "float32": 32, "float16": 16, "bfloat16": 16, "int64": 64, "int32": 32,
        "int16": 16, "int8": 8, "uint8": 8, "int4": 4, "int2": 2}
ON_DATA = {"snr", "agreement", "cosine", "max_error", *HIGHER_IS_BETTER}
CHANGE = re.compile("_(drop|rise)$")  # what a metric lost, measured on both models at once
LEVELS = {"info": "·", "warning": "▲", "error": "✕"}
# Findings that answer a question rather than report a fault, by their field `about`.
ABOUT = {"storage": "What zeros and shared values do to the file",
         "overhead": "What else is in the file", "speed": "Why it is no faster",
         "widening": "What float16 does not do"}
LISTS = ("versions", "targets")  # of which a reader misses what is left out
LIST_LENGTH = 4000
COLUMNS = ("size", "size_gzip", "latency", "metric", "snr", "agreement", "peak_memory")
RANDOM = "random data"
# Fields of the source model's record that have a place of their own, or say nothing to a reader.
TOLD = ("recipe",)  # of what was asked for: the section on training says it
APART = ("inputs", "outputs", "weights", "notes", "rewrites", "seconds", "digest_out")


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
    """Three significant digits; thousands are separated."""
    if value == 0 or not math.isfinite(value):
        return {0.0: "0", math.inf: "∞", -math.inf: "−∞"}.get(value, "not a number")
    if abs(value) >= 999.5:
        text = f"{float(f'{value:.2e}'):,.0f}" if abs(value) < 1e7 else f"{value:.2e}"
    elif abs(value) < 1e-4:
        text = f"{value:.2e}"
    else:
        text = f"{value:.{max(0, 2 - math.floor(math.log10(abs(float(f'{value:.2e}')))))}f}"
    return text.replace("-", "−")


def scaled(value: float, units: tuple[str, ...]) -> str:
    """A count in the largest of `units`, each 1000 times the one before."""
    if abs(value) < 999.5:
        return f"{round(value)} {units[0]}".strip()
    for unit in units[1:-1]:
        value /= 1000
        if abs(value) < 999.5:
            return f"{digits3(value)} {unit}"
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
    if not math.isfinite(value) and name != "snr":
        return digits3(value)
    if name in BYTES:
        return size(value)
    if name in SHARES:
        return percent(value, None if name == "zeros" else count)
    if CHANGE.search(name):
        return points(value) if CHANGE.sub("", name) in SHARES else digits3(value)
    if name in ("parameters", "macs"):
        return scaled(value, ("", "k", "M", "G"))
    if name == "snr":
        return decibels(value)
    if name == "auc":
        return f"{value:.3f}"
    if name == "cosine":
        return "> 0.9999" if 0.99995 <= value < 1 else f"{value:.4f}"
    if name in HIGHER_IS_BETTER:
        return f"{value:.4g}"
    return f"{digits3(value)} {unit}".strip()


def decibels(value: float) -> str:
    """An SNR to a tenth of a dB; more would be noise."""
    return f"{value:.1f} dB".replace("-", "−") if math.isfinite(value) else f"{digits3(value)} dB"


def points(share: float) -> str:
    """A signed difference of shares in points (hundredths)."""
    text = f"{100 * share:+.2f}".replace("-", "−")
    return f"{'0' if text[1:] == '0.00' else text} points"


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion (Wilson 1927, JASA 22, 209-212)."""
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return max(0.0, middle - half), min(1.0, middle + half)


def title(name: str) -> str:
    """A measurement's name for people."""
    if CHANGE.search(name):
        base, _, kind = name.rpartition("_")
        return f"{title(base)} {kind}"
    return TITLES.get(name, clean(name).replace("_", " ").capitalize())


def spread(found: Measurement) -> str:
    """p10 to p90 in the measurement's unit, empty for single values."""
    if len(found.values) < 2:
        return ""
    summary = found.summary()
    return f"{digits3(summary['p10'])}–{digits3(summary['p90'])} {found.unit}"


def reason(note: str) -> str:
    """Why something was not measured, from its note."""
    return note.removeprefix("not measured").lstrip(": ") or "no reason given"


def listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def error_text(row: Row) -> str:
    """The error of a row as one line: what is wrong, then what to do."""
    error = row.error or {}
    return " · ".join(clean(error[k]) for k in ("message", "hint") if error.get(k))


def sentence(text: str) -> str:
    """Text with a capital at its start."""
    return text[:1].upper() + text[1:]


def minus(text: object) -> str:
    """Text with a minus sign, not a hyphen, before negative figures."""
    return NEGATIVE.sub("−", clean(text))


def inside(title: str) -> str:
    """A title as it stands within a sentence; `SNR` stays as it is."""
    return title if title[1:2].isupper() else title[:1].lower() + title[1:]


def finding_text(finding: dict) -> str:
    """A finding as one line: text, advice, and the layers where the error begins."""
    said = "; ".join(clean(finding[k]) for k in ("text", "advice") if finding.get(k))
    if (layers := finding.get("layers")) and "the error begins" not in said:
        first = [clean(f.get("layer") or f.get("tensor") or "?") for f in layers[:3]]
        said += f" The error begins at {', '.join(first)}."
    return said


LABELS = {"sha256": "SHA-256", "cpu": "CPU", "os": "OS", "max_drop": "Largest drop allowed",
          "held_back": "Held back", "load": "Load at start", "memory_bytes": "Memory",
          "qat": "Quantization-aware training", "prune_to": "Prune channels to",
          "spec": "Taken from"}


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
        if "name" in value:
            return clean(value["name"])
        return ", ".join(f"{clean(k)} = {plain(v)}" for k, v in value.items() if v is not None)
    return clean(value)


def pairs(record: dict, skip: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Names and values of a record for people; absent and empty values are left out."""
    return [(label(k), short(size(v) if k.endswith("_bytes") else plain(v),
                             LIST_LENGTH if k in LISTS else 300))
            for k, v in record.items() if k not in skip and v not in (None, "", [], (), {})]


def operators(io: dict) -> str:
    """The operators of a file with their counts, as `4 CONV_2D, 1 SOFTMAX`."""
    found = io.get("ops") or {}
    return ", ".join(f"{count} {clean(op)}" for op, count in found.items())


def shape(dims: list | tuple) -> str:
    """A shape as `1×32×32×3`; `?` where it is free."""
    return "×".join("?" if d is None else str(d) for d in dims) or "scalar"
