"""The stages for those who own their training: a Keras model and callbacks for their own `fit`.

    model, callbacks = own_loop.wrap(original, recipe.Prune(sparsity=0.8))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, epochs=5, callbacks=callbacks)
    pruned = own_loop.finish(model)

    model, _ = own_loop.wrap(pruned, recipe.Qat(), data=x[:256])   # zeros stay zeros
    ...
    rounded = own_loop.finish(model)
    qat_export.to_int8(own_loop.quantized(model), "model.tflite", inputs, outputs)

One stage at a time. Zeros and shared values that an earlier stage made are found in the weights and
kept.
"""

from __future__ import annotations

from typing import Any

from ...errors import UsageError
from ..models import copying, signature
from . import cluster, forms, kernels, prune, qat, recipe

BATCH = 32


def wrap(model: Any, stage: recipe.Stage, data: Any = None, seed: int = 0) -> tuple[Any, list]:
    """A model to compile and fit, which computes with the stage's weights, and its callbacks.

    Args:
        model: A Keras 3 model; it is copied and left alone.
        stage: One of `recipe.Prune`, `Cluster`, `Qat` or `Structured` (all at once then).
        data: Inputs as the model takes them (an array; a list or dict of arrays), a few hundred
            rows: for `Qat`, whose ranges start on them, and importance by `taylor`.
        seed: Of random initial clusters.

    Returns:
        A Keras model with the inputs and outputs of `model`, and the callbacks for its `fit`:
        with `Prune`, one that lets the sparsity grow over all steps of that `fit`; where there are
        clusters, one that lets weights change theirs.

    Raises:
        UsageError: The stage needs `data` and there are none.
        ModelError: The model cannot be copied.
    """
    batches = _batches(data)
    if isinstance(stage, recipe.Qat) and not batches:
        raise UsageError("ranges start on data, and there are none",
                         "wrap(model, stage, data=x_train[:256])")
    inner = copying.copy(model)
    if isinstance(stage, recipe.Structured):
        from ..channels import structured

        inner = structured.shrink(inner, stage, batches=[(b, None) for b in batches]).model
    _, pack = signature.inputs(inner, "keras3")
    mine = [forms.Form(k) for k in kernels.find(
        inner, getattr(stage, "layers", "*"), getattr(stage, "embeddings", False),
        getattr(stage, "depthwise", True))[0]]
    hooks = None
    if isinstance(stage, recipe.Prune):
        _open(mine)
    else:
        for form in mine:
            form.keep_zeros()
    if isinstance(stage, recipe.Cluster):
        cluster.begin(mine, stage, seed)
    else:
        for form in mine if not isinstance(stage, recipe.Prune) else ():
            form.keep_clusters()
    if isinstance(stage, recipe.Qat):
        hooks = qat.begin(inner, pack, batches, stage, mine)
    made = forms.formed_class()(inner, pack, mine, hooks)
    own = prune.shares(inner, stage) if isinstance(stage, recipe.Prune) else {}
    return made, _callbacks(mine, stage, own)


def finish(model: Any) -> Any:
    """The plain Keras model that a wrapped one stands for, with the weights of its forms.

    Args:
        model: From `wrap`, trained. It can be trained on, and finished again.
    """
    made = copying.copy(model.inner)
    names = {id(v): i for i, v in enumerate(model.inner.variables)}
    for form in model._hidden["forms"]:
        made.variables[names[id(form.kernel.variable)]].assign(form.value())
    return made


def quantized(model: Any) -> qat.FakeQuantized:
    """The model with its learned ranges, for `qat_export.to_int8`.

    Args:
        model: From `wrap` with a `recipe.Qat`, trained; this ends its training, since weights
            and biases are put on the file's grid.
    """
    hidden = model._hidden
    if hidden["hooks"] is None:
        raise UsageError("this model was not wrapped for quantization-aware training",
                         "wrap(model, recipe.Qat(), data=...)")
    for form in hidden["forms"]:
        form.kernel.variable.assign(form.value())
    rounded = {id(f.kernel.variable): f for f in hidden["forms"] if f.bits}
    return qat.FakeQuantized(model.inner, hidden["hooks"], hidden["pack"], rounded)


def _open(mine: list[forms.Form]) -> None:
    import numpy as np

    for form in mine:
        form.set_mask(np.ones(tuple(form.kernel.variable.shape), np.float32))


def _batches(data: Any) -> list[list]:
    """Lists of input tensors of up to 32 rows."""
    import keras
    import tensorflow as tf

    if data is None:
        return []
    arrays = [tf.convert_to_tensor(a) for a in keras.tree.flatten(data)]
    arrays = [tf.cast(a, tf.float32) if a.dtype in (tf.float64, tf.uint8) else a for a in arrays]
    count = int(arrays[0].shape[0])
    size = min(BATCH, count)
    return [[a[i:i + size] for a in arrays] for i in range(0, count - size + 1, size)]


def _callbacks(mine: list[forms.Form], stage: recipe.Stage, own: dict[int, float]) -> list:
    """Sets masks along the schedule, over as many steps as `fit` is going to make; or clusters."""
    import keras

    pruning = isinstance(stage, recipe.Prune)
    clustered = [form for form in mine if form.table is not None]

    class Watch(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.step = 0
            self.steps = (self.params.get("epochs") or 1) * (self.params.get("steps") or 0)
            if pruning and not self.steps:  # a generator of unknown length: all at once
                self.set(1, 1)

        def on_train_batch_begin(self, batch, logs=None):
            if pruning and self.steps and prune.masks_at(stage, self.step, self.steps):
                self.set(self.step, self.steps)
            if cluster.regroups_at(self.step, self.steps):
                for form in clustered:
                    form.regroup()
            self.step += 1

        def set(self, step: int, steps: int) -> None:
            prune.grow(mine, stage, own, step, steps)

    return [Watch()] if pruning or clustered else []
