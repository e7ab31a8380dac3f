"""Samples on disk as what training reads: batches of inputs, labels and the teacher's outputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..models import load

CHUNK = 256  # rows that the teacher is given at once
FEWEST_TO_VALIDATE = 20


@dataclass(frozen=True)
class Samples:
    """Memory-mapped arrays: `inputs` in the model's order, `labels` or None, and the teacher's
    `outputs` in the model's order."""

    inputs: list
    labels: Any
    outputs: list
    specs: list

    @property
    def count(self) -> int:
        return len(self.inputs[0])

    def split(self, share: float, seed: int) -> tuple[Any, Any]:
        """Shuffled row numbers to train on and to validate on; few samples are all trained on."""
        import numpy as np

        order = np.random.default_rng(seed).permutation(self.count)
        held = round(share * self.count)
        if held < FEWEST_TO_VALIDATE:
            return np.sort(order), order[:0]
        return np.sort(order[held:]), np.sort(order[:held])

    def rows(self, chosen: Any) -> list:
        """Some rows of the inputs, in the types that the model takes."""
        import numpy as np

        return [_cast(np.asarray(a[chosen]), s.dtype)
                for a, s in zip(self.inputs, self.specs, strict=True)]

    def batches(self, rows: Any, size: int, even: bool, *, teacher: bool = True,
                change: Callable[[list, Any], list] | None = None, seed: tuple = ()) -> Any:
        """A tf.data.Dataset of `(inputs tuple, {"labels", "teacher0", ...})`.

        Args:
            rows: Row numbers in the order in which they come.
            size: Rows per batch.
            even: Leave a last, smaller batch out (training; BatchNormalization needs many rows).
            teacher: Give the teacher's outputs too.
            change: Takes the inputs of a batch and a generator, gives other inputs.
            seed: Of the generators, together with the number of the batch.
        """
        import numpy as np
        import tensorflow as tf

        others = ([] if self.labels is None else [self.labels]) + (self.outputs if teacher else [])
        names = ([] if self.labels is None else ["labels"]) + \
            [f"teacher{i}" for i in range(len(self.outputs))]
        inputs = len(self.specs)

        def read(number: Any, chosen: Any) -> list:
            found = self.rows(chosen)
            if change:
                found = change(found, np.random.default_rng((*seed, int(number))))
                found = [_cast(np.asarray(a), s.dtype)
                         for a, s in zip(found, self.specs, strict=True)]
            return found + [np.asarray(a[chosen]) for a in others]

        types = [tf.as_dtype(_held(s.dtype)) for s in self.specs] + \
            [tf.as_dtype(a.dtype) for a in others]

        def take(number: Any, chosen: Any) -> tuple:
            found = tf.numpy_function(read, [number, chosen], types)
            for tensor, array in zip(found, [*self.inputs, *others], strict=True):
                tensor.set_shape((size if even else None, *array.shape[1:]))
            return tuple(found[:inputs]), dict(zip(names, found[inputs:], strict=False))

        data = tf.data.Dataset.from_tensor_slices(np.asarray(rows, np.int64))
        data = data.batch(size, drop_remainder=even).enumerate()
        return data.map(take, num_parallel_calls=1, deterministic=True).prefetch(2)


def _held(dtype: str) -> str:
    return "float32" if dtype == "bfloat16" else dtype


def _cast(array: Any, dtype: str) -> Any:
    import numpy as np

    if dtype == "string":  # TensorFlow's text is bytes
        return np.char.encode(array, "utf-8") if array.dtype.kind == "U" else array
    return array.astype(_held(dtype), copy=False)


def read(folder: str | Path, loaded: load.Loaded, scratch: Path,
         progress: Callable[[float | None, str], None]) -> Samples:
    """Open the samples of `folder` and run the original model on them once.

    Args:
        folder: `inputs/0.npy ...`, `labels.npy` where there are labels, `samples.json`.
        loaded: The original model.
        scratch: A folder for its outputs.
        progress: Called with the share of rows that were run.

    Raises:
        DataError: The samples are not there or do not fit the model.
    """
    import numpy as np

    folder = Path(folder)
    try:
        inputs = [np.load(folder / "inputs" / f"{i}.npy", mmap_mode="r")
                  for i in range(len(loaded.inputs))]
        labels = folder / "labels.npy"
        labels = np.load(labels, mmap_mode="r") if labels.is_file() else None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the samples in {folder}: {error}",
                        "prepare the data again") from None
    if labels is not None and len(labels) != len(inputs[0]):
        raise DataError(f"{len(labels)} labels for {len(inputs[0])} samples", "give one for each")
    outputs = _teach(inputs, loaded, scratch, progress)
    return Samples(inputs, labels, outputs, loaded.inputs)


def is_random(folder: str | Path) -> bool:
    """Whether the samples are seeded noise, from which nothing about the task can be learned."""
    path = Path(folder) / "samples.json"
    return path.is_file() and bool(json.loads(path.read_text()).get("random"))


def _teach(inputs: list, loaded: load.Loaded, scratch: Path, progress: Callable) -> list:
    import numpy as np
    from numpy.lib.format import open_memmap

    files: list = []
    count = len(inputs[0])
    for start in range(0, count, CHUNK):
        progress(start / count, "running the original model")
        rows = load.call(loaded, [np.asarray(a[start:start + CHUNK]) for a in inputs])
        for i, row in enumerate(rows):
            if row.shape[:1] != (min(CHUNK, count - start),):  # not a row per sample: no teacher
                row = np.zeros(min(CHUNK, count - start), bool)
            if start == 0:
                files.append(open_memmap(scratch / f"teacher{i}.npy", "w+", row.dtype,
                                         (count, *row.shape[1:])))
            files[i][start:start + len(row)] = row
    return files
