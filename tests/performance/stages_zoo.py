"""Prune, cluster and QAT on every small model of `tests/zoo.py`: who takes part, and what breaks.

    python tests/performance/stages_zoo.py [--every N] [--backend tfmot] [--json FILE] [NAME ...]
    python tests/performance/stages_zoo.py --applications [MobileNetV2 ...]

`--applications` takes the models of keras.applications, at 96 pixels with ten classes and random
weights, instead. Each stage is trained for one epoch of two steps. A model that kills the process
costs only itself: the process is started again behind it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parent.parent
STAGES = ("prune", "cluster", "qat")
BATCH = 4


def recipes() -> dict:
    from tfcompress.compress.training import recipe

    training = recipe.Training(epochs=1, batch_size=BATCH, validation=0.0)
    stages = {"prune": recipe.Prune(sparsity=0.5, schedule="constant"),
              "cluster": recipe.Cluster(clusters=4), "qat": recipe.Qat()}
    return {k: recipe.Recipe((v,), training) for k, v in stages.items()}


def applications() -> dict:
    """The models of keras.applications by name, the small ones first."""
    import keras

    known = keras.applications
    names = sorted((n for n in dir(known) if n[0].isupper()), key=lambda n: (len(n), n))
    return {n: lambda n=n: getattr(known, n)(weights=None, input_shape=(96, 96, 3), classes=10)
            for n in names}


def rows(folder: Path, loaded) -> Path:
    """Seeded samples that fit any of the models: two steps of them."""
    import numpy as np
    import zoo
    from training import save_samples

    rng = np.random.default_rng(0)
    count = 2 * (loaded.inputs[0].shape[0] or BATCH)
    arrays = []
    for spec in zoo.specs(loaded.model)[0]:
        shape = (count, *spec.shape[1:])
        if "float" in spec.dtype:
            arrays.append(rng.normal(size=shape).astype(
                "float32" if spec.dtype == "bfloat16" else spec.dtype))
        elif spec.dtype == "string":
            arrays.append(rng.choice(["a b", "c"], shape).astype("S3"))
        else:
            arrays.append(rng.integers(0, 2 if spec.dtype == "bool" else 10,
                                       shape).astype(spec.dtype))
    return save_samples(folder, arrays)


def one(name: str, make, backend: str) -> dict:
    """What each stage did with a model: `kernels`, `skipped`, or the `error`."""
    import keras
    import numpy as np
    import zoo

    from tfcompress.compress.models import load
    from tfcompress.compress.training import finetune, tfmot
    from tfcompress.errors import TfcompressError

    run, told = {"native": finetune.run, "tfmot": tfmot.run}[backend], {}
    try:
        loaded = load.describe(zoo.build(name, make), {}, [])
    except Exception as error:
        return {"build": " ".join(str(error).split())[:200]}
    with tempfile.TemporaryDirectory() as folder:
        samples = rows(Path(folder), loaded)
        for stage, chosen in recipes().items():
            begin = time.perf_counter()
            try:
                done = run(loaded, chosen, samples)
                found = load.call(load.describe(done.model, {}, []), [
                    np.load(samples / "inputs" / f"{i}.npy") for i in range(len(loaded.inputs))])
                finite = all(np.isfinite(a).all() for a in found if a.dtype.kind == "f")
                told[stage] = {"kernels": len(done.kernels), "skipped": done.skipped,
                               "ranges": len(done.qat_model.ranges.plan.sites)
                               if backend == "native" and done.qat_model else None,
                               "finite": finite}
            except TfcompressError as error:
                told[stage] = {"refused": error.message}
            except Exception:
                told[stage] = {"error": traceback.format_exc()}
            told[stage]["seconds"] = round(time.perf_counter() - begin, 2)
    keras.backend.clear_session()
    return told


def child(names: list[str], backend: str, models: dict) -> None:
    """Answers by lines of JSON."""
    for name, make in models.items():
        if name in names:
            print(json.dumps({"begin": name}), flush=True)
            print(json.dumps({"name": name} | one(name, make, backend)), flush=True)


def everything(names: list[str], backend: str, more: list[str]) -> dict:
    left, done = list(names), {}
    while left:
        command = [sys.executable, __file__, "--child", "--backend", backend, *more, *left]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                   text=True)
        begun = None
        for line in process.stdout:
            if not line.startswith("{"):
                continue
            record = json.loads(line)
            if "begin" in record:
                begun = record["begin"]
                continue
            done[name := record.pop("name")] = record
            print(tell(name, record), flush=True)
            begun = None
        if process.wait() and begun:
            done[begun] = {s: {"error": "killed the process"} for s in STAGES}
            print(tell(begun, done[begun]), flush=True)
        elif not begun and not any(n in done for n in left):
            break
        left = [n for n in left if n not in done]
    return done


def tell(name: str, record: dict) -> str:
    if "build" in record:
        return f"{name:28} cannot be built: {record['build']}"
    parts = []
    for stage in STAGES:
        got = record[stage]
        if "error" in got:
            parts.append(f"{stage} CRASHED {got['error'].strip().splitlines()[-1][:120]}")
        elif "refused" in got:
            parts.append(f"{stage} refused: {got['refused'][:100]}")
        else:
            ranges = f"+{got['ranges']} ranges" if got["ranges"] is not None else ""
            parts.append(f"{stage} {got['kernels']}{ranges}" + ("" if got["finite"] else " NOT "
                                                                "FINITE"))
    return f"{name:28} " + "; ".join(parts)


def summary(done: dict) -> None:
    """Counts per stage, the reasons for which layers were skipped, and the tracebacks."""
    built = {n: r for n, r in done.items() if "build" not in r}
    for stage in STAGES:
        got = [r[stage] for r in built.values()]
        part = sum(bool(g.get("kernels") or g.get("ranges")) for g in got)
        print(f"{stage}: {part} of {len(got)} took part, "
              f"{sum('kernels' in g and not (g['kernels'] or g['ranges']) for g in got)} had "
              f"nothing to do, {sum('refused' in g for g in got)} were refused, "
              f"{sum('error' in g for g in got)} crashed, "
              f"{sum(not g.get('finite', True) for g in got)} gave values that are not finite")
        why = Counter(s["why"] for g in got for s in g.get("skipped", ()))
        for reason, count in why.most_common():
            print(f"    {count:4} layers: {reason}")
    for name, record in built.items():
        for stage in STAGES:
            if "error" in record[stage]:
                print(f"\n{name}, {stage}:\n{record[stage]['error']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each Nth model")
    parser.add_argument("--backend", choices=("native", "tfmot"), default="native")
    parser.add_argument("--applications", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
    sys.path.insert(0, str(TESTS))
    import zoo

    models = applications() if options.applications else zoo.models()
    if options.child:
        child(options.names, options.backend, models)
        return
    done = everything(options.names or list(models)[::options.every], options.backend,
                      ["--applications"] if options.applications else [])
    summary(done)
    if options.json:
        Path(options.json).write_text(json.dumps(done, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
