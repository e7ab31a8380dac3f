"""The children's side of calls, where it needs no model."""

import pytest

from tfcompress import worker
from tfcompress.errors import DataError


class Refuses:
    compiled = {}


def test_an_error_in_a_traced_model_is_told_without_the_lines_before_it(monkeypatch):
    from tfcompress.compress.models import load

    def call(loaded, arrays):
        raise ValueError(
            "in user code:\n\n    File \"/some/long/path/load.py\", line 122, in None  *\n"
            "        lambda *tensors: loaded.run(list(tensors))\n    " + "File \"x.py\" " * 40
            + "\n\n    ValueError: 'a name' is not a valid root scope name.\n")

    monkeypatch.setattr(load, "call", call)
    with pytest.raises(DataError) as told:
        worker.run_model([], Refuses())
    assert told.value.message == (
        "the model cannot be run on the data: ValueError: 'a name' is not a valid root scope name.")
