"""A model with learned ranges to an int8 .tflite by TensorFlow's converter, and the proof of it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ... import tflite
from ...artifact import TensorSpec, argument_names
from ...errors import TargetError
from .. import lower
from ..tflite import grids, int4, surgery
from . import kernels, qat

ROWS = 100  # samples on which the file is compared with the model
ROUTES = ("plain", "lowered", "calibrated")  # the last one without the learned ranges


def to_int8(qat_model: qat.FakeQuantized, path: str | Path, inputs: Sequence[TensorSpec],
            outputs: Sequence[TensorSpec], io_dtype: str = "float32") -> dict:
    """Write the int8 file of a trained model; it appears whole or not at all.

    The weights are on their grid already, so the converter finds the same integers (4-bit ones are
    stored as int4 where kernels for it exist); it takes the ranges of activations from the model,
    and those of what has none from the training samples.

    Args:
        qat_model: From `finetune.run`.
        path: The file.
        inputs: Static shapes (batch 1), dtypes and names, in the model's order.
        outputs: Names, in the model's order.
        io_dtype: Of the float inputs and outputs: float32, int8 or uint8.

    Returns:
        `{"route", "agreement", "float_ops"}`: how it was converted (`calibrated`: the converter
        could not take the learned ranges, only the rounded weights), what `agreement` found, and
        the operators that compute in float32.

    Raises:
        TargetError: The converter cannot do it; loops (recurrent layers) would kill it. The plain
            compressed model and post-training quantization are the way then.
    """
    if qat_model.ranges.bits != 8:
        raise TargetError(f"it was trained for {qat_model.ranges.bits}-bit activations, not int8",
                          "quantize the compressed model after training, for the target "
                          "tflite-int16x8: its weights are on their grid")
    loops = qat_model.ranges.loops
    if loops:
        raise TargetError(f"the converter cannot make int8 loops ({', '.join(loops[:3])})",
                          "quantize the compressed model after training instead")
    tried: dict[str, str] = {}
    for route in ROUTES:
        try:
            content = _convert(qat_model, inputs, outputs, io_dtype, route)
            told = agreement(content, qat_model, inputs, outputs)
        except Exception as error:  # the converter raises whatever it likes
            tried[route] = " ".join(str(error).split())[:300]
            continue
        beside = Path(path).with_name(f".{Path(path).name}.{os.getpid()}")
        beside.write_bytes(content)
        os.replace(beside, path)
        return {"route": route, "agreement": told, "float_ops": float_ops(content)}
    why = "; ".join(f"{k}: {v}" for k, v in tried.items())
    raise TargetError(f"the model with its learned ranges cannot be converted ({why[:500]})",
                      "quantize the compressed model after training instead")


def _convert(qat_model: qat.FakeQuantized, inputs: Sequence[TensorSpec],
             outputs: Sequence[TensorSpec], io_dtype: str, route: str) -> bytes:
    import tensorflow as tf

    names = [_argument(i, s.name) for i, s in enumerate(inputs)]
    with tempfile.TemporaryDirectory() as folder:
        function = _trace(qat_model, names, inputs, outputs, route)
        module = tf.Module()
        module.held = [v.value for v in qat_model.model.variables]
        tf.saved_model.save(module, folder, {"serving_default": function})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, ["serving_default"])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: _representative(qat_model, names, inputs)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
                                               tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.inference_input_type = converter.inference_output_type = \
            tf.as_dtype(io_dtype)
        content = converter.convert()
    if qat_model.whole:
        content = _on_grids(content, qat_model.whole)
    if 4 in qat_model.bits:
        content, _ = int4.pack(content)
    return _renamed(content, dict(zip(names, (s.name for s in inputs), strict=True)))


def _on_grids(content: bytes, whole: list[kernels.Kernel]) -> bytes:
    """The file with the integers that were trained, where a kernel has one scale.

    The converter has given each channel its own, and has changed names; but a kernel's channels
    are still in proportion to what they were, with a sign that a BatchNormalization may turn.
    """
    import numpy as np

    model, wanted = tflite.load(content), []
    for kernel in whole:
        matrix = np.asarray(kernel.matrix(kernel.variable.numpy()), np.float64)
        largest = np.maximum(np.abs(matrix).max(1, keepdims=True), 1e-30)
        wanted.append((np.round(matrix / largest * grids.MOST),
                       np.round(matrix / np.abs(matrix).max() * grids.MOST)))

    def grid_of(tensor: Any, axis: int) -> grids.Grid | None:
        found = grids.matrix_of(tflite.constant(model, tensor), axis).astype(np.float64)
        scale = np.asarray(tensor.quantization.scale, np.float64)
        for seen, levels in wanted:
            if seen.shape == found.shape == (len(scale), found.shape[1]):
                signs = np.where((seen * found).sum(1, keepdims=True) < 0, -1, 1)
                if np.abs(seen * signs - found).max() <= 1:
                    most = np.abs(levels).max(1)
                    scale = np.where(most > 0, scale * grids.MOST / np.maximum(most, 1), scale)
                    return grids.Grid.of(levels * signs, scale)
        return None

    grids.apply(model, grid_of)
    surgery.compact(model)
    return tflite.dump(model)


def _trace(qat_model: qat.FakeQuantized, names: list[str], inputs: Sequence[TensorSpec],
           outputs: Sequence[TensorSpec], route: str) -> Any:
    import tensorflow as tf

    run = qat_model.plain if route == "calibrated" else qat_model

    def serve(**tensors: Any) -> dict:
        results = run([tensors[n] for n in names])
        return {s.name: tf.identity(r) for s, r in zip(outputs, results, strict=True)}

    specs = {n: tf.TensorSpec(s.shape, s.dtype, name=n)
             for n, s in zip(names, inputs, strict=True)}
    with lower.lowering(qat_model.model) if route == "lowered" else contextlib.nullcontext(), \
            _without_seeds():
        return tf.function(serve, autograph=False).get_concrete_function(**specs)


@contextlib.contextmanager
def _without_seeds() -> Iterator[None]:
    """Keras's random layers advance a seed even at inference; no variable shall be written."""
    import tensorflow as tf
    from keras.src.random.seed_generator import SeedGenerator

    original = SeedGenerator.next
    SeedGenerator.next = lambda self, ordered=True: tf.zeros([2], tf.uint32)
    try:
        yield
    finally:
        SeedGenerator.next = original


