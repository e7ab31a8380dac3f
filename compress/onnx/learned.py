"""Learned ranges out of a float .onnx that was converted with its fake quantization inside.

The converter writes each rounding as a QuantizeLinear and a DequantizeLinear. Without these pairs
the file is the plain float model, and what they held are the ranges of its tensors. The same for
.tflite is `learned`.
"""

from __future__ import annotations

LIMITS = {"uint8": (0, 255), "int8": (-128, 127)}


def strip(content: bytes) -> tuple[bytes, dict[str, tuple[float, float]]]:
    """Take the pairs out.

    Args:
        content: A float file whose activations are rounded by QuantizeLinear and DequantizeLinear.

    Returns:
        The file without them, and `{tensor name: (min, max)}`.
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
    gone = []
    for node in graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] in constants:
            continue
        after = readers.get(node.output[0], [])
        if node.output[0] in ends or not after or any(
                r.op_type != "DequantizeLinear" or r.output[0] in ends for r in after):
            continue
        scale, zero = (numpy_helper.to_array(constants[n]) for n in node.input[1:3])
        if scale.size != 1 or str(zero.dtype) not in LIMITS:
            continue
        source = renamed.get(node.input[0], node.input[0])
        low, high = LIMITS[str(zero.dtype)]
        found[source] = tuple((limit - int(zero)) * float(scale) for limit in (low, high))
        gone += [node, *after]
        renamed |= {r.output[0]: source for r in after}
    kept = [n for n in graph.node if not any(n is g for g in gone)]
    for node in kept:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in kept for name in node.input}
    spare = [t for t in graph.initializer if t.name not in used]
    for tensor in spare:
        graph.initializer.remove(tensor)
    return model.SerializeToString(deterministic=True), found
