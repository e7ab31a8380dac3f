"""Publish an output folder, pull it elsewhere: the order of things.

    out/ --check--> blobs, signature --> version --> alias        STORE/name
    STORE/name --> alias --> version --> signature --> blobs --check--> folder, renamed into place

A release is the folder's own manifest.json: it names every file with its SHA-256, so that its
digest stands for all of them. Imports neither NumPy nor TensorFlow, ever.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .. import output, transfer
from ..errors import OutputError, StoreError, UsageError
from ..store import file_digest
from . import oci, signing, stores
from .references import (
    LATEST,
    NAME,
    VERSION,
    Reference,
    check_version,
    files_of,
    parse,
    read_manifest,
    refuse_credentials,
    targets_of,
)

PATIENCE = 2.0  # seconds before progress is shown

OnEvent = Callable[[str, float | None, str], None]


def publish(
    folder: str,
    reference: str,
    aliases: tuple[str, ...] = (),
    sign: str = "",
    on_event: OnEvent | None = None,
) -> dict:
    """Put an output folder into a store under a version that will never change.

    Args:
        folder: What `shrink` wrote, or `pull`.
        reference: STORE/name[:version]; without a version, the first 12 hex digits of the SHA-256
            of the folder's manifest.json.
        aliases: Moved to that version at the end. `latest` is too, if the version is new.
        sign: PEM file of a private Ed25519 key.

    Raises:
        OutputError: The folder is not what its manifest.json says.
        StoreError: The version is there with other bytes, or the store fails.
        UsageError: The reference or an alias cannot be used.
    """
    at = parse(reference)
    if at.alias:
        raise UsageError(f"{at} is an alias", f"publish {at.name}:VERSION --alias {at.alias}")
    for alias in aliases:
        check_version(alias)
    data, files = _read_folder(Path(folder))
    version = at.version or hashlib.sha256(data).hexdigest()[:12]
    at = Reference(at.store, at.name, version)
    signed = signing.sign(sign, at.name, version, data) if sign else None
    releases = at.open()
    before = _may_publish(releases, at, data, aliases)

    total = sum(entry["bytes"] for entry in files.values())
    told = _teller("publish", total, on_event)
    new = 0
    for name, entry in files.items():
        added = releases.add_blob(Path(folder) / name, entry["sha256"], entry["bytes"])
        new += entry["bytes"] if added else 0
        told(entry["bytes"])
    if signed:
        key, signature = signed
        releases.add_signature(signing.tag(version, key, data), signature, data)
    if releases.add_version(version, data, files) != data:
        raise _taken(at)
    moved = list(aliases)
    if LATEST not in moved and (before is None or releases.alias(LATEST) is None):
        moved.append(LATEST)
    for alias in moved:
        releases.set_alias(alias, version)
    return {
        "store": at.store,
        "name": at.name,
        "version": version,
        "aliases": moved,
        "sha256": hashlib.sha256(data).hexdigest(),
        "files": len(files),
        "bytes": total,
        "sent_bytes": new,
        "created": before is None,
        "signed_by": signed[0] if signed else None,
    }


def _read_folder(folder: Path) -> tuple[bytes, dict[str, dict]]:
    """(manifest.json, its files) of an output folder, every file checked against it."""
    try:
        data = (folder / output.MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"{folder} is no output folder: it has no {output.MANIFEST}",
            "give the folder that `tfcompress shrink` wrote",
        ) from None
    try:
        files = read_manifest(data, str(folder))["files"]
    except StoreError as error:
        raise OutputError(error.message, error.hint) from None
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            raise OutputError(
                f"{path} is missing, though {output.MANIFEST} lists it",
                "publish a whole output folder, not one pulled with --target",
            )
        if path.stat().st_size != entry["bytes"] or file_digest(path) != entry["sha256"]:
            raise OutputError(
                f"{path} is not the file that {output.MANIFEST} lists: it was changed since",
                "run `tfcompress shrink` again",
            )
    return data, files


def _may_publish(releases, at: Reference, data: bytes, aliases: tuple[str, ...]) -> bytes | None:
    """The version's manifest if it is there with the same bytes, None if it is not there."""
    if at.version == LATEST or releases.alias(at.version):
        raise UsageError(f"{at.version} is an alias", "choose another version")
    for alias in aliases:
        _may_alias(releases, at, alias)
    before = releases.manifest(at.version)
    if before is not None and before != data:
        raise _taken(at)
    return before


def _may_alias(releases, at: Reference, alias: str) -> None:
    if alias == at.version or releases.manifest(alias) is not None:
        raise UsageError(f"{alias} is a version of {at.name}", "choose another alias")


def _taken(at: Reference) -> StoreError:
    return StoreError(
        f"{at} is there already with other bytes",
        "versions never change: choose another, or leave it out to be named by the digest",
    )


