"""Structured pruning: budgets are met, nothing but the removed channels changes."""

import dataclasses
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfcompress.compress.channels import structured
from tfcompress.compress.training.recipe import Structured

pytestmark = pytest.mark.slow


def fill(model, seed=0):
    """Weights that look trained: no zeros, variances of their own."""
    import numpy as np

    rng = np.random.default_rng(seed)
    for w in model.weights:
        if w.dtype == "float32":
            low = 0.5 if "variance" in w.path or "gamma" in w.path else -1.0
            w.assign(rng.uniform(low, 1.5, w.shape) / max(1, math.sqrt(math.prod(w.shape[:-1]))))
    return model


def outputs(model, seed=1):
    import keras
    import numpy as np

    rng = np.random.default_rng(seed)
    made = []
    for t in model.inputs:
        shape = [3, *t.shape[1:]]
        kind = keras.backend.standardize_dtype(t.dtype)
        made.append(rng.normal(0, 1, shape).astype(kind) if "float" in kind
                    else rng.integers(0, 8, shape).astype(kind))
    return [np.asarray(o) for o in keras.tree.flatten(model(made, training=False))]


def shrunk(model, **options):
    """The result, after what must hold of every one."""
    given_weights = [w.numpy().copy() for w in model.weights]
    done = structured.shrink(model, Structured(**options))
    for before, now in zip(given_weights, model.weights, strict=True):
        assert (before == now.numpy()).all()
    assert done.after["parameters"] == done.model.count_params()
    assert done.before["parameters"] == model.count_params()
    assert structured.measure(done.model) == done.after
    assert [o.shape for o in outputs(done.model)] == [o.shape for o in outputs(model)]
    assert [x.name for x in done.model.layers] == [x.name for x in model.layers]
    return done


# The budget


@pytest.mark.parametrize("of", ["parameters", "macs", "bytes"])
def test_budget_is_met_closely(examples, of):
    import keras

    model = keras.saving.load_model(examples / "digits.keras")
    done = shrunk(model, to=0.4, of=of)
    assert 0.34 * done.before[of] <= done.after[of] <= 0.4 * done.before[of]
    assert done.proof < 1e-4
    assert all(r["after"] % 4 == 0 and 0 < r["after"] < r["before"] for r in done.removed)
    assert {s["layer"] for s in done.skipped} == {"digit"}


def test_every_layer_keeps_its_share(examples):
    import keras

    model = keras.saving.load_model(examples / "digits.keras")
    done = shrunk(model, to=0.3, scope="layer")
    shares = [r["after"] / r["before"] for r in done.removed]
    assert len(shares) == 5 and max(shares) - min(shares) <= 0.25
    assert done.after["parameters"] <= 0.3 * done.before["parameters"]


def test_macs_are_counted_by_hand():
    import keras
    from keras import layers

    model = keras.Sequential([
        keras.Input((8, 8, 3)), layers.Conv2D(5, 3, padding="same", strides=2),
        layers.DepthwiseConv2D(3, padding="same"), layers.Flatten(), layers.Dense(7)])
    assert structured.measure(model)["macs"] == (
        16 * 9 * 3 * 5 + 16 * 9 * 5 + 16 * 5 * 7)


# Only what was removed is missing


