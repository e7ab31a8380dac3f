"""What lies beside an artifact is run: its outputs are those of the artifact in our own runtime."""

import ast
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import usages
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnxfiles import cnn
from web import conv_file, needs_browser, posted

from tfcompress import targets
from tfcompress.benchmark import packages
from tfcompress.benchmark.runtimes import open_session
from tfcompress.export import literals, micro, onnx_metadata, usage, web

DATA = Path(__file__).parent.parent / "data"
INT8, FLOAT = DATA / "digits_int8.tflite", DATA / "digits.tflite"
IMAGENET = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
needs_cpp = pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="no Node.js")
hostile = st.lists(st.one_of(st.sampled_from(usages.MIXED), st.text(max_size=3)),
                   max_size=8).map("".join)


def images(count=5, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 16, (count, 8, 8, channels)).astype(np.float32)


@pytest.mark.parametrize(("target", "file"), [("tflite-int8", INT8), ("tflite-float32", FLOAT),
                                              ("edge-tpu", INT8), ("micro", INT8)])
def test_the_script_gives_what_our_runtime_gives(target, file, tmp_path, monkeypatch):
    artifact = usages.write(tmp_path, target, file)
    monkeypatch.setattr("sys.argv", ["script", "--cpu"])  # no Edge TPU here
    script = usages.load(tmp_path / f"usage/{target}.py")
    wanted = open_session(str(artifact), "litert").run([images()])
    found = script.predict(images())
    assert len(found) == 1 and (found[0] == wanted[0]).all()
    assert (script.predict(images()[0])[0] == wanted[0][:1]).all()  # a sample without its batch


def test_the_script_is_a_program(tmp_path):
    labels = [f"number {i}" for i in range(10)]
    artifact = usages.write(tmp_path, "tflite-int8", INT8, labels=labels)
    np.save(tmp_path / "in.npy", images(3))
    wanted, = open_session(str(artifact), "litert").run([images(3)])
    said = usages.run(tmp_path / "usage/tflite-int8.py", tmp_path / "in.npy")
    tops = re.findall(r"digit\n   ([0-9.e-]+)  number (\d)", said)
    assert [int(name) for _, name in tops] == wanted.argmax(-1).tolist()
    assert np.allclose([float(v) for v, _ in tops], wanted.max(-1), rtol=1e-5)


def test_a_program_that_is_called_like_a_package_imports_the_package(tmp_path):
    usages.write(tmp_path, "tflite-int8", INT8)
    np.save(tmp_path / "in.npy", images(1))
    program = tmp_path / "usage/tflite-int8.py"
    said = usages.run(program, tmp_path / "in.npy")
    for name in ("numpy", "ai_edge_litert"):
        program.with_name(f"{name}.py").write_text(program.read_text())
    assert usages.run(program.with_name("numpy.py"), tmp_path / "in.npy") == said


@pytest.mark.slow
def test_the_program_of_the_keras_target_runs(tmp_path):
    import keras

    model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(2, name="y")])
    model.save(tmp_path / "keras.keras")
    end = {"name": "x", "shape": [None, 4], "dtype": "float32", "scale": None, "zero_point": None}
    usage.write(tmp_path / "usage", targets.load("keras").to_dict(), "keras.keras",
                {"inputs": [end], "outputs": [end | {"name": "y", "shape": [None, 2]}]})
    np.save(tmp_path / "in.npy", np.ones((1, 4), "f4"))
    assert "y\n" in usages.run(tmp_path / "usage/keras.py", tmp_path / "in.npy")


def test_normalization_is_that_of_the_run(tmp_path):
    file = conv_file(tmp_path / "m.tflite")
    artifact = usages.write(tmp_path, "tflite-float32", file, normalization=IMAGENET)
    pixels = images(4, 3) * 15
    mean, std = (np.array(IMAGENET[k], np.float32) for k in ("mean", "std"))
    wanted = open_session(str(artifact), "litert").run([(pixels - mean) / std])
    found = usages.load(tmp_path / "usage/tflite-float32.py").predict(pixels)
    assert (found[0] == wanted[0]).all()
    assert "mean 123.675, 116.28, 103.53" in (tmp_path / "usage/tflite-float32.md").read_text()


