"""Pieces of the report's page as HTML.

Every text that comes from a model, a target or the machine passes through `esc`.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from . import words

LONG = 12  # lines beyond which a table is folded up
MOST = 200  # lines of a table at most; all of them are in report.json


def esc(value: object) -> str:
    return html.escape(words.clean(value))


def code(value: object) -> str:
    return f"<code>{esc(value)}</code>" if value not in ("", None) else ""


def random_mark(flag: bool) -> str:
    return ' <span class="random">random data</span>' if flag else ""


def notes(lines: Iterable[str] | None) -> str:
    return "".join(f'<p class="note">{esc(n)}</p>' for n in lines or ())


def grid(title: str, columns: list[tuple[str, Callable[[dict], str], str]],
         records: Iterable[dict]) -> str:
    """A table in a box that scrolls sideways where it must; columns without content fold away.

    Args:
        title: Heading and accessible name.
        columns: (heading, HTML of one record's cell, CSS class) for each column.
        records: One for each line.
    """
    return f'<div class="block"><h4>{esc(title)}</h4>{_table(title, columns, records)}</div>'


def long_grid(title: str, told: str, columns: list[tuple[str, Callable[[dict], str], str]],
              records: Sequence[dict]) -> str:
    """A `grid` that is folded up behind the sentence `told` where it is long."""
    if len(records) <= LONG:
        return grid(title, columns, records)
    rest = len(records) - MOST
    more = f'<p class="note">{rest:,} more in report.json.</p>' if rest > 0 else ""
    return (f'<div class="block"><h4>{esc(title)}</h4><details><summary>{esc(told)}</summary>\n'
            f"{_table(title, columns, records[:MOST])}{more}</details></div>")


@dataclass(frozen=True)
class Column:
    """A column of a table that can be sorted.

    Attributes:
        title: Its heading.
        make: HTML of one record's cell.
        key: What it is sorted by; None where the record has no such figure.
        style: CSS class.
        text: Whether it is sorted as text; numbers begin with the largest.
    """

    title: str
    make: Callable[[dict], str]
    key: Callable[[dict], object]
    style: str = ""
    text: bool = False


def sortable(title: str, told: str, columns: list[Column], records: Sequence[dict],
             after: str = "") -> str:
    """A table whose headings the page's script makes into buttons; folded up where it is long."""
    head = "".join(f'<th scope="col" class="{c.style}" data-sort="{"text" if c.text else "number"}"'
                   f">{esc(c.title)}</th>" for c in columns)
    body = "".join("<tr>" + "".join(_keyed(c, r) for c in columns) + "</tr>" for r in records)
    table = (f'<div class="scroll" role="region" tabindex="0" aria-label="{esc(title)}">'
             f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
             f"</div>{after}")
    if len(records) > LONG:
        table = f"<details><summary>{esc(told)}</summary>\n{table}</details>"
    return f'<div class="block"><h4>{esc(title)}</h4>{table}</div>'


def _keyed(column: Column, record: dict) -> str:
    key = column.key(record)
    return (f'<td class="{column.style}" data-v="{"" if key is None else esc(key)}">'
            f"{column.make(record)}</td>")


def _table(title: str, columns: list[tuple[str, Callable[[dict], str], str]],
           records: Iterable[dict]) -> str:
    lines = [[make(r) for _, make, _ in columns] for r in records]
    kept = [i for i in range(len(columns)) if any(line[i] for line in lines)]
    head = "".join(f'<th scope="col" class="{columns[i][2]}">{esc(columns[i][0])}</th>'
                   for i in kept)
    body = "".join("<tr>" + "".join(f'<td class="{columns[i][2]}">{line[i]}</td>' for i in kept)
                   + "</tr>" for line in lines)
    return (f'<div class="scroll" role="region" tabindex="0" aria-label="{esc(title)}"><table>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>")
