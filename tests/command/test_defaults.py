"""Defaults of commands from tfcompress.toml and pyproject.toml."""

import json
import os
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT

from tfcompress import cli, steps
from tfcompress.command import defaults
from tfcompress.errors import UsageError


def parsed(folder, text, line, file="tfcompress.toml"):
    (folder / file).write_text(text)
    return defaults.parse(shlex.split(line), folder)


@pytest.mark.parametrize("file, table", [
    ("tfcompress.toml", "[shrink]"), ("pyproject.toml", "[tool.tfcompress.shrink]")])
def test_options_and_arguments_have_the_names_of_the_command_line(tmp_path, file, table):
    args, full = parsed(tmp_path, f"""{table}
        model = "m.keras"
        target = ["tflite-int8", "mine.toml"]
        data = "samples.npz"
        max-drop = 0.01
        eval_samples = 500
        io = "float32"
        prune = 0.5
        prune-to = "0.5 of macs"
        normalize = "-1..1"
        qat = true
        trim = false
        distill = false
    """, "shrink", file)
    assert (args.model, args.targets, args.data) == (
        "m.keras", ["tflite-int8", "mine.toml"], "samples.npz")
    assert (args.max_drop, args.eval_samples, args.io_dtype) == (0.01, 500, "float32")
    assert (args.prune, args.prune_to, args.normalize) == ("0.5", "0.5 of macs", "-1..1")
    assert args.qat and not args.trim and args.distill is False
    assert full == shlex.split(
        "shrink m.keras --target tflite-int8 --target mine.toml --data samples.npz --max-drop 0.01 "
        "--eval-samples 500 --io float32 --prune 0.5 --prune-to '0.5 of macs' --normalize=-1..1 "
        "--qat --no-distill")


def test_the_command_line_wins(tmp_path):
    text = ('[shrink]\nmodel = "m.keras"\ntarget = ["a", "b"]\nsamples = 50\nseed = 3\n'
            "distill = false\n")
    args, full = parsed(tmp_path, text, "shrink other.keras -t c --samples=9 --distill")
    assert (args.model, args.targets, args.samples, args.seed, args.distill) == (
        "other.keras", ["c"], 9, 3, True)
    assert full == shlex.split("shrink --seed 3 other.keras -t c --samples=9 --distill")
    args, _ = parsed(tmp_path, text, "shrink other.keras --samples 200")  # said, though as without
    assert args.samples == 200 and args.targets == ["a", "b"]


def test_a_recipe_and_stages_of_its_own_take_each_others_place(tmp_path):
    assert defaults.STAGES == set(steps.STAGE_FLAGS)
    stages, recipe = "[shrink]\nqat = true\nepochs = 2\n", "[shrink]\nrecipe = 'qat'\n"
    assert parsed(tmp_path, stages, "shrink m --recipe prune")[1] == [
        "shrink", "--epochs", "2", "m", "--recipe", "prune"]
    assert parsed(tmp_path, recipe, "shrink m --cluster 16")[0].recipe is None
    args, _ = parsed(tmp_path, stages, "shrink m --prune 0.5")
    assert args.qat and args.prune == "0.5"


def test_what_is_written_out_is_the_same_command_again(tmp_path):
    text = '[shrink]\nmodel = "m.keras"\ntarget = "a"\nqat = true\nnormalize = "-1..1"\n'
    args, full = parsed(tmp_path, text, "shrink --seed 1")
    assert defaults.parse(full, tmp_path) == (args, full)
    (tmp_path / "tfcompress.toml").unlink()
    assert defaults.parse(full, tmp_path) == (args, full)


def test_each_command_has_its_own(tmp_path):
    text = '[inspect]\nsamples = 5\n[benchmark]\ndevice = ["local"]\nseconds = 1\n[check]\nx = 1\n'
    assert parsed(tmp_path, text, "inspect m.keras")[0].samples == 5
    args, _ = parsed(tmp_path, text, "benchmark m.tflite")
    assert args.device == ["local"] and args.seconds == 1.0
    assert parsed(tmp_path, text, "shrink m.keras")[0].samples == 200
    assert parsed(tmp_path, text, "targets")[1] == ["targets"]


def test_they_can_be_left_out(tmp_path):
    args, full = parsed(tmp_path, "[shrink]\nsamples = 5\n", "shrink m.keras --no-defaults")
    assert args.samples == 200 and full == ["shrink", "m.keras", "--no-defaults"]
    for line in ("--version", "", "shrink --help"):
        try:
            parsed(tmp_path, "[shrink]\nsamples = 'x'\n", line)
        except SystemExit as stop:
            assert not stop.code


