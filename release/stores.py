"""Where releases are kept: a plain folder, any fsspec URL, or a web server that is only read.

All three have one layout under STORE/name, in which nothing but an alias is ever rewritten:

    blobs/<sha256>                           the files, each once
    versions/<version>.json                  the manifest.json of that version, as it was
    signatures/<version>.<key>.<digest>      64 bytes each
    aliases/<alias>                          {"version": "..."}

A version is written after its blobs and an alias after its version, so that whatever a reader
finds is whole. What differs is how a store writes whole objects and how it writes only new ones:

* folder: written beside and renamed; a new version by a hard link, which fails if there is one.
* fsspec: `mode="create"`, which S3 and Google Cloud Storage take as a condition (If-None-Match,
  ifGenerationMatch); elsewhere a look before and a look after.
* web server: not written at all.
"""

from __future__ import annotations

import json
import os
import secrets
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .. import transfer
from ..errors import MissingExtra, StoreError, UsageError
from ..store import file_digest

MANIFEST_LIMIT = 16 << 20  # bytes
SMALL = 1 << 16  # bytes: aliases and signatures


class Releases:
    """The releases of one name, kept as objects in the layout above."""

    def __init__(self, objects):
        self.objects = objects

    def manifest(self, version: str) -> bytes | None:
        """The manifest.json of a version, or None."""
        return self.objects.read(f"versions/{version}.json", MANIFEST_LIMIT)

    def versions(self) -> list[str]:
        names = self.objects.list("versions")
        return sorted(n.removesuffix(".json") for n in names if n.endswith(".json"))

    def aliases(self) -> dict[str, str]:
        found = {name: self.alias(name) for name in sorted(self.objects.list("aliases"))}
        return {name: version for name, version in found.items() if version}

    def alias(self, alias: str) -> str | None:
        """The version that an alias stands for, or None."""
        data = self.objects.read(f"aliases/{alias}", SMALL)
        if data is None:
            return None
        try:
            return str(json.loads(data)["version"])
        except (ValueError, KeyError, TypeError):
            raise StoreError(
                f"the alias {alias} in {self.objects.where} is not one",
                "is this a tfcompress store? set the alias again",
            ) from None

    def set_alias(self, alias: str, version: str) -> None:
        self.objects.put(f"aliases/{alias}", json.dumps({"version": version}).encode() + b"\n")

    def signature(self, tag: str) -> bytes | None:
        return self.objects.read(f"signatures/{tag}", SMALL)

    def add_signature(self, tag: str, signature: bytes, manifest: bytes) -> None:
        self.objects.put(f"signatures/{tag}", signature)

    def add_blob(self, path: Path, sha256: str, size: int) -> bool:
        """Store a file; False if its bytes were there already.

        Raises:
            StoreError: What the store gives back afterwards is not the file.
        """
        key = f"blobs/{sha256}"
        if self.objects.digest(key, size) == sha256:
            return False
        self.objects.put(key, path)
        if self.objects.digest(key, size) != sha256:
            raise StoreError(
                f"{self.objects.where} did not keep {path.name} as it was sent", "publish again"
            )
        return True

    def blob(self, sha256: str, size: int, start: int) -> Iterator[bytes]:
        """The bytes of a blob from `start` on."""
        return self.objects.pieces(f"blobs/{sha256}", start)

    def add_version(self, version: str, manifest: bytes, files: dict[str, dict]) -> bytes:
        """Write a version if there is none of that name; gives what is there afterwards."""
        self.objects.create(f"versions/{version}.json", manifest)
        return self.manifest(version) or b""


