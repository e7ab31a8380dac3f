"""The scripts for shells, in those shells."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time

import pytest

from tfcompress import data, steps, targets
from tfcompress.benchmark import gate_formats, words
from tfcompress.command import arguments, completion
from tfcompress.compress.training import recipe

COMMANDS = arguments.parser().commands()
FILES = ("model.keras", "my.toml", "samples.npz", "with space.keras")


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """The three scripts, a folder of `$fpath`, and a working folder with files in it."""
    place = tmp_path_factory.mktemp("completion")
    for shell, script in completion.SCRIPTS.items():
        (place / f"script.{shell}").write_text(script(completion.words()))
    (place / "fpath").mkdir()
    shutil.copy(place / "script.zsh", place / "fpath/_tfcompress")
    (place / "bin").mkdir()
    (place / "bin/tfcompress").write_text("#!/bin/sh\nexit 9\n")  # completing needs no Python
    (place / "bin/tfcompress").chmod(0o755)
    (place / "work/model-tfcompress").mkdir(parents=True)
    for name in FILES:
        (place / "work" / name).write_text("")
    return place


def environ(scripts):
    return os.environ | {"PATH": f"{scripts}/bin:{os.environ['PATH']}", "TERM": "dumb",
                         "HOME": str(scripts), "XDG_CONFIG_HOME": str(scripts / "config")}


def in_bash(scripts, *typed):
    """What bash's own caller gets: the words in `COMPREPLY`."""
    code = ('source ../script.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _tfcompress; '
            'printf "%s\\n" "${COMPREPLY[@]}"')
    done = subprocess.run(["bash", "--norc", "-c", code, "bash", *typed], capture_output=True,
                          text=True, cwd=scripts / "work", env=environ(scripts))
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.split()


def in_fish(scripts, line):
    code = "source ../script.fish; complete -C $argv[1]"
    done = subprocess.run(["fish", "--no-config", "-c", code, line], capture_output=True,
                          text=True, cwd=scripts / "work", env=environ(scripts))
    assert done.returncode == 0 and not done.stderr, done.stderr
    return [found.partition("\t")[0] for found in done.stdout.splitlines()]


