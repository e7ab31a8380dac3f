"""The floors of docs/ARCHITECTURE.md, held against the imports."""

import ast
import importlib.util

from conftest import ROOT

FLOORS = [
    {"errors", "artifact", "targets"},
    {"child", "store", "transfer"},
    {"data", "readers", "tflite", "output"},
    {"compress", "export", "benchmark"},
    {"steps", "source", "quantization", "worker", "filing", "pipeline"}
    | {"making", "judging", "measuring", "preflight", "inspecting", "checking", "differing"}
    | {"release"},
    {"cli", "command", "__main__", "__init__"},
]


def imports(path):
    """(imported top-level name of this package, at module level) for each relative import."""
    depth = len(path.relative_to(ROOT).parts)
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            if node.module:
                yield node.module.split(".")[0]
            else:
                yield from (alias.name for alias in node.names)


def code():
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).parts
        if parts[0] not in ("tests", "examples", ".venv", "build", "docs") \
                and not parts[0].endswith("-tfcompress"):  # what the README's first command writes
            yield path, parts[0].removesuffix(".py")


def test_every_module_stands_on_a_floor():
    assert {name for _, name in code()} == set().union(*FLOORS)


def test_nothing_imports_from_a_floor_above():
    level = {name: i for i, floor in enumerate(FLOORS) for name in floor}
    for path, name in code():
        for other in imports(path):
            if other in level:
                assert level[other] <= level[name], f"{path} imports {other}"


def test_the_three_rooms_do_not_import_each_other():
    rooms = {"compress", "export", "benchmark"}
    for path, name in code():
        if name in rooms:
            assert not (set(imports(path)) & rooms - {name}), path


def test_only_the_command_line_prints():
    for path, name in code():
        if name != "cli" and path.name != "board.py":  # a program of its own, sent to boards
            calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
            assert not [c for c in calls if getattr(c.func, "id", "") == "print"], path


def test_scripts_beside_the_package_import_what_is_there(monkeypatch):
    """They are run by hand: nothing else would notice that a neighbour is gone."""
    for folder in (ROOT / "tests" / "performance", ROOT / "examples" / "frontier"):
        monkeypatch.syspath_prepend(str(ROOT / "tests"))
        monkeypatch.syspath_prepend(str(folder))
        scripts = sorted(folder.glob("*.py"))
        assert scripts
        for path in scripts:
            for node in ast.walk(ast.parse(path.read_text())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else \
                    [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
                for name in names:
                    assert importlib.util.find_spec(name.partition(".")[0]), f"{path}: {name}"
