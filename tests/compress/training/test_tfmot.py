"""TFMOT's own chain, through the bridge and back."""

import sys

import numpy as np
import pytest
from training import accuracy, digits, digits_samples, random_samples, save_samples, static

from tfcompress import tflite
from tfcompress.compress.training import recipe, tfmot
from tfcompress.errors import MissingExtra, ModelError, UsageError


@pytest.mark.parametrize(("stage", "word"), [
    (recipe.Structured(), "structured"),
    (recipe.Qat(weight_bits=4), "weight_bits"),
    (recipe.Qat(activation_bits=16), "activation_bits"),
    (recipe.Cluster(scope="global"), "scope"),
    (recipe.Prune(epochs=0), "while it trains"),
])
def test_stages_that_tfmot_has_not_are_refused_before_work(stage, word):
    with pytest.raises(UsageError, match=word) as caught:
        tfmot.check(recipe.Recipe((stage,)))
    assert caught.value.hint


def test_stages_that_tfmot_has_are_not_refused():
    tfmot.check(recipe.from_flags(prune=0.5, cluster=16, qat=True))


def tensors(file):
    """The int8 weights of convolutions and Dense layers in a file, output channels first."""
    model = tflite.load(file)
    graph = model.subgraphs[0]
    for op in graph.operators:
        if tflite.op_name(model, op) in ("CONV_2D", "FULLY_CONNECTED"):
            tensor = graph.tensors[op.inputs[1]]
            assert tflite.dtype_names()[tensor.type] == "int8"
            data = bytes(model.buffers[tensor.buffer].data)
            yield np.frombuffer(data, np.int8).reshape(tensor.shape[0], -1)


@pytest.mark.slow
def test_pcqat_keeps_zeros_and_clusters_into_the_int8_file(tmp_path):
    import keras

    loaded, _ = digits()
    before = loaded.model.get_weights()
    chosen = recipe.from_flags(prune=0.6, cluster=16, qat=True, epochs=1, distill=False)
    done = tfmot.run(loaded, chosen, digits_samples(tmp_path / "samples"))
    assert all((a == b).all() for a, b in zip(before, loaded.model.get_weights(), strict=True))
    assert {type(x).__name__ for x in done.model.layers} == \
        {type(x).__name__ for x in loaded.model.layers}
    done.model.save(tmp_path / "small.keras")
    assert accuracy(keras.models.load_model(tmp_path / "small.keras")) >= 0.93
    assert {"rescaling", "random_translation"} <= {
        s["layer"] for s in done.skipped if s["stage"] == "qat"}
    assert [h["stage"] for h in done.history] == ["prune", "cluster", "qat"]

    told = done.qat_model.to_int8(tmp_path / "m.tflite", static(loaded.inputs),
                                  static(loaded.outputs))
    assert told["float_ops"] == {} and told["agreement"]["equal"] > 0.5
    found = list(tensors(tmp_path / "m.tflite"))
    assert len(found) == 6
    for values in found:
        assert (values == 0).mean() > 0.55
        assert max(len(np.unique(row)) for row in values) <= 16


@pytest.mark.slow
def test_weights_go_back_into_nested_separable_and_recurrent_layers(tmp_path):
    import keras
    from keras import layers

    from tfcompress.compress.models import load

    inner = keras.Sequential([keras.Input((8, 8, 4)), layers.SeparableConv2D(8, 3, name="same"),
                              layers.ReLU()], name="inner")
    given = keras.Input((8, 8, 4))
    flat = layers.Reshape((36, 8))(inner(given))
    deep = layers.LSTM(6, name="lstm")(layers.Conv1D(4, 3, name="same_1")(flat))
    model = keras.Model(given, layers.Dense(3, name="out")(deep))
    loaded = load.describe(model, {}, [])
    chosen = recipe.Recipe((recipe.Prune(sparsity=0.5, schedule="constant"),
                            recipe.Cluster(clusters=4, layers="!lstm*")), recipe.Training(epochs=1))
    done = tfmot.run(loaded, chosen, random_samples(tmp_path, loaded, 64))
    separable, lstm = done.model.get_layer("inner").layers[0], done.model.get_layer("lstm")
    for kernel in (separable.pointwise_kernel, lstm.cell.kernel, lstm.cell.recurrent_kernel,
                   done.model.get_layer("out").kernel):
        assert abs(np.mean(kernel.numpy() == 0) - 0.5) < 0.06
    assert not (separable.depthwise_kernel.numpy() == 0).any()
    assert not np.allclose(separable.depthwise_kernel, model.get_layer("inner").layers[0]
                           .depthwise_kernel, atol=1e-5)
    assert len(np.unique(separable.pointwise_kernel)) == 4
    assert len(np.unique(lstm.cell.kernel)) > 4
    assert {k["layer"].split("/")[-1]: k["distinct"] for k in done.kernels}["same"] == 4


@pytest.mark.slow
def test_a_killed_run_goes_on_after_its_last_finished_stage(tmp_path):
    import keras

    from tfcompress.compress.models import load

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, activation="relu"),
                              keras.layers.Dense(4)])
    loaded = load.describe(model, {}, [])
    rng = np.random.default_rng(0)
    samples = save_samples(tmp_path / "samples", [rng.normal(size=(64, 8)).astype("float32")])
    chosen = recipe.from_flags(prune=0.5, cluster=4, epochs=2)

    def stop(done, text):
        if "cluster epoch 1" in text:
            raise KeyboardInterrupt

    whole = tfmot.run(loaded, chosen, samples)
    with pytest.raises(KeyboardInterrupt):
        tfmot.run(loaded, chosen, samples, progress=stop, checkpoint_dir=tmp_path / "kept")
    said = []
    rest = tfmot.run(loaded, chosen, samples, checkpoint_dir=tmp_path / "kept",
                     progress=lambda _, text: said.append(text))
    assert not any("prune epoch" in text for text in said)
    assert [h["stage"] for h in rest.history] == [h["stage"] for h in whole.history]
    for one, two in zip(whole.model.get_weights(), rest.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.slow
def test_models_without_a_twin_are_refused(tmp_path):
    import keras

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(4)

        def call(self, x):
            return self.dense(x)

        def get_config(self):
            return {}

    from tfcompress.compress.models import load

    model = Own()
    model(np.zeros((2, 8), "float32"))
    loaded = load.describe(model, {}, [])
    with pytest.raises(ModelError, match="cannot be carried to tf_keras"):
        tfmot.run(loaded, recipe.from_flags(prune=0.5, epochs=1),
                  random_samples(tmp_path, loaded))


@pytest.mark.slow
def test_tfmot_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_model_optimization", None)
    tfmot.toolkit.cache_clear()
    try:
        with pytest.raises(MissingExtra, match="tensorflow-model-optimization"):
            tfmot.toolkit()
    finally:
        tfmot.toolkit.cache_clear()
