"""What the README says is so."""

import re

from conftest import ROOT

from tfcompress import errors, targets

README = (ROOT / "README.md").read_text()


def test_every_target_is_in_the_table_and_no_other():
    first = re.findall(r"^\| (`[a-z][a-z0-9-]+`(?: `[a-z0-9-]+`)*) \|", README, re.M)
    assert sorted(re.findall(r"`([^`]+)`", " ".join(first))) == sorted(targets.names())


def test_the_exit_codes_are_those_of_the_code():
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.M)}
    assert told == {0} | {kind.exit_code for kind in errors._tree(errors.TfcompressError)[1:]}


def test_links_and_pictures_are_there():
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link


def test_continuous_integration_runs_the_readmes_command():
    assert "sh try.sh test --slow" in README
    assert "sh try.sh test --slow" in (ROOT / ".ci" / "run").read_text()
