"""Operators that some backend of TensorFlow.js lacks, as equal formulas in what all have."""

from __future__ import annotations

import math
from collections.abc import Callable


def _einsum(inputs, equation, **_):
    """A contraction of two tensors of known shapes as one batched matrix product."""
    import tensorflow as tf

    equation = equation.decode() if isinstance(equation, bytes) else equation
    terms, _, output = equation.replace(" ", "").partition("->")
    names = terms.split(",")
    shapes = [t.shape for t in inputs]
    if len(names) != 2 or "." in equation or any(len(set(n)) < len(n) for n in names) \
            or not all(s.is_fully_defined() for s in shapes):
        return None
    left, right = names
    size = {c: int(n) for name, s in zip(names, shapes, strict=True)
            for c, n in zip(name, s, strict=True)}
    batch = [c for c in output if c in left and c in right]
    inner = [c for c in left if c in right and c not in output]
    rows = [c for c in left if c in output and c not in right]
    columns = [c for c in right if c in output and c not in left]
    if set(left) | set(right) != {*batch, *inner, *rows, *columns}:
        return None  # a sum over one side alone

    def flat(tensor, name: str, *groups: list[str]):
        order = [name.index(c) for group in groups for c in group]
        tensor = tensor if order == sorted(order) else tf.transpose(tensor, order)
        return tf.reshape(tensor, [math.prod(size[c] for c in group) for group in groups])

    product = tf.matmul(flat(inputs[0], left, batch, rows, inner),
                        flat(inputs[1], right, batch, inner, columns))
    have = [*batch, *rows, *columns]
    product = tf.reshape(product, [size[c] for c in have])
    order = [have.index(c) for c in output]
    return product if order == sorted(order) else tf.transpose(product, order)


RULES: dict[str, Callable] = {"Einsum": _einsum}
