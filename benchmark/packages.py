"""JavaScript packages that browser targets are run with: fetched once, pinned and checked.

`tfcompress setup browser` asks the npm client for each package of `web/packages.json`, holds its
SHA-512 against the one pinned there, and unpacks the few files that are needed into the cache.
Standard library only.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from .. import store
from ..errors import MissingExtra, OutputError

PINNED = Path(__file__).with_name("web") / "packages.json"
COMMAND = "tfcompress setup browser"


def folder() -> Path:
    """Where the packages are, or will be: a folder for each set of pins."""
    return store.default_root() / "packages" / store.file_digest(PINNED)[:16]


def versions() -> dict[str, str]:
    """Versions of the packages by name; empty where they have not been fetched."""
    if not (folder() / "whole").is_file():
        return {}
    return {name: entry["version"] for name, entry in json.loads(PINNED.read_text()).items()}


def find() -> Path:
    """The folder with all packages.

    Raises:
        MissingExtra: They have not been fetched.
    """
    if not (folder() / "whole").is_file():
        raise MissingExtra("the browser runtimes", "browser",
                           "the browser runtimes (LiteRT.js, TensorFlow.js, ONNX Runtime Web) "
                           "are not there", COMMAND)
    return folder()


def fetch(progress: Callable[[float | None, str], None] = lambda *_: None) -> Path:
    """Fetch what is missing; returns the folder.

    Raises:
        MissingExtra: There is no npm client.
        OutputError: The registry cannot be reached, or gave something else than was pinned.
    """
    target = folder()
    if (target / "whole").is_file():
        return target
    npm = shutil.which("npm")
    if not npm:
        raise MissingExtra("npm", "browser", hint="install Node.js with npm (apt-get install npm, "
                           "or brew install node)")
    pinned = json.loads(PINNED.read_text())
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetching-") as work:
        made = Path(work) / "made"
        for at, (name, package) in enumerate(pinned.items()):
            progress(at / len(pinned), f"{name} {package['version']}")
            _unpack(_archive(npm, name, package, Path(work)), made / name, package["files"])
        (made / "whole").write_text("")
        try:
            os.rename(made, target)
        except OSError:
            if not (target / "whole").is_file():
                raise
    return target


def _archive(npm: str, name: str, package: dict, work: Path) -> Path:
    asked = f"{name}@{package['version']}"
    done = subprocess.run([npm, "pack", "--silent", "--pack-destination", str(work), asked],
                          capture_output=True, text=True, cwd=work)
    files = sorted(work.glob("*.tgz"), key=lambda p: p.stat().st_mtime)
    if done.returncode or not files:
        said = " ".join(done.stderr.split())[-200:]
        raise OutputError(f"npm cannot fetch {asked}: {said}", "check the network, and try again")
    path = files[-1]
    found = "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if found != package["integrity"]:
        path.unlink()
        raise OutputError(f"{asked} is not the file that was pinned",
                          "the registry gave something else: do not use it")
    return path


def _unpack(archive: Path, folder: Path, wanted: list[str]) -> None:
    """The wanted files of an npm archive, whose names stand below `package/`."""
    with tarfile.open(archive) as packed:
        for name in wanted:
            member = packed.extractfile(f"package/{name}")
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as file:
                shutil.copyfileobj(member, file)
    archive.unlink()
