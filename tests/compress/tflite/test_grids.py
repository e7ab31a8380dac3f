"""Weights that are on a grid already: found in floats, exact in the file, run by the runtime."""

import numpy as np
import pytest

from tfcompress.compress.tflite import grids


def trained(clusters=16, channels=12, inputs=90, seed=0):
    """Levels of a kernel of few values, with a channel of zeros and one of a single value."""
    rng = np.random.default_rng(seed)
    values = np.unique(np.append(rng.integers(-100, 100, clusters - 2), [0, 127]))
    levels = rng.choice(values, (channels, inputs))
    levels[1:4][levels[1:4] == 127] = values[2]  # channels whose largest value is a smaller one
    levels[5], levels[7, 1:] = 0, 0
    levels[7, 0] = values[1]
    return levels


def test_one_scale_for_all_channels_is_found():
    levels = trained()
    found = grids.find((levels * np.float32(0.0123)).astype(np.float32))
    assert found.one and (found.levels == levels).all()
    assert np.allclose(found.scale, 0.0123)


def test_channels_that_a_batchnorm_has_scaled_keep_the_values_that_they_share():
    levels, factors = trained(), np.random.default_rng(1).normal(size=12).astype(np.float32)
    weights = (levels * np.float32(0.0123)).astype(np.float32) * factors[:, None]
    found = grids.find(weights)
    assert not found.one
    assert np.allclose(found.levels * found.scale[:, None], weights, rtol=1e-6, atol=1e-9)
    signed = found.levels * np.sign(factors)[:, None].astype(int)
    assert len(np.unique(signed)) <= len(np.unique(levels)) + 1


@pytest.mark.parametrize("weights", [
    np.random.default_rng(0).normal(size=(8, 50)),  # on no grid
    np.zeros((3, 4)), np.full((2, 3), np.nan), np.zeros((2, 0)),
    np.random.default_rng(0).integers(-7, 8, (8, 50)) / 7 * np.arange(1, 9)[:, None],  # for int4
    np.where(np.arange(400).reshape(4, 100) % 100 == 0, 127,  # what a quantizer finds itself
             np.random.default_rng(0).integers(-126, 127, (4, 100))) * np.arange(1, 5)[:, None],
])
def test_other_weights_are_left_to_the_quantizer(weights):
    assert grids.find(weights) is None


def floats(tmp_path, factors):
    """A float file of a convolution, a depthwise one and a dense layer with such weights."""
    import keras

    from tfcompress.artifact import TensorSpec
    from tfcompress.export.tflite import to_tflite

    layers = keras.layers
    given = keras.Input((8, 8, 4), batch_size=1, name="x")
    y = layers.Conv2D(12, 3, name="conv")(given)
    y = layers.DepthwiseConv2D(3, name="depthwise")(layers.ReLU()(y))
    y = layers.Dense(5, name="dense")(layers.Flatten()(y))
    model = keras.Model(given, y)
    rng = np.random.default_rng(0)
    for name in ("conv", "depthwise", "dense"):
        layer = model.get_layer(name)
        kernel, bias = layer.weights
        levels = rng.choice(np.append(np.unique(trained())[:8], 127), tuple(kernel.shape))
        levels.ravel()[0] = 127
        scaled = levels * np.float32(0.003)
        kernel.assign(scaled * factors(rng, scaled.shape[-2 if name == "depthwise" else -1])[
            :, None] if name == "depthwise" else scaled * factors(rng, scaled.shape[-1]))
        bias.assign(rng.normal(0, 0.1, bias.shape))
    path = tmp_path / "float.tflite"
    rows = [rng.normal(size=(4, 8, 8, 4)).astype("float32")]
    specs = [TensorSpec("x", (1, 8, 8, 4), "float32")], [TensorSpec("dense", (1, 5), "float32")]
    wanted = [np.concatenate([model(r[None]).numpy() for r in rows[0]])]
    to_tflite(model, path, inputs=specs[0], outputs=specs[1], progress=lambda *_: None,
              check=(rows, wanted))
    return path, rows[0], wanted[0]


@pytest.mark.slow
@pytest.mark.parametrize("scaled", [False, True])
def test_the_integers_are_those_of_the_grid_and_the_runtime_takes_them(tmp_path, scaled):
    from tfcompress import tflite
    from tfcompress.compress.tflite import quantize

    path, rows, wanted = floats(tmp_path, lambda rng, n: rng.uniform(0.3, 2, n).astype(
        "float32") if scaled else np.ones(n, "float32"))
    (tmp_path / "samples" / "inputs").mkdir(parents=True)
    np.save(tmp_path / "samples" / "inputs" / "0.npy", rows)
    (tmp_path / "samples" / "samples.json").write_text('{"count": 4, "random": false}')
    target = {"name": "t", "quantization": "int8", "runtime": "litert", "io_dtype": "float32",
              "min_snr_db": 20}
    told = quantize.run({"float": str(path), "samples": str(tmp_path / "samples"), "names": None,
                         "targets": [target], "out": str(tmp_path)}, lambda *_: None)
    assert told["targets"]["t"]["snr_db"] > 30  # activations alone are rounded
    model = tflite.load(tmp_path / "t.tflite")
    graph, seen = model.subgraphs[0], 0
    for op in graph.operators:
        if tflite.op_name(model, op) in grids.KERNELS:
            weight, bias = (graph.tensors[op.inputs[i]] for i in (1, 2))
            values = tflite.constant(model, weight)
            assert len(np.unique(values)) <= 10
            count = len(weight.quantization.scale)
            assert (count > 1) == scaled and len(bias.quantization.scale) == count
            seen += 1
    assert seen == 3
