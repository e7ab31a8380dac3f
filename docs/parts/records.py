"""Errors, environment variables, and the schemas of recipes and reports."""

import ast
import dataclasses
import json
import re

from tfcompress import errors
from tfcompress.compress.training import recipe, stages

from . import markdown as md
from .using import ROOT

ENVIRONMENT = {
    "TFCOMPRESS_CACHE": "Folder of finished steps and fetched packages. Default: `tfcompress` in "
                        "the user's cache folder. It is kept below 4 GiB; it can be deleted.",
    "XDG_CACHE_HOME": "The user's cache folder. Default: `~/.cache`.",
    "TMPDIR": "Where temporary files are made.",
    "NO_COLOR": "The terminal's table without colours, unless it is empty.",
    "TERM": "No colours where it is `dumb`.",
    "TFCOMPRESS_BROWSER": "The Chromium or Chrome to run browser targets in. Default: the first "
                          "one on PATH.",
    "TFCOMPRESS_SSH_OPTIONS": "Further options for `ssh` in `benchmark`, such as `-i key`.",
    "TFCOMPRESS_ANDROID_BENCHMARK": "LiteRT's `benchmark_model`, built for the phone's processor.",
    "TFCOMPRESS_REGISTRY_USER": "User of an `oci://` registry.",
    "TFCOMPRESS_REGISTRY_PASSWORD": "Their password.",
    "TFCOMPRESS_HTTP_TOKEN": "Bearer token for `https://` stores.",
    "TFCOMPRESS_KEY_PASSWORD": "Password of an encrypted private key, for `publish --sign`.",
    "VK_DRIVER_FILES": "A Vulkan driver's manifest, for `tflite-gpu`.",
    "VK_ICD_FILENAMES": "The same, under its older name.",
    "VK_ADD_DRIVER_FILES": "The same, beside the installed ones.",
    "GITHUB_STEP_SUMMARY": "Set by GitHub Actions: `check --format github` adds its summary there.",
}
OURS = {"TF_CPP_MIN_LOG_LEVEL", "TF_USE_LEGACY_KERAS", "KERAS_BACKEND", "CUDA_VISIBLE_DEVICES"}
TREE = re.compile(r"^[ │├└─]*([A-Z]\w+)\s+(\d*)\s+(.+)$", re.M)


def parts() -> dict[str, dict[str, str]]:
    return {
        "reference/errors.md": {"exit codes": _exit_codes(), "errors": _errors()},
        "reference/environment.md": {"variables": _environment()},
        "reference/recipe.md": {"fields": _recipe(), "built in": _built_in()},
        "report.md": {"schema": _report()},
    }


def _told() -> dict[str, str]:
    return {name: text for name, _, text in TREE.findall(errors.__doc__)}


def _exit_codes() -> str:
    told: dict[int, list[str]] = {}
    for kind in errors._tree(errors.TfcompressError)[1:]:
        if kind.exit_code != kind.__base__.exit_code:
            told.setdefault(kind.exit_code, []).append(_told()[kind.__name__])
    rows = [(0, "everything that was asked for is there"), (1, "a defect of tfcompress itself")]
    rows += sorted((code, "; ".join(texts)) for code, texts in told.items())
    return md.table(("exit code", "meaning"), rows)


def _errors() -> str:
    told = _told()
    kinds = [k for k in errors._tree(errors.TfcompressError) if k.__module__ == errors.__name__]
    rows = [(md.code(k.__name__), md.code(k.__base__.__name__), k.exit_code, told[k.__name__])
            for k in kinds]
    return md.table(("error", "is a", "exit code", "when"), rows)


def _environment() -> str:
    read = _variables() - OURS
    if unknown := read - set(ENVIRONMENT):
        raise SystemExit(f"docs/parts/records.py does not describe {sorted(unknown)}")
    if gone := set(ENVIRONMENT) - read - {"TMPDIR"}:
        raise SystemExit(f"docs/parts/records.py describes {sorted(gone)}, which nothing reads")
    return md.table(("variable", "what it does"), [(md.code(k), v) for k, v in
                                                   ENVIRONMENT.items()])


