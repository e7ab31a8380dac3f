"""`tfcompress check`: finished artifacts against committed limits and a committed baseline.

Nothing is trained or converted, and TensorFlow is not needed: sizes are read off the files, what
was measured on data comes from the run's `report.json`, and latency is measured anew, the
candidate beside the baseline's artifact.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import filing, output, store, targets
from .artifact import Report, Row
from .benchmark import gate, gate_formats, gate_limits, growth, latency, runtimes
from .benchmark import report as reports
from .benchmark.gate import Check
from .benchmark.gate_limits import MEASURES, Config
from .errors import OutputError, QualityError, TfcompressError, UsageError, meant

VERSION = 1
RUNTIMES = {"tflite": "litert", "onnx": "onnxruntime"}  # of files that no target's report names
SUFFIXES = {".tflite": "tflite", ".onnx": "onnx", ".keras": "keras"}
KEPT = ("tensor", "layer", "dtype", "shape", "bytes")  # of a tensor, in the baseline
Listen = Callable[[str, float | None, str], None]


@dataclass(frozen=True)
class Candidate:
    """One target's artifact as it stands now: its file, its record, its line of the report."""

    target: str
    path: Path | None
    record: dict = field(default_factory=dict)
    row: Row | None = None
    error: str = ""


@dataclass(frozen=True)
class Result:
    """What a check came to; `error` is a `QualityError` where a limit is broken.

    `updated` is the baseline file where one was written, `findings` what the report says of each
    target's operations (for SARIF), `growth` what `growth.layers` found, by target.
    """

    config: Config
    checks: tuple[Check, ...] = ()
    findings: tuple[dict, ...] = ()
    growth: dict[str, list[dict]] = field(default_factory=dict)
    updated: Path | None = None

    @property
    def error(self) -> QualityError | None:
        broken = [c for c in self.checks if c.status == gate.FAILED]
        if not broken:
            return None
        told = "; ".join(f"{c.target}: {c.text}" for c in broken)
        return QualityError(told, "correct the model, or accept it as the new baseline: "
                            "tfcompress check --update")


def run(config: str | Path | None = None, *, update: bool = False, why: bool = False,
        on_event: Listen = lambda *_: None) -> Result:
    """Check the artifacts that `config` names, or (with `update`) make them the baseline.

    Args:
        config: A TOML file with `[check]`; default: `tfcompress.toml` or `pyproject.toml` here.
        update: Write the baseline file and check nothing.
        why: Say of each target that changed its size which layers did.
        on_event: Called with (stage, None, text).

    Raises:
        UsageError: The configuration, the baseline file or the artifacts' folder cannot be used.
        QualityError: `update` was asked for an artifact that its own run failed or rejected.
        OutputError: The baseline file cannot be written.
    """
    told = gate_limits.load(Path(config) if config else gate_limits.find(Path()))
    found = candidates(told)
    if update:
        return Result(told, updated=_update(told, found))
    before = read_baseline(told, [c.target for c in found])
    checks: list[Check] = []
    for one in found:
        checks += _check(told, one, before.get(one.target), on_event)
    gone = [t for t in before if _chosen(told, t) and t not in {c.target for c in found}]
    checks += [Check(t, "artifact", gate.FAILED, "it is in the baseline, and there is no artifact "
                     "of it now") for t in gone]
    grown = {c.target: _growth(c, before[c.target]) for c in found if c.target in before} if why \
        else {}
    return Result(told, tuple(checks), tuple(f for c in found for f in _findings(c)),
                  {target: entries for target, entries in grown.items() if entries})


def _chosen(config: Config, target: str) -> bool:
    return not config.only or target in config.only


