"""GraphModels by the official converter, run in a real browser."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from web import demo_answer, needs_browser

from tfcompress.artifact import TensorSpec
from tfcompress.benchmark import packages, runtimes
from tfcompress.errors import MissingExtra
from tfcompress.export import tfjs, web

INPUTS = [TensorSpec("b", (1, 6), "float32"), TensorSpec("a", (1, 6), "float32"),
          TensorSpec("word", (1, 2), "int32")]
OUTPUTS = [TensorSpec("z", (1, 6), "float32"), TensorSpec("y", (1, 6), "float32"),
           TensorSpec("hot", (1, 2, 4), "float32")]
MAKE = """
import sys
sys.path.insert(0, {tests!r})
import test_tfjs
test_tfjs.convert({out!r})
"""


def build():
    """Inputs and outputs of one shape, in an order that is not the alphabet's."""
    import keras
    from keras import layers, ops

    keras.utils.set_random_seed(0)
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    word = keras.Input((2,), dtype="int32", name="word")
    steps = layers.LSTM(6, name="lstm")(ops.reshape(a, (-1, 3, 2)))
    z = ops.cumsum(a - 2.0 * b, axis=-1) + steps
    y = ops.einsum("bi,bj->bij", a, b)[:, :, 0] + ops.gelu(b, approximate=False)
    return keras.Model([b, a, word], [z, y, ops.one_hot(word, 4)])


def convert(path, quantization="none"):
    from tfcompress.compress import lower

    return tfjs.to_tfjs(build(), path, inputs=INPUTS, outputs=OUTPUTS, lower=lower,
                        quantization=quantization)


@pytest.fixture(scope="module")
def fetched():
    needs_browser()
    tfjs.fetch()
    packages.fetch()


@pytest.fixture(scope="module")
def made(fetched, tmp_path_factory):
    path = tmp_path_factory.mktemp("tfjs") / "model"
    told = convert(path)
    about = {side: [{"name": s.name, "shape": list(s.shape), "dtype": s.dtype, "tensor": t}
                    for s, t in zip(specs, told[side], strict=True)]
             for side, specs in (("inputs", INPUTS), ("outputs", OUTPUTS))}
    web.write(path, "tfjs", about, "two")
    return path


@pytest.mark.slow
def test_runs_under_the_names_and_in_the_order_of_the_model(made):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(2, 6)).astype("f4"), rng.normal(size=(2, 6)).astype("f4"),
              rng.integers(0, 4, (2, 2)).astype("i4")]
    names = {"inputs": [s.name for s in INPUTS], "outputs": [s.name for s in OUTPUTS]}
    wanted = build()(arrays)
    session = runtimes.open_session(made, "tfjs", 1, names)
    try:
        assert session.about["backend"] == "wasm"
        for want, got in zip(wanted, session.run(arrays), strict=True):
            np.testing.assert_allclose(got, np.asarray(want), atol=1e-5)
    finally:
        session.close()


@pytest.mark.slow
def test_activations_that_the_optimizer_fuses_run(fetched, tmp_path):
    """TensorFlow fuses tanh behind a convolution, and no backend of TensorFlow.js has that."""
    import keras
    from keras import layers

    from tfcompress.compress import lower

    keras.utils.set_random_seed(0)
    kinds = ("tanh", "sigmoid", "relu", "relu6", "elu", "leaky_relu", "silu", "gelu")
    x, ends = keras.Input((8, 8, 3), name="x"), []
    for kind in kinds:
        y = layers.Conv2D(4, 3, activation=kind)(x)
        y = layers.DepthwiseConv2D(3, activation=kind, bias_initializer="ones")(y)
        ends.append(layers.Dense(5, activation=kind, bias_initializer="ones")(layers.Flatten()(y)))
    model = keras.Model(x, ends)
    inputs = [TensorSpec("x", (1, 8, 8, 3), "float32")]
    outputs = [TensorSpec(kind, (1, 5), "float32") for kind in kinds]
    told = tfjs.to_tfjs(model, tmp_path / "m", inputs=inputs, outputs=outputs, lower=lower)
    web.write(tmp_path / "m", "tfjs", {
        side: [{"name": s.name, "shape": list(s.shape), "dtype": s.dtype, "tensor": t}
               for s, t in zip(specs, told[side], strict=True)]
        for side, specs in (("inputs", inputs), ("outputs", outputs))}, "m")
    given = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("f4")
    session = runtimes.open_session(tmp_path / "m", "tfjs", 1,
                                    {"inputs": ["x"], "outputs": list(kinds)})
    for kind, want, found in zip(kinds, model(given), session.run([given]), strict=True):
        assert np.allclose(want, found, atol=1e-4), kind


