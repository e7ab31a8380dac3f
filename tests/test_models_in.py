"""Models of every kind through the whole command: two artifacts each, compared by the runtime."""

import json
import subprocess
import sys

import pytest

from tfcompress import pipeline
from tfcompress.errors import ModelError
from tfcompress.steps import Options

pytestmark = pytest.mark.slow

OWN = """
import keras

class Scale(keras.layers.Layer):
    def __init__(self, by=2.0, **kwargs):
        super().__init__(**kwargs)
        self.by = by

    def call(self, x):
        return x * self.by

    def get_config(self):
        return {**super().get_config(), "by": self.by}


class Sampling(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, mean):
        return mean + keras.random.normal(keras.ops.shape(mean), seed=self.seeds)


class Own(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(6, activation="relu")
        self.last = keras.layers.Dense(3)

    def call(self, x):
        return self.last(self.dense(x))
"""

MAKE = """
import os, sys
os.environ["KERAS_BACKEND"] = "tensorflow"
import keras
import numpy as np
import own
from keras import layers as L

keras.utils.set_random_seed(1)
rng = np.random.default_rng(1)


def save(name, model, **arrays):
    model.save(name)
    np.savez(name.rpartition(".")[0] + ".npz", **arrays)


a, b = keras.Input((8,), name="left"), keras.Input((5,), name="right")
both = L.Concatenate()([L.Dense(6)(a), L.Dense(6, activation="tanh")(b)])
kind, size = L.Dense(3, activation="softmax", name="kind"), L.Dense(1, name="size")
outs = {"kind": kind(both), "size": size(both)}
save("dict.keras", keras.Model({"left": a, "right": b}, outs),
     left=rng.normal(size=(256, 8)), right=rng.normal(size=(256, 5)))

i = keras.Input((16, 16, 3), dtype="uint8", name="pixels")
x = L.Conv2D(4, 3, activation="relu")(L.Rescaling(1 / 255)(i))
save("uint8.keras", keras.Model(i, L.Dense(4)(L.GlobalAveragePooling2D()(x))),
     x=rng.integers(0, 256, (256, 16, 16, 3), dtype=np.uint8))

keras.mixed_precision.set_global_policy("mixed_float16")
i = keras.Input((12,))
save("mixed.keras", keras.Model(i, L.Dense(4, dtype="float32")(L.Dense(8, activation="relu")(i))),
     x=rng.normal(size=(256, 12)))
keras.mixed_precision.set_global_policy("float32")

i = keras.Input((None, None, 3))
x = L.Conv2D(4, 3, strides=2, activation="relu")(i)
save("free.keras", keras.Model(i, L.Dense(2)(L.GlobalMaxPooling2D()(x))),
     x=rng.normal(size=(256, 20, 24, 3)))

i = keras.Input((10,), dtype="int32")
x = L.Bidirectional(L.GRU(6, return_sequences=True))(L.Embedding(30, 8, mask_zero=True)(i))
save("words.keras", keras.Model(i, L.Dense(5, activation="softmax")(L.LSTM(8)(x))),
     x=rng.integers(0, 30, (256, 10)))

trade, age = keras.Input((1,), dtype="string", name="trade"), keras.Input((1,), name="age")
known = L.StringLookup(vocabulary=["smith", "Köhler", "木こり"], output_mode="one_hot")
x = L.Concatenate()([known(trade), L.Normalization(mean=40.0, variance=100.0)(age)])
save("text.keras", keras.Model({"trade": trade, "age": age}, L.Dense(2)(x)),
     trade=rng.choice(["smith", "Köhler", "木こり", "other"], (256, 1)),
     age=rng.normal(40, 10, (256, 1)))

inner = keras.Sequential([keras.Input((9,)), L.Dense(7, activation="gelu"), L.Dense(7)])
i, j = keras.Input((9,)), keras.Input((9,))
save("shared.keras", keras.Model([i, j], L.Dot(1, normalize=True)([inner(i), inner(j)])),
     a=rng.normal(size=(256, 9)), b=rng.normal(size=(256, 9)))

i = keras.Input((6,))
save("custom.keras", keras.Model(i, L.Dense(3)(own.Scale(3.0)(i))), x=rng.normal(size=(256, 6)))
model = own.Own()
model(np.zeros((1, 7), "float32"))
save("subclassed.keras", model, x=rng.normal(size=(256, 7)))

i = keras.Input((10,))
m = L.Dense(2, name="mean")(L.Dense(16, activation="relu")(i))
save("encoder.keras", keras.Model(i, [m, own.Sampling(name="drawn")(m)]),
     x=rng.normal(size=(256, 10)))

i = keras.Input((8, 8, 2))
legacy = keras.Model(i, L.Dense(3)(L.Flatten()(L.DepthwiseConv2D(3, depth_multiplier=2)(i))))
save("legacy.h5", legacy, x=rng.normal(size=(256, 8, 8, 2)))
legacy.export("saved", verbose=False)
np.savez("saved.npz", x=rng.normal(size=(256, 8, 8, 2)))
"""

