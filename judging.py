"""Judging: every artifact in its own runtime, beside the source model, and what it costs there."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import store
from .artifact import Artifact, Measurement, Row
from .benchmark import latency, runtimes, verdict
from .child import Child, ChildDied
from .errors import DataError, TfcompressError, UsageError
from .making import Made
from .quantization import names
from .steps import Steps
from .targets import Target

MEASURE_SECONDS = 8.0  # for all artifacts together
LAYERS = {".tflite": "benchmark.layers:run", ".onnx": "compress.onnx.layers:run"}


class Judge:
    """What judges and measures the artifacts of a run."""

    def __init__(self, steps: Steps):
        self.steps, self.options, self.targets = steps, steps.options, steps.targets

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