@pytest.mark.slow
def test_demo_page_runs_the_model(made, tmp_path):
    answer = demo_answer(made, tmp_path / "demo")
    assert "b: float32[1,6], a: float32[1,6], word: int32[1,2] → z: float32[1,6]" in answer
    assert answer.endswith(" ms") and "\nhot\n" in answer


@pytest.mark.slow
def test_bytes_are_the_same_in_every_process(fetched, tmp_path):
    made = []
    for seed in ("0", "7"):
        script = MAKE.format(tests=os.path.dirname(__file__), out=str(tmp_path / seed))
        code = f"import sys; sys.path.insert(0, {os.path.dirname(os.path.dirname(__file__))!r})"
        subprocess.run([sys.executable, "-c", code + script], check=True,
                       env=os.environ | {"PYTHONHASHSEED": seed})
        made.append({p.name: p.read_bytes() for p in (tmp_path / seed).iterdir()})
    again = made[1]
    assert len(again) >= 2 and made[0] == again
    assert "generatedBy" not in json.loads(again["model.json"])


@pytest.mark.slow
def test_an_input_without_effect_keeps_its_place(fetched, tmp_path):
    import keras

    a, b = keras.Input((2,), name="a"), keras.Input((2,), name="b")
    model = keras.Model([a, b], keras.layers.Dense(1, name="out")(a))
    told = tfjs.to_tfjs(model, tmp_path / "m", inputs=[
        TensorSpec("a", (1, 2), "float32"), TensorSpec("b", (1, 2), "float32")],
        outputs=[TensorSpec("out", (1, 1), "float32")])
    assert told["inputs"] == ["a:0", "b:0"] and told["route"] == "plain"
    record = json.loads((tmp_path / "m/model.json").read_text())
    assert sorted(record["signature"]["inputs"]) == ["a", "b"]


def test_without_the_converter(tmp_path, monkeypatch):
    monkeypatch.setenv("TFCOMPRESS_CACHE", str(tmp_path))
    with pytest.raises(MissingExtra) as caught:
        tfjs.to_tfjs(None, tmp_path / "m", inputs=INPUTS, outputs=OUTPUTS)
    assert caught.value.exit_code == 5 and caught.value.hint == "tfcompress setup browser"


def test_what_stands_in_for_the_package_is_taken_back(tmp_path, monkeypatch):
    with pytest.raises(MissingExtra):
        monkeypatch.setenv("TFCOMPRESS_CACHE", str(tmp_path))
        with tfjs._converter():
            pass
    assert not [m for m in sys.modules if m.partition(".")[0] in ("tensorflowjs", *tfjs.UNUSED)]


@pytest.mark.slow
def test_large_weights_are_few_files_that_a_page_can_load(fetched, tmp_path):
    import keras

    from tfcompress.benchmark.browser import BrowserSession
    from tfcompress.compress import lower
    from tfcompress.compress.models import load

    model = keras.Sequential([keras.Input((2700,)), keras.layers.Dense(2700)])
    loaded = load.describe(model, {}, [])
    out = tmp_path / "large"
    tfjs.to_tfjs(model, out, inputs=loaded.inputs, outputs=loaded.outputs, lower=lower)
    assert len(list(out.glob("*.bin"))) <= 4
    session = BrowserSession(str(out), "tfjs", "wasm")
    try:
        x = np.ones((1, 2700), "float32")
        np.testing.assert_allclose(session.run([x])[0], model(x), atol=1e-3)
    finally:
        session.close()
