"""A recipe: what is done to a model before it is exported, in which order, and how it is trained.

    [training]
    epochs = 4

    [[stages]]
    stage = "prune"
    sparsity = 0.8

    [[stages]]
    stage = "qat"

Stages are data: adding an option is adding a field here. `recipe_schema.json` is the same as a JSON
schema. Standard library only.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UsageError

FOLDER = Path(__file__).parent / "recipes_toml"
STEPS = 1000  # in which a stage usually settles
OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop")
SCHEDULES = ("polynomial", "constant")
PATTERN = re.compile(r"unstructured|([1-9]\d?):([1-9]\d?)|block([1-9]\d?)x([1-9]\d?)")


@dataclass(frozen=True)
class Finetune:
    """Training alone, with no change to the weights' form."""

    epochs: int | None = None
    learning_rate: float | None = None


@dataclass(frozen=True)
class Prune:
    """Set the smallest weights to zero and train the others.

    Attributes:
        sparsity: Share of zeros in each kernel in the end. A pattern `n:m` has its own.
        pattern: `unstructured`, `2:4` (at most 2 of 4 consecutive inputs of an output are not
            zero; any n:m), or `block1x4` (blocks of 1 output times 4 consecutive inputs).
        schedule: `polynomial` lets the sparsity grow over the first half of the steps,
            `constant` prunes at once.
        layers: Which layers: names or types with `*`, commas between, `!` before exceptions.
        embeddings: Prune embedding tables too.
        epochs: Passes over the data; None takes the training's.
        learning_rate: None takes twice the training's.
    """

    sparsity: float = 0.8
    pattern: str = "unstructured"
    schedule: str = "polynomial"
    layers: str = "*"
    embeddings: bool = False
    epochs: int | None = None
    learning_rate: float | None = None


@dataclass(frozen=True)
class Cluster:
    """Let each kernel have few distinct values, and train these.

    Attributes:
        clusters: Distinct values per kernel, the zero of pruned weights included.
        layers: As in `Prune`.
        embeddings: Cluster embedding tables too.
        epochs: Passes over the data; None takes the training's.
        learning_rate: None takes the training's.
    """

    clusters: int = 16
    layers: str = "*"
    embeddings: bool = False
    epochs: int | None = None
    learning_rate: float | None = None


@dataclass(frozen=True)
class Qat:
    """Train with the rounding of the quantized file in place.

    Attributes:
        weight_bits: 8, or 4 for kernels of half the size.
        activation_bits: 8, or 16.
        layers: As in `Prune`; the others are left to calibration.
        epochs: Passes over the data; None takes the training's.
        learning_rate: None takes a tenth of the training's.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    layers: str = "*"
    epochs: int | None = None
    learning_rate: float | None = None


STAGES = {"finetune": Finetune, "prune": Prune, "cluster": Cluster, "qat": Qat}
Stage = Finetune | Prune | Cluster | Qat


@dataclass(frozen=True)
class Training:
    """How every stage is trained.

    Attributes:
        epochs: Passes over the data per stage; None: as many as make 1000 steps, 3 to 30.
        batch_size: Samples per step.
        learning_rate: At the start; it falls to zero along a cosine (from the moment at which
            pruning has reached its sparsity).
        optimizer: One of `OPTIMIZERS`.
        distill: The original model's outputs are a teacher, beside the labels or alone.
        temperature: Softens the distributions of a classifier and its teacher.
        teacher_weight: Share of the teacher in the loss where there are labels.
        patience: Epochs without progress on the validation samples after which a stage ends;
            None trains all epochs.
        validation: Share of the samples that are held out to choose the best epoch.
        seed: Of shuffling, initial clusters, dropout and augmentation.
    """

    epochs: int | None = None
    batch_size: int = 32
    learning_rate: float = 1e-3
    optimizer: str = "adam"
    distill: bool = True
    temperature: float = 2.0
    teacher_weight: float = 0.5
    patience: int | None = None
    validation: float = 0.1
    seed: int = 0


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
        for stage in self.stages:
            _check_stage(stage)
        _check_training(self.training)
        _check_order([name_of(s) for s in self.stages])

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


def name_of(stage: Stage) -> str:
    """`prune` for a `Prune`, and so on."""
    return next(name for name, kind in STAGES.items() if type(stage) is kind)


def names() -> list[str]:
    """The built-in recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def from_flags(*, prune: float | str | None = None, cluster: int | None = None, qat: bool = False,
               **training: Any) -> Recipe | None:
    """The recipe of `--prune 0.8 --cluster 16 --qat --epochs 3`; None if no stage is asked for.

    Args:
        prune: A sparsity, or a pattern such as `2:4`.
        cluster: Number of clusters.
        qat: Whether to train with quantization in place.
        **training: Fields of `Training`; None stands for the default. Distilling (`distill=True`)
            or training (`epochs=3`) without another stage is the stage `finetune`.
    """
    given = {k: v for k, v in training.items() if v is not None}
    stages: list[Stage] = []
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
            raise UsageError(f"unknown recipe {str(name)!r}", _meant(str(name), names()))
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
    _known_keys(record, ("summary", "stages", "training"), where)
    found = record.get("stages")
    if not isinstance(found, (list, tuple)) or not all(isinstance(s, dict) for s in found):
        raise UsageError(f"{where}: stages are missing", 'add [[stages]] with stage = "prune"')
    stages = []
    for number, one in enumerate(found, 1):
        kind = one.get("stage")
        if kind not in STAGES:
            raise UsageError(f"{where}: stage {number} is {kind!r}", _meant(str(kind), STAGES))
        values = {k: v for k, v in one.items() if k != "stage"}
        stages.append(_make(STAGES[kind], values, f"{where}, stage {kind}"))
    training = record.get("training", {})
    if not isinstance(training, dict):
        raise UsageError(f"{where}: training is not a table", "write [training]")
    return Recipe(tuple(stages), _make(Training, training, f"{where}, training"))


