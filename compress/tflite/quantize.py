"""Post-training quantization: one float .tflite file in, one file per target out.

A pass from file to file that never imports TensorFlow. Runs in a child process:
`child.call("compress.tflite.quantize:run", payload, progress)`. A file whose outputs fall below the
target's `min_snr_db` against the float file gets wider types where the error begins, and each such
place is reported. TensorFlow's own converter is another way to an integer file (export.tflite);
here a model that ai-edge-quantizer (AEQ) cannot take falls back to int8 weights.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ... import tflite
from ...child import Child, ChildDied
from ...errors import TargetError
from .. import quantizing
from . import calibrate, float16, learned, plans, rewrite, surgery, webfile


def run(payload: dict, progress: Callable[[float | None, str], None]) -> dict:
    """Quantize a float file for several targets.

    Args:
        payload: `float` (path of the float .tflite), `samples` (folder of samples, or None for
            seeded random ones), `targets` (list of `Target.to_dict()`), `out` (folder), `names`
            (`{"inputs": [...], "outputs": [...]}`, the signature's names in the order of the
            samples), `learned` (path of the same file with learned roundings in it, or None: its
            ranges are used for 8-bit activations), `strict` (a wider type is an error), `isolate`
            (run every candidate in a process of its own: slow, for a second try after a kernel
            ended this one).
        progress: Called with "target:<name>" before each target.

    Returns:
        `{"targets": {name: {"path", "seconds", "fallbacks", "snr_db", "snr_by_output", "notes"}
        or {"error"}}, "calibration": {"samples", "seconds", "random"}}`; `snr_db` is that of the
        worst output against the float file on a few of the samples, None where infinite.

    Raises:
        ModelError: The float file cannot be read.
        DataError: The samples cannot be read.
    """
    return quantizing.every(payload, Source.open(payload, progress), ".tflite", progress)


@dataclass(kw_only=True)
class Source(quantizing.Source):
    """The float .tflite file; `model` has the same numbers in a form ready for quantization."""

    sizes: dict[str, int]  # values per tensor
    payload: dict
    isolate: bool = False
    _last: tuple | None = field(default=None, repr=False)  # the last file judged, and its SNR

    @classmethod
    def open(cls, payload: dict, progress) -> Source:
        parsed = tflite.load(payload["float"])
        data = Path(payload["float"]).read_bytes()
        macs = sum(tflite.macs(parsed, g, op) for g in parsed.subgraphs for op in g.operators)
        rewrite.rewrite(parsed)
        surgery.unique_names(parsed)
        model = tflite.dump(parsed)
        runner = calibrate.Runner(model)
        inputs = list(runner.inputs)
        judged = {n for n, d in runner.outputs.items() if d["dtype"].__name__.startswith("float")}
        names = (payload.get("names") or {}).get("inputs") or inputs
        if set(names) != set(inputs):
            raise TargetError(f"the float file's inputs are {inputs}, not {names}",
                              "convert the model again")
        samples = calibrate.Samples(payload.get("samples"), {n: runner.inputs[n] for n in names})
        rows = samples.spread(quantizing.ROWS if macs < plans.LARGE else quantizing.ROWS // 3)
        reference = calibrate.outputs(model, samples, rows)
        sizes = {t.name.decode(): math.prod(map(int, t.shape if t.shape is not None else ()))
                 for t in parsed.subgraphs[0].tensors}
        made = cls(data=data, model=model, samples=samples, rows=rows, reference=reference,
                   judged=judged, macs=macs, progress=progress, sizes=sizes, payload=payload,
                   isolate=bool(payload.get("isolate")))
        if payload.get("learned"):
            content = Path(payload["learned"]).read_bytes()
            made.learned = learned.strip(content)[1]
            made.rounded = calibrate.outputs(content, samples, rows)
        return made

    def make(self, target: dict) -> dict:
        source = self.aim_at(target)
        kind = target["quantization"]
        if kind == "none" and target.get("io_dtype", "float32") == "float32":
            model, fallbacks, notes = source.data, [], []
        else:
            make = float16.make if kind == "float16" else plans.make
            model, fallbacks, notes = make(source, target)
        result = quantizing.told(model, fallbacks, notes, source.snr(model))
        if target["runtime"] in webfile.RUNTIMES:
            result["model"], said = webfile.for_browser(model)
            result["notes"] = [*notes, *said]
        return result

    def measure(self) -> dict:
        return calibrate.calibrate(self.model, self.samples, self.progress)

    def ranges(self, how: str) -> dict:
        """`{tensor name: (min, max)}` over all samples, or the mean of the samples' extremes."""
        import numpy as np

        found = {}
        for name, pairs in self.extremes().items():
            good = pairs[np.isfinite(pairs).all(axis=1)]
            if not len(good) or np.abs(good).max() > 1e30:
                continue
            if how == "mean":
                low, high = good.mean(axis=0)
            else:
                low, high = quantizing.reach(good, self.sizes.get(name, 1))
            found[name] = (float(low), float(high))
        return found | {name: r for name, r in self.learned.items() if name in found}

    def snr(self, model: bytes, few: int | None = None) -> dict[str, float]:
        """SNR in dB of every output of a file made from this, on all rows or the first `few`."""
        if self._last is None or self._last[0] is not model:
            if self.isolate:
                found = self._apart(model, self.rows[:few])
            else:
                found = calibrate.output_snr(
                    self.reference[:few], calibrate.outputs(model, self.samples, self.rows[:few]))
            self._last = (model, self.decisive(found))
        return self._last[1]

    def _apart(self, model: bytes, rows: list[int]) -> dict[str, float]:
        """The same in a process of its own, which a kernel may end."""
        with tempfile.TemporaryDirectory() as folder, Child("trial") as child:
            (Path(folder) / "trial.tflite").write_bytes(model)
            try:
                return child.call("compress.tflite.calibrate:evaluate", {
                    "float": self.payload["float"], "file": str(Path(folder) / "trial.tflite"),
                    "samples": self.payload.get("samples"), "names": self.samples.names,
                    "rows": rows})["snr"]
            except ChildDied:
                return dict.fromkeys(self.reference[0], -math.inf)
