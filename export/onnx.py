"""Any Keras model to a float32 ONNX file, checked against the model by ONNX Runtime itself.

TensorFlow's graph goes through tf2onnx. As in `export.tflite` there is an ordered table of routes;
the first whose file agrees with the model wins. The file keeps the model's names of inputs and
outputs, in its order, and its free dimensions.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..artifact import TensorSpec
from ..errors import MissingExtra, TargetError
from . import onnx_rnn, onnx_rules, savedmodel, tflite

OPSETS = range(13, 19)  # what tf2onnx writes and today's runtimes read
OPSET = 17
FREE_SIZE = {4: 32}  # size that a free dimension has while the file is checked, by rank
OTHER_SIZE = 12
IR_VERSION = 8


@dataclass(frozen=True)
class Route:
    """One way through the converter.

    Attributes:
        lowering: Options of `compress.lower.lowering`; None where only `onnx_rules` rewrites.
        fixed: The batch is 1.
    """

    lowering: dict | None
    fixed: bool


ROUTES = {
    "native": Route(None, False),
    "lowered": Route({"rnn": "loop"}, False),
    "unrolled": Route({"rnn": "unrolled"}, False),
    "fixed": Route(None, True),
    "fixed-lowered": Route({"rnn": "loop"}, True),
    "fixed-unrolled": Route({"rnn": "unrolled"}, True),
}


def to_onnx(model, path: str | Path, *, inputs: Sequence[TensorSpec],
            outputs: Sequence[TensorSpec], progress: Callable[[float | None, str], None],
            opset: int | None = None, batch: int | None = None, lower=None,
            skip: Collection[str] = (), check: tuple[list, list] | None = None) -> dict:
    """Convert `model` to a float32 `.onnx` file.

    Args:
        model: A Keras 3 or tf_keras model, or a signature of a loaded SavedModel.
        path: The file to write; it appears whole or not at all.
        inputs: Names, shapes (None where free) and dtypes, in the model's order.
        outputs: Names of the outputs in the model's order.
        progress: Called with `None` and `route:<name>` before each route is tried.
        opset: ONNX operator set, one of `OPSETS`; `OPSET` where None.
        batch: Fixes the first dimension of every input; free where the model's is, if None.
        lower: The module `compress.lower` (export and compress do not import each other).
            Without it only the routes that do not need it exist.
        skip: Routes not to try.
        check: Arrays of N rows per input, and the model's own float32 results for them; seeded
            random inputs and the model itself otherwise.

    Returns:
        `{"route", "snr_db", "rewrites": [{"what", "why", "layers"}], "tried": {route: why not},
        "opset", "batch"}`; `snr_db` is the worst output's, "inf" when equal; `batch` is None where
        it is free.

    Raises:
        TargetError: No route gives a file that ONNX Runtime can run, or the opset is not known.
        MissingExtra: tf2onnx, onnx or onnxslim is not installed. Without ONNX Runtime the first
            file that a route gives is taken unchecked, and `snr_db` is None.
    """
    require()
    opset = OPSET if opset is None else opset
    if opset not in OPSETS:
        raise TargetError(f"opset {opset} cannot be written",
                          f"give {OPSETS.start} to {OPSETS.stop - 1}")
    inputs = [_batched(s, batch) for s in tflite._narrow(inputs)]
    checked = importlib.util.find_spec("onnxruntime") is not None
    if checked:
        check = check or tflite._reference(model, [_sized(s) for s in inputs], outputs, lower)
    tried: dict[str, str] = {}
    best = None
    for name, route in ROUTES.items():
        if name in skip or (route.lowering is not None and not lower):
            continue
        if route.fixed and all(s.shape and s.shape[0] is not None for s in inputs):
            continue  # the route before is the same
        specs = [_batched(s, 1) for s in inputs] if route.fixed else inputs
        progress(None, f"route:{name}")
        try:
            rewrites, content = _convert(model, specs, outputs, lower, route.lowering, opset)
            snr = agreement(content, specs, outputs, *check) if checked else math.inf
        except Exception as error:  # converter and runtime raise whatever they like
            tried[name] = tflite._first_line(error)
            continue
        if best is None or snr > best[0]:
            best = (snr, name, rewrites, content, specs)
        if snr >= tflite.FAITHFUL_DB:
            break
        tried[name] = f"differs from the model: {snr:.1f} dB"
    if best is None:
        raise TargetError(f"the model cannot be converted to ONNX ({tflite._why_not(tried)})",
                          "replace the operations named, or use another target")
    snr, name, rewrites, content, specs = best
    tflite._write(path, content)
    tried.pop(name, None)
    sizes = {s.shape[0] for s in specs if s.shape}
    worst = None if not checked else "inf" if snr == math.inf else float(snr)
    return {"route": name, "snr_db": worst, "rewrites": rewrites, "tried": tried, "opset": opset,
            "batch": next(iter(sizes)) if len(sizes) == 1 else None}


def require() -> None:
    """Raises MissingExtra naming the first package that conversion needs and that is not there."""
    for package in ("onnx", "tf2onnx", "onnxslim"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, "onnx")


def _batched(spec: TensorSpec, batch: int | None) -> TensorSpec:
    if batch is None or not spec.shape:
        return spec
    return TensorSpec(spec.name, (batch, *spec.shape[1:]), spec.dtype)


def _sized(spec: TensorSpec) -> TensorSpec:
    """With every free dimension given a size, for the run that checks the file."""
    size = FREE_SIZE.get(len(spec.shape), OTHER_SIZE)
    return TensorSpec(spec.name, (1, *[size if n is None else n for n in spec.shape[1:]]),
                      spec.dtype)


def _convert(model, inputs, outputs, lower, options, opset) -> tuple[list[dict], bytes]:
    with contextlib.ExitStack() as stack:
        rewrites = stack.enter_context(tflite._lowered(lower, model, options))
        if lower:
            stack.enter_context(lower.operators._keep(*onnx_rules.KNOWN))
        if options is None and lower:
            stack.enter_context(lower.float32(model))
        if options is not None and hasattr(model, "structured_input_signature"):
            model = lower.Retraced(model)
        own = stack.enter_context(onnx_rules.rewriting())
        layers = stack.enter_context(onnx_rnn.recurrent()) if options is None else []
        function = savedmodel.trace(model, inputs, outputs)
    content = _from_function(function, inputs, outputs, opset)
    return [*rewrites, *own, *layers], content


def _from_function(function, inputs, outputs, opset) -> bytes:
    """A concrete function of `savedmodel.trace` as a simplified and checked ONNX model."""
    import tensorflow as tf
    import tf2onnx

    names = {n: s.name for n, s in zip(savedmodel.argument_names(inputs), inputs, strict=True)}
    tensors = function.structured_input_signature[1]
    given = function.inputs[:len(tensors)]  # what it captured comes behind
    renamed = {t.name: names[n] for n, t in zip(sorted(tensors), given, strict=True)}
    order = {s.name: i for i, s in enumerate(inputs)}
    taken = set(order)
    for name, tensor in function.structured_outputs.items():
        renamed[tensor.name] = name if name not in taken else f"{name}_out"
    results = [function.structured_outputs[s.name].name for s in outputs]
    feeds = sorted((t.name for t in given), key=lambda n: order[renamed[n]])
    tf2onnx.utils.INTERNAL_NAME = 1  # numbers in names would depend on what was converted before
    with _quiet(), tf.device("/cpu:0"):
        graph, tables = _frozen(function, feeds, results)
        model, _ = tf2onnx.convert._convert_common(
            graph, name="model", opset=opset, input_names=feeds, output_names=results,
            tensors_to_rename=renamed, continue_on_error=False, initialized_tables=tables,
            custom_op_handlers=onnx_rnn.handlers())
    _set_groups(model)
    _hoist(model.graph)
    return finish(model, [renamed[n] for n in feeds], [renamed[n] for n in results], inputs)


def _frozen(function, feeds: list[str], results: list[str]) -> tuple:
    """The function's graph with everything that it captured as constants, simplified; its tables.

    The tables are as tf2onnx takes them: keys and values by name.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
    from tf2onnx import tf_loader

    captured = {inner.op.name: outer for outer, inner in function.graph.captures
                if outer.dtype not in (tf.resource, tf.variant)}
    try:
        graph = convert_variables_to_constants_v2(
            function, lower_control_flow=False,
            aggressive_inlining=True).graph.as_graph_def(add_shapes=True)
    except ValueError:  # a layer that writes its state
        graph = tf_loader.fix_freezing_errors(
            tf_loader.convert_variables_to_constants_large_model(function))
    graph = tf_loader.fix_freezing_errors_part2(graph)
    for node in graph.node:
        if node.op == "Placeholder" and node.name in captured:
            value = captured[node.name]
            node.op = "Const"
            node.ClearField("attr")
            node.attr["dtype"].type = value.dtype.as_datatype_enum
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value.numpy(), value.dtype))
    tables = _tables(function, graph)
    with tf.Graph().as_default():
        tf.import_graph_def(graph, name="")
        return tf_loader.tf_optimize(feeds, results, graph), tables


