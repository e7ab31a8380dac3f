"""Samples on disk and small runs for the tests of the compression chain."""

import functools
import json
from pathlib import Path

import numpy as np
from conftest import ROOT


def save_samples(folder, inputs, labels=None):
    """The layout that training reads."""
    folder = Path(folder)
    (folder / "inputs").mkdir(parents=True, exist_ok=True)
    for i, array in enumerate(inputs):
        np.save(folder / "inputs" / f"{i}.npy", array)
    if labels is not None:
        np.save(folder / "labels.npy", labels)
    (folder / "samples.json").write_text(json.dumps({"count": len(inputs[0]), "random": False}))
    return folder


@functools.cache
def digits():
    """The example's model, loaded, and its arrays."""
    from tfcompress.compress.models import load

    return (load.open_model(ROOT / "examples" / "digits.keras"),
            dict(np.load(ROOT / "examples" / "digits.npz")))


def digits_samples(folder, labels=True):
    _, data = digits()
    return save_samples(folder, [data["x_train"]], data["y_train"] if labels else None)


def accuracy(model):
    """Share of the digits' test samples that a model gets right."""
    _, data = digits()
    found = np.asarray(model(data["x_test"].astype("float32"), training=False))
    return float((found.argmax(-1) == data["y_test"]).mean())


def random_samples(folder, loaded, count=48, seed=0):
    """Noise for any model; integers are below 10."""
    rng = np.random.default_rng(seed)
    arrays = []
    for spec in loaded.inputs:
        shape = (count, *spec.shape[1:])
        if "float" in spec.dtype:
            arrays.append(rng.normal(size=shape).astype("float32"))
        else:
            arrays.append(rng.integers(0, 2 if spec.dtype == "bool" else 10,
                                       shape).astype(spec.dtype))
    return save_samples(folder, arrays)


def static(specs):
    """Specs with batch 1."""
    from tfcompress.artifact import TensorSpec

    return [TensorSpec(s.name, (1, *s.shape[1:]), s.dtype) for s in specs]


def kernels_of(model):
    """(kernel's layout, its values) of each kernel of a model."""
    from tfcompress.compress.training import kernels

    return [(k, k.variable.numpy()) for k in kernels.find(model)[0]]
