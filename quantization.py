"""The quantization step of a run: one float file to a file per target, in a child process."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from . import data, store
from .benchmark import runtimes
from .child import Child, ChildDied
from .errors import TfcompressError, UsageError, from_dict
from .steps import Steps
from .targets import SUFFIXES, Target

if TYPE_CHECKING:
    from .pipeline import Made


class Quantization:
    """Targets made from one float file. Calibrated once; a crash loses only its own target."""

    def __init__(self, run: Steps, targets: list[Target], child: Child):
        self.run, self.targets, self.child = run, targets, child
        self.suffix = SUFFIXES[targets[0].format]
        self.made: dict[str, tuple[Path, dict]] = {}
        self.failed: dict[str, TfcompressError] = {}
        self._results: dict[str, dict] = {}
        self.learned: Path | None = None
        self.ready: Path | None = None
        self._alone: str | None = None

    def make(self, given: Made, float_file: Path) -> Quantization:
        """Fill `made` (path and step record by target) and `failed` (error by target)."""
        info = given.info
        self.learned = learned_of(float_file)
        ready = given.trained and given.trained / "int8.tflite"
        self.ready = ready if ready and ready.is_file() and self.suffix == ".tflite" else None
        samples = given.sampled / "calibration" if given.sampled else None
        digest_in = store.file_digest(float_file)
        labels = self._labels(info)
        for target in self.targets:
            config = {
                "target": target.to_dict(),
                "samples": samples and store.file_digest(samples),
                "learned": self.learned and store.file_digest(self.learned),
                "ready": self.ready and store.file_digest(self.ready),
                "strict": self.run.options.strict,
                "labels": labels,
                "normalize": self.run.options.normalize,
                "seed": self.run.options.seed,
                "trim": self.run.options.trim,
                "sparse": self.run.options.sparse,
                "int4": self.int4,
                **({"there": runtimes.there("onnxruntime")} if self.suffix == ".onnx" else {}),
            }
            try:
                folder = self.run.step(
                    "quantize",
                    config,
                    digest_in,
                    functools.partial(self._file, target, float_file, samples, info, labels),
                )
            except TfcompressError as error:
                self.failed[target.name] = error
                continue
            record = store.read_json(folder / "step.json")
            self.made[target.name] = folder / f"{target.name}{self.suffix}", record
        return self

    def _file(self, target: Target, float_file, samples, info, labels, place: Path) -> dict:
        file = place / f"{target.name}{self.suffix}"
        if self.ready and target.quantization == "int8":
            told = {"from": str(self.ready), "path": str(file)} | self._about(target, labels)
            made = self.child.call("filing:adopt", told)
            return made | {"digest_out": store.file_digest(file)}
        while target.name not in self._results:
            if target.name in self.failed:
                raise self.failed[target.name]
            self._call(float_file, samples, info, labels)
        result = dict(self._results[target.name])
        if "error" in result:
            raise from_dict(result["error"])
        shutil.move(result.pop("path"), file)
        return result | {"digest_out": store.file_digest(file)}

    def _call(self, float_file, samples, info, labels) -> None:
        """One call for every target that has no result yet.

        When the process dies, the target it was at is tried once more, alone and with every
        attempt in a process of its own; if that dies too, it has failed.
        """
        done = self.made | self.failed | self._results
        waiting = [t for t in self.targets if t.name not in done]
        if self._alone:
            waiting = [t for t in waiting if t.name == self._alone]
        current = [waiting[0].name]

        def watch(fraction, text):
            if text.startswith("target:"):
                current[0] = text = text.removeprefix("target:")
            self.run.event("quantize", fraction, text)

        try:
            self._results |= self.child.call(
                "filing:quantize",
                {
                    "float": str(float_file),
                    "samples": samples and str(samples),
                    "learned": self.learned and str(self.learned),
                    "targets": [t.to_dict() for t in waiting],
                    "out": tempfile.mkdtemp(dir=self.run.scratch),
                    "names": names(info),
                    "strict": self.run.options.strict,
                    "isolate": self._alone is not None,
                    "seed": self.run.options.seed,
                    "int4": self.int4,
                    **self._about(None, labels),
                },
                watch,
            )["targets"]
        except ChildDied as error:
            self.child = self.run.child("quantization")
            if self._alone:
                self.failed[current[0]] = error
            self._alone = None if self._alone else current[0]
        else:
            self._alone = None

    def _about(self, target: Target | None, labels: list[str] | None) -> dict:
        """What is embedded in the files."""
        mean_std = data.NORMALIZATIONS.get(self.run.options.normalize or "")
        return {
            "labels": labels,
            "trim": self.run.options.trim,
            "sparse": self.run.options.sparse,
            "normalization": mean_std and {"mean": list(mean_std[0]), "std": list(mean_std[1])},
            "provenance": {
                "source_sha256": self.run.model_digest,
                "versions": self.run.versions,
                "samples": self.run.options.samples,
                "seed": self.run.options.seed,
                **({"target": target.name} if target else {}),
            },
        }

    @property
    def int4(self) -> bool:
        """Whether QAT has left 15 levels in the weights."""
        stages = self.run.recipe.stages if self.run.recipe else ()
        return any(getattr(stage, "weight_bits", 8) == 4 for stage in stages)

    def _labels(self, info: dict) -> list[str] | None:
        if not self.run.options.labels:
            return info.get("classes") or None
        found = read_labels(self.run.options.labels)
        sizes = {s["shape"][-1] for s in info["outputs"] if s["shape"]}
        if len(found) not in sizes:
            raise UsageError(
                f"{self.run.options.labels} has {len(found)} labels; the model's outputs have "
                f"{', '.join(map(str, sizes))} classes",
                "give one label per line, in the order of the classes",
            )
        return found


def learned_of(float_file: Path | None) -> Path | None:
    """The same file with learned roundings in it, which stands beside it after QAT."""
    path = float_file and float_file.with_name(float_file.name.replace("float", "learned"))
    return path if path and path.is_file() and path != float_file else None


def read_labels(path: str) -> list[str]:
    """The lines of a label file.

    Raises:
        UsageError: There is no such file, or it is not text.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(
            f"cannot read the label file {path}: {why}", "give a text file, one label per line"
        ) from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def names(info: dict) -> dict:
    """The names of a model's inputs and outputs, in its order."""
    return {key: [s["name"] for s in info[key]] for key in ("inputs", "outputs")}
