"""A page per target, from its TOML file and from what its format, runtime and compiler are."""

import tomllib

from tfcompress import targets
from tfcompress.benchmark import words

from . import markdown as md
from . import using

FOLDER = using.ROOT / "targets"
FORMATS = {
    "keras": "a Keras 3 `.keras` file without optimizer and training state",
    "saved-model": "a SavedModel folder with the signature `serving_default`",
    "tflite": "a `.tflite` file",
    "onnx": "an `.onnx` file",
    "tfjs": "a folder with a TensorFlow.js GraphModel",
}
QUANTIZATIONS = {
    "none": "float32 weights and activations",
    "float16": "float16 weights, float32 activations",
    "dynamic": "int8 weights; activations are float32 at the borders of each operation",
    "int8": "int8 weights and activations, calibrated on data",
    "int16x8": "int8 weights, int16 activations, calibrated on data",
    "int4": "int4 weights, float32 activations",
    "uint8": "weights stored in 8 bits and widened when the model is loaded",
}
RUNTIMES = {
    "litert": ("LiteRT on the CPU (`ai-edge-litert`)", "installed with tfcompress"),
    "keras": ("Keras", "installed with tfcompress"),
    "tensorflow": ("TensorFlow", "installed with tfcompress"),
    "onnxruntime": ("ONNX Runtime on the CPU", "`pip install 'tfcompress[onnx]'`"),
    "litert-js": ("LiteRT.js in a headless Chromium", "`tfcompress setup browser`, and Chromium"),
    "tfjs": ("TensorFlow.js in a headless Chromium", "`tfcompress setup browser`, and Chromium"),
    "onnxruntime-web": ("ONNX Runtime Web in a headless Chromium",
                        "`tfcompress setup browser`, and Chromium"),
    "litert-gpu": ("LiteRT's GPU delegate (WebGPU on Vulkan)",
                   "installed with tfcompress; a Vulkan driver, or Chromium's"),
}
COMPILERS = {
    "edgetpu": ("`edgetpu_compiler`, where it is on PATH", "without it, the mapping is predicted"),
    "vela": ("Vela", "`pip install 'tfcompress[ethos-u]'`"),
    "micro": ("none; a C array is written",
              "`pip install 'tfcompress[micro]'` lets TFLite Micro tell the arena"),
    "web": ("none; `model.js`, a page and a `package.json` are written", ""),
}
HOWTOS = {"edgetpu": "npu.md", "vela": "npu.md", "micro": "npu.md", "web": "browser.md",
          "tfjs": "browser.md", "litert-gpu": "gpu.md"}
FIGURES = {
    "size": "bytes of the file, or of all files of a folder",
    "size_gzip": "bytes after gzip: what an app package or a download holds",
    "parameters": "values among the stored weights",
    "zeros": "share of the weights that is zero",
    "macs": "multiply-accumulates for one sample",
    "snr": "signal-to-noise ratio of the outputs against the source model's, in dB",
    "cosine": "cosine similarity of the outputs and the source model's",
    "max_error": "largest difference of an output value",
    "agreement": "share of samples whose best class is the source model's",
    "accuracy": "the metric that fits the labels (or AUC, MAE, RMSE), before and after",
    "latency": "time of one sample with one thread: median, 10th and 90th percentile",
    "latency_threads": "the same with several threads",
    "load_time": "time until the first sample can be run",
    "peak_memory": "memory of the process that runs it",
    "throughput": "samples per second",
    "transfer_gzip": "bytes of the model's files as a web server sends them with gzip",
    "transfer_brotli": "the same with brotli",
    "runtime_transfer": "bytes of the runtime's own files",
    "snr_webgl": "the SNR on WebGL", "latency_webgl": "the latency on WebGL",
    "snr_webgpu": "the SNR on WebGPU", "latency_webgpu": "the latency on WebGPU",
    "npu_ops": "operations on the accelerator, of all",
    "npu_macs": "multiply-accumulates on the accelerator, of all",
    "npu_parameters": "bytes of parameters in the accelerator's memory",
    "npu_latency_estimate": "time on the accelerator by a model of it: an estimate",
    "npu_latency": "time on a real device, where one is there",
    "npu_cycles": "cycles of the accelerator, by the compiler's model of it",
    "ram": "memory for tensors on the device", "dram": "the part of it in DRAM",
    "flash": "read-only memory for the model",
    "micro_difference": "largest difference between TFLite Micro and LiteRT, where it is installed",
}
COMPARED = ("snr", "cosine", "max_error", "agreement", "accuracy")
TIMED = ("latency", "latency_threads", "load_time", "peak_memory", "throughput")
IN_PAGES = ("latency", "load_time", "throughput", "transfer_gzip", "transfer_brotli",
            "runtime_transfer")
