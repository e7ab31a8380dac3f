"""Rebuild a functional model of one Keras in the other by walking its graph.

Layers become the class of the same name with the same configuration and weights, nested models
are rebuilt inside out, and operations that the other side lacks are hosted in a layer that calls
the original. Differences between the Kerases that change numbers are treated by name below.
`legacy` compares both models before anyone uses the result.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

from . import hosted, scan
from .hosted import Unbridgeable

# Configuration that one side calls differently, by class; None drops it.
RENAMED = {("LeakyReLU", "keras3"): {"alpha": "negative_slope"},
           ("LeakyReLU", "tf_keras"): {"negative_slope": "alpha"}}
COMMON = ("name", "dtype")
DROPPED = re.compile(r".*_initializer$|^(seed|synchronized|quantization_config|lora_rank|"
                     r"lora_alpha|autocast|zero_output_for_mask_|batch_input_shape)$")
# Options of one side that change nothing at inference and may be lost.
HARMLESS = frozenset("implementation unroll use_cudnn input_length sparse ragged".split())
# Layers of the same name that compute otherwise: Keras 3's own is called from tf_keras.
HOSTED = frozenset({"RandomCrop"})
# Activations of the same name whose values differ between Keras 2 and 3.
DIFFERING = frozenset({"hard_sigmoid"})

# TensorFlow functions that Keras 2 recorded as layers: Keras 3 operation, and its parameters.
_REDUCE = {"input_tensor": "x", "axis": "axis", "keepdims": "keepdims"}
TF_OPS: dict[str, tuple[str, dict[str, str]]] = {
    **{f"{group}.{tf}": (op, {"x": "x1", "y": "x2"})
       for group in ("math", "__operators__") for tf, op in {
           "add": "add", "subtract": "subtract", "sub": "subtract", "multiply": "multiply",
           "mul": "multiply", "truediv": "true_divide", "divide": "divide", "maximum": "maximum",
           "minimum": "minimum", "pow": "power", "floordiv": "floor_divide"}.items()},
    **{f"math.{op}": (op, {"x": "x"}) for op in
       "abs exp log log1p sqrt rsqrt square sin cos tanh negative floor ceil sign erf".split()},
    **{f"math.reduce_{op}": (keras_op, _REDUCE) for op, keras_op in
       {"mean": "mean", "sum": "sum", "max": "max", "min": "min", "prod": "prod"}.items()},
    **{f"nn.{op}": (op, {first: "x"}) for op, first in
       {"relu": "features", "relu6": "features", "elu": "features", "selu": "features"}.items()},
    "math.sigmoid": ("sigmoid", {"x": "x"}),
    "nn.sigmoid": ("sigmoid", {"x": "x"}),
    "nn.tanh": ("tanh", {"x": "x"}),
    "nn.softmax": ("softmax", {"logits": "x", "axis": "axis"}),
    "nn.silu": ("silu", {"features": "x"}),
    "reshape": ("reshape", {"tensor": "x", "shape": "newshape"}),
    "transpose": ("transpose", {"a": "x", "perm": "axes"}),
    "expand_dims": ("expand_dims", {"input": "x", "axis": "axis"}),
    "squeeze": ("squeeze", {"input": "x", "axis": "axis"}),
    "concat": ("concatenate", {"values": "xs", "axis": "axis"}),
    "stack": ("stack", {"values": "x", "axis": "axis"}),
    "clip_by_value": ("clip", {"t": "x", "clip_value_min": "x_min", "clip_value_max": "x_max"}),
    "cast": ("cast", {"x": "x", "dtype": "dtype"}),
    "tile": ("tile", {"input": "x", "multiples": "repeats"}),
}


def rebuild(model: Any, to: str) -> Any:
    """`model` as a functional model of the other Keras.

    Args:
        model: A functional or Sequential model: tf_keras's for `to="keras3"`, Keras 3's for
            `to="tf_keras"`.
        to: `keras3` or `tf_keras`.

    Raises:
        Unbridgeable: A layer has no counterpart.
    """
    return _Bridge(to).model(model)


def flat_twin(model: Any) -> tuple[Any, list[tuple[Any, list]]]:
    """A Keras 3 model as a tf_keras model of single layers, for tools that see no deeper.

    Nested models are opened and separable convolutions parted; the inputs and outputs are lists.

    Returns:
        The model, and for each Keras 3 layer those that hold its weights, in their order.

    Raises:
        Unbridgeable: A layer has no counterpart.
    """
    bridge = _Bridge("tf_keras", flat=True)
    return bridge.model(model), bridge.pairs


class _Bridge:
    """One rebuilding; layers and nested models that are shared stay shared."""

    def __init__(self, to: str, flat: bool = False):
        import keras
        import tensorflow as tf
        import tf_keras

        self.to, self.flat = to, flat
        self.pairs: list[tuple[Any, list]] = []
        self.names: set[str] = set()
        self.source, self.target = (tf_keras, keras) if to == "keras3" else (keras, tf_keras)
        self.flatten = (tf.nest if to == "keras3" else keras.tree).flatten
        self.map = (tf.nest if to == "keras3" else keras.tree).map_structure
        self.made: dict[int, Any] = {}
        self.copied: set[int] = set()
        self.hosts: dict[int, int] = {}  # how often each hosted layer is called

    def model(self, model: Any) -> Any:
        graph = getattr(model, "_functional", None) or model
        if not getattr(graph, "_nodes_by_depth", None):
            raise Unbridgeable(f"{type(model).__name__} {model.name!r} is not a functional model")
        old_inputs = graph._nested_inputs if self.to == "keras3" else graph._inputs_struct
        old_outputs = graph._nested_outputs if self.to == "keras3" else graph._outputs_struct
        tensors: dict[int, Any] = {}
        for old in self.flatten(old_inputs):
            tensors[id(old)] = self.target.Input(
                batch_shape=tuple(old.shape), dtype=_dtype(old.dtype),
                name=self.name(_owner(old).name))
        self.walk(graph, tensors)
        swap = functools.partial(self.map, lambda t: tensors[id(t)])
        inputs, outputs = swap(old_inputs), swap(old_outputs)
        if self.flat:
            inputs, outputs = self.flatten(inputs), self.flatten(outputs)
        return self.target.Model(inputs, outputs, name=self.name(model.name))

    def walk(self, graph: Any, tensors: dict[int, Any]) -> None:
        """Apply all layers of a graph to the new tensors."""
        for depth in sorted(graph._nodes_by_depth, reverse=True):
            for node in graph._nodes_by_depth[depth]:
                if not node.is_input:
                    self.node(node, tensors)

    def opened(self, model: Any, given: Any) -> Any:
        """The layers of a nested model, applied one by one."""
        graph = getattr(model, "_functional", None) or model
        inside = self.flatten(graph._inputs_struct)
        tensors = {id(t): new for t, new in zip(inside, self.flatten(given), strict=True)}
        self.walk(graph, tensors)
        return self.map(lambda t: tensors[id(t)], graph._outputs_struct)

    def node(self, node: Any, tensors: dict[int, Any]) -> None:
        """Apply one layer or operation of the graph to the new tensors."""
        def swap(value: Any) -> Any:
            return tensors.get(id(value), value)

        if self.to == "keras3":
            layer, args, kwargs = node.layer, node.call_args, node.call_kwargs
        else:
            layer, args, kwargs = node.operation, node.arguments.args, node.arguments.kwargs
        args, kwargs = self.map(swap, list(args)), self.map(swap, dict(kwargs))
        for key in ("training", "mask"):
            if kwargs.get(key) is None or key == "training":
                kwargs.pop(key, None)
        new = self.apply(layer, args, kwargs)
        outputs = self.flatten(new)
        for old, fresh in zip(self.flatten(node.outputs), outputs, strict=True):
            tensors[id(old)] = fresh

    def apply(self, layer: Any, args: list, kwargs: dict) -> Any:
        kind = type(layer).__name__
        if kind in ("TFOpLambda", "SlicingOpLambda"):
            return _tf_op(layer, args, kwargs)
        if kind == "Hosted" and self.to == "keras3":
            return self.unhost(layer, args)
        if self.to == "keras3" and hasattr(layer, "return_sequences") and args \
                and isinstance(args[0], (list, tuple)):  # Keras 2 puts the states beside the input
            args, kwargs = [args[0][0]], kwargs | {"initial_state": list(args[0][1:])}
        if isinstance(layer, self.source.Sequential) and not getattr(layer, "inputs", None):
            for inner in layer.layers:
                args = [self.apply(inner, args, {})]
            return args[0]
        if not isinstance(layer, self.source.layers.Layer):
            return self.host(layer, args, kwargs)
        if id(layer) in self.hosts:
            return self.host(layer, args, kwargs)
        if self.flat and _is_graph(layer):
            return self.opened(layer, args[0])
        try:
            if self.flat and kind == "SeparableConv2D":
                return self.parted(layer, args[0])
            if id(layer) not in self.made:
                self.made[id(layer)] = self.layer(layer)
            new = self.made[id(layer)]
            out = new(*args, **kwargs)
            if id(layer) not in self.copied:
                self.copied.add(id(layer))
                if not isinstance(layer, self.source.Model):
                    _copy_weights(layer, new)
                    self.pairs.append((layer, [new]))
            return out
        except Exception:
            if self.to == "keras3":
                raise
            return self.host(layer, args, kwargs)

    def parted(self, layer: Any, given: Any) -> Any:
        """A separable convolution as a depthwise one and a plain one."""
        if id(layer) not in self.made:
            config = self.config(layer, self.target.layers.SeparableConv2D)
            shared = {k: config[k] for k in ("data_format", "dtype") if k in config}
            depthwise = self.target.layers.DepthwiseConv2D(
                use_bias=False, name=self.name(f"{layer.name}_depthwise"), **shared,
                **{k: config[k] for k in ("kernel_size", "strides", "padding", "dilation_rate",
                                          "depth_multiplier")})
            plain = self.target.layers.Conv2D(
                config["filters"], 1, use_bias=config["use_bias"], name=config["name"],
                activation=config["activation"], **shared)
            for new in (depthwise, plain):
                new.trainable = layer.trainable
            self.made[id(layer)] = (depthwise, plain)
        depthwise, plain = self.made[id(layer)]
        out = plain(depthwise(given))
        if id(layer) not in self.copied:
            self.copied.add(id(layer))
            values = [w.numpy() for w in layer.weights]
            depthwise.set_weights(values[:1])
            plain.set_weights(values[1:])
            self.pairs.append((layer, [depthwise, plain]))
        return out

    def layer(self, layer: Any) -> Any:
        """The counterpart of `layer`, without its weights yet."""
        if isinstance(layer, self.source.Model):
            return self.model(layer)
        kind = type(layer)
        cls = getattr(self.target.layers, kind.__name__, None)
        own = kind.__module__.startswith(("keras.", "tf_keras."))
        if cls is None or not own or (self.to == "tf_keras" and kind.__name__ in HOSTED):
            raise Unbridgeable(f"layer {layer.name!r} ({kind.__name__}) has no counterpart")
        new = cls(**self.config(layer, cls))
        if not layer.trainable:
            new.trainable = False
        return new

    def config(self, layer: Any, cls: type) -> dict:
        """What `cls` takes of the layer's configuration, in its own words."""
        renamed = RENAMED.get((cls.__name__, self.to), {})
        accepted = set(COMMON) | set(_parameters(cls))
        usual = _parameters(type(layer))
        config = {}
        for key, value in layer.get_config().items():
            key_there = renamed.get(key, key)
            if key != "trainable" and key_there in accepted and not DROPPED.match(key):
                config[key_there] = self.value(layer, key, value)
            elif key in usual and key not in ("trainable", *HARMLESS) and not DROPPED.match(key) \
                    and value not in (None, False, usual[key]) \
                    and (key, value) != ("data_format", "channels_last"):
                raise Unbridgeable(f"layer {layer.name!r} has {key}={value!r}")
        config["name"] = self.name(layer.name)
        policy = getattr(layer, "dtype_policy", None) or getattr(layer, "_dtype_policy", None)
        config["dtype"] = policy.name if policy is not None else layer.dtype
        if "groups" in config and config["groups"] is None:
            del config["groups"]
        return config

    def value(self, layer: Any, key: str, value: Any) -> Any:
        live = getattr(layer, key, None)
        if live is None and key == "layer":
            live = getattr(layer, "forward_layer", None)
        if isinstance(live, self.source.layers.Layer) and key != "dtype":
            return self.inner(live)
        if isinstance(live, (list, tuple)) and live and all(
                isinstance(v, self.source.layers.Layer) for v in live):
            return [self.inner(v) for v in live]
        if callable(live) and "activation" in key:
            return self.activation(live, value)
        if key == "axis" and isinstance(value, (list, tuple)) and len(value) == 1:
            return value[0]
        if key == "function" and type(layer).__name__ == "Lambda":
            return layer.function
        return value

    def inner(self, layer: Any) -> Any:
        """A layer inside a wrapper; the wrapper's weights include its own."""
        return self.layer(layer)

    def activation(self, live: Callable, value: Any) -> Any:
        name = getattr(live, "__name__", None)
        known = name if isinstance(value, str) or name else value
        if self.to == "keras3" and str(name).endswith("_keras3"):
            return name.removesuffix("_keras3")
        if name in DIFFERING:
            return hosted.hard_sigmoid_keras2() if self.to == "keras3" else \
                hosted.activation_of_keras3(live)
        if known and hasattr(self.target.activations, known):
            return known
        if self.to == "tf_keras":
            return hosted.activation_of_keras3(live)
        raise Unbridgeable(f"activation {known!r} has no counterpart")

    def host(self, layer: Any, args: list, kwargs: dict) -> Any:
        """A Keras 3 operation or layer inside a tf_keras layer that calls it."""
        tensors: list = []
        arguments = [hosted.encode(list(args), tensors), hosted.encode(dict(kwargs), tensors)]
        calls = self.hosts[id(layer)] = self.hosts.get(id(layer), 0) + 1
        name = self.name(layer.name) + (f"_call_{calls}" if calls > 1 else "")
        outer = hosted.hosted_class()(layer, arguments, name=name)
        return outer(tensors if len(tensors) != 1 else tensors[0])

    def unhost(self, layer: Any, args: list) -> Any:
        """The Keras 3 operation or layer inside a `Hosted`, itself again."""
        import keras

        given, named = hosted.decode(layer.arguments, hosted.as_list(args[0]))
        inside = layer.hosted()
        if not isinstance(inside, keras.layers.Layer):
            return inside(*given, **named)
        if id(inside) not in self.made:
            self.made[id(inside)] = type(inside).from_config(inside.get_config())
        fresh = self.made[id(inside)]
        out = fresh(*given, **named)
        fresh.set_weights(inside.get_weights())
        return out

    def name(self, name: str) -> str:
        """A name that tf_keras takes; when flat, one that no other layer has."""
        name = found = re.sub(r"[^A-Za-z0-9_.\-]", "_", name)
        count = 2
        while self.flat and found in self.names:
            found, count = f"{name}_{count}", count + 1
        self.names.add(found)
        return found


