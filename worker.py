"""What runs in the source model's process, with TensorFlow: thin calls into the floors below.

The pipeline itself imports nothing heavy; each function here is called through `Child.call` with
JSON and keeps its state (the loaded model) in the child between calls. What needs no TensorFlow is
in `filing`.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import shutil
import sys
import time
from pathlib import Path

from . import data
from .artifact import Measurement, TensorSpec
from .child import Progress
from .errors import DataError, ModelError, TargetError, TfcompressError

state: dict = {}
LEARNED_DB = 30.0  # a value that falls on the other side of a rounding is off by a whole step
OPTIMIZER = "{:,} bytes of the file are optimizer state; they are not counted as the model's size"


def open_source(payload: dict, progress: Progress) -> dict:
    """Load the model and say what it is."""
    progress(None, "loading TensorFlow")
    _import_keras()
    from .compress.models import load

    progress(None, "reading the model")
    how = {k: payload[k] for k in ("unsafe", "custom_objects")}
    how["input_shapes"] = load.parse_input_shape(payload["input_shape"])
    state["how"] = how  # a trained model is opened in the same way
    state["loaded"] = loaded = load.open_model(payload["path"], **how)
    spare = _optimizer(Path(payload["path"]))
    return {
        "kind": loaded.kind,
        "notes": [*loaded.notes, *([OPTIMIZER.format(spare)] if spare else [])],
        "optimizer_bytes": spare,
        "trainable": loaded.trainable,
        "inputs": [_spec(s) for s in loaded.inputs],
        "outputs": [_spec(s) for s in loaded.outputs],
        "parameters": _parameters(loaded.model),
        "vocabulary": _vocabulary(loaded),
    }


def _import_keras() -> None:
    """Keras imports scikit-learn where it is installed, which takes seconds; nothing here needs it.

    Afterwards it can be imported again, by the user's own modules.
    """
    hidden = "sklearn" not in sys.modules
    if hidden:
        sys.modules["sklearn"] = None
    importlib.import_module("keras")
    if hidden:
        del sys.modules["sklearn"]


def _optimizer(path: Path) -> int:
    """Bytes of optimizer state in a model file, which no artifact needs."""
    import io
    import zipfile

    import h5py

    if path.is_dir():
        return 0
    source: object = path
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if "model.weights.h5" not in archive.namelist():
                return 0
            source = io.BytesIO(archive.read("model.weights.h5"))
    sizes: list[int] = []
    with h5py.File(source, "r") as file:
        for group in (file.get("optimizer"), file.get("optimizer_weights")):
            if isinstance(group, h5py.Group):
                group.visititems(lambda _, item: sizes.append(getattr(item, "nbytes", 0)))
    return sum(sizes)


def _spec(spec: TensorSpec) -> dict:
    return {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype}


def _parameters(model) -> int | None:
    weights = getattr(model, "weights", None) or getattr(model, "variables", None)
    if weights is None:
        return None
    total = 0
    for weight in weights:
        size = 1
        for d in weight.shape:
            size *= int(d)
        total += size
    return total


def _vocabulary(loaded) -> dict[str, int]:
    """The smallest embedding table bounds what integer inputs may hold in random data."""
    layers = getattr(loaded.model, "_flatten_layers", lambda: [])()
    sizes = [int(n) for n in (getattr(layer, "input_dim", None) for layer in layers) if n]
    return {s.name: min(sizes) for s in loaded.inputs} if sizes else {}


def prepare(payload: dict, progress: Progress) -> dict:
    """Read the data, split them, and write them where the other processes find them."""
    progress(None, "reading the data")
    loaded = state["loaded"]
    options = payload["options"] | {"vocabulary": payload["vocabulary"]}
    told = data.prepare(
        payload["spec"], loaded.inputs, loaded.outputs, Path(payload["out"]), **options
    )
    told["notes"] += _raw_pixels(loaded, told)
    return told


def _raw_pixels(loaded, told: dict) -> list[str]:
    """A hint where pixels of 0 to 255 go into a float input that nothing in the model scales."""
    kinds = {type(layer).__name__ for layer in getattr(loaded.model, "_flatten_layers", list)()}
    if not kinds or kinds & {"Rescaling", "Normalization", "BatchNormalization"}:
        return []
    raw = [
        s.name
        for s in loaded.inputs
        if s.dtype.startswith("float")
        and len(s.shape) == 4
        and told["range"].get(s.name, [0, 0])[0] >= 0
        and 200 < told["range"].get(s.name, [0, 0])[1] <= 255
    ]
    if not raw or told["normalize"]:
        return []
    return [
        f"input {', '.join(raw)} gets raw pixels (0 to 255) and the model has no layer that scales "
        "them: if it was trained on scaled pixels, give --normalize"
    ]


def time_source(payload: dict, progress: Progress) -> dict:
    """Latency of the source model on one sample, in TensorFlow, as it is before anything else."""
    import numpy as np

    from .compress.models import load

    progress(None, "timing the source model")
    one = [np.asarray(a[:1]) for a in open_samples(payload["samples"])]
    loaded = state["loaded"]
    run_model(one)
    times, start = [], time.perf_counter()
    while len(times) < 5 or (len(times) < 100 and time.perf_counter() - start < payload["seconds"]):
        before = time.perf_counter_ns()
        load.call(loaded, one)
        times.append((time.perf_counter_ns() - before) / 1e6)
    note = "TensorFlow, all threads; not interleaved with the artifacts"
    if "xla" in loaded.compiled:
        note += "; compiled by XLA, since an operator has no kernel here"
    return {"measurements": [Measurement("latency", "ms", tuple(times), note).to_dict()]}


def reference(payload: dict, progress: Progress) -> dict:
    """Outputs of the source model for the first `rows` held-back samples, one file per output."""
    import numpy as np
    from numpy.lib.format import open_memmap

    rows, out = payload["rows"], Path(payload["out"])
    loaded = _model(payload)
    arrays = open_samples(payload["samples"])
    files: list = []
    batch = payload["batch"]
    for start in range(0, rows, batch):
        stop = min(start + batch, rows)
        progress(start / rows, "running the source model")
        given = [np.asarray(a[start:stop]) for a in arrays]
        results = run_model(given, loaded)
        if start == 0:
            drawn = _drawn(results, run_model(given, loaded))
        for i, result in enumerate(results):
            result = np.asarray(result)
            if start == 0:
                dtype = np.float32 if result.dtype.kind == "f" else result.dtype
                files.append(open_memmap(out / f"{i}.npy", "w+", dtype, (rows, *result.shape[1:])))
            if not np.isfinite(result).all():
                state.setdefault("not finite", True)
            files[i][start:stop] = result
    for file in files:
        file.flush()
    return {"rows": rows, "finite": "not finite" not in state, "drawn": drawn}


def _drawn(first: list, second: list) -> list[int]:
    """The outputs that are other ones when the same model gets the same samples again."""
    import numpy as np

    def differ(a, b) -> bool:
        largest = np.abs(a[np.isfinite(a)]).max(initial=0.0)
        return not np.allclose(a, b, rtol=1e-2, atol=1e-3 * largest, equal_nan=True)

    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(first, second, strict=True)]
    return [i for i, (a, b) in enumerate(pairs) if a.dtype.kind == "f" and differ(a, b)]


def train(payload: dict, progress: Progress) -> dict:
    """The source model, trained by the recipe: `model.keras`, and its float file after QAT."""
    from .compress.training import recipe

    if payload["backend"] == "tfmot":
        from .compress.training import tfmot as engine
    else:
        from .compress.training import finetune as engine
    out = Path(payload["out"])
    done = engine.run(
        state["loaded"],
        recipe.from_dict(payload["recipe"]),
        payload["samples"],
        seed=payload["seed"],
        progress=progress,
        checkpoint_dir=payload["checkpoint"],
    )
    from .export.keras import to_keras

    to_keras(done.model, out / "model.keras")
    told = {k: v for k, v in vars(done).items() if k not in ("model", "qat_model")}
    if hasattr(done.qat_model, "to_int8"):  # the backend has its own way to the integer file
        told["converted"] = None
        try:
            told["int8"] = done.qat_model.to_int8(
                out / "int8.tflite",
                _static(state["loaded"].inputs),
                state["loaded"].outputs,
                payload["io_dtype"],
            )
        except TargetError as error:
            done.notes.append(f"quantized after training instead: {error.message}")
        return told
    told["converted"] = _with_learned_ranges(done, out, payload["skip"], progress)
    for opset, batch in payload["onnx"] if done.qat_model else ():
        _learned_onnx(done, out, opset, batch, payload["skip"], progress)
    return told


def learned_onnx(opset: int | None, batch: int | None) -> str:
    """The name of the file with learned roundings; the float file has `float` in its place."""
    return f"learned-{opset}-{batch}.onnx"


def _learned_onnx(done, out: Path, opset, batch, skip: list[str], progress: Progress) -> None:
    """The same as `_with_learned_ranges` in ONNX."""
    from .compress import lower
    from .compress.onnx import learned as onnx_learned
    from .export.onnx import to_onnx

    loaded = state["loaded"]
    path = out / learned_onnx(opset, batch)
    try:
        to_onnx(done.qat_model, path, inputs=loaded.inputs, outputs=loaded.outputs, opset=opset,
                batch=batch, progress=progress, lower=lower, skip=skip, check=_learned_check(done))
        content, _ = onnx_learned.strip(path.read_bytes())
    except Exception as error:
        path.unlink(missing_ok=True)
        done.notes.append(f"ONNX: the learned ranges are calibrated instead: {_said(error)}")
        return
    path.with_name(path.name.replace("learned", "float")).write_bytes(content)


def _said(error: Exception) -> str:
    return " ".join(str(getattr(error, "message", error)).split())[:200]


def _learned_check(done) -> tuple[list, list]:
    """A few training samples, and what the model with its roundings makes of them."""
    import numpy as np

    rows = done.qat_model.ranges.samples[:4]
    wanted = [[np.asarray(r) for r in done.qat_model(row)] for row in rows]
    return tuple([np.concatenate(c) for c in zip(*x, strict=True)] for x in (rows, wanted))


def _with_learned_ranges(done, out: Path, skip: list[str], progress: Progress) -> dict | None:
    """`learned.tflite`, whose activations are rounded as in training, and it without: both float.

    None where nothing was learned, or where no converter takes the model with its roundings: then
    ranges are calibrated, and a note says so.
    """
    if done.qat_model is None:
        return None
    from . import tflite
    from .compress import lower
    from .compress.tflite import learned
    from .export.tflite import to_tflite

    loaded = state["loaded"]
    try:
        made = to_tflite(
            done.qat_model,
            out / "learned.tflite",
            inputs=_static(loaded.inputs),
            outputs=loaded.outputs,
            progress=progress,
            lower=lower,
            skip=skip,
            check=_learned_check(done),
            faithful=LEARNED_DB,
        )
    except Exception as error:  # converter and model raise whatever they like
        done.notes.append(f"the learned ranges are calibrated instead: {_said(error)}")
        return None
    content, _ = learned.strip((out / "learned.tflite").read_bytes())
    (out / "float.tflite").write_bytes(content)
    return made | {"macs": tflite.describe(out / "float.tflite").get("macs")}


def _model(payload: dict):
    """The model that a call is about: the source model, or the trained one in `trained`."""
    path = payload.get("trained")
    if not path:
        return state["loaded"]
    if state.get("trained", ("",))[0] != path:
        from .compress.models import load

        made = load.open_model(path, **state["how"])
        source = state["loaded"]
        state["trained"] = path, dataclasses.replace(
            made, inputs=source.inputs, outputs=source.outputs)
    return state["trained"][1]


def run_model(arrays: list, loaded=None) -> list:
    """A model on the user's data; what TensorFlow rejects is an error in the data."""
    from .compress.models import load

    loaded = loaded or state["loaded"]
    try:
        return load.call(loaded, arrays)
    except TfcompressError:
        raise
    except Exception as error:
        text = re.sub(r"\x1b\[[0-9;]*m", "", str(getattr(error, "message", error)))
        text = " ".join(text.split())
        if found := re.search(r"('[^']*'|\"[^\"]*\") is not a valid (root )?scope name", text):
            raise ModelError(
                f"TensorFlow takes no layer that is called {found[1]}",
                "rename it in the model: letters, digits and _ . - > are fine",
            ) from error
        if found := re.search(r"= (-?\d+) is not in \[0, (\d+)\)", text):
            raise DataError(
                f"the data hold the index {found[1]}; an Embedding of the model takes 0 to "
                f"{int(found[2]) - 1}",
                "encode the data with the vocabulary of training",
            ) from error
        raise DataError(
            f"the model cannot be run on the data: {_cause(text)}",
            "give data like those of training; --debug shows more",
        ) from error