def _check(config: Config, one: Candidate, before: dict | None, on_event: Listen) -> list[Check]:
    if one.error:
        return [Check(one.target, "artifact", gate.FAILED, one.error)]
    limits = config.limits_of(one.target)
    raced = {}
    if {"latency", "peak_memory"} & set(limits):
        raced = _race(config, one, before, limits, on_event)
    figures = gate.figures(one.record, before, raced)
    checks = [gate.check(one.target, k, limit, figures[k], k in config.require)
              for k, limit in limits.items()]
    return checks + [
        Check(one.target, k, gate.FAILED, f"{MEASURES[k].title} is required, and has no limit")
        for k in config.require if k not in limits]


def _growth(one: Candidate, before: dict) -> list[dict]:
    if one.error:
        return []
    old, new = before.get("tensors", []), one.record["tensors"]
    if not (old and new):  # of one side nothing is known: a folder, or an older baseline file
        old = new = []
    return growth.layers(old, new, (before["bytes"], one.record["bytes"]))


# ---- Candidates -----------------------------------------------------------------------------

def candidates(config: Config) -> list[Candidate]:
    """Every target's artifact, from the folder's report and from files named one by one.

    Raises:
        UsageError: The folder has no report, a file is not the one that the report is about, or
            nothing is left to check.
        ModelError: A file is damaged.
    """
    found = {}
    known = [name for name, place in config.targets.items() if place.artifact is not None]
    if config.artifacts is not None:
        report, folder = _report(config.artifacts)
        digests = _digests(folder)
        rows = [r for r in report.rows if r.target != "source" and r.target not in known]
        known += [r.target for r in rows]
        found = {r.target: _of_row(r, report, folder, digests) for r in rows
                 if _chosen(config, r.target)}
    for target, place in config.targets.items():
        if place.artifact is not None and _chosen(config, target):
            found[target] = _of_file(target, place.artifact)
    for target in (*config.only, *config.targets):
        if target not in known:
            raise UsageError(f"{config.file}: there is no artifact of {target!r}",
                             meant(target, known))
    if not found:
        raise UsageError(f"{config.file}: nothing to check", "name a folder with artifacts")
    return list(found.values())


def _report(place: Path) -> tuple[Report, Path]:
    if not place.exists():
        raise UsageError(f"no artifacts at {place}", "run tfcompress shrink first, with --output")
    return reports.read(place), place if place.is_dir() else place.parent


