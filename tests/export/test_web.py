"""The folder for a web team: model, module, page and package.json."""

import json
import re

import pytest
from onnxfiles import cnn
from web import conv_file, demo_answer, needs_browser

from tfcompress import targets
from tfcompress.benchmark import packages
from tfcompress.export import web


@pytest.fixture
def folder(tmp_path):
    target = targets.load("litert-js").to_dict()
    told = web.compile(conv_file(tmp_path / "m.tflite"), tmp_path / "out", target)
    assert told["path"].endswith("litert-js") and not told["findings"]
    return tmp_path / "out/litert-js"


def test_versions_are_those_that_are_pinned():
    pinned = json.loads(packages.PINNED.read_text())
    for wanted in web.RUNTIMES.values():
        assert all(pinned[name]["version"] == version for name, version in wanted.items())


def test_package_can_be_added(folder):
    package = json.loads((folder / "package.json").read_text())
    assert package["dependencies"] == {"@litertjs/core": "2.5.3"}
    assert package["main"] == "model.js" and package["type"] == "module"
    assert sorted(p.name for p in folder.iterdir()) == [
        "index.html", "model.js", "model.tflite", "package.json"]


def test_names_of_the_model_cannot_close_the_script(folder):
    about = {"inputs": [{"name": "</script><script>alert(1)", "shape": [1], "dtype": "float32"}],
             "outputs": []}
    web.write(folder, "tfjs", about, "Ein Modell <b>")
    assert "</script" not in (folder / "model.js").read_text().lower()
    assert json.loads((folder / "package.json").read_text())["name"] == "ein-modell-b"


@pytest.fixture
def onnx_folder(tmp_path):
    target = targets.load("onnx-web").to_dict()
    told = web.compile(cnn(tmp_path / "m.onnx"), tmp_path / "out", target)
    assert told["path"].endswith("onnx-web") and not told["findings"]
    return tmp_path / "out/onnx-web"


def test_an_onnx_file_comes_with_its_own_runtime(onnx_folder):
    package = json.loads((onnx_folder / "package.json").read_text())
    assert package["dependencies"] == {"onnxruntime-web": "1.30.0"}
    assert (onnx_folder / "model.onnx").is_file()
    about = re.search(r"about = (\{.*?\});", (onnx_folder / "model.js").read_text(), re.S)[1]
    assert json.loads(about) == {
        "inputs": [{"name": "x", "shape": [None, 8, 12, 12], "dtype": "float32"}],
        "outputs": [{"name": "y", "shape": [None, 10], "dtype": "float32"}]}


@pytest.mark.slow
def test_the_page_of_an_onnx_file_runs_it(onnx_folder, tmp_path):
    needs_browser()
    answer = demo_answer(onnx_folder, tmp_path / "demo")
    assert answer.startswith("x: float32[any,8,12,12] → y: float32[any,10]")
    assert len(re.findall(r"-?\d+\.\d{4}", answer)) == 10 and answer.endswith(" ms")


@pytest.mark.slow
def test_demo_page_runs_the_model(folder, tmp_path):
    needs_browser()
    answer = demo_answer(folder, tmp_path / "demo")
    assert answer.startswith("image: float32[1,8,8,3] → scores: float32[1,4]")
    assert len(re.findall(r"-?\d+\.\d{4}", answer)) == 4 and answer.endswith(" ms")
