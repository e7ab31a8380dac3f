"""Keras 2 files, and the bridge between the two Kerases."""

import numpy as np
import pytest

from tfcompress.compress.models import hosted, load, scan
from tfcompress.errors import UnsafeModelError

pytestmark = pytest.mark.slow


def test_arguments_survive_as_json():
    import json

    value = [1, (2, slice(0, None, 2)), {"a": Ellipsis, "b": None}, "x", True]
    assert hosted.decode(json.loads(json.dumps(hosted.encode(value, []))), []) == value
    array = hosted.decode(hosted.encode(np.arange(3, dtype="int32"), []), [])
    assert array.dtype == np.int32 and array.tolist() == [0, 1, 2]
    with pytest.raises(hosted.Unbridgeable):
        hosted.encode(object(), [])


@pytest.fixture(scope="module")
def old():
    """Keras 2 models that Keras 3 cannot read, or reads wrongly."""
    import tensorflow as tf
    import tf_keras

    tf_keras.utils.set_random_seed(3)
    L, Input, Model = tf_keras.layers, tf_keras.Input, tf_keras.Model
    made = {}
    x = Input((8, 8, 3), name="in/put")
    y = L.Conv2D(4, 3, activation="relu", name="block/conv")(x)
    made["slashes_groups"] = Model(x, L.Flatten()(L.DepthwiseConv2D(3, name="dw/1")(y)))
    x = Input((8, 8, 3))
    y = tf.nn.relu(x) * 2.0 + 1
    y = y[:, 1:-1, ::2]
    y = tf.reduce_mean(y, axis=[1, 2])
    y = tf.concat([y, 1.0 - tf.abs(y)], -1)
    y = tf.math.l2_normalize(tf.cast(y, tf.float32), axis=-1)
    made["functions"] = Model(x, L.Dense(3)(tf.reshape(y, [-1, 6])))
    x = Input((6, 8))
    y = L.LayerNormalization()(L.MultiHeadAttention(2, 4)(x, x) + x)
    made["attention"] = Model(x, L.TimeDistributed(L.Dense(3))(y))
    made["hard_sigmoid"] = tf_keras.Sequential([
        L.Input((5,)), L.Dense(8, activation="hard_sigmoid"), L.Activation("hard_sigmoid")])
    made["recurrent"] = tf_keras.Sequential([
        L.Embedding(20, 8, input_length=10, mask_zero=True),
        L.Bidirectional(L.LSTM(5, return_sequences=True, recurrent_activation="hard_sigmoid")),
        L.GRU(4), L.Dense(2)])
    base = tf_keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3),
                                             include_top=False)
    base.trainable = False
    x, h, c = Input((6, 5)), Input((4,)), Input((4,))
    made["states"] = Model([x, h, c], L.LSTM(4)(x, initial_state=[h, c]))
    made["nested"] = tf_keras.Sequential([base, L.GlobalAveragePooling2D(), L.Dense(2)])
    a, b = Input((4,), name="a"), Input((4,), name="b")
    shared = L.Dense(3)
    made["shared"] = Model({"a": a, "b": b}, [L.LeakyReLU(0.1)(shared(a)),
                                              L.ReLU(max_value=2.0)(shared(b))])
    return made


NAMES = ["slashes_groups", "functions", "attention", "hard_sigmoid", "recurrent", "states",
         "nested", "shared"]


@pytest.mark.parametrize("ending", ["h5", "keras"])
@pytest.mark.parametrize("name", NAMES)
def test_keras2_files_become_keras3_models(name, ending, old, tmp_path):
    import tensorflow as tf

    model, path = old[name], tmp_path / f"m.{ending}"
    model.save(path)
    loaded = load.open_model(path)
    assert loaded.kind == "keras3", loaded.notes
    assert "Keras 2" in loaded.notes[0] and "equal" in loaded.notes[0]
    assert ("l2_normalize" in " ".join(loaded.notes)) == (name == "functions")
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 20, (5, *s.shape[1:])).astype(s.dtype) if name == "recurrent" else
              rng.random((5, *s.shape[1:]), "float32") for s in loaded.inputs]
    want = tf.nest.flatten(model(tf.nest.pack_sequence_as(model._nested_inputs, arrays),
                                 training=False))
    for got, one in zip(load.call(loaded, arrays), want, strict=True):
        np.testing.assert_allclose(got, one.numpy(), atol=1e-5)
    loaded.model.save(tmp_path / "new.keras")  # and stay what they are when saved
    again = load.open_model(tmp_path / "new.keras")
    for got, one in zip(load.call(again, arrays), want, strict=True):
        np.testing.assert_allclose(got, one.numpy(), atol=1e-5)


