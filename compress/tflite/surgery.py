"""Passes on the object tree of a .tflite file, each exact or with its loss named.

They do what ai-edge-quantizer does not: the boundary's integer types, float16 and int8 storage of
any constant, recurrent kernels, and operations that have integer kernels it does not know.
"""

from __future__ import annotations

import math

from ... import tflite

RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32767, 32767)}

def scope(graph, op) -> str:
    """AEQ's name of an operation: the names of its outputs (or inputs), each with a `;`."""
    tensors = [i for i in op.outputs if i >= 0] or [i for i in op.inputs if i >= 0]
    return "".join(graph.tensors[i].name.decode() + ";" for i in tensors)[:10_000]


class Editor:
    """Small edits of one subgraph of a `ModelT`."""

    def __init__(self, model, subgraph: int = 0):
        from ai_edge_litert import schema_py_generated as schema

        self.schema, self.model, self.graph = schema, model, model.subgraphs[subgraph]
        self.codes = {v: k for k, v in tflite.op_names().items()}
        self.types = {v: k for k, v in tflite.dtype_names().items()}

    def dtype(self, index: int) -> str:
        return tflite.dtype_names()[self.graph.tensors[index].type]

    def name(self, index: int) -> str:
        return self.graph.tensors[index].name.decode()

    def is_constant(self, index: int) -> bool:
        return self.model.buffers[self.graph.tensors[index].buffer].data is not None

    def producer(self, index: int):
        """The operator that writes a tensor, or None."""
        return next((op for op in self.graph.operators if index in op.outputs), None)

    def consumers(self, index: int) -> list:
        return [op for op in self.graph.operators if index in op.inputs]

    def kind(self, op) -> str:
        return tflite.op_name(self.model, op)

    def tensor(self, like: int, name: str, dtype: str, quant=None, data=None) -> int:
        """Add a tensor in the shape of `like`; with `data` (an array) a constant."""
        import numpy as np

        buffer = 0
        if data is not None:
            kept = self.schema.BufferT()
            kept.data = np.ascontiguousarray(data).view(np.uint8).ravel()
            self.model.buffers.append(kept)
            buffer = len(self.model.buffers) - 1
        old, new = self.graph.tensors[like], self.schema.TensorT()
        new.shape, new.shapeSignature = old.shape, old.shapeSignature
        new.type, new.name, new.buffer = self.types[dtype], name.encode(), buffer
        new.quantization, new.hasRank = quant, old.hasRank
        self.graph.tensors.append(new)
        return len(self.graph.tensors) - 1

    def operator(self, kind: str, inputs: list[int], outputs: list[int], before=None) -> None:
        """Add an operator without options, before another one or at the end."""
        op = self.schema.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = self._code(kind), inputs, outputs
        ops = self.graph.operators
        at = len(ops) if before is None else next(i for i, o in enumerate(ops) if o is before)
        ops.insert(at, op)

    def become(self, op, kind: str, inputs: list[int], options: str, values) -> None:
        """Make an operator another one; `options` names the union member that `values` is of."""
        op.opcodeIndex, op.inputs = self._code(kind), inputs
        op.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
        op.builtinOptions = values

    def add_constant(self, name: str, dtype: str, values: list) -> int:
        """Add a constant vector."""
        import numpy as np

        index = self.tensor(0, name, dtype, data=np.array(values, dtype))
        self.graph.tensors[index].shape = np.array([len(values)], np.int32)
        self.graph.tensors[index].shapeSignature = None
        return index

    def _code(self, kind: str) -> int:
        code = self.codes[kind]
        for index, known in enumerate(self.model.operatorCodes):
            if known.builtinCode == code:
                known.version = max(known.version, _VERSIONS.get(kind, 1))
                return index
        new = self.schema.OperatorCodeT()
        new.builtinCode, new.deprecatedBuiltinCode = code, min(code, 127)
        new.version = _VERSIONS.get(kind, 1)
        self.model.operatorCodes.append(new)
        return len(self.model.operatorCodes) - 1

    def quant(self, scale, zero_point, dimension: int = 0):
        """Quantization parameters; scalars, or one per channel along `dimension`."""
        import numpy as np

        params = self.schema.QuantizationParametersT()
        params.scale = np.atleast_1d(np.asarray(scale, np.float32))
        params.zeroPoint = np.atleast_1d(np.asarray(zero_point, np.int64))
        params.quantizedDimension = dimension
        return params

    def remove(self, op) -> None:
        self.graph.operators = [o for o in self.graph.operators if o is not op]

    def rewire(self, ops: list, old: int, new: int) -> None:
        for op in ops:
            op.inputs = [new if i == old else i for i in op.inputs]


