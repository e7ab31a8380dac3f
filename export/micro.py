"""TFLite Micro: a C array of the model, the memory it needs, and whether every kernel is there.

    compile("m.tflite", "out", target) -> micro-model.h, micro-model.cc; arena and flash in bytes

The arena is planned as TFLite Micro does it (its GreedyMemoryPlanner: large tensors first, each at
the lowest gap that is free during its life). Where the `tflite-micro` package is installed, TFLite
Micro itself runs the model: it tells the arena, and its outputs are compared with LiteRT's.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from .. import tflite
from ..errors import MissingExtra

SECONDS = 600
SAMPLES = 4
SLOW_MACS = 50_000_000  # above it one sample: the reference kernels are slow
MOST_STEPS = 2
BYTES_PER_LINE = 12
ABSENT = MissingExtra("tflite-micro", "micro")


@functools.cache
def rules() -> dict:
    """The table of `rules/micro.toml`."""
    path = Path(__file__).parent / "rules" / "micro.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def compile(path: str, out_folder: str, target: dict) -> dict:
    """Write the C array of an int8 file, and say what a microcontroller needs for it.

    Args:
        path: The int8 .tflite file.
        out_folder: Where `micro-model.h` and `micro-model.cc` go, `micro` being the target's name.
        target: `Target.to_dict()`; `options.array` is the array's name, `g_model` by default.

    Returns:
        See `compilers.compile`. `path` is None: the .tflite file itself is the artifact.

    Raises:
        ModelError: The file cannot be read as TFLite.
    """
    model = tflite.load(path)
    ops = [op for graph in model.subgraphs for op in tflite.operations(model, graph)]
    guess = arena(model)
    real = run(path, guess)
    name = target.get("options", {}).get("array", "g_model")
    used = real["total"] if real and not real["error"] else guess
    stem = Path(out_folder) / f"{target['name']}-model"
    files = write_array(path, stem, name, used, sorted({op["op"] for op in ops}))
    return {
        "path": None,
        "files": [str(f) for f in files],
        "measurements": _measurements(path, guess, real),
        "findings": _findings(ops, real),
        "fallbacks": [],
    }


def missing(ops: list[dict]) -> list[str]:
    """Names of operators for which TFLite Micro has no kernel, in order of appearance."""
    known = set(rules()["ops"])
    return list(dict.fromkeys(op["op"] for op in ops if op["op"] not in known))


def arena(model) -> int:
    """Bytes of the tensor arena that TFLite Micro will need, estimated.

    Planned tensors, plus what the interpreter keeps for each tensor and operator (`[arena]` of the
    rules). Scratch buffers of LSTM, SVDF and of optimized kernels are not known.
    """
    terms = rules()["arena"]
    total = terms["base"]
    planned = 0
    for graph in model.subgraphs:
        ops = tflite.operations(model, graph)
        planned = max(planned, plan(lifetimes(model, graph))[1])
        ends = len(graph.inputs) + len(graph.outputs)
        total += terms["per_tensor"] * len(graph.tensors) + terms["per_end"] * ends
        total += (terms["per_operator"] + terms["per_operator_data"]) * len(ops)
        total += terms["per_channel"] * sum(_channels(op) for op in ops)
        total += sum(_align(t["bytes"]) for t in _variables(model, graph, ops))
    return planned + total


def _channels(op: dict) -> int:
    """Channels for which a kernel keeps a multiplier and a shift."""
    weighted = op["op"] in ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")
    return op["inputs"][1]["scales"] if weighted and op["inputs"][1] else 0


def _variables(model, graph, ops: list[dict]) -> list[dict]:
    """The state tensors, which live for ever."""
    read = {t["tensor"]: t for op in ops for t in op["inputs"] if t}
    return [read[i] for i in read if graph.tensors[i].isVariable]


def _align(size: int) -> int:
    step = rules()["arena"]["alignment"]
    return -(-size // step) * step


def lifetimes(model, graph) -> list[tuple[int, int, int]]:
    """(bytes, first, last) of each tensor that the arena holds; times are numbers of operators.

    An input lives from before the first operator, an output until after the last.
    """
    ops = tflite.operations(model, graph)
    sizes, first, last = {}, {}, {}
    for op in ops:
        for tensor in op["inputs"] + op["outputs"]:
            if tensor and not tensor["constant"] and not graph.tensors[tensor["tensor"]].isVariable:
                sizes[tensor["tensor"]] = _align(tensor["bytes"])
    for index in graph.inputs:
        first[index] = 0
    for at, op in enumerate(ops, start=1):
        for tensor in op["outputs"]:
            if tensor:
                first.setdefault(tensor["tensor"], at)
                last[tensor["tensor"]] = at
        for tensor in op["inputs"]:
            if tensor:
                last[tensor["tensor"]] = at
    for index in graph.outputs:
        last[index] = len(ops) + 1
    found = [(size, first.get(i, 0), last.get(i, 0)) for i, size in sorted(sizes.items())]
    return found + [(_align(_scratch(op)), at, at) for at, op in enumerate(ops, 1) if _scratch(op)]


def _scratch(op: dict) -> int:
    """Bytes that a reference kernel keeps only while it runs: 32-bit sums of its outputs."""
    return 4 * op["outputs"][0]["bytes"] if op["op"] == "TRANSPOSE_CONV" else 0


def plan(buffers: list[tuple[int, int, int]]) -> tuple[list[int], int]:
    """Place buffers in one block of memory, greedily by size.

    Args:
        buffers: (bytes, first time used, last time used) of each, times inclusive.

    Returns:
        Offset of each buffer, in the order given, and the bytes of the whole block. Buffers that
        live at the same time never overlap. Algorithm: Pisarchyk and Lee 2020 (arXiv 2001.03288),
        greedy by size, as in TFLite Micro's GreedyMemoryPlanner.
    """
    offsets = [0] * len(buffers)
    placed: list[int] = []
    for i in sorted(range(len(buffers)), key=lambda i: (-buffers[i][0], i)):
        size, first, last = buffers[i]
        alive = [j for j in placed if buffers[j][1] <= last and first <= buffers[j][2]]
        at = 0
        for j in sorted(alive, key=lambda j: offsets[j]):
            if offsets[j] - at >= size:
                break
            at = max(at, offsets[j] + buffers[j][0])
        offsets[i] = at
        placed.append(i)
    return offsets, max((offsets[i] + buffers[i][0] for i in placed), default=0)


_SCRIPT = """
import sys
import numpy as np
from tflite_micro import runtime
path, room, folder, inputs, outputs, count = sys.argv[1:]
model = runtime.Interpreter.from_file(path, arena_size=int(room))
given = [np.load(f"{folder}/in{i}.npy") for i in range(int(inputs))]
found = [[] for _ in range(int(outputs))]
for n in range(int(count)):
    for i, rows in enumerate(given):
        model.set_input(rows[n], i)
    model.invoke()
    for i, rows in enumerate(found):
        rows.append(model.get_output(i).copy())
