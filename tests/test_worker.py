"""The children's side of calls, where it needs no model."""

import numpy as np
import pytest

from tfcompress import worker
from tfcompress.errors import DataError, ModelError


class Refuses:
    compiled = {}


def test_an_error_in_a_traced_model_is_told_without_the_lines_before_it(monkeypatch):
    from tfcompress.compress.models import load

    def call(loaded, arrays):
        raise ValueError(
            "in user code:\n\n    File \"/some/long/path/load.py\", line 122, in None  *\n"
            "        lambda *tensors: loaded.run(list(tensors))\n    " + "File \"x.py\" " * 40
            + "\n\n    ValueError: matrices do not fit.\n")

    monkeypatch.setattr(load, "call", call)
    with pytest.raises(DataError) as told:
        worker.run_model([], Refuses())
    assert told.value.message == (
        "the model cannot be run on the data: ValueError: matrices do not fit.")


def test_a_layer_name_that_tensorflow_refuses_is_named(monkeypatch):
    from tfcompress.compress.models import load

    def call(loaded, arrays):
        raise ValueError("Exception encountered.\n\n\x1b[1m'слой 1' is not a valid scope name. A "
                         "scope name has to match the following pattern: ^[A-Za-z0-9_]*$\x1b[0m")

    monkeypatch.setattr(load, "call", call)
    with pytest.raises(ModelError) as told:
        worker.run_model([], Refuses())
    assert told.value.message == "TensorFlow takes no layer that is called 'слой 1'"


@pytest.mark.parametrize(("first", "second", "drawn"), [
    ([1.0, np.nan, np.inf], [1.0, np.nan, np.inf], False), ([1.0, 2.0], [1.0, 2.0 + 1e-6], False),
    ([1.0, np.nan], [1.0 + 1e-6, np.nan], False), ([1.0, 2.0], [1.2, 2.0], True),
    ([1.0, 2.0], [1.0, np.nan], True), ([np.nan], [np.nan], False)])
def test_only_what_differs_from_call_to_call_is_drawn(first, second, drawn):
    """A model that gives NaN gives it every time: that is no random number."""
    assert worker._drawn([np.array(first)], [np.array(second)]) == [0] * drawn
