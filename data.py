"""Data: from what the user names after `--data` to samples on disk that every stage reads.

    digits.npz                 arrays matched to inputs by name or order; labels in `y`
    photos/                    one folder of images per class
    train.tfrecord             tf.train.Example records
    package.module:function    yields batches: x, (x, y), or a dict by input name
    random                     seeded noise, for a footprint only: every figure says so

`prepare` writes two folders, `calibration` (the representative samples) and `held_back` (the ones
the artifacts are judged on), each with `inputs/0.npy ...` in the model's input order, an optional
`labels.npy`, and `samples.json`. Rows of `held_back` are shuffled, so its first n are a fair draw.
"""

from __future__ import annotations

import importlib
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import store
from .artifact import TensorSpec
from .errors import DataError

LABELS = ("y", "label", "labels", "target", "targets")
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
MOST_HELD_BACK = 10_000
# (x - mean) / std on raw 0..255 pixels, per channel
NORMALIZATIONS = {
    "0..1": ((0.0,), (255.0,)),
    "-1..1": ((127.5,), (127.5,)),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}


@dataclass
class Table:
    """Rows in memory: one array per model input (N rows each), and labels where there are any."""

    arrays: list
    labels: object = None
    classes: list[str] = field(default_factory=list)
    held_back: Table | None = None
    notes: list[str] = field(default_factory=list)


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
        found = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in _images(Path(spec))]
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

    Returns:
        The report's account of the data: kind, counts, whether there are labels, notes.

    Raises:
        DataError: Wrong shape, dtype or range, NaN, no rows, or labels out of range.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    kind = kind_of(spec)
    wanted = samples + MOST_HELD_BACK
    if kind == "random":
        table = _random(inputs, rng, samples, vocabulary or {})
    else:
        table = _read(kind, spec, inputs, wanted, rng)
        _check(table, inputs, outputs, spec)
    apart = table.held_back
    if eval_spec:
        apart = _read(kind_of(eval_spec), eval_spec, inputs, MOST_HELD_BACK, rng)
    if apart:
        _check(apart, inputs, outputs, eval_spec or spec)
    count = len(table.arrays[0])
    if apart:
        chosen = _draw(table.labels, count, min(samples, count), rng)
        held = apart
        rest = _shuffled(len(apart.arrays[0]), rng)[:MOST_HELD_BACK]
    elif kind == "random":
        chosen, rest, held = np.arange(samples), np.arange(samples, count), table
    else:
        take = min(samples, max(1, count // 2))
        chosen = _draw(table.labels, count, take, rng)
        rest = _shuffled(count, rng)
        rest = rest[~np.isin(rest, chosen)][:MOST_HELD_BACK]
        held = table
        if take < samples:
            table.notes.append(f"only {count} rows: {take} represent, {len(rest)} are held back")
        if not len(rest):
            rest = chosen
            table.notes.append("one row only: it both represents and judges")
    _write(out / "calibration", table, chosen, inputs, normalize)
    _write(out / "held_back", held, rest, inputs, normalize)
    return {
        "spec": spec,
        "kind": kind,
        "calibration": len(chosen),
        "held_back": len(rest),
        "labels": held.labels is not None,
        "random": kind == "random",
        "classes": table.classes,
        "normalize": normalize,
        "notes": table.notes,
        "range": _range(table, chosen, inputs),
    }


def _read(kind: str, spec: str, inputs, wanted: int, rng) -> Table:
    if kind == "npz":
        return _npz(spec, inputs)
    if kind == "images":
        return _image_folder(Path(spec), inputs, wanted, rng)
    if kind == "tfrecord":
        return _collect(_tfrecords(spec, inputs), inputs, wanted, spec)
    if kind == "function":
        return _collect(_call(spec), inputs, wanted, spec)
    raise DataError(f"{spec} cannot be used here", "give real data")


# Reading ------------------------------------------------------------------------------------


def _npz(path: str, inputs) -> Table:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            named = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError) as error:
        if "pickle" in str(error).lower():
            raise DataError(
                f"{path} holds Python objects, which are not unpickled",
                "save plain numeric arrays with numpy.savez",
            ) from None
        raise DataError(
            f"{path} is not a readable .npz file", "write it with numpy.savez"
        ) from None
    train = {k.removesuffix("_train"): v for k, v in named.items() if k.endswith("_train")}
    test = {k.removesuffix("_test"): v for k, v in named.items() if k.endswith("_test")}
    if train and test and any(k not in LABELS for k in train):
        table = _match(train, inputs, path)
        table.held_back = _match(test, inputs, path)
        table.notes.append("_train arrays represent, _test arrays are held back")
        return table
    return _match(named, inputs, path)


def _match(named: dict, inputs, where: str) -> Table:
    """Arrays to inputs: by name, else in order; labels by their usual names."""
    import numpy as np

    labels = next((named[k] for k in LABELS if k in named and k not in _names(inputs)), None)
    rest = {k: v for k, v in named.items() if k not in LABELS or k in _names(inputs)}
    if all(spec.name in rest for spec in inputs):
        arrays = [rest[spec.name] for spec in inputs]
    elif len(rest) == len(inputs):
        arrays = list(rest.values())
    else:
        raise DataError(
            f"{where} has arrays {', '.join(rest) or '(none)'}; the model's inputs are "
            f"{', '.join(_names(inputs))}",
            "name the arrays like the inputs, and the labels y",
        )
    return Table([np.asarray(a) for a in arrays], None if labels is None else np.asarray(labels))


def _names(inputs) -> list[str]:
    return [spec.name for spec in inputs]


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGES and p.is_file())


