"""How much each channel matters, by its weights, its BatchNormalization, or the loss.

- `magnitude`: the squared length of a channel's kernels, over that layer's mean.
- `batchnorm`: the squared scale of its BatchNormalization, over the mean (arXiv 1708.06519).
- `taylor`: what the loss is expected to change when the channel goes, |sum of gradient times
  weight|, over batches of data (arXiv 1906.10771; at BatchNormalization where there is one).

Channels that are removed together are judged together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

GATES = ("gamma", "folded", "norm")


def scores(graph: Any, roots: Any, kind: str, run: Callable, batches: list,
           loss: Callable | None) -> Any:
    """Importance by atom, at the places of the atoms that stand for united ones.

    Args:
        graph: A `channels.Channels`.
        roots: Atom -> the atom that stands for it; int array.
        kind: `magnitude`, `batchnorm` or `taylor`.
        run: Input tensors in order -> outputs in order, at inference.
        batches: `(input tensors, labels or None)` each, for `taylor`.
        loss: `(outputs, labels)` -> a scalar; None squares the outputs.

    Returns:
        Float array of one value per atom, not negative.

    Raises:
        Exception: Whatever `taylor` cannot get through; ValueError where gradients do not reach a
            kernel, or are not finite.
    """
    if kind == "taylor":
        return _taylor(graph, roots, run, batches, loss)
    sizes = _relative(graph, roots, ("kernel",), _squares)
    if kind == "magnitude":
        return sizes
    import numpy as np

    scales = _relative(graph, roots, ("gamma",), _squares)
    return np.where(scales > 0, scales, sizes)


def _squares(weight: Any, axis: int) -> Any:
    import numpy as np

    values = np.asarray(weight.variable.numpy(), np.float64)
    others = tuple(a for a in range(values.ndim) if a != axis)
    return np.square(values).sum(axis=others)


def _made(weight: Any, kinds: tuple[str, ...]) -> list[int]:
    if weight.variable is None or weight.kind not in kinds:
        return []
    return [a for a, role in weight.roles.items() if role != "in"]


def _relative(graph: Any, roots: Any, kinds: tuple[str, ...], value: Callable) -> Any:
    """The mean over all weights of a channel of `value` relative to its layer's mean."""
    import numpy as np

    total, count = np.zeros(len(roots)), np.zeros(len(roots))
    for weight in graph.weights.values():
        for axis in _made(weight, kinds):
            atoms, found = weight.labels[axis], value(weight, axis)
            found = found / max(found.mean(), 1e-30)
            known = atoms >= 0
            np.add.at(total, roots[atoms[known]], found[known])
            np.add.at(count, roots[atoms[known]], 1)
    return total / np.maximum(count, 1)


def _taylor(graph: Any, roots: Any, run: Callable, batches: list, loss: Callable | None) -> Any:
    import numpy as np
    import tensorflow as tf

    mine = [w for w in graph.weights.values() if _made(w, ("kernel", "bias", *GATES))]
    gates, others = np.zeros(len(roots)), np.zeros(len(roots))
    for inputs, labels in batches:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([w.variable.value for w in mine])
            outputs = run(inputs)
            value = loss(outputs, labels) if loss else _power(outputs)
        found = tape.gradient(value, [w.variable.value for w in mine])
        far = [w.op.name for w, g in zip(mine, found, strict=True)
               if w.kind == "kernel" and g is None]
        if far:
            raise ValueError(f"none reaches {far[0]}")
        for op_id in dict.fromkeys(id(w.op) for w in mine):
            parts = [(w, g) for w, g in zip(mine, found, strict=True)
                     if id(w.op) == op_id and g is not None]
            change = _change(parts, roots)
            (gates if any(w.kind in GATES for w, _ in parts) else others).__iadd__(change)
    if not (np.isfinite(gates).all() and np.isfinite(others).all()):
        raise ValueError("they are not finite")
    return np.where(gates > 0, gates, others)


def _power(outputs: list) -> Any:
    import tensorflow as tf

    return tf.add_n([tf.reduce_mean(tf.square(tf.cast(o, tf.float32))) for o in outputs
                     if o.dtype.is_floating])


def _change(parts: list, roots: Any) -> Any:
    """|sum of gradient times weight| per channel, over the weights of one layer."""
    import numpy as np
    import tensorflow as tf

    total = np.zeros(len(roots))
    for weight, gradient in parts:
        product = np.asarray(weight.variable.numpy(), np.float64) * np.asarray(
            tf.convert_to_tensor(gradient), np.float64)
        for axis in _made(weight, ("kernel", "bias", *GATES)):
            others = tuple(a for a in range(product.ndim) if a != axis)
            atoms, each = weight.labels[axis], product.sum(axis=others)
            np.add.at(total, roots[atoms[atoms >= 0]], each[atoms >= 0])
    return np.abs(total)
