"""The page of `tfcompress inspect`: heat map, layers and targets. No scripts, no network."""

from __future__ import annotations

import math
import re
from pathlib import Path

from . import basis, inspection, page, svg, words
from .inspection import Inspection

ROW = 21  # pixels of a line of the heat map
TOP = 46  # pixels for its titles
NAMES = 0.34  # share of its width for the layers' names
FULL_DB = 40.0  # paler than this there is nothing to see
MIDDLE, DEEP = 0.6, 0.8  # opacities from which on text on a cell is dark in dark, light in light
FIT = {"narrow": 17, "wide": 44}  # characters of a name, by the width of the page
IN_HEAD = 2  # sentences of advice; the others stand in a list
FEW = {"prune": "pruned", "weights": "weights", "activations": "out"}


def render(found: Inspection) -> str:
    """The whole page."""
    folder = Path(__file__).parent
    css = "".join((folder / n).read_text(encoding="utf-8") for n in ("report.css", "inspect.css"))
    name = page.esc(Path(found.source["path"]).name)
    parts = [_header(found, name), _advice(found), _heat_maps(found), _targets(found),
             _layers(found), _about(found)]
    return (f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<meta name="color-scheme" content="light dark">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{page.POLICY}">\n'
            f'<meta name="generator" content="tfcompress {page.esc(found.version)}">\n'
            f"<title>{name} · tfcompress inspect</title>\n<style>\n{css}</style>\n</head>\n<body>"
            f"\n<main>\n" + "\n".join(p for p in parts if p) + "\n</main>\n</body>\n</html>\n")


def _header(found: Inspection, name: str) -> str:
    facts = inspection.headline(found).partition(": ")[2].split(", ")
    if found.sensitivity:
        facts.append(f"{found.sensitivity['rows']} samples")
    if found.created:
        facts.append(basis.moment(found.created))
    random = (f'<p class="random-note">▲ {page.RANDOM_NOTE}</p>\n'
              if found.data.get("random") else "")
    return (f'<header>\n<p class="over">tfcompress inspect</p>\n<h1>{name}</h1>\n'
            f'<p class="verdict">{_sentence(_verdict(found))}</p>\n{random}'
            f'<p class="facts">{" · ".join(map(page.esc, facts))}</p>\n</header>')


def _sentence(text: str) -> str:
    """HTML in which a figure and its unit stay on one line."""
    return re.sub(r"(?<=\d) (?=[%kMGBmd])", "\N{NO-BREAK SPACE}", page.esc(text))


def _verdict(found: Inspection) -> str:
    """The one sentence that says most."""
    if said := inspection.advice(found):
        return " ".join(said[:IN_HEAD])
    if found.targets:
        good = [t["name"] for t in found.targets if t["runs"] == "yes"]
        bad = [t["name"] for t in found.targets if t["runs"] in ("no", "partly")]
        text = f"Runs whole on {words.listed(good)}. " if good else ""
        return text + (f"See what stands against {words.listed(bad)}." if bad else "")
    return "What the model consists of."


def _advice(found: Inspection) -> str:
    said = inspection.advice(found)
    if not said:
        return ""
    items = "".join(f"<li>{_sentence(s)}</li>" for s in said[IN_HEAD:])
    recipe = inspection.recipe(found)
    shown = (f'<p class="note">A recipe to start from (<code>tfcompress shrink --recipe FILE</code>'
             f"):</p><pre>{page.esc(recipe)}</pre>" if recipe else "")
    return (f'<section aria-labelledby="advice">\n<h2 id="advice">What this suggests</h2>\n'
            f'<ul class="advices">{items}</ul>{shown}</section>')


# The heat maps


def _heat_maps(found: Inspection) -> str:
    measured = found.sensitivity
    if not measured or not measured["layers"]:
        return ""
    maps = [_heat(measured, "snr", "Signal to noise of the outputs, dB",
                  "One layer changed at a time, the others as they are. Full colour: the outputs "
                  "are ruined; none: nothing is lost. 20 dB is an error of a tenth.")]
    results = [r for layer in measured["layers"] for r in layer["results"].values()]
    if any("loss" in r for r in results):
        name = next(r["metric"] for r in results if "metric" in r)
        if name not in ("mae", "rmse"):
            maps.append(_heat(measured, "loss", f"Loss of {words.title(name).lower()}, points",
                              "On the same samples. Negative: by chance the change helped."))
    elif any("agreement" in r for r in results):
        maps.append(_heat(measured, "agreement", "Samples with another top-1 answer, %",
                          "Against the unchanged model, without labels."))
    shown = "\n".join(maps)
    left = measured["skipped"]
    note = "".join(f'<p class="note">Not measured: {page.esc(s["layer"])}: {page.esc(s["why"])}.'
                   "</p>" for s in left[:8])
    return (f'<section aria-labelledby="heat">\n<h2 id="heat">Sensitivity of each layer</h2>\n'
            f"{shown}{note}</section>")


