"""STORE/name:version taken apart, and manifests from elsewhere read with suspicion."""

from __future__ import annotations

import json
import re
import urllib.parse
from dataclasses import dataclass

from .. import transfer
from ..errors import StoreError, UsageError
from ..output import MANIFEST
from . import oci, stores

NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LATEST = "latest"


@dataclass(frozen=True)
class Reference:
    """STORE/name[:version] or STORE/name[@alias], taken apart."""

    store: str
    name: str
    version: str = ""
    alias: str = ""

    def __str__(self) -> str:
        return f"{self.name}{':' + self.version if self.version else '@' + self.alias}"

    def open(self):
        """The releases of that name: `stores.Releases` or `oci.Releases`."""
        if self.store.startswith(("oci://", "oci+http://")):
            registry, path = oci.registry(self.store)
            return oci.Releases(registry, f"{path}/{self.name}".lstrip("/"))
        return stores.Releases(stores.objects(f"{self.store}/{self.name}"))


def parse(text: str) -> Reference:
    """Take STORE/name, STORE/name:version or STORE/name@alias apart.

    Raises:
        UsageError: It is none of them, or has credentials in it.
    """
    refuse_credentials(text)
    found = re.fullmatch(r"(.*[^:/])/+([^/:@]*)(?::([^/:@]*)|@([^/:@]*))?", text.rstrip("/"), re.S)
    if not found:
        raise UsageError(
            f"{transfer.redact(text)!r} is not STORE/name",
            "for example ./store/digits, s3://bucket/digits:1.0 or oci://host/digits@prod",
        )
    store, name, version, alias = found.groups()
    if not NAME.fullmatch(name) or len(name) > 128:
        close = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
        raise UsageError(
            f"{name!r} cannot be a name",
            f"lower-case letters, digits and . _ - between them{f': {close}' if close else ''}",
        )
    for given in (version, alias):
        if given is not None:
            check_version(given)
    return Reference(store, name, version or "", alias or "")


def refuse_credentials(text: str) -> None:
    """Raises UsageError for an address with credentials in it, which would end up in logs."""
    if "@" in urllib.parse.urlsplit(text).netloc:
        raise UsageError(
            "a store's address has credentials in it", "set them in the environment instead"
        )


def check_version(text: str) -> str:
    """`text` if it can be a version or an alias, else UsageError."""
    if not VERSION.fullmatch(text):
        raise UsageError(
            f"{text!r} cannot be a version or alias",
            "up to 64 letters, digits and . _ -, the first a letter or digit",
        )
    return text


def read_manifest(data: bytes, where: str) -> dict:
    """A manifest.json, refused unless every name in it stays inside a folder.

    Raises:
        StoreError: It is not a manifest, or names a file outside its folder.
    """
    try:
        manifest = json.loads(data)
        files = manifest["files"]
        whole = all(
            re.fullmatch("[0-9a-f]{64}", entry["sha256"])
            and type(entry["bytes"]) is int
            and entry["bytes"] >= 0
            for entry in files.values()
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise StoreError(
            f"{where}: its manifest.json is not one of tfcompress", "was it made by `shrink`?"
        )
    for name in files:
        if not _inside(name):
            raise StoreError(
                f"{where}: its manifest.json names {transfer.redact(name)!r}",
                "do not use it: a file of that name would not stay inside the folder",
            )
    return manifest


def _inside(name: str) -> bool:
    """Whether a file name from elsewhere is a plain relative path on any system."""
    parts = name.split("/")
    return (
        all(part not in ("", ".", "..") and part == part.strip(" ") for part in parts)
        and name.isprintable()
        and not re.search(r'[\\:*?"<>|]', name)
        and not any(part.endswith(".") for part in parts)
        and name.lower() != MANIFEST
        and len(name.encode("utf-8", "replace")) <= 1000
    )


def targets_of(manifest: dict) -> list[str]:
    """Names of the targets that a manifest's run was asked for."""
    recipe = manifest.get("recipe")
    told = recipe.get("targets") if isinstance(recipe, dict) else None
    told = told if isinstance(told, list) else []
    names = [str(t["name"]) for t in told if isinstance(t, dict) and "name" in t]
    return [name for name in names if name.isprintable()]


def files_of(manifest: dict, targets: tuple[str, ...], at: Reference) -> dict[str, dict]:
    """The listed files of these targets: those named after it, its folder's, its usage note's."""
    files = manifest["files"]
    if not targets:
        return files
    known = targets_of(manifest)
    owner = {}
    for name in files:
        plain = re.sub(r"^usage/(explorer/)?", "", name)
        fits = [t for t in known if re.match(re.escape(t) + r"(?![A-Za-z0-9_])", plain)]
        owner[name] = max(fits, key=len, default="")
    have = [t for t in known if t in owner.values()]
    for target in targets:
        if target not in have:
            raise UsageError(
                f"{at} has no files for the target {target!r}", f"it has: {', '.join(have)}"
            )
    return {name: entry for name, entry in files.items() if owner[name] in targets}
