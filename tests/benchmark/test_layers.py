"""What each layer of a file costs and how exact it is, read off real files."""

import json

import numpy as np
import pytest
import report_samples as samples
import smallfiles
from gate_samples import network
from measure_samples import digits, model, quiet, write

from tfcompress import tflite
from tfcompress.benchmark import layers, layers_page, report, runtimes


@pytest.fixture(scope="module")
def held_back(tmp_path_factory):
    images, labels = digits()
    scores, = runtimes.open_session(model("digits"), "litert").run([images])
    return write(tmp_path_factory.mktemp("digits"), [images], [scores], labels)["samples"]


def test_layers_add_up_to_the_file():
    for name in ("digits", "digits_int8"):
        found, whole = layers.table(model(name)), tflite.describe(model(name))
        assert sum(f["macs"] for f in found) == whole["macs"]
        assert sum(f["bytes"] for f in found) == whole["weights"]["bytes"]
        assert sum(sum(f["dtypes"].values()) for f in found) == whole["parameters"]
        assert sum(sum(f["ops"].values()) for f in found) == sum(whole["histogram"].values())


def test_a_layer_by_hand(tmp_path):
    """Convolutions of 3 x 3 x 3 to 8 and 3 x 3 x 8 to 16 on 8 x 8 pixels, then 16 to 4."""
    body, end = layers.table(str(network(tmp_path / "m.tflite", width=16, side=8)))
    values = 216 + 8 + 1152 + 16
    assert body["ops"] == {"CONV_2D": 2, "MEAN": 1} and body["dtypes"] == {"float32": values}
    assert (body["bytes"], body["macs"]) == (4 * values, 64 * (216 + 1152))
    assert body["zeros"] == pytest.approx(24 / values)  # the biases
    assert (end["layer"], end["macs"], end["dtypes"]) == ("logits", 64, {"float32": 64})


def test_zeros_and_types_are_those_of_the_file(tmp_path):
    content = smallfiles.residual(tmp_path / "m")
    (tmp_path / "int8.tflite").write_bytes(content)
    found = layers.table(str(tmp_path / "int8.tflite"))
    assert all(set(f["dtypes"]) <= {"int8", "int32"} for f in found)
    assert {f["gives"] for f in found} == {"int8"}
    assert all((f["zeros"] is None) == (not f["dtypes"]) for f in found)


def test_every_layer_is_compared_with_the_float_file(held_back):
    asked = {"artifact": model("digits_int8"), "float": model("digits"), "samples": held_back}
    found = layers.run(asked, quiet)
    known = {f["layer"]: f["snr_db"] for f in found["layers"]}
    assert found["note"] == "" and all(20 < v < 100 for v in known.values())
    assert list(known)[:2] == ["first", "second"]
    json.dumps(found, allow_nan=False)
    assert "outputs" not in found["layers"][0]


def test_the_error_of_a_layer_is_that_of_its_result(held_back):
    """The last layer's figure is the SNR of the model's output on the same four samples."""
    asked = {"artifact": model("digits_int8"), "float": model("digits"), "samples": held_back}
    last = layers.run(asked, quiet)["layers"][-1]["snr_db"]
    rows = [np.load(f"{held_back}/inputs/0.npy")[:layers.SAMPLES]]
    exact, = runtimes.open_session(model("digits"), "litert").run(rows)
    made, = runtimes.open_session(model("digits_int8"), "litert").run(rows)
    noise = ((made - exact).astype(float) ** 2).sum()
    assert last == pytest.approx(10 * np.log10((exact.astype(float) ** 2).sum() / noise), abs=1.0)


@pytest.mark.parametrize(("more", "why"), [
    ({"samples": None}, "there were no data"), ({"float": None}, "no float file"),
    ({"why": "nothing is rounded in it"}, "nothing is rounded in it"),
    ({"float": "nowhere.tflite"}, "nowhere.tflite"),
])
def test_what_is_not_measured_says_why(held_back, more, why):
    asked = {"artifact": model("digits_int8"), "float": model("digits"), "samples": held_back}
    found = layers.run(asked | more, quiet)
    assert why in found["note"] and found["layers"]
    assert all(f["snr_db"] is None for f in found["layers"]) and found["findings"] == []


def test_a_heavy_model_is_compared_on_fewer_samples_or_not_at_all(held_back, monkeypatch):
    asked = {"artifact": model("digits_int8"), "float": model("digits"), "samples": held_back}
    work = tflite.describe(model("digits_int8"))["macs"]
    seen = []
    monkeypatch.setattr(layers, "MOST_MACS", 2 * work)
    layers.run(asked, lambda *told: seen.append(told))
    assert len(seen) == 2
    monkeypatch.setattr(layers, "MOST_MACS", work - 1)
    assert "too heavy" in layers.run(asked, quiet)["note"]
    assert layers.run(asked | {"must": True}, quiet)["note"] == ""


# In the report

def _with(found, note="", **more):
    given = samples.report([samples.row(**samples.SOURCE),
                            samples.row("tflite-int8", 90_000, snr=30.0, accuracy=0.87)], **more)
    given.rows[1].io.update(layers=found, layers_note=note)
    return given


def test_the_table_sorts_by_figures_not_by_what_is_shown():
    text = layers_page.table(_with(samples.layers()), _with(samples.layers()).rows[1])
    assert 'class="sortable"' in text and text.count("data-sort=") == 9
    for figure in ('data-v="1040"', 'data-v="0.25"', 'data-v="150000"', 'data-v="40.0"'):
        assert figure in text
    assert 'data-v=""' in text  # zeros of a layer without weights: sorted last
    assert "36.0 dB" in text and "<details" not in text


def test_a_long_table_is_folded_and_a_very_long_one_cut_with_a_word():
    given = _with(samples.layers(14))
    text = layers_page.table(given, given.rows[1])
    assert "<summary>14 layers, 106 kB of weights; the lowest SNR is 14.0 dB, at conv2d_13" in text
    given = _with(samples.layers(layers_page.MOST + 5, None), "there were no data")
    text = layers_page.table(given, given.rows[1])
    assert text.count("<tr>") == layers_page.MOST + 1 and "all 305 are in report.json" in text
    assert "SNR not measured: there were no data." in text and "conv2d_304" in text
    assert "<code>conv2d_0</code>" not in text  # the lightest


def test_layers_stand_in_the_markdown_too():
    text = report.markdown(_with(samples.layers()))
    assert "| conv2d\\_2 | CONV\\_2D, 2 ADD | int8, int32 | 3.04 kB | 25.0 % | 50.0 k | 36.0 dB |" \
        in text
    assert "SNR of layers not measured: x y." in report.markdown(_with(samples.layers(), "x y"))


def test_random_data_are_marked_at_the_layers():
    given = _with(samples.layers(), data={"random": True, "evaluated": 4})
    assert "SNR, random data" in report.html(given) and "36.0 dB\\*" in report.markdown(given)


def test_names_of_layers_cannot_break_out():
    found = samples.layers()
    for f in found:
        f["layer"] = f["gives"] = samples.HOSTILE
        f["ops"] = f["dtypes"] = {samples.HOSTILE: 3}
    given = _with(found)
    assert report.html(given).count("<script") == 1
    assert "<script" not in report.markdown(given) and "\x1b" not in report.html(given)
