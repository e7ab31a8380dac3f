"""Reports of several runs beside each other: what changed, and what cannot be compared.

The first run is what the others are held against. A figure is only called better or worse where
both were measured alike: latency on the same machine and in the same way, a metric on the same
samples. Standard library only.
"""

from __future__ import annotations

from pathlib import Path

from ..artifact import Report, Row
from ..errors import UsageError
from . import families, picks, summary, trained, words
from . import report as reports

MACHINE = ("cpu", "cores", "architecture", "memory_bytes")
SAMPLES = ("held_back", "evaluated", "labels", "metric", "range")  # of the data, what must agree
APART = ("targets", "model", "data", "output", "command")  # of the recipe, told elsewhere
FIGURES = ("size", "size_gzip", "latency", "metric", "agreement", "snr")


def read(folders: list[str]) -> list[tuple[str, Report]]:
    """The reports of two or more runs, each with a short name of its own.

    Raises:
        UsageError: There are fewer than two, one is given twice, or one cannot be read.
    """
    places = [Path(f).resolve() for f in folders]
    places = [p.parent if p.name == "report.json" else p for p in places]
    if len(places) < 2:
        raise UsageError("one run alone cannot be compared", "give two folders or more")
    for at, place in enumerate(places):
        if place in places[:at]:
            raise UsageError(f"{folders[at]} is given twice", "give each run once")
    found = [reports.read(f) for f in folders]
    return list(zip(_names(places), found, strict=True))


def _names(places: list[Path]) -> list[str]:
    """The folders' names, with as many of their parents as tell them apart."""
    for depth in range(1, max(len(p.parts) for p in places) + 1):
        names = ["/".join(p.parts[-depth:]) for p in places]
        if len(set(names)) == len(names):
            return names
    return [str(p) for p in places]


def compare(runs: list[tuple[str, Report]]) -> dict:
    """What several runs have in common and where they differ.

    Args:
        runs: From `read`; the first is the baseline.

    Returns:
        `runs`: `{"name", "created", "version", "command", "source", "cpu", "picks"}` each.
        `warnings`: what a reader must know before comparing, in words.
        `differences`: `{"what", "values"}`, one value for each run, of source, data, recipe and
        environment where they are not the same in all.
        `appeared`, `disappeared`: targets that the first run lacks, and that a later one lacks.
        `targets`: `{"target", "status", "figures"}` each; `status` has one entry for each run,
        None where the run has no such target. A figure is `{"name", "unit", "values", "shown",
        "changes", "notes"}`, each with one entry for each run: the median, that as text, and
        against the first run the change (of sizes and latencies a share, of others a difference;
        None where it cannot be said) and a note: `within noise`, or why it was not compared.
    """
    names = [name for name, _ in runs]
    given = [report for _, report in runs]
    first = given[0]
    order = list(dict.fromkeys(r.target for report in given for r in report.rows))
    rows = [{r.target: r for r in report.rows} for report in given]
    return {
        "runs": [_run(name, report) for name, report in runs],
        "warnings": _warnings(names, given),
        "differences": _differences(given),
        "appeared": [t for t in order if t not in rows[0]],
        "disappeared": [t for t in rows[0] if any(t not in r for r in rows[1:])],
        "targets": [{
            "target": target,
            "status": [r[target].status if target in r else None for r in rows],
            "figures": [f for key in FIGURES
                        if (f := _figure(key, target, given, rows, first)) is not None],
        } for target in order],
    }


def _run(name: str, report: Report) -> dict:
    return {"name": name, "created": report.created, "version": report.version,
            "command": report.command, "source": report.source.get("path"),
            "sha256": report.source.get("sha256"), "cpu": report.environment.get("cpu"),
            "picks": [p.to_dict() for p in picks.every(report)]}


# What differs around the figures

def _warnings(names: list[str], given: list[Report]) -> list[str]:
    first, said = given[0], []
    for name, other in zip(names[1:], given[1:], strict=True):
        pair = f"{words.clean(names[0])} and {words.clean(name)}"
        if (a := first.source.get("sha256")) != (b := other.source.get("sha256")) or not (a and b):
            said.append(f"{pair} started from different models" if a and b else
                        f"{pair} may have started from different models: a digest is missing")
        if why := _machines(first, other):
            said.append(f"{pair} were measured on different machines ({why}): "
                        "latencies are shown and not compared")
        if why := _data(first, other):
            said.append(f"{pair} were judged on different data ({why}): metrics, agreement and "
                        "SNR are shown and not compared")
        elif first.data.get("spec") != other.data.get("spec"):
            said.append(f"{pair} name different data with the same counts: "
                        f"{words.plain(first.data.get('spec'))} and "
                        f"{words.plain(other.data.get('spec'))}")
    for name, report in zip(names, given, strict=True):
        if report.data.get("random"):
            said.append(f"{words.clean(name)} used random data: its accuracy says nothing")
        said += [f"{words.clean(name)}: {words.clean(r.target)} ran on a software adapter "
                 f"({words.clean(families.adapter(r))}), which says nothing of the hardware"
                 for r in report.rows if families.adapter(r)]
    busy = [words.clean(name) for name, report in zip(names, given, strict=True)
            if any("busy machine" in m.note for r in report.rows if (m := r.get("latency")))]
    if busy:
        one = len(busy) == 1
        said.append(f"{words.listed(busy)} {'was' if one else 'were'} timed on a busy machine: "
                    f"{'its' if one else 'their'} latencies are longer than they need be")
    if any(_flat(_recipe(r)) != _flat(_recipe(first)) for r in given[1:]):
        said.append("The recipes differ, see below")
    return said