_VERSIONS = {"QUANTIZE": 2, "DEQUANTIZE": 3}


def unique_names(model) -> None:
    """Give every tensor a name of its own; those of inputs and outputs are kept.

    Names beyond 600 characters are cut: AEQ cuts the scopes of operations at 10,000.
    """
    seen: set[bytes] = set()
    for graph in model.subgraphs:
        ends = {*graph.inputs, *graph.outputs}
        order = sorted(range(len(graph.tensors)), key=lambda i: i not in ends)
        for index in order:
            tensor, count = graph.tensors[index], 0
            name = tensor.name or b"tensor"
            name = name if len(name) < 600 else name[:500] + b"..."
            while (tensor_name := name if not count else name + b"#%d" % count) in seen:
                count += 1
            seen.add(tensor_name)
            tensor.name = tensor_name


def limits(low: float, high: float, dtype: str) -> tuple[float, int]:
    """Scale and zero point of a range for an integer type; int16 is symmetric."""
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    least, most = RANGES[dtype]
    if dtype == "int16":
        return max(-low, high, 1e-30) / most, 0
    scale = max(high - low, 1e-30) / (most - least)
    return scale, int(min(max(round(least - low / scale), least), most))


def boundary(model, io_dtype: str, ranges: dict, keep: set[str]) -> None:
    """Give the model's float inputs and outputs an integer type.

    Args:
        model: Quantized inside, float32 at its ends. Changed in place.
        io_dtype: int8, uint8 or int16; float32 does nothing.
        ranges: `{tensor name: (min, max)}` for ends that float operations read or write.
        keep: Signature (or tensor) names of ends that stay float32.
    """
    if io_dtype == "float32":
        return
    edit = Editor(model)
    inputs, outputs = end_names(model)
    swap: dict[int, int] = {}
    for index in edit.graph.inputs:
        if edit.dtype(index) == "float32" and inputs.get(index) not in keep:
            swap[index] = _integer_input(edit, index, io_dtype, ranges)
    edit.graph.inputs = [swap.get(i, i) for i in edit.graph.inputs]
    _rename_ends(model, swap, "inputs")
    swap = {}
    for index in dict.fromkeys(edit.graph.outputs):
        fed = index in edit.graph.inputs or edit.producer(index) is None
        if edit.dtype(index) == "float32" and outputs.get(index) not in keep and not fed:
            swap[index] = _integer_output(edit, index, io_dtype, ranges)
    edit.graph.outputs = [swap.get(i, i) for i in edit.graph.outputs]
    _rename_ends(model, swap, "outputs")


def end_names(model) -> tuple[dict[int, str], dict[int, str]]:
    for signature in model.signatureDefs:
        if signature.subgraphIndex == 0:
            return tuple({e.tensorIndex: e.name.decode() for e in entries}
                         for entries in (signature.inputs, signature.outputs))
    graph = model.subgraphs[0]
    return tuple({i: graph.tensors[i].name.decode() for i in ends}
                 for ends in (graph.inputs, graph.outputs))


def _rename_ends(model, swap: dict[int, int], which: str) -> None:
    """Point the signature at the new ends, which take the old ones' tensor names."""
    tensors = model.subgraphs[0].tensors
    for old, new in swap.items():
        tensors[new].name, tensors[old].name = tensors[old].name, tensors[old].name + b"_float"
    for signature in model.signatureDefs:
        if signature.subgraphIndex == 0:
            for entry in getattr(signature, which):
                entry.tensorIndex = swap.get(entry.tensorIndex, entry.tensorIndex)