def _cause(text: str) -> str:
    """What went wrong, without the source lines that a traced function puts before it."""
    if text.startswith("in user code:"):
        text = re.split(r"(?<= )(?=[A-Z]\w*(?:Error|Exception): )", text)[-1]
    return text if len(text) <= 300 else f"{text[:299]}…"


def open_samples(folder: str) -> list:
    import numpy as np

    folder = Path(folder)
    loaded = state["loaded"]
    return [
        np.load(folder / "inputs" / f"{i}.npy", mmap_mode="r") for i in range(len(loaded.inputs))
    ]


def convert(payload: dict, progress: Progress) -> dict:
    """The model as a float32 .tflite file, by the first route that is not skipped and is right."""
    from . import tflite
    from .compress import lower
    from .export.tflite import to_tflite

    loaded = _model(payload)
    made = to_tflite(
        loaded.model,
        payload["out"],
        inputs=_static(loaded.inputs),
        outputs=loaded.outputs,
        progress=progress,
        lower=lower,
        skip=payload["skip"],
    )
    return made | {"macs": tflite.describe(payload["out"]).get("macs")}


def convert_onnx(payload: dict, progress: Progress) -> dict:
    """The model as a float32 .onnx file, in the same way."""
    from .compress import lower
    from .compress.onnx import graph as onnx_graph
    from .export.onnx import to_onnx

    loaded = _model(payload)
    made = to_onnx(
        loaded.model,
        payload["out"],
        inputs=loaded.inputs,
        outputs=loaded.outputs,
        progress=progress,
        opset=payload.get("opset"),
        batch=payload.get("batch"),
        lower=lower,
        skip=payload["skip"],
    )
    return made | {"macs": onnx_graph.describe(payload["out"]).get("macs")}


