"""Biases on the grid of the int8 file, so that the Keras model adds the very numbers it adds.

TFLite keeps a bias as int32 in steps of (scale of the input) x (scale of the channel's weights);
a BatchNormalization behind the layer is folded into both. Small channels have coarse steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import sites
from .flow import Flow
from .kernels import channel_axes


@dataclass(frozen=True)
class Bias:
    """A layer whose bias is settled: the BatchNormalization that is folded into it, or None, and
    the number of its input's range."""

    layer: Any
    norm: Any
    range: int


def find(flow: Flow, plan: sites.Plan) -> list[Bias]:
    """The layers with a bias (or a BatchNormalization) whose input has a learned range."""
    found, twice = {}, set()
    for call in flow.calls:
        layer = call.op
        if sites.role(layer) != "kernel" or type(layer).__name__ == "EinsumDense":
            continue
        site = plan.of("middle", call.key) or sites.source(flow, plan, call.inputs[0])
        if call.nth or site is None:
            twice.add(id(layer))
            continue
        readers = flow.consumers(call.outputs[0])
        norm = readers[0].op if len(readers) == 1 and call.outputs[0] not in flow.ends and \
            sites.role(readers[0].op) == "norm" and \
            sites.inner_activation(layer) == "linear" else None
        found[id(layer)] = Bias(layer, norm, site.range)
    return [b for key, b in found.items() if key not in twice]


def settle(biases: list[Bias], ranges: list[tuple[float, float]], forms: dict[int, Any]) -> None:
    """Round the biases, in place.

    Args:
        biases: From `find`.
        ranges: (min, max) of each range.
        forms: By identity of the kernel's variable, its form: to how many bits it is rounded, and
            whether with one scale.
    """
    import numpy as np

    for one in biases:
        low, high = ranges[one.range]
        kernel, name = _kernel(one.layer)
        target = one.norm.beta if one.norm is not None else one.layer.bias
        if target is None or id(kernel) not in forms:
            continue
        values = kernel.numpy().astype(np.float64)
        channels = channel_axes(one.layer, name, values.ndim)
        rest = tuple(a for a in range(values.ndim) if a not in channels)
        largest, form = np.abs(values).max(axis=rest).ravel(), forms[id(kernel)]
        if form.whole:
            largest = np.full_like(largest, largest.max())
        step = largest / (2 ** (form.bits - 1) - 1) * (high - low) / 255
        bias = np.zeros_like(step) if one.layer.bias is None else one.layer.bias.numpy()
        folded = np.asarray(bias, np.float64)
        if one.norm is not None:
            norm = one.norm
            factor = 1 / np.sqrt(norm.moving_variance.numpy().astype(np.float64) + norm.epsilon)
            factor = factor * (norm.gamma.numpy() if norm.scale else 1.0)
            step = step * np.abs(factor)
            folded = norm.beta.numpy() + (folded - norm.moving_mean.numpy()) * factor
        if step.shape != folded.shape:
            continue
        safe = np.where(step > 0, step, 1.0)
        moved = np.where(step > 0, np.round(folded / safe) * safe - folded, 0.0)
        target.assign(target.numpy() + moved)


def _kernel(layer: Any) -> tuple[Any, str]:
    if type(layer).__name__.startswith("Separable"):
        return layer.pointwise_kernel, "pointwise_kernel"
    variable = getattr(layer, "_kernel", None)
    return (layer.kernel if variable is None else variable), "kernel"
