"""Projective image transforms: four pixels gathered for each pixel of the result, and weighed."""

from __future__ import annotations

from collections.abc import Callable

from . import static
from .convolution import _text


def _into(mode: str, x, size: int):
    """Coordinates outside an image, as TensorFlow's kernel reflects, wraps or clips them."""
    import tensorflow as tf

    if mode == "REFLECT":
        turns = tf.math.floormod(x, 2.0 * size)
        turns = tf.where(turns >= size, 2.0 * size - turns - 1.0, turns)
        return tf.clip_by_value(turns, 0.0, size - 1.0)
    if mode == "WRAP":
        last = max(size - 1.0, 1.0)
        turns = tf.where(x < 0, tf.floor(-x / last) + 1.0, -tf.floor(x / last))
        outside = (x < 0) | (x > size - 1.0)
        return tf.clip_by_value(tf.where(outside, x + size * turns, x), 0.0, size - 1.0)
    return tf.clip_by_value(x, 0.0, size - 1.0) if mode == "NEAREST" else x


def _transform(images, transforms, output_shape, fill_value=0.0, interpolation="NEAREST",
               fill_mode="CONSTANT", **_):
    """Pixel (x, y) of the result is the image at (a0 x + a1 y + a2, b0 x + b1 y + b2) / k.

    The eight numbers of a transform are a0, a1, a2, b0, b1, b2, c0, c1; k is c0 x + c1 y + 1.
    """
    import numpy as np
    import tensorflow as tf

    images, matrix = tf.convert_to_tensor(images), tf.convert_to_tensor(transforms)
    size = static.value(output_shape)
    if size is None or not images.shape[1:].is_fully_defined() or matrix.shape[0] is None:
        return None
    if matrix.shape[0] not in (1, images.shape[0]):
        return None
    height, width, channels = images.shape[1:]
    mode = _text(fill_mode)
    fill = tf.cast(fill_value, tf.float32)
    ys, xs = (g.reshape(1, -1).astype(np.float32) for g in np.indices(tuple(map(int, size))))
    a0, a1, a2, b0, b1, b2, c0, c1 = (matrix[:, i:i + 1] for i in range(8))
    k = c0 * xs + c1 * ys + 1.0
    x = _into(mode, (a0 * xs + a1 * ys + a2) / k, width)
    y = _into(mode, (b0 * xs + b1 * ys + b2) / k, height)
    flat = tf.reshape(tf.cast(images, tf.float32), [-1, height * width, channels])

    def read(row, column):
        """The pixels there, (batch, places, channels)."""
        inside = (row >= 0) & (row <= height - 1) & (column >= 0) & (column <= width - 1)
        place = tf.cast(tf.clip_by_value(row, 0.0, height - 1.0) * width
                        + tf.clip_by_value(column, 0.0, width - 1.0), tf.int32)
        if matrix.shape[0] == 1:
            pixels = tf.gather(flat, place[0], axis=1)
        else:
            pixels = tf.gather(flat, place, batch_dims=1)
        return tf.where(inside[..., None], pixels, fill)

    if _text(interpolation) == "NEAREST":
        found = read(tf.round(y), tf.round(x))
    else:
        top, left = tf.floor(y), tf.floor(x)
        down, right = (y - top)[..., None], (x - left)[..., None]
        above = (1.0 - right) * read(top, left) + right * read(top, left + 1.0)
        below = (1.0 - right) * read(top + 1.0, left) + right * read(top + 1.0, left + 1.0)
        found = (1.0 - down) * above + down * below
    return tf.cast(tf.reshape(found, [-1, *map(int, size), channels]), images.dtype)


RULES: dict[str, Callable] = {"ImageProjectiveTransformV3": _transform}
