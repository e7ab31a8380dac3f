"""Streaming statistics: how near an artifact's outputs are to the source's, and how good each is.

Every class takes batches through `add` and keeps sums, never outputs, so memory does not grow
with the number of samples. The one exception is `Auc`, which needs every score (one per sample).
"""

from __future__ import annotations

import math
from typing import Any

Array = Any  # numpy.ndarray; NumPy itself is imported where it is used


class Fidelity:
    """Distance between two streams of arrays of equal shape: the reference and the output.

    Positions where the reference itself is NaN or infinite are left out and counted in
    `reference_nonfinite`; those where only the output is are counted in `nonfinite`, and then
    there is no SNR, cosine or largest difference to speak of.
    """

    def __init__(self):
        self.signal = self.noise = self.cross = self.energy = self.max_error = 0.0
        self.count = self.nonfinite = self.reference_nonfinite = 0
        self._first: dict[str, Array] = {}
        self._varies = {"reference": False, "output": False}

    def add(self, reference: Array, output: Array) -> None:
        """Take one batch; both arrays have the shape [batch, ...]."""
        import numpy as np

        for name, array in (("reference", reference), ("output", output)):
            if len(array) and not self._varies[name]:
                first = self._first.setdefault(name, np.array(array[0]))
                self._varies[name] = bool((array != first).any())
        r = np.asarray(reference, np.float64).ravel()
        o = np.asarray(output, np.float64).ravel()
        usable = np.isfinite(r)
        finite = usable & np.isfinite(o)
        self.count += r.size
        self.reference_nonfinite += int(r.size - usable.sum())
        self.nonfinite += int(usable.sum() - finite.sum())
        if not finite.all():
            r, o = r[finite], o[finite]
        error = r - o
        self.signal += float(r @ r)
        self.energy += float(o @ o)
        self.cross += float(r @ o)
        self.noise += float(error @ error)
        if error.size:
            self.max_error = max(self.max_error, float(np.abs(error).max()))

    @property
    def snr(self) -> float | None:
        """10 log10(sum ref^2 / sum (ref - out)^2) in dB; infinite where nothing differs."""
        if self.nonfinite:
            return None
        if self.noise == 0:
            return math.inf
        if self.signal == 0:
            return 10 * math.log10(1e-30 / self.noise)
        return 10 * (math.log10(self.signal) - math.log10(self.noise))

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between all reference values and all output values."""
        if self.nonfinite:
            return None
        if self.signal == 0 or self.energy == 0:
            return float(self.signal == self.energy)
        return max(-1.0, min(1.0, self.cross / math.sqrt(self.signal) / math.sqrt(self.energy)))

    @property
    def constant(self) -> bool:
        """Whether every output was the same although the references differ."""
        return self._varies["reference"] and not self._varies["output"]


class Share:
    """The share of trues in a stream of boolean arrays."""

    def __init__(self):
        self.hits = self.count = 0

    def add(self, right: Array) -> None:
        self.hits += int(right.sum())
        self.count += int(right.size)

    @property
    def value(self) -> float | None:
        return self.hits / self.count if self.count else None


class Errors:
    """Mean absolute and root mean square error of a stream of predictions."""

    def __init__(self):
        self.absolute = self.square = 0.0
        self.count = 0

    def add(self, labels: Array, predictions: Array) -> None:
        import numpy as np

        error = np.asarray(predictions, np.float64).ravel() - np.asarray(labels, np.float64).ravel()
        self.absolute += float(np.abs(error).sum())
        self.square += float(error @ error)
        self.count += error.size

    @property
    def mae(self) -> float | None:
        return self.absolute / self.count if self.count else None

    @property
    def rmse(self) -> float | None:
        return math.sqrt(self.square / self.count) if self.count else None


class Auc:
    """Area under the ROC curve of one score per sample."""

    def __init__(self):
        self._labels: list[Array] = []
        self._scores: list[Array] = []

    def add(self, labels: Array, scores: Array) -> None:
        import numpy as np

        self._labels.append(np.asarray(labels).ravel() > 0)
        self._scores.append(np.array(scores, np.float64).ravel())

    @property
    def value(self) -> float | None:
        import numpy as np

        if not self._labels:
            return None
        return auc(np.concatenate(self._labels), np.concatenate(self._scores))


def auc(labels: Array, scores: Array) -> float | None:
    """Exact area under the ROC curve: the Mann-Whitney U statistic with ties counted as halves.

    Args:
        labels: Booleans, shape [n].
        scores: Floats, shape [n]; higher means more likely true.

    Returns:
        The area, or None when there is only one class or a score is NaN.

    Source: Hanley and McNeil, "The meaning and use of the area under a receiver operating
    characteristic (ROC) curve", Radiology 143 (1982).
    """
    import numpy as np

    positives = int(labels.sum())
    negatives = labels.size - positives
    if not positives or not negatives or np.isnan(scores).any():
        return None
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(sizes)
    midranks = last - (sizes - 1) / 2  # ranks count from 1; tied scores share their mean rank
    rank_sum = float(midranks[group.ravel()[labels]].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def in_top(scores: Array, labels: Array, k: int = 1) -> Array:
    """Whether each label is among its row's k highest scores.

    Equal scores count in the order of their index, as argmax does; quantized outputs tie often.
    A row with a NaN is wrong.

    Args:
        scores: Shape [..., classes].
        labels: Integers, shape [...].

    Returns:
        Booleans, shape [...].
    """
    import numpy as np

    index = labels[..., None].astype(np.int64)
    own = np.take_along_axis(scores, index, axis=-1)
    before = np.arange(scores.shape[-1]) < index
    rank = ((scores > own) | ((scores == own) & before)).sum(-1)
    return (rank < k) & ~np.isnan(scores).any(-1)


def paired_interval(lost: int, won: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """A 95 % confidence interval for the drop of accuracy between two models on the same samples.

    Args:
        lost: Samples which the first model gets right and the second wrong.
        won: Samples which the first gets wrong and the second right.
        count: All samples.
        z: Normal quantile of the confidence level.

    Returns:
        Lower and upper end of (lost - won) / count.

    Source: Agresti and Min, "Simple improved confidence intervals for comparing matched
    proportions", Statistics in Medicine 24 (2005): Wald's interval after half a sample is
    added to each of the four cells.
    """
    lost, won, count = lost + 0.5, won + 0.5, count + 2
    centre = (lost - won) / count
    half = z * math.sqrt(lost + won - (lost - won) ** 2 / count) / count
    return max(-1.0, centre - half), min(1.0, centre + half)
