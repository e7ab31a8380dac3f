"""What is left of a model's outputs after a change to the model, in the words of the report."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from . import metrics, tasks

Array = Any  # numpy.ndarray


def judge(labels: Array | None,
          metric: str | None) -> Callable[[list, int], Callable[[list], dict]]:
    """What `compress.sensitivity` asks for: (reference outputs, rows) to (outputs) to figures.

    Args:
        labels: One for each row, or None.
        metric: A name of `tasks.METRICS`, or None for the labels' own.

    Returns:
        A function whose results say `snr` in dB (of the worst output; inf where nothing changed,
        -inf where it is no number), and where they have a meaning `agreement` (share of rows
        with the same highest class) and `loss` (of the metric `metric`; positive is worse, and
        relative for mae and rmse).

    Raises:
        DataError: Labels that fit no output, or are out of range.
        UsageError: `metric` does not fit the labels.
    """
    def of(reference: list, rows: int) -> Callable[[list], dict]:
        cut = None if labels is None else labels[:rows]
        task = tasks.find(cut, reference, metric)
        before = _score(task, cut, reference) if task else None
        classes = _classes(task, reference)

        def left(outputs: list) -> dict:
            told = {"snr": min(map(_snr, reference, outputs))}
            if classes is not None:
                same = reference[classes].argmax(-1) == outputs[classes].argmax(-1)
                told["agreement"] = float(same.mean())
            after = _score(task, cut, outputs) if task else None
            if before is not None and after is not None:
                told |= {"metric": task.names[0], "value": after,
                         "loss": _loss(task.names[0], before, after)}
            return told

        return left

    return of


def _snr(reference: Array, output: Array) -> float:
    import numpy as np

    if reference.dtype.kind not in "fiub":
        return math.inf
    fidelity = metrics.Fidelity()
    fidelity.add(np.asarray(reference, np.float32), np.asarray(output, np.float32))
    snr = fidelity.snr
    return -math.inf if snr is None else snr


def _classes(task: tasks.Task | None, reference: list) -> int | None:
    """The output that scores classes: the labels', or the first that looks like it."""
    if task:
        return task.output if task.kind == "classes" else None
    return next((i for i, r in enumerate(reference)
                 if r.dtype.kind == "f" and r.ndim == 2 and r.shape[1] > 1), None)


def _score(task: tasks.Task, labels: Array, outputs: list) -> float | None:
    scores = tasks.Scores()
    scores.add(task, labels, outputs[task.output])
    return scores.values(task)[task.names[0]]


def _loss(name: str, before: float, after: float) -> float:
    if name in ("mae", "rmse"):
        return (after - before) / before if before else after
    return before - after
