"""Any Keras model to a float32 TFLite file, checked against the model by the runtime itself.

No single way through TensorFlow's converter takes every model, so there is an ordered table of
routes; the first whose file agrees with the model wins. A route can kill the process; the caller
runs this in a child, knows the route from the progress texts, and calls again without it.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from ..artifact import TensorSpec
from ..errors import TargetError
from . import savedmodel

FAITHFUL_DB = 60.0

# Name: options for lowering (None: the model is traced as it is), and the converter's entry.
# `spelled` writes exact gelu out; unrolled graphs are plain but long, loops are short.
ROUTES = {
    "lowered": ({}, "saved_model"),
    "spelled": ({"fuse": False}, "saved_model"),
    "loop": ({"rnn": "loop", "fuse": False}, "saved_model"),
    "unrolled": ({"rnn": "unrolled", "fuse": False}, "saved_model"),
    "plain": (None, "saved_model"),
    "keras": (None, "keras"),
}


def to_tflite(model, path: str | Path, *, inputs: Sequence[TensorSpec],
              outputs: Sequence[TensorSpec], progress: Callable[[float | None, str], None],
              lower=None, skip: Collection[str] = (),
              check: tuple[list, list] | None = None,
              faithful: float = FAITHFUL_DB) -> dict:
    """Convert `model` to a float32 `.tflite` with the signature `serving_default`.

    Args:
        model: A Keras 3 or tf_keras model, or a signature of a loaded SavedModel.
        path: The file to write; it appears whole or not at all.
        inputs: Static shapes (batch 1), dtypes and names, in the model's order.
        outputs: Names of the outputs in the model's order.
        progress: Called with `None` and `route:<name>` before each route is tried.
        lower: The module `compress.lower` (export and compress do not import each other):
            `lowering(model, **options)` yields the list of rewrites made while tracing,
            `float32(model)` widens its number types, `Retraced(signature)` traces it anew.
            Without it only the last two routes exist.
        skip: Routes not to try.
        check: Arrays of N rows per input, and the model's own float32 results for them; seeded
            random inputs and the model itself otherwise.
        faithful: dB from which on a route is good enough to end the search.

    Returns:
        `{"route", "snr_db", "rewrites": [{"what", "why", "layers"}], "tried": {route: why not}}`;
        `snr_db` is the worst output's, "inf" when equal.

    Raises:
        TargetError: No route gives a file that the runtime can run.
    """
    from ai_edge_litert import interpreter  # noqa: F401  (absent: told as such, not per route)

    check = check or _reference(model, inputs, outputs, lower)
    tried: dict[str, str] = {}
    best = None
    for name, (options, entry) in ROUTES.items():
        if name in skip or (options is not None and not lower):
            continue
        progress(None, f"route:{name}")
        try:
            rewrites, content = _convert(model, inputs, outputs, lower, options, entry)
            snr = _agreement(content, inputs, outputs, *check)
        except Exception as error:  # the converter raises whatever it likes
            tried[name] = _first_line(error)
            continue
        if best is None or snr > best[0]:
            best = (snr, name, rewrites, content)
        if snr >= faithful:
            break
        tried[name] = f"differs from the model: {snr:.1f} dB"
    if best is None:
        raise TargetError(f"the model cannot be converted to TFLite ({_why_not(tried)})",
                          "replace the operations named, or use the keras or saved-model target")
    snr, name, rewrites, content = best
    _write(path, content)
    tried.pop(name, None)
    return {"route": name, "snr_db": "inf" if snr == math.inf else float(snr),
            "rewrites": rewrites, "tried": tried}


def _convert(model, inputs, outputs, lower, options, entry) -> tuple[list[dict], bytes]:
    if entry == "keras":
        return [], _from_keras(model)
    if options is not None and hasattr(model, "structured_input_signature"):
        model = lower.Retraced(model)
    with _lowered(lower, model, options) as rewrites, tempfile.TemporaryDirectory() as folder:
        function = savedmodel.trace(model, _narrow(inputs), outputs)
        savedmodel.save(function, folder, model, gradients=False)
        _forget_composites(Path(folder) / "saved_model.pb")
        content = _from_saved_model(folder)
    return list(rewrites), _rename(content, savedmodel.argument_names(inputs), inputs)


def _forget_composites(file: Path) -> None:
    """Take from functions the mark by which the converter fuses tf_keras's LSTM.

    The fused operator keeps its state between invocations, so only the first would be right.
    """
    content = file.read_bytes()
    if b"api_implements" not in content:
        return
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString(content)
    for graph in saved.meta_graphs:
        for function in graph.graph_def.library.function:
            function.attr.pop("api_implements", None)
    file.write_bytes(saved.SerializeToString(deterministic=True))


@contextlib.contextmanager
def _lowered(lower, model, options):
    if options is None:
        yield []
    else:
        with lower.lowering(model, **options) as rewrites:
            yield rewrites


def _narrow(specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """TFLite's floats are float32; wider or narrower model inputs are fed with it."""
    return [TensorSpec(s.name, s.shape, "float32") if s.dtype in savedmodel.WIDE_FLOATS else s
            for s in specs]


def _rename(content: bytes, names: Sequence[str], inputs: Sequence[TensorSpec]) -> bytes:
    """Give the signature's inputs the names that Python would not take as arguments."""
    renamed = {n: s.name for n, s in zip(names, inputs, strict=True) if n != s.name}
    if not renamed:
        return content
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for signature in model.signatureDefs:
        for entry in signature.inputs:
            name = entry.name.decode()
            entry.name = renamed.get(name, name)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _from_saved_model(folder: str) -> bytes:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(folder, ["serving_default"])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return converter.convert()


