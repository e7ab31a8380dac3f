"""Releases in an OCI registry, in the layout that ORAS reads and writes.

Each version is an image manifest with an `artifactType`, the empty config, and one layer per file
whose `org.opencontainers.image.title` is the file's path; the first layer is manifest.json itself.
The version is the tag and stands in the annotation `org.opencontainers.image.version`; an alias is
another tag for the same bytes. `oras pull host/name:version` gives the same files.

A registry takes a manifest only when all its blobs are there, so no tag is ever half there. It has
no condition on writing a tag, so that two publishers of different bytes under one version at the
same instant are found out by reading afterwards, not prevented.

Sources: OCI image spec 1.1 (manifest.md, "Guidelines for Artifact Usage"), OCI distribution spec
1.1 (pull, push, content discovery), Docker registry token authentication.
"""

from __future__ import annotations

import base64
import hashlib
import json
import mimetypes
import os
import re
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .. import transfer
from ..errors import StoreError, UsageError
from .stores import MANIFEST_LIMIT

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
RELEASE = "application/vnd.tfcompress.release.v1"
SIGNATURE = "application/vnd.tfcompress.signature.v1"
EMPTY = "application/vnd.oci.empty.v1+json"
TITLE = "org.opencontainers.image.title"
VERSION = "org.opencontainers.image.version"
CREATED = "org.opencontainers.image.created"


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Registry:
    """One registry host: requests, with credentials when it asks for them.

    `$TFCOMPRESS_REGISTRY_USER` and `$TFCOMPRESS_REGISTRY_PASSWORD` are used if they are set. The
    host is spoken to over https, except on this machine or when the scheme is `oci+http`.
    """

    def __init__(self, host: str, plain: bool = False):
        name = urllib.parse.urlsplit(f"//{host}").hostname or ""
        self.host = host
        self.base = f"{'http' if plain or transfer.is_loopback(name) else 'https'}://{host}"
        self._authorization: dict[str, str] = {}

    @contextmanager
    def ask(self, path: str, method: str = "GET", scope: str = "", **more):
        """One request under the registry's address; gets a (new) token if it is told to."""
        url = path if "://" in path else self.base + path
        own = urllib.parse.urlsplit(url).netloc == self.host
        for attempt in (1, 2):
            known = self._authorization.get(scope, "") if own else ""
            with transfer.request(url, method, authorization=known, **more) as response:
                if response.status != 401 or not own or attempt == 2:
                    self._check(response, url)
                    yield response
                    return
                challenge = response.headers.get("WWW-Authenticate", "")
            self._authorization[scope] = self._answer(challenge)

    def _check(self, response, url: str) -> None:
        if response.status in (401, 403):
            raise StoreError(
                f"{self.host} refuses access ({response.status})",
                "set TFCOMPRESS_REGISTRY_USER and TFCOMPRESS_REGISTRY_PASSWORD",
            )
        if response.status >= 400 and response.status not in (404, 416):
            text = response.read(2000).decode("utf-8", "replace")
            raise StoreError(
                f"{self.host} answers {response.status}: {transfer.redact(text)}",
                "try again later, or ask whoever runs the registry",
            )

    def _answer(self, challenge: str) -> str:
        """The Authorization header that a WWW-Authenticate header asks for."""
        user = os.environ.get("TFCOMPRESS_REGISTRY_USER", "")
        password = os.environ.get("TFCOMPRESS_REGISTRY_PASSWORD", "")
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
        basic = f"Basic {pair}" if user or password else ""
        kind, _, rest = challenge.partition(" ")
        if kind.lower() != "bearer":
            return basic
        told = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        query = urllib.parse.urlencode({k: told[k] for k in ("service", "scope") if k in told})
        realm = told.get("realm", "")
        if not realm.startswith(("https://", "http://")):
            raise StoreError(f"{self.host} names no place for tokens", "is this a registry?")
        with transfer.request(f"{realm}?{query}", authorization=basic) as response:
            self._check(response, realm)
            try:
                record = json.loads(transfer.read_limited(response, MANIFEST_LIMIT))
                return f"Bearer {record.get('token') or record['access_token']}"
            except (ValueError, KeyError, AttributeError):
                raise StoreError(f"{self.host} gives no token", "is this a registry?") from None

    def pages(self, path: str, key: str, scope: str) -> list[str] | None:
        """All entries of a listing, page by page; None if the registry has no such listing."""
        found: list[str] = []
        while path:
            with self.ask(path, scope=scope) as response:
                if response.status == 404:
                    return None
                record = _json(transfer.read_limited(response, MANIFEST_LIMIT), self.host)
                found += record.get(key) or []
                after = re.match(r'<([^>]+)>;\s*rel="?next', response.headers.get("Link", ""))
                path = urllib.parse.urljoin(path, after.group(1)) if after else ""
        return found


