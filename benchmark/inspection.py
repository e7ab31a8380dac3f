"""What `tfcompress inspect` found: the record, its words, and the table for a terminal.

`inspection_page` makes the HTML page of the same record.
"""

from __future__ import annotations

import dataclasses
import json
import math
import textwrap
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from . import words
from .report import finite

NAMES = {"prune": "pruned", "weights": "weights", "activations": "activations"}
RUNS = {"yes": ("●", "every operation runs as the target asks"),
        "partly": ("▲", "some operations stay in wider types or on the CPU"),
        "no": ("✕", "cannot be made, or cannot run"),
        "unknown": ("·", "shows when it is made")}
LEVELS = {"error": "✕", "warning": "▲", "info": "·"}
GOAL_DB = 20.0
LISTED = 6  # names in a sentence
SHORTEST = 16  # characters of a layer's name in a table
ODD = set("*?[]!,\"\\\n")  # in a name, they would mean something in a recipe's `layers`


@dataclass(frozen=True)
class Inspection:
    """A model as `inspect` saw it; every field is JSON.

    Attributes:
        source: Path, sha256, format, parameters, inputs, outputs and notes of the model.
        layers: `{"name", "type", "shape", "parameters", "share", "macs", "ops", "note"}` in the
            model's order; `share` is that of the parameters, `ops` the TFLite operators that the
            layer becomes; `macs` None where no float file was made.
        totals: `{"layers", "parameters", "macs", "float_bytes", "operators": {op: count}}`.
        rewrites: What is rewritten on the way to TFLite: `{"what", "why", "layers"}`.
        targets: `{"name", "summary", "runs": yes, partly, no or unknown, "bytes" expected,
            "problems": [{"level", "op", "count", "layers", "what", "advice"}]}`.
        data: What is known of the data; empty without.
        sensitivity: What `compress.sensitivity.measure` gave, or None.
        notes: What was not done, and why.
    """

    source: dict
    layers: list[dict]
    totals: dict
    rewrites: list[dict]
    targets: list[dict]
    data: dict
    sensitivity: dict | None
    notes: list[str] = field(default_factory=list)
    command: str = ""
    version: str = ""
    seconds: float = 0.0
    created: str = ""


def assemble(layers: list[dict], told: dict, info: dict) -> dict:
    """`layers` and `totals` from the outline and the float file's operators (empty without)."""
    ops = told.get("ops", [])
    macs: Counter = Counter()
    kinds: dict[str, dict] = {}
    for op in ops:
        macs[op["layer"]] += op["macs"]
        kinds.setdefault(op["layer"], {})[op["op"]] = None
    if not layers:  # a SavedModel: what its operators are called after
        layers = [{"name": name, "type": "", "shape": None, "parameters": None, "note": ""}
                  for name in kinds if name]
    whole = sum(layer["parameters"] or 0 for layer in layers)
    rows = [{k: layer[k] for k in ("name", "type", "shape", "parameters", "note")}
            | {"share": (layer["parameters"] or 0) / whole if whole else None,
               "macs": macs.get(layer["name"], 0) if ops else None,
               "ops": list(kinds.get(layer["name"], ()))} for layer in layers]
    totals = {"layers": len(rows), "parameters": info["parameters"] or told.get("parameters"),
              "macs": told.get("macs"), "float_bytes": told.get("bytes"),
              "operators": dict(Counter(op["op"] for op in ops).most_common())}
    return {"layers": rows, "totals": totals}


def to_dict(found: Inspection) -> dict:
    """JSON values, infinite decibels as `"inf"` and `"-inf"`, with the advice in words."""
    return finite(dataclasses.asdict(found) | {"advice": advice(found), "recipe": recipe(found)})



def write(found: Inspection, folder: Path) -> None:
    """`inspect.json` and `inspect.html` in an existing folder."""
    from . import inspection_page

    text = json.dumps(to_dict(found), indent=1, ensure_ascii=False) + "\n"
    for name, content in (("inspect.json", text), ("inspect.html", inspection_page.render(found))):
        (folder / name).write_text(content, encoding="utf-8", errors="replace", newline="\n")


def html(found: Inspection) -> str:
    from . import inspection_page

    return inspection_page.render(found)


# What it all comes to


def ranked(found: Inspection) -> list[dict]:
    """The measured layers with weights, the most sensitive first."""
    layers = (found.sensitivity or {}).get("layers", [])
    return sorted((r for r in layers if r["weights"]), key=lambda r: r["score"])


def setting_name(setting: dict) -> str:
    """`prune 50 %`, `weights 4 bits`."""
    if setting["kind"] == "prune":
        return f"{round(100 * setting['amount'])} % pruned"
    return f"{round(setting['amount'])}-bit {NAMES[setting['kind']]}"


def listed(names: list[str]) -> str:
    """Names in a sentence; what are too many are counted."""
    shown = [words.short(n, 60) for n in names[:LISTED]]
    if len(names) > LISTED:
        shown = [*shown[:-1], f"{len(names) - LISTED + 1} more"]
    return words.listed(shown)


