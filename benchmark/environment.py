"""What a measurement was made on: processor, memory, system and versions. Standard library only."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

PACKAGES = ("tfcompress", "tensorflow", "keras", "tf-keras", "ai-edge-litert", "tflite-runtime",
            "ai-edge-quantizer", "onnx", "tf2onnx", "onnxruntime", "onnxruntime-gpu",
            "onnxslim", "numpy", "ethos-u-vela", "tensorflow-model-optimization")
# Flags that decide how fast float and integer kernels are, under the names of the two families.
FLAGS = ("sse4_1", "sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni",
         "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
         "neon", "asimd", "asimddp", "asimdhp", "fphp", "i8mm", "bf16", "sve", "sve2", "sme")


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe() -> dict:
    """The machine and the software, as JSON values.

    Returns:
        `cpu` (model name), `cores` (which this process may use), `architecture`, `flags` (of those
        in `FLAGS`, the ones it has), `memory_bytes` (None where unknown), `load` (mean of the last
        minute), `os`, `python`, `versions` (by distribution name; what is not installed is left
        out).
    """
    model, flags = _linux_cpu() if sys.platform.startswith("linux") else _mac_cpu()
    return {
        "cpu": model or platform.processor() or "unknown",
        "cores": cores(),
        "architecture": platform.machine(),
        "flags": [f for f in FLAGS if f in flags],
        "memory_bytes": _memory(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "os": _system(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": _versions(),
    }


def _linux_cpu(path: str = "/proc/cpuinfo") -> tuple[str, set[str]]:
    """Model and flags of the first processor; ARM kernels give an implementer, not a name."""
    first: dict[str, str] = {}
    try:
        for line in Path(path).read_text(errors="replace").splitlines():
            key, found, value = line.partition(":")
            if found:
                first.setdefault(key.strip(), value.strip())
    except OSError:
        return "", set()
    model = first.get("model name") or first.get("Hardware") or first.get("Model") or ""
    if not model and "CPU part" in first:
        model = f"ARM implementer {first.get('CPU implementer')} part {first['CPU part']}"
    return model, set((first.get("flags") or first.get("Features") or "").split())


def _mac_cpu() -> tuple[str, set[str]]:
    text = _sysctl("machdep.cpu.features") + " " + _sysctl("machdep.cpu.leaf7_features")
    flags = {f.lower().replace(".", "_") for f in text.split()}
    optional = {"asimd": "hw.optional.AdvSIMD", "asimddp": "hw.optional.arm.FEAT_DotProd",
                "i8mm": "hw.optional.arm.FEAT_I8MM", "bf16": "hw.optional.arm.FEAT_BF16",
                "asimdhp": "hw.optional.arm.FEAT_FP16", "sme": "hw.optional.arm.FEAT_SME"}
    flags |= {flag for flag, key in optional.items() if _sysctl(key) == "1"}
    return _sysctl("machdep.cpu.brand_string"), flags


def _sysctl(key: str) -> str:
    try:
        done = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return int(_sysctl("hw.memsize") or 0) or None


def _system() -> str:
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        name = f"macOS {platform.mac_ver()[0]}" if sys.platform == "darwin" else ""
    return f"{name} ({platform.system()} {platform.release()})".strip()


def _versions() -> dict[str, str]:
    from importlib import metadata

    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