for i, rows in enumerate(found):
    np.save(f"{folder}/out{i}.npy", np.stack(rows))
model.print_allocations()
"""


def there() -> bool:
    """Whether TFLite Micro's own interpreter is installed."""
    return importlib.util.find_spec("tflite_micro") is not None


def run(path: str, guess: int) -> dict | None:
    """Run a model by TFLite Micro's reference kernels, and the same inputs by LiteRT.

    Args:
        path: The .tflite file; it must keep no state from one inference to the next.
        guess: About how many bytes the arena needs.

    Returns:
        `{"total", "head", "tail"}`: bytes of the arena that TFLite Micro used; `difference`: the
        largest between its outputs and LiteRT's, in steps of the output's integers, on `samples`
        random inputs; `error`: empty where it ran. None where `tflite-micro` is not installed.
    """
    if not there():
        return None
    with tempfile.TemporaryDirectory(prefix="tfcompress-") as folder:
        model = tflite.load(path)
        ends = model.subgraphs[0]
        slow = sum(op["macs"] for op in tflite.operations(model)) > SLOW_MACS
        count = 1 if slow else SAMPLES
        expected = _litert(path, folder, count)
        command = [sys.executable, "-P", "-c", _SCRIPT, str(path), str(4 * guess + 2**20), folder]
        command += [str(len(ends.inputs)), str(len(ends.outputs)), str(count)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            return {"error": f"took more than {SECONDS} seconds"}
        told = done.stdout + done.stderr
        found = dict(re.findall(r"Arena allocation (total|head|tail) ([0-9]+) bytes", told))
        if done.returncode or "total" not in found:
            return {"error": _reason(told, done.returncode)}
        sizes = {k: int(v) for k, v in found.items()}
        apart = _difference(folder, expected)
        return sizes | {"difference": apart, "samples": count, "error": ""}


def _litert(path: str, folder: str, count: int) -> list:
    """Write random inputs to a folder; LiteRT's outputs for them, one array per output."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    graph = tflite.load(path).subgraphs[0]
    told = {d["index"]: d for d in interpreter.get_tensor_details()}
    random = np.random.default_rng(0)
    given = [_random(random, told[i]["dtype"], (count, *told[i]["shape"])) for i in graph.inputs]
    for i, rows in enumerate(given):
        np.save(f"{folder}/in{i}.npy", rows)
    found = [[] for _ in graph.outputs]
    for n in range(count):
        for i, rows in zip(graph.inputs, given, strict=True):
            interpreter.set_tensor(i, rows[n])
        interpreter.invoke()
        for i, rows in zip(graph.outputs, found, strict=True):
            rows.append(interpreter.get_tensor(i).copy())
    return [np.stack(rows) for rows in found]


def _random(random, dtype, shape: tuple):
    """Random values of an 8- or 16-bit input; zeros where integers may be indices."""
    import numpy as np

    if np.issubdtype(dtype, np.floating):
        return random.standard_normal(shape).astype(dtype)
    if np.dtype(dtype).itemsize > 2 or dtype == np.bool_:
        return np.zeros(shape, dtype)
    info = np.iinfo(dtype)
    return random.integers(info.min, info.max + 1, shape).astype(dtype)


def _difference(folder: str, expected: list) -> float:
    import numpy as np

    pairs = [(np.load(f"{folder}/out{i}.npy"), want) for i, want in enumerate(expected)]
    apart = [np.abs(a.astype(float).ravel() - b.astype(float).ravel()) for a, b in pairs]
    return float(max((d.max() for d in apart if d.size), default=0.0))


def _reason(told: str, status: int) -> str:
    """The line of TFLite Micro's output that says why it does not run a model."""
    lines = [x.strip() for x in told.splitlines() if x.strip()]
    native = [x for x in lines if not x.startswith(("Traceback", "File", "self.", "^", "model"))]
    return native[0] if native else f"ended with status {status}"


def write_array(path: str, stem: Path, name: str, size: int, ops: list[str]) -> list[Path]:
    """Write `STEM.h` and `STEM.cc`: the file as a constant array, aligned to 16 bytes.

    The header also has the arena's size and a function that registers the operators.
    """
    data = Path(path).read_bytes()
    guard = f"{name.upper()}_H_"
    calls = "".join(f"  resolver.Add{_method(op)}();\n" for op in ops)
    header = (
        f"#ifndef {guard}\n#define {guard}\n\n#include <cstddef>\n\n"
        f"extern const unsigned char {name}[];\n"
        f"extern const std::size_t {name}_len;\n\n"
        "// Bytes of the tensor arena: as used on a 64-bit host; a 32-bit device needs less.\n"
        f"constexpr std::size_t {name}_arena_size = {size};\n"
        f"constexpr int {name}_operators = {len(ops)};\n\n"
        f"// For a tflite::MicroMutableOpResolver<{name}_operators>.\n"
        "template <class Resolver>\n"
        f"inline void {name}_register(Resolver& resolver) {{\n{calls}}}\n\n#endif\n"
    )
    rows = (data[i : i + BYTES_PER_LINE] for i in range(0, len(data), BYTES_PER_LINE))
    body = ",\n".join("  " + ", ".join(f"0x{b:02x}" for b in row) for row in rows)
    source = (
        f'#include "{stem.name}.h"\n\nalignas(16) const unsigned char {name}[] = {{\n{body}\n}};\n'
        f"const std::size_t {name}_len = {len(data)};\n"
    )
    files = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".h", ".cc")]
    for file, text in zip(files, (header, source), strict=True):
        file.write_text(text, encoding="utf-8")
    return files


