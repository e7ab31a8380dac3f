"""What shells are told, so that they complete our words: scripts made from the parser.

Each script holds all words itself, so completing one starts no Python. Where a word may also be a
file, the shell's own completion of files takes over. Standard library only.
"""

from __future__ import annotations

import argparse
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from .. import targets
from . import arguments

RECIPES = Path(__file__).parent.parent / "compress" / "training" / "recipes_toml"
# What other modules take as values: here as words, so that none of them is imported for it.
VALUES = {
    "format": ("table", "json", "junit", "github", "sarif", "benchmark", "markdown"),
    "metric": ("accuracy", "top5", "auc", "mae", "rmse"),
    "normalize": ("0..1", "-1..1", "imagenet"),
    "backend": ("native", "tfmot"),
    "device": ("local", "ssh://", "adb://"),
}
OR_A_FILE = ("targets", "recipe")
FOLDERS = ("DIR",)
FILES = ("FILE", "DATA", "KEY.pem", "PUB.pem", "STORE")  # how a metavar begins


@dataclass(frozen=True)
class Slot:
    """Something that is typed: an option's value, or an argument.

    Attributes:
        flags: The option's names; empty for an argument.
        help: One line.
        value: What it is called; empty where an option takes none.
        words: What can be typed there.
        paths: `files`, `folders`, or empty.
        many: Whether it can be given again.
    """

    flags: tuple[str, ...]
    help: str
    value: str = ""
    words: tuple[str, ...] = ()
    paths: str = ""
    many: bool = False


@dataclass(frozen=True)
class Command:
    """A command, its options and its arguments."""

    name: str
    help: str
    options: tuple[Slot, ...]
    arguments: tuple[Slot, ...]


def words() -> list[Command]:
    """Everything that can be typed, as the parser has it."""
    whole = arguments.parser()
    told = {c.dest: c.help for c in whole._subparsers._group_actions[0]._choices_actions}
    known = VALUES | {"targets": targets.names(),
                      "recipe": sorted(path.stem for path in RECIPES.glob("*.toml"))}
    found = []
    for name, parser in whole.commands().items():
        slots = [_slot(a, known, name) for a in parser._actions]
        found.append(Command(name, told[name], tuple(s for s in slots if s.flags),
                             tuple(s for s in slots if not s.flags)))
    return found


def _slot(action: argparse.Action, known: dict, command: str) -> Slot:
    flags = tuple(sorted(action.option_strings, key=lambda f: not f.startswith("--")))
    help = re.split(r"; | \(", action.help or "")[0]
    if flags and action.nargs == 0:
        return Slot(flags, help)
    value = action.metavar or action.dest.upper()
    told = known.get(action.dest, action.choices or ())
    paths = "files" if action.dest in OR_A_FILE and command != "pull" else ""
    if value in FOLDERS or action.dest in ("folder", "folders"):
        paths = "folders"
    elif value.startswith(FILES) or not flags and not action.choices and action.dest != "alias":
        paths = "files"
    many = isinstance(action, argparse._AppendAction) or action.nargs in ("+", "*")
    return Slot(flags, help, value, tuple(told), paths, many)


# ---- bash -----------------------------------------------------------------------------------

def bash(commands: list[Command]) -> str:
    """For bash 3.2 and later, with or without the bash-completion package.

    An empty answer leaves the word to bash's own completion of files (`-o default`).
    """
    cases = []
    for one in commands:
        for slot in (s for s in one.options if s.value):
            pattern = "|".join(f'"{one.name} {flag}"' for flag in slot.flags)
            cases.append(f"        {pattern}) {_bash(slot)} ;;")
    options = [f'        {c.name}) words={shlex.quote(" ".join(_flags(c)))} ;;' for c in commands]
    places = [f"        {c.name}) {_bash(c.arguments[0])} ;;" for c in commands
              if c.arguments and c.arguments[0].words]
    return "\n".join([
        "# bash completion of tfcompress; made by `tfcompress completion bash`",
        "_tfcompress() {",
        '    local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" words= none=',
        '    if [ "$cur" = "=" ]; then cur=',
        '    elif [ "$prev" = "=" ]; then prev="${COMP_WORDS[COMP_CWORD-2]}"; fi',
        "    COMPREPLY=()",
        '    if [ "$COMP_CWORD" -eq 1 ]; then',
        f'        words="{" ".join(c.name for c in commands)} --help --version"',
        "    else",
        '        case "${COMP_WORDS[1]} $prev" in', *cases,
        '        *) case "$cur" in',
        '        -*) case "${COMP_WORDS[1]}" in', *options, "        esac ;;",
        '        *) case "${COMP_WORDS[1]}" in', *places, "        esac ;;",
        "        esac ;;", "        esac", "    fi",
        '    COMPREPLY=($(compgen -W "$words" -- "$cur"))',
        '    [ -z "$none" ] || compopt +o default 2>/dev/null', "}",
        "complete -o default -o bashdefault -F _tfcompress tfcompress", ""])


