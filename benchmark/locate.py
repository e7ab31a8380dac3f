"""Where inside a quantized .tflite file the error begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ModelError
from . import metrics
from .runtimes import litert_module, open_session
from .sessions import input_names, open_arrays, quantize

Array = Any  # numpy.ndarray
CEILING_DB = 50.0  # losses above it are ordinary: eight bits are worth about 50 dB
SHARP_DB = 3.0


def locate(payload: dict, progress) -> dict:
    """Find the layers at which a quantized .tflite file parts from its float original.

    Both files are run with every intermediate tensor kept and without delegates (which fuse
    operations and hide what is between them). An operation's loss is how far the SNR of its
    result lies below the worst of the tensors it is made from.

    Args:
        payload: `float` and `artifact` (paths of the float and the quantized file), `samples`
            (folder), `limit` (samples, default 4), `top` (layers to return, default 5), `names`
            (as for `compare.run`; default: the inputs named in `samples.json`).
        progress: Called with the share done and a text.

    Returns:
        `layers`: `[{"tensor", "layer", "op", "snr_db"}]` in execution order, the layers at which
        at least 3 dB and a quarter of the largest loss are lost, or the one that loses most.
        `by_tensor`: the SNR in dB by the name that a compared tensor has in the artifact.
        `tensors`: the same for every tensor compared. A loss at an input (op `INPUT`) means that
        its calibrated range is wrong.
        `findings`: one finding that says so in words and carries `layers`.

    Raises:
        ModelError: A file cannot be run.
    """
    data = open_arrays(Path(payload["samples"]) / "inputs")
    count = min([int(payload.get("limit") or 4), *(len(a) for a in data)])
    names = payload.get("names") or input_names(payload["samples"])
    a, b = (_Opened(payload[k], names) for k in ("float", "artifact"))
    pairs = _matched(a, b)
    sums = {i: metrics.Fidelity() for i in pairs}
    for row in range(count):
        rows = [array[row:row + 1] for array in data]
        a.run(rows)
        b.run(rows)
        for i, j in pairs.items():
            left, right = a.real(i), b.real(j)
            if left is not None and right is not None and left.size == right.size:
                sums[i].add(left, right.reshape(left.shape))
        progress((row + 1) / count, f"{row + 1} of {count} samples")
    chain = _chain(a, {i: s for i, s in sums.items() if s.count})
    worst = sorted(chain, key=lambda t: t["loss"], reverse=True)[:int(payload.get("top") or 5)]
    least = max(SHARP_DB, worst[0]["loss"] / 4) if worst else 0.0
    sharp = [t for t in worst if t["loss"] >= least] or worst[:1]
    public = ("tensor", "layer", "op", "snr_db")
    layers = [{k: t[k] for k in public} for t in chain if t in sharp]
    known = {b.tensors[pairs[i]]["name"]: round(_bounded(s.snr), 2)
             for i, s in sums.items() if s.count}
    return {"layers": layers, "tensors": [{k: t[k] for k in public} for t in chain],
            "by_tensor": known,
            "findings": [_finding(layers)] if layers else []}


def _finding(layers: list[dict]) -> dict:
    first = layers[0]
    name = first["layer"] or first["tensor"]
    if first["op"] == "INPUT":
        text = f"the error begins at the input {name}: it falls to {first['snr_db']:.1f} dB there"
        advice = ("the range seen in calibration does not cover these samples: calibrate on data "
                  "preprocessed as these are")
    else:
        text = (f"the error begins at {name} ({first['op']}), where the SNR falls to "
                f"{first['snr_db']:.1f} dB")
        advice = "more representative data may help, or a target with wider types"
    return {"level": "info", "text": text, "advice": advice, "layers": layers}


class _Opened:
    """A .tflite file whose intermediate tensors can be read."""

    def __init__(self, path: str, names: dict | None):
        module = litert_module()
        session = open_session(path, "litert", 1, names)
        self.inputs = list(zip(session.tensors[0], session.inputs, strict=True))
        try:
            self.lite = module.Interpreter(
                model_path=path, experimental_preserve_all_tensors=True,
                experimental_op_resolver_type=(
                    module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES))
            self.lite.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"litert cannot run {path}: {error}", "convert it again") from None
        self.tensors = {t["index"]: t for t in self.lite.get_tensor_details()}
        self.ops = self.lite._get_ops_details()

    def run(self, rows: list[Array]) -> None:
        for row, (index, spec) in zip(rows, self.inputs, strict=True):
            shape = (1, *row.shape[1:])
            if tuple(self.lite._get_tensor_details(index, 0)["shape"]) != shape:
                self.lite.resize_tensor_input(index, shape)
                self.lite.allocate_tensors()
            self.lite.set_tensor(index, quantize(row, spec))
        self.lite.reset_all_variables()
        self.lite.invoke()

    def real(self, index: int) -> Array | None:
        """The tensor's real values, None where it holds none."""
        import numpy as np

        try:
            array = self.lite.get_tensor(index)
        except ValueError:
            return None
        about = self.tensors[index]["quantization_parameters"]
        if array.dtype.kind == "f":
            return array.astype(np.float32)
        if array.dtype.kind not in "iu" or not len(about["scales"]):
            return None
        scale, zero = (np.asarray(about[k], np.float32) for k in ("scales", "zero_points"))
        if scale.size > 1:
            shape = [1] * array.ndim
            shape[about["quantized_dimension"]] = scale.size
            scale, zero = scale.reshape(shape), zero.reshape(shape)
        return (array.astype(np.float32) - zero) * scale


