"""Recurrent layers as the converter's fused LSTM, unrolled, or as a loop."""

from __future__ import annotations

import math
from collections.abc import Callable

UNROLL_UP_TO = 64


def patches(record, mode: str) -> list[tuple]:
    """`(owner, attribute, original -> replacement)` for `lowering`."""
    from keras.src import backend
    from keras.src.layers.rnn.lstm import LSTM

    found = [(backend, "rnn", lambda original: _rnn(original, record, mode))]
    if mode == "fused":
        found.append((LSTM, "inner_loop", lambda original: _lstm(original, record)))
    return found


def _rnn(original: Callable, record, mode: str) -> Callable:
    def rnn(step_function, inputs, initial_states, go_backwards=False, mask=None, constants=None,
            unroll=False, input_length=None, time_major=False, zero_output_for_mask=False,
            return_all_outputs=True):
        import tensorflow as tf

        flat = tf.nest.flatten(inputs)
        steps = flat[0].shape[0 if time_major else 1]
        limit = {"fused": UNROLL_UP_TO, "unrolled": math.inf, "loop": 0}[mode]
        if steps is not None and steps <= limit and not unroll:
            unroll = True
            record.add("recurrent loop", f"unrolled into {steps} steps")
        step, sequences = step_function, inputs
        if len(flat) == 1 and flat[0].shape.rank > 5:
            # StridedSlice and Unpack stop at five axes: the trailing ones travel as one.
            tail = flat[0].shape[2:].as_list()
            sequences = tf.reshape(flat[0], [*flat[0].shape[:2], math.prod(tail)])

            def step(x, states):
                return step_function(tf.reshape(x, [-1, *tail]), states)
        return original(step, sequences, initial_states, go_backwards, mask, constants, unroll,
                        input_length, time_major, zero_output_for_mask, return_all_outputs)
    return rnn


def _lstm(original: Callable, record) -> Callable:
    def inner_loop(self, sequences, initial_state, mask, training=False):
        if not _is_plain(self, initial_state, mask):
            return original(self, sequences, initial_state, mask, training)
        import tensorflow as tf

        x = sequences
        if self.go_backwards:
            x = tf.gather(x, list(range(x.shape[1]))[::-1], axis=1)
        record.add("LSTM", "one fused UNIDIRECTIONAL_SEQUENCE_LSTM operator")
        cell = self.cell
        bias = cell.bias if cell.use_bias else tf.zeros([4 * self.units])
        tensors = [tf.convert_to_tensor(t) for t in (
            x, *initial_state, cell.kernel, cell.recurrent_kernel, bias)]
        last, outputs, h, c, _ = _standard_lstm(self.name)(*tensors)
        outputs = outputs if self.return_sequences else last[:, None]
        return last, outputs, [h, c]
    return inner_loop


def _is_plain(layer, initial_state, mask) -> bool:
    """Whether the fused operator computes exactly this layer: zero state in, no state out."""
    import keras
    import numpy as np
    import tensorflow as tf

    if mask is not None or layer.return_state or layer.stateful or layer.unroll:
        return False
    if layer.activation is not keras.activations.tanh:
        return False
    if layer.recurrent_activation is not keras.activations.sigmoid:
        return False
    known = [tf.get_static_value(tf.convert_to_tensor(s)) for s in initial_state]
    return all(v is not None and not np.any(v) for v in known)


def _standard_lstm(name: str):
    """The function that the converter knows by its `api_implements` attribute.

    It takes and returns what tf_keras's LSTM does (see TensorFlow's lstm_utils.cc): batch-major
    sequences, two states, kernel, recurrent kernel, bias; last output, outputs, two states and
    the name of a runtime.
    """
    import tensorflow as tf

    def standard_lstm(inputs, init_h, init_c, kernel, recurrent_kernel, bias):
        steps = inputs.shape[1]
        rows = tf.TensorArray(tf.float32, steps, element_shape=init_h.shape)
        by_time = tf.transpose(inputs, [1, 0, 2])

        def step(t, h, c, rows):
            z = by_time[t] @ kernel + h @ recurrent_kernel + bias
            i, f, g, o = tf.split(z, 4, axis=1)
            c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
            h = tf.sigmoid(o) * tf.tanh(c)
            return t + 1, h, c, rows.write(t, h)

        _, h, c, rows = tf.while_loop(lambda t, *_: t < steps, step,
                                      (tf.constant(0), init_h, init_c, rows))
        outputs = tf.transpose(rows.stack(), [1, 0, 2])
        return h, outputs, h, c, tf.constant(0.0)

    return tf.function(standard_lstm, autograph=False, experimental_attributes={
        "api_implements": f"lstm_{name}", "go_backwards": False, "time_major": False})
