"""Values and names as literals of the languages that usage notes are written in.

Names come from a model: whatever is in them, a literal stays one literal on one line.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

PLAIN = re.compile(r"[A-Za-z0-9_ .,:;/+=()\[\]<>!@#%^&-]")  # safe in a literal of any language


def python(value: Any, indent: str = "") -> str:
    """A literal of JSON's types; lists of records have one record on each line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{python(k)}: {python(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        items = [python(v) for v in value]
        if value and isinstance(value[0], dict):
            return "[\n" + "".join(f"{indent}    {item},\n" for item in items) + f"{indent}]"
        return f"[{', '.join(items)}]"
    if isinstance(value, str):
        text = _whole(value)
        return json.dumps(text) if text.isascii() else ascii(text)  # JSON writes two surrogates
    return repr(value)


def javascript(value: Any) -> str:
    """JSON that may also stand in a page's script, which `</script>` would end."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + "".join(f"  {javascript(v)},\n" for v in value) + "]"
    return json.dumps(value).replace("<", "\\u003c")


def kotlin(text: str) -> str:
    units = _whole(text).encode("utf-16-be")
    codes = [int.from_bytes(units[i:i + 2], "big") for i in range(0, len(units), 2)]
    return _quoted(codes, lambda code: f"\\u{code:04x}")


def swift(text: str) -> str:
    return _quoted(map(ord, _whole(text)), lambda code: f"\\u{{{code:x}}}")


def cpp(text: str) -> str:
    """UTF-8; three octal digits, because a hexadecimal escape would swallow what follows."""
    return _quoted(_whole(text).encode(), lambda code: f"\\{code:03o}")


def shell(text: str) -> str:
    """One word of a POSIX shell, for a code block: control characters are no part of it."""
    text = clean(text)
    return text if re.fullmatch(r"[\w./:@%+=-]+", text, re.A) else "'" + text.replace(
        "'", "'\"'\"'") + "'"


def code(text: str) -> str:
    """A code span of Markdown; `cell` makes one for a table."""
    text = clean(text)
    ticks = max(map(len, re.findall("`+", text)), default=0) + 1
    gap = " " if "`" in text or text != text.strip() or not text else ""
    return "`" * ticks + gap + text + gap + "`" * ticks


def cell(text: str) -> str:
    """A code span in a table, where a bar would end the cell."""
    return code(text).replace("|", "\\|")


def clean(text: str) -> str:
    """Without characters that would end a line or steer its direction."""
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in (
        "Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text)


def _whole(text: str) -> str:
    """Without lone halves of surrogate pairs, which no encoding takes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _quoted(codes, escape) -> str:
    return '"' + "".join(chr(c) if c < 128 and PLAIN.fullmatch(chr(c)) else escape(c)
                         for c in codes) + '"'
