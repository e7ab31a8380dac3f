"""MLPerf Tiny's ResNet8 on CIFAR-10: as accurate, as small and as fast as it gets.

    python examples/frontier/resnet8.py --model resnet8.h5 --data cifar10.npz --experiment qat

The model: trained_models/pretrainedResnet.h5 under benchmark/training/image_classification of
https://github.com/mlcommons/tiny, and beside it pretrainedResnet_quant.tflite, the reference that
`--experiment fastest` is measured against. The data: any .npz with x_train, y_train (50,000 images
of 32 x 32 x 3, 0..255), x_test, y_test, as keras.datasets.cifar10 gives them. Results: README.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import common
import numpy as np

from tfcompress.benchmark import latency
from tfcompress.compress.models import load
from tfcompress.compress.tflite import blocks
from tfcompress.compress.training import finetune, recipe

TRAINING = recipe.Training(augment="flip+shift", batch_size=64, validation=0.0)


@dataclass(frozen=True)
class Experiment:
    """Stages, and what they are to reach: test accuracy in %, bytes, p50 as share of the
    reference's."""

    stages: tuple
    least: float
    most: int | None = None
    time: float | None = None


QAT = (recipe.Qat(epochs=8, learning_rate=5e-4),)
EXPERIMENTS = {
    "qat": Experiment(QAT, 87.2, most=98_496),
    "smallest": Experiment((recipe.Structured(to=0.555, multiple=2, epochs=6),
                            recipe.Qat(weight_bits=4, epochs=10, learning_rate=1e-3)),
                           85.0, most=30_000),
    "fastest": Experiment(QAT, 85.0, time=0.5),
}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--model", required=True, help="the trained ResNet8, .h5")
    words.add_argument("--data", required=True, help="cifar10.npz")
    words.add_argument("--experiment", required=True, choices=EXPERIMENTS)
    words.add_argument("--reference", help="the makers' int8 file, for --experiment fastest")
    words.add_argument("--out", default="frontier-out", help="folder; a killed run goes on there")
    told = words.parse_args()
    chosen = EXPERIMENTS[told.experiment]
    if chosen.time and not told.reference:
        words.error("--experiment fastest needs --reference")
    out = Path(told.out)
    out.mkdir(parents=True, exist_ok=True)
    data = np.load(told.data)
    file = out / f"resnet8-{told.experiment}.tflite"
    row = {"experiment": told.experiment} | train(told, chosen, data, file)
    row |= speed(file, Path(told.reference)) if chosen.time else {}
    hits = common.right(file, data["x_test"], data["y_test"].ravel())
    accuracy = 100 * hits / len(data["y_test"])
    row |= {"bytes": file.stat().st_size, "accuracy %": f"{accuracy:.2f}"}
    reached = accuracy >= chosen.least and row["bytes"] <= (chosen.most or row["bytes"]) and \
        row.get("of the reference", 0) <= (chosen.time or 0)
    common.table([row | {"reached": common.yes(reached)}])


def train(told: argparse.Namespace, chosen: Experiment, data: dict, file: Path) -> dict:
    """Write the int8 file of the experiment. Equal stages share their training."""
    name = next(n for n, e in EXPERIMENTS.items() if e.stages == chosen.stages)
    with tempfile.TemporaryDirectory() as folder:
        samples = common.write_samples(Path(folder), data["x_train"], data["y_train"].ravel())
        done = finetune.run(load.open_model(told.model), recipe.Recipe(chosen.stages, TRAINING),
                            samples, progress=common.say,
                            checkpoint_dir=Path(told.out) / f"resnet8-{name}")
    agreement = common.int8_file(done.qat_model, done.model, file)
    return {"parameters": done.model.count_params(),
            "equal to the QAT model": f"{100 * agreement['equal']:.0f} %"}


def speed(file: Path, reference: Path) -> dict:
    """Let the file compute on blocks of pixels, and measure it beside the reference."""
    plain = file.with_suffix(".plain.tflite")
    plain.write_bytes(file.read_bytes())
    file.write_bytes(blocks.to_blocks(file.read_bytes())[0])
    paths = {"reference": reference, "plain": plain, "blocks": file}
    found = latency.measure([{"name": n, "path": str(p), "runtime": "litert"}
                             for n, p in paths.items()], threads=[1], seconds=5.0)
    p50 = {n: statistics.median(m[0].values) for n, m in found.items()}
    return {f"{n} p50 ms": f"{v:.3f}" for n, v in p50.items()} | \
        {"of the reference": round(p50["blocks"] / p50["reference"], 3)}


if __name__ == "__main__":
    main()
