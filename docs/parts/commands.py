"""A page per command, from the parser of the command line."""

import argparse
import re

from tfcompress.command.arguments import parser

from . import markdown as md

# Why a line of the parser's examples cannot be run by the tests: what it has, and the reason.
CANNOT = {"ssh://": "needs a board", "s3://": "needs a bucket", "oci://": "needs a registry"}
EPILOG = re.compile(r"^(\w[\w ]*):\n((?:[ ]+.*\n?)+)", re.M)
ELSEWHERE = {"docs/stages.md": "[Training](../stages.md)", "docs/check.md": "[check](../check.md)",
             "docs/publish.md": "[Publish and pull](../publish.md)"}


def _commands() -> argparse._SubParsersAction:
    return next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))


def names() -> list[str]:
    return list(_commands().choices)


def head(name: str) -> dict[str, str]:
    about = {a.dest: a.help for a in _commands()._choices_actions}
    return {"title": f"tfcompress {name}", "intro": md.sentence(about[name])}


def parts() -> dict[str, dict[str, str]]:
    found = _commands()
    about = {a.dest: a.help for a in found._choices_actions}
    rows = [(f"[`{name}`]({name}.md)", md.sentence(about[name])) for name in found.choices]
    general = parser()
    pages = {"commands/index.md": {
        "commands": md.table(("command", "what it does"), rows),
        "general": _options(general, skip=("command_name",)),
    }}
    for name, one in found.choices.items():
        pages[f"commands/{name}.md"] = {"command": _page(name, one, general)}
    return pages


def _page(name: str, one: argparse.ArgumentParser, general: argparse.ArgumentParser) -> str:
    usage = [f"tfcompress {name}", *(_metavar(a) for a in one._actions if not a.option_strings),
             "[options]"]
    parts = [md.fence("text", " ".join(usage))]
    if one.description and md.sentence(one.description) != head(name)["intro"]:
        parts += [_linked(one.description)]
    parts += [_options(one)]
    told = "" if one.epilog == general.epilog and name != "shrink" else one.epilog or ""
    for title, body in EPILOG.findall(told):
        if title == "examples":
            own = [line.strip() for line in body.splitlines()
                   if line.strip().startswith(f"tfcompress {name}")]
            parts += [f"## Examples\n\n{_examples(own)}"]
        elif title == "exit codes" and name != "shrink":
            parts += [f"## {title.capitalize()}\n\n{_exit_codes(body)}"]
    return "\n\n".join(p for p in parts if p)


def _options(one: argparse.ArgumentParser, skip: tuple[str, ...] = ()) -> str:
    parts = []
    groups = [g for g in one._action_groups]
    positional = [a for g in groups for a in g._group_actions
                  if not a.option_strings and a.dest not in skip]
    if positional:
        rows = [(md.code(_metavar(a)), _help(a)) for a in positional]
        parts += [f"## Arguments\n\n{md.table(('argument', 'what it is'), rows)}"]
    for group in groups:
        rows = [(_flags(a), _help(a)) for a in sorted(group._group_actions, key=_late)
                if a.option_strings and a.help != argparse.SUPPRESS]
        if rows:
            plain = group.title in ("options", "optional arguments")
            title = "Options" if plain else md.sentence(group.title).rstrip(".")
            about = "" if plain or not group.description else f"{_linked(group.description)}\n\n"
            parts += [f"## {title}\n\n{about}{md.table(('option', 'what it does'), rows)}"]
    return "\n\n".join(parts)


def _late(action: argparse.Action) -> bool:
    """Whether the option is one that every command has."""
    return action.dest in ("help", "json", "debug")


def _metavar(action: argparse.Action) -> str:
    told = action.metavar
    if told is None and action.choices:
        told = next(iter(action.choices)) if len(action.choices) == 1 \
            else f"{{{','.join(map(str, action.choices))}}}"
    told = told if isinstance(told, str) else action.dest.upper() if told is None \
        else " ".join(told)
    more = {"*": f"[{told} ...]", "+": f"{told} [{told} ...]", "?": f"[{told}]"}
    return more.get(action.nargs, told)


def _flags(action: argparse.Action) -> str:
    flags = sorted(action.option_strings, key=lambda f: (not f.startswith("--"), f))
    value = "" if action.nargs == 0 else f" {_metavar(action)}"
    return ", ".join(md.code(f"{flag}{value if flag.startswith('--') else ''}") for flag in flags)


def _help(action: argparse.Action) -> str:
    return _linked((action.help or "").replace("%(default)s", str(action.default)))


def _linked(text: str) -> str:
    text = re.sub(r"(?<!\n)\n(?!\n)", " ", text)
    for name, link in ELSEWHERE.items():
        text = text.replace(name, link)
    text = re.sub(r"(?<![`\w])(--[a-z][\w-]+)", r"`\1`", text)
    return re.sub(r"\b(\w+://)(?=[ ,])", r"`\1`", text)


def _examples(lines: list[str]) -> str:
    """The lines in their order, those that no test can run apart, with the reason."""
    blocks: list[tuple[str, list[str]]] = []
    for line in lines:
        why = next((reason for mark, reason in CANNOT.items() if mark in line), "")
        if not blocks or blocks[-1][0] != why:
            blocks.append((why, []))
        blocks[-1][1].append(line)
    return "\n\n".join((f"<!-- not run: {why} -->\n" if why else "")
                       + md.fence("sh", "\n".join(lines)) for why, lines in blocks)


def _exit_codes(body: str) -> str:
    pairs = re.findall(r"(\d+) (.+?)(?=\s{2,}\d|$)", body, re.M)
    return md.table(("exit code", "meaning"), pairs)
