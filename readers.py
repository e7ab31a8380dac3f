"""Reading data: each kind into a `Table` of one array per model input, and labels."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .errors import DataError

LABELS = ("y", "label", "labels", "target", "targets")
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")


@dataclass
class Table:
    """Rows in memory: one array per model input (N rows each), and labels where there are any."""

    arrays: list
    labels: object = None
    classes: list[str] = field(default_factory=list)
    held_back: Table | None = None
    notes: list[str] = field(default_factory=list)


def npz(path: str, inputs) -> Table:
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
        chosen = [spec.name for spec in inputs]
    else:
        # Extra arrays (file names, identifiers) are left out where only some can be inputs.
        numbers = [k for k, v in rest.items() if np.asarray(v).dtype.kind in "fiub"]
        fitting = [k for k in numbers if any(_fits(np.shape(rest[k]), spec) for spec in inputs)]
        chosen = next((c for c in (list(rest), numbers, fitting) if len(c) == len(inputs)), None)
    if chosen is None:
        raise DataError(
            f"{where} has arrays {', '.join(rest) or '(none)'}; the model's inputs are "
            f"{', '.join(_names(inputs))}",
            "name the arrays like the inputs, and the labels y",
        )
    arrays = [rest[name] for name in chosen]
    unused = [name for name in rest if name not in chosen]
    notes = [f"arrays not used: {', '.join(unused)}; labels are looked for in y"] if unused else []
    labels = None if labels is None else np.asarray(labels)
    return Table([np.asarray(a) for a in arrays], labels, notes=notes)


def _fits(shape: tuple, spec) -> bool:
    """Whether rows of this shape are what the input takes, but for free dimensions."""
    rows, want = shape[1:], spec.shape[1:]
    return len(rows) == len(want) and all(w in (None, s) for s, w in zip(rows, want, strict=True))


def _names(inputs) -> list[str]:
    return [spec.name for spec in inputs]


def images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGES and p.is_file())


def image_folder(folder: Path, inputs, wanted: int, rng) -> Table:
    import numpy as np

    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise DataError(
            f"{folder} is a folder of images, but the model does not take one image",
            "give .npz with one array per input",
        )
    paths = images(folder)
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
    chosen = np.sort(draw(labels, len(paths), min(wanted, len(paths)), rng))
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


def tfrecords(path: str, inputs) -> Iterator:
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


def call(spec: str) -> Iterator:
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


def collect(batches: Iterator, inputs, wanted: int, where: str) -> Table:
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


def noise(inputs, rng, samples: int, vocabulary: dict[str, int]) -> Table:
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


def draw(labels, count: int, take: int, rng):
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
