"""Latency and memory on the CPU: one process per artifact, all of them interleaved.

`measure` runs in the parent (standard library only) and opens one child per artifact; the
functions below it run in the children. Bursts of about 50 ms go round the artifacts in shuffled
order, so a machine that warms up, slows down or is disturbed does so to all of them alike.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..artifact import Measurement
from ..child import Child, Progress
from ..errors import TfcompressError, needed
from .environment import cores

BURST_SECONDS = 0.05
BURST_MOST = 100  # so that even the fastest model is sampled in ten bursts or more
WARM_UP_SECONDS = 0.2
FEWEST, ENOUGH, MOST = 5, 30, 1000
NAMES = {"latency": "ms", "latency_threads": "ms", "load_time": "ms", "peak_memory": "bytes",
         "throughput": "samples/s"}
THREADED = ("latency_threads",)
# Modules to import; keras where a runtime is not named.
WARM = {"litert": ["numpy.random", "ai_edge_litert.interpreter"],
        "onnxruntime": ["numpy.random", "onnxruntime"], "tfjs": ["numpy"]}
IN_BROWSER = ("litert-js", "tfjs", "onnxruntime-web")  # timed in the page; memory is its own
# Starting these again for N threads costs more than it tells.
ONCE = ("keras", "tensorflow", "litert-gpu", *IN_BROWSER)


def default_threads() -> list[int]:
    """1, and the cores this process may use (at most 4) where there is more than one."""
    return sorted({1, min(cores(), 4)})


def measure(artifacts: list[dict], threads: list[int] | None = None, seconds: float = 2.0,
            progress: Progress | None = None, seed: int = 0) -> dict[str, list[Measurement]]:
    """Latency, load time, peak memory and throughput of each artifact, batch size 1.

    Args:
        artifacts: `{"name", "path", "runtime"}` each, `name` being unique; optional `names` (order
            of inputs and outputs) and `samples` (folder whose first sample is the input; without
            it the input is random, seeded, in the range that the file declares) and
            `custom_objects` (modules that a Keras file needs).
        threads: Thread counts; the first gives `latency`, `load_time`, `peak_memory` and
            `throughput`, the last of several `latency_threads`. Default: `default_threads()`.
        seconds: Time spent on each artifact, all thread counts together. Every artifact gets at
            least 30 samples if twice its share of the time is enough for that, otherwise as many
            as fit in it, but never fewer than 5.
        progress: Called with the share done and a text.
        seed: Of the order of the bursts and of random inputs.

    Returns:
        By `name`: the measurements `NAMES` (`latency_threads` only where more than one thread
        count was asked for, and not for the runtimes `ONCE`). What could not be measured has no
        values, and its note says why.
    """
    threads = threads or default_threads()
    threads = [threads[0], *threads[1:][-1:]]
    found: dict[str, list[Measurement]] = {a["name"]: [] for a in artifacts}
    with ExitStack() as stack:
        children = {a["name"]: stack.enter_context(Child(f"{a['name']} measurement"))
                    for a in artifacts}
        _warm(artifacts, children)
        for at, count in enumerate(threads):
            chosen = [a for a in artifacts if at == 0 or a["runtime"] not in ONCE]
            lanes = [_Lane(a, count, children[a["name"]]) for a in chosen]

            def report(done: float, text: str, at: int = at) -> None:
                if progress:
                    progress((at + done) / len(threads), text)

            _race(lanes, seconds / len(threads), report, seed)
            for lane in lanes:
                found[lane.artifact["name"]] += lane.measurements(at == 0)
    return found


def _warm(artifacts: list[dict], children: dict[str, Child]) -> None:
    """Import every child's runtime, several at a time: nothing is timed yet."""
    def warm(artifact: dict) -> None:
        modules = WARM.get(artifact["runtime"].partition("-")[0], ["keras"])
        with suppress(TfcompressError):  # what is missing is told when it is used
            children[artifact["name"]].call("filing:warm", {"modules": modules})

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(warm, artifacts))


