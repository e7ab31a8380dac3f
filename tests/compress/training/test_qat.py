"""Quantization-aware training: where roundings are, and that the file does what the model does."""

import numpy as np
import pytest
from training import accuracy, digits, digits_samples, static

from tfcompress import tflite
from tfcompress.compress.training import recipe
from tfcompress.errors import TargetError


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """The digits pruned, clustered and trained for int8, the file, and the test samples."""
    from tfcompress.compress.training import finetune, qat_export

    folder = tmp_path_factory.mktemp("chain")
    loaded, data = digits()
    chosen = recipe.Recipe((recipe.Prune(sparsity=0.6, epochs=12, depthwise=True),
                            recipe.Cluster(clusters=16, epochs=3), recipe.Qat(epochs=3)))
    found = finetune.run(loaded, chosen, digits_samples(folder))
    path = folder / "digits.tflite"
    told = qat_export.to_int8(found.qat_model, path, static(loaded.inputs), loaded.outputs)
    rows = [[data["x_test"][i:i + 1].astype("float32")] for i in range(100)]
    return found, path.read_bytes(), told, rows


def int8_weights(content):
    """(values as channels x inputs, scales) of each quantized kernel of a file."""
    model = tflite.load(content)
    for tensor in model.subgraphs[0].tensors:
        values = tflite.constant(model, tensor)
        if values is not None and values.dtype == np.int8 and values.size > 16:
            axis = tensor.quantization.quantizedDimension
            yield np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


@pytest.mark.slow
def test_zeros_and_clusters_are_in_the_file(chain):
    found, content, _, _ = chain
    kernels = list(int8_weights(content))
    assert len(kernels) == 8
    for values in kernels:
        assert (values == 0).sum() >= round(0.6 * values.size)
        assert max(len(np.unique(row)) for row in values) <= 16
    assert sum(v.size for v in kernels) == sum(k["values"] for k in found.kernels)


@pytest.mark.slow
def test_the_file_is_int8_throughout_and_keeps_its_names(chain):
    _, content, told, _ = chain
    assert told["route"] == "plain" and told["float_ops"] == {}
    described = tflite.describe(content)
    assert [t["name"] for t in described["inputs"]] == ["image"]
    assert [t["name"] for t in described["outputs"]] == ["digit"]


@pytest.mark.slow
def test_the_file_equals_the_model_within_one_step_on_samples_it_never_saw(chain):
    from tfcompress.compress.training import qat_export

    found, content, told, rows = chain
    loaded, _ = digits()
    unseen = qat_export.agreement(content, found.qat_model, static(loaded.inputs), loaded.outputs,
                                  rows)
    assert unseen["samples"] == 100
    assert unseen["steps"] <= 1.01 and told["agreement"]["steps"] <= 1.01


@pytest.mark.slow
def test_accuracy_survives_the_chain(chain):
    import tensorflow as tf

    found, _, _, _ = chain
    loaded, data = digits()
    wanted = accuracy(loaded.model) - 0.02
    assert accuracy(found.model) >= wanted
    rounded = found.qat_model.run([tf.constant(data["x_test"].astype("float32"))])[0].numpy()
    assert (rounded.argmax(-1) == data["y_test"]).mean() >= wanted


@pytest.mark.slow
def test_roundings_are_where_tflite_has_them(chain):
    found, _, _, _ = chain
    where = [(r["layer"], r["where"]) for r in found.qat_model.ranges.to_list()]
    assert where == [
        ("input 0", "input"), ("rescaling", "after"), ("re_lu", "after"),
        ("separable_conv2d", "middle"), ("separable_conv2d", "after"), ("re_lu_1", "after"),
        ("separable_conv2d_1", "middle"), ("separable_conv2d_1", "after"), ("dense", "after"),
        ("digit", "before")]
    assert all(r["min"] <= 0 < r["max"] for r in found.qat_model.ranges.to_list())


@pytest.mark.slow
def test_integer_ends(chain, tmp_path):
    from tfcompress.compress.training import qat_export

    found, _, _, _ = chain
    loaded, _ = digits()
    told = qat_export.to_int8(found.qat_model, tmp_path / "u.tflite", static(loaded.inputs),
                              loaded.outputs, "uint8")
    described = tflite.describe(tmp_path / "u.tflite")
    assert described["inputs"][0]["dtype"] == described["outputs"][0]["dtype"] == "uint8"
    assert told["agreement"]["steps"] <= 1.01


