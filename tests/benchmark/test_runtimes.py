import subprocess
import sys

import measure_samples as given_models
import numpy as np
import pytest

from tfcompress.benchmark import runtimes
from tfcompress.errors import DataError, ModelError

X = np.arange(12, dtype=np.float32).reshape(4, 3)
Y = np.array([[1, 0, 5], [2, 2, 2], [0, 0, 0], [-1, 4, 9]], np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The .keras files and SavedModels that belong to tests/data/*.tflite."""
    folder = tmp_path_factory.mktemp("made")
    subprocess.run([sys.executable, str(given_models.DATA / "make.py"), str(folder)], check=True)
    return folder


def test_inputs_and_outputs_are_in_the_order_of_the_names():
    session = runtimes.open_session(given_models.model("order"), "litert",
                                    names=given_models.ORDER)
    assert [s["name"] for s in session.inputs] == given_models.ORDER["inputs"]
    assert [s["name"] for s in session.outputs] == given_models.ORDER["outputs"]
    difference, total = session.run([X, Y])
    assert np.array_equal(difference, X - Y) and np.array_equal(total, X + Y)
    turned = {"inputs": ["left_hand", "right_hand"], "outputs": ["a_sum", "z_difference"]}
    session = runtimes.open_session(given_models.model("order"), "litert", names=turned)
    assert np.array_equal(session.run([X, Y])[1], Y - X)


def test_a_file_without_a_signature_is_taken_in_its_own_order(tmp_path):
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(given_models.model("order"))
    model.signatureDefs = []
    flatbuffer_utils.write_model(model, str(tmp_path / "plain.tflite"))
    session = runtimes.open_session(str(tmp_path / "plain.tflite"), "litert")
    assert len(session.inputs) == len(session.outputs) == 2
    known = {s["name"].removeprefix("serving_default_").partition(":")[0] for s in session.inputs}
    assert known == set(given_models.ORDER["inputs"])
    named = runtimes.open_session(str(tmp_path / "plain.tflite"), "litert",
                                  names={"inputs": given_models.ORDER["inputs"]})
    results = named.run([X, Y])
    assert any(np.array_equal(r, X - Y) for r in results)
    assert not any(np.array_equal(r, Y - X) for r in results)


def test_int8_file_takes_and_gives_real_numbers():
    images, labels = given_models.digits()
    session = runtimes.open_session(given_models.model("digits_int8"), "litert")
    assert session.inputs[0]["dtype"] == "int8" and session.inputs[0]["scale"] > 0
    scores, = session.run([images[:100]])
    assert scores.dtype == np.float32 and scores.shape == (100, 10)
    assert np.abs(scores.sum(1) - 1).max() < 0.05
    assert (scores.argmax(1) == labels[:100]).mean() > 0.85


def test_free_batch_and_changing_row_shape():
    session = runtimes.open_session(given_models.model("logarithm"), "litert")
    assert session.inputs[0]["shape"] == [None, 4]
    x = np.random.default_rng(0).uniform(1, 9, (5, 4)).astype(np.float32)
    assert np.allclose(session.run([x])[0], np.log(x), atol=1e-6)


def test_no_state_is_carried_from_sample_to_sample():
    x = np.random.default_rng(0).normal(size=(3, 5, 3)).astype(np.float32)
    session = runtimes.open_session(given_models.model("lstm"), "litert")
    (once,), (again,) = session.run([x]), session.run([x[::-1]])
    assert np.array_equal(once, again[::-1]) and np.abs(once).max() > 0.01


def test_wrong_shapes_and_counts_are_data_errors():
    session = runtimes.open_session(given_models.model("digits"), "litert")
    with pytest.raises(DataError, match="shape"):
        session.run([np.zeros((2, 9, 9, 1), np.float32)])
    with pytest.raises(DataError, match="1 inputs, the data have 2"):
        session.run([np.zeros((2, 8, 8, 1))] * 2)
    order = runtimes.open_session(given_models.model("order"), "litert")
    with pytest.raises(DataError, match="different numbers"):
        order.run([X, Y[:2]])


def test_what_is_no_model_is_a_model_error(tmp_path):
    (tmp_path / "broken.tflite").write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match="litert cannot run"):
        runtimes.open_session(str(tmp_path / "broken.tflite"), "litert")
    with pytest.raises(ModelError, match="no such file"):
        runtimes.open_session(str(tmp_path / "absent.tflite"), "litert")
    with pytest.raises(ModelError, match="has 1 inputs"):
        runtimes.open_session(given_models.model("digits"), "litert", names=given_models.ORDER)


def test_ready_runs_the_batch_that_was_set():
    session = runtimes.open_session(given_models.model("order"), "litert",
                                    names=given_models.ORDER)
    session.ready([X, Y])()
    index = session.tensors[1][1]
    assert np.array_equal(session._interpreter.get_tensor(index), (X + Y)[:1])


@pytest.mark.slow
def test_keras_savedmodel_and_tflite_agree(made):
    images = given_models.digits()[0][:37]
    names = given_models.DIGITS
    expected, = runtimes.open_session(str(made / "digits.tflite"), "litert", names=names).run(
        [images])
    for runtime, path in (("keras", "digits.keras"), ("tensorflow", "digits")):
        session = runtimes.open_session(str(made / path), runtime, names=names)
        scores, = session.run([images])
        assert scores.shape == (37, 10) and np.abs(scores - expected).max() < 1e-5
        session.ready([images])()


@pytest.mark.slow
def test_keras_and_savedmodel_keep_the_order_of_the_names(made):
    turned = {"inputs": ["left_hand", "right_hand"], "outputs": ["a_sum", "z_difference"]}
    for runtime, path in (("keras", "order.keras"), ("tensorflow", "order")):
        for names, sign in ((given_models.ORDER, 1), (turned, -1)):
            results = runtimes.open_session(str(made / path), runtime, names=names).run([X, Y])
            difference = results[names["outputs"].index("z_difference")]
            assert np.array_equal(difference, sign * (X - Y)), (runtime, names)


@pytest.mark.slow
def test_savedmodel_with_a_free_batch_and_broken_files(made, tmp_path):
    x = np.random.default_rng(0).uniform(1, 9, (5, 4)).astype(np.float32)
    result, = runtimes.open_session(str(made / "logarithm"), "tensorflow").run([x])
    assert np.allclose(result, np.log(x), atol=1e-6)
    (tmp_path / "broken.keras").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="Keras cannot run"):
        runtimes.open_session(str(tmp_path / "broken.keras"), "keras")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="TensorFlow cannot run"):
        runtimes.open_session(str(tmp_path / "empty"), "tensorflow")


@pytest.mark.slow
def test_the_committed_files_do_what_the_script_makes(made):
    images = given_models.digits()[0][:50]
    for name in ("digits", "digits_int8"):
        old, new = (runtimes.open_session(str(place / f"{name}.tflite"), "litert").run([images])[0]
                    for place in (given_models.DATA, made))
        assert (old.argmax(1) == new.argmax(1)).mean() > 0.9
