"""Weights on 15 levels as int4: half the bytes, and the kernels compute with the same integers."""

import numpy as np
from smallfiles import images, outputs, residual

from tfcompress import tflite
from tfcompress.compress.tflite import int4


def on_15_levels(content, spoil=None):
    """The file with its weights as TensorFlow's converter writes what QAT rounded to 4 bits."""
    model = tflite.load(content)
    graph, changed = model.subgraphs[0], []
    for op in graph.operators:
        if tflite.op_name(model, op) in int4.KINDS:
            tensor = graph.tensors[op.inputs[1]]
            levels = np.round(tflite.constant(model, tensor) / int4.STEPS)
            values = np.round(levels * int4.STEPS).astype(np.int8)
            if len(changed) == spoil:
                values.flat[0] = 9  # half a level
            model.buffers[tensor.buffer].data = values.view(np.uint8).ravel()
            changed.append(tensor.name.decode())
    return tflite.dump(model), changed


def unpacked(content):
    """A file with int4 weights, with the same integers as int8."""
    model = tflite.load(content)
    codes = {name: code for code, name in tflite.dtype_names().items()}
    for tensor in model.subgraphs[0].tensors:
        if tensor.type == codes["int4"]:
            values = tflite.constant(model, tensor).astype(np.int8)
            model.buffers[tensor.buffer].data = values.view(np.uint8).ravel()
            tensor.type = codes["int8"]
    return tflite.dump(model)


def test_halves_the_weights_and_keeps_the_integers(tmp_path):
    file, names = on_15_levels(residual(tmp_path))
    made, packed = int4.pack(file)
    assert sorted(packed) == sorted(names) and len(packed) == 5
    assert len(made) < len(file) - 700
    assert tflite.describe(made)["weights"]["dtypes"]["int4"] > 0.9
    for image in images(5):
        got = outputs(made, image, reference=True)
        assert np.array_equal(got, outputs(unpacked(made), image, reference=True))
        # int8 is not exactly 18.14 k, and not all kernels round alike
        for other in (outputs(made, image), outputs(file, image)):
            assert np.abs(got.astype(float) - other).max() <= 4


def test_weights_with_more_levels_stay(tmp_path):
    file, names = on_15_levels(residual(tmp_path), spoil=1)
    made, packed = int4.pack(file)
    assert set(names) - set(packed) == {names[1]}
    left, packed = int4.pack(residual(tmp_path / "fine"))
    assert not packed
    assert tflite.describe(left)["weights"]["dtypes"].get("int4") is None


def test_float_files_are_left_alone(tmp_path):
    file = residual(tmp_path, "tflite-float32")
    made, packed = int4.pack(file)
    assert not packed and np.array_equal(outputs(made, images(1)[0]), outputs(file, images(1)[0]))