@pytest.mark.slow
def test_learned_ranges_come_out_of_a_float_file(chain, tmp_path):
    from tfcompress.compress.tflite import calibrate, learned
    from tfcompress.export.tflite import to_tflite

    found, _, _, rows = chain
    loaded, _ = digits()
    given = [np.concatenate([r[0] for r in rows[:4]])]
    wanted = [np.asarray(o) for o in found.qat_model.run(given)]
    to_tflite(found.qat_model, tmp_path / "float.tflite", inputs=static(loaded.inputs),
              outputs=loaded.outputs, progress=lambda *_: None, check=(given, wanted))
    content, ranges = learned.strip((tmp_path / "float.tflite").read_bytes())
    learned_by_model = found.qat_model.ranges.values()
    assert len(ranges) == len(learned_by_model)
    for low, high in ranges.values():  # the file has them nudged so that zero is exact
        assert min(abs(low - a) + abs(high - b) for a, b in learned_by_model) <= (high - low) / 255
    assert "QUANTIZE" not in tflite.describe(content)["histogram"]
    plain = found.model(given[0], training=False).numpy()
    runner = calibrate.Runner(content)
    for row, want in zip(given[0], plain, strict=True):
        got = runner.run({"image": row[None]})["digit"]
        assert np.allclose(got, want, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8])
def test_rounded_weights_are_a_grid_per_channel_and_gradients_pass(bits):
    import tensorflow as tf

    from tfcompress.compress.training.forms import fake_quantize

    values = tf.Variable(np.random.default_rng(0).normal(size=(3, 3, 4, 6)).astype("float32"))
    with tf.GradientTape() as tape:
        rounded = fake_quantize(values, bits, (3,))
        total = tf.reduce_sum(rounded * 2)
    assert np.allclose(tape.gradient(total, values), 2)
    high = 2 ** (bits - 1) - 1
    for channel, original in zip(rounded.numpy().reshape(-1, 6).T, values.numpy().reshape(-1, 6).T,
                                 strict=True):
        scale = np.abs(original).max() / high
        assert np.abs(channel - original).max() <= scale / 2 * 1.001
        assert np.allclose(channel / scale, np.round(channel / scale), atol=1e-4)
    again = fake_quantize(rounded, bits, (3,))
    assert np.allclose(again, rounded, rtol=1e-6)


@pytest.mark.slow
def test_a_shared_range_starts_wide_enough_for_every_branch_and_integers_are_fed_beside_floats():
    """Branches of different size once had their extremes averaged, which clipped the larger."""
    import keras

    from tfcompress.compress.models import load, signature
    from tfcompress.compress.training import qat

    keras.utils.set_random_seed(0)
    number, index = keras.Input((6,), name="num"), keras.Input((5,), dtype="int32", name="cat")
    flat = keras.layers.Flatten()(keras.layers.Embedding(10, 4)(index))
    joined = keras.layers.Concatenate(name="join")([number, flat])
    model = keras.Model([number, index], keras.layers.Dense(1)(joined))
    rng = np.random.default_rng(0)
    rows = [rng.normal(0, 3, (64, 6)).astype("float32"), rng.integers(0, 10, (64, 5), "int32")]
    _, pack = signature.inputs(model, "keras3")
    ranges = qat.begin(model, pack, [[tf_tensor(r) for r in rows]], recipe.Qat(), [])
    low, high = max(ranges.values(), key=lambda r: r[1] - r[0])
    assert low <= rows[0].min() * 0.999 and high >= rows[0].max() * 0.999
    made = qat.FakeQuantized(model, ranges, pack, {})
    found = np.asarray(made.run(rows)[0])  # arrays, one of them of integers
    wanted = np.asarray(load.call(load.describe(model, {}, []), rows)[0])
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()


def tf_tensor(array):
    import tensorflow as tf

    return tf.convert_to_tensor(array)


