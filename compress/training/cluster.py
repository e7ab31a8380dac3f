"""Weight sharing: k-means over kernels' values, after which only the clusters are trained.

As in S. Han, H. Mao, W. Dally, "Deep Compression" (arXiv 1510.00149): clusters start evenly
between the smallest and the largest weight, and each cluster gets the sum of its weights'
gradients. The weights are trained on behind their clusters, and change to a nearer one (as in
tensorflow-model-optimization). Other starts: at equal shares of the weights, or k-means++ (D.
Arthur, S. Vassilvitskii, 2007).
"""

from __future__ import annotations

from typing import Any

from . import recipe
from .forms import Form

ROUNDS = 50
UPDATES = 100  # of which weight has which cluster, in each stage that trains them
MOST = 200_000  # weights that k-means++ draws from


def begin(forms: list[Form], stage: recipe.Cluster, seed: int = 0) -> list[dict]:
    """Give forms their clusters: each its own, or all the same ones.

    Returns:
        `{"layer", "why"}` of the kernels that take no part.
    """
    import numpy as np

    groups = [[f] for f in forms]
    skipped = []
    if stage.scope == "global" and forms:
        groups = [forms]
    for number, group in enumerate(groups):
        why = assign(group, stage.clusters, stage.init, np.random.default_rng((seed, number)))
        skipped += [{"layer": f.kernel.layer, "why": why} for f in group if why]
    return skipped


def regroups_at(step: int, steps: int) -> bool:
    """Whether weights may change their cluster before this step: a hundred times on the way."""
    return step > 0 and step % max(1, steps // UPDATES) == 0


def assign(forms: list[Form], clusters: int, init: str = "linear", rng: Any = None) -> str:
    """Give some forms the same clusters; masked weights have a cluster of their own: zero.

    Args:
        forms: Of kernels that share their values; mostly one.
        clusters: How many values at most, zero included where weights are masked.
        init: As in `recipe.Cluster`.
        rng: For `kmeans++`.

    Returns:
        Why the kernels cannot take part, or "".
    """
    import numpy as np

    values = [np.asarray(f.kernel.variable.numpy(), np.float64) for f in forms]
    kept = [np.ones(v.shape, bool) if f.mask is None else f.mask.numpy() > 0
            for f, v in zip(forms, values, strict=True)]
    zero = int(any(f.mask is not None for f in forms))
    live = np.concatenate([v[k] for v, k in zip(values, kept, strict=True)])
    distinct = np.unique(live)
    if len(distinct) <= 1 or live.size <= clusters:
        return f"it has {live.size} weights that are not zero, which is few for {clusters} clusters"
    table, _ = kmeans(live, max(1, min(clusters - zero, len(distinct))), init, rng)
    shared: Any = table.astype(np.float32)
    for form, own, alive in zip(forms, values, kept, strict=True):
        every = np.zeros(own.shape, np.int32)
        every[alive] = nearest(table, own[alive]) + (form.mask is not None)
        form.set_clusters(shared, every)
        shared = form.table
    return ""


def kmeans(values: Any, clusters: int, init: str = "linear",
           rng: Any = None) -> tuple[Any, Any]:
    """Lloyd's algorithm in one dimension.

    Args:
        values: Float array of one axis, with at least `clusters` distinct values.
        clusters: How many.
        init: As in `recipe.Cluster`.
        rng: For `kmeans++`; the others have no chance in them.

    Returns:
        The centers, ascending, and the number of its center for each value.
    """
    import numpy as np

    ordered = np.sort(values)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centers = start(ordered, clusters, init, rng)
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
    return centers, nearest(centers, values)


def nearest(centers: Any, values: Any) -> Any:
    """The number of the nearest center (they ascend) for each value, int32."""
    import numpy as np

    return np.searchsorted((centers[1:] + centers[:-1]) / 2, values).astype(np.int32)


def start(ordered: Any, clusters: int, init: str, rng: Any = None) -> Any:
    """The first centers, ascending, for values in ascending order."""
    import numpy as np

    if init == "density":
        return np.quantile(ordered, (np.arange(clusters) + 0.5) / clusters)
    if init == "linear":
        return np.linspace(ordered[0], ordered[-1], clusters)
    rng = np.random.default_rng(0) if rng is None else rng
    drawn = ordered if len(ordered) <= MOST else np.sort(rng.choice(ordered, MOST, replace=False))
    centers = [rng.choice(drawn)]
    apart = np.square(drawn - centers[0])
    while len(centers) < clusters and apart.any():
        centers.append(rng.choice(drawn, p=apart / apart.sum()))
        apart = np.minimum(apart, np.square(drawn - centers[-1]))
    return np.sort(np.array(centers))


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
