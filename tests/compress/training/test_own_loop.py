"""Stages in the user's own training loop."""

import numpy as np
import pytest
from training import accuracy, digits, kernels_of, static

from tfcompress.compress.training import recipe
from tfcompress.errors import UsageError


def fit(model, callbacks, epochs=1, rate=1e-3):
    import keras

    _, data = digits()
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy",
                  metrics=["accuracy"])
    return model.fit(data["x_train"].astype("float32"), data["y_train"], epochs=epochs, verbose=0,
                     callbacks=callbacks)


@pytest.mark.slow
def test_prune_cluster_and_qat_one_after_another(tmp_path):
    from tfcompress.compress.training import own_loop, qat_export

    loaded, data = digits()
    before = [v.copy() for _, v in kernels_of(loaded.model)]
    model, callbacks = own_loop.wrap(loaded.model, recipe.Prune(sparsity=0.6, depthwise=True))
    assert "accuracy" in fit(model, callbacks, epochs=6).history
    pruned = own_loop.finish(model)
    assert all((v == 0).sum() == round(0.6 * v.size) for _, v in kernels_of(pruned))
    model, callbacks = own_loop.wrap(pruned, recipe.Cluster(clusters=16))
    fit(model, callbacks)
    clustered = own_loop.finish(model)
    model, callbacks = own_loop.wrap(clustered, recipe.Qat(), data=data["x_train"][:128])
    fit(model, callbacks, rate=1e-4)
    done = own_loop.finish(model)
    for one, values in kernels_of(done):
        assert (values == 0).sum() >= round(0.6 * values.size)
        assert max(len(np.unique(row)) for row in one.matrix(values)) <= 16
    assert accuracy(done) >= accuracy(loaded.model) - 0.04
    assert all(np.array_equal(a, v) for a, (_, v) in
               zip(before, kernels_of(loaded.model), strict=True)), "the source was changed"
    told = qat_export.to_int8(own_loop.quantized(model), tmp_path / "d.tflite",
                              static(loaded.inputs), loaded.outputs)
    assert told["route"] == "plain" and told["agreement"]["steps"] <= 1.01


@pytest.mark.slow
def test_names_structures_and_losses_of_the_user_s_own_work():
    import keras

    from tfcompress.compress.training import own_loop

    a, b = keras.Input((6,), name="a"), keras.Input((4,), name="b")
    both = keras.layers.Concatenate()([a, b])
    model = keras.Model({"a": a, "b": b}, [keras.layers.Dense(3, name="three")(both),
                                           keras.layers.Dense(8, name="eight")(both)])
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=(64, 6)), "b": rng.normal(size=(64, 4))}
    made, callbacks = own_loop.wrap(model, recipe.Prune(sparsity=0.5, schedule="constant"))
    made.compile("sgd", {"three": "mse", "eight": "mae"})
    made.fit(x, [np.zeros((64, 3)), np.zeros((64, 8))], verbose=0, callbacks=callbacks)
    found = own_loop.finish(made)
    for got, want in zip(found.predict(x, verbose=0), made.predict(x, verbose=0), strict=True):
        assert np.allclose(got, want, atol=1e-5)
    assert [float((v == 0).mean()) for _, v in kernels_of(found)] == [0.5, 0.5]


@pytest.mark.slow
def test_ranges_need_data():
    from tfcompress.compress.training import own_loop

    with pytest.raises(UsageError, match="no"):
        own_loop.wrap(digits()[0].model, recipe.Qat())
    model, _ = own_loop.wrap(digits()[0].model, recipe.Cluster())
    with pytest.raises(UsageError, match="not wrapped"):
        own_loop.quantized(model)
