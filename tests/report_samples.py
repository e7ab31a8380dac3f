"""Reports as runs would give them, for the tests of the report. Standard library only."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import random
from html.parser import HTMLParser

from tfcompress.artifact import Artifact, Measurement, Report, Row, Step

HOSTILE = '<script>alert("x")</script> & | `code` **bold** [red]\x1b[31m \u202eevil'


VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; complains of tags that do not match."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _latency(p50: float, seed: int, n: int = 120) -> tuple[float, ...]:
    draw = random.Random(seed)
    tail = [p50 * draw.uniform(2, 4) for _ in range(2)]
    return tuple(round(p50 * draw.lognormvariate(0, 0.05), 5) for _ in range(n - 2)) + tuple(tail)


def row(target, size, latency=None, status="ok", snr=None, accuracy=None, agreement=None, lost=None,
        **more):
    """One row of the report with the usual measurements; None leaves a measurement out."""
    seed = len(target)
    found = [Measurement("size", "bytes", (size,)),
             Measurement("size_gzip", "bytes", (round(size * 0.83),)),
             Measurement("parameters", "values", (78_666,)),
             Measurement("macs", "MACs", (12_501_632,)),
             Measurement("zeros", "share", (0.0123,))]
    if latency:
        threads = _latency(latency * 0.6, seed + 1)
        found += [Measurement("latency", "ms", _latency(latency, seed), "1 thread"),
                  Measurement("latency_threads", "ms", threads, "4 threads"),
                  Measurement("load_time", "ms", (latency * 3,)),
                  Measurement("throughput", "samples/s", (1000 / latency,)),
                  Measurement("peak_memory", "bytes", (31_000_000 + size * 2,))]
    for name, unit, value in (("snr", "dB", snr), ("agreement", "share", agreement),
                              ("accuracy", "share", accuracy)):
        if value is not None:
            found.append(Measurement(name, unit, (value,)))
    if accuracy is not None and lost is not None:
        ends = f"95 % interval {100 * lost - 0.4:+.2f} to {100 * lost + 0.4:+.2f} points"
        found.append(Measurement("accuracy_drop", "share", (lost,), f"{ends}; 2000 samples"))
    if snr is not None:
        found += [Measurement("cosine", "", (1 - 10 ** (-snr / 10) / 2,)),
                  Measurement("max_error", "", (10 ** (-snr / 20),))]
    dtype = "int8" if "int8" in target else "float32"
    signature = {
        "signature": "serving_default",
        "inputs": [{"name": "image", "shape": [1, 32, 32, 3], "dtype": dtype,
                    "scale": 1.0 if dtype == "int8" else None,
                    "zero_point": -128 if dtype == "int8" else None}],
        "outputs": [{"name": "probabilities", "shape": [1, 10], "dtype": dtype,
                     "scale": 0.00390625 if dtype == "int8" else None,
                     "zero_point": -128 if dtype == "int8" else None}],
        "ops": {"CONV_2D": 9, "ADD": 3, "FULLY_CONNECTED": 1, "SOFTMAX": 1},
        "weights": {"int8": 0.981, "int32": 0.017, "float32": 0.002} if dtype == "int8"
        else {"float32": 1.0},
    }
    steps = (Step("convert", {"route": "keras"}, 7.13, _digest("a"), _digest("b"), True),
             Step("quantize", {"recipe": target}, 0.112, _digest("b"), _digest(target)))
    made = Artifact(f"{target}/model.tflite", "tflite", steps if target != "source" else ())
    return Row(target, status, more.pop("artifact", made), tuple(found), io=signature, **more)


def failed(target, message, hint):
    return Row(target, "failed", error={"type": "TargetError", "message": message, "hint": hint})


def report(rows, **changes) -> Report:
    """A report on a small CIFAR-10 network around the given rows."""
    made = Report(
        source={
            "path": "mlperf_tiny_resnet8.h5", "format": "h5 (Keras 2)", "kind": "functional",
            "sha256": _digest("model"), "parameters": 78_666,
            "inputs": [{"name": "image", "shape": [None, 32, 32, 3], "dtype": "float32"}],
            "outputs": [{"name": "probabilities", "shape": [None, 10], "dtype": "float32"}],
            "weights": {"float32": 1.0},
            "notes": ["read by tf_keras: Keras 3 cannot read its loss configuration"],
            "rewrites": [{"what": "removed RandomFlip and RandomContrast",
                          "why": "they do nothing at inference, yet an export leaves them on",
                          "layers": ["random_flip", "random_contrast"]}],
        },
        data={"spec": "cifar10.npz", "kind": "npz", "calibration": 200, "held_back": 9800,
              "evaluated": 2000, "labels": True, "random": False, "metric": "accuracy",
              "notes": ["calibration samples drawn evenly from 10 classes"]},
        rows=tuple(rows),
        recipe={"targets": [r.target for r in rows if r.target != "source"], "seed": 0,
                "calibration": 200, "max_drop": 0.01},
        environment={"cpu": "AMD EPYC 7763 64-Core Processor", "cores": 4, "load": 0.31,
                     "os": "Linux 6.1 x86_64", "python": "3.11.9",
                     "versions": {"tensorflow": "2.19.0", "keras": "3.15.1",
                                  "ai-edge-litert": "2.3.0", "ai-edge-quantizer": "0.10.0"}},
        command="tfcompress shrink mlperf_tiny_resnet8.h5 --target tflite-int8 --data cifar10.npz",
        created="2025-06-03T14:07:31Z", version="0.1.0", seconds=48.213,
    )
    return dataclasses.replace(made, **changes)


SOURCE = dict(target="source", size=346_112, latency=2.31, accuracy=0.8719)


def usual() -> Report:
    """Seven targets of one model: five good, one rejected, one failed."""
    collapse = {"level": "error",
                "text": "The outputs no longer follow the source model: SNR 6.2 dB.",
                "advice": "Quantize the weights to int8 (tflite-dynamic), or train with int4.",
                "layers": [{"tensor": "resnet/conv2d/Conv2D", "layer": "conv2d", "op": "CONV_2D",
                            "snr_db": 21.4},
                           {"tensor": "resnet/conv2d_3/Conv2D", "layer": "conv2d_3",
                            "op": "CONV_2D", "snr_db": 11.9},
                           {"tensor": "resnet/dense/MatMul", "layer": "dense",
                            "op": "FULLY_CONNECTED", "snr_db": 6.2}]}
    kept = {"op": "SOFTMAX", "tensor": "resnet/softmax", "layer": "softmax", "precision": "int16",
            "why": "its int8 output alone would cost 9 dB", "cost": "+0.01 ms, +0.1 kB"}
    return report([
        row(**SOURCE),
        row("keras", 331_200, 2.29, snr=math.inf, accuracy=0.8719, agreement=1.0, lost=0.0),
        row("tflite-float32", 317_340, 0.412, snr=134.2, accuracy=0.8719, agreement=1.0,
            lost=0.0),
        row("tflite-float16", 163_044, 0.431, snr=71.3, accuracy=0.8719, agreement=0.9995,
            lost=0.0),
        row("tflite-dynamic", 98_880, 0.302, snr=34.6, accuracy=0.8702, agreement=0.9905,
            lost=0.0017),
        row("tflite-int8", 96_432, 0.287, snr=27.8, accuracy=0.8707, agreement=0.9845, lost=0.0012,
            fallbacks=(kept,),
            findings=({"level": "info", "text": "One operation of 24 stays in int16.",
                       "advice": "Use --strict to make this an error."},)),
        row("tflite-int4", 58_208, 1.93, "rejected", snr=6.2, accuracy=0.6133, agreement=0.641,
            lost=0.2586,
            findings=(collapse,),
            error={"type": "QualityError", "message": "accuracy fell by 25.9 points; 1 is allowed",
                   "hint": "raise --max-drop or choose another target"}),
        failed("tflite-int16x8", "the convert process was killed by SIGSEGV",
               "run with --debug to see its log"),
    ])


def single() -> Report:
    """One target, regression, and things that could not be measured."""
    def more(made, mae, note=""):
        extra = [Measurement("mae", "", (mae,))]
        if note:
            extra.append(Measurement("peak_memory", "bytes", (), note))
        kept = tuple(m for m in made.measurements if m.name != "peak_memory")
        return dataclasses.replace(made, measurements=kept + tuple(extra))

    why = "not measured: the system does not report it"
    rows = [more(row("source", 4_210_000, 13.7), 0.2104, why),
            more(row("tflite-int8", 1_093_120, 4.42, snr=38.2), 0.2109, why)]
    given = report(rows, environment={})
    return dataclasses.replace(given, data={**given.data, "metric": None, "evaluated": 512},
                               recipe={"targets": ["tflite-int8"], "seed": 0})


def hostile() -> Report:
    """Random data, and names made to break a page, a table and a terminal."""
    given = usual()
    finding = {"level": "warning", "text": HOSTILE, "advice": HOSTILE,
               "layers": [{"tensor": HOSTILE, "layer": HOSTILE, "op": HOSTILE, "snr_db": math.inf}]}
    step = Step(HOSTILE, {HOSTILE: HOSTILE}, 1.0, HOSTILE, HOSTILE)
    bad = dataclasses.replace(
        given.rows[5], target=HOSTILE, findings=(finding,),
        artifact=Artifact(HOSTILE, HOSTILE, (step,)),
        fallbacks=({k: HOSTILE for k in ("op", "tensor", "layer", "precision", "why", "cost")},),
        io={"signature": HOSTILE, "weights": {HOSTILE: 1.0},
            "inputs": [{"name": HOSTILE, "shape": [1, None], "dtype": HOSTILE, "scale": 0.5,
                        "zero_point": 0}], "outputs": []})
    source = {**given.source, "path": HOSTILE, "notes": [HOSTILE],
              "rewrites": [{"what": HOSTILE, "why": HOSTILE, "layers": [HOSTILE]}],
              "inputs": [{"name": HOSTILE, "shape": [None], "dtype": HOSTILE}]}
    return dataclasses.replace(
        given, rows=(given.rows[0], given.rows[2], bad, failed(HOSTILE + "2", HOSTILE, HOSTILE)),
        source=source, command=f"tfcompress shrink '{HOSTILE}'\n```\n# x",
        data={**given.data, "spec": "random", "kind": "random", "random": True, "labels": False},
        environment={**given.environment, "cpu": HOSTILE, "versions": {HOSTILE: HOSTILE}})


def crowd(count: int = 12) -> Report:
    """Many targets, some with long names, sizes and latencies over two orders of magnitude."""
    rows = [row("source", 14_320_000, 21.4, accuracy=0.913)]
    for i in range(count):
        name = ("tflite-int8", "my-company-camera-board-revision-b-with-a-long-name",
                "tflite-float16", "edge-board")[i % 4] + f"-{i}"
        lost = 0.002 * (i % 5) + 0.0001 * i * i
        rows.append(row(name, round(14_320_000 / (1.4 + i)), 4.0 * (1 + i * i / 4),
                        snr=60 - 3.1 * i, accuracy=0.913 - lost, agreement=0.999 - 2 * lost))
    return report(rows)


def bare() -> Report:
    """As little as a report can hold: no data, no latency, everything optional left out."""
    sizes = (Measurement("size", "bytes", (812,)),)
    return Report(source={"path": "m.keras", "format": "keras"}, data={}, recipe={}, environment={},
                  rows=(Row("source", "ok", None, sizes), Row("keras", "ok", None, sizes)),
                  command="", created="", version="0.1.0")


def _noted(made: Row, name: str, note: str) -> Row:
    """The row with another note beside the measurement called `name`."""
    return dataclasses.replace(made, measurements=tuple(
        dataclasses.replace(m, note=note) if m.name == name else m for m in made.measurements))


def layers(count: int = 3, snr: float | None = 40.0) -> list[dict]:
    """Layers of a file, each a little larger and a little less exact than the one before."""
    return [{"layer": f"conv2d_{i}", "ops": {"CONV_2D": 1, "ADD": 2}, "gives": "int8",
             "dtypes": {"int8": 1000 + i, "int32": 10}, "bytes": 1040 + 1000 * i,
             "zeros": None if i == 1 else 0.25, "macs": 50_000 * (count - i),
             "snr_db": None if snr is None else snr - 2 * i} for i in range(count)]


def places() -> Report:
    """Artifacts timed in six places, one of them a program in the place of a GPU."""
    figures = dict(snr=40.0, accuracy=0.8719, agreement=1.0, lost=0.0)
    chips = []
    for name, size, ms in (("ethos-u55-128", 90_000, 0.9), ("ethos-u85-256", 92_000, 0.2)):
        made = row(name, size, **figures)
        chips.append(dataclasses.replace(made, measurements=(*made.measurements, Measurement(
            "npu_latency_estimate", "ms", (ms,), "estimate by Vela 5.2"))))
    gpu = _noted(row("tflite-gpu", 163_000, 0.05, **figures), "latency",
                 "1 thread, batch 1, first sample; software adapter: SwiftShader Device; load 0.1")
    quick = row("tflite-int8", 96_432, 0.287, **figures)
    quick = dataclasses.replace(quick, io={**quick.io, "layers": layers(), "layers_note": ""})
    return report([
        row(**SOURCE), quick, row("tflite-float16", 163_044, 0.290, **figures),
        row("tflite-float32", 317_340, 0.912, **figures),
        row("onnx-float32", 320_000, 0.155, **figures), row("onnx-int8", 99_000, 0.311, **figures),
        gpu, *chips, row("litert-js", 163_500, 1.9, **figures)])


RECIPE = {
    "stages": [
        {"stage": "prune", "sparsity": 0.6, "pattern": "unstructured", "schedule": "polynomial",
         "layers": "*, !first", "epochs": 6, "learning_rate": 0.002},
        {"stage": "cluster", "clusters": 16, "scope": "layer", "layers": "*", "epochs": 0},
        {"stage": "qat", "weight_bits": 8, "activation_bits": 8, "layers": "*", "epochs": None},
    ],
    "training": {"epochs": 3, "batch_size": 32, "learning_rate": 0.001, "schedule": "cosine",
                 "optimizer": "adam", "distill": True, "temperature": 2.0, "teacher_weight": 0.5,
                 "augment": None, "freeze": None, "patience": None, "validation": 0.1,
                 "mixed_precision": False, "seed": 0},
}


def epochs(stage: str, count: int, sparsity: float | None, best: float = 0.87) -> list[dict]:
    """Epochs that get better; pruning reaches its sparsity halfway."""
    made = []
    for i in range(count):
        share = None if sparsity is None else round(sparsity * min(1.0, 2 * (i + 1) / count), 4)
        reached = best - 0.2 * 0.5 ** (i + 1)
        made.append({"stage": stage, "epoch": i, "loss": 2.0 * 0.6 ** i + 0.1,
                     "metric": reached + 0.01, "validation_loss": 2.2 * 0.6 ** i + 0.1,
                     "validation_metric": reached, "seconds": 1.5, "sparsity": share})
    return made


def kernels(count: int, zeros: float = 0.6, distinct: int = 16) -> list[dict]:
    return [{"layer": f"conv2d_{i}", "weight": "kernel", "values": 1000 + 100 * i, "zeros": zeros,
             "distinct": distinct} for i in range(count)]


def tensors(count: int, dtype: str = "int8", zeros: float = 0.6, distinct: int | None = 16,
            bits: int = 8) -> list[dict]:
    """The kernels of `kernels` as a file holds them, largest first."""
    return [{"tensor": f"constant{i}", "layer": f"conv2d_{i}", "dtype": dtype,
             "shape": [10, 100 + 10 * i], "bytes": (1000 + 100 * i) * bits // 8, "zeros": zeros,
             "distinct": distinct} for i in reversed(range(count))]


def _trained_row(target: str, *args, **more):
    """A row whose SNR is measured against the trained model."""
    given = row(target, *args, **more)
    told = tuple(dataclasses.replace(m, note="against the trained model")
                 if m.name in ("snr", "cosine", "max_error") else m for m in given.measurements)
    return dataclasses.replace(given, measurements=told)


def trained(count: int = 8) -> Report:
    """A model that was pruned, clustered and trained with quantization in place."""
    int8 = _trained_row("tflite-int8", 96_432, 0.487, snr=47.8, accuracy=0.8707, agreement=0.9645,
                        lost=0.0012)
    whole = _trained_row("tflite-float32", 317_340, 0.412, snr=134.2, accuracy=0.8709,
                         agreement=0.9651, lost=0.0010)
    half = _trained_row("tflite-float16", 163_044, 0.431, snr=71.3, accuracy=0.8708,
                        agreement=0.9650, lost=0.0011)
    keras = _trained_row("keras", 346_000, 2.29, snr=math.inf, accuracy=0.8709, agreement=0.9651,
                         lost=0.0010)
    keras = dataclasses.replace(keras, io={}, artifact=dataclasses.replace(
        keras.artifact, format="keras", path="keras.keras"))
    tables = {"tflite-int8": tensors(count), "tflite-float32": tensors(count, "float32", bits=32,
                                                                       distinct=None),
              "tflite-float16": tensors(count, "float16", bits=16, distinct=None)}
    rows = [dataclasses.replace(r, io={**r.io, "tensors": tables[r.target]})
            for r in (int8, whole, half)]
    given = report([row(**SOURCE), *rows, keras])
    return dataclasses.replace(
        given, recipe={**given.recipe, "recipe": RECIPE, "backend": "native"},
        environment={**given.environment, "architecture": "x86_64", "flags": ["avx2", "fma"]},
        training={
            "history": [*epochs("prune", 6, 0.6, 0.85), *epochs("qat", 3, 0.6)],
            "metric_name": "accuracy", "kernels": kernels(count),
            "skipped": [{"layer": "first", "stage": "prune", "why": "left out by the recipe"}],
            "notes": ["2 frozen layers were trained too"], "seconds": 13.5, "slimmed": None})


def slim() -> Report:
    """A model that lost channels; no labels, no validation samples, and a loss that exploded."""
    given = trained(3)
    history = epochs("structured", 4, None)
    for record in history:
        record |= {"validation_loss": None, "validation_metric": None}
    history[1]["loss"] = math.inf
    stage = {"stage": "structured", "to": 0.5, "of": "macs", "importance": "magnitude",
             "scope": "global", "layers": "*", "multiple": 4, "rounds": 2, "epochs": None,
             "learning_rate": None}
    dropped = ("accuracy", "accuracy_drop", "agreement")
    rows = [dataclasses.replace(r, measurements=tuple(
        m for m in r.measurements if m.name not in dropped)) for r in given.rows[:2]]
    rows[1].io["tensors"][:] = tensors(3, zeros=0.001, distinct=200)
    slimmed = {"removed": [{"layer": "conv2d", "what": "channels", "before": 64, "after": 40},
                           {"layer": "attention", "what": "heads", "before": 8, "after": 4}],
               "before": {"parameters": 78_666, "macs": 12_501_632, "bytes": 314_664},
               "after": {"parameters": 31_208, "macs": 6_150_144, "bytes": 124_832}}
    return dataclasses.replace(
        given, rows=tuple(rows), data={**given.data, "labels": False, "metric": None},
        recipe={**given.recipe, "recipe": {**RECIPE, "stages": [stage]}},
        training={**given.training, "history": history, "metric_name": "error", "kernels": [],
                  "slimmed": slimmed, "notes": []})


def hostile_training() -> Report:
    """Names from a model made to break the account of its training."""
    given = trained(2)
    stage = {"stage": HOSTILE, "layers": HOSTILE, "epochs": 1}
    rows = [given.rows[0], dataclasses.replace(given.rows[1], io={"tensors": [
        {**t, "layer": HOSTILE, "tensor": HOSTILE, "dtype": HOSTILE} for t in tensors(2)]})]
    record = {**epochs("x", 1, 0.5)[0], "stage": HOSTILE}
    return dataclasses.replace(
        given, rows=tuple(rows), recipe={**given.recipe, "backend": HOSTILE, "recipe": {
            "stages": [stage], "training": {"optimizer": HOSTILE, "augment": HOSTILE}}},
        training={"history": [record], "metric_name": HOSTILE, "seconds": 1.0, "notes": [HOSTILE],
                  "kernels": [{**k, "layer": HOSTILE, "weight": HOSTILE} for k in kernels(2)],
                  "skipped": [{"layer": HOSTILE, "stage": HOSTILE, "why": HOSTILE}],
                  "slimmed": {"removed": [{"layer": HOSTILE, "what": HOSTILE, "before": 2,
                                           "after": 1}], "before": {}, "after": {}}})


ALL = {"usual": usual, "single": single, "hostile": hostile, "crowd": crowd, "bare": bare,
       "places": places, "trained": trained, "slim": slim, "hostile_training": hostile_training}
