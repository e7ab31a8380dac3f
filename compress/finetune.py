"""The engine of the compression chain: runs the stages of a recipe on a model and trains each.

    compressed = finetune.run(loaded, recipe, "samples/", progress=print)

The model that was given is left alone; a copy is trained, with the original as its teacher.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError, ModelError
from . import cluster, forms, kernels, load, losses, prune, qat, recipe, signature, training_data
from .checkpoint import Best, Checkpoint

KEPT_ZEROS = 0.1  # kernels with a larger share of zeros than this keep them in later stages


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
    """

    model: Any
    qat_model: Any
    history: list[dict]
    skipped: list[dict]
    notes: list[str]
    metric_name: str
    kernels: list[dict] = field(default_factory=list)


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
        engine = _Engine(copy(loaded.model), loaded, chosen, data, seed, progress,
                         Checkpoint(scratch) if checkpoint_dir else None)
        if training_data.is_random(samples):
            engine.notes.append("trained on random samples: the accuracy means nothing")
        return engine.everything()


def copy(model: Any) -> Any:
    """A second model with weights of its own, as saving and loading gives it.

    Raises:
        ModelError: The model cannot be saved and loaded.
    """
    import keras

    objects = {type(layer).__name__: type(layer)
               for layer in model._flatten_layers(include_self=True)
               if not type(layer).__module__.startswith("keras.")}
    objects |= {keras.saving.get_registered_name(kind): kind for kind in objects.values()}
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            model.save(path, include_optimizer=False)
            # Whatever code the model holds has been loaded, and so allowed, before.
            made = keras.saving.load_model(path, custom_objects=objects, compile=False,
                                           safe_mode=False)
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise ModelError(f"the model cannot be saved and loaded again: {text}",
                         "give its layers a get_config from which they can be made") from error
    return made


