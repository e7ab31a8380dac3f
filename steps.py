"""What one run shares: its options, its step store, its child processes, and who is told."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import __version__, data, store
from .artifact import Step
from .child import Child, Progress
from .compress.training import recipe
from .compress.training.recipe import Recipe
from .errors import UsageError
from .targets import Target

Event = Callable[[str, float | None, str], None]
STAGE_FLAGS = ("prune", "prune_to", "cluster", "qat")
TRAINING_FLAGS = ("distill", "epochs", "batch_size", "learning_rate")
BACKENDS = ("native", "tfmot")
PACKAGES = ("tensorflow", "keras", "tf-keras", "ai-edge-litert", "ai-edge-quantizer", "numpy")


@dataclass(frozen=True)
class Options:
    """Everything `shrink` can be told; the command line's flags have the same names."""

    model: str
    targets: tuple[str, ...] = ("tflite-int8",)
    data: str | None = None
    output: str | None = None
    samples: int = 200
    eval_data: str | None = None
    eval_samples: int | None = None
    metric: str | None = None
    max_drop: float | None = None
    strict: bool = False
    io_dtype: str | None = None
    input_shape: str | None = None
    normalize: str | None = None
    labels: str | None = None
    custom_objects: tuple[str, ...] = ()
    unsafe_load: bool = False
    seed: int = 0
    threads: int | None = None
    seconds: float = 2.0
    fresh: bool = False
    command: str = ""
    recipe: str | None = None
    prune: str | None = None
    prune_to: str | None = None
    cluster: int | None = None
    qat: bool = False
    distill: bool | None = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    backend: str = "native"
    trim: bool = False
    sparse: bool = False

    def chosen_recipe(self) -> Recipe | None:
        """The recipe that the flags or the file ask for; None where nothing is trained.

        Raises:
            UsageError: Unknown recipe, values out of range, or flags that contradict it.
        """
        stages = {k: v for k in STAGE_FLAGS if (v := getattr(self, k)) not in (None, False)}
        training = {k: v for k in TRAINING_FLAGS if (v := getattr(self, k)) is not None}
        if self.backend not in BACKENDS:
            raise UsageError(
                f"unknown backend {self.backend!r}", f"use one of: {', '.join(BACKENDS)}"
            )
        if not self.recipe:
            chosen = recipe.from_flags(**stages, **training)
            if not chosen and (training or self.backend != "native"):
                raise UsageError(
                    "there is nothing to train",
                    "add a stage: --prune, --cluster, --qat or --distill",
                )
            return chosen
        if stages:
            flags = ", ".join(f"--{k.replace('_', '-')}" for k in stages)
            raise UsageError(
                f"{flags} cannot be given beside --recipe", "add the stage to the recipe's file"
            )
        chosen = recipe.from_toml(self.recipe)
        told = chosen.to_dict()
        return recipe.from_dict(told | {"training": told["training"] | training})


class Steps:
    """One run's steps. A context manager: leaving it ends every child process.

    Args:
        options: What was asked for.
        targets: What is to be made.
        on_event: Who is told.
        cpu: The processor's name.
        there: Which runtimes and compilers this machine has: with one more, a run is another.

    Attributes:
        key: The digest of everything that decides the run's result.
        recipe: What the model is trained to before it is exported, or None.
        records: What is known of each step made or found, by its folder.
    """

    def __init__(self, options: Options, targets: list[Target], on_event: Event, cpu: str,
                 there: Sequence[str] = ()):
        self.options, self.targets, self.event, self.cpu = options, targets, on_event, cpu
        self.recipe = options.chosen_recipe()
        self.store = store.Store()
        self.scratch = Path()
        self.records: dict[str, Step] = {}
        self.versions = {p: _version(p) for p in PACKAGES} | {"tfcompress": __version__}
        self.model_digest = store.file_digest(options.model)
        self.data_digest = _data_digest(options.data)
        self.eval_digest = _data_digest(options.eval_data)
        modules = [_module_digest(name) for name in options.custom_objects]
        self._base = store.digest(
            "source",
            code_digest(),
            self.versions,
            self.model_digest,
            options.input_shape,
            options.unsafe_load,
            modules,
        )
        told = dataclasses.asdict(options) | {
            "output": "",
            "command": "",
            "fresh": False,
            "model": Path(options.model).name,
            "labels": options.labels and store.file_digest(options.labels),
            "recipe": self.recipe and self.recipe.to_dict(),
        }
        self.key = store.digest(
            self._base,
            self.data_digest,
            self.eval_digest,
            told,
            [t.to_dict() for t in targets],
            cpu,
            sorted(set(there)),
        )
        self._children: list[Child] = []
        self._done: set[str] = set()

    def __enter__(self) -> Steps:
        self.scratch = Path(tempfile.mkdtemp(prefix="tfcompress-"))
        return self

    def __exit__(self, *_) -> None:
        self.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def close(self) -> None:
        """End every child process; whoever waits for one gets a `ChildDied`."""
        for child in self._children:
            child.close()

    def child(self, what: str) -> Child:
        """A new child process. It finds the user's own modules only where the user named any."""
        user_code = self.options.custom_objects or any(
            spec and data.kind_of(spec) == "function"
            for spec in (self.options.data, self.options.eval_data)
        )
        made = Child(what, path=(os.getcwd(),) if user_code else ())
        self._children.append(made)
        return made

    def progress(self, stage: str) -> Progress:
        return lambda fraction, text: self.event(stage, fraction, text)

    def step(self, name: str, config: dict, digest_in: str, make: Callable[[Path], dict]) -> Path:
        """The folder of a step: from the store, or made now by `make(folder)`.

        `make` writes its files into the folder it is given and returns what `step.json` shall
        hold; `digest_out` in it names the result where the key would say too much.
        """
        key = store.digest(name, config, digest_in, self._base)
        if self.options.fresh and key not in self._done:
            self.store.drop(key)
        self._done.add(key)
        folder = self.store.find(key)
        cached = folder is not None
        if not folder:
            start = time.perf_counter()
            with self.store.make(key) as work:
                record = make(work)
                record["seconds"] = round(time.perf_counter() - start, 3)
                store.write_json(work / "step.json", record)
            folder = self.store.find(key)
        record = store.read_json(folder / "step.json")
        out = record.get("digest_out") or key
        if str(folder) not in self.records:
            self.records[str(folder)] = Step(
                name, config, record["seconds"], digest_in, out, cached
            )
        return folder

    @contextmanager
    def checkpoint(self, config: dict, digest_in: str) -> Iterator[Path]:
        """A folder for work that a killed run shall go on with; gone once the body has ended."""
        folder = self.store.unfinished(store.digest(config, digest_in, self._base))
        yield folder
        shutil.rmtree(folder, ignore_errors=True)

    def digest(self, folder: Path) -> str:
        """The digest of what the step in `folder` made."""
        return self.records[str(folder)].digest_out


def _data_digest(spec: str | None) -> str:
    if spec is None:
        return "none"
    return data.digest(spec) or store.digest("unknown", time.time_ns())


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def code_digest() -> str:
    """This package's own source: a changed line makes earlier steps' results stale."""
    here = Path(__file__).parent
    files = [*here.glob("*.py")]
    for room in ("compress", "export", "benchmark", "targets", "tflite"):
        files += (here / room).rglob("*.py")
    names = sorted(p.relative_to(here).as_posix() for p in files)
    return store.digest([(name, store.file_digest(here / name)) for name in names])


def _module_digest(name: str) -> str:
    """The user's module by content where it is a file under the current folder."""
    path = Path(name.replace(".", "/"))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return store.file_digest(file)
    return name
