"""The training engine: what it learns from, that it repeats itself and takes any model."""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from training import accuracy, digits, digits_samples, random_samples, save_samples

from tfcompress.compress.training import losses, recipe
from tfcompress.errors import DataError, ModelError, UsageError

TRAINING = recipe.Training(epochs=2)
SHORT = recipe.Recipe((recipe.Prune(sparsity=0.8, depthwise=True),
                       recipe.Cluster(clusters=30), recipe.Qat()),
                      TRAINING)  # so few weights are left that some kernels cannot be clustered
# Kinds of models; each goes through prune, cluster and QAT.
KINDS = ["mlp", "einsum_dense", "depthwise2d_multiplier", "separable1d", "conv2d_transpose",
         "lstm_bidirectional", "gru", "mha", "embedding", "shared", "nested", "residual_se",
         "custom_layer", "subclassed", "dict_io", "multi_output", "spectralnorm_dense",
         "time_distributed", "mixed_float16"]


def weights(model):
    return [np.asarray(v.numpy()) for v in model.variables]


def probabilities(rows=60, classes=4, seed=0):
    values = np.exp(np.random.default_rng(seed).normal(size=(rows, classes)))
    return (values / values.sum(-1, keepdims=True)).astype("float32")


@pytest.mark.parametrize("labels, output, task, score", [
    (np.arange(60) % 4, probabilities(), "classes", "accuracy"),
    ((np.arange(60) % 4)[:, None], probabilities() * 9 - 4, "classes", "accuracy"),
    (np.eye(4)[np.arange(60) % 4], probabilities(), "onehot", "accuracy"),
    (np.arange(60) % 2, probabilities()[:, :1], "binary", "accuracy"),
    (np.arange(60) % 2, probabilities()[:, :1] * 9 - 4, "binary", "accuracy"),
    (np.linspace(0, 9, 60), probabilities()[:, :1] * 9, "values", "error"),
    (np.arange(60) % 9, probabilities(), "", "agreement"),
    (None, probabilities(), "", "agreement"),
    (None, probabilities() * 9 - 4, "", "error"),
    (np.zeros((60, 5), int), probabilities(300).reshape(60, 5, 4), "classes", "accuracy"),
])
def test_what_labels_ask_is_read_off_them(labels, output, task, score):
    found, notes = losses.infer(labels, [output], True, 2.0, 0.5)
    assert (found.task, found.score_name) == (task, score)
    assert found.teacher == (0.5 if task else 1.0)
    assert bool(notes) == (labels is not None and not task)


def test_labels_without_distillation():
    found, _ = losses.infer(np.arange(60) % 4, [probabilities()], False, 2.0, 0.5)
    assert found.teacher == 0.0


def test_labels_find_the_output_that_they_are_for():
    found, _ = losses.infer(np.arange(60) % 4, [probabilities()[:, :1] * 9, probabilities()], True,
                            2.0, 0.5)
    assert (found.which, found.task) == (1, "classes")


