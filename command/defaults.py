"""Defaults of commands that a folder keeps: `[shrink]` in tfcompress.toml.

    [shrink]                              # [tool.tfcompress.shrink] in pyproject.toml
    model = "model.keras"
    target = ["tflite-int8", "tflite-float16"]
    data = "samples.npz"
    max-drop = 0.01

The keys are the names of the options and arguments. The file is the one in the current folder:
tfcompress.toml, or else pyproject.toml. What stands on the command line wins. Defaults become
words of the command line, so all that follows, the report's command too, sees one full command.
Standard library only.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from ..errors import UsageError, known_keys, meant
from . import arguments
from .arguments import WITH_DEFAULTS
from .parsing import Parser

FILES = ("tfcompress.toml", "pyproject.toml")
OTHER_TABLES = ("check",)
# These run code or name a program that is run: a file that came with a model shall not ask for it.
TYPED = ("unsafe-load", "custom-objects", "device-python")
NEVER = ("help", "json", "debug", "no-defaults")
STAGES = {"prune", "prune_to", "cluster", "qat"}  # which cannot be given beside a recipe
KINDS = {int: "a whole number", float: "a number", str: "text"}


def parse(argv: list[str], folder: Path | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Parse a command line together with the defaults of a folder (default: the current one).

    Returns:
        What argparse returns, and the command line with the defaults written out.

    Raises:
        UsageError: The command line or the file is wrong.
    """
    whole = arguments.parser()
    command = argv[0] if argv and argv[0] in WITH_DEFAULTS else None
    if command is None or {"--no-defaults", "-h", "--help"} & set(argv):
        return whole.parse_args(argv), argv
    where, table = read(command, folder or Path())
    found = words(whole.commands()[command], table, where)
    if not found:
        return whole.parse_args(argv), argv
    given = _given(argv)
    if "recipe" in given:
        given |= STAGES
    elif STAGES & given:
        given.add("recipe")
    kept = [word for dest, told in found.items() if dest not in given for word in told]
    full = [command, *kept, *argv[1:]]
    return whole.parse_args(full), full


def read(command: str, folder: Path) -> tuple[str, dict]:
    """Where the defaults of a command stand, and what they are; empty where there are none.

    Raises:
        UsageError: The file cannot be read, or has a table that is not known.
    """
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        return "", {}
    import tomllib

    try:
        record = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        if path.name == "pyproject.toml":  # other tools complain about that one
            return "", {}
        raise UsageError(f"{path} cannot be read: {error}", "correct it, or give --no-defaults") \
            from None
    prefix = ""
    if path.name == "pyproject.toml":
        prefix, tool = "tool.tfcompress.", record.get("tool", {})
        record = tool.get("tfcompress", {}) if isinstance(tool, dict) else {}
    where = f"{path}: [{prefix}{command}]"
    if isinstance(record, dict):
        known_keys(record, (*WITH_DEFAULTS, *OTHER_TABLES), str(path))
    table = record.get(command, {}) if isinstance(record, dict) else record
    if not isinstance(table, dict):
        raise UsageError(f"{where} is not a table", f"write [{prefix}{command}] on a line")
    return where, table


def words(parser: Parser, table: dict, where: str) -> dict[str, list[str]]:
    """The defaults as words of a command line, by the name of what argparse makes of them.

    Raises:
        UsageError: An unknown key, a value of another kind, or a key that has to be typed.
    """
    actions = {name: a for a in parser._actions for name in _names(a) if name not in NEVER}
    found: dict[str, list[str]] = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        if name in TYPED:
            raise UsageError(f"{where}: {key} may not stand in a file: it lets code run",
                             f"give --{name} on the command line")
        if name not in actions:
            raise UsageError(f"{where}: unknown key {key!r}",
                             meant(name, [n for n in actions if n not in TYPED]))
        action = actions[name]
        if action.dest in found:
            raise UsageError(f"{where}: {key} is there twice", "leave one of them")
        found[action.dest] = _words(action, name, value, f"{where}: {key} = {_shown(value)}")
    if function := _function(found):
        raise UsageError(f"{where}: data from {function} may not stand in a file: it lets code run",
                         "give --data on the command line")
    return found


def _names(action: argparse.Action) -> list[str]:
    if not action.option_strings:
        return [action.dest]
    longs = [o.removeprefix("--") for o in action.option_strings if o.startswith("--")]
    return longs[:1]  # `--distill`, not `--no-distill`


def _words(action: argparse.Action, name: str, value: object, told: str) -> list[str]:
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise UsageError(f"{told} is neither true nor false", f"write {name} = true")
        switch = isinstance(action, argparse.BooleanOptionalAction)
        return [f"--{name}"] if value else [f"--no-{name}"] * switch
    many = isinstance(value, list) and isinstance(action, argparse._AppendAction)
    texts = [_text(action, one, told) for one in (value if many else [value])]
    if not action.option_strings:
        return texts
    return [word for text in texts
            for word in ([f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text])]


def _text(action: argparse.Action, value: object, told: str) -> str:
    kind = action.type or str
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = {int: number and isinstance(value, int), float: number and math.isfinite(value),
            str: isinstance(value, str) or number}[kind]
    if not fits or value == "":
        raise UsageError(f"{told} is not {KINDS[kind]}", action.help or "correct it")
    if action.choices is not None and value not in action.choices:
        raise UsageError(f"{told} is not known", meant(str(value), action.choices))
    return str(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def _function(found: dict[str, list[str]]) -> str:
    """Data that a Python function yields, which is code; empty where there are none."""
    for dest in ("data", "eval_data"):
        spec = found.get(dest, [""])[-1]
        if ":" in spec and not Path(spec).exists():
            return spec
    return ""


def _given(argv: list[str]) -> set[str]:
    """The names of what a command line sets itself."""
    whole = arguments.parser()
    command = whole.commands()[argv[0]]
    for action in command._actions:
        action.default = argparse.SUPPRESS
        if not action.option_strings:
            action.nargs, action.required = "?", False
    return set(vars(whole.parse_args(argv)))
