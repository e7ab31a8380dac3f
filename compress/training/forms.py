"""The form of a kernel while it is trained: masked, clustered, rounded, or all of these.

The model itself is not rebuilt. `Wrapped` calls it as it is, in a scope in which each kernel reads
as its form; so any layer that has a kernel takes part, in any kind of model.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

from . import flow, obstacles
from .kernels import Kernel

KEPT_ZEROS = 0.1  # kernels with a larger share of zeros than this keep them in later stages
MANY_VALUES = 256  # more than clustering makes
LEAST_SNR = 1000.0  # of the weights of a channel to what rounding with the kernel's scale changes


class Form:
    """What a kernel reads as; each stage of a recipe adds to it.

    `mask` (0 and 1) comes first. `table` and `places` (clusters, and which of them each weight
    has) replace the weights; place 0 is the zero of masked weights where `mask` is set. The weights
    themselves go on being trained behind them, as if they were read, and say at `regroup` which
    cluster is theirs now. `bits` rounds the result, with one scale for the kernel where `whole` is
    set, and one per channel otherwise.
    """

    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.mask = self.table = self.places = self.bits = None
        self.whole = False

    def variables(self) -> list:
        return [v for v in (self.mask, self.table, self.places) if v is not None]

    def value(self) -> Any:
        """The weights to compute with, a tensor in the kernel's shape."""
        import tensorflow as tf

        value = tf.convert_to_tensor(self.kernel.variable.value)
        if self.mask is not None:
            value = value * tf.cast(self.mask.value, value.dtype)
        if self.table is not None:
            table = self.table.value
            if self.mask is not None:
                table = tf.concat([tf.zeros([1], table.dtype), table], 0)
            shared = tf.cast(tf.gather(table, self.places.value), value.dtype)
            value = shared + (value - tf.stop_gradient(value))
        if self.bits:
            value = fake_quantize(value, self.bits, () if self.whole else self.kernel.channels)
        return value

    def regroup(self) -> None:
        """Each weight goes to the cluster that is nearest to it now."""
        import numpy as np

        if self.table is None:
            return
        values, table = self.kernel.variable.numpy(), self.table.numpy()
        order = np.argsort(table, kind="stable")
        centers = table[order]
        places = order[np.searchsorted((centers[1:] + centers[:-1]) / 2, values)]
        if self.mask is not None:
            places = np.where(self.mask.numpy() > 0, places + 1, 0)
        self.places.assign(places.astype(np.int32))

    def begin_rounding(self, bits: int) -> None:
        """Round to `bits` from here on, with one scale for the kernel where that does no harm.

        The integers of the file then are the same few numbers in every channel of a clustered
        kernel, and smaller numbers in channels of smaller weights.
        """
        self.whole = False
        self.bits = None
        self.whole = one_scale_does(self.kernel.matrix(self.value().numpy()), bits)
        self.bits = bits

    def set_mask(self, mask: Any) -> None:
        import keras

        if self.mask is None:
            name = self.kernel.variable.name
            self.mask = keras.Variable(mask, trainable=False, dtype="float32", name=f"{name}_mask")
        else:
            self.mask.assign(mask)

    def keep_zeros(self) -> None:
        """Weights that are zero stay so where they are many enough to have been pruned."""
        import numpy as np

        values = self.kernel.variable.numpy()
        if self.mask is None and np.mean(values == 0) > KEPT_ZEROS:
            self.set_mask((values != 0).astype(np.float32))

    def keep_clusters(self) -> None:
        """A kernel of few distinct values keeps them apart from one another."""
        import numpy as np

        values = self.kernel.variable.numpy()
        live = values != 0 if self.mask is not None else np.ones(values.shape, bool)
        table, places = np.unique(values[live], return_inverse=True)
        if self.table is None and 1 < len(table) <= min(MANY_VALUES, live.sum() / 2):
            every = np.zeros(values.shape, np.int32)
            every[live] = places.ravel() + (self.mask is not None)
            self.set_clusters(table, every)

    def set_clusters(self, table: Any, places: Any) -> None:
        """The kernel reads as its clusters from here on.

        `table` is an array, or the Keras variable of another kernel's form to share.
        """
        import keras

        name = self.kernel.variable.name
        self.table = table if isinstance(table, keras.Variable) else keras.Variable(
            table, dtype="float32", name=f"{name}_clusters")
        self.places = keras.Variable(places, trainable=False, dtype="int32", name=f"{name}_places")


def one_scale_does(matrix: Any, bits: int) -> bool:
    """Whether one scale for a kernel leaves every channel of it 30 dB above its roundings.

    Args:
        matrix: The weights, (channels, inputs).
        bits: To how many they are rounded.
    """
    import numpy as np

    matrix = np.asarray(matrix, np.float64)
    scale = np.abs(matrix).max(initial=0) / (2 ** (bits - 1) - 1)
    if not scale > 0:
        return False
    wrong = np.square(np.round(matrix / scale) * scale - matrix).sum(1)
    return bool((np.square(matrix).sum(1) >= LEAST_SNR * wrong).all())


def fake_quantize(value: Any, bits: int, channels: tuple[int, ...]) -> Any:
    """Weights rounded to `bits`, symmetric, one scale per channel; the gradient passes through.

    The scale is max |w| / (2^(bits-1) - 1), which is what TFLite's quantizers choose, so they
    find the same integers in the result. Without `channels` there is one scale, and the quantizers
    are told (`tflite.grids`).
    """
    import tensorflow as tf

    axes = [a for a in range(len(value.shape)) if a not in channels]
    high = float(2 ** (bits - 1) - 1)
    largest = tf.reduce_max(tf.abs(value), axis=axes, keepdims=True)
    scale = tf.where(largest > 0, largest / high, tf.ones_like(largest))
    rounded = tf.clip_by_value(tf.round(value / scale), -high, high) * scale
    return value + tf.stop_gradient(rounded - value)


