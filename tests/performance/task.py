"""Accuracy and size of an int8 file on a labelled task, with default settings.

    python tests/performance/task.py MODEL DATA.npz

DATA.npz holds x_train, y_train, x_test and y_test. Written for MLPerf Tiny's ResNet8 on CIFAR-10,
whose own reference int8 file has 98,496 bytes and 86.97 % on the 10,000 test images.
"""

import argparse
import json
import subprocess
import sys
import tempfile


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("data")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "tfcompress",
                "shrink",
                args.model,
                "--data",
                args.data,
                "--json",
                "--target",
                "tflite-int8",
                "--output",
                f"{folder}/out",
            ],
            stdout=subprocess.PIPE,
        )
        report = json.loads(done.stdout)
    for row in report["rows"]:
        figures = {m["name"]: m["summary"].get("p50") for m in row["measurements"]}
        kept = ("size", "size_gzip", "accuracy", "snr", "agreement", "latency")
        print(row["target"], {k: figures[k] for k in kept if figures.get(k) is not None})
    print("evaluated on", report["data"]["evaluated"], "samples")


if __name__ == "__main__":
    main()