class Folder:
    """Objects as files of a folder."""

    def __init__(self, root: Path):
        self.root = root
        self.where = str(root)

    def read(self, key: str, limit: int) -> bytes | None:
        try:
            with open(self.root / key, "rb") as file:
                return transfer.read_limited(file, limit)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def pieces(self, key: str, start: int) -> Iterator[bytes]:
        try:
            with open(self.root / key, "rb") as file:
                file.seek(start)
                while piece := file.read(transfer.CHUNK):
                    yield piece
        except FileNotFoundError:
            raise _lost(self.where, key) from None

    def digest(self, key: str, size: int) -> str | None:
        path = self.root / key
        if path.is_file() and path.stat().st_size == size:
            return file_digest(path)
        return None

    def put(self, key: str, value: bytes | Path) -> None:
        with self._beside(key, value) as beside:
            os.replace(beside, self.root / key)

    def create(self, key: str, value: bytes) -> None:
        """Write `key` unless it is there."""
        with self._beside(key, value) as beside:
            try:
                os.link(beside, self.root / key)
            except FileExistsError:
                pass
            except OSError:  # a file system without hard links: no longer safe against a race
                if not (self.root / key).exists():
                    os.replace(beside, self.root / key)

    @contextmanager
    def _beside(self, key: str, value: bytes | Path) -> Iterator[Path]:
        target = self.root / key
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}")
        try:
            with open(beside, "xb") as file:
                if isinstance(value, bytes):
                    file.write(value)
                else:
                    with open(value, "rb") as source:
                        while piece := source.read(transfer.CHUNK):
                            file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            yield beside
        finally:
            beside.unlink(missing_ok=True)

    def list(self, prefix: str) -> list[str]:
        """Names of objects directly under `prefix`, or of folders if it is empty."""
        folder = self.root / prefix
        if not folder.is_dir():
            return []
        wanted = Path.is_file if prefix else Path.is_dir
        return [p.name for p in folder.iterdir() if wanted(p) and not p.name.startswith(".")]


