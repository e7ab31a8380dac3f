"""The whole command against a plain TensorFlow script that does the same, in the same run.

    python tests/performance/shrink_vs_converter.py [--all] [--runs 3] [--model m.keras]

The model is MobileNetV2 at 224x224 with seeded random weights, the data 100 samples to calibrate
and 200 held back. The script (`peer` below) imports TensorFlow, loads the model, converts it with
tf.lite.TFLiteConverter and evaluates both models on the held-back samples. With `--all` it is run
once per TFLite target that the converter knows, and tfcompress makes all of its own at once.
Prints wall seconds, and peak memory (largest single process, and the sum over all at one time).
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

PEER_TARGETS = ("float32", "float16", "dynamic", "int8", "int16x8")
OURS = (
    "tflite-float32",
    "tflite-float16",
    "tflite-dynamic",
    "tflite-int8",
    "tflite-int16x8",
    "tflite-int4",
)


def peer(model_path: str, data_path: str, target: str) -> None:
    import numpy as np
    import tensorflow as tf

    model = tf.keras.models.load_model(model_path, compile=False)
    data = np.load(data_path)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if target != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if target == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if target in ("int8", "int16x8"):
        converter.representative_dataset = lambda: ([x[None]] for x in data["x_train"])
        ops = tf.lite.OpsSet
        converter.target_spec.supported_ops = [
            ops.TFLITE_BUILTINS_INT8
            if target == "int8"
            else ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]
    content = converter.convert()
    interpreter = tf.lite.Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    inside, outside = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    results = []
    for x in data["x_test"]:
        interpreter.set_tensor(inside["index"], x[None])
        interpreter.invoke()
        results.append(interpreter.get_tensor(outside["index"])[0])
    before = model.predict(data["x_test"], batch_size=32, verbose=0)
    noise = np.square(before - np.array(results)).sum()
    snr = 10 * np.log10(np.square(before).sum() / noise)
    print(f"peer {target}: {len(content):,} bytes, SNR {snr:.1f} dB")


def make(folder: Path) -> tuple[Path, Path]:
    code = (
        "import os; os.environ['KERAS_BACKEND'] = 'tensorflow'\n"
        "import keras, numpy as np\n"
        "keras.utils.set_random_seed(0)\n"
        f"keras.applications.MobileNetV2(weights=None).save(r'{folder / 'mobilenet_v2.keras'}')\n"
        "r = np.random.default_rng(0)\n"
        "x = r.uniform(-1, 1, (300, 14, 14, 3)).repeat(16, 1).repeat(16, 2).astype(np.float32)\n"
        f"np.savez(r'{folder / 'data.npz'}', x_train=x[:100], x_test=x[100:])\n"
    )
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([sys.executable, "-c", code], check=True, **quiet)
    return folder / "mobilenet_v2.keras", folder / "data.npz"


class Watched:
    """A command, its wall time, and the memory of it and everything that it started."""

    def __init__(self, command: list[str], **options):
        self.largest = self.together = 0
        start = time.perf_counter()
        process = subprocess.Popen(command, **options)
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(process.pid, done))
        watcher.start()
        self.code = process.wait()
        self.seconds = time.perf_counter() - start
        done.set()
        watcher.join()

    def _watch(self, pid: int, done: threading.Event) -> None:
        while not done.wait(0.05):
            sizes = [_resident(p) for p in _tree(pid)]
            self.largest = max([self.largest, *sizes])
            self.together = max(self.together, sum(sizes))


def _tree(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [p for child in task.read_text().split() for p in _tree(int(child))]
        except OSError:
            pass
    return found


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--all", action="store_true", help="every TFLite target")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--peer", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        return peer(*args.peer)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, data = (args.model, args.data) if args.model else make(folder)
        targets = PEER_TARGETS if args.all else ("int8",)
        ours = OURS if args.all else ("tflite-int8",)
        ratios = []
        for run in range(args.runs):
            theirs = [
                Watched(
                    [sys.executable, __file__, "--peer", str(model), str(data), t],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                for t in targets
            ]
            flags = [f for t in ours for f in ("--target", t)]
            mine = Watched(
                [
                    sys.executable,
                    "-m",
                    "tfcompress",
                    "shrink",
                    str(model),
                    "--data",
                    str(data),
                    "--samples",
                    "100",
                    "--eval-samples",
                    "200",
                    "--output",
                    str(folder / "out"),
                    *flags,
                ],
                env=os.environ | {"TFCOMPRESS_CACHE": str(folder / f"store{run}")},
            )
            shutil.rmtree(folder / f"store{run}", ignore_errors=True)
            shutil.rmtree(folder / "out", ignore_errors=True)
            total = sum(w.seconds for w in theirs)
            ratios.append(mine.seconds / total)
            largest, together = (
                f"{max(getattr(w, which) for w in theirs) / 1e6:.0f} and "
                f"{getattr(mine, which) / 1e6:.0f} MB"
                for which in ("largest", "together")
            )
            print(
                f"run {run + 1}: peer {total:.1f} s, tfcompress {mine.seconds:.1f} s, ratio "
                f"{ratios[-1]:.2f}; peak memory, largest process: {largest}; "
                f"all at once: {together}" + (f" (exit {mine.code})" if mine.code else ""),
                flush=True,
            )
        print(f"ratio, median of {args.runs}: {sorted(ratios)[len(ratios) // 2]:.2f}")


if __name__ == "__main__":
    main()
