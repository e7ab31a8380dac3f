"""`README.md` of an output folder: a model card, as model hubs read it, of the report's figures.

The front matter is YAML as Hugging Face has it. Nothing is in it that the run does not know: no
licence, no base model, and a pipeline tag only where the data were folders of classes of images.
"""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

from ..artifact import Report, Row
from . import report as full
from . import shrinking, summary, words

FILE = "README.md"
LIBRARIES = {"tflite": "litert", "onnx": "onnx", "keras": "keras", "saved-model": "tensorflow",
             "tfjs": "tfjs"}
LICENSE = ("Not known to tfcompress, which made these files: it is that of the model that they "
           "were made from. Set `license` at the top of this file.")
md = full._md


def write(report: Report, folder: str | Path) -> None:
    """Write the card into an output folder that holds artifacts and usage notes."""
    folder = Path(folder)
    notes = {p.stem for p in (folder / "usage").glob("*.md")}
    (folder / FILE).write_text(render(report, notes), encoding="utf-8", errors="replace",
                               newline="\n")


def render(report: Report, notes: set[str] = frozenset()) -> str:
    """The card as text.

    Args:
        report: The report.
        notes: Targets for which there is a `usage/TARGET.md`.
    """
    report = summary.readable(shrinking.explained(report))
    name = Path(str(report.source.get("path", "model"))).name
    size = summary.source_row(report)
    size = size and size.value("size")
    origin = f"{md(name)} ({words.size(size)})" if size else md(name)
    parts = [
        f"# {md(Path(name).stem)}",
        f"{origin} for {_count(len(summary.made(report)), 'target')}, made by tfcompress "
        f"{md(report.version)}. {full._sentence(summary.verdict(report))}",
        "## Files", _files(report, notes), _measured(report),
        "## Inputs and outputs", full._md_signature(
            {k: report.source.get(k, ()) for k in ("inputs", "outputs")}),
        "Types, scales and zero points of each file, and code that runs it, are in `usage/`."
        if notes else "",
        "## Data", _data(report),
        "## How it was made", _how(report),
        "## Limitations", "\n".join(f"- {line}" for line in _limits(report)),
        "## Licence", LICENSE,
    ]
    return f"---\n{_front(report)}---\n\n" + "\n\n".join(p for p in parts if p) + "\n"


def _front(report: Report) -> str:
    """YAML; every value is JSON, which YAML has in it."""
    made = [r for r in summary.made(report) if r.artifact]
    formats = list(dict.fromkeys(r.artifact.format for r in made))
    kinds = {t["name"]: t.get("quantization", "none") for t in report.recipe.get("targets", ())
             if isinstance(t, dict) and "name" in t}
    stored = [kinds[r.target] for r in made if kinds.get(r.target, "none") != "none"]
    library = next((LIBRARIES[f] for f in formats if f in LIBRARIES), None)
    metric = None if report.data.get("random") else summary.metric(report)
    seen = report.data.get("kind") == "images" and metric == "accuracy"
    record = {
        "license": "other", "license_name": "unknown",
        "library_name": library,
        "pipeline_tag": "image-classification" if seen else None,
        "tags": ["tfcompress", *dict.fromkeys([*formats, *stored])],
        "metrics": [metric] if metric else None,
    }
    front = "".join(f"{k}: {json.dumps(v)}\n" for k, v in record.items() if v)
    return front + (_index(report, made, metric, seen) if metric else "")


def _index(report: Report, made: list[Row], metric: str, seen: bool) -> str:
    """The figures as hubs read them, one target on each line."""
    name = words.clean(Path(str(report.source.get("path", "model"))).stem)
    data = report.data
    results = [{
        "task": {"type": "image-classification" if seen else "other"},
        "dataset": {"name": words.clean(Path(str(data.get("spec"))).name),
                    "type": words.clean(data.get("kind")),
                    "split": f"{summary.evaluated(report)} held-back samples"},
        "metrics": [{"type": metric, "value": row.value(metric),
                     "name": f"{words.title(metric)}, {words.clean(row.target)}"}],
    } for row in made if full.finite(row.value(metric)) == row.value(metric) is not None]
    lines = "".join(f"  - {json.dumps(r)}\n" for r in results)
    return f"model-index:\n- name: {json.dumps(name)}\n  results:\n{lines}" if results else ""