@pytest.mark.slow
def test_joined_branches_share_a_range_and_only_global_averages_have_their_own():
    import keras
    import tensorflow as tf

    from tfcompress.compress.training import flow, sites

    x = keras.Input((8, 8, 3))
    a = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="a")(x)
    b = keras.layers.MaxPooling2D(1)(keras.layers.Conv2D(4, 3, padding="same", name="b")(x))
    y = keras.layers.Concatenate()([a, b])
    y = keras.layers.Add(name="sum")([y, y])
    y = keras.layers.AveragePooling2D(2, name="average")(keras.layers.ReLU(name="relu")(y))
    y = keras.layers.GlobalAveragePooling2D(name="mean")(y)
    model = keras.Model(x, keras.layers.Dense(3, activation="softmax", name="end")(y))
    seen = flow.record(lambda t: flow.flatten(model(t[0])), [tf.zeros((2, 8, 8, 3))])
    made = sites.plan(seen, ["x"], set())
    ranges = {(s.layer, s.kind): s.range for s in made.sites}
    assert set(ranges) == {("x", "input"), ("a", "after"), ("b", "after"), ("relu", "after"),
                           ("average", "pooled"), ("mean", "after"), ("end", "before")}
    assert ranges["average", "pooled"] == ranges["relu", "after"] != ranges["mean", "after"]
    assert ranges["a", "after"] == ranges["b", "after"] != ranges["relu", "after"]


@pytest.mark.slow
@pytest.mark.parametrize("pool, size", [("AveragePooling2D", (2,)), ("AveragePooling2D", (6,)),
                                        ("GlobalAveragePooling2D", ())])
def test_averages_are_rounded_in_training_as_the_kernel_rounds_them(pool, size, tmp_path):
    """Halves away from zero of the stored integer; without that half of the values differed."""
    import keras
    from training import save_samples

    from tfcompress.compress.models import load
    from tfcompress.compress.training import finetune, qat_export

    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 3), name="x")
    y = keras.layers.Conv2D(8, 3, activation="relu")(x)
    y = keras.layers.Flatten()(getattr(keras.layers, pool)(*size)(y))
    loaded = load.describe(keras.Model(x, keras.layers.Dense(4, name="end")(y)), {}, [])
    rows = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("float32")
    found = finetune.run(loaded, recipe.Recipe((recipe.Qat(epochs=1),)),
                         save_samples(tmp_path / "s", [rows]))
    told = qat_export.to_int8(found.qat_model, tmp_path / "m.tflite", static(loaded.inputs),
                              loaded.outputs)
    assert told["route"] == "plain" and told["float_ops"] == {}
    assert told["agreement"]["equal"] > 0.99 and told["agreement"]["steps"] <= 1.01


@pytest.mark.slow
def test_recurrent_layers_are_trained_and_refused_by_the_converter_that_they_kill(tmp_path):
    import keras
    from training import random_samples

    from tfcompress.compress.models import load
    from tfcompress.compress.training import finetune, qat_export

    model = keras.Sequential([keras.Input((5, 3)), keras.layers.LSTM(4, name="memory"),
                              keras.layers.Dense(6)])
    loaded = load.describe(model, {}, [])
    found = finetune.run(loaded, recipe.Recipe((recipe.Qat(epochs=1),)),
                         random_samples(tmp_path, loaded))
    assert [(s["layer"], s["stage"]) for s in found.skipped] == [("memory", "qat")]
    with pytest.raises(TargetError, match="loops .memory"):
        qat_export.to_int8(found.qat_model, tmp_path / "m.tflite", static(loaded.inputs),
                           loaded.outputs)
    assert not (tmp_path / "m.tflite").exists()


@pytest.mark.slow
def test_four_bit_weights_are_four_bits_in_the_file(tmp_path):
    """Convolutions are stored as INT4; the grid of 15 steps per channel holds in every kernel."""
    from tfcompress.compress.training import finetune, qat_export

    loaded, _ = digits()
    found = finetune.run(loaded, recipe.Recipe((recipe.Qat(weight_bits=4, epochs=1),)),
                         digits_samples(tmp_path))
    told = qat_export.to_int8(found.qat_model, tmp_path / "d.tflite", static(loaded.inputs),
                              loaded.outputs)
    model = tflite.load((tmp_path / "d.tflite").read_bytes())
    kinds = [tflite.dtype_names()[t.type] for t in model.subgraphs[0].tensors]
    assert told["route"] == "plain"
    for layer in found.kernels:
        assert layer["distinct"] > 2
    from training import kernels_of

    for one, values in kernels_of(found.model):
        assert max(len(np.unique(row)) for row in one.matrix(values)) <= 15
    assert "int4" in kinds
