"""What each kind of Keras layer with weights does to channels: a table of functions.

A rule is given the labels of a call's inputs, labels the layer's weights and the numbers in its
configuration, and gives the labels of the outputs. See `channels` for what labels are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .channels import Call, along, positions


class NotUnderstood(Exception):
    """Why labels cannot be followed through a call: all that enter it are frozen."""


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


def _only(given: list[dict], count: int = 1) -> dict:
    """The first input's labels; masks beside it may have none."""
    if any(given[count:]):
        raise NotUnderstood("an input beside the first has channels")
    return given[0]


def _make(graph: Any, op: Any, key: str, count: int, activation: Any = None) -> Any:
    """New channels, frozen where the layer's own activation lets them meet."""
    from .channel_probe import separate

    atoms = graph.produce(op, key, count)
    if activation is not None and not separate(graph, activation):
        graph.atoms.freeze(atoms, "channels meet in its activation")
    return atoms


def _axis(op: Any, rank: int) -> int:
    return 1 if getattr(op, "data_format", "channels_last") == "channels_first" else rank - 1


def _channels_in(graph: Any, call: Call, given: list[dict], axis: int) -> Any:
    """Labels of the channels that a layer reads; those of its other axes are frozen."""
    labels = _only(given)
    graph.freeze(labels, f"{call.op.name}: channels lie on an axis that it mixes", but=(axis,))
    return along(labels, axis, call.shapes[0][axis])


# Dense and convolutions


