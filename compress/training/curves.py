"""Training curves for TensorBoard, one run per stage."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ...errors import UsageError


class Curves:
    """Writes each epoch's record below a folder.

    Raises:
        UsageError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path):
        if importlib.util.find_spec("tensorboard") is None:
            raise UsageError("training: tensorboard logs need the package tensorboard",
                             "pip install tensorboard")
        self.folder, self.writers = Path(folder), {}

    def write(self, number: int, record: dict) -> None:
        """The numbers of one epoch of the stage `number` of a recipe."""
        import tensorflow as tf

        name = f"{number + 1}-{record['stage']}"
        if name not in self.writers:
            self.writers[name] = tf.summary.create_file_writer(str(self.folder / name))
        with self.writers[name].as_default(step=record["epoch"]):
            for key, value in record.items():
                if key not in ("stage", "epoch") and value is not None:
                    tf.summary.scalar(key, value)
        self.writers[name].flush()

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()