BY_COMPILER = {
    "edgetpu": ("npu_ops", "npu_macs", "npu_parameters", "npu_latency_estimate", "npu_latency"),
    "vela": ("npu_ops", "npu_latency_estimate", "npu_cycles", "ram", "dram", "flash"),
    "micro": ("ram", "flash", "micro_difference"),
}
RULES = {"edgetpu": "edge-tpu.toml", "vela": "ethos-u.toml", "micro": "micro.toml"}


def names() -> list[str]:
    return targets.names()


def head(name: str) -> dict[str, str]:
    return {"title": name, "intro": md.sentence(targets.load(name).summary)}


def parts() -> dict[str, dict[str, str]]:
    found = targets.load_all()
    rows = [(f"[`{t.name}`]({t.name}.md)", md.sentence(t.summary),
             "yes" if t.needs_data else "") for t in found]
    pages = {"targets/index.md": {"targets": md.table(("target", "what it is for", "needs data"),
                                                      rows)},
             "reference/target.md": {"keys": _keys()},
             "howto/words.md": {"figures": _figures()}}
    return pages | {f"targets/{t.name}.md": {"target": _page(t)} for t in found}


def _page(target: targets.Target) -> str:
    text = (FOLDER / f"{target.name}.toml").read_text(encoding="utf-8")
    parts = [
        "## What it is", md.table(("", ""), _facts(target)),
        "As a target file, to start one of your own from ([every key](../reference/target.md)):",
        md.fence("toml", text),
        "## Make it", md.fence("sh", f"tfcompress shrink model.keras --target {target.name} "
                                     "--data samples.npz"),
        using.made(target),
        "## What is measured", _measured(target),
        "## Use it", using.use(target),
        _rules(target),
    ]
    if page := HOWTOS.get(target.compiler) or HOWTOS.get(target.runtime):
        parts.append(f"More: [{using.TITLES[page]}](../{page}).")
    return "\n\n".join(p for p in parts if p)


def _facts(t: targets.Target) -> list[tuple]:
    runtime, install = RUNTIMES[t.runtime]
    rows = [("file", FORMATS[t.format]), ("numbers", QUANTIZATIONS[t.quantization]),
            ("inputs and outputs", _ends(t)),
            ("needs `--data`", "yes" if t.needs_data else "only to be judged")]
    if t.format == "tfjs" or t.compiler == "web":
        model = FORMATS["tfjs"] if t.format == "tfjs" else f"a folder with a `model.{t.format}`"
        rows[0] = ("file", f"{model}, `model.js`, a page and a `package.json`")
    rows += [("run by", f"{runtime}: {install}")]
    if t.backends:
        rows += [("backends", f"judged on {t.backends[0]}"
                  + (f", tried on {words.listed(list(t.backends[1:]))}" if t.backends[1:] else ""))]
    if t.compiler and t.compiler != "web":
        tool, note = COMPILERS[t.compiler]
        rows += [("compiler", f"{tool}{f': {note}' if note else ''}")]
    if t.options:
        rows += [("compiler's options", ", ".join(f"`{k} = {v}`" for k, v in t.options.items()))]
    if t.min_snr_db:
        rows += [("least SNR", f"{t.min_snr_db:g} dB against the source model: {_below(t)}")]
    else:
        rows += [("least SNR", "none: `--max-drop` decides alone")]
    if t.ops:
        rows += [("cannot run", md.codes(t.ops["deny"]))]
    if t.limits:
        rows += [("limits", ", ".join(f"`{k} = {v}`" for k, v in t.limits.items()))]
    return rows


def _ends(t: targets.Target) -> str:
    if t.io_dtype != "float32":
        return f"{t.io_dtype}; `--io float32` for float ones"
    return "the model's own types"


def _below(t: targets.Target) -> str:
    if t.quantization in ("int8", "int16x8", "int4", "dynamic", "float16") and t.format == "tflite":
        return "operations get wider types until it is reached, and the report names them"
    return "the report warns below it, and `--strict` rejects"


