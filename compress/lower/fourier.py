"""Fourier transforms of constant length as products with constant matrices.

Not every runtime has complex numbers. Where the graph takes the real or imaginary part of a
complex tensor, both parts are computed from what that tensor was made of.
"""

from __future__ import annotations

from collections.abc import Callable

from . import static

MOST = 4096  # a matrix of more values a side would outweigh the model


def _matrices(n: int, bins: int, sign: int):
    """Real and imaginary part of exp(sign 2 pi i j k / n), shape (n, bins) each."""
    import numpy as np

    turns = np.outer(np.arange(n), np.arange(bins)) % n
    angle = sign * 2 * np.pi * turns / n
    return np.cos(angle).astype("float32"), np.sin(angle).astype("float32")


def _times(x, matrix):
    """x @ matrix over the last axis, for x of any rank."""
    import tensorflow as tf

    flat = tf.matmul(tf.reshape(x, [-1, matrix.shape[0]]), tf.constant(matrix))
    return tf.reshape(flat, [*x.shape[:-1], matrix.shape[1]])


def _transform(real, imaginary, sign: int):
    n = real.shape[-1]
    cos, sin = _matrices(n, n, sign)
    scale = 1.0 / n if sign > 0 else 1.0
    return (scale * (_times(real, cos) - _times(imaginary, sin)),
            scale * (_times(real, sin) + _times(imaginary, cos)))


def _length(op) -> int | None:
    known = static.value(op.inputs[1])
    return None if known is None else int(known.reshape(-1)[0])


def parts(tensor):
    """(real, imaginary) of a complex tensor of static shape, or None if it is not known how."""
    import tensorflow as tf

    op = getattr(tensor, "op", None)
    if op is None or not tensor.shape.is_fully_defined() or max([1, *tensor.shape]) > MOST:
        return None
    if op.type == "Complex":
        return tuple(op.inputs)
    if op.type == "RFFT":
        x, n = op.inputs[0], _length(op)
        if n is None:
            return None
        room = max(0, n - x.shape[-1])
        x = tf.pad(x[..., :n], [[0, 0]] * (x.shape.rank - 1) + [[0, room]]) \
            if n != x.shape[-1] else x
        return tuple(_times(x, m) for m in _matrices(n, n // 2 + 1, -1))
    if op.type in ("FFT", "IFFT"):
        inner = parts(op.inputs[0])
        return inner and _transform(*inner, -1 if op.type == "FFT" else 1)
    if op.type in ("FFT2D", "IFFT2D"):
        inner, sign = parts(op.inputs[0]), -1 if op.type == "FFT2D" else 1
        if inner is None:
            return None
        rank = tensor.shape.rank
        swap = [*range(rank - 2), rank - 1, rank - 2]
        first = _transform(*inner, sign)
        second = _transform(*(tf.transpose(t, swap) for t in first), sign)
        return tuple(tf.transpose(t, swap) for t in second)
    if op.type in ("Identity", "Reshape", "Transpose", "Squeeze", "ExpandDims"):
        inner = parts(op.inputs[0])
        if inner is None:
            return None
        if op.type == "Transpose":
            order = static.value(op.inputs[1])
            return None if order is None else tuple(tf.transpose(t, order) for t in inner)
        return tuple(tf.reshape(t, tensor.shape) for t in inner)
    return None


def _part(which: int) -> Callable:
    def rule(input, **_):
        found = parts(input)
        return None if found is None else found[which]
    return rule


def _irfft(input, fft_length, **_):
    """The inverse of RFFT: every bin but the first and the middle one stands for two."""
    import numpy as np
    import tensorflow as tf

    found, known = parts(input), static.value(fft_length)
    if found is None or known is None:
        return None
    n = int(known.reshape(-1)[0])
    bins = n // 2 + 1
    if found[0].shape[-1] != bins:
        return None
    cos, sin = (m.T for m in _matrices(n, bins, 1))
    weight = np.full((bins, 1), 2.0 / n, np.float32)
    weight[0] = 1.0 / n
    if n % 2 == 0:
        weight[-1] = 1.0 / n
    real, imaginary = (tf.convert_to_tensor(t) for t in found)
    return _times(real, weight * cos) - _times(imaginary, weight * sin)


def _absolute(x, **_):
    import tensorflow as tf

    found = parts(x)
    return None if found is None else tf.sqrt(found[0] * found[0] + found[1] * found[1])


RULES: dict[str, Callable] = {"Real": _part(0), "Imag": _part(1), "IRFFT": _irfft,
                              "ComplexAbs": _absolute}