def _static(specs: list[TensorSpec]) -> list[TensorSpec]:
    return [TensorSpec(s.name, (1, *s.shape[1:]) if s.shape else (), s.dtype) for s in specs]


def export(payload: dict, progress: Progress) -> dict:
    """The model as Keras file or SavedModel."""
    loaded = _model(payload)
    progress(None, f"writing {payload['format']}")
    if payload["format"] == "keras":
        if loaded.kind != "keras3":
            raise TargetError(
                f"a {loaded.kind} model cannot be written as a Keras 3 file",
                "use --target saved-model",
            )
        from .export.keras import to_keras

        to_keras(loaded.model, payload["out"])
        return {}
    if payload["format"] == "tfjs":
        return _tfjs(loaded, payload, progress)
    from .export import serving
    from .export.savedmodel import to_saved_model

    ends = {"inputs": loaded.inputs, "outputs": loaded.outputs}
    if loaded.kind == "saved-model":
        shutil.copytree(payload["source"], payload["out"])
    else:
        to_saved_model(loaded.model, payload["out"], **ends)
    if not (Path(payload["out"]) / serving.WARM_UP).exists():
        serving.warm_up(payload["out"], loaded.inputs, payload["name"])
    told = {side: [_spec(s) for s in specs] for side, specs in ends.items()}
    return {"serving": serving.contract(**told, name=payload["name"])}


