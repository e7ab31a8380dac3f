"""Proof: an artifact on held-back samples, beside the source model's own outputs.

`run` says how far the artifact's outputs are from the source's and, where there are labels, how
good each of the two is at the task. `locate` says where inside the file the error begins. Both
are called in a child process.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .. import store
from ..artifact import Measurement
from ..child import Child
from ..errors import DataError, MissingExtra, ModelError
from . import metrics, tasks
from .environment import cores
from .locate import locate  # noqa: F401  (called as benchmark.compare:locate)
from .runtimes import open_session
from .sessions import open_arrays

Array = Any  # numpy.ndarray
BATCH = 32
BATCH_BYTES = 64 << 20
STAND_INS = {"litert-js": "litert", "litert-gpu": "litert",
             "onnxruntime-cuda": "onnxruntime", "onnxruntime-tensorrt": "onnxruntime",
             "onnxruntime-web": "onnxruntime"}
SAID = {"litert": "LiteRT's CPU kernels", "onnxruntime": "ONNX Runtime's CPU kernels"}
LARGE = 64 << 20  # bytes; a file or outputs beyond it are not given to several processes
WORTH_SECONDS = 4.0  # of work; below it, sharing costs more than it saves
COLLAPSE_SNR_DB = 10.0
COLLAPSE_AGREEMENT = 0.8
COLLAPSE_DROP = 0.05
RUINED_SHARE, RUINED_ERROR = 0.3, 3.0  # of a metric, absolute; of an error, relative


def run(payload: dict, progress) -> dict:
    """Run an artifact over held-back samples, batch by batch, and compare it with the source.

    Args:
        payload: `artifact` (path), `runtime`, `names` (`{"inputs", "outputs"}` in the model's
            order), `samples` (folder: `inputs/<i>.npy`, `labels.npy` where known, `samples.json`),
            `reference` (folder of the source's outputs, `<i>.npy`), `expected` (folder of the
            outputs that the artifact should have where training has changed the model, or None:
            the source's; SNR, cosine and largest error are measured against these), `metric` (a
            name of `tasks.METRICS`, or None: by the labels), `threads`, `limit` (rows, None: all).
        progress: Called with the share done and a text.

    Returns:
        `measurements`: dictionaries of `Measurement`: snr (dB, worst output), cosine, max_error,
        agreement where the outputs look like classes or one probability, and with labels each
        metric of the artifact, of the source (`source_accuracy`, ...) and what is lost
        (`accuracy_drop`, `mae_rise`; positive is worse).
        `findings`: What a reader must know. `task`: `{"metric", "source", "artifact", "drop"}`
        of the main metric or None; `drop` is relative for mae and rmse. `io`: the artifact's
        inputs and outputs.

    Where the runtime is not installed, that is a finding, and `snr` says why it has no value.

    Raises:
        DataError: Labels out of range, or data that do not fit the artifact.
        ModelError: The runtime cannot run the artifact.
        UsageError: `metric` is unknown or does not fit the labels.
    """
    data = _Data(payload)
    try:
        session, payload, missing = _open(payload)
    except MissingExtra as error:
        return _unmeasured(payload["runtime"], error)
    if len(session.inputs) != len(data.inputs) or len(session.outputs) != len(data.reference):
        raise ModelError(f"{payload['artifact']} has other inputs or outputs than the source model",
                         "compare an artifact of the same model")
    labels = None if data.labels is None else data.labels[:data.count]
    task = tasks.find(labels, [r[:data.count] for r in data.reference], payload.get("metric"))
    tally = _Tally(data, task)
    step = _batch(data.inputs)
    with _Helpers(session, data, payload) as helpers:
        for start in range(0, helpers.start, step):
            rows = slice(start, min(start + step, helpers.start))
            tally.add(rows, session.run([a[rows] for a in data.inputs]))
            progress(rows.stop / helpers.start, f"{rows.stop} of {helpers.start} samples")
        for first, made in helpers.results():
            for at in range(0, len(made[0]), step):
                rows = slice(first + at, first + min(at + step, len(made[0])))
                tally.add(rows, [m[at:at + step] for m in made])
    names = (payload["names"] or {}).get("outputs") or [s["name"] for s in session.outputs]
    found, findings, judged = tally.result(names)
    if data.random:
        found = [Measurement(m.name, m.unit, m.values, _join("random data", m.note)) for m in found]
    if hasattr(session, "measurements"):
        found += session.measurements()
    return {"measurements": [m.to_dict() for m in found], "findings": [*missing, *findings],
            "task": judged, "io": {"inputs": session.inputs, "outputs": session.outputs}}


def _open(payload: dict) -> tuple[Any, dict, list[dict]]:
    """A session, the payload with its runtime, and findings: what it says, or why a stand-in.

    A .tflite for a browser or a GPU that this machine does not have is judged on the CPU.
    """
    threads = payload.get("threads") or 1
    try:
        session = open_session(payload["artifact"], payload["runtime"], threads, payload["names"])
        return session, payload, list(getattr(session, "findings", ()))
    except MissingExtra as error:
        if payload["runtime"] not in STAND_INS:
            raise
        finding = _finding("warning", f"not measured on {payload['runtime']}: {error.message}; "
                           f"outputs were compared on {SAID[STAND_INS[payload['runtime']]]}",
                           error.hint)
    payload = payload | {"runtime": STAND_INS[payload["runtime"]]}
    session = open_session(payload["artifact"], payload["runtime"], threads, payload["names"])
    return session, payload, [finding]


def _unmeasured(runtime: str, error: MissingExtra) -> dict:
    """What `run` tells where there is no such runtime: that is no fault of the artifact."""
    measured = Measurement("snr", "dB", (), error.unmeasured).to_dict()
    finding = _finding("warning", f"not run on {runtime}: {error.message}; that it was converted "
                       "proves nothing", error.hint) | {"about": "runtime"}
    return {"measurements": [measured], "task": None, "io": {"inputs": [], "outputs": []},
            "findings": [finding]}


def outputs(payload: dict, progress) -> dict:
    """Run an artifact over the rows `start` to `stop` and write `<i>.npy` into `out`."""
    import numpy as np

    data = open_arrays(Path(payload["samples"]) / "inputs")
    session = open_session(payload["artifact"], payload["runtime"], 1, payload["names"])
    step = _batch(data)
    parts = [session.run([a[at:min(at + step, payload["stop"])] for a in data])
             for at in range(payload["start"], payload["stop"], step)]
    for i, column in enumerate(zip(*parts, strict=True)):
        np.save(Path(payload["out"]) / f"{i}.npy", np.concatenate(column))
    return {}


class _Helpers:
    """Other processes that run a slow artifact on the last rows, while this one runs the first.

    Some kernels (int16x8's on x86) run on one thread whatever they are given, and the interpreter
    holds Python's lock, so only processes use the other cores.

    Attributes:
        start: The first row that this process need not run.
    """

    def __init__(self, session, data: _Data, payload: dict):
        self.start, self._stack, self._jobs = data.count, ExitStack(), []
        count = self._count(session, data, payload)
        cuts = [data.count * i // (count + 1) for i in range(1, count + 2)]
        self.start = cuts[0]
        pool = self._stack.enter_context(ThreadPoolExecutor(max(count, 1)))
        for start, stop in zip(cuts, cuts[1:], strict=False):
            out = self._stack.enter_context(TemporaryDirectory(prefix="tfcompress-"))
            child = self._stack.enter_context(Child("comparison"))
            told = {k: payload[k] for k in ("artifact", "runtime", "names", "samples")}
            told |= {"start": start, "stop": stop, "out": out}
            job = pool.submit(child.call, "benchmark.compare:outputs", told)
            self._jobs.append((start, out, job))

    def _count(self, session, data: _Data, payload: dict) -> int:
        path = Path(payload["artifact"])
        if payload["runtime"] != "litert" or path.suffix != ".tflite":
            return 0
        if path.stat().st_size > LARGE:
            return 0
        if sum(r[:1].size for r in data.reference) * 4 * data.count > LARGE:
            return 0
        rows = [a[:1] for a in data.inputs]
        session.run(rows)
        start = time.perf_counter()
        session.run(rows)
        seconds = (time.perf_counter() - start) * data.count
        return min(cores(), 4, data.count) - 1 if seconds > WORTH_SECONDS else 0

    def results(self) -> Iterator[tuple[int, list[Array]]]:
        """The first row of each share, and the outputs for it."""
        for start, out, job in self._jobs:
            job.result()
            yield start, open_arrays(Path(out))

    def __enter__(self) -> _Helpers:
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()


class _Data:
    """Samples, labels and reference outputs on disk, opened but not read."""

    def __init__(self, payload: dict):
        import numpy as np

        folder = Path(payload["samples"])
        about = store.read_json(folder / "samples.json")
        self.random = bool(about.get("random"))
        self.inputs = open_arrays(folder / "inputs")
        self.reference = open_arrays(Path(payload["reference"]))
        told = Path(payload["reference"]) / "step.json"
        self.drawn = set(store.read_json(told).get("drawn", ())) if told.is_file() else set()
        self.trained = bool(payload.get("expected"))
        self.expected = (open_arrays(Path(payload["expected"])) if self.trained
                         else self.reference)
        labels = folder / "labels.npy"
        self.labels = np.load(labels, mmap_mode="r") if labels.is_file() else None
        every = [*self.inputs, *self.reference, *([] if self.labels is None else [self.labels])]
        self.count = min([int(about["count"]), *(len(a) for a in every)])
        if payload.get("limit"):
            self.count = min(self.count, int(payload["limit"]))
        if not self.count or not self.reference:
            raise DataError("there are no held-back samples to compare on", "give more data")


class _Tally:
    """Everything that is counted while the batches go by."""

    def __init__(self, data: _Data, task: tasks.Task | None):
        self.data, self.task = data, task
        # Outputs that differ from call to call in the source model too have no reference.
        self.fidelity = {i: metrics.Fidelity() for i in range(len(data.reference))
                         if i not in data.drawn}
        self.agreement: dict[int, metrics.Share] = {}
        self._sides = {i: s for i, r in enumerate(data.reference)
                       if (s := self._threshold(i, r[:data.count])) is not None}
        # Scores of classes: one row of them per sample, or where the labels or the values say so.
        self._classes = {i for i, r in enumerate(data.reference)
                         if r.ndim > 1 and r.shape[-1] > 1 and self._grades(i) and (
                             self._grades(i, "classes") or _distributions(r)
                             or (r.ndim == 2 and self._free_scores(r)))}
        self.scores = {who: tasks.Scores() for who in ("source", "artifact")}
        self.lost = self.won = 0
        self._low, self._high = math.inf, -math.inf

    def _free_scores(self, ref: Array) -> bool:
        """Whether rows may be logits: neither shares (0 to 1) nor as long as an input (a copy)."""
        first = ref[:64]
        if any(a[0].size == ref[0].size for a in self.data.inputs):
            return False
        return bool(first.min() < 0 or first.max() > 1)

    def _grades(self, output: int, kind: str = "") -> bool:
        """Whether the output has no labels, or has them for a task of classes (of `kind`)."""
        if self.task is None or self.task.output != output:
            return not kind
        return self.task.kind == kind if kind else self.task.kind != "values"

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
        for i, (ref, want, out) in enumerate(zip(self.data.reference, self.data.expected, outputs,
                                                 strict=True)):
            reference = np.asarray(ref[rows], np.float32)
            if out.size != reference.size:
                raise ModelError(f"output {i} has {out.size} values where the source model has "
                                 f"{reference.size}", "convert the model again")
            integer = out.dtype.kind in "iub"
            out = np.asarray(out, np.float32).reshape(reference.shape)
            expected = np.asarray(want[rows], np.float32) if self.data.trained else reference
            if i in self.fidelity:
                self.fidelity[i].add(expected.reshape(reference.shape), out)
                self._agree(i, reference, out, integer)
            batch.append((reference, out))
        for array in self.data.inputs:
            if array.dtype.kind not in "fiub":  # text
                continue
            self._low = min(self._low, float(array[rows].min()))
            self._high = max(self._high, float(array[rows].max()))
        if self.task:
            self._score(np.asarray(self.data.labels[rows]), *batch[self.task.output])

    def _agree(self, i: int, reference: Array, out: Array, integer: bool) -> None:
        import numpy as np

        share = self.agreement.setdefault(i, metrics.Share())
        if integer:
            share.add(reference == out)
        elif i in self._classes:
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
        if self.data.trained:
            found = [replace(m, note=_join("against the trained model", m.note)) for m in found]
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
        # Training may change decisions for the better: labels tell, where there are any.
        judged = {} if self.data.trained and task else shares
        findings += _collapse(self.fidelity, names, judged, task, bool(findings),
                              self.data.trained)
        findings += self._chance(task)
        if drawn := [names[i] for i in sorted(self.data.drawn)]:
            findings.append(_finding(
                "info", f"not compared: {', '.join(drawn)}, where the source model too gives other "
                "values at each call, since it draws random numbers", ""))
        return found, findings, task

    def _graded(self) -> tuple[list[Measurement], dict]:
        values = {who: self.scores[who].values(self.task) for who in self.scores}
        found, main = [], None
        for name in self.task.names:
            unit = "share" if name in ("accuracy", "top5") else ""
            note = "" if self.task.per_sample or unit == "" else "per position"
            source, artifact = (values[who][name] for who in ("source", "artifact"))
            why = ("not measured: outputs are NaN"
                   if any(f.nonfinite for f in self.fidelity.values())
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


def _fidelity(outputs: dict[int, metrics.Fidelity], names: list[str]) -> list[Measurement]:
    found = []
    for name, unit, worse, text in (("snr", "dB", min, "{:.1f} dB"), ("cosine", "", min, "{:.6f}"),
                                    ("max_error", "", max, "{:.3g}")):
        values = {i: getattr(f, name) for i, f in outputs.items()}
        if not outputs:
            found.append(Measurement(name, unit, (), "not measured: outputs are random numbers"))
        elif any(v is None for v in values.values()) or any(
                f.nonfinite for f in outputs.values()):
            found.append(Measurement(name, unit, (), "not measured: outputs are NaN or infinite"))
        else:
            found.append(Measurement(name, unit, (worse(values.values()),),
                                     _per_output(values, names, text)))
    return found


def _per_output(values: dict[int, float], names: list[str], text: str) -> str:
    if len(names) < 2:
        return ""
    return "worst output; " + ", ".join(f"{names[i]} {text.format(v)}" for i, v in values.items())


def _broken(outputs: dict[int, metrics.Fidelity], names: list[str]) -> list[dict]:
    """Outputs that are not numbers, or always the same."""
    findings = []
    for i, f in outputs.items():
        name = names[i]
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


def _collapse(outputs: dict[int, metrics.Fidelity], names: list[str], shares: dict[int, float],
              task: dict | None, broken: bool, trained: bool = False) -> list[dict]:
    """An artifact that has lost what the model had learned, in words."""
    snrs = {i: f.snr for i, f in outputs.items() if f.snr is not None}
    signs = []
    for i, snr in snrs.items():
        if snr < COLLAPSE_SNR_DB:
            signs.append(f"the SNR of output {names[i]} is {snr:.1f} dB")
    # Near ties of an untrained model flip without meaning anything: a good SNR overrules.
    near = min(snrs.values(), default=-math.inf) >= 2 * COLLAPSE_SNR_DB
    if trained and near:  # exported faithfully: what was lost, was lost in training
        lost = [f"{task['metric']} went from {task['source']:.4g} to {task['artifact']:.4g}"] \
            if task and task["drop"] is not None and task["drop"] > COLLAPSE_DROP else \
            [f"output {names[i]} decides as the source model does on {100 * s:.0f} % of the samples"
             for i, s in shares.items() if s < COLLAPSE_AGREEMENT]
        much = task and task["drop"] is not None and task["drop"] > (
            RUINED_ERROR if task["metric"] in ("mae", "rmse") else RUINED_SHARE)
        return [_finding("error" if much else "warning",
                         f"training has {'ruined it' if much else 'cost much'}: {'; '.join(lost)}",
                         "prune or cluster less, train longer (--epochs), or give more data")
                ] if lost else []
    low = {i: s for i, s in shares.items() if s < COLLAPSE_AGREEMENT}
    if not near:
        signs += [f"output {names[i]} decides as the source model does on only {100 * s:.0f} % of "
                  "the samples" for i, s in low.items()]
    worse = ""
    if task and task["drop"] is not None and task["drop"] > COLLAPSE_DROP:
        worse = f"{task['metric']} goes from {task['source']:.4g} to {task['artifact']:.4g}"
    if worse and not signs and near:  # it still computes what the source does, if less exactly
        return [_finding("warning", f"the artifact is noticeably worse: {worse}",
                         "try more or better representative data, tflite-int16x8 or "
                         "tflite-dynamic; --max-drop makes such a loss a failure")]
    if worse:
        signs.append(worse)
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


def _distributions(ref: Array) -> bool:
    """Whether the last axis holds probabilities that sum to one (looked at in 32 rows)."""
    import numpy as np

    rows = np.asarray(ref[:32], np.float64)
    return bool(rows.min() >= 0 and np.allclose(rows.sum(-1), 1, atol=1e-3))


def _finding(level: str, text: str, advice: str) -> dict:
    return {"level": level, "text": text, "advice": advice}


def _join(*notes: str) -> str:
    return "; ".join(n for n in notes if n)
