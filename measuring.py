"""`tfcompress benchmark`: one .tflite measured on this machine and on others, side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from . import data as samples
from . import tflite
from .artifact import TensorSpec
from .benchmark import devices, environment
from .child import Child
from .errors import TfcompressError, UsageError, from_dict


def benchmark(path: str | Path, device: Sequence[str] = ("local",), *, data: str | None = None,
              threads: int = 1, seconds: float = 2.0, python: str = "python3",
              on_event: Callable[[str, float | None, str], None] = lambda *_: None) -> list[dict]:
    """Latency, load time, memory and agreement of a .tflite on each device.

    Args:
        path: The file.
        device: What `devices.parse` takes, each once.
        data: Samples to run and compare, as `--data` of `shrink` takes them; seeded noise without.
        threads: Of the runtime.
        seconds: Measured per device.
        python: The devices' Python.
        on_event: Called with (stage, None, text).

    Returns:
        Per device what `devices.measure` returns, or `{"device", "error"}`.

    Raises:
        UsageError: An argument is wrong.
        ModelError: The file is no .tflite.
        DataError: The data do not fit.
    """
    if threads < 1 or not 0 < seconds <= 600:
        raise UsageError("threads and seconds must be positive", "for example --seconds 2")
    chosen = [devices.parse(text, python) for text in dict.fromkeys(device)]
    if not Path(path).is_file():
        raise UsageError(f"no file {path}", "give a .tflite file")
    if data:
        samples.check_spec(data)
    found = []
    with tempfile.TemporaryDirectory(prefix="tfcompress-") as folder:
        if data:
            with Child("data") as child:
                child.call("measuring:prepare", {"path": str(path), "data": data, "out": folder})
        else:
            tflite.load(path)
        for one in chosen:
            on_event("measure", None, str(one))
            try:
                found.append(devices.measure(
                    one, path, samples=f"{folder}/held_back" if data else None, threads=threads,
                    seconds=seconds))
            except TfcompressError as error:
                found.append({"device": str(one), "error": error.to_dict()})
    return found


def prepare(payload: dict, progress) -> dict:
    """Read the user's data for the file's inputs (in a child process)."""
    inside = tflite.describe(payload["path"])

    def specs(side: str) -> list[TensorSpec]:
        return [TensorSpec(t["name"], tuple(t["shape"]), "float32" if t["scale"] else t["dtype"])
                for t in inside[side]]

    return samples.prepare(payload["data"], specs("inputs"), specs("outputs"),
                           Path(payload["out"]), samples=devices.SAMPLES)


def table(found: list[dict], here: dict | None = None) -> str:
    """The figures as text, one line per device."""
    from .benchmark import words

    lines = [f"{'device':<28} {'p50':>10} {'p10-p90':>17} {'load':>9} {'memory':>9} {'SNR':>9}"]
    for one in found:
        if "error" in one:
            lines.append(f"{one['device']:<28} {from_dict(one['error']).unmeasured}")
            continue
        by = {m.name: m for m in one["measurements"]}
        latency = by["latency"]
        cells = [words.number("latency", latency.p50, "ms"), words.spread(latency)]
        cells += [words.number(n, by[n].p50, by[n].unit) if n in by and by[n].values else "-"
                  for n in ("load_time", "peak_memory", "snr")]
        lines.append(f"{one['device']:<28} {cells[0]:>10} {cells[1]:>17} {cells[2]:>9} "
                     f"{cells[3]:>9} {cells[4]:>9}")
        told = one["environment"]
        runtime = " ".join(str(told[k]) for k in ("runtime", "runtime_version") if k in told)
        lines.append("  " + ", ".join(t for t in (told.get("cpu"), runtime, latency.note) if t))
        lines += [f"  ▲ {f['text']}; {f['advice']}" for f in one["findings"]]
    here = here or environment.describe()
    return "\n".join(lines) + f"\nSNR against the same file on this machine ({here['cpu']}).\n"
