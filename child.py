"""Calls into other processes, for whatever can crash, leak, or drag TensorFlow in.

    with Child("convert") as child:
        result = child.call("export.tflite:convert", {"model": "m.keras"}, on_progress)

`export.tflite` is a module of this package and `convert(payload, progress)` takes the payload
(JSON values only) and returns JSON values. Calls to one child run in one process, so a module may
keep state between them. What the child's libraries print goes to a log file, never to the
terminal. If the process dies, `call` raises `ChildDied`; if the function raises, the caller gets
the same `TfcompressError`. A child whose parent is gone ends itself.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

from .errors import OutputError, TargetError, TfcompressError, from_dict, missing

Progress = Callable[[float | None, str], None]
PACKAGE = __name__.rpartition(".")[0]


class ChildDied(TargetError):
    """The process ended without an answer; `reason` names the signal or exit status."""

    def __init__(self, what: str, status: int, log: str):
        if status < 0:
            name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
            self.reason = f"was killed by {name}"
        else:
            self.reason = f"ended with status {status}"
        super().__init__(f"the {what} process {self.reason}", "run with --debug to see its log")
        self.log = log


class Child:
    """One child process that serves calls until it is closed.

    Args:
        what: Its name in messages.
        path: Folders put at the front of the child's `sys.path` (for the user's own modules).
        env: Environment variables set in the child only.
    """

    def __init__(self, what: str, path: tuple[str, ...] = (), env: dict[str, str] | None = None):
        self.what = what
        read, write = os.pipe()
        self._log = tempfile.NamedTemporaryFile(prefix="tfcompress-", suffix=".log")
        quiet = {
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "KERAS_BACKEND": "tensorflow",
            "PYTHONHASHSEED": "0",
        }
        # -P keeps the folder the user stands in off sys.path: a stray numpy.py there is not ours.
        search = os.pathsep.join([str(Path(__file__).parent), *path])
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, PACKAGE, str(write), search],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            pass_fds=(write,),
            env=os.environ | quiet | (env or {}),
            start_new_session=True,
        )
        os.close(write)
        self._answers = os.fdopen(read, "r", encoding="utf-8")

    def call(self, function: str, payload: dict, progress: Progress | None = None) -> dict:
        """Run `module:function` in the child and wait for its answer.

        Raises:
            ChildDied: The process ended first.
            TfcompressError: Whatever the function raised.
        """
        try:
            line = json.dumps({"function": function, "payload": payload}) + "\n"
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None
        for line in self._answers:
            message = json.loads(line)
            if "progress" in message:
                if progress:
                    progress(message["progress"], message["text"])
            elif "error" in message:
                error = from_dict(message["error"])
                error.log = message.get("traceback", "")
                raise error
            else:
                return message["result"]
        raise self._death()

    def log(self) -> str:
        """What the child has printed so far (its last 20,000 characters)."""
        try:
            return Path(self._log.name).read_text(errors="replace")[-20_000:]
        except OSError:
            return ""

    @property
    def pid(self) -> int:
        return self._process.pid

    def _death(self) -> ChildDied:
        status = self._process.wait()
        return ChildDied(self.what, status, self.log())

    def close(self) -> None:
        """End the process at once, and whatever it started."""
        if self._process.poll() is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._process.wait()
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # it died with a call unread, which closing tries to write once more
        self._answers.close()
        self._log.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_) -> None:
        self.close()


# The package may stand in a folder of any name (a clone), so the parent says where it is.
_BOOT = """
import importlib.util, os, sys
package, fd, search = sys.argv[1:4]
folder, *path = search.split(os.pathsep)
spec = importlib.util.spec_from_file_location(
    package, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder])
module = sys.modules[package] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.path[:0] = path
importlib.import_module(package + ".child").serve(int(fd))
"""


def serve(fd: int) -> None:
    """The child's side: answer calls from standard input on the file descriptor `fd`."""
    out = os.fdopen(fd, "w", encoding="utf-8")
    calls = os.fdopen(os.dup(0), "r", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    lock = threading.Lock()

    def send(message: dict) -> None:
        with lock:
            out.write(json.dumps(message) + "\n")
            out.flush()

    def progress(fraction: float | None, text: str) -> None:
        send({"progress": fraction, "text": text})

    inbox = _inbox(calls)
    while (call := inbox()) is not None:
        try:
            module, _, name = call["function"].partition(":")
            function = getattr(importlib.import_module(f"{PACKAGE}.{module}"), name)
            send({"result": function(call["payload"], progress)})
        except TfcompressError as error:
            send({"error": error.to_dict(), "traceback": traceback.format_exc()})
        except MemoryError:
            send(
                {
                    "error": TfcompressError(
                        "out of memory", "close other programs, or use a smaller model"
                    ).to_dict()
                }
            )
        except OSError as error:
            text = " ".join(str(error.strerror or error).split())[:300]
            where = f"{error.filename}: " if error.filename else ""
            told = OutputError(
                f"cannot read or write: {where}{text}",
                "check the free space; $TFCOMPRESS_CACHE and $TMPDIR say where files are kept",
            )
            send({"error": told.to_dict(), "traceback": traceback.format_exc()})
        except BaseException as error:
            send({"error": _told(error).to_dict(), "traceback": traceback.format_exc()})
    os._exit(0)


def _told(error: BaseException) -> TfcompressError:
    """What is said of an error that is none of ours: a package is not there, or a defect."""
    if isinstance(error, ModuleNotFoundError) and not (error.name or PACKAGE).startswith(PACKAGE):
        return missing(error)
    text = " ".join(str(error).split())[:300] or type(error).__name__
    return TfcompressError(f"{type(error).__name__}: {text}", "run with --debug to see where")


def _inbox(calls) -> Callable[[], dict | None]:
    """Calls are read by a thread, so that a parent's death (end of file) ends a busy child."""
    import queue

    waiting: queue.Queue = queue.Queue()

    def read() -> None:
        for line in calls:
            waiting.put(json.loads(line))
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    return waiting.get
