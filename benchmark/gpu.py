"""A .tflite on the graphics processor, by LiteRT's WebGPU delegate.

On Linux the delegate draws on Vulkan. Where no Vulkan driver is installed, the one that Chromium
brings (SwiftShader, a program) shows that the file is right; its times say nothing about a GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import re
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import MissingExtra
from .sessions import SIGNATURE, Array, Session, _refused, _rows, _spec

MANIFESTS = ("/usr/share/vulkan/icd.d/*.json", "/etc/vulkan/icd.d/*.json",
             "/usr/local/share/vulkan/icd.d/*.json")
CHOSEN = ("VK_ICD_FILENAMES", "VK_DRIVER_FILES", "VK_ADD_DRIVER_FILES")
BROWSERS = ("/usr/lib/chromium", "/usr/lib/chromium-browser", "/opt/google/chrome")
CPU_DEVICE = 4  # VK_PHYSICAL_DEVICE_TYPE_CPU
# What the delegate prints of each operation that it leaves to the CPU: "GATHER: why tensor".
LEFT = re.compile(r"^([A-Z0-9_]+): (.+)$", re.MULTILINE)
COUNTS = re.compile(r"(\d+) operations will run on the GPU, and the remaining (\d+)")


class Adapters:
    """The Vulkan adapters of this machine: `[(name, is a program)]`, best first."""

    found: list[tuple[str, bool]] | None = None

    @classmethod
    def get(cls) -> list[tuple[str, bool]]:
        if cls.found is None:
            with contextlib.suppress(OSError, AttributeError):
                cls.found = sorted(_adapters(_vulkan()), key=lambda a: a[1])
            cls.found = cls.found or []
        return cls.found


def drivers() -> list[str]:
    """Where Vulkan drivers are: the user's choice, or the manifests of the installed ones."""
    chosen = [os.environ[name] for name in CHOSEN if os.environ.get(name)]
    return chosen or sorted(f for pattern in MANIFESTS for f in glob.glob(pattern))


def software() -> Path | None:
    """The folder of a browser that brings a Vulkan driver which needs no GPU."""
    return next((f for f in _browser_folders() if (f / "libvk_swiftshader.so").is_file()), None)


def _vulkan() -> ctypes.CDLL:
    """The Vulkan loader; Chromium's own, with its SwiftShader, where there is no driver."""
    folder = software()
    if folder and not drivers():
        os.environ["VK_ICD_FILENAMES"] = str(folder / "vk_swiftshader_icd.json")
    try:
        return ctypes.CDLL("libvulkan.so.1", ctypes.RTLD_GLOBAL)
    except OSError:
        if folder is None:
            raise
        # Loaded under its own name, so that the delegate finds it when it asks for it.
        return ctypes.CDLL(str(folder / "libvulkan.so.1"), ctypes.RTLD_GLOBAL)


def _browser_folders() -> list[Path]:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    return [*map(Path, BROWSERS), *([Path(found).resolve().parent] if found else [])]


def _adapters(vulkan: ctypes.CDLL) -> list[tuple[str, bool]]:
    """Names and kinds of the physical devices, by the C interface of Vulkan 1.0."""
    # VkInstanceCreateInfo: sType 1, then pointers and counts that are all zero.
    info = ctypes.create_string_buffer(struct.pack("<I", 1) + bytes(60))
    instance = ctypes.c_void_p()
    if vulkan.vkCreateInstance(info, None, ctypes.byref(instance)):
        return []
    try:
        count = ctypes.c_uint32()
        vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), None)
        devices = (ctypes.c_void_p * count.value)()
        vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), devices)
        found = []
        for device in devices[:count.value]:
            # VkPhysicalDeviceProperties: five integers (the last is the type), a name of 256.
            properties = ctypes.create_string_buffer(4096)
            vulkan.vkGetPhysicalDeviceProperties(ctypes.c_void_p(device), properties)
            kind, = struct.unpack_from("<I", properties.raw, 16)
            name = properties.raw[20:276].split(b"\0")[0].decode(errors="replace")
            found.append((name, kind == CPU_DEVICE))
        return found
    finally:
        vulkan.vkDestroyInstance(instance, None)


@contextlib.contextmanager
def _printed() -> Iterator[Callable[[], str]]:
    """What native code writes to standard error meanwhile."""
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)

        def read() -> str:
            file.seek(0)
            return file.read().decode(errors="replace")

        try:
            yield read
        finally:
            os.dup2(kept, 2)
            os.close(kept)


