"""Measuring on other machines: a real SSH server on loopback, and the words where none is there."""

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT

from tfcompress import cli, measuring
from tfcompress.benchmark import devices
from tfcompress.errors import DataError, MissingExtra, ModelError, TargetError, UsageError

FILE = ROOT / "tests" / "data" / "digits_int8.tflite"


@pytest.mark.parametrize("text, host, port", [
    ("ssh://pi@board", "pi@board", None), ("ssh://board:2222", "board", 2222),
    ("ssh://pi@192.168.1.7:22/", "pi@192.168.1.7", 22),
])
def test_an_address_is_understood(text, host, port):
    found = devices.parse(text)
    assert (found.kind, found.host, found.port) == ("ssh", host, port)


@pytest.mark.parametrize("text", [
    "board", "ssh://", "ssh://board:x", "ssh://-oProxyCommand=x@h", "ssh://a@-oProxyCommand=x",
    "http://board", "ssh://board/tmp", "ssh://a;b@c",
])
def test_what_is_no_device_is_refused(text):
    with pytest.raises(UsageError):
        devices.parse(text)


def test_a_phone_needs_adb_and_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtra, match="adb") as caught:
        devices.measure(devices.parse("adb://"), "x.tflite")
    assert "platform-tools" in caught.value.hint


def test_a_phone_needs_its_benchmark_program(monkeypatch, tmp_path):
    adb = tmp_path / "adb"
    adb.write_text("#!/bin/sh\nexit 0\n")
    adb.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv(devices.BENCHMARK_MODEL, raising=False)
    with pytest.raises(TargetError, match="benchmark program"):
        devices.measure(devices.parse("adb://"), "x.tflite")


@pytest.fixture
def file():
    return FILE


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """An sshd of our own on loopback, with keys of its own; its URL."""
    sshd = shutil.which("sshd") or "/usr/sbin/sshd"
    if not os.path.exists(sshd):
        pytest.skip("no sshd on this machine (Debian: apt-get install openssh-server)")
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name],
                       check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    (folder / "authorized").chmod(0o600)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\n"
        f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nUsePAM no\n"
        f"PidFile {folder}/pid\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n")
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", exist_ok=True)
    server = subprocess.Popen([sshd, "-D", "-e", "-f", folder / "config"],
                              stderr=(folder / "log").open("w"))
    try:
        deadline = time.monotonic() + 10
        while "listening" not in (folder / "log").read_text():
            assert server.poll() is None and time.monotonic() < deadline, \
                (folder / "log").read_text()
            time.sleep(0.05)
        os.environ["TFCOMPRESS_SSH_OPTIONS"] = (
            f"-i {folder}/user -o IdentitiesOnly=yes -o UserKnownHostsFile={folder}/known "
            "-o StrictHostKeyChecking=accept-new -F /dev/null")
        yield f"ssh://{getpass.getuser()}@127.0.0.1:{port}"
    finally:
        os.environ.pop("TFCOMPRESS_SSH_OPTIONS", None)
        server.terminate()
        server.wait()


def test_a_board_measures_and_computes_the_same(board, file, tmp_path):
    with np.load(ROOT / "examples" / "digits.npz") as held:
        np.savez(tmp_path / "x.npz", x=held["x_test"][:40])
    before = set(os.listdir("/tmp"))
    here, there = measuring.benchmark(file, ["local", board], data=str(tmp_path / "x.npz"),
                                      seconds=0.3, python=sys.executable)
    for found in (here, there):
        by = {m.name: m for m in found["measurements"]}
        assert len(by["latency"].values) >= 5 and min(by["latency"].values) > 0
        assert by["snr"].p50 == float("inf") and "16 samples" in by["snr"].note
        assert found["environment"]["runtime"] == "ai-edge-litert"
    left = {n for n in set(os.listdir("/tmp")) - before if n.startswith("tmp.")}
    assert not left  # the board's folder is gone


def test_the_command_prints_a_line_per_device(board, file, capsys):
    argv = ["benchmark", str(file), "--device", board, "--device", "local", "--seconds", "0.2",
            "--device-python", sys.executable]
    assert cli.main(argv) == 0
    told = capsys.readouterr().out
    assert board.split(":")[1][2:] in told and "local" in told and "ai-edge-litert" in told
    assert cli.main([*argv, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [len(r["measurements"]) for r in record] == [4, 4]


def test_a_board_without_a_runtime_says_what_to_install(board, file):
    bare = "/usr/bin/python3"
    if subprocess.run([bare, "-c", "import ai_edge_litert"], capture_output=True).returncode == 0:
        pytest.skip("the system's Python has a runtime")
    found, = measuring.benchmark(file, [board], seconds=0.2, python=bare)
    assert "No module named" in found["error"]["message"]
    assert "ai-edge-litert" in found["error"]["hint"]


def test_a_board_without_that_python_is_told(board, file):
    found, = measuring.benchmark(file, [board], seconds=0.2, python="python9")
    assert "python9" in found["error"]["message"] and "--device-python" in found["error"]["hint"]


def test_a_board_that_cannot_be_reached_is_told(file):
    found, = measuring.benchmark(file, ["ssh://nobody@127.0.0.1:1"], seconds=0.2)
    assert "cannot be reached" in found["error"]["message"]


def test_bad_input_is_found_before_any_connection(file, tmp_path):
    (tmp_path / "no.tflite").write_bytes(b"not a model")
    with pytest.raises(ModelError):
        measuring.benchmark(tmp_path / "no.tflite", ["ssh://nowhere.invalid"])
    with pytest.raises(UsageError):
        measuring.benchmark(file, ["ssh://nowhere.invalid"], threads=0)
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 7), "float32"))
    with pytest.raises(DataError):
        measuring.benchmark(file, ["ssh://nowhere.invalid"], data=str(tmp_path / "x.npz"))
