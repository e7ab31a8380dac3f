"""What kind of model file a path is, and whether its container is sound. Standard library, h5py.

A container is the outer shape of a model: a zip (`.keras`), an HDF5 file (`.h5`) or a folder
(SavedModel). Reading one here opens it read-only, imports neither TensorFlow nor Keras, and never
allocates more than the file itself holds.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import stat
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import ModelError, UnsafeModelError

AGAIN = "save the model again with model.save(...), or get an intact copy"
FORMATS = "give a .keras or .h5 model file, or a SavedModel folder"
MAX_JSON = 256 << 20  # bytes of one configuration
MAX_DEPTH = 200  # levels of nesting in one configuration
MAX_MEMBERS = 100_000
BOMB_FLOOR = 256 << 20  # bytes; below it no expansion is worth refusing
ZIP_EXPANSION = 100
H5_EXPANSION = 1100  # deflate, the filter of HDF5, cannot exceed 1032 to 1

OTHERS = {  # what people give by mistake, by suffix
    ".tflite": "is a TFLite file: it has been converted already",
    ".onnx": "is an ONNX model", ".pb": "is a bare TensorFlow graph",
    ".pt": "is a PyTorch model", ".pth": "is a PyTorch model", ".pkl": "is a Python pickle",
    ".ckpt": "is a checkpoint: weights without a model",
    ".index": "is part of a checkpoint: weights without a model",
    ".safetensors": "holds weights without a model", ".npz": "holds arrays, not a model",
}


@dataclass(frozen=True)
class Container:
    """A sound container.

    Attributes:
        kind: `keras` (zip), `h5` or `saved-model`.
        configs: Its JSON configurations, parsed, by the place where they stand.
        keras_version: The version that wrote it, "" where it does not say.
        graph: The serialized graphs of a SavedModel.
    """

    kind: str
    configs: dict[str, object] = field(default_factory=dict)
    keras_version: str = ""
    graph: bytes = b""


def identify(path: str | Path) -> str:
    """`keras`, `h5` or `saved-model`, from the first bytes of `path`.

    Raises:
        ModelError: It is missing, unreadable, empty, or clearly no model.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return _identify_folder(path)
        if not stat.S_ISREG(mode):
            raise ModelError(f"{path} is not a regular file", FORMATS)
        with open(path, "rb") as file:
            head = file.read(4096)
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"no model file {path}", "check the path") from None
    except PermissionError:
        raise ModelError(f"no permission to read {path}",
                         "make it readable: chmod u+r (a folder: chmod u+rx)") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}", "check the path") from None
    if not head:
        raise ModelError(f"{path} is empty", AGAIN)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "keras"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "h5"
    raise _other(path, head)


def read(path: str | Path) -> Container:
    """Find out what `path` is and check its container.

    Raises:
        ModelError: It is missing, unreadable, damaged, or no model.
        UnsafeModelError: It reaches outside itself or would exhaust memory or disk.
    """
    path = Path(path)
    kind = identify(path)
    if kind == "keras":
        return _read_zip(path)
    if kind == "h5":
        return _read_h5_model(path)
    graph = (path / "saved_model.pb").read_bytes()
    if not graph:
        raise ModelError(f"{path}/saved_model.pb is empty", AGAIN)
    return Container("saved-model", graph=graph)


def _other(path: Path, head: bytes) -> ModelError:
    if head[4:8] == b"TFL3":
        return ModelError(f"{path} {OTHERS['.tflite']}", "give the Keras model it was made from")
    if path.suffix.lower() in OTHERS:
        return ModelError(f"{path} {OTHERS[path.suffix.lower()]}", FORMATS)
    if head.startswith(b"version https://git-lfs"):
        return ModelError(f"{path} is a Git LFS pointer, not the model itself", "run: git lfs pull")
    try:
        head[:4000].decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head[:4000]) - 4:  # not merely a letter cut in two at the end
            return ModelError(f"{path} is damaged, or not a model", AGAIN)
    if b"\0" in head:
        return ModelError(f"{path} is damaged, or not a model", AGAIN)
    if head.lstrip().startswith(b"{") and b"class_name" in head:
        return ModelError(f"{path} holds only a model's architecture, without its weights",
                          "save architecture and weights together with model.save('model.keras')")
    return ModelError(f"{path} is a text file, not a model", FORMATS)


