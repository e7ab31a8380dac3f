"""GRU and simple recurrent layers as the operators that ONNX has for them.

tf2onnx knows the loop of an LSTM but writes those of other layers out, step by step. While a model
is traced, such a layer becomes TensorFlow's operator for recurrent layers on a GPU, which holds the
whole layer and is never run; when tf2onnx meets it, it becomes ONNX's GRU or RNN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

STAND_IN = "CudnnRNNV3"
MODES = {"tanh": "rnn_tanh", "relu": "rnn_relu"}  # activation of SimpleRNN -> mode of the stand-in


@contextmanager
def recurrent() -> Iterator[list[dict]]:
    """Replace layers as a graph is traced; yields the list of what was rewritten."""
    from keras.src.layers.rnn.gru import GRU
    from keras.src.layers.rnn.rnn import RNN

    found: list[dict] = []
    originals = [(kind, kind.inner_loop) for kind in (RNN, GRU)]
    for kind, original in originals:
        kind.inner_loop = _inner_loop(original, found)
    try:
        yield found
    finally:
        for kind, original in originals:
            kind.inner_loop = original


def _inner_loop(original: Callable, found: list[dict]) -> Callable:
    def inner_loop(self, sequences, initial_state, mask, training=False):
        import tensorflow as tf

        mask = mask[0] if isinstance(mask, (list, tuple)) and mask else mask
        said = None if mask is not None or self.stateful else _parameters(tf, self.cell)
        if said is None or not tf.is_tensor(sequences) or sequences.shape.rank != 3:
            return original(self, sequences, initial_state, mask, training)
        mode, seed, parameters = said
        state = tf.nest.flatten(initial_state)[0]
        x = tf.transpose(sequences, [1, 0, 2])
        x = tf.reverse(x, [0]) if self.go_backwards else x
        outputs, *_ = tf.raw_ops.CudnnRNNV3(
            input=x, input_h=state[None], input_c=tf.zeros([0]), params=parameters,
            sequence_lengths=tf.fill(tf.shape(x)[1:2], tf.shape(x)[0]), rnn_mode=mode, seed=seed,
            seed2=int(_zeros(tf, state)), is_training=False)
        outputs.set_shape([x.shape[0], x.shape[1], self.cell.units])
        last = outputs[-1]
        found.append({"what": type(self.cell).__name__.removesuffix("Cell"),
                      "why": "one operator instead of a loop", "layers": [self.name]})
        return last, (tf.transpose(outputs, [1, 0, 2]) if self.return_sequences
                      else last[:, None]), [last]
    return inner_loop


def _parameters(tf, cell):
    """Mode, whether the reset gate comes after the product, and W, R, B of ONNX in one vector."""
    import keras

    act = keras.activations
    if type(cell) not in (keras.layers.SimpleRNNCell, keras.layers.GRUCell):
        return None
    bias = tf.zeros([]) if not cell.use_bias else tf.convert_to_tensor(cell.bias)
    kernel, recurrent = (tf.convert_to_tensor(w) for w in (cell.kernel, cell.recurrent_kernel))
    if type(cell) is keras.layers.SimpleRNNCell:
        mode = MODES.get(getattr(cell.activation, "__name__", ""))
        if mode is None or cell.activation not in (act.tanh, act.relu):
            return None
        bias = tf.concat([tf.broadcast_to(bias, [cell.units]), tf.zeros([cell.units])], 0)
        return mode, 0, _vector(tf, tf.transpose(kernel), tf.transpose(recurrent), bias)
    if (cell.activation, cell.recurrent_activation) != (act.tanh, act.sigmoid):
        return None
    if cell.reset_after:
        bias = tf.reshape(tf.broadcast_to(bias, [2, 3 * cell.units]), [-1])
    else:
        bias = tf.concat([tf.broadcast_to(bias, [3 * cell.units]), tf.zeros([3 * cell.units])], 0)
    return "gru", int(cell.reset_after), _vector(
        tf, tf.transpose(kernel), tf.transpose(recurrent), bias)


def _zeros(tf, state) -> bool:
    """Whether a state is zero for any batch."""
    op = getattr(state, "op", None)
    value = tf.get_static_value(op.inputs[1] if op is not None and op.type == "Fill" else state)
    return value is not None and not value.any()


def _vector(tf, *parts):
    return tf.concat([tf.reshape(p, [-1]) for p in parts], 0)


def handlers() -> dict:
    """`custom_op_handlers` of tf2onnx."""
    return {STAND_IN: (_to_onnx, [])}


def _to_onnx(ctx, node, name, args) -> None:
    """The stand-in as GRU or RNN: [steps, batch, width] in, [steps, batch, units] out."""
    import numpy as np

    mode = node.attr["rnn_mode"].s.decode()
    if not node.inputs[3].is_const():
        raise ValueError("the weights of a recurrent layer are not constant")
    vector = node.inputs[3].get_tensor_value(as_list=False)
    width, gates = ctx.get_shape(node.input[0])[2], 3 if mode == "gru" else 1
    units = ctx.get_shape(node.output[0])[2]
    ends = np.cumsum([gates * units * width, gates * units * units, 2 * gates * units])
    w, r, b = np.split(vector, ends[:-1])
    shapes = [(1, gates * units, width), (1, gates * units, units), (1, 2 * gates * units)]
    weights = [ctx.make_const(f"{node.name}/{k}", v.reshape(s).astype(np.float32)).output[0]
               for k, v, s in zip("WRB", (w, r, b), shapes, strict=True)]
    attributes = {"hidden_size": units}
    if mode == "gru":
        attributes["linear_before_reset"] = node.attr["seed"].i
    else:
        attributes["activations"] = [mode.removeprefix("rnn_").capitalize()]
    inputs = [node.input[0], *weights]
    if not node.attr["seed2"].i:
        inputs += ["", node.input[1]]
    output, kind, shape = node.output[0], ctx.get_dtype(node.output[0]), ctx.get_shape(
        node.output[0])
    ctx.remove_node(node.name)
    kind_of = "GRU" if mode == "gru" else "RNN"
    made = ctx.make_node(kind_of, inputs, output_count=1,
                         name=f"{name.removesuffix(STAND_IN)}{kind_of}", attr=attributes,
                         dtypes=[kind], shapes=[[shape[0], 1, *shape[1:]]])
    axes = ctx.make_const(f"{node.name}/axes", np.array([1], np.int64)).output[0]
    ctx.make_node("Squeeze", [made.output[0], axes], outputs=[output], dtypes=[kind],
                  shapes=[shape])