def _image_folder(folder: Path, inputs, wanted: int, rng) -> Table:
    import numpy as np

    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise DataError(
            f"{folder} is a folder of images, but the model does not take one image",
            "give .npz with one array per input",
        )
    paths = _images(folder)
    if not paths:
        raise DataError(
            f"{folder} holds no images",
            f"put {', '.join(IMAGES[:3])} files into one subfolder per class",
        )
    classes = sorted({p.relative_to(folder).parts[0] for p in paths if p.parent != folder})
    flat = [p for p in paths if p.parent == folder]
    if classes and flat:
        raise DataError(
            f"{folder} holds both class subfolders and loose images ({flat[0].name})",
            "move the loose images into a class subfolder",
        )
    labels = None
    if classes:
        index = {name: i for i, name in enumerate(classes)}
        labels = np.array([index[p.relative_to(folder).parts[0]] for p in paths])
    chosen = np.sort(_draw(labels, len(paths), min(wanted, len(paths)), rng))
    arrays = np.stack([_image(paths[i], inputs[0].shape) for i in chosen])
    return Table([arrays], None if labels is None else labels[chosen], classes)


def _image(source, shape) -> object:
    """One image as uint8 (H, W, C), resized bilinearly without keeping its aspect."""
    import numpy as np
    from PIL import Image

    _, height, width, channels = shape
    try:
        with Image.open(source) as image:
            mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(channels)
            if mode is None:
                raise DataError(
                    f"the model takes {channels} channels, which no image has",
                    "give .npz with one array per input",
                )
            image = image.convert(mode)
            if image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BILINEAR)
            return np.asarray(image, np.uint8).reshape(height, width, channels)
    except DataError:
        raise
    except Exception as error:
        name = source if isinstance(source, Path) else "an image in the records"
        raise DataError(
            f"{name} cannot be read as an image: {error}", "remove or replace it"
        ) from None


def _tfrecords(path: str, inputs) -> Iterator:
    """tf.train.Example: features named like inputs, or encoded images as `image/encoded`."""
    import io

    import numpy as np
    import tensorflow as tf

    compression = "GZIP" if path.endswith((".gz", ".gzip")) else ""
    example = tf.train.Example()
    try:
        for raw in tf.data.TFRecordDataset(path, compression).as_numpy_iterator():
            example.ParseFromString(raw)
            features = example.features.feature
            row = {}
            for spec in inputs:
                key = next(
                    (
                        k
                        for k in (spec.name, "image/encoded", "image", "image_raw", "x")
                        if k in features
                    ),
                    None,
                )
                if key is None:
                    raise DataError(
                        f"{path}: no feature for input {spec.name!r}; there are "
                        f"{', '.join(sorted(features))}",
                        "name the features like the inputs",
                    )
                feature, shape = features[key], [d or 1 for d in spec.shape[1:]]
                if feature.bytes_list.value:
                    data = feature.bytes_list.value[0]
                    size = int(np.prod(shape))
                    if len(data) == size and not data.startswith((b"\x89PNG", b"\xff\xd8\xff")):
                        row[spec.name] = np.frombuffer(data, np.uint8).reshape(shape)
                    elif len(data) == 4 * size:
                        row[spec.name] = np.frombuffer(data, "<f4").reshape(shape)
                    else:
                        row[spec.name] = _image(io.BytesIO(data), (1, *shape))
                else:
                    values = feature.float_list.value or feature.int64_list.value
                    try:
                        row[spec.name] = np.array(values).reshape(shape)
                    except ValueError:
                        raise DataError(
                            f"{path}: feature {key!r} has {len(values)} values; input "
                            f"{spec.name!r} takes {shape}",
                            "write what the model takes",
                        ) from None
            label = next((k for k in (*LABELS, "image/class/label") if k in features), None)
            values = label and (
                features[label].int64_list.value or features[label].float_list.value
            )
            batch = {k: v[None] for k, v in row.items()}
            yield (batch, np.array(values)[:1]) if values else batch
    except tf.errors.OpError as error:
        raise DataError(
            f"{path} is not a readable TFRecord file: {error.message[:80]}",
            "check the file; name gzipped ones .tfrecord.gz",
        ) from None


