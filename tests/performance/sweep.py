"""Many jobs in a child process: one that kills the process costs only itself.

A sweep's script is its own child: `sweep` gives it the jobs on its standard input, `answer` reads
them there and answers by lines of JSON. Standard library only.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

KILLED = "killed the process"


def sweep(command: Sequence[str], jobs: Sequence[str], limit: float
          ) -> Iterator[tuple[str, dict]]:  # fmt: skip
    """Yield (job, record) in the order of the jobs, each as soon as it is done.

    Args:
        command: Starts the child, which calls `answer`.
        jobs: Names of what is to be done.
        limit: Seconds that a job may take; one that takes longer is ended and told as `late`.
    """
    left = list(jobs)
    while left:
        done = yield from _child(command, left, limit)
        if not done:
            for job in left:
                yield job, {"error": "the process did not start"}
            return
        left = [job for job in left if job not in done]


def _child(command: Sequence[str], jobs: list[str], limit: float
           ) -> Iterator[tuple[str, dict]]:  # fmt: skip
    """What one process does of the jobs; returns those that it has done or died of."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True, start_new_session=True)
    done: set[str] = set()
    late: list[str] = []
    begun, timer = None, None

    def end(job: str) -> None:
        late.append(job)
        os.killpg(process.pid, signal.SIGKILL)  # with its browsers

    try:
        process.stdin.write(json.dumps(jobs))
        process.stdin.close()
        for line in process.stdout:
            if line.startswith('{"begin": '):
                begun = json.loads(line)["begin"]
                timer = threading.Timer(limit, end, [begun])
                timer.start()
            elif line.startswith('{"job": ') and begun:
                timer.cancel()
                told = json.loads(line)
                done.add(told["job"])
                begun = None
                yield told["job"], told["record"]
        process.wait()
    finally:
        if timer:
            timer.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if begun:
        done.add(begun)
        yield begun, {"late": round(limit)} if late else {"error": KILLED}
    return done


def answer(one: Callable[[str], dict]) -> None:
    """The child's side: do every job of standard input."""
    for job in json.loads(sys.stdin.read()):
        print(json.dumps({"begin": job}), flush=True)
        print(json.dumps({"job": job, "record": one(job)}), flush=True)
