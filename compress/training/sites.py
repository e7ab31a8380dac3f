"""Where the int8 file rounds activations: after each group of operations that TFLite fuses.

A convolution with its BatchNormalization and ReLU is one operator with one rounding at its end.
Operators that only move, choose or average values keep the scale of what they get; an average is
rounded to it. Concatenation and maximum want one scale for all that they join. Softmax, sigmoid
and tanh have fixed scales. An average of whole images is a
MEAN, whose scale is its own. (TensorFlow Lite
8-bit quantization specification.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .flow import Call, Flow

KERNEL = ("Dense", "EinsumDense", "Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D",
          "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D", "Conv1DTranspose",
          "Conv2DTranspose", "Conv3DTranspose")
SAME = ("Flatten", "Reshape", "Permute", "RepeatVector", "Dropout", "SpatialDropout1D",
        "SpatialDropout2D", "SpatialDropout3D", "GaussianDropout", "GaussianNoise", "AlphaDropout",
        "ActivityRegularization", "Identity", "Masking", "MaxPooling1D", "MaxPooling2D",
        "MaxPooling3D", "GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D",
        "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D", "Cropping1D", "Cropping2D",
        "Cropping3D", "UpSampling1D", "UpSampling2D", "Transpose", "ExpandDims", "Squeeze",
        "GetItem", "Swapaxes", "Moveaxis", "Ravel", "BroadcastTo", "Slice", "Split", "Tile",
        "Repeat", "StopGradient")
AVERAGE = ("AveragePooling1D", "AveragePooling2D", "AveragePooling3D")
JOINING = ("Concatenate", "Maximum", "Minimum", "Stack")
ADDING = ("Add", "Subtract")
FIXED = ("softmax", "sigmoid", "tanh", "log_softmax")


@dataclass
class Site:
    """One rounding: where it is, and which of the learned ranges it uses.

    Attributes:
        kind: `input` (of the model), `before` (the activation inside a layer),
            `middle` (between the two parts of a separable convolution), `after` (a call) or
            `pooled` (after an average, on the steps of what was averaged: the file's operator
            does it by itself, so it is not written out for converters).
        key: Number of the input, or `Call.key`.
        place: Which of the call's outputs.
        layer: Name for people.
        range: Number of the range.
    """

    kind: str
    key: Any
    place: int
    layer: str
    range: int = -1


@dataclass
class Plan:
    sites: list[Site] = field(default_factory=list)

    def of(self, kind: str, key: Any, place: int = 0) -> Site | None:
        return next((s for s in self.sites
                     if (s.kind, s.key, s.place) == (kind, key, place)), None)

    @property
    def ranges(self) -> int:
        return 1 + max((s.range for s in self.sites), default=-1)


def plan(flow: Flow, names: list[str], skip: set[int]) -> Plan:
    """The sites of a model.

    Args:
        flow: Its calls.
        names: Names of its inputs; those of float type get a site each.
        skip: Identities of layers that are left to calibration.
    """
    made = Plan([Site("input", i, 0, name) for i, name in enumerate(names) if name])
    for call in flow.calls:
        if id(call.op) in skip or not call.outputs:
            continue
        kind = "other" if is_whole(flow, call) else role(call.op)
        if kind == "kernel" and inner_activation(call.op) not in ("linear", "relu", "relu6"):
            made.sites.append(Site("before", call.key, 0, call.op.name))
        if type(call.op).__name__.startswith("SeparableConv"):
            made.sites.append(Site("middle", call.key, 0, call.op.name))
        if not _rounds(flow, call, kind):
            continue
        fresh = [t for t in call.outputs if t not in call.inputs]
        made.sites += [Site("after", call.key, call.outputs.index(t), call.op.name) for t in fresh]
    for number, site in enumerate(made.sites):
        site.range = number
    _join(flow, made)
    for call in flow.calls:
        averaged = role(call.op) == "average" and not made.of("after", call.key)
        if averaged and id(call.op) not in skip and call.outputs:
            if given := source(flow, made, call.inputs[0]):
                made.sites.append(Site("pooled", call.key, 0, call.op.name, given.range))
    return made


def is_whole(flow: Flow, call: Call) -> bool:
    """Whether a call averages whole images, as a MEAN does, whose result has a scale of its own."""
    if role(call.op) != "average" or call.op.padding != "valid" or not call.inputs:
        return False
    shape = list(flow.tensor(call.inputs[0]).shape)
    sides = shape[1:-1] if call.op.data_format == "channels_last" else shape[2:]
    return list(call.op.pool_size) == sides


def role(op: Any) -> str:
    """What an operation is to quantization, by its type's name and its activation."""
    name = type(op).__name__
    if name in KERNEL and inner_activation(op) != "odd":
        return "kernel"
    if name in ("ReLU", "Activation", "Softmax", "Relu", "Relu6", "Sigmoid", "Tanh", "LogSoftmax"):
        return _activation_role(op, name)
    for kind, known in (("same", SAME), ("average", AVERAGE), ("join", JOINING), ("add", ADDING)):
        if name in known:
            smooth = getattr(op, "interpolation", "nearest") != "nearest"
            return "other" if smooth else kind
    return "norm" if name == "BatchNormalization" else "other"


