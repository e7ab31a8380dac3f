"""Every model of keras.applications to float32 and int8 TFLite, beside TensorFlow's own int8.

    python tests/performance/applications.py [--peer] [--json FILE] [NAME ...]

Weights are random (seeded); BatchNormalization gets the statistics of one batch of noise, so that
the signal neither dies nor explodes on its way. 20 samples calibrate, 4 others judge. SNR is
against the Keras model; with `--peer` TensorFlow's converter makes an int8 file from the same
samples.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def names() -> list[str]:
    import keras

    found = [n for n in dir(keras.applications) if n[0].isupper()]
    return sorted(found, key=lambda n: (len(n), n))


def alive(model, x) -> None:
    """Give every BatchNormalization the statistics of `x`."""
    import keras

    norms = [layer for layer in model._flatten_layers()
             if isinstance(layer, keras.layers.BatchNormalization)]  # fmt: skip
    kept = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    if norms:
        model(x, training=True)
    for layer, momentum in zip(norms, kept, strict=True):
        layer.momentum = momentum


def peer(model, samples) -> bytes:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.representative_dataset = lambda: ([x[None]] for x in samples)
    return converter.convert()


def one(name: str, with_peer: bool) -> dict:
    import keras
    import numpy as np

    from tfcompress import targets
    from tfcompress.benchmark.runtimes import open_session
    from tfcompress.compress import lower
    from tfcompress.compress.models import load
    from tfcompress.compress.tflite import quantize
    from tfcompress.export.tflite import snr_db, to_tflite
    from tfcompress.worker import _static

    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None)
    rng = np.random.default_rng(0)
    _, height, width, channels = model.inputs[0].shape
    noise = rng.uniform(0, 255, (24, -(-height // 16), -(-width // 16), channels))
    x = noise.repeat(16, 1).repeat(16, 2)[:, :height, :width].astype(np.float32)
    if not any("escaling" in layer.name for layer in model.layers[:3]):
        x = x / 127.5 - 1
    alive(model, x[:4])
    loaded = load.describe(model, {}, [])
    reference = np.concatenate([load.call(loaded, [x[i : i + 1]])[0] for i in range(20, 24)])
    found: dict = {"parameters": model.count_params()}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        start = time.perf_counter()
        made = to_tflite(model, folder / "float.tflite", inputs=_static(loaded.inputs),
                         outputs=loaded.outputs, progress=lambda *_: None, lower=lower)  # fmt: skip
        found["convert_s"] = round(time.perf_counter() - start, 1)
        found["route"] = made["route"]
        samples = folder / "samples"
        (samples / "inputs").mkdir(parents=True)
        np.save(samples / "inputs" / "0.npy", x[:20])
        spec = [loaded.inputs[0].name]
        about = {"count": 20, "names": spec, "random": False}
        (samples / "samples.json").write_text(json.dumps(about))
        start = time.perf_counter()
        order = {"inputs": spec, "outputs": [loaded.outputs[0].name]}
        result = quantize.run({
            "float": str(folder / "float.tflite"), "samples": str(samples), "names": order,
            "targets": [targets.load("tflite-int8").to_dict()], "out": str(folder), "strict": False,
        }, lambda *_: None)["targets"]["tflite-int8"]  # fmt: skip
        found["quantize_s"] = round(time.perf_counter() - start, 1)
        files = {"float": folder / "float.tflite"}
        if "error" in result:
            found["error"] = result["error"]["message"]
        else:
            files["int8"] = folder / "tflite-int8.tflite"
            found["wider"] = sorted({f["op"] for f in result["fallbacks"]})
        if with_peer:
            try:
                files["peer"] = folder / "peer.tflite"
                files["peer"].write_bytes(peer(model, x[:20]))
            except Exception as error:
                found["peer_error"] = str(error)[:100]
                del files["peer"]
        for key, path in files.items():
            session = open_session(str(path), "litert", 2)
            out = np.concatenate([session.run([x[i : i + 1]])[0] for i in range(20, 24)])
            found[f"{key}_snr"] = round(min(snr_db(reference, out), 999.0), 1)
            found[f"{key}_bytes"] = path.stat().st_size
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3")
    if args.one:
        print("FOUND " + json.dumps(one(args.one, args.peer)))
        return
    results = {}
    for name in args.names or names():
        flags = ["--one", name, *(["--peer"] if args.peer else [])]
        start = time.perf_counter()
        done = subprocess.run([sys.executable, __file__, *flags], capture_output=True, text=True)
        told = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
        if told:
            results[name] = json.loads(told[0].removeprefix("FOUND "))
        else:
            lines = done.stderr.strip().splitlines() or ["no output"]
            results[name] = {"error": f"exit {done.returncode}: {lines[-1][:200]}"}
        results[name]["wall_s"] = round(time.perf_counter() - start, 1)
        print(f"{name:<20} {results[name]}", flush=True)
        if args.json:
            args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
