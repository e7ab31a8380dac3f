"""Exact rewriting of what the TFLite converter cannot take, at the moment a model is traced.

Keras 3, tf_keras and hand-written layers all end in TensorFlow operators, so most rewriting
happens there: while `lowering` is active, an operator that TFLite lacks is replaced, as it is
added to a graph, by an equal formula in operators that TFLite has (`operators`). What has to be
seen from further above (masked softmax, recurrent layers, number types) is replaced in Keras
(`attention`, `recurrent`, `keras_functions`). The model is not changed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

from . import attention, integers, keras_functions, operators, recurrent
from . import web as other
from .retrace import Retraced

__all__ = ["Record", "Retraced", "all_layers", "float32", "lowering"]


class Record:
    """What was rewritten, why, and in which layers."""

    def __init__(self, model=None) -> None:
        self._found: dict[tuple[str, str], list[str]] = {}
        self._names = {x.name for x in all_layers(model) if not getattr(x, "layers", None)}

    def add(self, what: str, why: str) -> None:
        import tensorflow as tf

        layers = self._found.setdefault((what, why), [])
        scope = tf.compat.v1.get_default_graph().get_name_scope().split("/")
        # A layer's scope is its name, with a number behind it from the second trace on.
        plain = [re.sub(r"_\d+$", "", part) for part in scope]
        names = [n for both in zip(scope, plain, strict=True) for n in both if n in self._names]
        layer = names[0] if names else next((s for s in scope[1:2] if s), "")
        if layer and layer not in layers:
            layers.append(layer)

    def to_list(self) -> list[dict]:
        return [{"what": what, "why": why, "layers": layers}
                for (what, why), layers in self._found.items()]


@contextlib.contextmanager
def lowering(model, rnn: str = "auto", fuse: bool = True, web: bool = False
             ) -> Iterator[list[dict]]:
    """Trace `model` inside this context to get a graph that TFLite can take.

    Args:
        model: A Keras 3 or tf_keras model, or any callable.
        rnn: How recurrent layers are written. `auto`: short sequences unrolled, long ones as
            loops. `unrolled`: all of them unrolled. `loop`: all of them as loops. `fused`: as
            `auto`, but LSTM as UNIDIRECTIONAL_SEQUENCE_LSTM where it fits; that operator keeps
            its state between invocations, so its user must reset the interpreter's variables.
        fuse: Leave alone what looks like a part of exact gelu, which the converter fuses.
        web: For TensorFlow.js, whose backends lack more operators (`web`).

    Yields:
        A list that is filled, when the context ends, with `{"what", "why", "layers"}`.
    """
    record = Record(model)
    rewrites: list[dict] = []
    patches = [*operators.patches(record, fuse, other.RULES if web else None),
               *keras_functions.patches(record),
               *integers.patches(record), *attention.patches(record),
               *recurrent.patches(record, rnn)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(float32(model, record))
        stack.enter_context(_without_composites(model))
        for owner, name, make in patches:
            if hasattr(owner, name):  # Keras moves private functions between releases
                stack.enter_context(_patched(owner, name, make))
        try:
            yield rewrites
        finally:
            rewrites.extend(record.to_list())


@contextlib.contextmanager
def _patched(owner, name: str, make: Callable) -> Iterator[None]:
    """Replace `owner.name` by `make(original)` for a while."""
    original = getattr(owner, name)
    setattr(owner, name, make(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextlib.contextmanager
def _without_composites(model) -> Iterator[None]:
    """Keep tf_keras's LSTM and GRU from the functions that the converter fuses (see recurrent)."""
    changed = [x for x in all_layers(model) if getattr(x, "_could_use_gpu_kernel", False)]
    for layer in changed:
        layer._could_use_gpu_kernel = False
    try:
        yield
    finally:
        for layer in changed:
            layer._could_use_gpu_kernel = True


@contextlib.contextmanager
def float32(model, record: Record | None = None) -> Iterator[None]:
    """Let every layer compute in float32; its own dtype policies return afterwards."""
    changed = []
    for layer in all_layers(model):
        policy = getattr(layer, "_dtype_policy", None)
        if getattr(policy, "compute_dtype", None) in ("float16", "bfloat16", "float64"):
            changed.append((layer, policy))
            _set_policy(layer, None)
            if record:
                record.add(f"{policy.name} layers",
                           "TFLite computes in float32; the weights are the same")
    try:
        yield
    finally:
        for layer, policy in changed:
            _set_policy(layer, policy)


def _set_policy(layer, policy) -> None:
    """Give a layer `policy`, or float32 for None; tf_keras keeps what it derives from it."""
    if hasattr(layer, "_set_dtype_policy"):
        import tf_keras

        layer._set_dtype_policy(policy or tf_keras.mixed_precision.Policy("float32"))
    else:
        import keras

        layer._dtype_policy = policy or keras.DTypePolicy("float32")


def all_layers(model) -> list:
    """The model and every layer inside it; nothing for what is not a Keras model."""
    if hasattr(model, "_flatten_layers"):
        return list(model._flatten_layers())
    return []