def dense(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    op, labels, axis = call.op, _only(given), len(call.shapes[0]) - 1
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
    _tie(graph, read, op.groups, op.name)
    _tie(graph, made, op.groups, op.name)
    first = read[:len(read) // op.groups]
    graph.weight(op, op._kernel, "kernel", {-2: ("in", first), -1: ("out", made)}, macs=macs)
    graph.weight(op, op.bias, "bias", {0: ("out", made)})
    graph.edit(op, ("filters",), made)
    return [{axis: made}]


def _tie(graph: Any, atoms: Any, groups: int, name: str) -> None:
    """Every group loses the same places, so that groups stay of one size."""
    each = len(atoms) // groups
    for g in range(1, groups):
        graph.atoms.unite(atoms[:each], atoms[g * each:(g + 1) * each],
                          f"{name}: grouped with what stays")


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
    from .channel_probe import separate

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
    op, labels, shape, result = call.op, _only(given), call.shapes[0], call.results[0]
    left, weights, right = _letters(op.equation, len(shape), len(result))
    named: dict[str, tuple[str, Any]] = {}
    for axis, letter in enumerate(left):
        if letter in weights:
            role = "own" if letter in right else "in"
            named[letter] = role, along(labels, axis, shape[axis] or 0)
    for axis, letter in enumerate(right):
        if letter in weights and letter not in left:
            named[letter] = "out", _make(graph, op, letter, result[axis], op.activation)
            graph.edit(op, ("output_shape", axis - 1), named[letter][1])
        elif letter in named:
            atoms = named[letter][1]
            if (atoms >= 0).any():
                graph.edit(op, ("output_shape", axis - 1), atoms)
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


# Normalization and slopes


def batch_norm(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    op, labels = call.op, _only(given)
    axis = op.axis % len(call.shapes[0])
    atoms = along(labels, axis, call.shapes[0][axis])
    for name, kind in (("gamma", "gamma"), ("beta", "folded"), ("moving_mean", "folded"),
                       ("moving_variance", "folded")):
        graph.weight(op, getattr(op, name, None), kind, {0: ("own", atoms)})
    return [labels]


def layer_norm(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    """Means over fewer channels differ, so what is left changes too: `inexact`."""
    op, labels, rank = call.op, _only(given), len(call.shapes[0])
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
        _tie(graph, atoms, op.groups, op.name)
        graph.inexact.setdefault(op.name, []).append(atoms)
    for name in ("gamma", "beta"):
        graph.weight(op, getattr(op, name, None), "norm", {0: ("own", atoms)})
    return [{axis: atoms}]


def prelu(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    op, labels = call.op, _only(given)
    shared = {a % len(call.shapes[0]) for a in op.shared_axes or ()}
    graph.weight(op, op.alpha, "norm", {
        a - 1: ("own", atoms) for a, atoms in labels.items() if a not in shared})
    return [labels]


def spectral_norm(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    raise NotUnderstood("SpectralNormalization sets its weights anew in every step")


def masking(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    raise NotUnderstood("which steps are masked depends on all channels")


# Attention


def attention(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    op = call.op
    roles = {0: "query", 1: "value", 2: "key"}
    at = {roles.get(place, place): i for i, place in enumerate(call.where)}
    at.setdefault("key", at["value"])
    inputs = {name: at[name] for name in ("query", "key", "value")}
    if any(labels for i, labels in enumerate(given) if i not in inputs.values()):
        raise NotUnderstood("its mask has channels")
    heads = graph.produce(op, "num_heads", op._num_heads)
    sizes = {"query": graph.produce(op, "key_dim", op._key_dim),
             "value": graph.produce(op, "value_dim", op._value_dim)}
    sizes |= {"key": sizes["query"], "gate": sizes["value"]}
    for name in ("query", "key", "value", "gate"):
        part = getattr(op, f"_{name}_dense", None)
        if part is None:
            continue
        i = inputs.get(name, at["query"])
        axis = len(call.shapes[i]) - 1
        graph.freeze(given[i], f"{op.name}: channels lie on an axis that it mixes", but=(axis,))
        read = along(given[i], axis, call.shapes[i][axis])
        # Of queries, a removed dimension is silent too: its products with the keys are gone.
        last = ("in" if name == "query" else "out"), sizes[name]
        scale = sizes[name] if name == "query" else None
        graph.weight(op, part._kernel, "kernel", {0: ("in", read), 1: ("out", heads), 2: last},
                     macs=positions(call.shapes[i], -1) * call.times, rescale=scale)
        graph.weight(op, part.bias, "bias", {-2: ("out", heads), -1: last},
                     rescale=scale)
    graph.edit(op, ("num_heads",), heads)
    graph.edit(op, ("key_dim",), sizes["query"])
    graph.edit(op, ("value_dim",), sizes["value"])
    pairs = positions(call.shapes[at["query"]], -1) * positions(call.shapes[at["key"]], -1)
    for key, name in (("scores", "query"), ("values", "value")):
        graph.weight(op, None, f"product:{key}", {0: ("own", heads), 1: ("own", sizes[name])},
                     macs=pairs * call.times, size=(len(heads), len(sizes[name])))
    made = _attention_output(graph, call, heads, sizes["value"])
    scores = [{1: heads}] * (len(call.results) - 1)
    return [made, *scores]


def _attention_output(graph: Any, call: Call, heads: Any, values: Any) -> dict:
    op, last = call.op, call.op._output_dense
    rank, kernel = len(call.results[0]), last._kernel
    axes = {0: ("in", heads), 1: ("in", values)}
    if len(kernel.shape) != 3:
        graph.weight(op, kernel, "kernel", axes, macs=positions(call.shapes[0], -1) * call.times)
        graph.weight(op, last.bias, "bias", {})
        return {}
    made = graph.produce(op, "output_shape", kernel.shape[2])
    graph.weight(op, kernel, "kernel", axes | {2: ("out", made)},
                 macs=positions(call.results[0], -1) * call.times)
    graph.weight(op, last.bias, "bias", {-1: ("out", made)})
    graph.edit(op, ("output_shape", 0), made)
    return {rank - 1: made}


# Recurrent layers


def recurrent(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    op, cell = call.op, call.op.cell
    if type(cell).__name__ not in GATES or not type(cell).__module__.startswith("keras."):
        raise NotUnderstood("its cell is not followed")
    units = graph.produce(op, "units", cell.units)
    read = _sequence_in(graph, call, given)
    for i, labels in enumerate(given[1:], 1):
        if call.dtypes[i] == "bool":
            continue  # a mask of steps
        graph.atoms.unite(units, along(labels, len(call.shapes[i]) - 1, cell.units),
                          f"{op.name}: its state is given")
    _cell(graph, op, cell, read, units, (call.shapes[0][1] or 1) * call.times)
    return [{len(shape) - 1: units} for shape in call.results]


def _sequence_in(graph: Any, call: Call, given: list[dict]) -> Any:
    graph.freeze(given[0], f"{call.op.name}: channels lie on an axis that it mixes", but=(2,))
    return along(given[0], 2, call.shapes[0][2])


def _cell(graph: Any, op: Any, cell: Any, read: Any, units: Any, steps: int) -> None:
    """Label a cell's weights; the numbers are those of `op`, which carries them."""
    import numpy as np

    if any(not _separate(graph, getattr(cell, n, None))
           for n in ("activation", "recurrent_activation")):
        graph.atoms.freeze(units, "channels meet in its activation")
    gates = np.tile(units, GATES[type(cell).__name__])
    for name, role, rows in (("kernel", "in", read), ("recurrent_kernel", "in", units)):
        made = "out" if name == "kernel" else "own"
        graph.weight(op, getattr(cell, name), "kernel", {0: (role, rows), 1: (made, gates)},
                     macs=steps)
    graph.weight(op, cell.bias, "bias", {-1: ("out", gates)})
    graph.edit(op, ("units",), units)


def _separate(graph: Any, activation: Any) -> bool:
    from .channel_probe import separate

    return activation is None or separate(graph, activation)


def bidirectional(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    import numpy as np

    op = call.op
    if find(op.forward_layer) is not recurrent or find(op.backward_layer) is not recurrent \
            or call.dtypes[1:].count("bool") < len(given) - 1 or op.return_state:
        raise NotUnderstood("its layers are not followed")
    made = []
    for layer in (op.forward_layer, op.backward_layer):
        units = graph.produce(layer, "units", layer.cell.units)
        read = _sequence_in(graph, call, given)
        _cell(graph, layer, layer.cell, read, units, (call.shapes[0][1] or 1) * call.times)
        made.append(units)
    if op.merge_mode == "concat":
        made = [np.concatenate(made)]
    elif op.merge_mode is not None:
        graph.atoms.unite(*made, "joined with what stays")
        made = made[:1]
    return [{len(shape) - 1: atoms} for shape, atoms in zip(call.results, made, strict=True)]


def time_distributed(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    """The inner layer's rule, as if time were part of the batch."""
    from .channel_probe import follow
    from .channels import graph_of

    inner, labels = call.op.layer, _only(given)
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


# Moving elements


def concatenate(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    import numpy as np

    axis = call.op.axis % len(call.shapes[0])
    out: dict[int, Any] = {}
    if any(axis in labels for labels in given):
        out[axis] = np.concatenate([
            along(labels, axis, shape[axis]) for labels, shape in
            zip(given, call.shapes, strict=True)])
    for other in {a for labels in given for a in labels} - {axis}:
        parts = [along(labels, other, shape[other]) for labels, shape in
                 zip(given, call.shapes, strict=True)]
        for part in parts[1:]:
            graph.atoms.unite(parts[0], part, f"{call.op.name}: joined with what stays")
        out[other] = next(p for p in parts if (p >= 0).any())
    return [out]


def reshape(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    """Label every element, reshape these, and see along which axis labels differ."""
    import numpy as np

    op, labels = call.op, _only(given)
    if not labels:
        return [{}]
    if len(labels) > 1:
        raise NotUnderstood("channels lie on two axes of what is reshaped")
    (axis, atoms), = labels.items()
    free = [3 if d is None else d for d in call.shapes[0]]
    full = np.broadcast_to(atoms.reshape([-1 if a == axis else 1 for a in range(len(free))]), free)
    key, target = _target(op, call)
    if type(op).__name__ == "Flatten":
        if _axis(op, len(free)) == 1 and len(free) > 2:
            full = np.moveaxis(full, 1, -1)
        moved = full.reshape(full.shape[0], -1)
    else:
        batch = () if key == "newshape" else (full.shape[0],)
        moved = full.reshape((*batch, *target))
    place, found = _varies(graph, moved, op.name)
    at = place - (0 if key == "newshape" else 1)
    if key and target[at] != -1:
        graph.edit(op, (key, at), found)
    return [{place: found}]


def _target(op: Any, call: Call) -> tuple[str | None, tuple]:
    """Which number in the configuration says the new shape, and what it says."""
    if hasattr(op, "newshape"):
        return "newshape", tuple(op.newshape)
    if hasattr(op, "target_shape"):
        return "target_shape", tuple(op.target_shape)
    return None, ()


def _varies(graph: Any, labels: Any, name: str) -> tuple[int, Any]:
    """The axis along which labels differ, and the labels along it.

    Where one axis became several (channels into groups), each group loses the same places.
    """
    import numpy as np

    best: tuple[int, Any] | None = None
    for axis in range(1, labels.ndim):
        rows = np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)
        distinct = [set(row.tolist()) for row in rows]
        if rows.shape[0] > 1 and (rows == rows[:, :1]).all():
            return axis, rows[:, 0].copy()
        apart = sum(map(len, distinct)) == len(set().union(*distinct))
        if apart and rows.shape[0] > 1 and (best is None or len(rows) > len(best[1])):
            best = axis, rows
    if best is None:
        raise NotUnderstood("channels are mixed with other axes")
    axis, rows = best
    columns = np.unique(rows, axis=1)
    for column in columns.T[1:]:
        graph.atoms.unite(columns[:, 0], column, f"{name}: grouped with what stays")
    return axis, columns[:, 0].copy()


def split(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    import numpy as np

    op, labels = call.op, _only(given)
    axis = op.axis % len(call.shapes[0])
    if axis not in labels:
        return [dict(labels) for _ in call.results]
    atoms, how = labels[axis], op.indices_or_sections
    if isinstance(how, int):
        _tie(graph, atoms, how, op.name)
    else:
        for i, index in enumerate(how):
            graph.edit(op, ("indices_or_sections", i), atoms[:index])
    return [labels | {axis: part} for part in np.split(atoms, how if isinstance(how, int)
                                                       else list(how))]


def get_item(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    """Slices of channels with a start and a stop; other axes are tried out."""
    from .channel_probe import follow

    args, _ = call.fill([None] * len(call.shapes))
    labels, where = _only(given), args[1] if len(args) > 1 else None
    parts = list(where) if isinstance(where, tuple) else [where]
    rank = len(call.shapes[0])
    plain = all(isinstance(p, slice) or p is Ellipsis for p in parts)
    if not labels or not plain or len(labels) > 1:
        return follow(graph, call, given)
    (axis, atoms), = labels.items()
    gap = next((i for i, p in enumerate(parts) if p is Ellipsis), len(parts))
    after = len(parts) - gap - 1
    at = axis if axis < gap else axis - rank + len(parts) if axis >= rank - after else None
    if at is None or parts[at] == slice(None):
        return [labels]
    if parts[at].step not in (None, 1) or not isinstance(where, tuple):
        raise NotUnderstood("every n-th channel is taken")
    for name in ("start", "stop"):
        index = getattr(parts[at], name)
        if index is not None:
            index = index + len(atoms) if index < 0 else min(index, len(atoms))
            graph.edit(call.op, ("inbound_nodes", 0, "args", 1, at, "config", name), atoms[:index])
    return [{axis: atoms[parts[at]]}]


GATES = {"LSTMCell": 4, "GRUCell": 3, "SimpleRNNCell": 1}

RULES: dict[str, Callable[[Any, Call, list[dict]], list[dict]]] = {
    "Dense": dense, "EinsumDense": einsum_dense, "Embedding": embedding,
    "Conv1D": conv, "Conv2D": conv, "Conv3D": conv,
    "Conv1DTranspose": conv_transpose, "Conv2DTranspose": conv_transpose,
    "Conv3DTranspose": conv_transpose,
    "DepthwiseConv1D": depthwise, "DepthwiseConv2D": depthwise,
    "SeparableConv1D": separable, "SeparableConv2D": separable,
    "BatchNormalization": batch_norm, "LayerNormalization": layer_norm,
    "RMSNormalization": layer_norm, "GroupNormalization": group_norm, "PReLU": prelu,
    "SpectralNormalization": spectral_norm, "Masking": masking,
    "MultiHeadAttention": attention,
    "LSTM": recurrent, "GRU": recurrent, "SimpleRNN": recurrent, "Bidirectional": bidirectional,
    "TimeDistributed": time_distributed,
    "Concatenate": concatenate, "Flatten": reshape, "Reshape": reshape,
    "Split": split, "GetItem": get_item,
}

