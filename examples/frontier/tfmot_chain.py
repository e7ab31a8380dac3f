"""PQAT and PCQAT by tensorflow-model-optimization and by tfcompress, side by side.

    python examples/frontier/tfmot_chain.py [--mnist mnist.npz] [--cifar10 cifar10.npz]

Both start from the same Keras 3 model (TFMOT on its tf_keras twin with equal outputs) and train on
the same samples in the same order with the same epochs, batches, optimizer and learning rates.
`--models`, `--chains`, `--by` and `--seeds` choose a part. Results are in README.md.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import tempfile
import time
from pathlib import Path

import common
import numpy as np

from tfcompress import tflite
from tfcompress.artifact import TensorSpec
from tfcompress.compress.models import load
from tfcompress.compress.tflite import trim
from tfcompress.compress.training import finetune, qat_export, recipe, tfmot

CHAINS = {
    "PQAT": (recipe.Prune(sparsity=0.7), recipe.Qat()),
    "PCQAT": (recipe.Prune(sparsity=0.7), recipe.Cluster(clusters=16), recipe.Qat()),
}
RUNS = {"TFMOT": (tfmot.run, False), "ours": (finetune.run, False),
        "ours, distilled": (finetune.run, True)}
KERNELS = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1}  # which input has weights


def digits(_: argparse.Namespace) -> tuple:
    """The model and data of this repository's example."""
    folder = Path(__file__).parent.parent
    with np.load(folder / "digits.npz") as data:
        return load.open_model(folder / "digits.keras"), dict(data)


def mnist(options: argparse.Namespace) -> tuple:
    """A small plain CNN, trained here."""
    return _trained(options.mnist, options, filters=(12, 24), shape=(28, 28, 1), epochs=6)


def cifar10(options: argparse.Namespace) -> tuple:
    """A CNN with BatchNormalization and a residual, trained here."""
    return _trained(options.cifar10, options, filters=(16, 32, 48), shape=(32, 32, 3), epochs=8)


MODELS = {"digits": digits, "mnist": mnist, "cifar10": cifar10}


def _trained(path: str, options: argparse.Namespace, filters: tuple, shape: tuple,
             epochs: int) -> tuple:
    import keras

    with np.load(path) as held:
        data = {k: held[k] for k in ("x_train", "y_train", "x_test", "y_test")}
    rng = np.random.default_rng(0)
    for part, count in (("train", options.rows), ("test", options.test_rows)):
        chosen = rng.permutation(len(data[f"x_{part}"]))[:count]
        data[f"x_{part}"] = data[f"x_{part}"][chosen].reshape(-1, *shape)
        data[f"y_{part}"] = data[f"y_{part}"][chosen].astype(np.int32)
    keras.utils.set_random_seed(0)
    model = cnn(shape, filters)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(data["x_train"].astype("float32"), data["y_train"], batch_size=64, epochs=epochs,
              verbose=0)
    return load.describe(model, {}, []), data


def cnn(shape: tuple, filters: tuple):
    """Convolutions with BatchNormalization and ReLU, one residual block, a Dense layer."""
    import keras
    from keras import layers

    given = keras.Input(shape, name="image")
    x = layers.Rescaling(1 / 255)(given)
    for count in filters:
        x = layers.Conv2D(count, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        x = layers.MaxPooling2D()(x)
    y = layers.Conv2D(filters[-1], 3, padding="same", use_bias=False)(x)
    y = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(y))
    x = layers.Flatten()(layers.Add()([x, y]))
    return keras.Model(given, layers.Dense(10, activation="softmax", name="label")(x))


def weights(file: Path) -> list[dict]:
    """Per weight tensor of a .tflite file: its zeros, and the most distinct values of a channel."""
    model = tflite.load(file)
    graph, told = model.subgraphs[0], []
    for op in graph.operators:
        place = KERNELS.get(tflite.op_name(model, op))
        if place is None or (data := model.buffers[graph.tensors[op.inputs[place]].buffer].data) \
                is None:
            continue
        tensor = graph.tensors[op.inputs[place]]
        values = np.frombuffer(bytes(data), np.int8 if tflite.dtype_names()[tensor.type] == "int8"
                               else np.float32).reshape(tensor.shape)
        axis = int(tensor.quantization.quantizedDimension or 0) if tensor.quantization else 0
        channels = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
        told.append({"tensor": tensor.name.decode(), "type": tflite.dtype_names()[tensor.type],
                     "values": int(values.size), "zeros": float((values == 0).mean()),
                     "distinct": int(len(np.unique(values))),
                     "per_channel": max(len(np.unique(c)) for c in channels)})
    return told


