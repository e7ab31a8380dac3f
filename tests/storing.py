"""Small output folders to publish, and real servers on loopback to publish them to."""

import hashlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from tfcompress.errors import StoreError
from tfcompress.release import publishing, references

DOCS = Path(__file__).parent.parent / "docs"


def make_output(folder: Path, content: str = "one", extra: dict | None = None) -> Path:
    """A folder as `shrink` writes it: two targets, a report and manifest.json."""
    files = {
        "tflite-int8.tflite": f"{content} int8 ".encode() * 500,
        "tflite-float16.tflite": f"{content} float16 ".encode() * 900,
        "report.json": b"{}\n",
        "report.html": f"<p>{content}</p>\n".encode(),
    } | (extra or {})
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    write_manifest(folder, {n: entry(d) for n, d in files.items()}, content)
    return folder


def entry(data: bytes) -> dict:
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def write_manifest(folder: Path, files: dict, key: str = "one") -> None:
    manifest = {
        "created": "2026-01-02T03:04:05+00:00",
        "files": files,
        "key": key,
        "recipe": {"targets": [{"name": "tflite-int8"}, {"name": "tflite-float16"}]},
        "tool": {"name": "tfcompress", "version": "0.1.0"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes()
            for p in sorted(folder.rglob("*")) if p.is_file()}


def tfcompress(*argv, cwd=None, env=None, **more):
    return subprocess.run(
        [sys.executable, "-m", "tfcompress", *map(str, argv)],
        capture_output=True, text=True, cwd=cwd, env=os.environ | (env or {}), **more,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class WebServer(http.server.ThreadingHTTPServer):
    """Serves a folder with byte ranges; notes requests; can break off, be busy, or ask a token.

    Attributes:
        asked: (path, Range header, Authorization header) of each request.
        break_after: Bytes of a body after which the connection is cut, for blobs, once each entry.
        busy: How many of the next requests are answered with 503.
        ranges: Whether ranges are understood.
        token: Bearer token without which everything is 401.
        redirect: Address to which requests for blobs are sent on.
        pause_after: Bytes of a body after which the server stops sending for `pause` seconds.
    """

    daemon_threads = True

    def __init__(self, folder: Path):
        self.folder, self.asked, self.break_after, self.busy = folder, [], [], 0
        self.ranges, self.token, self.redirect = True, "", ""
        self.pause_after, self.pause = 0, 5.0
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range", "")
        server.asked.append((self.path, wanted, self.headers.get("Authorization", "")))
        path = server.folder / self.path.lstrip("/")
        if server.busy:
            server.busy -= 1
            return self.send_error(503)
        if server.token and self.headers.get("Authorization") != f"Bearer {server.token}":
            return self.send_error(401)
        if server.redirect and "/blobs/" in self.path:
            self.send_response(307)
            self.send_header("Location", server.redirect + self.path)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if not path.is_file():
            return self.send_error(404)
        data = path.read_bytes()
        start = int(wanted[6:].split("-")[0]) if wanted and server.ranges else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        body = data[start:]
        if "/blobs/" in self.path and server.break_after:
            body = body[: server.break_after.pop(0)]
            self.close_connection = True
        try:
            if server.pause_after and len(body) > server.pause_after:
                self.wfile.write(body[: server.pause_after])
                time.sleep(server.pause)
                body = body[server.pause_after :]
            self.wfile.write(body)
        except OSError:  # the client is gone
            self.close_connection = True


@contextmanager
def web_server(folder: Path):
    server = WebServer(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def registry_binary() -> str | None:
    return shutil.which("docker-registry")


@contextmanager
def registry(folder: Path, auth: str = ""):
    """Debian's docker-registry on a free port of this machine; yields host:port."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yml").write_text(
        f"version: 0.1\nlog:\n  level: error\n"
        f"storage:\n  filesystem:\n    rootdirectory: {folder / 'data'}\n"
        f"http:\n  addr: 127.0.0.1:{port}\n{auth}"
    )
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [registry_binary(), "serve", folder / "config.yml"], stdout=log, stderr=log
        )
    try:
        _wait(f"http://127.0.0.1:{port}/v2/", process, folder / "log")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _wait(url: str, process, log: Path) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
    raise AssertionError(f"nobody answers at {url}")


def make_keys(folder: Path) -> tuple[str, str]:
    """(private.pem, public.pem): a new Ed25519 key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    folder.mkdir(parents=True, exist_ok=True)
    key = ed25519.Ed25519PrivateKey.generate()
    private, public = folder / "key.pem", folder / "pub.pem"
    private.write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return str(private), str(public)


class Watched(threading.Thread):
    """A thread whose failure is not lost."""

    def __init__(self, body):
        super().__init__(daemon=True)
        self.body, self.error = body, None

    def run(self):
        try:
            self.body()
        except BaseException as error:
            self.error = error


class AliasWatcher(Watched):
    """Reads everything that the aliases of a name stand for, again and again."""

    def __init__(self, reference: str):
        super().__init__(self.watch)
        self.reference, self.seen, self.done = reference, [], threading.Event()

    def watch(self):
        releases = references.parse(self.reference).open()
        while not self.done.is_set():
            for name in ("prod", "latest"):
                version = releases.alias(name)
                if version is None:
                    continue
                manifest = references.read_manifest(releases.manifest(version), name)
                for told in manifest["files"].values():
                    data = b"".join(releases.blob(told["sha256"], told["bytes"], 0))
                    assert entry(data) == told
                self.seen.append(version)

    def finish(self):
        """Stops, and gives what went wrong."""
        self.done.set()
        self.join()
        return self.error


def publish_at_once(store: str, outs: list[Path]) -> list[str]:
    """One thread per folder publishes it as its own version, as `same`, and as `prod`.

    Returns:
        Per folder "" if `same` is it, else the message of the refusal.
    """
    said = [""] * len(outs)
    together = threading.Barrier(len(outs))

    def body(i):
        together.wait()
        for _ in range(2):
            publishing.publish(outs[i], f"{store}/digits:v{i}", aliases=("prod",))
        try:
            publishing.publish(outs[i], f"{store}/digits:same")
        except StoreError as error:
            said[i] = error.message

    threads = [Watched(lambda i=i: body(i)) for i in range(len(outs))]
    watcher = AliasWatcher(f"{store}/digits")
    for thread in [watcher, *threads]:
        thread.start()
    for thread in threads:
        thread.join(120)
    errors = [thread.error for thread in threads] + [watcher.finish()]
    assert errors == [None] * len(errors) and watcher.seen
    return said