def typed_into(shell, scripts, line, *setup):
    """The line as it stands after Tab was pressed in an interactive shell."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(scripts / "work")
        os.execvpe(shell[0], shell, environ(scripts) | {"COLUMNS": "200"})

    def read(until, seconds):
        told, end = b"", time.monotonic() + seconds
        while until not in told and time.monotonic() < end:
            if select.select([terminal], [], [], 0.1)[0]:
                told += os.read(terminal, 65536)
        return told

    try:
        os.write(terminal, ("; ".join([*setup, "echo rea''dy"]) + "\n").encode())
        assert b"ready\r" in read(b"ready\r", 30)
        os.write(terminal, line.encode() + b"\t")
        read(b"never", 1.5)  # so that Tab is not taken for pasted text
        os.write(terminal, b"\x07")
        told = read(b">>", 30).decode(errors="replace")
        return told.rpartition("<<")[2].partition(">>")[0].rstrip()
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)


def in_zsh(scripts, line, *setup):
    show = "show() { print -r -- \"<<$BUFFER>>\"; zle kill-buffer }; zle -N show; bindkey '^G' show"
    return typed_into(["zsh", "-f", "-i"], scripts, line, *setup, show)


def test_the_words_are_those_of_the_modules_that_take_them():
    assert completion.VALUES["format"] == tuple(gate_formats.FORMATS)
    assert completion.VALUES["metric"] == tuple(words.HIGHER_IS_BETTER)
    assert completion.VALUES["normalize"] == tuple(data.NORMALIZATIONS)
    assert completion.VALUES["backend"] == steps.BACKENDS
    found = {c.name: c for c in completion.words()}
    by = {slot.flags: slot for slot in found["shrink"].options}
    assert by["--target", "-t"].words == tuple(targets.names())
    assert by["--recipe",].words == tuple(recipe.names())


def test_every_word_is_in_every_script(scripts):
    for shell in completion.SCRIPTS:
        script = (scripts / f"script.{shell}").read_text()
        for name, command in COMMANDS.items():
            assert name in script
            for flag in command._option_string_actions:
                assert (f" -l {flag[2:]}" if shell == "fish" and flag.startswith("--") else
                        f" -s {flag[1:]}" if shell == "fish" else
                        flag if flag.startswith("--") or shell == "zsh" else "") in script


@pytest.mark.parametrize("typed, found", [
    (["sh"], ["shrink"]), (["ch"], ["check"]), (["--v"], ["--version"]),
    (["shrink", "m.keras", "--target", "tflite-int"],
     ["tflite-int8", "tflite-int16x8", "tflite-int4"]),
    (["shrink", "m.keras", "-t", "edge"], ["edge-tpu"]),
    (["shrink", "m.keras", "--target", "=", "edge"], ["edge-tpu"]),
    (["shrink", "m.keras", "--backend", "="], ["native", "tfmot"]),
    (["shrink", "--di"], ["--distill"]), (["shrink", "--recipe", "cluster-"], ["cluster-qat"]),
    (["inspect", "--target", "ethos-u8"], ["ethos-u85-256"]),
    (["check", "--format", "j"], ["json", "junit"]), (["completion", ""], ["bash", "zsh", "fish"]),
    (["setup", ""], ["browser"]), (["pull", "./store/a", "-t", "micr"], ["micro"]),
    (["shrink", "--normalize", "-"], ["-1..1"]), (["shrink", "--samples", ""], []),
    (["shrink", "mod"], []), (["shrink", "m.keras", "--target", "my"], []),  # files: bash's own
])
def test_bash_completes(scripts, typed, found):
    assert in_bash(scripts, "tfcompress", *typed) == found


@pytest.mark.slow
def test_bash_completes_files_itself(scripts):
    line = 'show() { echo "<<$READLINE_LINE>>"; }'
    shell = ["bash", "--norc", "--noprofile", "-i"]
    setup = ("source ../script.bash", line, "bind -x '\"\\C-g\": show' 2>/dev/null")
    for typed, told in (("tfcompress shrink mod", "tfcompress shrink model"),
                        ("tfcompress shrink --target my", "tfcompress shrink --target my.toml"),
                        ("tfcompress shrink with", "tfcompress shrink with\\ space.keras"),
                        ("tfcompress shrink --samples mod", "tfcompress shrink --samples mod")):
        assert typed_into(shell, scripts, typed, *setup) == told


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
@pytest.mark.parametrize("line, found", [
    ("tfcompress sh", {"shrink"}), ("tfcompress shrink --target tflite-int4", {"tflite-int4"}),
    ("tfcompress shrink --target=edge", {"--target=edge-tpu"}),
    ("tfcompress shrink -t edge", {"edge-tpu"}), ("tfcompress shrink --targ", {"--target"}),
    ("tfcompress completion ", {"bash", "zsh", "fish"}),
    ("tfcompress check -f j", {"json", "junit"}), ("tfcompress targets mod", set()),
    ("tfcompress shrink --labels my", {"my.toml"}), ("tfcompress shrink --samples my", set()),
    ("tfcompress pull ./a --output m", {"model-tfcompress/"}),
])
def test_fish_completes(scripts, line, found):
    assert set(in_fish(scripts, line)) == found


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
@pytest.mark.slow
@pytest.mark.parametrize("line, told", [
    ("tfcompress shri", "tfcompress shrink"),
    ("tfcompress shrink m --target edge", "tfcompress shrink m --target edge-tpu"),
    ("tfcompress shrink --target=edge", "tfcompress shrink --target=edge-tpu"),
    ("tfcompress shrink -t my", "tfcompress shrink -t my.toml"),
    ("tfcompress shrink --no-dis", "tfcompress shrink --no-distill"),
    ("tfcompress completion fi", "tfcompress completion fish"),
    ("tfcompress report mod", "tfcompress report model-tfcompress/"),
])
def test_zsh_completes(scripts, line, told):
    setup = "fpath=(../fpath $fpath); autoload -U compinit; compinit -u -D"
    assert in_zsh(scripts, line, setup) == told


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_zsh_completes_from_a_sourced_script_too(scripts):
    setup = "autoload -U compinit; compinit -u -D; source ../script.zsh"
    assert in_zsh(scripts, "tfcompress shrink m --io ui", setup) == (
        "tfcompress shrink m --io uint8")


def test_a_script_is_made_in_a_tenth_of_a_second():
    """Of processor time, the least of five: this machine may be busy with other things."""
    code = ("import sys, time; from tfcompress import cli; cli.main(['completion', 'bash']); "
            "light = not {'numpy', 'tensorflow', 'keras', 'rich'} & set(sys.modules); "
            "print(time.process_time() if light else 99, file=sys.stderr)")
    spent = [float(subprocess.run([sys.executable, "-c", code], capture_output=True,
                                  text=True).stderr) for _ in range(5)]
    assert min(spent) < 0.1, spent