def test_tfcompress_toml_comes_before_pyproject(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[tool.tfcompress.shrink]\nsamples = 5\n")
    assert parsed(tmp_path, "[shrink]\nsamples = 6\n", "shrink m")[0].samples == 6
    assert parsed(tmp_path, "", "shrink m")[0].samples == 200
    (tmp_path / "tfcompress.toml").unlink()
    assert defaults.parse(["shrink", "m"], tmp_path)[0].samples == 5


def test_a_pyproject_that_is_not_about_us_is_no_matter(tmp_path):
    for text in ("[project]\nname = 'x'\n", "[tool.black]\n", "tool = 3\n", "[unfinished", ""):
        assert parsed(tmp_path, text, "shrink m", "pyproject.toml")[1] == ["shrink", "m"]


@pytest.mark.parametrize("text, told, hint", [
    ("[shrink]\nsample = 5\n", "[shrink]: unknown key 'sample'", "did you mean 'samples'"),
    ("[shrnk]\nsamples = 5\n", "unknown key 'shrnk'", "did you mean 'shrink'"),
    ("[shrink]\nmax_dorp = 5\n", "unknown key 'max_dorp'", "did you mean 'max-drop'"),
    ("[shrink]\nsamples = 'many'\n", "samples = 'many' is not a whole number", "calibration"),
    ("[shrink]\nsamples = 1.5\n", "samples = 1.5 is not a whole number", ""),
    ("[shrink]\nsamples = true\n", "samples = True is not a whole number", ""),
    ("[shrink]\nmax-drop = 'x'\n", "max-drop = 'x' is not a number", ""),
    ("[shrink]\nmax-drop = nan\n", "max-drop = nan is not a number", ""),
    ("[shrink]\ndata = ['a', 'b']\n", "data = ['a', 'b'] is not text", ""),
    ("[shrink]\nqat = 'yes'\n", "qat = 'yes' is neither true nor false", "qat = true"),
    ("[shrink]\nio = 'int9'\n", "io = 'int9' is not known", "did you mean 'int8'"),
    ("[shrink]\ntarget = [3, []]\n", "is not text", ""),
    ("[shrink]\nmax-drop = 1\nmax_drop = 2\n", "max_drop is there twice", "one of them"),
    ("[shrink]\njson = true\n", "unknown key 'json'", ""),
    ("[shrink]\nno-distill = true\n", "unknown key 'no-distill'", "did you mean 'distill'"),
    ("shrink = 5\n", "[shrink] is not a table", "write [shrink]"),
    ("[shrink\n", "cannot be read", "--no-defaults"),
    ("[shrink]\nunsafe-load = true\n", "unsafe-load may not stand in a file", "--unsafe-load"),
    ("[shrink]\ncustom_objects = ['m']\n", "may not stand in a file", "--custom-objects"),
    ("[shrink]\ndata = 'package.module:function'\n", "may not stand in a file", "--data"),
    ("[shrink]\neval-data = 'module:f'\n", "may not stand in a file", "--data"),
])
def test_a_wrong_file_is_told_with_what_was_meant(tmp_path, text, told, hint):
    with pytest.raises(UsageError) as error:
        parsed(tmp_path, text, "shrink m.keras")
    assert told in error.value.message and "tfcompress.toml" in error.value.message
    assert hint in error.value.hint


def test_errors_name_the_table_of_pyproject(tmp_path):
    with pytest.raises(UsageError, match=r"pyproject.toml: \[tool.tfcompress.shrink\]: unknown"):
        parsed(tmp_path, "[tool.tfcompress.shrink]\nsample = 1\n", "shrink m", "pyproject.toml")


def test_the_documented_defaults_are_valid(tmp_path):
    page = (ROOT / "docs/terminal.md").read_text()
    text = page.partition("```toml\n")[2].partition("```")[0]
    assert parsed(tmp_path, text, "shrink")[0].model == "model.keras"
    assert parsed(tmp_path, text, "inspect")[0].targets == ["tflite-int8"]
    assert parsed(tmp_path, text, "benchmark a.tflite")[0].device == ["local", "ssh://pi@board"]
    for name in defaults.TYPED:
        assert f"`{name}`" in page


def test_the_folder_is_the_current_one(tmp_path, monkeypatch, capsys):
    (tmp_path / "tfcompress.toml").write_text('[shrink]\nmodel = "nowhere.keras"\n')
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["shrink", "--data", "random"]) == 3
    assert "nowhere.keras" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path / "below")
    assert cli.main(["shrink", "--data", "random"]) == 2


def test_the_report_has_the_whole_command(tmp_path, monkeypatch, capsys):
    """Inspecting for a target trains and measures nothing, so it is quick; shrink is the same."""
    (tmp_path / "tfcompress.toml").write_text(
        f'[inspect]\nmodel = "{ROOT / "examples/digits.keras"}"\ntarget = "tflite-int8"\n')
    monkeypatch.chdir(tmp_path)
    assert cli.main(["inspect", "--output", "out", "--json"]) == 0
    capsys.readouterr()
    told = json.loads((tmp_path / "out/inspect.json").read_text())
    assert told["command"] == (f"tfcompress inspect {ROOT / 'examples/digits.keras'} "
                               "--target tflite-int8 --output out --json")


@pytest.mark.slow
def test_the_reports_command_does_the_same_without_the_file(tmp_path):
    def run(*argv):
        return subprocess.run([sys.executable, "-m", "tfcompress", *argv], cwd=tmp_path,
                              capture_output=True, text=True, env=os.environ)

    (tmp_path / "tfcompress.toml").write_text(f"""[shrink]
        model = "{ROOT / "examples/digits.keras"}"
        data = "{ROOT / "examples/digits.npz"}"
        target = "tflite-dynamic"
        output = "out"
        max-drop = 0.05
        seed = 3
    """)
    done = run("shrink", "--seed", "4")
    assert done.returncode == 0, done.stderr
    command = shlex.split(json.loads((tmp_path / "out/report.json").read_text())["command"])
    assert command[0] == "tfcompress" and {"--max-drop", "0.05", "4"} < set(command)
    assert "3" not in command
    (tmp_path / "tfcompress.toml").unlink()
    again = run(*command[1:])
    assert again.returncode == 0 and "nothing to do" in again.stdout, again.stderr
