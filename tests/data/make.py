"""Makes the small models that the tests of `benchmark` run.

    python tests/data/make.py FOLDER

The .tflite files in this folder were made by it; the tests make the .keras files and SavedModels
anew. `digits`: a small CNN trained on scikit-learn's 8x8 digits (0..16, every other sample), as
float, int8 and `saturated` (int8 calibrated on images a hundred times too dark). `order`: two
inputs and two outputs, called so that neither alphabet nor position tells them apart.
`lstm`: the fused operation that keeps its state from call to call. `logarithm`: NaN for negative
numbers, and a free batch.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main(folder: Path) -> None:
    import keras
    import numpy as np
    import tensorflow as tf
    from sklearn.datasets import load_digits

    keras.utils.set_random_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype(np.float32)[::2]
    net = keras.Sequential([
        keras.Input((8, 8, 1), name="image"), keras.layers.Rescaling(1 / 16),
        keras.layers.Conv2D(6, 3, activation="relu", name="first"),
        keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="second"),
        keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax", name="digit")])
    digits = keras.Model(net.inputs, net.outputs)
    digits.compile("adam", "sparse_categorical_crossentropy")
    digits.fit(images, labels[::2], epochs=60, batch_size=32, verbose=0)
    save(digits, folder, "digits")

    def calibration(scale: float):
        return lambda: ({"image": image[None] * np.float32(scale)} for image in images[:100])

    convert(folder, "digits", "digits_int8", calibration(1))
    convert(folder, "digits", "digits_saturated", calibration(0.01))

    left, right = keras.Input((3,), name="right_hand"), keras.Input((3,), name="left_hand")
    order = keras.Model([left, right], [
        keras.layers.Subtract(name="z_difference")([left, right]),
        keras.layers.Add(name="a_sum")([left, right])])
    save(order, folder, "order")

    import tf_keras

    tf_keras.utils.set_random_seed(0)
    steps = tf_keras.Input((5, 3), batch_size=1, name="steps")
    lstm = tf_keras.Model(steps, tf_keras.layers.LSTM(4)(steps))
    lite = tf.lite.TFLiteConverter.from_keras_model(lstm).convert()
    (folder / "lstm.tflite").write_bytes(lite)

    class Logarithm(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, name="x")])
        def log(self, x):
            return {"y": tf.math.log(x)}

    module = Logarithm()
    tf.saved_model.save(module, str(folder / "logarithm"),
                        signatures={"serving_default": module.log})
    convert(folder, "logarithm", "logarithm")


def save(model, folder: Path, name: str) -> None:
    """`name`.keras, the SavedModel `name` with batch 1, and `name`.tflite."""
    import keras
    import tensorflow as tf

    model.save(folder / f"{name}.keras")
    specs = [tf.TensorSpec((1, *t.shape[1:]), t.dtype, name=t.name) for t in model.inputs]

    def call(*tensors):
        results = model(tensors[0] if len(tensors) == 1 else list(tensors), training=False)
        results = results if isinstance(results, (list, tuple)) else [results]
        return dict(zip(model.output_names, results, strict=True))

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serving_default", call, specs)
    archive.write_out(str(folder / name), verbose=False)
    convert(folder, name, name)


def convert(folder: Path, source: str, name: str, calibration=None) -> None:
    """SavedModel to .tflite; int8 with int8 input and output where there is calibration data."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / source))
    if calibration:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = calibration
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    (folder / f"{name}.tflite").write_bytes(converter.convert())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
