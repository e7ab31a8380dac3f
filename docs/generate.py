"""Write the parts of the documentation that are drawn from the code.

    python docs/generate.py            writes them
    python docs/generate.py --check    says what is stale; exit code 1 if anything is

A generated part stands between two comments of a page. What is outside them is written by hand and
stays. A command or target without a page gets one.
"""

import re
import sys
from pathlib import Path

from parts import commands, python, records, targets

DOCS = Path(__file__).parent
PART = re.compile(r"(?P<open>^ *(?:<!--|#) generated: (?P<name>[\w -]+?)(?: -->)?\n)"
                  r"(?P<body>.*?)(?P<close>^ *(?:<!--|#) end of generated\b)", re.M | re.S)
NEW = "# {title}\n\n{intro}\n\n<!-- generated: {part} -->\n<!-- end of generated -->\n"


def parts() -> dict[Path, dict[str, str]]:
    """The text of every generated part, by page and name."""
    pages = {DOCS / name: found for where in (commands, targets, python, records)
             for name, found in where.parts().items()}
    pages[DOCS.parent / "mkdocs.yml"] = {
        "pages of commands": _nav("commands", commands.names()),
        "pages of targets": _nav("targets", targets.names()),
    }
    return pages


def _nav(folder: str, names: list[str]) -> str:
    return "".join(f"      - {name}: {folder}/{name}.md\n" for name in names)


def write(page: Path, made: dict[str, str]) -> str:
    """The page's text with its parts as they should be."""
    if page.exists():
        text = page.read_text(encoding="utf-8")
    else:
        (part,) = made
        kind = commands if page.parent.name == "commands" else targets
        text = NEW.format(part=part, **kind.head(page.stem))
    found = [match["name"] for match in PART.finditer(text)]
    if sorted(found) != sorted(made):
        raise SystemExit(f"{page}: has the parts {found}, should have {sorted(made)}")
    return PART.sub(lambda m: m["open"] + _gap(page, made[m["name"]]) + m["close"], text)


def _gap(page: Path, body: str) -> str:
    return body if page.suffix == ".yml" else f"\n{body.strip()}\n\n"


def stale(made: dict[Path, dict[str, str]]) -> list[Path]:
    """Pages that differ from what the code says, and pages of what is no more."""
    wrong = [page for page, part in made.items()
             if not page.exists() or page.read_text(encoding="utf-8") != write(page, part)]
    known = {DOCS / "commands/index.md", DOCS / "targets/index.md", *made}
    return wrong + [page for folder in ("commands", "targets")
                    for page in sorted((DOCS / folder).glob("*.md")) if page not in known]


def main(argv: list[str]) -> int:
    made = parts()
    if "--check" in argv:
        wrong = [str(page.relative_to(DOCS.parent)) for page in stale(made)]
        if wrong:
            print(f"stale: {', '.join(wrong)}\n  run: python docs/generate.py", file=sys.stderr)
        return int(bool(wrong))
    for page, part in made.items():
        page.write_text(write(page, part), encoding="utf-8")
    for page in stale(made):
        page.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
