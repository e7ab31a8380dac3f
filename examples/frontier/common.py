"""What the experiments of this folder share: data to samples, models to files, files to figures."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress import targets
from tfcompress.compress import lower
from tfcompress.compress.models import load
from tfcompress.compress.tflite import learned, quantize, trim
from tfcompress.compress.training import qat_export
from tfcompress.export import metadata
from tfcompress.export.tflite import to_tflite

# As long as the record of its origin that `shrink` writes into a file.
RECORD = {"samples": 200, "seed": 0, "source_sha256": hashlib.sha256().hexdigest(),
          "target": "tflite-int8", "versions": {
              "ai-edge-litert": "0.0.0", "ai-edge-quantizer": "0.00.0", "keras": "0.00.0",
              "numpy": "0.0.0", "tensorflow": "0.00.0", "tf-keras": "0.00.0",
              "tfcompress": "0.0.0"}}


def write_samples(folder: Path, inputs: np.ndarray, labels: np.ndarray) -> Path:
    """A folder of samples as `finetune.run` reads it."""
    (folder / "inputs").mkdir(parents=True, exist_ok=True)
    np.save(folder / "inputs" / "0.npy", inputs)
    np.save(folder / "labels.npy", labels)
    told = {"count": len(inputs), "names": ["input"], "random": False}
    (folder / "samples.json").write_text(json.dumps(told))
    return folder


def nudge(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Augmentation for small networks: each image is moved by at most one pixel, round the edge."""
    made = np.empty_like(images)
    for i, (down, right_) in enumerate(rng.integers(-1, 2, (len(images), 2))):
        made[i] = np.roll(images[i], (down, right_), (0, 1))
    return made


def once(path: Path, make: Callable[[], Any]) -> Any:
    """The model in the file, made and saved if there is none."""
    import keras

    if not path.is_file():
        make().save(path)
    return keras.models.load_model(path, compile=False)


def int8_file(qat_model: Any, model: Any, path: Path) -> dict:
    """The smallest .tflite of a model after QAT: integers inside and at its ends, trimmed.

    Returns:
        How far the file agrees with the model (`qat_export.agreement`).
    """
    found = load.describe(model, {}, [])
    ends = [[dataclasses.replace(s, shape=(1, *s.shape[1:])) for s in specs]
            for specs in (found.inputs, found.outputs)]
    told = qat_export.to_int8(qat_model, path, *ends, io_dtype="int8")
    trim.trim_file(path, path)
    return told["agreement"]


def shipped_file(compressed: Any, loaded: Any, samples: Path, path: Path) -> None:
    """The int8 file that `tfcompress shrink --target tflite-int8` makes of what was trained.

    Args:
        compressed: From `finetune.run`, after QAT.
        loaded: The model that was given.
        samples: The folder of samples.
        path: The file.
    """
    ends = [[dataclasses.replace(s, shape=(1, *s.shape[1:])) for s in specs]
            for specs in (loaded.inputs, loaded.outputs)]
    rows = compressed.qat_model.ranges.samples[:4]
    wanted = [[np.asarray(r) for r in compressed.qat_model.run(row)] for row in rows]
    check = tuple([np.concatenate(c) for c in zip(*x, strict=True)] for x in (rows, wanted))
    target = targets.load("tflite-int8").to_dict()
    with tempfile.TemporaryDirectory() as folder:
        inside, plain = Path(folder) / "learned.tflite", Path(folder) / "float.tflite"
        to_tflite(compressed.qat_model, inside, inputs=ends[0], outputs=ends[1], progress=say,
                  lower=lower, check=check)
        plain.write_bytes(learned.strip(inside.read_bytes())[0])
        told = quantize.run({"float": str(plain), "learned": str(inside), "samples": str(samples),
                             "names": {"inputs": [s.name for s in ends[0]]}, "out": folder,
                             "targets": [target]}, say)["targets"]["tflite-int8"]
        metadata.embed(Path(told["path"]), labels=None, normalization=None, provenance=RECORD)
        trim.trim_file(told["path"], path, names=True)


def right(file: Path, inputs: np.ndarray, labels: np.ndarray) -> int:
    """How many samples a .tflite file with one input and one output classifies rightly."""
    return int(hits(file, inputs, labels).sum())


def hits(file: Path, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which samples a .tflite file with one input and one output classifies rightly."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file), num_threads=1)
    interpreter.allocate_tensors()
    given, told = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero = given["quantization"]
    found = []
    for row, label in zip(inputs, labels, strict=True):
        row = row[None].astype(np.float32)
        if scale:
            info = np.iinfo(given["dtype"])
            row = np.clip(np.round(row / scale) + zero, info.min, info.max)
        interpreter.set_tensor(given["index"], row.astype(given["dtype"]))
        interpreter.invoke()
        found.append(interpreter.get_tensor(told["index"]).argmax() == label)
    return np.array(found)


def zipped(file: Path) -> int:
    """Bytes of the file's gzip, without a name and a time in it."""
    return len(gzip.compress(Path(file).read_bytes(), 9, mtime=0))


def say(_: float | None, text: str) -> None:
    """Progress, beside the results."""
    print(text, file=sys.stderr, flush=True)


def table(rows: list[dict]) -> None:
    """Print rows in Markdown."""
    heads = list(dict.fromkeys(key for row in rows for key in row))
    print("| " + " | ".join(heads) + " |")
    print("|" + " --- |" * len(heads))
    for row in rows:
        print("| " + " | ".join(str(row.get(h, "")) for h in heads) + " |", flush=True)


def yes(reached: bool) -> str:
    """For the column that says whether a figure was reached."""
    return "yes" if reached else "no"