class LitertGpu(Session):
    """A .tflite file run by LiteRT's GPU accelerator.

    Attributes:
        adapter: The graphics adapter's name.
        software: Whether it is a program: its latency is no GPU's.
        left: The operations that the delegate leaves to the CPU: `{"op", "why", "tensor"}`.
        note: All that in words, for a measurement's note.
    """

    def __init__(self, path: str, threads: int):
        self.adapter, self.software = _adapter()
        try:
            from ai_edge_litert.compiled_model import CompiledModel, HardwareAccelerator
        except ImportError:
            raise MissingExtra("ai-edge-litert", "all",
                               hint="pip install 'ai-edge-litert>=2.1'") from None
        gpu, cpu = HardwareAccelerator.GPU, HardwareAccelerator.CPU
        with _printed() as said:
            try:
                try:
                    self._model = CompiledModel.from_file(path, hardware_accel=gpu)
                except RuntimeError:
                    self._model = CompiledModel.from_file(path, hardware_accel=gpu | cpu)
            except (RuntimeError, ValueError) as error:
                if "No adapters found" in said():
                    raise _no_adapter() from None
                raise _refused(path, "LiteRT on the GPU", error) from None
            self.left = _left(said(), _tensor_names(path))
            self.counts = next(iter(COUNTS.findall(said())), None)
            if not self.left and not self._model.is_fully_accelerated():
                self.left = [{"op": "", "why": "not told by the delegate", "tensor": ""}]
            self._keys = SIGNATURE if SIGNATURE in self._model.get_signature_list() else next(
                iter(self._model.get_signature_list()))
            at = self._model.get_signature_index(self._keys)
            self._buffers = self._model.create_input_buffers(at), \
                self._model.create_output_buffers(at)
        signature = self._model.get_signature_list()[self._keys]
        details = (self._model.get_input_tensor_details(self._keys),
                   self._model.get_output_tensor_details(self._keys))
        self.inputs, self.outputs = (
            [_spec(name, told[name]["shape"], told[name]["dtype"]) for name in signature[side]]
            for side, told in zip(("inputs", "outputs"), details, strict=True))
        self.tensors = list(range(len(self.inputs))), list(range(len(self.outputs)))
        self._at = at

    @property
    def note(self) -> str:
        note = f"{'software adapter' if self.software else 'adapter'}: {self.adapter}"
        if self.counts:
            note += f"; {self.counts[1]} operations stay on the CPU"
        return note

    @property
    def findings(self) -> list[dict]:
        """What a reader must know: which operations the delegate left to the CPU, and why."""
        if not self.left:
            return []
        told: dict[str, list[str]] = {}
        for each in self.left:
            told.setdefault(f"{each['op']} ({each['why']})", []).append(each["tensor"])
        words = "; ".join(f"{what}{_at(tensors)}" for what, tensors in told.items())
        return [{"level": "info", "text": f"the GPU leaves operations to the CPU: {words}",
                 "advice": "each change between the two costs a copy; change those layers"}]

    def _set(self, arrays: list[Array]) -> None:
        import numpy as np

        for array, spec, at in zip(arrays, self.inputs, self.tensors[0], strict=True):
            shape = [n or 1 for n in spec["shape"]]
            self._buffers[0][at].write(
                np.ascontiguousarray(np.asarray(array).astype(spec["dtype"]).reshape(shape)))

    def _invoke(self) -> None:
        try:
            self._model.run_by_index(self._at, *self._buffers)
        except RuntimeError as error:
            raise _refused("the file", "LiteRT on the GPU", error) from None

    def run(self, arrays: list[Array]) -> list[Array]:
        import numpy as np

        rows: list[list] = [[] for _ in self.outputs]
        for i in range(_rows(arrays, self.inputs)):
            self._set([a[i:i + 1] for a in arrays])
            self._invoke()
            for column, array in zip(rows, self._read(), strict=True):
                column.append(array)
        return [np.concatenate(c) if c else np.zeros((0,), np.float32) for c in rows]

    def _read(self) -> list[Array]:
        import numpy as np

        found = []
        for spec, at in zip(self.outputs, self.tensors[1], strict=True):
            shape = [n or 1 for n in spec["shape"]]
            flat = self._buffers[1][at].read(int(np.prod(shape)), np.dtype(spec["dtype"]).type)
            found.append(np.asarray(flat).reshape(shape or [1]))
        return found

    def ready(self, arrays: list[Array]) -> Callable[[], object]:
        self._set([a[:1] for a in arrays])

        def once() -> None:  # reading waits for the GPU; without it only the asking is timed
            self._invoke()
            self._read()

        return once


def _at(tensors: list[str]) -> str:
    named = [t for t in tensors if t]
    more = f" and {len(named) - 2} more" if len(named) > 2 else ""
    return f" at {', '.join(named[:2])}{more}" if named else ""


def _adapter() -> tuple[str, bool]:
    if not sys.platform.startswith("linux"):
        return "the system's own", False
    adapters = Adapters.get()
    if not adapters:
        raise _no_adapter()
    return adapters[0]


def _no_adapter() -> MissingExtra:
    return MissingExtra("a Vulkan driver", "all", "no Vulkan adapter",
                        "install the GPU's driver with Vulkan; Chromium's software adapter does "
                        "for checking (Debian: apt-get install chromium)")


def _left(printed: str, tensors: set[str]) -> list[dict]:
    """The operations named behind "not supported by GPU delegate", with a tensor of theirs."""
    _, found, rest = printed.rpartition("not supported by GPU delegate:\n")
    if not found:
        return []
    lines = []
    for line in rest.splitlines():
        match = LEFT.match(line)
        if not match:
            break
        why, _, tensor = match[2].rpartition(" ")
        known = tensor in tensors
        lines.append({"op": match[1], "why": why if known else match[2],
                      "tensor": tensor if known else ""})
    return lines


def _tensor_names(path: str) -> set[str]:
    from .. import tflite

    return {t.name.decode() for g in tflite.load(path).subgraphs for t in g.tensors if t.name}