def advice(found: Inspection) -> list[str]:
    """Sentences on what the measurement suggests."""
    if not found.sensitivity or not ranked(found):
        return []
    said = [f"Most sensitive: {listed([r['layer'] for r in ranked(found)[:3]])}."]
    combined = found.sensitivity["combined"]
    if plan := combined.get("prune"):
        zeros = words.percent(plan["share"] * plan["amount"])
        what = f"{round(100 * plan['amount'])} % of {_which(plan, found)}"
        said.append(f"Without training, {zeros} of the weights can be zero: {what}. "
                    f"Measured together: {left(plan['result'])}. Training recovers more.")
    else:
        said.append("No layer can be pruned by half without training and keep 20 dB.")
    if plan := combined.get("weights-4"):
        some = "All layers" if not plan["left_out"] else \
            f"{words.percent(plan['share'])} of the weights ({_which(plan, found)})"
        said.append(f"{some} can have 4-bit weights. Measured together: {left(plan['result'])}.")
    else:
        said.append("No layer can have 4-bit weights without training and keep 20 dB.")
    for name, words_ in (("weights-8", "8-bit weights"), ("activations-8", "8-bit activations")):
        bad = [r["layer"] for r in found.sensitivity["layers"]
               if name in r["results"] and r["results"][name]["snr"] < GOAL_DB]
        if bad:
            said.append(f"{words_.capitalize()} alone cost more than 20 dB leave room for in "
                        f"{listed(bad)}: keep these wider, or train with quantization.")
    return said


def _which(plan: dict, found: Inspection) -> str:
    taken, out = plan["layers"], plan["left_out"]
    if not out:
        return "every layer"
    if len(out) < len(taken):
        return f"all layers but {listed(out)}"
    return listed(taken)


def left(result: dict) -> str:
    """What is left of the outputs, in words: `29.2 dB, agreement 98.4 %`."""
    said = [words.decibels(result["snr"])]
    if "agreement" in result:
        said.append(f"agreement {words.percent(result['agreement'])}")
    if "metric" in result:
        name = words.title(result["metric"])
        said.append(f"{name if name.isupper() else name.lower()} "
                    f"{words.number(result['metric'], result['value'])}")
    return ", ".join(said)


def recipe(found: Inspection) -> str:
    """A recipe (TOML) that prunes what was found able to lose weights; empty where nothing was."""
    plan = ((found.sensitivity or {}).get("combined") or {}).get("prune")
    if not plan or any(ODD & set(name) for name in (*plan["layers"], *plan["left_out"])):
        return ""
    few = len(plan["left_out"]) < len(plan["layers"])
    chosen = ["*", *(f"!{n}" for n in plan["left_out"])] if few else plan["layers"]
    return (f'[[stages]]\nstage = "prune"\nsparsity = {plan["amount"]:g}\n'
            f'layers = "{",".join(chosen)}"\n')


# The terminal


def table(found: Inspection, width: int = 100) -> str:
    """All of it as plain text, at most `width` columns wide where names allow."""
    parts = [_wrapped(headline(found), width), _layers(found, width), _rewrites(found, width),
             _targets(found, width), _sensitivity(found, width)]
    notes = [f"·  {n}" for n in (*found.source.get("notes", ()), *found.notes)]
    parts.append([line for n in notes for line in _wrapped(n, width)])
    return "\n\n".join("\n".join(p) for p in parts if p) + "\n"


def headline(found: Inspection) -> str:
    totals = found.totals
    facts = [f"{totals['layers']} layers"]
    if totals["parameters"] is not None:
        facts.append(f"{words.number('parameters', totals['parameters'])} parameters")
    if totals["macs"] is not None:
        facts.append(f"{words.number('macs', totals['macs'])} MACs per sample")
    if totals["float_bytes"] is not None:
        facts.append(f"{words.size(totals['float_bytes'])} as float32 TFLite")
    return f"{Path(found.source['path']).name}: {', '.join(facts)}"


def _layers(found: Inspection, width: int) -> list[str]:
    rows = [[r["name"], r["type"], words.shape(r["shape"]) if r["shape"] else "",
             "" if not r["parameters"] else f"{r['parameters']:,}",
             "" if not r["share"] else words.percent(r["share"]),
             "" if not r["macs"] else words.number("macs", r["macs"]),
             against(found, r["name"])] for r in found.layers]
    head = ["Layer", "Type", "Output", "Parameters", "Share", "MACs", "Targets"]
    if not any(r["type"] for r in found.layers):  # a SavedModel's
        head[1] = "Operators"
        for row, layer in zip(rows, found.layers, strict=True):
            row[1] = words.short(", ".join(layer["ops"]), 40)
    return columns(head, rows, width, right=range(3, 6), spare=(4, 2, 1))


