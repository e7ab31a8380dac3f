"""Augmentation: what is done to a batch of inputs before it is trained on.

A function of the user's own takes the batch (an array; a list of arrays where the model has several
inputs) and a `numpy.random.Generator`, and returns the same with the same shapes.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from ...errors import UsageError
from . import stages

SHIFT = 8  # an image moves by up to this part of its size


def find(name: str, rows: list) -> Callable[[list, Any], list]:
    """The function that `Training.augment` names, tried on some rows.

    Args:
        name: One of `stages.AUGMENTS`, or `package.module:function`.
        rows: An array per input of the model, to try it on.

    Returns:
        Takes a list of arrays and a generator, gives a list of arrays.

    Raises:
        UsageError: There is no such function, or it does not do for these inputs.
    """
    import numpy as np

    if name in stages.AUGMENTS:
        if not any(r.ndim == 4 for r in rows):
            raise UsageError(f"augment = {name!r} is for images, and no input is one",
                             "write a function of your own: package.module:function")
        return functools.partial(move, words=name.split("+"))
    own = _own(name)

    def call(arrays: list, rng: Any) -> list:
        got = own(arrays[0] if len(arrays) == 1 else arrays, rng)
        return [got] if len(arrays) == 1 else list(got)

    try:
        made = [np.asarray(a) for a in call([np.array(r) for r in rows], np.random.default_rng(0))]
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UsageError(f"augment function {name} fails: {text}",
                         "it is called with a batch and a numpy.random.Generator") from error
    if [m.shape for m in made] != [r.shape for r in rows]:
        raise UsageError(f"augment function {name} makes {[m.shape for m in made]} of "
                         f"{[r.shape for r in rows]}", "return arrays of the shapes given")
    return call


def _own(name: str) -> Callable:
    """Import a function; the current folder is on the path meanwhile."""
    module, _, function = name.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module), function)
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UsageError(f"cannot import augment = {name!r}: {text}",
                         "run from the folder that holds the module, or install it") from error
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)


def move(arrays: list, rng: Any, words: list[str]) -> list:
    """Flip images left to right and shift them, each by chance of its own; edges are repeated.

    Args:
        arrays: Batches; those of four axes (rows, height, width, channels) are images.
        rng: Where chance comes from.
        words: `flip`, `shift` or both.
    """
    import numpy as np

    count = len(arrays[0])
    flipped = rng.random(count) < (0.5 if "flip" in words else 0.0)
    by = rng.uniform(-1, 1, (2, count)) if "shift" in words else np.zeros((2, count))
    result = []
    for array in arrays:
        if array.ndim == 4:
            high, wide = array.shape[1:3]
            rows = _places(high, by[0])
            columns = _places(wide, by[1])
            columns[flipped] = columns[flipped, ::-1]
            array = array[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
        result.append(array)
    return result


def _places(size: int, by: Any) -> Any:
    """(count, size): from which place each place of a shifted axis comes."""
    import numpy as np

    steps = np.round(by * (size // SHIFT)).astype(int)
    return np.clip(np.arange(size) + steps[:, None], 0, size - 1)
