import math

import numpy as np
import pytest
from training import digits

from tfcompress.benchmark import change
from tfcompress.compress import outline, sensitivity
from tfcompress.compress.sensitivity import SETTINGS, Setting
from tfcompress.compress.training.kernels import find

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def seen():
    loaded, data = digits()
    before = [w.numpy() for w in loaded.model.weights]
    told = []
    found = sensitivity.measure(
        loaded, [data["x_test"][:32]], change.judge(data["y_test"][:32], None),
        lambda fraction, text: told.append(fraction))
    after = [w.numpy() for w in loaded.model.weights]
    return loaded, found, told, all((a == b).all() for a, b in zip(before, after, strict=True))


def by_name(found):
    return {row["layer"]: row for row in found["layers"]}


def test_every_layer_is_measured_under_every_setting_and_put_back(seen):
    _, found, told, same = seen
    rows = by_name(found)
    assert same and found["rows"] == 32
    assert set(rows["conv2d"]["results"]) == {s.name for s in SETTINGS}
    assert rows["separable_conv2d"]["weights"] == 9 * 16 + 16 * 32
    assert found["runs"] == sum(len(r["results"]) for r in found["layers"])
    fractions = [f for f in told if f is not None]
    assert fractions == sorted(fractions) and len(fractions) == found["runs"]


def test_more_change_leaves_less(seen):
    for row in seen[1]["layers"]:
        snr = {k: v["snr"] for k, v in row["results"].items()}
        if row["weights"]:
            assert snr["weights-8"] > max(snr["weights-4"], snr["weights-2"])
            assert snr["prune-50"] > snr["prune-90"]
        if "activations-8" in snr:
            assert 30 < snr["activations-8"] < 200


def test_a_figure_is_what_the_changed_model_gives_by_hand(seen):
    loaded, found, _, _ = seen
    _, data = digits()
    x, dense = data["x_test"][:32].astype("f4"), loaded.model.get_layer("dense")
    before, values = np.asarray(loaded.model(x, training=False)), dense.kernel.numpy()
    cut = np.sort(np.abs(values).ravel())[round(0.9 * values.size)]
    try:
        dense.kernel.assign(np.where(np.abs(values) >= cut, values, 0))
        after = np.asarray(loaded.model(x, training=False))
    finally:
        dense.kernel.assign(values)
    wanted = 10 * math.log10((before**2).sum() / ((before - after) ** 2).sum())
    told = by_name(found)["dense"]["results"]["prune-90"]
    assert told["snr"] == pytest.approx(wanted, abs=0.1)
    agreed = (before.argmax(-1) == after.argmax(-1)).mean()
    assert told["agreement"] == pytest.approx(agreed)


def test_combinations_keep_what_they_promise_and_are_better_than_nothing(seen):
    combined = seen[1]["combined"]
    for plan in (combined["prune"], combined["weights-4"]):
        assert plan["result"]["snr"] >= sensitivity.GOAL_DB and 0 < plan["share"] <= 1
        names = {r["layer"] for r in seen[1]["layers"] if r["weights"]}
        assert set(plan["layers"]) | set(plan["left_out"]) == names
        assert not set(plan["layers"]) & set(plan["left_out"])
    assert combined["prune"]["share"] > 0.5  # the large dense layer bears it


def test_a_slow_model_is_measured_on_fewer_samples():
    loaded, data = digits()
    found = sensitivity.measure(loaded, [data["x_test"][:64]], change.judge(None, None),
                                lambda *_: None, seconds=0.0)
    assert found["rows"] == sensitivity.FEWEST


def test_changed_kernels_have_the_zeros_and_the_levels_that_were_asked_for():
    kernel = find(digits()[0].model)[0][-1]
    values = kernel.variable.numpy()
    pruned = sensitivity.changed(kernel, values, Setting("", "prune", 0.7))
    assert (pruned == 0).sum() == round(0.7 * values.size)
    rounded = kernel.matrix(sensitivity.changed(kernel, values, Setting("", "weights", 2)))
    assert max(len(np.unique(channel)) for channel in rounded) == 3


def test_the_outline_counts_each_weight_once_and_names_what_training_alone_needs():
    import keras

    from tfcompress.compress.models import load

    keras.utils.clear_session()  # layers are numbered anew
    layers = keras.layers
    x = keras.Input((10, 8))
    y = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(layers.Dropout(0.1)(x))
    y = layers.MultiHeadAttention(2, 4)(y, y)
    shared = layers.Dense(8, name="shared")
    inner = keras.Sequential([keras.Input((10, 8)), layers.Dense(8), shared], name="inner")
    model = keras.Model(x, layers.GRU(3)(shared(inner(y))))
    rows = outline.layers(load.describe(model, {}, []))
    assert sum(r["parameters"] for r in rows) == model.count_params()
    kinds = [r["type"] for r in rows]
    assert kinds.index("Dropout") < kinds.index("Bidirectional") < kinds.index("GRU")
    assert len([r for r in rows if r["name"].endswith("shared")]) == 1
    assert [r["type"] for r in rows if r["note"]] == ["Dropout"]
    wide = next(r for r in rows if r["type"] == "Bidirectional")
    assert wide["shape"] == [None, 10, 8]
    assert "bidirectional/forward_lstm/lstm_cell" in wide["holds"]
    parts = [r for r in rows if r["name"].startswith("multi_head_attention/")]
    assert len(parts) == 4 and all(r["shape"] for r in parts)