def _integer_input(edit: Editor, index: int, dtype: str, ranges: dict) -> int:
    readers = edit.consumers(index)
    quantizers = [op for op in readers if edit.kind(op) == "QUANTIZE"]
    same = next((op for op in quantizers if edit.dtype(op.outputs[0]) == dtype), None)
    if same is not None:
        edit.remove(same)
        new = same.outputs[0]
        quantizers = [op for op in quantizers if op is not same]
    else:
        int8 = next((op.outputs[0] for op in quantizers if edit.dtype(op.outputs[0]) == "int8"),
                    None)
        params = _shifted(edit, int8) if dtype == "uint8" and int8 is not None else edit.quant(
            *limits(*ranges.get(edit.name(index), (-1.0, 1.0)), dtype))
        new = edit.tensor(index, edit.name(index) + "_" + dtype, dtype, params)
    edit.rewire(quantizers, index, new)
    if edit.consumers(index):
        edit.operator("DEQUANTIZE", [new], [index], before=edit.graph.operators[0])
    return new


def _integer_output(edit: Editor, index: int, dtype: str, ranges: dict) -> int:
    source = edit.producer(index)
    inner = source.inputs[0] if edit.kind(source) == "DEQUANTIZE" else None
    if inner is not None and edit.is_constant(inner):
        inner = None
    if inner is not None and inner not in edit.graph.inputs:
        if not edit.consumers(index):
            edit.remove(source)
        if edit.dtype(inner) == dtype:
            return inner
    start = index if inner is None or inner in edit.graph.inputs else inner
    if dtype == "uint8" and edit.dtype(start) == "int8":
        params = _shifted(edit, start)
    else:
        name = edit.name(index)
        for suffix in ("_dequant", "_quantized"):
            name = name.removesuffix(suffix)
        params = edit.quant(*limits(*ranges.get(name, (-1.0, 1.0)), dtype))
    new = edit.tensor(index, edit.name(index) + "_" + dtype, dtype, params)
    edit.operator("QUANTIZE", [start], [new])
    return new


def _shifted(edit: Editor, index: int):
    """The parameters of an int8 tensor for the same numbers as uint8."""
    params = edit.graph.tensors[index].quantization
    return edit.quant(params.scale, params.zeroPoint + 128)


def store(model, dtype: str, smallest: int, takes) -> None:
    """Keep float32 constants in fewer bits and widen them with a DEQUANTIZE where they are read.

    float16 rounds each value; int8 uses one symmetric scale per slice of the last axis, and is
    meant for constants that no quantizer took.

    Args:
        model: Changed in place, all subgraphs.
        dtype: float16 or int8.
        smallest: Constants with fewer values stay.
        takes: `takes(operator's name, scope) -> bool`; a constant stays if one of its readers
            is not taken.
    """
    for at in range(len(model.subgraphs)):
        edit = Editor(model, at)
        packed: dict[int, tuple] = {}
        for index in range(len(edit.graph.tensors)):
            tensor = edit.graph.tensors[index]
            if (edit.dtype(index) != "float32" or not edit.is_constant(index)
                    or math.prod(tensor.shape) < smallest or index in edit.graph.outputs):
                continue
            readers = edit.consumers(index)
            if not readers or not all(takes(edit.kind(op), scope(edit.graph, op))
                                      for op in readers):
                continue
            if tensor.buffer not in packed:
                packed[tensor.buffer] = _packed(edit, tflite.constant(model, tensor), dtype)
            data, params = packed[tensor.buffer]
            if data is None:
                continue
            small = edit.tensor(index, edit.name(index) + "_" + dtype, dtype, params, data)
            tensor.buffer = 0
            edit.operator("DEQUANTIZE", [small], [index], before=edit.graph.operators[0])


def _packed(edit: Editor, values, dtype: str):
    import numpy as np

    if not np.isfinite(values).all():
        return None, None
    if dtype == "float16":
        fits = np.abs(values).max(initial=0) <= np.finfo(np.float16).max
        return (values.astype(np.float16), None) if fits else (None, None)
    axes = tuple(range(values.ndim - 1))
    scale = np.maximum(np.abs(values).max(axis=axes), 1e-30) / 127
    data = np.clip(np.round(values / scale), -127, 127).astype(np.int8)
    return data, edit.quant(scale, np.zeros(scale.shape), values.ndim - 1)


