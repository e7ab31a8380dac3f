"""What runs in processes for files, without TensorFlow: thin calls into the floors below.

Called through `Child.call` with JSON, as `worker` is.
"""

from __future__ import annotations

import gzip
import importlib
import shutil
from pathlib import Path

from .artifact import Measurement
from .child import Progress


def warm(payload: dict, progress: Progress) -> dict:
    """Import what later calls need, while another process works."""
    for module in payload["modules"]:
        importlib.import_module(module)
    return {}


def quantize(payload: dict, progress: Progress) -> dict:
    """One float file to one file per target, each with its metadata."""
    if Path(payload["float"]).suffix == ".onnx":
        from .compress.onnx import quantize as quantizer
        from .export import onnx_metadata as metadata
    else:
        from .compress.tflite import quantize as quantizer
        from .export import metadata

    made = quantizer.run(payload, progress)
    asked = {t["name"]: t for t in payload["targets"]}
    for name, result in made["targets"].items():
        if "error" not in result:
            target = asked[name]
            if target["format"] == "tflite":
                if payload.get("int4") and target["quantization"] == "int8":
                    _pack(result)
                if payload.get("sparse") and target["runtime"] == "litert" \
                        and not target["compiler"]:
                    result["notes"].append(_leave_zeros_out(result["path"]))
            metadata.embed(
                Path(result["path"]),
                labels=payload["labels"],
                normalization=payload["normalization"],
                provenance=payload["provenance"] | {"target": name},
            )
            if target["format"] == "tflite":
                from .compress.tflite import trim

                trim.trim_file(result["path"], result["path"], names=not payload.get("trim"))
    return made


def adopt(payload: dict, progress: Progress) -> dict:
    """A finished .tflite as a target's file, with its metadata."""
    from .compress.tflite import trim
    from .export import metadata

    shutil.copyfile(payload["from"], payload["path"])
    notes = ["made by the training backend's own converter"]
    if payload["sparse"]:
        notes.append(_leave_zeros_out(payload["path"]))
    keys = ("labels", "normalization", "provenance")
    metadata.embed(Path(payload["path"]), **{k: payload[k] for k in keys})
    trim.trim_file(payload["path"], payload["path"], names=not payload["trim"])
    return {"fallbacks": [], "notes": notes}


def _leave_zeros_out(path: str) -> str:
    """The file with sparse weights where that is smaller and computes the same; what was done."""
    from .compress.tflite import sparse

    content, said = sparse.proven(Path(path).read_bytes())
    Path(path).write_bytes(content)
    return said


def _pack(result: dict) -> None:
    """Weights that were trained to 15 levels as int4."""
    from .compress.tflite import int4

    path = Path(result["path"])
    content, names = int4.pack(path.read_bytes())
    path.write_bytes(content)
    result["notes"].append(f"{len(names)} kernels are stored as int4, as they were trained")


def describe(payload: dict, progress: Progress) -> dict:
    """Sizes of an artifact, and for a .tflite what is inside."""
    path = Path(payload["path"])
    measurements = _sizes(path)
    io: dict = {}
    if path.suffix in (".tflite", ".onnx"):
        if path.suffix == ".onnx":
            from .compress.onnx import graph as files
        else:
            from . import tflite as files

        inside = files.describe(path)
        weights = inside["weights"]
        measurements += [
            Measurement("parameters", "values", (inside["parameters"],)),
            Measurement("zeros", "share", (weights["zeros"],)),
        ]
        if inside["macs"] is not None:
            measurements.append(Measurement("macs", "MACs", (inside["macs"],)))
        io = {
            "inputs": inside["inputs"],
            "outputs": inside["outputs"],
            "weights": weights["dtypes"],
            **({"tensors": inside["tensors"]} if "tensors" in inside else {}),
            "ops": inside["histogram"],
        }
    return {"measurements": [m.to_dict() for m in measurements], "io": io}


def kernels(path: Path) -> list[dict]:
    """The weights of an .onnx file by layer; of a .tflite file `describe` has them."""
    from .compress.onnx import graph, layers

    return layers.weights(graph.load(path))


def sizes(payload: dict, progress: Progress) -> dict:
    """Bytes of a file or folder, as it is and under gzip."""
    return {"measurements": [m.to_dict() for m in _sizes(Path(payload["path"]))]}


def _sizes(path: Path) -> list[Measurement]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return [
        Measurement("size", "bytes", (sum(f.stat().st_size for f in files),)),
        Measurement("size_gzip", "bytes", (sum(_gzipped(f) for f in files),)),
    ]


def _gzipped(path: Path) -> int:
    class Count:
        total = 0

        def write(self, chunk) -> int:
            self.total += len(chunk)
            return len(chunk)

        def flush(self) -> None:
            pass

    count = Count()
    with gzip.GzipFile(fileobj=count, mode="wb", compresslevel=6, mtime=0) as packed:
        with open(path, "rb") as file:
            shutil.copyfileobj(file, packed, 1 << 20)
    return count.total
