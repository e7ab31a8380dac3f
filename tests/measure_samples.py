"""Sample folders and small models for the tests of `benchmark`; see tests/data/make.py."""

import json
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data"
DIGITS = {"inputs": ["image"], "outputs": ["digit"]}
ORDER = {"inputs": ["right_hand", "left_hand"], "outputs": ["z_difference", "a_sum"]}


def model(name: str) -> str:
    return str(DATA / f"{name}.tflite")


def write(folder: Path, inputs, reference, labels=None, names=("image",), random=False) -> dict:
    """A samples folder and a reference folder; returns those two fields of a payload."""
    for part, arrays in (("held/inputs", inputs), ("reference", reference)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for i, array in enumerate(arrays):
            np.save(folder / part / f"{i}.npy", array)
    if labels is not None:
        np.save(folder / "held" / "labels.npy", labels)
    about = {"count": len(inputs[0]), "names": list(names), "random": random}
    (folder / "held" / "samples.json").write_text(json.dumps(about))
    return {"samples": str(folder / "held"), "reference": str(folder / "reference")}


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images (0..16, uint8, [898, 8, 8, 1]) and labels that `digits` was not trained on."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images.reshape(-1, 8, 8, 1).astype(np.uint8)[1::2], labels[1::2]


def payload(artifact: str, places: dict, names: dict, runtime="litert", **more) -> dict:
    return {"artifact": artifact, "runtime": runtime, "names": names, "metric": None,
            "threads": 1, "limit": None, **places, **more}


def quiet(fraction, text) -> None:
    """A progress callback that says nothing."""
