"""Runs the stages of a recipe on a model and trains each.

    compressed = finetune.run(loaded, recipe, "samples/", progress=print)

The model that was given is left alone; a copy is trained, with the original as its teacher.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import ModelError
from ..models import load
from ..models.copying import copy
from . import devices, recipe, training_data
from .checkpoint import Checkpoint
from .engine import Engine

__all__ = ["Compressed", "copy", "run"]


@dataclass(frozen=True)
class Compressed:
    """What `run` returns.

    Attributes:
        model: A plain Keras 3 model with the compressed weights; after QAT they are rounded.
        qat_model: The model with the learned ranges (`qat.FakeQuantized`), or None.
        history: Per stage and epoch: `{"stage", "epoch", "loss", "metric", "validation_loss",
            "validation_metric", "seconds", "sparsity"}`; `metric_name` says what the metric is.
        skipped: `{"layer", "stage", "why"}` for layers that did not take part.
        notes: What a reader must know, in words.
        metric_name: `accuracy`, `agreement` or `error` (see `losses.Objective`).
        kernels: `{"layer", "weight", "values", "zeros", "distinct"}` of each kernel.
        slimmed: What the stage `structured` took out, or None: `{"removed": [{"layer", "what",
            "before", "after"}], "before": {"parameters", "macs", "bytes"}, "after": the same}`.
    """

    model: Any
    qat_model: Any
    history: list[dict]
    skipped: list[dict]
    notes: list[str]
    metric_name: str
    kernels: list[dict] = field(default_factory=list)
    slimmed: dict | None = None


def run(model: Any, chosen: recipe.Recipe, samples: str | Path, *, seed: int | None = None,
        progress: Callable[[float | None, str], None] = lambda *_: None,
        checkpoint_dir: str | Path | None = None) -> Compressed:
    """Compress a copy of `model` by the stages of a recipe.

    Args:
        model: A `load.Loaded`, or a Keras 3 model in memory.
        chosen: The recipe.
        samples: A folder of samples (inputs, and labels where there are any).
        seed: Instead of the recipe's.
        progress: Called with the share that is done and what is being done.
        checkpoint_dir: A folder of this run alone: a run that was killed goes on from its last
            epoch when it is called again with the same arguments.

    Raises:
        ModelError: The model is not one that can be trained, or cannot be copied.
        DataError: The samples do not fit it.
        UsageError: The recipe names a function that is not there, or layers that are not.
    """
    import keras

    loaded = model if isinstance(model, load.Loaded) else load.describe(model, {}, [])
    if loaded.kind != "keras3":
        raise ModelError(f"a {loaded.kind} model cannot be trained",
                         "give the .keras file that it was made from")
    seed = chosen.training.seed if seed is None else seed
    keras.utils.set_random_seed(seed)
    with contextlib.ExitStack() as stack:
        scratch = Path(checkpoint_dir or stack.enter_context(tempfile.TemporaryDirectory()))
        scratch.mkdir(parents=True, exist_ok=True)
        data = training_data.read(samples, loaded, scratch, progress)
        free = not loaded.inputs[0].shape or loaded.inputs[0].shape[0] is None
        if free and (mirrored := devices.strategy()):
            stack.enter_context(mirrored.scope())
        engine = Engine(loaded, chosen, data, seed, progress,
                        Checkpoint(scratch) if checkpoint_dir else None)
        if training_data.is_random(samples):
            engine.notes.append("trained on random samples: the accuracy means nothing")
        engine.everything()
    return Compressed(engine.model, engine.quantized, engine.history, engine.skipped, engine.notes,
                      engine.objective.score_name, engine.table(), engine.slimmed)
