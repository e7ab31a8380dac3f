"""Warm-up requests and the contract of a served model, read back and called."""

import numpy as np
import pytest

from tfcompress.artifact import TensorSpec
from tfcompress.export import serving


def test_the_contract_shows_names_shapes_and_paths():
    found = serving.contract(
        [{"name": "image", "shape": [None, 8, 8, 1], "dtype": "float32"}],
        [{"name": "digit", "shape": [None, 10], "dtype": "float32"}], "digits")
    assert found["rest"]["path"] == "/v1/models/digits:predict"
    assert found["rest"]["body"]["instances"] == ["float32[8, 8, 1]"]
    assert found["rest"]["answer"] == {"predictions": ["float32[10]"]}
    assert found["grpc"]["inputs"] == {"image": "float32[?, 8, 8, 1]"}


def test_several_inputs_are_asked_by_name():
    found = serving.contract(
        [{"name": n, "shape": [None, 4], "dtype": "int32"} for n in "ab"],
        [{"name": "y", "shape": [None, 1], "dtype": "float32"}] * 2, "m")
    assert found["rest"]["body"]["instances"] == [{"a": "int32[4]", "b": "int32[4]"}]


@pytest.mark.slow
def test_warm_up_requests_can_be_read_and_run(tmp_path):
    import keras
    import tensorflow as tf

    from tfcompress.export.savedmodel import to_saved_model

    x = keras.Input((4,), name="x")
    i = keras.Input((2,), dtype="int32", name="i")
    flat = keras.layers.Flatten()(keras.layers.Embedding(5, 3)(i))
    both = keras.ops.concatenate([x, flat], axis=-1)
    model = keras.Model([x, i], keras.layers.Dense(2, name="y")(both))
    inputs = [TensorSpec("x", (None, 4), "float32"), TensorSpec("i", (None, 2), "int32")]
    to_saved_model(model, tmp_path / "m", inputs=inputs,
                   outputs=[TensorSpec("y", (None, 2), "float32")])
    path = serving.warm_up(tmp_path / "m", inputs, "mine")
    assert path.relative_to(tmp_path / "m").as_posix() == \
        "assets.extra/tf_serving_warmup_requests"
    loaded = tf.saved_model.load(str(tmp_path / "m"))
    batches = []
    for record in tf.data.TFRecordDataset(str(path)):
        log = serving._classes()["PredictionLog"].FromString(record.numpy())
        asked = log.predict_log.request
        assert (asked.model_spec.name, asked.model_spec.signature_name) == \
            ("mine", "serving_default")
        fed = {k: tf.make_ndarray(v) for k, v in asked.inputs.items()}
        answer = loaded.signatures["serving_default"](**{k: tf.constant(v)
                                                         for k, v in fed.items()})
        want = model([fed["x"], fed["i"]])
        np.testing.assert_allclose(answer["y"], want, atol=1e-5)
        batches.append(len(fed["x"]))
    assert batches == [1, 8]
    again = path.read_bytes()
    assert serving.warm_up(tmp_path / "m", inputs, "mine").read_bytes() == again
