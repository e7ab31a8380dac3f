"""Every command and program on the pages of the documentation is run, page by page."""

import importlib.util
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

DOCS = ROOT / "docs"
FETCHED = re.compile(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
FEW = 14  # blocks that cannot be run on a machine like this


def module(name):
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


runner = module("run")
PAGES = sorted(DOCS.rglob("*.md"))
RUN = [p for p in PAGES if any(b.language in ("sh", "python") and not b.why and not b.title
                               for b in runner.blocks(p.read_text()))]


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage")
    runner.stage(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda p: str(p.relative_to(DOCS)))
def test_what_a_page_says_is_run_and_prints_what_it_shows(page, staged, tmp_path):
    folder = tmp_path / "page"
    shutil.copytree(staged, folder)
    for _, output, shown in runner.run(page.read_text(), folder):
        if shown:
            assert not runner.differs(shown.body, output), output


def test_few_blocks_are_not_run_and_each_says_why():
    left = [b.why for p in PAGES for b in runner.blocks(p.read_text()) if b.why]
    assert 0 < len(left) <= FEW and all(len(why) > 5 for why in left), left
    for page in PAGES:
        assert len(page.read_text()) > 200, f"{page} says nothing"
        for block in runner.blocks(page.read_text()):
            shown = block.language == "text" and not block.title
            assert not shown or block.body.strip(), f"{page} shows an empty output"


def test_generated_pages_are_as_the_code_says():
    done = subprocess.run([sys.executable, DOCS / "generate.py", "--check"], capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr


def test_the_site_can_be_built(tmp_path):
    """Strictly: a broken link or a page that is in no menu is an error."""
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet",
                           "--site-dir", tmp_path / "site"], capture_output=True, text=True,
                          cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    for page in (tmp_path / "site").rglob("*.html"):
        assert not FETCHED.findall(page.read_text()), f"{page} fetches from elsewhere"
        assert not re.search(r"\[\^\d+\]", page.read_text()), f"{page}: a note"
        assert "\\|" not in page.read_text(), f"{page} shows an escape"