def test_frozen_layers_stay_frozen(old, tmp_path):
    old["nested"].save(tmp_path / "m.h5")
    model = load.open_model(tmp_path / "m.h5").model
    assert len(model.trainable_weights) == 2


def test_what_has_no_counterpart_stays_in_tf_keras(tmp_path):
    import tf_keras

    x = tf_keras.Input((4,), name="x")
    tf_keras.Model(x, tf_keras.layers.Lambda(lambda v: v + 1.0)(x)).save(tmp_path / "l.h5")
    with pytest.raises(UnsafeModelError):
        load.open_model(tmp_path / "l.h5")
    tf_keras.Model(x, tf_keras.layers.ThresholdedReLU(0.5)(x)).save(tmp_path / "t.h5")
    loaded = load.open_model(tmp_path / "t.h5")
    assert loaded.kind == "tf_keras" and "ThresholdedReLU" in loaded.notes[0]
    assert load.call(loaded, [np.array([[0.2, 0.7, 1, -1]])])[0].tolist() == [
        [0, np.float32(0.7), 1, 0]]
    assert [s.name for s in loaded.inputs] == ["x"] and loaded.outputs[0].shape == (None, 4)


def test_keras3_to_tf_keras_and_back():
    import keras
    from keras import layers as L
    from keras import ops

    from tfcompress.compress.models import legacy

    keras.utils.set_random_seed(5)
    x = keras.Input((12, 12, 3), name="image")
    y = L.Conv2D(4, 3, activation=L.LeakyReLU(0.3))(x)
    y = L.SeparableConv2D(4, 3, activation="hard_sigmoid")(L.BatchNormalization()(y))
    y = ops.mean(y[:, ::2, 1:], axis=(1, 2)) * 2.0
    y = L.RMSNormalization()(L.Dense(6, activation="silu")(y))
    inner = keras.Sequential([keras.Input((6,)), L.Dense(5, activation="relu6")])
    model = keras.Model(x, {"one": inner(y), "two": L.Dense(2)(inner(y * 0.5))})
    twin = legacy.to_tf_keras(model)
    rng = np.random.default_rng(0)
    data = rng.random((3, 12, 12, 3), "float32")
    want, got = model(data, training=False), twin(data, training=False)
    for key in want:
        np.testing.assert_allclose(got[key].numpy(), want[key].numpy(), atol=1e-5)
    import tf_keras

    again = tf_keras.models.clone_model(twin)  # hosted operations have a configuration of their own
    again.set_weights(twin.get_weights())
    np.testing.assert_allclose(again(data)["two"].numpy(), got["two"].numpy(), atol=1e-6)
    back = legacy.to_keras3(twin)
    np.testing.assert_allclose(back(data)["one"].numpy(), want["one"].numpy(), atol=1e-5)
    lstm = keras.Sequential([keras.Input((7, 3)), L.Bidirectional(L.LSTM(4)), L.Dense(2)])
    back = legacy.to_keras3(legacy.to_tf_keras(lstm))
    data = rng.random((2, 7, 3), "float32")
    np.testing.assert_allclose(back(data).numpy(), lstm(data).numpy(), atol=1e-5)


def test_a_wrong_twin_is_not_given_out():
    import keras

    from tfcompress.compress.models import bridge, legacy

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    twin = bridge.rebuild(model, "tf_keras")
    assert legacy._difference(model, twin) == ""
    twin.layers[-1].bias.assign_add([0, 0, 0.01])
    assert "differ by 0.01" in legacy._difference(model, twin)


@pytest.mark.parametrize("symbol,harmless", [
    ("math.multiply", True), ("nn.relu", True), ("__operators__.getitem", True),
    ("concat", True), ("keras.backend.mean", True), ("io.write_file", False),
    ("numpy_function", False), ("load_library", False), ("raw_ops.WriteFile", False),
    ("keras.utils.get_file", False), ("keras.backend.set_value", False), (None, False)])
def test_functions_that_only_compute(symbol, harmless):
    assert scan.known_op(symbol) is harmless
