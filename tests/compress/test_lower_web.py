"""Operators that a backend of TensorFlow.js lacks, against TensorFlow's own."""

import numpy as np
import pytest

FLOATS = np.random.default_rng(0).normal(size=(1, 4, 8)).astype("f4")


def cases() -> dict:
    """Name -> (operators that must be gone, function of one float tensor)."""
    import tensorflow as tf
    from tensorflow.compiler.tf2xla.python.xla import dynamic_update_slice

    kernel = tf.constant(np.random.default_rng(1).normal(size=(3, 2, 3, 5, 2)), tf.float32)

    def transposed(padding, strides, shape):
        return lambda x: tf.nn.conv3d_transpose(
            tf.reshape(x, [1, 2, 2, 4, 2]), kernel, shape, strides, padding)

    grouped = tf.constant(np.random.default_rng(2).normal(size=(3, 3, 2, 6)), tf.float32)
    ids = tf.constant([0, 2, 0, 1])
    return {
        "conv3d_transpose_same": ({"Conv3DBackpropInputV2"}, transposed(
            "SAME", [2, 1, 2], [1, 4, 2, 8, 5])),
        "conv3d_transpose_valid": ({"Conv3DBackpropInputV2"}, transposed(
            "VALID", [2, 3, 1], [1, 5, 5, 6, 5])),
        "one_hot": ({"OneHot"}, lambda x: tf.one_hot(tf.cast(x * 3, tf.int64), 3, axis=1)),
        "one_hot_last": ({"OneHot"}, lambda x: tf.one_hot(tf.cast(x * 3, tf.int32), 3, 5.0, -1.0)),
        "diag": ({"MatrixDiagV3"}, lambda x: tf.linalg.diag(x, k=1, padding_value=3)),
        "diag_wide": ({"MatrixDiagV3"}, lambda x: tf.linalg.diag(x, k=-2, num_cols=9)),
        "set_diag": ({"MatrixSetDiagV3"}, lambda x: tf.linalg.set_diag(x, x[:, :, 0])),
        "set_diag_off": ({"MatrixSetDiagV3"}, lambda x: tf.linalg.set_diag(x, x[:, :, 0], k=2)),
        "segment_sum": ({"UnsortedSegmentSum"}, lambda x: tf.math.unsorted_segment_sum(
            x[0], ids, 4)),
        "bucketize": ({"Bucketize"}, lambda x: tf.raw_ops.Bucketize(
            input=x, boundaries=[-1.0, 0.0, 0.5])),
        "roll": ({"Roll"}, lambda x: tf.roll(x, [1, -3, 8], [1, 2, 2])),
        "space_to_depth": ({"SpaceToDepth"}, lambda x: tf.nn.space_to_depth(
            tf.reshape(x, [1, 4, 4, 2]), 2)),
        "update_slice": ({"XlaDynamicUpdateSlice"}, lambda x: dynamic_update_slice(
            x, x[:, :2, :3], tf.constant([0, 3, 4]))),
        "groups": (set(), lambda x: tf.nn.conv2d(
            tf.reshape(x, [1, 2, 4, 4]), grouped, 1, "SAME")),
        "bits": ({"BitwiseXor", "RightShift", "BitwiseAnd"}, lambda x: (
            tf.bitwise.bitwise_xor(tf.bitwise.bitwise_and(tf.cast(x * 40, tf.int8), 15), 8) - 8
            + tf.bitwise.right_shift(tf.cast(x * 40, tf.int8), 4))),
        "bias": (set(), lambda x: tf.reshape(x, [1, 2, 4, 4]) + tf.ones([1, 1, 1, 4])),
        "band_part": ({"MatrixBandPart"}, lambda x: tf.linalg.band_part(x, 1, 0)),
        "band_part_upper": ({"MatrixBandPart"}, lambda x: tf.linalg.band_part(x, 0, -1)),
        "cumsum": (set(), lambda x: tf.cumsum(x, -1, exclusive=True, reverse=True)),
        "einsum": ({"Einsum"}, lambda x: tf.einsum("bij,bkj->bik", x, x + 1)),
        "einsum_turned": ({"Einsum"}, lambda x: tf.einsum("bij,jk->bki", x, tf.ones((8, 3)))),
        "rfft": ({"RFFT"}, lambda x: tf.math.real(tf.signal.rfft(x))),
        "rfft_padded": ({"RFFT"}, lambda x: tf.math.imag(tf.signal.rfft(x, [12]))),
        "rfft_size": ({"RFFT", "ComplexAbs"}, lambda x: tf.abs(tf.signal.rfft(x, [7]))),
        "fft_and_back": ({"FFT", "IFFT"}, lambda x: tf.math.real(tf.signal.ifft(
            tf.signal.fft(tf.complex(x, x + 1))))),
        "fft2d": ({"FFT2D"}, lambda x: tf.math.imag(tf.signal.fft2d(tf.complex(x, 2 * x)))),
        "irfft": ({"IRFFT"}, lambda x: tf.signal.irfft(tf.complex(x[..., :5], x[..., 3:]), [8])),
        "irfft_odd": ({"IRFFT"}, lambda x: tf.signal.irfft(
            tf.complex(x[..., :4], x[..., 4:]), [7])),
    }


NAMES = ("conv3d_transpose_same conv3d_transpose_valid one_hot one_hot_last diag diag_wide "
         "set_diag set_diag_off segment_sum bucketize roll space_to_depth update_slice groups "
         "bits bias band_part band_part_upper cumsum einsum einsum_turned rfft "
         "rfft_padded rfft_size fft_and_back fft2d irfft irfft_odd").split()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_operator(name):
    import tensorflow as tf

    from tfcompress.compress import lower

    gone, function = cases()[name]
    spec = tf.TensorSpec(FLOATS.shape, tf.float32)
    with lower.lowering(None, web=True):
        traced = tf.function(function, autograph=False).get_concrete_function(spec)
    needed, queue = set(), [t.op for t in traced.outputs]
    while queue:
        op = queue.pop()
        if op not in needed:
            needed.add(op)
            queue += [t.op for t in op.inputs]
    assert not gone & {op.type for op in needed}
    want, got = function(tf.constant(FLOATS)).numpy(), traced(tf.constant(FLOATS))
    np.testing.assert_allclose(np.asarray(got), want, atol=2e-5, rtol=1e-5)
    assert np.asarray(got).dtype == want.dtype
