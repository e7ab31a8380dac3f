"""What a model takes and gives: ordered, named, flat lists of tensors.

Keras models take single tensors, lists, dicts and nests of them, and give the same; files of
targets have lists with names. Here one becomes the other, and the sizes that a user gives for
free dimensions are put in.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

from ...artifact import TensorSpec
from ...errors import ModelError, UsageError

EXAMPLE = "for example --input-shape 224,224,3, without the batch"


def is_keras3(model: Any) -> bool:
    import keras

    return isinstance(model, keras.Layer)


def tree_of(kind: str) -> Any:
    import keras
    import tensorflow as tf

    return keras.tree if kind == "keras3" else tf.nest


def _graph(model: Any) -> Any:
    """The functional graph behind a model, or None for a subclassed one."""
    graph = getattr(model, "_functional", None) or model
    return graph if getattr(graph, "inputs", None) else None


def inputs(model: Any, kind: str) -> tuple[list[TensorSpec], Callable]:
    """The inputs, and how a list of tensors becomes the model's arguments."""
    tree = tree_of(kind)
    if (graph := _graph(model)) is not None:
        struct = graph._inputs_struct if kind == "keras3" else graph._nested_inputs
        tensors = tree.flatten(struct)
        names = sorted(struct) if isinstance(struct, dict) else [_tensor_name(t) for t in tensors]
        specs = [TensorSpec(n, tuple(t.shape), _dtype(t.dtype))
                 for n, t in zip(unique(names), tensors, strict=True)]
        return specs, lambda xs: ([tree.pack_sequence_as(struct, xs)], {})
    if not knows_inputs(model):
        names = "" if len(_arguments(model)) < 2 else \
            f"; by name: {';'.join(f'{n}=10' for n in _arguments(model))}"
        raise ModelError("the model does not say which inputs it takes",
                         f"pass --input-shape, {EXAMPLE}{names}")
    return _subclassed_inputs(model, _built_for(model), tree)


def knows_inputs(model: Any) -> bool:
    """Whether the model says for which input shapes it was built."""
    if _graph(model) is not None:
        return True
    shapes = _built_for(model)
    return bool(shapes) and None not in shapes.values() and \
        (len(shapes) > 1 or len(_arguments(model)) < 2)


def _built_for(model: Any) -> dict:
    shapes = dict(getattr(model, "_build_shapes_dict", None) or {})
    if not shapes and getattr(model, "_build_input_shape", None) is not None:
        shapes = {"input_shape": model._build_input_shape}
    return shapes


def _arguments(model: Any) -> list[str]:
    """The tensors that a subclassed model's `call` must be given, by name."""
    parameters = inspect.signature(model.call).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.name != "training"
            and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def reset_states(model: Any) -> None:
    """Stateful recurrent layers begin anew."""
    for layer in model._flatten_layers():
        if getattr(layer, "stateful", False) is True:
            reset = getattr(layer, "reset_state", None) or getattr(layer, "reset_states", None)
            if reset:
                reset()


def _subclassed_inputs(model: Any, shapes: dict, tree: Any) -> tuple[list[TensorSpec], Callable]:
    """From the shapes that `build` saw: one nested argument, or several keyword arguments."""
    first = next(iter(inspect.signature(model.call).parameters), "inputs")
    if len(shapes) == 1:
        flat = _named_shapes(next(iter(shapes.values())), first)
    else:
        flat = [p for k, v in shapes.items() for p in _named_shapes(v, k.removesuffix("_shape"))]
    specs = [TensorSpec(n, (None, *s[1:]), "float32")
             for n, (_, s) in zip(unique([n for n, _ in flat]), flat, strict=True)]

    def fill(shape: Any, tensors: Iterator) -> Any:
        if _is_shape(shape):
            return next(tensors)
        if isinstance(shape, dict):
            return {k: fill(v, tensors) for k, v in shape.items()}
        return [fill(v, tensors) for v in shape]

    def pack(tensors: list) -> tuple[list, dict]:
        left = iter(tensors)
        filled = {k.removesuffix("_shape"): fill(v, left) for k, v in shapes.items()}
        return (list(filled.values()), {}) if len(filled) == 1 else ([], filled)

    return specs, pack


def _is_shape(value: Any) -> bool:
    return not isinstance(value, dict) and all(v is None or isinstance(v, int) for v in value)


def _named_shapes(value: Any, name: str) -> list[tuple[str, tuple]]:
    if _is_shape(value):
        return [(name, tuple(value))]
    if isinstance(value, dict):
        return [p for k, v in value.items() for p in _named_shapes(v, str(k))]
    return [p for i, v in enumerate(value) for p in _named_shapes(v, f"{name}_{i}")]


