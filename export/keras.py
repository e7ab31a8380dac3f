"""A Keras 3 model to a `.keras` file whose bytes depend only on the model."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

# The zip format cannot say less than this date.
EPOCH = (1980, 1, 1, 0, 0, 0)


def to_keras(model, path: str | Path) -> None:
    """Save `model` without its optimizer; the same model gives the same bytes.

    Keras writes the date into `metadata.json` and into the zip entries; both are set to the
    earliest date that a zip can hold. It marks objects that layers share with their address in
    memory; they are numbered instead. The file appears whole or not at all.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".saving-") as folder:
        saved = Path(folder) / "saved.keras"
        with _uncompiled(model):
            model.save(saved)
        made = Path(folder) / "made.keras"
        with zipfile.ZipFile(saved) as source, zipfile.ZipFile(made, "w") as result:
            for info in sorted(source.infolist(), key=lambda i: i.filename):
                _copy(source, result, info)
        os.replace(made, path)


def _copy(source: zipfile.ZipFile, result: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    content = source.read(info)
    if info.filename == "metadata.json":
        metadata = json.loads(content) | {"date_saved": "1980-01-01@00:00:00"}
        content = json.dumps(metadata).encode()
    elif info.filename == "config.json":
        content = json.dumps(_numbered(json.loads(content), {})).encode()
    entry = zipfile.ZipInfo(info.filename, EPOCH)
    entry.external_attr = 0o644 << 16
    # Weights hardly shrink; Keras stores them plain as well.
    result.writestr(entry, content, zipfile.ZIP_STORED)


def _numbered(config, seen: dict):
    """The configuration with `shared_object_id`s counted from 1 in the order of their first use."""
    if isinstance(config, list):
        return [_numbered(item, seen) for item in config]
    if isinstance(config, dict):
        return {
            key: seen.setdefault(value, len(seen) + 1)
            if key == "shared_object_id" and value is not None
            else _numbered(value, seen)
            for key, value in config.items()
        }
    return config


@contextlib.contextmanager
def _uncompiled(model) -> Iterator[None]:
    """Without optimizer and losses for a while, so that they are not saved."""
    compiled = getattr(model, "compiled", False)
    optimizer = getattr(model, "optimizer", None)
    if not compiled:
        yield
        return
    model.compiled, model.optimizer = False, None
    try:
        yield
    finally:
        model.compiled, model.optimizer = compiled, optimizer
