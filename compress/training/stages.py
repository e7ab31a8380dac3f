"""The stages of a recipe and how they are trained, as data, with the values that each may take.

Adding an option is adding a field here. Standard library only.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from ...errors import UsageError

OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop")
RATES = ("cosine", "linear", "exponential", "constant")
SCHEDULES = ("polynomial", "constant")
PATTERN = re.compile(r"unstructured|([1-9]\d?):([1-9]\d?)|block([1-9]\d?)x([1-9]\d?)")
MEASURES = ("parameters", "macs", "bytes")
AUGMENTS = ("flip", "shift", "flip+shift")
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Finetune:
    """Training alone, with no change to the weights' form."""

    epochs: int | None = None
    learning_rate: float | None = None


@dataclass(frozen=True)
class Structured:
    """Take whole channels, heads and units out, so that a smaller model is left, and train it.

    Attributes:
        to: Share of the model that is left, in the measure of `of`.
        of: `parameters`, `macs` (multiplications of one sample), or `bytes`.
        importance: What makes a channel worth keeping: `magnitude` of its weights, its
            `batchnorm` scale, or `taylor`, the loss that its absence costs on data.
        scope: `global` takes channels where they matter least in the whole model, `layer` the
            same share in each layer.
        layers: Which layers: names or types with `*`, commas between, `!` before exceptions.
        multiple: What the channels that are left come in multiples of; kernels run fastest so.
        rounds: In how many equal steps the model shrinks; it is trained after each.
        epochs: Passes over the data, over all rounds; None takes the training's.
        learning_rate: None takes the training's.
    """

    to: float = 0.5
    of: str = "parameters"
    importance: str = "magnitude"
    scope: str = "global"
    layers: str = "*"
    multiple: int = 4
    rounds: int = 1
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
        per_layer: Shares of zeros by layers, written as in `layers`, where they differ from
            `sparsity`: `{"dense*" = 0.95, conv1 = 0.5}`. The last one that takes a layer holds.
        embeddings: Prune embedding tables too.
        depthwise: Prune depthwise kernels too: few weights, each of which matters much.
        epochs: Passes over the data; None takes the training's.
        learning_rate: None takes twice the training's.
    """

    sparsity: float = 0.8
    pattern: str = "unstructured"
    schedule: str = "polynomial"
    layers: str = "*"
    per_layer: dict | None = None
    embeddings: bool = False
    depthwise: bool = False
    epochs: int | None = None
    learning_rate: float | None = None


@dataclass(frozen=True)
class Cluster:
    """Let each kernel have few distinct values, and train these.

    Attributes:
        clusters: Distinct values per kernel, the zero of pruned weights included.
        scope: `layer` gives each kernel values of its own, `global` one codebook to all.
        init: Where the first centers are: `linear` evenly between the smallest and the largest
            weight, `density` at equal shares of the weights, `kmeans++` drawn by the seed.
        layers: As in `Prune`.
        embeddings: Cluster embedding tables too.
        epochs: Passes over the data; None takes the training's.
        learning_rate: None takes the training's.
    """

    clusters: int = 16
    scope: str = "layer"
    init: str = "linear"
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


@dataclass(frozen=True)
class Training:
    """How every stage is trained.

    Attributes:
        epochs: Passes over the data per stage; None: as many as make 1000 steps, 3 to 30.
        batch_size: Samples per step.
        learning_rate: At the start of a stage.
        schedule: How it falls (from the moment at which pruning has reached its sparsity):
            `cosine` and `linear` to zero, `exponential` to a hundredth, `constant` not at all.
        optimizer: One of `OPTIMIZERS`.
        distill: The original model's outputs are a teacher, beside the labels or alone.
        temperature: Softens the distributions of a classifier and its teacher.
        teacher_weight: Share of the teacher in the loss where there are labels.
        augment: Changes each batch of inputs before it is trained on: `flip` (left to right),
            `shift` (by up to an eighth, edges repeated), `flip+shift`, or a function of the
            user's own as `package.module:function`. The teacher sees the changed inputs too.
        freeze: Layers that keep their weights and statistics, as in the `layers` of a stage.
        patience: Epochs without progress on the validation samples after which a stage ends;
            None trains all epochs.
        validation: Share of the samples that are held out to choose the best epoch.
        mixed_precision: Compute in half precision where no rounding is learned.
        tensorboard: Folder for TensorBoard's logs.
        seed: Of shuffling, initial clusters, dropout and augmentation.
    """

    epochs: int | None = None
    batch_size: int = 32
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    optimizer: str = "adam"
    distill: bool = True
    temperature: float = 2.0
    teacher_weight: float = 0.5
    augment: str | None = None
    freeze: str | None = None
    patience: int | None = None
    validation: float = 0.1
    mixed_precision: bool = False
    tensorboard: str | None = None
    seed: int = 0


STAGES = {"finetune": Finetune, "structured": Structured, "prune": Prune, "cluster": Cluster,
          "qat": Qat}
Stage = Finetune | Structured | Prune | Cluster | Qat

RANGES = {  # smallest and largest value of each number
    "to": (0.01, 0.99), "multiple": (1, 64), "rounds": (1, 20), "sparsity": (0.01, 0.99),
    "clusters": (2, 256), "epochs": (0, 100_000), "learning_rate": (0, 1000),
    "batch_size": (1, 1 << 20), "temperature": (0.1, 100), "teacher_weight": (0, 1),
    "patience": (1, 100_000), "validation": (0, 0.9), "seed": (0, 2**31 - 1),
}
CHOICES = {  # words and numbers of which one is meant, by (stage or training, field)
    ("structured", "of"): MEASURES,
    ("structured", "importance"): ("magnitude", "batchnorm", "taylor"),
    ("structured", "scope"): ("global", "layer"),
    ("prune", "schedule"): SCHEDULES,
    ("cluster", "scope"): ("layer", "global"),
    ("cluster", "init"): ("linear", "density", "kmeans++"),
    ("qat", "weight_bits"): (4, 8),
    ("qat", "activation_bits"): (8, 16),
    ("training", "schedule"): RATES,
    ("training", "optimizer"): OPTIMIZERS,
}
_UNDONE = {
    ("prune", "structured"): "whole channels go first, and zeros are set in what is left",
    ("cluster", "structured"): "whole channels go before the weights get their clusters",
    ("qat", "structured"): "ranges were learned for the model that had these channels",
    ("cluster", "prune"): "pruning after clustering would move weights off their clusters",
    ("qat", "prune"): "pruning after QAT would leave ranges that were learned for other weights",
    ("qat", "cluster"): "clustering after QAT would move weights off the quantized grid",
    ("qat", "finetune"): "training after QAT would move weights off the quantized grid",
}


def name_of(stage: Stage) -> str:
    """`prune` for a `Prune`, and so on."""
    return next(name for name, kind in STAGES.items() if type(stage) is kind)


def check(stage: Stage | Training) -> None:
    """Refuse values that cannot be.

    Raises:
        UsageError: It names the field and what it may be.
    """
    where = "training" if isinstance(stage, Training) else name_of(stage)
    for key, value in vars(stage).items():
        if key in RANGES and value is not None:
            _range(where, key, value, *RANGES[key])
        if (where, key) in CHOICES:
            _one_of(where, key, value, CHOICES[where, key])
        if key in ("layers", "freeze", "tensorboard") and value is not None and not value.strip():
            raise UsageError(f"{where}: {key} is empty", f'leave it out, or write {key} = "conv*"')
    if isinstance(stage, Prune):
        match = PATTERN.fullmatch(stage.pattern)
        if not match or (match[1] and int(match[1]) >= int(match[2])):
            raise UsageError(f"prune: {stage.pattern!r} is neither a share nor a known pattern",
                             "use a share such as 0.8; or unstructured, 2:4 (n:m, n < m), block1x4")
        for layers, share in (stage.per_layer or {}).items():
            if isinstance(share, bool) or not isinstance(share, (int, float)):
                raise UsageError(f"prune: per_layer[{layers!r}] = {share!r} is no number",
                                 'give a share of zeros: per_layer = {"dense*" = 0.95}')
            _range("prune", f"per_layer[{layers!r}]", share, *RANGES["sparsity"])
        if stage.per_layer and ":" in stage.pattern:
            raise UsageError(f"prune: the pattern {stage.pattern} has its own share of zeros",
                             "leave per_layer out")
    if isinstance(stage, Training) and stage.augment is not None \
            and stage.augment not in AUGMENTS and not FUNCTION.fullmatch(stage.augment):
        raise UsageError(f"training: augment = {stage.augment!r} is not known",
                         f"use one of {', '.join(AUGMENTS)}, or your own package.module:function")


def check_order(order: list[str]) -> None:
    """Refuse names of stages of which one comes twice or would undo an earlier one."""
    for i, late in enumerate(order):
        if late in order[:i]:
            raise UsageError(f"the recipe has the stage {late} twice", "give each stage once")
        for early in order[:i]:
            if (early, late) in _UNDONE:
                raise UsageError(f"{late} cannot follow {early}: {_UNDONE[early, late]}",
                                 f"order them: {', '.join(STAGES)}")


def _range(where: str, key: str, value: float, low: float, high: float) -> None:
    if not math.isfinite(value) or not low <= value <= high:
        raise UsageError(f"{where}: {key} = {value} is out of range",
                         f"give a value from {low} to {high}")


def _one_of(where: str, key: str, value: Any, allowed: tuple) -> None:
    if value not in allowed:
        raise UsageError(f"{where}: {key} = {value!r} is not known",
                         f"use one of: {', '.join(map(str, allowed))}")