class Releases:
    """The releases of one name in a registry; as `stores.Releases`."""

    def __init__(self, registry: Registry, name: str):
        self.registry = registry
        self.name = name
        self.where = f"oci://{registry.host}/{name}"
        self._read = f"repository:{name}:pull"
        self._write = f"repository:{name}:pull,push"

    def manifest(self, version: str) -> bytes | None:
        """The manifest.json of a version, or None."""
        record = self._tag(version)
        return self._manifest_json(record, version) if _version(record) == version else None

    def versions(self) -> list[str]:
        return [tag for tag, version in self._tags() if tag == version]

    def aliases(self) -> dict[str, str]:
        return {tag: version for tag, version in self._tags() if tag != version}

    def alias(self, alias: str) -> str | None:
        """The version that an alias stands for, or None."""
        version = _version(self._tag(alias))
        return version if version != alias else None

    def set_alias(self, alias: str, version: str) -> None:
        """Tag the version's own bytes once more."""
        data = self._manifest(version)
        if data is None:
            raise StoreError(f"{self.where} has no version {version}", "publish it first")
        self._put_manifest(alias, data)

    def signature(self, tag: str) -> bytes | None:
        record = self._tag(f"sig.{tag}")
        if not record or record.get("artifactType") != SIGNATURE:
            return None
        return self._layer(record["layers"][0])

    def add_signature(self, tag: str, signature: bytes, manifest: bytes) -> None:
        """A signature is an artifact of its own whose `subject` is the release."""
        files = json.loads(manifest)["files"]
        release = _release(tag.rsplit(".", 2)[0], manifest, files)
        record = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": SIGNATURE,
            "config": self._empty(),
            "layers": [self._put_bytes(signature, "application/octet-stream")],
            "subject": _descriptor(release, MANIFEST),
        }
        self._put_manifest(f"sig.{tag}", _bytes(record))

    def add_blob(self, path: Path, sha256: str, size: int) -> bool:
        """Store a file, whose digest the registry checks; False if it was there already."""
        return self._upload(path, f"sha256:{sha256}", size)

    def blob(self, sha256: str, size: int, start: int) -> Iterator[bytes]:
        """The bytes of a blob from `start` on."""
        headers = {"Range": f"bytes={start}-"} if start else None
        path = f"/v2/{self.name}/blobs/sha256:{sha256}"
        with self.registry.ask(path, scope=self._read, headers=headers) as response:
            if response.status not in (200, 206):
                raise StoreError(f"{self.where} has lost {sha256[:12]}", "publish it again")
            yield from transfer.pieces(response, start)

    def add_version(self, version: str, manifest: bytes, files: dict[str, dict]) -> bytes:
        """Tag a version if there is no such tag; gives what is there afterwards."""
        there = self._tag(version)
        if there is None:
            self._empty()
            self._put_bytes(manifest, "application/json")
            self._put_manifest(version, _release(version, manifest, files))
            there = self._tag(version)
        return self._manifest_json(there, version) if _version(there) == version else b""

    def _manifest_json(self, record: dict, version: str) -> bytes:
        for layer in record.get("layers", []):
            if layer.get("annotations", {}).get(TITLE) == "manifest.json":
                return self._layer(layer)
        raise StoreError(
            f"{self.where}:{version} is no release of tfcompress", "choose another version"
        )

    def _layer(self, layer: dict) -> bytes:
        digest, size = str(layer.get("digest")), layer.get("size")
        if not re.fullmatch("sha256:[0-9a-f]{64}", digest) or not isinstance(size, int):
            raise StoreError(f"{self.where} names a blob as nobody does", "is this a registry?")
        if size > MANIFEST_LIMIT:
            raise StoreError(f"{self.where}: its manifest.json is too large", "publish it again")
        data = b"".join(self.blob(digest.removeprefix("sha256:"), size, 0))
        if digest_of(data) != digest:
            raise StoreError(
                f"{self.where} gives other bytes than {digest[:19]}", "publish that version again"
            )
        return data

    def _tags(self) -> list[tuple[str, str]]:
        """(tag, version) of each tag of a release."""
        path = f"/v2/{self.name}/tags/list"
        tags = self.registry.pages(path, "tags", self._read) or []
        found = [(tag, _version(self._tag(tag))) for tag in sorted(tags) if tag[:4] != "sig."]
        return [(tag, version) for tag, version in found if version]

    def _manifest(self, tag: str) -> bytes | None:
        path = f"/v2/{self.name}/manifests/{urllib.parse.quote(tag)}"
        with self.registry.ask(path, scope=self._read, headers={"Accept": MANIFEST}) as response:
            if response.status == 404:
                return None
            return transfer.read_limited(response, MANIFEST_LIMIT)

    def _tag(self, tag: str) -> dict | None:
        data = self._manifest(tag)
        return None if data is None else _json(data, self.registry.host)

    def _put_manifest(self, tag: str, data: bytes) -> None:
        path = f"/v2/{self.name}/manifests/{urllib.parse.quote(tag)}"
        with self.registry.ask(
            path, "PUT", self._write, headers={"Content-Type": MANIFEST}, body=data
        ) as response:
            if response.status == 404:
                raise StoreError(f"{self.where} cannot be written", "check the name and the rights")

    def _put_bytes(self, data: bytes, media_type: str) -> dict:
        found = _descriptor(data, media_type)
        self._upload(data, found["digest"], len(data))
        return found

    def _empty(self) -> dict:
        return self._put_bytes(b"{}", EMPTY)

    def _upload(self, body: bytes | Path, digest: str, size: int) -> bool:
        path = f"/v2/{self.name}/blobs/{digest}"
        with self.registry.ask(path, "HEAD", self._write) as response:
            if response.status == 200:
                return False
        start = f"/v2/{self.name}/blobs/uploads/"
        with self.registry.ask(start, "POST", self._write, body=b"") as response:
            place = urllib.parse.urljoin(
                self.registry.base + start, response.headers.get("Location", "")
            )
            if response.status != 202:
                raise StoreError(f"{self.where} takes no uploads", "check the name and the rights")
        place += ("&" if "?" in place else "?") + urllib.parse.urlencode({"digest": digest})
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        with self.registry.ask(place, "PUT", self._write, headers=headers, body=body) as response:
            if response.status == 404:
                raise StoreError(f"{self.where} dropped an upload", "publish again")
        return True