def _matched(a: _Opened, b: _Opened) -> dict[int, int]:
    """Tensor indices of `a` to those of `b`: by name, then by order among equal op and shape."""
    def results(file: _Opened) -> list[tuple[int, str, str, tuple]]:
        return [(int(i), file.tensors[int(i)]["name"], op["op_name"],
                 tuple(file.tensors[int(i)]["shape"]))
                for op in file.ops if op["op_name"] not in ("QUANTIZE", "DEQUANTIZE", "DELEGATE")
                for i in op["outputs"] if int(i) in file.tensors]

    left, right = results(a), results(b)
    by_name = {(name, shape): i for i, name, _, shape in right}
    pairs = {i: by_name[name, shape] for i, name, _, shape in left if (name, shape) in by_name}
    taken = set(pairs.values())
    waiting: dict[tuple, list[int]] = {}
    for i, _, op, shape in right:
        if i not in taken:
            waiting.setdefault((op, shape), []).append(i)
    for i, _, op, shape in left:
        if i not in pairs and waiting.get((op, shape)):
            pairs[i] = waiting[op, shape].pop(0)
    for (i, _), (j, _) in zip(a.inputs, b.inputs, strict=False):
        pairs[i] = j
    return pairs


def _chain(file: _Opened, sums: dict[int, metrics.Fidelity]) -> list[dict]:
    """SNR of each compared tensor in execution order, and what its operation lost (dB)."""
    snr = {i: _bounded(s.snr) for i, s in sums.items()}
    reach: dict[int, float] = {}  # the SNR that arrives, also through what was not compared
    layers: dict[int, str] = {}
    chain = []

    def step(index: int, layer: str, op: str, arriving: float) -> None:
        reach[index] = min(CEILING_DB, snr.get(index, arriving))
        layers[index] = layer
        if index in snr:
            chain.append({"tensor": file.tensors[index]["name"], "layer": layer, "op": op,
                          "snr_db": round(snr[index], 2), "loss": arriving - snr[index]})

    for index, spec in file.inputs:
        step(index, spec["name"], "INPUT", CEILING_DB)
    for op in file.ops:
        sources = [int(i) for i in op["inputs"]]
        arriving = min((reach[i] for i in sources if i in reach), default=CEILING_DB)
        before = next((layers[i] for i in sources if layers.get(i)), "")
        for index in map(int, op["outputs"]):
            if index in file.tensors:
                name = file.tensors[index]["name"]
                step(index, layer_of(name) or before, op["op_name"], arriving)
    return chain


def layer_of(tensor: str) -> str:
    """The Keras layer in a tensor's name, empty where there is none.

    `model/conv_a/Relu;...` is of layer `conv_a`. Tracing a model a second time appends `_1` to
    every name: `model_1/conv_a_1/Relu` is of `conv_a` too.
    """
    parts = tensor.split(";")[0].split("/")
    if len(parts) < 2:
        return ""
    again = parts[0].endswith("_1") and parts[-2].endswith("_1")
    return parts[-2].removesuffix("_1") if again else parts[-2]


def _bounded(snr: float | None) -> float:
    """An SNR that can be subtracted: NaN outputs count as -100 dB, equal ones as 100."""
    return -100.0 if snr is None else max(-100.0, min(100.0, snr))