class Web:
    """Objects that a web server gives out: the layout of a folder, read only.

    `$TFCOMPRESS_HTTP_TOKEN` is sent as a bearer token.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        self.where = transfer.redact(self.url)
        token = os.environ.get("TFCOMPRESS_HTTP_TOKEN", "")
        self._authorization = f"Bearer {token}" if token else ""

    @contextmanager
    def _get(self, key: str, headers: dict[str, str] | None = None):
        url = f"{self.url}/{urllib.parse.quote(key)}"
        with transfer.request(
            url, headers=headers, authorization=self._authorization
        ) as response:
            if response.status in (401, 403):
                raise StoreError(
                    f"{self.where} refuses access ({response.status})",
                    "set TFCOMPRESS_HTTP_TOKEN to a token that may read it",
                )
            if response.status not in (200, 206, 404, 410):
                raise StoreError(
                    f"{self.where} answers {response.status} for {key}", "try again later"
                )
            yield response

    def read(self, key: str, limit: int) -> bytes | None:
        with self._get(key) as response:
            return transfer.read_limited(response, limit) if response.status == 200 else None

    def pieces(self, key: str, start: int) -> Iterator[bytes]:
        with self._get(key, {"Range": f"bytes={start}-"} if start else None) as response:
            if response.status not in (200, 206):
                raise _lost(self.where, key)
            yield from transfer.pieces(response, start)

    def list(self, prefix: str):
        raise StoreError(
            f"{self.where} cannot be listed: a web server tells no names",
            "list the folder or bucket that it serves",
        )

    def _refuse(self, *_):
        raise UsageError(
            f"{self.where} can only be read", "publish to the folder or bucket that it serves"
        )

    put = create = digest = _refuse


class Remote:
    """Objects of an fsspec file system: s3://, gs://, memory:// and what else is installed."""

    def __init__(self, url: str):
        self.where = transfer.redact(url)
        self._fs, self._root = _file_system(url)

    @contextmanager
    def _told(self, key: str = ""):
        """fsspec's errors, said in ours. What is not there is the caller's business."""
        try:
            yield
        except (FileNotFoundError, FileExistsError, StoreError, GeneratorExit):
            raise
        except Exception as error:
            kind = StoreError if isinstance(error, PermissionError) else transfer.Dropped
            text = transfer.redact(str(error)) or type(error).__name__
            if type(error).__name__ == "NoCredentialsError":
                kind, text = StoreError, "no credentials in the environment"
            raise kind(
                f"{self.where}: {text}",
                "check the address, the network and the credentials in the environment",
            ) from None

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}" if key else self._root

    def _size(self, key: str) -> int | None:
        try:
            with self._told(key):
                found = self._fs.info(self._path(key))
        except FileNotFoundError:
            return None
        return found["size"] if found["type"] == "file" else None

    def read(self, key: str, limit: int) -> bytes | None:
        try:
            with self._told(key):
                data = self._fs.cat_file(self._path(key), start=0, end=limit + 1)
        except FileNotFoundError:
            return None
        if len(data) > limit:
            raise StoreError(f"{self.where}/{key} is too large", "is this a tfcompress store?")
        return data

    def pieces(self, key: str, start: int) -> Iterator[bytes]:
        size = self._size(key)
        if size is None:
            raise _lost(self.where, key)
        step = 8 * transfer.CHUNK
        for at in range(start, size, step):
            with self._told(key):
                piece = self._fs.cat_file(self._path(key), start=at, end=min(at + step, size))
            yield piece

    def digest(self, key: str, size: int) -> str | None:
        if self._size(key) != size:
            return None
        return transfer.sha256_of(self.pieces(key, 0))

    def put(self, key: str, value: bytes | Path) -> None:
        with self._told(key):
            self._fs.makedirs(self._path(key).rpartition("/")[0], exist_ok=True)
            if isinstance(value, bytes):
                self._fs.pipe_file(self._path(key), value)
            else:
                self._fs.put_file(str(value), self._path(key))

    def create(self, key: str, value: bytes) -> None:
        """Write `key` unless it is there."""
        if self._size(key) is not None:
            return
        try:
            with self._told(key):
                self._fs.makedirs(self._path(key).rpartition("/")[0], exist_ok=True)
                try:
                    self._fs.pipe_file(self._path(key), value, mode="create")
                except NotImplementedError:  # a server that knows no conditions
                    self._fs.pipe_file(self._path(key), value)
        except FileExistsError:
            pass

    def list(self, prefix: str) -> list[str]:
        """Names of objects directly under `prefix`, or of folders if it is empty."""
        try:
            with self._told():
                found = self._fs.ls(self._path(prefix), detail=True, refresh=True)
        except FileNotFoundError:
            return []
        wanted = "file" if prefix else "directory"
        return [e["name"].rstrip("/").rpartition("/")[2] for e in found if e["type"] == wanted]


def _file_system(url: str):
    """(fsspec file system, path in it) of a URL.

    Raises:
        MissingExtra: fsspec, or its part for this scheme, is not installed.
        UsageError: fsspec knows no such scheme.
    """
    scheme = url.partition("://")[0]
    try:
        import fsspec
    except ImportError:
        raise MissingExtra("fsspec", "store") from None
    try:
        kind = fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        package = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}.get(scheme, "")
        missing = MissingExtra(package or f"what fsspec needs for {scheme}://", "store")
        if package != "s3fs":
            missing.hint = f"pip install {package}" if package else transfer.redact(str(error))
        raise missing from None
    except ValueError:
        raise UsageError(
            f"unknown store {scheme}://", "use a folder, s3://, gs://, https:// or oci://"
        ) from None
    try:
        fs = kind(use_listings_cache=False)
        return fs, kind._strip_protocol(url).rstrip("/")
    except Exception as error:
        raise StoreError(
            f"{transfer.redact(url)}: {transfer.redact(str(error))}", "check the environment"
        ) from None


def _lost(where: str, key: str) -> StoreError:
    return StoreError(f"{where} has lost {key}", "publish that version's files again")


def objects(url: str):
    """The objects under a folder or URL, as `Folder`, `Web` or `Remote`."""
    scheme, _, rest = url.partition("://")
    if not rest and not url.endswith("://"):
        return Folder(Path(url).expanduser())
    if scheme == "file":
        return Folder(Path(rest))
    if scheme in ("http", "https"):
        return Web(url)
    return Remote(url)
