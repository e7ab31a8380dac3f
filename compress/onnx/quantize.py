"""Post-training quantization of ONNX: one float .onnx file in, one file per target out.

A pass from file to file that never imports TensorFlow. Runs in a child process:
`child.call("compress.onnx.quantize:run", payload, progress)`. As with TFLite (`quantize`), a file
whose outputs fall below the target's `min_snr_db` against the float file gets wider types where
the error begins, and each such place is reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...errors import DataError, MissingExtra, TargetError, needed
from .. import quantizing
from ..tflite import calibrate, mixed
from . import graph as og
from . import learned, plans

MARGIN = 2.0  # dB above the asked SNR, because it is measured on few rows
LARGE = 1_000_000_000  # multiplications from which less is tried


def run(payload: dict, progress: Callable[[float | None, str], None]) -> dict:
    """Quantize a float file for several targets.

    Args:
        payload: `float` (path of the float .onnx), `samples` (folder of samples, or None for seeded
            random ones), `targets` (list of `Target.to_dict()`), `out` (folder), `names`
            (`{"inputs": [...]}`, in the order of the samples); optional `strict` (a wider type is
            an error) and `learned` (path of the same file with learned roundings in it, whose
            ranges are used for 8-bit activations instead of measured ones).
        progress: Called with "target:<name>" before each target.

    Returns:
        `{"targets": {name: {"path", "seconds", "fallbacks", "snr_db", "snr_by_output", "notes"}
        or {"error"}}, "calibration": {"samples", "seconds", "random"}}`; `snr_db` is that of the
        worst output against the float file on a few of the samples, None where infinite.

    Raises:
        ModelError: The float file cannot be read.
        DataError: The samples cannot be read.
        MissingExtra: onnx is not installed.
    """
    try:
        needed("onnxruntime", "onnx")
    except MissingExtra as error:
        source = Unproved(payload["float"], error)
    else:
        source = Source.open(payload, progress)
    return quantizing.every(payload, source, ".onnx", progress)


class Unproved:
    """The float file where there is no ONNX Runtime: only what needs no run can be made of it."""

    WITHOUT = ("none", "int4")

    def __init__(self, path: str, missing: MissingExtra):
        self.path, self.missing = Path(path), missing

    def make(self, target: dict) -> dict:
        kind = target["quantization"]
        if kind not in self.WITHOUT:
            raise MissingExtra("onnxruntime", "onnx", f"{self.missing.message}, which makes {kind} "
                               "files", self.missing.hint)
        content = self.path.read_bytes()
        if kind != "none":
            model = og.load(self.path)
            plan = {n: ladder[0] for n, ladder in plans.ladders(model, kind, set()).items()}
            content = plans.build(model, plan, {})
        said = f"neither checked nor adapted when it was made: {self.missing.message}"
        return quantizing.told(content, [], [said], {})

    def summary(self) -> dict:
        return {"samples": 0, "seconds": 0.0, "random": False}


@dataclass(kw_only=True)
class Source(quantizing.Source):
    """The float .onnx file; `model` is its protocol buffer."""

    @classmethod
    def open(cls, payload: dict, progress) -> Source:
        model = og.load(payload["float"])
        data = Path(payload["float"]).read_bytes()
        runner = og.Runner(data)
        names = (payload.get("names") or {}).get("inputs") or list(runner.inputs)
        if set(names) != set(runner.inputs):
            raise TargetError(f"the float file's inputs are {list(runner.inputs)}, not {names}",
                              "convert the model again")
        samples = calibrate.Samples(payload.get("samples"), {n: runner.inputs[n] for n in names})
        macs = og.macs(model)
        rows = samples.spread(quantizing.ROWS if macs < LARGE else quantizing.ROWS // 3)
        try:
            reference = [runner.run(samples.row(k)) for k in rows]
        except Exception as error:  # onnxruntime's own, of shapes and indices
            said = " ".join(str(error).split())[:200]
            raise DataError(f"the samples do not fit the model: {said}",
                            "give data like those of training") from None
        ranges, rounded = {}, None
        if payload.get("learned"):
            content = Path(payload["learned"]).read_bytes()
            ranges = learned.strip(content)[1]
            runner = og.Runner(content)
            rounded = [runner.run(samples.row(k)) for k in rows]
        return cls(data=data, model=model, samples=samples, rows=rows, reference=reference,
                   judged=runner.floats, macs=macs, progress=progress, learned=ranges,
                   rounded=rounded)

    def measure(self) -> dict:
        return og.extremes(self.model, self.samples, self.progress)

    def make(self, target: dict) -> dict:
        """A target's file; see `Job.make`."""
        return Job(self.aim_at(target), target).make()

    def ranges(self, how: str) -> dict[str, tuple[float, float]]:
        """`{tensor name: (min, max)}`: learned, over all samples, or the mean of their extremes."""
        import numpy as np

        found = {}
        for name, pairs in self.extremes().items():
            if not np.isfinite(pairs).all() or np.abs(pairs).max() > plans.HUGE:
                continue
            low, high = pairs.mean(axis=0) if how == "mean" else quantizing.reach(pairs, 1000)
            found[name] = (float(low), float(high))
        return found | {n: (float(a), float(b)) for n, (a, b) in self.learned.items()
                        if n in found}

    def snr(self, model: bytes) -> dict[str, float]:
        """SNR in dB of every output against the float file; -inf where the file does not run."""
        try:
            runner = og.Runner(model)
            values = [runner.run(self.samples.row(k)) for k in self.rows]
        except Exception:  # onnxruntime's own: a node that has no kernel for these types
            return dict.fromkeys(self.reference[0], -math.inf)
        return self.decisive(calibrate.output_snr(
            *[[{n: _real(v) for n, v in row.items()} for row in rows]
              for rows in (self.reference, values)]))