@dataclass
class _Lane:
    """One artifact in the race."""

    artifact: dict
    threads: int
    child: Child | None = None
    ready: dict = field(default_factory=dict)
    bursts: list[list[float]] = field(default_factory=list)
    end: dict = field(default_factory=dict)
    spent: float = 0.0
    failure: str = ""
    load: tuple[float, float] = (0.0, 0.0)

    @property
    def values(self) -> list[float]:
        return [v for burst in self.bursts for v in burst]

    def done(self, share: float) -> bool:
        count = sum(map(len, self.bursts))
        enough = count >= ENOUGH or (count >= FEWEST and self.spent >= 2 * share)
        return bool(self.failure) or count >= MOST or (self.spent >= share and enough)

    def call(self, function: str, payload: dict,
             then: Callable[[dict], None] = lambda answer: None) -> None:
        """Call the child; what goes wrong there is this lane's failure and nobody else's."""
        if self.failure:
            return
        try:
            then(self.child.call(function, payload))
        except TfcompressError as error:
            self.failure = error.unmeasured

    def measurements(self, first: bool) -> list[Measurement]:
        names = [n for n in NAMES if (n in THREADED) != first]
        if self.failure:
            return [Measurement(n, NAMES[n], (), self.failure) for n in names]
        note = f"{self.threads} thread{'s' * (self.threads > 1)}, batch 1, {self.ready['input']}"
        before, after = self.load
        busy = "busy machine: " if before > cores() else ""
        note += f"; {busy}load {before:.1f} before, {after:.1f} after, {cores()} cores"
        rates = [1000 * len(b) * self.ready["batch"] / sum(b) for b in self.bursts if sum(b)]
        values = {"latency": self.values, "latency_threads": self.values,
                  "load_time": self.end.get("load_ms", []), "peak_memory": self.end.get("peak", []),
                  "throughput": rates}
        notes = {"load_time": "file to ready, the first load of a new process first",
                 "peak_memory": "growth of the process beyond the loaded runtime",
                 "throughput": f"{note}; one value per burst"}
        if self.artifact["runtime"].startswith(IN_BROWSER):
            notes["load_time"] = "runtime and model, from this machine"
            notes["peak_memory"] = "not measured: the memory is the browser's"
        return [Measurement(n, NAMES[n], tuple(values[n]), notes.get(n, note)) for n in names]


def _race(lanes: list[_Lane], share: float, report: Progress, seed: int) -> None:
    """All artifacts at one thread count; what is measured ends up in the lanes."""
    order = random.Random(seed)
    before = os.getloadavg()[0]
    for at, lane in enumerate(lanes):
        report(0.3 * at / len(lanes), f"loading {lane.artifact['name']}")
        if lane.artifact.get("custom_objects"):
            own = {"modules": list(lane.artifact["custom_objects"])}
            lane.call("worker:register", own)
        payload = {k: lane.artifact.get(k) for k in ("path", "runtime", "names", "samples")}
        payload |= {"threads": lane.threads, "seed": seed}
        lane.call("benchmark.latency:prepare", payload, lane.ready.update)
    while running := [lane for lane in lanes if not lane.done(share)]:
        order.shuffle(running)
        for lane in running:
            start = time.perf_counter()
            lane.call("benchmark.latency:burst", {"most": MOST - len(lane.values)},
                      lambda answer, lane=lane: lane.bursts.append(answer["ms"]))
            lane.spent += time.perf_counter() - start
        spent = sum(min(lane.spent, share) for lane in lanes if not lane.failure)
        report(0.3 + 0.7 * min(1.0, spent / max(share * len(lanes), 1e-9)), "measuring latency")
    for lane in lanes:
        lane.call("benchmark.latency:finish", {}, lane.end.update)
    after = os.getloadavg()[0]
    report(1.0, "measuring latency")
    for lane in lanes:
        lane.load = (before, after)


# ---- In the child ---------------------------------------------------------------------------

_state: dict = {}


def prepare(payload: dict, progress) -> dict:
    """Import the runtime, then load the artifact (timed) and warm it up.

    Returns:
        `input` (what it is fed with), `batch` (samples in one invocation).

    Raises:
        ModelError, MissingExtra: As `runtimes.open_session`.
    """
    from . import runtimes, sessions

    if payload["runtime"] in ("litert", "litert-gpu"):
        runtimes.litert_module()
        import numpy.random
    elif payload["runtime"].startswith(IN_BROWSER):
        import numpy.random
    elif payload["runtime"].startswith("onnxruntime"):
        needed("onnxruntime", "onnx")
        import numpy.random  # noqa: F401
    else:
        import keras  # noqa: F401
        import tensorflow as tf

        tf.zeros(1)
    gc.collect()
    _state["baseline"] = reset_peak()

    samples = payload.get("samples")
    names = payload.get("names") or (sessions.input_names(samples) if samples else None)

    def load() -> tuple[object, float]:
        start = time.perf_counter_ns()
        session = runtimes.open_session(payload["path"], payload["runtime"], payload["threads"],
                                        names)
        ms = (time.perf_counter_ns() - start) / 1e6
        return session, getattr(session, "load_ms", ms)

    session, ms = load()
    rows, origin = _input(session.inputs, samples, payload["seed"])
    invoke = session.ready(rows)
    start = time.perf_counter()
    count, once = 0, float("inf")  # of the fastest: one that was interrupted says nothing
    while count < 3 or time.perf_counter() - start < WARM_UP_SECONDS:
        begin = time.perf_counter()
        invoke()
        once = min(once, time.perf_counter() - begin)
        count += 1
        if time.perf_counter() - start > 10 * WARM_UP_SECONDS:
            break
    _state.update(load=load, load_ms=[ms], session=session, invoke=invoke,
                  count=max(1, min(BURST_MOST, round(BURST_SECONDS / max(once, 1e-9)))))
    gc.collect()
    gc.freeze()  # what is loaded stays: the collection before each burst need not look at it
    if note := getattr(session, "note", ""):
        origin += f"; {note}"
    return {"input": origin, "batch": (session.inputs[0]["shape"] or [1])[0] or 1}


