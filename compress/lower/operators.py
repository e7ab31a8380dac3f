"""TensorFlow operators that TFLite lacks, as equal formulas in operators that it has.

`RULES` maps an operator's name to a function of its raw inputs and attributes (as in
`tf.raw_ops`) that returns its output(s), or None to leave it as it is.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable

from . import convolution, integers, linear, projective, resample, static

LACKING = "TFLite has no such operator"
IN_BROWSERS = "not every backend of TensorFlow.js has the operator, or has it right"
UNQUANTIZED = "the operator has no integer form, its equal has"
_kept: contextvars.ContextVar[frozenset] = contextvars.ContextVar("kept", default=frozenset())


@contextlib.contextmanager
def _keep(*names: str):
    """Leave these operators alone for a while: a rule may use its own operator."""
    token = _kept.set(_kept.get() | set(names))
    try:
        yield
    finally:
        _kept.reset(token)


def patches(record, fuse: bool = True, more: dict[str, Callable] | None = None) -> list[tuple]:
    """The one place through which TensorFlow adds operators to a graph by name."""
    from tensorflow.python.framework import op_def_library

    rules = RULES | (more or {})

    def make(original: Callable) -> Callable:
        def apply(op_type_name, name=None, **arguments):
            rule = rules.get(op_type_name)
            if rule is None or op_type_name in _kept.get() or (
                    fuse and op_type_name in ("Erf", "Erfc") and _in_gelu(arguments["x"])):
                return original(op_type_name, name=name, **arguments)
            with _keep(op_type_name):
                result = rule(**arguments)
            if result is None:
                return original(op_type_name, name=name, **arguments)
            why = UNQUANTIZED if rule in integers.RULES.values() else LACKING
            record.add(op_type_name, IN_BROWSERS if op_type_name in (more or {}) else why)
            if hasattr(result, "outputs"):  # an operation, which has no results
                return None, False, result, result
            outputs = list(result) if isinstance(result, (tuple, list)) else [result]
            return None, False, outputs[0].op, outputs
        return apply

    return [(op_def_library, "_apply_op_helper", make)]


def _in_gelu(x) -> bool:
    """Whether x is something times or over the square root of 2, as in exact gelu."""
    op = getattr(x, "op", None) if hasattr(x, "graph") else None
    if op is None or op.type not in ("Mul", "RealDiv"):
        return False
    factors = [static.value(t) for t in op.inputs]
    return any(f is not None and f.size == 1 and abs(abs(float(f.reshape(-1)[0])) - wanted) < 1e-6
               for f in factors for wanted in (2 ** 0.5, 0.5 ** 0.5))


def _polynomial(x, coefficients):
    """Horner's scheme, highest power first."""
    result = coefficients[0]
    for c in coefficients[1:]:
        result = result * x + c
    return result


def _softsign(features, **_):
    import tensorflow as tf

    features = tf.convert_to_tensor(features)
    return features / (1.0 + tf.abs(features))


def _erfc_of_positive(x):
    """erfc for x >= 0, to 1.5e-7 (Abramowitz and Stegun, Handbook, formula 7.1.26)."""
    import tensorflow as tf

    t = 1.0 / (1.0 + 0.3275911 * x)
    p = _polynomial(t, (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592, 0.0))
    return p * tf.exp(-x * x)


def _erf(x, **_):
    import tensorflow as tf

    x = tf.convert_to_tensor(x)
    return tf.sign(x) * (1.0 - _erfc_of_positive(tf.abs(x)))


def _erfc(x, **_):
    import tensorflow as tf

    x = tf.convert_to_tensor(x)
    tail = _erfc_of_positive(tf.abs(x))
    return tf.where(x < 0, 2.0 - tail, tail)


def _erfinv(x, **_):
    """M. Giles, Approximating the erfinv function (GPU Computing Gems, 2011), single precision."""
    import tensorflow as tf

    x = tf.convert_to_tensor(x)
    w = -tf.math.log((1.0 - x) * (1.0 + x))
    near = _polynomial(w - 2.5, (
        2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
        -0.00125372503, -0.00417768164, 0.246640727, 1.50140941))
    far = _polynomial(tf.sqrt(tf.maximum(w, 5.0)) - 3.0, (
        -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773,
        -0.0076224613, 0.00943887047, 1.00167406, 2.83297682))
    return tf.where(w < 5.0, near, far) * x


def _of_x(formula: Callable) -> Callable:
    def rule(x, **_):
        import tensorflow as tf

        return formula(tf, tf.convert_to_tensor(x))
    return rule


