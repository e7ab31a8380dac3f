"""A recipe: what is done to a model before it is exported, in which order, and how it is trained.

    [training]
    epochs = 4

    [[stages]]
    stage = "prune"
    sparsity = 0.8

    [[stages]]
    stage = "qat"

The stages and their fields are in `stages`; `recipe_schema.json` is the same as a JSON schema.
Standard library only.
"""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import UsageError, known_keys, meant
from .stages import (
    MEASURES,
    PATTERN,
    STAGES,
    Cluster,
    Finetune,
    Prune,
    Qat,
    Stage,
    Structured,
    Training,
    check,
    check_order,
    name_of,
)

__all__ = ["PATTERN", "STAGES", "Cluster", "Finetune", "Prune", "Qat", "Recipe", "Stage",
           "Structured", "Training", "from_dict", "from_flags", "from_toml", "name_of", "names"]

FOLDER = Path(__file__).parent / "recipes_toml"
STEPS = 1000  # in which a stage usually settles
@dataclass(frozen=True)
class Recipe:
    """Stages in their order, and how they are trained.

    Raises:
        UsageError: A value is out of range, or the order would undo an earlier stage.
    """

    stages: tuple[Stage, ...]
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        if not self.stages:
            raise UsageError("the recipe has no stages", f"known stages: {', '.join(STAGES)}")
        for stage in (*self.stages, self.training):
            check(stage)
        check_order([name_of(s) for s in self.stages])

    @property
    def rounds(self) -> bool:
        """Whether a stage trains with the roundings of the quantized file."""
        return any(isinstance(stage, Qat) for stage in self.stages)

    def epochs(self, stage: Stage, steps: int) -> int:
        """Passes over the data in a stage, where one pass is `steps` steps."""
        told = self.training.epochs if stage.epochs is None else stage.epochs
        if told is None:
            return min(30, max(3, math.ceil(STEPS / max(steps, 1))))
        return told

    def learning_rate(self, stage: Stage) -> float:
        """Pruned weights have far to go; QAT starts from an optimum and only has to settle."""
        if stage.learning_rate is not None:
            return stage.learning_rate
        return self.training.learning_rate * {Prune: 2.0, Qat: 0.1}.get(type(stage), 1.0)

    def to_dict(self) -> dict:
        """JSON values; `from_dict` makes the same recipe of it."""
        stages = [{"stage": name_of(s)} | dataclasses.asdict(s) for s in self.stages]
        return {"stages": stages, "training": dataclasses.asdict(self.training)}


def names() -> list[str]:
    """The built-in recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def from_flags(*, prune: float | str | None = None, cluster: int | None = None, qat: bool = False,
               prune_to: float | str | None = None, **training: Any) -> Recipe | None:
    """The recipe of `--prune 0.8 --cluster 16 --qat --epochs 3`; None if no stage is asked for.

    Args:
        prune_to: What is to be left when whole channels go: `0.5`, `0.5 of macs`, `0.5 bytes`.
        prune: A sparsity, or a pattern such as `2:4`.
        cluster: Number of clusters.
        qat: Whether to train with quantization in place.
        **training: Fields of `Training`; None stands for the default. Distilling (`distill=True`)
            or training (`epochs=3`) without another stage is the stage `finetune`.
    """
    given = {k: v for k, v in training.items() if v is not None}
    stages: list[Stage] = []
    if prune_to is not None:
        stages.append(_structured_of(str(prune_to)))
    if prune is not None:
        stages.append(_prune_of(prune))
    if cluster is not None:
        stages.append(Cluster(clusters=cluster))
    if qat:
        stages.append(Qat())
    if not stages and (given.get("distill") or "epochs" in given):
        stages.append(Finetune())
    if not stages:
        return None
    return Recipe(tuple(stages), _make(Training, given, "training"))


def _structured_of(text: str) -> Structured:
    found = re.fullmatch(r"\s*(\d*\.?\d+)\s*(%?)(?:\s+(?:of\s+)?(\w+))?\s*", text)
    if not found:
        raise UsageError(f"{text!r} does not say how much of the model is to be left",
                         "for example 0.5, or 0.5 of macs")
    measure = (found[3] or "parameters").lower()
    if measure not in MEASURES:
        raise UsageError(f"{text!r}: a model has no {measure}", meant(measure, MEASURES))
    return Structured(to=float(found[1]) / (100 if found[2] else 1), of=measure)


def _prune_of(value: float | str) -> Prune:
    try:
        return Prune(sparsity=float(value))
    except ValueError:
        return Prune(pattern=str(value))


def from_toml(name: str | Path) -> Recipe:
    """The built-in recipe `name`, or the one in the user's file when it ends in `.toml`.

    Raises:
        UsageError: There is no such recipe, or the file is not one.
    """
    path = Path(name)
    if path.suffix != ".toml":
        path = FOLDER / f"{name}.toml"
        if str(name) not in names():
            raise UsageError(f"unknown recipe {str(name)!r}", meant(str(name), names()))
    try:
        record = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"no recipe file {path}", "check the path after --recipe") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read recipe file {path}: {error}", "give a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}", "correct that line") from None
    return from_dict(record, str(path))


def from_dict(record: dict, where: str = "recipe") -> Recipe:
    """The recipe that `Recipe.to_dict` or a TOML file holds.

    Raises:
        UsageError: An unknown key, a missing one, or a value that cannot be.
    """
    known_keys(record, ("summary", "stages", "training"), where)
    found = record.get("stages")
    if not isinstance(found, (list, tuple)) or not all(isinstance(s, dict) for s in found):
        raise UsageError(f"{where}: stages are missing", 'add [[stages]] with stage = "prune"')
    stages = []
    for number, one in enumerate(found, 1):
        kind = one.get("stage")
        if kind not in STAGES:
            raise UsageError(f"{where}: stage {number} is {kind!r}", meant(str(kind), STAGES))
        values = {k: v for k, v in one.items() if k != "stage"}
        stages.append(_make(STAGES[kind], values, f"{where}, stage {kind}"))
    training = record.get("training", {})
    if not isinstance(training, dict):
        raise UsageError(f"{where}: training is not a table", "write [training]")
    return Recipe(tuple(stages), _make(Training, training, f"{where}, training"))


def _make(kind: type, values: dict, where: str) -> Any:
    """A dataclass of a table, each key known and each value of the field's type."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    known_keys(values, fields, where)
    for key, value in values.items():
        allowed = str(fields[key].type)
        if not _fits(value, allowed):
            raise UsageError(f"{where}: {key} = {value!r} is no {allowed}",
                             f"for example {key} = {fields[key].default!r}"
                             if fields[key].default is not None else f"give {key} as {allowed}")
    return kind(**values)


def _fits(value: Any, allowed: str) -> bool:
    names_allowed = allowed.split(" | ")
    if value is None:
        return "None" in names_allowed
    if isinstance(value, bool):
        return "bool" in names_allowed
    if isinstance(value, int):
        return "int" in names_allowed or "float" in names_allowed
    return type(value).__name__ in names_allowed
