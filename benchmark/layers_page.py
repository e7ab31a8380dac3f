"""The layers of a target's file as a table of the page."""

from __future__ import annotations

from ..artifact import Report, Row
from . import svg, words
from .markup import Column, code, esc, notes, sortable

MOST = 300  # lines; all of them are in report.json
FULL_DB = 60.0  # a bar of full length


def table(report: Report, row: Row) -> str:
    """Size, types, zeros, work and error of each layer; empty where the file was not read so."""
    found = row.io.get("layers") or []
    if not found:
        return ""
    order = {id(layer): at for at, layer in enumerate(found, 1)}
    kept = found
    if len(found) > MOST:
        heavy = sorted(found, key=lambda f: (f["bytes"], f["macs"]), reverse=True)[:MOST]
        kept = sorted(heavy, key=lambda f: order[id(f)])
    measured = [f for f in found if f.get("snr_db") is not None]
    snr = "SNR, random data" if report.data.get("random") else "SNR"
    columns = [
        Column("#", lambda f: str(order[id(f)]), lambda f: -order[id(f)], "figure"),
        Column("Layer", lambda f: code(f["layer"]), lambda f: f["layer"], text=True),
        Column("Size", lambda f: esc(words.size(f["bytes"])) if f["bytes"] else "",
               lambda f: f["bytes"], "figure"),
        Column("Zeros", _zeros, lambda f: f.get("zeros"), "figure"),
        Column("MACs", lambda f: esc(words.number("macs", f["macs"])) if f["macs"] else "",
               lambda f: f["macs"], "figure"),
        *([Column(snr, _snr, lambda f: f.get("snr_db"), "bar share-of")] if measured else []),
        Column("Weights", lambda f: esc(types(f)), types, text=True),
        Column("Gives", lambda f: esc(f.get("gives", "")), lambda f: f.get("gives", ""),
               text=True),
        Column("Operators", lambda f: esc(operators(f)), operators, "text", True),
    ]
    total = sum(f["bytes"] for f in found)
    told = f"{len(found):,} layers, {words.size(total)} of weights"
    if measured:
        worst = min(measured, key=lambda f: float(f["snr_db"]))
        told += (f"; the lowest SNR is {words.decibels(float(worst['snr_db']))}, "
                 f"at {words.clean(worst['layer'])}")
    said = []
    if len(found) > MOST:
        said.append(f"The {MOST} heaviest are shown; all {len(found):,} are in report.json.")
    if measured:
        against = "the float file of the trained model" if report.training is not None \
            else "the float file"
        said.append(f"SNR: each layer's result against the same of {against}, on the first "
                    "held-back samples; what earlier layers lost is in it.")
    if note := row.io.get("layers_note"):
        said.append(f"Not measured {note}." if measured else f"SNR not measured: {note}.")
    return sortable("Layers", told, columns, kept, notes(said))


def operators(layer: dict) -> str:
    """The operators of a layer with their counts."""
    return ", ".join(f"{count} {words.clean(op)}" if count > 1 else words.clean(op)
                     for op, count in layer.get("ops", {}).items())


def types(layer: dict) -> str:
    """The types in which its weights are stored, the most frequent first."""
    found = layer.get("dtypes", {})
    return ", ".join(map(words.clean, sorted(found, key=lambda name: -found[name])))


def _zeros(layer: dict) -> str:
    return "" if layer.get("zeros") is None else esc(words.percent(layer["zeros"]))


def _snr(layer: dict) -> str:
    if layer.get("snr_db") is None:
        return '<span class="dull">not measured</span>'
    return f"<span>{esc(decibels(layer))}</span>{svg.small_bar(float(layer['snr_db']), FULL_DB)}"


def decibels(layer: dict) -> str:
    """The SNR of a layer; what is beyond 100 dB was not told apart."""
    value = float(layer["snr_db"])
    return "≥ 100 dB" if value >= 100 else words.decibels(value)
