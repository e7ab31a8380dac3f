"""Proof: an artifact on held-back samples, beside the source model's own outputs.

`run` says how far the artifact's outputs are from the source's and, where there are labels, how
good each of the two is at the task. `locate` says where inside the file the error begins. Both
are called in a child process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import store
from ..artifact import Measurement
from ..errors import DataError, ModelError, UsageError
from . import metrics
from .locate import locate  # noqa: F401  (called as benchmark.compare:locate)
from .runtimes import open_arrays, open_session

Array = Any  # numpy.ndarray
BATCH = 32
BATCH_BYTES = 64 << 20
COLLAPSE_SNR_DB = 10.0
COLLAPSE_AGREEMENT = 0.8
COLLAPSE_DROP = 0.05
METRICS = ("accuracy", "top5", "auc", "mae", "rmse")


@dataclass(frozen=True)
class Task:
    """What the labels ask of one output.

    Attributes:
        kind: `classes` (scores of classes on the last axis), `side` (one logit or probability),
            `equal` (the output is the class itself) or `values` (regression).
        output: Which output the labels belong to.
        names: The metrics to report, the main one first.
        threshold: Where `side` turns from false to true.
        per_sample: Whether one label belongs to one sample (not to one pixel or time step).
    """

    kind: str
    output: int
    names: tuple[str, ...]
    threshold: float = 0.0
    per_sample: bool = True


def run(payload: dict, progress) -> dict:
    """Run an artifact over held-back samples, batch by batch, and compare it with the source.

    Args:
        payload: `artifact` (path), `runtime`, `names` (`{"inputs", "outputs"}` in the model's
            order), `samples` (folder: `inputs/<i>.npy`, `labels.npy` where known, `samples.json`),
            `reference` (folder of the source's outputs, `<i>.npy`), `metric` (a name of `METRICS`
            or None: by the labels), `threads`, `limit` (rows, None: all).
        progress: Called with the share done and a text.

    Returns:
        `measurements`: dictionaries of `Measurement`: snr (dB, worst output), cosine, max_error,
        agreement where the outputs look like classes or one probability, and with labels each
        metric of the artifact, of the source (`source_accuracy`, ...) and what is lost
        (`accuracy_drop`, `mae_rise`; positive is worse).
        `findings`: What a reader must know. `task`: `{"metric", "source", "artifact", "drop"}`
        of the main metric or None; `drop` is relative for mae and rmse. `io`: the artifact's
        inputs and outputs.

    Raises:
        DataError: Labels out of range, or data that do not fit the artifact.
        ModelError: The runtime cannot run the artifact.
        UsageError: `metric` is unknown or does not fit the labels.
    """
    data = _Data(payload)
    session = open_session(payload["artifact"], payload["runtime"], payload.get("threads") or 1,
                           payload["names"])
    if len(session.inputs) != len(data.inputs) or len(session.outputs) != len(data.reference):
        raise ModelError(f"{payload['artifact']} has other inputs or outputs than the source model",
                         "compare an artifact of the same model")
    tally = _Tally(data, find_task(data, payload.get("metric")))
    step = _batch(data.inputs)
    for start in range(0, data.count, step):
        rows = slice(start, min(start + step, data.count))
        outputs = session.run([a[rows] for a in data.inputs])
        tally.add(rows, outputs)
        progress(rows.stop / data.count, f"{rows.stop} of {data.count} samples")
    names = (payload["names"] or {}).get("outputs") or [s["name"] for s in session.outputs]
    found, findings, task = tally.result(names)
    if data.random:
        found = [Measurement(m.name, m.unit, m.values, _join("random data", m.note)) for m in found]
    return {"measurements": [m.to_dict() for m in found], "findings": findings + data.findings,
            "task": task, "io": {"inputs": session.inputs, "outputs": session.outputs}}


class _Data:
    """Samples, labels and reference outputs on disk, opened but not read."""

    def __init__(self, payload: dict):
        import numpy as np

        folder = Path(payload["samples"])
        about = store.read_json(folder / "samples.json")
        self.random = bool(about.get("random"))
        self.inputs = open_arrays(folder / "inputs")
        self.reference = open_arrays(Path(payload["reference"]))
        labels = folder / "labels.npy"
        self.labels = np.load(labels, mmap_mode="r") if labels.is_file() else None
        every = [*self.inputs, *self.reference, *([] if self.labels is None else [self.labels])]
        self.count = min([int(about["count"]), *(len(a) for a in every)])
        if payload.get("limit"):
            self.count = min(self.count, int(payload["limit"]))
        if not self.count or not self.reference:
            raise DataError("there are no held-back samples to compare on", "give more data")
        self.findings: list[dict] = []


def find_task(data: _Data, metric: str | None) -> Task | None:
    """The task that the labels and the source's outputs describe; None without labels.

    Integer labels beside C scores are classes (accuracy, with top5 from 10 classes on), one-hot
    rows too; 0 and 1 beside one score are two classes (auc, accuracy); labels of the output's own
    shape are values (mae, rmse). Labels that fit no output become a finding.

    Raises:
        DataError: A label is not one of the model's classes.
        UsageError: `metric` is unknown or does not fit.
    """
    if metric is not None and metric not in METRICS:
        raise UsageError(f"unknown metric {metric!r}", f"known metrics: {', '.join(METRICS)}")
    if data.labels is None:
        if metric:
            raise UsageError(f"the metric {metric} needs labels", "give data with labels (y)")
        return None
    labels = data.labels[:data.count]
    tasks = [t for i, ref in enumerate(data.reference)
             if (t := _task(labels, ref[:data.count], i, metric))]
    if not tasks:
        shapes = ", ".join(str((None, *r.shape[1:])) for r in data.reference)
        text = (f"the labels ({labels.dtype}, shape {(None, *labels.shape[1:])}) fit no output "
                f"(shape {shapes})")
        if metric:
            raise UsageError(f"cannot compute {metric}: {text}", "leave --metric away, or give "
                             "labels that belong to an output")
        data.findings.append(_finding("warning", f"{text}; no task metric was computed",
                                      "give class numbers, one-hot rows or target values"))
        return None
    task = tasks[0]
    if metric:
        if metric not in task.names:
            raise UsageError(f"the metric {metric} does not fit these labels",
                             f"use one of: {', '.join(task.names)}")
        task = Task(task.kind, task.output, (metric,), task.threshold, task.per_sample)
    return task


def _task(labels: Array, ref: Array, output: int, metric: str | None) -> Task | None:
    """The task if `labels` belong to the source's output `ref`, else None."""
    shape = labels.shape[:-1] if labels.ndim > 1 and labels.shape[-1] == 1 else labels.shape
    whole = _whole(labels)
    classes = ref.shape[-1] if ref.ndim > 1 else 1
    squeezed = ref.shape[:-1] if ref.ndim > 1 and classes == 1 else ref.shape
    regression = metric in ("mae", "rmse")
    if classes > 1 and not regression:
        dense = len(shape) > 1
        names = ("accuracy", "top5") if classes >= 10 else ("accuracy",)
        if whole and shape == ref.shape[:-1]:
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= classes:
                raise _out_of_range(low, high, classes)
            return Task("classes", output, names, per_sample=not dense)
        if labels.shape == ref.shape and whole and _one_hot(labels):
            return Task("classes", output, names, per_sample=ref.ndim == 2)
    if shape != squeezed:
        return None
    low, high = float(labels.min()), float(labels.max())
    if whole and 0 <= low and high <= 1 and not regression:
        bounds = float(ref.min()), float(ref.max())
        threshold = 0.5 if bounds[0] >= 0 and bounds[1] <= 1 else 0.0
        single = len(shape) == 1
        names = ("accuracy", "auc") if single else ("accuracy",)
        return Task("side", output, names, threshold, per_sample=single)
    if labels.dtype.kind in "iu" and whole and _whole(ref) and not regression:
        return Task("equal", output, ("accuracy",), per_sample=len(shape) == 1)
    return Task("values", output, ("mae", "rmse"), per_sample=len(shape) == 1)


