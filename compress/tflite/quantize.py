"""Post-training quantization: one float .tflite file in, one file per target out.

A pass from file to file that never imports TensorFlow. Runs in a child process:
`child.call("compress.tflite.quantize:run", payload, progress)`. A file whose outputs fall below the
target's `min_snr_db` against the float file gets wider types where the error begins, and each such
place is reported. TensorFlow's own converter is another way to an integer file (export.tflite);
here a model that ai-edge-quantizer (AEQ) cannot take falls back to int8 weights.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ... import tflite
from ...child import Child, ChildDied
from ...errors import TargetError, TfcompressError
from . import calibrate, float16, learned, plans, rewrite, surgery, webfile

ROWS = 12  # calibration rows on which precision is decided
ENOUGH = 10_000  # values of a tensor from which their extremes bound the next ones


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
    source = Source.open(payload, progress)
    out = Path(payload["out"])
    out.mkdir(parents=True, exist_ok=True)
    results = {}
    for target in payload["targets"]:
        name = target["name"]
        progress(None, f"target:{name}")
        start = time.perf_counter()
        try:
            result = _quantize(source.aim_at(target), target, bool(payload.get("strict")))
            if target["runtime"] in webfile.RUNTIMES:
                result["model"], notes = webfile.for_browser(result["model"])
                result["notes"] = [*result["notes"], *notes]
            path = out / f"{name}.tflite"
            beside = path.with_name(f".{path.name}.{os.getpid()}")
            beside.write_bytes(result.pop("model"))
            os.replace(beside, path)
            results[name] = {"path": str(path), "seconds": time.perf_counter() - start, **result}
        except TfcompressError as error:
            results[name] = {"error": error.to_dict()}
    return {"targets": results, "calibration": source.summary()}


def _reach(extremes, size: int) -> tuple[float, float]:
    """The range that values of further samples are likely to stay in.

    The largest of n normal values scatters by about 1 / (2 ln n) of itself from one draw to the
    next (Gumbel), so a few values bound the next ones badly: an output of three logits seen 30
    times is clipped on every third sample set. The room vanishes at `ENOUGH` values, and at a side
    that is zero or that several samples reach exactly, which is a bound.

    Args:
        extremes: Smallest and largest value per sample, (samples, 2).
        size: Values per sample.
    """
    low, high = extremes[:, 0].min(), extremes[:, 1].max()
    count = max(3, len(extremes) * size)
    room = (high - low) * max(0.0, 1 / math.log(count) - 1 / math.log(ENOUGH)) / 2
    if low < 0 and (extremes[:, 0] == low).sum() == 1:
        low -= room
    if high > 0 and (extremes[:, 1] == high).sum() == 1:
        high += room
    return low, high


@dataclass
class Source:
    """The float file and what is known of it, shared by all targets."""

    data: bytes  # as it came
    model: bytes  # the same numbers, ready for quantization
    samples: calibrate.Samples
    rows: list[int]
    reference: list[dict]
    judged: set[str]
    macs: int
    sizes: dict[str, int]  # values per tensor
    progress: Callable
    payload: dict
    isolate: bool = False
    learned: dict = field(default_factory=dict)  # ranges that training found
    rounded: list[dict] | None = None  # outputs with these roundings
    seconds: float = 0.0
    _extremes: dict | None = field(default=None, repr=False)
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
        rows = samples.spread(ROWS if macs < plans.LARGE else ROWS // 3)
        reference = calibrate.outputs(model, samples, rows)
        sizes = {t.name.decode(): math.prod(map(int, t.shape if t.shape is not None else ()))
                 for t in parsed.subgraphs[0].tensors}
        made = cls(data, model, samples, rows, reference, judged, macs, sizes, progress, payload,
                   bool(payload.get("isolate")))
        if payload.get("learned"):
            content = Path(payload["learned"]).read_bytes()
            made.learned = learned.strip(content)[1]
            made.rounded = calibrate.outputs(content, samples, rows)
        return made

    def aim_at(self, target: dict) -> Source:
        """This source as a target sees it: 8-bit activations have the learned ranges."""
        if self.learned and target["quantization"] == "int8":
            return replace(self, reference=self.rounded)
        return replace(self, learned={}) if self.learned else self

    def extremes(self) -> dict:
        """Smallest and largest value per tensor and sample; measured when first asked for."""
        if self._extremes is None:
            start = time.perf_counter()
            self._extremes = calibrate.calibrate(self.model, self.samples, self.progress)
            self.seconds = time.perf_counter() - start
        return self._extremes

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
                low, high = _reach(good, self.sizes.get(name, 1))
            found[name] = (float(low), float(high))
        return found | {name: r for name, r in self.learned.items() if name in found}

    def summary(self) -> dict:
        return {"samples": self.samples.count if self._extremes is not None else 0,
                "seconds": self.seconds, "random": self.samples.random}

    def snr(self, model: bytes, few: int | None = None) -> dict[str, float]:
        """SNR in dB of every output of a file made from this one, on all rows or the first `few`.

        Integer outputs (class numbers, say) count only where there are no float ones.
        """
        if self._last is None or self._last[0] is not model:
            if self.isolate:
                found = self._apart(model, self.rows[:few])
            else:
                found = calibrate.output_snr(
                    self.reference[:few], calibrate.outputs(model, self.samples, self.rows[:few]))
            judged = {name: v for name, v in found.items() if name in self.judged}
            self._last = (model, judged or found)
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


def _quantize(source: Source, target: dict, strict: bool) -> dict:
    kind = target["quantization"]
    if kind == "none" and target.get("io_dtype", "float32") == "float32":
        return _result(source, source.data, [], [])
    make = float16.make if kind == "float16" else plans.make
    result = _result(source, *make(source, target))
    if strict and result["fallbacks"]:
        first = result["fallbacks"][0]
        raise TargetError(
            f"{target['name']}: {len(result['fallbacks'])} operations need a wider type, first "
            f"{first['op']} of {first['layer'] or first['tensor']} ({first['why']})",
            f"without --strict it becomes {first['precision']}: {first['cost']}")
    return result


def _result(source: Source, model: bytes, fallbacks: list, notes: list) -> dict:
    by_output = source.snr(model)
    worst = min(by_output.values(), default=math.inf)
    return {"model": model, "fallbacks": fallbacks, "notes": notes,
            "snr_db": None if worst == math.inf else worst,
            "snr_by_output": {n: (None if v == math.inf else v) for n, v in by_output.items()}}