def _argument(number: int, name: str) -> str:
    """The name, or a stand-in where it cannot be the argument of a traced function."""
    return name if argument_names([name]) == [name] else f"input_no_{number}"


def _representative(qat_model: qat.FakeQuantized, names: list[str],
                    inputs: Sequence[TensorSpec]) -> Iterator[dict]:
    for row in qat_model.ranges.samples:
        yield {n: a.astype(s.dtype) for n, a, s in zip(names, row, inputs, strict=True)}


def _renamed(content: bytes, names: dict[str, str]) -> bytes:
    """The file with its inputs called as the model calls them."""
    if all(k == v for k, v in names.items()):
        return content
    model = tflite.load(content)
    for signature in model.signatureDefs:
        for entry in signature.inputs:
            entry.name = names.get(entry.name.decode(), entry.name.decode()).encode()
    return tflite.dump(model)


def float_ops(content: bytes) -> dict[str, int]:
    """How many operators of each name compute float32 values."""
    model, found = tflite.load(content), {}
    for graph in model.subgraphs:
        for op in graph.operators:
            name = tflite.op_name(model, op)
            written = {tflite.dtype_names()[graph.tensors[i].type] for i in op.outputs}
            if "float32" in written and name != "DEQUANTIZE":
                found[name] = found.get(name, 0) + 1
    return found


def agreement(content: bytes, qat_model: qat.FakeQuantized, inputs: Sequence[TensorSpec],
              outputs: Sequence[TensorSpec], rows: Sequence[list] | None = None) -> dict:
    """The file against the model that it was made from, sample by sample.

    Args:
        content: The file's bytes.
        qat_model: The model.
        inputs: As in `to_int8`.
        outputs: As in `to_int8`.
        rows: Samples: one array with batch 1 per input; `ROWS` of the training samples otherwise.

    Returns:
        `{"samples", "equal", "steps"}`: the share of equal values and the largest difference in
        steps of the output's scale (in units of 1/255 of its range where it is float).
    """
    import numpy as np
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    runner = interpreter.get_signature_runner()
    details = {"in": runner.get_input_details(), "out": runner.get_output_details()}
    scales = _output_scales(content)
    model = tf.function(lambda *t: qat_model.run(list(t)), autograph=False,
                        jit_compile=getattr(qat_model, "xla", None) or None)
    equal = count = 0
    worst = 0.0
    rows = list(qat_model.ranges.samples if rows is None else rows)[:ROWS]
    for row in rows:
        feed = {s.name: _stored(a.astype(s.dtype), details["in"][s.name])
                for s, a in zip(inputs, row, strict=True) if s.name in details["in"]}
        found = runner(**feed)
        wanted = model(*[tf.constant(a.astype(s.dtype)) for s, a in zip(inputs, row, strict=True)])
        for spec, want in zip(outputs, wanted, strict=True):
            detail = details["out"][spec.name]
            got = _real(found[spec.name], detail)
            want = np.asarray(want, np.float64)
            step = detail["quantization"][0] or scales.get(spec.name) or \
                max(float(np.ptp(want)), 1e-12) / 255
            apart = np.abs(got - want) / step
            equal += int((apart < 0.5).sum())
            count += apart.size
            worst = max(worst, float(apart.max(initial=0)))
    return {"samples": len(rows), "equal": equal / max(count, 1), "steps": worst}


def _stored(values: Any, detail: dict) -> Any:
    import numpy as np

    scale, zero = detail["quantization"]
    dtype = np.dtype(detail["dtype"])
    if not scale or dtype.kind == "f":
        return values.astype(dtype)
    info = np.iinfo(dtype)
    return np.clip(np.round(values / scale) + zero, info.min, info.max).astype(dtype)


def _real(values: Any, detail: dict) -> Any:
    import numpy as np

    scale, zero = detail["quantization"]
    real = np.asarray(values).astype(np.float64)
    return (real - zero) * scale if scale else real


def _output_scales(content: bytes) -> dict[str, float]:
    """By output name, the scale of the integer tensor that a last DEQUANTIZE reads."""
    model = tflite.load(content)
    graph, found = model.subgraphs[0], {}
    for signature in model.signatureDefs[:1]:
        for entry in signature.outputs:
            for op in graph.operators:
                if entry.tensorIndex in op.outputs and tflite.op_name(model, op) == "DEQUANTIZE":
                    quantization = graph.tensors[op.inputs[0]].quantization
                    if quantization is not None and quantization.scale is not None:
                        found[entry.name.decode()] = float(quantization.scale[0])
    return found
