import json

import numpy as np
import pytest
from conftest import ROOT
from gate_samples import network

from tfcompress import cli, differing, tflite
from tfcompress.benchmark import differ
from tfcompress.errors import ModelError, UsageError

FLOAT, INT8 = (ROOT / "tests/data" / name for name in ("digits.tflite", "digits_int8.tflite"))


@pytest.fixture(scope="module")
def quantized():
    return differing.diff(FLOAT, INT8)


def test_a_file_does_not_differ_from_itself():
    found = differing.diff(INT8, INT8)
    assert not any(found[k] for k in ("operators", "ends", "tensors", "layers"))
    assert found["computed"]["outputs"][0] | {"name": "digit", "snr": "inf"} == (
        found["computed"]["outputs"][0])
    text = differing.table(found)
    assert "operators: the same" in text and "digit: equal" in text


def test_quantization_is_seen_in_types_ends_and_weights(quantized):
    assert quantized["after"]["dtypes"]["int8"] > 0.5
    assert {e["side"] for e in quantized["ends"]} == {"input", "output"}
    for tensor in quantized["tensors"]:
        assert (tensor["before"]["dtype"], tensor["after"]["dtype"]) == ("float32", "int8")
        assert 30 < tensor["snr"] < 70  # real values, scales taken into account
    assert quantized["computed"]["outputs"][0]["snr"] > 15


def test_bytes_by_layer_add_up(quantized):
    grew = quantized["after"]["bytes"] - quantized["before"]["bytes"]
    assert sum(e["grew"] for e in quantized["layers"]) == grew


def test_the_table_is_for_people(quantized):
    text = differing.table(quantized)
    assert "float32 1×8×8×1 became int8 1×8×8×1 (scale " in text
    assert "samples of seeded noise" in text and "dB" in text and "same class in" in text


def test_one_changed_value_in_a_kernel_is_found(tmp_path):
    before = network(tmp_path / "a.tflite")
    model = tflite.load(before)
    buffer = max((b for b in model.buffers if b.data is not None), key=lambda b: len(b.data))
    buffer.data = np.array(buffer.data)
    buffer.data.view(np.float32)[0] += 1
    (tmp_path / "b.tflite").write_bytes(tflite.dump(model))
    found = differing.diff(before, tmp_path / "b.tflite")
    assert len(found["tensors"]) == 1 and found["tensors"][0]["snr"] < 60
    assert found["tensors"][0]["grew"] == 0 and not found["layers"]
    assert found["computed"]["outputs"][0]["max_error"] > 0


def test_a_wider_layer_is_named_with_its_shapes(tmp_path):
    found = differing.diff(network(tmp_path / "a.tflite", 8), network(tmp_path / "b.tflite", 16))
    shapes = [(t["before"]["shape"], t["after"]["shape"]) for t in found["tensors"]]
    assert ([8, 3, 3, 8], [16, 3, 3, 8]) in shapes and ([4, 8], [4, 16]) in shapes


def test_other_inputs_are_told_and_not_run(tmp_path):
    found = differing.diff(FLOAT, network(tmp_path / "a.tflite"))
    assert "the data have" in found["computed"]["why"]
    found = differing.diff(FLOAT, ROOT / "tests/data/order.tflite")
    assert "1 inputs and 1 outputs became 2 and 2" in found["computed"]["why"]
    assert "outputs: not compared" in differing.table(found)


def test_inputs_are_matched_by_name(tmp_path):
    order = ROOT / "tests/data/order.tflite"
    assert {o["snr"] for o in differing.diff(order, order)["computed"]["outputs"]} == {"inf"}


def test_outputs_are_compared_on_the_users_data(tmp_path):
    images = np.random.default_rng(0).integers(0, 17, (40, 8, 8, 1)).astype("f4")
    np.savez(tmp_path / "data.npz", image=images)
    found = differing.diff(FLOAT, INT8, data=str(tmp_path / "data.npz"), rows=10)
    assert found["computed"]["count"] == 10 and not found["computed"]["random"]


def test_noise_is_seeded():
    payload = {"before": str(FLOAT), "after": str(INT8), "samples": None, "count": 4}
    one, two, three = (differ.outputs(payload | {"seed": s}, None) for s in (1, 1, 2))
    assert one == two != three


@pytest.mark.parametrize("argv, kind", [
    ((FLOAT, "nowhere.tflite"), UsageError), ((FLOAT, ROOT / "README.md"), ModelError)])
def test_what_is_no_file_of_that_kind_is_an_error(argv, kind):
    with pytest.raises(kind):
        differing.diff(*argv)


def test_the_command_line(capsys):
    assert cli.main(["diff", str(FLOAT), str(INT8), "--samples", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["before"]["path"] == str(FLOAT)
    assert cli.main(["diff", str(FLOAT), str(FLOAT), "--samples", "0"]) == 2


def test_weights_are_paired_through_keras_numbering():
    def weight(layer, rows):
        return {"tensor": f"{layer}/kernel", "layer": layer, "shape": [rows, 8]}

    pairs = differ._pairs([weight("dense", 8), weight("dense_1", 4)],
                          [weight("dense_2", 32), weight("dense_3", 4)])
    assert {(a["layer"], b["layer"]) for a, b in pairs} == {
        ("dense", "dense_2"), ("dense_1", "dense_3")}