class _Tally:
    """Everything that is counted while the batches go by."""

    def __init__(self, data: _Data, task: Task | None):
        self.data, self.task = data, task
        self.fidelity = [metrics.Fidelity() for _ in data.reference]
        self.agreement: dict[int, metrics.Share] = {}
        self._sides = {i: s for i, r in enumerate(data.reference)
                       if (s := self._threshold(i, r[:data.count])) is not None}
        self.scores = {who: _Scores() for who in ("source", "artifact")}
        self.lost = self.won = 0
        self._low, self._high = math.inf, -math.inf

    def _threshold(self, output: int, ref: Array) -> float | None:
        """Where one score turns from no to yes; None where the output is not one score."""
        if ref[0].size != 1 or (self.task and self.task.output == output
                                and self.task.kind != "side"):
            return None
        low, high = float(ref.min()), float(ref.max())
        if low >= 0 and high <= 1:
            return 0.5
        return 0.0 if low < 0 < high else None

    def add(self, rows: slice, outputs: list[Array]) -> None:
        import numpy as np

        batch = []
        for i, (ref, out) in enumerate(zip(self.data.reference, outputs, strict=True)):
            reference = np.asarray(ref[rows], np.float32)
            if out.size != reference.size:
                raise ModelError(f"output {i} has {out.size} values where the source model has "
                                 f"{reference.size}", "convert the model again")
            integer = out.dtype.kind in "iub"
            out = np.asarray(out, np.float32).reshape(reference.shape)
            self.fidelity[i].add(reference, out)
            self._agree(i, reference, out, integer)
            batch.append((reference, out))
        for array in self.data.inputs:
            self._low = min(self._low, float(array[rows].min()))
            self._high = max(self._high, float(array[rows].max()))
        if self.task:
            self._score(np.asarray(self.data.labels[rows]), *batch[self.task.output])

    def _agree(self, i: int, reference: Array, out: Array, integer: bool) -> None:
        import numpy as np

        regression = self.task and self.task.output == i and self.task.kind == "values"
        if regression:
            return
        share = self.agreement.setdefault(i, metrics.Share())
        if integer:
            share.add(reference == out)
        elif reference.ndim > 1 and reference.shape[-1] > 1:
            same = reference.argmax(-1) == out.argmax(-1)
            share.add(same & np.isfinite(out).all(-1))
        elif i in self._sides:
            at = self._sides[i]
            share.add(((reference > at) == (out > at)) & np.isfinite(out))

    def _score(self, labels: Array, reference: Array, out: Array) -> None:
        right = {who: self.scores[who].add(self.task, labels, array)
                 for who, array in (("source", reference), ("artifact", out))}
        if right["source"] is not None:
            self.lost += int((right["source"] & ~right["artifact"]).sum())
            self.won += int((~right["source"] & right["artifact"]).sum())

    def result(self, names: list[str]) -> tuple[list[Measurement], list[dict], dict | None]:
        found = _fidelity(self.fidelity, names)
        shares = {i: s.value for i, s in self.agreement.items() if s.count}
        if shares:
            worst = min(shares, key=shares.get)
            found.append(Measurement("agreement", "share", (shares[worst],),
                                     _per_output(shares, names, "{:.4f}")))
        task = None
        if self.task:
            graded, task = self._graded()
            found += graded
        findings = _broken(self.fidelity, names)
        findings += _collapse(self.fidelity, names, shares, task, bool(findings))
        findings += self._chance(task)
        return found, findings, task

    def _graded(self) -> tuple[list[Measurement], dict]:
        values = {who: self.scores[who].values(self.task) for who in self.scores}
        found, main = [], None
        for name in self.task.names:
            unit = "share" if name in ("accuracy", "top5") else ""
            note = "" if self.task.per_sample or unit == "" else "per position"
            source, artifact = (values[who][name] for who in ("source", "artifact"))
            why = ("not measured: outputs are NaN" if any(f.nonfinite for f in self.fidelity)
                   else "not defined: only one class in the labels")
            for label, value in ((name, artifact), (f"source_{name}", source)):
                known = value is not None and math.isfinite(value)
                found.append(Measurement(label, unit, (value,) if known else (),
                                         note if known else why))
            error = name in ("mae", "rmse")
            if None in (source, artifact) or not math.isfinite(artifact - source):
                continue
            worse = artifact - source if error else source - artifact
            found.append(Measurement(f"{name}_rise" if error else f"{name}_drop", unit, (worse,),
                                     self._interval() if name == "accuracy" else ""))
            drop = worse / source if error and source else worse
            main = main or {"metric": name, "source": source, "artifact": artifact, "drop": drop}
        return found, main or {"metric": self.task.names[0], "source": values["source"][
            self.task.names[0]], "artifact": None, "drop": None}

    def _interval(self) -> str:
        if not self.task.per_sample:
            return ""
        n = self.data.count
        low, high = metrics.paired_interval(self.lost, self.won, n)
        return (f"95 % interval {100 * low:+.2f} to {100 * high:+.2f} points; {n} samples, "
                f"{self.lost} lost, {self.won} won")

    def _chance(self, task: dict | None) -> list[dict]:
        """A source that knows no better than chance has probably been fed the wrong data."""
        if not task or task["source"] is None or self.task.kind == "values" or self.data.random:
            return []
        share, what = self.scores["source"].chance(self.task), task["metric"]
        n = self.scores["source"].right.count
        source = self.scores["source"].right.value
        if source is None or n < 20 or source > share + 2 * math.sqrt(share * (1 - share) / n):
            return []
        return [_finding(
            "warning",
            f"the source model itself is no better than always naming the commonest class "
            f"({what} {task['source']:.3f}, commonest class {share:.3f}); its inputs range from "
            f"{self._low:.4g} to {self._high:.4g}",
            "check that the data are preprocessed as in training (0..255, 0..1 or -1..1) and "
            "that the labels are numbered as the model's outputs are")]


