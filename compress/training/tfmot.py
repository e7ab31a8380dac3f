"""The compression chain by tensorflow-model-optimization (TFMOT), the peer of `finetune`.

    compressed = tfmot.run(loaded, recipe, "samples/", progress=print)

TFMOT works on Keras 2 alone. Before each stage the Keras 3 model is carried to a flat tf_keras twin
(`bridge.flat_twin`) with the same outputs; TFMOT wraps the layers of the twin, tf_keras trains it
with the loss of `finetune`, and the weights go back into the Keras 3 model. What TFMOT cannot take
is left out and named.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import MissingExtra, ModelError, UsageError
from ..models import legacy, load
from . import (
    finetune,
    forms,
    kernels,
    losses,
    recipe,
    tfmot_qat,
    tfmot_training,
    training_data,
)

HINT = "leave --backend tfmot out"
CENTROIDS = {"linear": "LINEAR", "density": "DENSITY_BASED", "kmeans++": "KMEANS_PLUS_PLUS"}


def run(model: Any, chosen: recipe.Recipe, samples: str | Path, *, seed: int | None = None,
        progress: Callable[[float | None, str], None] = lambda *_: None,
        checkpoint_dir: str | Path | None = None) -> finetune.Compressed:
    """Compress a copy of `model` by the stages of a recipe, as `finetune.run` does.

    Args:
        model: A `load.Loaded`, or a Keras 3 model in memory; functional or Sequential.
        chosen: The recipe; whole channels, 4-bit weights and 16-bit activations are not for TFMOT.
        samples: A folder of samples (inputs, and labels where there are any).
        seed: Instead of the recipe's.
        progress: Called with the share that is done and what is being done.
        checkpoint_dir: A folder of this run alone: a run that was killed goes on from its last
            finished stage when it is called again with the same arguments.

    Returns:
        As `finetune.run`; `qat_model` is a `tfmot_qat.Quantized`, which writes its own int8 file.

    Raises:
        MissingExtra: TFMOT is not installed.
        UsageError: The recipe asks for what TFMOT has not.
        ModelError: The model has no twin in tf_keras.
        DataError: The samples do not fit the model.
    """
    import keras

    toolkit()
    check(chosen)
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
        chain = _Chain(finetune.copy(loaded.model), loaded, chosen, data, seed, progress,
                       scratch if checkpoint_dir else None)
        if training_data.is_random(samples):
            chain.notes.append("trained on random samples: the accuracy means nothing")
        return chain.everything()


@functools.cache
def toolkit() -> Any:
    """The package `tensorflow_model_optimization`, which works on tf_keras beside Keras 3.

    Raises:
        MissingExtra: It is not installed.
    """
    import tensorflow as tf

    tf.keras.version()  # now it is Keras 3, whatever TFMOT says to the environment below
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    try:
        import tensorflow_model_optimization
    except ImportError as error:
        raise MissingExtra("tensorflow-model-optimization", "tfmot") from error
    finally:
        if before is None:
            os.environ.pop("TF_USE_LEGACY_KERAS", None)
        else:
            os.environ["TF_USE_LEGACY_KERAS"] = before
    _know_recurrent_cells()
    return tensorflow_model_optimization


def _know_recurrent_cells() -> None:
    """TFMOT prunes the cells of `tf.keras`, which it takes for Keras 2; ours are tf_keras's."""
    import tf_keras
    from tensorflow_model_optimization.python.core.sparsity.keras import prune_registry

    known = prune_registry.PruneRegistry._RNN_CELLS_WEIGHTS_MAP
    for cell in (tf_keras.layers.LSTMCell, tf_keras.layers.GRUCell, tf_keras.layers.SimpleRNNCell):
        known.setdefault(cell, ["kernel", "recurrent_kernel"])