def _real(values):
    import numpy as np

    return np.asarray(values, np.float64) if values.dtype.kind in "fiub" else np.zeros(0)


class Job:
    """Makes one target's file."""

    def __init__(self, source: Source, target: dict):
        self.source, self.target, self.kind = source, target, target["quantization"]
        self.asked = float(target.get("min_snr_db") or 0.0)
        self.goal = self.asked + MARGIN
        self.ranges = source.ranges("reach") if self.kind == "int8" else {}
        self.ladders = plans.ladders(source.model, self.kind, set(self.ranges))
        self.built: dict[tuple, tuple[bytes | None, float]] = {}
        self.how = "reach"

    def make(self) -> dict:
        """`{"model", "fallbacks", "notes", "snr_db", "snr_by_output"}`.

        Raises:
            TargetError: No file that runs could be made.
        """
        if self.kind == "none":
            return self._result(self.source.data, [], [])
        base = {name: ladder[0] for name, ladder in self.ladders.items()}
        plan, notes, before = base, [], self._trial(base)
        search = mixed.Search(self._trial, self.goal,
                              24 if self.source.macs > LARGE or len(base) > 150 else 64)
        if before < self.goal and self.kind == "int8":
            before, notes = self._narrower(base, before)
        if before < self.goal:
            plan = self._widen(base, search)
        model, after = self._build(plan)
        if model is None:
            raise TargetError(f"{self.target['name']}: no file could be made of this model",
                              "report it, with --debug")
        return self._result(model, self._fallbacks(base, plan, before, after, search), notes)

    def _narrower(self, base: dict, before: float) -> tuple[float, list[str]]:
        """The mean of the samples' extremes as ranges, where that alone reaches the goal."""
        if self.source.samples.count < 2 or self.source.learned:
            return before, []
        widest, self.ranges, self.how = self.ranges, self.source.ranges("mean"), "mean"
        found = self._trial(base)
        if found >= self.goal:
            return found, ["activation ranges: mean of the samples' smallest and largest values"]
        self.ranges, self.how = widest, "reach"
        return before, []

    def _widen(self, base: dict, search: mixed.Search) -> dict:
        """The plan with the next precision where that is enough, the widest one otherwise."""
        for rung in (1, -1):
            wider = {n: ladder[rung] for n, ladder in self.ladders.items() if len(ladder) > 1}
            found = search.widen(base, wider, [])
            if found is not None:
                return found
        return base | {n: ladder[-1] for n, ladder in self.ladders.items()}

    def _build(self, plan: dict) -> tuple[bytes | None, float]:
        key = (self.how, *sorted(plan.items()))
        if key not in self.built:
            try:
                model = plans.build(self.source.model, plan, self.ranges)
            except Exception:  # the writers raise whatever they like
                return self.built.setdefault(key, (None, -math.inf))
            worst = min(self.source.snr(model).values(), default=math.inf)
            if len(self.built) > 8:  # files are large: keep what the plans reached, not the bytes
                self.built = {k: (None, v) for k, (_, v) in self.built.items()}
            self.built[key] = model, worst
        elif self.built[key][0] is None and self.built[key][1] > -math.inf:
            self.built[key] = plans.build(self.source.model, plan, self.ranges), self.built[key][1]
        return self.built[key]

    def _trial(self, plan: dict) -> float:
        return self._build(plan)[1]

    def _result(self, model: bytes, fallbacks: list, notes: list) -> dict:
        by_output = self.source.snr(model)
        if -math.inf in by_output.values():
            raise TargetError(f"{self.target['name']}: ONNX Runtime cannot run the file",
                              "report it, with --debug")
        return quantizing.told(model, fallbacks, notes, by_output)

    def _fallbacks(self, base, plan, before, after, search) -> list[dict]:
        """One record per node that is wider than the target asks for."""
        nodes = {n.name: n for n in self.source.model.graph.node}
        layers = og.layers(self.source.model.graph)
        was = f"{before:.1f} dB" if before > -math.inf else "a file that does not run"
        now = f"{after:.1f} dB" if after < math.inf else "exact"
        found = []
        for name, precision in plan.items():
            wanted = base[name] == precision and precision in ("int8", "float16", "int4")
            if wanted:
                continue
            node, alone = nodes[name], search.alone.get(name)
            if base[name] == precision:
                why = f"no {self.kind} form of this operation in the runtime"
                cost = ("its inputs are rounded at every call" if precision == "dynamic"
                        else "computed in float")
            else:
                why = (f"{self.kind} here alone leaves {alone:.1f} dB"
                       if alone is not None and abs(alone) < math.inf
                       else f"in {self.kind} the outputs fall below {self.asked:.0f} dB")
                cost = f"SNR {was} -> {now} (all of them together)"
            found.append({"op": node.op_type, "tensor": node.output[0],
                          "layer": layers[name], "precision": plans.SAID[precision],
                          "why": why, "cost": cost})
        return found
