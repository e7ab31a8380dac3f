import json
import os
import re
import shlex
import signal
import subprocess
import sys

import pytest
from gate_samples import network, shrunk
from storing import make_output

from tfcompress import cli, errors
from tfcompress.command import arguments

COMMANDS = arguments.parser().commands()


def run(*argv, cwd=None, **env):
    return subprocess.run(
        [sys.executable, "-m", "tfcompress", *argv],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | env,
    )


@pytest.fixture
def model(tmp_path):
    """A file with the right name that must never be opened as a model."""
    path = tmp_path / "model.keras"
    path.write_bytes(b"PK\x05\x06" + bytes(18) + b"\xff")
    return str(path)


def test_help_shows_examples_and_exit_codes():
    done = run("--help")
    assert done.returncode == 0 and not done.stderr
    assert "tfcompress shrink model.keras --target tflite-int8" in done.stdout
    table = done.stdout.partition("exit codes:\n")[2]
    told = {int(line.split()[0]) for line in table.splitlines()}
    assert told == {0} | {kind.exit_code for kind in errors._tree(errors.TfcompressError)}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples_that_work(name):
    command = COMMANDS[name]
    assert command.description and f"  tfcompress {name}" in command.epilog
    for line in command.epilog.splitlines():
        if line.startswith("  tfcompress "):
            line = line.partition(" > ")[0]
            assert arguments.parser().parse_args(shlex.split(line)[1:]).command_name == name
    for action in command._actions:
        assert action.help, action.dest