@pytest.mark.slow
@pytest.mark.parametrize("labels, scale", [(np.arange(60) % 4, 1), (None, 1), (None, 9)])
def test_the_loss_is_least_where_the_student_is_the_teacher(labels, scale):
    teacher = probabilities() * scale
    found, _ = losses.infer(None if labels is None else teacher.argmax(-1), [teacher], True, 2.0,
                            0.5)
    y = {"labels": teacher.argmax(-1), "teacher0": teacher}
    same, other = (float(found.loss(y, [p])) for p in (teacher, probabilities(seed=1) * scale))
    assert same < other
    assert labels is not None or same == pytest.approx(0, abs=1e-5)
    assert float(np.mean(found.score_of(y, [teacher]))) == (0 if scale == 9 else 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The digits through the whole chain at once, and the samples."""
    from tfcompress.compress.training import finetune

    folder = digits_samples(tmp_path_factory.mktemp("samples"))
    return finetune.run(digits()[0], SHORT, folder), folder


def same(one, two):
    return all(np.array_equal(a, b)
               for a, b in zip(weights(one.model), weights(two.model), strict=True))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(whole):
    from tfcompress.compress.training import finetune

    first, folder = whole
    again = finetune.run(digits()[0], SHORT, folder)
    assert same(first, again)
    assert first.qat_model.ranges.to_list() == again.qat_model.ranges.to_list()
    assert not same(first, finetune.run(digits()[0], SHORT, folder, seed=4))


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["prune epoch 2/2", "cluster epoch 1/2", "qat epoch 2/2"])
def test_a_run_that_was_killed_goes_on_and_ends_the_same(whole, tmp_path, stop):
    from tfcompress.compress.training import finetune

    expected, folder = whole

    def killed(_, text):  # after an epoch, before its checkpoint: that epoch is done again
        if text.startswith(stop):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune.run(digits()[0], SHORT, folder, progress=killed, checkpoint_dir=tmp_path)
    told = []
    resumed = finetune.run(digits()[0], SHORT, folder, checkpoint_dir=tmp_path,
                           progress=lambda _, text: told.append(text))
    assert next(t for t in told if "epoch" in t).startswith(stop)
    assert [(h["stage"], h["epoch"]) for h in resumed.history] == [
        (s, e) for s in ("prune", "cluster", "qat") for e in (0, 1)]
    assert [h["loss"] for h in resumed.history] == [h["loss"] for h in expected.history]
    assert same(resumed, expected) and resumed.skipped == expected.skipped != []


@pytest.mark.slow
def test_without_labels_the_original_is_teacher_enough(tmp_path):
    from tfcompress.compress.training import finetune

    loaded, _ = digits()
    chosen = recipe.Recipe((recipe.Prune(sparsity=0.6, epochs=12),))
    found = finetune.run(loaded, chosen, digits_samples(tmp_path, labels=False))
    assert found.metric_name == "agreement"
    assert accuracy(found.model) >= accuracy(loaded.model) - 0.02


@pytest.mark.slow
@pytest.mark.parametrize("name", ["op_argmin", "op_map_coordinates"])
def test_outputs_without_a_gradient_are_not_trained_towards(tmp_path, name):
    import zoo

    from tfcompress.compress.models import load
    from tfcompress.compress.training import finetune

    loaded = load.describe(zoo.build(name, zoo.models()[name]), {}, [])
    found = finetune.run(loaded, SHORT, random_samples(tmp_path / "samples", loaded))
    assert found.history == [] and any("no output has a gradient" in n for n in found.notes)
    assert all(k["zeros"] >= 0.8 - 0.5 / k["values"] for k in found.kernels)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_model_goes_through_the_chain(tmp_path, name):
    import keras
    import zoo

    from tfcompress.compress.models import load
    from tfcompress.compress.training import finetune

    loaded = load.describe(zoo.build(name, zoo.models()[name]), {}, [])
    chosen = recipe.Recipe(SHORT.stages, recipe.Training(epochs=1, batch_size=16))
    samples = random_samples(tmp_path / "samples", loaded)
    found = finetune.run(loaded, chosen, samples)
    assert found.kernels or found.skipped
    for kernel in found.kernels:
        assert kernel["zeros"] >= 0.8 - 0.5 / kernel["values"]
    assert all(np.isfinite(h["loss"]) for h in found.history) and len(found.history) == 3
    found.model.save(tmp_path / "out.keras")
    again = load.describe(keras.saving.load_model(tmp_path / "out.keras", safe_mode=False), {}, [])
    rows = [np.load(samples / "inputs" / f"{i}.npy")[:4] for i in range(len(loaded.inputs))]
    compressed = load.describe(found.model, {}, [])
    for a, b in zip(load.call(compressed, rows), load.call(again, rows), strict=True):
        assert np.allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_bad_samples_and_models_are_named(tmp_path):
    from tfcompress.compress.models import load
    from tfcompress.compress.training import finetune

    loaded, data = digits()
    with pytest.raises(DataError, match="cannot read the samples"):
        finetune.run(loaded, SHORT, tmp_path)
    folder = save_samples(tmp_path / "few", [data["x_train"][:9]], data["y_train"][:8])
    with pytest.raises(DataError, match="8 labels for 9 samples"):
        finetune.run(loaded, SHORT, folder)
    other = load.Loaded(None, "saved-model", [], [], [], False, lambda x: x)
    with pytest.raises(ModelError, match="saved-model model cannot be trained"):
        finetune.run(other, SHORT, folder)


SLIM = recipe.Recipe((recipe.Structured(to=0.5, rounds=2, epochs=4),
                      recipe.Prune(sparsity=0.5, depthwise=True),
                      recipe.Qat(epochs=1)), TRAINING)


@pytest.fixture(scope="module")
def slim(tmp_path_factory):
    """The digits with half of their parameters taken out in two rounds, then pruned and rounded."""
    from tfcompress.compress.training import finetune

    folder = digits_samples(tmp_path_factory.mktemp("samples"))
    return finetune.run(digits()[0], SLIM, folder), folder


@pytest.mark.slow
def test_channels_go_and_later_stages_work_on_the_smaller_model(slim, tmp_path):
    import keras

    found, _ = slim
    before, after = (found.slimmed[k]["parameters"] for k in ("before", "after"))
    assert before == digits()[0].model.count_params() and after == found.model.count_params()
    assert 0.35 * before < after <= 0.5 * before
    assert found.slimmed["removed"] and all(r["after"] < r["before"]
                                            for r in found.slimmed["removed"])
    assert all(k["zeros"] >= 0.49 for k in found.kernels) and len(found.kernels) == 8
    assert [h["stage"] for h in found.history] == ["structured"] * 4 + ["prune"] * 2 + ["qat"]
    assert accuracy(found.model) >= accuracy(digits()[0].model) - 0.06
    found.model.save(tmp_path / "small.keras")
    assert keras.saving.load_model(tmp_path / "small.keras").count_params() == after


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["structured epoch 2/4", "structured epoch 4/4", "prune epoch 1/2",
                                  "qat epoch 1/1"])
def test_a_killed_run_goes_on_with_the_smaller_model(slim, tmp_path, stop):
    from tfcompress.compress.training import finetune

    expected, folder = slim

    def killed(_, text):
        if text.startswith(stop):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune.run(digits()[0], SLIM, folder, progress=killed, checkpoint_dir=tmp_path)
    told = []
    resumed = finetune.run(digits()[0], SLIM, folder, checkpoint_dir=tmp_path,
                           progress=lambda _, text: told.append(text))
    assert next(t for t in told if "epoch" in t).startswith(stop)
    assert same(resumed, expected)
    assert resumed.slimmed == expected.slimmed and resumed.skipped == expected.skipped


@pytest.mark.slow
def test_frozen_layers_keep_their_weights_and_logs_and_half_precision_work(tmp_path):
    from tfcompress.compress.training import finetune

    loaded, _ = digits()
    chosen = recipe.Recipe((recipe.Prune(sparsity=0.5),), recipe.Training(
        epochs=1, freeze="conv2d, batch*", mixed_precision=True, schedule="linear",
        tensorboard=str(tmp_path / "logs")))
    found = finetune.run(loaded, chosen, digits_samples(tmp_path / "samples"))
    for layer, other in zip(loaded.model.layers, found.model.layers, strict=True):
        kept = layer.name == "conv2d" or layer.name.startswith("batch")
        changed = [not np.array_equal(a, b) for a, b in zip(weights(layer), weights(other),
                                                            strict=True)]
        assert not any(changed) if kept else all(changed)
        assert other.dtype_policy.name == "float32" and other.trainable
    assert {"stage": "prune", "layer": "conv2d", "why": "not among the layers chosen"} \
        in found.skipped
    assert list((tmp_path / "logs" / "1-prune").glob("events*"))
    with pytest.raises(UsageError, match="freeze = 'nothing'"):
        finetune.run(loaded, recipe.Recipe(chosen.stages, recipe.Training(freeze="nothing")),
                     tmp_path / "samples")


@pytest.mark.slow
def test_several_devices_train_one_model(tmp_path):
    """Two logical devices of one CPU, in a process of their own."""
    code = """if True:
        import sys
        import tensorflow as tf
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
        from training import digits, digits_samples
        from tfcompress.compress.training import finetune, recipe
        chosen = recipe.Recipe((recipe.Prune(sparsity=0.5, epochs=1, depthwise=True),
                                recipe.Qat(epochs=1)))
        folder = digits_samples(sys.argv[1])
        one = finetune.run(digits()[0], chosen, folder)
        with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
            two = finetune.run(digits()[0], chosen, folder)
        for a, b in zip(one.history, two.history, strict=True):
            assert abs(a["loss"] - b["loss"]) < 0.1, (a, b)
        assert all(k["zeros"] >= 0.49 for k in two.kernels)
        """
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT / "tests",
                          capture_output=True, text=True, env=os.environ | {
                              "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)})
    assert done.returncode == 0, done.stderr[-2000:]