class _Scores:
    """The task's metrics of one of the two models."""

    def __init__(self):
        self.right, self.top5 = metrics.Share(), metrics.Share()
        self.auc, self.errors = metrics.Auc(), metrics.Errors()
        self._labels: dict[int, int] = {}

    def add(self, task: Task, labels: Array, out: Array) -> Array | None:
        """Count one batch; returns which answers are right, None for regression."""
        import numpy as np

        if task.kind == "values":
            self.errors.add(labels, out)
            return None
        if task.kind == "classes":
            one_hot = labels.ndim == out.ndim and labels.shape == out.shape
            labels = labels.argmax(-1) if one_hot else labels.reshape(out.shape[:-1])
            right = metrics.in_top(out, labels)
            if "top5" in task.names:
                self.top5.add(metrics.in_top(out, labels, 5))
        else:
            labels = labels.reshape(out.shape)
            if task.kind == "side":
                right = ((out > task.threshold) == (labels > 0)) & ~np.isnan(out)
            else:
                right = out == labels
            if "auc" in task.names:
                self.auc.add(labels, out)
        self.right.add(right)
        for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
            self._labels[int(label)] = self._labels.get(int(label), 0) + int(count)
        return right

    def values(self, task: Task) -> dict[str, float | None]:
        if task.kind == "values":
            return {"mae": self.errors.mae, "rmse": self.errors.rmse}
        auc = self.auc.value if "auc" in task.names else None
        return {"accuracy": self.right.value, "top5": self.top5.value, "auc": auc}

    def chance(self, task: Task) -> float:
        """The accuracy of always naming the commonest label."""
        total = sum(self._labels.values())
        return max(self._labels.values()) / total if total else 0.0


