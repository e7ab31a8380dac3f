"""LeNet-5 and LeNet-300-100 on MNIST: trained, then compressed as far as the test error allows.

    python examples/frontier/lenet.py --data mnist.npz

The data: https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz, or any .npz with
x_train, y_train (60,000 images of 28 x 28, 0..255), x_test, y_test. Results are in README.md.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import common
import numpy as np

from tfcompress.compress.training import finetune, recipe

FLOAT = recipe.Training(distill=False, augment="shift", batch_size=128, validation=0.0)
SMALL = recipe.Training(augment="common:nudge", batch_size=128, validation=0.0)


def lenet_300_100():
    """784-300-100-10, 266,610 weights."""
    import keras
    from keras import layers

    return keras.Sequential([
        keras.Input((28, 28, 1), name="image"), layers.Flatten(),
        layers.Dense(300, activation="relu", name="fc1"),
        layers.Dense(100, activation="relu", name="fc2"),
        layers.Dense(10, activation="softmax", name="digit")])


def lenet_5():
    """The variant of Caffe: 431,080 weights, no ReLU behind the convolutions."""
    import keras
    from keras import layers

    return keras.Sequential([
        keras.Input((28, 28, 1), name="image"),
        layers.Conv2D(20, 5, name="conv1"), layers.MaxPooling2D(),
        layers.Conv2D(50, 5, name="conv2"), layers.MaxPooling2D(), layers.Flatten(),
        layers.Dense(500, activation="relu", name="fc1"),
        layers.Dense(10, activation="softmax", name="digit")])


@dataclass(frozen=True)
class Experiment:
    """What is built and for how many epochs it is trained, how it is compressed, and how many times
    smaller it is to be at which test error in %."""

    build: Callable
    epochs: int
    stages: tuple
    times: int
    error: float


EXPERIMENTS = {
    "lenet-300-100": Experiment(lenet_300_100, 20, (
        recipe.Structured(to=0.45, epochs=5),
        recipe.Prune(sparsity=0.91, layers="fc*", epochs=20),
        recipe.Qat(weight_bits=4, epochs=8, learning_rate=5e-4)), 60, 1.64),
    "lenet-5": Experiment(lenet_5, 10, (
        recipe.Structured(to=0.08, epochs=5),
        recipe.Prune(sparsity=0.75, layers="!conv1", epochs=8),
        recipe.Qat(weight_bits=4, epochs=4, learning_rate=5e-4)), 100, 0.80),
}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--data", required=True, help="mnist.npz")
    words.add_argument("--out", default="frontier-out", help="folder for the files made")
    words.add_argument("--only", choices=EXPERIMENTS)
    told = words.parse_args()
    out = Path(told.out)
    out.mkdir(parents=True, exist_ok=True)
    data = np.load(told.data)
    images = {k: data[k][..., None].astype(np.float32) / 255 for k in ("x_train", "x_test")}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        samples = common.write_samples(Path(folder), images["x_train"], data["y_train"])
        for name in [told.only] if told.only else EXPERIMENTS:
            rows += experiment(name, samples, images["x_test"], data["y_test"], out)
    common.table(rows)


def experiment(name: str, samples: Path, images: np.ndarray, labels: np.ndarray, out: Path) -> list:
    """Train, compress, count; the rows of the table."""
    import keras

    this = EXPERIMENTS[name]
    keras.utils.set_random_seed(0)
    trained = common.once(out / f"{name}.keras", lambda: finetune.run(
        this.build(), recipe.Recipe((recipe.Finetune(epochs=this.epochs),), FLOAT), samples,
        progress=common.say).model)
    done = finetune.run(trained, recipe.Recipe(this.stages, SMALL), samples, progress=common.say)
    file = out / f"{name}.tflite"
    common.int8_file(done.qat_model, done.model, file)
    before = 4 * trained.count_params()
    smaller = before / common.zipped(file)
    wrong = [100 - 100 * hits / len(labels) for hits in (
        np.sum(trained.predict(images, verbose=0).argmax(1) == labels),
        common.right(file, images, labels))]
    return [{
        "model": name, "float bytes": before, "float error %": f"{wrong[0]:.2f}",
        ".tflite bytes": file.stat().st_size, "gzip bytes": common.zipped(file),
        "smaller": f"{smaller:.1f}x", "error %": f"{wrong[1]:.2f}",
        "zeros %": " ".join(f"{100 * k['zeros']:.0f}" for k in done.kernels),
        "goal": f"{this.times}x at <= {this.error} %",
        "reached": common.yes(smaller >= this.times and wrong[1] <= this.error)}]


if __name__ == "__main__":
    main()
