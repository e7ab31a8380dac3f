"""The figures behind the pictures of the stages: the example model, trained and measured.

    python docs/stages/measure.py            writes figures.json beside itself (minutes on a CPU)
    python docs/stages/measure.py prune qat  measures these anew and leaves the others

Everything is seeded. `pictures.py` draws what stands in figures.json and trains nothing.
"""

import gzip
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

HERE = Path(__file__).parent
EXAMPLES = HERE.parent.parent / "examples"
LAYER = "dense"  # whose kernel the pictures show: 256 inputs, 64 units
BINS = 96


def main(chosen: list[str]) -> None:
    """Measure the figures of the chosen pictures, of all without a choice."""
    import numpy as np

    from tfcompress.compress.models import load

    data = dict(np.load(EXAMPLES / "digits.npz"))
    source = load.open_model(EXAMPLES / "digits.keras")
    file = HERE / "figures.json"
    told = json.loads(file.read_text()) if file.is_file() and chosen else {}
    told["source"] = {"accuracy": _accuracy(source.model, data)}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        _samples(place / "with", data["x_train"], data["y_train"])
        _samples(place / "without", data["x_train"])
        for name in chosen or MEASURES:
            told[name] = MEASURES[name](source, data, place)
            file.write_text(json.dumps(told, separators=(",", ":"), default=float) + "\n")


def structured(source, data: dict, place: Path) -> dict:
    """Half of the parameters go: channels of each layer before and after."""
    done = _run(source, place / "with", {"stage": "structured", "to": 0.5}, epochs=6)
    layers = []
    for old in source.model.layers:
        kernel = [w for w in old.trainable_weights if len(w.shape) >= 2]
        if kernel:
            new = done.model.get_layer(old.name)
            layers.append({"layer": old.name, "kind": type(old).__name__,
                           "before": int(old.output.shape[-1]),
                           "after": int(new.output.shape[-1])})
    return {"layers": layers, "before": done.slimmed["before"], "after": done.slimmed["after"],
            "accuracy": _accuracy(done.model, data), "epochs": 6}


def pruned(source, data: dict, place: Path) -> dict:
    """80 % zeros: one kernel before and after, the epochs, patterns, and the int8 file."""
    from tfcompress.compress.training import kernels, prune

    before = _kernel(source.model)
    done = _run(source, place / "with", {"stage": "prune", "sparsity": 0.8}, epochs=30)
    after = _kernel(done.model)
    low, high = _ends(before, after)
    kernel = next(k for k in kernels.find(source.model)[0] if k.layer == LAYER)
    patterns = {}
    for name in ("unstructured", "2:4", "block1x4"):
        kept = kernel.matrix(prune.mask(kernel, before, name, 0.5))[:12, :24]
        patterns[name] = ["".join("1" if v else "0" for v in row) for row in kept]
    again = _run(done.model, place / "with", {"stage": "qat"}, epochs=2)
    return {"low": low, "high": high, "before": _histogram(before, low, high),
            "after": _histogram(after[after != 0], low, high), "values": int(after.size),
            "zeros": int((after == 0).sum()), "patterns": patterns,
            "history": [{k: r[k] for k in ("epoch", "sparsity", "metric", "validation_metric")}
                        for r in done.history],
            "accuracy": _accuracy(done.model, data),
            "file": _file(again.qat_model, source, place)}


def clustered(source, data: dict, place: Path) -> dict:
    """16 values: one kernel before and after."""
    import numpy as np

    before = _kernel(source.model)
    done = _run(source, place / "with", {"stage": "cluster", "clusters": 16}, epochs=4)
    after = _kernel(done.model)
    low, high = _ends(before, after)
    values, counts = np.unique(after, return_counts=True)
    return {"low": low, "high": high, "before": _histogram(before, low, high),
            "table": values.tolist(), "counts": counts.tolist(), "values": int(after.size),
            "accuracy": _accuracy(done.model, data)}


