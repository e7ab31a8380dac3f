"""Magnitude pruning: which weights become zero, and when.

The schedule is that of M. Zhu and S. Gupta, "To prune, or not to prune" (arXiv 1710.01878).
"""

from __future__ import annotations

from typing import Any

from ...errors import UsageError
from . import kernels, recipe
from .kernels import Kernel

RAMP = 0.5  # of the steps; the rest trains with the final masks
UPDATES = 20  # of the masks


def ramp(stage: recipe.Prune, steps: int) -> int:
    """The number of steps (or epochs) over which the sparsity grows."""
    return 0 if stage.schedule == "constant" else round(RAMP * steps)


def sparsity_at(stage: recipe.Prune, step: int, steps: int) -> float:
    """The share of zeros that a schedule asks for at `step` of `steps`.

    Polynomial: s (1 - (1 - t)^3) with t from 0 to 1 over the ramp.
    """
    growing = ramp(stage, steps)
    done = min(1.0, step / growing) if growing else 1.0
    return stage.sparsity * (1 - (1 - done) ** 3)


def shares(model: Any, stage: recipe.Prune) -> dict[int, float]:
    """The share of zeros in the end, by identity of the variable, where it is not `sparsity`.

    Raises:
        UsageError: A pattern of `per_layer` takes no layer.
    """
    found: dict[int, float] = {}
    for layers, share in (stage.per_layer or {}).items():
        taken, _ = kernels.find(model, layers, True)
        if not taken:
            raise UsageError(f"prune: per_layer[{layers!r}] takes no layer of the model",
                             "`tfcompress inspect` lists its layers")
        found |= {id(k.variable): float(share) for k in taken}
    return found


def grow(forms: list, stage: recipe.Prune, own: dict[int, float], step: int, steps: int) -> None:
    """Set the masks of some forms as the schedule has them at `step`; `own` is from `shares`."""
    done = sparsity_at(stage, step, steps) / stage.sparsity
    for form in forms:
        variable = form.kernel.variable
        share = done * own.get(id(variable), stage.sparsity)
        form.set_mask(mask(form.kernel, variable.numpy(), stage.pattern, share))


def masks_at(stage: recipe.Prune, step: int, steps: int) -> bool:
    """Whether the masks are to be set anew before this step: twenty times on the ramp."""
    growing = ramp(stage, steps)
    return step <= growing and (step in (0, growing) or step % max(1, growing // UPDATES) == 0)


def mask(kernel: Kernel, values: Any, pattern: str, sparsity: float) -> Any:
    """Ones where weights stay and zeros where they go, float32 in the kernel's shape.

    Args:
        kernel: Its layout.
        values: Its weights, an array.
        pattern: As in `recipe.Prune`.
        sparsity: Share of zeros; not used by `n:m`.
    """
    import numpy as np

    size = np.abs(kernel.matrix(np.asarray(values, np.float32)))
    match = recipe.PATTERN.fullmatch(pattern)
    if match[1]:
        kept = _n_of_m(size, int(match[1]), int(match[2]))
    elif match[3]:
        kept = _blocks(size, int(match[3]), int(match[4]), sparsity)
    else:
        kept = _largest(size.ravel(), sparsity).reshape(size.shape)
    return kernel.unmatrix(kept.astype(np.float32))


def _largest(size: Any, sparsity: float) -> Any:
    """True for all but the smallest; of equal ones the earlier go first."""
    import numpy as np

    drop = round(sparsity * size.size)
    kept = np.ones(size.size, bool)
    if drop:
        edge = np.partition(size, drop - 1)[drop - 1]
        kept[size < edge] = False
        ties = np.flatnonzero(size == edge)
        kept[ties[:drop - np.count_nonzero(~kept)]] = False
    return kept


def _n_of_m(size: Any, n: int, m: int) -> Any:
    """The n largest of each m consecutive inputs; a last, shorter group counts as filled up."""
    import numpy as np

    rows, columns = size.shape
    padded = np.pad(size, ((0, 0), (0, -columns % m)), constant_values=-1)
    groups = padded.reshape(-1, m)
    order = np.argsort(-groups, axis=1, kind="stable")
    kept = np.zeros(groups.shape, bool)
    np.put_along_axis(kept, order[:, :n], True, axis=1)
    return kept.reshape(padded.shape)[:, :columns]


def _blocks(size: Any, high: int, wide: int, sparsity: float) -> Any:
    """Whole blocks go, those with the smallest mean; blocks at the edges may be smaller."""
    import numpy as np

    rows, columns = size.shape
    padded = np.pad(size, ((0, -rows % high), (0, -columns % wide)))
    inside = np.pad(np.ones(size.shape), ((0, -rows % high), (0, -columns % wide)))

    def sums(a: Any) -> Any:
        return a.reshape(a.shape[0] // high, high, a.shape[1] // wide, wide).sum((1, 3))

    means = sums(padded) / sums(inside)
    kept = _largest(means.ravel(), sparsity).reshape(means.shape)
    return np.kron(kept, np.ones((high, wide)))[:rows, :columns] > 0
