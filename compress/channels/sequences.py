"""Labels through attention and recurrent layers: heads, sizes of keys and values, units."""

from __future__ import annotations

from typing import Any

from .groups import Call, NotUnderstood, along, positions
from .probe import separate

GATES = {"LSTMCell": 4, "GRUCell": 3, "SimpleRNNCell": 1}


def attention(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    op = call.op
    at, inputs = _attention_inputs(call, given)
    heads = graph.produce(op, "num_heads", op._num_heads)
    sizes = {"query": graph.produce(op, "key_dim", op._key_dim),
             "value": graph.produce(op, "value_dim", op._value_dim)}
    sizes |= {"key": sizes["query"], "gate": sizes["value"]}
    for name in ("query", "key", "value", "gate"):
        part = getattr(op, f"_{name}_dense", None)
        if part is None:
            continue
        i = inputs.get(name, at["query"])
        read = _sequence_axis(graph, call, given, i)
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
    _products(graph, call, at, heads, sizes)
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


def grouped_attention(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    """Heads go with all queries of their group; keys and values have one size."""
    op = call.op
    at, inputs = _attention_inputs(call, given)
    heads = graph.produce(op, "num_key_value_heads", op.num_key_value_heads)
    queries = heads.repeat(op.num_repeats)
    size = graph.produce(op, "head_dim", op.head_dim)
    for name in ("query", "key", "value", "gate"):
        part = getattr(op, f"_{name}_dense", None)
        if part is None:
            continue
        i = inputs.get(name, at["query"])
        read = _sequence_axis(graph, call, given, i)
        last = ("in" if name == "query" else "out"), size
        mine = heads if name in ("key", "value") else queries
        scale = size if name == "query" else None
        graph.weight(op, part._kernel, "kernel", {0: ("in", read), 1: ("out", mine), 2: last},
                     macs=positions(call.shapes[i], -1) * call.times, rescale=scale)
        graph.weight(op, part.bias, "bias", {0: ("out", mine), 1: last}, rescale=scale)
    _products(graph, call, at, queries, {"query": size, "value": size})
    graph.edit(op, ("num_key_value_heads",), heads)
    graph.edit(op, ("num_query_heads",), queries)
    graph.edit(op, ("head_dim",), size)
    # The output is as wide as the query.
    made = _sequence_axis(graph, call, given, at["query"])
    last = op._output_dense
    graph.weight(op, last._kernel, "kernel", {0: ("in", queries), 1: ("in", size),
                                              2: ("own", made)},
                 macs=positions(call.results[0], -1) * call.times)
    graph.weight(op, last.bias, "bias", {0: ("own", made)})
    return [{2: made}, *[{1: queries}] * (len(call.results) - 1)]


def _attention_inputs(call: Call, given: list[dict]) -> tuple[dict, dict]:
    """Where each argument is among the inputs, and the three of them that have channels."""
    roles = {0: "query", 1: "value", 2: "key"}
    at = {roles.get(place, place): i for i, place in enumerate(call.where)}
    at.setdefault("key", at["value"])
    inputs = {name: at[name] for name in ("query", "key", "value")}
    if any(labels for i, labels in enumerate(given) if i not in inputs.values()):
        raise NotUnderstood("its mask has channels")
    return at, inputs


def _sequence_axis(graph: Any, call: Call, given: list[dict], i: int) -> Any:
    """Labels of the last axis of input `i`; those of its other axes are frozen."""
    axis = len(call.shapes[i]) - 1
    graph.freeze(given[i], f"{call.op.name}: channels lie on an axis that it mixes", but=(axis,))
    return along(given[i], axis, call.shapes[i][axis])


def _products(graph: Any, call: Call, at: dict, heads: Any, sizes: dict) -> None:
    """What multiplying queries by keys, and scores by values, costs."""
    pairs = positions(call.shapes[at["query"]], -1) * positions(call.shapes[at["key"]], -1)
    for key, name in (("scores", "query"), ("values", "value")):
        graph.weight(call.op, None, f"product:{key}",
                     {0: ("own", heads), 1: ("own", sizes[name])},
                     macs=pairs * call.times, size=(len(heads), len(sizes[name])))


# Recurrent layers


def recurrent(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    op, cell = call.op, call.op.cell
    if not _followed(op):
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


def _followed(layer: Any) -> bool:
    """Whether it is one of Keras's own layers with one of Keras's own cells."""
    cell = getattr(layer, "cell", None)
    return type(cell).__name__ in GATES and all(
        type(x).__module__.startswith("keras.") for x in (layer, cell))


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
    return activation is None or separate(graph, activation)


def bidirectional(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    import numpy as np

    op = call.op
    if not _followed(op.forward_layer) or not _followed(op.backward_layer) \
            or call.dtypes[1:].count("bool") < len(given) - 1 or op.return_state:
        raise NotUnderstood("its layers are not followed")
    made = []
    for layer in (op.forward_layer, op.backward_layer):
        units = graph.produce(layer, "units", layer.cell.units)
        read = _sequence_in(graph, call, given)
        _cell(graph, layer, layer.cell, read, units, (call.shapes[0][1] or 1) * call.times)
        made.append(units)
    # Keras takes both for equally large, even where they are only concatenated.
    graph.atoms.unite(*made, f"{op.name}: joined with what stays")
    if op.merge_mode == "concat":
        made = [np.concatenate(made)]
    elif op.merge_mode is not None:
        made = made[:1]
    return [{len(shape) - 1: atoms} for shape, atoms in zip(call.results, made, strict=True)]
