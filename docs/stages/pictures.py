"""The pictures of the stages' pages as SVG, drawn from figures.json.

    python docs/stages/pictures.py       writes structured.svg, prune.svg, ... beside itself

The same figures give the same bytes. `measure.py` makes figures.json by training the example.
"""

import json
from pathlib import Path

from tfcompress.benchmark import svg
from tfcompress.benchmark.svg import Axis, text
from tfcompress.compress.training import prune, recipe

HERE = Path(__file__).parent
WIDE, EDGE = 760, 24  # of a picture and its margins, in pixels

STYLE = """
svg{--paper:#fff;--ink:#17191c;--soft:#565c64;--rule:#d9dce0;--pale:#c9ced4;--a:#0a5c9e;--b:#d98a1f;
--c:#2f9e8f}
@media (prefers-color-scheme:dark){svg{--paper:#14171b;--ink:#e7e9ec;--soft:#a3abb5;--rule:#363c44;
--pale:#454c55;--a:#6db4f2;--b:#f0b45c;--c:#5fcabb}}
text{font:12px -apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;fill:var(--soft)}
.title{font-size:15px;font-weight:600;fill:var(--ink)}.head{font-weight:600;fill:var(--ink)}
.ink{fill:var(--ink)}.paper{fill:var(--paper);stroke:var(--rule)}.grid{stroke:var(--rule)}
.tick{font-size:11px}.pale{fill:var(--pale)}.a{fill:var(--a)}.b{fill:var(--b)}.c{fill:var(--c)}
.line{fill:none;stroke-width:2;stroke-linejoin:round}.sa{stroke:var(--a)}.sb{stroke:var(--b)}
.sc{stroke:var(--c)}.ss{stroke:var(--soft)}.hollow{fill:none;stroke:var(--soft)}
.dots{fill:none;stroke:var(--b);stroke-width:4;stroke-linecap:round}
""".replace("\n", "")


def main() -> None:
    """Draw all of them."""
    told = json.loads((HERE / "figures.json").read_text())
    for name, content in draw(told).items():
        (HERE / f"{name}.svg").write_text(content)


def draw(told: dict) -> dict[str, str]:
    """Every picture by name, from the figures."""
    return {"structured": structured(told), "prune": pruned(told), "cluster": clustered(told),
            "qat": quantized(told), "distill": distilled(told), "own-loop": own_loop(told)}


# The pictures


def structured(told: dict) -> str:
    """Bars of channels per layer, and what is left in all."""
    found = told["structured"]
    most = max(one["before"] for one in found["layers"])
    axis = Axis(0, most, start=0.0, end=1.0)
    parts = [word(EDGE, 62, "channels of each layer, before and after", "head")]
    for row, one in enumerate(found["layers"]):
        y = 76 + 26 * row
        changed = "a" if one["after"] < one["before"] else "pale"
        note = f"{one['before']} → {one['after']}" if changed == "a" else f"{one['before']} stay"
        parts += [word(EDGE + 130, y + 13, one["layer"], "ink", "end"),
                  panel(EDGE + 140, y, 400, 20, box(0, 0, axis.at(one["before"]), 18, "hollow")
                        + box(0, 2, axis.at(one["after"]), 14, changed)),
                  word(EDGE + 552, y + 13, note)]
    y = 96 + 26 * len(found["layers"])
    parts.append(word(EDGE, y + 6, "of the whole model", "head"))
    for row, (key, name) in enumerate((("parameters", "parameters"), ("macs", "multiplications"),
                                       ("bytes", "bytes in int8"))):
        before, after = found["before"][key], found["after"][key]
        at = y + 20 + 26 * row
        parts += [word(EDGE + 130, at + 13, name, "ink", "end"),
                  panel(EDGE + 140, at, 400, 20, box(0, 0, 1, 18, "hollow")
                        + box(0, 2, after / before, 14, "c")),
                  word(EDGE + 552, at + 13, f"{before:,.0f} → {after:,.0f}")]
    return picture("structured", "Half of the parameters go as whole channels", y + 112, parts,
                   f"{percent(told['source']['accuracy'])} → {percent(found['accuracy'])} "
                   f"on 597 test digits")


