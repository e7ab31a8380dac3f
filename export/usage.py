"""What an app developer needs beside an artifact: a note in Markdown, and code that runs it.

    usage/tflite-int8.md     inputs and outputs, how to quantize, code for the target's platforms
    usage/tflite-int8.py     python usage/tflite-int8.py input.npy
    usage/onnx-int8.mjs      the same for JavaScript

Everything is filled into `templates/`: `kinds.toml` says which parts a note has, `languages.toml`
how a language writes an input and an output. Standard library only.
"""

from __future__ import annotations

import functools
import json
import math
import re
import tomllib
from pathlib import Path
from string import Template
from typing import Any

from ..artifact import argument_names
from . import literals

FOLDER = "usage"
TEMPLATES = Path(__file__).with_name("templates")
LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}
FEW = 20  # labels that are listed in a note
SHOWN = 64  # values of an example request


def kind_of(target: dict) -> str:
    """A target's key in `kinds.toml`."""
    return target["compiler"] or target["format"]


def write(folder: Path, target: dict, artifact: str, about: dict) -> list[Path]:
    """Write an artifact's note and programs.

    Args:
        folder: `usage/` of the output folder; made if it is not there.
        target: `Target.to_dict()`.
        artifact: The file's or folder's path in the output folder.
        about: `inputs` and `outputs` as the report has them; `positions` and `signature` as
            `explorer.read` gives them, or nothing; `normalization` (`{"mean", "std"}`) and
            `labels`, or None; `serving` of a SavedModel; `status` of the row; `compiled`: whether
            a compiler has run on the file; `order`: the names of `inputs` and `outputs` as the
            model has them, in which programs take and give arrays.

    Returns:
        The files written: the same bytes for the same arguments.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kind = _read("kinds.toml")[kind_of(target)]
    facts = _facts(target, artifact, about)
    name = target["name"]
    made = {f"{name}.md": _note(kind, facts)}
    if part := kind.get("script"):
        body = _fill(f"{part}.tmpl", _python(facts))
        made[f"{name}.py"] = _fill("script.py.tmpl", _python(facts) | {
            "packages": kind["packages"], "body": body.rstrip()})
    if part := kind.get("module"):
        made[f"{name}.mjs"] = _fill("module.mjs.tmpl", _javascript(facts) | {
            "head": _head(part, facts), "body": _fill(f"{part}.mjs.tmpl", {
                "path": literals.javascript(_url(artifact))})})
    for file, text in made.items():
        (folder / file).write_text(text, encoding="utf-8", newline="\n")
    return [folder / file for file in made]


def _facts(target: dict, artifact: str, about: dict) -> dict:
    positions = about.get("positions") or {}
    facts = {"target": target, "file": artifact, "labels": None,
             "normalization": about.get("normalization"),
             "signature": about.get("signature") or "serving_default",
             "serving": about.get("serving"), "status": about.get("status", "ok"),
             "compiled": about.get("compiled", False)}
    for side in ("inputs", "outputs"):
        facts[side] = []
        for i, end in enumerate(about[side]):
            at = positions.get(side, [])
            shape, scale = list(end["shape"]), end.get("scale") or None
            facts[side].append({
                "name": end["name"], "shape": shape, "dtype": end["dtype"], "scale": scale,
                "zero_point": (end.get("zero_point") or 0) if scale else None,
                "position": at[i] if i < len(at) else i})
        _sort(facts[side], (about.get("order") or {}).get(side, []))
    for end in facts["inputs"]:
        image = len(end["shape"]) == 4 and (end["scale"] or "float" in end["dtype"])
        end["normalized"] = bool(facts["normalization"] and image)
    if not any(t["normalized"] for t in facts["inputs"]):
        facts["normalization"] = None
    if names := about.get("labels"):
        owner = next((t for t in facts["outputs"] if t["shape"] and t["shape"][-1] == len(names)),
                     facts["outputs"][0])
        facts["labels"] = {"output": owner["name"], "names": list(names)}
    return facts


def _sort(ends: list[dict], order: list[str]) -> None:
    """Put a file's ends into the model's own order, so that every program takes the same arrays."""
    for names in (order, argument_names(order)):
        if sorted(names) == sorted(e["name"] for e in ends):
            ends.sort(key=lambda e: names.index(e["name"]))
            return


# The note ------------------------------------------------------------------------------------


def _note(kind: dict, facts: dict) -> str:
    target = facts["target"]
    rows = [f"| {side} | {literals.cell(t['name'])} | {_shape(t['shape'])} | {t['dtype']} | "
            f"{t['scale'] or ''} | {t['zero_point'] if t['scale'] else ''} |"
            for side, ends in (("input", facts["inputs"]), ("output", facts["outputs"]))
            for t in ends]
    sections = [_section(part, kind, facts) for part in kind["sections"]]
    text = _fill("note.md.tmpl", {
        "title": literals.clean(target["name"]), "rows": "\n".join(rows),
        "about": f"{literals.code(facts['file'])}: {literals.clean(target['summary'])}.",
        "prose": "\n\n".join(_prose(facts)), "sections": "\n".join(sections)})
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def _prose(facts: dict) -> list[str]:
    told, ends = [], [*facts["inputs"], *facts["outputs"]]
    if facts["status"] == "rejected":
        told.append("**This artifact was rejected**: it loses more than is allowed. The report "
                    "says why.")
    if any(None in t["shape"] for t in ends):
        told.append("A size `any` is free; `any` in front is the number of samples.")
    if kinds := sorted({t["dtype"] for t in ends if t["scale"]}):
        limits = "; ".join(f"{k}: {LIMITS[k][0]} to {LIMITS[k][1]}" for k in kinds if k in LIMITS)
        told.append(
            "Integers with a scale stand for real numbers. To quantize an input: "
            f"`q = round(x / scale) + zero_point`, held within the type's limits ({limits}), "
            "halves to even. To read an output: `x = (q - zero_point) * scale`.")
    if norm := facts["normalization"]:
        names = ", ".join(literals.code(t["name"]) for t in facts["inputs"] if t["normalized"])
        when = ", before it is quantized" if any(t["scale"] for t in facts["inputs"]) else ""
        told.append(f"{names} is normalized{when}: `x = (pixel - mean) / std`, per channel, with "
                    f"mean {_listed(norm['mean'])} and std {_listed(norm['std'])}. The Python and "
                    "JavaScript beside this note do it; the other code takes normalized values.")
    if labels := facts["labels"]:
        names, owner = labels["names"], literals.code(labels["output"])
        shown = ", ".join(map(literals.code, names[:FEW]))
        more = f", … ({len(names)} in all)" if len(names) > FEW else ""
        told.append(f"The last axis of {owner} is, in this order: {shown}{more}." + (
            " The file has them in it: `unzip -p FILE labels.txt`."
            if facts["file"].endswith(".tflite") else ""))
    return told


def _section(part: str, kind: dict, facts: dict) -> str:
    target, name, file = facts["target"], facts["target"]["name"], facts["file"]
    if part == "swift" and any(t["dtype"] == "int8" for t in facts["inputs"] + facts["outputs"]):
        part = "swift_c"
    values = {"packages": kind.get("packages", ""), "script": literals.shell(f"usage/{name}.py"),
              "module": literals.clean(f"usage/{name}.mjs"), "file_sh": literals.shell(file),
              "folder": literals.clean(file), "more": "", "accelerator": "CPU",
              "imports": "\nimport kotlin.math.round" if any(
                  t["scale"] for t in facts["inputs"]) else ""}
    if part == "run_javascript":
        values["module"] = literals.shell(values["module"])
    if part == "edgetpu":
        values["state"] = "The file is compiled for the Edge TPU." if facts["compiled"] else (
            f"The file has still to be compiled: `edgetpu_compiler -s {literals.shell(file)}`.")
    if part == "kotlin" and target["runtime"] == "litert-gpu":
        values |= {"accelerator": "GPU",
                   "more": ' and\n`implementation("com.google.ai.edge.litert:litert-gpu:2.3.0")`'}
    if part == "javascript_web" and target["format"] == "tfjs":
        values["page"] = ("The page loads TensorFlow.js before that module, as "
                          f"`{values['folder']}/index.html` does.")
    elif part == "javascript_web":
        package = "onnxruntime-web" if target["format"] == "onnx" else "@litertjs/core"
        values["page"] = (f"The page maps `{package}` to its file, as "
                          f"`{values['folder']}/index.html` does; a bundler does it by itself.")
    if part == "cpp_micro":
        values |= {"array": target["options"].get("array", "g_model"),
                   "header": literals.clean(f"{name}-model.h"),
                   "source": literals.clean(f"{name}-model.cc")}
    if part == "serving":
        values |= _serving(facts)
    if part in _read("languages.toml"):
        language = _read("languages.toml")[part]
        ends = facts["inputs"] + facts["outputs"]
        unknown = sorted({t["dtype"] for t in ends if t["dtype"] not in language})
        if unknown:
            title = re.match("## (.*)", (TEMPLATES / f"{part}.md.tmpl").read_text())[1]
            return _fill("unknown.md.tmpl", {"language": title, "types": ", ".join(unknown)})
        quote = {"kotlin": literals.kotlin, "cpp": literals.cpp}.get(
            part.partition("_")[0], literals.swift)
        values |= _lines(language, facts, quote) | {
            "file": quote(file), "signature": quote(facts["signature"]),
            "stem": quote(file.removesuffix(".tflite"))}
    return _fill(f"{part}.md.tmpl", values)


def _lines(language: dict, facts: dict, quote) -> dict[str, str]:
    """The code of each input and output, by the names under which a template asks for it."""
    found: dict[str, list[str]] = {}
    for key, line in language["lines"].items():
        if key.endswith("_quantized"):
            continue
        for i, end in enumerate(facts[key.partition("_")[0]]):
            own = language["lines"].get(f"{key}_quantized", line) if end["scale"] else line
            kind, *method = language[end["dtype"]]
            low, high = LIMITS.get(end["dtype"], (0, 0))
            shape = end["shape"]
            found.setdefault(key, []).append(Template(own.strip()).substitute(
                i=i, name=quote(end["name"]), type=kind, method=method[0] if method else "",
                scale=end["scale"], zero=end["zero_point"], low=low, high=high,
                nothing="false" if end["dtype"] == "bool" else "0",
                position=end["position"], shape=_shape(shape),
                dims=", ".join(str(n or 1) for n in shape),
                count=math.prod(n or 1 for n in shape)))
    return {key: (", " if key.endswith(("_map", "_names")) else "\n").join(lines)
            for key, lines in found.items()}


def _serving(facts: dict) -> dict[str, str]:
    rest = (facts["serving"] or {}).get("rest", {})
    name = rest.get("path", "").removeprefix("/v1/models/").removesuffix(":predict") or "model"
    row = {t["name"]: _zeros(t["shape"][1:], t["dtype"]) for t in facts["inputs"]}
    small = all(math.prod(n or 1 for n in t["shape"][1:]) <= SHOWN for t in facts["inputs"])
    whole = next(iter(row.values())) if len(row) == 1 else row
    body = {"signature_name": "serving_default", "instances": [whole]} if small \
        else rest.get("body", {})
    plain = literals.shell(name)
    return {"name": plain, "path": f"/v1/models/{plain}:predict", "body": json.dumps(body),
            "answer": json.dumps(rest.get("answer", {}))}


def _zeros(shape: list, dtype: str) -> Any:
    if not shape:
        return "" if dtype == "string" else 0.0 if "float" in dtype else 0
    return [_zeros(shape[1:], dtype)] * (shape[0] or 1)


# The programs ----------------------------------------------------------------------------------


def _python(facts: dict) -> dict[str, str]:
    delegate = "libedgetpu.so.1" if facts["target"]["compiler"] == "edgetpu" else None
    return {key: literals.python(facts[key]) for key in (
        "file", "inputs", "outputs", "normalization", "labels")} | {
        "delegate": literals.python(delegate)}


def _javascript(facts: dict) -> dict[str, str]:
    return {key: literals.javascript(facts[key]) for key in (
        "inputs", "outputs", "normalization", "labels")}


def _head(part: str, facts: dict) -> str:
    """Where a module gets its runtime from."""
    if part == "javascript_onnx":
        return ("// Runs the model by ONNX Runtime, in a web page or in Node.js.\n"
                'import * as ort from "onnxruntime-web";\n')
    path = literals.javascript(f"../{_url(facts['file'])}/model.js")
    return ("// Runs the model in a web page, by the module that stands in its own folder.\n"
            f"import {{about, load, predict}} from {path};\n\nexport {{load}};\n")


def _url(path: str) -> str:
    from urllib.parse import quote

    return quote(path)


def _shape(shape: list) -> str:
    return " × ".join("any" if n is None else str(n) for n in shape) or "one value"


def _listed(values: list) -> str:
    return ", ".join(f"{v:g}" for v in values)


def _fill(name: str, values: dict) -> str:
    """A template with its values; one alone on a line brings its indentation to all its lines."""
    text = (TEMPLATES / name).read_text(encoding="utf-8")

    def indented(found: re.Match) -> str:
        gap, key = found.groups()
        lines = values[key].splitlines()
        return "".join(f"{gap}{line}\n" for line in lines).replace("$", "$$")

    text = re.sub(r"^([ ]+)\$(\w+)\n", indented, text, flags=re.M)
    return Template(text).substitute(values)


@functools.cache
def _read(name: str) -> dict:
    return tomllib.loads((TEMPLATES / name).read_text(encoding="utf-8"))
