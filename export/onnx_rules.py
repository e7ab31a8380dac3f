"""TensorFlow operators that tf2onnx lacks or gets wrong, as equal formulas that it takes.

Used while a model is traced: an operator in `RULES` is replaced as it is added to the graph. A rule
is a function of the operator's raw inputs and attributes (as in `tf.raw_ops`) that returns its
output, or None to leave it as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

WHY = "tf2onnx has no such operator"


@contextlib.contextmanager
def rewriting() -> Iterator[list[dict]]:
    """Replace operators as a graph is traced; yields the list of what was rewritten."""
    import tensorflow as tf
    from tensorflow.python.framework import op_def_library

    original = op_def_library._apply_op_helper
    found: dict[str, dict] = {}
    busy: set[str] = set()

    def apply(op_type_name, name=None, **arguments):
        rule = RULES.get(op_type_name)
        if rule is None or op_type_name in busy:
            return original(op_type_name, name=name, **arguments)
        busy.add(op_type_name)
        try:
            result = rule(**arguments)
        finally:
            busy.discard(op_type_name)
        if result is None:
            return original(op_type_name, name=name, **arguments)
        found.setdefault(op_type_name, {"what": op_type_name, "why": WHY, "layers": []})
        outputs = list(result) if isinstance(result, (tuple, list)) else [result]
        return None, False, outputs[0].op, outputs

    rewrites: list[dict] = []
    function = tf.function
    op_def_library._apply_op_helper = apply
    tf.function = _uncompiled(function)
    try:
        yield rewrites
    finally:
        op_def_library._apply_op_helper = original
        tf.function = function
        rewrites.extend(found.values())


def _uncompiled(original: Callable) -> Callable:
    """`tf.function` without XLA: what is to be compiled is not inlined into the graph."""
    def function(func=None, **options):
        return original(func, **{k: v for k, v in options.items() if k != "jit_compile"})
    return function


def _of_x(formula: Callable) -> Callable:
    def rule(x, **_):
        import tensorflow as tf

        return formula(tf, tf.convert_to_tensor(x))
    return rule


def _log1p(tf, x):
    """As an inverse hyperbolic tangent where 1 + x would lose digits."""
    return tf.where(tf.abs(x) < 0.5, 2.0 * tf.math.atanh(x / (2.0 + x)), tf.math.log(1.0 + x))


def _bucketize(input, boundaries, **_):
    """In which interval a value lies: how many boundaries do not exceed it."""
    import tensorflow as tf

    x = tf.cast(input, tf.float32)[..., None]
    return tf.reduce_sum(tf.cast(x >= tf.constant(boundaries, tf.float32), tf.int32), -1)


def _bound(strict: bool) -> Callable:
    """Where a value would be inserted: how many sorted values come before it."""
    def rule(sorted_inputs, values, out_type=None, **_):
        import tensorflow as tf

        known, x = tf.convert_to_tensor(sorted_inputs), tf.convert_to_tensor(values)
        known, x = known[:, None, :], x[:, :, None]
        before = known < x if strict else known <= x
        return tf.reduce_sum(tf.cast(before, tf.int32), -1)
    return rule


def _update_slice(input, update, indices, **_):
    import numpy as np
    import tensorflow as tf

    x, update, start = (tf.convert_to_tensor(t) for t in (input, update, indices))
    start = tf.get_static_value(start)
    if start is None or not update.shape.is_fully_defined():
        return None
    places = np.moveaxis(np.indices(update.shape), 0, -1) + start
    return tf.tensor_scatter_nd_update(x, places.astype(np.int64), update)


def _parts(x):
    """Real and imaginary part of what a rule made, or None."""
    op = getattr(x, "op", None)
    return (op.inputs[0], op.inputs[1]) if op is not None and op.type == "Complex" else None


def _real(input, **_):  # the operators' own name
    parts = _parts(input)
    return parts and parts[0]


def _imag(input, **_):
    parts = _parts(input)
    return parts and parts[1]


def _magnitude(x, **_):
    import tensorflow as tf

    parts = _parts(x)
    return None if parts is None else tf.sqrt(tf.square(parts[0]) + tf.square(parts[1]))


def _waves(size: int, count: int):
    """Cosines and sines, (size, count), of a discrete Fourier transform's first frequencies."""
    import numpy as np

    turns = np.outer(np.arange(size), np.arange(count)) % size * (2 * np.pi / size)
    return np.cos(turns).astype(np.float32), np.sin(turns).astype(np.float32)


def _rfft(input, fft_length, **_):
    """The transform of real values as two products with constant matrices."""
    import tensorflow as tf

    size = tf.get_static_value(fft_length)
    x = tf.convert_to_tensor(input)
    if size is None or x.shape[-1] is None:
        return None
    size = int(size[0])
    x = x[..., :size]
    cosines, sines = _waves(size, size // 2 + 1)
    given = x.shape[-1]  # fewer than `size` values are followed by zeros
    return tf.complex(tf.tensordot(x, cosines[:given], 1), tf.tensordot(x, -sines[:given], 1))


def _fft(input, **_):
    import tensorflow as tf

    parts, size = _parts(input), input.shape[-1]
    if parts is None or size is None:
        return None
    (a, b), (cosines, sines) = parts, _waves(size, size)
    return tf.complex(tf.tensordot(a, cosines, 1) + tf.tensordot(b, sines, 1),
                      tf.tensordot(b, cosines, 1) - tf.tensordot(a, sines, 1))


RULES: dict[str, Callable] = {
    "Erfc": _of_x(lambda tf, x: 1.0 - tf.math.erf(x)),
    "Expm1": _of_x(lambda tf, x: tf.tanh(x / 2.0) * (tf.exp(x) + 1.0)),
    "Log1p": _of_x(_log1p),
    "Bucketize": _bucketize,
    "LowerBound": _bound(strict=True),
    "UpperBound": _bound(strict=False),
    "XlaDynamicUpdateSlice": _update_slice,
    "RFFT": _rfft,
    "FFT": _fft,
    "Real": _real,
    "Imag": _imag,
    "ComplexAbs": _magnitude,
}
# What `compress.lower` would write out for TFLite though ONNX has it.
KNOWN = ("Softsign", "Erf", "Erfc", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh",
         "Atanh", "Conv2D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "Conv3D",
         "Conv3DBackpropInputV2", "MaxPool", "AvgPool", "MaxPool3D", "AvgPool3D")
