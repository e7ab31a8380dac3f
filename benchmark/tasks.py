"""What the labels ask of the model, and the metrics of that task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import DataError, UsageError
from . import metrics

Array = Any  # numpy.ndarray
METRICS = ("accuracy", "top5", "auc", "mae", "rmse")


@dataclass(frozen=True)
class Task:
    """What the labels ask of one output.

    Attributes:
        kind: `classes` (scores of classes on the last axis), `side` (one logit or probability),
            `equal` (the output is the class itself) or `values` (regression).
        output: Which output the labels belong to.
        names: The metrics to report, the main one first.
        threshold: Where `side` turns from false to true.
        per_sample: Whether one label belongs to one sample (not to one pixel or time step).
    """

    kind: str
    output: int
    names: tuple[str, ...]
    threshold: float = 0.0
    per_sample: bool = True


def find(labels: Array | None, references: list[Array],
         metric: str | None) -> tuple[Task | None, list[dict]]:
    """The task that the labels and the source's outputs describe.

    Integer labels beside C scores are classes (accuracy, with top5 from 10 classes on), one-hot
    rows too; 0 and 1 beside one score are two classes (auc, accuracy); labels of the output's own
    shape are values (mae, rmse).

    Args:
        labels: Shape [n, ...], or None.
        references: The source's outputs, shape [n, ...] each.
        metric: A name of `METRICS`, or None.

    Returns:
        The task, None without labels.

    Raises:
        DataError: A label is not one of the model's classes, or the labels fit no output.
        UsageError: `metric` is unknown or does not fit.
    """
    if metric is not None and metric not in METRICS:
        raise UsageError(f"unknown metric {metric!r}", f"known metrics: {', '.join(METRICS)}")
    if labels is None:
        if metric:
            raise UsageError(f"the metric {metric} needs labels", "give data with labels (y)")
        return None
    tasks, wrong = [], None
    for i, reference in enumerate(references):
        try:
            tasks.append(_task(labels, reference, i, metric))
        except DataError as error:  # another output may have more classes
            wrong = wrong or error
    tasks = [t for t in tasks if t]
    if not tasks and wrong:
        raise wrong
    if not tasks:
        shapes = ", ".join(str((None, *r.shape[1:])) for r in references)
        text = (f"the labels ({labels.dtype}, shape {(None, *labels.shape[1:])}) fit no output "
                f"(shape {shapes})")
        raise DataError(text, "give class numbers, one-hot rows or target values, or leave y out")
    task = tasks[0]
    if metric:
        if metric not in task.names:
            raise UsageError(f"the metric {metric} does not fit these labels",
                             f"use one of: {', '.join(task.names)}")
        task = Task(task.kind, task.output, (metric,), task.threshold, task.per_sample)
    return task


def _task(labels: Array, ref: Array, output: int, metric: str | None) -> Task | None:
    """The task if `labels` belong to the source's output `ref`, else None."""
    shape = labels.shape[:-1] if labels.ndim > 1 and labels.shape[-1] == 1 else labels.shape
    whole = _whole(labels)
    classes = ref.shape[-1] if ref.ndim > 1 else 1
    squeezed = ref.shape[:-1] if ref.ndim > 1 and classes == 1 else ref.shape
    regression = metric in ("mae", "rmse")
    if classes > 1 and not regression:
        dense = len(shape) > 1
        names = ("accuracy", "top5") if classes >= 10 else ("accuracy",)
        if whole and shape == ref.shape[:-1]:
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= classes:
                raise _out_of_range(low, high, classes)
            return Task("classes", output, names, per_sample=not dense)
        if labels.shape == ref.shape and whole and _one_hot(labels):
            return Task("classes", output, names, per_sample=ref.ndim == 2)
    if shape != squeezed:
        return None
    low, high = float(labels.min()), float(labels.max())
    if whole and 0 <= low and high <= 1 and not regression:
        bounds = float(ref.min()), float(ref.max())
        threshold = 0.5 if bounds[0] >= 0 and bounds[1] <= 1 else 0.0
        single = len(shape) == 1
        names = ("accuracy", "auc") if single else ("accuracy",)
        return Task("side", output, names, threshold, per_sample=single)
    if labels.dtype.kind in "iu" and whole and _whole(ref) and not regression:
        return Task("equal", output, ("accuracy",), per_sample=len(shape) == 1)
    return Task("values", output, ("mae", "rmse"), per_sample=len(shape) == 1)


class Scores:
    """The task's metrics of one of the two models."""

    def __init__(self):
        self.right, self.top5 = metrics.Share(), metrics.Share()
        self.auc, self.errors = metrics.Auc(), metrics.Errors()
        self._labels: dict[int, int] = {}

    def add(self, task: Task, labels: Array, out: Array) -> Array | None:
        """Count one batch; returns which answers are right, None for regression."""
        import numpy as np

        if task.kind == "values":
            self.errors.add(labels, out)
            return None
        if task.kind == "classes":
            one_hot = labels.ndim == out.ndim and labels.shape == out.shape
            labels = labels.argmax(-1) if one_hot else labels.reshape(out.shape[:-1])
            right = metrics.in_top(out, labels)
            if "top5" in task.names:
                self.top5.add(metrics.in_top(out, labels, 5))
        else:
            labels = labels.reshape(out.shape)
            if task.kind == "side":
                right = ((out > task.threshold) == (labels > 0)) & ~np.isnan(out)
            else:
                right = out == labels
            if "auc" in task.names:
                self.auc.add(labels, out)
        self.right.add(right)
        for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
            self._labels[int(label)] = self._labels.get(int(label), 0) + int(count)
        return right

    def values(self, task: Task) -> dict[str, float | None]:
        if task.kind == "values":
            return {"mae": self.errors.mae, "rmse": self.errors.rmse}
        auc = self.auc.value if "auc" in task.names else None
        return {"accuracy": self.right.value, "top5": self.top5.value, "auc": auc}

    def chance(self, task: Task) -> float:
        """The accuracy of always naming the commonest label."""
        total = sum(self._labels.values())
        return max(self._labels.values()) / total if total else 0.0


def _whole(array: Array) -> bool:
    """Whether every value is an integer; reads a memory map piece by piece."""
    import numpy as np

    if array.dtype.kind in "iub":
        return True
    pieces = (np.asarray(array[i:i + 256]) for i in range(0, len(array), 256))
    return array.dtype.kind == "f" and all(bool((p == np.rint(p)).all()) for p in pieces)


def _one_hot(labels: Array) -> bool:
    return bool(labels.min() >= 0 and labels.max() <= 1 and (labels.sum(-1) == 1).all())


def _out_of_range(low: int, high: int, classes: int) -> DataError:
    shifted = low == 1 and high == classes
    return DataError(f"labels run from {low} to {high}, the model has the classes 0 to "
                     f"{classes - 1}", "subtract 1 from the labels" if shifted else
                     "give labels that number the model's outputs")