def _tables(function, graph) -> dict[bytes, tuple]:
    """The contents of the lookup tables that a frozen graph reads, each under its node's name."""
    import tensorflow as tf

    captured = {inner.op.name: outer for outer, inner in function.graph.captures
                if outer.dtype == tf.resource}
    nodes, tables = {node.name: node for node in graph.node}, {}
    for node in graph.node:
        name = node.input[0].partition(":")[0] if node.op == "LookupTableFindV2" else ""
        if name in captured and name.encode() not in tables:
            kinds = [tf.as_dtype(node.attr[key].type) for key in ("Tin", "Tout")]
            found = tf.raw_ops.LookupTableExportV2(
                table_handle=captured[name], Tkeys=kinds[0], Tvalues=kinds[1])
            tables[name.encode()] = tuple(part.numpy() for part in found)
            table = nodes[name]
            table.op = "HashTableV2"
            table.ClearField("attr")
            table.attr["shared_name"].s = name.encode()
            for key, kind in zip(("key_dtype", "value_dtype"), kinds, strict=True):
                table.attr[key].type = kind.as_datatype_enum
    return tables


def _hoist(graph) -> None:
    """Let loops read what never changes in them from outside, instead of carrying it around.

    The runtime would copy it at every step, and weights would be no constants in the body.
    """
    for loop in [n for n in graph.node if n.op_type == "Loop"]:
        body = next(a.g for a in loop.attribute if a.name == "body")
        same = {n.output[0]: n.input[0] for n in body.node if n.op_type == "Identity"}
        made = {name for n in body.node for name in n.output}
        nested = [a.g for n in body.node for a in n.attribute if a.HasField("g")]
        inner = {name for g in nested for n in _every_node(g) for name in n.input}
        inner |= {o.name for g in nested for o in g.output}
        for i in reversed(range(2, len(loop.input))):
            name, outer, last = body.input[i].name, loop.input[i], body.output[i - 1].name
            while last in same and last != name:
                last = same[last]
            if last != name or outer in made or name in inner:
                continue
            for node in body.node:
                for k, each in enumerate(node.input):
                    if each == name:
                        node.input[k] = outer
            result = loop.output[i - 2]
            for node in graph.node:
                for k, each in enumerate(node.input):
                    if each == result and result:
                        node.input[k] = outer
            if any(o.name == result for o in graph.output) or any(
                    o.name == name for o in body.output[i:]):
                continue
            del body.input[i], body.output[i - 1], loop.input[i], loop.output[i - 2]


