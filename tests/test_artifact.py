import json
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tfcompress.artifact import Artifact, Measurement, Row, Step, argument_names, quantile

finite = st.floats(-1e6, 1e6)


@given(st.lists(finite, min_size=1, max_size=50), st.floats(0, 1))
def test_quantiles_are_those_of_numpy(values, q):
    assert math.isclose(quantile(values, q), np.quantile(values, q), rel_tol=1e-9, abs_tol=1e-6)


def test_no_values_have_no_summary():
    assert quantile([], 0.5) is None
    assert Measurement("latency", "ms", (), "not measured: no board").summary() == {}


@given(st.lists(finite | st.just(math.inf), max_size=5), st.text())
def test_a_row_survives_json(values, note):
    row = Row(
        "t",
        "ok",
        Artifact("a.tflite", "tflite", (Step("s", {"k": 1}, 0.5, "in", "out"),)),
        (Measurement("snr", "dB", tuple(values), note),),
        fallbacks=({"op": "EXP"},),
    )
    again = Row.from_dict(json.loads(json.dumps(row.to_dict(), allow_nan=False)))
    assert again == row


def test_a_row_answers_by_name():
    row = Row("t", "ok", measurements=(Measurement("size", "bytes", (10.0, 20.0)),))
    assert row.value("size") == 15
    assert row.value("latency") is None


def test_names_that_cannot_be_arguments_have_distinct_stand_ins():
    names = ["image", "größe", "grüße", "_x", "class", "1st", "input_gr__e"]
    found = argument_names(names)
    assert found[0] == "image" and found[-1] == "input_gr__e"
    assert len(set(found)) == len(names)
    assert all(n.isascii() and n.isidentifier() and n[0] != "_" for n in found)