def test_dead_channels_go_and_the_outputs_stay():
    """Half the channels of a residual stream and of its branches do nothing at all."""
    import keras
    import numpy as np
    from keras import layers

    x = keras.Input((8, 8, 3))
    y = layers.BatchNormalization(name="b0")(layers.Conv2D(16, 3, padding="same", name="c0")(x))
    y = layers.ReLU()(y)
    z = layers.Conv2D(12, 3, padding="same", name="c1", activation="relu")(y)
    z = layers.DepthwiseConv2D(3, padding="same", name="d")(z)
    z = layers.Conv2D(16, 1, name="c2")(z)
    y = layers.Flatten()(layers.MaxPooling2D()(layers.Add()([y, z])))
    model = fill(keras.Model(x, layers.Dense(5)(y)))
    dead = {"c0": range(0, 16, 2), "b0": range(0, 16, 2), "c2": range(0, 16, 2),
            "c1": (1, 2, 5, 10), "d": (1, 2, 5, 10)}
    for name, places in dead.items():
        for w in model.get_layer(name).weights:
            value = w.numpy()
            axis = -2 if name == "d" and value.ndim > 1 else -1
            np.moveaxis(value, axis, -1)[..., list(places)] = 0.0
            w.assign(value)
    done = shrunk(model, to=0.47)
    assert {r["layer"]: r["after"] for r in done.removed} == {"c0": 8, "c1": 8, "c2": 8}
    for a, b in zip(outputs(model), outputs(done.model), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_taylor_sees_what_the_outputs_do_not_need():
    import keras
    import numpy as np
    from keras import layers

    model = fill(keras.Sequential([keras.Input((6,)), layers.Dense(16, name="a"),
                                   layers.Dense(3, name="b")]))
    kernel = model.get_layer("a").kernel
    kernel.assign(kernel.numpy() * np.where(np.arange(16) < 8, 10, 1))  # large, and read by nobody
    reader = model.get_layer("b").kernel
    reader.assign(reader.numpy() * (np.arange(16) >= 8)[:, None])
    data = keras.ops.convert_to_tensor(np.random.default_rng(0).normal(0, 1, (32, 6)), "float32")
    stage = Structured(to=0.55, importance="taylor")
    done = structured.shrink(model, stage, batches=[([data], None)])
    (only,) = done.removed
    assert only["layer"].endswith("/a") and (only["before"], only["after"]) == (16, 8)
    np.testing.assert_allclose(model(data), done.model(data), rtol=1e-4, atol=1e-5)
    worse = structured.shrink(model, dataclasses.replace(stage, importance="magnitude"))
    assert np.abs(model(data) - worse.model(data)).max() > 0.1


@pytest.mark.parametrize("between, why", [
    (lambda x: __import__("keras").ops.slice_update(x, [0, 0], [[1.0, 1.0]]), "gradient registry"),
    (lambda x: __import__("keras").ops.argmax(x, -1, keepdims=True), "none reaches a"),
    (lambda x: __import__("keras").ops.sqrt(x - x), "not finite"),
])
def test_where_taylor_has_no_gradients_magnitude_judges(between, why):
    import keras
    from keras import layers

    x = keras.Input((6,))
    model = fill(keras.Model(x, layers.Dense(3, name="c")(layers.Dense(16, name="b")(
        between(layers.Dense(16, name="a")(x))))))
    data = keras.ops.ones((4, 6))
    done, plain = (structured.shrink(model, Structured(to=0.7, importance=kind),
                                     batches=[([data], None)]) for kind in ("taylor", "magnitude"))
    assert any(why in n and "judged by magnitude" in n for n in done.notes)
    assert done.removed == plain.removed and done.removed


def graphs():
    """Lists of words from which `build_graph` makes a model."""
    words = st.sampled_from(["conv", "grouped", "depthwise", "multiplied", "separable",
                             "transposed", "norm", "relu", "prelu", "pool", "residual", "concat",
                             "squeeze", "split", "shuffle", "instance", "nested", "slice"])
    return st.lists(words, min_size=3, max_size=8)


def build_graph(words, head):
    import keras
    from keras import layers, ops

    x = keras.Input((8, 8, 4))
    y = layers.Conv2D(12, 3, padding="same", name="stem")(x)
    for word in words:
        size = y.shape[-1]
        if word == "conv":
            y = layers.Conv2D(16, 3, padding="same", activation="relu")(y)
        elif word == "grouped":
            y = layers.Conv2D(2 * size, 3, padding="same", groups=4)(y)
        elif word == "depthwise":
            y = layers.DepthwiseConv2D(3, padding="same")(y)
        elif word == "multiplied":
            y = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(y)
        elif word == "separable":
            y = layers.SeparableConv2D(12, 3, padding="same")(y)
        elif word == "transposed":
            y = layers.Conv2DTranspose(12, 2, padding="same")(y)
        elif word == "norm":
            y = layers.BatchNormalization()(y)
        elif word == "instance":
            y = layers.GroupNormalization(-1)(y)
        elif word == "relu":
            y = layers.Activation("silu")(y)
        elif word == "prelu":
            y = layers.PReLU(shared_axes=[1, 2])(y)
        elif word == "pool":
            y = layers.AveragePooling2D(2, strides=1, padding="same")(y)
        elif word == "residual":
            z = layers.ReLU()(layers.Conv2D(8, 1)(y))
            y = layers.Add()([y, layers.Conv2D(size, 3, padding="same")(z)])
        elif word == "concat":
            y = layers.Concatenate()([y, layers.Conv2D(8, 3, padding="same")(y), x])
            y = layers.Conv2D(16, 1)(y)
        elif word == "squeeze":
            s = layers.Dense(8, activation="relu")(layers.GlobalAveragePooling2D()(y))
            s = layers.Reshape((1, 1, size))(layers.Dense(size, activation="sigmoid")(s))
            y = layers.Multiply()([y, s])
        elif word == "split":
            a, b = ops.split(y, 2, axis=-1)
            y = layers.Concatenate()([layers.Conv2D(size // 2, 1)(a), b])
        elif word == "slice":
            y = layers.Concatenate()([y[..., :size // 4], layers.Conv2D(8, 1)(y[..., size // 4:])])
        elif word == "shuffle":
            y = layers.Reshape((8, 8, 2, size // 2))(y)
            y = layers.Reshape((8, 8, size))(layers.Permute((1, 2, 4, 3))(y))
        elif word == "nested":
            inner = keras.Sequential([keras.Input((8, 8, size)), layers.Conv2D(12, 1),
                                      layers.ReLU(), layers.Conv2D(size, 1)])
            y = inner(layers.ReLU()(inner(y)))
    y = layers.Flatten()(y) if head == "flatten" else layers.GlobalMaxPooling2D()(y)
    return keras.Model(x, layers.Dense(3, activation="softmax")(layers.Dense(16)(y)))


@settings(max_examples=12, deadline=None, derandomize=True, database=None,
          suppress_health_check=list(HealthCheck))
@given(words=graphs(), head=st.sampled_from(["flatten", "pool"]), multiple=st.sampled_from([1, 4]),
       to=st.sampled_from([0.7, 0.3]))
def test_any_graph_computes_what_the_silenced_one_does(words, head, multiple, to):
    import keras

    model = fill(build_graph(words, head))
    done = shrunk(model, to=to, multiple=multiple)
    assert done.removed
    assert done.proof is not None and done.proof < 1e-3
    assert [s["layer"] for s in done.skipped if "model's output" in s["why"]]
    keras.backend.clear_session()


# Kinds of layers


def kinds():
    import keras
    from keras import Input, Model, Sequential, layers

    def attention():
        x = Input((6, 12))
        y = layers.Dense(16)(x)
        y = y + layers.MultiHeadAttention(4, 8)(y, y)
        return Model(x, layers.Dense(3)(layers.GlobalAveragePooling1D()(y)))

    def encoder_decoder():
        a, b = Input((6, 5)), Input((7, 3))
        state = layers.LSTM(12, return_state=True)(a)[1:]
        return Model([a, b], layers.Dense(3)(layers.LSTM(12)(b, initial_state=state)))

    def shared():
        a, b, dense = Input((8,)), Input((8,)), layers.Dense(12, activation="gelu")
        return Model([a, b], layers.Dense(3)(layers.Concatenate()([dense(a), dense(b)])))

    def backbone():
        inner = keras.Sequential([Input((8, 8, 3)), layers.Conv2D(12, 3, activation="relu"),
                                  layers.BatchNormalization()], name="backbone")
        x = Input((8, 8, 3))
        return Model(x, layers.Dense(3)(layers.GlobalAveragePooling2D()(inner(x))))

    def tied():
        x, words = Input((6,), dtype="int32"), layers.ReversibleEmbedding(20, 16)
        y = words(x)
        y = y + layers.GroupQueryAttention(4, 4, 2)(y, y)
        return Model(x, words(layers.Dense(16)(y), reverse=True))

    return {
        "tied": tied, "attention": attention, "encoder_decoder": encoder_decoder, "shared": shared,
        "backbone": backbone,
        "words": lambda: Sequential([Input((9,), dtype="int32"), layers.Embedding(20, 12,
                                     mask_zero=True), layers.Bidirectional(layers.GRU(8)),
                                     layers.Dense(3)]),
        "frames": lambda: Sequential([Input((4, 8, 8, 3)), layers.TimeDistributed(
            layers.Conv2D(12, 3)), layers.TimeDistributed(layers.GlobalAveragePooling2D()),
            layers.SimpleRNN(8), layers.Dense(3)]),
        "einsum": lambda: Sequential([Input((6, 8)), layers.EinsumDense(
            "abc,cde->abde", (None, 4, 8), bias_axes="de"), layers.EinsumDense(
            "abde,def->abf", (None, 12), bias_axes="f"), layers.Dense(3)]),
        "volume": lambda: Sequential([Input((6, 6, 6, 2)), layers.Conv3D(12, 3), layers.PReLU(),
                                      layers.Conv3DTranspose(8, 2), layers.Flatten(),
                                      layers.Dense(3)]),
        "first": lambda: Sequential([Input((3, 8, 8)), layers.Conv2D(
            12, 3, data_format="channels_last"), layers.Permute((3, 1, 2)),
            layers.BatchNormalization(axis=1), layers.Flatten(data_format="channels_first"),
            layers.Dense(3)]),
    }


@pytest.mark.parametrize("name", ["attention", "encoder_decoder", "shared", "backbone", "words",
                                  "frames", "einsum", "volume", "first", "tied"])
def test_kinds_shrink_save_load_and_train(name, tmp_path):
    import keras
    import numpy as np

    done = shrunk(fill(kinds()[name]()), to=0.5)
    assert done.after["parameters"] <= 0.5 * done.before["parameters"]
    assert done.proof < 1e-4
    done.model.save(tmp_path / "small.keras")
    again = keras.saving.load_model(tmp_path / "small.keras")
    for a, b in zip(outputs(done.model), outputs(again), strict=True):
        np.testing.assert_array_equal(a, b)
    again.compile("sgd", "mse")
    x = [np.ones([4, *t.shape[1:]], t.dtype) for t in again.inputs]
    y = np.zeros((4, *outputs(again)[0].shape[1:]))
    assert np.isfinite(again.fit(x if len(x) > 1 else x[0], y, verbose=0).history["loss"][0])


# What stays whole


def test_layers_are_chosen_by_pattern(examples):
    import keras

    model = keras.saving.load_model(examples / "digits.keras")
    done = shrunk(model, to=0.8, layers="Dense")
    assert [r["layer"] for r in done.removed] == ["dense"]
    assert {"layer": "conv2d", "why": "not among the layers chosen"} in done.skipped
    some = shrunk(model, to=0.01, layers="Dense")
    assert any("cannot be removed" in n for n in some.notes)


def test_what_is_not_understood_is_named_and_whole():
    import keras
    from keras import layers, ops

    @keras.saving.register_keras_serializable("structured")
    class Odd(keras.layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1], 12), name="w")

        def call(self, x):
            return ops.matmul(ops.softmax(x), self.w)

    model = fill(keras.Sequential([keras.Input((8,)), layers.Dense(12, name="before"),
                                   Odd(name="odd"), layers.Dense(12, name="after"),
                                   layers.Dense(3)]))
    done = shrunk(model, to=0.7)
    assert [r["layer"].split("/")[-1] for r in done.removed] == ["after"]
    why = {s["layer"].split("/")[-1]: s["why"] for s in done.skipped}
    assert "Odd" in why["odd"] and "Odd" in why["before"]
    assert done.proof < 1e-4


def test_written_code_comes_back_as_it_is():
    import keras
    from keras import layers, ops

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.a = layers.Dense(8)

        def call(self, x):
            return self.a(x)

    model = Own()
    model(ops.zeros((1, 4)))
    done = structured.shrink(model, Structured())
    assert done.model is model and not done.removed
    assert "written code" in done.skipped[0]["why"]
    assert structured.measure(model) == {"parameters": 40, "macs": None, "bytes": 64}