OLD = """
import numpy as np
import tf_keras as k

k.utils.set_random_seed(1)
rng = np.random.default_rng(1)
i = k.Input((8, 8, 4))
x = k.layers.Conv2D(6, 3, activation="relu", name="block/conv")(i)
x = k.layers.DepthwiseConv2D(3, name="block/depth")(x)
import tensorflow as tf
x = tf.reduce_mean(x, axis=[1, 2]) * 2.0
m = k.Model(i, k.layers.Dense(3, activation="softmax")(x))
m.save("old.h5")
m.save("old2.keras")
for name in ("old", "old2"):
    np.savez(name + ".npz", x=rng.normal(size=(256, 8, 8, 4)))
"""

CASES = {
    "dict.keras": {},
    "uint8.keras": {},
    "mixed.keras": {},
    "free.keras": {"input_shape": "20,24,3"},
    "words.keras": {},
    "text.keras": {},
    "shared.keras": {},
    "custom.keras": {"custom_objects": ("own",)},
    "subclassed.keras": {"custom_objects": ("own",)},
    "legacy.h5": {},
    "saved": {},
    "old.h5": {},
    "old2.keras": {},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    (folder / "own.py").write_text(OWN)
    for code in (MAKE, OLD):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize("name", CASES)
def test_this_kind_of_model_becomes_a_faithful_artifact(made, name, monkeypatch):
    monkeypatch.chdir(made)
    data = f"{name.rpartition('.')[0] or name}.npz"
    result = pipeline.run(
        Options(
            model=name,
            data=data,
            targets=("tflite-float32", "tflite-int8"),
            output=f"out-{name}",
            seconds=0.2,
            **CASES[name],
        )
    )
    assert result.error is None, result.error
    snr = {row.target: row.value("snr") for row in result.rows}
    assert snr["tflite-float32"] >= 60 and snr["tflite-int8"] >= 20, snr
    source = result.report.source
    io = {row.target: row.io for row in result.rows}["tflite-float32"]
    for side in ("inputs", "outputs"):
        assert {s["name"] for s in source[side]} == {s["name"] for s in io[side]}


def test_what_is_drawn_at_random_is_not_compared(made, monkeypatch):
    """The encoder of a variational autoencoder: its mean is judged, its sample cannot be."""
    monkeypatch.chdir(made)
    result = pipeline.run(Options(
        model="encoder.keras", data="encoder.npz", output="out-encoder", seconds=0.2,
        targets=("tflite-float32", "onnx-float32", "saved-model"), custom_objects=("own",)))
    assert result.error is None, result.error
    for row in result.rows[1:]:
        assert row.status == "ok" and row.value("snr") >= 60, row
        assert any("not compared: drawn" in f["text"] for f in row.findings)


def test_text_goes_to_every_runtime_that_takes_it_and_through_training(made, monkeypatch):
    """LiteRT's text is bytes; a page is given none, and that costs the browser's target only."""
    monkeypatch.chdir(made)
    result = pipeline.run(Options(
        model="text.keras", data="text.npz", output="out-text", seconds=0.2, qat=True, epochs=1,
        targets=("tflite-float32", "onnx-float32", "saved-model", "keras")))
    assert result.error is None, result.error
    assert all(row.value("snr") >= 60 for row in result.rows[1:]), result


def test_a_free_dimension_asks_for_the_input_shape(made, monkeypatch):
    monkeypatch.chdir(made)
    with pytest.raises(ModelError, match="free.keras|input") as caught:
        pipeline.run(Options(model="free.keras", data="free.npz", output="never"))
    assert "--input-shape" in caught.value.hint


def test_a_custom_layer_asks_for_its_module(made, monkeypatch):
    monkeypatch.chdir(made)
    with pytest.raises(ModelError, match="Scale") as caught:
        pipeline.run(Options(model="custom.keras", data="custom.npz", output="never"))
    assert "--custom-objects" in caught.value.hint


def test_the_users_file_is_not_touched(made, monkeypatch, tmp_path):
    monkeypatch.chdir(made)
    before = {
        p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in made.iterdir() if p.is_file()
    }
    pipeline.run(Options(model="legacy.h5", data="random", output=str(tmp_path / "o"), seconds=0.2))
    after = {
        p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in made.iterdir() if p.is_file()
    }
    assert before == after
    manifest = json.loads((tmp_path / "o" / "manifest.json").read_text())
    assert manifest["source"]["path"] == "legacy.h5"


def test_a_keras_2_file_gives_a_keras_3_file(made, monkeypatch, tmp_path):
    monkeypatch.chdir(made)
    result = pipeline.run(
        Options(
            model="old.h5",
            data="old.npz",
            targets=("keras",),
            output=str(tmp_path / "o"),
            seconds=0.2,
        )
    )
    assert result.error is None and result.rows[1].value("snr") >= 60
    code = (
        "import keras, numpy as np, sys; m = keras.saving.load_model(sys.argv[1]); "
        "print(m(np.zeros((1, 8, 8, 4))).shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(result.artifact("keras"))], capture_output=True, text=True
    )
    assert "(1, 3)" in done.stdout, done.stderr[-500:]
