import json
import os
import subprocess
import sys

import pytest

from tfcompress import cli


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
    assert "exit codes" in done.stdout
    assert run("shrink", "--help").returncode == 0


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
        (["shrnk"], 2, "shrnk", "--help"),
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


def test_an_output_that_is_somebody_elses_is_left_alone(model, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("x")
    done = run("shrink", model, "--data", "random", "--output", "out", cwd=tmp_path)
    assert done.returncode == 3 or done.returncode == 6
    assert (tmp_path / "out" / "thesis.txt").read_text() == "x"


def test_without_a_command_the_help_is_shown(capsys):
    assert cli.main([]) == 0
    assert "shrink" in capsys.readouterr().out
