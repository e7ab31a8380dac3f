"""The Python API, from signatures and docstrings."""

import dataclasses
import importlib
import inspect
import re

import tfcompress
from tfcompress.steps import Options

from . import markdown as md

# What is public beside `tfcompress.__dir__()`: modules, and the names that count in them.
FUNCTIONS = {
    "training": ("wrap", "finish", "quantized"),
    "recipe": ("from_toml", "from_dict", "from_flags", "names"),
}
MODULES = {"release.publishing": ("publish", "pull", "alias", "listing"), "checking": ("run",),
           "differing": ("diff",)}
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises):\n((?:(?: {4}.*)?\n?)+)", re.M)


def parts() -> dict[str, dict[str, str]]:
    public = dir(tfcompress)
    missing = set(public) - {"shrink", "Result", "__version__", *FUNCTIONS}
    if missing:
        raise SystemExit(f"docs/parts/python.py does not know the public names {sorted(missing)}")
    text = [_function("tfcompress", tfcompress.shrink), "### Options\n\n" + _options(),
            _class("tfcompress", tfcompress.Result)]
    for name, wanted in FUNCTIONS.items():
        module = getattr(tfcompress, name)
        text.append(f"## tfcompress.{name}\n\n{_about(module)}")
        text += [_function(f"tfcompress.{name}", getattr(module, one), 3) for one in wanted]
    for name, wanted in MODULES.items():
        module = importlib.import_module(f"tfcompress.{name}")
        text.append(f"## tfcompress.{name}\n\n{_about(module)}")
        text += [_function(f"tfcompress.{name}", getattr(module, one), 3) for one in wanted]
    return {"reference/python.md": {"names": "\n\n".join(text)}}


def _about(module) -> str:
    told = inspect.getdoc(module).split("\n\n")[0]
    return _prose(told)


def _function(where: str, one, level: int = 2, named: str = "") -> str:
    name = named or f"{where}.{one.__name__}"
    head = f"{'#' * level} {name}\n\n" + md.fence("py", _signature(name, one))
    return f"{head}\n\n{_docstring(one)}"


def _signature(name: str, one) -> str:
    found = inspect.signature(one)
    plain = [p.replace(annotation=_plain(p.annotation)) for p in found.parameters.values()
             if p.name != "self"]
    parts = [re.sub(r": '([^']*)'", r": \1", str(p)) for p in plain]
    parts = [re.sub(r"<function .*>", "...", p) for p in parts]  # with an address
    back = "" if found.return_annotation is inspect.Signature.empty \
        else f" -> {_plain(found.return_annotation)}"
    line = f"{name}({', '.join(parts)}){back}"
    if len(line) <= 90:
        return line
    inner = "".join(f"    {p},\n" for p in parts)
    return f"{name}(\n{inner}){back}"


def _plain(annotation):
    return annotation if annotation is inspect.Parameter.empty else str(annotation)


def _docstring(one) -> str:
    told = inspect.getdoc(one) or ""
    sections = SECTION.findall(told)
    parts = [_prose(SECTION.sub("", told))]
    for title, body in sections:
        body = inspect.cleandoc(" " * 4 + body.strip("\n"))
        entries = re.findall(r"^([\w*]+): (.*(?:\n[ ]+.*)*)", body, re.M)
        if title == "Returns" or not entries:
            parts.append(f"**{title}** {_prose(body)}")
        else:
            head = {"Args": "argument", "Attributes": "attribute", "Raises": "error"}[title]
            rows = [(md.code(name.replace("*", "\\*") if "*" not in name else name), text)
                    for name, text in entries]
            parts.append(md.table((head, ""), rows))
    return "\n\n".join(p for p in parts if p.strip())


def _prose(text: str) -> str:
    """A docstring's prose; examples that are indented stay code."""
    text = text.strip().replace("``", "`")
    return re.sub(r"\n{3,}", "\n\n", text)


def _class(where: str, kind: type) -> str:
    parts = [f"## {where}.{kind.__name__}\n\n{_docstring(kind)}"]
    fields = [(md.code(f.name), md.code(_plain(f.type))) for f in dataclasses.fields(kind)]
    parts.append(md.table(("attribute", "type"), fields))
    for name, one in vars(kind).items():
        if name.startswith("_"):
            continue
        if isinstance(one, property):
            parts.append(f"**`{name}`** (`{inspect.signature(one.fget).return_annotation}`)")
        elif callable(one):
            parts.append(_function(where, one, 3, f"Result.{name}"))
    return "\n\n".join(parts)


def _options() -> str:
    from . import commands

    flags = {a.dest: next(f for f in sorted(a.option_strings, key=len, reverse=True))
             for a in commands._commands().choices["shrink"]._actions if a.option_strings}
    rows = []
    for field in dataclasses.fields(Options):
        if field.name in ("model", "targets", "data", "command"):
            continue
        default = md.code(repr(field.default))
        flag = flags.get(field.name)
        text = f"as [`{flag}`](../commands/shrink.md)" if flag else INNER[field.name]
        rows.append((md.code(field.name), md.code(_plain(field.type)), default, text))
    return md.table(("option", "type", "default", ""), rows)


INNER = {"seconds": "how long the artifacts are measured, in seconds"}
