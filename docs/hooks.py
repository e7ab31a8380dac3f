"""What MkDocs is told beyond mkdocs.yml: files of the repository that pages link to, as pages."""

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
# Files outside docs/ that the site has too: where they lie, and where they are in it.
OUTSIDE = {
    "CHANGELOG.md": "changelog.md",
    "examples/frontier/README.md": "frontier.md",
    "benchmark/report_schema.json": "schemas/report_schema.json",
    "compress/training/recipe_schema.json": "schemas/recipe_schema.json",
}
CELL = re.compile(r"<td[^>]*>.*?</td>", re.S)
LINK = re.compile(r"\[([^\[\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files, config):
    for name, uri in OUTSIDE.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links out of docs/ go to the copy in the site; what has none is named, not linked."""
    source = {uri: name for name, uri in OUTSIDE.items()}.get(page.file.src_uri)
    folder = (ROOT / source if source else Path(config.docs_dir) / page.file.src_uri).parent

    def moved(match: re.Match) -> str:
        path = (folder / match[2]).resolve()
        if not path.is_relative_to(ROOT):
            return match[0]
        name = path.relative_to(ROOT).as_posix()
        inside = name.removeprefix("docs/") if name.startswith("docs/") else OUTSIDE.get(name)
        if inside is None:
            return match[1]
        up = "../" * page.file.src_uri.count("/")
        return f"[{match[1]}]({up}{inside}{match[3] or ''})"

    return LINK.sub(moved, markdown)


def on_page_content(html, page, config, files):
    """In tables `|` is escaped within code too, as GitHub wants it; the backslash is not shown."""
    return CELL.sub(lambda cell: cell[0].replace("\\|", "|"), html)
