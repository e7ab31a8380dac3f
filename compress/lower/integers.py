"""Equal formulas in operators for which TFLite and its quantizers have integer kernels."""

from __future__ import annotations

import math
from collections.abc import Callable

LONGEST_POOL = 4096


def patches(record) -> list[tuple]:
    """`(owner, attribute, original -> replacement)` for `lowering`."""
    import keras
    from keras.src.backend.tensorflow import nn
    from keras.src.ops import nn as nn_ops

    L = keras.layers
    return [
        (nn_ops, "_layer_normalization", _layer_normalization),
        (L.GroupNormalization, "_apply_normalization", _group_normalization),
        (L.PReLU, "call", _prelu),
        (L.Softmax, "call", _softmax_of_axes),
        (nn, "leaky_relu", _leaky_relu),
        (nn, "adaptive_average_pool", lambda original: _adaptive(original, "average")),
        (nn, "adaptive_max_pool", lambda original: _adaptive(original, "max")),
    ]


def _normalized(x, axes, epsilon, gamma, beta):
    """(x - mean) first: x * a - mean * a would subtract two large numbers in integers."""
    import tensorflow as tf

    centered = x - tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean(centered * centered, axes, keepdims=True)
    y = centered * tf.math.rsqrt(variance + epsilon)
    y = y if gamma is None else y * gamma
    return y if beta is None else y + beta


def _layer_normalization(original: Callable) -> Callable:
    def layer_normalization(x, gamma=None, beta=None, axis=-1, epsilon=None, rms_scaling=False):
        import tensorflow as tf
        from keras.src import backend

        if rms_scaling:
            return original(x, gamma, beta, axis, epsilon, rms_scaling)
        x = tf.cast(x, tf.float32)
        axes = sorted(a % x.shape.rank for a in ([axis] if isinstance(axis, int) else axis))
        shape = [d if i in axes else 1 for i, d in enumerate(x.shape)]

        def spread(v):
            if v is None:
                return None
            v = tf.cast(backend.convert_to_tensor(v), tf.float32)
            return v if axes == [x.shape.rank - 1] else tf.reshape(v, shape)

        epsilon = backend.epsilon() if epsilon is None else epsilon
        return _normalized(x, axes, epsilon, spread(gamma), spread(beta))
    return layer_normalization


def _group_normalization(original: Callable) -> Callable:
    def apply_normalization(self, reshaped_inputs, input_shape):
        import tensorflow as tf

        x = tf.cast(reshaped_inputs, tf.float32)
        axes = list(range(1, x.shape.rank))
        axes.pop(-2 if self.axis == -1 else self.axis - 1)
        shape = self._create_broadcast_shape(input_shape)
        gamma = tf.reshape(tf.convert_to_tensor(self.gamma), shape) if self.scale else None
        beta = tf.reshape(tf.convert_to_tensor(self.beta), shape) if self.center else None
        return _normalized(x, axes, self.epsilon, gamma, beta)
    return apply_normalization


def _prelu(original: Callable) -> Callable:
    """alpha x + (1 - alpha) relu(x): PRELU itself is not among the quantizer's operators."""
    def call(self, inputs):
        import tensorflow as tf

        alpha = tf.convert_to_tensor(self.alpha)
        return inputs * alpha + tf.nn.relu(inputs) * (1.0 - alpha)
    return call


def _leaky_relu(original: Callable) -> Callable:
    """As a maximum where that is equal: it has integer kernels and quantizers know it."""
    def leaky_relu(x, negative_slope=0.2):
        import tensorflow as tf

        x = tf.convert_to_tensor(x)
        if 0 <= negative_slope <= 1:
            return tf.maximum(x, negative_slope * x)
        return original(x, negative_slope)
    return leaky_relu


def _softmax_of_axes(original: Callable) -> Callable:
    """A softmax over several axes is one over those axes laid end to end."""
    def call(self, inputs, mask=None):
        import tensorflow as tf

        axes = self.axis
        if not isinstance(axes, (tuple, list)) or len(axes) < 2 or mask is not None:
            return original(self, inputs, mask)
        rank = inputs.shape.rank
        last = [a % rank for a in axes]
        order = [a for a in range(rank) if a not in last] + last
        moved = tf.transpose(inputs, order)
        kept = moved.shape[:rank - len(last)]
        y = tf.nn.softmax(tf.reshape(moved, [*kept, math.prod(moved.shape[rank - len(last):])]))
        back = [order.index(a) for a in range(rank)]
        return tf.transpose(tf.reshape(y, moved.shape), back)
    return call


