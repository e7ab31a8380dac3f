"""Weight sharing: k-means over a kernel's values, after which only the clusters are trained.

As in S. Han, H. Mao, W. Dally, "Deep Compression" (arXiv 1510.00149): clusters start evenly
between the smallest and the largest weight, assignments are made once, and each cluster gets the
sum of its weights' gradients.
"""

from __future__ import annotations

from typing import Any

from .forms import Form

ROUNDS = 50


def assign(form: Form, clusters: int) -> str:
    """Give a form its clusters; masked weights have a cluster of their own, which is zero.

    Returns:
        Why the kernel cannot take part, or "".
    """
    import numpy as np

    values = np.asarray(form.kernel.variable.numpy(), np.float64)
    kept = np.ones(values.shape, bool) if form.mask is None else form.mask.numpy() > 0
    zero = 0 if form.mask is None else 1
    live = values[kept]
    distinct = np.unique(live)
    if len(distinct) <= 1 or live.size <= clusters:
        return f"it has {live.size} weights that are not zero, which is few for {clusters} clusters"
    table, places = kmeans(live, min(clusters - zero, len(distinct)))
    every = np.zeros(values.shape, np.int32)
    every[kept] = places + zero
    form.set_clusters(table.astype(np.float32), every)
    return ""


def kmeans(values: Any, clusters: int) -> tuple[Any, Any]:
    """Lloyd's algorithm in one dimension, from evenly spaced centers; no chance in it.

    Args:
        values: Float array of one axis, with at least `clusters` distinct values.
        clusters: How many.

    Returns:
        The centers, ascending, and the number of its center for each value.
    """
    import numpy as np

    ordered = np.sort(values)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centers = np.linspace(ordered[0], ordered[-1], clusters)
    for _ in range(ROUNDS):
        edges = np.searchsorted(ordered, (centers[1:] + centers[:-1]) / 2)
        cuts = np.concatenate([[0], edges, [len(ordered)]])
        counts = np.diff(cuts)
        new = np.where(counts > 0, np.diff(sums[cuts]) / np.maximum(counts, 1), centers)
        new = _refill(new, counts, ordered)
        if np.array_equal(new, centers):
            break
        centers = new
    centers = np.unique(centers)
    return centers, np.searchsorted((centers[1:] + centers[:-1]) / 2, values).astype(np.int32)


def _refill(centers: Any, counts: Any, ordered: Any) -> Any:
    """Move centers without values to the values that are farthest from any center."""
    import numpy as np

    empty = np.flatnonzero(counts == 0)
    if not len(empty):
        return centers
    live = np.sort(centers[counts > 0])
    near = live[np.searchsorted((live[1:] + live[:-1]) / 2, ordered)]
    far = np.argsort(-np.abs(ordered - near), kind="stable")[:len(empty)]
    centers = centers.copy()
    centers[empty] = ordered[far]
    return np.sort(centers)
