"""The output folder: written whole or not at all, and recognised when it is asked for again."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from . import store
from .errors import OutputError

MANIFEST = "manifest.json"


def check(folder: Path) -> None:
    """Find out before any work whether `folder` can be written.

    Raises:
        OutputError: It is a file, a folder of something else, or cannot be written.
    """
    if folder.exists():
        if not folder.is_dir():
            raise OutputError(f"{folder} is a file", "choose another folder with --output")
        if any(folder.iterdir()) and not (folder / MANIFEST).is_file():
            raise OutputError(
                f"{folder} holds something that tfcompress did not write",
                "choose another folder with --output",
            )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        os.rmdir(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise OutputError(
            f"cannot write beside {folder}: {error.strerror}", "choose another folder with --output"
        ) from None


def find(folder: Path, key: str) -> dict | None:
    """The manifest in `folder` if it was made for `key` and every file is still as it says."""
    try:
        manifest = store.read_json(folder / MANIFEST)
        if manifest["key"] != key:
            return None
        for name, entry in manifest["files"].items():
            if store.file_digest(folder / name) != entry["sha256"]:
                return None
    except (OSError, ValueError, KeyError):
        return None
    return manifest


def write(folder: Path, fill: Callable[[Path], None], manifest: dict) -> None:
    """Let `fill` write into a temporary folder, add the manifest, and put it in `folder`'s place.

    Raises:
        OutputError: The disk is full or cannot be written; `folder` is then as it was before.
    """
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        fill(work)
        files = sorted(p for p in work.rglob("*") if p.is_file())
        listed = {
            p.relative_to(work).as_posix(): {
                "sha256": store.file_digest(p),
                "bytes": p.stat().st_size,
            }
            for p in files
        }
        store.write_json(work / MANIFEST, manifest | {"files": listed})
        place(work, folder)
    except OSError as error:
        raise OutputError(
            f"cannot write {folder}: {error.strerror or error}",
            "free some space, or choose another folder with --output",
        ) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def place(new: Path, folder: Path) -> None:
    """Put the finished temporary folder `new` where `folder` is, or was not yet."""
    umask = os.umask(0)
    os.umask(umask)
    new.chmod(0o777 & ~umask)
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        os.rename(folder, old)  # replaces the empty folder `old`
        try:
            os.rename(new, folder)
        except OSError:
            os.rename(old, folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.rename(new, folder)