def _cumprod(x, axis, exclusive=False, reverse=False, **_):
    """Products over doubling distances: log2(n) multiplications instead of n."""
    import tensorflow as tf

    x = tf.convert_to_tensor(x)
    axis = int(static.value(axis)) % x.shape.rank
    n = x.shape[axis]
    x = tf.reverse(x, [axis]) if reverse else x

    def shifted(t, by):
        before = [by if i == axis else d for i, d in enumerate(t.shape)]
        kept = tf.gather(t, list(range(n - by)), axis=axis) if by < n else None
        ones = tf.ones(before, t.dtype)
        return ones if kept is None else tf.concat([ones, kept], axis)

    x = shifted(x, 1) if exclusive else x
    by = 1
    while by < n:
        x = x * shifted(x, by)
        by *= 2
    return tf.reverse(x, [axis]) if reverse else x


def _cross(a, b, **_):
    import tensorflow as tf

    a1, a2, a3 = tf.unstack(tf.convert_to_tensor(a), axis=-1)
    b1, b2, b3 = tf.unstack(tf.convert_to_tensor(b), axis=-1)
    return tf.stack([a2 * b3 - a3 * b2, a3 * b1 - a1 * b3, a1 * b2 - a2 * b1], axis=-1)


def _diagonal(input, k, padding_value=0, **_):
    """One diagonal of a matrix: a gather at constant places of the flattened matrix."""
    import numpy as np
    import tensorflow as tf

    x = tf.convert_to_tensor(input)
    offsets = np.unique(static.value(k))
    if len(offsets) != 1 or not x.shape[-2:].is_fully_defined():
        return None
    rows, columns = x.shape[-2:]
    places = [r * columns + r + offsets[0] for r in range(rows) if 0 <= r + offsets[0] < columns]
    flat = tf.reshape(x, [*x.shape[:-2], rows * columns])
    return tf.gather(flat, np.asarray(places, np.int32), axis=-1)


def _bit_and(x, y, **_):
    """x & y = (x + y - (x ^ y)) / 2, halved before adding so that nothing overflows."""
    import tensorflow as tf

    x, y = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
    if x.dtype == tf.bool or not x.dtype.is_integer:
        return None
    odd = (tf.math.floormod(x, 2) + tf.math.floormod(y, 2)
           - tf.math.floormod(tf.bitwise.bitwise_xor(x, y), 2)) // 2
    half = (tf.math.floordiv(x, 2) + tf.math.floordiv(y, 2)
            - tf.math.floordiv(tf.bitwise.bitwise_xor(x, y), 2))
    return half + odd


def _bit_or(x, y, **_):
    import tensorflow as tf

    x, y = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
    return tf.bitwise.bitwise_xor(x, y) + tf.bitwise.bitwise_and(x, y)


def _invert(x, **_):
    import tensorflow as tf

    x = tf.convert_to_tensor(x)
    return None if x.dtype.is_unsigned else -1 - x


def _left_shift(x, y, **_):
    import tensorflow as tf

    shift = static.value(y)
    x = tf.convert_to_tensor(x)
    return None if shift is None else x * tf.constant(2 ** shift.astype("int64"), x.dtype)


def _length(size) -> int | None:
    """The size of a bincount; where it follows the data, the bound given as min- or maxlength."""
    known = static.value(size)
    if known is not None:
        return int(known)
    op = getattr(size, "op", None)
    if op is None or op.type not in ("Minimum", "Maximum"):
        return None
    bounds = [static.value(t) for t in op.inputs]
    return next((int(b) for b in bounds if b is not None), None)


def _dense_bincount(input, size, weights, binary_output=False, **_):
    """Counts as the sum of one-hot rows; values outside 0..size-1 count nowhere, as in TF."""
    import tensorflow as tf

    size = _length(size)
    if size is None:
        return None
    x, weights = tf.convert_to_tensor(input), tf.convert_to_tensor(weights)
    hot = tf.cast(tf.equal(x[..., None], tf.range(size, dtype=x.dtype)), tf.float32)
    if weights.shape.num_elements():
        hot = hot * tf.cast(weights, tf.float32)[..., None]
    counts = tf.reduce_max(hot, -2) if binary_output else tf.reduce_sum(hot, -2)
    return tf.cast(counts, weights.dtype)


