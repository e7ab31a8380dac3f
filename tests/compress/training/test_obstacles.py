"""Whatever cannot be trained is passed by and named, and the rest of the model is trained."""

import numpy as np
import pytest
from training import random_samples, save_samples

from tfcompress.compress.training import recipe

TRAINING = recipe.Training(epochs=1, batch_size=4)
CHAIN = recipe.Recipe((recipe.Prune(sparsity=0.5, schedule="constant"), recipe.Cluster(clusters=4),
                       recipe.Qat()), TRAINING)
PRUNE = recipe.Recipe(CHAIN.stages[:1], TRAINING)
XLA = ("an operator of the model has no kernel for this processor: it was trained as XLA compiles "
       "it")
NOTHING = "the stages were applied without training"
# Constructs of the zoo that a plain training step fails at: what is told, and whether they train.
HARD = {
    "text_vectorization": ("prune: no weights of the model take part", False),
    "resizing_area": ("no gradient for its operator ResizeArea", False),
    "random_crop_resize": ("run as at inference: its result has another shape", True),
    "op_slice_update": ("no gradient for its operator XlaDynamicUpdateSlice", False),
    "op_dynamic_slice": ("", True),
    "op_broadcast_to": ("", True),
    "op_associative_scan": ("", True),
    "op_fft_magnitude": ("the root of zero", True),
}
SLOW = ("op_fft_magnitude", "op_associative_scan", "op_dynamic_slice", "op_broadcast_to")


def run(model, chosen, folder, rows=None, **options):
    from tfcompress.compress.models import load
    from tfcompress.compress.training import finetune

    loaded = load.describe(model, {}, [])
    samples = random_samples(folder, loaded, 8) if rows is None else save_samples(folder, rows)
    return finetune.run(loaded, chosen, samples, **options)


def told(done):
    return [*done.notes, *(f"{s['stage']}, {s['layer']}: {s['why']}" for s in done.skipped)]


def values(model):
    return {v.path: v.numpy() for v in model.variables}


@pytest.mark.parametrize("name", [
    pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in HARD])
def test_what_a_step_fails_at_is_passed_by_and_named(tmp_path, name):
    import zoo

    from tfcompress.compress.models import load

    text, trains = HARD[name]
    model = zoo.build(name, zoo.models()[name])
    rows = [np.array([["a b"], ["c"]] * 4)] if name == "text_vectorization" else None
    done = run(model, CHAIN, tmp_path, rows)
    assert any(text in t for t in told(done)) if text else not done.notes and not done.skipped
    trained = [h["stage"] for h in done.history]
    assert (trained[-1:] == ["qat"]) == trains and done.qat_model is not None
    assert all(k["zeros"] >= 0.5 - 0.5 / k["values"] and k["distinct"] <= 256 for k in done.kernels)
    rows = [np.load(p) for p in sorted((tmp_path / "inputs").iterdir())]
    for output in load.call(load.describe(done.model, {}, []), rows):
        assert output.dtype.kind != "f" or np.isfinite(output).all()


def custom_layers():
    """Layers of a user's own that stand in the way."""
    import keras
    import tensorflow as tf

    class NoGradient(keras.layers.Layer):
        def call(self, x):
            @tf.custom_gradient
            def twice(t):
                def gradient(d):
                    raise NotImplementedError("nobody wrote this gradient")
                return t * 2, gradient
            return twice(x)

    class NotInTraining(keras.layers.Layer):
        def call(self, x, training=False):
            if training:
                raise RuntimeError("only for inference")
            return x * 2

    return NoGradient, NotInTraining


def between(layer):
    """A Dense before and one behind a layer."""
    import keras

    keras.utils.set_random_seed(0)
    x = keras.Input((8,))
    h = keras.layers.Dense(8, name="before")(x)
    return keras.Model(x, keras.layers.Dense(4, name="behind")(layer(h)))


def test_only_what_lies_behind_a_layer_without_a_gradient_is_trained(tmp_path):
    model = between(custom_layers()[0](name="wall"))
    done = run(model, PRUNE, tmp_path)
    assert {"stage": "prune", "layer": "wall", "why":
            "no gradient goes back through it: nobody wrote this gradient"} in done.skipped
    assert done.notes == ["no gradient reaches before: there the stages were applied without "
                          "training"]
    old, new = values(model), values(done.model)
    for name, trained in (("before/kernel", False), ("behind/kernel", True)):
        kept = new[name] != 0
        assert np.mean(kept) == 0.5
        assert np.array_equal(old[name][kept], new[name][kept]) is not trained


