"""A loaded artifact: what every runtime gives, and the numbers that go into it and come out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .. import store
from ..errors import DataError, ModelError

Array = Any  # numpy.ndarray
SIGNATURE = "serving_default"


class Session:
    """A loaded artifact.

    Attributes:
        inputs: One `{"name", "shape", "dtype", "scale", "zero_point"}` per input, in the order in
            which `run` takes them. `shape` has None where free; `scale` is 0.0 where the tensor
            is not quantized.
        outputs: The same for the outputs, in the order in which `run` returns them.
    """

    inputs: list[dict]
    outputs: list[dict]
    tensors: tuple[list[int], list[int]]  # where the runtime itself has each input and output

    def order(self, side: int, positions: list[int]) -> None:
        """Put the inputs (`side` 0) or outputs (1) into another order."""
        for each in ((self.inputs, self.outputs)[side], self.tensors[side]):
            each[:] = [each[i] for i in positions]

    def run(self, arrays: list[Array]) -> list[Array]:
        """Run the artifact on a batch.

        Args:
            arrays: One array per input, shape [batch, ...], holding real (not quantized) values.

        Returns:
            One array per output, shape [batch, ...]: float32, or integers (booleans) where the
            file's output is not a quantized real number.

        Raises:
            DataError: The arrays do not fit the inputs.
            ModelError: The runtime refuses to run the file.
        """
        raise NotImplementedError

    def ready(self, arrays: list[Array]) -> Callable[[], object]:
        """Set one batch as input and return what runs it, and nothing else: the thing to time."""
        raise NotImplementedError


def open_arrays(folder: Path) -> list[Array]:
    """The arrays `0.npy`, `1.npy`, ... of a folder, mapped into memory.

    Raises:
        DataError: There is no `0.npy`.
    """
    import numpy as np

    found = []
    while (path := folder / f"{len(found)}.npy").is_file():
        found.append(np.load(path, mmap_mode="r"))
    if not found:
        raise DataError(f"no arrays in {folder}", "give a folder with 0.npy, 1.npy, ...")
    return found


def input_names(samples: str | Path) -> dict:
    """`names` for `open_session` from a samples folder: the order in which its inputs stand."""
    file = Path(samples) / "samples.json"
    return {"inputs": store.read_json(file).get("names") if file.is_file() else None}


def quantize(array: Array, spec: dict) -> Array:
    """Real values as the tensor `spec` stores them: rounded half to even, saturating."""
    import numpy as np

    kind = np.dtype(spec["dtype"])
    if kind.kind == "S" and array.dtype.kind == "U":  # LiteRT's text is bytes
        return np.char.encode(array, "utf-8")
    if not spec["scale"] or kind.kind == "f":
        return np.ascontiguousarray(array.astype(kind))
    limits = np.iinfo(kind)
    steps = np.rint(array.astype(np.float32) / np.float32(spec["scale"])) + spec["zero_point"]
    return np.ascontiguousarray(np.clip(steps, limits.min, limits.max).astype(kind))


def dequantize(array: Array, spec: dict) -> Array:
    """The real values behind a stored tensor; integers without a scale stay as they are."""
    import numpy as np

    if array.dtype.kind in "iu":
        if not spec["scale"]:
            return array
        centred = array.astype(np.float32) - np.float32(spec["zero_point"])
        return centred * np.float32(spec["scale"])
    return array.astype(np.float32) if array.dtype.kind in "fV" else array


def _spec(name: str, shape, dtype: str, scale: float = 0.0, zero_point: int = 0) -> dict:
    sizes = [None if s is None or s < 0 else int(s) for s in shape]
    dtype = "object" if dtype == "string" else dtype
    return {"name": name, "shape": sizes, "dtype": dtype, "scale": scale, "zero_point": zero_point}


def _fixed(inputs: list[dict]) -> int | None:
    """The batch that the file is fixed to."""
    return next((s["shape"][0] for s in inputs if s["shape"]), None)


def _batches(arrays: list[Array], count: int, step: int) -> Iterator[tuple[list[Array], int]]:
    """`step` rows at a time, the last ones filled up, and how many of them are real."""
    for start in range(0, count, step):
        rows = [a[start:start + step] for a in arrays]
        have = len(rows[0])
        yield ([_filled(r, step) for r in rows] if have < step else rows), have


def _kept(out: Array, have: int, step: int) -> Array:
    """Of an output the real rows; all of it in one row where it has none."""
    return out[:have] if out.ndim and len(out) == step else out.reshape(1, -1)


def _joined(parts: list[list[Array]], outputs: int) -> list[Array]:
    """The outputs of all batches, one array for each."""
    import numpy as np

    if not parts:
        return [np.zeros((0,), np.float32) for _ in range(outputs)]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _filled(rows: Array, batch: int) -> Array:
    """`rows` repeated at the end up to the batch that the file is fixed to."""
    import numpy as np

    return np.concatenate([rows, np.repeat(rows[-1:], batch - len(rows), 0)])


def _rows(arrays: list[Array], inputs: list[dict]) -> int:
    if len(arrays) != len(inputs):
        raise DataError(f"the model has {len(inputs)} inputs, the data have {len(arrays)}",
                        "give one array per input")
    counts = {len(a) for a in arrays}
    if len(counts) != 1:
        raise DataError(f"the inputs have different numbers of samples: {sorted(counts)}",
                        "give the same number of rows for each input")
    return counts.pop()


def _plain(shape) -> str:
    return "(" + ", ".join("any" if s is None else str(s) for s in shape) + ")"


def _refused(path: str, runtime: str, error: Exception) -> ModelError:
    text = " ".join(str(error).split())[:300]
    return ModelError(f"{runtime} cannot run {path}: {text}", "convert the model again, or "
                      "choose another target")