def pruned(told: dict) -> str:
    """A kernel's histogram, the sparsity over the steps, and three patterns."""
    found = told["prune"]
    axis = Axis(found["low"], found["high"], start=0.0, end=1.0)
    top = max(found["before"] + found["after"])
    high = 150
    zero = 100 * axis.at(0)
    inside = ruler(axis, 0, high) + \
        steps(found["before"], top, high, 400, "pale") + \
        steps(found["after"], top, high, 400, "a") + \
        f'<rect x="{zero:.2f}%" width="3" y="0" height="{high}" class="b"/>'
    zeros = f"{found['zeros']:,} of {found['values']:,} weights are 0"
    parts = [word(EDGE, 62, "weights of the first dense layer", "head"),
             panel(EDGE, 90, 400, high + 20, inside), word(EDGE + 200, 82, zeros, "b", "middle"),
             square(EDGE, 284, "pale"), word(EDGE + 16, 293, "before"),
             square(EDGE + 80, 284, "a"), word(EDGE + 96, 293, "after, without the zeros"),
             word(476, 62, "zeros by epoch", "head"),
             panel(500, 90, 236, high + 20, _ramp(found["history"])),
             word(476, 293, "○ zeros at the end of an epoch")]
    names = {"unstructured": "unstructured", "2:4": "2:4", "block1x4": "block1x4"}
    parts.append(word(EDGE, 328, "half of the weights, in three patterns "
                      "(each row: one output, inputs from left to right)", "head"))
    for i, (key, name) in enumerate(names.items()):
        x = EDGE + 244 * i
        parts += [f'<g transform="translate({x} 340)">{_cells(found["patterns"][key])}</g>',
                  word(x, 340 + 12 * 9 + 16, name)]
    return picture("prune", "Pruned to 80 %: the smallest weights become zero", 478, parts,
                   f"{percent(told['source']['accuracy'])} → {percent(found['accuracy'])} "
                   "on 597 test digits")


def _ramp(history: list[dict]) -> str:
    """The schedule over a stage, and what each epoch ended with."""
    count, high = len(history), 150
    stage = recipe.Prune(sparsity=0.8)
    across, down = Axis(0, count, start=0.0, end=1.0), Axis(0, 1, start=1.0, end=0.0)
    curve = [(across.at(count * i / 80), high * down.at(prune.sparsity_at(stage, i, 80)))
             for i in range(81)]
    marks = "".join(f'<circle cx="{100 * across.at(r["epoch"] + 1):.1f}%" '
                    f'cy="{high * down.at(r["sparsity"]):.1f}" r="3.5" class="hollow"/>'
                    for r in history)
    levels = "".join(svg.line(0, high * down.at(v), 1, high * down.at(v), "grid")
                     + f'<text x="-4" y="{high * down.at(v) + 4:.0f}" class="tick" '
                     f'text-anchor="end">{v:.0%}</text>' for v in (0, 0.4, 0.8))
    return levels + ruler(across, 0, high) + \
        path(curve, 236, "line sa") + marks


def clustered(told: dict) -> str:
    """A kernel's histogram and the values that are left."""
    found = told["cluster"]
    axis = Axis(found["low"], found["high"], start=0.0, end=1.0)
    high, wide = 190, WIDE - 2 * EDGE
    most = max(found["counts"])
    lines = "".join(
        f'<rect x="{100 * axis.at(v) - 0.2:.2f}%" width="0.4%" y="{high * (1 - n / most):.1f}" '
        f'height="{high * n / most:.1f}" class="a"><title>{v:.4f}: {n:,} weights</title></rect>'
        for v, n in zip(found["table"], found["counts"], strict=True))
    inside = ruler(axis, 0, high) + \
        steps(found["before"], max(found["before"]), high, wide, "pale") + lines
    count = len(found["table"])
    parts = [word(EDGE, 62, f"{found['values']:,} weights of the first dense layer, "
                  f"{count} values", "head"),
             panel(EDGE, 78, wide, high + 20, inside),
             square(EDGE, 304, "pale"), word(EDGE + 16, 313, "histogram before"),
             square(EDGE + 140, 304, "a"),
             word(EDGE + 156, 313, f"the {count} values after training; height: how many weights "
                  f"have each (at most {most:,})")]
    return picture("cluster", f"Clustered to {count} values", 334, parts,
                   f"{percent(told['source']['accuracy'])} → {percent(found['accuracy'])} "
                   "on 597 test digits")


