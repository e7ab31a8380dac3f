"""Masked softmax whose masked scores stay near the others.

Keras fills masked scores with -1e9 or the smallest float. In integers one scale covers a whole
tensor, so that number would own the range. The softmax of a row does not change when the row is
shifted by its maximum, and e^-18 = 1.5e-8 is nothing in float32, so masked scores become -18
below the row's largest unmasked score: equal results, and a range that eight bits can hold.
"""

from __future__ import annotations

from collections.abc import Callable

FLOOR = -18.0
WHY = "masked scores are 18 below the row's maximum instead of -1e9: equal in float, fit for int8"


def patches(record) -> list[tuple]:
    """`(owner, attribute, original -> replacement)` for `lowering`."""
    from keras.src.backend.tensorflow import nn
    from keras.src.layers.activations.softmax import Softmax
    from keras.src.layers.attention.attention import Attention

    return [
        (nn, "_apply_masks", lambda original: _apply_masks(record)),
        (Softmax, "call", lambda original: _softmax_layer(original, record)),
        (Attention, "_apply_scores", lambda original: _apply_scores(original, record)),
    ]


def bounded(scores, mask, axis=-1):
    """Scores with the same softmax over `axis`: masked ones at the floor, others in [floor, 0].

    A row that is masked throughout becomes constant, as it does with -1e9. Minimum instead of
    maximum, because quantizers know REDUCE_MIN.
    """
    import tensorflow as tf

    opposite = scores * -1.0
    highest = tf.reduce_min(scores, axis, keepdims=True) * -1.0
    opposite = tf.where(mask, opposite, highest)
    relative = tf.reduce_min(opposite, axis, keepdims=True) - opposite
    return tf.where(mask, tf.maximum(relative, FLOOR), FLOOR)


def _apply_masks(record) -> Callable:
    def apply_masks(logits, mask, is_causal):
        import numpy as np
        import tensorflow as tf

        if mask is None and not is_causal:
            return logits
        combined = None if mask is None else tf.cast(mask, tf.bool)
        if is_causal:
            rows, columns = logits.shape[2:4]
            causal = np.tril(np.ones((1, 1, rows, columns), bool))
            combined = causal if combined is None else tf.logical_and(combined, causal)
        record.add("attention mask", WHY)
        return bounded(logits, combined)
    return apply_masks


def _softmax_layer(original: Callable, record) -> Callable:
    def call(self, inputs, mask=None):
        import tensorflow as tf

        if mask is None:
            return original(self, inputs)
        mask = mask if mask.dtype == tf.bool else tf.greater(mask, tf.cast(0.5, mask.dtype))
        record.add("masked softmax", WHY)
        axis = list(self.axis) if isinstance(self.axis, (tuple, list)) else self.axis
        outputs = original(self, bounded(inputs, mask, axis))
        return outputs * tf.cast(mask, outputs.dtype)
    return call


def _apply_scores(original: Callable, record) -> Callable:
    def apply_scores(self, scores, value, scores_mask=None, training=False):
        import tensorflow as tf

        if scores_mask is None:
            return original(self, scores, value, None, training)
        mask = tf.cast(scores_mask, tf.bool)
        mask = mask[:, None, :] if mask.shape.rank == 2 else mask
        record.add("attention mask", WHY)
        return original(self, bounded(scores, mask), value, None, training)
    return apply_scores
