"""Operators that some backend of TensorFlow.js lacks, as equal formulas in what all have."""

from __future__ import annotations

import math
from collections.abc import Callable

from . import convolution, fourier, static


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


def _conv3d_transpose(input_sizes, filter, out_backprop, strides, padding, data_format="NDHWC",
                      dilations=None, **_):
    """A convolution with the mirrored kernel over the input with zeros between its values."""
    import tensorflow as tf

    x, kernel = tf.convert_to_tensor(out_backprop), tf.convert_to_tensor(filter)
    sizes = static.value(input_sizes)
    if convolution._text(data_format) != "NDHWC":
        return convolution.RULES["Conv3DBackpropInputV2"](
            input_sizes=input_sizes, filter=filter, out_backprop=out_backprop, strides=strides,
            padding=padding, data_format=data_format, dilations=dilations)
    if sizes is None or not x.shape.is_fully_defined() or max(dilations or [1]) > 1:
        return None
    pads = [[0, 0]]
    for axis in (1, 2, 3):
        stride, window, wanted = strides[axis], kernel.shape[axis - 1], int(sizes[axis])
        before = 0
        if convolution._text(padding) == "SAME":
            before = convolution._same_padding(wanted, window, stride)[0]
        x = convolution.spaced(x, axis, stride)
        first = window - 1 - before
        pads.append([first, wanted + window - 1 - first - x.shape[axis]])
    if any(n < 0 for pair in pads for n in pair):
        return None
    x = tf.pad(x, [*pads, [0, 0]])
    mirrored = tf.transpose(tf.reverse(kernel, [0, 1, 2]), [0, 1, 2, 4, 3])
    return tf.nn.conv3d(x, mirrored, [1] * 5, "VALID")


def _one_hot(indices, depth, on_value, off_value, axis=-1, **_):
    """By comparing: the wasm kernel takes 64-bit indices for 32-bit ones."""
    import tensorflow as tf

    indices, count = tf.convert_to_tensor(indices), static.value(depth)
    if count is None:
        return None
    rank = indices.shape.rank
    axis = rank if axis == -1 else axis
    places = tf.range(int(count), dtype=tf.int32)
    places = tf.reshape(places, [-1, *[1] * (rank - axis)])
    hot = tf.equal(tf.expand_dims(tf.cast(indices, tf.int32), axis), places)
    on, off = tf.convert_to_tensor(on_value), tf.convert_to_tensor(off_value)
    return tf.where(hot, on, off)


def _mask(rows: int, columns: int, offset: int):
    import numpy as np

    return np.eye(rows, columns, offset, dtype=bool)


def _one_diagonal(k) -> int | None:
    """The diagonal meant by `k`, if it is one and known."""
    known = static.value(k)
    if known is None or len(set(known.reshape(-1).tolist())) != 1:
        return None
    return int(known.reshape(-1)[0])


def _spread_diagonal(diagonal, rows: int, columns: int, offset: int):
    """A matrix that has `diagonal` there, and anything elsewhere."""
    import tensorflow as tf

    before, length = max(0, -offset), diagonal.shape[-1]
    wide = tf.pad(diagonal, [[0, 0]] * (diagonal.shape.rank - 1)
                  + [[before, rows - before - length]])
    return tf.broadcast_to(wide[..., None], [*wide.shape, columns])


def _matrix_diag(diagonal, k, num_rows, num_cols, padding_value, **_):
    import tensorflow as tf

    x, offset = tf.convert_to_tensor(diagonal), _one_diagonal(k)
    sizes = [static.value(n) for n in (num_rows, num_cols)]
    if offset is None or not x.shape.is_fully_defined() or any(n is None for n in sizes):
        return None
    length = x.shape[-1]
    if max(map(int, sizes)) < 0:  # square
        sizes = [length + abs(offset)] * 2
    rows, columns = (int(n) if int(n) >= 0 else length + extra for n, extra in zip(
        sizes, (max(0, -offset), max(0, offset)), strict=True))
    return tf.where(_mask(rows, columns, offset), _spread_diagonal(x, rows, columns, offset),
                    tf.cast(padding_value, x.dtype))


