"""Every small model of `tests/zoo.py` in a real browser: how many run, and how near to Keras.

    python tests/performance/browser_zoo.py [--runtime litert-js-wasm ...] [--every N]
                                            [--keep FOLDER] [--json FILE] [NAME ...]

Runtimes are `litert-js-` and `tfjs-` with a backend: wasm, webgl, webgpu. Models are converted by
one process and run in one page for each runtime; a model that kills either costs only itself.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent.parent
FORMATS = {"litert-js": ".tflite", "tfjs": ".tfjs"}


def one(name: str, make, folder: Path, formats: set[str]) -> dict:
    """Convert a model; `folder` gets NAME.npz with inputs and outputs, and the artifacts."""
    import numpy as np
    import zoo

    from tfcompress.compress import lower
    from tfcompress.compress.models import load
    from tfcompress.compress.tflite import webfile
    from tfcompress.export import tfjs, tflite

    try:
        model = zoo.build(name, make)
        try:
            loaded = load.describe(model, {}, [])
            ends = {"inputs": [_one(s) for s in loaded.inputs], "outputs": loaded.outputs}
        except Exception:
            ends = dict(zip(("inputs", "outputs"), zoo.specs(model), strict=True))
        check = tflite._reference(model, **ends, lower=lower)
    except Exception as error:
        return {"error": f"BUILD {type(error).__name__}: {error}"[:300]}
    arrays = {f"{side}{i}": a for side, each in zip("xy", check, strict=True)
              for i, a in enumerate(each)}
    np.savez(folder / f"{name}.npz", **arrays)
    told = {side: [s.name for s in ends[side]] for side in ends}
    if "litert-js" in formats:
        path = folder / f"{name}.tflite"
        try:
            told["litert-js"] = tflite.to_tflite(model, path, **ends, lower=lower, check=check,
                                                 progress=lambda *_: None)["route"]
            path.write_bytes(webfile.for_browser(path.read_bytes())[0])
        except Exception as error:
            told["litert-js"] = {"error": f"CONVERT {error}"[:600]}
    if "tfjs" in formats:
        try:
            made = tfjs.to_tfjs(model, folder / f"{name}.tfjs", **ends, lower=lower)
            told["tfjs"] = {k: made[k] for k in ("route", "tried")}
        except Exception as error:
            told["tfjs"] = {"error": f"CONVERT {error}"[:900]}
    return told


def _one(spec):
    from tfcompress.artifact import TensorSpec

    return TensorSpec(spec.name, (1, *[d or 12 for d in spec.shape[1:]]), spec.dtype)


def child(names: list[str], every: int, folder: Path, formats: set[str]) -> None:
    sys.path.insert(0, str(TESTS))
    import zoo

    models = zoo.models()
    names = names or list(models)[::every]
    print(json.dumps({"names": names}), flush=True)
    for name in names:
        if not (folder / f"{name}.json").is_file():
            print(json.dumps({"begin": name}), flush=True)
            record = one(name, models[name], folder, formats)
            print(json.dumps({"name": name} | record), flush=True)


def converted(names: list[str], every: int, folder: Path, formats: set[str]):
    """Yield (name, record) as the converting process, started again where it dies, gets there."""
    died: set[str] = set()
    while True:
        command = [sys.executable, __file__, "--child", "--keep", str(folder), "--every",
                   str(every), *[f"--runtime={f}-wasm" for f in formats], *names]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                   text=True)
        begun = None
        for line in process.stdout:
            if not line.startswith("{"):
                continue
            record = json.loads(line)
            if "names" in record and not died:
                names = record["names"]
                for name in names:
                    if (folder / f"{name}.json").is_file():
                        yield name, json.loads((folder / f"{name}.json").read_text())
            elif "begin" in record:
                begun = record["begin"]
            elif "name" in record:
                name, begun = record.pop("name"), None
                (folder / f"{name}.json").write_text(json.dumps(record))
                yield name, record
        if not process.wait() or not begun or begun in died:
            return
        died.add(begun)
        record = {"error": "killed the process"}
        (folder / f"{begun}.json").write_text(json.dumps(record))
        yield begun, record


class Pages:
    """One page for each runtime, opened anew after a failure."""

    def __init__(self):
        self.sessions: dict = {}

    def run(self, runtime: str, path: Path, arrays: list, names: dict) -> tuple[list, str]:
        from tfcompress.benchmark.browser import BrowserSession
        from tfcompress.benchmark.runtimes import _order

        kind, _, backend = runtime.rpartition("-")
        session = self.sessions.pop(runtime, None)
        try:
            if session:
                session.open(str(path))
            else:
                session = BrowserSession(str(path), kind.removesuffix("-js"), backend)
            for side, what in enumerate(("inputs", "outputs")):
                have = [s["name"] for s in getattr(session, what)]
                session.order(side, _order(names[what], have, what, str(path)))
            outputs = session.run(arrays)
        except BaseException:
            if session:
                session.close()
            raise
        self.sessions[runtime] = session
        return outputs, session.about["backend"]

    def close(self) -> None:
        for session in self.sessions.values():
            session.close()


def judged(pages: Pages, runtime: str, name: str, record: dict, folder: Path) -> dict:
    import numpy as np

    from tfcompress.export.tflite import snr_db

    kind = runtime.rpartition("-")[0]
    made = record.get(kind, record)
    if isinstance(made, dict) and "error" in made:
        return {"error": made["error"]}
    arrays = np.load(folder / f"{name}.npz", allow_pickle=True)
    given, wanted = ([arrays[k] for k in arrays.files if k[0] == side] for side in "xy")
    try:
        got, backend = pages.run(runtime, folder / f"{name}{FORMATS[kind]}", given, record)
    except Exception as error:
        return {"error": f"RUN {getattr(error, 'message', None) or repr(error)}"[:400]}
    snr = min(snr_db(w, np.asarray(g).reshape(np.shape(w)) if np.size(g) == np.size(w) else g)
              for w, g in zip(wanted, got, strict=True))
    return {"snr_db": str(round(snr, 1)), "backend": backend}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--runtime", action="append", default=[])
    parser.add_argument("--every", type=int, default=1, metavar="N")
    parser.add_argument("--keep", metavar="FOLDER", help="keep (and use again) what is converted")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    told = parser.parse_args()
    runtimes = told.runtime or ["litert-js-wasm", "tfjs-wasm"]
    formats = {r.rpartition("-")[0] for r in runtimes}
    if told.child:
        child(told.names, told.every, Path(told.keep), formats)
        return
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
    folder = Path(told.keep or tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    done: dict = {r: {} for r in runtimes}
    with contextlib.closing(Pages()) as pages:
        for name, record in converted(told.names, told.every, folder, formats):
            for runtime in runtimes:
                result = done[runtime][name] = judged(pages, runtime, name, record, folder)
                if "error" in result or float(result["snr_db"]) < 40:
                    print(f"{runtime:16} {name:28} {result.get('error', result)}", flush=True)
    for runtime, found in done.items():
        good = [n for n, r in found.items() if float(r.get("snr_db", "-inf")) >= 40]
        print(f"{runtime}: {len(good)} of {len(found)} run at 40 dB or more")
    if told.json:
        Path(told.json).write_text(json.dumps(done, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