def quantized(source, data: dict, place: Path) -> dict:
    """Learned ranges beside the values; one channel's weights; the file against the model."""
    import numpy as np

    from tfcompress.compress.training import kernels

    done = _run(source, place / "with", {"stage": "qat"}, epochs=8)
    four = _run(source, place / "with", {"stage": "qat", "weight_bits": 4}, epochs=8)
    ranges = []
    for one in done.qat_model.ranges.to_list():
        if one["where"] == "after":
            values = _outputs(done.model, one["layer"], data)
            outside = float(((values < one["min"]) | (values > one["max"])).mean())
            ranges.append({"layer": one["layer"], "learned": [one["min"], one["max"]],
                           "seen": [float(values.min()), float(values.max())],
                           "outside": outside})
    float_, eight = _kernel(source.model), _kernel(done.model)
    channel = int(np.argmax(np.abs(float_).max(0)))
    kernel = next(k for k in kernels.find(four.model)[0] if k.layer == LAYER)
    row = kernel.matrix(_kernel(four.model))[channel]
    return {"ranges": ranges, "channel": channel, "float": _short(float_[:, channel]),
            "step8": float(np.abs(eight[:, channel]).max() / 127),
            "step4": float(np.abs(row).max() / 7), "levels4": int(len(np.unique(row))),
            "accuracy": _accuracy(done.model, data),
            "accuracy4": _accuracy(four.model, data),
            "file": _file(done.qat_model, source, place, data),
            "file4": _file(four.qat_model, source, place)}


def distilled(source, data: dict, place: Path) -> dict:
    """What the teacher says of some digits, and what its word is worth."""
    import numpy as np

    x, y = data["x_train"], data["y_train"]
    said = np.asarray(source.model(x.astype("float32"), training=False), np.float64)
    right = said.argmax(-1) == y
    entropy = -(said * np.log(np.maximum(said, 1e-9))).sum(-1)
    order = np.argsort(np.where(right, entropy, -1))[::-1]
    shown: list[int] = []
    for row in order:
        if y[row] not in [y[s] for s in shown]:
            shown.append(int(row))
    samples = []
    for row in shown[:3]:
        soft = said[row] ** 0.5
        samples.append({"label": int(y[row]), "pixels": x[row, :, :, 0].tolist(),
                        "said": _short(said[row]), "soft": _short(soft / soft.sum())})
    slim = {"stage": "structured", "to": 0.25}
    runs = []
    for name, folder, distill in (("labels alone", "with", False), ("both", "with", True),
                                  ("teacher alone", "without", True)):
        done = _run(source, place / folder, slim, epochs=8, distill=distill)
        runs.append({"name": name, "accuracy": _accuracy(done.model, data),
                     "agreement": _agreement(done.model, source.model, data)})
    return {"samples": samples, "runs": runs, "to": 0.25, "epochs": 8}


def own_training(source, data: dict, place: Path) -> dict:
    """Three fits of one's own: prune, cluster, QAT; accuracy and what the weights are."""
    import keras
    import numpy as np

    from tfcompress.compress.training import own_loop, recipe

    keras.utils.set_random_seed(0)
    x, y = (data[k].astype("float32" if k[0] == "x" else "int32") for k in ("x_train", "y_train"))
    test = data["x_test"].astype("float32"), data["y_test"].astype("int32")
    model, told = source.model, []
    for stage, epochs, rate in ((recipe.Prune(sparsity=0.8), 20, 2e-3),
                                (recipe.Cluster(clusters=16), 4, 1e-3), (recipe.Qat(), 4, 1e-4)):
        wrapped, callbacks = own_loop.wrap(model, stage, data=x[:256])
        wrapped.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy",
                        metrics=["accuracy"])
        points = []

        class Watch(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None, points=points, wrapped=wrapped):
                masks = [f.mask.numpy() for f in wrapped._hidden["forms"] if f.mask is not None]
                zeros = 1 - np.concatenate([m.ravel() for m in masks]).mean()
                points.append({"accuracy": logs["val_accuracy"], "zeros": float(zeros)})

        wrapped.fit(x, y, epochs=epochs, batch_size=32, verbose=0, validation_data=test,
                    callbacks=[*callbacks, Watch()])
        model = own_loop.finish(wrapped)
        values = _kernel(model)
        told.append({"stage": recipe.name_of(stage), "epochs": points,
                     "zeros": float((values == 0).mean()), "distinct": int(len(np.unique(values))),
                     "accuracy": _accuracy(model, data)})
    return {"fits": told, "file": _file(own_loop.quantized(wrapped), source, place)}