def _files(report: Report, notes: set[str]) -> str:
    have = summary.columns(report)
    right = next((k for k in ("metric", "agreement", "snr") if k in have), None)
    keys = [k for k in ("size", "latency", right) if k in have]
    rows = []
    for row in summary.made(report):
        file = row.artifact and f"[{md(row.artifact.path)}]({quote(row.artifact.path)})"
        note = f"[usage/{md(row.target)}.md](usage/{quote(row.target)}.md)"
        status = "" if row.status == "ok" else full.STATUS.get(row.status, md(row.status))
        rows.append([md(row.target), file or "", *(
            md(summary.cell(report, row, k).main) for k in keys),
            note if row.target in notes else "", status])
    head = ["Target", "File", *(md(summary.column_title(report, k)) for k in keys), "How to run it",
            "Status"]
    return full._md_table(head, rows)


def _measured(report: Report) -> str:
    cpu, cores = (report.environment.get(k) for k in ("cpu", "cores"))
    told = (f"Latency: p50 by each file's own runtime, on {md(cpu)} with {cores} cores, not on a "
            "device of yours. " if cpu and "latency" in summary.columns(report) else "")
    return (f"{told}How it was measured, and all other figures: [report.html](report.html), "
            "[report.json](report.json).")


def _data(report: Report) -> str:
    data = report.data
    if data.get("kind") in (None, "none"):
        return "None: nothing was calibrated or compared."
    used = [f"{data[k]} {what}" for k, what in (
        ("calibration", "samples calibrated"), ("evaluated", "others judged")) if data.get(k)]
    labels = "with labels" if data.get("labels") else "without labels"
    notes = "".join(f"\n- {md(n)}" for n in data.get("notes") or ())
    norm = f" Normalization: {md(data['normalize'])}." if data.get("normalize") else ""
    name = md(Path(str(data.get("spec"))).name)
    return f"{name} ({md(data['kind'])}, {labels}): {'; '.join(used)}.{norm}\n{notes}".strip()


def _how(report: Report) -> str:
    parts = []
    if report.command:
        fence = "`" * max(3, 1 + max((len(run) for run in report.command.split() if
                                      set(run) == {"`"}), default=0))
        parts.append(f"{fence}sh\n{words.clean(report.command)}\n{fence}")
    versions = report.environment.get("versions") or {}
    listed = ", ".join(f"{md(k)} {md(v)}" for k, v in versions.items() if v)
    digest = report.source.get("sha256")
    parts.append((f"SHA-256 of the source model: `{md(digest)}`. " if digest else "")
                 + "`manifest.json` has that of each file." + (f" Made with {listed}."
                                                              if listed else ""))
    return "\n\n".join(parts)


def _limits(report: Report) -> list[str]:
    found = []
    if report.data.get("random"):
        found.append("**Random data**: accuracy, SNR and agreement say nothing of real inputs.")
    if report.data.get("kind") in (None, "none"):
        found.append("No data: whether the files compute what the model does was not measured.")
    for row in summary.made(report):
        name = md(row.target)
        if row.error:
            found.append(f"{name}: {md(words.error_text(row))}")
        if row.fallbacks:
            kept = ", ".join(f"{md(f.get('op', ''))} in {md(f.get('precision', ''))}"
                             for f in row.fallbacks[:5])
            more = f" and {len(row.fallbacks) - 5} more" if len(row.fallbacks) > 5 else ""
            found.append(f"{name}: kept in a wider type: {kept}{more}")
        found += [f"{name}: {md(f.get('text', ''))}" for f in row.findings
                  if f.get("level") in ("warning", "error")]
    found += [f"Not measured: {md(line)}" for line in summary.missing(report)]
    return found or ["None was found by the run; what the model itself is good for, it does not "
                     "say."]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
