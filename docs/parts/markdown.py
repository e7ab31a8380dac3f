"""Tables and small forms of Markdown that the generated parts share."""

from collections.abc import Iterable


def table(head: tuple[str, ...], rows: Iterable[tuple]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(c) for c in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def code(text: object) -> str:
    return f"`{text}`"


def codes(values: Iterable) -> str:
    return ", ".join(code(v) for v in values)


def fence(language: str, text: str) -> str:
    return f"```{language}\n{text.strip()}\n```"


def sentence(text: str) -> str:
    """With a capital at its start and a full stop at its end."""
    text = " ".join(text.split())
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", ":", "!")) else ".")
