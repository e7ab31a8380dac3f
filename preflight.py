"""What a target cannot run of a model, before anything is trained or quantized for it.

The model has really been converted to the float file from which TFLite targets are made; its
operators are held against the target's own record: `ops` (what it cannot run), `limits`, the number
type that it asks for, and its compiler. `run` is called in a child process without TensorFlow.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from .child import Progress

# Bytes of a stored weight, for an estimate of the file before it is made.
WEIGHT_BYTES = {"none": 4, "float16": 2, "dynamic": 1, "int8": 1, "int16x8": 1, "int4": 0.5}
PRECISION = {"int8": "int8", "int16x8": "int16"}

# What the user could do about an operator; the rest have only the general words of `ADVICE`.
CHANGES = {
    "WHILE": "set unroll=True in the recurrent layer, or give it fewer steps",
    "TOPK_V2": "leave the selection of the top k to the application",
    "NON_MAX_SUPPRESSION_V4": "leave the suppression to the application",
    "NON_MAX_SUPPRESSION_V5": "leave the suppression to the application",
    "ARG_MAX": "give the scores, and take the largest in the application",
    "CAST": "feed the type that the layers compute in",
    "GATHER": "feed vectors instead of indices, where the table is small",
    "GELU": "activation='relu' or 'hard_silu' maps to integer operators",
    "ERF": "activation='relu', or gelu with approximate=True",
    "ELU": "activation='relu'", "EXP": "activation='relu', or softmax and sigmoid themselves",
    "SIN": "compute the positions once and add them as a constant",
    "COS": "compute the positions once and add them as a constant",
    "POW": "multiply a value with itself where the exponent is whole",
    "SQRT": "BatchNormalization folds into the layer before it; LayerNormalization does not",
    "RSQRT": "BatchNormalization folds into the layer before it; LayerNormalization does not",
    "SQUARED_DIFFERENCE": "BatchNormalization folds into the layer before it; "
                          "LayerNormalization does not",
    "DIV": "multiply by the inverse where the divisor is a constant",
    "FLOOR_DIV": "multiply by the inverse and round down", "FLOOR_MOD": "do it in the application",
    "BATCH_MATMUL": "attention over fewer tokens, or a convolution",
    "CONV_3D": "2D convolutions over the slices",
    "TRANSPOSE_CONV": "UpSampling2D before a convolution",
    "RESIZE_BILINEAR": "interpolation='nearest'",
    "LOG_SOFTMAX": "softmax, and the logarithm in the application",
    "CUMSUM": "do it in the application", "SELECT_V2": "multiply by a mask",
}
ADVICE = "replace the layer, or leave it to the application"


def run(payload: dict, progress: Progress) -> dict:
    """The operators of a float file by layer, and what each target makes of them.

    Args:
        payload: `float`: the file. `targets`: their records. `layers`: the model's, from
            `compress.outline`.
        progress: Told what is looked at.

    Returns:
        `ops`: `[{"op", "layer", "macs", "bytes" of its float weights}]`. `bytes` of the file,
        `parameters` in it. `targets`: `{name: {"runs": "yes", "partly" or "no", "bytes" expected,
        "problems": [{"level", "op", "count", "layers", "what", "advice"}]}}`.
    """
    from . import tflite

    progress(None, "reading the float file")
    model = tflite.load(payload["float"])
    inside = tflite.describe(payload["float"])
    find = Owners(model, payload["layers"])
    ops = []
    for graph in inside["subgraphs"]:
        for op in graph["ops"]:
            names = [t["name"] for t in op["outputs"]]
            constants = [t["name"] for t in op["inputs"] if t["constant"]]
            ops.append({"op": op["op"], "macs": op["macs"], "graph": graph is not
                        inside["subgraphs"][0], "floats": _is_float(op),
                        "layer": find.owner(names, constants, op["macs"] > 0) or op["layer"]})
    _mark_supported(model, ops, payload["targets"])
    seen = tflite.operations(model)
    inside["operations"] = seen
    inside["owners"] = {op["outputs"][0]["name"]: known["layer"]
                        for op, known in zip(seen, ops, strict=False) if op["outputs"]}
    found = {}
    for target in payload["targets"]:
        progress(None, target["name"])
        found[target["name"]] = check(target, ops, inside)
    keep = ("op", "layer", "macs")
    return {"ops": [{k: op[k] for k in keep} for op in ops], "targets": found,
            "bytes": inside["bytes"], "parameters": inside["parameters"], "macs": inside["macs"]}


def _is_float(op: dict) -> bool:
    return any(t["dtype"] == "float32" for t in op["inputs"] + op["outputs"])


def _mark_supported(model, ops: list[dict], targets: list[dict]) -> None:
    """Note at each operator the integer types in which it has a form."""
    from .compress.tflite import recipes

    asked = {PRECISION[t["quantization"]] for t in targets if t["quantization"] in PRECISION}
    for op in ops:
        op["able"] = set()
    for precision in sorted(asked):
        for op, able in zip(ops, recipes.supported(model, precision), strict=False):
            if able:
                op["able"].add(precision)


def check(target: dict, ops: list[dict], inside: dict) -> dict:
    """One target's verdict on the operators of the float file."""
    problems: list[dict] = []
    for rule in RULES:
        problems += rule(target, ops, inside)
    size = expected_bytes(target, inside)
    levels = {p["level"] for p in problems}
    runs = "no" if "error" in levels else "partly" if "warning" in levels else "yes"
    return {"runs": runs, "bytes": size, "problems": problems}


