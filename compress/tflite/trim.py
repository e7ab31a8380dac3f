"""A .tflite file without the bytes that no runtime reads; it computes the same numbers.

In a small model they are a good part of the file: names of inner tensors after scopes of the
traced graph, the same 64 zero points of eight bytes written for every convolution, ranges that were
left from calibration, records of the converter. A flatbuffer may hold a vector or a table once and
point to it from many places, so equal ones are written once.
"""

from __future__ import annotations

import functools
import io
import os
import zipfile
from pathlib import Path
from typing import Any

from ... import tflite
from . import surgery

OF_THE_CONVERTER = (b"CONVERSION_METADATA", b"min_runtime_version")


def trim(content: bytes, names: bool = False) -> bytes:
    """The same file, smaller.

    Names of the model's inputs and outputs, signatures, metadata that people read (labels, say)
    and every number that takes part in inference are kept. Names of inner tensors, by which tools
    find layers, go unless `names` keeps them: trim last.

    Args:
        content: A .tflite file.
        names: Keep the names of inner tensors.

    Returns:
        Its bytes; trimming twice changes nothing more.

    Raises:
        ModelError: It is not a .tflite file.
    """
    model = tflite.load(content)
    _forget(model, names)
    _share(model)
    builder = _builder_class()(len(content) + 65_536)
    builder.Finish(model.Pack(builder), file_identifier=tflite.IDENTIFIER)
    return _with_files_of(content, bytes(builder.Output()))


def _with_files_of(content: bytes, made: bytes) -> bytes:
    """`made` with the files (labels, say) that stand as a zip archive behind the model."""
    source, target = io.BytesIO(content), io.BytesIO(made)
    if not zipfile.is_zipfile(source):
        return made
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "a") as new:
        for info in old.infolist():
            new.writestr(zipfile.ZipInfo(info.filename), old.read(info))
    return target.getvalue()


def trim_file(source: str | Path, path: str | Path, names: bool = False) -> tuple[int, int]:
    """Trim a file into another, which may be the same; it appears whole or not at all.

    Returns:
        Bytes before and after.
    """
    content = Path(source).read_bytes()
    made = trim(content, names)
    beside = Path(path).with_name(f".{Path(path).name}.{os.getpid()}")
    beside.write_bytes(made)
    os.replace(beside, path)
    return len(content), len(made)


def _forget(model: Any, names: bool) -> None:
    """Drop what describes how the file came to be."""
    model.description = None
    kept = [m for m in model.metadata or [] if m.name not in OF_THE_CONVERTER]
    model.metadata = kept or None
    surgery.compact(model)
    for graph in model.subgraphs:
        graph.name = graph.name if names else None
        ends = {*graph.inputs, *graph.outputs}
        for signature in model.signatureDefs:
            if model.subgraphs[signature.subgraphIndex] is graph:
                ends |= {e.tensorIndex for e in [*signature.inputs, *signature.outputs]}
        for index, tensor in enumerate(graph.tensors):
            if index not in ends and not names:
                tensor.name = None
            signature = tensor.shapeSignature
            if signature is not None and list(signature) == list(tensor.shape):
                tensor.shapeSignature = None
            if tensor.quantization is not None:
                _forget_ranges(tensor)


def _forget_ranges(tensor: Any) -> None:
    """Calibration's smallest and largest value; what the arithmetic needs is scale and zero."""
    quantization = tensor.quantization
    quantization.min = quantization.max = None
    if quantization.scale is None and quantization.details is None:
        tensor.quantization = None


def _share(model: Any) -> None:
    """Make equal tables one object that is written once, and lists arrays, which are shared too."""
    import numpy as np

    tables: dict[tuple, Any] = {}

    def once(table: Any) -> Any:
        if table is None:
            return None
        made = tables.setdefault(_content(table), table)
        made.__class__ = _written_once(type(made))
        return made

    for graph in model.subgraphs:
        graph.inputs, graph.outputs = (np.array(a, np.int32) for a in (graph.inputs, graph.outputs))
        for tensor in graph.tensors:
            tensor.shape = np.array(tensor.shape, np.int32)
            tensor.quantization = once(tensor.quantization)
        for op in graph.operators:
            op.inputs, op.outputs = (np.array(a, np.int32) for a in (op.inputs, op.outputs))
            op.builtinOptions = once(op.builtinOptions)
    for buffer in model.buffers:
        buffer.__class__ = tflite.aligned_buffer()


def _content(value: Any) -> Any:
    """What makes two tables equal, hashable."""
    import numpy as np

    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, (list, tuple)):
        return tuple(map(_content, value))
    if hasattr(value, "Pack"):
        return (type(value).__name__, tuple((k, _content(v)) for k, v in vars(value).items()))
    return value


@functools.cache
def _written_once(kind: type) -> type:
    """A table's class whose objects are packed once per builder."""
    if getattr(kind, "written_once", False):
        return kind

    class Once(kind):
        written_once = True

        def Pack(self, builder: Any) -> int:
            if id(self) not in builder.tables:
                builder.tables[id(self)] = super().Pack(builder)
            return builder.tables[id(self)]

    Once.__name__ = kind.__name__
    return Once


@functools.cache
def _builder_class() -> type:
    import flatbuffers

    class Builder(flatbuffers.Builder):
        """Writes equal vectors of numbers and equal strings once."""

        def __init__(self, size: int):
            super().__init__(size)
            self.tables: dict[int, int] = {}
            self.vectors: dict[tuple, int] = {}

        def CreateNumpyVector(self, x: Any) -> int:
            key = (x.dtype.str, x.tobytes())
            if key not in self.vectors:
                self.vectors[key] = super().CreateNumpyVector(x)
            return self.vectors[key]

        def CreateString(self, s: Any, *how: str) -> int:
            key = ("", s if isinstance(s, bytes) else s.encode())
            if key not in self.vectors:
                self.vectors[key] = super().CreateString(s, *how)
            return self.vectors[key]

    return Builder