def _call(spec: str) -> Iterator:
    module, _, name = spec.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise DataError(
            f"cannot import {spec}: {error}",
            "run from the folder that holds the module, or install it",
        ) from None
    try:
        made = function() if callable(function) else function
        if hasattr(made, "as_numpy_iterator"):
            yield from made.as_numpy_iterator()
        elif (
            hasattr(made, "__getitem__") and hasattr(made, "__len__") and not isinstance(made, list)
        ):
            yield from (made[i] for i in range(len(made)))
        else:
            yield from made
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{spec} raised {type(error).__name__}: {error}",
            "call the function yourself to see where",
        ) from error


def _collect(batches: Iterator, inputs, wanted: int, where: str) -> Table:
    """Batches to arrays, stopping when there are enough rows (a generator may have no end)."""
    import numpy as np

    parts: list[list] = []
    labels: list = []
    rows = 0
    for batch in batches:
        x, y = batch if isinstance(batch, tuple) and len(batch) == 2 else (batch, None)
        if isinstance(x, dict):
            named = {k: np.asarray(v) for k, v in x.items()}
        else:
            several = x if isinstance(x, (list, tuple)) else [x]
            named = {str(i): np.asarray(v) for i, v in enumerate(several)}
        matched = _match(named, inputs, where)
        arrays, y = matched.arrays, matched.labels if y is None else y
        if any(a.ndim == 0 or len(a) != len(arrays[0]) for a in arrays):
            raise DataError(
                f"{where} yields arrays of different lengths in one batch",
                "yield the same number of rows for each input",
            )
        parts.append(arrays)
        if y is not None:
            labels.append(np.asarray(y))
        rows += len(arrays[0])
        if rows >= wanted:
            break
    if not rows:
        raise DataError(f"{where} yields no data", "give at least a few dozen samples")
    try:
        arrays = [np.concatenate(column) for column in zip(*parts, strict=True)]
        joined = np.concatenate(labels) if labels else None
    except ValueError as error:
        raise DataError(
            f"{where} yields batches that do not fit together: {error}",
            "yield the same shape every time",
        ) from None
    return Table(arrays, joined)


def _random(inputs, rng, samples: int, vocabulary: dict[str, int]) -> Table:
    """Uniform noise: floats in [0, 1), uint8 over its range, integers below the vocabulary."""
    import numpy as np

    arrays = []
    for spec in inputs:
        shape = (samples + max(32, samples // 4), *(d or 1 for d in spec.shape[1:]))
        if spec.dtype == "bool":
            arrays.append(rng.integers(0, 2, shape).astype(bool))
        elif spec.dtype == "uint8":
            arrays.append(rng.integers(0, 256, shape).astype(np.uint8))
        elif spec.dtype.startswith(("int", "uint")):
            arrays.append(rng.integers(0, vocabulary.get(spec.name, 2), shape).astype(spec.dtype))
        elif spec.dtype.startswith(("float", "bfloat")):
            arrays.append(rng.random(shape, np.float32))
        else:
            raise DataError(
                f"no random data for input {spec.name!r} of type {spec.dtype}",
                "give real data with --data",
            )
    return Table(arrays, notes=["random data: sizes and latency are real, everything else is not"])


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


def _shuffled(count: int, rng):
    return rng.permutation(count)


def _draw(labels, count: int, take: int, rng):
    """`take` row numbers, the same number of each class as far as it goes, sorted."""
    import numpy as np

    order = rng.permutation(count)
    if labels is None or labels.dtype.kind not in "iub" or labels.ndim != 1:
        return np.sort(order[:take])
    # The k-th row of every class comes before the (k+1)-th of any.
    turn = np.empty(count, np.int64)
    for value in np.unique(labels):
        mine = order[labels[order] == value]
        turn[mine] = np.arange(len(mine))
    return np.sort(order[np.argsort(turn[order], kind="stable")][:take])


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
        folder / "samples.json", {"count": len(rows), "names": _names(inputs), "random": random}
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