def alias(reference: str, name: str) -> dict:
    """Let an alias stand for a version from now on.

    Raises:
        StoreError: There is no such version.
        UsageError: The alias cannot be used.
    """
    at = parse(reference)
    check_version(name)
    releases = at.open()
    version, data = _find(releases, at)
    _may_alias(releases, Reference(at.store, at.name, version), name)
    read_manifest(data, str(at))
    before = releases.alias(name)
    releases.set_alias(name, version)
    return {
        "store": at.store, "name": at.name, "alias": name, "version": version, "before": before
    }


def _find(releases, at: Reference) -> tuple[str, bytes]:
    """(version, manifest.json) that a reference stands for."""
    version = at.version or releases.alias(at.alias or LATEST)
    if version and not VERSION.fullmatch(version):
        raise StoreError(f"{at} stands for no version", "set the alias again")
    data = releases.manifest(version) if version else None
    if data is None:
        shown = at if at.version or at.alias else f"{at.name}@{LATEST}"
        raise StoreError(
            f"there is no {shown} in {transfer.redact(at.store)}",
            f"`tfcompress list {transfer.redact(at.store)}/{at.name}` shows what there is",
        )
    return version, data


def pull(
    reference: str,
    targets: tuple[str, ...] = (),
    folder: str = "",
    verify: str = "",
    on_event: OnEvent | None = None,
) -> dict:
    """Bring a release, or some targets' files of it, into a folder.

    The folder appears whole or not at all; what an interrupted pull has fetched waits beside it in
    `.FOLDER.pull` and is used by the next one. A folder with the same release keeps its files.

    Args:
        reference: STORE/name[:version] or STORE/name[@alias]; without either, `@latest`.
        targets: Only these targets' files; all files if empty.
        folder: Default: the name, in the working directory.
        verify: PEM file of a public Ed25519 key that must have signed the release.

    Raises:
        StoreError: It is not there, the store fails, or bytes or signature are not right.
        OutputError: The folder cannot be written.
        UsageError: The reference or a target cannot be used.
    """
    at = parse(reference)
    key = signing.key_id(verify) if verify else None
    destination = Path(os.path.abspath(folder or at.name))
    output.check(destination)
    releases = at.open()
    version, data = _find(releases, at)
    at = Reference(at.store, at.name, version)
    if key:
        signature = releases.signature(signing.tag(version, key, data))
        if signature is None:
            raise StoreError(f"{at} is not signed by the key {key}", "is it the right key?")
        signing.verify(verify, at.name, version, data, signature)
    manifest = read_manifest(data, str(at))
    wanted = files_of(manifest, targets, at)
    with _alone(destination) as parts:
        there = _there(destination, data, manifest)
        missing = {n: e for n, e in wanted.items() if n not in there}
        if missing or not _is_manifest(destination, data):
            files = {n: e for n, e in manifest["files"].items() if n in wanted or n in there}
            transfer.enough_room(destination.parent, sum(e["bytes"] for e in missing.values()))
            fetched = _fetch(releases, missing, parts, destination, on_event)
            _assemble(files, parts, destination, data)
        else:
            fetched = 0
    return {
        "store": at.store,
        "name": at.name,
        "version": version,
        "folder": str(destination),
        "files": sorted(wanted),
        "bytes": sum(e["bytes"] for e in wanted.values()),
        "fetched_bytes": fetched,
        "verified_by": key,
    }


def _is_manifest(folder: Path, data: bytes) -> bool:
    path = folder / output.MANIFEST
    return path.is_file() and path.read_bytes() == data


def _there(folder: Path, data: bytes, manifest: dict) -> set[str]:
    """Files of the same release that a folder has already."""
    if not _is_manifest(folder, data):
        return set()
    return {n for n, e in manifest["files"].items() if _intact(folder / n, e)}


def _intact(path: Path, entry: dict) -> bool:
    return (
        path.is_file()
        and path.stat().st_size == entry["bytes"]
        and file_digest(path) == entry["sha256"]
    )


@contextmanager
def _alone(destination: Path) -> Iterator[Path]:
    """The folder of parts beside `destination`; a second pull waits until the first is done."""
    parts = destination.parent / f".{destination.name}.pull"
    while True:
        try:
            parts.mkdir(exist_ok=True)
        except FileExistsError:  # there, and gone before `mkdir` looked whether it is a folder
            if parts.exists() and not parts.is_dir():
                raise
            continue
        try:
            lock = open(parts / "lock", "a")
        except FileNotFoundError:
            continue
        _lock(lock)
        try:
            if os.fstat(lock.fileno()).st_ino == os.stat(parts / "lock").st_ino:
                break
        except FileNotFoundError:  # the first pull is done and has removed the folder
            pass
        lock.close()
    with lock:
        try:
            yield parts
        except BaseException:
            if not any(p.stat().st_size for p in parts.iterdir()):
                shutil.rmtree(parts, ignore_errors=True)
            raise
        shutil.rmtree(parts, ignore_errors=True)


