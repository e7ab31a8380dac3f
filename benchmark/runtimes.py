"""Runtimes: what an artifact is really run by, behind one narrow seam.

    session = open_session("model.tflite", "litert", names={"inputs": [...], "outputs": [...]})
    outputs = session.run([images])        # float in, float out, whatever the file stores

Adding a runtime is one class here and one line in `RUNTIMES`.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterable

from ..artifact import argument_names
from ..errors import DataError, MissingExtra, ModelError, needed
from .graphs import Keras, TensorFlow
from .sessions import (
    SIGNATURE,
    Array,
    Session,
    _batches,
    _filled,
    _fixed,
    _joined,
    _kept,
    _plain,
    _refused,
    _rows,
    _spec,
    dequantize,
    quantize,
)


class Litert(Session):
    """A .tflite file in the interpreter of ai-edge-litert, or of its forerunner tflite-runtime."""

    def __init__(self, path: str, threads: int):
        interpreter = litert_module().Interpreter
        try:
            self._interpreter = interpreter(model_path=path, num_threads=threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise _refused(path, "litert", error) from None
        inputs = self._interpreter.get_input_details()
        outputs = self._interpreter.get_output_details()
        named_in, named_out = self._signature(
            {d["index"] for d in inputs}, {d["index"] for d in outputs})
        self.inputs, ins = _describe(named_in or [(d["name"], d) for d in inputs])
        self.outputs, outs = _describe(named_out or [(d["name"], d) for d in outputs])
        self.tensors = ins, outs

    def _signature(self, inputs: set[int], outputs: set[int]) -> tuple[list, list]:
        """(name, details) of the signature's tensors; empty where it is not on the main graph."""
        found = self._interpreter.get_signature_list()
        if not found:
            return [], []
        runner = self._interpreter.get_signature_runner(
            SIGNATURE if SIGNATURE in found else next(iter(found)))
        ins = list(runner.get_input_details().items())
        outs = list(runner.get_output_details().items())
        if {d["index"] for _, d in ins} == inputs and {d["index"] for _, d in outs} <= outputs:
            return ins, outs
        return [], []

    def run(self, arrays: list[Array]) -> list[Array]:
        count, step = _rows(arrays, self.inputs), self._fit([a[:1] for a in arrays])
        parts = []
        for rows, have in _batches(arrays, count, step):
            self._set(rows)
            self._invoke()
            parts.append([
                _kept(dequantize(self._interpreter.get_tensor(index), spec), have, step)
                for spec, index in zip(self.outputs, self.tensors[1], strict=True)])
        return _joined(parts, len(self.outputs))

    def ready(self, arrays: list[Array]) -> Callable[[], object]:
        import numpy as np

        step = self._fit([a[:1] for a in arrays])
        self._set([np.repeat(a[:1], step, 0) for a in arrays])
        return self._interpreter.invoke

    def _fit(self, row: list[Array]) -> int:
        """Give free dimensions the size that the data have; returns the file's batch size."""
        step = _fixed(self.inputs) or 1
        resized = False
        for array, spec, index in zip(row, self.inputs, self.tensors[0], strict=True):
            wanted = (step, *array.shape[1:])
            fits = len(wanted) == len(spec["shape"]) and all(
                free in (None, size) for free, size in zip(spec["shape"], wanted, strict=True))
            if not fits:
                raise DataError(f"input {spec['name']!r} takes the shape {_plain(spec['shape'])}, "
                                f"the data have {_plain((None, *array.shape[1:]))}",
                                "give data of the model's input shape, or use --input-shape")
            now = self._interpreter._get_tensor_details(index, 0)["shape"]
            if tuple(now) != wanted:
                self._interpreter.resize_tensor_input(index, wanted)
                resized = True
        if resized:
            self._interpreter.allocate_tensors()
        return step

    def _set(self, rows: list[Array]) -> None:
        for array, spec, index in zip(rows, self.inputs, self.tensors[0], strict=True):
            self._interpreter.set_tensor(index, quantize(array, spec))

    def _invoke(self) -> None:
        try:
            self._interpreter.reset_all_variables()  # fused LSTMs carry state from call to call
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise _refused("the file", "litert", error) from None