def against(found: Inspection, layer: str) -> str:
    """What stands against one layer, by target: `▲ edge-tpu, ✕ micro`."""
    said = []
    for target in found.targets:
        levels = [p["level"] for p in target["problems"] if layer in p["layers"]]
        worst = next((level for level in LEVELS if level in levels), None)
        if worst:
            said.append(f"{LEVELS[worst]} {target['name']}")
    return ", ".join(said)


def columns(head: list[str], rows: list[list[str]], width: int,
            right: range, spare: tuple[int, ...] = ()) -> list[str]:
    """A table in text; the first column is cut so that the lines fit, empty columns fall away.

    Args:
        head: Titles.
        rows: Cells.
        width: Of the terminal.
        right: The columns that are aligned right.
        spare: Columns that a narrow terminal goes without, in this order.
    """
    if not rows:
        return []
    kept = [i for i in range(len(head)) if i == 0 or any(r[i] for r in rows)]
    longest = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    for i in spare:
        if i in kept and SHORTEST + sum(longest[k] + 2 for k in kept[1:]) > width:
            kept.remove(i)
    lines = [[words.clean(line[i]) for i in kept] for line in (head, *rows)]
    wide = [longest[i] for i in kept]
    wide[0] = min(wide[0], max(SHORTEST, width - sum(w + 2 for w in wide[1:])))
    text = []
    for line in lines:
        line[0] = words.short(line[0], wide[0])
        cells = [c.rjust(w) if kept[i] in right else c.ljust(w)
                 for i, (c, w) in enumerate(zip(line, wide, strict=True))]
        text.append("  ".join(cells).rstrip())
    return text


def _rewrites(found: Inspection, width: int) -> list[str]:
    said = [f"·  {r['what']}: {r['why']}" + (f" ({listed(r['layers'])})" if r["layers"] else "")
            for r in found.rewrites]
    said += [f"·  {name}: {note}" for note, name in _noted(found)]
    lines = [line for s in said for line in _wrapped(s, width)]
    return ["Rewritten on the way to TFLite", *lines] if lines else []


def _noted(found: Inspection) -> list[tuple[str, str]]:
    """The notes of layers, each with the names of all that have it."""
    by_note: dict[str, list[str]] = {}
    for row in found.layers:
        if row["note"]:
            by_note.setdefault(row["note"], []).append(row["name"])
    return [(note, listed(names)) for note, names in by_note.items()]


def _targets(found: Inspection, width: int) -> list[str]:
    lines = []
    for target in found.targets:
        glyph, said = RUNS[target["runs"]]
        size = f", about {words.size(target['bytes'])}" if target["bytes"] else ""
        lines += _wrapped(f"{glyph}  {target['name']}: {said}{size}", width)
        for problem in target["problems"]:
            lines += [f"   {line}" for line in _wrapped(
                f"{LEVELS[problem['level']]}  {problem_text(problem)}", width - 3)]
    return ["Targets", *lines] if lines else []


def problem_text(problem: dict) -> str:
    times = f" ({problem['count']}×)" if problem["count"] > 1 else ""
    where = f" In {listed(problem['layers'])}." if problem["layers"] else ""
    return f"{problem['what']}{times}.{where} → {problem['advice']}"


def _sensitivity(found: Inspection, width: int) -> list[str]:
    measured = found.sensitivity
    if not measured:
        return []
    shown = [*ranked(found), *(r for r in measured["layers"] if not r["weights"])]
    whole = sum(r["weights"] for r in measured["layers"]) or 1
    rows = [[r["layer"], f"{100 * r['weights'] / whole:.1f}" if r["weights"] else "",
             *(_decibels(r["results"].get(s["name"])) for s in measured["settings"])]
            for r in shown]
    short = {"prune": "prune", "weights": "w", "activations": "act"}
    head = [f"{short[s['kind']]}{round(s['amount'] * (100 if s['kind'] == 'prune' else 1))}"
            for s in measured["settings"]]
    told = (f"Sensitivity: SNR in dB of the outputs with one layer changed, {measured['rows']} "
            "samples; most sensitive first. pruneN: N % of its smallest weights are zero; wN, "
            "actN: its weights, or what it gives, rounded to N bits.")
    lines = [*_wrapped(told, width), *columns(["Layer", "weights %", *head], rows, width,
                                              range(1, 2 + len(head))), ""]
    for sentence in advice(found):
        lines += _wrapped(sentence, width)
    if found.data.get("random"):
        lines.append("*  random data: these figures say nothing of real inputs")
    return lines


def _decibels(result: dict | None) -> str:
    if result is None:
        return ""
    return f"{result['snr']:.1f}" if math.isfinite(result["snr"]) else words.digits3(result["snr"])


def _wrapped(text: str, width: int) -> list[str]:
    clean = words.clean(text).replace("\n", " ")
    indent = "   " if clean[1:3] == "  " else ""
    return textwrap.wrap(clean, max(width, 40), subsequent_indent=indent,
                         break_long_words=False, break_on_hyphens=False)
