"""The one file that knows the order of things: a model in, artifacts and a report out.

Nothing heavy is imported here. What is made (making.py) is judged (judging.py). The source model
lives in one child process with TensorFlow (source.py), quantizing in another without it
(quantization.py), each artifact is judged in a process of its own, and every finished step goes
into the store (steps.py).
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import __version__, data, output, store, targets
from .artifact import Artifact, Measurement, Report, Row
from .benchmark import environment, picks, runtimes, shrinking, verdict
from .benchmark.tasks import METRICS
from .compress.models import scan
from .errors import DataError, ModelError, TfcompressError, UsageError
from .export import compilers, explorer, usage
from .judging import Judge
from .making import Made, Maker
from .quantization import read_labels
from .steps import Event, Options, Steps
from .targets import Target

MACS_TO_JUDGE = 200_000_000_000  # held-back samples are as many as fit into this much work
MEASURE_SECONDS = 8.0  # for all artifacts together
LAYERS = {".tflite": "benchmark.layers:run", ".onnx": "compress.onnx.layers:run"}
FEWEST, MOST = 200, data.MOST_HELD_BACK


@dataclass(frozen=True)
class Result:
    """What `shrink` returns: the report, the folder it is in, and what went wrong if anything did.

    It prints as the report's table, shows as HTML in a notebook, and `to_frame()` gives pandas.
    """

    report: Report
    folder: Path
    error: TfcompressError | None = None
    repeated: bool = False

    @property
    def rows(self) -> tuple[Row, ...]:
        return self.report.rows

    def artifact(self, target: str) -> Path:
        """The path of the artifact made for `target`; KeyError if there is none."""
        for row in self.rows:
            if row.target == target and row.artifact:
                return self.folder / row.artifact.path
        raise KeyError(target)

    def __str__(self) -> str:
        from .benchmark import report

        return report.table(self.report, width=100, color=False)

    def _repr_html_(self) -> str:
        from .benchmark import report

        return report.html(self.report)

    def to_frame(self):
        """One row per target, one column per measurement (medians), as a pandas DataFrame."""
        import pandas

        rows = [
            {"target": r.target, "status": r.status} | {m.name: m.p50 for m in r.measurements}
            for r in self.rows
        ]
        return pandas.DataFrame(rows).set_index("target")


def shrink(
    model: Any,
    targets: Iterable[str] | str = ("tflite-int8",),
    data: Any = None,
    on_event: Event | None = None,
    **options: Any,
) -> Result:
    """Make every target's artifact from a Keras model, prove it, measure it and report.

    Args:
        model: A path (.keras, .h5, SavedModel folder), or a Keras model in memory.
        targets: Names from `tfcompress targets`, or paths of target files.
        data: What `--data` takes, or arrays: `x`, `(x, y)`, or a dict by input name with `y`.
        on_event: Called with (stage, fraction or None, text) as work goes on.
        **options: The other fields of `Options`, which are the command line's flags.

    Returns:
        A `Result`; `result.error` is set when a target failed or was rejected.

    Raises:
        TfcompressError: Bad input, or nothing could be made.
    """
    chosen = (targets,) if isinstance(targets, str) else tuple(targets)
    with tempfile.TemporaryDirectory(prefix="tfcompress-") as scratch:
        if data is not None and not isinstance(data, (str, Path)):
            data = _arrays(data, Path(scratch) / "data.npz")
        if not isinstance(model, (str, Path)):
            from .worker import save_model

            options.setdefault("output", f"{model.name}-tfcompress")
            model, modules = save_model(model, Path(scratch))
            options.setdefault("custom_objects", modules)
        if isinstance(options.get("custom_objects"), str):
            options["custom_objects"] = (options["custom_objects"],)
        try:
            told = Options(model=str(model), targets=chosen, data=data and str(data), **options)
        except TypeError as error:
            raise UsageError(
                str(error).replace("Options.__init__() ", "shrink() "),
                "see help(tfcompress.shrink)",
            ) from None
        try:
            return run(told, on_event)
        except TfcompressError as error:  # what was given in memory has no path
            for path, word in ((f"{scratch}/data.npz", "data"), (f"{scratch}/", "")):
                error.message = error.message.replace(path, word)
            error.args = (error.message,)
            raise


def _arrays(given: Any, path: Path) -> str:
    from .worker import save_arrays

    if isinstance(given, tuple) and len(given) == 2:
        given = (given[0] if isinstance(given[0], dict) else {"x": given[0]}) | {"y": given[1]}
    elif not isinstance(given, dict):
        given = {"x": given}
    save_arrays(str(path), given)
    return str(path)


def run(options: Options, on_event: Event | None = None) -> Result:
    """Make every target's artifact, judge and measure it, and write the output folder.

    Raises:
        TfcompressError: Nothing could be made. Failures of single targets are in `Result.error`.
    """
    start = time.perf_counter()
    chosen = _targets(options)
    folder = Path(options.output or f"{Path(options.model).stem}-tfcompress").absolute()
    check(options, chosen)
    output.check(folder)
    environment_now = environment.describe()
    there = [word for t in chosen for word in _there(t)]
    steps = Steps(options, chosen, on_event or (lambda *_: None), environment_now["cpu"], there)
    if not options.fresh and output.find(folder, steps.key):
        from .benchmark import report

        earlier = report.read(folder)
        return Result(earlier, folder, verdict.error(earlier.rows), repeated=True)
    with steps:
        finished, made = _Run(steps).everything(start, environment_now)
        steps.event("report", None, "writing the report")
        _write(folder, steps, finished, made)
        steps.store.prune()
    return Result(finished, folder, verdict.error(finished.rows))


def _targets(options: Options) -> list[Target]:
    chosen: list[Target] = []
    for name in dict.fromkeys(options.targets):
        target = targets.load(name)
        if options.io_dtype and target.quantization in ("int8", "int16x8"):
            target = dataclasses.replace(target, io_dtype=options.io_dtype)
        if target.name in [t.name for t in chosen]:
            raise UsageError(f"two targets are called {target.name!r}", "rename one of the files")
        if target.name == usage.FOLDER:
            raise UsageError(f"no target can be called {target.name!r}: a folder of the output is",
                             "rename the file")
        chosen.append(target)
    if not chosen:
        raise UsageError("no target given", f"known targets: {', '.join(targets.names())}")
    return chosen


def _there(target: Target) -> list[str]:
    """What this machine has for a target: what is installed later shall be used by the next run."""
    return [*runtimes.there(target.runtime), *compilers.there(target.compiler)]


def check(options: Options, chosen: list[Target]) -> None:
    """What can be found wrong before anything is loaded."""
    if not os.path.exists(options.model):
        raise ModelError(f"no model file {options.model}", "check the path")
    if options.chosen_recipe() and options.data is None:
        raise DataError(
            "training needs data",
            "give --data; labels are not needed: without them the original model is the teacher",
        )
    needy = [t.name for t in chosen if t.needs_data]
    if options.data is None and needy:
        raise DataError(
            f"{', '.join(needy)} needs representative data",
            "give --data FILE.npz (or a folder of images; random for a footprint only)",
        )
    for spec in filter(None, (options.data, options.eval_data)):
        data.check_spec(spec)
    if options.samples < 1 or (options.eval_samples is not None and options.eval_samples < 1):
        raise UsageError("the number of samples must be at least 1", "leave it out for the default")
    if options.normalize and options.normalize not in data.NORMALIZATIONS:
        raise UsageError(
            f"unknown normalization {options.normalize!r}",
            f"use one of: {', '.join(data.NORMALIZATIONS)}",
        )
    if options.metric and options.metric not in METRICS:
        raise UsageError(f"unknown metric {options.metric!r}", f"use one of: {', '.join(METRICS)}")
    if options.max_drop is not None and not 0 <= options.max_drop < math.inf:
        raise UsageError(f"--max-drop {options.max_drop} is no loss", "give 0 or more, e.g. 0.01")
    if options.seed < 0:
        raise UsageError(f"--seed {options.seed} is negative", "give 0 or more")
    if options.threads is not None and not 1 <= options.threads <= environment.cores():
        raise UsageError(f"--threads {options.threads} cannot be measured here",
                         f"give 1 to {environment.cores()}, the cores of this machine")
    if options.max_drop is not None and options.data in (None, "random"):
        raise UsageError("--max-drop needs real data to judge by", "give --data")
    if options.labels:
        read_labels(options.labels)
    scan.check(options.model, unsafe=options.unsafe_load)


class _Run:
    """The order of one run."""

    def __init__(self, steps: Steps):
        self.steps, self.options, self.targets = steps, steps.options, steps.targets

    def everything(self, start: float, environment_now: dict) -> tuple[Report, Made]:
        judge = Judge(self.steps)
        try:
            with ThreadPoolExecutor(2) as pool:
                made = Maker(self.steps).make(pool)
                rows = judge.judge(pool, made)
        except BaseException:
            self.steps.close()  # so that the pool's threads, which wait for children, end
            raise
        info, sampled = made.info, made.sampled
        whole = {row.target for row in rows if row.status == "ok"}
        speeds = judge.measure({k: v for k, v in made.files.items() if k in whole}, sampled)
        rows = [
            dataclasses.replace(r, measurements=(*r.measurements, *speeds.get(r.target, ())))
            for r in rows
        ]
        rows = [
            verdict.judge(r, t, self.options.max_drop, self.options.strict)
            for r, t in zip(rows, self.targets, strict=True)
        ]
        first = self.source_row(info, made.timed, rows)
        finished = picks.added(shrinking.explained(Report(
            source={
                "path": self.options.model,
                "sha256": self.steps.model_digest,
                "format": info["kind"],
                **info,
            },
            data=self.data_record(sampled, made.judged, rows),
            rows=(first, *map(verdict.without_before, rows)),
            recipe=self.recipe(),
            training=made.training(),
            environment=environment_now | {"versions": environment_now["versions"]
                                           | runtimes.versions(t.runtime for t in self.targets)},
            command=self.options.command,
            version=__version__,
            seconds=round(time.perf_counter() - start, 1),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )))
        return finished, made


    def source_row(self, info: dict, timed: list[dict], rows: list[Row]) -> Row:
        """The model as it came: its own size, latency in TensorFlow, and its metric."""

        def describe(place: Path) -> dict:
            with self.steps.child("size") as child:
                return child.call("filing:describe", {"path": os.path.abspath(self.options.model)})

        folder = self.steps.step("describe", {}, self.steps.model_digest, describe)
        records = store.read_json(folder / "step.json")["measurements"] + timed
        measurements = [Measurement.from_dict(m) for m in records]
        if spare := info["optimizer_bytes"]:
            note = "without the optimizer's state"
            whole = next(m for m in measurements if m.name == "size")
            measurements = [m for m in measurements if not m.name.startswith("size")]
            measurements.insert(0, Measurement("size", "bytes", (whole.values[0] - spare,), note))
        if info["parameters"] is not None:
            measurements.append(Measurement("parameters", "values", (info["parameters"],)))
        return Row(
            "source",
            "ok",
            Artifact(self.options.model, info["kind"], ()),
            (*measurements, *verdict.before(rows)),
            io={"inputs": info["inputs"], "outputs": info["outputs"]},
        )

    def data_record(self, sampled: Path | None, judged: Path | None, rows: list[Row]) -> dict:
        if not sampled:
            return {"kind": "none", "spec": None, "random": False, "labels": False, "notes": []}
        told = store.read_json(sampled / "step.json")
        told["evaluated"] = store.read_json(judged / "step.json")["rows"]
        told["metric"] = verdict.metric(rows)
        return {k: v for k, v in told.items() if k not in ("seconds", "digest_out")}

    def recipe(self) -> dict:
        """What was asked for, without what does not change the artifacts."""
        apart = ("command", "fresh", "output", "seconds", "targets")
        told = {
            k: v
            for k, v in dataclasses.asdict(self.options).items()
            if k not in apart and v not in (None, (), False)
        }
        if self.steps.recipe:
            told["recipe"] = self.steps.recipe.to_dict()
        return told | {"targets": [t.to_dict() for t in self.targets]}


def _explain(folder: Path, steps: Steps, row: Row, made: Made) -> None:
    """What an app developer needs beside an artifact, and overlays for Model Explorer."""
    target = next(t for t in steps.targets if t.name == row.target)
    file, first = made.files[row.target][0], made.paths(row.target)[0]
    inside = made.inside.get(row.target, {})
    same = first == file or first.is_dir()  # the file that was read, or a folder around it
    mean_std = data.NORMALIZATIONS.get(steps.options.normalize or "")
    labels = steps.options.labels
    known = {s["name"]: s["shape"] for side in ("inputs", "outputs") for s in made.info[side]}
    ends = {side: [t | {"shape": t["shape"] or known.get(t["name"], [])}  # TensorFlow.js tells none
                   for t in row.io[side]] for side in ("inputs", "outputs")}
    usage.write(folder, target.to_dict(), row.artifact.path, inside | ends | {
        "order": {side: [s["name"] for s in made.info[side]] for side in ("inputs", "outputs")},
        "normalization": mean_std and {"mean": list(mean_std[0]), "std": list(mean_std[1])},
        "labels": read_labels(labels) if labels else made.info.get("classes"),
        "serving": row.io.get("serving"),
        "status": row.status,
        "compiled": not same,
    })
    if inside and same:
        layers = [layer for f in row.findings for layer in f.get("layers", ())]
        explorer.write(folder, row.target, inside["graphs"], row.value("zeros") or 0.0, layers)


def _write(folder: Path, steps: Steps, finished: Report, made: Made) -> None:
    from .benchmark import card, report

    def fill(work: Path) -> None:
        for row in finished.rows:
            if row.target not in made.files or not row.artifact:
                continue
            first, *more = made.paths(row.target)
            names = [row.artifact.path, *(
                p.name if p.name.startswith(row.target) else f"{row.target}-{p.name}" for p in more
            )]
            for path, name in zip((first, *more), names, strict=True):
                copy = shutil.copytree if path.is_dir() else shutil.copyfile
                copy(path, work / name)
            _explain(work / usage.FOLDER, steps, row, made)
        report.write(finished, work)
        card.write(finished, work)

    output.write(
        folder,
        fill,
        {
            "key": steps.key,
            "source": {"path": steps.options.model, "sha256": steps.model_digest},
            "recipe": finished.recipe,
            "versions": steps.versions,
            "environment": finished.environment,
            "created": finished.created,
            "tool": {"name": "tfcompress", "version": __version__},
        },
    )
