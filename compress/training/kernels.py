"""The kernels of a model: which variables prune, cluster and QAT work on, and their layout.

A kernel is seen as a matrix, one row per output channel and the inputs of that channel along it,
in the order in which TFLite stores them: patterns and scales mean the same here and in the file.
"""

from __future__ import annotations

import fnmatch
import math
from dataclasses import dataclass, field
from typing import Any

SMALLEST = 16  # values; smaller kernels cost more accuracy than they save bytes
ATTRIBUTES = ("kernel", "depthwise_kernel", "pointwise_kernel", "recurrent_kernel")
OWN_NAMES = ("kernel", "w", "weight", "weights")  # of layers that users wrote


@dataclass(frozen=True)
class Kernel:
    """One variable that stages work on.

    Attributes:
        layer: Path of its layer, as reports show it.
        variable: The Keras variable.
        channels: Axes along which each index is an output channel; empty for one scale in all.
        kind: `kernel`, `depthwise` or `embedding`.
    """

    layer: str
    variable: Any = field(repr=False)
    channels: tuple[int, ...]
    kind: str = "kernel"

    def matrix(self, values: Any) -> Any:
        """(channels, inputs) view of an array in the kernel's shape, or a copy of it."""
        import numpy as np

        rest = [a for a in range(values.ndim) if a not in self.channels]
        rows = math.prod(values.shape[a] for a in self.channels)
        return np.transpose(values, (*self.channels, *rest)).reshape(rows, -1)

    def unmatrix(self, matrix: Any) -> Any:
        """The inverse of `matrix`."""
        import numpy as np

        shape = tuple(self.variable.shape)
        rest = [a for a in range(len(shape)) if a not in self.channels]
        order = (*self.channels, *rest)
        moved = matrix.reshape([shape[a] for a in order])
        return np.ascontiguousarray(np.transpose(moved, np.argsort(order)))


def find(model: Any, layers: str = "*", embeddings: bool = False,
         depthwise: bool = True) -> tuple[list[Kernel], list[dict]]:
    """The kernels of a Keras 3 model, each once however often its layer is used.

    Args:
        model: Any Keras 3 model, built.
        layers: Names, paths or types with `*`, commas between, `!` before exceptions.
        embeddings: Take embedding tables too.
        depthwise: Take depthwise kernels too.

    Returns:
        The kernels in the model's order, and `{"layer", "why"}` for each layer with weights in
        which none was taken.
    """
    found: dict[int, Kernel] = {}
    skipped: dict[str, str] = {}
    taboo = _normalized_by_wrapper(model)
    for layer in model._flatten_layers(include_self=True):
        own = [v for v in layer._trainable_variables if len(v.shape) >= 2]
        if not own:
            continue
        path = layer.path or layer.name
        why = None if chosen(layer, layers) else "not among the layers chosen"
        if id(layer) in taboo:
            why = "SpectralNormalization sets its weights anew in every step"
        kernels = [] if why else list(_kernels(layer, path, embeddings))
        large = [k for k in kernels if math.prod(k.variable.shape) >= SMALLEST]
        if kernels and not large:
            why = f"fewer than {SMALLEST} weights"
        if not depthwise and any(k.kind == "depthwise" for k in large):
            large = [k for k in large if k.kind != "depthwise"]
            skipped[path] = why = "its depthwise kernel is small and sensitive (depthwise = true)"
        for kernel in large:
            found.setdefault(id(kernel.variable), kernel)
        if not large:
            skipped[path] = why or _reason(layer)
    return list(found.values()), [{"layer": k, "why": v} for k, v in skipped.items()]


def chosen(layer: Any, patterns: str) -> bool:
    """Whether `patterns` takes a layer, by its name, path or type."""
    parts = [p.strip() for p in patterns.split(",") if p.strip()]
    names = (layer.name, layer.path or "", type(layer).__name__)

    def hit(pattern: str) -> bool:
        return any(fnmatch.fnmatchcase(n, pattern) for n in names)

    wanted = [p for p in parts if not p.startswith("!")] or ["*"]
    return any(map(hit, wanted)) and not any(hit(p[1:]) for p in parts if p.startswith("!"))


def _kernels(layer: Any, path: str, embeddings: bool):
    import keras

    layers = keras.layers
    if isinstance(layer, layers.Embedding):
        if embeddings:
            yield Kernel(path, layer._embeddings, (0,), "embedding")
        return
    if _is_other(layer):
        return
    own = {id(v): v for v in layer._trainable_variables}
    for name in ATTRIBUTES:
        variable = getattr(layer, f"_{name}", None)
        if id(variable) not in own:
            variable = getattr(layer, name, None)
        if id(variable) in own and len(variable.shape) >= 2:
            kind = "depthwise" if _is_depthwise(layer, name) else "kernel"
            yield Kernel(path, variable, channel_axes(layer, name, len(variable.shape)), kind)
            own.pop(id(variable))
    if not type(layer).__module__.startswith("keras."):
        for variable in own.values():
            if variable.name in OWN_NAMES and len(variable.shape) >= 2:
                yield Kernel(path, variable, (len(variable.shape) - 1,))


def _is_depthwise(layer: Any, name: str) -> bool:
    return name == "depthwise_kernel" or type(layer).__name__.startswith("DepthwiseConv")


def channel_axes(layer: Any, name: str, rank: int) -> tuple[int, ...]:
    """The axes of a kernel that number its output channels."""
    from keras.src.layers.convolutional.base_conv_transpose import BaseConvTranspose

    kind = type(layer).__name__
    if _is_depthwise(layer, name):
        return (rank - 2, rank - 1)
    if isinstance(layer, BaseConvTranspose):
        return (rank - 2,)
    if kind == "EinsumDense":
        return _einsum_axes(layer.equation, rank)
    return (rank - 1,)


def _einsum_axes(equation: str, rank: int) -> tuple[int, ...]:
    """Letters of the weights that are in the result are channels, the others are summed."""
    inputs, _, result = equation.replace(" ", "").partition("->")
    weights = inputs.split(",")[1].replace("...", "")
    axes = tuple(i for i, letter in enumerate(weights) if letter in result)
    return axes if len(axes) < rank else (rank - 1,)


def _is_other(layer: Any) -> bool:
    import keras

    layers = keras.layers
    return isinstance(layer, (layers.BatchNormalization, layers.LayerNormalization,
                              layers.GroupNormalization, layers.RMSNormalization, layers.PReLU))


def _reason(layer: Any) -> str:
    import keras

    if isinstance(layer, keras.layers.Embedding):
        return "embedding tables are taken only on request (embeddings = true)"
    if _is_other(layer):
        return "scales and slopes are not compressed"
    return "its weights are not called kernel, w, weight or weights"


def _normalized_by_wrapper(model: Any) -> set[int]:
    import keras

    found = set()
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.SpectralNormalization):
            found |= {id(layer), id(layer.layer)}
    return found
