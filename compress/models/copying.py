"""A second Keras model with weights of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ...errors import ModelError


def objects_of(model: Any) -> dict[str, type]:
    """The classes of a model's layers that are not Keras's own, under all their names."""
    import keras

    objects = {type(layer).__name__: type(layer)
               for layer in model._flatten_layers(include_self=True)
               if not type(layer).__module__.startswith("keras.")}
    return objects | {keras.saving.get_registered_name(kind): kind for kind in objects.values()}


def reload(path: Path, like: Any) -> Any:
    """The model in a file that this process wrote, made of the classes of the model `like`."""
    import keras

    # Whatever code the model holds has been loaded, and so allowed, before.
    return keras.saving.load_model(path, custom_objects=objects_of(like), compile=False,
                                   safe_mode=False)


def copy(model: Any) -> Any:
    """A second model with weights of its own, as saving and loading gives it.

    Raises:
        ModelError: The model cannot be saved and loaded.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            model.save(path, include_optimizer=False)
            return reload(path, model)
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise ModelError(f"the model cannot be saved and loaded again: {text}",
                         "give its layers a get_config from which they can be made") from error
