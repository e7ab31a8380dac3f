"""What `tfcompress check` is told: the table `[check]` of a committed file, read and validated.

    [check]
    artifacts = "model-tfcompress"        # what `tfcompress shrink` wrote
    baseline = "baseline-tfcompress"      # an earlier one, for latency; optional

    [check.limits]                        # of every target
    bytes = "+1 %"

    [check.targets.tflite-int8]           # of one target
    bytes = "100 kB"

The same tables in `pyproject.toml` are called `[tool.tfcompress.check]`. Standard library only.
"""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UsageError, known_keys, meant

FILE = "tfcompress.toml"
BASELINE_FILE = "tfcompress-baseline.json"
_BYTES = {"B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9,
          "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_COUNT = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}
_SHARE = {"%": 0.01, "point": 0.01, "points": 0.01}


@dataclass(frozen=True)
class Measure:
    """Something that can be limited.

    Attributes:
        title: In words.
        unit: Of its figures; empty for ratios and shares.
        units: What may stand behind a limit's number, and the factor of each.
        share: Whether "+5 %" means five per cent of the baseline's figure.
        more: Whether more of it is better, so that its limit is the least.
        default: Limit where none is given; None for no limit.
        example: A limit as one would write it.
    """

    title: str
    unit: str = ""
    units: dict[str, float] = field(default_factory=dict)
    share: bool = True
    more: bool = False
    default: str | float | None = None
    example: str = ""


MEASURES = {
    "bytes": Measure("size", "B", _BYTES, default="+1 %", example='"100 kB" or "+5 %"'),
    "gzip": Measure("gzip", "B", _BYTES, example='"80 kB" or "+5 %"'),
    "parameters": Measure("parameters", "", _COUNT, example='"30 k" or "+5 %"'),
    "peak_memory": Measure("peak memory", "B", _BYTES, example='"8 MB" or "+10 %"'),
    "latency": Measure("latency", "×", {"x": 1, "×": 1}, default=1.15, example='1.15 or "+15 %"'),
    "metric_drop": Measure("metric drop", "", _SHARE, share=False, default=0.01, example="0.01"),
    "metric": Measure("metric", "", _SHARE, share=False, more=True,
                      example='0.95 or "-0.5 points"'),
    "snr": Measure("SNR", "dB", {"dB": 1}, share=False, more=True, example='30 or "-3 dB"'),
}


@dataclass(frozen=True)
class Limit:
    """The most (or the least) that a measure may be.

    Attributes:
        text: As the user wrote it.
        amount: The number, in the measure's unit.
        kind: `absolute`; or relative to the baseline's figure: `more` (added to it) or `share`
            (that share of it added to it).
    """

    text: str
    amount: float
    kind: str = "absolute"

    @property
    def relative(self) -> bool:
        return self.kind != "absolute"

    def threshold(self, base: float | None) -> float | None:
        """The figure itself, given the baseline's; None where that is needed and not known."""
        if not self.relative:
            return self.amount
        if base is None:
            return None
        return base + (self.amount * base if self.kind == "share" else self.amount)


@dataclass(frozen=True)
class Place:
    """Where one target's files are, if not in the folder, and its limits."""

    artifact: Path | None = None
    baseline: Path | None = None
    limits: dict[str, Limit] = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """The table `[check]`; all paths are made from the folder that its file is in.

    Attributes:
        file: The TOML file.
        artifacts: Output folder of `shrink`; None where each target names its own file.
        baseline: An earlier output folder, to run against; None for none.
        baseline_file: The committed record of sizes, written by `--update`.
        only: The targets to check; empty for all that there are.
        require: Measures whose absence is a failure.
        seconds: Time for measuring each artifact once.
        rounds: How often new processes measure each artifact.
        limits: Of every target.
        targets: What is different for one target.
    """

    file: Path
    artifacts: Path | None
    baseline: Path | None
    baseline_file: Path
    only: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    seconds: float = 1.0
    rounds: int = 5
    limits: dict[str, Limit] = field(default_factory=dict)
    targets: dict[str, Place] = field(default_factory=dict)

    def limits_of(self, target: str) -> dict[str, Limit]:
        """The limits of one target, in the order of `MEASURES`."""
        own = self.targets.get(target, Place()).limits
        found = self.limits | own
        return {k: found[k] for k in MEASURES if found.get(k) is not None}


def find(folder: Path) -> Path:
    """The file with the configuration: `tfcompress.toml`, or a `pyproject.toml` that has it.

    Raises:
        UsageError: Neither is there.
    """
    if (folder / FILE).is_file():
        return folder / FILE
    project = folder / "pyproject.toml"
    if project.is_file() and "check" in _read(project).get("tool", {}).get("tfcompress", {}):
        return project
    raise UsageError(f"no {FILE} here, and no [tool.tfcompress.check] in a pyproject.toml",
                     f'write {FILE} with: [check] and artifacts = "model-tfcompress"')


def load(path: Path) -> Config:
    """Read and validate the configuration.

    Raises:
        UsageError: The file cannot be read, has no `[check]`, an unknown key, or a value that
            cannot be.
    """
    record = _read(path)
    where = f"{path}: [check]"
    if path.name == "pyproject.toml":
        record = record.get("tool", {}).get("tfcompress", {})
        where = f"{path}: [tool.tfcompress.check]"
    if not isinstance(record.get("check"), dict):
        raise UsageError(f"{path} has no table [check]",
                         meant("check", record, "add [check]"))
    return from_dict(record["check"], path, where)


def from_dict(record: dict, file: Path, where: str = "[check]") -> Config:
    """The configuration of a table that was read from `file`.

    Raises:
        UsageError: As `load`.
    """
    known = ("artifacts", "baseline", "baseline_file", "only", "require", "seconds", "rounds",
             "limits", "targets")
    known_keys(record, known, where)
    paths = {k: _path(record, k, file, where) for k in ("artifacts", "baseline", "baseline_file")}
    lists = {k: _names(record, k, where) for k in ("only", "require")}
    for name in lists["require"]:
        if name not in MEASURES:
            raise UsageError(f"{where}: require names {name!r}", meant(name, MEASURES))
    tables = {k: record.get(k, {}) for k in ("limits", "targets")}
    for key, table in tables.items():
        if not isinstance(table, dict):
            raise UsageError(f"{where}: {key} is not a table", f"write [check.{key}]")
    targets = {name: _place(name, table, file, where) for name, table in tables["targets"].items()}
    if paths["artifacts"] is None and not any(p.artifact for p in targets.values()):
        raise UsageError(f"{where}: artifacts is missing", 'add artifacts = "model-tfcompress"')
    defaults = {k: m.default for k, m in MEASURES.items() if m.default is not None}
    return Config(
        file=file, artifacts=paths["artifacts"], baseline=paths["baseline"],
        baseline_file=paths["baseline_file"] or file.parent / BASELINE_FILE,
        only=lists["only"], require=lists["require"],
        seconds=_number(record, "seconds", 1.0, 0.1, 60, where),
        rounds=int(_number(record, "rounds", 5, 3, 50, where)),
        limits=_limits(defaults | tables["limits"], f"{where} limits"), targets=targets)


def limit(key: str, value: object, where: str = "[check]") -> Limit | None:
    """One limit as written in TOML; None for `false`, which takes a limit away.

    Raises:
        UsageError: It is no limit for that measure.
    """
    measure = MEASURES[key]
    wrong = UsageError(f"{where}: {key} = {value!r} is no limit",
                       f"for example {key} = {measure.example}")
    if value is False:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        found = Limit(f"{value:g}" if isinstance(value, float) else str(value), float(value))
    elif isinstance(value, str):
        found = _parsed(key, value, where)
    else:
        found = None
    if found is None or not math.isfinite(found.amount):
        raise wrong
    if found.kind == "absolute" and (found.amount < 0 or key == "latency" and not found.amount):
        raise wrong
    return found


def _parsed(key: str, text: str, where: str) -> Limit | None:
    measure = MEASURES[key]
    found = re.fullmatch(r"([+−-]?)\s*(\d[\d_,]*\.?\d*|\.\d+)\s*([^\d\s]*)", text.strip())
    if not found:
        return None
    sign, number, unit = found[1].replace("−", "-"), re.sub("[_,]", "", found[2]), found[3]
    amount = float(sign.replace("+", "") + number)
    if key == "latency" and unit in ("ms", "us", "µs", "s"):
        raise UsageError(f"{where}: latency = {text!r} is a time, which differs from machine to "
                         "machine", 'give a ratio to the baseline: latency = "+15 %"')
    if sign and unit == "%" and measure.share:
        return Limit(text, amount / 100, "share")
    if sign and unit == "%":
        hint = "points" if key != "snr" else "dB"
        raise UsageError(f"{where}: {key} = {text!r} could mean two things",
                         f"write {hint}, for example {key} = {sign}0.5 {hint}")
    if unit and unit not in measure.units or key == "latency" and sign:
        return None
    return Limit(text, amount * measure.units.get(unit, 1), "more" if sign else "absolute")


def _limits(table: dict, where: str) -> dict[str, Limit | None]:
    known_keys(table, MEASURES, where)
    return {key: limit(key, value, where) for key, value in table.items()}


def _place(name: str, table: Any, file: Path, where: str) -> Place:
    where = f"{where} targets.{name}"
    if not isinstance(table, dict):
        raise UsageError(f"{where} is not a table", f"write [check.targets.{name}]")
    known_keys(table, ("artifact", "baseline", *MEASURES), where)
    limits = {k: v for k, v in table.items() if k in MEASURES}
    return Place(_path(table, "artifact", file, where), _path(table, "baseline", file, where),
                 _limits(limits, where))


def _path(record: dict, key: str, file: Path, where: str) -> Path | None:
    value = record.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise UsageError(f"{where}: {key} = {value!r} is no path", f'{key} = "some/folder"')
    return file.parent / value


def _names(record: dict, key: str, where: str) -> tuple[str, ...]:
    value = record.get(key, [])
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise UsageError(f"{where}: {key} = {value!r} is no list of names", f'{key} = ["..."]')
    return tuple(value)


def _number(record: dict, key: str, default: float, least: float, most: float,
            where: str) -> float:
    value = record.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise UsageError(f"{where}: {key} = {value!r} cannot be",
                         f"give {least:g} to {most:g}; the default is {default:g}")
    return value


def _read(path: Path) -> dict:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"no file {path}", "check the path after --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}", "give a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}", "correct that line") from None
