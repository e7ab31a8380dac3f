"""Reading, running and editing ONNX graphs: what every pass over an .onnx file needs."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

from ...errors import ModelError, needed

SIZES = {4: 32}  # what a free dimension is given in random data, by rank
SIZE = 12
FLOAT = 1  # TensorProto.FLOAT


def load(path: str | Path):
    """An .onnx file as `ModelProto` whose nodes all have names of their own.

    Raises:
        ModelError: It cannot be read.
        MissingExtra: onnx is not installed.
    """
    onnx = needed("onnx", "onnx")
    try:
        model = onnx.load(os.fspath(path))
    except Exception as error:  # protobuf's and onnx's own
        raise ModelError(f"{path} is not an ONNX file: {type(error).__name__}",
                         "convert the model again") from None
    seen: set[str] = set()
    for i, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.name or node.op_type}_{i}"
        seen.add(node.name)
    return model


def dump(model) -> bytes:
    """The file's bytes: the same model gives the same bytes."""
    return model.SerializeToString(deterministic=True)


def constants(graph) -> dict:
    """Initializers by name."""
    return {t.name: t for t in graph.initializer}


def producers(graph) -> dict:
    """Tensor name -> the node that writes it."""
    return {name: node for node in graph.node for name in node.output if name}


def consumers(graph) -> dict[str, list]:
    """Tensor name -> nodes that read it, those with bodies (loops, branches) too."""
    found: dict[str, list] = {}
    for node in graph.node:
        for name in {*node.input, *captured(node)}:
            if name:
                found.setdefault(name, []).append(node)
    return found


def bodies(node) -> list:
    """The graphs inside a node."""
    return [a.g for a in node.attribute if a.HasField("g")] + [
        g for a in node.attribute for g in a.graphs]


def captured(node) -> set[str]:
    """Every name that bodies of a node read, their own tensors among them."""
    found: set[str] = set()
    for body in bodies(node):
        found |= {o.name for o in body.output}
        for inner in body.node:
            found |= {*inner.input} | captured(inner)
    return found


def types(model) -> dict[str, int]:
    """Tensor name -> element type, of the main graph, as far as shape inference finds them."""
    import onnx

    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # it stops at operators of other domains
        graph = model.graph
    found = {v.name: v.type.tensor_type.elem_type
             for v in [*graph.value_info, *graph.input, *graph.output]}
    return found | {t.name: t.data_type for t in graph.initializer}


def sort(graph) -> None:
    """Put nodes behind those whose tensors they read, otherwise in their order."""
    made_by = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    nodes, order, state = list(graph.node), [], {}
    for start in range(len(nodes)):
        stack = [start]
        while stack:
            i = stack[-1]
            if state.get(i) == 2:
                stack.pop()
                continue
            needs = sorted({made_by[n] for n in {*nodes[i].input, *captured(nodes[i])}
                            if n in made_by and state.get(made_by[n]) != 2} - {i})
            if needs and state.get(i) is None:
                state[i] = 1
                stack += reversed(needs)
            else:
                state[i] = 2
                order.append(nodes[i])
                stack.pop()
    del graph.node[:]
    graph.node.extend(order)


