"""A function of a loaded SavedModel, traced anew operator by operator.

What a SavedModel holds was traced long ago, with its own batch size, and its inner functions keep
their shapes. Adding every operator once more to a new graph infers static shapes and lets
`lowering` replace operators as it does for a Keras model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import static

CALLS = ("PartitionedCall", "StatefulPartitionedCall")
LOOPS = ("While", "StatelessWhile")
BRANCHES = ("If", "StatelessIf")


class Retraced:
    """Callable like a SavedModel's signature: tensors by name in, a dict by name out.

    Operators that no output needs are left out, so variables are read but not assigned.
    """

    def __init__(self, function):
        self._function = function
        self.structured_input_signature = function.structured_input_signature
        self.structured_outputs = function.structured_outputs

    def __call__(self, **tensors) -> dict[str, Any]:
        import tensorflow as tf

        function = self._function
        names = [t.op.name for t in function.inputs[:len(function.inputs)
                                                     - len(function.captured_inputs)]]
        given = {_plain(k): v for k, v in tensors.items()}
        held = {}
        for variable in function.graph.variables:
            tf.compat.v1.get_default_graph().watch_variable(variable)  # the new graph owns them
            held[id(variable.handle)] = Held(variable.handle, tf.convert_to_tensor(variable))
        captured = [held.get(id(c), c) for c in function.captured_inputs]
        feeds = [given[_plain(n)] for n in names] + captured
        outputs = _emit(function.graph, function.inputs, feeds, function.outputs)
        return tf.nest.pack_sequence_as(self.structured_outputs, outputs, expand_composites=True)


@dataclass(frozen=True, eq=False)
class Held:
    """A variable that was read once, before any loop: inside one it could not be a constant."""

    handle: Any
    value: Any


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name).lower()


def _emit(graph, inputs, feeds, outputs) -> list:
    """Add what `outputs` of `graph` need to the current graph; `feeds` stand for `inputs`."""
    made = {id(i): f for i, f in zip(inputs, feeds, strict=True)}
    stack = [t.op for t in outputs]
    done: set[int] = {id(i.op) for i in inputs}
    while stack:
        op = stack[-1]
        waiting = [t.op for t in op.inputs if id(t.op) not in done]
        if id(op) in done or not waiting:
            stack.pop()
            if id(op) not in done:
                done.add(id(op))
                results = _again(graph, op, [made[id(t)] for t in op.inputs])
                made |= {id(t): r for t, r in zip(op.outputs, results, strict=False)}
        else:
            stack += waiting
    return [made[id(t)] for t in outputs]


def _again(graph, op, inputs) -> list:
    import tensorflow as tf

    if op.type in CALLS:
        return _call(graph, op.get_attr("f").name, inputs)
    if op.type in LOOPS:
        return _loop(graph, op, inputs)
    if op.type in BRANCHES:
        yes, no = op.get_attr("then_branch").name, op.get_attr("else_branch").name
        return tf.nest.flatten(tf.cond(
            tf.cast(tf.reshape(inputs[0], []), tf.bool), lambda: _call(graph, yes, inputs[1:]),
            lambda: _call(graph, no, inputs[1:])))
    if op.type.startswith("TensorList"):
        names = [arg.name for arg in op.op_def.input_arg]
        inputs = [_one_sample(t) if name == "element_shape" else t
                  for name, t in zip(names, inputs, strict=True)]
    if inputs and isinstance(inputs[0], Held):
        if op.type == "ReadVariableOp":
            return [inputs[0].value]
        if op.type == "Identity":
            return inputs
        if op.type == "ResourceGather":
            return [tf.gather(inputs[0].value, inputs[1], batch_dims=op.get_attr("batch_dims"))]
    return _operator(op, [t.handle if isinstance(t, Held) else t for t in inputs])


def _loop(graph, op, inputs) -> list:
    import tensorflow as tf

    condition, body = op.get_attr("cond").name, op.get_attr("body").name
    moving = [i for i, t in enumerate(inputs) if not isinstance(t, Held)]

    def whole(state) -> list:
        state = iter(state)
        return [t if isinstance(t, Held) else next(state) for t in inputs]

    def step(*state):
        results = _call(graph, body, whole(state))
        return _like(state, [results[i] for i in moving])

    last = tf.while_loop(lambda *state: tf.reshape(_call(graph, condition, whole(state))[0], []),
                         step, [inputs[i] for i in moving])
    return whole(tf.nest.flatten(last))


def _one_sample(shape):
    """The shape of a list's elements with batch 1 where it was free when the model was saved."""
    import numpy as np
    import tensorflow as tf

    known = static.value(shape)
    if known is None or np.count_nonzero(known == -1) != 1:
        return shape
    return tf.constant(np.where(known == -1, 1, known).astype(known.dtype))


def _like(state, results) -> list:
    """A loop's variables keep their shapes, which what is read from tensor lists lacks."""
    for before, after in zip(state, results, strict=True):
        if after.shape.is_compatible_with(before.shape):
            after.set_shape(before.shape)
    return results


def _call(graph, name: str, inputs) -> list:
    import tensorflow as tf
    from tensorflow.python.framework import function_def_to_graph

    # Outside of every graph TensorFlow knows all functions that were loaded.
    with tf.init_scope():
        inner = function_def_to_graph.function_def_to_graph(_definition(graph, name))
    return _emit(inner, inner.inputs, inputs, inner.outputs)


def _definition(graph, name: str):
    from tensorflow.python.eager import context

    known = graph._get_function(name)
    if known is None:
        return context.context().get_function_def(name)
    return getattr(known, "cached_definition", None) or known.definition


def _operator(op, inputs) -> list:
    """The same operator on new inputs, by the name through which `lowering` listens."""
    from tensorflow.python.framework import op_def_library

    arguments, rest, inferred = {}, list(inputs), set()
    for arg in op.op_def.input_arg:
        inferred |= {arg.type_attr, arg.number_attr, arg.type_list_attr}
        if arg.number_attr:
            count = op.get_attr(arg.number_attr)
            arguments[arg.name], rest = rest[:count], rest[count:]
        elif arg.type_list_attr:
            count = len(op.get_attr(arg.type_list_attr))
            arguments[arg.name], rest = rest[:count], rest[count:]
        else:
            arguments[arg.name] = rest.pop(0)
    for attribute in op.op_def.attr:
        if attribute.name not in inferred:
            arguments[attribute.name] = _attribute(op, attribute)
    outputs = op_def_library._apply_op_helper(op.type, name=op.name.split("/")[-1], **arguments)[3]
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def _attribute(op, attribute):
    value = op.get_attr(attribute.name)
    if attribute.type == "tensor":
        return op.node_def.attr[attribute.name].tensor
    return value.decode() if isinstance(value, bytes) and attribute.type == "string" else value