def _activation_role(op: Any, name: str) -> str:
    if name == "ReLU":
        plain = op.max_value in (None, 6.0) and not op.negative_slope and not op.threshold
        return "relu" if plain else "other"
    function = inner_activation(op) if name == "Activation" else \
        {"LogSoftmax": "log_softmax"}.get(name, name.lower())
    if function in ("relu", "relu6"):
        return "relu"
    return "fixed" if function in FIXED else ("same" if function == "linear" else "other")


def inner_activation(op: Any) -> str:
    """Name of the activation inside a layer; activations that are layers have their type's."""
    function = getattr(op, "activation", None)
    if function is None:
        return "linear"
    return getattr(function, "__name__", type(function).__name__)


def _rounds(flow: Flow, call: Call, kind: str) -> bool:
    """Whether there is a rounding after a call."""
    if kind in ("same", "average", "join", "fixed"):
        return False
    if kind == "kernel":
        activation = inner_activation(call.op)
        if activation in FIXED:
            return False
        return activation != "linear" or not _goes_on(flow, call, ("norm", "relu"))
    if kind == "norm":
        before = flow.producer(call.inputs[0]) if call.inputs else None
        fused = before and role(before.op) == "kernel" and inner_activation(before.op) == "linear"
        return not (fused and _goes_on(flow, call, ("relu",)))
    return not (kind == "add" and _goes_on(flow, call, ("relu",)))


def _goes_on(flow: Flow, call: Call, roles: tuple[str, ...]) -> bool:
    """Whether the call's only reader is one that is fused with it."""
    readers = flow.consumers(call.outputs[0])
    return (call.outputs[0] not in flow.ends and len(readers) == 1
            and role(readers[0].op) in roles)


def _join(flow: Flow, made: Plan) -> None:
    """Give all that a concatenation or maximum joins one range."""
    for call in flow.calls:
        if role(call.op) != "join" or not call.outputs:
            continue
        sources = [source(flow, made, t) for t in call.inputs]
        known = [s.range for s in sources if s]
        if not known or None in sources:
            # What it joins has no range of ours: its result gets one, and calibration the rest.
            made.sites.append(Site("after", call.key, 0, call.op.name, made.ranges))
            continue
        for site in made.sites:
            if site.range in known:
                site.range = known[0]
    numbers = {old: new for new, old in enumerate(dict.fromkeys(s.range for s in made.sites))}
    for site in made.sites:
        site.range = numbers[site.range]


def source(flow: Flow, made: Plan, tensor: int) -> Site | None:
    """The rounding whose scale a tensor has, up through what keeps scales."""
    while True:
        if tensor in flow.starts:
            return made.of("input", flow.starts.index(tensor))
        call = flow.producer(tensor)
        if call is None:
            return None
        place = call.outputs.index(tensor)
        site = made.of("after", call.key, place) or made.of("pooled", call.key, place)
        if site or role(call.op) not in ("same", "join") or not call.inputs:
            return site
        tensor = call.inputs[0]
