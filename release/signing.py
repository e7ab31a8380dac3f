"""Detached Ed25519 signatures of releases, with key files that `openssl` makes.

Signed is not the manifest alone but the name and the version too, so that a signed release cannot
be passed off as another version. Needs `cryptography` (extra `sign`).

    openssl genpkey -algorithm ed25519 -out key.pem
    openssl pkey -in key.pem -pubout -out pub.pem
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ..errors import MissingExtra, StoreError, UsageError


def message(name: str, version: str, manifest: bytes) -> bytes:
    """What is signed: four lines of text."""
    digest = hashlib.sha256(manifest).hexdigest()
    return f"tfcompress release 1\nname {name}\nversion {version}\nsha256 {digest}\n".encode()


def tag(version: str, key: str, manifest: bytes) -> str:
    """Under what a store keeps the signature of a release by one key."""
    return f"{version}.{key}.{hashlib.sha256(manifest).hexdigest()[:12]}"


def sign(key_file: str, name: str, version: str, manifest: bytes) -> tuple[str, bytes]:
    """(key id, 64 bytes of signature) with the private key in a PEM file.

    An encrypted key's password is taken from `$TFCOMPRESS_KEY_PASSWORD`.

    Raises:
        MissingExtra: `cryptography` is not installed.
        UsageError: The file is not such a key.
    """
    serialization, ed25519, _ = _cryptography()
    password = os.environ.get("TFCOMPRESS_KEY_PASSWORD", "").encode() or None
    try:
        key = serialization.load_pem_private_key(_read(key_file), password)
    except UsageError:
        raise
    except TypeError:
        told = "is encrypted" if password is None else "is not encrypted"
        raise UsageError(f"{key_file} {told}", "see TFCOMPRESS_KEY_PASSWORD") from None
    except Exception:
        raise _no_key(key_file, "private") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise _no_key(key_file, "private")
    return _id(key.public_key()), key.sign(message(name, version, manifest))


def key_id(key_file: str) -> str:
    """The id of the public key in a PEM file: 16 hex digits.

    Raises:
        MissingExtra: `cryptography` is not installed.
        UsageError: The file is not such a key.
    """
    return _id(_public(key_file))


def verify(key_file: str, name: str, version: str, manifest: bytes, signature: bytes) -> None:
    """Raises StoreError unless `signature` is the key's own signature of that release."""
    _, _, invalid = _cryptography()
    try:
        _public(key_file).verify(signature, message(name, version, manifest))
    except invalid:
        raise StoreError(
            f"the signature of {name}:{version} does not fit it",
            "do not use it: it was damaged or replaced",
        ) from None


def _public(key_file: str):
    serialization, ed25519, _ = _cryptography()
    try:
        key = serialization.load_pem_public_key(_read(key_file))
    except UsageError:
        raise
    except Exception:
        raise _no_key(key_file, "public") from None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise _no_key(key_file, "public")
    return key


def _id(key) -> str:
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def _read(key_file: str) -> bytes:
    try:
        return Path(key_file).read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot read the key {key_file}: {error.strerror}", "check the path"
        ) from None


def _no_key(key_file: str, kind: str) -> UsageError:
    make = "genpkey -algorithm ed25519 -out key.pem"
    if kind == "public":
        make = "pkey -in key.pem -pubout -out pub.pem"
    return UsageError(f"{key_file} is not a {kind} Ed25519 key in PEM", f"openssl {make}")


def _cryptography():
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise MissingExtra("cryptography", "sign") from None
    return serialization, ed25519, InvalidSignature