def quantized(told: dict) -> str:
    """Staircases of a channel's weights, ranges before and after, and the file's agreement."""
    found = told["qat"]
    parts = [word(EDGE, 62, f"weights of unit {found['channel']}: float → rounded", "head"),
             panel(EDGE, 76, 210, 210, _stairs(found)), square(EDGE, 298, "b"),
             word(EDGE + 16, 307, "4 bits: 15 levels, and its 256 weights"),
             square(EDGE, 316, "a"), word(EDGE + 16, 325, "8 bits: 255 levels")]
    ranges = found["ranges"]
    axis = Axis(0, max(max(r["seen"][1], r["learned"][1]) for r in ranges), start=0.0, end=1.0)
    parts.append(word(270, 62, "ranges of activations, and what the test digits reach", "head"))
    for i, one in enumerate(ranges):
        y = 78 + 30 * i
        bars = box(0, 0, axis.at(one["learned"][1]), 18, "c") + \
            box(0, 5, axis.at(one["seen"][1]), 8, "hollow")
        parts += [word(384, y + 13, one["layer"], "ink", "end"), panel(392, y, 240, 20, bars),
                  word(642, y + 13, f"{percent(one['outside'], 3)} cut off"
                       if one["outside"] else "nothing cut off")]
    foot = 78 + 30 * len(ranges)
    parts += [panel(392, foot, 240, 20, ruler(axis, -4, 2)),
              square(392, foot + 30, "c"), word(408, foot + 39, "learned range: 256 steps"),
              word(392, foot + 57, "outline: up to the largest float value")]
    y = max(356, foot + 86)
    parts += _agreement(found["file"], EDGE, y)
    return picture("qat", "Quantization-aware training: the int8 file's roundings, learned",
                   y + 92, parts,
                   f"float {percent(told['source']['accuracy'])}, int8 file "
                   f"{percent(found['file']['apart']['accuracy'])} on 597 test digits")


def _stairs(found: dict) -> str:
    top = max(abs(v) for v in found["float"])
    axis = Axis(-top, top, start=0.0, end=1.0)

    def rounded(value: float, step: float, levels: int) -> float:
        return step * max(-levels, min(levels, round(value / step)))

    def stairs(step: float, levels: int, style: str) -> str:
        edges = [-top, *(step * (k + 0.5) for k in range(-levels, levels)
                         if abs(step * (k + 0.5)) < top), top]
        points = []
        for a, b in zip(edges, edges[1:], strict=False):
            level = 210 * (1 - axis.at(rounded((a + b) / 2, step, levels)))
            points += [(axis.at(a), level), (axis.at(b), level)]
        return path(points, 210, f"line {style}")

    dots = "".join(f"M{210 * axis.at(v):.0f} "
                   f"{210 * (1 - axis.at(rounded(v, found['step4'], 7))):.0f}h0"
                   for v in found["float"])
    box_ = '<rect width="210" height="210" class="hollow" style="stroke:var(--rule)"/>'
    return box_ + stairs(found["step8"], 127, "sa") + \
        stairs(found["step4"], 7, "ss") + f'<path d="{dots}" class="dots"/>'


def _agreement(file: dict, x: float, y: float) -> list[str]:
    """How many output values of the file are so many steps from the fake-quantized model's."""
    counts = file["apart"]["steps"]
    whole = sum(counts)
    parts = [word(x, y, "the int8 file against the model that it was made from: 5,970 "
                  "probabilities of 597 test digits", "head")]
    at = float(x)
    for steps_, count in enumerate(counts):
        share = (WIDE - 2 * EDGE) * count / whole
        if count:
            style = ("c", "b", "a", "pale")[min(steps_, 3)]
            parts.append(f'<rect x="{at:.1f}" y="{y + 12}" width="{max(share, 1):.1f}" '
                         f'height="18" class="{style}"/>')
        at += share
    told = [f"equal: {counts[0]:,}"] + [f"{n} step{'s' * (n > 1)} apart: {c:,}"
                                        for n, c in enumerate(counts) if n and c]
    same = file["apart"]["same"]
    return [*parts, word(x, y + 50, ", ".join(told) + "; a step is 1/256"),
            word(x, y + 68, f"the same digit in {percent(same) if same < 1 else 'all'} of them")]


