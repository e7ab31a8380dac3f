"""What training minimizes: the labels' loss, the distance to the original model, or both.

Distillation is that of G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural
Network" (arXiv 1503.02531). What the labels ask is read off them and the original's outputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

SMALL = 1e-7
TASKS = ("classes", "onehot", "binary", "values")  # the first that fits an output is meant
ROWS = 2000  # on which outputs are looked at


@dataclass(frozen=True)
class Output:
    """One output of the model.

    Attributes:
        kind: `probabilities` (rows sum to 1), `shares` (each from 0 to 1 by itself), `logits`
            (scores that the labels call classes), `logit` (one score per label of 0 or 1), or
            `values`.
        scale: Variance of the original's values, by which the squared error is divided.
    """

    kind: str
    scale: float = 1.0


@dataclass(frozen=True)
class Objective:
    """Loss and score of a model's outputs.

    Attributes:
        outputs: One per output; None where it is no float and cannot be trained.
        task: `classes`, `onehot`, `binary`, `values`, or "" without labels that fit.
        which: The output that the labels are for.
        teacher: Share of the teacher in the loss.
        temperature: Of the softened distributions.
    """

    outputs: tuple[Output | None, ...]
    task: str
    which: int
    teacher: float
    temperature: float

    @property
    def trains(self) -> bool:
        """Whether any output can be trained at all."""
        return any(self.outputs)

    @property
    def score_name(self) -> str:
        """`accuracy`, `agreement` (with the original's class), or `error` (lower is better)."""
        if self.task in ("classes", "onehot", "binary"):
            return "accuracy"
        first = self._first()
        if not self.task and first and first.kind in ("probabilities", "logits"):
            return "agreement"
        return "error"

    def _first(self) -> Output:
        return self.outputs[self.which]

    def loss(self, y: dict, predicted: list) -> Any:
        """Mean over the batch, a scalar. `y` has `labels` and `teacher0`, `teacher1`, ..."""
        import tensorflow as tf

        total = tf.zeros([])
        if self.task and self.teacher < 1:
            total += (1 - self.teacher) * self._task_loss(
                y["labels"], tf.cast(predicted[self.which], tf.float32))
        if self.teacher > 0:
            distances = [self._distance(o, tf.cast(y[f"teacher{i}"], tf.float32),
                                        tf.cast(p, tf.float32))
                         for i, (o, p) in enumerate(zip(self.outputs, predicted, strict=True)) if o]
            total += self.teacher * tf.add_n(distances) / len(distances)
        return total

    def _task_loss(self, labels: Any, predicted: Any) -> Any:
        import keras
        import tensorflow as tf

        losses, kind = keras.losses, self._first().kind
        if self.task == "values":
            difference = tf.cast(labels, tf.float32) - tf.reshape(predicted, tf.shape(labels))
            return tf.reduce_mean(tf.square(difference)) / self._first().scale
        if self.task == "classes":
            labels = tf.reshape(tf.cast(labels, tf.int32), tf.shape(predicted)[:-1])
            return tf.reduce_mean(losses.sparse_categorical_crossentropy(
                labels, predicted, from_logits=kind == "logits"))
        labels = tf.cast(tf.reshape(labels, tf.shape(predicted)), tf.float32)
        if self.task == "onehot":
            return tf.reduce_mean(losses.categorical_crossentropy(
                labels, predicted, from_logits=kind == "logits"))
        return tf.reduce_mean(losses.binary_crossentropy(
            labels, predicted, from_logits=kind not in ("shares", "probabilities")))

    def _distance(self, output: Output, teacher: Any, student: Any) -> Any:
        import tensorflow as tf

        if output.kind in ("probabilities", "logits"):
            if output.kind == "probabilities":
                teacher = tf.math.log(tf.maximum(teacher, SMALL))
                student = tf.math.log(tf.maximum(student, SMALL))
            t = self.temperature
            wanted, got = tf.nn.log_softmax(teacher / t), tf.nn.log_softmax(student / t)
            divergence = tf.reduce_sum(tf.exp(wanted) * (wanted - got), axis=-1)
            return t * t * tf.reduce_mean(divergence)
        finite = tf.math.is_finite(teacher)  # log_softmax gives -inf, which is nothing to learn
        difference = tf.where(finite, student - tf.where(finite, teacher, 0.0), 0.0)
        return tf.reduce_mean(tf.square(difference)) / output.scale

    def score_of(self, y: dict, predicted: list) -> Any:
        """Per sample or element: hits as 1 and 0, or squared errors over the variance."""
        import tensorflow as tf

        output, got = self._first(), tf.cast(predicted[self.which], tf.float32)
        if self.score_name == "error":
            key = "labels" if self.task else f"teacher{self.which}"
            wanted = tf.reshape(tf.cast(y[key], tf.float32), tf.shape(got))
            wanted = tf.where(tf.math.is_finite(wanted), wanted, got)
            return tf.square(wanted - got) / output.scale
        if self.task == "binary":
            edge = 0.5 if output.kind in ("shares", "probabilities") else 0.0
            wanted = tf.reshape(tf.cast(y["labels"], tf.float32), tf.shape(got)) > 0.5
            return tf.cast((got > edge) == wanted, tf.float32)
        best = tf.argmax(got, -1)
        if self.task == "classes":
            wanted = tf.reshape(tf.cast(y["labels"], tf.int64), tf.shape(best))
        else:
            key = "labels" if self.task else f"teacher{self.which}"
            wanted = tf.argmax(y[key], -1)
        return tf.cast(best == wanted, tf.float32)


def infer(labels: Any, references: list, distill: bool, temperature: float,
          teacher_weight: float) -> tuple[Objective, list[str]]:
    """The objective that labels and the original's outputs ask for, and notes in words.

    Args:
        labels: Array of N rows, or None.
        references: The original's outputs, N rows each.
        distill: Use the original as a teacher beside the labels. Without labels that fit it is
            the only teacher, whatever this says.
        temperature: Of the distillation.
        teacher_weight: Share of the teacher beside labels.
    """
    notes = []
    task, which = "", 0
    kinds = [_kind(r[:ROWS]) for r in references]
    if labels is not None:
        fits = [(TASKS.index(t), i) for i, r in enumerate(references)
                if kinds[i] and (t := _task(labels, r, kinds[i]))]
        if fits:
            task, which = TASKS[min(fits)[0]], min(fits)[1]
        else:
            notes.append(f"the labels ({labels.dtype}, shape {labels.shape}) fit no output; the "
                         "original model alone is the teacher")
    if task in ("classes", "onehot") and kinds[which].kind != "probabilities":
        kinds[which] = Output("logits")
    if not task and not kinds[which]:
        which = next((i for i, k in enumerate(kinds) if k), 0)
    teacher = (teacher_weight if distill else 0.0) if task else 1.0
    return Objective(tuple(kinds), task, which, teacher, temperature), notes


def _kind(values: Any) -> Output | None:
    import numpy as np

    if values.dtype.kind != "f":
        return None
    finite = np.asarray(values[np.isfinite(values)], np.float64)
    scale = float(max(finite.var() if finite.size else 1.0, 1e-12))
    inside = finite.size == values.size and finite.min() >= -1e-6 and finite.max() <= 1 + 1e-6
    if inside and values.ndim > 1 and values.shape[-1] > 1 and \
            np.abs(values.sum(-1, dtype=np.float64) - 1).max() < 1e-3:
        return Output("probabilities", scale)
    return Output("shares" if inside else "values", scale)


def _task(labels: Any, reference: Any, output: Output) -> str:
    """What labels ask of one output; "" where they do not fit."""
    import numpy as np

    shape, whole = reference.shape, labels.dtype.kind in "iub"
    size, classes = math.prod(labels.shape), shape[-1] if len(shape) > 1 else 1
    if whole and classes > 1 and size == math.prod(shape[:-1]) and \
            labels.min() >= 0 and labels.max() < classes:
        return "classes"
    if size != math.prod(shape):
        return ""
    some = np.asarray(labels[:ROWS], np.float64)
    zero_one = bool(np.isin(some, (0, 1)).all())
    if zero_one and classes > 1 and labels.shape == shape and (some.sum(-1) == 1).all():
        return "onehot"
    if zero_one and (whole or output.kind in ("shares", "probabilities")):
        return "binary"
    return "values"