def _machines(a: Report, b: Report) -> str:
    """In what the machines of two runs differ; empty where they are the same."""
    left, right = a.environment, b.environment
    if not left.get("cpu") or not right.get("cpu"):
        return "not known"
    return ", ".join(f"{words.label(k)} {_told(k, left.get(k))} and {_told(k, right.get(k))}"
                     for k in MACHINE if left.get(k) != right.get(k))


def _told(key: str, value: object) -> str:
    return words.size(value) if key.endswith("_bytes") and value else words.plain(value)


def _data(a: Report, b: Report) -> str:
    """In what the samples of two runs differ; empty where nothing says that they do."""
    if a.source.get("sha256") != b.source.get("sha256"):
        keys = ("held_back", "evaluated", "metric")
    else:
        keys = SAMPLES
    return ", ".join(f"{words.label(k).lower()} {words.plain(a.data.get(k))} and "
                     f"{words.plain(b.data.get(k))}"
                     for k in keys if a.data.get(k) != b.data.get(k))


def _recipe(report: Report) -> dict:
    asked = {t["name"]: {k: v for k, v in t.items() if k not in ("name", "summary")}
             for t in report.recipe.get("targets", ()) if isinstance(t, dict) and "name" in t}
    return {k: v for k, v in report.recipe.items() if k not in APART} | {"targets": asked}


def _differences(given: list[Report]) -> list[dict]:
    """What is not the same in all runs, field by field; of targets only those in all runs."""
    parts = []
    common = set.intersection(*({r.target for r in report.rows} for report in given))
    for report in given:
        recipe = _recipe(report)
        recipe["targets"] = {k: v for k, v in recipe["targets"].items() if k in common}
        if recipe.get("recipe") and not all(r.recipe.get("recipe") for r in given):
            recipe["recipe"] = trained.chain(report)  # all of it is new: its stages say enough
        environment = {k: v for k, v in report.environment.items() if k != "load"}
        source = {k: report.source.get(k) for k in ("path", "sha256", "parameters")}
        data = {k: v for k, v in report.data.items() if k not in ("notes", "range")}
        parts.append(_flat({"source": source, "data": data, "recipe": recipe,
                            "environment": environment, "tfcompress": report.version}))
    keys = list(dict.fromkeys(k for part in parts for k in part))
    return [{"what": k, "values": [p.get(k) for p in parts]} for k in keys
            if any(p.get(k) != parts[0].get(k) for p in parts[1:])]


def _flat(value: object, name: str = "") -> dict[str, object]:
    """A record in one level: `{"a": {"b": 1}}` becomes `{"a.b": 1}`; empty values are left out."""
    if isinstance(value, dict):
        items = [(str(k), v) for k, v in value.items()]
    elif isinstance(value, (list, tuple)) and any(isinstance(v, dict) for v in value):
        items = [(str(at), v) for at, v in enumerate(value, 1)]
    else:
        return {} if value in (None, "", [], (), {}) else {name: value}
    return {k: v for key, inner in items
            for k, v in _flat(inner, f"{name}.{key}" if name else key).items()}


# The figures

def _figure(key: str, target: str, given: list[Report], rows: list[dict[str, Row]],
            first: Report) -> dict | None:
    name = next((n for r in given if (n := summary.metric(r))), None) if key == "metric" else key
    if name is None or (key == "agreement" and any(summary.metric(r) for r in given)):
        return None
    found = [_measured(report, r.get(target), name)
             for report, r in zip(given, rows, strict=True)]
    if all(m is None for m in found):
        return None
    changes, notes = [], []
    for at, measured in enumerate(found):
        change, note = None, ""
        if at and found[0] is not None and measured is not None:
            pair = (first, rows[0][target], found[0]), (given[at], rows[at][target], measured)
            note = _obstacle(name, *pair)
            if not note:
                change = _change(name, found[0].p50, measured.p50)
                note = "within noise" if change and _noise(name, *pair) else ""
        changes.append(change)
        notes.append(note)
    return {"name": name, "unit": next(m.unit for m in found if m),
            "values": [None if m is None else m.p50 for m in found],
            "shown": ["" if m is None else _shown(report, m, name)
                      for report, m in zip(given, found, strict=True)],
            "changes": changes, "notes": notes}


