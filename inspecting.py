"""The order of things of `tfcompress inspect`: what a model consists of, what targets make of it,
and, with data, how much each layer hurts when it alone is changed.

Nothing is trained and no artifact is made. The model is read and converted as `shrink` does it,
and these steps go into the same store: a later `shrink` finds the float file made. `outline` and
`measure` are called in the model's process.
"""

from __future__ import annotations

import dataclasses
import datetime
import time
from dataclasses import dataclass
from pathlib import Path

from . import __version__, output, pipeline, store, targets
from .benchmark import environment, inspection
from .benchmark.inspection import Inspection
from .child import ChildDied, Progress
from .errors import TfcompressError, UsageError
from .source import Source
from .steps import Event, Options, Steps
from .targets import Target

SAMPLES = 64
SECONDS = 120.0  # for measuring; fewer samples are taken where all would need longer


@dataclass(frozen=True)
class Result:
    """What `inspect` returns; it prints as the command's tables and shows as HTML in a notebook."""

    inspection: Inspection
    folder: Path

    def __str__(self) -> str:
        return inspection.table(self.inspection, width=100)

    def _repr_html_(self) -> str:
        return inspection.html(self.inspection)


def run(options: Options, on_event: Event | None = None, samples: int | None = None) -> Result:
    """Look into a model and write `inspect.json` and `inspect.html`.

    Args:
        options: Those of `shrink`; what is about artifacts is not used. `targets` may be empty.
        on_event: Called with (stage, fraction or None, text) as work goes on.
        samples: Samples to measure on, all of them however long it takes; None takes 64, or as
            many as can be measured in two minutes.

    Raises:
        TfcompressError: The model, the data or the output folder are not usable, or a target's
            name is unknown. What a target cannot run is no error.
    """
    start = time.perf_counter()
    options = dataclasses.replace(options, samples=SAMPLES if samples is None else samples)
    chosen = _targets(options)
    folder = Path(options.output or f"{Path(options.model).stem}-inspect").absolute()
    pipeline.check(options, [])
    output.check(folder)
    seconds = SECONDS if samples is None else None
    cpu = environment.describe()["cpu"]
    with Steps(options, chosen, on_event or (lambda *_: None), cpu) as steps:
        made = _Run(steps, seconds).everything()
        found = Inspection(
            **made,
            command=options.command,
            version=__version__,
            seconds=round(time.perf_counter() - start, 1),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        _write(folder, steps, found)
        steps.store.prune()
    return Result(found, folder)


def _targets(options: Options) -> list[Target]:
    chosen: dict[str, Target] = {}
    for name in dict.fromkeys(options.targets):
        target = targets.load(name)
        if target.name in chosen:
            raise UsageError(f"two targets are called {target.name!r}", "rename one of the files")
        chosen[target.name] = target
    return list(chosen.values())


def _write(folder: Path, steps: Steps, found: Inspection) -> None:
    output.write(
        folder,
        lambda work: inspection.write(found, work),
        {
            "key": steps.key,
            "source": {"path": steps.options.model, "sha256": steps.model_digest},
            "versions": steps.versions,
            "created": found.created,
            "tool": {"name": "tfcompress", "version": __version__},
        },
    )


class _Run:
    """The order of one inspection."""

    def __init__(self, steps: Steps, seconds: float | None):
        self.steps, self.options, self.seconds = steps, steps.options, seconds
        self.source = Source(steps)

    def everything(self) -> dict:
        """The fields of an `Inspection` that are about the model."""
        info = self.source.info
        layers = self.outline()
        sampled = self.source.sampled()
        float_file = failure = None
        try:
            float_file, _ = self.source.converted(None)
        except TfcompressError as error:
            failure = error
        measured, why = self.measured(info, sampled)
        self.source.close()
        told = self.preflight(float_file, layers) if float_file else {}
        made = inspection.assemble(layers, told, info)
        return made | {
            "source": {
                "path": self.options.model,
                "sha256": self.steps.model_digest,
                "format": info["kind"],
                **info,
            },
            "rewrites": info.get("rewrites", []),
            "targets": [self.verdict(t, told, failure, info) for t in self.steps.targets],
            "data": self.data_record(sampled),
            "sensitivity": measured,
            "notes": [*([why] if why else []),
                      *([f"No TFLite file can be made: {failure.message}"] if failure else [])],
        }

    def outline(self) -> list[dict]:
        folder = self.steps.step(
            "outline", {}, self.steps.model_digest,
            lambda _: self.source.call("inspecting:outline", {}, "read model"))
        return store.read_json(folder / "step.json")["layers"]

    def measured(self, info: dict, sampled: Path | None) -> tuple[dict | None, str]:
        """The sensitivities, or why there are none."""
        if not sampled:
            return None, "Sensitivity was not measured: it needs data (--data)."
        if info["kind"] != "keras3":
            return None, (f"Sensitivity was not measured: a {info['kind']} model has no layers "
                          "that can be changed one by one; give the .keras file it was made from.")
        config = {"metric": self.options.metric, "seconds": self.seconds}

        def make(_: Path) -> dict:
            told = config | {"samples": str(sampled / "calibration")}
            return self.source.call("inspecting:measure", told, "measure layers")

        digest_in = store.digest(self.steps.model_digest, self.steps.digest(sampled))
        try:
            folder = self.steps.step("sensitivity", config, digest_in, make)
        except ChildDied as error:
            return None, f"Sensitivity was not measured: {error.message}."
        return store.read_json(folder / "step.json"), ""

    def preflight(self, float_file: Path, layers: list[dict]) -> dict:
        records = [t.to_dict() for t in self.steps.targets if t.format == "tflite"]

        def make(_: Path) -> dict:
            told = {"float": str(float_file), "targets": records, "layers": layers}
            with self.steps.child("preflight") as child:
                return child.call("preflight:run", told, self.steps.progress("check targets"))

        digest_in = store.digest(store.file_digest(float_file), layers)
        folder = self.steps.step("preflight", {"targets": records}, digest_in, make)
        return store.read_json(folder / "step.json")

    def verdict(self, target: Target, told: dict, failure: TfcompressError | None,
                info: dict) -> dict:
        """What one target makes of the model."""
        about = {"name": target.name, "summary": target.summary}
        if target.format == "tflite" and failure:
            return about | _refused(failure.message, failure.hint)
        if target.format == "tflite":
            return about | told["targets"][target.name]
        if target.format == "keras" and info["kind"] != "keras3":
            return about | _refused(f"a {info['kind']} model cannot be written as a Keras 3 file",
                                    "use --target saved-model")
        if target.format in ("keras", "saved-model"):
            return about | {"runs": "yes", "bytes": None, "problems": []}
        return about | {"runs": "unknown", "bytes": None, "problems": [_problem(
            "info", "what it cannot run shows when the file is made",
            f"tfcompress shrink --target {target.name} makes and runs it")]}

    def data_record(self, sampled: Path | None) -> dict:
        if not sampled:
            return {}
        told = store.read_json(sampled / "step.json")
        return {k: v for k, v in told.items() if k not in ("seconds", "digest_out", "held_back")}


def _problem(level: str, what: str, advice: str) -> dict:
    return {"level": level, "op": "", "count": 0, "layers": [], "what": what, "advice": advice}


def _refused(what: str, advice: str) -> dict:
    return {"runs": "no", "bytes": None, "problems": [_problem("error", what, advice)]}


# In the model's process --------------------------------------------------------------------


def outline(payload: dict, progress: Progress) -> dict:
    """The model's layers (see `compress.outline`)."""
    from .compress import outline as parts
    from .worker import state

    progress(None, "looking at the layers")
    return {"layers": parts.layers(state["loaded"])}


def measure(payload: dict, progress: Progress) -> dict:
    """Every layer changed by itself (see `compress.sensitivity`)."""
    import numpy as np

    from .benchmark import change
    from .compress import sensitivity
    from .worker import open_samples, run_model, state

    folder = Path(payload["samples"])
    arrays = [np.asarray(a) for a in open_samples(folder)]
    labels = folder / "labels.npy"
    judge = change.judge(np.load(labels) if labels.is_file() else None, payload["metric"])
    progress(None, "running the model as it is")
    run_model(arrays)  # data that the model cannot take are an error of their own
    return sensitivity.measure(
        state["loaded"], arrays, judge, progress, payload["seconds"] or float("inf")
    )