def clean(graph) -> None:
    """Drop nodes and initializers that nothing reads."""
    wanted = {o.name for o in graph.output}
    while True:
        read = wanted | {n for node in graph.node for n in {*node.input, *captured(node)}}
        idle = [n for n in graph.node if not any(o in read for o in n.output)]
        for node in idle:
            graph.node.remove(node)
        if not idle:
            break
    kept = [t for t in graph.initializer if t.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def replace_input(nodes, old: str, new: str) -> None:
    """Let `nodes` read the tensor `new` where they read `old`."""
    for node in nodes:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new


def layers(graph) -> dict[str, str]:
    """Node name -> the Keras layer it most likely belongs to ("" where the name says nothing).

    Names keep the scopes of the traced model. Keras puts a number behind every scope when it traces
    a model a second time; that holds for all scopes of a file or for none.
    """
    return scopes([n.name for n in graph.node])


def scopes(names: list[str]) -> dict[str, str]:
    """Name of a node or tensor -> the Keras layer in its scopes, "" where it has none."""
    found = {n: [p for p in n.split(":")[0].split("/") if p] for n in names}
    scoped = [part for parts in found.values() if len(parts) > 2 for part in parts[:2]]
    numbered = bool(scoped) and all(re.search(r"_\d+$", part) for part in scoped)
    names = {n: parts[1] if len(parts) > 2 else "" for n, parts in found.items()}
    return {n: re.sub(r"_\d+$", "", part) if numbered else part for n, part in names.items()}


def probe(model, names: list[str]) -> Runner:
    """A runner that returns these tensors of the main graph; nothing is fused."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    have = {o.name for o in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in have)
    return Runner(dump(copy), optimize=False, outputs=names)


class Runner:
    """A session that takes and gives real numbers by name.

    Args:
        model: The file's bytes.
        optimize: Whether the runtime may fuse operators; without it, all tensors exist.
        outputs: Names of the tensors to return; the graph's outputs where None.
    """

    def __init__(self, model: bytes, optimize: bool = True, outputs: list[str] | None = None):
        onnxruntime = needed("onnxruntime", "onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = min(os.cpu_count() or 1, 4)
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.session = onnxruntime.InferenceSession(model, options,
                                                    providers=["CPUExecutionProvider"])
        self.outputs = outputs or [o.name for o in self.session.get_outputs()]
        self.floats = {o.name for o in self.session.get_outputs() if "float" in o.type}
        self.kinds = {i.name: dtype(i.type) for i in self.session.get_inputs()}
        self.inputs = {i.name: {"shape": _sized(i.shape), "dtype": dtype(i.type)}
                       for i in self.session.get_inputs()}

    def run(self, row: dict) -> dict:
        """`{output name: array}` of one row."""
        import numpy as np

        feed = {n: np.ascontiguousarray(row[n]).astype(kind) for n, kind in self.kinds.items()}
        return dict(zip(self.outputs, self.session.run(self.outputs, feed), strict=True))


def dtype(kind: str) -> str:
    """NumPy's name for what ONNX Runtime calls `tensor(float)`."""
    plain = kind.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64", "string": "object"}.get(plain, plain)


def _sized(shape) -> list[int]:
    free = SIZES.get(len(shape), SIZE)
    return [1 if i == 0 and not isinstance(n, int) else n if isinstance(n, int) else free
            for i, n in enumerate(shape)]


def extremes(model, samples, progress=None) -> dict:
    """Smallest and largest value of every float tensor of the main graph, per sample.

    Args:
        model: A `ModelProto`; it is not changed.
        samples: `calibrate.Samples`.
        progress: Called with the share done.

    Returns:
        `{tensor name: array (samples, 2) of float64}`.
    """
    import numpy as np

    known = types(model)
    names = [n for node in model.graph.node for n in node.output
             if n and known.get(n, FLOAT) == FLOAT and node.op_type not in ("Constant", "Shape")]
    runner = probe(model, names)
    floats = [n for n in runner.inputs if runner.kinds[n].startswith("float")]
    found: dict[str, list] = {n: [] for n in [*floats, *names]}
    for k in range(samples.count):
        row = samples.row(k)
        values = {n: np.asarray(row[n]) for n in floats} | runner.run(row)
        for name, value in values.items():
            if value is not None and value.dtype.kind == "f" and value.size:
                found[name].append((float(value.min()), float(value.max())))
        if progress and k % 8 == 0:
            progress(k / samples.count, "calibrating")
    return {n: np.array(pairs) for n, pairs in found.items() if len(pairs) == samples.count}


def macs(model) -> int:
    """Multiplications of one row, from the weights of matrix products and convolutions."""
    return sum(macs_by_node(model).values())


def macs_by_node(model) -> dict[str, int]:
    """The same by the name of the node; without those that have none."""
    import onnx

    weights = constants(model.graph)
    made_by = producers(model.graph)
    try:
        inferred = onnx.shape_inference.infer_shapes(model).graph
    except Exception:
        return {}
    shapes = {v.name: [d.dim_value or 1 for d in v.type.tensor_type.shape.dim]
              for v in [*inferred.value_info, *inferred.output]}
    found: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in ("LSTM", "GRU", "RNN"):
            steps = (shapes.get(node.output[0]) or shapes.get(node.input[0]) or [1])[0]
            known = [weights[n] for n in node.input[1:3] if n in weights]
            found[node.name] = steps * sum(math.prod(t.dims) for t in known)
        if node.op_type in ("Conv", "MatMul", "Gemm") and len(node.input) > 1:
            source = made_by.get(node.input[1])
            stored = source.input[0] if source and source.op_type == "DequantizeLinear" else ""
            weight = weights.get(stored or node.input[1])
            if weight is not None and node.output[0] in shapes:
                out, size = shapes[node.output[0]], math.prod(weight.dims)
                places = math.prod(out[2:]) if node.op_type == "Conv" else math.prod(out[1:-1])
                found[node.name] = size * places
    return found


def describe(path: str | Path) -> dict:
    """What is in an .onnx file, in the words of `tflite.describe`.

    Returns:
        `inputs` and `outputs` (`{"name", "shape", "dtype", "scale", "zero_point"}`, None where a
        dimension is free), `parameters`, `macs` (of one row, None where shapes are unknown),
        `weights` (`{"dtypes": {dtype: share of the values}, "zeros": share}`), `histogram`
        (operators), `opset`.
    """
    from collections import Counter

    import numpy as np
    from onnx import helper, numpy_helper

    model = load(path)
    graph = model.graph
    scales = {i for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")
              for i in n.input[1:]}
    kinds: Counter = Counter()
    count = zeros = 0
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        packed = tensor.name.endswith("_int4")
        if tensor.name in scales or values.ndim == 0 or not (
                values.dtype.kind == "f" or values.dtype.itemsize == 1):
            continue
        size = 2 * values.size if packed else values.size
        kinds["int4" if packed else values.dtype.name] += size
        count += size
        zeros += 0 if packed else int(np.count_nonzero(values == 0))

    def end(value) -> dict:
        kind = value.type.tensor_type
        shape = [d.dim_value or None for d in kind.shape.dim]
        name = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
        return {"name": value.name, "shape": shape, "dtype": name, "scale": 0.0, "zero_point": 0}

    return {
        "inputs": [end(v) for v in graph.input],
        "outputs": [end(v) for v in graph.output],
        "parameters": count,
        "macs": macs(model) or None,
        "weights": {"dtypes": {k: n / count for k, n in kinds.most_common()},
                    "zeros": zeros / count if count else 0.0},
        "histogram": dict(Counter(n.op_type for n in graph.node)),
        "opset": next((o.version for o in model.opset_import if not o.domain), None),
    }