def _table_find(table_handle, keys, default_value, **_):
    """A lookup of integers compares with every key of the table."""
    import numpy as np
    import tensorflow as tf

    keys = tf.convert_to_tensor(keys)
    default = tf.convert_to_tensor(default_value)
    if not keys.dtype.is_integer or not default.dtype.is_integer:
        return None
    if not isinstance(table_handle, tf.__internal__.EagerTensor):
        return None
    with tf.init_scope():
        known, values = tf.raw_ops.LookupTableExportV2(
            table_handle=table_handle, Tkeys=keys.dtype, Tvalues=default.dtype)
        known, values, least = known.numpy(), values.numpy(), int(static.value(default))
    # One multiplication per key in float32 would lose large values; int32 does not.
    equal = tf.cast(tf.equal(tf.cast(keys, tf.int32)[..., None], known.astype(np.int32)), tf.int32)
    found = tf.reduce_sum(equal * (values - least).astype(np.int32), -1) + least
    return tf.cast(found, default.dtype)


def _bound(strict: bool) -> Callable:
    """Where a value would be inserted: how many sorted values come before it."""
    def rule(sorted_inputs, values, out_type=None, **_):
        import tensorflow as tf

        known, x = tf.convert_to_tensor(sorted_inputs), tf.convert_to_tensor(values)
        known, x = known[:, None, :], x[:, :, None]
        before = known < x if strict else known <= x
        return tf.reduce_sum(tf.cast(before, out_type or tf.int32), -1)
    return rule


def _rgb_to_hsv(images, **_):
    import tensorflow as tf

    x = tf.convert_to_tensor(images)
    r, g, b = tf.split(x, 3, -1)
    value = tf.maximum(tf.maximum(r, g), b)
    spread = value - tf.minimum(tf.minimum(r, g), b)
    some = spread > 0
    safe = tf.where(some, spread, tf.ones_like(spread))
    hue = tf.where(tf.equal(value, r), (g - b) / safe,
                   tf.where(tf.equal(value, g), (b - r) / safe + 2.0, (r - g) / safe + 4.0)) / 6.0
    hue = tf.where(some, tf.where(hue < 0, hue + 1.0, hue), tf.zeros_like(hue))
    saturation = tf.where(value > 0, spread / tf.where(value > 0, value, tf.ones_like(value)),
                          tf.zeros_like(value))
    return tf.concat([hue, saturation, value], -1)


def _integer_matmul(x, y, Tout=None, adj_x=False, adj_y=False, **_):  # the operator's own names
    """Keras's int8 layers multiply integers; as floats that is exact up to sums of 2^24."""
    import tensorflow as tf

    x, y = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
    if not x.dtype.is_integer or x.dtype.size > 1:
        return None
    product = tf.matmul(tf.cast(x, tf.float32), tf.cast(y, tf.float32), adjoint_a=adj_x,
                        adjoint_b=adj_y)
    return tf.cast(tf.round(product), Tout or tf.int32)


def _sinh(tf, x):
    return (tf.exp(x) - tf.exp(-x)) * 0.5


RULES: dict[str, Callable] = {
    "Softsign": _softsign,
    "Erf": _erf,
    "Erfc": _erfc,
    "Erfinv": _erfinv,
    "Tan": _of_x(lambda tf, x: tf.sin(x) / tf.cos(x)),
    "Asin": _of_x(lambda tf, x: tf.atan2(x, tf.sqrt((1.0 - x) * (1.0 + x)))),
    "Acos": _of_x(lambda tf, x: tf.atan2(tf.sqrt((1.0 - x) * (1.0 + x)), x)),
    "Atan": _of_x(lambda tf, x: tf.atan2(x, tf.ones_like(x))),
    "Sinh": _of_x(_sinh),
    "Cosh": _of_x(lambda tf, x: (tf.exp(x) + tf.exp(-x)) * 0.5),
    "Asinh": _of_x(lambda tf, x: tf.sign(x) * tf.math.log(
        tf.abs(x) + tf.sqrt(x * x + 1.0))),
    "Acosh": _of_x(lambda tf, x: tf.math.log(x + tf.sqrt((x - 1.0) * (x + 1.0)))),
    "Atanh": _of_x(lambda tf, x: 0.5 * tf.math.log((1.0 + x) / (1.0 - x))),
    "Cumprod": _cumprod,
    "Cross": _cross,
    "BatchMatMulV3": _integer_matmul,
    "MatrixDiagPartV3": _diagonal,
    "BitwiseAnd": _bit_and,
    "BitwiseOr": _bit_or,
    "Invert": _invert,
    "LeftShift": _left_shift,
    "DenseBincount": _dense_bincount,
    "LookupTableFindV2": _table_find,
    "LowerBound": _bound(strict=True),
    "UpperBound": _bound(strict=False),
    "RGBToHSV": _rgb_to_hsv,
    **convolution.RULES,
    **integers.RULES,
    **linear.RULES,
    **projective.RULES,
    **resample.RULES,
}