def _key() -> str:
    boxes = "".join(f'<span><svg width="14" height="14" aria-hidden="true"><rect width="14" '
                    f'height="14" class="cell" fill-opacity="{_opacity(v):.2f}"/></svg> {t}</span>'
                    for v, t in ((0.0, "0 dB"), (10.0, "10 dB"), (20.0, "20 dB"), (30.0, "30 dB"),
                                 (40.0, "40 dB and more")))
    return f'<p class="note key">{boxes}</p>'


def _opacity(decibels: float) -> float:
    return max(0.0, min(1.0, 1 - decibels / FULL_DB))


def _heat(measured: dict, field: str, title: str, caption: str) -> str:
    """Layers down, settings across; the figure stands in each cell."""
    settings = measured["settings"]
    layers = [r for r in measured["layers"]
              if any(field in x for x in r["results"].values())]
    wide = (1 - NAMES) / len(settings)
    parts = _titles(settings, wide)
    told = []
    for at, row in enumerate(layers):
        y = TOP + ROW * at
        parts.append(_name(row["layer"], y + 15))
        for i, setting in enumerate(settings):
            result = row["results"].get(setting["name"])
            if result is None or field not in result:
                continue
            parts.append(_cell(NAMES + i * wide, wide, y, result, field,
                               f"{row['layer']}, {inspection.setting_name(setting)}: "
                               f"{inspection.left(result)}"))
        told.append(f"{row['layer']}: mean {words.decibels(row['score'])}")
    key = f"heat-{field}"
    drawn = svg.frame(key, title, "; ".join(told), TOP + ROW * len(layers) + 2, parts)
    return (f'<figure class="heat"><figcaption><h3>{page.esc(title)}</h3>'
            f"<p>{page.esc(caption)}</p></figcaption>{_key() if field == 'snr' else ''}{drawn}"
            "</figure>")


def _titles(settings: list[dict], wide: float) -> list[str]:
    parts, start = [], 0
    for kind in dict.fromkeys(s["kind"] for s in settings):
        count = sum(s["kind"] == kind for s in settings)
        middle = NAMES + wide * (start + count / 2)
        for size, name in (("wide", inspection.NAMES[kind]), ("narrow", FEW[kind])):
            parts.append(f'<text x="{svg.across(middle)}" y="14" text-anchor="middle" '
                         f'class="tick {size}">{name}</text>')
        start += count
    for i, setting in enumerate(settings):
        x = svg.across(NAMES + wide * (i + 0.5))
        share = setting["kind"] == "prune"
        amount = round(setting["amount"] * (100 if share else 1))
        for size, text in (("wide", f"{amount} %" if share else f"{amount} bits"),
                           ("narrow", f"{amount}{'%' if share else 'b'}")):
            parts.append(f'<text x="{x}" y="34" text-anchor="middle" class="tick {size}">'
                         f"{text}</text>")
    return parts


def _name(name: str, y: float) -> str:
    return "".join(f'<text x="0" y="{y:g}" class="{kind} layer">'
                   f"{svg.text(words.short(name, length))}</text>" for kind, length in FIT.items())


def _cell(x: float, wide: float, y: float, result: dict, field: str, hint: str) -> str:
    value = result[field]
    if field == "snr":
        opacity = _opacity(value)
        text = f"{value:.0f}" if math.isfinite(value) else words.digits3(value)
    else:
        lost = 100 * (1 - value if field == "agreement" else value)
        opacity = max(0.0, min(1.0, lost / 25))
        text = f"{lost:.1f}"
    text = {"-0": "0", "-0.0": "0.0"}.get(text, text).replace("-", "−")
    deep = " deep" if opacity >= DEEP else " middle" if opacity >= MIDDLE else ""
    return (f'<rect x="{svg.across(x)}" y="{y + 1:g}" width="{svg.across(wide - 0.004)}" '
            f'height="{ROW - 2}" class="cell" fill-opacity="{opacity:.2f}">'
            f"<title>{svg.text(hint)}</title></rect>"
            f'<text x="{svg.across(x + wide / 2)}" y="{y + 15:g}" text-anchor="middle" '
            f'class="value{deep}">{text}</text>')


