"""A model in a real browser: headless Chromium on a page that this process serves on loopback.

The page (`web/harness.js`) fetches commands and posts answers, so a browser is a runtime like any
other: `run` takes and returns arrays, and latency is taken inside the page. Which backend really
ran and the name of the graphics adapter are read back.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import queue
import secrets
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..errors import MissingExtra, ModelError, TargetError
from . import packages
from .sessions import Session, _rows, _spec

HERE = Path(__file__).with_name("web")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
            "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
FLAGS = ("--headless=new", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-extensions", "--mute-audio",
         "--disable-background-timer-throttling", "--disable-renderer-backgrounding")
SOFTWARE = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader",
            "--enable-features=Vulkan", "--use-vulkan=swiftshader", "--enable-unsafe-swiftshader")
SOFTWARE_NAMES = ("swiftshader", "llvmpipe", "software", "lavapipe")
TYPES = {".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript",
         ".wasm": "application/wasm", ".json": "application/json"}
SUFFIXES = {"litert": "tflite", "onnx": "onnx"}
START_SECONDS, RUN_SECONDS = 120, 300


def find_browser() -> str:
    """The browser: `$TFCOMPRESS_BROWSER`, or the first one on PATH.

    Raises:
        MissingExtra: There is none.
    """
    told = os.environ.get("TFCOMPRESS_BROWSER")
    absent = f"TFCOMPRESS_BROWSER is {told}, which is no program" if told else \
        "there is no Chromium or Chrome on PATH"
    for name in (told,) if told else BROWSERS:
        if found := shutil.which(name):
            return found
    raise MissingExtra("chromium", "browser", absent,
                       "install Chromium (Debian: apt-get install chromium), or set "
                       "TFCOMPRESS_BROWSER")


def version() -> str:
    """The browser's name and version, as it says them; empty where there is none."""
    try:
        done = subprocess.run([find_browser(), "--version"], capture_output=True, text=True,
                              timeout=10)
    except (MissingExtra, OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().partition(" built on")[0]


class Browser:
    """One page with one model; a context manager.

    Attributes:
        about: What the page said of the loaded model: `backend`, `adapter`, `inputs`, `outputs`,
            `load_ms`.
    """

    def __init__(self, model: Path, runtime: str, backend: str):
        self.model, self.runtime, self.backend = Path(model), runtime, backend
        self.packages = packages.find()
        self.program = find_browser()
        self.token = secrets.token_hex(16)
        self._commands: queue.Queue[bytes] = queue.Queue()
        self._answers: queue.Queue[bytes] = queue.Queue()
        self.asked = False  # whether the page has come for its first command
        self._stack = contextlib.ExitStack()
        self.about: dict = {}
        self.fetched: dict[str, set[Path]] = {"packages": set(), "model": set()}

    def __enter__(self) -> Browser:
        try:
            server = _server(self)
            self._stack.callback(server.server_close)
            self._stack.callback(server.shutdown)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self.port = server.server_address[1]
            self._process = self._start(self.port)
            self.open(self.model)
        except BaseException:
            self._stack.close()
            raise
        return self

    def open(self, model: Path) -> None:
        """Load a model in the place of the one that the page has."""
        self.model = Path(model)
        self.fetched["model"].clear()
        url = f"/model/{self.model.name}" if self.model.is_file() else "/model/model.json"
        self.about, _ = self.call({"command": "load", "model": url, "backend": self.backend},
                                  seconds=START_SECONDS)

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    def _start(self, port: int) -> subprocess.Popen:
        profile = self._stack.enter_context(tempfile.TemporaryDirectory(
            prefix="tfcompress-browser-", dir=_short_folder(), ignore_cleanup_errors=True))
        gpu = () if self.backend not in ("webgpu", "webgl") or Path("/dev/dri").exists() \
            else SOFTWARE
        root = ("--no-sandbox",) if getattr(os, "geteuid", lambda: 1)() == 0 else ()
        url = f"http://127.0.0.1:{port}/page.html?runtime={self.runtime}&token={self.token}"
        command = [self.program, *FLAGS, *gpu, *root, f"--user-data-dir={profile}", url]
        process = subprocess.Popen(
            [sys.executable, "-c", KEEPER, profile, *command], stdin=subprocess.PIPE,
            env=os.environ | {"TMPDIR": profile},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        self._stack.callback(_end, process)
        return process

    def call(self, head: dict, arrays: list = (), seconds: float = RUN_SECONDS
             ) -> tuple[dict, list]:
        """Give the page a command with tensors; returns its answer and the tensors in it.

        Raises:
            ModelError: The runtime in the page refuses the model or its input, or the page died.
            MissingExtra: The browser never got as far as the page.
        """
        import numpy as np

        parts = [np.ascontiguousarray(a) for a in arrays]
        if parts:
            head = head | {"inputs": [{"dtype": str(a.dtype), "shape": a.shape} for a in parts]}
        text = json.dumps(head).encode()
        self._commands.put(struct.pack("<I", len(text)) + text + b"".join(
            a.tobytes() for a in parts))
        answer = self._wait(head["command"], seconds)
        length, = struct.unpack_from("<I", answer)
        told = json.loads(answer[4:4 + length])
        if "error" in told:
            raise ModelError(f"{self.runtime} on {self.backend}: {told['error']}",
                             "another backend or target may take this model")
        found, at = [], 4 + length
        for spec, size in zip(told.get("outputs", ()), told.get("bytes", ()), strict=False):
            dtype = "uint8" if spec["dtype"] == "bool" else spec["dtype"]
            flat = np.frombuffer(answer, dtype, size // np.dtype(dtype).itemsize, at)
            found.append(flat.reshape(spec["shape"]))
            at += size
        return told, found

    def _wait(self, what: str, seconds: float) -> bytes:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(queue.Empty):
                return self._answers.get(timeout=0.2)
            if self._process.poll() is not None:
                if not self.asked:
                    break
                raise ModelError(f"the browser ended while it should {what} the model",
                                 "the model may need more memory than a page gets")
        if not self.asked:
            raise MissingExtra("chromium", "browser", f"{self.program} does not start",
                               "start it by hand to see why, or set TFCOMPRESS_BROWSER to another")
        raise ModelError(f"the page gave no answer to {what} in {seconds:.0f} s",
                         "the model is too slow or too large for this backend")

    @property
    def software(self) -> bool:
        """Whether the graphics adapter is a program and no GPU: its latency says nothing."""
        return any(n in self.about.get("adapter", "").lower() for n in SOFTWARE_NAMES)


# Runs the browser and ends it when whoever started it is gone, in whatever way. It has a session of
# its own, or who ends a process and its group would end the keeper first, and leave the browser.
KEEPER = """
import os, shutil, signal, subprocess, sys, threading
browser = subprocess.Popen(sys.argv[2:], start_new_session=True, stdin=subprocess.DEVNULL)
def end():
    sys.stdin.read()
    os.killpg(browser.pid, signal.SIGKILL)
threading.Thread(target=end, daemon=True).start()
browser.wait()
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


def _short_folder() -> str:
    """Where temporary files lie; /tmp where that is too far down for Chromium's sockets.

    A socket's path has at most 108 bytes, of which ours and Chromium's names take 70.
    """
    usual = tempfile.gettempdir()
    return "/tmp" if len(usual) > 36 and os.access("/tmp", os.W_OK) else usual


def _end(process: subprocess.Popen) -> None:
    process.stdin.close()
    process.wait()


def _server(browser: Browser) -> http.server.ThreadingHTTPServer:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if path == "/command":
                self._command()
            elif (file := _file(browser, path)) and file.is_file():
                browser.fetched.get(path.split("/")[1], set()).add(file)
                self._send(200, file.read_bytes(), TYPES.get(file.suffix,
                                                             "application/octet-stream"))
            else:
                self._send(404)

        def _command(self) -> None:
            if self.headers.get("X-Token") != browser.token:
                return self._send(403)
            browser.asked = True
            try:
                self._send(200, browser._commands.get(timeout=20), "application/octet-stream")
            except queue.Empty:
                self._send(204)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path != "/answer" or self.headers.get("X-Token") != browser.token:
                return self._send(403)
            browser._answers.put(body)
            self._send(200)

        def _send(self, code: int, body: bytes = b"", kind: str = "text/plain") -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            # With these two a page may use threads and clocks of 5 microseconds.
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(body)

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """A browser that is ended drops its connections; what matters is told by `call`."""

    return Server(("127.0.0.1", 0), Handler)


def _file(browser: Browser, path: str) -> Path | None:
    """The file behind a path of the page: the harness, a package's file or the model's."""
    for prefix, root in (("/packages/", browser.packages),
                         ("/model/", browser.model.parent if browser.model.is_file()
                          else browser.model), ("/", HERE)):
        if path.startswith(prefix):
            found = (root / path[len(prefix):]).resolve()
            return found if found.is_relative_to(root.resolve()) else None
    return None


def _file_of(path: str, runtime: str) -> Path:
    """The model in an artifact: a folder for the web holds it beside the demo."""
    file = Path(path)
    return file / f"model.{SUFFIXES[runtime]}" if runtime in SUFFIXES and file.is_dir() else file


class BrowserSession(Session):
    """A .tflite in LiteRT.js, a GraphModel in TensorFlow.js or an .onnx in ONNX Runtime Web.

    Attributes:
        about: What the page said: `backend`, `adapter` and `load_ms` among others.
        load_ms: Time in ms for runtime and model, from a server on this machine.
    """

    def __init__(self, path: str, runtime: str, backend: str):
        self._stack = contextlib.ExitStack()
        self._page = self._stack.enter_context(Browser(_file_of(path, runtime), runtime, backend))
        self._told()

    def open(self, path: str) -> None:
        """Load another artifact in the same page."""
        self._page.open(_file_of(path, self._page.runtime))
        self._told()

    def _told(self) -> None:
        self.about, self.load_ms = self._page.about, self._page.about["load_ms"]
        self.inputs, self.outputs = self._specs("inputs"), self._specs("outputs")
        self.tensors = list(range(len(self.inputs))), list(range(len(self.outputs)))

    @property
    def note(self) -> str:
        """The backend that really ran, and the graphics adapter if it has one."""
        if not self.about["adapter"]:
            return f"on {self.about['backend']}"
        kind = "software adapter" if self._page.software else "adapter"
        return f"on {self.about['backend']}; {kind}: {self.about['adapter']}"

    def _specs(self, side: str) -> list[dict]:
        """Specs under the signature's names; TensorFlow.js has its own for the tensors."""
        entries = ((self.about.get("signature") or {}).get(side) or {}).items()
        names = {entry["name"].partition(":")[0]: name for name, entry in entries}
        return [_spec(names.get(t["name"].partition(":")[0], t["name"]), t["shape"], t["dtype"])
                for t in self.about[side]]

    def _fed(self, arrays: list) -> list:
        import numpy as np

        fed: list = [None] * len(arrays)
        for array, spec, at in zip(arrays, self.inputs, self.tensors[0], strict=True):
            kind = {"bool": "uint8", "int64": "int32"}.get(spec["dtype"], spec["dtype"])
            array = np.asarray(array)
            if array.dtype.kind not in "fiub":
                raise TargetError(f"input {spec['name']!r} is text, which a page does not give to "
                                  "the model",
                                  "look words up before the model, or choose another target")
            array = array.astype(kind)
            free = None in spec["shape"][1:]
            fed[at] = array if free else array.reshape([n or 1 for n in spec["shape"]])
        return fed

    def measurements(self) -> list:
        """What the page had to load, as `artifact.Measurement`s."""
        from . import transfer

        fetched = self._page.fetched
        return transfer.measure(fetched["model"], fetched["packages"])

    def run(self, arrays: list) -> list:
        import numpy as np

        rows: list[list] = [[] for _ in self.outputs]
        for i in range(_rows(arrays, self.inputs)):
            _, found = self._page.call({"command": "run"}, self._fed([a[i:i + 1] for a in arrays]))
            for column, at in zip(rows, self.tensors[1], strict=True):
                column.append(found[at] if found[at].ndim else found[at].reshape(1))
        return [np.concatenate(c) if c else np.zeros((0,), np.float32) for c in rows]

    def ready(self, arrays: list):
        self._page.call({"command": "ready", "seconds": 0.2}, self._fed([a[:1] for a in arrays]))
        return lambda: self._page.call({"command": "burst", "count": 1})

    def burst(self, count: int) -> list[float]:
        """The time of each of `count` runs in ms, taken in the page."""
        return self._page.call({"command": "burst", "count": count})[0]["ms"]

    def close(self) -> None:
        self._stack.close()


def others(payload: dict, progress) -> dict:
    """An artifact on further backends: is it right there, and how fast?

    Args:
        payload: `artifact`, `runtime`, `backends`, `names`, `samples` (folder, or None), and
            `expected` (folder of the outputs that it should have, or None).

    Returns:
        `measurements`: `snr_webgl` (dB), `latency_webgl` (ms) and so on.
    """
    from ..artifact import Measurement
    from ..errors import TfcompressError
    from .latency import _input
    from .runtimes import open_session

    found = []
    samples = payload["samples"]
    for at, backend in enumerate(payload["backends"]):
        progress(at / len(payload["backends"]), f"{payload['runtime']} on {backend}")
        try:
            session = open_session(payload["artifact"], f"{payload['runtime']}-{backend}", 1,
                                   payload["names"])
        except TfcompressError as error:
            found += [Measurement(f"{what}_{backend}", unit, (), error.unmeasured)
                      for what, unit in (("latency", "ms"), ("snr", "dB"))]
            continue
        with contextlib.closing(session):
            try:
                rows, _ = _input(session.inputs, samples, 0)
                if samples and payload["expected"]:
                    found.append(_agreement(session, backend, samples, payload["expected"]))
                elif not found:  # else the comparison on the first backend has told
                    found += session.measurements()
                session.ready(rows)
                values: list[float] = []
                end = time.monotonic() + SECONDS
                while len(values) < 3 or (time.monotonic() < end and len(values) < 200):
                    values += session.burst(1)
                found.append(Measurement(f"latency_{backend}", "ms", tuple(values), session.note))
            except TfcompressError as error:
                found.append(Measurement(f"latency_{backend}", "ms", (), error.unmeasured))
    return {"measurements": [m.to_dict() for m in found]}


FEW, MANY = 4, 64  # samples on each further backend: software adapters take seconds for one
SECONDS = 1.0


def _agreement(session: BrowserSession, backend: str, samples: str, expected: str) -> Any:
    """SNR of the worst output over as many samples as fit into a little time."""
    import numpy as np

    from .. import store
    from ..artifact import Measurement
    from . import metrics
    from .sessions import open_arrays

    inputs, wanted = open_arrays(Path(samples) / "inputs"), open_arrays(Path(expected))
    count = min(MANY, store.read_json(Path(samples) / "samples.json")["count"], len(wanted[0]))
    tallies, done = [metrics.Fidelity() for _ in wanted], 0
    end = time.monotonic() + 2 * SECONDS
    while done < count and (done < FEW or time.monotonic() < end):
        rows = slice(done, min(done + FEW, count))
        outputs = session.run([a[rows] for a in inputs])
        for tally, want, got in zip(tallies, wanted, outputs, strict=True):
            want = np.asarray(want[rows], np.float32)
            tally.add(want, np.asarray(got, np.float32).reshape(want.shape))
        done = rows.stop
    values = [t.snr for t in tallies if t.snr is not None]
    return Measurement(f"snr_{backend}", "dB", (min(values),) if values else (),
                       f"{done} samples" if values else "not measured: outputs are NaN or infinite")