def _make(kind: type, values: dict, where: str) -> Any:
    """A dataclass of a table, each key known and each value of the field's type."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    _known_keys(values, fields, where)
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


def _known_keys(values: dict, known: Any, where: str) -> None:
    for key in values:
        if key not in known:
            raise UsageError(f"{where}: unknown key {key!r}", _meant(key, known))


def _meant(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def _check_stage(stage: Stage) -> None:
    name = name_of(stage)
    if isinstance(stage, Prune):
        _range(name, "sparsity", stage.sparsity, 0.01, 0.99)
        _one_of(name, "schedule", stage.schedule, SCHEDULES)
        match = PATTERN.fullmatch(stage.pattern)
        if not match or (match[1] and int(match[1]) >= int(match[2])):
            raise UsageError(f"prune: pattern {stage.pattern!r} is not known",
                             "use unstructured, 2:4 (any n:m with n < m) or block1x4")
    if isinstance(stage, Cluster):
        _range(name, "clusters", stage.clusters, 2, 256)
    if isinstance(stage, Qat):
        _one_of(name, "weight_bits", stage.weight_bits, (4, 8))
        _one_of(name, "activation_bits", stage.activation_bits, (8, 16))
    if stage.epochs is not None:
        _range(name, "epochs", stage.epochs, 0, 100_000)
    if stage.learning_rate is not None:
        _range(name, "learning_rate", stage.learning_rate, 0, 1000)
    if getattr(stage, "layers", "*").strip() == "":
        raise UsageError(f"{name}: layers is empty", 'leave it out, or write layers = "conv*"')


def _check_training(training: Training) -> None:
    if training.epochs is not None:
        _range("training", "epochs", training.epochs, 0, 100_000)
    _range("training", "batch_size", training.batch_size, 1, 1 << 20)
    _range("training", "learning_rate", training.learning_rate, 0, 1000)
    _one_of("training", "optimizer", training.optimizer, OPTIMIZERS)
    _range("training", "temperature", training.temperature, 0.1, 100)
    _range("training", "teacher_weight", training.teacher_weight, 0, 1)
    _range("training", "validation", training.validation, 0, 0.9)
    _range("training", "seed", training.seed, 0, 2**31 - 1)
    if training.patience is not None:
        _range("training", "patience", training.patience, 1, 100_000)


def _range(where: str, key: str, value: float, low: float, high: float) -> None:
    if not math.isfinite(value) or not low <= value <= high:
        raise UsageError(f"{where}: {key} = {value} is out of range",
                         f"give a value from {low} to {high}")


def _one_of(where: str, key: str, value: Any, allowed: tuple) -> None:
    if value not in allowed:
        raise UsageError(f"{where}: {key} = {value!r} is not known",
                         f"use one of: {', '.join(map(str, allowed))}")


_UNDONE = {
    ("cluster", "prune"): "pruning after clustering would move weights off their clusters",
    ("qat", "prune"): "pruning after QAT would leave ranges that were learned for other weights",
    ("qat", "cluster"): "clustering after QAT would move weights off the quantized grid",
    ("qat", "finetune"): "training after QAT would move weights off the quantized grid",
}


def _check_order(order: list[str]) -> None:
    for i, late in enumerate(order):
        if late in order[:i]:
            raise UsageError(f"the recipe has the stage {late} twice", "give each stage once")
        for early in order[:i]:
            if (early, late) in _UNDONE:
                raise UsageError(f"{late} cannot follow {early}: {_UNDONE[early, late]}",
                                 "order them: finetune, prune, cluster, qat")
