"""What each kind of Keras layer with weights does to channels: a table of functions.

A rule is given the labels of a call's inputs, labels the layer's weights and the numbers in its
configuration, and gives the labels of the outputs. See `channels` for what labels are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .groups import Call, NotUnderstood, along, graph_of, only, positions, tie
from .moves import concatenate, get_item, reshape, split
from .probe import follow, separate
from .sequences import attention, bidirectional, grouped_attention, recurrent


def find(op: Any) -> Callable | None:
    """The rule for an operation; None where there is none. A user's subclass has none."""
    if not type(op).__module__.startswith("keras."):
        return None
    rule = RULES.get(type(op).__name__)
    if rule and (getattr(op, "lora_enabled", False) or getattr(op, "quantization_mode", None)):
        return _quantized
    return rule


def _quantized(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    raise NotUnderstood("quantized layers and LoRA are left as they are")


def _make(graph: Any, op: Any, key: str, count: int, activation: Any = None) -> Any:
    """New channels, frozen where the layer's own activation lets them meet."""
    atoms = graph.produce(op, key, count)
    if activation is not None and not separate(graph, activation):
        graph.atoms.freeze(atoms, "channels meet in its activation")
    return atoms


def _axis(op: Any, rank: int) -> int:
    return 1 if getattr(op, "data_format", "channels_last") == "channels_first" else rank - 1


def _channels_in(graph: Any, call: Call, given: list[dict], axis: int) -> Any:
    """Labels of the channels that a layer reads; those of its other axes are frozen."""
    labels = only(given)
    graph.freeze(labels, f"{call.op.name}: channels lie on an axis that it mixes", but=(axis,))
    return along(labels, axis, call.shapes[0][axis])


# Dense and convolutions


def dense(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    op, labels, axis = call.op, only(given), len(call.shapes[0]) - 1
    read = along(labels, axis, call.shapes[0][axis])
    made = _make(graph, op, "units", op.units, op.activation)
    graph.weight(op, op._kernel, "kernel", {0: ("in", read), 1: ("out", made)},
                 macs=positions(call.results[0], -1) * call.times)
    graph.weight(op, op.bias, "bias", {0: ("out", made)})
    graph.edit(op, ("units",), made)
    return [labels | {axis: made}]


def conv(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    op, axis = call.op, _axis(call.op, len(call.shapes[0]))
    read = _channels_in(graph, call, given, axis)
    macs = positions(call.results[0], axis) * call.times
    if op.groups > 1 and len(read) == op.groups:
        # Each group has one input: it goes with all its outputs, as in a depthwise convolution.
        made = read.repeat(op.filters // op.groups)
        graph.weight(op, op._kernel, "kernel", {-1: ("own", made)}, macs=macs)
        graph.weight(op, op.bias, "bias", {0: ("own", made)})
        graph.edit(op, ("groups",), read)
        graph.edit(op, ("filters",), made)
        return [{axis: made}]
    made = _make(graph, op, "filters", op.filters, op.activation)
    tie(graph, read, op.groups, op.name)
    tie(graph, made, op.groups, op.name)
    first = read[:len(read) // op.groups]
    graph.weight(op, op._kernel, "kernel", {-2: ("in", first), -1: ("out", made)}, macs=macs)
    graph.weight(op, op.bias, "bias", {0: ("out", made)})
    graph.edit(op, ("filters",), made)
    return [{axis: made}]


def conv_transpose(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    op, axis = call.op, _axis(call.op, len(call.shapes[0]))
    read = _channels_in(graph, call, given, axis)
    made = _make(graph, op, "filters", op.filters, op.activation)
    graph.weight(op, op.kernel, "kernel", {-2: ("out", made), -1: ("in", read)},
                 macs=positions(call.shapes[0], axis) * call.times)
    graph.weight(op, op.bias, "bias", {0: ("out", made)})
    graph.edit(op, ("filters",), made)
    return [{axis: made}]


def depthwise(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    op, axis = call.op, _axis(call.op, len(call.shapes[0]))
    read = _channels_in(graph, call, given, axis)
    made = read.repeat(op.depth_multiplier)
    graph.weight(op, op.kernel, "kernel", {-2: ("own", read)},
                 macs=positions(call.results[0], axis) * call.times)
    graph.weight(op, op.bias, "bias", {0: ("own", made)})
    if op.activation is not None and not separate(graph, op.activation):
        graph.atoms.freeze(made, f"{op.name}: channels meet in its activation")
        return [{}]
    return [{axis: made}]


def separable(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    op, axis = call.op, _axis(call.op, len(call.shapes[0]))
    read = _channels_in(graph, call, given, axis)
    made = _make(graph, op, "filters", op.filters, op.activation)
    macs = positions(call.results[0], axis) * call.times
    graph.weight(op, op.depthwise_kernel, "kernel", {-2: ("own", read)}, macs=macs)
    graph.weight(op, op.pointwise_kernel, "kernel", {
        -2: ("in", read.repeat(op.depth_multiplier)), -1: ("out", made)}, macs=macs)
    graph.weight(op, op.bias, "bias", {0: ("out", made)})
    graph.edit(op, ("filters",), made)
    return [{axis: made}]


def einsum_dense(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    op, labels, shape, result = call.op, only(given), call.shapes[0], call.results[0]
    left, weights, right = _letters(op.equation, len(shape), len(result))
    # The configuration leaves out the batch and what `...` stands for: count from the end.
    first = -len(right) if right[0].startswith("...") else -1
    named: dict[str, tuple[str, Any]] = {}
    for axis, letter in enumerate(left):
        if letter in weights:
            role = "own" if letter in right else "in"
            named[letter] = role, along(labels, axis, shape[axis] or 0)
    for axis, letter in enumerate(right):
        if letter in weights and letter not in left:
            named[letter] = "out", _make(graph, op, letter, result[axis], op.activation)
            graph.edit(op, ("output_shape", axis + first), named[letter][1])
        elif letter in named:
            atoms = named[letter][1]
            if (atoms >= 0).any():
                graph.edit(op, ("output_shape", axis + first), atoms)
    passed = {letter: labels[axis] for axis, letter in enumerate(left)
              if axis in labels and letter not in weights}
    if len(set(left)) < len(left) or any(letter not in right for letter in passed):
        raise NotUnderstood("its equation is not followed")
    macs = math.prod(shape[a] or 1 for a, letter in enumerate(left)
                     if a and letter not in weights) * call.times
    graph.weight(op, op._kernel, "kernel", {
        i: named[letter] for i, letter in enumerate(weights) if letter in named}, macs=macs)
    if op.bias is not None:
        offset = len(right) - len(op.bias.shape)
        graph.weight(op, op.bias, "bias", {
            axis - offset: named[letter] for axis, letter in enumerate(right)
            if letter in op.bias_axes and letter in named})
    made = {letter: atoms for letter, (_, atoms) in named.items()} | passed
    return [{axis: made[letter] for axis, letter in enumerate(right) if letter in made}]


def _letters(equation: str, rank: int, out_rank: int) -> tuple[list[str], str, list[str]]:
    """The equation's letters per axis, with names of their own for those that `...` stands for."""
    operands, _, result = equation.replace(" ", "").partition("->")
    left, _, weights = operands.partition(",")

    def spread(text: str, count: int) -> list[str]:
        if "..." not in text:
            return list(text)
        before, after = text.split("...")
        gap = count - len(before) - len(after)
        return [*before, *(f"...{i}" for i in range(gap)), *after]

    return spread(left, rank), weights, spread(result, out_rank)


def embedding(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    op = call.op
    made = graph.produce(op, "output_dim", op.output_dim)
    graph.weight(op, op._embeddings, "kernel", {1: ("out", made)})
    graph.edit(op, ("output_dim",), made)
    return [{len(call.results[0]) - 1: made}]


def reversible_embedding(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    """Forwards it makes dimensions, in reverse it reads them; the same ones where it is tied."""
    op = call.op
    args, kwargs = call.fill([None] * len(call.shapes))
    back = kwargs.get("reverse", args[1] if len(args) > 1 else False)
    made = graph.produce(op, "output_dim", op.output_dim)
    if not back:
        return embedding(graph, call, given)
    axis = len(call.shapes[0]) - 1
    read = along(only(given), axis, op.output_dim)
    graph.atoms.unite(made, read, f"{op.name}: joined with what stays")
    macs = positions(call.shapes[0], -1) * call.times
    if op.tie_weights:
        graph.weight(op, op._embeddings, "kernel", {1: ("in", made)}, macs=macs)
    else:
        graph.weight(op, op.reverse_embeddings, "kernel", {0: ("in", made)}, macs=macs)
    return [{a: atoms for a, atoms in given[0].items() if a != axis}]


# Normalization and slopes


def batch_norm(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    op, labels = call.op, only(given)
    axis = op.axis % len(call.shapes[0])
    atoms = along(labels, axis, call.shapes[0][axis])
    for name, kind in (("gamma", "gamma"), ("beta", "folded"), ("moving_mean", "folded"),
                       ("moving_variance", "folded")):
        graph.weight(op, getattr(op, name, None), kind, {0: ("own", atoms)})
    return [labels]


def layer_norm(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    """Means over fewer channels differ, so what is left changes too: `inexact`."""
    op, labels, rank = call.op, only(given), len(call.shapes[0])
    axes = op.axis if isinstance(op.axis, (list, tuple)) else [op.axis]
    axes = [a % rank for a in axes]
    own = {i: ("own", labels[a]) for i, a in enumerate(axes) if a in labels}
    for name in ("gamma", "beta", "scale"):
        variable = getattr(op, name, None)
        if hasattr(variable, "path"):
            graph.weight(op, variable, "norm", own)
    if own:
        graph.inexact.setdefault(op.name, []).extend(atoms for _, atoms in own.values())
    return [labels]


def group_norm(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    op, axis = call.op, call.op.axis % len(call.shapes[0])
    atoms = _channels_in(graph, call, given, axis)
    if (atoms < 0).all():
        return [{}]
    if op.groups == len(atoms):
        graph.edit(op, ("groups",), atoms)
    else:
        tie(graph, atoms, op.groups, op.name)
        graph.inexact.setdefault(op.name, []).append(atoms)
    for name in ("gamma", "beta"):
        graph.weight(op, getattr(op, name, None), "norm", {0: ("own", atoms)})
    return [{axis: atoms}]


def layer_scale(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    """ConvNeXt's scale per channel."""
    op, labels, axis = call.op, only(given), len(call.shapes[0]) - 1
    atoms = along(labels, axis, call.shapes[0][axis])
    graph.weight(op, op.gamma, "norm", {0: ("own", atoms)})
    graph.edit(op, ("projection_dim",), atoms)
    return [labels]


def prelu(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    op, labels = call.op, only(given)
    shared = {a % len(call.shapes[0]) for a in op.shared_axes or ()}
    graph.weight(op, op.alpha, "norm", {
        a - 1: ("own", atoms) for a, atoms in labels.items() if a not in shared})
    return [labels]


def spectral_norm(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    raise NotUnderstood("SpectralNormalization sets its weights anew in every step")


def masking(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    raise NotUnderstood("which steps are masked depends on all channels")


def time_distributed(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    """The inner layer's rule, as if time were part of the batch."""
    inner, labels = call.op.layer, only(given)
    if graph_of(inner) is not None or len(call.results) != 1:
        raise NotUnderstood("models inside TimeDistributed are not followed")
    graph.freeze(labels, f"{call.op.name}: channels lie along time", but=tuple(
        a for a in labels if a > 1))
    each = Call(inner, ((None, *call.shapes[0][2:]),), call.dtypes[:1],
                ((None, *call.results[0][2:]),), lambda values: ((values[0],), {}), (0,),
                (call.shapes[0][1] or 1) * call.times)
    shifted = {a - 1: atoms for a, atoms in labels.items() if a > 1}
    rule = find(inner)
    (out,) = rule(graph, each, [shifted]) if rule else follow(graph, each, [shifted])
    return [{a + 1: atoms for a, atoms in out.items()}]


RULES: dict[str, Callable[[Any, Call, list[dict]], list[dict]]] = {
    "Dense": dense, "EinsumDense": einsum_dense, "Embedding": embedding,
    "ReversibleEmbedding": reversible_embedding,
    "Conv1D": conv, "Conv2D": conv, "Conv3D": conv,
    "Conv1DTranspose": conv_transpose, "Conv2DTranspose": conv_transpose,
    "Conv3DTranspose": conv_transpose,
    "DepthwiseConv1D": depthwise, "DepthwiseConv2D": depthwise,
    "SeparableConv1D": separable, "SeparableConv2D": separable,
    "BatchNormalization": batch_norm, "LayerNormalization": layer_norm,
    "RMSNormalization": layer_norm, "GroupNormalization": group_norm, "PReLU": prelu,
    "LayerScale": layer_scale, "SpectralNormalization": spectral_norm, "Masking": masking,
    "MultiHeadAttention": attention, "GroupedQueryAttention": grouped_attention,
    "LSTM": recurrent, "GRU": recurrent, "SimpleRNN": recurrent, "Bidirectional": bidirectional,
    "TimeDistributed": time_distributed,
    "Concatenate": concatenate, "Flatten": reshape, "Reshape": reshape,
    "Split": split, "GetItem": get_item,
}