def _is_graph(layer: Any) -> bool:
    return bool(getattr(getattr(layer, "_functional", None) or layer, "_nodes_by_depth", None))


def _parameters(cls: type) -> dict[str, Any]:
    """What a layer's constructor takes, through its bases, with the defaults."""
    found: dict[str, Any] = {}
    for base in cls.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters
            for name, parameter in parameters.items():
                found.setdefault(name, parameter.default)
            if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
                break  # nothing reaches the bases but what this one names
    return found


def _owner(tensor: Any) -> Any:
    history = tensor._keras_history
    return getattr(history, "operation", None) or history.layer


def _dtype(dtype: Any) -> str:
    return getattr(dtype, "name", None) or str(dtype)


def _copy_weights(old: Any, new: Any) -> None:
    values = [w.numpy() for w in old.weights]
    shapes = [tuple(w.shape) for w in new.weights]
    if [v.shape for v in values] != shapes:
        raise Unbridgeable(f"layer {old.name!r} ({type(old).__name__}) keeps its weights otherwise")
    if values:
        new.set_weights(values)
    if hasattr(new, "finalize_state"):
        new.finalize_state()


def _tf_op(layer: Any, args: list, kwargs: dict) -> Any:
    """A TFOpLambda of Keras 2, as the Keras 3 operation where one is known."""
    import keras

    symbol = layer.symbol
    if symbol == "__operators__.getitem":
        spec = kwargs.get("slice_spec", args[1] if len(args) > 1 else None)
        return args[0][_slices(spec)]
    bound = inspect.signature(layer.function).bind(*args, **kwargs).arguments
    bound = {k: v for k, v in bound.items() if k != "name" and v is not None}
    if symbol in TF_OPS:
        op, names = TF_OPS[symbol]
        if set(bound) <= set(names):
            given = {names[k]: _constant(v) for k, v in bound.items()}
            if symbol == "cast":
                given["dtype"] = _dtype(given["dtype"])
            return getattr(keras.ops, op)(**given)
    if not scan.known_op(symbol):
        raise Unbridgeable(f"tf.{symbol} has no counterpart")
    tensors: list = []
    arguments = hosted.encode(bound, tensors)
    op_layer = hosted.tf_op_class()(symbol, arguments, name=re.sub(r"\W", "_", layer.name))
    return op_layer(tensors if len(tensors) != 1 else tensors[0])


def _constant(value: Any) -> Any:
    plain = hasattr(value, "numpy") and not hosted.is_symbolic(value)
    return value.numpy() if plain else value


def _slices(spec: Any) -> Any:
    if isinstance(spec, dict):
        return slice(spec.get("start"), spec.get("stop"), spec.get("step"))
    if isinstance(spec, (list, tuple)):
        return tuple(_slices(s) for s in spec)
    return spec