# Targets, layers and the rest


def _targets(found: Inspection) -> str:
    if not found.targets:
        return ""
    said = "\n".join(_target(t) for t in found.targets)
    return (f'<section aria-labelledby="targets">\n<h2 id="targets">What each target makes of it'
            f"</h2>\n{said}\n</section>")


def _target(target: dict) -> str:
    kind = {"yes": "ok", "partly": "rejected", "no": "failed"}.get(target["runs"], "")
    glyph, said = inspection.RUNS[target["runs"]]
    parts = [f'<p class="quiet">{page.esc(target["summary"])}</p>']
    if target["bytes"]:
        parts.append(f"<p>About {page.esc(words.size(target['bytes']))}, estimated from the number "
                     "of weights.</p>")
    if target["problems"]:
        parts.append(page.grid("What stands against it", [
            ("", lambda p: inspection.LEVELS[p["level"]], ""),
            ("Operation", lambda p: page.esc(p["op"]) + (
                f" {p['count']}×" if p["count"] > 1 else ""), ""),
            ("Layers", lambda p: page.esc(inspection.listed(p["layers"])) if p["layers"] else "",
             "text"),
            ("What", lambda p: page.esc(words.sentence(p["what"])), "text"),
            ("What you could change", lambda p: page.esc(words.sentence(p["advice"])), "text"),
        ], target["problems"]))
    return (f'<article class="{kind}">\n<header><h3>{page.esc(target["name"])}</h3>'
            f'<span class="status {kind}"><span aria-hidden="true">{glyph}</span> '
            f"{page.esc(said)}</span></header>\n<div>{''.join(parts)}</div>\n</article>")


def _layers(found: Inspection) -> str:
    measured = [r for r in (found.sensitivity or {}).get("layers", []) if r["weights"]]
    rows = {r["name"] for r in found.layers}

    def score(row: dict) -> str:
        """The worst of the layers that the row stands for."""
        inside = [m["score"] for m in measured if m["layer"] == row["name"] or (
            m["layer"].startswith(f"{row['name']}/") and m["layer"] not in rows)]
        if not inside:
            return ""
        return f"{min(inside):.0f} dB{svg.small_bar(60 - min(inside), 60)}"

    table = page.grid("In the model's order", [
        ("Layer", lambda r: page.code(r["name"]), ""), ("Type", lambda r: page.esc(r["type"]), ""),
        ("Output", lambda r: page.esc(words.shape(r["shape"])) if r["shape"] else "", "figure"),
        ("Parameters", lambda r: f"{r['parameters']:,}" if r["parameters"] else "", "figure"),
        ("Share", lambda r: words.percent(r["share"]) if r["share"] else "", "figure"),
        ("MACs", lambda r: words.number("macs", r["macs"]) if r["macs"] else "", "figure"),
        ("Mean SNR", score, "bar"),
        ("Targets", lambda r: page.esc(inspection.against(found, r["name"])), ""),
        ("TFLite operators", _made, "text"),
    ], found.layers)
    rewrites = page.grid("Rewritten on the way to TFLite, by equal formulas", [
        ("What", lambda r: page.esc(r["what"]), "text"),
        ("Why", lambda r: page.esc(r["why"]), "text"),
        ("Layers", lambda r: page.esc(inspection.listed(r["layers"])) if r["layers"] else "",
         "text"),
    ], found.rewrites) if found.rewrites else ""
    return (f'<section aria-labelledby="layers">\n<h2 id="layers">Layers</h2>\n{rewrites}{table}'
            "</section>")


def _made(row: dict) -> str:
    """What becomes of a layer: operators, and a note where there is one."""
    note = f'<span class="dull">{page.esc(row["note"])}</span>' if row["note"] else ""
    return "<br>".join(filter(None, (page.esc(", ".join(row["ops"])), note)))


def _about(found: Inspection) -> str:
    notes = "".join(f'<p class="note">{page.esc(n)}</p>'
                    for n in (*found.source.get("notes", ()), *found.notes))
    record = basis.listing({k: found.source.get(k) for k in ("path", "sha256", "format")})
    again = f"<pre>{page.esc(found.command)}</pre>" if found.command else ""
    took = f" in {found.seconds:g} s" if found.seconds else ""
    return (f'<section class="base-section" aria-labelledby="about">\n<h2 id="about">The model</h2>'
            f"\n{record}{notes}{again}<footer>Made by tfcompress {page.esc(found.version)}{took}. "
            "Sizes are decimal: 1 kB = 1000 bytes.</footer></section>")
