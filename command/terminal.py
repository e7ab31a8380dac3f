"""What a terminal is told: how wide, in which colours, with which progress. Prints nothing."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path


def size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def width() -> int:
    import shutil

    return shutil.get_terminal_size((100, 24)).columns


def color() -> bool:
    """Whether to print in colour: https://no-color.org, and not into files."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not plain


@contextmanager
def progress(machine: bool):
    """A line per stage on a terminal; silence where nobody watches."""
    if machine or not sys.stderr.isatty():
        yield None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    except ImportError:  # `pull` and its like need nothing that is installed
        yield None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<24}"),
        BarColumn(20),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict = {}

        def show(stage: str, fraction: float | None, text: str) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=None, text=text)
            total = None if fraction is None else 1.0
            bars.update(tasks[stage], total=total, completed=fraction or 0, text=text[:40])
            for name, task in tasks.items():
                if name != stage and name in ONE_AT_A_TIME and not bars.tasks[task].finished:
                    bars.update(task, total=1, completed=1, text="")

        yield show


ONE_AT_A_TIME = ("read model", "read data", "train", "convert", "run source model", "quantize",
                 "measure", "measure layers", "check targets")
