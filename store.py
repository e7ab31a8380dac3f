"""Digests, and the store of finished steps that makes runs resumable.

A step's key is the digest of everything that decides its result. Its files are made in a
temporary folder and moved into place in one rename, so a step is either whole or not there: a
killed run finds what it had finished, and a second run with the same input does nothing twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIMIT = 4 << 30  # bytes; the least recently used steps beyond it are dropped


def digest(*parts: object) -> str:
    """SHA-256 (hex) of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(path: str | Path) -> str:
    """SHA-256 (hex) of a file, or of a folder's relative names and contents."""
    path = Path(path)
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.is_file())
        return digest([(p.relative_to(path).as_posix(), file_digest(p)) for p in inside])
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def default_root() -> Path:
    """`$TFCOMPRESS_CACHE`, or the user's cache folder."""
    if given := os.environ.get("TFCOMPRESS_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tfcompress"


class Store:
    """Finished steps by key, in one folder."""

    def __init__(self, root: str | Path | None = None):
        self.root = Path(root) if root else default_root()

    def find(self, key: str) -> Path | None:
        """The folder of the finished step `key`, or None."""
        folder = self.root / key[:2] / key
        if (folder / "step.json").is_file():
            os.utime(folder)
            return folder
        return None

    @contextmanager
    def make(self, key: str) -> Iterator[Path]:
        """A temporary folder that becomes the step `key` if the body does not raise.

        The body must write `step.json` (see `write_json`) into it.
        """
        place = self.root / key[:2]
        place.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".making-", dir=place))
        try:
            yield work
            try:
                os.rename(work, place / key)
            except OSError:
                if not self.find(key):  # another run was first: its result is as good
                    raise
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def unfinished(self, key: str) -> Path:
        """A folder for the work of a step that takes long, found again by whoever goes on."""
        folder = self.root / "unfinished" / key
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        return folder

    def drop(self, key: str) -> None:
        """Forget the step `key`."""
        shutil.rmtree(self.root / key[:2] / key, ignore_errors=True)

    def prune(self, limit: int = LIMIT) -> None:
        """Drop half-made folders older than a day and the least recently used steps."""
        total = 0
        for folder in self.root.glob("unfinished/*"):
            if time.time() - folder.stat().st_mtime > 7 * 86_400:
                shutil.rmtree(folder, ignore_errors=True)
        folders = [p for p in self.root.glob("??/*") if p.is_dir()]
        for folder in sorted(folders, key=lambda p: p.stat().st_mtime, reverse=True):
            if folder.name.startswith(".making-"):
                if time.time() - folder.stat().st_mtime > 86_400:
                    shutil.rmtree(folder, ignore_errors=True)
                continue
            total += sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
            if total > limit:
                shutil.rmtree(folder, ignore_errors=True)


def write_json(path: str | Path, value: object) -> None:
    """Write JSON whole or not at all: beside, then renamed."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def read_json(path: str | Path) -> dict:
    return json.loads(Path(path).read_text(encoding="utf-8"))
