"""Weights with many zeros, stored without them: the file gets smaller as it lies there.

TFLite stores a sparse tensor dimension by dimension, each in full or as compressed rows (CSR), with
blocks of values as further dimensions at the end. (TensorFlow Lite schema, `SparsityParameters`;
the layout is that of TACO, F. Kjolstad and others, 2017.) A DENSIFY in front of the operator
that reads the weights unpacks them when the model is loaded, so inference computes the same
numbers in the same time, and takes the same memory.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import tflite
from ...child import Child, ChildDied
from ...errors import TfcompressError
from . import surgery, trim

FEWEST = 256  # values of a tensor that are worth the operator in front
BESIDE = 120  # bytes that the operator and the tensor of its result take
BLOCKS = (1, 2, 4, 8, 16)
TYPES = ("float32", "float16", "int8")  # what the DENSIFY kernel reads
INTEGER = ("CONV_2D", "DEPTHWISE_CONV_2D")  # XNNPACK refuses other operators' int8 weights
ROWS = 4  # inputs on which the file has to compute the same


@dataclass(frozen=True)
class Encoding:
    """One way to store a tensor.

    `axis` is stored as compressed rows of blocks of `block` values; all other axes are in full,
    outside it, in their order.
    """

    axis: int
    block: int
    bytes: int


def compressed(content: bytes) -> tuple[bytes, dict]:
    """Store each constant without its zeros where that takes fewer bytes.

    Args:
        content: A .tflite file.

    Returns:
        The file's bytes, and `{"tensors": [names], "bytes": saved}`; the same bytes where nothing
        is saved.

    Raises:
        ModelError: It is not a .tflite file.
    """
    model, done = tflite.load(content), []
    for number, graph in enumerate(model.subgraphs):
        edit = surgery.Editor(model, number)
        for index in range(len(graph.tensors)):
            name = graph.tensors[index].name or b""
            if (values := _candidate(edit, index)) is None:
                continue
            best = best_encoding(values)
            if best and best.bytes + BESIDE < values.nbytes:
                _store(edit, index, values, best)
                done.append(name.decode())
    nothing = {"tensors": [], "bytes": 0}
    if not done:
        return content, nothing
    surgery.compact(model)
    made = tflite.dump(model)
    saved = len(trim.trim(content, names=True)) - len(trim.trim(made, names=True))
    return (made, {"tensors": done, "bytes": saved}) if saved > 0 else (content, nothing)


def proven(content: bytes) -> tuple[bytes, str]:
    """`compressed`, where LiteRT computes the same bits with it; else the file as it came.

    Both are run in a process of their own, with and without the XNNPACK delegate, on seeded noise.

    Returns:
        The bytes, and in words what was done or why nothing was.
    """
    made, told = compressed(content)
    if not told["tensors"]:
        return content, "no weights have zeros enough to be smaller as sparse tensors"
    with tempfile.TemporaryDirectory() as folder, Child("sparse trial") as child:
        files = {"before": content, "after": made}
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        try:
            same = child.call("compress.tflite.sparse:trial",
                              {n: str(Path(folder) / n) for n in files})["same"]
        except (ChildDied, TfcompressError) as error:
            return content, f"stored in full: the runtime does not take sparse tensors here " \
                            f"({error.message})"
    if not same:
        return content, "stored in full: with sparse tensors the runtime computes other numbers"
    count = len(told["tensors"])
    return made, f"{count} weight tensor{'s' * (count > 1)} stored without zeros: " \
                 f"{told['bytes']:,} bytes less"


def trial(payload: dict, progress: Any) -> dict:
    """Whether two files compute the same bits: `{"same"}`."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    for kind in (OpResolverType.AUTO, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES):
        found = []
        for path in (payload["before"], payload["after"]):
            one = Interpreter(path, num_threads=1, experimental_op_resolver_type=kind)
            one.allocate_tensors()
            rng, outputs = np.random.default_rng(0), []
            for _ in range(ROWS):
                for given in one.get_input_details():
                    one.set_tensor(given["index"], _noise(rng, given))
                one.invoke()
                outputs += [one.get_tensor(o["index"]) for o in one.get_output_details()]
            found.append(outputs)
        if not all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
                   for a, b in zip(*found, strict=True)):
            return {"same": False}
    return {"same": True}


def _noise(rng: Any, given: dict) -> Any:
    import numpy as np

    dtype, shape = np.dtype(given["dtype"]), given["shape"]
    if dtype.kind == "f":
        return rng.normal(size=shape).astype(dtype)
    if dtype == np.int8:
        return rng.integers(-128, 128, shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)  # numbers of words, say


