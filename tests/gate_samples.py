"""Output folders as `tfcompress shrink` writes them, made in milliseconds, for the gate's tests."""

import json
from pathlib import Path

import numpy as np
from floatfiles import FloatFile

from tfcompress import store
from tfcompress.artifact import Artifact, Measurement, Report, Row

ROWS = 500


def network(path: Path, width: int = 16, side: int = 8) -> Path:
    """A .tflite of two convolutions and a dense layer; `width` filters in the second."""
    rng = np.random.default_rng(0)

    def weights(*shape):
        return rng.normal(size=shape, scale=0.3).astype("f4")

    build = FloatFile()
    x = build.conv(build.input("image", (1, side, side, 3)), weights(8, 3, 3, 3), relu=True)
    x = build.conv(x, weights(width, 3, 3, 8), relu=True)
    x = build.dense(build.mean(x), weights(4, width))
    path.parent.mkdir(parents=True, exist_ok=True)
    return build.save(path, {"logits": x})


def row(target: str, *, lost: int = 0, won: int = 0, snr: float = 40.0, memory: int = 4_000_000,
        **more) -> Row:
    """A row whose artifact gets 480 of 500 right before, and `lost - won` fewer after."""
    right = 480 - lost + won
    note = f"95 % interval; {ROWS} samples, {lost} lost, {won} won"
    found = (Measurement("snr", "dB", (snr,)), Measurement("accuracy", "share", (right / ROWS,)),
             Measurement("accuracy_drop", "share", ((lost - won) / ROWS,), note),
             Measurement("peak_memory", "bytes", (memory,)))
    return Row(target, "ok", Artifact(f"{target}.tflite", "tflite"), found, **more)


def report(folder: Path, *rows: Row, random: bool = False) -> Path:
    """Write `report.json` and `manifest.json` beside the files that are in the folder."""
    told = Report(source={"path": "model.keras"}, data={"random": random, "evaluated": ROWS},
                  rows=(Row("source", "ok"), *rows), recipe={}, environment={}, command="",
                  created="2026-01-01T00:00:00+00:00", version="0")
    store.write_json(folder / "report.json", told.to_dict())
    files = {p.relative_to(folder).as_posix(): {"sha256": store.file_digest(p)}
             for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "manifest.json"}
    (folder / "manifest.json").write_text(json.dumps({"files": files}))
    return folder


def shrunk(folder: Path, width: int = 16, target: str = "tflite-float32", **figures) -> Path:
    """An output folder with one artifact, in the place of what was there."""
    network(folder / f"{target}.tflite", width)
    return report(folder, row(target, **figures))
