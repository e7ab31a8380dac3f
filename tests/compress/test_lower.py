"""Lowered graphs compute what TensorFlow and Keras compute, without touching the model."""

import numpy as np
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tf():
    return pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def lower(tf):
    from tfcompress.compress import lower

    return lower


def lowered(tf, lower, formula, *arrays, **options):
    """`formula` traced under lowering and run by TensorFlow; its operators and rewrites."""
    specs = [tf.TensorSpec(a.shape, a.dtype) for a in arrays]
    with lower.lowering(None, **options) as rewrites:
        function = tf.function(formula, autograph=False).get_concrete_function(*specs)
    types = {op.type for op in function.graph.get_operations()}
    return np.asarray(function(*map(tf.constant, arrays))), types, rewrites


UNARY = {
    "Softsign": lambda tf, x: tf.nn.softsign(x), "Erf": lambda tf, x: tf.math.erf(x),
    "Erfc": lambda tf, x: tf.math.erfc(x), "Erfinv": lambda tf, x: tf.math.erfinv(x * 0.3),
    "Tan": lambda tf, x: tf.tan(x * 0.4), "Asin": lambda tf, x: tf.asin(x * 0.3),
    "Acos": lambda tf, x: tf.acos(x * 0.3), "Atan": lambda tf, x: tf.atan(x),
    "Sinh": lambda tf, x: tf.sinh(x), "Cosh": lambda tf, x: tf.cosh(x),
    "Asinh": lambda tf, x: tf.asinh(x), "Acosh": lambda tf, x: tf.acosh(tf.abs(x) + 1.01),
    "Atanh": lambda tf, x: tf.atanh(x * 0.3),
    "Cumprod": lambda tf, x: tf.math.cumprod(x, 1),
    "Max": lambda tf, x: tf.reduce_max(x, [1, 2]),
    "ReverseV2": lambda tf, x: tf.reverse(x, [2]),
    "MatrixDiagPartV3": lambda tf, x: tf.linalg.diag_part(x, k=1),
    "ResizeBicubic": lambda tf, x: tf.image.resize(x[..., None], [5, 9], "bicubic"),
    "ResizeArea": lambda tf, x: tf.image.resize(x[..., None], [3, 4], "area"),
    "ScaleAndTranslate": lambda tf, x: tf.image.resize(
        x[..., None], [3, 4], "lanczos3", antialias=True),
    "MaxPool3D": lambda tf, x: tf.nn.max_pool3d(x[None, ..., None], [2, 3, 2], [1, 2, 2], "SAME"),
    "AvgPool3D": lambda tf, x: tf.nn.avg_pool3d(x[None, ..., None], [2, 3, 2], [1, 2, 2], "SAME"),
    "Conv3D": lambda tf, x: tf.nn.conv3d(
        x[None, ..., None], tf.reshape(tf.range(24.0), [2, 3, 2, 1, 2]) / 24, [1, 1, 2, 2, 1],
        "SAME"),
    "ExtractImagePatches": lambda tf, x: tf.image.extract_patches(
        x[..., None], [1, 3, 2, 1], [1, 2, 2, 1], [1, 1, 1, 1], "SAME"),
    "RGBToHSV": lambda tf, x: tf.image.rgb_to_hsv(tf.sigmoid(x[:, :, :3])),
    "LowerBound": lambda tf, x: tf.searchsorted(tf.sort(x[0]), x[1], "left"),
    "UpperBound": lambda tf, x: tf.searchsorted(tf.sort(x[0]), x[1], "right"),
    "Cross": lambda tf, x: tf.linalg.cross(x[..., :3], x[..., 3:6]),
}


@pytest.mark.parametrize("operator", UNARY)
def test_operator_is_replaced_by_an_equal_formula(tf, lower, operator):
    x = np.random.default_rng(0).uniform(-3, 3, (3, 6, 7)).astype("float32")
    wanted = UNARY[operator](tf, tf.constant(x)).numpy()
    got, types, rewrites = lowered(tf, lower, lambda t: UNARY[operator](tf, t), x)
    assert operator not in types
    assert operator in [r["what"] for r in rewrites]
    np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=5e-6)


