"""Float conversion: every construct of the zoo, names, routes, and what the file promises."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tfcompress.artifact import TensorSpec

TESTS = Path(__file__).parent.parent


def test_snr():
    from tfcompress.export.tflite import snr_db

    one = np.ones(100)
    assert snr_db(one, one) == math.inf
    assert snr_db(one, one + 0.01) == pytest.approx(40.0)
    assert snr_db(one, one[:50]) == -math.inf
    assert snr_db(one, np.full(100, np.nan)) == -math.inf
    assert snr_db([1.0, np.inf], [1.0, 3.0]) == math.inf


def run_zoo(folder: Path) -> tuple[dict, list]:
    """Every construct in one process, which is restarted behind a construct that kills it."""
    import zoo

    left, done, killers = list(zoo.models()), {}, []
    while left:
        output = subprocess.run(
            [sys.executable, str(TESTS / "zoo.py"), "--json", *left], stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, env=None, cwd=folder).stdout
        records = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        done |= {r["name"]: r for r in records if "name" in r}
        begun = [r["begin"] for r in records if "begin" in r]
        killers += [name for name in begun if name not in done]
        left = [name for name in left if name not in done and name not in killers]
        if not begun:
            break
    return done, killers


@pytest.mark.slow
def test_every_construct_is_faithful(tmp_path):
    import zoo

    done, killers = run_zoo(tmp_path)
    assert not killers
    assert len(done) >= 300
    worse = {name: r.get("error", r.get("snr_db")) for name, r in done.items()
             if "error" in r or float(r["snr_db"]) < 60}
    assert set(worse) == set(zoo.IMPOSSIBLE), worse


@pytest.fixture(scope="module")
def convert(tmp_path_factory):
    import zoo

    from tfcompress.compress import lower
    from tfcompress.export.tflite import to_tflite

    def run(model, inputs=None, outputs=None, **options):
        if inputs is None:
            inputs, outputs = zoo.specs(model)
        path = tmp_path_factory.mktemp("converted") / "model.tflite"
        options = {"lower": lower, "progress": lambda *_: None} | options
        return to_tflite(model, path, inputs=inputs, outputs=outputs, **options), path
    return run


def runner(path):
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(str(path)).get_signature_runner("serving_default")


@pytest.mark.slow
def test_random_numbers_are_drawn_anew_at_each_call(convert):
    import keras

    class Noise(keras.layers.Layer):
        def call(self, x):
            shape = keras.ops.shape(x)
            return 0 * x + keras.random.normal(shape, 3.0, 2.0, seed=1) \
                + keras.random.uniform(shape, -1.0, 3.0, seed=1)

    x = keras.Input((1000,))
    _, path = convert(keras.Model(x, Noise()(x)))
    run = runner(path)
    name = next(iter(run.get_input_details()))
    first, second = (next(iter(run(**{name: np.zeros((1, 1000), "f4")}).values())).copy()
                     for _ in range(2))
    assert not np.array_equal(first, second)
    both = np.concatenate([first, second])
    assert abs(both.mean() - 4) < 0.3 and abs(both.std() - (4 + 16 / 12) ** 0.5) < 0.3


@pytest.mark.slow
def test_names_that_python_would_not_take_survive(convert):
    import keras

    a, b = keras.Input((4,), name="x y"), keras.Input((4,), name="class")
    model = keras.Model([a, b], [a - b, keras.layers.Dense(2)(b)])
    inputs = [TensorSpec("x y", (1, 4), "float32"), TensorSpec("class", (1, 4), "float32")]
    outputs = [TensorSpec("first-1", (1, 4), "float32"), TensorSpec("2nd", (1, 2), "float32")]
    _, path = convert(model, inputs, outputs)
    found = runner(path)
    assert sorted(found.get_input_details()) == ["class", "x y"]
    assert sorted(found.get_output_details()) == ["2nd", "first-1"]
    result = found(**{"x y": np.ones((1, 4), "float32"), "class": np.zeros((1, 4), "float32")})
    np.testing.assert_array_equal(result["first-1"], np.ones((1, 4)))


@pytest.mark.slow
def test_routes_are_announced_and_can_be_skipped(convert):
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    texts = []
    result, _ = convert(model, progress=lambda _, text: texts.append(text))
    assert texts == ["route:lowered"] and result["route"] == "lowered"
    result, _ = convert(model, skip=("lowered", "spelled"))
    assert result["route"] == "loop"
    result, _ = convert(model, lower=None)
    assert result["route"] == "plain"


@pytest.mark.slow
def test_every_invocation_starts_from_a_fresh_state(convert):
    """The converter's fused LSTM would carry the first sample's state into the second."""
    import keras
    import tf_keras

    x = np.random.default_rng(0).standard_normal((1, 20, 3)).astype("float32")
    for k in (keras, tf_keras):
        model = k.Sequential([k.Input((20, 3)), k.layers.LSTM(4)])
        _, path = convert(model, [TensorSpec("x", (1, 20, 3), "float32")],
                          [TensorSpec("y", (1, 4), "float32")])
        run = runner(path)
        np.testing.assert_array_equal(run(x=x)["y"], run(x=x)["y"])
        np.testing.assert_allclose(run(x=x)["y"], model(x), atol=1e-6)


@pytest.mark.slow
def test_the_check_is_against_the_given_results(convert):
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    x = np.ones((3, 4), "float32")
    right = np.asarray(model(x))
    assert float(convert(model, check=([x], [right]))[0]["snr_db"]) > 60
    result, _ = convert(model, check=([x], [right * 1.1]))
    assert result["snr_db"] < 30 and "lowered" not in result["tried"]


@pytest.mark.slow
def test_what_tflite_cannot_say_is_one_clear_error_and_no_file(convert, tmp_path):
    import keras

    from tfcompress.compress import lower
    from tfcompress.errors import TargetError
    from tfcompress.export.tflite import to_tflite

    model = keras.Sequential([keras.Input((2,), dtype="int32"), keras.layers.Hashing(5)])
    with pytest.raises(TargetError, match="StringToHashBucketFast") as caught:
        to_tflite(model, tmp_path / "m.tflite", inputs=[TensorSpec("x", (1, 2), "int32")],
                  outputs=[TensorSpec("y", (1, 2), "int64")], progress=lambda *_: None, lower=lower)
    assert "\n" not in caught.value.message and caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_augmentation_is_off_and_the_bytes_are_the_same(convert):
    import keras

    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.RandomFlip(),
                              keras.layers.RandomContrast(0.5), keras.layers.Conv2D(2, 3)])
    x = np.random.default_rng(0).random((1, 8, 8, 3), "float32")
    (_, first), (_, second) = convert(model), convert(model)
    assert first.read_bytes() == second.read_bytes()
    run = runner(first)
    name = next(iter(run.get_input_details()))
    np.testing.assert_allclose(run(**{name: x})["output_0"], model(x, training=False), atol=1e-6)


@pytest.mark.slow
def test_a_saved_models_signature_is_rewritten_too(convert, tmp_path):
    """Traced long ago with a free batch: without tracing anew the converter refuses the loop."""
    import keras
    import tensorflow as tf

    model = keras.Sequential([
        keras.Input((9,), dtype="int32"), keras.layers.Embedding(20, 4, mask_zero=True),
        keras.layers.LSTM(5), keras.layers.Dense(3, activation="softsign")])
    model.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "saved")
    signature = loaded.signatures["serving_default"]
    name = next(iter(signature.structured_input_signature[1]))
    ids = np.array([[3, 1, 4, 1, 5, 0, 0, 0, 0]], "int32")
    result, path = convert(signature, [TensorSpec(name, (1, 9), "int32")],
                           [TensorSpec("output_0", (1, 3), "float32")])
    assert result["route"] == "lowered"
    assert "Softsign" in [r["what"] for r in result["rewrites"]]
    np.testing.assert_allclose(runner(path)(**{name: ids})["output_0"], model(ids), atol=1e-6)
