"""SavedModel folders: run by their signature, to be exported and quantized but not trained."""

from __future__ import annotations

import re
from pathlib import Path

from ...artifact import TensorSpec
from ...errors import ModelError
from .load import Loaded, check_weights
from .signature import fix_shapes


def open_saved_model(path: Path, shapes: dict[str, tuple[int, ...]]) -> Loaded:
    """Load the SavedModel at `path` and take its `serving_default` signature.

    Inputs and outputs are ordered by name, numbers by their value: a signature is a mapping.

    Raises:
        ModelError: It is damaged or has no signature to run.
    """
    import tensorflow as tf

    try:
        root = tf.saved_model.load(str(path))
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise ModelError(f"{path} cannot be loaded: {text}",
                         "export the model again, or give its .keras file") from error
    name = _signature(path, list(root.signatures))
    signature = root.signatures[name]
    inputs = _specs(signature.structured_input_signature[1])
    outputs = _specs(signature.structured_outputs)
    inputs = fix_shapes(inputs, shapes)
    variables = getattr(root, "variables", ())
    check_weights(path, ((v.name, v) for v in variables if hasattr(v, "numpy")))
    names = [s.name for s in inputs]

    def run(tensors: list, owner=root) -> list:  # the object owns the signature's variables
        given = {n: tf.convert_to_tensor(t) for n, t in zip(names, tensors, strict=True)}
        found = signature(**given)
        return [found[s.name] for s in outputs]

    notes = [f"run by the SavedModel's signature {name!r}; it cannot be trained"]
    return Loaded(signature, "saved-model", inputs, outputs, notes, False, run)


def _signature(path: Path, names: list[str]) -> str:
    names = [n for n in names if not n.startswith("__")]
    if "serving_default" in names:
        return "serving_default"
    if len(names) == 1:
        return names[0]
    if not names:
        raise ModelError(f"{path} is a SavedModel without signatures",
                         "export it with model.export(...), which writes serving_default")
    raise ModelError(f"{path} has no serving_default among its signatures: {', '.join(names)}",
                     "export it with model.export(...), which writes serving_default")


def _specs(signature: dict) -> list[TensorSpec]:
    def natural(name: str) -> list:
        return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)]

    specs = []
    for name in sorted(signature, key=natural):
        spec = signature[name]
        if spec.shape.rank is None:
            raise ModelError(f"the SavedModel's tensor {name!r} has no fixed rank",
                             "export it again with an input signature")
        specs.append(TensorSpec(name, tuple(spec.shape), spec.dtype.name))
    return specs
