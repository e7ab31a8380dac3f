"""Quantization-aware training by TFMOT: which layers it takes, and the int8 file of the result."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ... import child
from ...artifact import TensorSpec
from ...errors import ModelError, TargetError
from . import qat_export, tfmot_training

ACTIVATIONS = frozenset("softmax sigmoid tanh gelu linear relu swish".split())
KERNELS = ("Conv2D", "DepthwiseConv2D", "Dense")  # what all of TFMOT's schemes take
ROUTES = ("guide", "calibrated")
INSTEAD = "quantize the compressed model after training instead"


def wrap(tools: Any, twin: Callable[[], Any], left_out: set[str], clustered: bool,
         sparse: bool) -> tuple[Any, dict[str, str]]:
    """The model with TFMOT's fake quantization in every layer that TFMOT can take.

    Args:
        tools: The package (`tfmot.toolkit`).
        twin: Makes a fresh flat tf_keras model.
        left_out: Names of layers that shall not take part.
        clustered: The weights have clusters, which are to be kept (CQAT, PCQAT).
        sparse: The weights have zeros, which are to be kept (PQAT, PCQAT).

    Returns:
        The model, and by name why a layer was left out.

    Raises:
        ModelError: TFMOT can quantize nothing in it.
    """
    scheme = _scheme(tools, clustered, sparse)
    registry = scheme.get_quantize_registry()
    model = twin()
    reasons: dict[str, str] = {}
    for layer in model.layers:
        if layer.name not in left_out and (why := _why_not(layer, registry)):
            reasons[layer.name] = why
    out = left_out | set(reasons)
    _leave_out_lone_batchnorm(model, out, reasons)
    names = [layer.name for layer in model.layers]
    kernels = {layer.name for layer in model.layers if type(layer).__name__ in KERNELS}
    said = "nothing in it is left"
    for attempt in range(len(names) + 2):
        if not (kernels - out):
            break
        try:
            return _apply(tools, model if not attempt else twin(), out, scheme), reasons
        except Exception as error:  # TFMOT raises whatever it likes
            said = " ".join(str(error).split())[:200] or type(error).__name__
        named = [n for n in re.findall(r"[Ll]ayer ([\w.\-]+)", said) if n in names and n not in out]
        if attempt > len(names):
            break
        for name in named[:1] or [n for n in names if n not in kernels and n not in out] or \
                [max(kernels - out, key=names.index)]:
            out.add(name)
            reasons[name] = f"TFMOT: {said[:120]}"
        scheme = _scheme(tools, clustered, sparse)
    raise ModelError(f"tensorflow-model-optimization can quantize no layer of the model: {said}",
                     "leave --backend tfmot out")


def _scheme(tools: Any, clustered: bool, sparse: bool) -> Any:
    """TFMOT's scheme, which keeps what is there to be kept.

    Those that keep something say of every layer without weights that they support it, and then
    fail on it, so the plain scheme is asked too. And their layers share one quantizer, which
    stops keeping zeros at the first layer that has none, so each layer gets its own.
    """
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_scheme,
    )

    combine = tools.experimental.combine
    plain = default_8bit_quantize_scheme.Default8BitQuantizeScheme()
    if not clustered and not sparse:
        return plain
    scheme = combine.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=sparse) \
        if clustered else combine.Default8BitPrunePreserveQuantizeScheme()
    make = scheme.get_quantize_registry
    registry, every = make(), plain.get_quantize_registry()
    says = registry.supports
    registry.supports = lambda layer: every.supports(layer) and says(layer)
    registry.get_quantize_config = lambda layer: make().get_quantize_config(layer)
    scheme.get_quantize_registry = lambda: registry
    return scheme


def _apply(tools: Any, model: Any, out: set[str], scheme: Any) -> Any:
    import tf_keras

    quantization = tools.quantization.keras

    def annotate(layer: Any) -> Any:
        return layer if layer.name in out else quantization.quantize_annotate_layer(layer)

    annotated = tf_keras.models.clone_model(model, clone_function=annotate)
    from ..models.hosted import hosted_class

    with quantization.quantize_scope({"Hosted": hosted_class()}):
        return quantization.quantize_apply(annotated, scheme)


def _why_not(layer: Any, registry: Any) -> str:
    """Why TFMOT does not quantize a layer; "" where it does."""
    kind = tfmot_training.kind(layer)
    if kind in ("InputLayer", "BatchNormalization"):
        return ""  # the former takes part by itself, the latter is looked at with its neighbour
    if not registry.supports(layer):
        return f"TFMOT quantizes no {kind}"
    activation = getattr(layer, "activation", None)
    name = getattr(activation, "__name__", type(activation).__name__)
    if activation is not None and name not in ACTIVATIONS | (
            {"relu6"} if kind == "Activation" else set()):
        return f"TFMOT quantizes no activation {name}"
    return ""


def _leave_out_lone_batchnorm(model: Any, out: set[str], reasons: dict[str, str]) -> None:
    """TFMOT takes BatchNormalization right after a convolution or Dense layer that it takes."""
    for layer in model.layers:
        if type(layer).__name__ != "BatchNormalization" or layer.name in out:
            continue
        before = layer._inbound_nodes[0].inbound_layers
        fits = not isinstance(before, (list, tuple)) and type(before).__name__ in KERNELS \
            and before.name not in out and len(before._outbound_nodes) == 1 \
            and getattr(before.activation, "__name__", "") == "linear" \
            and len(layer._inbound_nodes) == 1
        if not fits:
            out.add(layer.name)
            reasons[layer.name] = "TFMOT takes BatchNormalization only right after a convolution"


def strip(tools: Any, model: Any, clustered: bool) -> Any:
    """Without the variables that only training with clusters needs; the ranges stay."""
    return tools.experimental.combine.strip_clustering_cqat(model) if clustered else model


class Quantized:
    """A tf_keras model that TFMOT has trained with fake quantization.

    `run(tensors)` takes the inputs in order and gives the outputs in order, at inference.
    `samples` are rows of the training data, one array with batch 1 per input; `complete` says that
    no layer was left out, so that there is nothing to calibrate.
    """

    def __init__(self, model: Any, samples: list[list], complete: bool = True):
        self.model, self.samples, self.complete = model, samples, complete

    def run(self, tensors: list) -> list:
        import tensorflow as tf

        packed = tf.nest.pack_sequence_as(self.model._nested_inputs, list(tensors))
        return tf.nest.flatten(self.model(packed, training=False))

    def to_int8(self, path: str | Path, inputs: Sequence[TensorSpec],
                outputs: Sequence[TensorSpec], io_dtype: str = "float32") -> dict:
        """Write the int8 file as TFMOT's guide does, in a process of its own.

        Where layers without learned ranges stay in float, it is converted once more with samples
        to calibrate these. The arguments, the answer and the errors are those of
        `qat_export.to_int8`; `route` is `guide` or `calibrated`.
        """
        names = [qat_export._argument(i, s.name) for i, s in enumerate(inputs)]
        tried, made = {}, {}
        with tempfile.TemporaryDirectory() as folder:
            self._save(folder, names, inputs, outputs)
            for route in ROUTES if self.complete else ROUTES[::-1]:
                try:
                    content = _converted(folder, names, io_dtype, route)
                    content = qat_export._renamed(
                        content, dict(zip(names, (s.name for s in inputs), strict=True)))
                    told = qat_export.agreement(content, self, inputs, outputs,
                                                self.samples[:qat_export.ROWS])
                except Exception as error:
                    tried[route] = " ".join(str(error).split())[:300]
                    continue
                left = qat_export.float_ops(content)
                if not made or sum(left.values()) < sum(made["float_ops"].values()):
                    made = {"route": route, "agreement": told, "float_ops": left}
                    _write(Path(path), content)
                if not left or not self.complete:
                    break
        if not made:
            why = "; ".join(f"{k}: {v}" for k, v in tried.items())
            raise TargetError(f"TFMOT's model cannot be converted ({why[:500]})", INSTEAD)
        return made

    def _save(self, folder: str, names: list[str], inputs: Sequence[TensorSpec],
              outputs: Sequence[TensorSpec]) -> None:
        import numpy as np
        import tensorflow as tf

        def serve(**tensors: Any) -> dict:
            results = self.run([tensors[n] for n in names])
            return {s.name: tf.identity(r) for s, r in zip(outputs, results, strict=True)}

        module = tf.Module()
        module.held = self.model.variables
        specs = {n: tf.TensorSpec(s.shape, s.dtype, name=n)
                 for n, s in zip(names, inputs, strict=True)}
        function = tf.function(serve, autograph=False).get_concrete_function(**specs)
        tf.saved_model.save(module, f"{folder}/model", {"serving_default": function})
        for name, spec, arrays in zip(names, inputs, zip(*self.samples, strict=True), strict=True):
            np.save(f"{folder}/{name}.npy", np.stack([a.astype(spec.dtype) for a in arrays]))


def _write(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(content)
    os.replace(beside, path)


def _converted(folder: str, names: list[str], io_dtype: str, route: str) -> bytes:
    """The file that TensorFlow's converter makes in a process of its own, which may die of it."""
    with child.Child("conversion") as process:
        process.call("compress.training.tfmot_qat:convert", {"folder": folder, "names": names,
                                                    "io_dtype": io_dtype, "route": route})
    return Path(folder, "model.tflite").read_bytes()


def convert(payload: dict, progress: Callable) -> dict:
    """`folder/model` (a SavedModel) to `folder/model.tflite`; runs in a child process.

    Args:
        payload: `folder`, `names` of the inputs (with samples in `folder/<name>.npy`), `io_dtype`,
            and `route`: `calibrated` shows the samples to the converter.
        progress: Not called.
    """
    import numpy as np
    import tensorflow as tf

    folder = Path(payload["folder"])
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "model"),
                                                         ["serving_default"])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if payload["route"] == "calibrated":
        arrays = {n: np.load(folder / f"{n}.npy") for n in payload["names"]}
        count = min(map(len, arrays.values()))
        converter.representative_dataset = lambda: (
            {n: a[i] for n, a in arrays.items()} for i in range(count))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
                                               tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.inference_input_type = converter.inference_output_type = \
        tf.as_dtype(payload["io_dtype"])
    (folder / "model.tflite").write_bytes(converter.convert())
    return {}
