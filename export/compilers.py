"""What is run on a finished file for an accelerator or the web: one table, one form of answer.

    compile({"path": "m.tflite", "out": "folder", "target": target.to_dict()}, progress)

Adding a compiler is one module with a `compile(path, out_folder, target)`, one line in `COMPILERS`
and one in `targets.COMPILERS`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from .. import tflite
from . import edgetpu, micro, vela, web

COMPILERS = {"edgetpu": edgetpu.compile, "vela": vela.compile, "micro": micro.compile,
             "web": web.compile}
# Whether the machine has what a compiler needs: a result depends on it.
THERE = {"edgetpu": lambda: bool(shutil.which(edgetpu.TOOL)), "vela": vela.there,
         "micro": micro.there}
LIMITS = {"ram_bytes": ("ram", "RAM"), "flash_bytes": ("flash", "flash")}


def compile(payload: dict, progress) -> dict:
    """Run a target's compiler.

    Args:
        payload: `{"path": int8 .tflite file, "out": folder, "target": Target.to_dict()}`.
        progress: Called as `progress(None, text)`.

    Returns:
        path: The compiled file, or None where the int8 file itself stays the artifact.
        files: Further files to ship with it.
        measurements: `[{"name", "unit", "values", "note"}]`, for `artifact.Measurement`.
        findings: `[{"level", "text", "advice"}]`, as `artifact.Row` has them.
        fallbacks: `[{"op", "tensor", "layer", "precision", "why", "cost"}]`: what is left to
            the CPU.

    Raises:
        TargetError: The compiler fails, or the file is not one for it.
        ModelError: The file cannot be read as TFLite.
    """
    target = payload["target"]
    progress(None, f"compile for {target['name']}")
    Path(payload["out"]).mkdir(parents=True, exist_ok=True)
    found = COMPILERS[target["compiler"]](payload["path"], payload["out"], target)
    if found["fallbacks"]:
        layers = tflite.layer_names(tflite.load(payload["path"]))
        found["fallbacks"] = [f | {"layer": layers.get(f["tensor"], "")}
                              for f in found["fallbacks"]]
    found["findings"] = [*over_limits(found["measurements"], target), *found["findings"]]
    return found


def there(compiler: str) -> list[str]:
    """What decides whether this machine has a compiler, as `benchmark.runtimes.there` says it."""
    return [f"{compiler}: {THERE[compiler]()}"] if compiler in THERE else []


def over_limits(measurements: list[dict], target: dict) -> list[dict]:
    """One finding for each of the target's memory limits that a model exceeds."""
    values = {m["name"]: m["values"][0] for m in measurements if m["values"]}
    found = []
    for key, (name, words) in LIMITS.items():
        limit = target.get("limits", {}).get(key)
        if limit is not None and values.get(name, 0) > limit:
            found.append({
                "level": "error",
                "text": f"needs {values[name]:.0f} bytes of {words}; {target['name']} has {limit}",
                "advice": "a smaller input, fewer channels in the first layers, or pruning",
            })
    return found
