"""Targets are data: one TOML file each, read into a frozen `Target`.

A target says which file format an artifact has, how its numbers are stored, and which runtime
proves it. Adding a target is adding a TOML file.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UsageError

FORMATS = ("keras", "saved-model", "tflite", "onnx", "tfjs")
QUANTIZATIONS = ("none", "float16", "dynamic", "int8", "int16x8", "int4", "uint8")
RUNTIMES = ("litert", "keras", "tensorflow", "onnxruntime", "litert-js", "tfjs", "litert-gpu",
            "onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-web")
IO_DTYPES = ("float32", "int8", "uint8", "int16")
# What is run on the finished file, and which options each takes.
COMPILERS = {
    "edgetpu": ("multiple_subgraphs", "dense_weights"),
    "vela": ("accelerator", "system_config", "memory_mode", "config", "optimise"),
    "micro": ("array",),
    "web": (),
}
BACKENDS = ("wasm", "webgl", "webgpu")  # of browsers
LIMITS = ("bytes", "ram_bytes", "flash_bytes")
SUFFIXES = {"keras": ".keras", "saved-model": "", "tflite": ".tflite", "onnx": ".onnx",
            "tfjs": ""}
OPSETS = range(13, 19)


@dataclass(frozen=True)
class Target:
    """What an artifact must be.

    Attributes:
        name: What people type after `--target`.
        summary: One line on what it is for.
        format: One of `FORMATS`.
        quantization: One of `QUANTIZATIONS`; `none` keeps float32.
        runtime: One of `RUNTIMES`: what runs the artifact when it is proved and measured.
        io_dtype: Type of the model's float inputs and outputs at the artifact's boundary.
        min_snr_db: Below this signal-to-noise ratio against the source model, operations are
            given wider types until it is reached.
        ops: `{"deny": [...]}`: TFLite operators that the target cannot run.
        limits: `{"bytes": n}`: the largest file that the target takes; `ram_bytes` and
            `flash_bytes`: what a device has for the model.
        compiler: One of `COMPILERS`, run on the file when it has been made; empty for none.
        options: What that compiler is told, see `COMPILERS`.
        opset: ONNX operator set, one of `OPSETS`; None for the default.
        batch: Fixed batch size of an ONNX file; None leaves it free where the model's is.
        backends: Of `BACKENDS`: the artifact is judged on the first, and tried on the others.
    """

    name: str
    summary: str
    format: str
    quantization: str = "none"
    runtime: str = "litert"
    io_dtype: str = "float32"
    min_snr_db: float = 0.0
    ops: dict = field(default_factory=dict)
    limits: dict = field(default_factory=dict)
    compiler: str = ""
    options: dict = field(default_factory=dict)
    opset: int | None = None
    batch: int | None = None
    backends: tuple[str, ...] = ()

    @property
    def needs_data(self) -> bool:
        """Whether ranges of activations must be calibrated on representative data."""
        return self.quantization in ("int8", "int16x8")

    def to_dict(self) -> dict:
        return dataclasses.asdict(self) | {"needs_data": self.needs_data}


def names() -> list[str]:
    """The built-in targets, in the order in which they are best read."""
    return [t.name for t in load_all()]


def load_all() -> list[Target]:
    """Every built-in target, floats first."""
    found = [_read(path) for path in Path(__file__).parent.glob("*.toml")]
    return sorted(
        found, key=lambda t: (FORMATS.index(t.format), QUANTIZATIONS.index(t.quantization), t.name)
    )


def load(name: str) -> Target:
    """The target called `name`, or the one in the user's file when `name` ends in `.toml`.

    Raises:
        UsageError: The name is unknown, or the file cannot be read as a target.
    """
    if name.endswith(".toml"):
        return _read(Path(name))
    path = Path(__file__).parent / f"{name}.toml"
    if name and "/" not in name and "\\" not in name and path.is_file():
        return _read(path)
    plain = name.lower().replace("_", "-")
    found = [n for n in names() if plain in n] if len(plain) > 2 else []
    found = found or difflib.get_close_matches(plain, names(), n=1, cutoff=0.5)
    known = f"known targets: {', '.join(names())}"
    if found:
        listed = " or ".join(filter(None, (", ".join(found[:-1]), found[-1])))
        known = f"did you mean {listed}?" if len(found) > 1 else f"did you mean {listed}? {known}"
    raise UsageError(f"unknown target {name!r}", known)


def _read(path: Path) -> Target:
    try:
        record = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"no target file {path}", "check the path after --target") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read target file {path}: {error}", "give a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}", "correct that line") from None
    known = {f.name for f in dataclasses.fields(Target)} - {"name"}
    for key in record:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            meant = (
                f"did you mean {close[0]!r}?"
                if close
                else f"known keys: {', '.join(sorted(known))}"
            )
            raise UsageError(f"{path}: unknown key {key!r}", meant)
    for key in ("summary", "format"):
        if key not in record:
            raise UsageError(f"{path}: {key!r} is missing", f'add {key} = "..."')
    for key, allowed in (
        ("format", FORMATS),
        ("quantization", QUANTIZATIONS),
        ("runtime", RUNTIMES),
        ("io_dtype", IO_DTYPES),
        ("compiler", tuple(COMPILERS)),
    ):
        if key in record and record[key] not in allowed:
            raise UsageError(
                f"{path}: {key} = {record[key]!r} is not known", f"use one of: {', '.join(allowed)}"
            )
    for key, kind in (
        ("summary", str),
        ("min_snr_db", (int, float)),
        ("ops", dict),
        ("limits", dict),
        ("options", dict),
        ("opset", int),
        ("batch", int),
    ):
        if key in record and (not isinstance(record[key], kind) or isinstance(record[key], bool)):
            raise UsageError(f"{path}: {key} has the wrong type", "see targets/tflite-int8.toml")
    for table, allowed in (
        ("ops", ("deny",)),
        ("limits", LIMITS),
        ("options", COMPILERS.get(record.get("compiler", ""), ())),
    ):
        for key in record.get(table, {}):
            if key not in allowed:
                raise UsageError(
                    f"{path}: unknown key {key!r} in [{table}]", f"known keys: {', '.join(allowed)}"
                )
    if record.get("opset", OPSETS[0]) not in OPSETS:
        raise UsageError(f"{path}: opset = {record['opset']} is not known",
                         f"use {OPSETS[0]} to {OPSETS[-1]}")
    if record.get("batch", 1) < 1:
        raise UsageError(f"{path}: batch = {record['batch']} is no batch size", "use 1 or more")
    backends = record.get("backends", [])
    if not isinstance(backends, list) or not set(backends) <= set(BACKENDS):
        raise UsageError(f"{path}: backends = {backends!r} is not known",
                         f"use a list of: {', '.join(BACKENDS)}")
    return Target(name=path.stem, **record | {"backends": tuple(backends)})