def _matrix_set_diag(input, diagonal, k, **_):
    import tensorflow as tf

    x, new, offset = tf.convert_to_tensor(input), tf.convert_to_tensor(diagonal), _one_diagonal(k)
    if offset is None or not x.shape.is_fully_defined() or not new.shape.is_fully_defined():
        return None
    rows, columns = x.shape[-2:]
    return tf.where(_mask(rows, columns, offset), _spread_diagonal(new, rows, columns, offset), x)


def _segment_sum(data, segment_ids, num_segments, **_):
    """A product with the one-hot rows of the segments; rows of negative segments count nowhere."""
    import tensorflow as tf

    x, count = tf.convert_to_tensor(data), static.value(num_segments)
    ids = tf.convert_to_tensor(segment_ids)
    if count is None or ids.shape.rank != 1 or not x.shape.is_fully_defined() \
            or not x.dtype.is_floating:
        return None
    hot = tf.cast(tf.equal(tf.range(int(count))[:, None], tf.cast(ids, tf.int32)[None]), x.dtype)
    flat = tf.matmul(hot, tf.reshape(x, [x.shape[0], -1]))
    return tf.reshape(flat, [int(count), *x.shape[1:]])


def _cumsum(x, axis, exclusive=False, reverse=False, **_):
    """With the axis counted from the front: the wasm kernel takes no other."""
    import tensorflow as tf

    known, x = static.value(axis), tf.convert_to_tensor(x)
    if known is None or int(known) >= 0 or x.shape.rank is None:
        return None
    return tf.cumsum(x, int(known) + x.shape.rank, exclusive, reverse)


def _bucketize(input, boundaries, **_):
    """How many boundaries a value has reached."""
    import tensorflow as tf

    x = tf.convert_to_tensor(input)
    edges = tf.constant(list(boundaries), tf.float32)
    reached = tf.cast(x, tf.float32)[..., None] >= edges
    return tf.reduce_sum(tf.cast(reached, tf.int32), -1)


def _roll(input, shift, axis, **_):
    import tensorflow as tf

    x, shifts, axes = tf.convert_to_tensor(input), static.value(shift), static.value(axis)
    if shifts is None or axes is None or not x.shape.is_fully_defined():
        return None
    for by, at in zip(shifts.reshape(-1), axes.reshape(-1), strict=True):
        size = x.shape[int(at)]
        if size and (cut := size - int(by) % size) < size:
            x = tf.concat(tf.split(x, [cut, size - cut], int(at))[::-1], int(at))
    return x


def _space_to_depth(input, block_size, data_format="NHWC", **_):
    import tensorflow as tf

    x = tf.convert_to_tensor(input)
    if convolution._text(data_format) != "NHWC" or not x.shape.is_fully_defined():
        return None
    batch, height, width, channels = x.shape
    high, wide = height // block_size, width // block_size
    # Axes of a transposition stop at six: rows are cut first, columns with the channels after.
    x = tf.reshape(x, [batch * high, block_size, wide, block_size * channels])
    x = tf.transpose(x, [0, 2, 1, 3])
    return tf.reshape(x, [batch, high, wide, block_size * block_size * channels])


def _update_slice(input, update, indices, **_):
    """The new part with room around it, chosen where it is."""
    import numpy as np
    import tensorflow as tf

    x, new, start = tf.convert_to_tensor(input), tf.convert_to_tensor(update), static.value(
        indices)
    if start is None or not x.shape.is_fully_defined() or not new.shape.is_fully_defined():
        return None
    start = np.clip(start, 0, np.subtract(x.shape, new.shape))
    pads = [[int(s), int(n - s - m)] for s, n, m in zip(start, x.shape, new.shape, strict=True)]
    inside = np.pad(np.ones(new.shape, bool), pads)
    return tf.where(inside, tf.pad(new, pads), x)


def _band_part(input, num_lower, num_upper, **_):
    import numpy as np
    import tensorflow as tf

    x = tf.convert_to_tensor(input)
    lower, upper = static.value(num_lower), static.value(num_upper)
    if lower is None or upper is None or not x.shape[-2:].is_fully_defined():
        return None
    rows, columns = x.shape[-2:]
    off = np.arange(columns)[None] - np.arange(rows)[:, None]
    kept = ((lower < 0) | (-off <= lower)) & ((upper < 0) | (off <= upper))
    return tf.where(kept, x, tf.zeros([], x.dtype))


