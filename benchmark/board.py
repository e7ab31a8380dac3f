"""Measures one .tflite on the machine it runs on, and prints one line of JSON.

This file is sent to boards as it is: it needs Python 3.7, NumPy (1 or 2), and either ai-edge-litert
or tflite-runtime, and nothing of this package.

    python3 board.py m.tflite [inputs.npz] '{"threads": 1, "seconds": 2, "most": 1000}'

`inputs.npz` holds `0`, `1`, ... in the order of the file's inputs, as they are stored, one sample
per row; each row is run once and the raw outputs are part of the answer.
"""

import base64
import io
import json
import os
import platform
import sys
import time


def runtime():
    """The interpreter's class, and the name and version of the package that has it."""
    try:
        from ai_edge_litert import interpreter

        package = "ai-edge-litert"
    except ImportError:
        from tflite_runtime import interpreter

        package = "tflite-runtime"
    try:
        from importlib.metadata import version

        return interpreter, package, version(package)
    except Exception:  # Python 3.7 has no importlib.metadata
        return interpreter, package, "unknown"


def cpu():
    """The processor's and the board's own names, where Linux tells them."""
    names = []
    for path in ("/proc/device-tree/model", "/proc/cpuinfo"):
        try:
            with open(path, errors="replace") as file:
                text = file.read()
        except OSError:
            continue
        if path.endswith("model"):
            names.append(text.strip("\0\n "))
            continue
        for line in text.splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Hardware"):
                names.append(value.strip())
                break
    return ", ".join(names) or platform.processor() or "unknown"


def load_average():
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def peak():
    """Bytes: the most memory that this process has had."""
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def random_row(detail, rng):
    import numpy as np

    kind = np.dtype(detail["dtype"])
    shape = [int(n) if n > 0 else 1 for n in detail["shape"]]
    if kind.kind == "f":
        return rng.uniform(-1, 1, shape).astype(kind)
    if kind in (np.int8, np.uint8):
        limits = np.iinfo(kind)
        return rng.randint(limits.min, limits.max + 1, shape).astype(kind)
    return rng.randint(0, 2, shape).astype(kind)


def measure(path, samples, told):
    """What this machine makes of the file: latency in ms, outputs, and what it is."""
    import numpy as np

    interpreter, package, version = runtime()
    before = peak()
    start = time.perf_counter()
    engine = interpreter.Interpreter(model_path=path, num_threads=told["threads"])
    engine.allocate_tensors()
    load_ms = 1000 * (time.perf_counter() - start)
    inputs, outputs = engine.get_input_details(), engine.get_output_details()
    rng = np.random.RandomState(0)
    rows = [[a[i:i + 1] for a in samples] for i in range(len(samples[0]))] if samples else \
        [[random_row(d, rng) for d in inputs]]
    results = [[] for _ in outputs]
    for row in rows:
        for detail, value in zip(inputs, row):  # noqa: B905 (Python 3.7)
            engine.set_tensor(detail["index"], value.reshape(detail["shape"]))
        engine.invoke()
        for found, detail in zip(results, outputs):  # noqa: B905
            found.append(engine.get_tensor(detail["index"]).copy())
    load_before, times = load_average(), []
    start = time.perf_counter()
    while time.perf_counter() - start < 0.2:
        engine.invoke()
    start = time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - start < told["seconds"]
                             and len(times) < told["most"]):
        once = time.perf_counter()
        engine.invoke()
        times.append(1000 * (time.perf_counter() - once))
    held = io.BytesIO()
    np.savez(held, **{str(i): np.concatenate(r) for i, r in enumerate(results)})
    return {
        "latency_ms": times, "load_ms": load_ms, "threads": told["threads"],
        "peak_memory": None if before is None else peak() - before,
        "outputs": base64.b64encode(held.getvalue()).decode(),
        "runtime": package, "runtime_version": version, "numpy": np.__version__,
        "python": platform.python_version(), "machine": platform.machine(), "cpu": cpu(),
        "system": platform.platform(), "cores": os.cpu_count(), "load": [load_before,
                                                                        load_average()],
    }


def main(argv):
    import warnings

    warnings.simplefilter("ignore")
    try:
        import numpy as np

        samples = []
        if len(argv) > 2:
            with np.load(argv[1]) as held:
                samples = [held[str(i)] for i in range(len(held.files))]
        answer = measure(argv[0], samples, json.loads(argv[-1]))
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        answer = {"error": f"{type(error).__name__}: {text}",
                  "python": platform.python_version(), "machine": platform.machine()}
    print("\n" + json.dumps(answer))  # on a line of its own, whatever a library has printed


if __name__ == "__main__":
    main(sys.argv[1:])
