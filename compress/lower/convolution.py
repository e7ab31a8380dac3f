"""Convolution and pooling that TFLite's runtime lacks: channels first, groups, 3-D.

Three-dimensional windows are decomposed into two-dimensional ones, which the runtime has in
float and in integers.
"""

from __future__ import annotations

from collections.abc import Callable

from . import static

TO_LAST = {4: (0, 2, 3, 1), 5: (0, 2, 3, 4, 1)}
TO_FIRST = {4: (0, 3, 1, 2), 5: (0, 4, 1, 2, 3)}


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _channels_last(operator: str, data: str) -> Callable:
    """Wrap a channels-first operator in transposes; None when it is channels-last already."""
    def rule(**arguments):
        import tensorflow as tf

        order = _text(arguments.get("data_format", "NHWC"))
        if order.index("C") != 1:
            return None
        x = tf.convert_to_tensor(arguments[data])
        rank = x.shape.rank
        swap = TO_LAST[rank]
        changed = dict(arguments)
        changed[data] = tf.transpose(x, swap)
        changed["data_format"] = "NHWC" if rank == 4 else "NDHWC"
        for key in ("strides", "dilations", "ksize"):
            if key in arguments and arguments[key] is not None:
                changed[key] = [arguments[key][i] for i in swap]
        if "input_sizes" in arguments:
            sizes = static.value(arguments["input_sizes"])
            changed["input_sizes"] = [sizes[i] for i in swap]
        changed.pop("name", None)
        return tf.transpose(getattr(tf.raw_ops, operator)(**changed), TO_FIRST[rank])
    return rule


def _same_padding(size: int, window: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def spaced(x, axis: int, step: int):
    """`step - 1` zeros between the values of `x` along an axis."""
    import tensorflow as tf

    shape = x.shape.as_list()
    n = shape[axis]
    if step == 1 or n == 1:
        return x
    wide = tf.reshape(x, [*shape[:axis], n, 1, *shape[axis + 1:]])
    zeros = tf.zeros([*shape[:axis], n, step - 1, *shape[axis + 1:]], x.dtype)
    shape[axis] = n * step
    full = tf.reshape(tf.concat([wide, zeros], axis + 1), shape)
    shape[axis] = (n - 1) * step + 1
    return tf.slice(full, [0] * len(shape), shape)


def _conv3d(input, filter, strides, padding, data_format="NDHWC", dilations=None, **_):
    """Conv3D as one Conv2D over the kernel's depth slices laid side by side as channels."""
    import tensorflow as tf

    if _text(data_format) != "NDHWC":
        return _channels_last("Conv3D", "input")(
            input=input, filter=filter, strides=strides, padding=padding,
            data_format=data_format, dilations=dilations)
    x, kernel = tf.convert_to_tensor(input), tf.convert_to_tensor(filter)
    if not x.shape.is_fully_defined() or not kernel.shape.is_fully_defined():
        return None
    dilations = dilations or [1] * 5
    kd, kh, kw, cin, cout = kernel.shape
    groups = x.shape[-1] // cin
    if groups > 1:
        parts = [_conv3d(xi, ki, strides, padding, data_format, dilations) for xi, ki in
                 zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1), strict=True)]
        return tf.concat(parts, -1)
    batch, depth, height, width, _ = x.shape
    step, spread = strides[1], dilations[1]
    reach = (kd - 1) * spread + 1
    if _text(padding) == "SAME":
        before, after = _same_padding(depth, reach, step)
        if before or after:
            x = tf.pad(x, [[0, 0], [before, after], [0, 0], [0, 0], [0, 0]])
        depth += before + after
    count = (depth - reach) // step + 1
    flat = tf.reshape(x, [batch, depth, height, width * cin])
    slices = [flat[:, k * spread:k * spread + (count - 1) * step + 1:step] for k in range(kd)]
    slices = [tf.reshape(s, [batch * count, height, width, cin]) for s in slices]
    wide = tf.concat(slices, -1) if kd > 1 else slices[0]
    kernel = tf.reshape(tf.transpose(kernel, [1, 2, 0, 3, 4]), [kh, kw, kd * cin, cout])
    y = tf.nn.conv2d(wide, kernel, strides[2:4], _text(padding), dilations=dilations[2:4])
    return tf.reshape(y, [batch, count, *y.shape[1:]])


def _pool3d(pool: str) -> Callable:
    """Maximum and average (which leaves padding out) are separable: depth comes second."""
    def rule(input, ksize, strides, padding, data_format="NDHWC", **_):
        import tensorflow as tf

        if _text(data_format) != "NDHWC":
            return _channels_last({"max_pool2d": "MaxPool3D", "avg_pool2d": "AvgPool3D"}[pool],
                                  "input")(input=input, ksize=ksize, strides=strides,
                                           padding=padding, data_format=data_format)
        x = tf.convert_to_tensor(input)
        if not x.shape.is_fully_defined():
            return None
        run = getattr(tf.nn, pool)
        batch, depth, height, width, channels = x.shape
        y = run(tf.reshape(x, [batch * depth, height, width, channels]), ksize[2:4], strides[2:4],
                _text(padding))
        _, height, width, _ = y.shape
        y = run(tf.reshape(y, [batch, depth, height * width, channels]), [ksize[1], 1],
                [strides[1], 1], _text(padding))
        return tf.reshape(y, [batch, y.shape[1], height, width, channels])
    return rule


def _patches(images, ksizes, strides, rates, padding, **_):
    """One strided slice per place in the window, laid side by side as channels."""
    import tensorflow as tf

    x = tf.convert_to_tensor(images)
    if not x.shape.is_fully_defined():
        return None
    _, height, width, _ = x.shape
    reach = [(ksizes[a] - 1) * rates[a] + 1 for a in (1, 2)]
    if _text(padding) == "SAME":
        pads = [_same_padding(n, r, s) for n, r, s in zip((height, width), reach, strides[1:3],
                                                          strict=True)]
        x = tf.pad(x, [[0, 0], *pads, [0, 0]])
        height, width = x.shape[1:3]
    ends = [(n - r) // s * s + 1 for n, r, s in zip((height, width), reach, strides[1:3],
                                                    strict=True)]
    slices = [x[:, i * rates[1]:i * rates[1] + ends[0]:strides[1],
                j * rates[2]:j * rates[2] + ends[1]:strides[2]]
              for i in range(ksizes[1]) for j in range(ksizes[2])]
    return tf.concat(slices, -1) if len(slices) > 1 else slices[0]


RULES: dict[str, Callable] = {
    "Conv2D": _channels_last("Conv2D", "input"),
    "DepthwiseConv2dNative": _channels_last("DepthwiseConv2dNative", "input"),
    "Conv2DBackpropInput": _channels_last("Conv2DBackpropInput", "out_backprop"),
    "Conv3DBackpropInputV2": _channels_last("Conv3DBackpropInputV2", "out_backprop"),
    "MaxPool": _channels_last("MaxPool", "input"),
    "AvgPool": _channels_last("AvgPool", "value"),
    "Conv3D": _conv3d,
    "ExtractImagePatches": _patches,
    "MaxPool3D": _pool3d("max_pool2d"),
    "AvgPool3D": _pool3d("avg_pool2d"),
}