def _variables() -> set[str]:
    """Names of the environment that the package's code reads, by its syntax trees."""
    found = set()
    for path in ROOT.rglob("*.py"):
        if path.relative_to(ROOT).parts[0] in ("tests", "docs", "examples", "build", ".venv"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {t.id: n.value for n in tree.body if isinstance(n, ast.Assign)
                 for t in n.targets if isinstance(t, ast.Name)}
        for node in ast.walk(tree):
            key = _key(node)
            if isinstance(key, ast.Name) and key.id in names:
                key = names[key.id]
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                found.add(key.value)
            elif isinstance(key, ast.Name) and "CHOSEN" in names:
                found |= {e.value for e in names["CHOSEN"].elts}
    return found


def _key(node: ast.AST) -> ast.AST | None:
    """What is looked up where `node` looks something up in `os.environ`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args \
            and ast.unparse(node.func.value) == "os.environ":
        return node.args[0]
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
        return node.slice
    if isinstance(node, ast.Compare) and ast.unparse(node.comparators[0]) == "os.environ":
        return node.left
    return None


# Recipes

def _recipe() -> str:
    kinds = {"training": stages.Training} | stages.STAGES
    return "\n\n".join(f"## `{'[training]' if name == 'training' else name}`\n\n"
                       f"{_first(kind)}\n\n{_fields(name, kind)}" for name, kind in kinds.items())


def _first(kind: type) -> str:
    return " ".join(kind.__doc__.partition("\n\n")[0].split())


def _fields(name: str, kind: type) -> str:
    about, last = {}, ""
    for line in kind.__doc__.partition("Attributes:\n")[2].splitlines():
        found = re.match(r" {8}(\w+): (.*)", line)
        last = found[1] if found else last
        if found or line.strip():
            about[last] = f"{about.get(last, '')} {found[2] if found else line.strip()}"
    rows = []
    for field in dataclasses.fields(kind):
        values = stages.CHOICES.get((name, field.name))
        span = stages.RANGES.get(field.name)
        may = md.codes(values) if values else f"{span[0]:g} to {span[1]:g}" if span else ""
        if field.type.startswith("bool"):
            may = "`true`, `false`"
        default = "" if field.default is None else md.code(json.dumps(field.default))
        text = about.get(field.name, "Passes over the data; None takes the training's."
                         if field.name == "epochs" else "None takes the training's.")
        rows.append((md.code(field.name), default, may, md.sentence(text)))
    return md.table(("field", "default", "may be", "meaning"), rows)


def _built_in() -> str:
    rows = []
    for name in recipe.names():
        found = recipe.from_toml(name)
        told = " → ".join(f"{recipe.name_of(s)}{_changed(s)}" for s in found.stages)
        rows.append((md.code(name), told))
    return md.table(("recipe", "stages"), rows)


def _changed(stage) -> str:
    changed = [f"{f.name} = {json.dumps(getattr(stage, f.name))}" for f in
               dataclasses.fields(stage) if getattr(stage, f.name) != f.default]
    return f" ({', '.join(changed)})" if changed else ""


# The report

def _report() -> str:
    path = ROOT / "benchmark/report_schema.json"
    schema = json.loads(path.read_text(encoding="utf-8"))
    numbers = "Infinite and undefined numbers are the strings `\"inf\"`, `\"-inf\"` and `\"nan\"`."
    parts = ["## `report.json`", f"{schema['description']} {numbers}", _rows(schema, schema)]
    for name, field in schema["properties"].items():
        if field.get("properties"):
            parts += [f"### {name}", _rows(field, schema)]
    for name, kind in schema["$defs"].items():
        parts += [f"### {name}", kind["description"]]
        parts += [_rows(kind, schema)] if kind.get("properties") else []
    return "\n\n".join(parts)


def _rows(kind: dict, schema: dict) -> str:
    must = kind.get("required", ())
    rows = []
    for name, field in kind["properties"].items():
        target = field.get("$ref", "").rpartition("/")[2]
        told = field.get("description") or schema["$defs"][target]["description"]
        rows.append((md.code(name), _type(field), told if name in must else f"{told} *Optional.*"))
    return md.table(("Field", "Type", "Meaning"), rows)


def _type(field: dict) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name})"
    if "const" in field:
        return md.code(field["const"])
    if "enum" in field:
        return md.codes(field["enum"])
    if "anyOf" in field or "oneOf" in field:
        return " or ".join(dict.fromkeys(_type(f) for f in field.get("anyOf") or field["oneOf"]))
    kind = field.get("type", "object")
    if isinstance(kind, list):
        return " or ".join(kind)
    if kind == "array" and field.get("items"):
        return f"list of {_type(field['items'])}"
    if kind == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"object of {_type(field['additionalProperties'])}"
    return kind
