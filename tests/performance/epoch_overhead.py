"""What an epoch of pruning, clustering or QAT costs against the same epoch of plain `fit`.

    python tests/performance/epoch_overhead.py [--model cnn|mobilenet|all] [--epochs 5] [--steps 20]

Each variant trains the same model on the same batches with the same optimizer and loss, without a
teacher. Epochs of the variants take turns in one process; the first of each (compilation) is not
counted. Medians are given, and the ratio to plain `fit` as Keras compiles it by default.
"""

import argparse
import json
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from tfcompress.compress.models import copying
from tfcompress.compress.training import recipe


def cnn():
    import keras

    layers = keras.layers
    return keras.Sequential([
        keras.Input((32, 32, 3)), layers.Rescaling(1 / 255),
        layers.Conv2D(16, 3, padding="same", use_bias=False), layers.BatchNormalization(),
        layers.ReLU(), layers.MaxPooling2D(),
        layers.Conv2D(32, 3, padding="same", use_bias=False), layers.BatchNormalization(),
        layers.ReLU(), layers.MaxPooling2D(),
        layers.Conv2D(64, 3, padding="same", use_bias=False), layers.BatchNormalization(),
        layers.ReLU(), layers.GlobalAveragePooling2D(),
        layers.Dense(64, "relu"), layers.Dense(10, "softmax")])


def mobilenet():
    import keras

    return keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None, classes=10)


MODELS = {"cnn": (cnn, (32, 32, 3)), "mobilenet": (mobilenet, (96, 96, 3))}


def variants(model, samples):
    """`{name: (Keras model ready to fit, batches)}`, plain `fit` first."""
    from tfcompress.compress.models import load
    from tfcompress.compress.training import engine, prune, training_data

    x, y = samples
    loaded = load.describe(model, {}, [])
    data = training_data.Samples([x], y, [np.eye(10, dtype="float32")[y]], loaded.inputs)
    made = {}
    for name, jit in (("plain", "auto"), ("plain, not compiled", False)):
        one = copying.copy(model)
        one.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"],
                    jit_compile=jit)
        made[name] = one.fit, lambda: (x.astype("float32"), y)
    for stage in (recipe.Finetune(), recipe.Prune(schedule="constant"), recipe.Cluster(),
                  recipe.Qat()):
        training = recipe.Training(distill=False, validation=0.0)
        run = engine.Engine(loaded, recipe.Recipe((stage,), training), data, 0,
                            lambda *_: None, None)
        run._prepare(stage, again=False)
        if isinstance(stage, recipe.Prune):
            prune.grow(run.mine, stage, {}, 1, 1)
        wrapped = run.compiled(stage, 1000, "")
        made[recipe.name_of(stage)] = wrapped.fit, lambda run=run: (
            run._batches(run.train_rows, (0,)), None)
    return made


def measure(name, epochs, steps):
    build, shape = MODELS[name]
    rng = np.random.default_rng(0)
    samples = (rng.integers(0, 256, (32 * steps, *shape)).astype("uint8"),
               rng.integers(0, 10, 32 * steps))
    found = {}
    made = variants(build(), samples)
    for epoch in range(epochs + 1):
        for key, (fit, batches) in made.items():
            x, y = batches()
            start = time.perf_counter()
            fit(x, y, batch_size=32 if y is not None else None, epochs=1, shuffle=False, verbose=0)
            if epoch:
                found.setdefault(key, []).append(time.perf_counter() - start)
    medians = {k: statistics.median(v) for k, v in found.items()}
    return {k: {"seconds": round(v, 4), "least": round(min(found[k]), 4),
                "times_plain": round(v / medians["plain"], 3)} for k, v in medians.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="all", choices=["all", *MODELS])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    chosen = parser.parse_args()
    names = list(MODELS) if chosen.model == "all" else [chosen.model]
    for name in names:
        print(json.dumps({name: measure(name, chosen.epochs, chosen.steps)}, indent=1), flush=True)


if __name__ == "__main__":
    main()
