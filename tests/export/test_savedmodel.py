import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tfcompress.artifact import TensorSpec

pytestmark = pytest.mark.slow


def digests(folder: Path) -> dict:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(folder.rglob("*")) if p.is_file()}


def make(path: Path) -> tuple:
    import keras

    from tfcompress.export.savedmodel import to_saved_model

    keras.utils.set_random_seed(0)
    a, b = keras.Input((8, 8, 3), name="image"), keras.Input((4,), name="class")
    y = keras.layers.Conv2D(2, 3)(keras.layers.RandomFlip()(a))
    y = keras.layers.GlobalMaxPooling2D()(y)
    model = keras.Model({"image": a, "class": b}, {"p": y, "q": keras.layers.Dense(3)(b)})
    inputs = [TensorSpec("class", (None, 4), "float32"),
              TensorSpec("image", (None, 8, 8, 3), "float32")]
    outputs = [TensorSpec("p", (None, 2), "float32"), TensorSpec("q", (None, 3), "float32")]
    to_saved_model(model, path, inputs=inputs, outputs=outputs)
    return model, path


def test_plain_tensorflow_loads_it_and_any_batch_runs(tmp_path):
    import tensorflow as tf

    model, path = make(tmp_path / "saved")
    serve = tf.saved_model.load(path).signatures["serving_default"]
    rng = np.random.default_rng(0)
    for n in (1, 5):
        image, other = (rng.random(s, "float32") for s in ((n, 8, 8, 3), (n, 4)))
        got = serve(image=tf.constant(image), input_class=tf.constant(other))
        wanted = model({"image": image, "class": other}, training=False)
        for name in ("p", "q"):
            np.testing.assert_allclose(got[name], wanted[name], atol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == ["saved"]


def test_the_same_model_gives_the_same_bytes_in_another_process(tmp_path):
    for name in ("one", "two"):
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); " \
               f"from test_savedmodel import make; from pathlib import Path; " \
               f"make(Path({str(tmp_path / name)!r}))"
        subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_inputs_named_in_any_alphabet_keep_their_order(tmp_path):
    import keras

    from tfcompress.benchmark import runtimes
    from tfcompress.compress import lower
    from tfcompress.export import savedmodel, tflite

    names = ["größe", "grüße", "_x", "картинка"]
    ends = [keras.Input((1,), name=n) for n in names]
    weights = [1.0, 10.0, 100.0, 1000.0]
    total = keras.layers.Add(name="sum")([keras.layers.Rescaling(w)(e)
                                          for w, e in zip(weights, ends, strict=True)])
    model = keras.Model(ends, total)
    inputs = [TensorSpec(n, (1, 1), "float32") for n in names]
    outputs = [TensorSpec("сумма", (1, 1), "float32")]
    savedmodel.to_saved_model(model, tmp_path / "saved", inputs=inputs, outputs=outputs)
    tflite.to_tflite(model, tmp_path / "model.tflite", inputs=inputs, outputs=outputs, lower=lower,
                     progress=lambda *_: None)
    arrays = [np.full((1, 1), i + 1, "float32") for i in range(4)]
    order = {"inputs": names, "outputs": ["сумма"]}
    for path, runtime in (("saved", "tensorflow"), ("model.tflite", "litert")):
        got, = runtimes.open_session(str(tmp_path / path), runtime, names=order).run(arrays)
        assert got.item() == 4321, path