def distilled(told: dict) -> str:
    """Some digits: what the label says and what the teacher says; three trainings."""
    found = told["distill"]
    heads = ((EDGE, "sample"), (140, "its label"), (345, "the original model"),
             (550, "softened, as trained on (T = 2)"))
    parts = [word(x, 62, name, "head") for x, name in heads]
    for row, one in enumerate(found["samples"]):
        y = 78 + 108 * row
        parts.append(f'<g transform="translate({EDGE} {y})">{_pixels(one["pixels"])}</g>')
        label = [float(d == one["label"]) for d in range(10)]
        for x, values, style in ((140, label, "pale"), (345, one["said"], "a"),
                                 (550, one["soft"], "c")):
            parts.append(panel(x, y, 180, 96, _bars(values, style)))
    y = 78 + 108 * len(found["samples"]) + 18
    parts.append(word(EDGE, y, "the model at a quarter of its parameters, "
                      f"{found['epochs']} epochs: accuracy on 597 test digits (one digit: 0.2 %)",
                      "head"))
    axis = Axis(0.9, 1.0, start=0.0, end=1.0)
    for i, run in enumerate(found["runs"]):
        at = y + 12 + 24 * i
        parts += [word(EDGE + 106, at + 12, run["name"], "ink", "end"),
                  panel(140, at, 390, 18, svg.line(0, 8, 1, 8, "grid")
                        + f'<circle cx="{svg.across(axis.at(run["accuracy"]))}" cy="8" r="5" '
                        'class="a"/>'),
                  word(542, at + 12, f"{percent(run['accuracy'])}; as the original: "
                       f"{percent(run['agreement'])}")]
    foot = y + 12 + 24 * len(found["runs"])
    parts += [panel(140, foot, 390, 22, "".join(
        svg.line(axis.at(v), -2, axis.at(v), 4, "grid")
        + f'<text x="{svg.across(axis.at(v))}" y="19" text-anchor="middle" class="tick">{v:.0%}'
        "</text>" for v in axis.ticks(3)))]
    return picture("distill", "What a teacher says that a label does not", foot + 38, parts,
                   "the digits that it doubts most, and gets right")


def own_loop(told: dict) -> str:
    """Accuracy and zeros by epoch in three fits."""
    found = told["own-loop"]
    count = sum(len(f["epochs"]) for f in found["fits"])
    wide, high = WIDE - 2 * EDGE - 44, 150
    across = Axis(0, count, start=0.0, end=1.0)
    least = min(e["accuracy"] for f in found["fits"] for e in f["epochs"])
    floor = min(0.9, int(least * 20) / 20)
    down = Axis(floor, 1.0, start=1.0, end=0.0)
    inside = "".join(svg.line(0, high * down.at(v), 1, high * down.at(v), "grid")
                     + f'<text x="-6" y="{high * down.at(v) + 4:.0f}" class="tick" '
                     f'text-anchor="end">{v:.0%}</text>' for v in down.ticks(3))
    parts, at = [word(EDGE, 62, "accuracy on the test digits after each epoch", "head")], 0
    for fit, style in zip(found["fits"], "abc", strict=True):
        points = [(across.at(at + i + 1), high * down.at(e["accuracy"]))
                  for i, e in enumerate(fit["epochs"])]
        inside += path(points, wide, f"line s{style}") + "".join(
            f'<circle cx="{wide * x:.1f}" cy="{y:.1f}" r="3" class="{style}">'
            f"<title>{e['accuracy']:.2%}, {e['zeros']:.0%} zeros</title></circle>"
            for (x, y), e in zip(points, fit["epochs"], strict=True))
        number = "abc".index(style)
        says = f"{percent(fit['zeros'], 0)} zeros" + (
            " in the dense kernel" if style == "a" else f", {fit['distinct']} values")
        x = EDGE + 44 + 220 * number
        parts += [square(x, 269, style), word(x + 16, 278, f"fit {number + 1}: {fit['stage']}",
                                              "head"),
                  word(x + 16, 296, says),
                  word(x + 16, 314, f"{percent(fit['accuracy'])} of the test digits")]
        at += len(fit["epochs"])
        if at < count:
            inside += svg.line(across.at(at + 0.5), 0, across.at(at + 0.5), high, "grid")
    axis_words = "".join(f'<text x="{svg.across(across.at(n))}" y="{high + 16}" class="tick" '
                         f'text-anchor="middle">{n}</text>' for n in range(1, count + 1))
    parts.append(panel(EDGE + 44, 80, wide, high + 24, inside + axis_words))
    parts.append(word(EDGE, 344, f"in the end an int8 file of {found['file']['bytes']:,} bytes, "
                      f"{found['file']['gzip']:,} with gzip"))
    return picture("own-loop", "Three fits of one's own: prune, cluster, QAT", 364, parts,
                   "zeros and shared values are kept from fit to fit")