# SavedModel folders


def _identify_folder(path: Path) -> str:
    names = {p.name for p in path.iterdir()}
    if "saved_model.cpb" in names:
        raise ModelError(f"{path} is a SavedModel in chunks, which cannot be checked",
                         "export the model again as .keras, or below 2 GB")
    if "saved_model.pb" in names:
        return "saved-model"
    if "saved_model.pbtxt" in names:
        raise ModelError(f"{path} is a SavedModel in text form", "save it in binary form")
    if "config.json" in names:
        raise ModelError(f"{path} is an unpacked .keras file", "zip its contents to a .keras file")
    raise ModelError(f"{path} is a folder without a saved_model.pb", FORMATS)


# .keras files


def _read_zip(path: Path) -> Container:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(path, members)
            names = {m.filename for m in members}
            if "config.json" not in names:
                raise _other_zip(path, names)
            configs = {"config.json": _json(path, "config.json",
                                            _member(path, archive, "config.json"))}
            meta = {}
            if "metadata.json" in names:
                meta = _json(path, "metadata.json", _member(path, archive, "metadata.json"))
            if "model.weights.h5" in names:
                with tempfile.TemporaryFile() as copy, archive.open("model.weights.h5") as member:
                    shutil.copyfileobj(member, copy, 1 << 20)
                    _check_h5(path, copy)
            elif "model.weights.npz" in names:
                _check_npz(path, _member(path, archive, "model.weights.npz", limit=8 << 30))
            else:
                raise ModelError(f"{path} holds no weights", AGAIN)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError):
        raise ModelError(f"{path} is truncated or damaged", AGAIN) from None
    except RuntimeError:
        raise ModelError(f"{path} is encrypted", "decrypt it first") from None
    except Exception as error:  # zlib.error, struct.error: the bytes are not what they claim
        if isinstance(error, (ModelError, ImportError, OSError, MemoryError)):
            raise
        raise ModelError(f"{path} is truncated or damaged", AGAIN) from None
    version = meta.get("keras_version", "") if isinstance(meta, dict) else ""
    return Container("keras", configs, str(version))


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """No member may leave the archive, shadow another, or unpack to far more than it stores."""
    if len(members) > MAX_MEMBERS:
        raise UnsafeModelError(f"{path} holds {len(members)} files", AGAIN)
    seen = set()
    for member in members:
        name = member.filename
        parts = name.replace("\\", "/").split("/")
        if ".." in parts or name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
            raise UnsafeModelError(f"{path} would write outside its folder: {name!r}", AGAIN)
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UnsafeModelError(f"{path} holds a symbolic link: {name!r}", AGAIN)
        if name in seen:
            raise UnsafeModelError(f"{path} holds two files called {name!r}", AGAIN)
        seen.add(name)
        size = member.file_size
        if size > BOMB_FLOOR and size > ZIP_EXPANSION * member.compress_size:
            raise UnsafeModelError(f"{path} is a zip bomb: {name!r} unpacks to {size} bytes", AGAIN)
    total = sum(m.file_size for m in members)
    if total > BOMB_FLOOR and total > ZIP_EXPANSION * path.stat().st_size:
        raise UnsafeModelError(f"{path} is a zip bomb: it unpacks to {total} bytes", AGAIN)


def _member(path: Path, archive: zipfile.ZipFile, name: str, limit: int = MAX_JSON) -> bytes:
    if archive.getinfo(name).file_size > limit:
        raise UnsafeModelError(f"{path}: {name} is absurdly large", AGAIN)
    return archive.read(name)


def _other_zip(path: Path, names: set[str]) -> ModelError:
    if any(n.endswith("saved_model.pb") for n in names):
        return ModelError(f"{path} is a zipped SavedModel", "unpack it and give the folder")
    if any(n.endswith("data.pkl") for n in names):
        return ModelError(f"{path} is a PyTorch model", FORMATS)
    if path.suffix.lower() == ".npz" or (names and all(n.endswith(".npy") for n in names)):
        return ModelError(f"{path} holds arrays, not a model", FORMATS)
    return ModelError(f"{path} is a zip file without a Keras model in it (no config.json)", FORMATS)