@pytest.mark.parametrize("operator", ["BitwiseAnd", "BitwiseOr", "LeftShift", "Invert"])
def test_integer_operators_are_replaced(tf, lower, operator):
    x = np.random.default_rng(1).integers(-1000, 1000, (40,)).astype("int32")
    y = np.random.default_rng(2).integers(-1000, 1000, (40,)).astype("int32")
    formula = {"BitwiseAnd": tf.bitwise.bitwise_and, "BitwiseOr": tf.bitwise.bitwise_or,
               "LeftShift": lambda a, b: tf.bitwise.left_shift(a, 3),
               "Invert": lambda a, b: tf.bitwise.invert(a)}[operator]
    got, types, _ = lowered(tf, lower, formula, x, y)
    assert operator not in types
    np.testing.assert_array_equal(got, formula(x, y).numpy())


def _well_posed(shape=(2, 3, 5, 5), definite=False):
    x = np.random.default_rng(3).normal(size=shape).astype("float32")
    return x @ x.swapaxes(-1, -2) + np.eye(shape[-1], dtype="float32") if definite else x


LINEAR = {
    "MatrixInverse": lambda tf, a, b: tf.linalg.inv(a),
    "MatrixDeterminant": lambda tf, a, b: tf.linalg.det(a),
    "MatrixSolve": lambda tf, a, b: tf.linalg.solve(a, b, adjoint=True),
    "Cholesky": lambda tf, a, b: tf.linalg.cholesky(tf.matmul(a, a, transpose_b=True)
                                                    + tf.eye(a.shape[-1])),
    "MatrixTriangularSolve": lambda tf, a, b: tf.linalg.triangular_solve(
        a + 4 * tf.eye(a.shape[-1]), b, lower=False, adjoint=True),
}


@pytest.mark.parametrize("operator", LINEAR)
def test_small_matrices_are_eliminated(tf, lower, operator):
    a = _well_posed()
    a[0, 0, 0, 0] = 0.0  # no pivot
    b = np.random.default_rng(4).normal(size=(2, 3, 5, 2)).astype("float32")
    got, types, _ = lowered(tf, lower, lambda s, t: LINEAR[operator](tf, s, t), a, b)
    assert operator not in types
    wanted = LINEAR[operator](tf, tf.constant(a), tf.constant(b)).numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4)


def test_large_matrices_are_left_alone(tf, lower):
    x = _well_posed((20, 20))
    assert "MatrixInverse" in lowered(tf, lower, tf.linalg.inv, x)[1]


@pytest.mark.parametrize("mode", ["CONSTANT", "NEAREST", "REFLECT", "WRAP"])
@pytest.mark.parametrize("interpolation", ["NEAREST", "BILINEAR"])
@pytest.mark.parametrize("count", [1, 2])
def test_projective_transforms_are_gathers(tf, lower, mode, interpolation, count):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(2, 6, 7, 3)).astype("float32")
    turn = rng.normal(0, 0.03, (count, 8)) + [1.3, 0.41, -4.37, -0.37, 1.41, 2.23, 0.01, 0.02]

    def formula(images, turn):
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=images, transforms=turn, output_shape=[8, 9], fill_value=0.5,
            interpolation=interpolation, fill_mode=mode)

    got, types, _ = lowered(tf, lower, formula, x, turn.astype("float32"))
    assert "ImageProjectiveTransformV3" not in types
    wanted = formula(tf.constant(x), tf.constant(turn, tf.float32)).numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3)


def test_masked_softmax_is_equal_and_bounded(tf, lower):
    from tfcompress.compress.lower.attention import FLOOR, bounded

    rng = np.random.default_rng(0)
    scores = (rng.standard_normal((2, 3, 8, 8)) * 20).astype("float32")
    mask = rng.random((2, 1, 8, 8)) > 0.5
    mask[0, 0, 2] = False
    near = bounded(tf.constant(scores), tf.constant(mask)).numpy()
    assert near.min() >= FLOOR and near.max() <= 0
    wanted = tf.nn.softmax(np.where(mask, scores, np.float32(-1e9))).numpy()
    np.testing.assert_allclose(tf.nn.softmax(near).numpy(), wanted, atol=2e-7)


