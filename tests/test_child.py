import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tfcompress import errors
from tfcompress.child import Child, ChildDied


@pytest.fixture
def child():
    with Child("test") as made:
        yield made


def test_a_call_returns_what_the_function_returns(child, examples):
    seen = []
    path = str(examples / "digits.npz")
    found = child.call("filing:describe", {"path": path}, lambda *p: seen.append(p))
    assert found["measurements"][0]["values"] == [os.path.getsize(path)]


def test_errors_cross_the_process_boundary_with_their_type(child, tmp_path):
    (tmp_path / "bad.tflite").write_bytes(b"not a model")
    with pytest.raises(errors.ModelError) as caught:
        child.call("filing:describe", {"path": str(tmp_path / "bad.tflite")})
    assert caught.value.message and caught.value.hint


def test_an_unknown_function_is_an_error_not_a_crash(child):
    with pytest.raises(errors.TfcompressError, match="no attribute"):
        child.call("filing:nothing_here", {})
    assert child.call("filing:warm", {"modules": []}) == {}


def test_death_by_signal_is_named(child):
    os.kill(child.pid, signal.SIGSEGV)
    with pytest.raises(ChildDied, match="SIGSEGV"):
        child.call("filing:warm", {"modules": []})


def test_a_child_ends_when_its_parent_is_killed():
    code = (
        "import time, sys\n"
        "from tfcompress.child import Child\n"
        "c = Child('orphan'); c.call('filing:warm', {'modules': []})\n"
        "print(c.pid, flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        state = Path(f"/proc/{pid}/stat")
        if state.exists() and state.read_text().split()[2] == "Z":  # dead, not yet reaped
            return
        time.sleep(0.05)
    pytest.fail("the orphan lives on")


def test_closing_ends_the_process(child):
    pid = child.pid
    child.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_libraries_print_goes_to_the_log(child, capfd):
    child.call("filing:warm", {"modules": ["this"]})
    assert "Zen" in child.log()
    assert "Zen" not in capfd.readouterr().out


def test_the_users_folder_is_not_on_the_childs_path(tmp_path, monkeypatch):
    (tmp_path / "json5stray.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    with Child("test") as closed:
        with pytest.raises(errors.TfcompressError, match="json5stray is not installed"):
            closed.call("filing:warm", {"modules": ["json5stray"]})
    (tmp_path / "own.py").write_text("here = 1")
    with Child("test", path=(str(tmp_path),)) as opened:
        assert opened.call("filing:warm", {"modules": ["own"]}) == {}
