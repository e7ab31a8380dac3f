"""The source model in its child process, started when a step first needs it."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING

from . import store
from .benchmark import runtimes
from .child import Child, ChildDied
from .errors import TargetError
from .targets import SUFFIXES, Target

if TYPE_CHECKING:
    from .steps import Steps


class Source:
    """What is asked of the source model; each answer is a step.

    `info` is what the model is: kind, inputs, outputs, parameters, notes, and, as they become
    known, `classes` and `rewrites`.
    """

    def __init__(self, run: Steps):
        self.run = run
        self._child: Child | None = None

    @functools.cached_property
    def info(self) -> dict:
        folder = self.run.step("read", {}, self.run.model_digest, lambda _: self._open())
        return store.read_json(folder / "step.json")

    def _open(self) -> dict:
        options = self.run.options
        self._child = self.run.child("model")
        return self._child.call(
            "worker:open_source",
            {
                "path": str(Path(options.model).absolute()),
                "unsafe": options.unsafe_load,
                "custom_objects": list(options.custom_objects),
                "input_shape": options.input_shape,
            },
            self.run.progress("read model"),
        )

    def call(self, function: str, payload: dict, stage: str) -> dict:
        if not self._child:
            self._open()
        try:
            return self._child.call(function, payload, self.run.progress(stage))
        except ChildDied:
            self._child = None
            raise

    def close(self) -> None:
        if self._child:
            self._child.close()

    def sampled(self) -> Path | None:
        """The data step's folder, with `calibration` and `held_back`; None without data."""
        options = self.run.options
        if options.data is None:
            return None
        told = {
            "samples": options.samples,
            "seed": options.seed,
            "normalize": options.normalize,
            "eval_spec": options.eval_data,
            **({"train": True} if self.run.recipe else {}),
        }
        digest_in = store.digest(self.run.data_digest, self.run.eval_digest)

        def make(place: Path) -> dict:
            found = self.call(
                "worker:prepare",
                {
                    "spec": options.data,
                    "out": str(place),
                    "options": told,
                    "vocabulary": self.info["vocabulary"],
                },
                "read data",
            )
            parts = ("calibration", "held_back", *(["train"] if self.run.recipe else []))
            digests = [store.file_digest(place / part) for part in parts]
            return found | {"digest_out": store.digest(digests)}

        folder = self.run.step("data", told, digest_in, make)
        self.info["classes"] = store.read_json(folder / "step.json")["classes"]
        return folder

    def timed(self, sampled: Path | None) -> list[dict]:
        if not sampled:
            return []
        config = {"seconds": self.run.options.seconds / 2, "cpu": self.run.cpu}
        folder = self.run.step(
            "time source",
            config,
            self.run.digest(sampled),
            lambda _: self.call(
                "worker:time_source", config | {"samples": str(sampled / "held_back")}, "read model"
            ),
        )
        return store.read_json(folder / "step.json")["measurements"]

    def trained(self, sampled: Path) -> Path | None:
        """The folder of the model that the recipe made, `model.keras`, and `step.json` about it.

        With learned ranges there are two files more: `float.tflite`, and `learned.tflite`, which
        is the same with the roundings in it.
        """
        if not self.run.recipe:
            return None
        onnx = {(t.opset, t.batch) for t in self.run.targets if t.format == "onnx"}
        config = {
            "recipe": self.run.recipe.to_dict(),
            "backend": self.run.options.backend,
            "seed": self.run.options.seed or self.run.recipe.training.seed,
            "onnx": sorted(onnx, key=str) if self.run.recipe.rounds else [],
        }
        if self.run.options.backend != "native":
            kinds = [t.io_dtype for t in self.run.targets if t.quantization == "int8"]
            config["io_dtype"] = next(iter(kinds), "float32")
        digest_in = store.digest(self.run.model_digest, self.run.digest(sampled))

        def make(place: Path) -> dict:
            with self.run.checkpoint(config, digest_in) as checkpoint:
                told = config | {"samples": str(sampled / "train"), "out": str(place),
                                 "checkpoint": str(checkpoint)}
                made = self._by_routes("worker:train", told, "train")
            return made | {"digest_out": store.file_digest(place / "model.keras")}

        return self.run.step("train", config, digest_in, make)

    def converted(self, trained: Path | None) -> tuple[Path, int | None]:
        """The float .tflite file and its MACs."""
        if trained and (trained / "float.tflite").is_file():
            record = store.read_json(trained / "step.json")
            self.info["rewrites"] = record["converted"]["rewrites"]
            return trained / "float.tflite", record["converted"]["macs"]

        def make(place: Path) -> dict:
            told = {"out": str(place / "float.tflite"), **self._which(trained)}
            made = self._by_routes("worker:convert", told, "convert")
            return made | {"digest_out": store.file_digest(place / "float.tflite")}

        folder = self.run.step("convert", {}, self._digest(trained), make)
        record = store.read_json(folder / "step.json")
        self.info["rewrites"] = record.get("rewrites", [])
        return folder / "float.tflite", record.get("macs")

    def onnx(self, trained: Path | None, opset: int | None, batch: int | None) -> Path:
        """The float .onnx file."""
        config = {"opset": opset, "batch": batch, "there": runtimes.there("onnxruntime")}
        if trained and (made := trained / f"float-{opset}-{batch}.onnx").is_file():
            return made

        def make(place: Path) -> dict:
            told = config | {"out": str(place / "float.onnx"), **self._which(trained)}
            made = self._by_routes("worker:convert_onnx", told, "convert")
            return made | {"digest_out": store.file_digest(place / "float.onnx")}

        folder = self.run.step("convert onnx", config, self._digest(trained), make)
        return folder / "float.onnx"

    def _by_routes(self, function: str, payload: dict, stage: str) -> dict:
        """A call that converts. A converter that dies costs only the route it was on."""
        skip: list[str] = []
        current = [""]

        def watch(fraction, text):
            if text.startswith("route:"):
                current[0] = text.removeprefix("route:")
            self.run.event(stage, fraction, text.replace("route:", "converter: "))

        while True:
            current[0] = ""
            try:
                if not self._child:
                    self._open()
                made = self._child.call(function, payload | {"skip": skip}, watch)
                return made | {"died": skip}
            except ChildDied as error:
                self._child = None
                if not current[0] or current[0] in skip:
                    raise TargetError(
                        f"the process that should {stage} the model {error.reason}",
                        "run with --debug to see its log",
                    ) from None
                skip.append(current[0])

    def _digest(self, trained: Path | None) -> str:
        return self.run.digest(trained) if trained else self.run.model_digest

    def _which(self, trained: Path | None) -> dict:
        """What tells the child that a call is about the model that was trained."""
        return {"trained": str(trained / "model.keras")} if trained else {}

    def judged(self, sampled: Path, rows: int, trained: Path | None = None) -> Path:
        """The folder with the outputs of the source or trained model on the held-back samples."""
        config = {"rows": rows, "batch": 32}

        def make(place: Path) -> dict:
            told = {"samples": str(sampled / "held_back"), "out": str(place)}
            return self.call(
                "worker:reference", config | told | self._which(trained), "run source model"
            )

        digest_in = self.run.digest(sampled)
        if trained:
            digest_in = store.digest(digest_in, self.run.digest(trained))
        return self.run.step("reference", config, digest_in, make)

    def exported(self, target: Target, trained: Path | None = None) -> Path:
        name = f"{target.name}{SUFFIXES[target.format]}"

        def make(place: Path) -> dict:
            told = {
                "format": target.format,
                "quantization": target.quantization,
                "out": str(place / name),
                "source": str(Path(self.run.options.model).absolute()),
            }
            name_there = re.sub(r"\W+", "-", Path(self.run.options.model).stem).strip("-")
            told["name"] = name_there or "model"
            made = self.call(
                "worker:export", told | self._which(trained), f"export {target.name}"
            )
            return made | {"digest_out": store.file_digest(place / name)}

        config = {"target": target.to_dict()}
        return self.run.step("export", config, self._digest(trained), make) / name
