"""What training did to the model, in words and figures for every form of the report.

`report.training` and `report.recipe["recipe"]` are read here and nowhere else but in `curves`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..artifact import Report, Row
from . import words

LOWER = ("error",)  # metrics of training of which less is better
FULL = 1e-3  # sparsity may be this far below a stage's last one and still count as reached


@dataclass(frozen=True)
class Stage:
    """A stage of the recipe and its epochs.

    Attributes:
        kind: Its name in the recipe: `prune`, `cluster`, ...
        title: What it does, with its main figure.
        short: The same in a few characters.
        detail: How it does it.
        epochs: The records of `report.training["history"]`, in order.
        best: The metric on the validation samples in the best epoch; None without validation.
    """

    kind: str
    title: str
    short: str
    detail: str
    epochs: tuple[dict, ...]
    best: float | None


def number(record: dict, key: str) -> float | None:
    """A figure of a record; None where it is absent or no finite number (JSON has words then)."""
    try:
        value = float(record[key])
    except (KeyError, TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def stages(report: Report) -> list[Stage]:
    """The recipe's stages with the epochs of each; epochs of no stage make stages of their own."""
    recipe = report.recipe.get("recipe") or {}
    groups = _groups((report.training or {}).get("history", ()))
    lower = metric_name(report) in LOWER
    made = []
    for asked in recipe.get("stages", ()):
        own = groups.pop(0) if groups and groups[0][0].get("stage") == asked.get("stage") else []
        made.append(_stage(asked, own, lower))
    return made + [_stage({"stage": g[0].get("stage", "")}, g, lower) for g in groups]


def _groups(history: Iterable[dict]) -> list[list[dict]]:
    """The records stage by stage: a new one begins where the name changes or epochs start anew."""
    groups: list[list[dict]] = []
    for record in history:
        last = groups[-1][-1] if groups else None
        if last and last.get("stage") == record.get("stage") \
                and record.get("epoch", 0) > last.get("epoch", 0):
            groups[-1].append(record)
        else:
            groups.append([record])
    return groups


def _stage(asked: dict, own: list[dict], lower: bool) -> Stage:
    kind = str(asked.get("stage", ""))
    title, short, detail = _told(kind, asked)
    layers = asked.get("layers", "*")
    if layers != "*":
        detail = ", ".join(t for t in (detail, f"layers {words.clean(layers)}") if t)
    if (rate := asked.get("learning_rate")) is not None:
        detail = ", ".join(t for t in (detail, f"learning rate {rate:g}") if t)
    return Stage(kind, title, short, detail, tuple(own), _best(kind, asked, own, lower))


def _told(kind: str, asked: dict) -> tuple[str, str, str]:
    """Title, short title and details of a stage."""
    if kind == "prune":
        pattern = asked.get("pattern", "unstructured")
        free = pattern == "unstructured"
        amount = f"{100 * asked.get('sparsity', 0):.3g} %"
        beside = "" if ":" in pattern else f"{amount}, " if not free else ""
        much = amount if free else words.clean(pattern)
        beside += f"{len(own)} layers with a share of their own, " if (
            own := asked.get("per_layer")) else ""
        how = f"{beside}{asked.get('schedule', '')} schedule" if asked.get("schedule") else beside
        return f"Prune {much}", f"prune {much}", how
    if kind == "cluster":
        count = asked.get("clusters", "?")
        where = "for all kernels together" if asked.get("scope") == "global" else "per kernel"
        return f"Cluster to {count}", f"cluster {count}", f"{count} distinct values {where}"
    if kind == "qat":
        weights, activations = (asked.get(f"{k}_bits", 8) for k in ("weight", "activation"))
        return ("Quantization-aware training", "QAT",
                f"{weights}-bit weights, {activations}-bit activations")
    if kind == "structured":
        share, of = f"{100 * asked.get('to', 0):.3g} %", words.clean(asked.get("of", ""))
        of = "MACs" if of == "macs" else of
        rounds = asked.get("rounds", 1)
        how = f"by {words.clean(asked.get('importance', ''))}"
        how += f", in {rounds} rounds" if rounds > 1 else ""
        return f"Remove channels, {share} of {of} left", f"remove channels to {share}", how
    if kind == "finetune":
        return "Fine-tune", "fine-tune", ""
    return words.label(kind), words.clean(kind), ""