def test_a_layer_that_fails_in_training_runs_as_at_inference(tmp_path):
    model = between(custom_layers()[1](name="shy"))
    done = run(model, PRUNE, tmp_path)
    assert done.skipped == [{"stage": "prune", "layer": "shy", "why": "it was run as at inference: "
                             "it fails in training (only for inference)"}]
    assert done.notes == [] and len(done.history) == 1
    old, new = (values(m)["before/kernel"] for m in (model, done.model))
    assert not np.array_equal(old[new != 0], new[new != 0])


def test_a_layer_can_stand_in_the_way_in_both_ways(tmp_path):
    import keras
    import tensorflow as tf

    class Both(keras.layers.Layer):
        def call(self, x, training=False):
            if training:
                raise RuntimeError("only for inference")
            return tf.raw_ops.ResizeArea(images=x, size=[4, 4])

    x = keras.Input((8, 8, 3))
    h = Both(name="both")(keras.layers.Conv2D(8, 3)(x))
    done = run(keras.Model(x, keras.layers.Conv2D(8, 3)(h)), PRUNE, tmp_path)
    assert done.skipped == [{"stage": "prune", "layer": "both", "why":
                             "no gradient goes back through it: TensorFlow has no gradient for its "
                             "operator ResizeArea; it was run as at inference: it fails in training"
                             " (only for inference)"}]
    assert len(done.history) == 1


def test_a_model_that_cannot_be_trained_at_all_is_pruned_at_once(tmp_path):
    import keras
    import tensorflow as tf

    class Written(keras.Model):
        """Its `call` has an operator without a gradient that belongs to no layer."""

        def __init__(self, **options):
            super().__init__(**options)
            self.first, self.last = keras.layers.Conv2D(8, 3), keras.layers.Dense(4)

        def call(self, x):
            small = tf.raw_ops.ResizeArea(images=self.first(x), size=[2, 2])
            return self.last(keras.ops.reshape(small, (-1, 32)))

    model = Written()
    model(np.zeros((1, 8, 8, 3), "float32"))
    done = run(model, CHAIN, tmp_path)
    assert done.notes == ["the model cannot be trained (TensorFlow has no gradient for its "
                          f"operator ResizeArea): {NOTHING}"]
    assert done.history == [] and [k["zeros"] for k in done.kernels] == [0.5, 0.5]
    assert all(k["distinct"] <= 4 for k in done.kernels)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float16", "float64"])
def test_kernels_of_other_precisions_go_through_the_chain(tmp_path, kind):
    import keras

    layers = keras.layers
    model = keras.Sequential([keras.Input((8,), dtype=kind),
                              layers.Dense(16, dtype=kind, activation="relu"),
                              layers.Dense(4, dtype=kind)])
    done = run(model, CHAIN, tmp_path)
    assert [h["stage"] for h in done.history] == ["prune", "cluster", "qat"]
    assert {v.dtype for v in done.model.variables} == {kind}


def test_a_sparse_output_is_trained(tmp_path):
    import keras
    import tensorflow as tf

    class Sparse(keras.layers.Layer):
        def call(self, x):
            return tf.sparse.from_dense(x)

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype, sparse=True)

    x = keras.Input((8,))
    done = run(keras.Model(x, Sparse()(keras.layers.Dense(8)(x))), PRUNE, tmp_path)
    assert len(done.history) == 1 and done.notes == []


@pytest.mark.slow
def test_nan_in_the_data_spoils_no_weight(tmp_path):
    import keras

    x = keras.Input((8,))
    model = keras.Model(x, keras.layers.Dense(4)(keras.layers.BatchNormalization()(
        keras.layers.Dense(8)(x))))
    rows = np.random.default_rng(0).normal(size=(8, 8)).astype("float32")
    rows[3, 2] = np.nan
    done = run(model, PRUNE, tmp_path, [rows])
    assert all(np.isfinite(v).all() for v in values(done.model).values())
    assert any("not trained in 50% of the steps" in n for n in done.notes)