class Onnx(Session):
    """An .onnx file in ONNX Runtime, on the CPU; `PROVIDERS` are those of subclasses."""

    PROVIDERS: tuple[str, ...] = ("CPUExecutionProvider",)

    def __init__(self, path: str, threads: int):
        runtime = needed("onnxruntime", "onnx")
        missing = set(self.PROVIDERS[:1]) - set(runtime.get_available_providers())
        if missing:
            raise MissingExtra("onnxruntime-gpu", "onnx",
                               f"this ONNX Runtime has no {missing.pop()}",
                               "pip install onnxruntime-gpu in the place of onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # Threads that spin when their work is done slow down whatever else runs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = runtime.InferenceSession(path, options, providers=list(self.PROVIDERS))
        except Exception as error:  # its own classes, one for each status
            raise _refused(path, "ONNX Runtime", error) from None
        if self._session.get_providers()[0] != self.PROVIDERS[0]:
            raise MissingExtra("CUDA", "onnx",
                               f"{self.PROVIDERS[0]} does not start on this machine",
                               "check the driver, and the versions of CUDA and cuDNN")
        ends = self._session.get_inputs(), self._session.get_outputs()
        self.inputs, self.outputs = (
            [_spec(t.name, [n if isinstance(n, int) else None for n in t.shape],
                   _onnx_dtype(t.type)) for t in side] for side in ends)
        self._wanted = [o.name for o in ends[1]]
        self.tensors = list(range(len(ends[0]))), list(range(len(ends[1])))

    def run(self, arrays: list[Array]) -> list[Array]:
        import numpy as np

        count = _rows(arrays, self.inputs)
        step = _fixed(self.inputs) or max(count, 1)
        return _joined([
            [_kept(dequantize(np.asarray(out), spec), have, step)
             for out, spec in zip(self._once(rows), self.outputs, strict=True)]
            for rows, have in _batches(arrays, count, step)], len(self.outputs))

    def _feed(self, rows: list[Array]) -> dict[str, Array]:
        return {s["name"]: quantize(a, s) for a, s in zip(rows, self.inputs, strict=True)}

    def _once(self, rows: list[Array]) -> list[Array]:
        try:
            return self._session.run([s["name"] for s in self.outputs], self._feed(rows))
        except Exception as error:  # its own classes, one for each status
            raise _refused("the file", "ONNX Runtime", error) from None

    def ready(self, arrays: list[Array]) -> Callable[[], object]:
        step = _fixed(self.inputs) or 1
        feed = self._feed([_filled(a[:1], step) for a in arrays])
        self._once([feed[s["name"]] for s in self.inputs])  # what is wrong is told here
        run, names = self._session.run, [s["name"] for s in self.outputs]
        return lambda: run(names, feed)


class OnnxCuda(Onnx):
    """The same on an NVIDIA GPU."""

    PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


class OnnxTensorRT(Onnx):
    """The same compiled by TensorRT; what it does not take runs on CUDA."""

    PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")


def _in_browser(runtime: str, backend: str) -> Callable[[str, int], Session]:
    def open_page(path: str, threads: int) -> Session:
        from .browser import BrowserSession

        return BrowserSession(path, runtime, backend)

    return open_page


def _on_gpu(path: str, threads: int) -> Session:
    from .gpu import LitertGpu

    return LitertGpu(path, threads)


# Runtimes of browsers, and the modules of `web/` that drive them.
PAGES = {"litert-js": "litert", "tfjs": "tfjs", "onnxruntime-web": "onnx"}
RUNTIMES: dict[str, Callable[[str, int], Session]] = {
    "litert-gpu": _on_gpu,
    **{f"{name}-{backend}": _in_browser(runtime, backend)
       for name, runtime in PAGES.items() for backend in ("wasm", "webgl", "webgpu")},
    **{name: _in_browser(runtime, "wasm") for name, runtime in PAGES.items()},
    "litert": Litert, "keras": Keras, "tensorflow": TensorFlow, "onnxruntime": Onnx,
    "onnxruntime-cuda": OnnxCuda, "onnxruntime-tensorrt": OnnxTensorRT,
}


MAKERS = {"litert": "@litertjs/", "tfjs": "@tensorflow/"}  # of packages, by runtime


def there(runtime: str) -> list[str]:
    """What decides whether this machine has a runtime: a step that needs it depends on this.

    Empty for runtimes that come with the package.
    """
    if runtime.startswith(tuple(PAGES)):
        from . import browser, packages

        found = []
        for find in (browser.find_browser, packages.find):
            try:
                found.append(str(find()))
            except MissingExtra as error:
                found.append(error.message)
        return found
    if runtime.startswith("onnxruntime"):
        return [f"onnxruntime: {importlib.util.find_spec('onnxruntime') is not None}"]
    if runtime == "litert-gpu":
        from . import gpu

        return [*gpu.drivers(), str(gpu.software())]
    return []


def versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of what runs the named runtimes and is no Python package, as far as it is there."""
    kinds = {n.partition("-")[0] for n in names if n.startswith(("litert-js", "tfjs"))}
    if not kinds:
        return {}
    from . import browser, packages

    found = {name: version for name, version in packages.versions().items()
             if any(name.startswith(MAKERS[kind]) for kind in kinds)}
    return found | ({"browser": told} if (told := browser.version()) else {})


def open_session(path: str, runtime: str, threads: int = 1, names: dict | None = None) -> Session:
    """Load an artifact into its runtime.

    Args:
        path: The file (a folder for a SavedModel).
        runtime: A key of `RUNTIMES`.
        threads: Threads used for one operation.
        names: `{"inputs": [...], "outputs": [...]}`: the order in which `run` shall take and
            return arrays. A file that does not know these names is taken in its own order.

    Raises:
        ModelError: The file cannot be loaded, or has other inputs and outputs than `names`.
        MissingExtra: The runtime is not installed.
    """
    if not os.path.exists(path):
        raise ModelError(f"no such file: {path}", "check the path")
    session = RUNTIMES[runtime](os.fspath(path), threads)
    for side, what in enumerate(("inputs", "outputs")):
        wanted = (names or {}).get(what)
        if wanted is not None:
            have = [s["name"] for s in getattr(session, what)]
            session.order(side, _order(wanted, have, what, path))
    return session


def litert_module():
    """The module that has `Interpreter` and `OpResolverType`.

    Raises:
        MissingExtra: Neither ai-edge-litert nor tflite-runtime is installed.
    """
    try:
        from ai_edge_litert import interpreter
        return interpreter
    except ImportError:
        pass
    try:
        from tflite_runtime import interpreter
        return interpreter
    except ImportError:
        raise MissingExtra("ai-edge-litert", "all", hint="pip install ai-edge-litert") from None


def _onnx_dtype(kind: str) -> str:
    """NumPy's name for what ONNX Runtime calls `tensor(float)`."""
    plain = kind.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64", "string": "object"}.get(plain, plain)


def _describe(named: list[tuple[str, dict]]) -> tuple[list[dict], list[int]]:
    """Specs and tensor indices of (name, LiteRT tensor details) pairs."""
    import numpy as np

    specs = []
    for name, d in named:
        free = d.get("shape_signature")
        shape = free if free is not None and len(free) else d["shape"]
        scale, zero_point = d["quantization"]
        specs.append(_spec(name, shape, np.dtype(d["dtype"]).name, float(scale), int(zero_point)))
    return specs, [d["index"] for _, d in named]


def _order(wanted: list[str], have: list[str], side: str, path: str) -> list[int]:
    if len(wanted) != len(have):
        raise ModelError(f"{path} has {len(have)} {side}, the source model has {len(wanted)}",
                         "measure an artifact of the same model")
    for plain in (lambda n: n, lambda n: n.removeprefix(f"{SIGNATURE}_").partition(":")[0]):
        known = [plain(n) for n in have]
        if len(set(known)) == len(known) and set(wanted) == set(known):
            return [known.index(n) for n in wanted]
    if set(arguments := argument_names(wanted)) == set(have):
        return [have.index(n) for n in arguments]
    return list(range(len(have)))