def _best(kind: str, asked: dict, own: list[dict], lower: bool) -> float | None:
    """The best validated metric of the epochs whose weights may be kept."""
    if kind == "prune" and own:
        last = number(own[-1], "sparsity") or 0.0
        own = [r for r in own if (number(r, "sparsity") or 0.0) >= last - FULL]
    rounds = asked.get("rounds", 1)
    if rounds > 1:  # each round keeps its own best, and the last round is what is left
        own = own[-max(1, len(own) // rounds):]
    found = [v for r in own if (v := number(r, "validation_metric")) is not None]
    return (min if lower else max)(found, default=None)


def metric_name(report: Report) -> str:
    return str((report.training or {}).get("metric_name") or "metric")


def metric(report: Report, value: float) -> str:
    """A figure of the training's metric as text."""
    return words.number(metric_name(report), value)


def metric_title(report: Report) -> str:
    """`validation accuracy`, and that it means nothing where the data are random."""
    name = words.title(metric_name(report))
    mark = f" ({words.RANDOM})" if report.data.get("random") else ""
    return f"validation {name if name.isupper() else name.lower()}{mark}"


def chain(report: Report) -> str:
    """The stages as `prune 60 % → cluster 16 → QAT`."""
    return " → ".join(s.short for s in stages(report))


def settings(report: Report) -> list[str]:
    """How all stages were trained, a clause each."""
    record = (report.recipe.get("recipe") or {}).get("training") or {}
    said = []
    if optimizer := record.get("optimizer"):
        rate, schedule = record.get("learning_rate"), record.get("schedule")
        falls = f", {words.clean(schedule)} schedule" if schedule else ""
        base = f", base learning rate {rate:g}{falls}" if rate is not None else ""
        said.append(f"{words.clean(optimizer).capitalize()}{base}")
    if size := record.get("batch_size"):
        said.append(f"batches of {size}")
    said += _signal(report, record)
    if (share := record.get("validation")) and _validated(report):
        said.append(f"{100 * share:.3g} % of the samples chose the best epoch of each stage")
    for key, text in (("augment", "augmented by {}"), ("freeze", "frozen: {}"),
                      ("patience", "stops after {} epochs without progress")):
        if record.get(key):
            said.append(text.format(words.clean(record[key])))
    if record.get("mixed_precision"):
        said.append("computed in half precision")
    backend = report.recipe.get("backend", "native")
    if backend != "native":
        said.append(f"backend {words.clean(backend)}")
    return said


def _signal(report: Report, record: dict) -> list[str]:
    """What the model learned from."""
    labels = bool(report.data.get("labels"))
    if not record.get("distill", False):
        return ["labels alone, no teacher"] if labels else []
    if not labels:
        return ["the original model as the only teacher"]
    weight = record.get("teacher_weight")
    part = f" ({100 * weight:.3g} % of the loss)" if weight is not None else ""
    return [f"labels, and the original model as a teacher{part}"]


def _validated(report: Report) -> bool:
    history = (report.training or {}).get("history", ())
    return any(number(r, "validation_metric") is not None for r in history)


def outcome(report: Report) -> str:
    """The metric on validation samples after each stage, as one clause; empty without it."""
    found = [s.best for s in stages(report)]
    if not any(v is not None for v in found):
        return ""
    shown = ["–" if v is None else metric(report, v) for v in found]
    shown = " → ".join([*(v.removesuffix(" %") for v in shown[:-1]), shown[-1]])
    each = " after each stage" if len(found) > 1 else " after training"
    return f"{metric_title(report)}{each} {shown}"


def slimmed(report: Report) -> str:
    """What taking channels out left of the model, in one clause; empty where none were."""
    told = (report.training or {}).get("slimmed") or {}
    before, after = told.get("before") or {}, told.get("after") or {}
    said = []
    for key, name in (("parameters", "parameters"), ("macs", "MACs"), ("bytes", "bytes")):
        a, b = number(before, key), number(after, key)
        if a and b is not None:
            form = "size" if key == "bytes" else key
            unit = " as int8" if key == "bytes" else f" {name}"
            said.append(f"{words.number(form, a)} → {words.number(form, b)}{unit}")
    return ", ".join(said)


def tensors(row: Row) -> list[dict]:
    """The weights that were read from the file, each a record with figures that can be summed."""
    found = []
    for t in row.io.get("tensors") or ():
        shape = t.get("shape") or ()
        count = math.prod(int(n) for n in shape) if shape else 0
        zeros = number(t, "zeros")
        if count and zeros is not None:
            found.append({**t, "values": count, "zeros": zeros,
                          "bits": words.BITS.get(str(t.get("dtype")), 0)})
    return found


def zeros(records: Iterable[dict]) -> float | None:
    """Share of zeros over several kernels or tensors together."""
    pairs = [(r["values"], z) for r in records
             if r.get("values") and (z := number(r, "zeros")) is not None]
    total = sum(n for n, _ in pairs)
    return sum(n * z for n, z in pairs) / total if total else None


def asked(report: Report, kind: str) -> dict | None:
    """The recipe's stage of this kind; None where there is none."""
    found = (report.recipe.get("recipe") or {}).get("stages", ())
    return next((s for s in found if s.get("stage") == kind), None)


def proof(report: Report, row: Row) -> str:
    """What the file itself shows of zeros and shared values; empty where there is nothing."""
    found = tensors(row)
    said = []
    share = zeros(found)
    if share is not None and (asked(report, "prune") or share >= 0.1):
        said.append(f"{words.percent(share)} zeros")
    if found and (stage := asked(report, "cluster")):
        most = stage.get("clusters", 0)
        few = [t for t in found if t.get("distinct") is not None and t["distinct"] <= most]
        each = " per channel" if all(t["bits"] <= 8 for t in found) else ""
        if few:
            said.append(f"at most {most} distinct values{each} in {len(few)} of {len(found)} "
                        "tensors")
    return ", ".join(said)


def lines(report: Report) -> list[str]:
    """The short form: what was done, what it left, and what the files show of it."""
    if report.training is None:
        return []
    spent = number(report.training, "seconds")
    said = f"trained: {chain(report)}" + (f" in {words.digits3(spent)} s" if spent else "")
    told = [f"{said}{'; ' + outcome(report) if outcome(report) else ''}"]
    if left := slimmed(report):
        told.append(f"channels removed: {left}")
    shown: dict[str, list[str]] = {}
    for row in report.rows:
        if text := proof(report, row):
            shown.setdefault(text, []).append(words.clean(row.target))
    told += [f"in {words.listed(names)}: {text}" for text, names in shown.items()]
    if skipped := report.training.get("skipped"):
        names = list(dict.fromkeys(words.clean(s.get("layer", "?")) for s in skipped))
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        told.append(f"took no part in some stage: {', '.join(names[:3])}{more}")
    return told + [words.clean(n) for n in report.training.get("notes") or ()]