def test_help_fits_its_terminal():
    for width in (60, 100):
        for name in COMMANDS:
            lines = run(name, "--help", COLUMNS=str(width)).stdout.partition("examples:")[0]
            assert max(map(len, lines.splitlines())) <= width, name


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["--version"],
        ["targets"],
        ["shrink", "--help"],
        ["shrink"],
        ["shrink", "nowhere.keras"],
        ["shrink", "nowhere.keras", "--target", "tflite-int9", "--data", "random"],
        ["nothing"],
        ["report", "nowhere"],
        ["report", "nowhere", "elsewhere"],
        ["completion", "bash"],
        [],
    ],
)
def test_what_needs_no_model_imports_nothing_heavy(argv):
    code = (
        "import sys\nfrom tfcompress import cli\n"
        f"cli.main({argv!r})\n"
        "heavy = {'numpy', 'tensorflow', 'keras', 'tf_keras', 'ai_edge_litert', 'h5py', 'PIL'}\n"
        "sys.exit(len(heavy & set(sys.modules)) and 99)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_targets_lists_each_with_what_it_is_for():
    lines = run("targets").stdout.splitlines()
    assert len(lines) > 20 and any(line.startswith("tflite-int8 ") for line in lines)
    listed = json.loads(run("targets", "--json").stdout)
    assert {t["name"] for t in listed} == {line.split()[0] for line in lines}


@pytest.mark.parametrize(
    "argv, code, told, hint",
    [
        (["shrink"], 2, "model", "--help"),
        (["shrnk"], 2, "shrnk", "did you mean 'shrink'?"),
        (["shrink", "MODEL", "--taget", "x"], 2, "no option --taget", "did you mean '--target'?"),
        (["shrink", "MODEL", "--zzz=1"], 2, "no option --zzz", "see tfcompress shrink --help"),
        (["shrink", "MODEL", "--samp", "9"], 2, "no option --samp", "did you mean '--samples'?"),
        (["--vers"], 2, "no option --vers", "did you mean '--version'?"),
        (["shrink", "MODEL", "more"], 2, "one argument too many: 'more'", "tfcompress shrink"),
        (["shrink", "MODEL", "--io", "int9"], 2, "unknown --io 'int9'", "did you mean 'int8'?"),
        (["setup", "browsr"], 2, "browsr", "did you mean 'browser'?"),
        (["completion", "powershell"], 2, "powershell", "known: bash, zsh, fish"),
        (["check", "--format", "jnit"], 2, "jnit", "did you mean 'junit'?"),
        (
            ["shrink", "MODEL", "--target", "tflite-int"],
            2,
            "unknown target",
            "did you mean tflite-int",
        ),
        (["shrink", "MODEL", "--target", "nowhere.toml"], 2, "no target file", "--target"),
        (["shrink", "nowhere.keras", "--data", "random"], 3, "nowhere.keras", ""),
        (["shrink", "MODEL"], 4, "needs representative data", "--data"),
        (["shrink", "MODEL", "--data", "nowhere.npz"], 4, "nowhere.npz", ""),
        (["shrink", "MODEL", "--data", "random", "--samples", "0"], 2, "samples", ""),
        (["shrink", "MODEL", "--data", "random", "--normalize", "0-1"], 2, "0-1", "0..1"),
        (["shrink", "MODEL", "--data", "random", "--max-drop", "nan"], 2, "nan", "0.01"),
        (["shrink", "MODEL", "--data", "random", "--max-drop", "-1"], 2, "-1", "0 or more"),
        (["shrink", "MODEL", "--data", "random", "--seed", "-1"], 2, "--seed", "0 or more"),
        (["shrink", "MODEL", "--data", "random", "--threads", "0"], 2, "--threads", "cores"),
        (["shrink", "MODEL", "--data", "random", "--labels", "MODEL"], 2, "not text", "per line"),
        (["shrink", "MODEL", "--data", "random", "--metric", "f1"], 2, "f1", "accuracy"),
        (["shrink", "MODEL", "--data", "random", "--max-drop", "0.1"], 2, "--max-drop", "--data"),
        (["shrink", "MODEL", "--target", "keras", "--labels", "nowhere.txt"], 2, "nowhere.txt", ""),
        (["report", "nowhere"], 2, "nowhere", ""),
        (["report", "nowhere", "elsewhere"], 2, "nowhere", "report.json"),
        (["report", "nowhere", "nowhere"], 2, "given twice", "once"),
        (["report"], 2, "FOLDER", "--help"),
    ],
)
def test_bad_input_is_two_lines_and_the_documented_code(model, tmp_path, argv, code, told, hint):
    argv = [model if a == "MODEL" else a for a in argv]
    done = run(*argv, cwd=tmp_path)
    lines = done.stderr.splitlines()
    assert done.returncode == code, done.stderr
    assert len(lines) == 2 and lines[0].startswith("tfcompress: ") and told in lines[0]
    assert lines[1].startswith("  ") and hint in lines[1]
    assert not done.stdout and os.listdir(tmp_path) == ["model.keras"]


def test_errors_are_json_for_machines(tmp_path):
    done = run("shrink", "nowhere.keras", "--data", "random", "--json", cwd=tmp_path)
    error = json.loads(done.stdout)["error"]
    assert done.returncode == error["exit_code"] == 3
    assert set(error) == {"type", "message", "hint", "exit_code"} and not done.stderr


WRONG = {
    "shrink": ["nowhere.keras", "--data", "random"], "inspect": ["nowhere.keras"],
    "targets": ["--all"], "report": ["nowhere"], "setup": ["nothing"],
    "benchmark": ["nowhere.tflite"], "check": ["--config", "nowhere.toml"],
    "diff": ["nowhere.tflite", "nowhere.tflite"], "publish": ["nowhere", "./store/a"],
    "pull": ["./nowhere/a"], "list": ["nowhere://"], "alias": ["./nowhere/a", "b"],
    "completion": ["cmd"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_errors_of_every_command_are_json_for_machines(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = cli.main([name, *WRONG[name], "--json"])
    told = capsys.readouterr()
    error = json.loads(told.out)["error"]
    assert code == error["exit_code"] in (2, 3, 6) and not told.err
    assert error["message"] and error["hint"]


def test_results_are_json_for_machines(tmp_path, monkeypatch, capsys):
    """Of the commands that need no more than a finished folder; the others have it in their own
    tests (shrink, inspect, benchmark)."""
    monkeypatch.chdir(tmp_path)
    shrunk(tmp_path / "out")
    make_output(tmp_path / "release")
    (tmp_path / "tfcompress.toml").write_text('[check]\nartifacts = "out"\n')
    for argv in (["targets"], ["report", "out"], ["check", "--update"], ["check"],
                 ["diff", *["out/tflite-float32.tflite"] * 2, "--samples", "2"],
                 ["publish", "release", "./store/a:1"], ["list", "./store"], ["list", "./store/a"],
                 ["alias", "./store/a:1", "prod"], ["pull", "./store/a@prod", "-o", "in"],
                 ["completion", "fish"]):
        assert cli.main([*argv, "--json"]) == 0, (argv, capsys.readouterr())
        told = capsys.readouterr()
        assert json.loads(told.out) and not told.err, argv


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("line", ["targets", "targets --json", "--help", "shrink --help",
                                  "completion bash", "report nowhere --json"])
def test_a_reader_that_leaves_is_no_error(line, unbuffered, tmp_path):
    """`tfcompress targets | head -1`; here the reader has gone before the first word."""
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -c 'import time; time.sleep(0.3); from tfcompress "
         f"import cli; raise SystemExit(cli.main(\"{line}\".split()))' | true; "
         "echo ${PIPESTATUS[0]}"], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered})
    assert done.stdout == f"{2 * ('nowhere' in line)}\n" and not done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("json_", [True, False])
def test_an_interruption_is_two_lines_and_130(number, json_, tmp_path):
    """While the configuration is read, which comes out of a pipe and never ends."""
    os.mkfifo(tmp_path / "never.toml")
    process = subprocess.Popen(
        [sys.executable, "-m", "tfcompress", "check", "--config", "never.toml",
         *["--json"] * json_], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    with open(tmp_path / "never.toml", "w"):  # opened: now it reads
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    if json_:
        assert json.loads(out)["error"]["exit_code"] == 130 and not err
    else:
        assert len(err.splitlines()) == 2 and "interrupted" in err and not out


def seen(*argv, stdout=None, **env):
    """What a command writes on a terminal: stderr, and stdout where that is not given."""
    read, write = os.openpty()
    process = subprocess.Popen([sys.executable, "-m", "tfcompress", *argv], stdout=stdout or write,
                               stderr=write, env=os.environ | {"TERM": "xterm"} | env)
    os.close(write)
    told = b""
    try:
        while part := os.read(read, 65536):
            told += part
    except OSError:  # Linux's end of a terminal
        pass
    process.wait()
    os.close(read)
    return told.decode()


def test_colour_is_for_terminals_that_want_it(tmp_path, monkeypatch):
    shrunk(tmp_path / "out")
    monkeypatch.delenv("NO_COLOR", raising=False)
    (tmp_path / "tfcompress.toml").write_text('[check]\nartifacts = "out"\n')
    argv = ["check", "--config", str(tmp_path / "tfcompress.toml")]
    assert run(*argv, "--update").returncode == 0
    assert "\x1b[32m" in seen(*argv) and "\x1b[32m" in seen(*argv, NO_COLOR="")
    assert not re.search(r"\x1b\[[\d;]*m", seen(*argv, NO_COLOR="1"))
    assert "\x1b[" not in seen(*argv, TERM="dumb") and "\x1b[" not in run(*argv).stdout


def test_progress_goes_to_stderr_and_machines_get_none(tmp_path):
    """A file measured against another, with stderr on a terminal and stdout in a file."""
    for name, width in (("a", 8), ("b", 9)):
        network(tmp_path / f"{name}.tflite", width)
    (tmp_path / "tfcompress.toml").write_text(
        "[check]\nseconds = 0.1\nrounds = 3\n[check.limits]\nbytes = false\nlatency = 50\n"
        '[check.targets.t]\nartifact = "a.tflite"\nbaseline = "b.tflite"\n')
    argv = ["check", "--config", str(tmp_path / "tfcompress.toml")]
    for more, progress in (((), True), (("--json",), False)):
        with open(tmp_path / "out", "w") as file:
            told = seen(*argv, *more, stdout=file)
        assert ("measure" in told) == progress and bool(told) == progress
        written = (tmp_path / "out").read_text()
        assert "latency" in written and "\x1b" not in written


def test_an_output_that_is_somebody_elses_is_left_alone(model, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("x")
    done = run("shrink", model, "--data", "random", "--output", "out", cwd=tmp_path)
    assert done.returncode == 3 or done.returncode == 6
    assert (tmp_path / "out" / "thesis.txt").read_text() == "x"


def test_without_a_command_short_help_is_shown(capsys):
    assert cli.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines if line.startswith("  ")} == {*COMMANDS, "tfcompress"}
    assert max(map(len, lines)) <= 80
    assert len(lines) < 30 and lines[-1] == (
        "tfcompress COMMAND --help shows a command's options and examples.")


@pytest.mark.parametrize("argv", [["help"], ["help", "shrink"]])
def test_help_is_a_word_too(argv, capsys):
    assert cli.main(argv) == 0
    told = capsys.readouterr().out
    assert cli.main([*argv[1:], "--help"]) == 0 and capsys.readouterr().out == told


def test_values_may_begin_with_a_dash():
    args = arguments.parser().parse_args(["shrink", "m.keras", "--normalize", "-1..1"])
    assert args.normalize == "-1..1"


def test_every_command_can_be_run():
    assert set(COMMANDS) == set(cli.COMMANDS)


def test_a_closed_stdout_is_no_defect(tmp_path):
    shrunk(tmp_path / "out")
    for argv in (["targets"], ["report", str(tmp_path / "out")]):
        done = subprocess.run(
            ["sh", "-c", f"{shlex.join([sys.executable, '-m', 'tfcompress', *argv])} >&-"],
            capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("json", [(), ("--json",)])
def test_a_full_disk_under_stdout_is_exit_code_6_without_a_traceback(json):
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "tfcompress", "targets", *json],
                              stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 6
    assert "Traceback" not in done.stderr and ("No space" in done.stderr or json)


def test_a_model_that_is_not_there_is_told_before_its_data():
    done = run("shrink", "nowhere.keras")
    assert done.returncode == 3 and "no model file nowhere.keras" in done.stderr


@pytest.mark.parametrize("package", ["h5py", "tensorflow"])
def test_a_package_that_is_not_installed_is_named(tmp_path, package):
    import zipfile

    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["a"] = [1.0]
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("config.json", '{"class_name": "Sequential", "config": {"layers": []}}')
        archive.writestr("metadata.json", '{"keras_version": "3.12.0"}')
        archive.write(tmp_path / "w.h5", "model.weights.h5")
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Gone:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {package!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Gone())\n")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    done = run("shrink", tmp_path / "m.keras", "--data", "random", cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 5, done.stderr
    assert f"{package} is not installed" in done.stderr and "damaged" not in done.stderr
