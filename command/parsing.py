"""How a command line is parsed: help that fits its terminal, and errors that say what was meant."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable

from ..errors import UsageError, meant
from . import terminal

NOT_OPTIONS = re.compile(r"-\d.*")  # `--normalize -1..1`: a value, although it begins with a dash


class _Help(argparse.HelpFormatter):
    """Wraps each paragraph; one that has lines of its own keeps them."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30, width=min(100, terminal.width()) - 2)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(part if "\n" in part else fill(part, width, indent)
                           for part in text.split("\n\n"))


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are `UsageError`s that say what was probably meant."""

    def __init__(self, **more):
        super().__init__(**{"formatter_class": _Help, "allow_abbrev": False} | more)
        self._negative_number_matcher = NOT_OPTIONS

    def error(self, message: str):
        raise UsageError(message, f"see {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            what = "/".join(action.option_strings) or (action.metavar or action.dest).lower()
            raise UsageError(f"unknown {what} {value!r}", meant(str(value), action.choices))

    def parse_args(self, args=None, namespace=None):
        """As argparse's, but of an option that is not known it says which one is meant."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            command = self.commands().get(getattr(found, "command_name", None), self)
            word = next((u for u in unknown if u.startswith("-")), unknown[0])
            if not word.startswith("-"):
                raise UsageError(f"one argument too many: {word!r}", f"see {command.prog} --help")
            name = word.partition("=")[0]
            known = [o for o in command._option_string_actions if o.startswith("--")]
            raise UsageError(f"{command.prog} has no option {name}", meant(
                name, known, f"see {command.prog} --help"))
        return found

    def commands(self) -> dict[str, Parser]:
        """The parser of each command, in the order in which the help lists them."""
        return self._subparsers._group_actions[0].choices if self._subparsers else {}


def lines(title: str, told: Iterable[str]) -> str:
    """A heading, and lines under it."""
    return "\n".join([f"{title}:", *(f"  {line}" for line in told)])


def examples(*told: str) -> str:
    """Command lines, as the end of a command's help."""
    return lines("examples", (f"tfcompress {line}" for line in told))
