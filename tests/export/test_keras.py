import time
import zipfile

import numpy as np
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model():
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    model.fit(np.ones((8, 4)), np.ones(8), verbose=0)
    return model


def test_same_bytes_at_any_time(model, tmp_path):
    from tfcompress.export.keras import to_keras

    to_keras(model, tmp_path / "one.keras")
    time.sleep(2.1)  # the step of a zip entry's clock
    to_keras(model, tmp_path / "two.keras")
    assert (tmp_path / "one.keras").read_bytes() == (tmp_path / "two.keras").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.keras", "two.keras"]


def test_it_loads_without_optimizer_and_computes_the_same(model, tmp_path):
    import keras

    from tfcompress.export.keras import to_keras

    path = tmp_path / "m.keras"
    to_keras(model, path)
    model.save(tmp_path / "with_optimizer.keras")
    assert path.stat().st_size < (tmp_path / "with_optimizer.keras").stat().st_size
    again = keras.saving.load_model(path)
    x = np.random.default_rng(0).random((3, 4), "float32")
    np.testing.assert_array_equal(again(x), model(x))
    assert not again.compiled and zipfile.ZipFile(path).testzip() is None
    model.fit(np.ones((8, 4)), np.ones(8), verbose=0)  # the user's own model still trains
