"""Run what the pages of the documentation say, page by page, in a folder of the page's own.

    python docs/run.py [PAGE ...]            runs their commands and programs
    python docs/run.py --write [PAGE ...]    and puts what they print into the pages

A fenced block in a page is taken like this, in the order of the page:

    ```sh                      run by `sh -e`; a line that ends with an error code fails the page
    ```python                  run by Python, in a process of its own
    ```LANG title="FILE"       written to FILE, not run
    ```text                    after a block that is run: what that printed, `...` for any lines

A comment before a block says otherwise: `<!-- not run: reason -->`. `<!-- run first: COMMAND -->`
anywhere runs COMMAND where it stands, unseen by readers; its own lines may be several. Each folder
starts with the files of `stage`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
BLOCK = re.compile(
    r"^<!-- run first:(?P<hidden>.*?)-->$"
    r"|(?:^(?P<pad> *)<!-- not run: (?P<why>[^\n]+?) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n"
    r"(?P<body>.*?)^(?P=indent)```$", re.M | re.S)
TIMEOUT = 300
MAY_DIFFER = 0.2  # share of the words shown


@dataclass(frozen=True)
class Block:
    """A block of a page: its language, text, title, why it is not run, and where its text is."""

    language: str
    body: str
    title: str = ""
    why: str = ""
    span: tuple[int, int] = (0, 0)
    indent: str = ""
    hidden: bool = False


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a page and its hidden commands, in order."""
    for found in BLOCK.finditer(text):
        if found["hidden"] is not None:
            yield Block("sh", found["hidden"].strip(), hidden=True)
        else:
            indent = found["indent"]
            body = re.sub(rf"^{indent}", "", found["body"], flags=re.M)
            yield Block(found["language"], body, found["title"] or "", found["why"] or "",
                        found.span("body"), indent)


def stage(folder: Path) -> None:
    """What every page may take for granted: a model, samples, photos by class, an old model.

    `digits.npz` and `samples.npz` are the example's data; `train.npz` a third of it, so that
    trainings end soon.
    """
    import keras
    import numpy as np
    from PIL import Image

    examples = ROOT / "examples"
    for name in ("model.keras", "digits.keras"):
        shutil.copy(examples / "digits.keras", folder / name)
    for name in ("samples.npz", "digits.npz"):
        shutil.copy(examples / "digits.npz", folder / name)
    shutil.copytree(examples, folder / "examples",
                    ignore=shutil.ignore_patterns("frontier", "*.py"))
    with np.load(examples / "digits.npz") as data:
        x, y, x_test, y_test = (data[k] for k in ("x_train", "y_train", "x_test", "y_test"))
    np.savez(folder / "train.npz", x_train=x[:400], y_train=y[:400], x_test=x_test, y_test=y_test)
    np.savez(folder / "unlabelled.npz", x=x[:400])
    for digit in range(10):
        (folder / f"photos/{digit}").mkdir(parents=True)
        for i, one in enumerate(x_test[y_test == digit][:8]):
            Image.fromarray(one[..., 0]).save(folder / f"photos/{digit}/{i}.png")
    keras.models.load_model(folder / "model.keras").save(folder / "old.h5")


def environment(folder: Path) -> dict[str, str]:
    """Variables for a page's programs: `tfcompress` and `python` are those of this interpreter."""
    from tfcompress import store

    tools = folder / ".tools"
    if not tools.exists():
        tools.mkdir()
        for name, words in (("tfcompress", "-m tfcompress "), ("python", "")):
            (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n')
            (tools / name).chmod(0o755)
    return os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1",
                         "TF_CPP_MIN_LOG_LEVEL": "3", "COLUMNS": "100", "GIT_TERMINAL_PROMPT": "0",
                         "PYTHONUNBUFFERED": "1", "HOME": str(folder),
                         "TFCOMPRESS_CACHE": str(store.default_root().absolute())}


def run(text: str, folder: Path) -> Iterator[tuple[Block, str, Block | None]]:
    """Run a page's blocks; gives each, what it printed, and the block of text that shows it.

    Raises:
        AssertionError: A block ends with an error; its output is the message.
    """
    found = list(blocks(text))
    for block, after in zip(found, [*found[1:], None], strict=False):
        if block.why:
            continue
        if block.title:
            (folder / block.title).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.title).write_text(block.body, encoding="utf-8")
        elif block.language in ("sh", "python"):
            program = ["sh", "-e"] if block.language == "sh" else [sys.executable, "-"]
            done = subprocess.run(program, input=block.body, cwd=folder, text=True,
                                  env=environment(folder), timeout=TIMEOUT,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            assert done.returncode == 0, f"{block.body}\n{done.stdout}"
            shown = after if after and after.language == "text" and not block.hidden else None
            yield block, done.stdout, shown


def cleaned(output: str) -> str:
    """Output as a page shows it: without the log lines of TensorFlow's own libraries."""
    lines = [line.rstrip() for line in output.splitlines()
             if not re.match(r"[WEIF]\d{4} |WARNING: All log|\d{4}-\d\d-\d\d .*: [EWI] ", line)]
    return "\n".join(lines).strip("\n") + "\n"


def differs(shown: str, output: str) -> str:
    """Words that a page shows and the output has not, where they are more than a few.

    Figures differ by machine, and sentences that depend on them (which of two is the fastest).
    """
    there, wanted = set(words(output)), set(words(shown))
    missing = sorted(wanted - there)
    return " ".join(missing) if len(missing) > MAY_DIFFER * len(wanted) else ""


def words(text: str) -> list[str]:
    """Words of four letters and more, names of files and options among them."""
    return re.findall(r"[A-Za-z][\w./-]*[A-Za-z]{2}[\w/]*", text.replace("...", " "))


def rewritten(text: str, folder: Path) -> str:
    """The page with what its blocks print now in the place of what it shows."""
    made = []
    for _, output, shown in run(text, folder):
        if shown and "\n..." not in f"\n{shown.body}":
            body = "".join(f"{shown.indent}{line}".rstrip() + "\n"
                           for line in cleaned(output).splitlines())
            made.append((shown.span, body))
    for (start, end), body in reversed(made):
        text = text[:start] + body + text[end:]
    return text


def main(argv: list[str]) -> int:
    import tempfile
    import time

    pages = [Path(a) for a in argv if not a.startswith("-")] or sorted(DOCS.rglob("*.md"))
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        first = Path(scratch) / "stage"
        first.mkdir()
        stage(first)
        for page in pages:
            start, folder = time.perf_counter(), Path(scratch) / f"{page.stem}-page"
            shutil.copytree(first, folder)
            text = page.read_text(encoding="utf-8")
            try:
                if "--write" in argv:
                    page.write_text(rewritten(text, folder), encoding="utf-8")
                else:
                    for _, output, shown in run(text, folder):
                        if shown and (word := differs(shown.body, output)):
                            print(f"{page}: shows {word!r}, and this was printed:\n{output}")
            except AssertionError as error:
                failed += 1
                print(f"{page} FAILED:\n{error}")
            shutil.rmtree(folder)
            print(f"{page}: {time.perf_counter() - start:.1f} s", flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
