"""HTTP requests, downloads that go on where they stopped, and words without secrets.

Standard library only. A request that fails for a passing reason (a dropped connection, 429, 5xx)
is tried again; a download continues at the byte where it broke off, in this run or the next one,
and counts only when its SHA-256 is the expected one.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import __version__
from .errors import StoreError

CHUNK = 1 << 20  # bytes
ATTEMPTS = 4
TIMEOUT = 60  # seconds without a byte
PASSING = (429, 500, 502, 503, 504)
SECRET = re.compile("SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|ACCESS_KEY|API_KEY")

Told = Callable[[int], None]  # is told how many bytes more have arrived


class Dropped(StoreError):
    """A transfer broke off; what has arrived is kept, and trying again may help."""


def redact(text: str) -> str:
    """`text` on one line, without what the environment calls secret and without URL credentials."""
    for name, value in os.environ.items():
        if len(value) >= 4 and SECRET.search(name.upper()):
            text = text.replace(value, "***")
    text = re.sub(r"://[^/\s@]+@", "://***@", text)
    text = re.sub(r"((?:signature|token|credential)=)[^&\s]+", r"\1***", text, flags=re.I)
    return " ".join(text.split())[:300]


def is_loopback(host: str) -> bool:
    return host in ("localhost", "127.0.0.1", "::1")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects of reads, but never from https to http."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise StoreError(
                f"{_host(req.full_url)} redirects from https to {_host(newurl)} without it",
                "give the address to which it redirects if that is what you want",
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).hostname or ""


@contextmanager
def request(
    url: str,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    authorization: str = "",
    body: bytes | Path | None = None,
) -> Iterator[http.client.HTTPResponse]:
    """One HTTP request; any answer of the server, an error too, is given as a response.

    Args:
        authorization: The header of that name. It does not follow redirects, and goes out over
            https or to this machine only.
        body: Bytes, or a file that is streamed.

    Raises:
        Dropped: The connection broke or the server was busy, `ATTEMPTS` times.
        StoreError: The server cannot be reached at all.
    """
    if authorization and not (url.startswith("https:") or is_loopback(_host(url))):
        raise StoreError(
            f"credentials are not sent to {_host(url)} without https", "use an https address"
        )
    asked = urllib.request.Request(url, method=method, headers=headers or {})
    asked.add_header("User-Agent", f"tfcompress/{__version__}")
    asked.add_header("Accept-Encoding", "identity")
    if authorization:
        asked.add_unredirected_header("Authorization", authorization)
    response = _patiently(asked, body)
    try:
        yield response
    finally:
        response.close()


def _patiently(asked: urllib.request.Request, body: bytes | Path | None):
    opener = urllib.request.build_opener(_Redirects)
    for attempt in range(ATTEMPTS):
        last = attempt == ATTEMPTS - 1
        try:
            response = _open(opener, asked, body)
        except (ssl.SSLCertVerificationError, ConnectionRefusedError) as error:
            raise _unreachable(asked, error) from None
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.URLError) and _final(error.reason):
                raise _unreachable(asked, error.reason) from None
            if last:
                raise _unreachable(asked, error, Dropped) from None
        else:
            if response.status not in PASSING or last:
                return response
            response.close()
        time.sleep(0.3 * 2**attempt)


def _open(opener, asked: urllib.request.Request, body: bytes | Path | None):
    try:
        if isinstance(body, Path):
            with open(body, "rb") as file:
                asked.data = file
                asked.add_unredirected_header("Content-Length", str(body.stat().st_size))
                return opener.open(asked, timeout=TIMEOUT)
        asked.data = body
        return opener.open(asked, timeout=TIMEOUT)
    except urllib.error.HTTPError as answer:
        return answer


def _final(reason: object) -> bool:
    """Whether trying again is of no use: nobody listens, no such host, a bad certificate."""
    import socket

    return isinstance(reason, ConnectionRefusedError | socket.gaierror | ssl.SSLError)


def _unreachable(asked: urllib.request.Request, error: object, kind=StoreError) -> StoreError:
    text = redact(str(error)) or type(error).__name__
    return kind(
        f"cannot reach {asked.host}: {text}", "check the address and the network, and try again"
    )


def read_limited(response, limit: int) -> bytes:
    """The whole body, refused beyond `limit` bytes."""
    try:
        data = response.read(limit + 1)
    except (OSError, http.client.HTTPException) as error:
        raise Dropped(f"the connection broke: {redact(str(error))}", "try again") from None
    if len(data) > limit:
        raise StoreError(f"an answer is larger than {limit} bytes", "is this a tfcompress store?")
    return data


def pieces(response, start: int) -> Iterator[bytes]:
    """The body of an answer to a request for the bytes from `start` on.

    A server that knows no ranges sends everything; what came before is then read past.

    Raises:
        Dropped: The connection broke.
    """
    skip = start
    if response.status == 206:
        told = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        skip = start - int(told.group(1)) if told else 0
    try:
        while piece := response.read(CHUNK):
            if skip > 0:
                piece, skip = piece[skip:], max(0, skip - len(piece))
            if piece:
                yield piece
    except (OSError, http.client.HTTPException) as error:
        raise Dropped(f"the connection broke: {redact(str(error))}", "try again") from None


def sha256_of(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def download(
    read: Callable[[int], Iterable[bytes]],
    path: Path,
    sha256: str,
    size: int,
    told: Told = lambda count: None,
) -> None:
    """Fetch a blob into `path`, which appears only when it is whole and its digest right.

    What has arrived is kept in `path` + `.part`, and the next call continues it.

    Args:
        read: Gives the blob's bytes from an offset on.
        size: Of the whole blob, in bytes; not a byte more is written.
        told: Called with the number of bytes that each piece adds, kept ones included.

    Raises:
        Dropped: The transfer broke off `ATTEMPTS` times without one byte of progress.
        StoreError: The store's bytes are not those that the digest names.
    """
    part = path.with_name(path.name + ".part")
    fruitless = 0
    told(kept := _kept(part, size))
    resumed = kept > 0
    while kept < size:
        before = kept
        try:
            kept = _append(read, part, kept, size, told)
        except Dropped:
            fruitless = 0 if _kept(part, size) > before else fruitless + 1
            if fruitless == ATTEMPTS:
                raise
            kept = _kept(part, size)
        else:
            fruitless = 0 if kept > before else fruitless + 1
            if fruitless == ATTEMPTS:
                raise Dropped(
                    f"the store ends {sha256[:12]} after {kept} of {size} bytes", "try again"
                )
        if kept < size:
            time.sleep(0.3 * 2**fruitless)
    part.touch()
    with open(part, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        part.unlink()
        if resumed:  # what an earlier run left may have been at fault
            told(-size)
            return download(read, path, sha256, size, told)
        raise StoreError(
            f"the store's bytes for {sha256[:12]} have the SHA-256 {found[:12]}",
            "do not use it: they were damaged or replaced; publish that version's files again",
        )
    os.replace(part, path)


def _kept(part: Path, size: int) -> int:
    have = part.stat().st_size if part.exists() else 0
    if have > size:
        part.unlink()
        return 0
    return have


def _append(read, part: Path, kept: int, size: int, told: Told) -> int:
    with open(part, "ab") as file:
        for piece in read(kept):
            piece = piece[: size - kept]
            file.write(piece)
            kept += len(piece)
            told(len(piece))
            if kept == size:
                break
    return kept


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def enough_room(folder: Path, size: int) -> None:
    """Raises StoreError if `size` bytes do not fit on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise StoreError(
            f"{_size(size)} do not fit beside {folder}: {_size(free)} are free",
            "free some space, or choose another folder with --output",
        )
