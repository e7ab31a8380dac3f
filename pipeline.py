"""The one file that knows the order of things: a model in, artifacts and a report out.

Nothing heavy is imported here. The source model lives in one child process with TensorFlow
(source.py), quantizing in another without it (quantization.py), each artifact is judged in a
process of its own, and every finished step goes into the store (steps.py).
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import __version__, data, output, store, targets
from .artifact import Artifact, Measurement, Report, Row
from .benchmark import environment, latency, picks, runtimes, shrinking, verdict
from .benchmark.tasks import METRICS
from .child import Child, ChildDied
from .compress.models import scan
from .errors import DataError, ModelError, TfcompressError, UsageError
from .export import explorer, usage
from .quantization import Quantization, learned_of, names, read_labels
from .source import Source
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
    steps = Steps(options, chosen, on_event or (lambda *_: None), environment_now["cpu"])
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


@dataclass
class Made:
    """What a run has made so far.

    Attributes:
        info: What the source model is.
        sampled: The folder of the data; None without data.
        eight_bit: The targets whose activations are rounded to 8 bits.
        timed: The source model's latency.
        trained: The folder of what the recipe made of the model; None without a recipe.
        float_file: The float .tflite from which the others are made.
        float_files: The float .onnx by target.
        judged: The folder of the source model's outputs on the held-back samples.
        expected: The same of the trained model.
        rounded: By target, the same of the trained model with its learned roundings.
        files: Path and step record by target: what is run, judged and measured.
        shipped: By target, what goes into the output folder where that is something else.
        inside: By target, what `export.explorer` read in a .tflite file.
        failed: The error by target.
    """

    info: dict
    sampled: Path | None = None
    eight_bit: tuple[str, ...] = ()
    timed: list[dict] = field(default_factory=list)
    trained: Path | None = None
    float_file: Path | None = None
    float_files: dict[str, Path] = field(default_factory=dict)
    judged: Path | None = None
    expected: Path | None = None
    rounded: dict[str, Path] = field(default_factory=dict)
    files: dict[str, tuple[Path, dict]] = field(default_factory=dict)
    shipped: dict[str, list[Path]] = field(default_factory=dict)
    inside: dict[str, dict] = field(default_factory=dict)
    failed: dict[str, TfcompressError] = field(default_factory=dict)

    def paths(self, target: str) -> list[Path]:
        """What goes into the output folder for a target, the artifact itself first."""
        return self.shipped.get(target) or [self.files[target][0]]

    @property
    def learned(self) -> dict[str, Path]:
        """By target of 8-bit activations, the float file with learned roundings after QAT."""
        sources = {t: self.float_files.get(t) or self.float_file for t in self.eight_bit}
        return {t: f for t, source in sources.items() if (f := learned_of(source))}

    def expected_of(self, target: Target) -> Path | None:
        """What an artifact's outputs should be, where training has changed them."""
        return self.rounded.get(target.name) or self.expected

    def training(self) -> dict | None:
        """The report's account of the training."""
        if not self.trained:
            return None
        told = store.read_json(self.trained / "step.json")
        return {k: v for k, v in told.items() if k not in ("converted", "died", "digest_out")}