def _candidate(edit: surgery.Editor, index: int) -> Any:
    """A constant's values where they may be stored sparsely, else None."""
    tensor = edit.graph.tensors[index]
    if edit.dtype(index) not in TYPES or not edit.is_constant(index) or tensor.sparsity \
            or tensor.shape is None or len(tensor.shape) < 2 \
            or index in edit.graph.outputs:
        return None
    readers = edit.consumers(index)
    if not readers or (edit.dtype(index) == "int8" and not all(
            edit.kind(op) in INTEGER and edit.dtype(op.inputs[0]) == "int8" for op in readers)):
        return None
    shared = [t for g in edit.model.subgraphs for t in g.tensors if t.buffer == tensor.buffer]
    zero = tensor.quantization.zeroPoint if tensor.quantization is not None else None
    if len(shared) > 1 or (zero is not None and any(zero)):
        return None
    values = tflite.constant(edit.model, tensor)
    return values if values.size >= FEWEST and values.any() else None


def best_encoding(values: Any) -> Encoding | None:
    """The smallest one, None where it is no smaller than the values in full."""
    found = []
    for axis in range(values.ndim):
        for block in BLOCKS:
            if values.shape[axis] % block == 0 and (block == 1 or values.shape[axis] > block):
                kept = _kept(values, axis, block)
                most, count = kept.shape[-1], int(kept.sum())
                segments = kept.size // most + 1
                size = (count * block * values.itemsize + count * _width(most - 1)
                        + segments * _width(count))
                found.append(Encoding(axis, block, size))
    best = min(found, key=lambda e: e.bytes)
    return best if best.bytes < values.nbytes else None


def _width(largest: int) -> int:
    return 1 if largest < 256 else 2 if largest < 65_536 else 4


def _blocks(values: Any, axis: int, block: int) -> Any:
    """The values with `axis` last, cut into blocks: (other axes..., blocks, block)."""
    import numpy as np

    last = np.moveaxis(values, axis, -1)
    return last.reshape(*last.shape[:-1], -1, block)


def _kept(values: Any, axis: int, block: int) -> Any:
    return (_blocks(values, axis, block) != 0).any(-1)


def _store(edit: surgery.Editor, index: int, values: Any, how: Encoding) -> None:
    """Put the sparse tensor in the place of the constant, and DENSIFY behind it."""
    import numpy as np

    s, tensor = edit.schema, edit.graph.tensors[index]
    name = (tensor.name or b"").decode()
    kept = _kept(values, how.axis, how.block)
    rows = kept.reshape(-1, kept.shape[-1])
    packed = edit.tensor(index, name, edit.dtype(index), tensor.quantization,
                         _blocks(values, how.axis, how.block)[kept])
    other = [a for a in range(values.ndim) if a != how.axis]
    sparsity = s.SparsityParametersT()
    sparsity.traversalOrder = np.array(
        [*other, how.axis, *([values.ndim] if how.block > 1 else [])], np.int32)
    sparsity.blockMap = np.array([how.axis], np.int32) if how.block > 1 else None
    sparsity.dimMetadata = [_dense(s, values.shape[a]) for a in other]
    sparsity.dimMetadata.append(_rows(
        s, np.concatenate([[0], np.cumsum(rows.sum(1))]), np.nonzero(rows)[1], rows.shape[1]))
    if how.block > 1:
        sparsity.dimMetadata.append(_dense(s, how.block))
    edit.graph.tensors[packed].sparsity = sparsity
    tensor.buffer, tensor.name = 0, f"{name}_in_full".encode()
    first = next(op for op in edit.graph.operators if index in op.inputs)
    edit.operator("DENSIFY", [packed], [index], before=first)


def _dense(schema: Any, size: int) -> Any:
    made = schema.DimensionMetadataT()
    made.format, made.denseSize = schema.DimensionType.DENSE, int(size)
    return made


def _rows(schema: Any, segments: Any, indices: Any, most: int) -> Any:
    made = schema.DimensionMetadataT()
    made.format = schema.DimensionType.SPARSE_CSR
    made.arraySegmentsType, made.arraySegments = _vector(schema, segments, int(segments[-1]))
    made.arrayIndicesType, made.arrayIndices = _vector(schema, indices, most - 1)
    return made


def _vector(schema: Any, values: Any, largest: int) -> tuple[int, Any]:
    import numpy as np

    name, dtype = {1: ("Uint8Vector", np.uint8), 2: ("Uint16Vector", np.uint16),
                   4: ("Int32Vector", np.int32)}[_width(largest)]
    made = getattr(schema, f"{name}T")()
    made.values = np.asarray(values).astype(dtype)
    return getattr(schema.SparseIndexVector, name), made