def _digests(folder: Path) -> dict[str, str]:
    try:
        files = store.read_json(folder / output.MANIFEST)["files"]
        return {name: entry["sha256"] for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _of_row(row: Row, report: Report, folder: Path, digests: dict[str, str]) -> Candidate:
    if row.status != "ok" or row.artifact is None:
        what = (row.error or {}).get("message", "no reason given")
        return Candidate(row.target, None, row=row, error=f"its own run says {row.status}: {what}")
    path = folder / row.artifact.path
    record = _sizes(path)
    for name, digest in digests.items():
        mine = name == row.artifact.path or name.startswith(f"{row.artifact.path}/")
        if mine and ((folder / name).is_file() and store.file_digest(folder / name)) != digest:
            raise UsageError(f"{folder / name} is not the file that its report is about: its "
                             "sha256 is another", "run tfcompress shrink again, or name it as "
                             "artifact = of its target")
    return Candidate(row.target, path, record | gate.record(row, report)
                     | {"format": row.artifact.format}, row)


def _of_file(target: str, path: Path) -> Candidate:
    kind = SUFFIXES.get(path.suffix, "folder" if path.is_dir() else "file")
    why = "its file was named without a report"
    return Candidate(target, path, _sizes(path) | {"format": kind, "why": why})


def _sizes(path: Path) -> dict:
    """What the files themselves say."""
    if not path.exists():
        raise UsageError(f"no artifact {path}", "run tfcompress shrink first, or correct the path")
    told = filing.describe({"path": str(path)}, lambda *_: None)
    by = {m["name"]: m["values"][0] for m in told["measurements"]}
    weights = filing.kernels(path) if path.suffix == ".onnx" else told["io"].get("tensors", [])
    tensors = [{k: t[k] for k in KEPT} for t in weights]
    return {"sha256": store.file_digest(path), "bytes": by["size"], "gzip": by["size_gzip"],
            "parameters": by.get("parameters"), "ops": told["io"].get("ops", {}),
            "tensors": tensors}


def _findings(one: Candidate) -> list[dict]:
    """What the report says of a target's operations, flat: `{"target", "kind", "level", ...}`."""
    if one.row is None:
        return []
    found = [{"target": one.target, "kind": "fallback", "level": "warning",
              "text": f"{f.get('op', 'an operation')} stays {f.get('precision', 'wider')}: "
                      f"{f.get('why', '')}", "layer": f.get("layer") or f.get("tensor") or ""}
             for f in one.row.fallbacks]
    found += [{"target": one.target, "kind": "finding", "level": f["level"],
               "text": "; ".join(t for t in (f["text"], f.get("advice")) if t), "layer": ""}
              for f in one.row.findings]
    if one.error:
        found.append({"target": one.target, "kind": "artifact", "level": "error",
                      "text": one.error, "layer": ""})
    return found


# ---- The baseline ---------------------------------------------------------------------------

def read_baseline(config: Config, targets: list[str]) -> dict[str, dict]:
    """The committed records by target; empty where there is no file and no limit needs it.

    Raises:
        UsageError: It is missing although a limit is relative to it, or cannot be read.
    """
    path = config.baseline_file
    if not path.exists():
        relative = [f"{k} = {limit.text!r}" for t in targets
                    for k, limit in config.limits_of(t).items() if limit.relative
                    and k != "latency"]
        if relative:
            raise UsageError(f"there is no baseline {path}, and {relative[0]} is relative to it",
                             "run tfcompress check --update, and commit the file that it writes")
        return {}
    try:
        record = store.read_json(path)
        if record["schema_version"] != VERSION:
            raise UsageError(f"{path} has schema version {record['schema_version']}, not {VERSION}",
                             "write it again: tfcompress check --update")
        found = record["targets"]
        for one in found.values():
            one["bytes"] + 0, one["sha256"] + ""
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is no baseline: {type(error).__name__} {error}",
                         "write it again: tfcompress check --update") from None


def _update(config: Config, found: list[Candidate]) -> Path:
    for one in found:
        if one.error:
            raise QualityError(f"{one.target} is no baseline: {one.error}",
                               "make it right first, or leave it out with only = [...]")
    records = {c.target: {k: v for k, v in c.record.items() if v is not None and k != "why"}
               for c in found}
    _write(config.baseline_file, baseline_text(records))
    return config.baseline_file


def baseline_text(records: dict[str, dict]) -> str:
    """The baseline file: a line for each field and each tensor, so that its changes read well."""
    def lines(value, depth: int) -> str:
        pad = " " * depth
        if isinstance(value, dict) and value and depth < 4:
            inside = [f"{pad} {json.dumps(k)}: {lines(v, depth + 1)}"
                      for k, v in sorted(value.items())]
            return "{\n" + ",\n".join(inside) + f"\n{pad}}}"
        if isinstance(value, list) and value and isinstance(value[0], dict):
            inside = [f"{pad} {json.dumps(v, sort_keys=True)}" for v in value]
            return "[\n" + ",\n".join(inside) + f"\n{pad}]"
        return json.dumps(value, sort_keys=True)

    return lines({"schema_version": VERSION, "targets": records}, 0) + "\n"


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    beside = None
    try:
        handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(beside, 0o666 & ~umask)
        os.replace(beside, path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}",
                          "check the folder and its free space") from None
    finally:
        if beside:
            Path(beside).unlink(missing_ok=True)


# ---- Latency --------------------------------------------------------------------------------

