"""How the learning rate goes over the steps of a stage."""

from __future__ import annotations

import functools
from typing import Any

LEAST = 0.01  # of the first rate, where an exponential schedule ends


@functools.cache
def schedule_class() -> type:
    """A Keras schedule: held for `wait` steps, then falling until step `steps`."""
    import keras
    import tensorflow as tf

    class Falling(keras.optimizers.schedules.LearningRateSchedule):
        def __init__(self, first: float, steps: int, kind: str, wait: int = 0):
            self.first, self.steps, self.kind, self.wait = first, steps, kind, wait

        def __call__(self, step: Any) -> Any:
            gone = (tf.cast(step, tf.float32) - self.wait) / max(1, self.steps - self.wait)
            return self.first * factor(self.kind, tf.clip_by_value(gone, 0.0, 1.0))

        def get_config(self) -> dict:
            return dict(vars(self))

    return Falling


def factor(kind: str, gone: Any) -> Any:
    """The share of the first rate when a share `gone` of the steps is over."""
    import tensorflow as tf

    if kind == "cosine":
        return 0.5 * (1.0 + tf.cos(3.141592653589793 * gone))
    if kind == "linear":
        return 1.0 - gone
    if kind == "exponential":
        return tf.pow(LEAST, gone)
    return tf.ones_like(gone)
