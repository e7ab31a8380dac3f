"""Make `digits.keras` and `digits.npz`: a small CNN trained on scikit-learn's handwritten digits.

    pip install 'tfcompress[test]'
    python examples/make_digits.py [FOLDER]

Both files are seeded: on one kind of CPU the script writes the same bytes every time, on another
the weights differ by rounding. The data are the 8x8 test digits of the UCI "Optical Recognition of
Handwritten Digits" set (E. Alpaydin, C. Kaynak, 1998; CC BY 4.0), as scikit-learn ships them.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from tfcompress.export.keras import to_keras


def build() -> keras.Model:
    image = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Rescaling(1 / 16)(image)
    x = keras.layers.RandomTranslation(0.1, 0.1, seed=1)(x)
    for filters in (16, 32):
        x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.ReLU()(x)
        x = keras.layers.SeparableConv2D(2 * filters, 3, padding="same", activation="relu")(x)
        x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dropout(0.3, seed=2)(x)
    x = keras.layers.Dense(64, activation="relu")(x)
    return keras.Model(image, keras.layers.Dense(10, activation="softmax", name="digit")(x))


def main(folder: Path) -> None:
    keras.utils.set_random_seed(7)
    tf.config.experimental.enable_op_determinism()
    pixels, digit = load_digits(return_X_y=True)
    order = np.random.default_rng(7).permutation(len(digit))
    x = pixels.reshape(-1, 8, 8, 1).astype(np.uint8)[order]
    y = digit.astype(np.uint8)[order]
    x_train, x_test, y_train, y_test = x[:1200], x[1200:], y[:1200], y[1200:]

    model = build()
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, 60 * 38)),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(x_train.astype("float32"), y_train, batch_size=32, epochs=60, verbose=0)
    _, accuracy = model.evaluate(x_test.astype("float32"), y_test, verbose=0)
    print(f"{model.count_params():,} parameters, accuracy {accuracy:.4f} on {len(y_test)} digits")
    to_keras(model, folder / "digits.keras")
    np.savez_compressed(
        folder / "digits.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
