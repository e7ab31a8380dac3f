"""The engine of the compression chain: prepares each stage of a recipe and trains it by epochs.

Whatever a stage does, the model is called as it is, with its kernels in other forms (`forms`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from ...errors import DataError, UsageError
from ..models import copying, load, signature
from . import (
    attempts,
    augment,
    cluster,
    curves,
    devices,
    forms,
    kernels,
    losses,
    obstacles,
    prune,
    qat,
    rates,
    recipe,
    training_data,
)
from .checkpoint import Best, Checkpoint

KEPT_ZEROS = forms.KEPT_ZEROS
NO_GRADIENT = ("no output has a gradient and a row for each sample: the stages were applied "
               "without training")
JIT = False
LEAST_STEP = 0.99  # a round that would leave more of the model than this is not worth it


@dataclass(frozen=True)
class Phase:
    """Epochs of a stage that are trained in one go.

    Attributes:
        nth: Number within the stage.
        first: Number of its first epoch within the stage.
        end: Number after that of its last one.
        done: Share of the stage's change that is made before it.
    """

    nth: int
    first: int
    end: int
    done: float


def phases(stage: recipe.Stage, epochs: int) -> list[Phase]:
    """One phase per round of `structured`; one alone for other stages."""
    rounds = stage.rounds if isinstance(stage, recipe.Structured) else 1
    cuts = [round(epochs * i / rounds) for i in range(rounds + 1)]
    return [Phase(i, cuts[i], cuts[i + 1], (i + 1) / rounds) for i in range(rounds)]


class Engine:
    """One run: the forms of the kernels live from stage to stage.

    Attributes:
        model: The model in training; a plain Keras model in the end.
        quantized: After QAT, the model with its learned ranges.
        history, skipped, notes, slimmed: As in `finetune.Compressed`.
        objective: What is minimized.
    """

    def __init__(self, loaded: load.Loaded, chosen: recipe.Recipe, data: training_data.Samples,
                 seed: int, progress: Callable, checkpoint: Checkpoint | None):
        self.loaded, self.recipe, self.data, self.seed = loaded, chosen, data, seed
        self.training, self.progress, self.checkpoint = chosen.training, progress, checkpoint
        self.objective, self.notes = losses.infer(
            data.labels, data.outputs, self.training.distill, self.training.temperature,
            self.training.teacher_weight)
        self.forms: dict[int, forms.Form] = {}
        self.hooks: qat.Ranges | None = None
        self.quantized: qat.FakeQuantized | None = None
        self.history: list[dict] = []
        self.skipped: list[dict] = []
        self.attempts = attempts.Attempts("xla" in loaded.compiled)
        self.slimmed: dict | None = None
        self.shared = False  # whether all clustered kernels have one codebook
        self.model_file: str | None = None  # of the slimmed model, within the checkpoint
        self.curves = self.training.tensorboard and curves.Curves(self.training.tensorboard)
        self._split()
        self.augment = self.training.augment and augment.find(
            self.training.augment, self.data.rows(self.train_rows[:2]))
        self._take(copying.copy(loaded.model))
        self._say_what_is_frozen()

    def _split(self) -> None:
        fixed = self.loaded.inputs[0].shape[0] if self.loaded.inputs[0].shape else None
        fixed = fixed or self.loaded.compiled.get("batch")
        self.train_rows, self.held = self.data.split(self.training.validation, self.seed)
        self.size = fixed or max(1, min(self.training.batch_size, len(self.train_rows)))
        if self.size > len(self.train_rows):
            raise DataError(f"the model takes {fixed} samples at once, and there are "
                            f"{len(self.train_rows)}", "give more samples")
        if fixed and len(self.held) < fixed:
            self.held = self.held[:0]
        self.fixed = fixed is not None

    def _take(self, model: Any) -> None:
        """Work on this model from here on; all layers but those of `freeze` are trained.

        BatchNormalization that was frozen for transfer learning keeps its statistics.
        """
        import keras

        self.model, (_, self.pack) = model, signature.inputs(model, "keras3")
        self.attempts.obstacles.found.clear()
        self.unfrozen, self.frozen = [], []
        for layer in model._flatten_layers(include_self=True):
            if list(layer._layers):
                continue
            if self.training.freeze and kernels.chosen(layer, self.training.freeze):
                self.frozen.append(layer)
            elif not layer.trainable and not isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = True
                self.unfrozen += [layer] if layer.weights else []
        self.were_trained = [layer for layer in self.frozen if layer.trainable]
        for layer in self.frozen:
            layer.trainable = False

    def _say_what_is_frozen(self) -> None:
        if self.unfrozen:
            self.notes.append(f"{len(self.unfrozen)} frozen layers were trained too")
        if self.training.freeze and not any(layer.weights for layer in self.frozen):
            raise UsageError(f"training: freeze = {self.training.freeze!r} is no layer of the "
                             "model", "names or types with *, commas between")

    def everything(self) -> None:
        """All stages, from where the checkpoint ended."""
        at = self.checkpoint.position() if self.checkpoint else None
        if at and at.model:
            self._take(self.checkpoint.load_model(at.model, self.loaded.model))
        for number, stage in enumerate(self.recipe.stages):
            if at and number < at.stage:
                self._prepare(stage, again=True)
                continue
            for phase in phases(stage, self.recipe.epochs(stage, self._steps())):
                if at and number == at.stage and phase.nth < at.phase:
                    continue
                here = at and (number, phase.nth) == (at.stage, at.phase)
                if here and not at.inside:
                    self.checkpoint.restore(self)
                if isinstance(stage, recipe.Structured) and not (here and at.inside):
                    self._shrink(number, stage, phase)
                self._prepare(stage, again=bool(here and at.inside))
                if here and at.inside:
                    self.checkpoint.restore(self)
                start = at.epoch if here else phase.first
                half = self.training.mixed_precision and not self.hooks
                with devices.half_precision(self.model) if half else \
                        contextlib.nullcontext("") as policy:
                    self._train(number, stage, phase, start, policy)
        if at and at.stage == len(self.recipe.stages):
            self.checkpoint.restore(self)
        self._finish()
        if self.curves:
            self.curves.close()

    def _steps(self) -> int:
        return max(1, len(self.train_rows) // self.size)

    # Preparing a stage

    def _prepare(self, stage: recipe.Stage, again: bool) -> None:
        """Give the kernels the stage's forms; their content is a checkpoint's if `again`."""
        name = recipe.name_of(stage)
        if isinstance(stage, (recipe.Finetune, recipe.Structured)):
            if not again:
                self._keep_zeros(list(self.forms.values()))
            return
        embeddings = getattr(stage, "embeddings", False)
        found, skipped = kernels.find(self.model, self._layers(stage), embeddings,
                                      getattr(stage, "depthwise", True))
        if not found and stage.layers.strip() != "*" and \
                not kernels.find(self.model, stage.layers, True)[0]:
            names = ", ".join(x.name for x in self.model.layers[:8])
            raise UsageError(f"{name}: layers = {stage.layers!r} takes no layer of the model",
                             f"its layers are {names}")
        self.skipped += [{"stage": name} | s for s in skipped]
        self.mine = [self.forms.setdefault(id(k.variable), forms.Form(k)) for k in found]
        if not found:
            self._note(f"{name}: no weights of the model take part")
        if isinstance(stage, recipe.Qat):
            self._keep_zeros([] if again else self.mine)
            self.hooks = qat.begin(self.model, self.pack, self._calibration(), stage, self.mine,
                                   "xla" in self.loaded.compiled)
            self.skipped += [{"stage": name} | s for s in self.hooks.skipped]
        elif again:
            return
        elif isinstance(stage, recipe.Prune):
            prune.shares(self.model, stage)
            for form in self.mine:
                form.set_mask(self._ones(form))
        else:
            self._keep_zeros(self.mine)
            self.shared = stage.scope == "global"
            self.skipped += [{"stage": name} | s
                             for s in cluster.begin(self.mine, stage, self.seed)]

    def _layers(self, stage: recipe.Stage) -> str:
        """The layers that a stage may change: frozen ones are only rounded, by QAT."""
        frozen = [] if isinstance(stage, recipe.Qat) else self.frozen
        return ", ".join([stage.layers, *(f"!{x.name}" for x in frozen if x.weights)])

    def _shrink(self, number: int, stage: recipe.Structured, phase: Phase) -> None:
        """Take the channels of this round out of the model."""
        from ..channels import structured

        share = 1 - (1 - stage.to) * phase.done
        told = self.slimmed or {"removed": [], "skipped": [], "notes": []}
        if told.get("after", {}).get(stage.of):
            share *= told["before"][stage.of] / told["after"][stage.of]
            if share > LEAST_STEP:
                return
        self.progress(None, f"structured: leaving {share:.0%} of the {stage.of}")
        wanted = dataclasses.replace(stage, to=share, layers=self._layers(stage))
        made = structured.shrink(self.model, wanted, batches=self._calibration(labels=True),
                                 loss=lambda outputs, y: self.objective.loss(y, outputs))
        self._take(made.model)
        self.forms = {}
        self.slimmed = {"before": told.get("before", made.before), "after": made.after,
                        "removed": _joined(told["removed"], made.removed),
                        "skipped": made.skipped,
                        "notes": list(dict.fromkeys([*told["notes"], *made.notes]))}
        if self.checkpoint:
            self.model_file = self.checkpoint.keep_model(made.model, f"{number}-{phase.nth}")

    def _ones(self, form: forms.Form) -> Any:
        import numpy as np

        return np.ones(tuple(form.kernel.variable.shape), np.float32)

    def _keep_zeros(self, mine: list[forms.Form]) -> None:
        for form in mine:
            form.keep_zeros()

    def _calibration(self, labels: bool = False) -> list:
        """Input tensors of a few batches, drawn from all training rows; pairs with `labels`."""
        import numpy as np
        import tensorflow as tf

        rows = np.random.default_rng(self.seed).permutation(self.train_rows)[:qat.ROWS]
        batches = self.data.batches(rows, min(self.size, len(rows)), True)
        made = [([tf.convert_to_tensor(t) for t in x], y) for x, y in batches]
        return made if labels else [x for x, _ in made]

    # Training a stage

    def _train(self, number: int, stage: recipe.Stage, phase: Phase, start: int,
               policy: str) -> None:
        name, steps = recipe.name_of(stage), self._steps()
        epochs, total = phase.end - phase.first, self.recipe.epochs(stage, steps)
        ready = functools.partial(self._ready, stage, steps * epochs, policy, start > phase.first)
        wrapped, state = ready()
        learns = self.objective.trains and not self.attempts.untrained
        for epoch in range(start, phase.end if learns else start):
            begin = time.perf_counter()
            fit = functools.partial(self._fit, stage, number, epoch, epoch * steps, steps * epochs)
            if epoch == start:
                wrapped, state, told = self.attempts.first(
                    ready, (wrapped, state), fit, self._search, may_guard=epoch == phase.first)
            else:
                told = fit(wrapped)
            if not told:
                learns = False
                break
            record = {"stage": name, "epoch": epoch, "loss": float(told["loss"][0]),
                      "metric": float(told["score"][0]), **self._validate(wrapped),
                      "seconds": time.perf_counter() - begin, "sparsity": self._sparsity()}
            self.history.append(record)
            if self.curves:
                self.curves.write(number, record)
            if self._eligible(stage, epoch, epochs):
                state.consider(record, lower=self.objective.score_name == "error")
            self.progress((epoch + 1) / total, f"{name} epoch {epoch + 1}/{total}: loss "
                          f"{record['loss']:.4f}, {self.objective.score_name} "
                          f"{record['metric']:.4f}")
            if self.checkpoint:
                self.checkpoint.save(self, state, number, phase.nth, epoch + 1)
            if self.training.patience and state.waited >= self.training.patience:
                break
        if isinstance(stage, recipe.Prune) and not (learns and epochs):
            prune.grow(self.mine, stage, prune.shares(self.model, stage), 1, 1)
        if not learns and not self.attempts.untrained:
            self._note(NO_GRADIENT)
        self._say_what_was_found(name, wrapped.unreached if learns else ())
        state.restore_best()
        self._fold()
        if self.checkpoint:
            last = phase.nth + 1 == len(phases(stage, total))
            after = (number + 1, 0, 0) if last else (number, phase.nth + 1, phase.end)
            self.checkpoint.save(self, None, *after)

    def _ready(self, stage: recipe.Stage, steps: int, policy: str, again: bool) -> tuple:
        """The model in training and its best weights; those of the checkpoint if `again`."""
        wrapped = self.compiled(stage, steps, policy)
        state = Best(wrapped)
        if again:
            self.checkpoint.restore_state(state)
        return wrapped, state

    def _fit(self, stage: recipe.Stage, number: int, epoch: int, before: int, steps: int,
             wrapped: Any) -> dict:
        """One epoch, `before` so many of the stage's steps were made; gives what Keras tells."""
        import numpy as np

        seed = self.seed, number, epoch
        rows = np.random.default_rng(seed).permutation(self.train_rows)
        return wrapped.fit(self._batches(rows, seed), verbose=0, shuffle=False,
                           callbacks=[self._watch(stage, before, steps)]).history

    def _search(self, found: obstacles.Obstacles) -> list:
        return found.search(self.model, self.pack, self._calibration()[0])

    def _say_what_was_found(self, name: str, unreached: Collection[int]) -> None:
        """What could not be trained, in words; each once."""
        notes, skipped = self.attempts.told(name, [
            f.kernel.layer for f in self.forms.values() if id(f.kernel.variable) in unreached])
        for note in notes:
            self._note(note)
        self.skipped += [s for s in skipped if s not in self.skipped]

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def compiled(self, stage: recipe.Stage, steps: int, policy: str) -> Any:
        """The model in training; a teacher is asked on the fly where inputs are augmented."""
        teacher = self.loaded.run if self.augment and self._needs_teacher() else None
        made = forms.wrapped_class()(self.model, self.pack, list(self.forms.values()),
                                     self.objective, self.hooks, teacher, self.attempts.obstacles,
                                     [s.shape for s in self.loaded.outputs])
        made.compile(optimizer=self._optimizer(stage, steps, policy),
                     jit_compile=JIT or self.attempts.xla)
        made.optimizer.build(made.trainable_variables)
        return made

    def _needs_teacher(self) -> bool:
        return self.objective.teacher > 0 or not self.objective.task

    def _batches(self, rows: Any, seed: tuple) -> Any:
        """What one epoch trains on."""
        if not self.augment:
            return self.data.batches(rows, self.size, True, teacher=self._needs_teacher())
        return self.data.batches(rows, self.size, True, teacher=False,
                                 change=self.augment, seed=seed)

    def _fold(self) -> None:
        """The kernels' own variables take the values that their forms stand for."""
        for form in self.forms.values():
            bits, form.bits = form.bits, None
            form.kernel.variable.assign(form.value())
            form.bits = bits

    def _optimizer(self, stage: recipe.Stage, steps: int, policy: str) -> Any:
        import keras

        wait = prune.ramp(stage, steps) if isinstance(stage, recipe.Prune) else 0
        rate = rates.schedule_class()(self.recipe.learning_rate(stage), steps,
                                      self.training.schedule, wait)
        extra = {"momentum": 0.9} if self.training.optimizer == "sgd" else {}
        kinds = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "rmsprop": "RMSprop"}
        made = getattr(keras.optimizers, kinds[self.training.optimizer])(rate, **extra)
        return keras.optimizers.LossScaleOptimizer(made) if policy == "mixed_float16" else made

    def _watch(self, stage: recipe.Stage, before: int, steps: int) -> Any:
        """Sets masks anew while pruning, and clusters wherever there are any."""
        import keras

        engine = self
        own = prune.shares(self.model, stage) if isinstance(stage, recipe.Prune) else {}

        class Watch(keras.callbacks.Callback):
            def on_train_batch_begin(self, batch, logs=None):
                step = before + batch
                if isinstance(stage, recipe.Prune):
                    if prune.masks_at(stage, step, steps):
                        prune.grow(engine.mine, stage, own, step, steps)
                elif cluster.regroups_at(step, steps):
                    for form in engine.forms.values():
                        form.regroup()

        return Watch()

    def _eligible(self, stage: recipe.Stage, epoch: int, epochs: int) -> bool:
        """Whether an epoch's weights may be the best: not while sparsity still grows."""
        if not isinstance(stage, recipe.Prune):
            return True
        return epoch == epochs - 1 or epoch >= prune.ramp(stage, epochs)

    def _validate(self, wrapped: Any) -> dict:
        if not len(self.held):
            return {"validation_loss": None, "validation_metric": None}
        told = wrapped.evaluate(self.data.batches(self.held, self.size, self.fixed,
                                                  teacher=self._needs_teacher()),
                                verbose=0, return_dict=True)
        return {"validation_loss": float(told["loss"]), "validation_metric": float(told["score"])}

    def _sparsity(self) -> float | None:
        import numpy as np

        masks = [f.mask.numpy() for f in self.forms.values() if f.mask is not None]
        return float(1 - np.concatenate([m.ravel() for m in masks]).mean()) if masks else None

    # The end

    def _finish(self) -> None:
        for form in self.forms.values():
            form.kernel.variable.assign(form.value())
            form.kernel.variable.trainable = True
        for layer in self.were_trained:
            layer.trainable = True
        if self.slimmed:
            self.notes += self.slimmed.pop("notes")
            self.skipped = [{"stage": "structured"} | s for s in self.slimmed.pop("skipped")] + \
                self.skipped
        rounded = {id(f.kernel.variable): f for f in self.forms.values() if f.bits}
        self.quantized = self.hooks and qat.FakeQuantized(
            self.model, self.hooks, self.pack, rounded, xla="xla" in self.loaded.compiled)

    def table(self) -> list[dict]:
        """What became of each kernel."""
        import numpy as np

        table = []
        for form in self.forms.values():
            values = form.kernel.variable.numpy()
            table.append({"layer": form.kernel.layer, "weight": form.kernel.variable.name,
                          "values": int(values.size), "zeros": float(np.mean(values == 0)),
                          "distinct": int(len(np.unique(values)))})
        return table


def _joined(first: list[dict], second: list[dict]) -> list[dict]:
    """What two rounds removed as if it had been one."""
    made = {(r["layer"], r["what"]): r for r in first}
    for one in second:
        key = one["layer"], one["what"]
        made[key] = one | {"before": made.get(key, one)["before"]}
    return list(made.values())
