"""What is not installed never fails a run: the artifact is written, and the row says what lacks.

Each case is a whole `tfcompress shrink` in an environment that really lacks one thing.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import absent
import pytest
from web import needs_browser

from tfcompress import targets
from tfcompress.benchmark import packages
from tfcompress.export import tfjs

pytestmark = pytest.mark.slow

ETHOS = [t.name for t in targets.load_all() if t.compiler == "vela"]
ONNX = ["onnx-float32", "onnx-int4"]
PAGE = ["litert-js", "litert-js-dynamic", "onnx-web", "onnx-web-int8"]
GRAPHS = ["tfjs", "tfjs-float16", "tfjs-uint8"]
VISIBLE = "apt-get install chromium"
CUDA = '''summary = "ONNX on an NVIDIA GPU"
format = "onnx"
runtime = "onnxruntime-cuda"
'''
# Name: what is absent; the targets that are made; words on each; the targets that cannot be made
# without it, and words on them.
CASES = {
    "onnxruntime": (ONNX, ["onnxruntime is not installed", "pip install 'tfcompress[onnx]'"],
                    ["onnx-float16", "onnx-int8"], "onnxruntime is not installed, which makes"),
    "tf2onnx": ([], ["pip install 'tfcompress[onnx]'"], ["onnx-float32", "onnx-int8"],
                "tf2onnx is not installed"),
    "onnx": ([], ["pip install 'tfcompress[onnx]'"], ["onnx-float32"], "onnx is not installed"),
    "vela": (ETHOS, ["ethos-u-vela is not installed", "pip install 'tfcompress[ethos-u]'"], [], ""),
    "tflite_micro": (["micro"], ["tflite-micro is not installed",
                                 "pip install 'tfcompress[micro]'"], [], ""),
    "edgetpu": (["edge-tpu"], ["edgetpu_compiler is not on PATH", "install the Edge TPU compiler"],
                [], ""),
    "vulkan": (["tflite-gpu"], ["no Vulkan adapter", "install the GPU's driver"], [], ""),
    "chromium": ([*PAGE, *GRAPHS], ["there is no Chromium or Chrome on PATH", VISIBLE], [], ""),
    "broken chromium": ([*PAGE, *GRAPHS], ["chromium does not start", "TFCOMPRESS_BROWSER"],
                        [], ""),
    "packages": ([*PAGE], ["the browser runtimes (LiteRT.js", "tfcompress setup browser"],
                 GRAPHS, "tensorflowjs is not installed"),
    "brotli": (["litert-js", "onnx-web"], ["pip install 'tfcompress[browser]'"], [], ""),
    "cuda": (["on-cuda"], ["CUDAExecutionProvider", "onnxruntime-gpu"], [], ""),
    "ai_edge_litert": (["onnx-float32", "saved-model"], ["pip install ai-edge-litert"],
                       ["tflite-float32", "tflite-int8", "tflite-gpu", "litert-js"],
                       "ai-edge-litert is not installed"),
    "ai_edge_quantizer": (["onnx-int8"], ["pip install ai-edge-quantizer"], ["tflite-int8"],
                          "ai-edge-quantizer is not installed"),
}


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A step store, so that TensorFlow works once for all cases; with what a browser runs."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def lacking(request, tmp_path, monkeypatch, cache):
    """The environment without what the case is called after."""
    case, folder = request.param, tmp_path / "absent"
    env = {"TFCOMPRESS_CACHE": str(cache)}
    if case in ("broken chromium", "brotli", "chromium"):
        needs_browser()
    if case in ("chromium", "broken chromium", "brotli"):
        monkeypatch.setenv("TFCOMPRESS_CACHE", str(cache))
        packages.fetch()
        tfjs.fetch()
    if case == "chromium":
        env |= absent.programs(folder, "chromium", "chromium-browser", "google-chrome",
                               "google-chrome-stable", "chrome") | {"TFCOMPRESS_BROWSER": ""}
    elif case == "broken chromium":
        folder.mkdir()
        (folder / "chromium").write_text("#!/bin/sh\nexit 127\n")
        (folder / "chromium").chmod(0o755)
        env["TFCOMPRESS_BROWSER"] = str(folder / "chromium")
    elif case == "packages":
        env["TFCOMPRESS_CACHE"] = str(tmp_path / "cache")  # a graph made before would be found
    elif case == "brotli":
        env |= absent.modules(folder / "m", "brotli") | absent.programs(folder / "p", "node")
    elif case == "edgetpu":
        env |= absent.programs(folder, "edgetpu_compiler")
    elif case == "vulkan":
        env["VK_ICD_FILENAMES"] = str(tmp_path / "none.json")
    elif case != "cuda":
        env |= absent.modules(folder, {"vela": "ethosu"}.get(case, case))
    return case, env


def shrink(env, folder, examples, names):
    paths = {"on-cuda": str(folder / "on-cuda.toml")}
    (folder / "on-cuda.toml").write_text(CUDA)
    asked = [f for n in names for f in ("--target", paths.get(n, n))]
    return subprocess.run(
        [*absent.python(), "shrink", str(examples / "digits.keras"), "--data",
         str(examples / "digits.npz"), *asked, "--output", "out"],
        capture_output=True, text=True, cwd=folder, env=os.environ | {"COLUMNS": "400"} | env)


@pytest.mark.parametrize("lacking", CASES, indirect=True)
def test_the_run_goes_on_without(lacking, tmp_path, examples):
    case, env = lacking
    there, words, lost, why = CASES[case]
    other = "saved-model" if case == "ai_edge_litert" else "tflite-float32"
    names = list(dict.fromkeys([*there, *lost, other]))
    done = shrink(env, tmp_path, examples, names)
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode == (7 if lost else 0), done.stderr
    report = json.loads((tmp_path / "out/report.json").read_text())
    rows = {r["target"]: r for r in report["rows"]}
    for name in names:
        expected = "failed" if name in lost else "ok"
        assert rows[name]["status"] == expected, (name, rows[name])
        if name not in lost:
            assert (tmp_path / "out" / rows[name]["artifact"]["path"]).exists(), name
        else:
            assert why in rows[name]["error"]["message"], rows[name]["error"]
    texts = [done.stdout, json.dumps(report, ensure_ascii=False)]
    for file in ("report.html", "report.md"):
        texts.append(plain((tmp_path / "out" / file).read_text()))
    for text in texts:
        for word in words:
            assert word in text, (case, word)
    if there and case != "ai_edge_litert" and case != "ai_edge_quantizer":
        assert "not measured" in texts[1]


def plain(text):
    """Text without the marks of HTML and Markdown."""
    text = re.sub(r"<[^>]+>", "", text).replace("\\", "")
    return re.sub(r"&#(\w+);", lambda m: chr(int(m[1].lstrip("x"), 16 if m[1][0] == "x" else 10)),
                  text).replace("&quot;", '"').replace("&amp;", "&")


def test_what_is_installed_later_is_used_by_the_next_run(tmp_path, examples, cache):
    names = ["onnx-float32", "micro"]
    env = {"TFCOMPRESS_CACHE": str(cache)}
    without = absent.modules(tmp_path / "absent", "onnxruntime", "tflite_micro") | env
    assert shrink(without, tmp_path, examples, names).returncode == 0
    again = shrink(without, tmp_path, examples, names)
    assert "already there" in again.stdout
    shrink(env, tmp_path, examples, names)
    report = json.loads((tmp_path / "out/report.json").read_text())
    found = {m["name"]: m for m in next(
        r for r in report["rows"] if r["target"] == "onnx-float32")["measurements"]}
    assert found["snr"]["values"] and found["latency"]["values"]


def test_without_tensorflow_there_is_one_clear_error(tmp_path, examples):
    env = absent.modules(tmp_path / "absent", "tensorflow") | {
        "TFCOMPRESS_CACHE": str(tmp_path / "cache")}
    done = shrink(env, tmp_path, examples, ["tflite-float32"])
    assert done.returncode == 5 and "tensorflow is not installed" in done.stderr
    assert "pip install tensorflow" in done.stderr and not (tmp_path / "out").exists()


def test_a_board_or_phone_that_cannot_be_asked_leaves_the_others(tmp_path):
    file = Path(__file__).parent / "data" / "digits_int8.tflite"
    env = absent.programs(tmp_path / "p", "ssh", "adb") | {"COLUMNS": "400"}
    done = subprocess.run(
        [*absent.python(), "benchmark", str(file), "--device", "ssh://nowhere", "--device", "adb://",
         "--device", "local", "--seconds", "0.2"],
        capture_output=True, text=True, env=os.environ | env)
    assert done.returncode == 5 and "Traceback" not in done.stderr
    assert "not measured: ssh is not installed; install an SSH client" in done.stdout
    assert "not measured: adb is not installed; install Android's platform-tools" in done.stdout
    assert re.search(r"^local .*(ms|µs)", done.stdout, re.M)


@pytest.mark.parametrize("program, words", [("npm", "install Node.js with npm"),
                                            ("chromium", "apt-get install chromium")])
def test_setup_says_what_it_needs(tmp_path, program, words):
    needs_browser()
    cache = tmp_path / "cache"
    if program == "chromium":
        shutil.copytree(packages.fetch().parent, cache / "packages")
        tfjs.fetch()
        shutil.copytree(tfjs.folder(), cache / "packages" / tfjs.folder().name, dirs_exist_ok=True)
    names = [program] if program == "npm" else ["chromium", "chromium-browser", "google-chrome",
                                                "google-chrome-stable", "chrome"]
    env = absent.programs(tmp_path / "p", *names) | {"TFCOMPRESS_CACHE": str(cache),
                                                     "TFCOMPRESS_BROWSER": ""}
    done = subprocess.run([*absent.python(), "setup", "browser"], capture_output=True, text=True,
                          env=os.environ | env)
    assert done.returncode == 5 and words in done.stderr and "Traceback" not in done.stderr
