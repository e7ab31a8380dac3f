"""Every error that tfcompress raises on purpose, and the exit code of each.

    TfcompressError                what is wrong, and what to do
    ├── UsageError            2    arguments, unknown targets, unreadable target files
    ├── ModelError            3    the model file cannot be read or used
    │   └── UnsafeModelError  3    the file carries code, which is not run unasked
    ├── DataError             4    the data do not fit the model
    ├── MissingExtra          5    an optional package is not installed
    ├── OutputError           6    the output folder cannot be written
    │   └── StoreError        6    a store of published artifacts cannot be read or written
    │       └── Dropped       6    a transfer broke off; what has arrived is kept (transfer.py)
    ├── TargetError           7    a target failed; the other targets were finished
    │   └── ChildDied         7    the process that made it was killed (child.py)
    ├── QualityError          8    an artifact is worse than the user allows
    └── Interrupted         130    Ctrl-C or SIGTERM

Exit code 0 means that everything asked for is there; 1 is a defect of tfcompress itself.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class TfcompressError(Exception):
    """What is wrong (`message`) and what the user can do about it (`hint`), one line each."""

    exit_code = 1

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def unmeasured(self) -> str:
        """The note of a measurement without values: why, and what to do about it."""
        return "; ".join(filter(None, (f"not measured: {self.message}", self.hint)))

    def to_dict(self) -> dict:
        """The form in which an error crosses a process boundary and stands in a report."""
        return {"type": type(self).__name__, "message": self.message, "hint": self.hint}


class UsageError(TfcompressError):
    exit_code = 2


class ModelError(TfcompressError):
    exit_code = 3


class UnsafeModelError(ModelError):
    pass


class DataError(TfcompressError):
    exit_code = 4


class MissingExtra(TfcompressError):
    exit_code = 5

    def __init__(self, package: str, extra: str, message: str = "", hint: str = ""):
        super().__init__(message or f"{package} is not installed",
                         hint or f"pip install 'tfcompress[{extra}]'")


class OutputError(TfcompressError):
    exit_code = 6


class StoreError(OutputError):
    pass


class TargetError(TfcompressError):
    exit_code = 7


class QualityError(TfcompressError):
    exit_code = 8


class Interrupted(TfcompressError):
    exit_code = 130


def missing(error: ModuleNotFoundError) -> MissingExtra:
    """A module that is not there: a dependency left out by `--no-deps`, or one of user code."""
    name = (error.name or str(error)).partition(".")[0]
    package = {"PIL": "pillow"}.get(name, name.replace("_", "-"))
    return MissingExtra(package, "all", hint=f"pip install {package}")


def needed(package: str, extra: str) -> ModuleType:
    """A module that is imported only where it is used.

    Raises:
        MissingExtra: It is not installed; `extra` of tfcompress brings it.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise MissingExtra(package, extra) from None


def from_dict(record: dict) -> TfcompressError:
    """The error that `TfcompressError.to_dict` wrote; unknown types become the base class."""
    kinds = {kind.__name__: kind for kind in _tree(TfcompressError)}
    error = TfcompressError(record["message"], record.get("hint", ""))
    error.__class__ = kinds.get(record["type"], TfcompressError)
    return error


def _tree(kind: type) -> list[type]:
    return [kind, *(sub for child in kind.__subclasses__() for sub in _tree(child))]


def meant(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """A hint: the known name that is nearest, or else all of them (or what is said instead)."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else otherwise or f"known: {', '.join(known)}"


def known_keys(values: dict, known: Iterable[str], where: str) -> None:
    """Refuse keys of a user's table that are not known.

    Raises:
        UsageError: The first of them, with what was probably meant.
    """
    for key in values:
        if key not in known:
            raise UsageError(f"{where}: unknown key {key!r}", meant(key, known))
