"""Learned ranges out of a float .onnx that was converted with its fake quantization inside.

The converter writes each rounding as a QuantizeLinear and a DequantizeLinear. Without these pairs
the file is the plain float model, and what they held are the ranges of its tensors. The same for
.tflite is `learned`.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import TargetError

LIMITS = {"uint8": (0, 255), "int8": (-128, 127)}
MOVING = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")  # between a pair


def strip(content: bytes) -> tuple[bytes, dict[str, tuple[float, float]]]:
    """Take the pairs out.

    Args:
        content: A float file whose activations are rounded by QuantizeLinear and DequantizeLinear,
            one after the other or with operations between them that only move values.

    Returns:
        The file without them, and `{tensor name: (min, max)}`.

    Raises:
        TargetError: A rounding is left that has another form.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(content)
    graph = model.graph
    constants = {t.name: t for t in graph.initializer}
    readers: dict[str, list] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    ends = {o.name for o in graph.output}
    found: dict[str, tuple[float, float]] = {}
    renamed: dict[str, str] = {}
    gone, moved = [], set()
    for node in graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] in constants:
            continue
        moving, after = _until_real(node, readers, ends)
        scale, zero = (numpy_helper.to_array(constants[n]) for n in node.input[1:3])
        if not after or scale.size != 1 or str(zero.dtype) not in LIMITS:
            raise TargetError(f"a rounding behind {node.input[0]} cannot be taken out",
                              "report it, with --debug")
        low, high = LIMITS[str(zero.dtype)]
        span = tuple((limit - int(zero)) * float(scale) for limit in (low, high))
        source = renamed.get(node.input[0], node.input[0])
        renamed[node.output[0]] = source
        moved |= {name for other in moving for name in other.output}
        for name in (source, *(n for other in moving for n in other.output)):
            found[name] = span
        gone += [node, *after]
        renamed |= {r.output[0]: renamed.get(r.input[0], r.input[0]) for r in after}
    kept = [n for n in graph.node if not any(n is g for g in gone)]
    _rename(kept, renamed)
    kept += _named(kept, {end: renamed[end] for end in sorted(ends & set(renamed))}, ends, found)
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in _all(kept) for name in node.input}
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)
    for told in [v for v in graph.value_info if v.name in moved | set(renamed)]:
        graph.value_info.remove(told)  # they said integers
    return model.SerializeToString(deterministic=True), found


def _until_real(node, readers: dict, ends: set[str]) -> tuple[list, list]:
    """What moves the integers of a QuantizeLinear, and what makes them real numbers again.

    Nothing where they have any other use.
    """
    moving, after, open_ = [], [], [node]
    while open_:
        name = open_.pop().output[0]
        if name in ends or not readers.get(name):
            return [], []
        for reader in readers[name]:
            if reader.op_type == "DequantizeLinear":
                after.append(reader)
            elif reader.op_type in MOVING and reader.input[0] == name:
                moving.append(reader)
                open_.append(reader)
            else:
                return [], []
    return moving, after


def _named(nodes: list, sources: dict[str, str], ends: set[str], found: dict) -> list:
    """Let outputs of the graph be what was rounded into them; the nodes that this needs.

    A tensor that only became an output takes that output's name; one that is an input, a constant
    or an output already is passed on by an Identity.
    """
    from onnx import helper

    made = {name: node for node in nodes for name in node.output}
    added = []
    for end, source in sources.items():
        if source in ends or source not in made:
            added.append(helper.make_node("Identity", [source], [end], f"{end}_output"))
            continue
        _rename(nodes, {source: end})
        node = made[source]
        node.output[:] = [end if name == source else name for name in node.output]
        for other in [e for e, s in sources.items() if s == source]:
            sources[other] = end
        ends = ends | {end}
        found[end] = found.pop(source)
    return added


def _rename(nodes: list, names: dict[str, str]) -> None:
    for node in _all(nodes):
        node.input[:] = [names.get(name, name) for name in node.input]


def _all(nodes) -> Iterator:
    """The nodes and those inside them: a loop's body reads what is computed around it."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from _all(attribute.g.node)