def test_onnx(tmp_path):
    artifact = usages.write(tmp_path, "onnx-float32", cnn(tmp_path / "m.onnx"))
    x = np.random.default_rng(0).normal(size=(3, 8, 12, 12)).astype("f4")
    wanted = open_session(str(artifact), "onnxruntime").run([x])
    found = usages.load(tmp_path / "usage/onnx-float32.py").predict(x)
    assert (found[0] == wanted[0]).all()


@pytest.mark.slow
@needs_node
def test_onnx_in_javascript(tmp_path):
    artifact = usages.write(tmp_path, "onnx-float32", cnn(tmp_path / "m.onnx"))
    x = np.random.default_rng(0).normal(size=(2, 8, 12, 12)).astype("f4")
    (tmp_path / "in.json").write_text(json.dumps(x.tolist()))
    npm = shutil.which("npm")
    subprocess.run([npm, "install", "--silent", "--no-fund", "--no-audit", "--ignore-scripts",
                    "onnxruntime-web@1.30.0"], cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run(["node", "usage/onnx-float32.mjs", "in.json"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wanted, = open_session(str(artifact), "onnxruntime").run([x])
    found = np.array(json.loads(done.stdout)["y"], np.float32).reshape(wanted.shape)
    assert np.allclose(found, wanted, rtol=1e-4, atol=1e-5)


PAGE = """<!doctype html><html>IMPORTS<script type="module">
let said;
try {
  const {load, run, top} = await import("./usage/TARGET.mjs");
  await load("wasm", ...WASM);
  const results = await run(VALUES);
  said = {values: results.map((r) => Array.from(r)), top: top(results, 2)};
} catch (error) { said = {error: error.stack}; }
await fetch("/answer", {method: "POST", body: JSON.stringify(said)});
</script></html>"""


@pytest.mark.slow
def test_the_module_runs_in_a_browser(tmp_path):
    needs_browser()
    file = conv_file(tmp_path / "m.tflite")
    out = tmp_path / "out"
    target = targets.load("litert-js").to_dict()
    web.compile(file, out, target)
    labels = ["a", "b", "c", "d"]
    inside = usages.write(tmp_path / "other", "tflite-float32", file).parent  # only for its ends
    ends = usages.load(inside / "usage/tflite-float32.py")
    usage.write(out / "usage", target, "litert-js", {
        "inputs": ends.INPUTS, "outputs": ends.OUTPUTS, "labels": labels,
        "normalization": IMAGENET})
    pixels = images(1, 3) * 15
    page = PAGE.replace("IMPORTS", web.IMPORTS["litert"]).replace("TARGET", "litert-js")
    page = page.replace("VALUES", json.dumps(pixels.tolist())).replace("WASM", json.dumps(
        ["/node_modules/@litertjs/core/wasm/"]))
    (out / "page.html").write_text(page)
    shutil.copytree(packages.fetch(), out / "node_modules")
    said = json.loads(posted(out, tmp_path / "profile", "page.html"))
    assert "error" not in said, said
    mean, std = (np.array(IMAGENET[k], np.float32) for k in ("mean", "std"))
    wanted, = open_session(str(file), "litert").run([(pixels - mean) / std])
    assert np.allclose(said["values"][0], wanted[0], rtol=1e-4, atol=1e-5)
    best = np.argsort(-wanted[0])[:2]
    assert [t["label"] for t in said["top"]] == [labels[i] for i in best]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx-web", "onnx-web-int8"])
def test_the_module_of_an_onnx_file_runs_in_a_browser(tmp_path, name):
    needs_browser()
    file, out = cnn(tmp_path / "m.onnx"), tmp_path / "out"
    target = targets.load(name).to_dict()
    web.compile(file, out, target)
    usage.write(out / "usage", target, name, onnx_metadata.ends(file) | {
        "labels": [str(i) for i in range(10)]})
    assert "onnxruntime-web" in (out / "usage" / f"{name}.md").read_text()
    x = np.random.default_rng(0).normal(size=(1, 8, 12, 12)).astype("f4")
    page = PAGE.replace("IMPORTS", web.IMPORTS["onnx"]).replace("TARGET", name)
    page = page.replace("VALUES", json.dumps(x.tolist())).replace("WASM", "[]")
    (out / "page.html").write_text(page)
    shutil.copytree(packages.fetch(), out / "node_modules")
    said = json.loads(posted(out, tmp_path / "profile", "page.html"))
    assert "error" not in said, said
    wanted, = open_session(str(file), "onnxruntime").run([x])
    assert np.allclose(said["values"][0], wanted[0], rtol=1e-4, atol=1e-5)
    assert said["top"][0]["label"] == str(wanted[0].argmax())


@needs_node
def test_javascript_prepares_as_python_does(tmp_path):
    """Normalized and quantized values are the same integers, halves included."""
    end = {"name": "x", "shape": [1, 4, 4, 3], "dtype": "int8", "scale": 0.03, "zero_point": -7}
    about = {"inputs": [end], "outputs": [end], "normalization": IMAGENET}
    usage.write(tmp_path / "usage", targets.load("onnx-int8").to_dict(), "m.onnx", about)
    text = (tmp_path / "usage/onnx-int8.mjs").read_text()
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 4, 4, 3)).astype("f4").round(1)
    code = text.replace('import * as ort from "onnxruntime-web";\n', "") + (
        f"\nconsole.log(JSON.stringify(Array.from(prepare({pixels.tolist()}, inputs[0]))));\n"
        "console.log(JSON.stringify([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 2.4, -2.6].map(round)));")
    said = subprocess.run(["node", "--input-type=module"], input=code, capture_output=True,
                          text=True, check=True).stdout.splitlines()
    mean, std = (np.array(IMAGENET[k], np.float32) for k in ("mean", "std"))
    steps = np.rint((pixels - mean) / std / np.float32(0.03)) - 7
    assert json.loads(said[0]) == np.clip(steps, -128, 127).ravel().tolist()
    assert json.loads(said[1]) == [0, 2, 2, 0, -2, -2, 2, -3]


# Names ------------------------------------------------------------------------------------------


def about(name, labels=None, dtype="int8", shape=(1, 8, 8, 1), label="digit"):
    scale = {"scale": 0.5, "zero_point": 3} if dtype == "int8" else {}
    ends = {side: [{"name": n, "shape": list(shape), "dtype": dtype, **scale}]
            for side, n in (("inputs", name), ("outputs", label))}
    return ends | {"labels": labels, "signature": name, "normalization": IMAGENET}


@settings(max_examples=60, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hostile, st.lists(hostile, min_size=1, max_size=3))
def test_python_and_notes_hold_any_name(tmp_path, name, labels):
    for target in ("tflite-int8", "micro", "saved-model", "onnx-int8"):
        given = about(name, labels, label=name, shape=(1, len(labels)))
        usage.write(tmp_path, targets.load(target).to_dict(), f"{target}.tflite", given)
        tree = ast.parse((tmp_path / f"{target}.py").read_text())
        read = {n.targets[0].id: ast.literal_eval(n.value) for n in tree.body
                if isinstance(n, ast.Assign) and n.targets[0].id in ("INPUTS", "OUTPUTS", "LABELS")}
        whole = literals._whole(name)
        assert read["INPUTS"][0]["name"] == read["OUTPUTS"][0]["name"] == whole
        assert read["LABELS"]["names"] == [literals._whole(n) for n in labels]
        lines = (tmp_path / f"{target}.md").read_text().splitlines()
        table = [line for line in lines if line.startswith(("| input", "| output"))]
        assert [len(re.findall(r"(?<!\\)\|", line)) for line in table] == [7, 7]
        assert sum(line.startswith("```") for line in lines) % 2 == 0


def test_a_bar_is_escaped_in_tables_only():
    assert literals.code("a|b") == "`a|b`" and literals.cell("a|b") == "`a\\|b`"


def test_programs_take_arrays_in_the_models_order(tmp_path):
    file = DATA / "order.tflite"
    names = {side: [e["name"] for e in ends] for side, ends in (
        ("inputs", open_session(str(file), "litert").inputs),
        ("outputs", open_session(str(file), "litert").outputs))}
    turned = {side: found[::-1] for side, found in names.items()}
    shape = open_session(str(file), "litert").inputs[0]["shape"]
    arrays = [np.full([n or 1 for n in shape], k, "f4") for k in (5, 2)]
    results = []
    for order in (names, turned):
        usages.write(tmp_path, "tflite-float32", file, order=order)
        script = usages.load(tmp_path / "usage/tflite-float32.py")
        assert [s["name"] for s in script.INPUTS] == order["inputs"]
        assert [s["name"] for s in script.OUTPUTS] == order["outputs"]
        given_ = arrays if order is names else arrays[::-1]
        found = script.predict(*given_)
        results.append(found if order is names else found[::-1])
    assert all((a == b).all() for a, b in zip(*results, strict=True))


@needs_node
def test_javascript_holds_any_name(tmp_path):
    names = ["".join(usages.MIXED[i:] + usages.MIXED[:i]) for i in range(len(usages.MIXED))]
    names += usages.MIXED
    usage.write(tmp_path, targets.load("litert-js").to_dict(), "litert-js", about("".join(names)))
    subprocess.run(["node", "--check", tmp_path / "litert-js.mjs"], check=True)
    usage.write(tmp_path, targets.load("onnx-int8").to_dict(), 'm "$x`.onnx',
                about(names[0], names))
    subprocess.run(["node", "--check", tmp_path / "onnx-int8.mjs"], check=True)
    code = (tmp_path / "onnx-int8.mjs").read_text().split("const KINDS")[0]
    code = code.replace('import * as ort from "onnxruntime-web";', "")
    code += "\nconsole.log(JSON.stringify([inputs[0].name, labels.names]));"
    said = subprocess.run(["node", "--input-type=module"], capture_output=True, text=True,
                          check=True, input=code)
    assert json.loads(said.stdout) == [names[0], names]


@needs_cpp
def test_cpp_holds_any_name(tmp_path):
    names = [m for m in usages.MIXED if m != "\0"] + ["".join(usages.MIXED).replace("\0", "")]
    listed = ", ".join(map(literals.cpp, names))
    (tmp_path / "names.cc").write_text(
        '#include <cstdio>\n#include <initializer_list>\n'
        "int main() { for (const char* n : {" + listed + "}) {\n"
        "  for (; *n; ++n) std::printf(\"%02x\", (unsigned char)*n);\n  std::puts(\"\"); } }\n")
    subprocess.run(["g++", "-std=c++17", "-trigraphs", "-Werror", "names.cc", "-o", "names"],
                   cwd=tmp_path, check=True)
    said = subprocess.run([tmp_path / "names"], capture_output=True, text=True).stdout.split("\n")
    assert said[:-1] == [n.encode().hex() for n in names]


@given(hostile)
def test_kotlin_and_swift_literals_stay_on_one_line(name):
    safe = r"[^\"\\$\n\r\x00-\x1f\x7f-\U0010ffff]"
    kotlin, swift = literals.kotlin(name), literals.swift(name)
    assert re.fullmatch(rf'"(?:{safe}|\\u[0-9a-f]{{4}})*"', kotlin)
    assert re.fullmatch(rf'"(?:{safe}|\\u\{{[0-9a-f]+\}})*"', swift)
    units = re.findall(r"\\u([0-9a-f]{4})|(.)", kotlin[1:-1])
    read = b"".join(bytes.fromhex(u) if u else c.encode("utf-16-be") for u, c in units)
    codes = re.findall(r"\\u\{([0-9a-f]+)\}|(.)", swift[1:-1])
    assert read.decode("utf-16-be") == literals._whole(name)
    assert "".join(chr(int(u, 16)) if u else c for u, c in codes) == literals._whole(name)


# Code that is not run -------------------------------------------------------------------------


@needs_cpp
@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_cpp_is_right_by_the_declarations_that_it_uses(dtype, tmp_path):
    name = "".join(usages.MIXED).replace("\0", "")
    for target in ("tflite-int8", "micro", "onnx-int8"):
        usage.write(tmp_path, targets.load(target).to_dict(), f"{target}.tflite",
                    about(name, dtype=dtype))
        micro.compile(str(INT8), str(tmp_path), targets.load("micro").to_dict())
        code, = usages.blocks(tmp_path / f"{target}.md", "cpp")
        assert usages.compiles(code, tmp_path) == "", target
    broken = code.replace("session.Run", "session.Walk")
    assert "Walk" in usages.compiles(broken, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("kotlinc"), reason="no Kotlin compiler")
def test_kotlin_is_right_by_the_declarations_that_it_uses(tmp_path):
    name = "".join(usages.MIXED)
    eight = {"name": name, "shape": [1, 4], "dtype": "int8", "scale": 0.5, "zero_point": 3}
    others = [{"name": d, "shape": [1, 2], "dtype": d} for d in ("float32", "int32", "bool")]
    usage.write(tmp_path, targets.load("tflite-int8").to_dict(), 'm "$x.tflite',
                {"inputs": [eight, *others], "outputs": [eight, *others]})
    code, = usages.blocks(tmp_path / "tflite-int8.md", "kotlin")
    head, body = code.split("\n\n", 1)
    (tmp_path / "api.kt").write_text(usages.KOTLIN)
    (tmp_path / "main.kt").write_text(
        f"{head}\nimport com.google.ai.edge.litert.Context\nfun main() {{\n"
        "val context = Context()\nval x0 = floatArrayOf(-1000f, 0.25f, 0.75f, 1000f)\n"
        "val x1 = FloatArray(2)\nval x2 = IntArray(2)\nval x3 = BooleanArray(2)\n"
        f"{body}\nprintln(y0)\nprintln(input0.name.map {{ it.toInt() }})\n}}\n")
    subprocess.run(["kotlinc", "api.kt", "main.kt", "-include-runtime", "-d", "out.jar"],
                   cwd=tmp_path, check=True, capture_output=True)
    said = subprocess.run(["java", "-cp", "out.jar", "MainKt"], cwd=tmp_path, text=True,
                          capture_output=True, check=True).stdout.splitlines()
    assert said[0] == "[-65.5, 0.0, 1.0, 62.0]"  # held within int8; halves to even
    units = name.encode("utf-16-be")
    assert said[1] == str([int.from_bytes(units[i:i + 2]) for i in range(0, len(units), 2)])


def test_what_a_runtime_cannot_take_is_said(tmp_path):
    usage.write(tmp_path, targets.load("tflite-float32").to_dict(), "m.tflite",
                about("ids", dtype="int64"))
    note = (tmp_path / "tflite-float32.md").read_text()
    assert "Its runtime has no tensors of the type int64" in note.split("## Swift")[0]
    assert "pod 'TensorFlowLiteSwift'" in note and "->data.i64" in note


def test_int8_goes_through_the_c_functions_on_ios(tmp_path):
    usages.write(tmp_path, "tflite-int8", INT8)
    swift, = usages.blocks(tmp_path / "usage/tflite-int8.md", "swift")
    assert "import TensorFlowLiteC" in swift and "[Int8](repeating: 0, count: 10)" in swift


def test_serving_is_asked_by_its_own_path(tmp_path):
    given = about("x", dtype="float32", shape=(None, 2)) | {"serving": {
        "rest": {"path": "/v1/models/digits:predict", "answer": {"predictions": ["float32[10]"]}}}}
    usage.write(tmp_path, targets.load("saved-model").to_dict(), "saved-model", given)
    note = (tmp_path / "saved-model.md").read_text()
    assert "curl -d @request.json http://localhost:8501/v1/models/digits:predict" in note
    assert '"instances": [[0.0, 0.0]]' in note and "saved-model:/models/digits/1" in note


def test_a_rejected_artifact_says_so(tmp_path):
    usages.write(tmp_path, "tflite-int8", INT8, status="rejected")
    assert "was rejected" in (tmp_path / "usage/tflite-int8.md").read_text()


def test_every_target_has_a_note_and_the_same_bytes_every_time(tmp_path):
    for target in targets.load_all():
        first, second = (usage.write(tmp_path / folder, target.to_dict(), "model.bin", about("x"))
                         for folder in ("one", "two"))
        assert [p.name for p in first] == [p.name for p in second]
        assert first[0].name == f"{target.name}.md"
        assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_a_note_takes_milliseconds(tmp_path):
    target = targets.load("tflite-int8").to_dict()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        usage.write(tmp_path, target, "m.tflite", about("x"))
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05
