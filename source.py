"""The source model in its child process, started when a step first needs it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from . import store
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
            digests = [store.file_digest(place / part) for part in ("calibration", "held_back")]
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

    def converted(self) -> tuple[Path, int | None]:
        """The float .tflite file and its MACs. A converter that dies costs only its route."""

        def make(place: Path) -> dict:
            skip: list[str] = []
            current = [""]

            def watch(fraction, text):
                if text.startswith("route:"):
                    current[0] = text.removeprefix("route:")
                self.run.event("convert", fraction, text.replace("route:", "converter: "))

            while True:
                current[0] = ""
                try:
                    if not self._child:
                        self._open()
                    made = self._child.call(
                        "worker:convert", {"out": str(place / "float.tflite"), "skip": skip}, watch
                    )
                    return made | {
                        "died": skip,
                        "digest_out": store.file_digest(place / "float.tflite"),
                    }
                except ChildDied as error:
                    self._child = None
                    if not current[0] or current[0] in skip:
                        raise TargetError(
                            f"the TFLite converter {error.reason}",
                            "run with --debug to see its log",
                        ) from None
                    skip.append(current[0])

        folder = self.run.step("convert", {}, self.run.model_digest, make)
        record = store.read_json(folder / "step.json")
        self.info["rewrites"] = record.get("rewrites", [])
        return folder / "float.tflite", record.get("macs")

    def judged(self, sampled: Path, rows: int) -> Path:
        """The folder with the source model's outputs on the held-back samples."""
        config = {"rows": rows, "batch": 32}

        def make(place: Path) -> dict:
            return self.call(
                "worker:reference",
                config | {"samples": str(sampled / "held_back"), "out": str(place)},
                "run source model",
            )

        return self.run.step("reference", config, self.run.digest(sampled), make)

    def exported(self, target: Target) -> Path:
        name = f"{target.name}{SUFFIXES[target.format]}"

        def make(place: Path) -> dict:
            self.call(
                "worker:export",
                {
                    "format": target.format,
                    "out": str(place / name),
                    "source": str(Path(self.run.options.model).absolute()),
                },
                f"export {target.name}",
            )
            return {"digest_out": store.file_digest(place / name)}

        return (
            self.run.step("export", {"target": target.to_dict()}, self.run.model_digest, make)
            / name
        )
