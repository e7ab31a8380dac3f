"""Data: from what the user names after `--data` to samples on disk that every stage reads.

    digits.npz                 arrays matched to inputs by name or order; labels in `y`
    photos/                    one folder of images per class
    train.tfrecord             tf.train.Example records
    package.module:function    yields batches: x, (x, y), or a dict by input name
    random                     seeded noise, for a footprint only: every figure says so

`prepare` writes two folders, `calibration` (the representative samples) and `held_back` (the ones
the artifacts are judged on), and `train` where the model is to be trained. Each has
`inputs/0.npy ...` in the model's input order, an optional `labels.npy`, and `samples.json`. Rows of
`held_back` are shuffled, so its first n are a fair draw.
"""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path

from . import readers, store
from .artifact import TensorSpec
from .errors import DataError
from .readers import Table

MOST_HELD_BACK = 10_000
HELD_BACK = 0.2  # share of the rows that are held back when the others are trained on
TRAIN_BYTES = 2 << 30  # of training data are read at most
# (x - mean) / std on raw 0..255 pixels, per channel
NORMALIZATIONS = {
    "0..1": ((0.0,), (255.0,)),
    "-1..1": ((127.5,), (127.5,)),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}


def kind_of(spec: str) -> str:
    """`random`, `npz`, `images`, `tfrecord` or `function`, decided before anything is read.

    Raises:
        DataError: There is no such file, or it is of no known kind.
    """
    if spec == "random":
        return "random"
    path = Path(spec)
    if path.is_dir():
        return "images"
    if path.is_file():
        if path.suffix == ".npz":
            return "npz"
        if "tfrecord" in path.name:
            return "tfrecord"
        raise DataError(
            f"{spec} is no data file that tfcompress knows",
            "give .npz, a folder of images, .tfrecord, package.module:function or random",
        )
    module, colon, function = spec.partition(":")
    if colon and function.isidentifier() and all(p.isidentifier() for p in module.split(".")):
        return "function"
    raise DataError(f"no data at {spec}", "check the path, or give package.module:function")


