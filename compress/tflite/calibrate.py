"""Running .tflite files on samples: ranges of activations, outputs, and how far two files differ.

The samples are a folder (see `Samples`), one row at a time: files have a static batch of 1.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from ... import tflite
from ...errors import DataError

SMALLEST = 1e-300


class Samples:
    """Representative inputs: `inputs/<i>.npy` per model input in order, N rows each.

    Args:
        folder: The folder, or None for seeded random values in the shapes of the inputs (standard
            normal for floats, 0..9 for integers, 0..255 for uint8).
        inputs: The float file's inputs by name, in the order of the arrays: `{name: detail}`.
    """

    def __init__(self, folder: str | None, inputs: dict):
        import numpy as np

        self.names, self.random = list(inputs), folder is None
        if folder is None:
            self.count = 16
            rng = np.random.default_rng(0)
            self.arrays = [_random(rng, self.count, detail) for detail in inputs.values()]
            return
        paths = [Path(folder) / "inputs" / f"{i}.npy" for i in range(len(inputs))]
        try:
            self.arrays = [np.load(path, mmap_mode="r") for path in paths]
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read the samples: {error}", "make them again") from None
        record = Path(folder) / "samples.json"
        self.random = record.is_file() and bool(json.loads(record.read_text()).get("random"))
        self.count = min(len(a) for a in self.arrays) if self.arrays else 0
        if not self.count:
            raise DataError("there are no samples", "give data with at least one row")

    def row(self, k: int) -> dict:
        """Row `k` as `{input name: array (1, ...)}`, real numbers."""
        return {name: a[k:k + 1] for name, a in zip(self.names, self.arrays, strict=True)}

    def spread(self, count: int) -> list[int]:
        """`count` row numbers, evenly spread over all rows."""
        count = min(count, self.count)
        return [(2 * i + 1) * self.count // (2 * count) for i in range(count)]


def _random(rng, count: int, detail: dict):
    import numpy as np

    shape, dtype = (count, *[int(n) for n in detail["shape"][1:]]), np.dtype(detail["dtype"])
    if dtype.kind in "iub":
        most = 256 if dtype == np.uint8 else 2 if dtype.kind == "b" else 10
        return rng.integers(0, most, shape).astype(dtype)
    return rng.normal(size=shape).astype(dtype)


class Runner:
    """An interpreter on a model's bytes that takes and gives real numbers.

    Quantized inputs are quantized and quantized outputs are dequantized at the boundary.

    Args:
        model: The file's bytes.
        details: Keep intermediate tensors (slower).
        profile: Build it for `Runner.ranges`.
    """

    def __init__(self, model: bytes, details: bool = False, profile: bool = False):
        from ai_edge_litert import interpreter as litert

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.engine = litert.Interpreter(
                model_content=model, num_threads=min(os.cpu_count() or 1, 4),
                experimental_preserve_all_tensors=details,
                experimental_disable_delegate_node_fusion=profile,
                experimental_force_delegate_node_profiling=profile,
            )
        self.engine.allocate_tensors()
        signatures = self.engine.get_signature_list()
        if signatures:
            runner = self.engine.get_signature_runner(next(iter(signatures)))
            self.inputs, self.outputs = runner.get_input_details(), runner.get_output_details()
        else:
            self.inputs = {d["name"]: d for d in self.engine.get_input_details()}
            self.outputs = {d["name"]: d for d in self.engine.get_output_details()}

    def feed(self, row: dict) -> None:
        for name, detail in self.inputs.items():
            self.engine.set_tensor(detail["index"], quantize(row[name], detail))

    def run(self, row: dict) -> dict:
        """`{output name: float64 array}` of one row."""
        self.feed(row)
        self.engine.invoke()
        return {name: self.read(detail) for name, detail in self.outputs.items()}

    def read(self, detail: dict):
        """The present values of a tensor as real numbers."""
        return dequantize(self.engine.get_tensor(detail["index"]), detail)

    def tensors(self) -> Iterator[tuple[str, object]]:
        """`(name, values)` of every tensor of the main subgraph, after `run` with details."""
        for detail in self.engine.get_tensor_details():
            if detail["name"] and math.prod(detail["shape"]):
                try:
                    yield detail["name"], self.read(detail)
                except ValueError:  # no data: a temporary of a delegate, or unused
                    continue

    def ranges(self, row: dict) -> dict[str, tuple[float, float]]:
        """`{tensor name: (min, max)}` of one inference, counted inside the runtime."""
        from ai_edge_litert import _pywrap_tfl_calibration as calibration

        self.feed(row)
        found = calibration.InvokeWithCalibration(self.engine._native_handle(), 0)
        return {name: (s.min, s.max) for name, s in found.items()}


def quantize(values, detail: dict):
    """Real numbers to a tensor's dtype (rounded half to even, saturated)."""
    import numpy as np

    dtype, values = np.dtype(detail["dtype"]), np.asarray(values)
    if values.dtype.kind == "U":  # text is bytes there
        return np.char.encode(values, "utf-8").reshape(detail["shape"])
    scale, zero = detail["quantization"]
    if not scale or dtype.kind == "f":
        return np.ascontiguousarray(values).astype(dtype).reshape(detail["shape"])
    info = np.iinfo(dtype)
    steps = np.round(np.asarray(values, np.float64) / scale) + zero
    return np.clip(steps, info.min, info.max).astype(dtype).reshape(detail["shape"])


