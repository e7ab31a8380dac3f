"""Labels through what joins and moves elements: concatenations, reshapes, splits, slices."""

from __future__ import annotations

from typing import Any

from .groups import Call, NotUnderstood, along, only, tie
from .probe import follow


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

    op, labels = call.op, only(given)
    if not labels:
        return [{}]
    if len(labels) > 1:
        raise NotUnderstood("channels lie on two axes of what is reshaped")
    (axis, atoms), = labels.items()
    free = [3 if d is None else d for d in call.shapes[0]]
    full = np.broadcast_to(atoms.reshape([-1 if a == axis else 1 for a in range(len(free))]), free)
    key, target = _target(op, call)
    if type(op).__name__ == "Flatten":
        if getattr(op, "data_format", "") == "channels_first" and len(free) > 2:
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

    views = {axis: np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)
             for axis in range(1, labels.ndim) if labels.shape[axis] > 1}
    for axis, rows in views.items():
        if (rows == rows[:, :1]).all():
            return axis, rows[:, 0].copy()
    # Only along axes of channels do columns differ from each other: few of them are distinct.
    views = {axis: np.unique(rows, axis=1) for axis, rows in views.items()}
    apart = {axis: rows for axis, rows in views.items()
             if sum(len(np.unique(row)) for row in rows) == len(np.unique(rows))}
    if not apart:
        raise NotUnderstood("channels are mixed with other axes")
    axis, columns = max(apart.items(), key=lambda view: len(view[1]))
    for column in columns.T[1:]:
        graph.atoms.unite(columns[:, 0], column, f"{name}: grouped with what stays")
    return axis, columns[:, 0].copy()


def split(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    import numpy as np

    op, labels = call.op, only(given)
    axis = op.axis % len(call.shapes[0])
    if axis not in labels:
        return [dict(labels) for _ in call.results]
    atoms, how = labels[axis], op.indices_or_sections
    if isinstance(how, int):
        tie(graph, atoms, how, op.name)
    else:
        for i, index in enumerate(how):
            graph.edit(op, ("indices_or_sections", i), atoms[:index])
    return [labels | {axis: part} for part in np.split(atoms, how if isinstance(how, int)
                                                       else list(how))]


def get_item(graph: Any, call: Call, given: list[dict]) -> list[dict]:
    """Slices of channels with a start and a stop; other axes are tried out."""
    args, _ = call.fill([None] * len(call.shapes))
    labels, where = only(given), args[1] if len(args) > 1 else None
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