# Parts


def picture(name: str, title: str, height: float, parts: list[str], side: str) -> str:
    """A whole file: a card that is light or dark as its reader's screen is."""
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {height:g}" '
            f'width="{WIDE}" height="{height:g}" role="img" aria-label="{text(title)}">'
            f"<style>{STYLE}</style>"
            f'<rect x=".5" y=".5" width="{WIDE - 1}" height="{height - 1:g}" rx="8" '
            f'class="paper"/>{word(EDGE, 34, title, "title")}'
            f'{word(WIDE - EDGE, 34, side, "", "end")}{"".join(parts)}</svg>\n')


def panel(x: float, y: float, wide: float, high: float, inside: str) -> str:
    return (f'<svg x="{x:g}" y="{y:g}" width="{wide:g}" height="{high:g}" overflow="visible">'
            f"{inside}</svg>")


def word(x: float, y: float, said: str, style: str = "", anchor: str = "start") -> str:
    return (f'<text x="{x:g}" y="{y:g}" class="{style}" text-anchor="{anchor}">{text(said)}'
            "</text>")


def square(x: float, y: float, style: str) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="10" height="10" class="{style}"/>'


def box(x: float, y: float, share: float, high: float, style: str) -> str:
    return (f'<rect x="{svg.across(x)}" y="{y:g}" width="{svg.across(share)}" height="{high:g}" '
            f'class="{style}"/>')


def ruler(axis: Axis, top: float, foot: float) -> str:
    """Lines at round values, each with its number below."""
    return "".join(
        svg.line(axis.at(v), top, axis.at(v), foot, "grid")
        + f'<text x="{svg.across(axis.at(v))}" y="{foot + 15:g}" text-anchor="middle" '
        f'class="tick">{v:g}</text>' for v in axis.ticks(6))


def path(points: list[tuple[float, float]], wide: float, style: str) -> str:
    """A line through (share of the width, pixels down)."""
    said = "L".join(f"{wide * x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="M{said}" class="{style}"/>'


def steps(counts: list[int], top: int, high: float, wide: float, style: str) -> str:
    """A histogram as one outline."""
    step, said = wide / len(counts), f"M0 {high:g}"
    for i, count in enumerate(counts):
        said += f"V{high * (1 - count / top):.1f}H{step * (i + 1):.1f}"
    return f'<path d="{said}V{high:g}Z" class="{style}"/>'


def _cells(rows: list[str]) -> str:
    """Weights that stay as filled squares of 9 pixels."""
    kept = "".join(f"M{9 * x} {9 * y}h8v8h-8z" for y, row in enumerate(rows)
                   for x, cell in enumerate(row) if cell == "1")
    gone = "".join(f"M{9 * x} {9 * y}h8v8h-8z" for y, row in enumerate(rows)
                   for x, cell in enumerate(row) if cell == "0")
    return f'<path d="{gone}" class="pale" opacity=".45"/><path d="{kept}" class="a"/>'


def _pixels(rows: list[list[int]]) -> str:
    """A digit of 8 x 8 pixels of 0 to 16."""
    parts = ['<rect width="88" height="88" class="paper"/>']
    for level in range(1, 17):
        cells = "".join(f"M{11 * x} {11 * y}h11v11h-11z" for y, row in enumerate(rows)
                        for x, value in enumerate(row) if value == level)
        if cells:
            parts.append(f'<path d="{cells}" class="ink" opacity="{level / 16:.2f}"/>')
    return "".join(parts)


def _bars(values: list[float], style: str) -> str:
    """Ten probabilities."""
    parts = [svg.line(0, 78, 1, 78, "grid")]
    for digit, value in enumerate(values):
        x = 18 * digit
        parts.append(f'<rect x="{x + 2}" y="{78 - 62 * value:.1f}" width="14" '
                     f'height="{62 * value:.1f}" class="{style}"/>'
                     f'<text x="{x + 9}" y="92" class="tick" text-anchor="middle">{digit}</text>')
        if value >= 0.005:
            parts.append(f'<text x="{x + 9}" y="{74 - 62 * value:.1f}" class="tick" '
                         f'text-anchor="middle">{100 * value:.0f}</text>')
    return "".join(parts)


def percent(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}%}".replace("%", " %")


if __name__ == "__main__":
    main()
