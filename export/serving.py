"""What TensorFlow Serving and its clients need beside a SavedModel's graph: warm-up requests, and
the words in which the model is asked.

The messages are described here field by field as in TensorFlow Serving's public
`prediction_log.proto`, `predict.proto` and `model.proto` (Apache-2.0), because the package that has
them compiled is not needed for anything else.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..artifact import TensorSpec

SIGNATURE = "serving_default"
WARM_UP = "assets.extra/tf_serving_warmup_requests"
BATCHES = (1, 8)  # sizes that are warmed up, where the batch is free
# Message: its fields as (name, number, type), a type being a message's name, "string" or "map".
MESSAGES = {
    "ModelSpec": (("name", 1, "string"), ("signature_name", 3, "string")),
    "PredictRequest": (("model_spec", 1, "ModelSpec"), ("inputs", 2, "map")),
    "PredictLog": (("request", 1, "PredictRequest"),),
    "PredictionLog": (("predict_log", 6, "PredictLog"),),
}


def warm_up(folder: str | Path, inputs: Sequence[TensorSpec], name: str = "model") -> Path:
    """Write requests that TensorFlow Serving runs while it loads the model.

    Without them the first callers wait for TensorFlow's own warm-up. The values are seeded noise
    (floats in 0 to 1, integers 0), so no user data stand in the artifact.

    Args:
        folder: The SavedModel.
        inputs: Names, shapes and dtypes of the serving signature.
        name: The model's name in the requests.
    """
    import numpy as np
    import tensorflow as tf

    path = Path(folder) / WARM_UP
    path.parent.mkdir(parents=True, exist_ok=True)
    free = all(s.shape and s.shape[0] is None for s in inputs)
    rng = np.random.default_rng(0)
    with tf.io.TFRecordWriter(str(path)) as file:
        for batch in BATCHES if free else (1,):
            arrays = {s.name: _values(s, batch, rng) for s in inputs}
            file.write(request(arrays, name))
    return path


def _values(spec: TensorSpec, batch: int, rng: Any) -> Any:
    import numpy as np

    shape = [batch if at == 0 and size is None else size or 1
             for at, size in enumerate(spec.shape)]
    if spec.dtype == "string":
        return np.full(shape, b"", object)
    if "float" in spec.dtype:
        return rng.uniform(0, 1, shape).astype("float32" if spec.dtype == "bfloat16"
                                               else spec.dtype)
    return np.zeros(shape, spec.dtype)


def request(arrays: dict[str, Any], name: str) -> bytes:
    """A serialized `PredictionLog` with one request."""
    import tensorflow as tf

    log = _classes()["PredictionLog"]()
    asked = log.predict_log.request
    asked.model_spec.name, asked.model_spec.signature_name = name, SIGNATURE
    for key, array in arrays.items():
        asked.inputs[key].CopyFrom(tf.make_tensor_proto(array))
    return log.SerializeToString(deterministic=True)


@functools.cache
def _classes() -> dict[str, Any]:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from tensorflow.core.framework import tensor_pb2

    package = "tfcompress.serving"  # its own, so that it never meets the real one's registration
    file = descriptor_pb2.FileDescriptorProto(
        name="tfcompress/serving.proto", package=package, syntax="proto3",
        dependency=[tensor_pb2.DESCRIPTOR.name])
    kinds = descriptor_pb2.FieldDescriptorProto
    for message, fields in MESSAGES.items():
        made = file.message_type.add(name=message)
        for field, number, kind in fields:
            entry = made.field.add(name=field, number=number, label=kinds.LABEL_OPTIONAL)
            if kind == "string":
                entry.type = kinds.TYPE_STRING
                continue
            entry.type = kinds.TYPE_MESSAGE
            entry.type_name = f".{package}.{kind}"
            if kind == "map":
                entry.label = kinds.LABEL_REPEATED
                entry.type_name = f".{package}.{message}.{field.capitalize()}Entry"
                pair = made.nested_type.add(name=f"{field.capitalize()}Entry")
                pair.options.map_entry = True
                pair.field.add(name="key", number=1, label=kinds.LABEL_OPTIONAL,
                               type=kinds.TYPE_STRING)
                pair.field.add(name="value", number=2, label=kinds.LABEL_OPTIONAL,
                               type=kinds.TYPE_MESSAGE, type_name=".tensorflow.TensorProto")
    pool = descriptor_pool.Default()
    pool.Add(file)
    return {m: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{m}"))
            for m in MESSAGES}


def contract(inputs: Sequence[dict], outputs: Sequence[dict], name: str) -> dict[str, Any]:
    """How clients ask the served model.

    Args:
        inputs: `{"name", "shape", "dtype"}` of the signature.
        outputs: The same.
        name: The model's name at the server.

    Returns:
        `rest`: method, path and a body that shows the shapes; `grpc`: the call and its tensors.
    """
    def shown(t: dict) -> str:
        return f"{t['dtype']}[{', '.join('?' if n is None else str(n) for n in t['shape'])}]"

    row = {t["name"]: shown({**t, "shape": t["shape"][1:]}) for t in inputs}
    body = next(iter(row.values())) if len(row) == 1 else row
    answer = {t["name"]: shown({**t, "shape": t["shape"][1:]}) for t in outputs}
    return {
        "rest": {"method": "POST", "path": f"/v1/models/{name}:predict", "port": 8501,
                 "body": {"signature_name": SIGNATURE, "instances": [body]},
                 "answer": {"predictions": [next(iter(answer.values())) if len(answer) == 1
                                            else answer]}},
        "grpc": {"call": "tensorflow.serving.PredictionService/Predict", "port": 8500,
                 "model_spec": {"name": name, "signature_name": SIGNATURE},
                 "inputs": {t["name"]: shown(t) for t in inputs},
                 "outputs": {t["name"]: shown(t) for t in outputs}},
    }
