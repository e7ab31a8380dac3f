"""Quantization-aware training: the roundings of the int8 file, put into the Keras model.

Weights are rounded per kernel or channel (`forms.Form`), activations per tensor where TFLite rounds
them (`sites`), with ranges that start from calibration and are then learned. As in B. Jacob and
others, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference" (arXiv 1712.05877); learned ranges as in arXiv 1903.08066.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from . import biases, flow, kernels, recipe, sites

ROWS = 256  # samples on which ranges start
LEAST = 1e-6
PACE = 1.0  # of a range's width, by which a learning rate moves its ends


class Ranges:
    """The learned ranges of a model's activations; a context in which the model rounds by them.

    Attributes:
        plan: The sites.
        skipped: `{"layer", "why"}` of layers in which activations are left to calibration.
        samples: A few rows per input, for the converter to calibrate the rest with.
        settled: The biases that are put on the file's grid in the end.
        loops: Names of recurrent layers, which the converter cannot quantize.
        written: Only the roundings that a converter has to be told, without the pooled ones.
        bits: Of the activations: 8, or 16, which are as good as exact and have no sites.
    """

    bits = 8

    def __init__(self, plan: sites.Plan, skipped: list[dict], samples: list,
                 settled: list[biases.Bias], loops: list[str]):
        import keras

        self.plan, self.skipped, self.samples = plan, skipped, samples
        self.settled, self.loops = settled, loops
        self.low, self.high, self.unit = (
            [keras.Variable(value, dtype="float32", autocast=False, name=f"{name}_{i}",
                            trainable=name != "unit") for i in range(plan.ranges)]
            for name, value in (("low", 0.0), ("high", LEAST), ("unit", 1.0)))
        self.constants: list[tuple[float, float]] | None = None
        self.written = False
        self._active: list[contextlib.ExitStack] = []
        self._index = {(s.kind, s.key, s.place): s.range for s in plan.sites}

    def variables(self) -> list:
        return [*self.low, *self.high, *self.unit]

    def values(self) -> list[tuple[float, float]]:
        """(min, max) of each range, with zero inside."""
        return [(min(float(a.numpy() * u.numpy()), 0.0), max(float(b.numpy() * u.numpy()), LEAST))
                for a, b, u in zip(self.low, self.high, self.unit, strict=True)]

    def to_list(self) -> list[dict]:
        """`{"layer", "where", "min", "max"}` per site with a range of its own, for reports."""
        values = self.values()
        return [{"layer": s.layer, "where": s.kind, "min": values[s.range][0],
                 "max": values[s.range][1]} for s in self.plan.sites if s.kind != "pooled"]

    def round(self, number: int, tensor: Any) -> Any:
        """`tensor` on the 256 steps of a range."""
        import tensorflow as tf

        low, high = self._ends(number)
        rounded = tf.quantization.fake_quant_with_min_max_vars(
            tf.cast(tensor, tf.float32), low, high, num_bits=8)
        return tf.cast(rounded, tensor.dtype)

    def _ends(self, number: int) -> list:
        import tensorflow as tf

        if self.constants:  # the converter wants bare constants
            return [tf.constant(v, tf.float32) for v in self.constants[number]]
        unit = self.unit[number].value
        return [tf.minimum(self.low[number].value * unit, 0.0),
                tf.maximum(self.high[number].value * unit, LEAST)]

    def pooled(self, number: int, tensor: Any) -> Any:
        """An average of rounded values on the steps of their range.

        As TFLite's kernel does it: to the nearest integer, a half away from zero; gradients pass.
        """
        import tensorflow as tf

        low, high = self._ends(number)
        scale = (high - low) / 255
        zero = -128 - tf.clip_by_value(tf.round(low / scale), -255.0, 0.0)
        stored = tf.cast(tensor, tf.float32) / scale + zero
        # A half is met exactly by few summands only, and then but for the last bits of a float.
        stored = tf.sign(stored) * tf.floor(tf.abs(stored) + 0.5 + 1e-4)
        rounded = tf.cast((stored - zero) * scale, tensor.dtype)
        return tensor + tf.stop_gradient(rounded - tensor)

    def inputs(self, tensors: list) -> list:
        return [self.round(self._index["input", i, 0], t)
                if ("input", i, 0) in self._index else t for i, t in enumerate(tensors)]

    def __enter__(self) -> Ranges:
        stack = contextlib.ExitStack()
        stack.enter_context(flow.listening(
            lambda op, nth, call, given: self._around(op, nth, call, self.round, given)))
        self._active.append(stack)
        return self

    def __exit__(self, *told: Any) -> None:
        self._active.pop().__exit__(*told)

    def _around(self, op: Any, nth: int, call: Callable[[], Any], do: Callable,
                given: tuple | None = None) -> Any:
        """One call, with `do(range, tensor)` where sites are."""
        import keras

        if given and ("after", (id(op), nth), 0) in self._index and sites.role(op) == "average":
            call = functools.partial(_mean, op, *given[0], **given[1])

        key = (id(op), nth)
        number = self._index.get(("before", key, 0))
        middle = self._index.get(("middle", key, 0))
        with _activation(op, None if number is None else lambda x: do(number, x)):
            if middle is None:
                results = call()
            else:
                with _parted(lambda x: do(middle, x)):
                    results = call()
        flat, place = keras.tree.flatten(results), 0
        for i, tensor in enumerate(flat):
            if flow.is_float(tensor):
                number = self._index.get(("after", key, place))
                if number is not None:
                    flat[i] = do(number, tensor)
                elif do == self.round and not self.written:
                    pooled = self._index.get(("pooled", key, place))
                    flat[i] = tensor if pooled is None else self.pooled(pooled, tensor)
                place += 1
        return keras.tree.pack_sequence_as(results, flat)

    def calibrate(self, run: Callable[[list], list], batches: list[list],
                  xla: bool = False) -> None:
        """Start each range from the mean of its extremes in the batches.

        Tensors that share a range count together: the extremes of a batch are those of all of them.
        """
        import numpy as np
        import tensorflow as tf

        def extremes(*batch: Any) -> dict[int, list]:
            """The smallest and largest finite value of each tensor, by number of the range."""
            now: dict[int, list] = {}

            def see(number: int, tensor: Any) -> Any:
                wide = tf.cast(tensor, tf.float64)
                known = tf.math.is_finite(wide)
                now.setdefault(number, []).append(tf.stack([
                    tf.reduce_min(tf.where(known, wide, np.inf)),
                    tf.reduce_max(tf.where(known, wide, -np.inf))]))
                return tensor

            for i, tensor in enumerate(batch):
                if ("input", i, 0) in self._index:
                    see(self._index["input", i, 0], tensor)
            with flow.listening(lambda op, nth, call, _: self._around(op, nth, call, see)):
                run(list(batch))
            return now

        seen: dict[int, list] = {}
        through = tf.function(extremes, autograph=False, jit_compile=True) if xla else extremes
        for batch in batches:
            for number, pairs in through(*batch).items():
                low, high = np.array(pairs).T
                if low.min() <= high.max():
                    seen.setdefault(number, []).append((low.min(), high.max()))
        for number, pairs in seen.items():
            low, high = np.mean(pairs, axis=0)
            low, high = min(float(low), 0.0), max(float(high), LEAST)
            unit = np.float32((high - low) * PACE)
            self.unit[number].assign(unit)
            self.low[number].assign(low / unit)
            self.high[number].assign(high / unit)


def _mean(op: Any, inputs: Any) -> Any:
    """An average of whole images as a reduction, which converters write as MEAN."""
    import tensorflow as tf

    rank = len(inputs.shape)
    axes = range(1, rank - 1) if op.data_format == "channels_last" else range(2, rank)
    return tf.reduce_mean(inputs, list(axes), keepdims=True)


@contextlib.contextmanager
def _activation(op: Any, before: Callable | None) -> Iterator[None]:
    """A layer whose own activation is called on `before` of its argument, for a while."""
    if before is None:
        yield
        return
    inner = op.activation
    vars(op)["activation"] = lambda x: inner(before(x))
    try:
        yield
    finally:
        vars(op)["activation"] = inner


@contextlib.contextmanager
def _parted(between: Callable) -> Iterator[None]:
    """Separable convolutions in two parts, as the file has them, with `between` in the middle."""
    from keras.src import ops

    original = ops.separable_conv

    def separable_conv(inputs: Any, depthwise_kernel: Any, pointwise_kernel: Any, strides: Any = 1,
                       padding: str = "valid", data_format: str | None = None,
                       dilation_rate: Any = 1) -> Any:
        part = ops.depthwise_conv(inputs, depthwise_kernel, strides, padding, data_format,
                                  dilation_rate)
        return ops.conv(between(part), pointwise_kernel, 1, "valid", data_format)

    ops.separable_conv = separable_conv
    try:
        yield
    finally:
        ops.separable_conv = original


def prepare(model: Any, pack: Callable, batches: list[list], stage: recipe.Qat,
            forms: dict, xla: bool = False) -> Ranges:
    """Find where activations are rounded, and calibrate the ranges.

    Args:
        model: A Keras 3 model.
        pack: From a list of tensors to its arguments.
        batches: Lists of input tensors.
        stage: 16-bit activations are as good as exact, and get no sites.
        forms: By identity of the variable; these weights are rounded while calibrating.
        xla: The model runs only where XLA compiles it.
    """
    import keras

    def run(tensors: list) -> list:
        args, kwargs = pack(tensors)
        with keras.StatelessScope([(f.kernel.variable, f.value()) for f in forms.values()]):
            return flow.flatten(model(*args, training=False, **kwargs))

    seen = flow.record(run, batches[0], traced=xla)
    left_out = [x for x in model._flatten_layers() if not kernels.chosen(x, stage.layers)]
    names = [f"input {i}" if flow.is_float(t) else "" for i, t in enumerate(batches[0])]
    plan = sites.Plan()
    if stage.activation_bits == 8:
        plan = sites.plan(seen, names, {id(x) for x in left_out})
    skipped = [{"layer": c.op.name, "why": "inside it, activations are left to calibration"}
               for c in seen.calls if c.nth == 0 and isinstance(c.op, keras.layers.Layer)
               and isinstance(c.op, flow._closed())]
    rows = [[t[i:i + 1].numpy() for t in batch] for batch in batches for i in range(len(batch[0]))]
    loops = [c.op.name for c in seen.calls
             if isinstance(c.op, (keras.layers.RNN, keras.layers.Bidirectional))]
    ranges = Ranges(plan, skipped, rows[:128], biases.find(seen, plan), loops)
    ranges.bits = stage.activation_bits
    ranges.calibrate(run, batches, xla)
    return ranges


def begin(model: Any, pack: Callable, batches: list[list], stage: recipe.Qat,
          forms: list, xla: bool = False) -> Ranges:
    """Round the kernels of some forms from here on; what is left is as in `prepare`."""
    for form in forms:
        form.begin_rounding(stage.weight_bits)
    return prepare(model, pack, batches, stage, {id(f.kernel.variable): f for f in forms}, xla)


class FakeQuantized:
    """A trained model with its learned ranges; its weights are rounded already.

    `run(tensors)` takes the inputs in order and gives the outputs in order, at inference. The
    model's biases are put on the file's grid when this is made. `whole` are the kernels that were
    rounded with one scale. With `xla` the model runs only where XLA compiles it.
    """

    def __init__(self, model: Any, ranges: Ranges, pack: Callable, forms: dict[int, Any],
                 xla: bool = False):
        self.model, self.ranges, self.pack, self.xla = model, ranges, pack, xla
        self.constants, self.bits = ranges.values(), sorted({f.bits for f in forms.values()})
        self.whole = [f.kernel for f in forms.values() if f.whole]
        biases.settle(ranges.settled, self.constants, forms)

    def __call__(self, inputs: Any, training: bool = False) -> list:
        """For what converts Keras models: one tensor, or a list of them.

        As `run`, but for the roundings that the int8 file's operators do by themselves.
        """
        return self._rounded(list(inputs) if isinstance(inputs, (list, tuple)) else [inputs], True)

    def _flatten_layers(self, **options: Any) -> Any:
        return self.model._flatten_layers(**options)

    @property
    def variables(self) -> list:
        return self.model.variables

    def plain(self, tensors: list) -> list:
        """The same without the roundings of activations."""
        args, kwargs = self.pack(list(tensors))
        return flow.flatten(self.model(*args, training=False, **kwargs))

    def run(self, tensors: list) -> list:
        """What the int8 file computes, as real numbers."""
        return self._rounded(tensors, False)

    def _rounded(self, tensors: list, written: bool) -> list:
        import tensorflow as tf

        if self.xla and tf.executing_eagerly():
            return tf.function(lambda *t: self._rounded(list(t), written), autograph=False,
                               jit_compile=True)(*tensors)
        self.ranges.constants, self.ranges.written = self.constants, written
        try:
            with self.ranges:
                given = [tf.convert_to_tensor(t) for t in tensors]
                return self.plain(self.ranges.inputs(given))
        finally:
            self.ranges.constants, self.ranges.written = None, False
