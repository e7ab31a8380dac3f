"""`tfcompress diff`: two .tflite files by operators, weights and outputs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from . import data as samples
from .benchmark import growth, words
from .child import Child, ChildDied
from .errors import UsageError

SHOWN = 20  # lines of one kind


def diff(before: str | Path, after: str | Path, *, data: str | None = None, rows: int = 64,
         seed: int = 0) -> dict:
    """What differs between two .tflite files.

    Args:
        before, after: The files.
        data: Samples to run both on, as `--data` of `shrink` takes them; seeded noise without.
        rows: How many samples to run.
        seed: Of the noise.

    Returns:
        What `differ.files` returns, and `computed`: what `differ.outputs` returns.

    Raises:
        UsageError: An argument is wrong.
        ModelError: A file is no .tflite, or damaged.
        DataError: The data do not fit.
    """
    if not 1 <= rows <= 100_000:
        raise UsageError(f"--samples {rows} cannot be", "give 1 to 100000")
    for path in (before, after):
        if not Path(path).is_file():
            raise UsageError(f"no file {path}", "give two .tflite files")
    if data:
        samples.check_spec(data)
    payload = {"before": str(before), "after": str(after), "count": rows, "seed": seed}
    with tempfile.TemporaryDirectory(prefix="tfcompress-") as folder, Child("diff") as child:
        found = child.call("benchmark.differ:files", payload)
        payload["samples"] = None
        if data:
            child.call("measuring:prepare", {"path": str(before), "data": data, "out": folder})
            payload["samples"] = f"{folder}/held_back"
        try:
            return found | {"computed": child.call("benchmark.differ:outputs", payload)}
        except ChildDied as death:  # a runtime can crash on a file that reads well
            return found | {"computed": {"why": f"running them, {death.message}"}}


def table(found: dict) -> str:
    """The differences as text."""
    before, after = found["before"], found["after"]
    lines = [f"{words.clean(before['path'])} -> {words.clean(after['path'])}", ""]
    lines += _heads(before, after)
    lines += _part("operators", [f"{o['op']}: {o['before']} to {o['after']}"
                                 for o in found["operators"]],
                   "the same" if found["same_graph"] else "the same, in another order")
    lines += _part("inputs and outputs", [_end(e) for e in found["ends"]], "the same")
    lines += _part("weights", [_weight(t) for t in found["tensors"]], "no kernel differs")
    lines += _part("bytes by layer", [growth.told(e) for e in found["layers"]], "the same")
    return "\n".join([*lines, *_computed(found["computed"])]) + "\n"


def _heads(before: dict, after: dict) -> list[str]:
    rows = [("", "before", "after", "")]
    for title, key in (("bytes", "bytes"), ("parameters", "parameters"), ("MACs", "macs")):
        a, b = before[key], after[key]
        change = f"{100 * (b / a - 1):+.1f} %".replace("-", "−") if a and a != b else ""
        rows.append((title, f"{a:,}", f"{b:,}", change))
    rows.append(("weights", *(_dtypes(side["dtypes"]) for side in (before, after)), ""))
    widths = [max(len(r[i]) for r in rows) for i in range(4)]
    return [f"{r[0]:<{widths[0]}}  {r[1]:>{widths[1]}}  {r[2]:>{widths[2]}}  {r[3]}".rstrip()
            for r in rows]


def _dtypes(shares: dict) -> str:
    return ", ".join(f"{100 * share:.0f} % {name}" for name, share in shares.items()) or "none"


def _part(title: str, lines: list[str], none: str) -> list[str]:
    if not lines:
        return ["", f"{title}: {none}"]
    more = [f"  and {len(lines) - SHOWN} more"] * (len(lines) > SHOWN)
    return ["", f"{title}:", *(f"  {line}" for line in lines[:SHOWN]), *more]


def _end(entry: dict) -> str:
    sides = [_tensor(entry[k]) for k in ("before", "after")]
    return f"{entry['side']} {words.clean(entry['name'])}: {sides[0]} became {sides[1]}"


def _tensor(spec: dict | None) -> str:
    if spec is None:
        return "nothing"
    text = f"{spec['dtype']} {words.shape(spec['shape'])}"
    return text + (f" (scale {spec['scale']:.4g}, zero point {spec['zero_point']})"
                   if spec.get("scale") else "")


def _weight(entry: dict) -> str:
    name = words.clean(entry["layer"] or entry["tensor"])
    if entry["before"] is None or entry["after"] is None:
        side = entry["before"] or entry["after"]
        return f"{name}: {'gone' if entry['after'] is None else 'new'}, {_tensor(side)}"
    sides = [_tensor(entry[k]) for k in ("before", "after")]
    text = f"{name}: {sides[0]}" + (f" became {sides[1]}" if sides[0] != sides[1] else "")
    if entry["snr"] is None:
        return text
    return f"{text}, " + ("equal values" if entry["snr"] == "inf" else
                          f"other values ({words.decibels(float(entry['snr']))})")


def _computed(found: dict) -> list[str]:
    if "why" in found:
        return ["", f"outputs: not compared: {found['why']}"]
    on = f"{found['count']} samples of " + ("seeded noise" if found["random"] else "the data")
    lines = []
    for one in found["outputs"]:
        if one["snr"] == "inf":
            lines.append(f"{words.clean(one['name'])}: equal")
            continue
        told = ["not a number somewhere" if one["snr"] is None else
                f"SNR {words.decibels(float(one['snr']))}",
                f"largest difference {words.digits3(float(one['max_error']))}"]
        if one["agreement"] is not None:
            told.append(f"same class in {words.percent(one['agreement'], found['count'])}")
        lines.append(f"{words.clean(one['name'])}: " + ", ".join(told))
    return _part(f"outputs on {on}", lines, "none")