class _Run:
    """The order of one run."""

    def __init__(self, steps: Steps):
        self.steps, self.options, self.targets = steps, steps.options, steps.targets
        self.source = Source(steps)

    def everything(self, start: float, environment_now: dict) -> tuple[Report, Made]:
        try:
            with ThreadPoolExecutor(2) as pool:
                made = self.make(pool)
                rows = self.judge(pool, made)
        except BaseException:
            self.steps.close()  # so that the pool's threads, which wait for children, end
            raise
        info, sampled = made.info, made.sampled
        whole = {row.target for row in rows if row.status == "ok"}
        speeds = self.measure({k: v for k, v in made.files.items() if k in whole}, sampled)
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

    def make(self, pool: ThreadPoolExecutor) -> Made:
        """Every artifact. Quantizing overlaps with running the source model."""
        tflite = [t for t in self.targets if t.format == "tflite"]
        onnx = [t for t in self.targets if t.format == "onnx"]
        others = [t for t in self.targets if t.format not in ("tflite", "onnx")]
        quantizing = macs = None
        if tflite:
            quantizer = self.steps.child("quantization")
            pool.submit(quantizer.call, "filing:warm", {"modules": ["compress.tflite.quantize"]})
        eight_bit = tuple(t.name for t in self.targets if t.quantization == "int8")
        made = Made(self.source.info, self.source.sampled(), eight_bit)
        sampled = made.sampled
        made.timed = self.source.timed(sampled)
        made.trained = trained = self.source.trained(sampled)
        if tflite:
            try:
                made.float_file, macs = self.source.converted(trained)
                quantization = Quantization(self.steps, tflite, quantizer)
                quantizing = pool.submit(quantization.make, made, made.float_file)
            except TfcompressError as error:
                made.failed |= {t.name: error for t in tflite}
        if sampled:
            rows = self.rows_to_judge(sampled, macs)
            made.judged = self.source.judged(sampled, rows)
            if trained:
                made.expected = self.source.judged(sampled, rows, trained)
        passes = [self.onnx(made, group) for group in _groups(onnx)]
        for target in others:
            try:
                path = self.source.exported(target, trained)
                made.files[target.name] = path, store.read_json(path.parent / "step.json")
            except TfcompressError as error:
                made.failed[target.name] = error
        self.source.close()
        if quantizing:
            passes.insert(0, quantizing.result())
        for done in filter(None, passes):
            made.files |= done.made
            made.failed |= done.failed
            done.child.close()
        for target in tflite:
            if target.compiler and target.name in made.files:
                try:
                    self.compile(target, made)
                except TfcompressError as error:
                    made.failed[target.name] = error
        if made.judged:
            for name, file in made.learned.items():
                made.rounded[name] = self.rounded(made, file)
        return made

    def onnx(self, made: Made, targets: list[Target]) -> Quantization | None:
        """ONNX files that share one float file; None where there is none."""
        first = targets[0]
        try:
            float_file = self.source.onnx(made.trained, first.opset, first.batch)
        except TfcompressError as error:
            made.failed |= {t.name: error for t in targets}
            return None
        made.float_files |= {t.name: float_file for t in targets}
        return Quantization(self.steps, targets, self.steps.child("quantization")).make(
            made, float_file
        )

    def compile(self, target: Target, made: Made) -> None:
        """What has to be done to a finished file for its accelerator, or for the web."""
        path, record = made.files[target.name]

        def run(place: Path) -> dict:
            with self.steps.child(f"{target.name} compiler") as child:
                asked = {"path": str(path), "out": str(place), "target": target.to_dict()}
                told = child.call(
                    "export.compilers:compile", asked, self.steps.progress("compile")
                )
                compiled = told.pop("path")
                if compiled and target.compiler != "web":
                    told["measurements"] += child.call("filing:sizes", {"path": compiled})[
                        "measurements"
                    ]
            paths = [compiled or str(path), *told.pop("files")]
            inside = [p.removeprefix(f"{place}/") for p in paths]
            return told | {"shipped": inside}

        config = {"target": target.to_dict()}
        folder = self.steps.step("compile", config, store.file_digest(path), run)
        told = store.read_json(folder / "step.json")
        made.shipped[target.name] = [folder / p for p in told["shipped"]]
        made.files[target.name] = path, record | {
            "compiled": told,
            "fallbacks": [*record.get("fallbacks", ()), *told["fallbacks"]],
        }

    def rounded(self, made: Made, learned: Path) -> Path:
        """The folder with the outputs of the model with its learned roundings."""
        rows = store.read_json(made.judged / "step.json")["rows"]

        def run(place: Path) -> dict:
            with self.steps.child("reference") as child:
                runtime = "onnxruntime" if learned.suffix == ".onnx" else "litert"
                asked = {"artifact": str(learned), "runtime": runtime, "start": 0,
                         "stop": rows, "names": names(made.info), "out": str(place),
                         "samples": str(made.sampled / "held_back")}
                child.call("benchmark.compare:outputs", asked)
            return {"rows": rows}

        digest_in = store.digest(store.file_digest(learned), self.steps.digest(made.sampled))
        return self.steps.step("reference", {"rows": rows}, digest_in, run)

    def rows_to_judge(self, sampled: Path, macs: int | None) -> int:
        there = store.read_json(sampled / "held_back" / "samples.json")["count"]
        fit = int(MACS_TO_JUDGE / macs) if macs else 1000
        return min(there, self.options.eval_samples or min(max(fit, FEWEST), MOST))

    def judge(self, pool: ThreadPoolExecutor, made: Made) -> list[Row]:
        """Each artifact compared with the source in a process of its own, two at a time."""
        # int16x8 takes longest by far: first, so that it is not what all wait for in the end.
        order = sorted(self.targets, key=lambda t: t.quantization != "int16x8")
        jobs = {t.name: pool.submit(self.row, t, made) for t in order if t.name in made.files}
        rows = []
        for target in self.targets:
            try:
                if target.name in made.failed:
                    raise made.failed[target.name]
                rows.append(jobs[target.name].result())
            except (DataError, UsageError):
                raise  # what is wrong with the data or the metric is so for every target
            except TfcompressError as error:
                rows.append(Row(target.name, "failed", error=error.to_dict()))
        return rows

    def row(self, target: Target, made: Made) -> Row:
        path, record = made.files[target.name]
        judged = made.judged
        float_file = made.float_file if target.format == "tflite" else None
        expected = made.expected_of(target)
        config = {
            "runtime": target.runtime,
            "metric": self.options.metric,
            "names": names(made.info),
            "limit": judged and store.read_json(judged / "step.json")["rows"],
            "reference": judged and self.steps.digest(judged),
            "expected": expected and self.steps.digest(expected),
            "backends": list(target.backends[1:]),
            "there": runtimes.there(target.runtime),
        }

        def judge(place: Path) -> dict:
            with self.steps.child(f"{target.name} comparison") as child:
                if target.runtime == "keras" and self.options.custom_objects:
                    child.call("worker:register", {"modules": list(self.options.custom_objects)})
                found = child.call("filing:describe", {"path": str(path)}) | {"findings": []}
                if path.suffix == ".tflite":
                    found["inside"] = child.call("export.explorer:read", {"path": str(path)})
                collapsed = False
                if judged:
                    told = child.call(
                        "benchmark.compare:run",
                        config
                        | {
                            "artifact": str(path),
                            "samples": str(made.sampled / "held_back"),
                            "reference": str(judged),
                            "expected": expected and str(expected),
                            "threads": 1,
                        },
                        self.steps.progress(f"judge {target.name}"),
                    )
                    found["measurements"] += told["measurements"]
                    found["findings"] += told["findings"]
                    found["io"] = told["io"] | found["io"]
                    collapsed = verdict.collapsed(told)
                if target.backends[1:]:
                    asked = {
                        "artifact": str(path),
                        "runtime": target.runtime,
                        "backends": target.backends[1:],
                        "names": names(made.info),
                        "samples": made.sampled and str(made.sampled / "held_back"),
                        "expected": judged and str(expected or judged),
                    }
                    progress = self.steps.progress(f"judge {target.name}")
                    told = child.call("benchmark.browser:others", asked, progress)
                    found["measurements"] += told["measurements"]
                if path.suffix in LAYERS:
                    told = self.layers(target, child, path, made, collapsed)
                    found["io"] |= {"layers": told["layers"], "layers_note": told["note"]}
                    found["findings"] += told["findings"] if collapsed else []
                return found

        folder = self.steps.step("judge", config, store.file_digest(path), judge)
        found = store.read_json(folder / "step.json")
        made_by = [path.parent]
        if source := float_file or made.float_files.get(target.name):
            made_by.insert(0, source.parent)
        if made.trained and made.trained not in made_by:
            made_by.insert(0, made.trained)
        notes = [{"level": "info", "text": n, "advice": ""} for n in record.get("notes", [])]
        compiled = record.get("compiled", {"measurements": [], "findings": []})
        first = made.paths(target.name)[0]
        if target.name in made.shipped:
            made_by.append(first.parent)
        made.inside[target.name] = found.get("inside", {})
        measured = {m["name"]: m for m in found["measurements"] + compiled["measurements"]}
        return Row(
            target.name,
            "ok",
            Artifact(
                f"{target.name}{first.suffix}",
                target.format,
                tuple(self.steps.records[str(f)] for f in made_by),
            ),
            tuple(Measurement.from_dict(m) for m in measured.values()),
            fallbacks=tuple(record.get("fallbacks", ())),
            findings=(*found["findings"], *compiled["findings"], *notes),
            io=found["io"] | ({"serving": s} if (s := record.get("serving")) else {}),
        )

    def layers(self, target: Target, child: Child, path: Path, made: Made, must: bool) -> dict:
        """What each layer costs, and where its values part from the float file's."""
        why = "nothing is rounded in it" if target.quantization == "none" else ""
        source = made.float_files.get(target.name) or made.float_file
        asked = {"artifact": str(path), "why": why, "must": must, "float": source and str(source),
                 "samples": made.sampled and str(made.sampled / "held_back")}
        try:
            told = child.call(LAYERS[path.suffix], asked)
        except ChildDied as death:  # keeping every tensor can be too much for a runtime
            with self.steps.child(f"{target.name} layers") as fresh:
                told = fresh.call(LAYERS[path.suffix], asked | {"why": death.message})
        located = path.suffix == ".tflite" and target.quantization != "none"
        if must and located and not told["findings"]:
            text = f"where the error begins was not measured: {told['note']}"
            told["findings"] = [{"level": "info", "text": text, "advice": ""}]
        return told

    def measure(self, made: dict, sampled: Path | None) -> dict[str, list[Measurement]]:
        """Latency and memory of all artifacts, interleaved."""
        artifacts = [
            {
                "name": t.name,
                "path": str(made[t.name][0]),
                "runtime": t.runtime,
                "samples": sampled and str(sampled / "held_back"),
                "custom_objects": list(self.options.custom_objects),
            }
            for t in self.targets
            if t.name in made and t.compiler in ("", "web")  # the others run elsewhere
        ]
        if not artifacts:
            return {}
        most = self.options.threads or min(os.cpu_count() or 1, 4)
        threads = [1, most] if most > 1 else [1]
        seconds = min(self.options.seconds, MEASURE_SECONDS / len(artifacts))
        config = {"threads": threads, "seconds": seconds, "cpu": self.steps.cpu,
                  "there": [runtimes.there(a["runtime"]) for a in artifacts]}
        digest_in = store.digest(
            sorted((a["name"], store.file_digest(a["path"])) for a in artifacts)
        )

        def measure(place: Path) -> dict:
            found = latency.measure(artifacts, threads, seconds, self.steps.progress("measure"))
            return {"found": {k: [m.to_dict() for m in v] for k, v in found.items()}}

        folder = self.steps.step("measure", config, digest_in, measure)
        found = store.read_json(folder / "step.json")["found"]
        return {k: [Measurement.from_dict(m) for m in v] for k, v in found.items()}

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


def _groups(targets: list[Target]) -> list[list[Target]]:
    """Targets that are made from the same float .onnx."""
    found: dict[tuple, list[Target]] = {}
    for target in targets:
        found.setdefault((target.opset, target.batch), []).append(target)
    return list(found.values())


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
