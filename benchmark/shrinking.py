"""Why a file did not get smaller or faster, in words, from what this very run measured.

    explained(report)    the report with the answers among the findings of its rows
    explain(report)      the answers alone

Each answer is a finding of level `info` with a field `about` (see `words.ABOUT`). What the
figures of the report do not bear out is not said.
"""

from __future__ import annotations

import dataclasses

from ..artifact import Report, Row
from . import summary, trained, words

FORMATS = ("tflite", "keras", "saved-model", "onnx")
RUNTIMES = ("litert", "keras", "tensorflow", "onnxruntime")  # which run on the processor
MANY_ZEROS = 0.2  # share of zeros from which a reader expects a smaller file
SPARSE = 0.6  # share of zeros from which sparse tensors are smaller: an int8 index per int8 value
MUCH = 0.25  # share of a file beside its weights that is worth a word
SAME = 0.95  # a median above this share of another's is not faster
TINY_MS = 0.001  # below a microsecond per operator, calling it costs about as much as its sums
DOTS = {"x86_64": ("avx512_vnni", "avx_vnni"), "arm64": ("asimddp", "i8mm"),
        "aarch64": ("asimddp", "i8mm")}


def explained(report: Report) -> Report:
    """The report with `explain`'s findings in its rows; those that are there are not repeated."""
    found = explain(report)
    rows = []
    for row in report.rows:
        there = {f.get("about") for f in row.findings}
        new = [f for f in found.get(row.target, ()) if f["about"] not in there]
        rows.append(dataclasses.replace(row, findings=(*row.findings, *new)) if new else row)
    return dataclasses.replace(report, rows=tuple(rows))


def explain(report: Report) -> dict[str, list[dict]]:
    """Findings by target: `{"level", "about", "text", "advice"}`."""
    report = summary.readable(report)
    made = {}
    for row in summary.made(report):
        if row.artifact is None:
            continue
        found = [tell(report, row) for tell in (_lost, _storage, _overhead, _widening, _speed)]
        if kept := [f for f in found if f]:
            made[row.target] = kept
    return made


def _finding(about: str, text: str, advice: str = "", level: str = "info") -> dict:
    text += "." if about in words.ABOUT else ""
    return {"level": level, "about": about, "text": text, "advice": advice}


def _asked(report: Report, row: Row) -> dict:
    """What the run asked of this target; little where the report holds its name alone."""
    found = next((t for t in report.recipe.get("targets", ())
                  if isinstance(t, dict) and t.get("name") == row.target), {})
    kind = row.target.removeprefix("tflite-").removeprefix("onnx-")
    return {"quantization": "none" if kind == "float32" else kind, **found}


def _on_cpu(report: Report, row: Row) -> bool:
    """Whether it is a plain file for a processor, not one compiled for other hardware."""
    asked = _asked(report, row)
    return (row.artifact.format in FORMATS and asked.get("runtime", "litert") in RUNTIMES
            and not asked.get("compiler"))


# Zeros and shared values

def _storage(report: Report, row: Row) -> dict | None:
    """Zeros and few values are in the file, but it spends as much on them as on any weight."""
    if not _on_cpu(report, row):
        return None
    found = trained.tensors(row)
    if not found and row.artifact.format != "tflite":
        found = (report.training or {}).get("kernels") or []
    share = trained.zeros(found) or 0.0
    many = share >= MANY_ZEROS
    few = _clusters(report, found)
    if not (many or few) or not _in_full(found):
        return None
    what = [f"{words.percent(share)} of the weights are zeros"] if many else []
    what += [few] if few else []
    bits = {t["bits"] for t in found if t.get("bits")}
    each = f", at {bits.pop()} bits each" if len(bits) == 1 else ""
    text = f"{' and '.join(what)}, but the file stores every value in full{each}"
    text += f". {packed}" if (packed := _packed(report, row)) else ""
    text += f". {speed}" if (speed := _same_work(report, row, many)) else ""
    advice = "deliver it compressed (gzip, brotli)"
    if few and _asked(report, row)["quantization"] not in ("int4", "none", "float16"):
        advice += "; tflite-int4 stores 4 bits per weight"
    if share >= SPARSE and row.artifact.format == "tflite" and not report.recipe.get("sparse"):
        advice += "; --sparse leaves the zeros out of the file"
    advice += "; --prune-to takes whole channels out, and file and work with them"
    return _finding("storage", text, advice)


