"""From what was measured to what it means: kept, rejected, failed, and the run's exit code."""

from __future__ import annotations

import dataclasses

from ..artifact import Measurement, Row
from ..errors import QualityError, TargetError, TfcompressError, from_dict
from ..targets import Target

BEFORE = "source_"
LOSSES = ("_drop", "_rise")


def judge(row: Row, target: Target, max_drop: float | None, strict: bool = False) -> Row:
    """The row as `rejected` where it loses more, is larger or holds operators it must not have.

    An artifact that has collapsed (a finding of level `error`) is rejected too, except on random
    data. An SNR below the target's is a warning, and with `strict` a reason to reject; so is a loss
    that could not be measured because this machine lacks the runtime.
    """
    if row.status != "ok":
        return row
    problems = []
    random = any("random data" in m.note for m in row.measurements)
    problems += [
        (f["text"], f["advice"]) for f in row.findings if f["level"] == "error" and not random
    ]
    snr = row.value("snr")
    if snr is not None and snr < target.min_snr_db and not random:
        text = f"the SNR is {snr:.1f} dB; this target aims at {target.min_snr_db:g} dB"
        advice = "give more representative data (--samples), or use a wider type"
        if strict:
            problems.append((text, advice))
        else:
            finding = {"level": "warning", "text": text, "advice": advice}
            row = dataclasses.replace(row, findings=(*row.findings, finding))
    if max_drop is not None:
        found = loss(row)
        absent = next((f for f in row.findings if f.get("about") == "runtime"), None)
        if found is None and absent:
            text = "its loss was not measured, so nothing says whether it is within --max-drop"
            if strict:
                problems.append((text, absent["advice"]))
            else:
                finding = {"level": "warning", "text": text, "advice": absent["advice"]}
                row = dataclasses.replace(row, findings=(*row.findings, finding))
        elif found is None:
            problems.append(
                (
                    "its loss was not measured: there are neither labels nor classes",
                    "give labelled data, or leave --max-drop out",
                )
            )
        elif found[1] > max_drop:
            problems.append(
                (
                    f"{found[0]} is worse by {_amount(*found)}; {_amount(found[0], max_drop)} is "
                    "allowed",
                    "use a wider type (tflite-int16x8, tflite-dynamic, tflite-float16), "
                    "give more representative data, or allow more with --max-drop",
                )
            )
    most, size = target.limits.get("bytes"), row.value("size")
    if most is not None and size is not None and size > most:
        problems.append(
            (
                f"the file has {size:,.0f} bytes; the target takes {most:,}",
                "use a smaller model or a narrower type",
            )
        )
    denied = sorted(set(target.ops.get("deny", ())) & set(row.io.get("ops") or ()))
    if denied:
        problems.append((f"the target cannot run {', '.join(denied)}", "change those layers"))
    if not problems:
        return row
    text = "; ".join(p[0] for p in problems)
    error = QualityError(text, problems[0][1])
    return dataclasses.replace(row, status="rejected", error=error.to_dict())


def _amount(name: str, drop: float) -> str:
    return f"{100 * drop:.3g} % of itself" if name in ("mae", "rmse") else f"{drop:.4g}"


def loss(row: Row) -> tuple[str, float] | None:
    """The main metric's name and how much of it was lost (for mae and rmse: relatively)."""
    for m in row.measurements:
        name, _, kind = m.name.rpartition("_")
        if f"_{kind}" in LOSSES and m.p50 is not None:
            source = row.value(BEFORE + name)
            return name, m.p50 / source if kind == "rise" and source else m.p50
    agreement = row.value("agreement")
    return None if agreement is None else ("top-1 agreement", 1 - agreement)


def collapsed(comparison: dict) -> bool:
    """Whether a comparison found that the artifact has lost what the model knew."""
    return any(f["level"] == "error" for f in comparison["findings"])


def before(rows: list[Row]) -> list[Measurement]:
    """The source model's own metrics, which each comparison carries as `source_...`."""
    for row in rows:
        found = [
            dataclasses.replace(m, name=m.name.removeprefix(BEFORE))
            for m in row.measurements
            if m.name.startswith(BEFORE)
        ]
        if found:
            return found
    return []


def without_before(row: Row) -> Row:
    kept = tuple(m for m in row.measurements if not m.name.startswith(BEFORE))
    return dataclasses.replace(row, measurements=kept)


def metric(rows: list[Row]) -> str | None:
    """The name of the task's main metric, if there were labels."""
    for row in rows:
        for m in row.measurements:
            name, _, kind = m.name.rpartition("_")
            if f"_{kind}" in LOSSES:
                return name
    return None


def error(rows: tuple[Row, ...]) -> TfcompressError | None:
    """What the run as a whole is to answer: None, a failed target, or a rejected artifact."""
    failed = [r for r in rows if r.status == "failed"]
    if failed:
        made = sum(r.status != "failed" for r in rows if r.target != "source")
        first = from_dict(failed[0].error)
        names = ", ".join(r.target for r in failed)
        rest = f" ({made} other artifacts were made)" if made else ""
        return TargetError(f"{names} failed{rest}: {first.message}", first.hint)
    rejected = [r for r in rows if r.status == "rejected"]
    if rejected:
        told = [f"{r.target} is rejected: {r.error['message']}" for r in rejected]
        return QualityError("; ".join(told), rejected[0].error["hint"])
    return None
