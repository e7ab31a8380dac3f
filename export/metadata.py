"""Standard TFLite Metadata: names, normalization and labels inside the file, and our provenance.

The format is TensorFlow's metadata_schema.fbs, a flatbuffer with the identifier M001 in the model's
metadata entry TFLITE_METADATA; associated files (labels.txt) are a ZIP archive behind the model, so
that any unzip opens them. Fields are written by their slot numbers in that schema.
"""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

from .. import tflite
from ..errors import ModelError

STANDARD, OURS = b"TFLITE_METADATA", b"tfcompress"
IDENTIFIER = b"M001"
LABELS = "labels.txt"
# Slots of the tables' fields, and codes, in metadata_schema.fbs.
MODEL = {"fields": 8, "name": 0, "subgraphs": 3, "min_parser_version": 7}
SUBGRAPH = {"fields": 7, "inputs": 2, "outputs": 3}
TENSOR = {"fields": 7, "name": 0, "process_units": 4, "files": 6}
UNIT = {"fields": 2, "type": 0, "value": 1}
NORMALIZATION = {"fields": 2, "mean": 0, "std": 1}
FILE = {"fields": 5, "name": 0, "type": 2}
NORMALIZATION_OPTIONS, TENSOR_AXIS_LABELS = 1, 2
PARSER_VERSION = "1.0.0"


def embed(path: str | Path, *, labels: list[str] | None, normalization: dict | None,
          provenance: dict) -> None:
    """Write metadata into a .tflite file, in place of any that it has.

    Args:
        path: The file; replaced whole.
        labels: Class names, for the first output whose last axis has as many entries (or the
            first output).
        normalization: `{"mean": [...], "std": [...]}`: the model expects (value - mean) / std of
            the raw values, per channel or one for all. For the first image input.
        provenance: Anything JSON; stored compactly, sorted, in the entry `tfcompress`.

    Raises:
        ModelError: The file is not TFLite, or damaged.
        OSError: The file cannot be written.
    """
    path = Path(path)
    model = tflite.load(path)
    ends = _ends(model)
    standard = _standard(ends, labels, normalization)
    ours = json.dumps(provenance, sort_keys=True, separators=(",", ":")).encode()
    _set_entries(model, {STANDARD: standard, OURS: ours})
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(tflite.dump(model))
        if labels:
            with zipfile.ZipFile(beside, "a") as archive:
                archive.writestr(zipfile.ZipInfo(LABELS), "\n".join(labels) + "\n")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def read(path: str | Path) -> dict:
    """The metadata of a file.

    Returns:
        `{"inputs": [names], "outputs": [names], "normalization": {"mean", "std"} or None,
        "labels": [...] or None, "provenance": {...} or None}`; empty and None where there is none.

    Raises:
        ModelError: The file is not TFLite, or its metadata are damaged.
    """
    model = tflite.load(path)
    found = {"inputs": [], "outputs": [], "normalization": None, "labels": None,
             "provenance": None}
    try:
        for entry in model.metadata or []:
            data = model.buffers[entry.buffer].data
            if data is not None and entry.name == STANDARD:
                found |= _parse(bytes(data))
            elif data is not None and entry.name == OURS:
                found["provenance"] = json.loads(bytes(data))
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if LABELS in archive.namelist():
                    text = archive.read(LABELS).decode()
                    found["labels"] = text.removesuffix("\n").split("\n")
    except Exception as error:  # whatever a damaged table makes of the reader
        raise ModelError(f"the metadata of {Path(path).name} are damaged: {type(error).__name__}",
                         "make the file again") from None
    return found


def _ends(model) -> dict[str, list[tuple[str, list[int], str]]]:
    """Inputs and outputs in the subgraph's order: signature name, shape, dtype."""
    graph, found = model.subgraphs[0], {}
    signatures = [s for s in model.signatureDefs if s.subgraphIndex == 0][:1]
    for which in ("inputs", "outputs"):
        names = {e.tensorIndex: e.name.decode() for s in signatures for e in getattr(s, which)}
        found[which] = [
            (names.get(i, graph.tensors[i].name.decode()),
             [int(n) for n in graph.tensors[i].shape],
             tflite.dtype_names()[graph.tensors[i].type])
            for i in getattr(graph, which)
        ]
    return found


def _set_entries(model, entries: dict[bytes, bytes]) -> None:
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    model.metadata = model.metadata or []
    for name, data in entries.items():
        entry = next((e for e in model.metadata if e.name == name), None)
        if entry is None:
            entry = schema.MetadataT()
            entry.name, entry.buffer = name, len(model.buffers)
            model.buffers.append(schema.BufferT())
            model.metadata.append(entry)
        model.buffers[entry.buffer].data = np.frombuffer(data, np.uint8)