def _json(path: Path, where: str, data: bytes | str) -> object:
    """Parsed JSON whose nesting is at most `MAX_DEPTH` levels."""
    try:
        value = json.loads(data)
    except RecursionError:
        raise UnsafeModelError(f"{path}: {where} is nested too deeply", AGAIN) from None
    except ValueError:
        raise ModelError(f"{path}: {where} is not JSON", AGAIN) from None
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise UnsafeModelError(f"{path}: {where} is nested too deeply", AGAIN)
        level = [v for x in level if isinstance(x, (dict, list))
                 for v in (x.values() if isinstance(x, dict) else x)]
    return value


def _check_npz(path: Path, data: bytes) -> None:
    """Arrays of Python objects are pickles, and pickles are code."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        _check_members(path, [m for m in archive.infolist() if m.file_size > BOMB_FLOOR])
        for name in archive.namelist():
            with archive.open(name) as member:
                header = member.read(4096)
            kind = re.search(rb"'descr':\s*(.{0,200}?),\s*'fortran_order'", header, re.DOTALL)
            if not kind or b"O" in kind[1]:
                raise UnsafeModelError(f"{path}: the weights {name!r} are pickled Python objects",
                                       AGAIN)


# HDF5 files


def _read_h5_model(path: Path) -> Container:
    import h5py

    _check_h5(path, path)
    with h5py.File(path, "r", locking=False) as file:
        attrs = {k: _text(file.attrs.get(k)) for k in
                 ("model_config", "training_config", "keras_version")}
        inside = set(file.keys())
    if attrs["model_config"] is None:
        if inside & {"layers", "_layer_checkpoint_dependencies", "model_weights", "vars",
                     "top_level_model_weights"} or str(path).endswith(".weights.h5"):
            what = "holds weights without a model"
        else:
            what = "is an HDF5 file without a Keras model in it"
        raise ModelError(f"{path} {what}", "build the model, load_weights(...) into it, and "
                         "model.save('model.keras')")
    configs = {k: _json(path, k, attrs[k]) for k in ("model_config", "training_config")
               if attrs[k] is not None}
    return Container("h5", configs, attrs["keras_version"] or "")


def _text(value: object) -> str | None:
    if value is None:
        return None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _check_h5(path: Path, source: object) -> None:
    """No object may live in another file or be declared far larger than it is stored."""
    import h5py

    try:
        with h5py.File(source, "r", locking=False) as file:
            size = file.id.get_filesize()
            total, seen, waiting = 0, set(), [file["/"]]
            while waiting:
                group = waiting.pop()
                for name in group:
                    link = group.get(name, getlink=True)
                    if not isinstance(link, h5py.HardLink):
                        raise UnsafeModelError(f"{path}: {group.name}/{name} is a link to "
                                               f"{_target(link)}", AGAIN)
                    item = group[name]
                    address = h5py.h5o.get_info(item.id).addr
                    if address in seen:
                        continue
                    seen.add(address)
                    if isinstance(item, h5py.Group):
                        waiting.append(item)
                    elif isinstance(item, h5py.Dataset):
                        total += _check_dataset(path, item)
            if total > BOMB_FLOOR and total > H5_EXPANSION * size:
                raise UnsafeModelError(f"{path} would unpack to {total} bytes", AGAIN)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        if isinstance(error, PermissionError):
            raise ModelError(f"no permission to read {path}", "make it readable") from None
        raise ModelError(f"{path} is truncated or damaged", AGAIN) from None


def _target(link: object) -> str:
    return repr(getattr(link, "filename", None) or getattr(link, "path", "elsewhere"))


def _check_dataset(path: Path, data: object) -> int:
    """The dataset's size in memory, in bytes."""
    if data.external or data.is_virtual:
        raise UnsafeModelError(f"{path}: the weights {data.name} lie in another file", AGAIN)
    size = data.dtype.itemsize
    for length in data.shape or ():
        size *= length
    if size > BOMB_FLOOR and size > H5_EXPANSION * data.id.get_storage_size():
        raise UnsafeModelError(f"{path}: the weights {data.name} are declared as {size} bytes, "
                               f"and {data.id.get_storage_size()} are stored", AGAIN)
    return size
