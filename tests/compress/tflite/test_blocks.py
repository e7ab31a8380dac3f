"""Convolutions on blocks of pixels: bit for bit the same, and only where that is so."""

import numpy as np
import pytest
from floatfiles import FloatFile
from smallfiles import images, outputs, residual

from tfcompress import tflite
from tfcompress.compress.tflite import blocks


def test_an_int8_network_gives_the_same_integers(tmp_path):
    file = residual(tmp_path)
    made, count = blocks.to_blocks(file)
    assert count == 4
    for image in images(5):
        for reference in (False, True):
            assert np.array_equal(outputs(made, image, reference), outputs(file, image, reference))


def test_the_ends_stay_and_the_large_images_are_gone(tmp_path):
    file = residual(tmp_path)
    before, after = tflite.describe(file), tflite.describe(blocks.to_blocks(file)[0])
    assert [after[k] for k in ("inputs", "outputs", "signature")] == \
        [before[k] for k in ("inputs", "outputs", "signature")]
    written = [o["shape"] for op in after["subgraphs"][0]["ops"] for o in op["outputs"]]
    assert [1, 8, 8, 32] in written
    assert not any(shape[1:3] == [16, 16] for shape in written)
    assert after["histogram"]["SPACE_TO_DEPTH"] == 1


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_windows_of_every_size(tmp_path, size, stride):
    """What is rewritten computes the same; what cannot be is left alone."""
    rng = np.random.default_rng(size)
    build = FloatFile()
    x = build.input("image", (1, 16, 16, 3))
    x = build.op("CONV_2D", [x, build.constant(rng.normal(size=(4, size, size, 3))),
                             build.constant(rng.normal(size=4))],
                 [1, 16 // stride, 16 // stride, 4], "Conv2D", strideW=stride, strideH=stride,
                 dilationWFactor=1, dilationHFactor=1)
    if stride == 1:
        x = build.op("CONV_2D", [x, build.constant(rng.normal(size=(4, 3, 3, 4))),
                                 build.constant(rng.normal(size=4))], [1, 8, 8, 4], "Conv2D",
                     strideW=2, strideH=2, dilationWFactor=1, dilationHFactor=1)
    file = build.save(tmp_path / "conv.tflite", {"out": x}).read_bytes()
    made, count = blocks.to_blocks(file)
    if stride == 1 and size % 2:
        assert count == 2
    for image in images(2):
        assert np.allclose(outputs(made, image), outputs(file, image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spoil", ["valid", "dilated", "pool", "output"])
def test_what_cannot_work_on_blocks_is_left_alone(tmp_path, spoil):
    rng = np.random.default_rng(0)
    build = FloatFile()
    x = build.input("image", (1, 16, 16, 3))
    x = build.conv(x, rng.normal(size=(4, 3, 3, 3)))
    if spoil == "pool":
        x = build.mean(x)
    elif spoil != "output":
        wide = 2 if spoil == "dilated" else 1
        x = build.op("CONV_2D", [x, build.constant(rng.normal(size=(4, 3, 3, 4))),
                                 build.constant(np.zeros(4))],
                     [1, 14, 14, 4] if spoil == "valid" else [1, 16, 16, 4], "Conv2D", strideW=1,
                     strideH=1, dilationWFactor=wide, dilationHFactor=wide,
                     padding=int(spoil == "valid"))
        x = build.mean(x)
    file = build.save(tmp_path / "net.tflite", {"out": x}).read_bytes()
    assert blocks.to_blocks(file) == (file, 0)


def test_twice_is_once_more_or_nothing(tmp_path):
    file = residual(tmp_path)
    once, _ = blocks.to_blocks(file)
    twice, _ = blocks.to_blocks(once)
    assert np.array_equal(outputs(twice, images(1)[0]), outputs(file, images(1)[0]))