def _race(config: Config, one: Candidate, before: dict | None, limits: dict,
          on_event: Listen) -> dict:
    """`latency` and `peak_memory` of candidate and baseline artifact, run side by side."""
    same = gate.Figure(1.0, base=1.0, note="the file is the baseline's, to the last bit")
    if before and before["sha256"] == one.record["sha256"]:
        return {"latency": same}
    other, why = _earlier(config, one.target)
    runtime = _runtime(one)
    if not runtime:
        why = "only files that LiteRT or ONNX Runtime runs are measured here"
    if why:
        return {"latency": gate.Figure(why=why)}
    digest = store.file_digest(other)
    if digest == one.record["sha256"]:
        return {"latency": same}
    stale = before is not None and before["sha256"] != digest
    found = _rounds(config, one, other, runtime, limits, on_event)
    if stale and "latency" in found:
        note = f"{found['latency'].note}; {other} is not the artifact that the baseline file is of"
        found["latency"] = replace(found["latency"], note=note)
    return found


def _rounds(config: Config, one: Candidate, other: Path, runtime: str, limits: dict,
            on_event: Listen) -> dict:
    """Run both in new processes, round after round; as often again where that cannot tell."""
    rounds: list[dict] = []
    artifacts = [{"name": "baseline", "path": str(other), "runtime": runtime},
                 {"name": "candidate", "path": str(one.path), "runtime": runtime}]
    while len(rounds) < 2 * config.rounds:
        on_event("measure", None, f"{one.target}, round {len(rounds) + 1}")
        artifacts.reverse()  # neither is always the first to start
        rounds.append(latency.measure(artifacts, threads=[1], seconds=config.seconds,
                                      seed=len(rounds)))
        if gate.unmeasured(rounds[-1]):
            break
        if len(rounds) == config.rounds:
            found = gate.raced(rounds)
            judged = [gate.check(one.target, k, limits[k], found[k]) for k in found if k in limits]
            if not [c for c in judged if c.status == gate.INCONCLUSIVE]:
                return found
    return gate.raced(rounds)


def _runtime(one: Candidate) -> str | None:
    """What runs the artifact without TensorFlow and without a browser; None for nothing."""
    if one.path.is_dir():
        return None
    try:
        named = targets.load(one.target).runtime
    except UsageError:  # a target of the user's own
        return RUNTIMES.get(one.record["format"])
    light = named.startswith(("litert", "onnxruntime")) and named not in runtimes.PAGES
    return named if light else None


def _earlier(config: Config, target: str) -> tuple[Path | None, str]:
    """The baseline's own artifact of a target, or why there is none."""
    own = config.targets.get(target, gate_limits.Place()).baseline
    if own is not None:
        return (own, "") if own.is_file() else (None, f"there is no file {own}")
    if config.baseline is None:
        return None, "no baseline artifact is named (baseline = an earlier output folder)"
    if config.baseline.is_file() and config.baseline.suffix in SUFFIXES:
        return config.baseline, ""
    try:
        report, folder = _report(config.baseline)
    except TfcompressError as error:
        return None, error.message
    for row in report.rows:
        if row.target == target and row.artifact and (folder / row.artifact.path).is_file():
            return folder / row.artifact.path, ""
    return None, f"{config.baseline} has no artifact of {target}"


# ---- Output ---------------------------------------------------------------------------------

def render(result: Result, form: str, width: int = 100, color: bool = False) -> str:
    """The result as text in one of `gate_formats.FORMATS`."""
    file = result.config.file  # machines look for it from the root of the repository
    if file.is_absolute() and file.is_relative_to(Path.cwd()):
        file = file.relative_to(Path.cwd())
    return gate_formats.FORMATS[form](gate_formats.Told(
        result.checks, result.findings, result.growth, file, width, color))


def save(text: str, path: str | Path) -> None:
    """Write a rendered result, whole or not at all; its folder is made where there is none.

    Raises:
        OutputError: It cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {path.parent}: {error.strerror or error}",
                          "check the path and its permissions") from None
    _write(path, text)


def summarize(result: Result) -> None:
    """Add the result to the step summary of GitHub Actions, where there is one."""
    if place := os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(place, "a", encoding="utf-8") as file:
            file.write(render(result, "markdown"))