def test_a_guard_costs_only_the_values_at_which_a_slope_is_infinite():
    import keras
    import tensorflow as tf

    from tfcompress.compress.training import obstacles

    x = keras.Input((3,))
    model = keras.Model(x, keras.ops.sqrt(keras.layers.ReLU()(x)))
    around, row = obstacles.Obstacles(guarded=True), tf.constant([[-1.0, 0.25, 4.0]])
    for context, wanted in ((obstacles.Obstacles(), [np.nan, 1.0, 0.25]),
                            (around, [0.0, 1.0, 0.25])):
        with tf.GradientTape() as tape, context:
            tape.watch(row)
            root = model(row)
        assert np.allclose(tape.gradient(root, row)[0], wanted, equal_nan=True)


@pytest.mark.slow
def test_a_killed_run_tells_the_same_of_its_obstacles(tmp_path):
    from tfcompress.compress.models import load
    from tfcompress.compress.training import finetune

    loaded = load.describe(between(custom_layers()[0](name="wall")), {}, [])
    samples = random_samples(tmp_path / "samples", loaded, 8)
    expected = finetune.run(loaded, CHAIN, samples)

    def killed(_, text):
        if text.startswith("cluster epoch"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune.run(loaded, CHAIN, samples, progress=killed, checkpoint_dir=tmp_path / "state")
    resumed = finetune.run(loaded, CHAIN, samples, checkpoint_dir=tmp_path / "state")
    assert sorted(told(resumed)) == sorted(told(expected)) and len(told(expected)) == 4
    for a, b in zip(expected.model.variables, resumed.model.variables, strict=True):
        assert np.array_equal(a.numpy(), b.numpy())


def careful(batch, generator):
    """A user's own function that fails after the batch it was tried on."""
    if len(batch) > 2:
        raise ZeroDivisionError("the user's own mistake")
    return batch


def test_an_error_in_the_users_augmentation_is_no_obstacle(tmp_path):
    import dataclasses

    import tensorflow as tf

    wrong = dataclasses.replace(TRAINING, augment=f"{__name__}:careful")
    with pytest.raises(tf.errors.OpError, match="the user's own mistake"):
        run(between(lambda x: x), recipe.Recipe(PRUNE.stages, wrong), tmp_path)


def channels_first():
    """In float64, for which TensorFlow has no such kernel on processors."""
    import keras

    x = keras.Input((3, 8, 8), dtype="float64")
    options = {"data_format": "channels_first", "dtype": "float64"}
    h = keras.layers.Conv2D(8, 3, activation="relu", **options)(x)
    return keras.Model(x, keras.layers.GlobalAveragePooling2D(**options)(h))


@pytest.mark.slow
def test_xla_compiles_what_has_no_kernel(tmp_path):
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("GPUs have the kernel")
    done = run(channels_first(), CHAIN, tmp_path)
    assert [h["stage"] for h in done.history] == ["prune", "cluster", "qat"]
    assert done.notes == [XLA] and done.skipped == []
    assert done.kernels[0]["zeros"] == 0.5 and done.kernels[0]["distinct"] <= 5
    row = np.load(tmp_path / "inputs" / "0.npy")[:1]
    assert np.isfinite(done.qat_model.run([row])[0]).all()


@pytest.mark.slow
def test_the_integer_file_of_a_model_that_xla_runs_agrees_with_it(tmp_path):
    import zoo
    from training import static

    from tfcompress.compress.models import load
    from tfcompress.compress.training import finetune, qat_export

    name = "conv2d_transpose_dilated"
    loaded = load.describe(zoo.build(name, zoo.models()[name]), {}, [])
    loaded.compiled["xla"] = True  # as without oneDNN
    done = finetune.run(loaded, recipe.Recipe(CHAIN.stages[2:], TRAINING),
                        random_samples(tmp_path / "samples", loaded, 8))
    found = qat_export.to_int8(done.qat_model, tmp_path / "int8.tflite", static(loaded.inputs),
                               loaded.outputs)
    assert XLA in done.notes
    assert found["agreement"]["samples"] == 8 and found["agreement"]["steps"] <= 2
