"""A model to a TensorFlow.js GraphModel, by the converter of the official `tensorflowjs` package.

That package asks for decision forests, JAX and hub modules, which pin TensorFlow and Protobuf and
are not used on the way taken here. So the package is installed without what it asks for (by
`tfcompress setup browser`, into the cache), and only its converter is imported, with stand-ins for
the two modules that it imports and never calls on this way.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import store
from ..artifact import TensorSpec
from ..errors import MissingExtra, OutputError, TargetError
from . import savedmodel, tflite

PACKAGE = "tensorflowjs==4.22.0"
UNUSED = ("tensorflow_hub", "tensorflow_decision_forests")
# TensorFlow.js asks for all files of weights before it reads one, and a browser has six connections
# to a server of HTTP/1.1: seven files wait for each other for ever.
SHARD, SHARDS = 4 * 2**20, 4
QUANTIZED = {"none": {}, "float16": {"float16": "*"}, "uint8": {"uint8": "*"},
             "uint16": {"uint16": "*"}}
FUSED = {"_FusedConv2D": "Conv2D", "_FusedMatMul": "MatMul",
         "FusedDepthwiseConv2dNative": "DepthwiseConv2dNative"}
FUSES = {"BiasAdd", "Relu", "Relu6", "Elu", "LeakyRelu", "Prelu", "Sigmoid"}  # on every backend
# Name: options for lowering (None: the model as it is).
ROUTES = {"unrolled": {"rnn": "unrolled", "fuse": False, "web": True}, "plain": None}


def folder() -> Path:
    """Where the converter is installed, or will be."""
    return store.default_root() / "packages" / PACKAGE.replace("==", "-")


def fetch(progress: Callable[[float | None, str], None] = lambda *_: None) -> Path:
    """Install the converter alone into the cache; returns its folder.

    Raises:
        OutputError: pip could not fetch it.
    """
    target = folder()
    if (target / "tensorflowjs").is_dir():
        return target
    progress(None, PACKAGE)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetching-") as work:
        made = Path(work) / "made"
        done = subprocess.run(
            [*_pip(), "install", "--quiet", "--no-deps", "--target", str(made), PACKAGE],
            capture_output=True, text=True)
        if done.returncode or not (made / "tensorflowjs").is_dir():
            said = " ".join(done.stderr.split())[-300:]
            raise OutputError(f"pip cannot fetch {PACKAGE}: {said}", "check the network")
        try:
            os.rename(made, target)
        except OSError:
            if not (target / "tensorflowjs").is_dir():
                raise
    return target


def _pip() -> list[str]:
    """pip of this interpreter, or uv where the environment was made by it and has no pip."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    if uv := shutil.which("uv"):
        return [uv, "pip"]
    raise MissingExtra("pip", "browser", hint="python -m ensurepip")


@contextlib.contextmanager
def _converter() -> Iterator[Any]:
    """The converter's module; its package's own `__init__`, which imports JAX, is not run."""
    if not (folder() / "tensorflowjs").is_dir():
        raise MissingExtra("tensorflowjs", "browser", hint="tfcompress setup browser")
    before = dict(sys.modules)
    for name in ("tensorflowjs", "tensorflowjs.converters"):
        module = types.ModuleType(name)
        module.__path__ = [str(folder() / name.replace(".", "/"))]
        sys.modules[name] = module
    sys.modules["tensorflowjs"].version = importlib.import_module("tensorflowjs.version")
    for name in UNUSED:
        sys.modules.setdefault(name, types.ModuleType(name))
    try:
        yield importlib.import_module("tensorflowjs.converters.tf_saved_model_conversion_v2")
    finally:
        for name in set(sys.modules) - set(before):
            if name.partition(".")[0] in ("tensorflowjs", *UNUSED):
                del sys.modules[name]


def to_tfjs(model: Any, path: str | Path, *, inputs: Sequence[TensorSpec],
            outputs: Sequence[TensorSpec], quantization: str = "none",
            progress: Callable[[float | None, str], None] = lambda *_: None,
            lower: Any = None, skip: Collection[str] = ()) -> dict:
    """Write `model` as a GraphModel folder: `model.json` and weight files.

    Recurrent layers are unrolled before conversion: the runtimes cannot run TensorFlow's loops.

    Args:
        model: A Keras 3 or tf_keras model, or a signature of a loaded SavedModel.
        path: The folder to make, whole or not at all; an existing one is replaced.
        inputs: Static shapes (batch 1), dtypes and names, in the model's order.
        outputs: Names of the outputs in the model's order.
        quantization: A key of `QUANTIZED`: how weights are stored; they are widened on loading.
        progress: Called with `None` and `route:<name>` before each route is tried.
        lower: The module `compress.lower`.
        skip: Routes not to try.

    Returns:
        `{"route", "rewrites", "tried", "inputs", "outputs"}`; the last two are the GraphModel's
        own names in the model's order.

    Raises:
        TargetError: No route gives a graph that TensorFlow.js could run.
        MissingExtra: The converter is not installed.
    """
    tried: dict[str, str] = {}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _converter() as converter:
        for name, options in ROUTES.items():
            if name in skip or (options is not None and not lower):
                continue
            progress(None, f"route:{name}")
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".saving-") as work:
                try:
                    rewrites = _convert(model, Path(work), inputs, outputs, options, lower,
                                        converter, quantization)
                    told = _ends(Path(work) / "made" / "model.json", inputs, outputs)
                except Exception as error:  # the converter raises whatever it likes
                    tried[name] = " ".join(str(error).split())[:300]
                    continue
                if path.exists():
                    shutil.rmtree(path)
                os.replace(Path(work) / "made", path)
            return {"route": name, "rewrites": rewrites, "tried": tried, **told}
    why = tflite._why_not(tried)
    raise TargetError(f"the model cannot become a TensorFlow.js graph ({why})",
                      "use the target litert-js: it runs more operations in the browser")