def _release(version: str, manifest: bytes, files: dict[str, dict]) -> bytes:
    """The image manifest of a version: the same input gives the same bytes."""
    titled = [_descriptor(manifest, "application/json") | {"annotations": {TITLE: "manifest.json"}}]
    for name, entry in sorted(files.items()):
        titled.append(
            {
                "mediaType": mimetypes.guess_type(name)[0] or "application/octet-stream",
                "digest": f"sha256:{entry['sha256']}",
                "size": entry["bytes"],
                "annotations": {TITLE: name},
            }
        )
    annotations = {VERSION: version}
    created = json.loads(manifest).get("created")
    if isinstance(created, str):
        annotations[CREATED] = created
    return _bytes(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": RELEASE,
            "config": _descriptor(b"{}", EMPTY),
            "layers": titled,
            "annotations": annotations,
        }
    )


def _descriptor(data: bytes, media_type: str) -> dict:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def _version(record: dict | None) -> str | None:
    """The version that an image manifest carries; "" for what is no release of tfcompress."""
    if record is None:
        return None
    annotations = record.get("annotations") or {}
    return str(annotations.get(VERSION, "")) if record.get("artifactType") == RELEASE else ""


def _bytes(record: dict) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()


def _json(data: bytes, host: str) -> dict:
    try:
        record = json.loads(data)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise StoreError(f"{host} does not answer as a registry does", "check the address")
    return record


def registry(url: str) -> tuple[Registry, str]:
    """(registry, path below it) of an `oci://host[:port]/path` URL.

    Raises:
        UsageError: There is no host in it.
    """
    scheme, _, rest = url.partition("://")
    host, _, path = rest.strip("/").partition("/")
    if not host:
        raise UsageError(f"{url} names no registry", "write oci://host/name")
    return Registry(host, plain=scheme == "oci+http"), path


def names(url: str) -> list[str]:
    """Names of repositories under a URL, where the registry tells them."""
    at, path = registry(url)
    found = at.pages("/v2/_catalog", "repositories", "registry:catalog:*")
    if found is None:
        raise StoreError(f"{at.host} does not list its names", "give the name too: STORE/name")
    prefix = f"{path}/" if path else ""
    return sorted(n.removeprefix(prefix) for n in found if n.startswith(prefix))