def check(chosen: recipe.Recipe) -> None:
    """Refuse what TFMOT has no counterpart for.

    Raises:
        UsageError: It names the stage or the field.
    """
    for stage in chosen.stages:
        name = recipe.name_of(stage)
        if name not in ("finetune", "prune", "cluster", "qat"):
            raise UsageError(f"tensorflow-model-optimization has no stage {name}", HINT)
        for field, allowed in (("scope", "layer"), ("weight_bits", 8), ("activation_bits", 8),
                               ("per_layer", None)):
            value = getattr(stage, field, allowed)
            if value != allowed:
                raise UsageError(f"tensorflow-model-optimization cannot do {name} with "
                                 f"{field} = {value!r}", HINT)
        epochs = chosen.training.epochs if stage.epochs is None else stage.epochs
        if name == "prune" and epochs == 0:
            raise UsageError("--backend tfmot prunes while it trains", "give 1 epoch or more")
    if chosen.training.mixed_precision:
        raise UsageError("--backend tfmot does not train in mixed precision", HINT)


class _Chain:
    """One run: `model` is the Keras 3 copy that holds the weights between stages."""

    def __init__(self, model: Any, loaded: load.Loaded, chosen: recipe.Recipe,
                 data: training_data.Samples, seed: int, progress: Callable,
                 checkpoint: Path | None):
        self.model, self.loaded, self.recipe, self.data = model, loaded, chosen, data
        self.seed, self.checkpoint = seed, checkpoint
        self.objective, self.notes = losses.infer(
            data.labels, data.outputs, chosen.training.distill, chosen.training.temperature,
            chosen.training.teacher_weight)
        self.trainer = tfmot_training.Trainer(loaded, chosen, data, self.objective, seed, progress,
                                              toolkit().sparsity.keras.UpdatePruningStep)
        self.skipped: list[dict] = []
        self.touched: dict[int, kernels.Kernel] = {}
        self.clustered = False
        self._unfreeze()

    def _unfreeze(self) -> None:
        """As `finetune` does: frozen layers are trained, frozen statistics are kept."""
        import keras

        unfrozen, freeze, self.frozen = 0, self.recipe.training.freeze, []
        for layer in self.model._flatten_layers(include_self=True):
            if list(layer._layers):
                continue
            if freeze and kernels.chosen(layer, freeze):
                layer.trainable = False
                self.frozen += [layer.name] if layer.weights else []
            elif not layer.trainable and not isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = True
                unfrozen += bool(layer.weights)
        if unfrozen:
            self.notes.append(f"{unfrozen} frozen layers were trained too")

    def everything(self) -> finetune.Compressed:
        import tf_keras

        quantized, done = None, self._restore()
        for number, stage in enumerate(self.recipe.stages):
            name = recipe.name_of(stage)
            if number >= done:
                tf_keras.utils.set_random_seed(self.seed + number)
                twin, pairs = self._twin()
                wrapped = getattr(self, f"_{name}")(stage, twin, pairs)
                self.trainer.train(number, stage, wrapped)
                self._take_back(wrapped, pairs)
                if name == "qat":
                    quantized = tfmot_qat.Quantized(
                        tfmot_qat.strip(toolkit(), wrapped, self.clustered), self._rows(),
                        complete=not any(s["stage"] == "qat" for s in self.skipped))
                else:
                    self._save(number + 1)
            self.clustered |= name == "cluster"
        return finetune.Compressed(self.model, quantized, self.trainer.history, self.skipped,
                                   self.notes, self.objective.score_name, self._table())

    def _twin(self) -> tuple[Any, list]:
        """The tf_keras model with the weights as they are now.

        Raises:
            ModelError: There is none.
        """
        try:
            return legacy.flat_twin(self.model)
        except Exception as error:
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise ModelError(f"the model cannot be carried to tf_keras: {why}", HINT) from error

    # The stages: each gives the model that TFMOT wrapped

    def _finetune(self, stage: recipe.Finetune, twin: Any, pairs: list) -> Any:
        return _wrap(twin, self._kept(twin))

    def _kept(self, twin: Any) -> dict[str, Callable]:
        """Wrappers that hold the zeros of what was pruned in an earlier stage."""
        schedule = toolkit().sparsity.keras.ConstantSparsity
        return {layer.name: self._pruner(pruning_schedule=schedule(share, begin_step=1,
                                                                   frequency=1))
                for layer in twin.layers
                if (share := _largest_zeros(layer)) > forms.KEPT_ZEROS and prunable(layer)}

    def _prune(self, stage: recipe.Prune, twin: Any, pairs: list) -> Any:
        steps = self.trainer.steps * self.trainer.epochs(stage)
        options: dict[str, Any] = {"pruning_schedule": tfmot_training.sparsity_schedule(
            toolkit().sparsity.keras, stage, steps)}
        match = recipe.PATTERN.fullmatch(stage.pattern)
        if match[1]:
            options["sparsity_m_by_n"] = (int(match[2]) - int(match[1]), int(match[2]))
        if match[3]:
            options["block_size"] = (int(match[4]), int(match[3]))

        def why_not(layer: Any) -> str:
            ranks = {len(w.shape) for w in prunable(layer)}
            if match[3] and ranks - {2}:
                return "TFMOT makes blocks in kernels of two dimensions only"
            if match[1] and ranks - {2, 4}:
                return "TFMOT makes n:m patterns in kernels of two or four dimensions only"
            return "" if ranks else f"TFMOT prunes no {tfmot_training.kind(layer)}"

        names = self._names(stage, pairs, why_not)
        return _wrap(twin, dict.fromkeys(names, self._pruner(**options)))

    def _pruner(self, **options: Any) -> Callable:
        return functools.partial(toolkit().sparsity.keras.prune_low_magnitude, **options)

    def _cluster(self, stage: recipe.Cluster, twin: Any, pairs: list) -> Any:
        from tensorflow_model_optimization.python.core.clustering.keras import (
            cluster,
            clustering_registry,
        )

        init = getattr(toolkit().clustering.keras.CentroidInitialization,
                       CENTROIDS[stage.init])

        def why_not(layer: Any) -> str:
            registry, kind = clustering_registry.ClusteringRegistry, tfmot_training.kind(layer)
            if not registry.supports(layer) or registry._LAYERS_WEIGHTS_MAP.get(
                    type(layer)) == []:
                return f"TFMOT clusters no {kind}"
            small = min(_sizes(registry.make_clusterable(layer).get_clusterable_weights()))
            if stage.clusters < 3 and _largest_zeros(layer) > forms.KEPT_ZEROS:
                return "TFMOT keeps zeros with 3 clusters or more"
            return f"it has {small} weights, which is few for {stage.clusters} clusters" \
                if small <= stage.clusters else ""

        def wrapper(layer: Any) -> Any:
            return cluster._cluster_weights(
                layer, stage.clusters, init,
                preserve_sparsity=_largest_zeros(layer) > forms.KEPT_ZEROS)

        names = self._names(stage, pairs, why_not)
        return _wrap(twin, self._kept(twin) | dict.fromkeys(names, wrapper))

    def _qat(self, stage: recipe.Qat, twin: Any, pairs: list) -> Any:
        out = {new.name: old for old, news in pairs for new in news
               if old.weights and not kernels.chosen(old, stage.layers)}
        sparse = any(_largest_zeros(new) > forms.KEPT_ZEROS for _, news in pairs for new in news)
        ready = [twin]
        quantized, reasons = tfmot_qat.wrap(
            toolkit(), lambda: ready.pop() if ready else self._twin()[0], set(out),
            self.clustered, sparse)
        reasons |= dict.fromkeys(out, "not among the layers chosen")
        at = {new.name: old for old, news in pairs for new in news}
        self.skipped += [{"stage": "qat", "layer": at[n].path or at[n].name if n in at else n,
                          "why": why} for n, why in reasons.items()]
        for layer in quantized.layers:  # what TFMOT does not take shall keep its zeros and clusters
            if layer.name in reasons and layer.name in at and any(
                    id(w) in self.touched for w in at[layer.name].weights):
                layer.trainable = False
        rest = {id(w) for name, old in at.items() if name not in reasons for w in old.weights}
        self._touch([k for k in kernels.find(self.model)[0] if id(k.variable) in rest])
        return quantized

    def _names(self, stage: Any, pairs: list, why_not: Callable[[Any], str]) -> set[str]:
        """The layers of the twin that take part; the others are noted."""
        name, names = recipe.name_of(stage), set()
        layers = ", ".join([stage.layers, *(f"!{n}" for n in self.frozen)])
        found, skipped = kernels.find(self.model, layers, stage.embeddings)
        left = {id(k.variable): k for k in found}
        for old, news in pairs:
            weights = iter(old.weights)
            for new in news:
                mine = [left.pop(id(w)) for _, w in zip(new.weights, weights, strict=False)
                        if id(w) in left]
                if mine and (why := why_not(new)):
                    skipped.append({"layer": mine[0].layer, "why": why})
                elif mine:
                    names.add(new.name)
                    self._touch(mine)
        skipped += [{"layer": k.layer, "why": "tf_keras has no such layer"} for k in left.values()]
        self.skipped += [{"stage": name} | s for s in skipped]
        return names

    def _touch(self, found: list[kernels.Kernel]) -> None:
        self.touched |= {id(k.variable): k for k in found}

    # Between stages and in the end

    def _take_back(self, wrapped: Any, pairs: list) -> None:
        """The Keras 3 model gets the weights that the stage has trained."""
        made = {}
        for layer in wrapped.layers:
            made[tfmot_training.inside(layer).name] = layer
        for old, news in pairs:
            values = [v for new in news for v in tfmot_training.trained_values(
                made[new.name])]
            if values:
                old.set_weights(values)

    def _rows(self) -> list[list]:
        """One row of each input at a time, to calibrate with and to compare on."""
        import numpy as np

        chosen = np.random.default_rng(self.seed).permutation(self.trainer.rows)[:128]
        arrays = self.data.rows(chosen)
        return [[a[i:i + 1] for a in arrays] for i in range(len(chosen))]

    def _table(self) -> list[dict]:
        import numpy as np

        table = []
        for kernel in self.touched.values():
            values = kernel.variable.numpy()
            table.append({"layer": kernel.layer, "weight": kernel.variable.name,
                          "values": int(values.size), "zeros": float(np.mean(values == 0)),
                          "distinct": int(len(np.unique(values)))})
        return table

    def _save(self, done: int) -> None:
        import numpy as np

        if self.checkpoint is None:
            return
        beside = self.checkpoint / "tfmot.part.npz"
        np.savez(beside, told=json.dumps({
            "done": done, "history": self.trainer.history, "skipped": self.skipped,
            "touched": [k.variable.path for k in self.touched.values()]}),
                 **{f"v{i}": v.numpy() for i, v in enumerate(self.model.variables)})
        os.replace(beside, self.checkpoint / "tfmot.npz")

    def _restore(self) -> int:
        """How many stages an earlier, killed run has finished; its weights are put back."""
        import numpy as np

        path = self.checkpoint and self.checkpoint / "tfmot.npz"
        if not path or not path.is_file():
            return 0
        with np.load(path) as held:
            told = json.loads(str(held["told"]))
            for i, variable in enumerate(self.model.variables):
                variable.assign(held[f"v{i}"])
        self.trainer.history, self.skipped = told["history"], told["skipped"]
        self._touch([k for k in kernels.find(self.model, embeddings=True)[0]
                     if k.variable.path in told["touched"]])
        return told["done"]


def prunable(layer: Any) -> list:
    """The weights that TFMOT prunes in a layer of tf_keras."""
    from tensorflow_model_optimization.python.core.sparsity.keras import prune_registry

    registry = prune_registry.PruneRegistry
    return registry.make_prunable(layer).get_prunable_weights() if registry.supports(layer) else []


def _wrap(twin: Any, wrappers: dict[str, Callable]) -> Any:
    """The model with some layers wrapped; TFMOT's wrappers take the layers themselves."""
    import tf_keras

    return tf_keras.models.clone_model(
        twin, clone_function=lambda layer: wrappers.get(layer.name, lambda x: x)(layer))


def _largest_zeros(layer: Any) -> float:
    """The share of zeros in the kernel of a layer that has most of them."""
    import numpy as np

    shares = [np.mean(w.numpy() == 0) for w in layer.trainable_weights if len(w.shape) >= 2]
    return float(max(shares, default=0.0))


def _sizes(weights: list) -> list[int]:
    return [int(w.shape.num_elements()) for _, w in weights]
