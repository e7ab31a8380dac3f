"""What training did, as a section of the report's page, and the weights in a target's file."""

from __future__ import annotations

import math

from ..artifact import Report, Row
from . import curves, svg, trained, words
from .markup import code, esc, grid, long_grid, notes, random_mark

KEY = ('<p class="note key"><span><svg width="26" height="10" aria-hidden="true"><line x1="0" '
       'y1="5" x2="26" y2="5" class="curve held"/></svg> held-out samples</span><span><svg '
       'width="26" height="10" aria-hidden="true"><line x1="0" y1="5" x2="26" y2="5" '
       'class="curve fit"/></svg> training samples</span></p>')
EXTENT = (("parameters", "Parameters", "parameters"), ("macs", "MACs per sample", "macs"),
          ("bytes", "Bytes as int8, about", "size"))
ROUNDED = ("Quantization-aware training rounds some kernels with a scale for each channel, so that "
           "they have more distinct values than any one of their channels.")


def section(report: Report) -> str:
    """The section `Training`; empty where the model was exported as it came."""
    record = report.training
    if record is None:
        return ""
    parts = [_chain(report), _settings(report), _curves(report)]
    blocks = [_removed(report), _kernels(report), _skipped(report)]
    parts.append(f'<div class="blocks">{"".join(blocks)}</div>' if any(blocks) else "")
    parts.append(notes(record.get("notes")))
    # What stands fourth in a target's article stands third here; text cannot hold a bare tag.
    body = "\n".join(p for p in parts if p).replace("<h4>", "<h3>").replace("</h4>", "</h3>")
    return (f'<section aria-labelledby="training" class="training">\n<h2 id="training">Training'
            f"</h2>\n{body}\n</section>")


def _chain(report: Report) -> str:
    """The stages in their order, each with its epochs and what it reached."""
    made = []
    for stage in trained.stages(report):
        said = [stage.detail, _epochs(stage)]
        if stage.best is not None:
            said.append(f"{trained.metric_title(report)} {trained.metric(report, stage.best)}")
        spent = math.fsum(trained.number(r, "seconds") or 0.0 for r in stage.epochs)
        if spent:
            said.append(f"{words.digits3(spent)} s")
        made.append(f"<li><b>{esc(stage.title)}</b>"
                    + "".join(f"<span>{esc(s)}</span>" for s in said if s) + "</li>")
    return f'<ol class="chain">{"".join(made)}</ol>' if made else ""


def _epochs(stage: trained.Stage) -> str:
    count = len(stage.epochs)
    return f"{count} epoch{'' if count == 1 else 's'}" if count else "not trained"


def _settings(report: Report) -> str:
    said = "; ".join(trained.settings(report))
    text = words.UNIT.sub(words.GLUE, esc(words.sentence(said)))
    return f'<p class="note">{text}.</p>' if said else ""


def _curves(report: Report) -> str:
    found = curves.every(report)
    drawn = "\n".join(f'<figure class="{p.key}"><figcaption><h3>{esc(p.title)}'
                      f"{random_mark(p.random)}</h3>"
                      f"<p>{esc(p.caption)}</p></figcaption>{p.svg}</figure>" for p in found)
    key = KEY if 'class="curve fit"' in drawn else ""
    return f'{key}<div class="figures">\n{drawn}\n</div>' if drawn else ""


def _share(record: dict) -> str:
    share = trained.number(record, "zeros")
    if share is None:
        return ""
    return f"<span>{esc(words.percent(share))}</span>{svg.small_bar(share, 1.0)}"


def _kernels(report: Report) -> str:
    found = report.training.get("kernels") or []
    share = trained.zeros(found)
    told = f"{len(found):,} kernels"
    told += f", {words.percent(share)} zeros" if share is not None else ""
    table = long_grid("Kernels after training", told, [
        ("Layer", lambda k: code(k.get("layer", "")), ""),
        ("Weight", lambda k: esc(k.get("weight", "")), ""),
        ("Values", lambda k: esc(words.plain(k.get("values", ""))), "figure"),
        ("Zeros", _share, "bar share-of"),
        ("Distinct values", lambda k: esc(words.plain(k.get("distinct", ""))), "figure"),
    ], found) if found else ""
    stage = trained.asked(report, "cluster")
    if stage and trained.asked(report, "qat") and \
            any((k.get("distinct") or 0) > stage.get("clusters", 256) for k in found):
        table = table.removesuffix("</div>") + notes([ROUNDED]) + "</div>"
    return table


def _removed(report: Report) -> str:
    told = report.training.get("slimmed") or {}
    parts = []
    before, after = told.get("before") or {}, told.get("after") or {}
    sums = [{"what": name, "form": form, "before": a, "after": b}
            for key, name, form in EXTENT
            if (a := trained.number(before, key)) and (b := trained.number(after, key)) is not None]
    if sums:
        parts.append(grid("The model without them", [
            ("", lambda r: esc(r["what"]), ""),
            ("Before", lambda r: esc(words.number(r["form"], r["before"])), "figure"),
            ("After", lambda r: esc(words.number(r["form"], r["after"])), "figure"),
            ("Left", _left, "bar share-of"),
        ], sums))
    if removed := told.get("removed"):
        parts.append(long_grid("Channels removed", f"from {len(removed):,} layers", [
            ("Layer", lambda r: code(r.get("layer", "")), ""),
            ("What", lambda r: esc(r.get("what", "")), ""),
            ("Before", lambda r: esc(words.plain(r.get("before", ""))), "figure"),
            ("After", lambda r: esc(words.plain(r.get("after", ""))), "figure"),
            ("Left", _left, "bar share-of"),
        ], removed))
    return "".join(parts)


def _left(record: dict) -> str:
    before, after = (trained.number(record, k) for k in ("before", "after"))
    if not before or after is None:
        return ""
    return f"<span>{esc(words.percent(after / before))}</span>" \
           f"{svg.small_bar(after / before, 1.0)}"


def _skipped(report: Report) -> str:
    found = report.training.get("skipped") or []
    return long_grid("Layers that took no part", f"{len(found):,} entries", [
        ("Layer", lambda s: code(s.get("layer", "")), ""),
        ("Stage", lambda s: esc(s.get("stage", "")), ""),
        ("Why", lambda s: esc(s.get("why", "")), "text"),
    ], found) if found else ""


def weights(report: Report, row: Row) -> str:
    """The table of the weights that were read from a target's own file."""
    found = row.io.get("tensors") or []
    if not found:
        return ""
    total = sum(t.get("bytes") or 0 for t in found)
    told = f"{len(found):,} tensors, {words.size(total)}"
    if text := trained.proof(report, row):
        told += f", {text}"

    def distinct(t: dict) -> str:
        return "> 256" if t.get("distinct") is None else f"{t['distinct']:,}"

    return long_grid("Weights in the file", told, [
        ("Layer", lambda t: code(t.get("layer") or words.short(t.get("tensor", ""), 40)), ""),
        ("Shape", lambda t: esc(words.shape(t.get("shape", ()))), "figure"),
        ("Type", lambda t: esc(t.get("dtype", "")), ""),
        ("Bytes", lambda t: esc(words.plain(t.get("bytes", ""))), "figure"),
        ("Zeros", _share, "bar share-of"),
        ("Distinct values", lambda t: esc(distinct(t)), "figure"),
    ], found)
