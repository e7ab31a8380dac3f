"""What of a .tflite file the Edge TPU compiler maps, and why it leaves the rest to the CPU.

    place(tflite.operations(model))  -> [{"op", "where": "tpu" | "cpu", "why", ...}]

The compiler is closed. It reads a graph from its inputs on: the first group of operations that it
can map becomes one `edgetpu-custom-op`, whatever follows an operation that it cannot map stays on
the CPU. What it can map is data, in `rules/edge-tpu.toml`, which names the rules below.
"""

from __future__ import annotations

import functools
import math
import tomllib
from pathlib import Path

BYTES8 = ("int8", "uint8")
STATUS = {
    "mapped": "Mapped to Edge TPU",
    "unsupported": "Operation not supported",
    "type": "Operation is working on an unsupported data type",
    "version": "Operation version not supported",
    "limit": "Operation is otherwise supported, but not mapped due to some unspecified limitation",
    "rank": "Tensor has unsupported rank (up to 3 innermost dimensions mapped)",
    "subgraph": "More than one subgraph is not supported",
}


@functools.cache
def rules() -> dict:
    """The table of `rules/edge-tpu.toml`."""
    path = Path(__file__).parent / "rules" / "edge-tpu.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def place(ops: list[dict], multiple_subgraphs: bool = False, planned: bool = False) -> list[dict]:
    """Where each operation of a graph will run.

    The graph is cut as TensorFlow Lite cuts it for a delegate: a group takes every operation of
    its kind (can be mapped, cannot) whose inputs are there, then the next group begins. Of the
    groups that can be mapped only the first one is.

    Args:
        ops: From `tflite.operations`, in the order of execution.
        multiple_subgraphs: Map all such groups.
        planned: The file is still to be quantized: types and versions are not looked at.

    Returns:
        `[{"index", "op", "tensor", "where", "why", "status"}]`: `where` is `tpu` or `cpu`, `tensor`
        the first output, `status` a key of `STATUS`.
    """
    reasons = [refusal(op, planned) for op in ops]
    groups = _groups(ops, [r is None for r in reasons])
    taken = {groups[i] for i, r in enumerate(reasons) if r is None}
    if not multiple_subgraphs:
        taken = {min(taken, default=None)}
    found = []
    for i, op in enumerate(ops):
        if reasons[i]:
            status, why = reasons[i]
        elif groups[i] in taken:
            status, why = "mapped", ""
        else:
            status, why = "subgraph", "comes after an operation that runs on the CPU"
        found.append({
            "index": op["index"],
            "op": op["op"],
            "tensor": op["outputs"][0]["name"] if op["outputs"] else "",
            "where": "tpu" if status == "mapped" else "cpu",
            "why": why,
            "status": status,
        })
    return found


def _groups(ops: list[dict], can: list[bool]) -> list[int]:
    """Number of the group that each operation falls into (TensorFlow Lite's graph_info.cc)."""
    group = [-1] * len(ops)
    waiting = {t["tensor"] for op in ops for t in op["outputs"] if t}
    number = 0
    while -1 in group:
        kind = None
        moved = True
        while moved:
            moved = False
            for i, op in enumerate(ops):
                if group[i] >= 0 or any(t and t["tensor"] in waiting for t in op["inputs"]):
                    continue
                kind = can[i] if kind is None else kind
                if can[i] == kind:
                    group[i], moved = number, True
                    waiting -= {t["tensor"] for t in op["outputs"] if t}
        if kind is None:  # a cycle: no such file runs
            return [number if g < 0 else g for g in group]
        number += 1
    return group


def refusal(op: dict, planned: bool = False) -> tuple[str, str] | None:
    """Why the compiler leaves one operation to the CPU: a key of `STATUS` and words, or None."""
    known = rules()["ops"].get(op["op"])
    if known is None:
        return "unsupported", f"the Edge TPU has no {op['op']}"
    if not planned:
        wrong = _wrong_type(op)
        if wrong:
            return "type", wrong
        if op["version"] > known["version"]:
            return "version", (
                f"version {op['version']}; the compiler knows up to {known['version']}"
            )
    wide = rules()["device"]["ranks"]
    for tensor in _moving(op):
        if math.prod(tensor["shape"][:-wide]) > 1:
            shape = "x".join(map(str, tensor["shape"]))
            return "rank", f"{shape}: only the {wide} innermost dimensions may exceed 1"
    for name, value in known.items():
        if name != "version" and value is not False:
            why = RULES[name](op, value)
            if why:
                return "limit", why
    return None


def _moving(op: dict) -> list[dict]:
    """The tensors of an operation that are no constants."""
    return [t for t in op["inputs"] + op["outputs"] if t and not t["constant"]]


def _wrong_type(op: dict) -> str:
    for tensor in _moving(op):
        state = op["op"] == "UNIDIRECTIONAL_SEQUENCE_LSTM" and tensor["dtype"] == "int16"
        if tensor["dtype"] not in BYTES8 and not state:
            return f"{tensor['dtype']} activations"
        if not tensor["scales"]:
            return f"{tensor['dtype']} without a scale"
    for tensor in op["inputs"]:
        if tensor and tensor["constant"] and tensor["dtype"] not in (*BYTES8, "int32", "int64"):
            return f"{tensor['dtype']} weights"
    return ""


def _input(op: dict, position: int) -> dict | None:
    return op["inputs"][position] if position < len(op["inputs"]) else None


def _axes(op: dict, position: int = 1) -> list[int]:
    axes = (_input(op, position) or {}).get("values", [])
    rank = len(op["inputs"][0]["shape"])
    return [int(a) % rank if rank else 0 for a in axes]


