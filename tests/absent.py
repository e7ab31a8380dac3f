"""A machine that lacks something, for child processes: modules, programs, drivers.

Nothing is replaced by a stand-in: modules are not found by Python's own finder, nor are the records
of their packages; programs are not on PATH.
"""

import os
import shutil
import sys
from pathlib import Path

# Python runs this in every process that has its folder on PYTHONPATH.
HIDE = """
import os, sys
from importlib.machinery import PathFinder

HIDDEN = os.environ.get("TFCOMPRESS_TESTS_HIDE", "").split(",")
RECORDS = os.environ.get("TFCOMPRESS_TESTS_HIDE_PACKAGES", "").split(",")


class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if any(name == h or name.startswith(h + ".") for h in HIDDEN):
            return None
        return PathFinder.find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, *args, **kwargs):
        for found in PathFinder.find_distributions(*args, **kwargs):
            if (found.metadata["Name"] or "").lower().replace("_", "-") not in RECORDS:
                yield found


sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""
PACKAGES = {"ethosu": "ethos-u-vela", "tflite_micro": "tflite-micro",
            "ai_edge_litert": "ai-edge-litert"}


def modules(folder: Path, *names: str) -> dict[str, str]:
    """Environment variables under which these modules, and what is in them, are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(HIDE)
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), "TFCOMPRESS_TESTS_HIDE": ",".join(names),
            "TFCOMPRESS_TESTS_HIDE_PACKAGES": ",".join(
                PACKAGES.get(n, n.replace("_", "-")) for n in names)}


def programs(folder: Path, *names: str) -> dict[str, str]:
    """Environment variables under which PATH has everything that it has, but not these."""
    folder.mkdir(parents=True, exist_ok=True)
    for place in os.environ["PATH"].split(os.pathsep):
        for file in Path(place).iterdir() if Path(place).is_dir() else ():
            link = folder / file.name
            if file.name not in names and not link.is_symlink():
                link.symlink_to(file)
    assert not any(shutil.which(n, path=str(folder)) for n in names)
    return {"PATH": str(folder)}


def python() -> list[str]:
    return [sys.executable, "-m", "tfcompress"]
