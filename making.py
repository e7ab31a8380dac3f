"""Making: every artifact of a run, from one source model, in processes of their own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from . import data, store
from .errors import TfcompressError
from .export import compilers
from .quantization import Quantization, learned_of, names
from .source import Source
from .steps import Steps
from .targets import Target

MACS_TO_JUDGE = 200_000_000_000  # held-back samples are as many as fit into this much work
FEWEST, MOST = 200, data.MOST_HELD_BACK


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


class Maker:
    """What makes the artifacts of a run."""

    def __init__(self, steps: Steps):
        self.steps, self.options, self.targets = steps, steps.options, steps.targets
        self.source = Source(steps)

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
        for target in (*tflite, *onnx):
            if target.compiler and target.name in made.files:
                try:
                    self.compile(target, made)
                except TfcompressError as error:
                    made.failed[target.name] = error
        if made.judged:
            for name, file in made.learned.items():
                if name in made.files:
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

        config = {"target": target.to_dict(), "there": compilers.there(target.compiler)}
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


def _groups(targets: list[Target]) -> list[list[Target]]:
    """Targets that are made from the same float .onnx."""
    found: dict[tuple, list[Target]] = {}
    for target in targets:
        found.setdefault((target.opset, target.batch), []).append(target)
    return list(found.values())
