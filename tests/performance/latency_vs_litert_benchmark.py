"""Our latency beside that of the wheel's own `litert-benchmark`, in alternate runs.

    python tests/performance/latency_vs_litert_benchmark.py [--model model.tflite] [--threads 1]

Without `--model` a MobileNetV2 (224x224) and a small one (alpha 0.35, 96x96) are made, with random
weights. Both tools use XNNPACK (their default), the same threads and random inputs in -1..1. Ends
with status 1 if the medians differ by more than `--within`.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tfcompress.benchmark import environment, latency

MODELS = {"mobilenetv2": {"input_shape": (224, 224, 3), "alpha": 1.0},
          "small": {"input_shape": (96, 96, 3), "alpha": 0.35}}


def make(folder: Path) -> None:
    """Write `MODELS` as float .tflite files; runs in a process of its own because of TensorFlow."""
    import keras
    import tensorflow as tf

    for name, config in MODELS.items():
        model = keras.applications.MobileNetV2(weights=None, classes=100, **config)
        image = tf.TensorSpec((1, *config["input_shape"]), tf.float32, name="image")
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint("serving_default", functools.partial(model, training=False), [image])
        archive.write_out(str(folder / name))
        lite = tf.lite.TFLiteConverter.from_saved_model(str(folder / name)).convert()
        (folder / f"{name}.tflite").write_bytes(lite)


def ours(path: Path, threads: int, seconds: float) -> dict:
    """p50, mean and least milliseconds by `benchmark.latency`."""
    artifact = {"name": "model", "path": str(path), "runtime": "litert"}
    found = next(m for m in latency.measure([artifact], [threads], seconds)["model"]
                 if m.name == "latency")
    if not found.values:
        raise SystemExit(found.note)
    return {key: found.summary()[key] for key in ("p50", "mean", "min", "n")}


def theirs(tool: str, path: Path, threads: int, runs: int) -> dict:
    """p50, mean and least milliseconds by `litert-benchmark`."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        subprocess.run([tool, f"--model={path}", f"--num_threads={threads}", f"--num_runs={runs}",
                        "--warmup_runs=20", f"--result_json={file.name}"],
                       check=True, capture_output=True)
        found = json.loads(Path(file.name).read_text())["latency"]
    return {"p50": found["median_ms"], "mean": found["avg_ms"], "min": found["min_ms"],
            "n": found["num_runs"]}


def compare(tool: str, path: Path, args) -> float:
    """Print both and return the ratio of the medians of all rounds' p50."""
    pairs = []
    for _ in range(args.rounds):
        mine = ours(path, args.threads, args.seconds)
        pairs.append((mine, theirs(tool, path, args.threads, mine["n"])))
    print(f"\n{path.name}, {args.threads} thread(s); ms, median of {args.rounds} rounds")
    ratios = {}
    for key in ("p50", "mean", "min"):
        a, b = (statistics.median(pair[i][key] for pair in pairs) for i in (0, 1))
        ratios[key] = a / b
        print(f"  {key:5} tfcompress {a:9.4f}   litert-benchmark {b:9.4f}   ratio {a / b:.3f}")
    print("  p50 by round:", ", ".join(f"{a['p50']:.3f}/{b['p50']:.3f}" for a, b in pairs))
    return ratios["p50"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, action="append", help="a .tflite file; may repeat")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each of our runs")
    parser.add_argument("--within", type=float, default=0.1)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        make(args.make)
        return 0
    beside = Path(sys.executable).parent / "litert-benchmark"
    tool = str(beside) if beside.is_file() else shutil.which("litert-benchmark")
    if not tool:
        raise SystemExit("litert-benchmark is not installed: pip install ai-edge-litert")
    machine = environment.describe()
    print(f"{machine['cpu']}, {machine['cores']} cores, load {machine['load']}, "
          f"ai-edge-litert {machine['versions'].get('ai-edge-litert')}")
    with tempfile.TemporaryDirectory() as folder:
        models = args.model
        if not models:
            subprocess.run([sys.executable, __file__, "--make", folder], check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            models = [Path(folder) / f"{name}.tflite" for name in MODELS]
        ratios = [compare(tool, path, args) for path in models]
    return int(any(abs(r - 1) > args.within for r in ratios))


if __name__ == "__main__":
    sys.exit(main())