def _measured(t: targets.Target) -> str:
    names = ["size", "size_gzip"]
    if t.format in ("tflite", "onnx"):
        names += ["parameters", "zeros", "macs"]
    names += COMPARED
    browser = t.runtime in ("litert-js", "tfjs", "onnxruntime-web")
    if browser:
        names += IN_PAGES + tuple(f"{what}_{b}" for b in t.backends[1:]
                                  for what in ("snr", "latency"))
    elif t.compiler in BY_COMPILER:
        names += BY_COMPILER[t.compiler]
    else:
        names += [n for n in TIMED if n != "latency_threads" or t.runtime in
                  ("litert", "onnxruntime")]
    rows = [(md.code(n), FIGURES[n]) for n in names]
    text = ""
    if browser:
        text = "Without Chromium or its packages these are *not measured*, and say why."
    if t.compiler in BY_COMPILER:
        text = ("Accuracy is that of the int8 file, run by LiteRT. What is an estimate says so: "
                "[Edge TPU, Ethos-U and microcontrollers](../npu.md#what-is-measured-and-what-is-an"
                "-estimate).")
    return f"{text}\n\n{md.table(('figure', 'what it is'), rows)}".strip()


def _rules(t: targets.Target) -> str:
    if t.compiler not in RULES:
        return ""
    path = using.ROOT / "export/rules" / RULES[t.compiler]
    record = tomllib.loads(path.read_text(encoding="utf-8"))
    ops = record["ops"]
    if t.compiler == "vela":
        family = record["families"][t.options["accelerator"].rpartition("-")[0]]
        ops = ops[family]
    told = {"edgetpu": "Operators that the compiler maps, each within limits of its own; the "
                       "others stay on the CPU, and so does all that follows them:",
            "vela": "Operators that Vela can place on the NPU; the others stay on the CPU:",
            "micro": "Operators for which TFLite Micro has a kernel:"}[t.compiler]
    return (f"## Operators\n\n{told}\n\n{md.codes(ops)}.\n\n"
            "`tfcompress inspect model.keras --target " + t.name + "` holds a model against them.")


def _figures() -> str:
    if unknown := set(FIGURES) - set(words.TITLES):
        raise SystemExit(f"docs/parts/targets.py describes {sorted(unknown)}, which are no figures")
    return md.table(("figure", "in `report.json`", "what it is"),
                    [(words.title(n), md.code(n), text) for n, text in FIGURES.items()])


def _keys() -> str:
    about = {}
    for line in targets.Target.__doc__.partition("Attributes:\n")[2].splitlines():
        name, _, text = line.strip().partition(": ")
        if line.startswith(" " * 8) and not line.startswith(" " * 9) and text:
            about[name] = text
        elif line.strip():
            about[list(about)[-1]] += f" {line.strip()}"
    values = {"format": targets.FORMATS, "quantization": targets.QUANTIZATIONS,
              "runtime": targets.RUNTIMES, "io_dtype": targets.IO_DTYPES,
              "compiler": targets.COMPILERS, "backends": targets.BACKENDS}
    fields = targets.Target.__dataclass_fields__
    rows = []
    for name, field in fields.items():
        if name == "name":
            continue
        must = name in ("summary", "format")
        default = "required" if must else _default(field)
        text = about[name].replace("`FORMATS`", "the values beside")
        for word in ("QUANTIZATIONS", "RUNTIMES", "COMPILERS", "BACKENDS", "OPSETS"):
            text = text.replace(f"`{word}`", "the values beside")
        if name == "opset":
            text = text.replace("the values beside", f"{targets.OPSETS[0]} to {targets.OPSETS[-1]}")
        rows.append((md.code(name), default, md.codes(values.get(name, ())),
                     md.sentence(text.partition(", see `COMP")[0])))
    options = [(md.code(c), md.codes(keys) or "none") for c, keys in targets.COMPILERS.items()]
    return "\n\n".join([
        md.table(("key", "default", "values", "meaning"), rows),
        "`[options]` by compiler:", md.table(("compiler", "options"), options),
        "`[limits]` takes " + md.codes(targets.LIMITS) + "; `[ops]` takes `deny`.",
    ])


def _default(field) -> str:
    import dataclasses

    if field.default is dataclasses.MISSING:
        return "empty"
    return md.code(field.default) if field.default not in (None, "", ()) else "none"
