"""Seconds for what needs no model, an argument error too, beside an empty Python process.

python tests/performance/startup.py [--runs 20]
"""

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "tfcompress --help": ["-m", "tfcompress", "--help"],
    "tfcompress targets": ["-m", "tfcompress", "targets"],
    "tfcompress completion bash": ["-m", "tfcompress", "completion", "bash"],
    "argument error": ["-m", "tfcompress", "shrink", "m.keras", "--target", "tflite-int9"],
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    seconds = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *command], capture_output=True)
            seconds[name].append(time.perf_counter() - start)
    for name, values in seconds.items():
        print(f"{name:<26} p50 {statistics.median(values):.3f} s, max {max(values):.3f} s")


if __name__ == "__main__":
    main()
