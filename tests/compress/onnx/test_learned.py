"""Roundings out of a float .onnx: wherever they stand, the file without them is the float model."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxfiles import OnnxFile

from tfcompress.compress.onnx import learned
from tfcompress.errors import TargetError

X = np.random.default_rng(0).normal(size=(3, 4, 6)).astype("f4")


class Rounded(OnnxFile):
    """A file whose `rounded` gives a tensor rounded to 256 steps between bounds, or untouched."""

    def __init__(self, roundings: bool):
        super().__init__()
        self.roundings = roundings
        self.x = self.input("x", [4, 6])

    def steps(self, tensor, low, high):
        scale = (high - low) / 255
        self.ends = (self.constant(np.float32(scale)), self.constant(np.uint8(-low / scale)))
        return self.op("QuantizeLinear", tensor, *self.ends) if self.roundings else tensor

    def real(self, tensor):
        ends = ("DequantizeLinear", *self.ends) if self.roundings else ("Identity",)
        return self.op(ends[0], tensor, *ends[1:])


def at_the_output(file):
    y = file.op("Relu", file.x)
    return {"y": (file.real(file.steps(y, -4.0, 4.0)), [4, 6])}


def around_a_transpose(file):
    y = file.steps(file.op("Relu", file.x), -4.0, 4.0)
    return {"y": (file.op("Tanh", file.real(file.op("Transpose", y, perm=[0, 2, 1]))), [6, 4])}


def one_tensor_twice_an_output(file):
    y = file.op("Relu", file.x)
    z = file.steps(y, -4.0, 4.0)
    ends = {"y": file.real(z), "z": file.real(z), "w": file.op("Tanh", y)}
    return {name: (tensor, [4, 6]) for name, tensor in ends.items()}


def the_input_is_the_output(file):
    return {"y": (file.real(file.steps(file.x, -4.0, 4.0)), [4, 6])}


def run(content):
    session = onnxruntime.InferenceSession(content)
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, {"x": X}),
                    strict=True))


@pytest.mark.parametrize(
    ("build", "spans"),
    [(at_the_output, {"y"}), (one_tensor_twice_an_output, {"y"}), (the_input_is_the_output, {"x"}),
     (around_a_transpose, {"model/layer_0/Relu:0", "model/layer_2/Transpose:0"})])
def test_what_is_left_computes_the_float_model(tmp_path, build, spans):
    plain, file = Rounded(False), Rounded(True)
    wanted = run(plain.save(tmp_path / "plain.onnx", build(plain)).read_bytes())
    content, ranges = learned.strip(file.save(tmp_path / "file.onnx", build(file)).read_bytes())
    onnx.checker.check_model(onnx.load_from_string(content))
    found = run(content)
    assert list(found) == list(wanted)
    assert all(np.array_equal(found[k], wanted[k]) for k in wanted)
    assert set(ranges) == spans
    assert all(r == pytest.approx((-4.0, 4.0), abs=0.04) for r in ranges.values())


def test_integers_with_another_use_are_refused(tmp_path):
    """Rather than a float file that is rounded all the same."""
    file = Rounded(True)
    steps = file.steps(file.op("Relu", file.x), -4.0, 4.0)
    cast = file.op("Cast", steps, to=onnx.TensorProto.FLOAT)
    path = file.save(tmp_path / "file.onnx", {"y": (cast, [4, 6])})
    with pytest.raises(TargetError, match="cannot be taken out"):
        learned.strip(path.read_bytes())