def _clusters(report: Report, found: list[dict]) -> str:
    """How many kernels have few distinct values, in words; empty where clustering was no stage."""
    stage = trained.asked(report, "cluster")
    most = stage.get("clusters", 0) if stage else 0
    few = [t for t in found if t.get("distinct") is not None and t["distinct"] <= most]
    if not few or sum(t["values"] for t in few) < 0.5 * sum(t["values"] for t in found):
        return ""
    if len(few) == len(found):
        return f"no channel of a kernel has more than {most} distinct values"
    return f"{len(few)} of {len(found)} kernels have at most {most} distinct values"


def _in_full(found: list[dict]) -> bool:
    """Whether the tensors take as many bytes as all of their values do; kernels say nothing."""
    sized = [t for t in found if t.get("bits") and t.get("bytes")]
    return all(t["bytes"] >= t["values"] * t["bits"] // 8 for t in sized)


def _packed(report: Report, row: Row) -> str:
    raw, small = row.value("size"), row.value("size_gzip")
    if not raw or not small or small >= raw:
        return ""
    text = f"gzip finds the repetitions: {words.size(raw)} → {words.size(small)}"
    source = summary.source_row(report)
    before, after = (source.value(k) if source else None for k in ("size", "size_gzip"))
    if before and after:
        text += f", where the source goes from {words.size(before)} to {words.size(after)}"
    return text


def _same_work(report: Report, row: Row, many: bool) -> str:
    if row.artifact.format != "tflite" or not row.value("latency"):
        return ""
    macs = row.value("macs")
    count = f"all {words.number('macs', macs)} multiplications" if macs else "all multiplications"
    text = f"Nor is it faster: the runtime does {count}"
    text += ", those by zero too" if many else ", shared values or not"
    pattern = (trained.asked(report, "prune") or {}).get("pattern", "unstructured")
    if many and pattern != "unstructured":
        text += f"; the pattern {words.clean(pattern)} pays only on hardware with kernels for it"
    return text


def _lost(report: Report, row: Row) -> dict | None:
    """Fewer zeros in the file than in the trained model, although no kernel is missing."""
    kernels, found = (report.training or {}).get("kernels") or [], trained.tensors(row)
    if not found or not trained.asked(report, "prune"):
        return None
    had, has = (sum(r["values"] * (trained.number(r, "zeros") or 0.0) for r in part)
                for part in (kernels, found))
    if has >= 0.99 * had or sum(t["values"] for t in found) < sum(k["values"] for k in kernels):
        return None
    return _finding("lost", f"the file has {has:,.0f} zeros among its weights, the trained model "
                    f"{had:,.0f}", "compare the tables of kernels and of weights in the file",
                    "warning")


# What else is in a file

def _overhead(report: Report, row: Row) -> dict | None:
    """The part of a small file that is no weight."""
    size, count, shares = row.value("size"), row.value("parameters"), row.io.get("weights")
    if row.artifact.format != "tflite" or not size or not count or not shares \
            or not _on_cpu(report, row):
        return None
    if _asked(report, row)["quantization"] == "none" or not all(k in words.BITS for k in shares):
        return None
    weights = count * sum(part * words.BITS[k] / 8 for k, part in shares.items())
    rest = size - weights
    if rest < MUCH * size:
        return None
    text = (f"{words.size(weights)} of the {words.size(size)} are weights; the other "
            f"{words.size(rest)} describe the graph (operators, names, scales), and narrower "
            "weights leave them as they are")
    return _finding("overhead", text)


# Speed

def _float32(report: Report, kind: str) -> Row | None:
    """The float32 file of a format in this run, measured beside the others."""
    return next((r for r in summary.made(report) if r.artifact and r.artifact.format == kind
                 and _asked(report, r)["quantization"] == "none" and r.value("latency")), None)


def _pair(report: Report, row: Row) -> tuple[Row, float, float] | None:
    """The float32 file and the medians of both where `row` is not faster."""
    base = _float32(report, row.artifact.format)
    if not base or base is row or not _on_cpu(report, row):
        return None
    mine, its = row.value("latency"), base.value("latency")
    return (base, mine, its) if mine and mine > SAME * its else None


def _widening(report: Report, row: Row) -> dict | None:
    """float16 weights are computed with as float32."""
    half = _asked(report, row)["quantization"] == "float16" and row.artifact.format == "tflite"
    pair = _pair(report, row) if half else None
    if not pair:
        return None
    base, mine, its = pair
    text = (f"float16 makes the file smaller ({_sizes(row, base)}), not the work: the weights are "
            f"widened to float32 when it is loaded; {_medians(row, base)}")
    if (a := row.value("peak_memory")) and (b := base.value("peak_memory")):
        text += f", peak memory {words.size(a)} against {words.size(b)}"
    return _finding("widening", text)


def _speed(report: Report, row: Row) -> dict | None:
    """Integers that are no faster than float32 on the machine of the measurements."""
    kind = _asked(report, row)["quantization"]
    pair = _pair(report, row) if kind in ("int8", "int16x8", "int4", "dynamic") else None
    if not pair:
        return None
    base, mine, its = pair
    slower = f", {words.digits3(mine / its)}× as long" if mine > 1.5 * its else ""
    text = f"not faster than {base.target} on this machine: {_medians(row, base)}{slower}"
    why = _reasons(report, row, kind)
    text += f". {words.sentence('; '.join(why))}" if why else ""
    small = row.value("size") and base.value("size") and row.value("size") < base.value("size")
    advice = f"its gain here is the size: {_sizes(row, base)}; " if small else ""
    return _finding("speed", text, f"{advice}measure on the device that it is for")


def _reasons(report: Report, row: Row, kind: str) -> list[str]:
    said = []
    tflite = row.artifact.format == "tflite"
    if kind == "int16x8":
        said.append("16-bit activations run on the runtime's plain reference kernels")
    if kind == "int4" and tflite:
        said.append("4-bit weights are unpacked before they are multiplied")
    if kind == "dynamic" and tflite:
        said.append("activations are quantized anew at each run")
    machine = report.environment
    flags, wanted = machine.get("flags"), DOTS.get(machine.get("architecture", ""))
    if kind in ("int8", "dynamic") and flags and wanted and not set(flags) & set(wanted):
        name = "VNNI" if wanted is DOTS["x86_64"] else "the dot product extension"
        said.append(f"this processor lacks {name}, without which integers multiply hardly faster "
                    "than floats")
    ops = row.io.get("ops") if isinstance(row.io.get("ops"), dict) else {}
    total = sum(ops.values())
    converting = ops.get("QUANTIZE", 0) + ops.get("DEQUANTIZE", 0)
    if converting:
        said.append(f"{converting} of its {total} operators convert between types")
    found = row.get("latency")
    spent = found.p50 / (1000 if found.unit == "µs" else 1)
    if total and spent / total < TINY_MS:
        said.append(f"with {total} operators in {words.digits3(found.p50)} {found.unit}, much of "
                    "the time is the call of each rather than its arithmetic")
    return said


def _medians(row: Row, base: Row) -> str:
    found = [r.get("latency") for r in (row, base)]
    shown = " against ".join(f"{words.digits3(m.p50)} {m.unit}" for m in found)
    busy = any("busy" in m.note for m in found)
    return f"{shown} per sample{' (the machine was busy)' if busy else ''}"


def _sizes(row: Row, base: Row) -> str:
    shown = [words.size(r.value("size")) for r in (row, base) if r.value("size")]
    return " against ".join(shown)