def burst(payload: dict, progress) -> dict:
    """Time about 50 ms of invocations (`most` at the most), one by one, after an untimed one.

    Returns:
        `ms`: The time of each.
    """
    invoke, clock = _state["invoke"], time.perf_counter_ns
    count = min(_state["count"], payload.get("most", MOST))
    if hasattr(_state["session"], "burst"):
        return {"ms": _state["session"].burst(count)}
    marks = [0] * (count + 1)
    gc.collect()
    gc.disable()
    try:
        if count > 1:  # a slow model does not notice cold caches, but its user would the wait
            invoke()
        marks[0] = clock()
        for i in range(1, count + 1):
            invoke()
            marks[i] = clock()
    finally:
        gc.enable()
    settle()
    return {"ms": [(b - a) / 1e6 for a, b in zip(marks, marks[1:], strict=False)]}


def finish(payload: dict, progress) -> dict:
    """Read the peak of memory, then load the artifact some more times.

    Returns:
        `peak`: [bytes beyond the baseline]; `load_ms`: the first load and up to four more.
    """
    peak = max(0, peak_bytes() - _state["baseline"])
    times = _state["load_ms"]
    if hasattr(_state["session"], "burst"):
        _state["session"].close()
        return {"peak": [], "load_ms": times}
    _state["session"] = _state["invoke"] = None
    while len(times) < 5 and sum(times) < 300:
        gc.collect()
        times.append(_state["load"]()[1])
    return {"peak": [peak], "load_ms": times}


def settle(longest: float = 0.1) -> None:
    """Wait until this process's worker threads sleep: they spin after work and would slow the
    next process."""
    end = time.perf_counter() + longest
    while time.perf_counter() < end:
        used = time.process_time()
        time.sleep(0.002)
        if time.process_time() - used < 0.0005:
            return


def peak_bytes() -> int:
    """The most memory that this process ever had resident (since `reset_peak`, on Linux)."""
    if (value := _status("VmHWM")) is not None:
        return value
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak() -> int:
    """Start the peak anew where the system allows it; returns the baseline in bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        resident, peak = _status("VmRSS"), _status("VmHWM")
        if resident and peak and peak < resident * 1.02:
            return resident
    except OSError:
        pass
    return peak_bytes()


def _status(key: str) -> int | None:
    """A size in /proc/self/status in bytes; None where there is no such file."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _input(specs: list[dict], samples: str | None, seed: int) -> tuple[list, str]:
    """One row per input, and a word on where it is from."""
    import numpy as np

    files = [Path(samples) / "inputs" / f"{i}.npy" for i in range(len(specs))] if samples else []
    if files and all(f.is_file() for f in files):
        return [np.load(f, mmap_mode="r")[:1] for f in files], "first sample"
    rng = np.random.default_rng(seed)
    rows = []
    for spec in specs:
        shape = (1, *[s or 1 for s in spec["shape"][1:]])
        kind = np.dtype(spec["dtype"])
        if spec["scale"]:
            limits = np.iinfo(kind)
            steps = rng.integers(limits.min, limits.max, shape, endpoint=True)
            rows.append((steps - spec["zero_point"]).astype(np.float32) * spec["scale"])
        elif kind.kind == "f":
            rows.append(rng.uniform(-1, 1, shape).astype(np.float32))
        elif kind == np.uint8:
            rows.append(rng.integers(0, 256, shape).astype(kind))
        elif kind.kind in "SO":
            rows.append(np.full(shape, "", object))
        else:  # indices: 0 and 1 are in every vocabulary
            rows.append(rng.integers(0, 2, shape).astype(kind))
    return rows, "random input"