def measure(loaded: load.Loaded, data: dict, samples: Path, chain: str, seed: int, who: str,
            options: argparse.Namespace, folder: Path) -> dict:
    """One chain by one of the two, and what the int8 file is."""
    run, distill = RUNS[who]
    training = recipe.Training(epochs=options.epochs, batch_size=32, learning_rate=1e-3,
                               optimizer="adam", distill=distill)
    begin = time.perf_counter()
    done = run(loaded, recipe.Recipe(CHAINS[chain], training), samples, seed=seed,
               progress=common.say)
    seconds, file = time.perf_counter() - begin, folder / "model.tflite"
    ends = [[TensorSpec(s.name, (1, *s.shape[1:]), s.dtype) for s in specs]
            for specs in (loaded.inputs, loaded.outputs)]
    shipped: dict = {}
    if who == "TFMOT":
        told = done.qat_model.to_int8(file, *ends)
    else:
        told = qat_export.to_int8(done.qat_model, file, *ends)
        common.shipped_file(done, loaded, samples, folder / "shipped.tflite")
        shipped = {"shipped_" + k: v for k, v in _judged(folder / "shipped.tflite", data).items()}
    found, trimmed = weights(file), trim.trim(file.read_bytes())
    size = sum(w["values"] for w in found)
    return {"chain": chain, "by": who, "seed": seed, **_judged(file, data), **shipped,
            "bytes": file.stat().st_size, "gzip": common.zipped(file),
            "trimmed": len(trimmed), "trimmed_gzip": len(gzip.compress(trimmed, 9, mtime=0)),
            "zeros": sum(w["zeros"] * w["values"] for w in found) / size,
            "distinct": max(w["distinct"] for w in found), "route": told["route"],
            "float_ops": sum(told["float_ops"].values()), "seconds": seconds, "tensors": found}


def _judged(file: Path, data: dict) -> dict:
    """Accuracy of a file, sample by sample, and its sizes."""
    hits = common.hits(file, data["x_test"], data["y_test"])
    return {"accuracy": float(hits.mean()), "hits": np.packbits(hits).tobytes().hex(),
            "bytes": file.stat().st_size, "gzip": common.zipped(file)}


def against(rows: list[dict], of: str, samples: int) -> str:
    """The mean difference from TFMOT over the seeds that both have, and its standard error.

    The error is that of the differences sample by sample (each averaged over the seeds), to which
    the scatter from seed to seed is added where there are several.
    """
    def hits(key: str, who: str) -> dict:
        return {r["seed"]: np.unpackbits(np.frombuffer(bytes.fromhex(r[key]), np.uint8))[
            :samples].astype(float) for r in rows if r["by"] == who and key in r}

    ours, theirs = hits("hits" if of == "TFMOT" else "shipped_hits", of), hits("hits", "TFMOT")
    apart = np.array([ours[s] - theirs[s] for s in ours if s in theirs])
    if not len(apart) or of == "TFMOT":
        return ""
    error = apart.mean(0).std() ** 2 / samples
    if len(apart) > 1:
        error += apart.mean(1).var(ddof=1) / len(apart)
    return f"{100 * apart.mean():+.2f} ± {100 * error ** 0.5:.2f}"


def summary(name: str, rows: list[dict], samples: int) -> list[dict]:
    """Means over the seeds, as the table shows them."""
    made = []
    for chain, who in dict.fromkeys((r["chain"], r["by"]) for r in rows):
        mine = [r for r in rows if (r["chain"], r["by"]) == (chain, who)]

        def mean(key: str, mine: list = mine) -> float:
            return float(np.mean([r[key] for r in mine]))

        is_ours = "shipped_bytes" in mine[0]
        made.append({"model": name, "chain": chain, "by": who,
                     "accuracy": f"{mean('accuracy'):.2%}", "each": " ".join(
                         f"{r['accuracy']:.2%}" for r in mine),
                     ".tflite": f"{mean('bytes'):,.0f}", "gzip": f"{mean('gzip'):,.0f}",
                     "zeros": f"{mean('zeros'):.1%}", "values": max(r["distinct"] for r in mine),
                     "shipped": f"{mean('shipped_bytes'):,.0f}" if is_ours else "",
                     "its gzip": f"{mean('shipped_gzip'):,.0f}" if is_ours else "",
                     "its accuracy": f"{mean('shipped_accuracy'):.2%}" if is_ours else "",
                     "less TFMOT's": against(
                         [r for r in rows if r["chain"] == chain], who, samples)})
    return made


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--mnist", help="mnist.npz: x_train, y_train, x_test, y_test")
    words.add_argument("--cifar10", help="cifar10.npz, likewise")
    words.add_argument("--models", nargs="+", choices=MODELS, help="all whose data is given")
    words.add_argument("--chains", nargs="+", choices=CHAINS, default=list(CHAINS))
    words.add_argument("--by", nargs="+", choices=RUNS, default=list(RUNS))
    words.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    words.add_argument("--epochs", type=int, default=4, help="of each stage")
    words.add_argument("--rows", type=int, default=6000, help="training images of MNIST, CIFAR-10")
    words.add_argument("--test-rows", type=int, default=10_000)
    words.add_argument("--json", type=Path, help="keep rows there; what it has is not run again")
    options = words.parse_args()
    rows = json.loads(options.json.read_text()) if options.json and options.json.exists() else []
    for name in options.models or [n for n in MODELS if n == "digits" or getattr(options, n)]:
        loaded, data = MODELS[name](options)
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            samples = common.write_samples(folder / "samples", data["x_train"], data["y_train"])
            for key in itertools.product(options.chains, options.seeds, options.by):
                if [*key] in [[r["chain"], r["seed"], r["by"]] for r in rows if r["model"] == name]:
                    continue
                made = measure(loaded, data, samples, *key, options, folder)
                common.say(None, json.dumps({k: v for k, v in made.items()
                                             if k != "tensors" and "hits" not in k}))
                rows.append({"model": name} | made)
                if options.json:
                    options.json.write_text(json.dumps(rows))
        mine = sorted((r for r in rows if r["model"] == name),
                      key=lambda r: (r["chain"], [*RUNS].index(r["by"]), r["seed"]))
        common.table(summary(name, mine, len(data["y_test"])))


if __name__ == "__main__":
    main()
