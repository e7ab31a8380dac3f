"""Makers of broken and hostile model files, each as small as its fault allows. No TensorFlow."""

from __future__ import annotations

import base64
import io
import json
import marshal
import zipfile
from pathlib import Path


def payload(sentinel: Path) -> list:
    """Bytecode of a lambda that writes `sentinel`, the way Keras 2 stores lambdas."""
    code = compile(f"lambda x: (open({str(sentinel)!r}, 'w').close(), x)[1]", "evil", "eval")
    inner = next(c for c in code.co_consts if hasattr(c, "co_code"))
    return [base64.b64encode(marshal.dumps(inner)).decode(), None, None]


def weights_h5(write=None) -> bytes:
    """An HDF5 file in memory; `write(file)` puts things into it."""
    import h5py

    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        file.create_group("layers")
        if write:
            write(file)
    return out.getvalue()


def keras_zip(path: Path, config: object, *, version: str = "3.10.0", members: dict | None = None,
              weights: bytes | None = None) -> Path:
    """A `.keras` file by hand; `config` may be text that is no JSON."""
    text = config if isinstance(config, str) else json.dumps(config)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": version}))
        archive.writestr("config.json", text)
        archive.writestr("model.weights.h5", weights_h5() if weights is None else weights)
        for name, data in (members or {}).items():
            archive.writestr(name, data)
    return path


def h5(path: Path, config: object, *, version: str = "2.15.0", write=None) -> Path:
    """A legacy `.h5` model by hand, without weights."""
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = version
        file.attrs["backend"] = "tensorflow"
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = []
        if write:
            write(file)
    return path


def functional(layer: dict, kwargs: dict | None = None) -> dict:
    """The Keras 3 configuration of input -> `layer`."""
    name = layer["config"].get("name", "evil")
    node = {"args": [_tensor("x")], "kwargs": kwargs or {}}
    return {
        "module": "keras.src.models.functional", "class_name": "Functional",
        "registered_name": "Functional",
        "config": {"name": "m", "trainable": True, "layers": [
            {"module": "keras.layers", "class_name": "InputLayer", "name": "x",
             "registered_name": None, "inbound_nodes": [],
             "config": {"batch_shape": [None, 4], "dtype": "float32", "name": "x"}},
            {"registered_name": None, "name": name, "inbound_nodes": [node], **layer}],
            "input_layers": [["x", 0, 0]], "output_layers": [[name, 0, 0]]}}


def _tensor(name: str) -> dict:
    return {"class_name": "__keras_tensor__", "config": {
        "shape": [None, 4], "dtype": "float32", "keras_history": [name, 0, 0]}}


def functional2(layer: dict, kwargs: dict | None = None) -> dict:
    """The Keras 2 configuration of input -> `layer`."""
    name = layer["config"]["name"]
    node = [[["x", 0, 0, kwargs or {}]]]
    if layer["class_name"] in ("TFOpLambda", "SlicingOpLambda"):
        node = [["x", 0, 0, kwargs or {}]]
    return {"class_name": "Functional", "config": {"name": "m", "layers": [
        {"class_name": "InputLayer", "name": "x", "inbound_nodes": [],
         "config": {"batch_input_shape": [None, 4], "dtype": "float32", "name": "x"}},
        {"name": name, "inbound_nodes": node, **layer}],
        "input_layers": [["x", 0, 0]], "output_layers": [[name, 0, 0]]}}


def dense(**config) -> dict:
    """A Dense layer of Keras 3 with additions to its configuration."""
    return {"module": "keras.layers", "class_name": "Dense",
            "config": {"name": "d", "units": 2, **config}}


def function(module: str | None, name: str) -> dict:
    """A reference to a function."""
    return {"class_name": "function", "module": module, "config": name, "registered_name": name}


def lambda2(sentinel: Path) -> dict:
    """A Lambda layer of Keras 2 that writes `sentinel` when it is called."""
    return {"class_name": "Lambda", "config": {
        "name": "evil", "trainable": True, "dtype": "float32", "function": payload(sentinel),
        "function_type": "lambda", "module": "__main__", "output_shape": None,
        "output_shape_type": "raw", "output_shape_module": None, "arguments": {}}}


def lambda3(function_config: dict, **arguments) -> dict:
    """A Lambda layer of Keras 3 around any function."""
    return {"module": "keras.layers", "class_name": "Lambda", "config": {
        "name": "evil", "function": function_config, "arguments": arguments,
        "output_shape": [4], "trainable": True, "dtype": "float32"}}


def lambda_code(sentinel: Path) -> dict:
    """A serialized lambda of Keras 3."""
    code, defaults, closure = payload(sentinel)
    return {"class_name": "__lambda__",
            "config": {"code": code, "defaults": defaults, "closure": closure,
                       "value": [code, defaults, closure]}}


def saved_model(folder: Path, *ops: str) -> Path:
    """A SavedModel folder whose graph is not one but names `ops` as NodeDef writes them."""
    folder.mkdir()
    nodes = b"".join(b"\x0a\x01n\x12" + bytes([len(o)]) + o.encode() for o in ops)
    (folder / "saved_model.pb").write_bytes(b"\x08\x01\x12" + bytes([len(nodes)]) + nodes)
    return folder
