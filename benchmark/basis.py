"""What the figures of a page rest on: the data, the machine, the command that makes them again."""

from __future__ import annotations

import datetime

from ..artifact import Report
from . import words
from .markup import esc, notes


def data(report: Report) -> str:
    """What the samples were; what goes without saying is left out."""
    told = dict(report.data)
    if not told:
        return ""
    if told.get("evaluated") == told.get("held_back"):
        told["evaluated"] = None
    if told.get("random") is False:
        told["random"] = None
    if isinstance(told.get("range"), dict):
        told["range"] = {name: " to ".join(map(words.plain, ends)) if isinstance(ends, list)
                         else ends for name, ends in told["range"].items()}
    return section("data", "Data", [listing(told, ("notes",)), notes(told.get("notes"))])


def environment(report: Report) -> str:
    """The machine, and the command that makes all of it again."""
    machine, parts = report.environment, []
    versions = machine.get("versions") or {}
    shown = {**machine, "versions": ", ".join(f"{k} {v}" for k, v in versions.items())}
    if shown:
        parts.append(section("environment", "Environment", [listing(shown)]))
    again = [f'<pre tabindex="0"><code>{esc(report.command)}</code></pre>'] if report.command \
        else [listing(report.recipe, words.TOLD)] if report.recipe else []
    if again:
        parts.append(section("again", "To make this again", again))
    spent = f", {words.digits3(report.seconds)} s" if report.seconds else ""
    when = f", {esc(moment(report.created))}" if report.created else ""
    parts.append(f"<footer>tfcompress {esc(report.version)}{when}{spent}. "
                 "The raw figures are in <code>report.json</code>. Sizes are decimal: 1 kB = 1000 "
                 "bytes.</footer>")
    return "\n".join(parts)


def section(key: str, title: str, parts: list[str]) -> str:
    """A section whose heading stands beside its content."""
    # What stands fourth in a target's article stands third here; text cannot hold a bare tag.
    body = "\n".join(p for p in parts if p).replace("<h4>", "<h3>").replace("</h4>", "</h3>")
    return (f'<section aria-labelledby="{key}" class="base">\n<h2 id="{key}">{title}</h2>\n<div>'
            f"{body}</div>\n</section>")


def listing(record: dict, skip: tuple[str, ...] = ()) -> str:
    """A record as a list of names and values."""
    return "<dl>" + "".join(f"<div><dt>{esc(k)}</dt><dd>{esc(v)}</dd></div>"
                            for k, v in words.pairs(record, skip)) + "</dl>"


def moment(text: str) -> str:
    """An ISO 8601 time as `2025-06-03 14:07 UTC`; other text as it is."""
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        return text
    if when.tzinfo:
        return f"{when.astimezone(datetime.UTC):%Y-%m-%d %H:%M} UTC"
    return f"{when:%Y-%m-%d %H:%M}"