def _adaptive(original: Callable, kind: str) -> Callable:
    """Windows of one size are plain pooling; averages of uneven ones are a constant matrix."""
    def adaptive_pool(inputs, output_size, data_format=None):
        import tensorflow as tf
        from keras.src.backend import standardize_data_format

        spatial = inputs.shape.rank - 2
        sizes = (output_size,) * spatial if isinstance(output_size, int) else tuple(output_size)
        first = standardize_data_format(data_format) == "channels_first"
        to_last = [0, *range(2, spatial + 2), 1]
        to_first = [0, spatial + 1, *range(1, spatial + 1)]
        x = tf.transpose(inputs, to_last) if first else inputs
        lengths = x.shape[1:-1]
        if all(n is not None and n % out == 0 for n, out in zip(lengths, sizes, strict=True)):
            window = [n // out for n, out in zip(lengths, sizes, strict=True)]
            y = tf.nn.pool(x, window, {"average": "AVG", "max": "MAX"}[kind], window, "VALID")
        elif kind == "average" and x.shape.is_fully_defined():
            y = x
            for axis, out in enumerate(sizes, 1):
                y = along(y, axis, _averages(y.shape[axis], out))
        else:
            return original(inputs, output_size, data_format)
        return tf.transpose(y, to_first) if first else y
    return adaptive_pool


def _averages(n: int, out: int):
    """The matrix (out, n) whose rows average n * i / out up to n * (i + 1) / out, rounded out."""
    import numpy as np

    matrix = np.zeros((out, n), np.float32)
    for i in range(out):
        start, end = (i * n) // out, -(-(i + 1) * n // out)
        matrix[i, start:end] = 1.0 / (end - start)
    return matrix


def along(x, axis: int, matrix):
    """Multiply one axis of `x` by a constant matrix (out, in), as a fully connected layer."""
    import tensorflow as tf

    rank = x.shape.rank
    order = [a for a in range(rank) if a != axis] + [axis]
    moved = tf.transpose(x, order)
    flat = tf.reshape(moved, [-1, matrix.shape[1]])
    y = tf.matmul(flat, tf.constant(matrix.T.copy()))
    y = tf.reshape(y, [*moved.shape[:-1], matrix.shape[0]])
    return tf.transpose(y, [order.index(a) for a in range(rank)])


def _maximum_of(input, reduction_indices, keep_dims=False, **_):
    """The maximum over neighbouring axes is a pooling window that covers them."""
    import tensorflow as tf

    from . import static

    x = tf.convert_to_tensor(input)
    axes = static.value(reduction_indices)
    if axes is None or not x.dtype.is_floating or not x.shape.is_fully_defined():
        return None
    axes = sorted({int(a) % x.shape.rank for a in axes.reshape(-1)})
    if not axes or axes != list(range(axes[0], axes[-1] + 1)):
        return None
    length = math.prod(x.shape[axes[0]:axes[-1] + 1])
    outer, inner = math.prod(x.shape[:axes[0]]), math.prod(x.shape[axes[-1] + 1:])
    if not 0 < length <= LONGEST_POOL or not outer or not inner:
        return None
    y = tf.nn.max_pool2d(tf.reshape(x, [outer, length, 1, inner]), [length, 1], 1, "VALID")
    shape = [1 if i in axes else d for i, d in enumerate(x.shape) if keep_dims or i not in axes]
    return tf.reshape(y, shape)


def _reverse(tensor, axis, **_):
    """A reversal of one axis is a gather, which quantizers know."""
    import tensorflow as tf

    from . import static

    x = tf.convert_to_tensor(tensor)
    axes = static.value(axis)
    if axes is None or axes.size != 1 or not x.dtype.is_floating:
        return None
    axis = int(axes.reshape(-1)[0]) % x.shape.rank
    n = x.shape[axis]
    return None if n is None else tf.gather(x, list(range(n))[::-1], axis=axis)


RULES: dict[str, Callable] = {"Max": _maximum_of, "ReverseV2": _reverse}
