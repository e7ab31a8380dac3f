"""The ends of a .tflite as LiteRT.js takes them.

Its tensors are float32, int32 or uint8, and each output is a tensor of its own: a file with other
ends does not load, one tensor under two names comes back filled once, and what a loop writes
straight to an output does not arrive.
"""

from __future__ import annotations

from ... import tflite
from .surgery import Editor, end_names

RUNTIMES = ("litert-js", "litert-gpu")
TYPES = ("float32", "int32", "uint8")


def for_browser(content: bytes) -> tuple[bytes, list[str]]:
    """The same computation with ends that a page can feed and read.

    Args:
        content: A .tflite file.

    Returns:
        The file (the same bytes where nothing had to change), and a note for each input and output
        whose type is another now.
    """
    model = tflite.load(content)
    edit = Editor(model)
    inputs, outputs = end_names(model)
    notes = [_input(edit, i, inputs.get(i, "")) for i in list(edit.graph.inputs)
             if edit.dtype(i) not in TYPES]
    notes += [_output(edit, i, outputs.get(i, "")) for i in list(dict.fromkeys(edit.graph.outputs))
              if edit.dtype(i) not in TYPES]
    changed = _separate(edit) or notes
    return (tflite.dump(model) if changed else content), notes


def _input(edit: Editor, index: int, name: str) -> str:
    new = edit.tensor(index, edit.name(index) + "_int32", "int32")
    edit.operator("CAST", [new], [index], before=next(iter(edit.graph.operators), None))
    edit.graph.inputs = [new if i == index else i for i in edit.graph.inputs]
    _point(edit, "inputs", index, new)
    return (f"input {name!r} is int32 in the file ({edit.dtype(index)} in the model): "
            "LiteRT.js has no such tensors")


def _output(edit: Editor, index: int, name: str) -> str:
    new = edit.tensor(index, edit.name(index) + "_int32", "int32")
    edit.operator("CAST", [index], [new])
    edit.graph.outputs = [new if i == index else i for i in edit.graph.outputs]
    _point(edit, "outputs", index, new)
    return (f"output {name!r} is int32 in the file ({edit.dtype(index)} in the model): "
            "LiteRT.js has no such tensors")


def _point(edit: Editor, which: str, old: int, new: int) -> None:
    for signature in edit.model.signatureDefs:
        if signature.subgraphIndex == 0:
            for entry in getattr(signature, which):
                entry.tensorIndex = new if entry.tensorIndex == old else entry.tensorIndex


def _separate(edit: Editor) -> bool:
    """A copy for each output that is an input, a constant, an output already, or a loop's own."""
    graph, changed = edit.graph, False
    entries = [e for s in edit.model.signatureDefs if s.subgraphIndex == 0 for e in s.outputs]
    taken = set(graph.inputs) | {i for i in graph.outputs if edit.producer(i) is None}
    listed: list[int] = []
    for entry in entries:
        index = entry.tensorIndex
        made_by = edit.producer(index)
        if index in taken or (made_by is not None and edit.kind(made_by) in ("WHILE", "IF")):
            entry.tensorIndex = _copy(edit, index)
            changed = True
        taken.add(index)
        listed.append(entry.tensorIndex)
    if changed:
        graph.outputs = listed
    return changed


def _copy(edit: Editor, index: int) -> int:
    tensor = edit.graph.tensors[index]
    new = edit.tensor(index, edit.name(index) + "_copy", edit.dtype(index), tensor.quantization)
    shape = [] if tensor.shape is None else [int(n) for n in tensor.shape]
    edit.operator("RESHAPE", [index, edit.add_constant("copied_shape", "int32", shape)], [new])
    return new
