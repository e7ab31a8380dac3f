"""What a page has to load before it can run a model: bytes as a web server would send them.

Servers send text and WebAssembly compressed, so sizes are given packed by gzip and by brotli. The
files are those that the page asked for, no more and no fewer.
"""

from __future__ import annotations

import gzip
import importlib
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from ..artifact import Measurement

BROTLI_QUALITY = 9  # 11, the best, takes a minute for ten megabytes and saves a few per cent
NODE = ("const z=require('zlib');const p=[];process.stdin.on('data',c=>p.push(c)).on('end',()=>"
        "console.log(z.brotliCompressSync(Buffer.concat(p),{params:{[z.constants."
        f"BROTLI_PARAM_QUALITY]:{BROTLI_QUALITY}}}}}).length))")
NO_BROTLI = "not measured: pip install 'tfcompress[browser]' (or Node.js) to pack with brotli"


def measure(model: Iterable[Path], runtime: Iterable[Path]) -> list[Measurement]:
    """Bytes of the model's and the runtime's files, each packed on its own.

    Args:
        model: The files of the model that a page loaded.
        runtime: The JavaScript and WebAssembly files that it loaded.

    Returns:
        `transfer_gzip` and `transfer_brotli` of the model, `runtime_transfer` of the runtime
        (brotli, or gzip where there is no brotli; the note says which, and how many files).
    """
    model, runtime = sorted(model), sorted(runtime)
    packed, best = _sizes(model), _sizes(runtime)
    count = f"{len(model)} file{'s' * (len(model) != 1)}"
    found = [Measurement("transfer_gzip", "bytes", (packed["gzip"],), f"the model, {count}")]
    if packed["brotli"] is None:
        found.append(Measurement("transfer_brotli", "bytes", (), NO_BROTLI))
    else:
        found.append(Measurement("transfer_brotli", "bytes", (packed["brotli"],),
                                 f"the model, {count}"))
    kind = "gzip" if best["brotli"] is None else "brotli"
    raw = sum(f.stat().st_size for f in runtime)
    found.append(Measurement(
        "runtime_transfer", "bytes", (best[kind],),
        f"{kind}; once for all models: {len(runtime)} files, {raw:,} bytes unpacked"))
    return found


def _sizes(files: list[Path]) -> dict[str, int | None]:
    contents = [f.read_bytes() for f in files]
    brotli = [_brotli(c) for c in contents]
    return {"gzip": sum(len(gzip.compress(c, 9, mtime=0)) for c in contents),
            "brotli": None if None in brotli else sum(brotli)}


def _brotli(content: bytes) -> int | None:
    """Length after brotli, by the Python package or else by Node.js; None without either."""
    try:
        return len(importlib.import_module("brotli").compress(content, quality=BROTLI_QUALITY))
    except ImportError:
        pass
    node = shutil.which("node")
    if not node:
        return None
    done = subprocess.run([node, "-e", NODE], input=content, capture_output=True)
    return None if done.returncode else int(done.stdout)
