"""How tf_keras trains what TFMOT has wrapped: the loss of `losses`, the rates of `rates`."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..models import load
from . import augment, checkpoint, losses, prune, rates, recipe, training_data


class Trainer:
    """Trains one wrapped model after another on the same samples.

    Attributes:
        rows: The rows that are trained on; the others choose the best epoch.
        steps: Batches per epoch.
        history: As in `finetune.Compressed`.
    """

    def __init__(self, loaded: load.Loaded, chosen: recipe.Recipe, data: training_data.Samples,
                 objective: losses.Objective, seed: int, progress: Callable,
                 pruning_step: Callable):
        self.loaded, self.recipe, self.data, self.seed = loaded, chosen, data, seed
        self.objective, self.progress, self.pruning_step = objective, progress, pruning_step
        self.training, self.history = chosen.training, []
        fixed = loaded.inputs[0].shape[0] if loaded.inputs[0].shape else None
        self.rows, self.held = data.split(self.training.validation, seed)
        self.size = fixed or max(1, min(self.training.batch_size, len(self.rows)))
        if self.size > len(self.rows):
            raise DataError(f"the model takes {fixed} samples at once, and there are "
                            f"{len(self.rows)}", "give more samples")
        if fixed and len(self.held) < fixed:
            self.held = self.held[:0]
        self.even, self.steps = fixed is not None, max(1, len(self.rows) // self.size)
        self.augment = self.training.augment and augment.find(
            self.training.augment, data.rows(self.rows[:2]))
        self.taught = objective.teacher > 0 or not objective.task

    def epochs(self, stage: recipe.Stage) -> int:
        return self.recipe.epochs(stage, self.steps)

    def train(self, number: int, stage: recipe.Stage, wrapped: Any) -> None:
        """All epochs of a stage; the model ends with the weights of the best."""
        name, epochs = recipe.name_of(stage), self.epochs(stage)
        teacher = self.loaded.run if self.augment and self.taught else None
        model = trained_class()(wrapped, self.objective, teacher)
        model.compile(optimizer=self._optimizer(stage, self.steps * epochs))
        calls, best = self._callbacks(f"{number}-{name}"), checkpoint.Best(wrapped)
        ramp = prune.ramp(stage, epochs) if isinstance(stage, recipe.Prune) else 0
        for epoch in range(epochs):
            begin = time.perf_counter()
            told = model.fit(self._batches((self.seed, number, epoch), not teacher), verbose=0,
                             shuffle=False, epochs=epoch + 1, initial_epoch=epoch,
                             callbacks=calls).history
            record = {"stage": name, "epoch": epoch, "loss": float(told["loss"][0]),
                      "metric": float(told["score"][0]), **self._validate(model),
                      "seconds": time.perf_counter() - begin, "sparsity": sparsity(wrapped)}
            self.history.append(record)
            if epoch == epochs - 1 or epoch >= ramp:
                best.consider(record, lower=self.objective.score_name == "error")
            self.progress((epoch + 1) / epochs, f"{name} epoch {epoch + 1}/{epochs}: loss "
                          f"{record['loss']:.4f}, {self.objective.score_name} "
                          f"{record['metric']:.4f}")
            if self.training.patience and best.waited >= self.training.patience:
                break
        best.restore_best()

    def _batches(self, chance: tuple, taught: bool) -> Any:
        import numpy as np

        return self.data.batches(np.random.default_rng(chance).permutation(self.rows), self.size,
                                 True, teacher=self.taught and taught,
                                 change=self.augment or None, seed=chance)

    def _callbacks(self, name: str) -> list:
        import tf_keras

        folder = self.training.tensorboard
        return [self.pruning_step()] + ([tf_keras.callbacks.TensorBoard(
            str(Path(folder) / name), write_graph=False)] if folder else [])

    def _validate(self, model: Any) -> dict:
        if not len(self.held):
            return {"validation_loss": None, "validation_metric": None}
        told = model.evaluate(self.data.batches(self.held, self.size, self.even,
                                                teacher=self.taught), verbose=0, return_dict=True)
        return {"validation_loss": float(told["loss"]), "validation_metric": float(told["score"])}

    def _optimizer(self, stage: recipe.Stage, steps: int) -> Any:
        wait = prune.ramp(stage, steps) if isinstance(stage, recipe.Prune) else 0
        return optimizer(self.training.optimizer, falling_class()(
            self.recipe.learning_rate(stage), steps, self.training.schedule, wait))


def sparsity_schedule(schedules: Any, stage: recipe.Prune, steps: int) -> Any:
    """TFMOT's own schedule for a stage of `steps` steps, which it counts from 1.

    Args:
        schedules: The module `sparsity.keras` of TFMOT.
        stage: Its schedule and sparsity.
        steps: Of the whole stage.
    """
    ramp = max(1, prune.ramp(stage, steps))
    if stage.schedule == "constant":
        return schedules.ConstantSparsity(stage.sparsity, begin_step=1)
    every = max(1, ramp // prune.UPDATES)
    return schedules.PolynomialDecay(0.0, stage.sparsity, begin_step=0,
                                     end_step=max(1, ramp // every) * every, frequency=every)


def optimizer(kind: str, rate: Any) -> Any:
    """An optimizer of tf_keras by the name that recipes give it."""
    import tf_keras

    extra = {"momentum": 0.9} if kind == "sgd" else {}
    kinds = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "rmsprop": "RMSprop"}
    return getattr(tf_keras.optimizers, kinds[kind])(rate, **extra)


WRAPPERS = frozenset("PruneLowMagnitude ClusterWeights ClusterWeightsRNN ClusterWeightsMHA "
                     "QuantizeWrapper QuantizeWrapperV2".split())


def inside(layer: Any) -> Any:
    """The layer itself, without TFMOT's wrapper."""
    return layer.layer if type(layer).__name__ in WRAPPERS else layer