def _from_keras(model) -> bytes:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return converter.convert()


def _reference(model, inputs, outputs, lower, count: int = 2, given: list | None = None
               ) -> tuple[list, list]:
    """Seeded samples per input, or those given, and what the model makes of them, one by one."""
    import numpy as np

    states = _states(model)
    failure = None
    for run in (_eager, _in_graph):
        for high in (_highest_index(model), 2):
            rng = np.random.default_rng(0)
            arrays = given or [_random(rng, (count, *s.shape[1:]), s.dtype, high)
                               for s in _narrow(inputs)]
            try:
                with lower.float32(model) if lower else contextlib.nullcontext():
                    rows = run(model, inputs, outputs, arrays, lower)
            except Exception as error:  # an index out of range, an operator without CPU kernel
                failure = failure or error
                continue
            finally:
                for variable, value in states:  # stateful layers remember what they were given
                    variable.assign(value)
            return arrays, [np.concatenate(column) for column in zip(*rows, strict=True)]
    raise TargetError(f"the model cannot be run: {_first_line(failure)}",
                      "check it with model.predict in Keras")


def _eager(model, inputs, outputs, arrays, lower) -> list[list]:
    import numpy as np
    import tensorflow as tf

    return [[np.asarray(r) for r in savedmodel.call(
        model, [tf.constant(a[i:i + 1]) for a in arrays], inputs, outputs)]
        for i in range(len(arrays[0]))]


def _in_graph(model, inputs, outputs, arrays, lower) -> list[list]:
    """Channels-first convolutions run on a CPU only after they were rewritten."""
    import tensorflow as tf

    with _lowered(lower, model, {} if lower else None):
        function = savedmodel.trace(model, _narrow(inputs), outputs)
    names = savedmodel.argument_names(inputs)
    rows = []
    for i in range(len(arrays[0])):
        feed = {n: tf.constant(a[i:i + 1]) for n, a in zip(names, arrays, strict=True)}
        found = function(**feed)
        rows.append([found[s.name].numpy() for s in outputs])
    return rows


def _states(model) -> list[tuple]:
    layers = model._flatten_layers() if hasattr(model, "_flatten_layers") else ()
    found = [v for layer in layers for v in _flat(getattr(layer, "states", None))]
    return [(v, v.numpy().copy()) for v in found if hasattr(v, "assign")]


def _flat(states) -> list:
    import tensorflow as tf

    return [] if states is None else tf.nest.flatten(states)


def _highest_index(model) -> int:
    """One above the largest integer input that no Embedding rejects."""
    layers = model._flatten_layers() if hasattr(model, "_flatten_layers") else ()
    return min([getattr(x, "input_dim", None) or 10 for x in layers
                if "Embedding" in type(x).__name__], default=10)


def _random(rng, shape, dtype, high):
    import numpy as np

    if dtype == "string":
        return np.full(shape, "a", object)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if np.issubdtype(np.dtype(dtype), np.floating):
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 256 if dtype == "uint8" else high, shape).astype(dtype)


def _agreement(content: bytes, inputs, outputs, arrays, wanted) -> float:
    """The smallest SNR in dB over the outputs of the file, run on every row of `arrays`."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_content=content, num_threads=1).get_signature_runner()
    rows = []
    for i in range(len(arrays[0])):
        feed = {s.name: np.asarray(a[i:i + 1]) for s, a in zip(inputs, arrays, strict=True)}
        details = runner.get_input_details()
        result = runner(**{k: v.astype(details[k]["dtype"]) for k, v in feed.items()
                           if k in details})
        rows.append([result[s.name] for s in outputs])
    got = [np.concatenate(column) for column in zip(*rows, strict=True)]
    return min(snr_db(w, g) for w, g in zip(wanted, got, strict=True))


def snr_db(wanted, got) -> float:
    """10 log10 of the power of `wanted` over that of the difference; inf when equal.

    Places where `wanted` is not finite are left out; NaN or infinity elsewhere gives -inf.
    """
    import numpy as np

    wanted = np.asarray(wanted, np.float64).ravel()
    got = np.asarray(got, np.float64).ravel()
    if wanted.shape != got.shape:
        return -math.inf
    finite = np.isfinite(wanted)
    wanted, got = wanted[finite], got[finite]
    if not np.isfinite(got).all():
        return -math.inf
    noise = float(np.square(wanted - got).sum())
    signal = float(np.square(wanted).sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def _write(path: str | Path, content: bytes) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(content)
    os.replace(beside, path)


def _why_not(tried: dict[str, str]) -> str:
    """Why no route gives a file; routes that fail alike are named together."""
    routes: dict[str, list[str]] = {}
    for route, why in tried.items():
        routes.setdefault(why, []).append(route)
    if len(routes) == 1 and len(tried) > 1:
        return next(iter(routes))[:600]
    told = "; ".join(f"{', '.join(names)}: {why}" for why, names in routes.items())
    return told[:600] or "every route killed the process"


def _first_line(error: Exception) -> str:
    """The line of a long message that says most: the operator that could not be converted."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines()
    lines = [line.strip() for line in lines if line.strip()] or [""]
    missing = [line for line in lines if line.startswith(("TF Select ops:", "Custom ops:"))]
    if missing:
        return f"not in TFLite: {', '.join(m.partition(': ')[2] for m in missing)}"[:300]
    telling = [line.rpartition("error: ")[2] for line in lines if "error: " in line]
    return f"{type(error).__name__}: {(telling or lines)[0]}"[:300]
