"""What training cannot go through: found where a step failed, and passed by from then on.

A layer is a leaf of the model, as in `flow`. Whatever is found changes how the model is called in
training alone; inference and what is exported stay as they are.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from . import flow


@dataclass(frozen=True)
class Obstacle:
    """A layer, and how it is passed by.

    Attributes:
        layer: Its name.
        stops: Why no gradient goes back through it, or "".
        quiet: Why it acts as at inference, or "".
    """

    layer: str
    stops: str = ""
    quiet: str = ""

    def told(self) -> str:
        """Both in words."""
        return "; ".join(f"{what}: {why}" for what, why in (
            ("no gradient goes back through it", self.stops),
            ("it was run as at inference", self.quiet)) if why)


@dataclass
class Obstacles:
    """A context in which a model is trained around what stands in the way.

    Attributes:
        found: By identity of the leaf.
        guarded: Whether gradients are made finite between layers, element by element: one value at
            which a slope is infinite (the root of zero) then costs the others nothing.
    """

    found: dict[int, Obstacle] = field(default_factory=dict)
    guarded: bool = False
    _active: list[contextlib.ExitStack] = field(default_factory=list, repr=False)

    def search(self, model: Any, pack: Callable, tensors: list) -> list[Obstacle]:
        """Trace the model layer by layer.

        Args:
            model: A Keras 3 model.
            pack: From a list of tensors to its arguments.
            tensors: The inputs of one batch.

        Returns:
            What was found and not known before: layers without a gradient, and layers that fail in
            training or give other shapes than at inference.
        """
        import tensorflow as tf

        before = dict(self.found)
        with contextlib.suppress(Exception):  # what came before the failure has been found
            tf.function(lambda *given: self._trace(model, pack, list(given)), autograph=False
                        ).get_concrete_function(*tensors)
        return [o for key, o in self.found.items() if o != before.get(key)]

    def _trace(self, model: Any, pack: Callable, tensors: list) -> None:
        import keras

        shapes: dict[tuple[int, int], list] = {}

        def note(op: Any, nth: int, call: Callable, given: Any) -> Any:
            results = call()
            shapes[id(op), nth] = _shapes(results)
            return results

        def look(op: Any, nth: int, call: Callable, given: Any) -> Any:
            return self._look(op, call, given, shapes.get((id(op), nth)))

        args, kwargs = pack(tensors)
        for around, training in ((note, False), (look, True)):
            with keras.StatelessScope(), flow.listening(around):
                model(*args, training=training, **kwargs)

    def _look(self, op: Any, call: Callable, given: Any, shapes: list | None) -> Any:
        import tensorflow as tf

        read = [t for t in flow.flatten(given) if flow.is_float(t)]
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(read)
            results, why = _as_in_training(call, shapes)
        made = [t for t in flow.flatten(results) if flow.is_float(t)]
        stops = ""
        try:
            tape.gradient(made, [*read, *tape.watched_variables()])
        except Exception as error:
            stops = said(error)
        if stops or why:
            old = self.found.get(id(op), Obstacle(op.name))
            self.found[id(op)] = Obstacle(op.name, old.stops or stops, old.quiet or why)
        return results

    def __enter__(self) -> Obstacles:
        stack = contextlib.ExitStack()
        if self.found or self.guarded:
            stack.enter_context(flow.listening(self._around))
        self._active.append(stack)
        return self

    def __exit__(self, *told: Any) -> None:
        self._active.pop().__exit__(*told)

    def _around(self, op: Any, nth: int, call: Callable, given: Any) -> Any:
        import keras
        import tensorflow as tf

        known = self.found.get(id(op), Obstacle(""))
        results = call(training=False) if known.quiet else call()
        change = tf.stop_gradient if known.stops else _guard if self.guarded else None
        if not change:
            return results
        flat = [change(t) if flow.is_float(t) else t for t in flow.flatten(results)]
        return keras.tree.pack_sequence_as(results, flat)


def _as_in_training(call: Callable, shapes: list | None) -> tuple[Any, str]:
    """A call as in training; or as at inference, and why."""
    try:
        results = call()
    except Exception as error:
        return call(training=False), f"it fails in training ({said(error)})"
    now = _shapes(results)
    if shapes is not None and now != shapes:
        with contextlib.suppress(Exception):
            quiet = call(training=False)
            if _shapes(quiet) == shapes:
                return quiet, f"its result has another shape in training ({now[0]}, and " \
                              f"{shapes[0]} at inference)"
    return results, ""


def _shapes(results: Any) -> list:
    return [tuple(t.shape) if t.shape.rank is not None else None
            for t in flow.flatten(results) if hasattr(t, "shape")]


def _guard(tensor: Any) -> Any:
    """The tensor; its gradient is zero where it is not finite."""
    import tensorflow as tf

    @tf.custom_gradient
    def passed(x: Any) -> tuple:
        return tf.identity(x), finite
    return passed(tensor)


def finite(gradient: Any) -> Any:
    """A gradient with zeros in the place of NaN and infinity."""
    import tensorflow as tf

    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(finite(gradient.values), gradient.indices, gradient.dense_shape)
    return tf.where(tf.math.is_finite(gradient), gradient, tf.zeros_like(gradient))


def is_finite(gradient: Any) -> Any:
    """Whether all of a gradient is."""
    import tensorflow as tf

    values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
    return tf.reduce_all(tf.math.is_finite(values))


def said(error: Exception) -> str:
    """The first line of what an error says, in words for people."""
    if found := re.search(r"gradient registry has no entry for: (\w+)", str(error)):
        return f"TensorFlow has no gradient for its operator {found[1]}"
    lines = [x for x in str(error).splitlines() if x.strip() and not x.startswith("Exception enc")]
    text = re.sub(r"\x1b\[[0-9;]*m", "", " ".join((lines or [""])[0].split()))
    return text[:150] or type(error).__name__


def names(layers: Iterator[str]) -> str:
    """A few names, and how many more there are."""
    every = list(dict.fromkeys(layers))
    return ", ".join(every[:5]) + (f" and {len(every) - 5} more" if len(every) > 5 else "")
