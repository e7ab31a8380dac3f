"""Two .tflite files side by side: what is in them, and what they compute. Runs in a child.

Nothing here needs to know which of the two is the better one: every figure is given for both.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .. import tflite
from ..errors import TfcompressError
from . import growth, metrics, runtimes, sessions

Array = Any  # numpy.ndarray
ROWS = 32  # at once, through both files


def files(payload: dict, progress) -> dict:
    """What two files hold, and where they differ.

    Args:
        payload: `before`, `after`: paths.

    Returns:
        `before`, `after`: `{"path", "bytes", "parameters", "macs", "dtypes"}`;
        `operators`: `{"op", "before", "after"}`, counts, of the ones that differ, and `same_graph`
        whether the operators stand in the same order; `ends`: `{"side", "name", "before",
        "after"}` of inputs and outputs that differ; `tensors`: of weights that differ, see
        `weights`; `layers`: see `growth.layers`.

    Raises:
        ModelError: A file cannot be read, is not TFLite, or is damaged.
    """
    paths = [payload["before"], payload["after"]]
    told = [tflite.describe(path) for path in paths]
    ops = [t["histogram"] for t in told]
    names = sorted({*ops[0], *ops[1]}, key=lambda n: (-max(o.get(n, 0) for o in ops), n))
    orders = [[op["op"] for graph in t["subgraphs"] for op in graph["ops"]] for t in told]
    head = [{"path": p, "bytes": t["bytes"], "parameters": t["parameters"], "macs": t["macs"],
             "dtypes": t["weights"]["dtypes"]} for p, t in zip(paths, told, strict=True)]
    return {
        "before": head[0], "after": head[1],
        "operators": [{"op": n, "before": ops[0].get(n, 0), "after": ops[1].get(n, 0)}
                      for n in names if ops[0].get(n) != ops[1].get(n)],
        "same_graph": orders[0] == orders[1],
        "ends": [e for side in ("inputs", "outputs") for e in _ends(side, *told)],
        "tensors": weights(paths, *(t["tensors"] for t in told)),
        "layers": growth.layers(told[0]["tensors"], told[1]["tensors"],
                                (told[0]["bytes"], told[1]["bytes"])),
    }


def _ends(side: str, before: dict, after: dict) -> list[dict]:
    fields = ("shape", "dtype", "scale", "zero_point")
    old, new = ({t["name"]: {k: t[k] for k in fields} for t in told[side]}
                for told in (before, after))
    return [{"side": side[:-1], "name": name, "before": old.get(name), "after": new.get(name)}
            for name in {**old, **new} if old.get(name) != new.get(name)]


def weights(paths: list[str], before: list[dict], after: list[dict]) -> list[dict]:
    """The weight tensors that differ, the largest difference in bytes first.

    Args:
        paths: Both files.
        before, after: Their tensors, as `tflite.describe` lists them.

    Returns:
        `{"tensor", "layer", "before", "after", "grew", "snr"}`: each side `{"dtype", "shape",
        "bytes", "zeros"}` or None where the tensor is not there; `snr` is that of the real
        weights in dB (`after` against `before`), None where the shapes differ.
    """
    models = [tflite.load(path) for path in paths]
    found = []
    for old, new in _pairs(before, after):
        snr = None
        if old and new and old["shape"] == new["shape"]:
            snr = _snr(_real(models[0], old["tensor"]), _real(models[1], new["tensor"]))
            if snr == math.inf and old["dtype"] == new["dtype"]:
                continue
        sides = [t and {k: t[k] for k in ("dtype", "shape", "bytes", "zeros")} for t in (old, new)]
        grew = sum(t["bytes"] for t in (new,) if t) - sum(t["bytes"] for t in (old,) if t)
        found.append({"tensor": (new or old)["tensor"], "layer": (new or old)["layer"],
                      "before": sides[0], "after": sides[1], "grew": grew, "snr": _plain(snr)})
    return sorted(found, key=lambda f: -abs(f["grew"]))


def _pairs(before: list[dict], after: list[dict]) -> list[tuple[dict | None, dict | None]]:
    """Tensors of both files that are the same weight: by name, else by layer and shape."""
    earlier = growth.renumbered(*(list(dict.fromkeys(t["layer"] for t in side))
                                  for side in (before, after)))

    def layer(tensor: dict) -> str:
        return earlier.get(tensor["layer"], tensor["layer"])

    left = list(after)
    pairs = []
    rules = (lambda t: (t["tensor"], len(t["shape"])), lambda t: (layer(t), t["shape"]),
             lambda t: (layer(t), len(t["shape"])))
    open_ = list(before)
    for rule in rules:
        for old in list(open_):
            match = next((n for n in left if rule(n) == rule(old) and layer(old) == layer(n)),
                         None)
            if match is not None:
                open_.remove(old)
                left.remove(match)
                pairs.append((old, match))
    return pairs + [(old, None) for old in open_] + [(None, new) for new in left]


def _real(model, name: str) -> Array:
    """The real values of a weight, whatever it is stored as."""
    import numpy as np

    tensor = next(t for g in model.subgraphs for t in g.tensors
                  if t.name.decode() == name and tflite.constant(model, t) is not None)
    values = tflite.constant(model, tensor).astype(np.float32)
    quant = tensor.quantization
    if quant is None or quant.scale is None or not len(quant.scale):
        return values
    shape = [1] * values.ndim
    shape[quant.quantizedDimension if len(quant.scale) > 1 else 0] = -1
    zero = 0 if quant.zeroPoint is None else np.reshape(quant.zeroPoint, shape)
    return (values - zero) * np.reshape(quant.scale, shape)


def _snr(before: Array, after: Array) -> float | None:
    found = metrics.Fidelity()
    found.add(before[None], after[None])
    return found.snr


def _plain(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)


def outputs(payload: dict, progress) -> dict:
    """What both files compute on the same inputs.

    Args:
        payload: `before`, `after`: paths; `samples`: a folder of samples, or None for seeded
            noise over the range that either file declares; `count`: rows; `seed`.

    Returns:
        `random`, `count`, and `outputs`: `{"name", "snr", "cosine", "max_error", "agreement"}` each
        (`agreement` of the highest class, None where there are no classes); or `why` they could
        not be compared.
    """
    try:
        first = runtimes.open_session(payload["before"], "litert")
        second = runtimes.open_session(payload["after"], "litert")
        if len(first.inputs) != len(second.inputs) or len(first.outputs) != len(second.outputs):
            return {"why": f"{len(first.inputs)} inputs and {len(first.outputs)} outputs became "
                           f"{len(second.inputs)} and {len(second.outputs)}"}
        second = runtimes.open_session(payload["after"], "litert", names={
            side: [s["name"] for s in getattr(first, side)] for side in ("inputs", "outputs")})
        rows = _rows(payload, first.inputs, second.inputs)
        return _compared(first, second, rows) | {"random": payload["samples"] is None}
    except TfcompressError as error:
        return {"why": error.message}


def _compared(first: sessions.Session, second: sessions.Session, rows: list[Array]) -> dict:
    fidelity = [metrics.Fidelity() for _ in first.outputs]
    same = [metrics.Share() for _ in first.outputs]
    count = len(rows[0])
    for start in range(0, count, ROWS):
        batch = [r[start:start + ROWS] for r in rows]
        for i, (a, b) in enumerate(zip(first.run(batch), second.run(batch), strict=True)):
            if a.shape != b.shape:
                return {"why": f"output {first.outputs[i]['name']!r} has the shape {a.shape[1:]} "
                               f"in one file and {b.shape[1:]} in the other"}
            fidelity[i].add(a, b)
            if a.ndim == 2 and a.shape[1] > 1:
                same[i].add(a.argmax(-1) == b.argmax(-1))
    return {"count": count, "outputs": [
        {"name": spec["name"], "snr": _plain(f.snr), "cosine": f.cosine,
         "max_error": _plain(f.max_error), "agreement": s.value}
        for spec, f, s in zip(first.outputs, fidelity, same, strict=True)]}


def _rows(payload: dict, first: list[dict], second: list[dict]) -> list[Array]:
    import numpy as np

    if payload["samples"]:
        arrays = sessions.open_arrays(Path(payload["samples"]) / "inputs")
        return [np.asarray(a[:payload["count"]]) for a in arrays]
    rng = np.random.default_rng(payload["seed"])
    found = []
    for one, other in zip(first, second, strict=True):
        # What is stored as integers says which range the inputs have; a float file does not.
        spec = next((s for s in (one, other) if s["scale"]), one)
        shape = (payload["count"], *(n or 1 for n in spec["shape"][1:]))
        kind = np.dtype(spec["dtype"])
        if spec["scale"]:
            ends = np.iinfo(kind)
            steps = rng.integers(ends.min, ends.max, shape, endpoint=True)
            found.append((steps - spec["zero_point"]).astype(np.float32) * spec["scale"])
        elif kind.kind == "f":
            found.append(rng.uniform(-1, 1, shape).astype(np.float32))
        else:  # indices: 0 and 1 are in every vocabulary
            found.append(rng.integers(0, 2, shape).astype(kind))
    return found
