"""What a run that trains has done so far, on disk, so that a killed one can go on."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..models import copying


@dataclass(frozen=True)
class Position:
    """Where to go on: numbers of the stage, of the phase in it, and of the epoch in the stage.

    Attributes:
        inside: Whether the phase has begun, so that an optimizer's state is there.
        model: File of the model where channels were taken out of it.
    """

    stage: int
    phase: int
    epoch: int
    inside: bool
    model: str | None


class Checkpoint:
    """The state after the last finished epoch: `state.npz` in a folder, written whole or not."""

    def __init__(self, folder: Path):
        self.folder, self.file = folder, folder / "state.npz"

    def position(self) -> Position | None:
        """Where to go on, or None at the beginning."""
        if not self.file.is_file():
            return None
        with self._open() as held:
            told = json.loads(str(held["told"]))
        return Position(told["stage"], told["phase"], told["epoch"], "waited" in told,
                        told["model"])

    def keep_model(self, model: Any, name: str) -> str:
        """Save a model that channels were taken out of; returns its file's name."""
        file = f"model-{name}.keras"
        beside = self.folder / f"part-{file}"
        model.save(beside, include_optimizer=False)
        os.replace(beside, self.folder / file)
        return file

    def load_model(self, file: str, like: Any) -> Any:
        """The model that `keep_model` saved, made of the classes of `like`."""
        return copying.reload(self.folder / file, like)

    def _open(self) -> Any:
        import numpy as np

        return np.load(self.file)

    def save(self, engine: Any, state: Any, stage: int, phase: int, epoch: int) -> None:
        """Write what `restore` and `restore_state` need.

        Args:
            engine: The run: `model`, `forms`, `hooks`, `history` and what was slimmed.
            state: The phase's optimizer and best weights; None between phases.
            stage: Number of the stage to go on with.
            phase: Number of its phase to go on with.
            epoch: Number of its epoch to go on with.
        """
        import numpy as np

        arrays = {f"inner/{i}": v.numpy() for i, v in enumerate(engine.model.variables)}
        for i, form in enumerate(engine.forms.values()):
            for part in ("mask", "table", "places"):
                if getattr(form, part) is not None:
                    arrays[f"form/{i}/{part}"] = getattr(form, part).numpy()
        if engine.hooks:
            arrays |= {f"range/{i}": v.numpy() for i, v in enumerate(engine.hooks.variables())}
        told = {"stage": stage, "phase": phase, "epoch": epoch, "history": engine.history,
                "model": engine.model_file, "slimmed": engine.slimmed,
                "skipped": engine.skipped, "shared": engine.shared, "notes": engine.notes,
                "guarded": engine.attempts.obstacles.guarded,
                "whole": [form.whole for form in engine.forms.values()]}
        if state is not None:
            arrays |= {f"optimizer/{i}": v.numpy()
                       for i, v in enumerate(state.wrapped.optimizer.variables)}
            arrays |= {f"best/{i}": v for i, v in enumerate(state.best or ())}
            told |= {"best_value": state.best_value, "waited": state.waited}
        beside = self.file.with_suffix(".part.npz")
        np.savez(beside, told=json.dumps(told), **arrays)
        os.replace(beside, self.file)

    def restore(self, engine: Any) -> None:
        """Weights, forms, ranges and history; the stages up to this one have their forms."""
        with self._open() as held:
            told, table = json.loads(str(held["told"])), None
            for i, variable in enumerate(engine.model.variables):
                variable.assign(held[f"inner/{i}"])
            for i, form in enumerate(engine.forms.values()):
                form.whole = i < len(told["whole"]) and told["whole"][i]
                if f"form/{i}/mask" in held:
                    form.set_mask(held[f"form/{i}/mask"])
                if f"form/{i}/table" in held:
                    if table is None or not told["shared"]:
                        table = held[f"form/{i}/table"]
                    form.set_clusters(table, held[f"form/{i}/places"])
                    table = form.table
            if engine.hooks:
                for i, variable in enumerate(engine.hooks.variables()):
                    if f"range/{i}" in held:
                        variable.assign(held[f"range/{i}"])
        for name in ("history", "skipped", "slimmed", "shared"):
            setattr(engine, name, told[name])
        engine.notes = list(dict.fromkeys([*told["notes"], *engine.notes]))
        engine.attempts.obstacles.guarded = told["guarded"]
        engine.model_file = told["model"]

    def restore_state(self, state: Any) -> None:
        """The optimizer and the best weights so far."""
        with self._open() as held:
            told = json.loads(str(held["told"]))
            for i, variable in enumerate(state.wrapped.optimizer.variables):
                variable.assign(held[f"optimizer/{i}"])
            if "best/0" in held:
                state.best = [held[f"best/{i}"] for i in range(len(state.wrapped.variables))]
            state.best_value, state.waited = told["best_value"], told["waited"]


class Best:
    """The best weights of a stage so far, and for how many epochs there were none better."""

    def __init__(self, wrapped: Any):
        self.wrapped, self.best, self.best_value, self.waited = wrapped, None, None, 0

    def consider(self, record: dict, lower: bool) -> None:
        """Keep the weights of an epoch that is as good as the best; `lower` is better or not."""
        value = record["validation_metric"]
        if value is None:
            return
        value = -value if lower else value
        if self.best_value is None or value >= self.best_value:
            self.best, self.waited = [v.numpy() for v in self.wrapped.variables], 0
            self.best_value = value
        else:
            self.waited += 1

    def restore_best(self) -> None:
        """Give the wrapped model its best weights, where there was a validation."""
        if self.best is not None:
            for variable, value in zip(self.wrapped.variables, self.best, strict=True):
                variable.assign(value)
