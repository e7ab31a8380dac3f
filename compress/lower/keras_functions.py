"""Functions of Keras's TensorFlow backend that are rewritten as a whole."""

from __future__ import annotations

from collections.abc import Callable

from . import convolution


def patches(record) -> list[tuple]:
    """`(owner, attribute, original -> replacement)` for `lowering`."""
    import tensorflow as tf
    from keras.src.backend.tensorflow import nn, numpy, random

    return [
        (nn, "conv", lambda original: _conv(original, record)),
        (nn, "conv_transpose", lambda original: _conv_transpose(original, record)),
        (numpy, "argmax", lambda original: _arg("argmax")),
        (numpy, "argmin", lambda original: _arg("argmin")),
        (tf.math, "bincount", lambda original: _bincount(original, record)),
        (random, "normal", lambda original: _normal(record)),
        (random, "uniform", lambda original: _uniform(record)),
    ]


WHY_DRAWN = "no runtime but TensorFlow has generators whose state is a variable"


def _normal(record) -> Callable:
    """Random numbers by the generator that every runtime has: other ones at each call."""
    def normal(shape, mean=0.0, stddev=1.0, dtype=None, seed=None):
        import tensorflow as tf

        record.add("random.normal -> RandomStandardNormal", WHY_DRAWN)
        return _drawn(tf.random.normal, shape, dtype) * stddev + mean
    return normal


def _uniform(record) -> Callable:
    def uniform(shape, minval=0.0, maxval=1.0, dtype=None, seed=None):
        import tensorflow as tf

        record.add("random.uniform -> RandomUniform", WHY_DRAWN)
        return _drawn(tf.random.uniform, shape, dtype) * (maxval - minval) + minval
    return uniform


def _drawn(draw: Callable, shape, dtype):
    import tensorflow as tf
    from keras.src.backend import floatx

    kind = tf.as_dtype(dtype or floatx())
    return tf.cast(draw(tf.convert_to_tensor(shape, tf.int32), dtype=tf.float32, seed=1), kind)


def _conv(original: Callable, record) -> Callable:
    """Without XLA, and 3-D dilation without the batch trick of `tf.nn.convolution`."""
    def conv(inputs, kernel, strides=1, padding="valid", data_format=None, dilation_rate=1):
        import tensorflow as tf
        from keras.src.backend import standardize_data_format

        rank = len(inputs.shape)
        last = standardize_data_format(data_format) == "channels_last"
        if rank == 3 and not last:
            out = conv(tf.transpose(inputs, (0, 2, 1)), kernel, strides, padding, "channels_last",
                       dilation_rate)
            return tf.transpose(out, (0, 2, 1))
        if rank != 5 and last and inputs.shape[-1] != kernel.shape[-2]:
            return tf.nn.convolution(  # groups: Keras would put them into a function for XLA
                inputs, _value(kernel), _tuple(strides, rank - 2), padding.upper(),
                data_format="NWC" if rank == 3 else "NHWC",
                dilations=_tuple(dilation_rate, rank - 2))
        if rank != 5 and last:
            return original(inputs, kernel, strides, padding, data_format, dilation_rate)
        if rank == 4 and _tuple(dilation_rate, 2) == (1, 1):
            return tf.nn.conv2d(inputs, _value(kernel), list(_tuple(strides, 2)), padding.upper(),
                                data_format="NCHW")
        if rank == 5:
            edge = [[1], []] if last else [[1, 1], []]
            wide = [1] if last else []
            return tf.raw_ops.Conv3D(
                input=inputs, filter=_value(kernel),
                strides=[*edge[0], *_tuple(strides, 3), *wide], padding=padding.upper(),
                data_format="NDHWC" if last else "NCDHW",
                dilations=[*edge[0], *_tuple(dilation_rate, 3), *wide])
        out = conv(tf.transpose(inputs, (0, 2, 3, 1)), kernel, strides, padding, "channels_last",
                   dilation_rate)
        return tf.transpose(out, (0, 3, 1, 2))
    return conv


def _conv_transpose(original: Callable, record) -> Callable:
    """Dilation as zeros between the kernel's values."""
    def conv_transpose(inputs, kernel, strides=1, padding="valid", output_padding=None,
                       data_format=None, dilation_rate=1):
        import tensorflow as tf

        spatial = len(inputs.shape) - 2
        dilations = _tuple(dilation_rate, spatial)
        if max(dilations) > 1:
            kernel = _spread(tf.convert_to_tensor(_value(kernel)), dilations)
            record.add("dilated transposed convolution", "written as a kernel with zeros between")
        return original(inputs, kernel, strides, padding, output_padding, data_format, 1)
    return conv_transpose


def _spread(kernel, dilations):
    """Put `d - 1` zeros between a kernel's values along each spatial axis."""
    for axis, d in enumerate(dilations):
        kernel = convolution.spaced(kernel, axis, d)
    return kernel


def _tuple(value, n: int) -> tuple[int, ...]:
    return (value,) * n if isinstance(value, int) else tuple(value)


def _value(kernel):
    return kernel.value if hasattr(kernel, "value") and not callable(kernel.value) else kernel


def _arg(name: str) -> Callable:
    """Keras's own looks at the sign bit of zeros; TFLite's ARG_MAX and ARG_MIN are the rest."""
    def arg(x, axis=None, keepdims=False):
        import tensorflow as tf

        x = tf.convert_to_tensor(x)
        rank = x.shape.rank
        if x.dtype == tf.bool:
            x = tf.cast(x, tf.int32)
        flat = tf.reshape(x, [-1]) if axis is None else x
        found = getattr(tf, name)(flat, axis=0 if axis is None else axis, output_type=tf.int32)
        if not keepdims:
            return found
        return tf.reshape(found, [1] * rank) if axis is None else tf.expand_dims(found, axis)
    return arg


def _bincount(original: Callable, record) -> Callable:
    """Its length would depend on the data; in TFLite it is `maxlength` or else `minlength`."""
    def bincount(arr, weights=None, minlength=None, maxlength=None, dtype=None, name=None,
                 axis=None, binary_output=False):
        import tensorflow as tf

        length = maxlength or minlength
        dtype = dtype or tf.int32
        if not length or isinstance(arr, (tf.SparseTensor, tf.RaggedTensor)):
            return original(arr, weights, minlength, maxlength, dtype, name, axis, binary_output)
        x = tf.cast(arr, tf.int32)
        x = tf.reshape(x, [-1]) if axis is None else x
        hot = tf.cast(tf.equal(x[..., None], tf.range(int(length))), tf.float32)
        if weights is not None:
            weights = tf.convert_to_tensor(weights)
            dtype = weights.dtype
            hot = hot * tf.cast(tf.reshape(weights, x.shape), tf.float32)[..., None]
        record.add("bincount", "written as a sum of one-hot rows of a fixed length")
        count = tf.reduce_max if binary_output else tf.reduce_sum
        return tf.cast(count(hot, axis=-2), dtype)
    return bincount