@functools.cache
def formed_class() -> type:
    """The Keras model that calls another one with its kernels in other forms."""
    import keras
    import tensorflow as tf

    class Formed(keras.Model):
        """Takes the inner model's inputs, gives its outputs; compiled and fitted as any model.

        Args:
            inner: A Keras 3 model.
            pack: From a list of tensors to the model's arguments (`signature.inputs`).
            forms: One per kernel.
            hooks: None, or a context manager to call the inner model in (`qat.Ranges`).
            around: None, or another one, around that (`obstacles.Obstacles`).
        """

        def __init__(self, inner: Any, pack: Any, forms: list[Form], hooks: Any = None,
                     around: Any = None):
            super().__init__(name="wrapped")
            self.inner = inner
            self.extra = list({id(v): v for f in forms for v in f.variables()}.values())
            self.ranges = hooks.variables() if hooks else []
            nothing = contextlib.nullcontext()
            self._hidden = {"pack": pack, "forms": forms, "hooks": hooks,
                            "contexts": (hooks or nothing, around or nothing)}
            self.output_names = getattr(inner, "output_names", None)
            self.built = True

        def call(self, inputs: Any, training: bool = False) -> Any:
            hidden = self._hidden
            tensors = keras.tree.flatten(inputs)
            if hidden["hooks"]:
                tensors = hidden["hooks"].inputs(tensors)
            args, kwargs = hidden["pack"](tensors)
            mapping = [(f.kernel.variable, f.value()) for f in hidden["forms"]]
            formed = {id(variable) for variable, _ in mapping}
            inside, outside = hidden["contexts"]
            with keras.StatelessScope(mapping, collect_losses=True) as scope, inside, \
                    outside if training else contextlib.nullcontext():
                outputs = self.inner(*args, training=training, **kwargs)
            for loss in scope.losses if training else ():
                self.add_loss(loss)
            for variable in self.inner.variables:  # moving averages, seeds
                value = scope.get_current_value(variable)
                if value is not None and id(variable) not in formed:
                    if flow.is_float(value):  # a NaN in the data is not to stay in an average
                        value = tf.where(tf.math.is_finite(value), value, variable.value)
                    variable.assign(value)
            return outputs

    return Formed


@functools.cache
def wrapped_class() -> type:
    """The Keras model that trains another one towards an objective."""
    import keras
    import tensorflow as tf

    class Wrapped(formed_class()):
        """Takes the inner model's inputs as a tuple, gives its outputs as a list.

        Args:
            inner, pack, forms, hooks, around: As above.
            objective: `losses.Objective`, which has the loss and the score.
            shapes: Of the outputs, for those whose number of axes TensorFlow does not know.
            teacher: None, or what gives the original's outputs for a list of inputs; batches
                then come without them.
        """

        def __init__(self, inner: Any, pack: Any, forms: list[Form], objective: Any,
                     hooks: Any = None, teacher: Any = None, around: Any = None,
                     shapes: list[tuple] = ()):
            super().__init__(inner, pack, forms, hooks, around)
            self.objective = objective
            self._hidden |= {"teacher": teacher, "shapes": shapes, "unreached": set()}
            self.score = keras.metrics.Mean("score")
            self.lost = keras.metrics.Mean("lost")

        @property
        def unreached(self) -> set[int]:
            """Identities of the variables to which no gradient came."""
            return self._hidden["unreached"]

        def compile(self, optimizer: Any, **options: Any) -> None:
            super().compile(optimizer=optimizer, **options)
            if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):  # it sees to that
                apply = optimizer.apply_gradients
                optimizer.apply_gradients = lambda pairs: apply(self._finite(list(pairs)))

        def _finite(self, pairs: list[tuple]) -> list[tuple]:
            """Gradients that are not finite count as zero; `lost` is the share of such steps."""
            self._hidden["unreached"] |= {id(v) for g, v in pairs if g is None}
            known = [obstacles.is_finite(g) for g, _ in pairs if g is not None]
            if known:
                self.lost.update_state(1.0 - tf.cast(tf.reduce_all(tf.stack(known)), tf.float32))
            return [(g if g is None else obstacles.finite(g), v) for g, v in pairs]

        def call(self, inputs: Any, training: bool = False) -> list:
            outputs = [tf.sparse.to_dense(x) if isinstance(x, tf.SparseTensor) else x
                       for x in keras.tree.flatten(super().call(inputs, training))]
            for output, shape in zip(outputs, self._hidden["shapes"], strict=False):
                if output.shape.rank is None:
                    output.set_shape((None, *shape[1:]))
            return outputs

        def train_step(self, data: Any) -> Any:
            inputs, y = data
            if self._hidden["teacher"]:
                y = y | {f"teacher{i}": tf.stop_gradient(output) for i, output in
                         enumerate(self._hidden["teacher"](list(inputs)))}
            return super().train_step((inputs, y))

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            loss = self.objective.loss(y, y_pred)
            for extra in self.losses if training else ():
                loss += tf.cast(tf.reduce_sum(extra), loss.dtype)
            return loss / tf.distribute.get_strategy().num_replicas_in_sync

        def compute_metrics(self, x, y, y_pred, sample_weight=None):
            self.score.update_state(self.objective.score_of(y, y_pred))
            return self.get_metrics_result()

    return Wrapped