def _int8_constant(edit: Editor, index: int) -> int:
    import numpy as np

    values = tflite.constant(edit.model, edit.graph.tensors[index])
    scale = max(float(np.abs(values).max(initial=0)), 1e-30) / 127
    data = np.clip(np.round(values / scale), -127, 127).astype(np.int8)
    return edit.tensor(index, edit.name(index) + "_int8", "int8", edit.quant(scale, 0), data)


def hybrid_lstm(model, scopes: set[str]) -> None:
    """Give UNIDIRECTIONAL_SEQUENCE_LSTM int8 weights, symmetric per tensor, float activations."""
    edit = Editor(model)
    for op in edit.graph.operators:
        if scope(edit.graph, op) in scopes:
            for at in (*range(1, 9), 16):
                if at < len(op.inputs) and op.inputs[at] >= 0:
                    op.inputs[at] = _int8_constant(edit, op.inputs[at])
            code = model.operatorCodes[op.opcodeIndex]
            code.version = max(code.version, 2)


def int8_table(model, scopes: set[str]) -> None:
    """Let GATHER read an int8 table (symmetric per tensor) and dequantize what it found."""
    edit = Editor(model)
    for op in list(edit.graph.operators):
        if scope(edit.graph, op) in scopes:
            table, out = _int8_constant(edit, op.inputs[0]), op.outputs[0]
            op.inputs = [table, *op.inputs[1:]]
            new = edit.tensor(out, edit.name(out) + "_int8", "int8",
                              edit.graph.tensors[table].quantization)
            op.outputs = [new]
            readers = edit.consumers(out)
            edit.operator("DEQUANTIZE", [new], [out], before=readers[0] if readers else None)


def compact(model) -> None:
    """Drop unused tensors, buffers and operator codes, and share equal constant buffers."""
    for graph in model.subgraphs:
        _drop_tensors(model, graph)
    buffers, place, seen = [model.buffers[0]], {0: 0}, {}

    def keep(index: int) -> int:
        if index not in place:
            data = model.buffers[index].data
            key = None if data is None else bytes(data)
            if key is None or key not in seen:
                buffers.append(model.buffers[index])
                seen[key] = len(buffers) - 1
            place[index] = seen[key]
        return place[index]

    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.buffer = keep(tensor.buffer) if model.buffers[tensor.buffer].data is not None \
                else 0
    for entry in model.metadata or []:
        buffers.append(model.buffers[entry.buffer])
        entry.buffer = len(buffers) - 1
    model.buffers, model.metadataBuffer = buffers, None
    used = sorted({op.opcodeIndex for graph in model.subgraphs for op in graph.operators})
    model.operatorCodes = [model.operatorCodes[i] for i in used]
    for graph in model.subgraphs:
        for op in graph.operators:
            op.opcodeIndex = used.index(op.opcodeIndex)


def _drop_tensors(model, graph) -> None:
    index = model.subgraphs.index(graph)
    used = {*graph.inputs, *graph.outputs}
    for op in graph.operators:
        used.update(i for i in op.inputs + op.outputs if i >= 0)
        used.update(int(i) for i in (op.intermediates if op.intermediates is not None else []))
    signatures = [s for s in model.signatureDefs if s.subgraphIndex == index]
    used.update(e.tensorIndex for s in signatures for e in [*s.inputs, *s.outputs])
    order = sorted(used)
    place = {old: new for new, old in enumerate(order)} | {-1: -1}
    graph.tensors = [graph.tensors[i] for i in order]
    graph.inputs = [place[i] for i in graph.inputs]
    graph.outputs = [place[i] for i in graph.outputs]
    for op in graph.operators:
        op.inputs, op.outputs = [place[i] for i in op.inputs], [place[i] for i in op.outputs]
        if op.intermediates is not None:
            op.intermediates = [place[int(i)] for i in op.intermediates]
    for signature in signatures:
        for entry in [*signature.inputs, *signature.outputs]:
            entry.tensorIndex = place[entry.tensorIndex]
