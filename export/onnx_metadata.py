"""What an .onnx file says about itself, in its metadata properties (which ONNX Runtime hands out).

Keys: `labels` (one name per line), `normalization` (JSON `{"mean", "std"}`: the model expects
(value - mean) / std of the raw values), `tfcompress` (JSON: where the file comes from).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..errors import ModelError, needed


def embed(path: str | Path, *, labels: list[str] | None, normalization: dict | None,
          provenance: dict) -> None:
    """Write the properties into a file, in place of those of the same keys; replaced whole.

    Raises:
        ModelError: The file is not ONNX.
        OSError: The file cannot be written.
    """
    path = Path(path)
    model = _load(path)
    told = {"tfcompress": json.dumps(provenance, sort_keys=True, separators=(",", ":"))}
    if labels:
        told["labels"] = "\n".join(labels)
    if normalization:
        told["normalization"] = json.dumps(normalization, sort_keys=True, separators=(",", ":"))
    kept = {p.key: p.value for p in model.metadata_props} | told
    del model.metadata_props[:]
    for key in sorted(kept):
        model.metadata_props.add(key=key, value=kept[key])
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(model.SerializeToString(deterministic=True))
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def read(path: str | Path) -> dict:
    """`{"labels": [...] or None, "normalization": {...} or None, "provenance": {...} or None}`.

    Raises:
        ModelError: The file is not ONNX, or its properties are damaged.
    """
    found = {p.key: p.value for p in _load(Path(path)).metadata_props}
    try:
        return {
            "labels": found["labels"].split("\n") if "labels" in found else None,
            "normalization": json.loads(found.get("normalization", "null")),
            "provenance": json.loads(found.get("tfcompress", "null")),
        }
    except json.JSONDecodeError:
        raise ModelError(f"the metadata of {Path(path).name} are damaged",
                         "make the file again") from None


def ends(path: str | Path) -> dict[str, list[dict]]:
    """`{"inputs": [{"name", "shape", "dtype"}], "outputs": [...]}`; None where a size is free.

    Raises:
        ModelError: The file is not ONNX.
    """
    from onnx import helper

    def told(value) -> dict:
        kind = value.type.tensor_type
        return {"name": value.name, "dtype": helper.tensor_dtype_to_np_dtype(kind.elem_type).name,
                "shape": [d.dim_value or None for d in kind.shape.dim]}

    graph = _load(Path(path)).graph
    weights = {w.name for w in graph.initializer}
    return {"inputs": [told(v) for v in graph.input if v.name not in weights],
            "outputs": [told(v) for v in graph.output]}


def _load(path: Path):
    onnx = needed("onnx", "onnx")
    try:
        return onnx.load(str(path))
    except OSError:
        raise
    except Exception as error:  # protobuf's and onnx's own
        raise ModelError(f"{path} is not an ONNX file: {type(error).__name__}",
                         "convert the model again") from None
