"""What post-training quantization of TFLite and of ONNX have in common: sources, targets, files."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import TargetError, TfcompressError
from .tflite import calibrate

ROWS = 12  # calibration rows on which precision is decided
ENOUGH = 10_000  # values of a tensor from which their extremes bound the next ones

Progress = Callable[[float | None, str], None]


@dataclass(kw_only=True)
class Source:
    """A float file and what is known of it, shared by all targets."""

    data: bytes
    model: object  # what is quantized: the file's content, changed where that helps
    samples: calibrate.Samples
    rows: list[int]
    reference: list[dict]  # outputs of the rows
    judged: set[str]  # names of the outputs that count
    macs: int
    progress: Progress
    learned: dict = field(default_factory=dict)  # ranges that training found
    rounded: list[dict] | None = None  # outputs with these roundings
    seconds: float = 0.0
    _extremes: dict | None = field(default=None, repr=False)

    def aim_at(self, target: dict) -> Source:
        """This source as a target sees it: 8-bit activations have the learned ranges."""
        if self.learned and target["quantization"] == "int8":
            return replace(self, reference=self.rounded)
        return replace(self, learned={}) if self.learned else self

    def make(self, target: dict) -> dict:
        """A target's file, as `told` gives it."""
        raise NotImplementedError

    def measure(self) -> dict:
        """Smallest and largest value of each tensor, (samples, 2)."""
        raise NotImplementedError

    def extremes(self) -> dict:
        """What `measure` found; it is asked once."""
        if self._extremes is None:
            start = time.perf_counter()
            self._extremes = self.measure()
            self.seconds = time.perf_counter() - start
        return self._extremes

    def summary(self) -> dict:
        """`{"samples", "seconds", "random"}` of the calibration."""
        return {"samples": self.samples.count if self._extremes is not None else 0,
                "seconds": self.seconds, "random": self.samples.random}

    def decisive(self, found: dict[str, float]) -> dict[str, float]:
        """Of the SNR by output, those of float outputs where there are any.

        Class numbers, say, differ much where logits differ little.
        """
        return {n: v for n, v in found.items() if n in self.judged} or found


def every(payload: dict, source: Source, ending: str, progress: Progress) -> dict:
    """A file for each target of a payload, each written whole or not at all.

    Args:
        payload: `targets`, `out` and `strict` of the `run` that calls this.
        source: What its float file is, or anything else with its `make` and `summary`.
        ending: Of the files' names.
        progress: Called with "target:<name>" before each target.

    Returns:
        What `run` returns. A target that fails has its error there; the others are made.
    """
    out = Path(payload["out"])
    out.mkdir(parents=True, exist_ok=True)
    results = {}
    for target in payload["targets"]:
        name = target["name"]
        progress(None, f"target:{name}")
        start = time.perf_counter()
        try:
            result = source.make(target)
            if payload.get("strict") and result["fallbacks"]:
                raise _refusal(name, result["fallbacks"])
            path = out / f"{name}{ending}"
            beside = path.with_name(f".{path.name}.{os.getpid()}")
            beside.write_bytes(result.pop("model"))
            os.replace(beside, path)
            results[name] = {"path": str(path), "seconds": time.perf_counter() - start, **result}
        except TfcompressError as error:
            results[name] = {"error": error.to_dict()}
    return {"targets": results, "calibration": source.summary()}


def _refusal(name: str, fallbacks: list[dict]) -> TargetError:
    first = fallbacks[0]
    return TargetError(
        f"{name}: {len(fallbacks)} operations need a wider type, first "
        f"{first['op']} of {first['layer'] or first['tensor']} ({first['why']})",
        f"without --strict it becomes {first['precision']}: {first['cost']}")


def told(model: bytes, fallbacks: list, notes: list, by_output: dict[str, float]) -> dict:
    """The record of a file made: its SNR is that of the worst output, None where infinite."""
    finite = {n: (None if v == math.inf else v) for n, v in by_output.items()}
    worst = min(by_output.values(), default=math.inf)
    return {"model": model, "fallbacks": fallbacks, "notes": notes,
            "snr_db": None if worst == math.inf else worst, "snr_by_output": finite}


def reach(extremes, size: int) -> tuple[float, float]:
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
