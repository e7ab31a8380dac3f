"""The first epoch of a stage: where training fails, the reason is found, passed by and named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...errors import TfcompressError
from ..models import load
from . import obstacles

BY_XLA = ("an operator of the model has no kernel for this processor: it was trained as XLA "
          "compiles it")


class Attempts:
    """How the model of one run can be trained, as far as it has been tried.

    Attributes:
        xla: Whether XLA compiles it, which has kernels that TensorFlow lacks.
        obstacles: The layers to pass by.
        untrained: Why nothing can be trained, or "".
    """

    def __init__(self, xla: bool):
        self.xla, self.untrained = xla, ""
        self.obstacles = obstacles.Obstacles()
        self._lost = 0.0

    def first(self, ready: Callable[[], tuple], now: tuple, fit: Callable[[Any], dict],
              search: Callable[[obstacles.Obstacles], list], may_guard: bool) -> tuple:
        """Train the first epoch, as often as there is another way to; each begins anew.

        Args:
            ready: Gives the model in training and its best weights (`checkpoint.Best`).
            now: What it has given.
            fit: Trains a model for the epoch and gives its history.
            search: Finds what is new to the obstacles in the engine's model.
            may_guard: Whether gradients that are not finite may make it begin anew.

        Returns:
            The model in training, its best weights, and the history: None where nothing can be
            trained.
        """
        import tensorflow as tf

        before, why = [v.numpy() for v in now[0].variables], ""
        while True:
            try:
                told = fit(now[0])
                self._lost = told["lost"][0]
                if not self._lost or self.obstacles.guarded or not may_guard:
                    return *now, told
                self.obstacles.guarded = again = True
            except (TfcompressError, tf.errors.ResourceExhaustedError):
                raise
            except Exception as error:
                if "user-defined function" in str(error):  # in the data, or what augments them
                    raise
                if "No gradients provided" in str(error):
                    return *now, None
                why = why or obstacles.said(error)
                again = self._pass_by(error, search)
                self.untrained = "" if again else why
            for variable, value in zip(now[0].variables, before, strict=True):
                variable.assign(value)
            if not again:
                return *now, None
            now = ready()

    def _pass_by(self, error: Exception, search: Callable) -> bool:
        """Find another way to train after an error; False where there is none."""
        if load.lacks_kernel(error) and not self.xla:
            self.xla = True
            return True
        return bool(search(self.obstacles))

    def told(self, stage: str, unreached: list[str]) -> tuple[list[str], list[dict]]:
        """What to tell of a stage: notes, and `{"stage", "layer", "why"}` for the obstacles.

        Args:
            stage: Its name.
            unreached: Layers to whose kernels no gradient came.
        """
        notes = []
        if self.untrained:
            notes.append(f"the model cannot be trained ({self.untrained}): the stages were applied "
                         "without training")
        elif self.xla:
            notes.append(BY_XLA)
        if unreached:
            notes.append(f"no gradient reaches {obstacles.names(unreached)}: there the stages were "
                         "applied without training")
        if self.obstacles.guarded:
            notes.append("some gradients are not finite, as at the root of zero or where data are "
                         "NaN: they count as zero")
        if self._lost:
            notes.append(f"{stage}: weights whose gradient is not finite were not trained in "
                         f"{self._lost:.0%} of the steps of the first epoch")
        skipped = [{"stage": stage, "layer": o.layer, "why": o.told()}
                   for o in self.obstacles.found.values()]
        self._lost = 0.0
        return notes, skipped