def test_exact_gelu_is_left_to_the_converter_unless_spelled_out(tf, lower):
    x = np.linspace(-4, 4, 50, dtype="float32")
    _, types, _ = lowered(tf, lower, lambda t: tf.nn.gelu(t), x)
    assert "Erfc" in types or "Erf" in types
    got, types, _ = lowered(tf, lower, lambda t: tf.nn.gelu(t), x, fuse=False)
    assert not {"Erf", "Erfc"} & types
    np.testing.assert_allclose(got, tf.nn.gelu(x).numpy(), atol=1e-6)


def test_tensorflow_and_keras_are_as_before_even_after_an_error(tf, lower):
    import keras
    from tensorflow.python.framework import op_def_library

    places = [(op_def_library, "_apply_op_helper"), (keras.layers.Softmax, "call"),
              (keras.layers.LSTM, "inner_loop"), (keras.src.backend.tensorflow.nn, "conv"),
              (tf.math, "bincount")]
    before = [getattr(owner, name) for owner, name in places]
    with pytest.raises(ZeroDivisionError), lower.lowering(None):
        assert [getattr(owner, name) for owner, name in places] != before
        raise ZeroDivisionError
    assert [getattr(owner, name) for owner, name in places] == before


@pytest.mark.parametrize("kind", ["keras", "tf_keras"])
def test_number_types_are_float32_inside_and_the_models_own_after(tf, lower, kind):
    import importlib

    k = importlib.import_module(kind)
    policy = k.mixed_precision.Policy("mixed_float16") if kind == "tf_keras" else "mixed_float16"
    model = k.Sequential([k.Input((4,)), k.layers.Dense(3, dtype=policy)])
    x = np.ones((1, 4), "float32")
    with lower.lowering(model) as rewrites:
        assert tf.function(lambda t: model(t))(x).dtype == tf.float32
    assert model(x).dtype == tf.float16
    assert rewrites[0]["what"] == "mixed_float16 layers"


def test_rewrites_name_the_layers(tf, lower):
    import keras

    x = keras.Input((5, 8))
    attention = keras.layers.MultiHeadAttention(2, 4, name="look")
    model = keras.Model(x, keras.layers.Dense(2, activation="softsign", name="last")(
        attention(x, x, use_causal_mask=True)))
    with lower.lowering(model) as rewrites:
        tf.function(lambda t: model(t)).get_concrete_function(tf.TensorSpec((1, 5, 8)))
    layers = {r["what"]: r["layers"] for r in rewrites}
    assert layers["attention mask"] == ["look"]
    assert layers["Softsign"] == ["last"]


@pytest.mark.parametrize("options", [{}, {"rnn": "loop"}, {"rnn": "unrolled"}])
@pytest.mark.parametrize("cell", ["LSTM", "GRU", "SimpleRNN"])
def test_recurrent_layers_are_equal_with_masks_and_backwards(tf, lower, cell, options):
    import keras

    keras.utils.set_random_seed(3)
    model = keras.Sequential([
        keras.Input((7, 4)), keras.layers.Masking(0.0),
        getattr(keras.layers, cell)(5, return_sequences=True, go_backwards=True)])
    x = np.random.default_rng(0).standard_normal((1, 7, 4)).astype("float32")
    x[:, [2, 5, 6]] = 0
    with lower.lowering(model, **options):
        function = tf.function(lambda t: model(t)).get_concrete_function(tf.TensorSpec(x.shape))
    loops = [op for op in function.graph.get_operations() if "While" in op.type]
    assert bool(loops) == (options == {"rnn": "loop"})
    np.testing.assert_allclose(function(tf.constant(x)), model(x), atol=1e-6)


def test_values_from_constants_alone_are_known(tf):
    from tfcompress.compress.lower import static

    @tf.function
    def look(x):
        found.append(static.value(tf.cumsum(tf.ones([3], tf.int32)) * 2))
        found.append(static.value(x * 2.0))
        return x

    found = []
    look.get_concrete_function(tf.TensorSpec([1]))
    np.testing.assert_array_equal(found[0], [2, 4, 6])
    assert found[1] is None