def _standard(ends: dict, labels: list[str] | None, normalization: dict | None) -> bytes:
    import flatbuffers

    build = flatbuffers.Builder(256)
    image = next((i for i, (_, shape, _) in enumerate(ends["inputs"]) if len(shape) == 4), 0)
    count = len(labels or ())
    scored = next((i for i, (_, shape, _) in enumerate(ends["outputs"])
                   if shape and shape[-1] == count), 0)
    inputs = [_tensor(build, name, normalization if i == image else None, False)
              for i, (name, _, _) in enumerate(ends["inputs"])]
    outputs = [_tensor(build, name, None, bool(labels) and i == scored)
               for i, (name, _, _) in enumerate(ends["outputs"])]
    inputs, outputs = _vector(build, inputs), _vector(build, outputs)
    subgraph = _table(build, SUBGRAPH, {"inputs": inputs, "outputs": outputs})
    subgraphs = _vector(build, [subgraph])
    version = build.CreateString(PARSER_VERSION)
    build.Finish(_table(build, MODEL, {"subgraphs": subgraphs, "min_parser_version": version}),
                 file_identifier=IDENTIFIER)
    return bytes(build.Output())


def _tensor(build, name: str, normalization: dict | None, labelled: bool) -> int:
    fields = {"name": build.CreateString(name)}
    if normalization:
        values = {key: _floats(build, normalization[key]) for key in ("mean", "std")}
        options = _table(build, NORMALIZATION, values)
        build.StartObject(UNIT["fields"])
        build.PrependUint8Slot(UNIT["type"], NORMALIZATION_OPTIONS, 0)
        build.PrependUOffsetTRelativeSlot(UNIT["value"], options, 0)
        fields["process_units"] = _vector(build, [build.EndObject()])
    if labelled:
        file = build.CreateString(LABELS)
        build.StartObject(FILE["fields"])
        build.PrependUOffsetTRelativeSlot(FILE["name"], file, 0)
        build.PrependInt8Slot(FILE["type"], TENSOR_AXIS_LABELS, 0)
        fields["files"] = _vector(build, [build.EndObject()])
    return _table(build, TENSOR, fields)


def _table(build, slots: dict, fields: dict[str, int]) -> int:
    """A table whose fields are all offsets."""
    build.StartObject(slots["fields"])
    for name, offset in fields.items():
        build.PrependUOffsetTRelativeSlot(slots[name], offset, 0)
    return build.EndObject()


def _vector(build, offsets: list[int]) -> int:
    build.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        build.PrependUOffsetTRelative(offset)
    return build.EndVector()


def _floats(build, values: list[float]) -> int:
    build.StartVector(4, len(values), 4)
    for value in reversed(values):
        build.PrependFloat32(float(value))
    return build.EndVector()


def _parse(data: bytes) -> dict:
    """The fields that `embed` writes, from any writer's metadata."""
    import flatbuffers
    from flatbuffers import encode, number_types
    from flatbuffers.table import Table

    if data[4:8] != IDENTIFIER:
        raise ValueError("not TFLite metadata")

    def field(table, slot):
        return table.Offset(4 + 2 * slot)

    def child(table, slot):
        return Table(data, table.Indirect(field(table, slot) + table.Pos))

    def children(table, slot):
        at = field(table, slot)
        if not at:
            return []
        start = table.Vector(at)
        return [Table(data, table.Indirect(start + 4 * i)) for i in range(table.VectorLen(at))]

    def text(table, slot):
        at = field(table, slot)
        return table.String(at + table.Pos).decode() if at else ""

    def floats(table, slot):
        at = field(table, slot)
        start = table.Vector(at) if at else 0
        return [table.Get(number_types.Float32Flags, start + 4 * i)
                for i in range(table.VectorLen(at) if at else 0)]

    root = Table(data, encode.Get(flatbuffers.packer.uoffset, data, 0))
    found: dict = {"inputs": [], "outputs": [], "normalization": None}
    for subgraph in children(root, MODEL["subgraphs"])[:1]:
        for which in ("inputs", "outputs"):
            found[which] = [text(t, TENSOR["name"]) for t in children(subgraph, SUBGRAPH[which])]
        for tensor in children(subgraph, SUBGRAPH["inputs"]):
            for unit in children(tensor, TENSOR["process_units"]):
                at = field(unit, UNIT["type"])
                if at and unit.Get(number_types.Uint8Flags, at + unit.Pos) == NORMALIZATION_OPTIONS:
                    options = child(unit, UNIT["value"])
                    found["normalization"] = {"mean": floats(options, NORMALIZATION["mean"]),
                                              "std": floats(options, NORMALIZATION["std"])}
    return found