def digest(spec: str) -> str | None:
    """What the data are, for the step store; None where only running the function can tell.

    Image folders go by name, size and time of change of each file, not by content.
    """
    kind = kind_of(spec)
    if kind == "random":
        return "random"
    if kind == "function":
        return None
    if kind == "images":
        found = [
            (str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in readers.images(Path(spec))
        ]
        return store.digest(found)
    return store.file_digest(spec)


def prepare(
    spec: str,
    inputs: list[TensorSpec],
    outputs: list[TensorSpec],
    out: Path,
    *,
    samples: int = 200,
    seed: int = 0,
    eval_spec: str | None = None,
    normalize: str | None = None,
    vocabulary: dict[str, int] | None = None,
    train: bool = False,
) -> dict:
    """Read, check and split the data, and write `out/calibration` and `out/held_back`.

    Args:
        spec: What the user gave (see the module's docstring).
        inputs: The model's inputs with static shapes, batch first.
        outputs: The model's outputs; the first one's last dimension bounds integer labels.
        samples: Representative samples to take, class-balanced where labels are classes.
        eval_spec: Separate data for judging; without it, the rows that were not taken.
        normalize: A name in `NORMALIZATIONS`, applied to raw pixels.
        vocabulary: For integer inputs, one more than the largest value that random data may take.
        train: Write `out/train` too: every row that is not held back.

    Returns:
        The report's account of the data: kind, counts, whether there are labels, notes.

    Raises:
        DataError: Wrong shape, dtype or range, NaN, no rows, or labels out of range.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    kind = kind_of(spec)
    most = _most(inputs)
    wanted = samples + most + (_most_to_train(inputs, kind) if train else 0)
    if kind == "random":
        table = readers.noise(inputs, rng, samples, vocabulary or {})
    else:
        table = _read(kind, spec, inputs, wanted, rng)
        _check(table, inputs, outputs, spec)
    apart = table.held_back
    if eval_spec:
        apart = _read(kind_of(eval_spec), eval_spec, inputs, most, rng)
    if apart:
        _check(apart, inputs, outputs, eval_spec or spec)
    count = len(table.arrays[0])
    rows = np.arange(count)  # to train on
    if apart:
        chosen = readers.draw(table.labels, count, min(samples, count), rng)
        held = apart
        rest = rng.permutation(len(apart.arrays[0]))[:most]
    elif kind == "random":
        chosen, rest, held = np.arange(samples), np.arange(samples, count), table
        rows = chosen
    elif count < 2:
        raise DataError(f"{spec} has one row only", "give at least two: one calibrates, one judges")
    elif train:
        rest, rows = np.split(rng.permutation(count), [min(most, max(1, round(HELD_BACK * count)))])
        rows.sort()
        labels = None if table.labels is None else table.labels[rows]
        chosen = rows[readers.draw(labels, len(rows), min(samples, len(rows)), rng)]
        held = table
    else:
        take = min(samples, max(1, count * 3 // 4))  # too few samples bound ranges badly
        chosen = readers.draw(table.labels, count, take, rng)
        rest = rng.permutation(count)
        rest = rest[~np.isin(rest, chosen)][:most]
        held = table
        if take < samples:
            table.notes.append(f"only {count} rows: {take} represent, {len(rest)} are held back")
    _write(out / "calibration", table, chosen, inputs, normalize)
    _write(out / "held_back", held, rest, inputs, normalize)
    if train:
        _write(out / "train", table, rows, inputs, normalize)
    return {
        "spec": spec,
        "kind": kind,
        "calibration": len(chosen),
        "held_back": len(rest),
        **({"trained_on": len(rows)} if train else {}),
        "labels": held.labels is not None,
        "random": kind == "random",
        "classes": table.classes,
        "normalize": normalize,
        "notes": table.notes,
        "range": _range(table, chosen, inputs),
    }


def _most(inputs) -> int:
    """Rows to hold back at most: 10,000, or what fits into half a gigabyte."""
    row = sum(4 * math.prod(d or 1 for d in spec.shape[1:]) for spec in inputs)
    return min(MOST_HELD_BACK, max(200, (1 << 29) // max(row, 1)))


def _most_to_train(inputs, kind: str) -> int:
    """Rows that fit into `TRAIN_BYTES`; images are kept as bytes."""
    row = sum(math.prod(d or 1 for d in spec.shape[1:]) for spec in inputs)
    return TRAIN_BYTES // max(row if kind == "images" else 4 * row, 1)


def _read(kind: str, spec: str, inputs, wanted: int, rng) -> Table:
    if kind == "npz":
        return readers.npz(spec, inputs)
    if kind == "images":
        return readers.image_folder(Path(spec), inputs, wanted, rng)
    if kind == "tfrecord":
        return readers.collect(readers.tfrecords(spec, inputs), inputs, wanted, spec)
    if kind == "function":
        return readers.collect(readers.call(spec), inputs, wanted, spec)
    raise DataError(f"{spec} cannot be used here", "give real data")


# Checking -----------------------------------------------------------------------------------


def _check(table: Table, inputs, outputs, where: str) -> None:
    import numpy as np

    for i, spec in enumerate(inputs):
        array = table.arrays[i]
        if array.dtype.kind not in "fiub" and spec.dtype != "string":
            raise DataError(
                f"{where}: data for input {spec.name!r} are {array.dtype}, not numbers",
                "give numeric arrays",
            )
        if array.ndim == 0 or len(array) == 0:
            raise DataError(
                f"{where}: no rows for input {spec.name!r}", "give at least a few dozen samples"
            )
        table.arrays[i] = array = _fit(array, spec, where)
        if array.dtype.kind == "f":
            bad = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
            if bad.any():
                raise DataError(
                    f"{where}: input {spec.name!r} has NaN or infinity in {bad.sum()} rows "
                    f"(first: row {int(bad.argmax())})",
                    "clean the data",
                )
        if spec.dtype.startswith(("int", "uint")) and array.dtype.kind in "fiu":
            low, high = array.min(), array.max()
            bounds = np.iinfo(spec.dtype)
            if low < bounds.min or high > bounds.max:
                raise DataError(
                    f"{where}: input {spec.name!r} takes {spec.dtype}, the data span "
                    f"{low:g}..{high:g}",
                    "scale the data as in training",
                )
            if array.dtype.kind == "f" and (array != np.round(array)).any():
                raise DataError(
                    f"{where}: input {spec.name!r} takes {spec.dtype}, the data are fractions",
                    "give whole numbers",
                )
    counts = {len(a) for a in table.arrays}
    if len(counts) > 1:
        raise DataError(
            f"{where}: inputs have different numbers of rows ({sorted(counts)})",
            "give one row of each input per sample",
        )
    if table.labels is not None:
        _check_labels(table, outputs, where, counts.pop())


def _fit(array, spec: TensorSpec, where: str):
    """The array if its rows have the input's shape, or if it only lacks a channel axis of 1."""
    want = spec.shape[1:]

    def fits(shape) -> bool:
        return len(shape) == len(want) and all(
            w in (None, s) for s, w in zip(shape, want, strict=True)
        )

    if fits(array.shape[1:]):
        return array
    if fits((*array.shape[1:], 1)):
        return array[..., None]
    raise DataError(
        f"{where}: rows for input {spec.name!r} have shape {array.shape[1:]}, the model "
        f"takes {tuple(want)}",
        "reshape or resize the data as in training",
    )


def _check_labels(table: Table, outputs, where: str, rows: int) -> None:
    import numpy as np

    labels = table.labels
    if len(labels) != rows:
        raise DataError(f"{where}: {len(labels)} labels for {rows} rows", "give one label per row")
    if labels.dtype.kind not in "fiub":
        raise DataError(
            f"{where}: labels are {labels.dtype}, not numbers", "give class indices or values"
        )
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise DataError(f"{where}: labels have NaN or infinity", "clean the labels")
    if labels.ndim == 2 and labels.shape[1] == 1:
        table.labels = labels = labels[:, 0]
    classes = outputs[0].shape[-1] if outputs and outputs[0].shape else None
    per_row = labels.ndim == len(outputs[0].shape) - 1 if outputs else False
    if labels.dtype.kind in "iu" and per_row and classes and classes > 1:
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise DataError(
                f"{where}: labels span {low}..{high}, the model has {classes} classes "
                f"(0..{classes - 1})",
                "give class indices that start at 0",
            )


# Sampling and writing -----------------------------------------------------------------------


def _write(folder: Path, table: Table, rows, inputs, normalize: str | None) -> None:
    import numpy as np

    (folder / "inputs").mkdir(parents=True)
    for i, array in enumerate(table.arrays):
        part = array[rows]
        if normalize and part.ndim == 4 and inputs[i].dtype.startswith("float"):
            mean, std = (np.array(v, np.float32) for v in NORMALIZATIONS[normalize])
            part = (part.astype(np.float32) - mean) / std
        if part.dtype == np.float64 or part.dtype == np.float16:
            part = part.astype(np.float32)
        np.save(folder / "inputs" / f"{i}.npy", np.ascontiguousarray(part))
    if table.labels is not None:
        np.save(folder / "labels.npy", table.labels[rows])
    random = any("random data" in note for note in table.notes)
    store.write_json(
        folder / "samples.json",
        {"count": len(rows), "names": [spec.name for spec in inputs], "random": random},
    )


def _range(table: Table, rows, inputs) -> dict[str, list[float]]:
    return {
        spec.name: [float(a[rows].min()), float(a[rows].max())]
        for spec, a in zip(inputs, table.arrays, strict=True)
        if a.dtype.kind in "fiu" and a[rows].size
    }


def check_spec(spec: str) -> None:
    """Fail early, and without NumPy, on data that cannot be there or cannot be read."""
    kind = kind_of(spec)
    if kind in ("npz", "tfrecord"):
        if not os.access(spec, os.R_OK):
            raise DataError(f"{spec} cannot be read", "check its permissions")
        if kind == "npz" and not zipfile.is_zipfile(spec):
            raise DataError(f"{spec} is not a readable .npz file", "write it with numpy.savez")
