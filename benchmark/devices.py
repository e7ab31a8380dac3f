"""Measuring a .tflite on another machine: a board over SSH, or a phone over adb.

    ssh://pi@board            ssh://user@host:port; whatever ssh itself finds in its configuration
    adb://                    the one phone that is connected; adb://SERIAL for one of several
    local                     this machine, by the same small program

A board gets one folder with `board.py`, the model and a few samples, through one ssh connection,
and the folder is removed again. What it answers is compared with what the same file gives here.
Standard library only; the comparison runs in a child process.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ..artifact import Measurement
from ..child import Child
from ..errors import MissingExtra, TargetError, UsageError

SECONDS_TO_CONNECT = 20
SAMPLES = 16  # that are run on both machines
BENCHMARK_MODEL = "TFCOMPRESS_ANDROID_BENCHMARK"
ADB_FOLDER = "/data/local/tmp/tfcompress"


@dataclass(frozen=True)
class Device:
    """A machine to measure on: `kind` is ssh, adb or local."""

    kind: str
    host: str = ""
    port: int | None = None
    python: str = "python3"

    def __str__(self) -> str:
        return f"{self.kind}://{self.host}" if self.kind != "local" else "local"


def parse(text: str, python: str = "python3") -> Device:
    """The device that `--device` names.

    Raises:
        UsageError: It is none.
    """
    if text == "local":
        return Device("local", python=sys.executable)
    parts = urlsplit(text)
    good = "use ssh://user@host, ssh://user@host:port, adb://, adb://SERIAL or local"
    try:
        port = parts.port
    except ValueError:
        raise UsageError(f"{text!r} has no valid port", good) from None
    if parts.scheme not in ("ssh", "adb") or parts.path not in ("", "/") or parts.query:
        raise UsageError(f"{text!r} is no device", good)
    name = parts.hostname or ""
    if parts.scheme == "ssh":
        if not re.fullmatch(r"[\w.:-]+", name) or name.startswith("-"):
            raise UsageError(f"{text!r} names no host", good)
        user = parts.username or ""
        if user and not re.fullmatch(r"[\w][\w.-]*", user):
            raise UsageError(f"{text!r} names no user", good)
        return Device("ssh", f"{user}@{name}" if user else name, port, python)
    return Device("adb", parts.netloc)


def measure(device: Device, path: str | Path, *, samples: str | Path | None = None,
            threads: int = 1, seconds: float = 2.0) -> dict:
    """Latency, load time and memory of a .tflite on a device, and whether it computes the same.

    Args:
        device: From `parse`.
        path: The file.
        samples: A folder of samples (`inputs/0.npy ...`), or None for seeded random input.
        threads: Of the runtime on the device.
        seconds: Of measuring there.

    Returns:
        `{"device", "measurements": [Measurement], "environment": {...}, "findings": [...]}`.

    Raises:
        TargetError: The device cannot be reached, or cannot run the file.
        MissingExtra: ssh or adb is not on this machine.
    """
    if device.kind == "adb":
        return _adb(device, Path(path), threads)
    with tempfile.TemporaryDirectory() as folder:
        with Child("comparison") as child:
            told = child.call("benchmark.devices:stored", {
                "path": str(path), "samples": samples and str(samples), "count": SAMPLES,
                "out": folder})
        answer = _run_board(device, Path(path), Path(folder) / "inputs.npz",
                            {"threads": threads, "seconds": seconds, "most": 1000})
        (Path(folder) / "outputs.npz").write_bytes(base64.b64decode(answer.pop("outputs")))
        with Child("comparison") as child:
            compared = child.call("benchmark.devices:compare", {"path": str(path), "out": folder})
    return _account(device, answer, compared, told["random"])


def _account(device: Device, answer: dict, compared: dict, random: bool) -> dict:
    before, after = answer["load"]
    note = f"{answer['threads']} thread{'s' * (answer['threads'] > 1)}, batch 1"
    if before is not None:
        note += f"; load {before:.1f} before, {after:.1f} after, {answer['cores']} cores"
    data = "random input" if random else f"{compared['samples']} samples"
    found = [
        Measurement("latency", "ms", tuple(answer["latency_ms"]), note),
        Measurement("load_time", "ms", (answer["load_ms"],), "file to ready, in a new process"),
        Measurement("peak_memory", "bytes",
                    () if answer["peak_memory"] is None else (answer["peak_memory"],),
                    "growth of the process beyond the loaded runtime"),
        Measurement("snr", "dB", (compared["snr"],), f"against the same file here; {data}"),
    ]
    findings = []
    if compared["snr"] < 40:
        findings.append({
            "level": "warning", "advice": "compare the versions of the runtime on both machines",
            "text": f"the device's outputs differ from this machine's: {compared['snr']:.1f} dB"})
    keys = ("runtime", "runtime_version", "numpy", "python", "machine", "cpu", "system", "cores")
    return {"device": str(device), "measurements": found, "findings": findings,
            "environment": {k: answer[k] for k in keys}}


# Boards ------------------------------------------------------------------------------------


def _run_board(device: Device, model: Path, inputs: Path, told: dict) -> dict:
    """Send, run, read the answer. The shell on the other side needs mktemp, tar and Python."""
    files = ["model.tflite", *(["inputs.npz"] if inputs.is_file() else [])]
    run = shlex.join([device.python, "board.py", *files, json.dumps(told)])
    script = ('d=$(mktemp -d) && trap \'rm -rf "$d"\' EXIT && cd "$d" && tar xf - && '
              + run.replace(shlex.quote(device.python), _program(device.python), 1))
    if device.kind == "local":
        command = ["sh", "-c", script]
    else:
        ssh = shutil.which("ssh")
        if not ssh:
            raise MissingExtra("ssh", "all", hint="install an SSH client (Debian: apt-get install "
                               "openssh-client)")
        port = ["-p", str(device.port)] if device.port else []
        extra = shlex.split(os.environ.get("TFCOMPRESS_SSH_OPTIONS", ""))
        command = [ssh, "-T", "-o", "BatchMode=yes", "-o",
                   f"ConnectTimeout={SECONDS_TO_CONNECT}", *extra, *port, "--", device.host,
                   f"sh -c {shlex.quote(script)}"]
    packed = _pack({"board.py": Path(__file__).with_name("board.py"), "model.tflite": model,
                    **({"inputs.npz": inputs} if inputs.is_file() else {})})
    limit = 120 + 20 * told["seconds"]
    try:
        done = subprocess.run(command, input=packed, capture_output=True, timeout=limit)
    except subprocess.TimeoutExpired:
        raise TargetError(f"{device} gave no answer in {limit:.0f} s",
                          "check the connection; a very slow board needs fewer --seconds") from None
    return _answer(device, done.returncode, done.stdout.decode(errors="replace"),
                   done.stderr.decode(errors="replace"))


def _program(python: str) -> str:
    """The interpreter for the shell, with a leading ~/ left to be expanded there."""
    return f"~/{shlex.quote(python[2:])}" if python.startswith("~/") else shlex.quote(python)


def _pack(files: dict[str, Path]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for name, path in files.items():
            archive.add(path, arcname=name, recursive=False)
    return held.getvalue()


def _answer(device: Device, code: int, out: str, errors: str) -> dict:
    said = " ".join(errors.split())[-300:]
    lines = [line for line in out.splitlines() if line.startswith("{")]
    if not lines:
        if code == 255 and device.kind == "ssh":
            raise TargetError(f"{device} cannot be reached: {said or 'ssh gave no reason'}",
                              f"try: ssh {device.host} true (keys only, no password is asked for)")
        if code == 127 or "not found" in said:
            raise TargetError(f"{device} has no {device.python} (or no tar): {said}",
                              "name its Python with --device-python")
        if code < 0 or code > 128:
            raise TargetError(f"the runtime on {device} was killed (exit code {code})",
                              "the board may have too little memory for this file")
        raise TargetError(f"{device} gave no answer (exit code {code}): {said}",
                          "run board.py there by hand")
    answer = json.loads(lines[-1])
    if "error" in answer:
        hint = "use another target, or a newer runtime on the device"
        if "No module named" in answer["error"]:
            hint = (f"install NumPy and ai-edge-litert (or tflite-runtime) for Python "
                    f"{answer['python']} there, or name another with --device-python")
        raise TargetError(f"{device} cannot run the file: {answer['error']}", hint)
    return answer


# In the child ------------------------------------------------------------------------------


def stored(payload: dict, progress) -> dict:
    """Write `inputs.npz`: a few samples as the file stores its inputs, and `expected.npz`."""
    import numpy as np

    from . import runtimes, sessions

    session = runtimes.Litert(payload["path"], 1)
    engine = session._interpreter
    details = engine.get_input_details()
    specs = {at: spec for at, spec in zip(session.tensors[0], session.inputs, strict=True)}
    if payload["samples"]:
        arrays = sessions.open_arrays(Path(payload["samples"]) / "inputs")
        rows = {at: sessions.quantize(np.asarray(a[:payload["count"]]), specs[at])
                for at, a in zip(session.tensors[0], arrays, strict=True)}
        held = [rows[d["index"]] for d in details]
    else:
        from .board import random_row

        rng = np.random.RandomState(0)
        drawn = [[random_row(d, rng) for d in details] for _ in range(payload["count"])]
        held = [np.concatenate(column) if np.ndim(column[0]) else np.asarray(column)
                for column in zip(*drawn, strict=True)]
    np.savez(Path(payload["out"]) / "inputs.npz", **{str(i): a for i, a in enumerate(held)})
    return {"random": not payload["samples"]}


def compare(payload: dict, progress) -> dict:
    """SNR in dB between the board's outputs and this machine's, both as the file stores them."""
    import math

    import numpy as np

    from . import runtimes

    engine = runtimes.Litert(payload["path"], 1)._interpreter
    folder = Path(payload["out"])
    with np.load(folder / "inputs.npz") as held:
        inputs = [held[str(i)] for i in range(len(held.files))]
    with np.load(folder / "outputs.npz") as held:
        theirs = [held[str(i)] for i in range(len(held.files))]
    mine: list[list] = [[] for _ in theirs]
    for i in range(len(inputs[0])):
        for detail, array in zip(engine.get_input_details(), inputs, strict=True):
            engine.set_tensor(detail["index"], array[i:i + 1].reshape(detail["shape"]))
        engine.invoke()
        for found, detail in zip(mine, engine.get_output_details(), strict=True):
            found.append(engine.get_tensor(detail["index"]).copy())
    worst = math.inf
    for detail, ours, other in zip(engine.get_output_details(), mine, theirs, strict=True):
        zero = detail["quantization"][1]
        want = np.concatenate(ours).astype(np.float64) - zero
        apart = ((want - (other.astype(np.float64) - zero)) ** 2).sum()
        if apart:
            worst = min(worst, float(10 * np.log10(max((want ** 2).sum(), 1e-300) / apart)))
    return {"snr": worst if worst < math.inf else math.inf, "samples": len(inputs[0])}


# Phones ------------------------------------------------------------------------------------


def _adb(device: Device, model: Path, threads: int) -> dict:
    """The makers' own `benchmark_model` on a phone; it reports one mean, not single runs."""
    adb = shutil.which("adb")
    if not adb:
        raise MissingExtra("adb", "all",
                           hint="install Android's platform-tools and put adb on PATH")
    binary = os.environ.get(BENCHMARK_MODEL, "")
    if not Path(binary).is_file():
        raise TargetError(
            "no benchmark program for the phone",
            f"set {BENCHMARK_MODEL} to LiteRT's benchmark_model built for the phone's processor")
    call = [adb, *(["-s", device.host] if device.host else [])]
    _phone([*call, "shell", "mkdir", "-p", ADB_FOLDER])
    try:
        _phone([*call, "push", binary, f"{ADB_FOLDER}/benchmark_model"])
        _phone([*call, "push", str(model), f"{ADB_FOLDER}/model.tflite"])
        _phone([*call, "shell", "chmod", "+x", f"{ADB_FOLDER}/benchmark_model"])
        said = _phone([*call, "shell", f"{ADB_FOLDER}/benchmark_model",
                       f"--graph={ADB_FOLDER}/model.tflite", f"--num_threads={threads}"])
        phone = _phone([*call, "shell", "getprop", "ro.product.model"]).strip()
    finally:
        subprocess.run([*call, "shell", "rm", "-rf", ADB_FOLDER], capture_output=True)
    found = re.search(r"Inference \(avg\): ([\d.e+]+)", said)
    if not found:
        raise TargetError(f"benchmark_model said nothing of a latency: {said[-200:]}",
                          "run it on the phone by hand")
    note = f"mean of one run of benchmark_model, {threads} threads; not compared with this machine"
    return {"device": str(device), "findings": [], "environment": {"cpu": phone},
            "measurements": [Measurement("latency", "ms", (float(found[1]) / 1000,), note)]}


def _phone(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        raise TargetError("the phone gave no answer in 300 s", "check the cable") from None
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-300:]
        raise TargetError(f"adb: {said}", "see: adb devices")
    return done.stdout + done.stderr
