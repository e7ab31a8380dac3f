"""Our ONNX files beside those of plain tf2onnx and ONNX Runtime's own quantizer.

    python tests/performance/onnx_vs_ort.py [--threads N] [--seconds S] [--json FILE] [NAME ...]

The peers are tf2onnx as it comes, and from its file `quantize_static` (QDQ, per channel, after
`quant_pre_process`) and `quantize_dynamic`; where ONNX Runtime does not load that file, they get
ours. All files of a model are timed in one process, in bursts that go round in shuffled order,
without spinning threads. SNR is against the Keras model on samples that did not calibrate; nothing
is widened for it, as the peers widen nothing. Weights are random (seeded), normalization is fed
with noise.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def models() -> dict:
    """Name -> function that builds a model and makes its samples from a generator."""
    import keras
    from keras import layers as L

    def images(size):
        return lambda rng, n: rng.uniform(-1, 1, (n, size // 8, size // 8, 3)).repeat(8, 1).repeat(
            8, 2).astype("float32")

    def application(name, size=224):
        return lambda: getattr(keras.applications, name)(weights=None), images(size)

    def transformer():
        x = given = keras.Input((128,), dtype="int32")
        x = L.Embedding(5000, 256)(x)
        for _ in range(4):
            y = L.LayerNormalization()(x)
            x = x + L.MultiHeadAttention(4, 64)(y, y)
            y = L.LayerNormalization()(x)
            x = x + L.Dense(256)(L.Dense(1024, activation="gelu")(y))
        return keras.Model(given, L.Dense(10)(L.GlobalAveragePooling1D()(x)))

    def recurrent(kind):
        def build():
            return keras.Sequential([keras.Input((100, 64)), kind(128, return_sequences=True),
                                     kind(128), L.Dense(10)])  # fmt: skip
        return build, lambda rng, n: rng.normal(size=(n, 100, 64)).astype("float32")

    return {
        "MobileNetV2": application("MobileNetV2"),
        "transformer": (transformer, lambda rng, n: rng.integers(0, 5000, (n, 128))),
        "LSTM": recurrent(L.LSTM),
        "GRU": recurrent(L.GRU),
        "EfficientNetB0": application("EfficientNetB0"),
        "ResNet50": application("ResNet50"),
    }


def ours(model, samples, folder: Path) -> dict[str, Path]:
    import numpy as np

    from tfcompress import targets
    from tfcompress.compress import lower
    from tfcompress.compress.models import load
    from tfcompress.compress.onnx import quantize as onnx_quantize
    from tfcompress.export.onnx import to_onnx

    loaded = load.describe(model, {}, [])
    to_onnx(model, folder / "float.onnx", inputs=loaded.inputs, outputs=loaded.outputs,
            lower=lower, progress=lambda *_: None)  # fmt: skip
    (folder / "samples" / "inputs").mkdir(parents=True)
    np.save(folder / "samples" / "inputs" / "0.npy", samples)
    kinds = ["onnx-int8", "onnx-float16", "onnx-int4"]
    told = [targets.load(k).to_dict() | {"min_snr_db": 0.0} for k in kinds]
    made = onnx_quantize.run({
        "float": str(folder / "float.onnx"), "samples": str(folder / "samples"),
        "targets": told, "out": str(folder / "ours")},
        lambda *_: None)["targets"]  # fmt: skip
    for kind in kinds:
        print(f"  {kind}: {len(made[kind].get('fallbacks', ()))} wider, "
              f"{made[kind].get('seconds', 0):.1f} s, {made[kind].get('error', '')}")
    found = {k.removeprefix("onnx-"): Path(made[k]["path"]) for k in kinds if "path" in made[k]}
    return {"float32": folder / "float.onnx"} | found


def peers(model, samples, folder: Path) -> dict[str, Path]:
    import logging

    import keras
    import onnx
    import tf2onnx
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    logging.disable(logging.WARNING)
    found = {"tf2onnx float32": folder / "peer.onnx"}
    wrapped = keras.Model(model.inputs, model.outputs)
    tf2onnx.convert.from_keras(wrapped, opset=17, output_path=str(folder / "peer.onnx"))
    prepared = folder / "prepared.onnx"
    try:
        session(folder / "peer.onnx", 1)
    except Exception as error:  # its quantizers get our float file
        print(f"  tf2onnx float32: not loaded: {str(error)[:120]}")
        found.clear()
        shutil.copy(folder / "float.onnx", folder / "peer.onnx")
    with contextlib.suppress(Exception):
        quant_pre_process(str(folder / "peer.onnx"), str(prepared))
    prepared = prepared if prepared.exists() else folder / "peer.onnx"

    class Reader(q.CalibrationDataReader):
        def __init__(self):
            kind = str(model.inputs[0].dtype)
            name = onnx.load(prepared).graph.input[0].name
            self.rows = iter([{name: s[None].astype(kind)} for s in samples])

        def get_next(self):
            return next(self.rows, None)

    for name, run in {
        "ORT static": lambda out: q.quantize_static(
            str(prepared), out, Reader(), quant_format=q.QuantFormat.QDQ, per_channel=True,
            activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8),
        "ORT dynamic": lambda out: q.quantize_dynamic(str(prepared), out, per_channel=True),
    }.items():  # fmt: skip
        out = folder / f"{name.replace(' ', '-')}.onnx"
        try:
            run(str(out))
            found[f"{name} int8"] = out
        except Exception as error:
            print(f"  {name}: {type(error).__name__}: {str(error)[:120]}")
    return found


def session(path: Path, threads: int):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def call(session, row) -> list:
    """Every file of these models has one input; peers name it in their own way."""
    return session.run(None, {session.get_inputs()[0].name: row})


def race(files: dict[str, Path], row, threads: int, seconds: float) -> dict[str, list]:
    sessions = {n: session(p, threads) for n, p in files.items()}
    times: dict[str, list] = {n: [] for n in files}
    for s in sessions.values():
        call(s, row)
    order, names, start = random.Random(0), list(files), time.perf_counter()
    while time.perf_counter() - start < seconds * len(files):
        order.shuffle(names)
        for name in names:
            call(sessions[name], row)
            end = time.perf_counter() + 0.1
            while time.perf_counter() < end:
                before = time.perf_counter_ns()
                call(sessions[name], row)
                times[name].append((time.perf_counter_ns() - before) / 1e6)
    return times


def one(name: str, build, sample, threads: int, seconds: float) -> dict:
    import keras
    import numpy as np
    from trial import alive

    from tfcompress.export.tflite import snr_db

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    model = build()
    x = sample(rng, 24)
    alive(model, x[:8])
    wanted = np.asarray(model(x[20:], training=False))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        files = {f"ours {k}": v for k, v in ours(model, x[:20], folder).items()}
        files |= peers(model, x[:20], folder)
        x = x.astype(str(model.inputs[0].dtype))
        times = race(files, x[20:21], threads, seconds)
        found = {}
        for label, path in files.items():
            run = session(path, threads)
            got = np.concatenate([call(run, x[i : i + 1])[0] for i in range(20, 24)])
            found[label] = {"p50_ms": float(np.median(times[label])), "n": len(times[label]),
                            "p10_ms": float(np.quantile(times[label], 0.1)),
                            "bytes": path.stat().st_size,
                            "snr_db": float(snr_db(wanted, got))}  # fmt: skip
            r = found[label]
            print(f"  {label:20} p50 {r['p50_ms']:8.2f} ms  p10 {r['p10_ms']:8.2f}  "
                  f"{r['bytes'] / 1e6:7.2f} MB  {r['snr_db']:6.1f} dB", flush=True)  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="default: MobileNetV2 transformer LSTM")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0, help="per file")
    parser.add_argument("--json", metavar="FILE")
    told = parser.parse_args()
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3"}
    known, found = models(), {}
    for name in told.names or ["MobileNetV2", "transformer", "LSTM"]:
        print(f"{name}, {told.threads} thread(s), load {os.getloadavg()[0]:.1f}", flush=True)
        found[name] = one(name, *known[name], told.threads, told.seconds)
    if told.json:
        Path(told.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
