"""Recurrent layers, with the input's share of every step computed before the loop.

The converter's fused LSTM is not used unless asked for: the operator keeps its state from one
invocation to the next, so the second sample would begin where the first one ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable

# Each unrolled step costs about 3 KB of graph and saves the loop's bookkeeping.
UNROLL_UP_TO = 12


def patches(record, mode: str) -> list[tuple]:
    """`(owner, attribute, original -> replacement)` for `lowering`."""
    from keras.src import backend
    from keras.src.layers.rnn.gru import GRU
    from keras.src.layers.rnn.lstm import LSTM
    from keras.src.layers.rnn.rnn import RNN

    found = [(backend, "rnn", lambda original: _rnn(original, record, mode))]
    for kind in (RNN, LSTM, GRU):
        found.append((kind, "inner_loop",
                      lambda original: _inner_loop(original, record, mode)))
    return found


def _rnn(original: Callable, record, mode: str) -> Callable:
    def rnn(step_function, inputs, initial_states, go_backwards=False, mask=None, constants=None,
            unroll=False, input_length=None, time_major=False, zero_output_for_mask=False,
            return_all_outputs=True):
        import tensorflow as tf

        flat = tf.nest.flatten(inputs)
        steps = flat[0].shape[0 if time_major else 1]
        limit = {"unrolled": math.inf, "loop": 0}.get(mode, UNROLL_UP_TO)
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


def _inner_loop(original: Callable, record, mode: str) -> Callable:
    def inner_loop(self, sequences, initial_state, mask, training=False):
        import tensorflow as tf
        from keras.src import backend

        make = _steps().get(type(self.cell))
        if make is None or not tf.is_tensor(sequences) or sequences.shape.rank != 3:
            return original(self, sequences, initial_state, mask, training)
        mask = mask[0] if isinstance(mask, (list, tuple)) else mask
        states = list(initial_state) if tf.nest.is_nested(initial_state) else [initial_state]
        if mode == "fused" and _fits_fused(self, states, mask):
            record.add("LSTM", "one fused UNIDIRECTIONAL_SEQUENCE_LSTM operator")
            return _fused(self, sequences, states)
        record.add(type(self.cell).__name__, "inputs of all steps are multiplied at once")
        projected, step = make(tf, self.cell, sequences)
        return backend.rnn(step, projected, states, go_backwards=self.go_backwards, mask=mask,
                           unroll=self.unroll, input_length=sequences.shape[1],
                           zero_output_for_mask=self.zero_output_for_mask,
                           return_all_outputs=self.return_sequences)
    return inner_loop


def _steps() -> dict:
    """Cell class -> function that makes the projected inputs and the step on them."""
    import keras

    return {keras.layers.LSTMCell: _lstm, keras.layers.GRUCell: _gru,
            keras.layers.SimpleRNNCell: _simple}


def _project(tf, x, kernel, bias):
    batch, steps, width = x.shape
    flat = tf.reshape(x, [-1, width]) @ tf.convert_to_tensor(kernel)
    flat = flat if bias is None else flat + bias
    return tf.reshape(flat, [-1 if batch is None else batch, steps, flat.shape[-1]])


def _simple(tf, cell, x):
    recurrent = tf.convert_to_tensor(cell.recurrent_kernel)
    bias = tf.convert_to_tensor(cell.bias) if cell.use_bias else None

    def step(z, states):
        h = z + states[0] @ recurrent
        h = h if cell.activation is None else cell.activation(h)
        return h, [h]
    return _project(tf, x, cell.kernel, bias), step


def _lstm(tf, cell, x):
    recurrent = tf.convert_to_tensor(cell.recurrent_kernel)
    bias = tf.convert_to_tensor(cell.bias) if cell.use_bias else None
    gate, squash = cell.recurrent_activation, cell.activation

    def step(z, states):
        h, c = states
        i, f, g, o = tf.split(z + h @ recurrent, 4, axis=-1)
        c = gate(f) * c + gate(i) * squash(g)
        h = gate(o) * squash(c)
        return h, [h, c]
    return _project(tf, x, cell.kernel, bias), step


def _gru(tf, cell, x):
    recurrent = tf.convert_to_tensor(cell.recurrent_kernel)
    bias = tf.convert_to_tensor(cell.bias) if cell.use_bias else None
    inner_bias = None
    if cell.reset_after and bias is not None:
        bias, inner_bias = tf.unstack(bias)
    gate, squash, units = cell.recurrent_activation, cell.activation, cell.units

    def step(z, states):
        h = states[0]
        x_z, x_r, x_h = tf.split(z, 3, axis=-1)
        if cell.reset_after:
            inner = h @ recurrent
            inner = inner if inner_bias is None else inner + inner_bias
            h_z, h_r, h_h = tf.split(inner, 3, axis=-1)
        else:
            h_z, h_r = tf.split(h @ recurrent[:, :2 * units], 2, axis=-1)
        update, reset = gate(x_z + h_z), gate(x_r + h_r)
        if cell.reset_after:
            fresh = squash(x_h + reset * h_h)
        else:
            fresh = squash(x_h + (reset * h) @ recurrent[:, 2 * units:])
        h = update * (h - fresh) + fresh
        return h, [h]
    return _project(tf, x, cell.kernel, bias), step


def _fits_fused(layer, states, mask) -> bool:
    """Whether the fused operator computes this layer: zero state in, no state out."""
    import keras
    import numpy as np
    import tensorflow as tf

    if type(layer.cell) is not keras.layers.LSTMCell or mask is not None:
        return False
    if layer.return_state or layer.stateful or layer.unroll:
        return False
    if (layer.cell.activation, layer.cell.recurrent_activation) != (
            keras.activations.tanh, keras.activations.sigmoid):
        return False
    known = [tf.get_static_value(tf.convert_to_tensor(s)) for s in states]
    return all(v is not None and not np.any(v) for v in known)


def _fused(layer, x, states):
    import tensorflow as tf

    if layer.go_backwards:
        x = tf.gather(x, list(range(x.shape[1]))[::-1], axis=1)
    cell = layer.cell
    bias = cell.bias if cell.use_bias else tf.zeros([4 * cell.units])
    tensors = [tf.convert_to_tensor(t) for t in (
        x, *states, cell.kernel, cell.recurrent_kernel, bias)]
    last, outputs, h, c, _ = _standard_lstm(layer.name)(*tensors)
    return last, outputs if layer.return_sequences else last[:, None], [h, c]


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
