"""From a path to a model that can be run, whatever wrote it. Needs TensorFlow.

A file is copied to a private place first, so that what is scanned for code (`scan.check`) is
what is loaded and nothing is ever written beside the user's file. Keras 3 reads it, or, where
Keras 3 cannot, tf_keras and a bridge (`legacy`).
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...artifact import TensorSpec
from ...errors import DataError, ModelError
from . import container, hosted, scan, signature

BATCH = 32  # rows run at once; fewer when they are large
BATCH_BYTES = 64 << 20
parse_input_shape = signature.parse_input_shape
REGISTER = "pass --custom-objects package.module, naming the module that defines it"


@dataclass(frozen=True)
class Loaded:
    """A model, ready to run and to export.

    Attributes:
        model: A Keras 3 model, a tf_keras model, or a SavedModel's signature, by `kind`.
        kind: `keras3`, `tf_keras` or `saved-model`.
        inputs: Its inputs in its own order; the first dimension is the batch.
        outputs: Its outputs in its own order.
        notes: What was done to load it, in words.
        trainable: Whether stages that train can work on it.
        run: Takes a list of tensors (the inputs in order), gives a list (the outputs in order),
            at inference.
    """

    model: Any
    kind: str
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    notes: list[str]
    trainable: bool
    run: Callable[[list], list] = field(repr=False)
    compiled: dict = field(default_factory=dict, repr=False, compare=False)


def open_model(path: str | Path, *, unsafe: bool = False, custom_objects: Sequence[str] = (),
               input_shapes: dict[str, tuple[int, ...]] | None = None) -> Loaded:
    """Load the model at `path`; the file and its folder are only read.

    Args:
        path: A `.keras` or `.h5` file of Keras 2 or 3, or a SavedModel folder.
        unsafe: Run code that the file carries (Lambda layers), with the user's rights.
        custom_objects: Modules (`package.module`) that define the model's own layers.
        input_shapes: Shapes without batch by input name, from `parse_input_shape`.

    Raises:
        ModelError: The file is missing, damaged or no model, needs code that is not there, has
            a free dimension that no given shape fixes, or has NaN or infinite weights.
        UnsafeModelError: The file carries code and `unsafe` is not set.
        UsageError: A given shape does not fit the model.
    """
    path, shapes = Path(path), dict(input_shapes or {})
    kind = container.identify(path)
    with _quiet():
        if kind == "saved-model":
            from .savedmodel import open_saved_model

            scan.check(path, unsafe=unsafe)
            return open_saved_model(path, shapes)
        with _private_copy(path, kind) as copy:
            try:
                found = scan.check(copy, unsafe=unsafe)
                objects = gather_objects(custom_objects)
                _require(found, objects)
                model, notes = _load_file(copy, found, unsafe, objects, shapes)
            except ModelError as error:
                error.message = error.message.replace(str(copy), str(path))
                error.args = (error.message,)
                raise
        if unsafe:
            notes.append("loaded with --unsafe-load: code in the file was allowed to run")
        check_weights(path, ((w.path if hasattr(w, "path") else w.name, w) for w in model.weights))
        return describe(model, shapes, notes)


def as_function(loaded: Loaded) -> Callable[[list], list]:
    """The model as a plain function, list of tensors to list of tensors, for tracing."""
    return loaded.run


def call(loaded: Loaded, arrays: list) -> list:
    """Run the source model at inference.

    Args:
        loaded: The model.
        arrays: One array per input in order, N rows each; cast to the input's dtype.

    Returns:
        One array per output in order, N rows each: floats as float32, other types kept.

    Raises:
        DataError: The number of arrays, rows or their shapes do not fit the inputs.
    """
    import numpy as np
    import tensorflow as tf

    _check_arrays(loaded, arrays)
    if "function" not in loaded.compiled:
        loaded.compiled["function"] = tf.function(lambda *tensors: loaded.run(list(tensors)))
    fixed = loaded.inputs[0].shape[0] or loaded.compiled.get("batch")
    reset_states(loaded)
    parts = _first_that_runs(loaded, arrays, [fixed] if fixed else
                             list(dict.fromkeys([_batch_size(arrays), 1])))
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _first_that_runs(loaded: Loaded, arrays: list, sizes: list[int]) -> list[list]:
    """Outputs per batch, in batches of the first size that the model takes.

    A model that was written for one sample at a time takes only that. Where an operator has no
    kernel for this processor, XLA compiles the model. What worked is remembered.
    """
    import tensorflow as tf

    failed: Exception | None = None
    known = "xla" in loaded.compiled
    for xla in (False,) if known else (False, True):
        if xla:
            if not lacks_kernel(failed):
                break
            plain = loaded.compiled["function"]
            loaded.compiled["function"] = tf.function(
                lambda *tensors: loaded.run(list(tensors)), jit_compile=True)
        for size in sizes:
            try:
                parts = _run_batches(loaded, arrays, size)
            except (ValueError, tf.errors.InvalidArgumentError,
                    tf.errors.UnimplementedError) as error:
                failed = failed or error
                continue
            if size == 1 != sizes[0]:
                loaded.compiled["batch"] = 1
            if xla:
                loaded.compiled["xla"] = True
            return parts
        if xla:
            loaded.compiled["function"] = plain
    raise failed


def lacks_kernel(error: Exception | None) -> bool:
    """Whether an operator has no kernel for this processor, where XLA may help.

    Other errors are not for XLA, which would go on with indices that are out of range.
    """
    import tensorflow as tf

    return isinstance(error, tf.errors.UnimplementedError) or (
        isinstance(error, tf.errors.OpError)
        and bool(re.search(r"OpKernel|not (?:yet )?support|only supports", error.message)))


def reset_states(loaded: Loaded) -> None:
    """Stateful recurrent layers begin anew, so that a call does not depend on the one before."""
    if loaded.kind != "saved-model":
        signature.reset_states(loaded.model)


def _run_batches(loaded: Loaded, arrays: list, size: int) -> list[list]:
    """Outputs per batch; the last batch is filled up, so that one trace serves all."""
    import numpy as np
    import tensorflow as tf

    parts = []
    for start in range(0, len(arrays[0]), size):
        rows = [a[start:start + size] for a in arrays]
        count = len(rows[0])
        if count < size:
            rows = [np.concatenate([r, np.repeat(r[-1:], size - count, axis=0)]) for r in rows]
        tensors = [tf.constant(r if spec.dtype == "string" else
                               np.asarray(r).astype(_numpy_dtype(spec.dtype)), dtype=spec.dtype)
                   for r, spec in zip(rows, loaded.inputs, strict=True)]
        outputs = [_plain(o) for o in loaded.compiled["function"](*tensors)]
        outputs = [o if o.ndim else o[None] for o in outputs]
        if any(len(o) % size for o in outputs):
            raise ValueError("an output has no row for each sample")
        parts.append([o[:len(o) * count // size] for o in outputs])
    return parts


def _numpy_dtype(name: str) -> Any:
    import tensorflow as tf

    return tf.as_dtype(name).as_numpy_dtype


def _plain(tensor: Any) -> Any:
    import tensorflow as tf

    if isinstance(tensor, (tf.SparseTensor, tf.RaggedTensor)):
        tensor = tf.sparse.to_dense(tensor) if isinstance(tensor, tf.SparseTensor) \
            else tensor.to_tensor()
    if tensor.dtype.is_floating:
        tensor = tf.cast(tensor, tf.float32)
    return tensor.numpy()


def _check_arrays(loaded: Loaded, arrays: list) -> None:
    if len(arrays) != len(loaded.inputs):
        raise DataError(f"the model has {len(loaded.inputs)} inputs and the data {len(arrays)}",
                        f"give one array for each of: {', '.join(s.name for s in loaded.inputs)}")
    for spec, array in zip(loaded.inputs, arrays, strict=True):
        shape = array.shape
        if len(shape) != len(spec.shape) or any(
                d not in (None, n) for d, n in zip(spec.shape[1:], shape[1:], strict=False)):
            raise DataError(f"input {spec.name!r} takes {spec.shape[1:]} per sample, "
                            f"and the data hold {shape[1:]}", "give data of the input's shape")
        if len(array) != len(arrays[0]) or not len(array):
            raise DataError(f"input {spec.name!r} has {len(array)} samples where the first input "
                            f"has {len(arrays[0])}", "give as many for each input, at least one")


def _batch_size(arrays: list) -> int:
    row = sum(a.nbytes // len(a) for a in arrays) or 1
    return max(1, min(BATCH, BATCH_BYTES // row, len(arrays[0])))


# Loading


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing that TensorFlow and Keras say while loading reaches the terminal."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with open(os.devnull, "w") as nowhere, warnings.catch_warnings(), \
            contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _private_copy(path: Path, kind: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tfcompress-") as folder:
        copy = Path(folder) / f"model.{kind}"
        try:
            shutil.copyfile(path, copy)
        except OSError as error:
            raise ModelError(f"cannot copy {path} to {folder}: {error.strerror}",
                             "free some space there, or set TMPDIR to another folder") from None
        yield copy


def _load_file(path: Path, found: scan.Scan, unsafe: bool, objects: dict,
               shapes: dict) -> tuple[Any, list[str]]:
    from . import legacy

    old = found.container.keras_version.split(".")[0] in ("", "0", "1", "2")
    try:
        model, failure = _load_keras3(path, unsafe, objects, shapes), None
    except Exception as error:
        model, failure = None, error
    if not old:
        if failure:
            raise explain(path, failure) from failure
        return model, []
    return legacy.load(path, model, failure, unsafe=unsafe, objects=objects)


def _load_keras3(path: Path, unsafe: bool, objects: dict, shapes: dict) -> Any:
    import keras

    failure, model = None, None
    try:
        model = keras.saving.load_model(path, custom_objects=objects, compile=False,
                                        safe_mode=not unsafe)
    except Exception as error:
        failure = error
    if model is not None and (not shapes or signature.knows_inputs(model)):
        return model
    if path.suffix != ".keras" or not shapes:
        raise failure
    # A model of the user's own class whose file does not say for which shapes it was built.
    config = container.read(path).configs["config.json"]
    if config.get("class_name") in ("Functional", "Sequential"):
        raise failure
    config.pop("compile_config", None)
    config.pop("build_config", None)
    model = keras.saving.deserialize_keras_object(config, custom_objects=objects,
                                                  safe_mode=not unsafe)
    args, kwargs = _zeros(shapes)
    model(*args, **kwargs)
    model.load_weights(path)
    model._build_shapes_dict = {k or "input_shape": (None, *s) for k, s in shapes.items()}
    return model


def _zeros(shapes: dict) -> tuple[list, dict]:
    import numpy as np

    zeros = {k: np.zeros((1, *s), "float32") for k, s in shapes.items()}
    return ([zeros[""]], {}) if "" in zeros else ([], zeros)


def explain(path: str | Path, error: Exception) -> ModelError:
    """The error of a failed load in words of ours; a missing class gets its hint."""
    text = " ".join(str(error).split())
    missing = re.search(r"(?:Unknown|Could not (?:locate|interpret))[\w\s]*?:?\s'([^']+)'|(?:Unkn"
                        r"own [\w\s]+|Could not interpret [\w\s]*identifier): ([\w.>]+)", text)
    if missing:
        name = missing[1] or missing[2]
        return ModelError(f"{path} needs the custom object {name!r}", REGISTER)
    if "never built" in text or "was not built" in text or "you have not yet built" in text:
        return ModelError(f"{path} does not say for which input shape it was built",
                          f"pass --input-shape, {signature.EXAMPLE}")
    return ModelError(f"{path} cannot be loaded: {text[:200] or type(error).__name__}",
                      "save it again with model.save('model.keras') in the Keras that made it")


# The user's own classes


def gather_objects(modules: Sequence[str]) -> dict[str, Any]:
    """Import `modules` and give their layers, models and functions by name.

    The current folder is on `sys.path` while they are imported, and only then.

    Raises:
        ModelError: A module cannot be imported.
    """
    import keras

    objects: dict[str, Any] = {}
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        for name in modules:
            try:
                module = importlib.import_module(name)
            except Exception as error:
                text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                raise ModelError(f"cannot import {name!r} of --custom-objects: {text}",
                                 "run from the folder that holds it, or install it") from error
            for key, value in vars(module).items():
                own = getattr(value, "__module__", None) == name
                if own and (inspect.isclass(value) or inspect.isfunction(value)):
                    objects[key] = value
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)
    registered = dict(keras.saving.get_custom_objects())
    if "tf_keras" in sys.modules:
        registered |= sys.modules["tf_keras"].saving.get_custom_objects()
    return registered | objects


def _require(found: scan.Scan, objects: dict) -> None:
    """Every class that the file takes from outside Keras must be there, under all its names."""
    for one in found.custom:
        if one.registered.startswith("tfcompress>"):
            objects |= hosted.own_objects()
        names = (one.registered, one.name) if one.registered else ()
        known = [objects[n] for n in names if n in objects]
        if not known:
            where = f" of {one.module}" if one.module else ""
            raise ModelError(f"the model needs the custom object {one.name!r}{where}", REGISTER)
        objects.setdefault(one.registered, known[0])
        objects.setdefault(one.name, known[0])


def describe(model: Any, shapes: dict, notes: list[str]) -> Loaded:
    """A `Loaded` for a Keras 3 or tf_keras model, with `shapes` put in for free dimensions."""
    kind = "keras3" if signature.is_keras3(model) else "tf_keras"
    inputs, pack = signature.inputs(model, kind)
    inputs = signature.fix_shapes(inputs, shapes)
    outputs = signature.outputs(model, kind, inputs, pack)
    tree = signature.tree_of(kind)

    def run(tensors: list) -> list:
        args, kwargs = pack(tensors)
        return tree.flatten(model(*args, training=False, **kwargs))

    return Loaded(model, kind, inputs, outputs, notes, True, run)


def check_weights(path: str | Path, weights: Iterator[tuple[str, Any]]) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        ModelError: It names the layers.
    """
    import numpy as np

    bad = []
    for name, weight in weights:
        value = np.asarray(weight.numpy())
        if value.dtype.kind == "V" or value.dtype.name == "bfloat16":
            value = value.astype("float32")
        if value.dtype.kind in "fc" and not np.isfinite(value.sum(dtype="complex128")):
            bad.append(name.rpartition("/")[0] or name)
    if bad:
        layers = list(dict.fromkeys(bad))
        more = f" and {len(layers) - 5} more" if len(layers) > 5 else ""
        raise ModelError(f"{path} has NaN or infinite weights in: {', '.join(layers[:5])}{more}",
                         "train it again with a lower learning rate, or take an earlier checkpoint")
