"""Image resampling that TFLite lacks. It is linear and separable: two constant matrices.

The matrix of one axis is what the operator itself makes of a unit matrix.
"""

from __future__ import annotations

from collections.abc import Callable

from . import static
from .integers import along


def _apply(images, rows, columns):
    """Multiply height by `rows` (out, in) and width by `columns` (out, in)."""
    import tensorflow as tf

    return along(along(tf.cast(images, tf.float32), 1, rows), 2, columns)


def _resize(operator: str) -> Callable:
    def rule(images, size, align_corners=False, half_pixel_centers=None, **_):
        import tensorflow as tf

        images = tf.convert_to_tensor(images)
        wanted = static.value(size)
        if wanted is None or not images.shape.is_fully_defined():
            return None
        options = {"align_corners": align_corners}
        if half_pixel_centers is not None:
            options["half_pixel_centers"] = half_pixel_centers

        def matrix(n, out):
            with tf.init_scope():
                eye = tf.reshape(tf.eye(n), [1, n, 1, n])
                made = getattr(tf.raw_ops, operator)(images=eye, size=[int(out), 1], **options)
                return made.numpy().reshape(int(out), n)

        return _apply(images, *(matrix(images.shape[i + 1], wanted[i]) for i in (0, 1)))
    return rule


def _scale_and_translate(images, size, scale, translation, kernel_type="lanczos3",
                         antialias=True, **_):
    import tensorflow as tf

    images = tf.convert_to_tensor(images)
    wanted, scales, shifts = (static.value(v)
                              for v in (size, scale, translation))
    if any(v is None for v in (wanted, scales, shifts)) or not images.shape.is_fully_defined():
        return None

    def matrix(axis):
        n, out = images.shape[axis + 1], int(wanted[axis])
        with tf.init_scope():
            made = tf.raw_ops.ScaleAndTranslate(
                images=tf.reshape(tf.eye(n), [1, n, 1, n]), size=[out, 1],
                scale=[float(scales[axis]), 1.0], translation=[float(shifts[axis]), 0.0],
                kernel_type=kernel_type, antialias=antialias)
            return made.numpy().reshape(out, n)

    return _apply(images, matrix(0), matrix(1))


RULES: dict[str, Callable] = {
    "ResizeBicubic": _resize("ResizeBicubic"),
    "ResizeArea": _resize("ResizeArea"),
    "ScaleAndTranslate": _scale_and_translate,
}