def _bash(slot: Slot) -> str:
    told = [f"words={shlex.quote(' '.join(slot.words))}"] * bool(slot.words)
    return "; ".join(told + ["none=1"] * (not slot.paths)) or ":"


def _flags(command: Command) -> list[str]:
    return [flag for slot in command.options for flag in slot.flags if flag.startswith("--")]


# ---- zsh ------------------------------------------------------------------------------------

def zsh(commands: list[Command]) -> str:
    """For zsh, as a file `_tfcompress` in a folder of `$fpath`, or sourced after `compinit`."""
    listed = [shlex.quote(f"{c.name}:{c.help}") for c in commands]
    lines = ["#compdef tfcompress", "_tfcompress() {", "    local -a commands",
             f"    commands=({' '.join(listed)})",
             "    if (( CURRENT == 2 )); then",
             "        if [[ $PREFIX == -* ]]; then compadd -- --help --version",
             "        else _describe command commands; fi", "        return", "    fi",
             "    local command=$words[2]", "    shift words; (( CURRENT-- ))",
             "    case $command in"]
    for one in commands:
        specs = [_zsh_option(slot, flag) for slot in one.options for flag in slot.flags]
        specs += [f"{'*' if s.many else n}:{_zsh_text(s.value)}:{_zsh_action(s)}"
                  for n, s in enumerate(one.arguments, 1)]
        lines += [f"    {one.name}) _arguments -s \\"]
        lines += [f"        {shlex.quote(spec)} \\" for spec in specs[:-1]]
        lines += [f"        {shlex.quote(specs[-1])} ;;"]
    return "\n".join([
        *lines, "    esac", "}",
        'if [ "$funcstack[1]" = "_tfcompress" ]; then _tfcompress "$@"',
        "else compdef _tfcompress tfcompress; fi", ""])


def _zsh_option(slot: Slot, flag: str) -> str:
    again = "*" if slot.many else f"({' '.join(slot.flags)})"
    equals = "=" if slot.value and flag.startswith("--") else ""
    value = f":{_zsh_text(slot.value)}:{_zsh_action(slot)}" if slot.value else ""
    return f"{again}{flag}{equals}[{_zsh_text(slot.help)}]{value}"


def _zsh_action(slot: Slot) -> str:
    paths = {"files": "_files", "folders": "_files -/", "": ""}[slot.paths]
    if slot.words:
        return "{compadd -- " + " ".join(map(shlex.quote, slot.words)) + \
            (f"; {paths}" if paths else "") + "}"
    return paths or " "


def _zsh_text(text: str) -> str:
    for char in "\\[]:":
        text = text.replace(char, f"\\{char}")
    return text


# ---- fish -----------------------------------------------------------------------------------

def fish(commands: list[Command]) -> str:
    """For fish, as a file in its folder `completions`."""
    lines = ["# fish completion of tfcompress; made by `tfcompress completion fish`",
             "function __tfcompress_in", "    set -l words (commandline -opc)",
             '    test (count $words) -ge 2; and test "$words[2]" = "$argv[1]"', "end",
             "function __tfcompress_new", "    test (count (commandline -opc)) -eq 1", "end",
             "complete -c tfcompress -n __tfcompress_new -f",
             "complete -c tfcompress -n __tfcompress_new -l help -l version"]
    for one in commands:
        lines.append(f"complete -c tfcompress -n __tfcompress_new -a {one.name} "
                     f"-d {_fish_text(one.help)}")
        inside = f"complete -c tfcompress -n '__tfcompress_in {one.name}'"
        for slot in one.options:
            names = " ".join(f"-l {f[2:]}" if f.startswith("--") else f"-s {f[1:]}"
                             for f in slot.flags)
            lines.append(f"{inside} {names}{_fish_value(slot)} -d {_fish_text(slot.help)}")
        words = [w for slot in one.arguments for w in slot.words]
        if words or not one.arguments:
            lines.append(f"{inside} -f" + (f" -a {_fish_text(' '.join(words))}" if words else ""))
    return "\n".join([*lines, ""])


def _fish_value(slot: Slot) -> str:
    if not slot.value:
        return ""
    told = f" -a {_fish_text(' '.join(slot.words))}" if slot.words else ""
    if slot.paths == "folders":
        return " -x -a '(__fish_complete_directories)'"
    return (" -r -F" if slot.paths else " -x") + told


def _fish_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SCRIPTS = {"bash": bash, "zsh": zsh, "fish": fish}