def outputs(model: Any, kind: str, given: list[TensorSpec], pack: Callable) -> list[TensorSpec]:
    """The outputs, inferred again where a free dimension of an input has been fixed."""
    tree, graph = tree_of(kind), _graph(model)
    struct = None
    if graph is not None:
        struct = graph._outputs_struct if kind == "keras3" else graph._nested_outputs
    if graph is None or [tuple(t.shape) for t in graph.inputs] != [s.shape for s in given]:
        shaped = _infer(model, kind, given, pack)
    else:
        shaped = struct
    tensors = tree.flatten(shaped)
    if isinstance(shaped, dict) and len(shaped) == len(tensors):
        names = sorted(shaped)
    elif struct is not None:
        names = [_tensor_name(t) for t in tree.flatten(struct)]
    else:
        names = ["output"] if len(tensors) == 1 else [f"output_{i}" for i in range(len(tensors))]
    return [TensorSpec(n, tuple(t.shape), _dtype(t.dtype))
            for n, t in zip(unique(names), tensors, strict=True)]


def _infer(model: Any, kind: str, inputs: list[TensorSpec], pack: Callable) -> Any:
    """The structure of the outputs for inputs of these shapes, without computing."""
    import keras
    import tensorflow as tf

    def traced(*tensors: Any) -> Any:
        args, kwargs = pack(list(tensors))
        return model(*args, training=False, **kwargs)

    try:
        if kind == "keras3":
            args, kwargs = pack([keras.KerasTensor(s.shape, s.dtype, name=s.name) for s in inputs])
            return model.compute_output_spec(*args, **kwargs)
        return tf.function(traced).get_concrete_function(
            *[tf.TensorSpec(s.shape, s.dtype) for s in inputs]).structured_outputs
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise ModelError(f"the model cannot be run on inputs of shape "
                         f"{[s.shape[1:] for s in inputs]}: {text}",
                         f"pass another --input-shape, {EXAMPLE}") from error


def _tensor_name(tensor: Any) -> str:
    """The name of the layer that made a Keras tensor."""
    history = tensor._keras_history
    owner = getattr(history, "operation", None) or getattr(history, "layer", None)
    return owner.name


def _dtype(dtype: Any) -> str:
    return getattr(dtype, "name", None) or str(dtype)


def unique(names: list[str]) -> list[str]:
    """The same names, later twins numbered: `a`, `a_1`, `a_2`."""
    taken: set[str] = set()
    result = []
    for name in names:
        fresh, number = name, 0
        while fresh in taken:
            number += 1
            fresh = f"{name}_{number}"
        taken.add(fresh)
        result.append(fresh)
    return result


# Shapes that the user gives


def parse_input_shape(text: str | None) -> dict[str, tuple[int, ...]]:
    """Shapes by input name from `224,224,3` (name "") or `left=224,224,3;right=10`.

    Raises:
        UsageError: It is not such a text, or a dimension is not positive.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for part in (text or "").split(";"):
        name, _, sizes = part.rpartition("=")
        sizes = re.sub(r"[\s()\[\]]", "", sizes).rstrip(",").replace("x", ",")
        if not part.strip():
            continue
        if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", sizes) or name.strip() in shapes:
            raise UsageError(f"--input-shape {part.strip()!r} is not a shape",
                             f"{EXAMPLE}; or by name: left=224,224,3;right=10")
        shapes[name.strip()] = tuple(int(n) for n in sizes.split(","))
    return shapes


def fix_shapes(specs: list[TensorSpec], shapes: dict[str, tuple[int, ...]]) -> list[TensorSpec]:
    """`specs` with free dimensions taken from `shapes`.

    Raises:
        UsageError: A shape is for no input or does not fit it.
        ModelError: A dimension other than the batch is still free.
    """
    names = [s.name for s in specs]
    for name in shapes:
        if name not in names and (name or len(specs) > 1):
            raise UsageError(f"--input-shape names no input {name!r}" if name else
                             f"--input-shape without a name, and the model has {len(specs)} inputs",
                             f"the inputs are: {', '.join(names)}; write name=sizes;name=sizes")
    return [_fix_shape(s, shapes.get(s.name, shapes.get(""))) for s in specs]


def _fix_shape(spec: TensorSpec, given: tuple[int, ...] | None) -> TensorSpec:
    free = spec.shape[1:]
    if given is not None:
        if len(given) != len(free) or any(d not in (None, g) for d, g in zip(free, given,
                                                                             strict=True)):
            raise UsageError(f"--input-shape {','.join(map(str, given))} does not fit input "
                             f"{spec.name!r}, which takes {_show(free)}",
                             "give the shape of one sample, without the batch")
        return TensorSpec(spec.name, (spec.shape[0], *given), spec.dtype)
    if None in free:
        sizes = ",".join(str(d or (224 if len(free) == 3 else 128)) for d in free)
        raise ModelError(f"input {spec.name!r} takes any size: {_show(free)}",
                         f"fix it, for example --input-shape {spec.name}={sizes}")
    return spec


def _show(shape: tuple) -> str:
    return "(" + ", ".join("any" if d is None else str(d) for d in shape) + ")"
