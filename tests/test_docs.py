"""What the documents say is so: links, recipes, command lines and pictures."""

import importlib.util
import json
import re
import shlex
import textwrap
import tomllib
import xml.etree.ElementTree as ElementTree

import pytest
from conftest import ROOT

from tfcompress import steps
from tfcompress.command import arguments
from tfcompress.compress.training import recipe

DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md"])
STAGES = DOCS / "stages"
MOST = 40_000  # bytes of a picture
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
INDENTED = re.compile(r"(?:^(?: {4}.*)?\n)*^ {4}.*\n", re.M)
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")


def name_of(path):
    return str(path.relative_to(ROOT))


def prose(text):
    """Without code blocks."""
    return INDENTED.sub("", FENCE.sub("", text))


def blocks(text):
    """Fenced and indented code, without what is only shown."""
    return [code for language, code in FENCE.findall(text) if language != "text"] + \
        [textwrap.dedent(code) for code in INDENTED.findall(FENCE.sub("", text))]


def command_lines(text):
    """Lines of code that begin with `tfcompress`, and such spans with arguments in the prose."""
    for code in blocks(text):
        for line in code.replace("\\\n", " ").splitlines():
            if line.startswith("tfcompress "):
                yield re.split(" {3}| (?:>|[|&]+) ", line)[0]
    for span in SPAN.findall(prose(text)):
        words = span.split()
        if words[0] == "tfcompress" and len(words) > 2 and not words[1].isupper():
            yield re.split(" [>|] ", " ".join(words))[0]


def every(find):
    return [pytest.param(one, id=f"{name_of(page)}-{i}")
            for page in PAGES for i, one in enumerate(find(page.read_text()))]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_pictures_are_there(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
        if not re.match(r"[a-z]+:|#", link):
            assert (page.parent / link.partition("#")[0]).exists(), link


@pytest.mark.parametrize("code", every(lambda t: [b for b in blocks(t) if "[[stages]]" in b]))
def test_recipes_are_recipes(code):
    made = recipe.from_dict(tomllib.loads(code))
    assert recipe.from_dict(made.to_dict()) == made


@pytest.mark.parametrize("line", every(command_lines))
def test_command_lines_are_accepted(line):
    args = arguments.parser().parse_args(shlex.split(line, comments=True)[1:])
    if args.command_name == "shrink" and not str(args.recipe).endswith(".toml"):
        known = set(steps.Options.__dataclass_fields__)
        told = {k: v for k, v in vars(args).items() if k in known and v is not None}
        chosen = steps.Options(**told | {"targets": ()}).chosen_recipe()
        asked = {"prune_to", "prune", "cluster", "qat", "distill", "epochs", "recipe"} & {
            k for k, v in told.items() if v is not False}
        assert bool(chosen) == bool(asked)


@pytest.mark.parametrize("page", [DOCS / "stages.md", *sorted(STAGES.glob("*.md"))], ids=name_of)
def test_flags_of_the_stages_are_flags(page):
    parser = arguments.parser()._subparsers._group_actions[0].choices["shrink"]
    for span in SPAN.findall(prose(page.read_text())):
        if span.startswith("--"):
            assert span.split()[0] in parser._option_string_actions, span


def test_every_field_of_a_stage_is_on_its_page():
    for name, kind in recipe.STAGES.items():
        page = STAGES / f"{'distill' if name == 'finetune' else name}.md"
        said = page.read_text()
        own = set(kind.__dataclass_fields__) - {"epochs", "learning_rate"}
        assert not [field for field in own if f"`{field}`" not in said], name
    overview = (DOCS / "stages.md").read_text()
    assert not [f for f in recipe.Training.__dataclass_fields__ if f"`{f}`" not in overview]
    assert not [name for name in recipe.names() if f"`{name}`" not in overview]


def test_the_files_that_the_architecture_names_are_there():
    found = []
    for line in (DOCS / "ARCHITECTURE.md").read_text().splitlines():
        folder = ""
        for span in SPAN.findall(line) if line.startswith("| `") else ():
            if re.fullmatch(r"[\w/]+(\.py|/)", span):
                if re.match(r"(compress|export|benchmark|docs|tests|targets)/", span):
                    folder = span.rpartition("/")[0] + "/"
                found.append(span if "/" in span.rstrip("/") else folder + span)
    assert len(found) > 100
    assert not [path for path in found if not (ROOT / path).exists()]


def pictures():
    spec = importlib.util.spec_from_file_location("pictures", STAGES / "pictures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.draw(json.loads((STAGES / "figures.json").read_text()))


def test_pictures_are_what_the_script_draws_of_the_figures():
    drawn = pictures()
    assert {p.stem for p in STAGES.glob("*.svg")} == set(drawn)
    for name, content in drawn.items():
        assert (STAGES / f"{name}.svg").read_text() == content, "python docs/stages/pictures.py"
        assert len(content.encode()) < MOST
        ElementTree.fromstring(content)
        assert f"({name}.svg)" in (STAGES / f"{name}.md").read_text()


def test_sizes_in_the_pages_are_those_measured():
    told = json.loads((STAGES / "figures.json").read_text())
    files = {"qat": told["qat"]["file"], "int4": told["qat"]["file4"],
             "prune": told["prune"]["file"], "chain": told["own-loop"]["file"]}
    said = {name: (STAGES / f"{name}.md").read_text() for name in ("qat", "prune", "cluster")}
    for page, name, key in (("prune", "qat", "bytes"), ("prune", "qat", "gzip"),
                            ("prune", "prune", "gzip"), ("cluster", "prune", "gzip"),
                            ("cluster", "chain", "gzip"), ("qat", "qat", "bytes"),
                            ("qat", "int4", "bytes")):
        assert f"{files[name][key]:,}" in said[page], f"{page}: {files[name][key]:,}"
    equal, *_ = told["qat"]["file"]["apart"]["steps"]
    worst = told["qat"]["file4"]["agreement"]["steps"]
    assert f"{equal:,} of the" in said["qat"] and f"differs by {worst:.0f} steps" in said["qat"]