def dequantize(values, detail: dict):
    """A tensor's values as float64."""
    import numpy as np

    scale, zero = detail["quantization"]
    real = np.asarray(values).astype(np.float64)
    return (real - zero) * scale if scale and np.dtype(detail["dtype"]).kind in "iu" else real


def calibrate(model: bytes, samples: Samples, progress=None) -> dict:
    """Smallest and largest value of every tensor, per sample.

    The runtime counts them while it runs (three times as fast as reading every tensor back);
    tensors that it does not report are read back.

    Returns:
        `{tensor name: array (samples, 2) of float64}`.
    """
    import numpy as np

    runner = Runner(model, profile=True)
    found: dict[str, list] = {}
    for k in range(samples.count):
        for name, pair in runner.ranges(samples.row(k)).items():
            found.setdefault(name, []).append(pair)
        if progress and k % 8 == 0:
            progress(k / samples.count, "calibrating")
    ranges = {name: np.array(pairs) for name, pairs in found.items() if len(pairs) == samples.count}
    missing = _activations(model) - set(ranges)
    if missing:
        ranges |= _read_ranges(model, samples, missing)
    return ranges


def _activations(model: bytes) -> set[str]:
    """Names of the float32 tensors that operators of the main subgraph write."""
    parsed = tflite.load(model)
    graph = parsed.subgraphs[0]
    return {graph.tensors[i].name.decode() for op in graph.operators for i in op.outputs
            if i >= 0 and tflite.dtype_names()[graph.tensors[i].type] == "float32"}


def _read_ranges(model: bytes, samples: Samples, names: set[str]) -> dict:
    import numpy as np

    runner = Runner(model, details=True)
    found: dict[str, list] = {}
    for k in samples.spread(32):
        runner.run(samples.row(k))
        for name, values in runner.tensors():
            if name in names:
                found.setdefault(name, []).append((values.min(), values.max()))
    return {name: np.array(pairs) for name, pairs in found.items()}


def outputs(model: bytes, samples: Samples, rows: list[int]) -> list[dict]:
    """Outputs of the given rows, one dict each."""
    runner = Runner(model)
    return [runner.run(samples.row(k)) for k in rows]


def evaluate(payload: dict, progress) -> dict:
    """`{"snr": {output: dB}}` of one file against another, as a child's call.

    Args:
        payload: `float` and `file` (paths), `samples` (folder or None), `names` (inputs in the
            order of the samples) and `rows`.
        progress: Not called.
    """
    reference, file = (Path(payload[key]).read_bytes() for key in ("float", "file"))
    inputs = Runner(reference).inputs
    samples = Samples(payload["samples"], {name: inputs[name] for name in payload["names"]})
    rows = payload["rows"]
    return {"snr": output_snr(outputs(reference, samples, rows), outputs(file, samples, rows))}


def snr_db(reference: list, values: list) -> float:
    """Signal-to-noise ratio 10 log10(sum r^2 / sum (r - v)^2) in dB, over all arrays together.

    -inf where a value is not finite though its reference is; inf for no difference.
    """
    import numpy as np

    signal = noise = 0.0
    for r, v in zip(reference, values, strict=True):
        good = np.isfinite(r)
        if not np.isfinite(v[good]).all():
            return -math.inf
        signal += float(np.sum(np.square(r[good])))
        noise += float(np.sum(np.square(r[good] - v[good])))
    if noise == 0:
        return math.inf
    return 10 * math.log10(max(signal, SMALLEST) / noise)


def output_snr(reference: list[dict], found: list[dict]) -> dict[str, float]:
    """SNR in dB of every output, by name."""
    return {name: snr_db([r[name] for r in reference], [f[name] for f in found])
            for name in reference[0]}