def _lock(file) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: two pulls into one folder at once are not kept apart
        return
    fcntl.flock(file, fcntl.LOCK_EX)


def _fetch(releases, missing: dict, parts: Path, destination: Path, on_event) -> int:
    """Bring each missing blob into `parts`; gives the bytes that came from the store."""
    blobs = {entry["sha256"]: (name, entry["bytes"]) for name, entry in missing.items()}
    told = _teller("pull", sum(size for _, size in blobs.values()), on_event)
    fetched = 0
    for sha256, (name, size) in blobs.items():
        path = parts / sha256
        entry = {"sha256": sha256, "bytes": size}
        if _intact(path, entry):
            told(size)
        elif _intact(destination / name, entry):  # unchanged since the release that is there
            shutil.copyfile(destination / name, path)
            told(size)
        else:
            part = path.with_name(sha256 + ".part")
            fetched += size - (part.stat().st_size if part.exists() else 0)
            transfer.download(
                lambda start, sha=sha256, size=size: releases.blob(sha, size, start),
                path,
                sha256,
                size,
                told,
            )
    return fetched


def _assemble(files: dict[str, dict], parts: Path, destination: Path, data: bytes) -> None:
    work = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=destination.parent))
    try:
        linked: set[str] = set()
        for name, entry in files.items():
            path = work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            part = parts / entry["sha256"]
            source = part if part.is_file() else destination / name
            if entry["sha256"] in linked or not _link(source, path):
                shutil.copyfile(source, path)  # two names must not end up as one file
            linked.add(entry["sha256"])
        (work / output.MANIFEST).write_bytes(data)
        output.place(work, destination)
    except OSError as error:
        raise OutputError(
            f"cannot write {destination}: {error.strerror or error}",
            "free some space, or choose another folder with --output",
        ) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _link(source: Path, path: Path) -> bool:
    try:
        os.link(source, path)
    except OSError:  # a file system without hard links
        return False
    return True


def _teller(stage: str, total: int, on_event: OnEvent | None) -> transfer.Told:
    """Counts bytes, and shows them once a transfer takes longer than `PATIENCE`."""
    done, since = 0, time.monotonic()

    def told(count: int) -> None:
        nonlocal done
        done += count
        if on_event and time.monotonic() - since > PATIENCE:
            share = min(1.0, done / total) if total else 1.0
            on_event(stage, share, f"{done / 1e6:.1f} of {total / 1e6:.1f} MB")

    return told


def listing(place: str) -> list[dict]:
    """What a store has: the versions of STORE/name, or the names in STORE.

    Returns:
        Per version `name`, `version`, `aliases`, `created`, `bytes`, `targets`, oldest first; or
        per name only `name` and `aliases`.

    Raises:
        StoreError: The store fails or cannot be listed, or there is nothing.
    """
    refuse_credentials(place)
    scheme, mark, rest = place.rstrip("/").partition("://")
    path = rest if mark else scheme
    found = _versions(place if mark or "/" in path else f"./{path}") if _may_be_name(path) else []
    found = found or _names(place.rstrip("/"))
    if not found:
        raise StoreError(
            f"nothing is published in {transfer.redact(place)}", "`tfcompress publish` does it"
        )
    return found


def _may_be_name(path: str) -> bool:
    return bool(NAME.fullmatch(path.rpartition("/")[2]))


def _versions(text: str) -> list[dict]:
    try:
        at = parse(text)
    except UsageError:  # s3://bucket
        return []
    releases = at.open()
    aliases = {a: v for a, v in releases.aliases().items() if VERSION.fullmatch(a)}
    found = []
    for version in filter(VERSION.fullmatch, releases.versions()):
        manifest = read_manifest(releases.manifest(version) or b"", f"{at.name}:{version}")
        found.append(
            {
                "name": at.name,
                "version": version,
                "aliases": sorted(a for a, v in aliases.items() if v == version),
                "created": re.sub("[^0-9T:+.Z-]", "", str(manifest.get("created", "")))[:32],
                "bytes": sum(e["bytes"] for e in manifest["files"].values()),
                "targets": targets_of(manifest),
            }
        )
    return sorted(found, key=lambda entry: (entry["created"], entry["version"]))


def _names(store: str) -> list[dict]:
    if store.startswith(("oci://", "oci+http://")):
        names = oci.names(store)
    else:
        names = sorted(n for n in stores.objects(store).list("") if NAME.fullmatch(n))
    found = []
    for name in names:
        told = Reference(store, name).open().aliases().items()
        aliases = {a: v for a, v in told if VERSION.fullmatch(a) and VERSION.fullmatch(v)}
        if aliases:
            found.append({"name": name, "aliases": aliases})
    return found
