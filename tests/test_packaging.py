"""What is installed is what is in the tree."""

import tomllib

from conftest import ROOT

from tfcompress import errors, targets


def test_packages_are_the_folders_with_code():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    outside = {"tests", "examples", "docs", "build", "dist", ".venv"}
    folders = {p.parent.relative_to(ROOT) for p in ROOT.rglob("__init__.py")}
    found = {
        ".".join(("tfcompress", *f.parts))
        for f in folders
        if not f.parts or f.parts[0] not in outside
    }
    assert set(listed) == found


def test_every_file_that_code_reads_is_packaged():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "package-data"
    ]
    for folder in ("targets", "benchmark", "compress", "export"):
        patterns = data.get(f"tfcompress.{folder}", [])
        for path in (ROOT / folder).iterdir():
            if path.is_file() and path.suffix != ".py":
                assert any(path.match(p) for p in patterns), path


def test_each_error_has_an_exit_code_that_its_tree_documents():
    for kind in errors._tree(errors.TfcompressError)[1:]:
        assert f"{kind.__name__} " in errors.__doc__, kind
        assert str(kind.exit_code) in errors.__doc__


def test_an_error_keeps_its_type_as_a_record():
    error = errors.UnsafeModelError("what", "do this")
    again = errors.from_dict(error.to_dict())
    assert (type(again), again.message, again.hint, again.exit_code) == (
        errors.UnsafeModelError,
        "what",
        "do this",
        3,
    )


def test_target_files_say_what_they_are_for():
    assert all(20 < len(t.summary) < 100 for t in targets.load_all())
