"""Every small model of `tests/zoo.py` to ONNX: how many run, how near, and in how few bits.

    python tests/performance/onnx_zoo.py [--quantize TARGET ...] [--json FILE] [NAME ...]

A construct that kills the process costs only itself: the process is started again behind it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parent.parent


def one(name: str, make, folder: Path, kinds: list[str]) -> dict:
    import onnx
    import zoo

    from tfcompress.compress import lower
    from tfcompress.compress.models import load
    from tfcompress.export.onnx import to_onnx

    start = time.perf_counter()
    try:
        model = zoo.build(name, make)
        try:
            loaded = load.describe(model, {}, [])
            inputs, outputs = loaded.inputs, loaded.outputs
        except Exception:
            inputs, outputs = zoo.specs(model)
    except Exception as error:
        return {"error": f"BUILD {type(error).__name__}: {error}"[:300]}
    path = folder / f"{name}.onnx"
    try:
        found = to_onnx(model, path, inputs=inputs, outputs=outputs, lower=lower,
                        progress=lambda *_: None)  # fmt: skip
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}".replace("\n", " ")[:900]}
    else:
        found["ops"] = dict(Counter(n.op_type for n in onnx.load(path).graph.node))
        if kinds:
            found |= quantized(path, folder, inputs, kinds)
    return found | {"seconds": round(time.perf_counter() - start, 2)}


def quantized(path: Path, folder: Path, inputs, kinds: list[str]) -> dict:
    from tfcompress import targets
    from tfcompress.compress.onnx import quantize as onnx_quantize

    made = onnx_quantize.run({
        "float": str(path), "samples": None, "out": str(folder),
        "targets": [targets.load(k).to_dict() for k in kinds],
        "names": {"inputs": [s.name for s in inputs]}}, lambda *_: None)["targets"]  # fmt: skip
    found = {}
    for kind in kinds:
        record = made[kind]
        if "error" in record:
            found[kind] = record["error"]["message"][:300]
        else:
            found[kind] = {"snr_db": record["snr_db"], "seconds": round(record["seconds"], 2),
                           "bytes": Path(record["path"]).stat().st_size,
                           "fallbacks": len(record["fallbacks"])}  # fmt: skip
    return found


def child(names: list[str], kinds: list[str]) -> None:
    sys.path.insert(0, str(TESTS))
    import zoo

    folder = Path(tempfile.mkdtemp() if "ZOO_OUT" not in os.environ else os.environ["ZOO_OUT"])
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in zoo.models().items():
        if name in names:
            print(json.dumps({"begin": name}), flush=True)
            print(json.dumps({"name": name} | one(name, make, folder, kinds)), flush=True)


def everything(names: list[str], kinds: list[str]) -> dict:
    left, done = list(names), {}
    while left:
        command = [sys.executable, __file__, "--child", *[f"--quantize={k}" for k in kinds], *left]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                   text=True)  # fmt: skip
        begun = None
        for line in process.stdout:
            if not line.startswith("{"):
                continue
            record = json.loads(line)
            if "begin" in record:
                begun = record["begin"]
                continue
            done[record.pop("name")] = record
            print(tell(begun, record), flush=True)
            begun = None
        if process.wait() and begun:
            done[begun] = {"error": "killed the process"}
            print(tell(begun, done[begun]), flush=True)
        elif not begun and not any(n in done for n in left):
            break
        left = [n for n in left if n not in done]
    return done


def tell(name: str, record: dict) -> str:
    if "error" in record:
        return f"{name:28} FAIL {record['error']}"
    parts = [f"{name:28} {float(record['snr_db']):6.1f} dB {record['route']:13}"]
    for key, value in record.items():
        if key.startswith("onnx-"):
            parts.append(f"{key} {value}" if isinstance(value, str) else
                         f"{key} {value['snr_db'] or float('inf'):.1f} dB "
                         f"{value['bytes']} B {value['fallbacks']} wider")  # fmt: skip
    return "  ".join([*parts, str(record["tried"] or "")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--quantize", action="append", default=[], metavar="TARGET")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.child:
        child(told.names, told.quantize)
        return
    sys.path.insert(0, str(TESTS))
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
    import zoo

    done = everything(told.names or list(zoo.models()), told.quantize)
    good = [n for n, r in done.items() if float(r.get("snr_db", "-inf")) >= 40]
    print(f"{len(good)} of {len(done)} run at 40 dB or more")
    for kind in told.quantize:
        near = [n for n in good if isinstance(done[n].get(kind), dict)
                and (done[n][kind]["snr_db"] is None or done[n][kind]["snr_db"] >= 20)]  # fmt: skip
        print(f"{kind}: {len(near)} of {len(good)} at 20 dB or more")
    if told.json:
        Path(told.json).write_text(json.dumps(done, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