def expected_bytes(target: dict, inside: dict) -> int:
    """The file's size if all float weights were stored in the target's type."""
    spare = inside["bytes"] - 4 * inside["parameters"]
    return round(spare + WEIGHT_BYTES.get(target["quantization"], 4) * inside["parameters"])


def _denied(target: dict, ops: list[dict], inside: dict) -> list[dict]:
    """Operators that the target's `ops` says it cannot run."""
    deny, allow = target["ops"].get("deny", ()), target["ops"].get("allow")
    bad = [op for op in ops if op["op"] in deny or (allow is not None and op["op"] not in allow)]
    return _grouped(bad, "error", "{op} cannot run there")


def _wider(target: dict, ops: list[dict], inside: dict) -> list[dict]:
    """Operators that have no form in the integers that the target asks for."""
    precision = PRECISION.get(target["quantization"])
    if not precision:
        return []
    bad = [op for op in ops if not op["graph"] and op["floats"] and precision not in op["able"]
           and not _moves(op["op"])]
    loops = [op for op in ops if op["graph"] and op["floats"]]
    said = _grouped([op for op in bad if op["op"] != "WHILE"], "warning",
                    f"{{op}} has no {precision} form: it stays in float")
    if loops:
        layers = _named(op["layer"] for op in ops if op["op"] == "WHILE" or op["graph"])
        said.append({"level": "warning", "op": "WHILE", "count": len(loops),
                     "layers": layers,
                     "what": "what is inside a loop keeps float activations; its weights are int8",
                     "advice": CHANGES["WHILE"]})
    return said


def _moves(name: str) -> bool:
    return name in ("CAST", "QUANTIZE", "DEQUANTIZE", "SHAPE")


def _accelerator(target: dict, ops: list[dict], inside: dict) -> list[dict]:
    """What the target's compiler will leave to the CPU, or knows no kernel for."""
    from .export import npu_rules

    by_text: dict[tuple, list[dict]] = defaultdict(list)
    for finding in npu_rules.check(inside["operations"], target):
        by_text[finding["text"], finding["advice"]].append(finding)
    return [{"level": found[0]["level"], "op": found[0]["op"], "count": len(found),
             "layers": _named(inside["owners"].get(f["tensor"], "") for f in found),
             "what": what, "advice": CHANGES.get(found[0]["op"], advice)}
            for (what, advice), found in by_text.items()]


def _named(layers: Iterable[str]) -> list[str]:
    return [name for name in dict.fromkeys(layers) if name]


def _limits(target: dict, ops: list[dict], inside: dict) -> list[dict]:
    """A file that will be larger than the target takes."""
    size = expected_bytes(target, inside)
    said = []
    for key in ("bytes", "flash_bytes"):
        limit = target["limits"].get(key)
        if limit and size > limit:
            said.append({"level": "error", "op": "", "count": 0, "layers": [],
                         "what": f"the file will have about {size:,} bytes; the limit is {limit:,}",
                         "advice": "prune channels, or use fewer bits or a smaller model"})
    return said


# Adding a rule: a function of the target's record, the operators and the file, in this table.
RULES = (_denied, _wider, _accelerator, _limits)


def _grouped(ops: list[dict], level: str, what: str) -> list[dict]:
    by_op: dict[str, list[dict]] = defaultdict(list)
    for op in ops:
        by_op[op["op"]].append(op)
    return [{"level": level, "op": name, "count": len(found),
             "layers": _named(op["layer"] for op in found),
             "what": what.format(op=name), "advice": CHANGES.get(name, ADVICE)}
            for name, found in by_op.items()]


class Owners:
    """Which layer an operator belongs to, by the scopes in its tensors' names."""

    def __init__(self, model, layers: list[dict]):
        names = [t.name.decode() for graph in model.subgraphs for t in graph.tensors]
        scoped = [p for n in names if len(p := n.split(";")[0].split("/")) > 2]
        self.numbered = bool(scoped) and all(re.search(r"_\d+$", p[1]) for p in scoped)
        self.weighted = {layer["name"] for layer in layers
                         if layer["parameters"] and "Normalization" not in layer["type"]}
        self.known: dict[str, list[tuple[list[str], str]]] = defaultdict(list)
        for layer in layers:
            for name in (layer["name"], *layer["holds"]):
                parts = name.split("/")
                self.known[parts[-1]].append((parts, layer["name"]))

    def owner(self, outputs: list[str], constants: list[str], computes: bool) -> str:
        """The layer's name, "" where the names tell of none.

        An operator that multiplies belongs to the layer with the weights, whatever else the
        converter has fused into it.
        """
        found = [self.of(s) for name in (*outputs, *constants) for s in name.split(";")]
        found = [f for f in found if f]
        if computes:
            return next((f for f in found if f in self.weighted), found[0] if found else "")
        return found[0] if found else ""

    def of(self, scope: str) -> str:
        """The layer whose path fits a scope best; what is named inside a layer counts less."""
        parts = scope.split("/")
        if self.numbered:
            parts = [re.sub(r"_\d+$", "", p) for p in parts]
        best, name = (0, 0, 0), ""
        for at, part in enumerate(parts):
            for path, layer in self.known.get(part, ()):
                fits = len(set(path) & set(parts[:at + 1]))
                rank = (fits, -(at or len(parts)), -len(path))  # the first scope is the model's
                if rank > best:
                    best, name = rank, layer
        return name
