"""Constructs and applications to every kind of target, each artifact run in its real runtime.

    python tests/performance/matrix.py [--target TARGET ...] [--minutes N] [--again] [NAME ...]

Without names: what docs/compatibility.md shows, into docs/compatibility.json, and the page is
written from it. Finished ones are kept, so that a run that was ended goes on; `--again` does them
anew. `--all` takes every model of `tests/zoo.py`, `--every N` each N-th of them; `--json FILE`
keeps what is not for the page.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import constructs  # noqa: E402
import matrix_page  # noqa: E402
import sweep  # noqa: E402

LIMIT = 180.0  # seconds for one target of one model
PACKAGES = ("tensorflow", "keras", "ai-edge-litert", "ai-edge-quantizer", "tf2onnx", "onnx",
            "onnxruntime")  # fmt: skip


def jobs(names: list[str], chosen: list[str]) -> list[str]:
    """`name target` for everything asked for; all targets of a model after each other."""
    found = []
    for name in names:
        known = constructs.APPLICATION_TARGETS if name in constructs.APPLICATIONS else \
            constructs.TARGETS
        found += [f"{name} {target}" for target in chosen or known]
    return found


def child(folder: Path) -> None:
    """Do the jobs of standard input; a model is built once for the targets that follow."""
    import keras
    import trial

    @functools.lru_cache(1)
    def build(name: str):
        keras.backend.clear_session()
        for before in folder.iterdir():  # the files of one model are as much as is kept
            shutil.rmtree(before, ignore_errors=True)
        if name in constructs.APPLICATIONS:
            return trial.application(name, folder / name, constructs.APPLICATIONS[name])
        return trial.construct(name, folder / name)

    def one(job: str) -> dict:
        name, target = job.split()
        start = time.perf_counter()
        try:
            told = build(name).judge(target, shown)
        except Exception as error:
            told = {"error": f"cannot be built: {trial._said(error)}"}
        return told | {"seconds": round(time.perf_counter() - start, 2)}

    with trial.pages() as shown:
        sweep.answer(one)


def run(asked: list[str], minutes: float, done: dict, save) -> None:
    """Do what of the jobs is not in `done`, for so many minutes; `save` is called as it grows."""
    end = time.monotonic() + 60 * minutes
    left = [job for job in asked if job.split()[1] not in done.get(job.split()[0], {})]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--child", folder]
        for job, record in sweep.sweep(command, left, limit=LIMIT):
            name, target = job.split()
            done.setdefault(name, {})[target] = record
            print(tell(name, target, record), flush=True)
            if target == [j.split()[1] for j in asked if j.split()[0] == name][-1]:
                save()
                if time.monotonic() > end:
                    break
    save()


def tell(name: str, target: str, record: dict) -> str:
    if "error" in record or "late" in record:
        return f"{name:28} {target:16} FAIL {record.get('error', 'too late')[:300]}"
    wider = f"{record['wider']} wider" if "wider" in record else ""
    return (f"{name:28} {target:16} {float(record['snr_db']):6.1f} dB {record['seconds']:5.1f} s "
            f"{record['route']:10} {wider}")


def summary(done: dict) -> None:
    for target in dict.fromkeys(t for found in done.values() for t in found):
        records = matrix_page.measured(done, done, target)
        good = sum(matrix_page.good(r, target) for r in records)
        floor = matrix_page.floor_db(target)
        print(f"{target}: {good} of {len(records)} at {floor:.0f} dB or more")


def versions() -> dict:
    """What the figures were taken with."""
    from tfcompress.benchmark import packages

    told = {name: importlib.metadata.version(name) for name in PACKAGES}
    told |= {name: p["version"] for name, p in json.loads(packages.PINNED.read_text()).items()
             if name in ("@litertjs/core", "@tensorflow/tfjs", "onnxruntime-web")}  # fmt: skip
    return told | {"python": platform.python_version(), "machine": platform.machine()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--target", action="append", default=[])
    parser.add_argument("--minutes", type=float, default=1e6, metavar="N")
    parser.add_argument("--again", action="store_true", help="do finished ones anew")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--every", type=int, default=0, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    told = parser.parse_args()
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0",
                   "KERAS_BACKEND": "tensorflow"}  # fmt: skip
    if told.child:
        child(told.child)
        return
    shown = [n for group in constructs.GROUPS.values() for n in group] + [*constructs.APPLICATIONS]
    names = told.names or shown
    if told.all or told.every:
        import zoo

        names = list(zoo.models())[::told.every or 1]
    file = told.json or matrix_page.DATA
    record = json.loads(file.read_text()) if file.is_file() else {}
    done = record.get("models", {})
    asked = jobs(names, told.target)
    if told.again:
        for job in asked:
            done.get(job.split()[0], {}).pop(job.split()[1], None)

    def save() -> None:
        kept = {"date": f"{datetime.date.today():%Y-%m-%d}", "versions": versions(),
                "models": done}  # fmt: skip
        file.write_text(matrix_page.dump(kept))

    run(asked, told.minutes, done, save)
    summary({n: found for n, found in done.items() if n in names})
    if file == matrix_page.DATA:
        matrix_page.write()


if __name__ == "__main__":
    main()