def _batch(op: dict, axes: list[int]) -> str:
    batched = len(op["inputs"][0]["shape"]) > 1 and 0 in axes
    return "works along the batch dimension" if batched else ""


def _no_fused_activation(op, value):
    return "has a fused activation" if op["options"].get("fusedActivationFunction") else ""


def _constants_are_padding(op, value):
    fixed = [t for t in op["inputs"] if t and t["constant"]]
    if fixed and (len(op["inputs"]) != 2 or not all(t.get("zero") for t in fixed)):
        return "joins constants other than two inputs of which one is zeros"
    return ""


def _same_dilation(op, value):
    options = op["options"]
    same = options.get("dilationWFactor", 1) == options.get("dilationHFactor", 1)
    return "" if same else "has different dilations in width and height"


def _not_grouped(op, value):
    return "" if op["inputs"][1]["shape"][-1] == op["inputs"][0]["shape"][-1] else "is grouped"


def _constant_weights(op, value):
    weights = _input(op, 1)
    return "" if weights and weights["constant"] else "has weights that are no constants"


def _default_weights_format(op, value):
    return "has shuffled weights" if op["options"].get("weightsFormat") else ""


def _one_row(op, value):
    rows = math.prod(op["outputs"][0]["shape"][:-1])
    return "" if rows == 1 else f"has {rows} rows; the Edge TPU takes one"


def _per_tensor_weights(op, value):
    scales = op["inputs"][1]["scales"]
    return f"has {scales} weight scales; a dense layer may have one" if scales > 1 else ""


def _no_batch_axis(op, value):
    return _batch(op, _axes(op))


def _channels_multiple(op, value):
    shape = op["inputs"][0]["shape"]
    odd = len(shape) - 1 in _axes(op) and shape[-1] % value
    return f"reduces {shape[-1]} channels, no multiple of {value}" if odd else ""


def _max_area(op, value):
    shape = op["inputs"][0]["shape"]
    area = math.prod(shape[a] for a in _axes(op) if a < len(shape) - 1)
    return f"reduces {area} positions, more than {value}" if area > value else ""


def _no_batch_packing(op, value):
    rank = len(op["outputs"][0]["shape"])
    return _batch(op, [op["options"].get("axis", 0) % rank])


def _no_batch_padding(op, value):
    pads = (_input(op, 1) or {}).get("values")
    if pads is None:
        return "has paddings that are no constants"
    return _batch(op, [0]) if len(pads) > 4 and any(pads[:2]) else ""


def _flat_alpha(op, value):
    shape = op["inputs"][1]["shape"]
    return "has an alpha per position" if math.prod(shape[:-1]) > 1 else ""


def _constant_shape(op, value):
    shape = _input(op, 1)
    return "" if shape is None or shape["constant"] else "has a shape that is computed"


def _max_reshape_bytes(op, value):
    size = op["outputs"][0]["bytes"]
    same = op["inputs"][0]["shape"][-1:] == op["outputs"][0]["shape"][-1:]
    return f"moves {size} bytes, more than {value}" if size > value and not same else ""


def _scales(op: dict) -> list[float]:
    before, after = op["inputs"][0]["shape"][1:3], op["outputs"][0]["shape"][1:3]
    return [b / a for a, b in zip(before, after, strict=False) if a]


def _max_upscale(op, value):
    factor = max(_scales(op), default=1)
    return f"enlarges {factor:.3g} times, more than {value}" if factor > value else ""


def _not_from_a_pixel(op, value):
    single = set(op["inputs"][0]["shape"][1:3]) == {1} and max(_scales(op)) > 1
    return "enlarges a single pixel" if single else ""


def _max_output_bytes(op, value):
    size = op["outputs"][0]["bytes"]
    return f"makes {size} bytes, more than {value}" if size > value else ""


def _max_last_dimension(op, value):
    last = op["inputs"][0]["shape"][-1]
    return f"has {last} values, more than {value}" if last > value else ""


def _no_batch_split(op, value):
    axes = (_input(op, 0) or {}).get("values", [])
    shape = op["inputs"][1]["shape"]
    return "splits the batch dimension" if len(shape) > 1 and 0 in axes else ""


def _unit_strides(op, value):
    options = op["options"]
    if options.get("ellipsisMask") or options.get("newAxisMask"):
        return "has an ellipsis or a new axis"
    strides = (_input(op, 3) or {}).get("values", [])
    return "" if set(strides) <= {1} else "has strides other than 1"


RULES = {
    "no_fused_activation": _no_fused_activation,
    "constants_are_padding": _constants_are_padding,
    "same_dilation": _same_dilation,
    "not_grouped": _not_grouped,
    "constant_weights": _constant_weights,
    "default_weights_format": _default_weights_format,
    "one_row": _one_row,
    "per_tensor_weights": _per_tensor_weights,
    "no_batch_axis": _no_batch_axis,
    "channels_multiple": _channels_multiple,
    "max_area": _max_area,
    "no_batch_packing": _no_batch_packing,
    "no_batch_padding": _no_batch_padding,
    "flat_alpha": _flat_alpha,
    "constant_shape": _constant_shape,
    "max_reshape_bytes": _max_reshape_bytes,
    "max_upscale": _max_upscale,
    "not_from_a_pixel": _not_from_a_pixel,
    "max_output_bytes": _max_output_bytes,
    "max_last_dimension": _max_last_dimension,
    "no_batch_split": _no_batch_split,
    "unit_strides": _unit_strides,
}
