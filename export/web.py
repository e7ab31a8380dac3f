"""What stands beside a model for the browser: a small module, a demo page and a package.json.

    npm install && npm start      in the artifact's folder, then open http://localhost:8000
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from .. import __version__, tflite
from . import onnx_metadata

DEMO = Path(__file__).with_name("demo")
RUNTIMES = {
    "litert": {"@litertjs/core": "2.5.3"},
    "tfjs": {"@tensorflow/tfjs": "4.22.0", "@tensorflow/tfjs-backend-wasm": "4.22.0",
             "@tensorflow/tfjs-backend-webgpu": "4.22.0"},
    "onnx": {"onnxruntime-web": "1.30.0"},
}
IMPORTS = {
    "litert": """<script type="importmap">{"imports": {
  "@litertjs/core": "./node_modules/@litertjs/core/dist/index.js",
  "@litertjs/wasm-utils": "./node_modules/@litertjs/wasm-utils/dist/index.js"
}}</script>""",
    "tfjs": '<script src="./node_modules/@tensorflow/tfjs/dist/tf.min.js"></script>',
    "onnx": """<script type="importmap">{"imports": {
  "onnxruntime-web/wasm": "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs",
  "onnxruntime-web/webgpu": "./node_modules/onnxruntime-web/dist/ort.webgpu.bundle.min.mjs"
}}</script>""",
}


def write(folder: str | Path, runtime: str, about: dict[str, Any], name: str = "model") -> None:
    """Write `index.html`, `model.js` and `package.json` into an artifact's folder.

    Args:
        folder: It holds `model.tflite`, `model.onnx` or `model.json` already.
        runtime: A key of `RUNTIMES`.
        about: `{"inputs": [{"name", "shape", "dtype"}], "outputs": [...]}`; for TensorFlow.js also
            `tensor`, the name in the graph.
        name: The model's name, for the package's.
    """
    folder = Path(folder)
    module = (DEMO / f"{runtime}.js").read_text().replace("ABOUT", _script(about))
    page = (DEMO / "index.html").read_text().replace("IMPORTS", IMPORTS[runtime])
    plain = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-") or "model"
    package = {
        "name": plain, "version": "1.0.0", "private": True, "type": "module",
        "main": "model.js", "description": f"A model made by tfcompress {__version__}",
        "scripts": {"start": "python3 -m http.server 8000"},
        "dependencies": RUNTIMES[runtime],
    }
    (folder / "model.js").write_text(module, encoding="utf-8")
    (folder / "index.html").write_text(page, encoding="utf-8")
    (folder / "package.json").write_text(json.dumps(package, indent=2) + "\n", encoding="utf-8")


def _script(value: Any) -> str:
    """JSON that may stand in a script: names come from the model and could close the tag."""
    return json.dumps(value, indent=2).replace("<", "\\u003c")


def compile(path: str | Path, out_folder: str | Path, target: dict) -> dict:
    """A .tflite or .onnx with what a web page needs to run it (see `export.compilers`)."""
    folder = Path(out_folder) / target["name"]
    folder.mkdir(parents=True, exist_ok=True)
    suffix = Path(path).suffix
    shutil.copyfile(path, folder / f"model{suffix}")
    inside = onnx_metadata.ends(path) if suffix == ".onnx" else tflite.describe(path)
    keys = ("name", "shape", "dtype")
    about = {side: [{k: t[k] for k in keys} for t in inside[side]]
             for side in ("inputs", "outputs")}
    write(folder, "onnx" if suffix == ".onnx" else "litert", about, target["name"])
    return {"path": str(folder), "files": [], "measurements": [], "findings": [], "fallbacks": []}
