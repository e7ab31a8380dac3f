"""float16 weights: every larger float constant is stored in half the bits and widened where read.

Runtimes on CPUs widen them once, at load; GPU delegates compute in float16 anyway.
"""

from __future__ import annotations

import math

from ... import tflite
from . import surgery

SMALLEST = 128  # values; below it the DEQUANTIZE costs more bytes than it saves


def make(source, target: dict) -> tuple[bytes, list[dict], list[str]]:
    """`(file's bytes, fallbacks, notes)`; operators that do not run so keep float32 weights."""
    skip: set[str] = set()
    kinds = sorted({tflite.op_name(m, op) for m in [tflite.load(source.model)]
                    for g in m.subgraphs for op in g.operators})
    goal = float(target.get("min_snr_db") or 0.0)
    model, snr = _attempt(source, target, skip)
    if snr < goal:
        for kind in kinds:
            if _attempt(source, target, {*kinds} - {kind})[1] < goal:
                skip.add(kind)
        model, snr = _attempt(source, target, skip)
        if snr < goal:
            model, skip = source.model, {*kinds}
    fallbacks = [{"op": kind, "tensor": "", "layer": "", "precision": "float32",
                  "why": "float16 weights lose too much, or do not run", "cost":
                  "its weights keep four bytes"} for kind in sorted(skip)]
    return model, fallbacks, []


def _attempt(source, target: dict, skip: set[str]) -> tuple[bytes, float]:
    model = tflite.load(source.model)
    surgery.store(model, "float16", SMALLEST, lambda kind, _: kind not in skip)
    io = target.get("io_dtype", "float32")
    surgery.boundary(model, io, source.ranges("min-max") if io != "float32" else {}, set())
    surgery.compact(model)
    data = tflite.dump(model)
    try:
        return data, min(source.snr(data).values(), default=math.inf)
    except Exception:
        return data, -math.inf
