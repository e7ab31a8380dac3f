"""What an operation without weights does to channels, found out by trying it.

An operation keeps channels apart if it makes no difference whether channels are taken out before
it or after it: f(x[keep]) = f(x)[keep], with `keep` along the labelled axis. That is tried with
random tensors and several choices of what to keep. It holds for activations, additions, pooling,
padding, resizing, transposing and reductions over other axes, and for operations of the user's own;
it does not for a softmax over channels, a sort, or whatever else makes channels meet.
"""

from __future__ import annotations

import math
from typing import Any

from .groups import NotUnderstood, along

BATCH = 3
SIDE = 12  # of free dimensions, and of large ones in a first attempt
KNOWN = 0.05  # of the results must be numbers: a logarithm has none for negative ones
UNSURE = ("lambda", '"function"', " at 0x", "...")  # in a description that is not the whole
LARGEST = 1 << 24  # values in a tensor that is tried


def follow(graph: Any, call: Any, given: list[dict]) -> list[dict]:
    """Labels of the outputs of `call`.

    Raises:
        NotUnderstood: The operation has weights, or labelled channels meet in it.
    """
    if _has_state(call.op):
        raise NotUnderstood(f"channels are not followed through {type(call.op).__name__}")
    results: list[dict] = [{} for _ in call.results]
    for first, labels in enumerate(given):
        for axis in list(labels):
            if any(_same(call, i, first, axis) in given[i] for i in range(first)):
                continue  # was tried with the earlier input
            size, name = call.shapes[first][axis], type(call.op).__name__
            for tied in _ties(call, given, first, axis):
                found = _probe(graph, call, tied, size)
                if isinstance(found, list):
                    break
            if isinstance(found, str):
                for i, a in tied:
                    graph.atoms.freeze(along(given[i], a, size), f"{call.op.name}: {found} {name}")
                continue
            for i, a in tied:
                if i != first:
                    graph.atoms.unite(labels[axis], along(given[i], a, size),
                                      f"{call.op.name}: joined in {name} with what stays")
            for out, place in zip(results, found, strict=True):
                if place is not None:
                    out[place] = labels[axis]
    return results


def _ties(call: Any, given: list[dict], first: int, axis: int) -> list[tuple]:
    """Which axes of which inputs shrink together: those laid over each other, or labelled ones."""
    places = [(i, _same(call, i, first, axis)) for i in range(len(given))]
    every = tuple((i, a) for i, a in places if a is not None)
    labelled = tuple((i, a) for i, a in every if a in given[i])
    return list(dict.fromkeys([every, labelled]))


def _same(call: Any, i: int, first: int, axis: int) -> int | None:
    """The axis of input `i` that broadcasting lays over `axis` of input `first`; None if 1."""
    shape, size = call.shapes[i], call.shapes[first][axis]
    place = axis if i == first else axis - len(call.shapes[first]) + len(shape)
    return place if 0 < place < len(shape) and shape[place] == size else None


def _has_state(op: Any) -> bool:
    return any("seed" not in v.path for v in getattr(op, "variables", []))


def _probe(graph: Any, call: Any, tied: tuple, size: int) -> list[int | None] | str:
    """For each output the axis of the channels, None where it has none; or why they stay."""
    key, known = _key(call, tied)
    known = _KNOWN if known else graph.probed
    if key not in known:
        found: Any = "the number of channels is fixed in"
        for side in (SIDE, None):
            try:
                found = _try(call, tied, size, side) or "channels meet in"
                break
            except Exception:  # of whatever kind: the operation is the user's too
                continue
        known[key] = found
    return known[key]


_KNOWN: dict[tuple, Any] = {}  # what Keras's own operations do, in whatever model


def _key(call: Any, tied: tuple) -> tuple[Any, bool]:
    """Equal for calls that do the same; and whether that holds beyond this model."""
    import json

    if type(call.op).__module__.startswith("keras."):
        config = {k: v for k, v in call.op.get_config().items() if k != "name"}
        text = json.dumps(config, sort_keys=True, default=repr)
        text += repr(call.fill([None] * len(call.shapes)))
        if not any(part in text for part in UNSURE):
            return (type(call.op), text, call.shapes, call.dtypes, tied), True
    return (id(call.op), call.shapes, tied), False