def _method(op: str) -> str:
    known = rules()["methods"].get(op)
    return known or "".join(part.capitalize() for part in op.split("_")).replace("2d", "2D")


def _measurements(path: str, guess: int, real: dict | None) -> list[dict]:
    def record(name, unit, values, note):
        return {"name": name, "unit": unit, "values": values, "note": note}

    if real and not real["error"]:
        ram = record("ram", "bytes", [float(real["total"])], "arena, measured by TFLite Micro")
    else:
        why = f"{ABSENT.message}; {ABSENT.hint}" if real is None else real["error"]
        ram = record("ram", "bytes", [float(guess)], f"arena, estimate; not measured: {why}")
    size = float(Path(path).stat().st_size)
    flash = record("flash", "bytes", [size], "the model alone, without TFLite Micro's code")
    if not real or real["error"]:
        return [ram, flash]
    note = f"TFLite Micro against LiteRT, random inputs: {real['samples']}"
    return [ram, flash, record("micro_difference", "steps", [real["difference"]], note)]


def _findings(ops: list[dict], real: dict | None) -> list[dict]:
    found = []
    absent = missing(ops)
    if absent:
        found.append({
            "level": "error",
            "text": f"TFLite Micro has no kernel for {', '.join(absent)}",
            "advice": "replace these layers, or write the kernels and register them",
        })
    elif real and real["error"]:
        found.append({
            "level": "error",
            "text": f"TFLite Micro does not run this file: {real['error']}",
            "advice": "the operation that it names is there, but not with these types or shapes",
        })
    if real is None:
        found.append({
            "level": "info",
            "text": f"not run by TFLite Micro: {ABSENT.message}; the arena is an estimate",
            "advice": ABSENT.hint,
        })
    if real and not real["error"] and real["difference"] > MOST_STEPS:
        found.append({
            "level": "warning",
            "text": f"TFLite Micro's outputs differ from LiteRT's by up to {real['difference']:g} "
            "steps of the output's integers",
            "advice": "check the accuracy on the device",
        })
    per_channel = any(
        op["op"] == "FULLY_CONNECTED" and op["inputs"][1] and op["inputs"][1]["scales"] > 1
        for op in ops
    )
    if per_channel and not absent:
        found.append({
            "level": "info",
            "text": "dense layers have a weight scale per channel",
            "advice": "needs TFLite Micro of 2024 or newer",
        })
    return found