def _fidelity(outputs: list[metrics.Fidelity], names: list[str]) -> list[Measurement]:
    found = []
    for name, unit, worse, text in (("snr", "dB", min, "{:.1f} dB"), ("cosine", "", min, "{:.6f}"),
                                    ("max_error", "", max, "{:.3g}")):
        values = {i: getattr(f, name) for i, f in enumerate(outputs)}
        if any(v is None for v in values.values()) or any(f.nonfinite for f in outputs):
            found.append(Measurement(name, unit, (), "not measured: outputs are NaN or infinite"))
        else:
            found.append(Measurement(name, unit, (worse(values.values()),),
                                     _per_output(values, names, text)))
    return found


def _per_output(values: dict[int, float], names: list[str], text: str) -> str:
    if len(names) < 2:
        return ""
    return "worst output; " + ", ".join(f"{names[i]} {text.format(v)}" for i, v in values.items())


def _broken(outputs: list[metrics.Fidelity], names: list[str]) -> list[dict]:
    """Outputs that are not numbers, or always the same."""
    findings = []
    for f, name in zip(outputs, names, strict=True):
        if f.nonfinite:
            findings.append(_finding(
                "error", f"output {name}: {f.nonfinite} of {f.count} values are NaN or infinite "
                "where the source model's are not",
                "use a wider type (tflite-int16x8, tflite-float32), or another runtime"))
        elif f.constant and f.snr < 2 * COLLAPSE_SNR_DB:  # else the source hardly varies either
            findings.append(_finding(
                "error", f"output {name} is the same for every sample; the source model's is not",
                "calibrate on real data of the model's own range, or use a wider type "
                "(tflite-int16x8)"))
        if f.reference_nonfinite:
            findings.append(_finding(
                "warning", f"the source model itself gives NaN or infinity in output {name} "
                f"({f.reference_nonfinite} of {f.count} values)", "check the data and the model"))
    return findings