def _try(call: Any, tied: tuple, size: int, side: int | None) -> list[int | None] | None:
    import numpy as np

    rng = np.random.default_rng(0)
    tensors = []
    for i, shape in enumerate(call.shapes):
        held = {a for j, a in tied if j == i}
        dims = [BATCH if a == 0 and d is None else (d or SIDE) if side is None or a in held
                else min(d or side, side) for a, d in enumerate(shape)]
        if math.prod(dims) > LARGEST:
            return None
        tensors.append(_random(rng, dims, call.dtypes[i]))
    whole = _run(call, tensors)
    axes: list[int | None] | None = None
    for keep in _choices(rng, size):
        fewer = list(tensors)
        for i, a in tied:
            fewer[i] = np.take(fewer[i], keep, axis=a)
        part = _run(call, fewer)
        found = [_axis(w, p, keep, size) for w, p in zip(whole, part, strict=True)]
        if any(a == "meet" for a in found) or (axes is not None and found != axes):
            return None
        axes = found
    return axes


def _axis(whole: Any, part: Any, keep: Any, size: int) -> Any:
    """The axis along which `part` is `whole[keep]`; None if they are equal; else `meet`."""
    import numpy as np

    if whole.shape == part.shape:
        return None if np.array_equal(whole, part, equal_nan=True) else "meet"
    if whole.ndim != part.ndim:
        return "meet"
    changed = [a for a in range(whole.ndim) if whole.shape[a] != part.shape[a]]
    if len(changed) != 1 or whole.shape[changed[0]] != size:
        return "meet"
    wanted = np.take(whole, keep, axis=changed[0])
    if wanted.shape != part.shape:
        return "meet"
    known = np.isfinite(wanted)
    if known.mean() < KNOWN:
        return "meet"
    scale = 1e-5 * max(1.0, float(np.abs(wanted[known]).max(initial=0)))
    same = np.allclose(wanted, part, rtol=1e-4, atol=scale, equal_nan=True)
    return changed[0] if same else "meet"


def _choices(rng: Any, size: int) -> list:
    """What to keep of `size` channels: odd ones, even ones, and some at random."""
    import numpy as np

    if size < 2:
        return []
    some = np.sort(rng.choice(size, max(1, size // 3), replace=False))
    return [np.arange(1, size, 2), np.arange(0, size, 2), some][:3 if size > 2 else 2]


def _random(rng: Any, dims: list[int], dtype: str) -> Any:
    if dtype == "bool":
        return rng.random(dims) < 0.5
    if "int" in dtype:
        return rng.integers(0, 3, dims).astype(dtype)
    return rng.normal(0, 1, dims).astype("float32" if "float" in dtype else dtype)


def _run(call: Any, tensors: list) -> list:
    """The outputs as float arrays. `call` is used, not `__call__`: no shape was promised."""
    import inspect

    import keras
    import numpy as np

    values = [keras.ops.convert_to_tensor(t, dtype=d)
              for t, d in zip(tensors, call.dtypes, strict=True)]
    args, kwargs = call.fill(values)
    if "training" in inspect.signature(call.op.call).parameters:
        kwargs = kwargs | {"training": False}
    results = keras.tree.flatten(call.op.call(*args, **kwargs))
    return [np.asarray(keras.ops.convert_to_numpy(r)).astype("float64") for r in results]


def separate(graph: Any, activation: Any) -> bool:
    """Whether an activation function or layer treats each channel on its own."""
    import keras
    import numpy as np

    key = "activation", id(activation)
    if key not in graph.probed:
        rng = np.random.default_rng(0)
        whole, keep = rng.normal(0, 2, (BATCH, 7)).astype("float32"), np.array([1, 2, 5])

        def run(x: Any) -> Any:
            return keras.ops.convert_to_numpy(activation(keras.ops.convert_to_tensor(x)))

        try:
            graph.probed[key] = bool(np.allclose(run(whole)[:, keep], run(whole[:, keep]),
                                                 rtol=1e-4, atol=1e-5))
        except Exception:  # of whatever kind: the function is the user's
            graph.probed[key] = False
    return graph.probed[key]
