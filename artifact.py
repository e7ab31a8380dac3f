"""The record that flows from stage to stage and ends in the report. Standard library only.

An `Artifact` is a file and how it was made, a `Measurement` is what was read off it, and a `Row`
is one line of the report: a target, its artifact and its measurements. All of them are frozen:
a stage returns a new one.
"""

from __future__ import annotations

import dataclasses
import keyword
import math
import re
from dataclasses import dataclass, field
from typing import Any

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape (None where free) and dtype of one model input or output."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    @classmethod
    def from_dict(cls, record: dict) -> TensorSpec:
        return cls(record["name"], tuple(record["shape"]), record["dtype"])


def argument_names(names: list[str]) -> list[str]:
    """The names, with a stand-in for each that cannot be the argument of a traced function.

    Python takes letters of every alphabet there; TensorFlow only ASCII ones, and no leading
    underscore. SavedModels have their inputs under these names.
    """
    taken = set(names)
    found = []
    for i, name in enumerate(names):
        if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name) or keyword.iskeyword(name):
            name = re.sub("[^A-Za-z0-9_]", "_", f"input_{name}")
            name = name if name not in taken else f"{name}_{i}"
            taken.add(name)
        found.append(name)
    return found


@dataclass(frozen=True)
class Step:
    """One thing that was done to a file.

    `seconds` is the wall time when it was really done; `cached` says that this run took the
    result of an earlier one with the same `digest_in` and `config`.
    """

    name: str
    config: dict[str, Any]
    seconds: float
    digest_in: str
    digest_out: str
    cached: bool = False

    @classmethod
    def from_dict(cls, record: dict) -> Step:
        return cls(**{f.name: record[f.name] for f in dataclasses.fields(cls) if f.name in record})


@dataclass(frozen=True)
class Artifact:
    """A file (or a folder, for a SavedModel) and the steps that made it."""

    path: str
    format: str
    steps: tuple[Step, ...] = ()

    @classmethod
    def from_dict(cls, record: dict) -> Artifact:
        steps = tuple(Step.from_dict(s) for s in record.get("steps", ()))
        return cls(record["path"], record["format"], steps)


@dataclass(frozen=True)
class Measurement:
    """What was measured, raw: `values` are all the samples, in `unit`.

    `note` is shown beside the figure ("random data", "1 thread"); a measurement without values
    is one that could not be made, and then `note` says why.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    note: str = ""

    @property
    def p50(self) -> float | None:
        return quantile(self.values, 0.5)

    def summary(self) -> dict[str, float | int]:
        """Count, minimum, p10, p50, p90 and mean; empty where nothing was measured."""
        if not self.values:
            return {}
        return {
            "n": len(self.values),
            "min": min(self.values),
            "p10": quantile(self.values, 0.1),
            "p50": quantile(self.values, 0.5),
            "p90": quantile(self.values, 0.9),
            "mean": math.fsum(self.values) / len(self.values),
        }

    @classmethod
    def from_dict(cls, record: dict) -> Measurement:
        values = (float(v) if isinstance(v, str) else v for v in record["values"])
        return cls(record["name"], record["unit"], tuple(values), record.get("note", ""))

    def to_dict(self) -> dict:
        """JSON has no infinity (an error of exactly zero has an infinite SNR): it is `"inf"`.

        In the same way `"-inf"` and `"nan"`, of outputs that are no numbers.
        """

        def plain(v):
            return v if math.isfinite(v) else str(v)

        return {
            "name": self.name,
            "unit": self.unit,
            "values": [plain(v) for v in self.values],
            "note": self.note,
            "summary": {k: plain(v) for k, v in self.summary().items()},
        }


@dataclass(frozen=True)
class Row:
    """One line of the report.

    Attributes:
        target: The target's name, or `source` for the model as it came.
        status: `ok`, `failed` (see `error`) or `rejected` (made, but worse than allowed).
        artifact: The file, with a path relative to the output folder; None when failed.
        measurements: Everything measured on it.
        error: `{"type", "message", "hint"}` of a failure or rejection.
        fallbacks: Operations kept in a wider type than the target asks for:
            `{"op", "tensor", "layer", "precision", "why", "cost"}`, all strings.
        findings: What a reader must know, in words: `{"level": "info|warning|error", "text",
            "advice"}`; a collapse adds `"layers": [{"tensor", "layer", "op", "snr_db"}]`.
        io: Signature, inputs and outputs of the file: `{"inputs": [...], "outputs": [...]}`, each
            `{"name", "shape", "dtype", "scale", "zero_point"}`.
    """

    target: str
    status: str
    artifact: Artifact | None = None
    measurements: tuple[Measurement, ...] = ()
    error: dict | None = None
    fallbacks: tuple[dict, ...] = ()
    findings: tuple[dict, ...] = ()
    io: dict = field(default_factory=dict)

    def get(self, name: str) -> Measurement | None:
        """The measurement called `name`, or None."""
        return next((m for m in self.measurements if m.name == name), None)

    def value(self, name: str) -> float | None:
        """The median of the measurement called `name`, or None where there is none."""
        found = self.get(name)
        return found.p50 if found else None

    @classmethod
    def from_dict(cls, record: dict) -> Row:
        return cls(
            target=record["target"],
            status=record["status"],
            artifact=Artifact.from_dict(record["artifact"]) if record["artifact"] else None,
            measurements=tuple(Measurement.from_dict(m) for m in record["measurements"]),
            error=record.get("error"),
            fallbacks=tuple(record.get("fallbacks", ())),
            findings=tuple(record.get("findings", ())),
            io=record.get("io", {}),
        )

    def to_dict(self) -> dict:
        record = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        record["artifact"] = dataclasses.asdict(self.artifact) if self.artifact else None
        record["measurements"] = [m.to_dict() for m in self.measurements]
        return record


@dataclass(frozen=True)
class Report:
    """What `report.json` holds; `benchmark/report_schema.json` documents it field by field.

    `training` is None where the model was exported as it came; `picks` are the artifacts to take
    and why (`benchmark/picks.py`).
    """

    source: dict
    data: dict
    rows: tuple[Row, ...]
    recipe: dict
    environment: dict
    command: str
    created: str
    version: str
    seconds: float = 0.0
    training: dict | None = None
    picks: tuple[dict, ...] = ()

    @classmethod
    def from_dict(cls, record: dict) -> Report:
        return cls(
            source=record["source"],
            data=record["data"],
            rows=tuple(Row.from_dict(r) for r in record["rows"]),
            recipe=record["recipe"],
            environment=record["environment"],
            command=record["command"],
            created=record["created"],
            version=record["tool"]["version"],
            seconds=record.get("seconds", 0.0),
            training=record.get("training"),
            picks=tuple(record.get("picks", ())),
        )

    def to_dict(self) -> dict:
        return {
            "schema_version": SCHEMA_VERSION,
            "tool": {"name": "tfcompress", "version": self.version},
            "created": self.created,
            "seconds": self.seconds,
            "command": self.command,
            "source": self.source,
            "data": self.data,
            "recipe": self.recipe,
            "training": self.training,
            "picks": list(self.picks),
            "rows": [r.to_dict() for r in self.rows],
            "environment": self.environment,
        }


def quantile(values: tuple[float, ...] | list[float], q: float) -> float | None:
    """The q-quantile with linear interpolation (NumPy's default method), None for no values."""
    if not values:
        return None
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low = math.floor(at)
    high = math.ceil(at)
    if low == high or ordered[low] == ordered[high]:
        return ordered[low]
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)