def _set_groups(model) -> None:
    """Write the groups of convolutions, which TensorFlow tells from the shapes of its tensors."""
    import onnx

    weights = {t.name: t for t in model.graph.initializer}
    wide = [n for n in model.graph.node if n.op_type == "Conv" and n.input[1] in weights
            and all(a.name != "group" or a.i == 1 for a in n.attribute)]
    if not wide:
        return
    shapes = {v.name: v.type.tensor_type.shape.dim
              for v in onnx.shape_inference.infer_shapes(model).graph.value_info}
    shapes |= {v.name: v.type.tensor_type.shape.dim for v in model.graph.input}
    for node in wide:
        shape, taken = shapes.get(node.input[0]), weights[node.input[1]].dims[1]
        channels = shape[1].dim_value if shape is not None and len(shape) > 1 else 0
        if channels > taken and channels % taken == 0:
            kept = [a for a in node.attribute if a.name != "group"]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute("group", channels // taken)])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep tf2onnx from logging what the caller gets as an error anyway."""
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def finish(model, inputs: Sequence[str], outputs: Sequence[str],
           specs: Sequence[TensorSpec]) -> bytes:
    """Simplify, put inputs and outputs into the model's order, check, and serialize.

    Args:
        model: An `onnx.ModelProto`.
        inputs: Names of all inputs in the order wanted; one that no operator reads is kept.
        outputs: Names of the outputs in the order wanted.
        specs: Shapes and dtypes of the inputs.
    """
    import onnx
    import onnxslim

    try:
        slim = onnxslim.slim(model)
        model = slim if slim is not None else model
    except Exception:  # it simplifies, and what it cannot read may stay as it is
        pass
    graph = model.graph
    used = {node.domain for node in _every_node(graph)} | {""}
    kept = [o for o in model.opset_import if o.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    del graph.value_info[:]  # inferred by whoever needs it; some of it is wrong
    for node in graph.node:
        node.doc_string = ""
        if node.op_type == "ConvTranspose":
            _pad_output(node)
    _guard_padding(graph)
    have = {v.name: v for v in graph.input}
    for name, spec in zip(inputs, specs, strict=True):
        if name not in have:
            dims = [None if n is None else int(n) for n in spec.shape]
            kind = onnx.helper.np_dtype_to_tensor_dtype(_dtype(spec.dtype))
            have[name] = onnx.helper.make_tensor_value_info(name, kind, dims)
    wanted = [have[n] for n in inputs]
    found = {v.name: v for v in graph.output}
    results = [found[n] for n in outputs]
    del graph.input[:], graph.output[:]
    graph.input.extend(wanted)
    graph.output.extend(results)
    graph.name, graph.doc_string = "model", ""
    model.producer_name, model.producer_version, model.doc_string = "tfcompress", "", ""
    model.ir_version = min(model.ir_version, IR_VERSION)
    for value in [*graph.input, *graph.output]:
        for i, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_param"):
                dim.dim_param = "batch" if i == 0 else f"{value.name}_{i}"
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def _guard_padding(graph) -> None:
    """Keep ONNX Runtime from taking a Pad into the MaxPool behind it, which pads with -infinity.

    Where all values are below zero, the zeros of the Pad are the largest. A Max of one operand
    between the two does nothing else.
    """
    import onnx

    made = {name: node for node in graph.node for name in node.output}
    nodes = []
    for node in graph.node:
        pad = made.get(node.input[0]) if node.op_type == "MaxPool" else None
        if pad is not None and pad.op_type == "Pad":
            before = made.get(pad.input[0])
            if before is None or before.op_type != "Relu":
                name = f"{pad.output[0]}_kept"
                nodes.append(onnx.helper.make_node("Max", [pad.output[0]], [name], name=name))
                node.input[0] = name
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _every_node(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _every_node(body)


def _pad_output(node) -> None:
    """Negative padding at the ends, which TensorFlow's output shape amounts to, as ONNX says it."""
    import onnx

    told = {a.name: a for a in node.attribute}
    if "pads" not in told or min(told["pads"].ints) >= 0 or "output_padding" in told:
        return
    pads = list(told["pads"].ints)
    half = len(pads) // 2
    if min(pads[:half]) < 0:
        return
    extra = [max(0, -p) for p in pads[half:]]
    del told["pads"].ints[:]
    told["pads"].ints.extend([*pads[:half], *(max(0, p) for p in pads[half:])])
    node.attribute.append(onnx.helper.make_attribute("output_padding", extra))


def _dtype(name: str):
    import numpy as np

    return np.dtype(object if name == "string" else name)


def agreement(content: bytes, inputs, outputs, arrays, wanted) -> float:
    """The smallest SNR in dB over the outputs of the file, run on every row of `arrays`.

    Row by row, and where the batch is free also on all of them at once: a file that is right only
    for one row at a time is wrong.
    """
    import numpy as np

    run = runner(content, [s.name for s in inputs])
    size = next((s.shape[0] for s in inputs if s.shape and s.shape[0]), 1)
    rows = [[out[:1] if size > 1 else out
             for out in run([np.repeat(a[i:i + 1], size, 0) for a in arrays])]
            for i in range(len(arrays[0]))]
    got = [np.concatenate(column) for column in zip(*rows, strict=True)]
    worst = min(tflite.snr_db(w, g) for w, g in zip(wanted, got, strict=True))
    if all(s.shape and s.shape[0] is None for s in inputs):
        got = run(arrays)
        worst = min(worst, *(tflite.snr_db(w, g) for w, g in zip(wanted, got, strict=True)))
    return worst


def runner(content: bytes, names: Sequence[str]) -> Callable[[list], list]:
    """A function from arrays (in the order of `names`) to output arrays, in ONNX Runtime."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    kinds = {i.name: i.type for i in session.get_inputs()}

    def run(arrays: list) -> list:
        feed = {n: _as(np.asarray(a), kinds[n]) for n, a in zip(names, arrays, strict=True)}
        return session.run(None, feed)
    return run


def _as(array, kind: str):
    """An array in the dtype that ONNX Runtime calls `tensor(float)` and the like."""
    names = {"float": "float32", "double": "float64", "string": "object"}
    plain = kind.removeprefix("tensor(").removesuffix(")")
    return array.astype(names.get(plain, plain))