def _conv2d(input, filter, **arguments):
    """Groups as convolutions side by side."""
    import tensorflow as tf

    x, kernel = tf.convert_to_tensor(input), tf.convert_to_tensor(filter)
    first = convolution._text(arguments.get("data_format", "NHWC")) == "NCHW"
    channels = x.shape[1 if first else -1]
    if first or channels is None or channels == kernel.shape[2]:
        return convolution.RULES["Conv2D"](input=input, filter=filter, **arguments)
    groups = channels // kernel.shape[2]
    arguments.pop("name", None)
    return tf.concat([tf.raw_ops.Conv2D(input=xi, filter=ki, **arguments) for xi, ki in zip(
        tf.split(x, groups, -1), tf.split(kernel, groups, -1), strict=True)], -1)


def _bias_add(value, bias, data_format="NHWC", **_):
    """The runtime does not look at the format."""
    import tensorflow as tf

    x, bias = tf.convert_to_tensor(value), tf.convert_to_tensor(bias)
    if convolution._text(data_format) != "NCHW":
        return None
    return tf.add(x, tf.reshape(bias, [-1, *[1] * (x.shape.rank - 2)]))


def _add(x, y, **_):
    """A bias as a vector: the converter fuses it with the convolution, whatever its rank."""
    import tensorflow as tf

    x, y = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
    for one, other in ((x, y), (y, x)):
        wide, narrow = one.shape, other.shape
        if wide.rank and wide.rank == narrow.rank and narrow.rank > 2 \
                and narrow.is_fully_defined() and wide != narrow \
                and narrow[-1] > 1 and set(narrow[:-1]) == {1}:
            vector = tf.reshape(other, [narrow[-1]])
            return tf.add(one, vector)
    return None


def _assign(**_):
    """A page keeps nothing from call to call: a stateful layer starts anew, as after a reset."""
    import tensorflow as tf

    return tf.no_op()


def _power_of_two(known) -> int | None:
    """The one number in `known`, if it is a power of two."""
    if known is None or not known.size or len(set(known.reshape(-1).tolist())) != 1:
        return None
    number = int(known.reshape(-1)[0])
    return number if number > 0 and number & (number - 1) == 0 else None


def _right_shift(x, y, **_):
    import tensorflow as tf

    x, by = tf.convert_to_tensor(x), static.value(y)
    step = None if by is None else _power_of_two(2 ** by.astype("int64"))
    if step is None:
        return None
    return tf.cast(tf.math.floordiv(tf.cast(x, tf.int32), step), x.dtype)


def _xor(x, y, **_):
    """One bit turned: taken away where it is set, added where it is not."""
    import tensorflow as tf

    x, bit = tf.convert_to_tensor(x), _power_of_two(static.value(y))
    if bit is None:
        return None
    wide = tf.cast(x, tf.int32)
    is_set = tf.math.floormod(tf.math.floordiv(wide, bit), 2)
    return tf.cast(wide + bit - 2 * bit * is_set, x.dtype)


def _and(x, y, **_):
    """The low bits are a remainder; other masks stay: all backends but WebGPU have them."""
    import tensorflow as tf

    x, known = tf.convert_to_tensor(x), static.value(y)
    step = None if known is None else _power_of_two(known.astype("int64") + 1)
    if step is None:
        return tf.raw_ops.BitwiseAnd(x=x, y=y)
    return tf.cast(tf.math.floormod(tf.cast(x, tf.int32), step), x.dtype)


RULES: dict[str, Callable] = {
    "AssignVariableOp": _assign,
    "BitwiseAnd": _and,
    "BitwiseXor": _xor,
    "RightShift": _right_shift,
    "Add": _add,
    "AddV2": _add,
    "BiasAdd": _bias_add,
    "Conv2D": _conv2d,
    "Bucketize": _bucketize,
    "MatrixBandPart": _band_part,
    "Roll": _roll,
    "SpaceToDepth": _space_to_depth,
    "XlaDynamicUpdateSlice": _update_slice,
    "Cumsum": _cumsum,
    "Einsum": _einsum,
    "Conv3DBackpropInputV2": _conv3d_transpose,
    "OneHot": _one_hot,
    "MatrixDiagV3": _matrix_diag,
    "MatrixSetDiagV3": _matrix_set_diag,
    "UnsortedSegmentSum": _segment_sum,
    **fourier.RULES,
}
