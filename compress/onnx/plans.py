"""What every node of an ONNX file becomes for one target, and the file that comes of it.

A plan is `{node name: precision}`. `int8` nodes stand between QuantizeLinear and DequantizeLinear
(the QDQ form, which ONNX Runtime turns into integer kernels), `weights` keeps the node in float and
stores its constants in eight bits per channel, `int4` in four bits per block, `dynamic` is an LSTM
with such constants that rounds its inputs as they come, `float16` computes in half precision;
`float` leaves the node as it came.
"""

from __future__ import annotations

from . import graph as og
from . import qdq
from . import weights as ow

HEAVY = ("Conv", "Gemm", "MatMul")
# In eight bits only among eight-bit neighbours: between floats they would cost two conversions.
LIGHT = ("Add", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "Concat", "MaxPool", "AveragePool",
         "GlobalAveragePool", "Resize", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze",
         "Pad", "Slice", "Split")
DATA = {"Reshape": 1, "Resize": 1, "Pad": 1, "Slice": 1, "Squeeze": 1, "Unsqueeze": 1, "Split": 1,
        "Clip": 1}  # how many of the inputs hold data; all where not named
HUGE = 1e30
SAID = {"int8": "int8", "dynamic": "int8 weights, inputs rounded as they come",
        "weights": "int8 weights, float activations", "float": "float32", "float16": "float16",
        "int4": "int4 weights"}


def ladders(model, kind: str, bounded: set[str]) -> dict[str, tuple[str, ...]]:
    """Node name -> its precisions for the target's `quantization`, the wanted one first.

    Args:
        model: A `ModelProto` with unique node names.
        kind: `int8`, `float16` or `int4`.
        bounded: Tensors whose ranges are known and finite.
    """
    graph = model.graph
    if kind == "float16":
        return {n.name: ("float16", "float") for n in graph.node}
    found = {}
    weights = og.constants(graph)
    integer = _integer(graph, weights, bounded) if kind == "int8" else set()
    for node in graph.node:
        ladder = ["int8"] if node.name in integer else []
        sized = [weights[node.input[i]] for i in ow.WEIGHTS.get(node.op_type, {})
                 if i < len(node.input) and node.input[i] in weights]
        if node.op_type == "Gather" and not _rows(node, weights):
            sized = []
        if any(ow.is_stored(t) for t in sized) or ow.matrices(node, weights):
            if kind == "int4" and node.op_type in ("Gemm", "MatMul") and _blocks(node, weights):
                ladder.append("int4")
            if node.op_type == "LSTM" and len(sized) == 2:
                ladder.append("dynamic")
            ladder.append("weights")
        if ladder:
            found[node.name] = (*ladder, "float")
    return found


def _rows(node, weights) -> bool:
    """Whether a Gather looks up rows of a matrix."""
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    return axis == 0 and node.input[0] in weights and len(weights[node.input[0]].dims) == 2


def _blocks(node, weights) -> bool:
    """Whether MatMulNBits can stand for a node."""
    weight = weights[node.input[1]]
    if len(weight.dims) != 2:
        return False
    if node.op_type == "MatMul":
        return weight.dims[0] >= ow.BLOCK
    flipped = qdq.channel_axis(node, 1, 2) == 0
    return _plain(node, weights) and weight.dims[1 if flipped else 0] >= ow.BLOCK


def _integer(graph, weights: dict, bounded: set[str]) -> set[str]:
    """Names of the nodes that run in eight bits at no loss of speed.

    Products and convolutions do. What only moves or combines values does where everything it reads
    comes in eight bits and something that reads it wants them.
    """
    inputs = {i.name for i in graph.input}
    made_by, read_by = og.producers(graph), og.consumers(graph)

    def data(node) -> list[str]:
        count = 2 if node.op_type in HEAVY else DATA.get(node.op_type, len(node.input))
        return [n for n in node.input[:count] if n and n not in weights]

    def possible(node) -> bool:
        return (node.domain in ("", "ai.onnx")
                and all(n in bounded for n in [*data(node), *node.output])
                and all(weights[n].data_type == og.FLOAT for n in node.input[
                    :DATA.get(node.op_type, len(node.input))] if n in weights))

    heavy = {n.name for n in graph.node if n.op_type in HEAVY and data(n) and possible(n)
             and _plain(n, weights)}
    chosen = heavy | {n.name for n in graph.node if n.op_type in LIGHT and possible(n) and data(n)}
    changed = True
    while changed:
        changed = False
        for node in graph.node:
            if node.name not in chosen or node.name in heavy:
                continue
            given = all(n in inputs or (n in made_by and made_by[n].name in chosen)
                        for n in data(node))
            wanted = any(r.name in chosen for n in node.output for r in read_by.get(n, ()))
            relu = node.op_type in ("Relu", "Clip") and any(
                n in made_by and made_by[n].name in heavy for n in data(node))
            if not given or not (wanted or relu):
                chosen.discard(node.name)
                changed = True
    return chosen


def _plain(node, weights: dict) -> bool:
    """Whether the runtime has an integer kernel for a product or convolution."""
    told = {a.name: a for a in node.attribute}
    weight = weights.get(node.input[1])
    if node.op_type == "MatMul":
        return node.input[0] not in weights and (weight is None or len(weight.dims) == 2)
    if weight is None:
        return False
    axis = qdq.channel_axis(node, ow.WEIGHTS[node.op_type][1], len(weight.dims))
    bias = node.input[2] if len(node.input) > 2 else ""
    if bias and (bias not in weights or list(weights[bias].dims) != [weight.dims[axis]]):
        return False
    return node.op_type == "Conv" or (
        all(told[k].f == 1.0 for k in ("alpha", "beta") if k in told)
        and not ("transA" in told and told["transA"].i))


def build(model, plan: dict[str, str], ranges: dict[str, tuple[float, float]]) -> bytes:
    """The file of a plan.

    Args:
        model: The float `ModelProto`; it is not changed.
        plan: Node name -> precision; nodes that are not named stay as they are.
        ranges: Tensor name -> smallest and largest value, for `int8` nodes.
    """
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    by = {p: {n for n, q in plan.items() if q == p} for p in set(plan.values())}
    if by.get("float16"):
        made = _float16(made, set(plan) - by["float16"])
    if by.get("int4"):
        ow.four_bits(made, by["int4"])
    if by.get("dynamic"):
        ow.dynamic(made, by["dynamic"])
    if by.get("weights"):
        ow.eight_bits(made, by["weights"])
    if by.get("int8"):
        axes = {k: v for k, v in ow.WEIGHTS.items() if k in HEAVY}
        qdq.Writer(made, by["int8"], ranges, axes, DATA).write()
    og.clean(made.graph)
    og.sort(made.graph)
    made.producer_name, made.producer_version = "tfcompress", ""
    return og.dump(made)


def _float16(model, kept: set[str]):
    """Half precision, with float32 inputs and outputs and the nodes `kept` in float32."""
    from onnxruntime.transformers import float16

    made = float16.convert_float_to_float16(
        model, keep_io_types=True, node_block_list=sorted(kept))
    return made
