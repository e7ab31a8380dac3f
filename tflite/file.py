"""A .tflite file as a tree of objects, and back.

The format is a flatbuffer with the identifier TFL3 (schema: tensorflow/lite/schema/schema.fbs).
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

from ..errors import ModelError

IDENTIFIER = b"TFL3"
ALIGNMENT = 16  # bytes; what kernels may assume of the data of a buffer


@functools.cache
def op_names() -> dict[int, str]:
    """Builtin operator code -> name, as in the schema (`CONV_2D`, ...)."""
    from ai_edge_litert import schema_py_generated as schema

    return {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}


@functools.cache
def dtype_names() -> dict[int, str]:
    """Tensor type code -> name (`float32`, `int8`, `int4`, ...)."""
    from ai_edge_litert import schema_py_generated as schema

    return {v: k.lower() for k, v in vars(schema.TensorType).items() if isinstance(v, int)}


def load(file: str | Path | bytes):
    """Parse a .tflite file, or its bytes, into a `ModelT`.

    The data of buffers are views of the file's bytes (uint8 arrays), not copies.

    Raises:
        ModelError: The file cannot be read, is not TFLite, or is damaged.
    """
    if isinstance(file, (str, Path)):
        name = Path(file).name
        try:
            data = Path(file).read_bytes()
        except OSError as error:
            raise ModelError(f"cannot read {file}: {error.strerror}", "check the path") from None
    else:
        name, data = "the model", bytes(file)
    if len(data) < 8 or data[4:8] != IDENTIFIER:
        raise ModelError(f"{name} is not a TFLite file", "give a .tflite file")
    try:
        model = _parse(data)
        _check(model)
    except Exception as error:  # the parser of a damaged file can fail in any way
        raise ModelError(
            f"{name} is damaged: {type(error).__name__}", "copy or convert it again"
        ) from None
    return model


def _parse(data: bytes):
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(data, 0)
    for buffer in model.buffers:
        if buffer.offset > 1:  # data kept behind the flatbuffer
            if buffer.offset + buffer.size > len(data):
                raise ValueError("a buffer ends behind the end of the file")
            buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
        buffer.offset = buffer.size = 0
        if buffer.data is not None and not len(buffer.data):
            buffer.data = None
    return model


def _check(model) -> None:
    """Raise where an index points outside, so that readers need not care."""
    if not model.subgraphs or not model.buffers:
        raise ValueError("no subgraphs or no buffers")
    for graph in model.subgraphs:
        graph.operators = graph.operators or []
        graph.tensors = graph.tensors or []
        count = len(graph.tensors)
        for tensor in graph.tensors:
            if tensor.name is None:
                tensor.name = b""
            tensor.name.decode("utf-8")
            if tensor.shape is None:
                tensor.shape = []
            if not 0 <= tensor.buffer < len(model.buffers) or tensor.type not in dtype_names():
                raise ValueError("a tensor has no buffer or type")
        for op in graph.operators:
            op.inputs = [int(i) for i in (op.inputs if op.inputs is not None else [])]
            op.outputs = [int(i) for i in (op.outputs if op.outputs is not None else [])]
            if not 0 <= op.opcodeIndex < len(model.operatorCodes or []):
                raise ValueError("an operator without a code")
            if any(not -1 <= i < count for i in op.inputs + op.outputs):
                raise ValueError("an operator reads a tensor that is not there")
        graph.inputs = [int(i) for i in (graph.inputs if graph.inputs is not None else [])]
        graph.outputs = [int(i) for i in (graph.outputs if graph.outputs is not None else [])]
        if any(not 0 <= i < count for i in graph.inputs + graph.outputs):
            raise ValueError("an input or output that is not there")
    model.signatureDefs = model.signatureDefs or []
    for signature in model.signatureDefs:
        signature.inputs, signature.outputs = signature.inputs or [], signature.outputs or []
        tensors = model.subgraphs[signature.subgraphIndex].tensors
        for entry in [*signature.inputs, *signature.outputs]:
            tensors[entry.tensorIndex]
            entry.name.decode("utf-8")
    for code in model.operatorCodes or []:
        code.builtinCode = max(code.builtinCode, code.deprecatedBuiltinCode)


def dump(model) -> bytes:
    """Serialize a `ModelT`; the data of its buffers are aligned to 16 bytes, as the schema asks.

    Deterministic: the same tree gives the same bytes.
    """
    import flatbuffers

    kind = aligned_buffer()
    for buffer in model.buffers:
        buffer.__class__ = kind
    data = sum(len(b.data) for b in model.buffers if b.data is not None)
    builder = flatbuffers.Builder(data + 65_536)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


@functools.cache
def aligned_buffer():
    """The schema's buffer, written with its data aligned: the class for a tree's `buffers`."""
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    class AlignedBuffer(schema.BufferT):
        def Pack(self, builder):
            vector = None
            if self.data is not None and len(self.data):
                data = np.ascontiguousarray(self.data).view(np.uint8).ravel()
                builder.StartVector(1, len(data), ALIGNMENT)
                builder.head -= len(data)
                builder.Bytes[builder.head : builder.head + len(data)] = data.tobytes()
                vector = builder.EndVector()
            schema.BufferStart(builder)
            if vector is not None:
                schema.BufferAddData(builder, vector)
            return schema.BufferEnd(builder)

    return AlignedBuffer


def op_name(model, op) -> str:
    """Builtin name of an operator, or the name of a custom one."""
    code = model.operatorCodes[op.opcodeIndex]
    name = op_names().get(code.builtinCode, f"UNKNOWN_{code.builtinCode}")
    return code.customCode.decode() if name == "CUSTOM" and code.customCode else name


def constant(model, tensor):
    """The values of a constant tensor as an array of its own dtype, None where it has none.

    int4 values come unpacked, as int8. float16 as float16. Sparse ones with their zeros.
    """
    import numpy as np

    data = model.buffers[tensor.buffer].data
    if data is None:
        return None
    data = np.asarray(data, np.uint8)
    name = dtype_names()[tensor.type]
    shape = [int(n) for n in tensor.shape]
    if name == "int4":
        low = (data.astype(np.int8) << 4) >> 4
        both = np.stack([low, data.astype(np.int8) >> 4], -1).ravel()
        return both[: math.prod(shape)].reshape(shape)
    if name in ("string", "resource", "variant") or name not in _WIDTHS:
        return None
    values = np.frombuffer(data.tobytes(), name)
    if tensor.sparsity is not None:
        return _in_full(values, shape, tensor.sparsity)
    return values[: math.prod(shape)].reshape(shape)


def _in_full(values, shape: list[int], sparsity):
    """A sparse tensor's values with the zeros between them.

    Its dimensions are stored one inside another, the blocks' own last; `at` holds, for the values
    that each level leads to, their index along each dimension so far.
    """
    import numpy as np

    at, rows = np.zeros((1, 0), np.int64), np.zeros(1, np.int64)  # rows: places at this level
    for level in sparsity.dimMetadata:
        if level.arraySegments is None:
            each = np.tile(np.arange(level.denseSize), len(at))
            owner = np.repeat(np.arange(len(at)), level.denseSize)
            rows = rows[owner] * level.denseSize + each
        else:
            starts = np.asarray(level.arraySegments.values, np.int64)
            counts = np.diff(starts)[rows]
            owner = np.repeat(np.arange(len(at)), counts)
            inside = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
            rows = starts[rows][owner] + inside
            each = np.asarray(level.arrayIndices.values, np.int64)[rows]
        at = np.column_stack([at[owner], each])
    order, blocks = list(sparsity.traversalOrder), sparsity.blockMap
    whole = np.zeros((len(at), len(shape)), np.int64)
    for column, dimension in enumerate(order):
        if dimension < len(shape):
            whole[:, dimension] += at[:, column]
    for number, dimension in enumerate(blocks if blocks is not None else ()):
        column = order.index(len(shape) + number)
        whole[:, dimension] *= sparsity.dimMetadata[column].denseSize
        whole[:, dimension] += at[:, column]
    made = np.zeros(shape, values.dtype)
    made[tuple(whole.T)] = values[rows]
    return made


def _stored(model, tensor) -> int:
    """Bytes of a constant's values, and of the indices of a sparse one."""
    size = len(model.buffers[tensor.buffer].data)
    for level in tensor.sparsity.dimMetadata if tensor.sparsity is not None else ():
        for vector in (level.arraySegments, level.arrayIndices):
            size += vector.values.nbytes if vector is not None else 0
    return size


_WIDTHS = {
    "float64",
    "float32",
    "float16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint64",
    "uint32",
    "uint16",
    "uint8",
    "bool",
    "complex64",
    "complex128",
}