def _run(model, samples: Path, stage: dict, **training):
    from tfcompress.compress.training import finetune, recipe

    asked = recipe.from_dict({"stages": [stage], "training": training})
    return finetune.run(model, asked, samples)


def _file(qat_model, source, place: Path, data: dict | None = None) -> dict:
    """The int8 file of a model with learned ranges: bytes, gzip, and whether it agrees."""
    from tfcompress.artifact import TensorSpec
    from tfcompress.compress.training import qat_export

    inputs = [TensorSpec(s.name, (1, *s.shape[1:]), s.dtype) for s in source.inputs]
    told = qat_export.to_int8(qat_model, place / "model.tflite", inputs, source.outputs)
    content = (place / "model.tflite").read_bytes()
    found = told | {"bytes": len(content), "gzip": len(gzip.compress(content, mtime=0))}
    if data is not None:
        found["apart"] = _apart(content, qat_model, data)
    return found


def _apart(content: bytes, qat_model, data: dict) -> dict:
    """Over the test digits: in how many output values the file is so many steps from the model."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    get, put = interpreter.get_output_details()[0], interpreter.get_input_details()[0]["index"]
    x, found = data["x_test"].astype("float32"), []
    for row in x:
        interpreter.set_tensor(put, row[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(get["index"])[0])
    wanted = np.concatenate([np.asarray(qat_model.run([x[i:i + 100]])[0])
                             for i in range(0, len(x), 100)])
    steps = np.abs(np.round((np.array(found) - wanted) * 256)).astype(int)
    same = float((np.array(found).argmax(-1) == wanted.argmax(-1)).mean())
    right = float((np.array(found).argmax(-1) == data["y_test"]).mean())
    return {"steps": np.bincount(steps.ravel()).tolist(), "same": same, "accuracy": right}


def _samples(folder: Path, inputs, labels=None) -> None:
    import numpy as np

    (folder / "inputs").mkdir(parents=True)
    np.save(folder / "inputs" / "0.npy", inputs)
    if labels is not None:
        np.save(folder / "labels.npy", labels)
    (folder / "samples.json").write_text(json.dumps({"count": len(inputs), "random": False}))


def _kernel(model):
    return model.get_layer(LAYER).kernel.numpy()


def _ends(*arrays) -> tuple[float, float]:
    import numpy as np

    edge = float(np.quantile(np.abs(np.concatenate([a.ravel() for a in arrays])), 0.9995))
    return -edge, edge


def _histogram(values, low: float, high: float) -> list[int]:
    import numpy as np

    return np.histogram(np.clip(values, low, high), BINS, (low, high))[0].tolist()


def _short(values) -> list[float]:
    return [float(f"{v:.5g}") for v in values]


def _accuracy(model, data: dict) -> float:
    import numpy as np

    found = np.asarray(model(data["x_test"].astype("float32"), training=False))
    return float((found.argmax(-1) == data["y_test"]).mean())


def _outputs(model, layer: str, data: dict):
    """What a layer gives for the test digits, in float."""
    import keras
    import numpy as np

    part = keras.Model(model.inputs, model.get_layer(layer).output)
    return np.asarray(part(data["x_test"].astype("float32"), training=False))


def _agreement(model, other, data: dict) -> float:
    import numpy as np

    x = data["x_test"].astype("float32")
    a, b = (np.asarray(m(x, training=False)).argmax(-1) for m in (model, other))
    return float((a == b).mean())


MEASURES = {"structured": structured, "prune": pruned, "cluster": clustered, "qat": quantized,
            "distill": distilled, "own-loop": own_training}

if __name__ == "__main__":
    main(sys.argv[1:])