def kind(layer: Any) -> str:
    """The type of a layer; of one that only Keras 3 has, that one's."""
    return type(layer.hosted() if type(layer).__name__ == "Hosted" else layer).__name__


def sparsity(model: Any) -> float | None:
    """The share of zeros in the masks of what is pruned; None where nothing is."""
    import numpy as np

    masks = [mask.numpy().ravel() for layer in model.layers
             for _, mask, _ in getattr(layer, "pruning_vars", ())]
    return float(1 - np.concatenate(masks).mean()) if masks else None


def trained_values(layer: Any) -> list:
    """The weights of a layer, in the order that it had before TFMOT wrapped it."""
    inner = inside(layer)
    if hasattr(layer, "position_original_weights"):
        layer.update_clustered_weights_associations()
        values = inner.get_weights()
        for place, name in sorted(layer.position_original_weights.items()):
            values.insert(place, layer.get_weight_from_layer(name).numpy())
        return values
    if hasattr(layer, "_weight_vars"):
        rounded = [quantizer(weight, False, weights=held).numpy()
                   for weight, quantizer, held in layer._weight_vars]
        own = {id(weight) for weight, _, _ in layer._weight_vars}
        return rounded + [w.numpy() for w in inner.weights if id(w) not in own]
    return inner.get_weights()


@functools.cache
def falling_class() -> type:
    """The learning rates of `rates` for tf_keras."""
    import tensorflow as tf
    import tf_keras

    class Falling(tf_keras.optimizers.schedules.LearningRateSchedule):
        def __init__(self, first: float, steps: int, kind: str, wait: int = 0):
            self.first, self.steps, self.kind, self.wait = first, steps, kind, wait

        def __call__(self, step: Any) -> Any:
            gone = (tf.cast(step, tf.float32) - self.wait) / max(1, self.steps - self.wait)
            return self.first * rates.factor(self.kind, tf.clip_by_value(gone, 0.0, 1.0))

        def get_config(self) -> dict:
            return dict(vars(self))

    return Falling


@functools.cache
def trained_class() -> type:
    """The tf_keras model that trains another one with the loss of `losses`."""
    import tensorflow as tf
    import tf_keras

    class Trained(tf_keras.Model):
        """Takes the inner model's inputs as a tuple, gives its outputs as a list.

        Args:
            inner: A tf_keras model.
            objective: It has the loss and the score.
            teacher: None, or what gives the original's outputs for a list of inputs; batches
                then come without them.
        """

        def __init__(self, inner: Any, objective: losses.Objective,
                     teacher: Callable[[list], list] | None = None):
            super().__init__(name="trained")
            self.inner, self.objective, self.teacher = inner, objective, teacher
            self.mean, self.score = (tf_keras.metrics.Mean(n) for n in ("loss", "score"))

        @property
        def metrics(self) -> list:
            return [self.mean, self.score]

        def call(self, inputs: Any, training: bool = False) -> list:
            packed = tf.nest.pack_sequence_as(self.inner._nested_inputs, list(inputs))
            return tf.nest.flatten(self.inner(packed, training=training))

        def train_step(self, data: tuple) -> dict:
            x, y = data
            if self.teacher:
                y = y | {f"teacher{i}": tf.stop_gradient(output)
                         for i, output in enumerate(self.teacher(list(x)))}
            with tf.GradientTape() as tape:
                outputs = self(x, training=True)
                loss = self.objective.loss(y, outputs)
                loss += tf.add_n([tf.reduce_sum(extra) for extra in self.losses] or [0.0])
            variables = self.trainable_variables
            slopes = tape.gradient(loss, variables)
            self.optimizer.apply_gradients(
                [(g, v) for g, v in zip(slopes, variables, strict=True) if g is not None])
            return self._told(loss, y, outputs)

        def test_step(self, data: tuple) -> dict:
            x, y = data
            outputs = self(x, training=False)
            return self._told(self.objective.loss(y, outputs), y, outputs)

        def _told(self, loss: Any, y: dict, outputs: list) -> dict:
            self.mean.update_state(loss)
            self.score.update_state(self.objective.score_of(y, outputs))
            return {"loss": self.mean.result(), "score": self.score.result()}

    return Trained
