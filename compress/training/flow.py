"""What calls what inside a model, seen while it runs: the same for graphs and for written code.

A call is one leaf (a layer without layers inside, or an operation of a functional graph) given
tensors and giving others. Tensors that a subclassed model makes itself come from no call.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Call:
    """The `nth` call of `op`; `inputs` and `outputs` are identities of float tensors."""

    op: Any
    nth: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def key(self) -> tuple[int, int]:
        return id(self.op), self.nth


@dataclass
class Flow:
    """All calls of one run, in order; `ends` are the identities of the model's outputs."""

    calls: list[Call] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    ends: set[int] = field(default_factory=set)
    kept: list = field(default_factory=list)  # tensors, alive so that identities stay unique

    def producer(self, tensor: int) -> Call | None:
        return next((c for c in self.calls if tensor in c.outputs and tensor not in c.inputs), None)

    def tensor(self, identity: int) -> Any:
        return next(t for t in self.kept if id(t) == identity)

    def consumers(self, tensor: int) -> list[Call]:
        return [c for c in self.calls if tensor in c.inputs]


@contextlib.contextmanager
def listening(around: Callable[[Any, int, Callable, Any], Any]) -> Iterator[None]:
    """Call `around(op, nth, call, arguments)` instead of each leaf while models run.

    `call()` makes the call itself, with other keyword arguments where some are given. What happens
    inside a leaf is not seen.
    """
    from keras.src.ops.operation import Operation

    original = Operation.__call__
    counts: dict[int, int] = {}
    inside = [False]

    def listen(op: Any, *args: Any, **kwargs: Any) -> Any:
        if inside[0] or not is_leaf(op):
            return original(op, *args, **kwargs)
        nth = counts[id(op)] = counts.get(id(op), -1) + 1
        inside[0] = True
        try:
            return around(op, nth, lambda **changed: original(op, *args, **(kwargs | changed)),
                          (args, kwargs))
        finally:
            inside[0] = False

    Operation.__call__ = listen
    try:
        yield
    finally:
        Operation.__call__ = original


def is_leaf(op: Any) -> bool:
    """Layers made of layers are looked into, except loops, where a call is not one tensor."""
    import keras

    if not isinstance(op, keras.layers.Layer):
        return True
    if isinstance(op, keras.Model):
        return False
    return isinstance(op, _closed()) or not op._layers


@functools.cache
def _closed() -> tuple[type, ...]:
    import keras

    return (keras.layers.RNN, keras.layers.Wrapper, keras.layers.Bidirectional,
            keras.layers.TimeDistributed)


def record(run: Callable[[list], list], tensors: list, traced: bool = False) -> Flow:
    """The calls that `run(tensors)` makes on tensors of a TensorFlow type.

    It runs eagerly, or is only `traced`, where it cannot be run as it is.
    """
    flow = Flow(starts=[id(t) for t in tensors], kept=list(tensors))
    if traced:
        import tensorflow as tf

        made: list[Flow] = []
        tf.function(lambda *given: made.append(record(run, list(given))), autograph=False
                    ).get_concrete_function(*tensors)
        return made[0]

    def around(op: Any, nth: int, call: Callable[[], Any], arguments: Any) -> Any:
        results = call()
        flow.calls.append(Call(op, nth, _floats(arguments, flow), _floats(results, flow)))
        return results

    with listening(around):
        results = run(tensors)
    flow.ends = set(_floats(results, flow))
    return flow


def _floats(tree: Any, flow: Flow) -> tuple[int, ...]:
    found = [t for t in flatten(tree) if is_float(t)]
    flow.kept += found
    return tuple(id(t) for t in found)


def flatten(tree: Any) -> list:
    import keras

    return keras.tree.flatten(tree)


def is_float(value: Any) -> bool:
    import tensorflow as tf

    return isinstance(value, tf.Tensor) and value.dtype.is_floating
