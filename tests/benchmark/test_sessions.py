import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tfcompress.benchmark import sessions


@given(st.lists(st.floats(-1e4, 1e4, width=32, allow_subnormal=False), min_size=1),
       st.floats(2**-10, 10, width=32), st.integers(-128, 127), st.sampled_from(["int8", "int16"]))
def test_quantize_is_nearest_and_saturates(values, scale, zero_point, dtype):
    spec = {"dtype": dtype, "scale": scale, "zero_point": zero_point}
    x = np.array(values, np.float32)
    stored = sessions.quantize(x, spec)
    assert stored.dtype == dtype
    limits = np.iinfo(dtype)
    back = sessions.dequantize(stored, spec)
    inside = (stored > limits.min) & (stored < limits.max)
    slack = 0.5 * scale * (1 + 1e-3) + 1e-6 * np.abs(x)
    assert (np.abs(back - x)[inside] <= slack[inside]).all()
    assert (back[stored == limits.max] <= x[stored == limits.max] + slack[
        stored == limits.max]).all()


def test_quantize_rounds_half_to_even_and_keeps_plain_integers():
    spec = {"dtype": "int8", "scale": 1.0, "zero_point": 0}
    x = np.array([0.5, 1.5, 2.5, -0.5, 300, -300], np.float32)
    assert sessions.quantize(x, spec).tolist() == [0, 2, 2, 0, 127, -128]
    tokens = {"dtype": "int32", "scale": 0.0, "zero_point": 0}
    assert sessions.quantize(np.array([3, 4], np.uint8), tokens).tolist() == [3, 4]
    assert sessions.dequantize(np.array([3, 4], np.int32), tokens).dtype == np.int32