def _convert(model, work: Path, inputs, outputs, options, lower, converter, quantization
             ) -> list[dict]:
    lowered = lower.lowering(model, **options) if options is not None else \
        contextlib.nullcontext([])
    if options is not None and hasattr(model, "structured_input_signature"):
        model = lower.Retraced(model)
    with lowered as rewrites:
        function = savedmodel.trace(model, inputs, outputs)
        savedmodel.save(function, work / "saved", model, gradients=False)
    size = sum(f.stat().st_size for f in (work / "saved").rglob("*") if f.is_file())
    converter.convert_tf_saved_model(
        str(work / "saved"), str(work / "made"), signature_def="serving_default",
        saved_model_tags="serve", quantization_dtype_map=QUANTIZED[quantization] or None,
        skip_op_check=False, strip_debug_ops=True,
        weight_shard_size_bytes=max(SHARD, -(-size // SHARDS)))
    return list(rewrites)


def _ends(file: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> dict:
    """The names under which TensorFlow.js has the inputs and outputs; also made deterministic.

    The converter finds names by shape and type, which two tensors may share. Here they come from
    the traced function: inputs are called as its arguments, outputs are numbered in the order of
    their sorted names.
    """
    record = json.loads(file.read_text())
    found = {side: {e["name"]: e for e in record["signature"][side].values()}
             for side in ("inputs", "outputs")}
    keys = {"inputs": [f"{n}:0" for n in savedmodel.argument_names(inputs)],
            "outputs": [f"Identity{f'_{i}' if i else ''}:0" for i in map(
                sorted(s.name for s in outputs).index, (s.name for s in outputs))]}
    told: dict[str, list[str]] = {}
    for side, specs in (("inputs", inputs), ("outputs", outputs)):
        for spec, key in zip(specs, keys[side], strict=True):
            if key not in found[side]:
                raise TargetError(f"{side[:-1]} {spec.name!r} is not in the graph: no output "
                                  "depends on it", "leave that input out of the model")
        told[side] = keys[side]
        record["signature"][side] = {
            spec.name: found[side][key] for spec, key in zip(specs, keys[side], strict=True)}
    _unfuse(record)
    record.pop("generatedBy", None), record.pop("convertedBy", None)
    file.write_text(json.dumps(record, sort_keys=True))
    return told


def _unfuse(record: dict) -> None:
    """Take apart what was fused in a way that the runtime refuses.

    The optimizer takes whatever is added to a product for a bias, the share of a recurrent
    layer's first state or a computed tensor too, which are no vectors; and it fuses activations
    that only TensorFlow has kernels for (tanh).
    """
    weights = [w for group in record["weightsManifest"] for w in group["weights"]]
    shapes = {w["name"]: w["shape"] for w in weights}
    nodes = record["modelTopology"]["node"]
    for node in list(nodes):
        kind = FUSED.get(node["op"])
        if not kind:
            continue
        operations = [base64.b64decode(s).decode()
                      for s in node["attr"].get("fused_ops", {}).get("list", {}).get("s", [])]
        vector = len(shapes.get(node["input"][2], ())) == 1  # and not computed
        if vector and FUSES.issuperset(operations):
            continue
        if operations[:1] != ["BiasAdd"] or len(node["input"]) > 3:
            continue
        dtype, attributes = node["attr"]["T"], node["attr"]
        alpha = attributes.get("leakyrelu_alpha")
        for extra in ("fused_ops", "num_args", "epsilon", "leakyrelu_alpha"):
            attributes.pop(extra, None)
        *data, bias = node["input"]
        first = {"name": f"{node['name']}/alone", "op": kind, "input": data, "attr": attributes}
        chain = ["AddV2", *operations[1:]]
        at = nodes.index(node)
        made, before = [first], first["name"]
        for i, operation in enumerate(chain):
            last = i == len(chain) - 1
            made.append({"name": node["name"] if last else f"{node['name']}/{operation}",
                         "op": operation,
                         "attr": {"T": dtype} | (
                             {"alpha": alpha} if alpha and operation == "LeakyRelu" else {}),
                         "input": [before, bias] if i == 0 else [before]})
            before = made[-1]["name"]
        nodes[at:at + 1] = made