def _tfjs(loaded, payload: dict, progress: Progress) -> dict:
    """A GraphModel folder with its demo page."""
    from .compress import lower
    from .export import tfjs, web

    inputs = _static(loaded.inputs)
    made = tfjs.to_tfjs(
        loaded.model,
        payload["out"],
        inputs=inputs,
        outputs=loaded.outputs,
        quantization=payload["quantization"],
        progress=progress,
        lower=lower,
    )
    about = {
        side: [_spec(s) | {"tensor": t} for s, t in zip(specs, made.pop(side), strict=True)]
        for side, specs in (("inputs", inputs), ("outputs", loaded.outputs))
    }
    web.write(payload["out"], "tfjs", about, payload["name"])
    return made


def register(payload: dict, progress: Progress) -> dict:
    """Make the user's own layers known to Keras in this process."""
    import keras

    from .compress.models import load

    keras.saving.get_custom_objects().update(load.gather_objects(payload["modules"]))
    return {}


def save_model(model, folder: Path) -> tuple[Path, tuple[str, ...]]:
    """A model in memory as a file, and the modules that its own layers come from.

    A model whose classes live in a notebook cannot be rebuilt by another process: it becomes a
    SavedModel, which needs no classes.
    """
    from .compress.models import load, signature

    if not signature.is_keras3(model):
        path = folder / "model.keras"
        model.save(path)
        return path, ()
    own = {type(layer).__module__ for layer in (model, *model._flatten_layers())}
    own = {name for name in own if name.partition(".")[0] != "keras"}
    if "__main__" in own:
        from .export.savedmodel import to_saved_model

        loaded = load.describe(model, {}, [])
        to_saved_model(model, folder / "model", inputs=loaded.inputs, outputs=loaded.outputs)
        return folder / "model", ()
    from .export.keras import to_keras

    to_keras(model, folder / "model.keras")
    return folder / "model.keras", tuple(sorted(own))


def save_arrays(path: str, arrays: dict) -> None:
    """Write in-memory data as .npz (the Python API's `data={"x": ..., "y": ...}`)."""
    import numpy as np

    np.savez(path, **{k: np.asarray(v) for k, v in arrays.items()})