class _Engine:
    """One run: the forms of the kernels live from stage to stage."""

    def __init__(self, model: Any, loaded: load.Loaded, chosen: recipe.Recipe,
                 data: training_data.Samples, seed: int, progress: Callable,
                 checkpoint: Checkpoint | None):
        self.model, self.recipe, self.data, self.seed = model, chosen, data, seed
        self.training, self.progress, self.checkpoint = chosen.training, progress, checkpoint
        _, self.pack = signature.inputs(model, "keras3")
        self.objective, self.notes = losses.infer(
            data.labels, data.outputs, self.training.distill, self.training.temperature,
            self.training.teacher_weight)
        self.loaded = loaded
        self.forms: dict[int, forms.Form] = {}
        self.hooks: qat.Ranges | None = None
        self.history: list[dict] = []
        self.skipped: list[dict] = []
        fixed = loaded.inputs[0].shape[0] if loaded.inputs[0].shape else None
        train, self.held = data.split(self.training.validation, seed)
        self.train_rows = train
        self.size = fixed or max(1, min(self.training.batch_size, len(train)))
        if self.size > len(train):
            raise DataError(f"the model takes {fixed} samples at once, and there are {len(train)}",
                            "give more samples")
        if fixed and len(self.held) < fixed:
            self.held = self.held[:0]
        self._unfreeze()

    def _unfreeze(self) -> None:
        """Layers that were frozen for transfer learning are trained, their statistics are kept."""
        import keras

        self.frozen = []
        for layer in self.model._flatten_layers(include_self=True):
            leaf = not list(layer._layers)
            if leaf and not layer.trainable and not isinstance(
                    layer, keras.layers.BatchNormalization):
                layer.trainable = True
                self.frozen += [layer.name] if layer.weights else []
        if self.frozen:
            self.notes.append(f"{len(self.frozen)} frozen layers were trained too")

    def everything(self) -> Compressed:
        stage_at, epoch_at = self.checkpoint.position() if self.checkpoint else (0, 0)
        for number, stage in enumerate(self.recipe.stages):
            if number == stage_at and number and not epoch_at:
                self.checkpoint.restore(self)
            self._prepare(stage)
            if number == stage_at and epoch_at:
                self.checkpoint.restore(self)
            if number >= stage_at:
                self._train(number, stage, epoch_at if number == stage_at else 0)
        if stage_at == len(self.recipe.stages):
            self.checkpoint.restore(self)
        return self._finish()

    # Preparing a stage

    def _prepare(self, stage: recipe.Stage) -> None:
        name = recipe.name_of(stage)
        if isinstance(stage, recipe.Finetune):
            self._keep_zeros(list(self.forms.values()))
            return
        embeddings = getattr(stage, "embeddings", False)
        found, skipped = kernels.find(self.model, stage.layers, embeddings)
        self.skipped += [{"stage": name} | s for s in skipped]
        mine = [self.forms.setdefault(id(k.variable), forms.Form(k)) for k in found]
        if isinstance(stage, recipe.Prune):
            for form in mine:
                form.set_mask(self._ones(form))
        else:
            self._keep_zeros(mine)
        if isinstance(stage, recipe.Cluster):
            for form in mine:
                why = cluster.assign(form, stage.clusters)
                if why:
                    self.skipped.append({"stage": name, "layer": form.kernel.layer, "why": why})
        if isinstance(stage, recipe.Qat):
            for form in mine:
                form.bits = stage.weight_bits
            self.hooks = qat.prepare(self.model, self.pack, self._calibration(), stage,
                                     {id(f.kernel.variable): f for f in mine})
            self.skipped += [{"stage": name} | s for s in self.hooks.skipped]
        self.mine = mine

    def _ones(self, form: forms.Form) -> Any:
        import numpy as np

        return np.ones(tuple(form.kernel.variable.shape), np.float32)

    def _keep_zeros(self, mine: list[forms.Form]) -> None:
        import numpy as np

        for form in mine:
            values = form.kernel.variable.numpy()
            if form.mask is None and np.mean(values == 0) > KEPT_ZEROS:
                form.set_mask((values != 0).astype(np.float32))

    def _calibration(self) -> list:
        """Input tensors of a few batches, drawn from all training rows."""
        import numpy as np
        import tensorflow as tf

        rows = np.random.default_rng(self.seed).permutation(self.train_rows)[:qat.ROWS]
        batches = self.data.batches(rows, min(self.size, len(rows)), True)
        return [[tf.convert_to_tensor(t) for t in x] for x, _ in batches]

    # Training a stage

    def _train(self, number: int, stage: recipe.Stage, start: int) -> None:
        import numpy as np

        name, steps = recipe.name_of(stage), max(1, len(self.train_rows) // self.size)
        epochs = self.recipe.epochs(stage, steps)
        wrapped = forms.wrapped_class()(self.model, self.pack, list(self.forms.values()),
                                        self.objective, self.hooks)
        wrapped.compile(optimizer=self._optimizer(stage, steps * epochs), jit_compile=False)
        wrapped.optimizer.build(wrapped.trainable_variables)
        state = Best(wrapped)
        if start and self.checkpoint:
            self.checkpoint.restore_state(state)
        if isinstance(stage, recipe.Prune) and not epochs:
            self._set_masks(stage, 1, 1)
        for epoch in range(start, epochs):
            begin = time.perf_counter()
            rows = np.random.default_rng((self.seed, number, epoch)).permutation(self.train_rows)
            watch = [self._pruner(stage, epoch * steps, steps * epochs)]
            told = wrapped.fit(self.data.batches(rows, self.size, True), verbose=0, shuffle=False,
                               callbacks=watch).history
            record = {"stage": name, "epoch": epoch, "loss": float(told["loss"][0]),
                      "metric": float(told["score"][0]), **self._validate(wrapped),
                      "seconds": time.perf_counter() - begin, "sparsity": self._sparsity()}
            self.history.append(record)
            if self._eligible(stage, epoch, epochs):
                state.consider(record, lower=self.objective.score_name == "error")
            self.progress((epoch + 1) / epochs, f"{name} epoch {epoch + 1}/{epochs}: loss "
                          f"{record['loss']:.4f}, {self.objective.score_name} "
                          f"{record['metric']:.4f}")
            if self.checkpoint:
                self.checkpoint.save(self, state, number, epoch + 1)
            if self.training.patience and state.waited >= self.training.patience:
                break
        state.restore_best()
        self._fold(wrapped)
        if self.checkpoint:
            self.checkpoint.save(self, None, number + 1, 0)

    def _fold(self, wrapped: Any) -> None:
        """The kernels' own variables take the values that their forms stand for."""
        for form in self.forms.values():
            bits, form.bits = form.bits, None
            form.kernel.variable.assign(form.value())
            form.bits = bits

    def _optimizer(self, stage: recipe.Stage, steps: int) -> Any:
        import keras

        first = self.recipe.learning_rate(stage)
        ramp = prune.ramp(stage, steps) if isinstance(stage, recipe.Prune) else 0
        rate = keras.optimizers.schedules.CosineDecay(
            first, max(1, steps - ramp), warmup_target=first if ramp else None, warmup_steps=ramp)
        extra = {"momentum": 0.9} if self.training.optimizer == "sgd" else {}
        kinds = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "rmsprop": "RMSprop"}
        return getattr(keras.optimizers, kinds[self.training.optimizer])(rate, **extra)

    def _pruner(self, stage: recipe.Stage, before: int, steps: int) -> Any:
        import keras

        engine = self

        class Pruner(keras.callbacks.Callback):
            def on_train_batch_begin(self, batch, logs=None):
                if isinstance(stage, recipe.Prune) and prune.masks_at(stage, before + batch, steps):
                    engine._set_masks(stage, before + batch, steps)

        return Pruner()

    def _set_masks(self, stage: recipe.Prune, step: int, steps: int) -> None:
        share = prune.sparsity_at(stage, step, steps)
        for form in self.mine:
            form.set_mask(prune.mask(form.kernel, form.kernel.variable.numpy(), stage.pattern,
                                     share))

    def _eligible(self, stage: recipe.Stage, epoch: int, epochs: int) -> bool:
        """Whether an epoch's weights may be the best: not while sparsity still grows."""
        if not isinstance(stage, recipe.Prune):
            return True
        return epoch == epochs - 1 or epoch >= prune.ramp(stage, epochs)

    def _validate(self, wrapped: Any) -> dict:
        if not len(self.held):
            return {"validation_loss": None, "validation_metric": None}
        told = wrapped.evaluate(self.data.batches(self.held, self.size,
                                                  self.loaded.inputs[0].shape[0] is not None),
                                verbose=0, return_dict=True)
        return {"validation_loss": float(told["loss"]), "validation_metric": float(told["score"])}

    def _sparsity(self) -> float | None:
        import numpy as np

        masks = [f.mask.numpy() for f in self.forms.values() if f.mask is not None]
        return float(1 - np.concatenate([m.ravel() for m in masks]).mean()) if masks else None

    # The end

    def _finish(self) -> Compressed:
        import numpy as np

        for form in self.forms.values():
            form.kernel.variable.assign(form.value())
            form.kernel.variable.trainable = True
        table = []
        for form in self.forms.values():
            values = form.kernel.variable.numpy()
            table.append({"layer": form.kernel.layer, "weight": form.kernel.variable.name,
                          "values": int(values.size), "zeros": float(np.mean(values == 0)),
                          "distinct": int(len(np.unique(values)))})
        bits = {id(f.kernel.variable): f.bits for f in self.forms.values() if f.bits}
        quantized = self.hooks and qat.FakeQuantized(self.model, self.hooks, self.pack, bits)
        return Compressed(self.model, quantized, self.history, self.skipped, self.notes,
                          self.objective.score_name, table)