def _measured(report: Report, row: Row | None, name: str):
    if row is None:
        return None
    found = families.timed(report, row) if name == "latency" else row.get(name)
    return found if found and found.values else None


def _shown(report: Report, found, name: str) -> str:
    if name == "latency":
        value, unit = found.p50, found.unit
        if unit == "ms" and value < 0.1:
            value, unit = 1000 * value, "µs"
        return f"{words.digits3(value)} {unit}"
    return words.number(name, found.p50, found.unit, summary.evaluated(report))


def _obstacle(name: str, old: tuple, new: tuple) -> str:
    """Why two figures are not compared; empty where they are."""
    (a, before, one), (b, after, other) = old, new
    if name in ("size", "size_gzip"):
        return ""
    if name == "latency":
        if _machines(a, b):
            return "other machine"
        if families.adapter(before) or families.adapter(after):
            return "software adapter"
        if families.family(a, before) != families.family(b, after) or one.name != other.name:
            return "other runtime"
        return "" if _how(one.note) == _how(other.note) else "measured otherwise"
    if summary.is_random(a, name) or summary.is_random(b, name):
        return "random data"
    if name == "snr" and summary.reference(a) != summary.reference(b):
        return "measured otherwise"
    return "other data" if _data(a, b) else ""


def _how(note: str) -> str:
    """The part of a latency's note that says how it was measured, without the machine's load."""
    return "; ".join(part for part in note.split("; ") if "load" not in part)


def _change(name: str, before: float, after: float) -> float | None:
    if name in ("size", "size_gzip", "latency"):
        return after / before - 1 if before else None
    change = after - before
    return None if change != change else change  # both infinite: no difference that has a size


def _noise(name: str, old: tuple, new: tuple) -> bool:
    (a, before, one), (b, after, other) = old, new
    if name == "latency":
        return len(one.values) > 1 and families.overlap(one, other)
    spans = [summary.change(r, row, name) or summary.interval(r, name, row.value(name))
             for r, row in ((a, before), (b, after))]
    if None in spans:
        return False
    (low, high), (least, most) = spans
    return low <= most and least <= high


def delta(figure: dict, at: int) -> str:
    """The change of a figure in run number `at` as text; empty where there is none to tell."""
    change, name = figure["changes"][at], figure["name"]
    if change is None:
        return ""
    if name in ("size", "size_gzip", "latency"):
        text = f"{100 * change:+.1f} %"
        text = "same" if text[1:] == "0.0 %" else text
    elif name in words.SHARES:
        text = words.points(change)
        text = "same" if text == "0 points" else text
    elif name == "snr":
        text = f"{change:+.1f} dB" if abs(change) < float("inf") else "endless"
        text = "same" if text[1:] == "0.0 dB" else text
    else:
        text = f"{change:+.3g}" if change else "same"
    return text.replace("-", "−")


def _metrics(targets: list[dict], at: int) -> tuple[int, int]:
    """How many targets lost and won in the metric, beyond its uncertainty."""
    worth = [f["changes"][at] * (1 if words.HIGHER_IS_BETTER.get(f["name"], True) else -1)
             for t in targets for f in t["figures"]
             if f["name"] in (*words.HIGHER_IS_BETTER, "agreement")
             and f["changes"][at] and f["notes"][at] != "within noise"]
    return sum(w < 0 for w in worth), sum(w > 0 for w in worth)


def verdict(found: dict) -> str:
    """What changed on the whole, in a sentence for each run after the first."""
    names = [words.clean(r["name"]) for r in found["runs"]]
    said = []
    for at in range(1, len(names)):
        both = [t for t in found["targets"] if t["target"] != "source"
                and t["status"][0] and t["status"][at]]
        parts = []
        for key, less, more in (("size", "smaller", "larger"), ("latency", "faster", "slower")):
            figures = [f for t in both for f in t["figures"] if f["name"] == key]
            changes = [f["changes"][at] for f in figures
                       if f["changes"][at] is not None and f["notes"][at] != "within noise"]
            down, up = (sum(sign * c > 0.0005 for c in changes) for sign in (-1, 1))
            told = [f"{n} {word}" for n, word in ((down, less), (up, more)) if n]
            if told:
                parts.append(", ".join(told))
            elif any(f["changes"][at] is not None for f in figures):
                parts.append("no size changed" if key == "size"
                             else "no latency changed beyond noise")
        worse, better = _metrics(both, at)
        parts += [f"{n} {word}" for n, word in ((worse, "less accurate"), (better, "more accurate"))
                  if n]
        many = f"{len(both)} target{'' if len(both) == 1 else 's'} in both"
        said.append(f"{names[at]} against {names[0]}: {many}"
                    + (f": {'; '.join(parts)}" if parts else "") + ".")
    return " ".join(said)