def _collapse(outputs: list[metrics.Fidelity], names: list[str], shares: dict[int, float],
              task: dict | None, broken: bool) -> list[dict]:
    """An artifact that has lost what the model had learned, in words."""
    snrs = {i: f.snr for i, f in enumerate(outputs) if f.snr is not None}
    signs = []
    for i, snr in snrs.items():
        if snr < COLLAPSE_SNR_DB:
            signs.append(f"the SNR of output {names[i]} is {snr:.1f} dB")
    # Near ties of an untrained model flip without meaning anything: a good SNR overrules.
    near = min(snrs.values(), default=-math.inf) >= 2 * COLLAPSE_SNR_DB
    low = {i: s for i, s in shares.items() if s < COLLAPSE_AGREEMENT}
    if not near:
        signs += [f"output {names[i]} decides as the source model does on only {100 * s:.0f} % of "
                  "the samples" for i, s in low.items()]
    if task and task["drop"] is not None and task["drop"] > COLLAPSE_DROP:
        signs.append(f"{task['metric']} goes from {task['source']:.4g} to {task['artifact']:.4g}")
    if signs:
        return [_finding("error", "the artifact has collapsed: " + "; ".join(signs),
                         "see the layers where the error begins; try more or better "
                         "representative data, or tflite-int16x8 or tflite-dynamic")]
    if low and near and not broken:
        worst = min(low.values())
        return [_finding("warning", f"the best class agrees on only {100 * worst:.0f} % of the "
                         "samples although the outputs are close: the source's best classes "
                         "nearly tie", "judge it on labelled data")]
    return []


def _batch(inputs: list[Array]) -> int:
    """Rows per batch: at most `BATCH`, and at most `BATCH_BYTES` as float32."""
    row = sum(math.prod(a.shape[1:]) * 4 for a in inputs)
    return max(1, min(BATCH, BATCH_BYTES // max(row, 1)))


def _whole(array: Array) -> bool:
    """Whether every value is an integer."""
    import numpy as np

    if array.dtype.kind in "iub":
        return True
    return array.dtype.kind == "f" and bool((np.asarray(array) == np.rint(array)).all())


def _one_hot(labels: Array) -> bool:
    return bool(labels.min() >= 0 and labels.max() <= 1 and (labels.sum(-1) == 1).all())


def _out_of_range(low: int, high: int, classes: int) -> DataError:
    shifted = low == 1 and high == classes
    return DataError(f"labels run from {low} to {high}, the model has the classes 0 to "
                     f"{classes - 1}", "subtract 1 from the labels" if shifted else
                     "give labels that number the model's outputs")


def _finding(level: str, text: str, advice: str) -> dict:
    return {"level": level, "text": text, "advice": advice}


def _join(*notes: str) -> str:
    return "; ".join(n for n in notes if n)
