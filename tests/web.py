"""What tests in a browser share."""

import functools
import http.server
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from floatfiles import FloatFile

from tfcompress.benchmark import browser, packages
from tfcompress.errors import MissingExtra


def conv_file(path, channels=3, seed=0):
    """A convolution, a mean and a dense layer as a float .tflite; input 8 x 8, four outputs."""
    rng = np.random.default_rng(seed)
    build = FloatFile()
    x = build.input("image", (1, 8, 8, channels))
    x = build.conv(x, rng.normal(size=(6, 3, 3, channels)), relu=True)
    x = build.dense(build.mean(x), rng.normal(size=(4, 6)))
    return build.save(path, {"scores": x})


def needs_browser() -> None:
    """Skip where Chromium or npm is absent; what npm and pip then fetch must be there."""
    try:
        browser.find_browser()
    except MissingExtra as error:
        pytest.skip(f"{error.message}: {error.hint}")
    if not shutil.which("npm"):
        pytest.skip("there is no npm to fetch the browser runtimes with")


CLICK = """<script type="module">
const at = (id) => document.getElementById(id);
const sleep = () => new Promise((done) => setTimeout(done, 50));
while (at("run").disabled && !at("about").textContent.includes("did not load")) await sleep();
at("run").click();
for (let i = 0; i < 600 && !at("answer").dataset.done; i++) await sleep();
const body = `${at("about").textContent}\n${at("answer").textContent}`;
await fetch("/answer", {method: "POST", body});
</script></html>"""


def demo_answer(folder: Path, work: Path) -> str:
    """What an artifact's own demo page shows after its button was clicked, in a real browser."""
    site = work / "site"
    shutil.copytree(folder, site)
    shutil.copytree(packages.fetch(), site / "node_modules")
    page = site / "index.html"
    page.write_text(page.read_text().replace("</html>", CLICK))
    return posted(site, work / "profile")


def posted(site: Path, profile: Path, page: str = "index.html") -> str:
    """What a page of a folder posts to `/answer` in a real browser."""
    answers: list[str] = []
    told = threading.Event()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_POST(self):
            answers.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()
            told.set()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    process = subprocess.Popen(
        [browser.find_browser(), *browser.FLAGS, "--no-sandbox", *browser.SOFTWARE,
         f"--user-data-dir={profile}",
         f"http://127.0.0.1:{server.server_address[1]}/{page}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        assert told.wait(180), "the demo page did not answer"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        server.shutdown()
        server.server_close()
    return answers[0]
