import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tfcompress import data, store
from tfcompress.artifact import TensorSpec
from tfcompress.errors import DataError

IMAGE = [TensorSpec("image", (None, 4, 4, 1), "float32")]
TEN = [TensorSpec("out", (None, 10), "float32")]


def prepare(tmp_path, arrays, inputs=IMAGE, outputs=TEN, **options):
    path = tmp_path / "d.npz"
    np.savez(path, **arrays)
    out = tmp_path / "out"
    return data.prepare(str(path), inputs, outputs, out, **options), out


def read(out, part, name="inputs/0.npy"):
    return np.load(out / part / name)


def rows(n, seed=0):
    return np.random.default_rng(seed).random((n, 4, 4, 1)).astype(np.float32)


def test_samples_that_represent_are_balanced_and_the_rest_is_held_back(tmp_path):
    y = np.repeat([0, 1, 2], [900, 80, 20])
    x = np.arange(1000, dtype=np.float32).reshape(-1, 1, 1, 1) * np.ones((1, 4, 4, 1), np.float32)
    info, out = prepare(tmp_path, {"x": x, "y": y}, samples=60)
    assert np.bincount(read(out, "calibration", "labels.npy")).tolist() == [20, 20, 20]
    taken = set(read(out, "calibration")[:, 0, 0, 0])
    judged = set(read(out, "held_back")[:, 0, 0, 0])
    assert len(taken) == 60 and len(judged) == 940 and not taken & judged
    assert (info["calibration"], info["held_back"], info["labels"]) == (60, 940, True)


def test_labels_stay_with_their_rows(tmp_path):
    y = np.arange(100) % 10
    x = y.reshape(-1, 1, 1, 1) * np.ones((1, 4, 4, 1))
    _, out = prepare(tmp_path, {"x": x, "y": y})
    for part in ("calibration", "held_back"):
        assert (read(out, part)[:, 0, 0, 0] == read(out, part, "labels.npy")).all()


def test_the_same_seed_draws_the_same_samples(tmp_path):
    digests = set()
    for i, seed in enumerate((3, 3, 4)):
        (tmp_path / str(i)).mkdir()
        _, out = prepare(tmp_path / str(i), {"x": rows(300)}, seed=seed, samples=50)
        digests.add(store.file_digest(out))
    assert len(digests) == 2


@settings(max_examples=25, deadline=None)
@given(count=st.integers(2, 60), samples=st.integers(1, 60), classes=st.integers(1, 5))
def test_any_count_is_split_without_loss(tmp_path_factory, count, samples, classes):
    tmp_path = tmp_path_factory.mktemp("d")
    y = np.random.default_rng(count).integers(0, classes, count)
    info, out = prepare(tmp_path, {"x": rows(count), "y": y}, samples=samples)
    taken, judged = len(read(out, "calibration")), len(read(out, "held_back"))
    assert taken >= 1 and judged >= 1 and taken <= samples
    assert taken + judged == count


def test_train_and_test_arrays_keep_apart(tmp_path):
    _, out = prepare(
        tmp_path,
        {
            "x_train": rows(50) + 5,
            "y_train": np.zeros(50, int),
            "x_test": rows(20),
            "y_test": np.ones(20, int),
        },
    )
    assert read(out, "calibration").min() >= 5 and read(out, "held_back").max() < 5
    assert (read(out, "held_back", "labels.npy") == 1).all()


def test_several_inputs_go_by_name_in_the_models_order(tmp_path):
    inputs = [TensorSpec("b", (None, 2), "float32"), TensorSpec("a", (None, 3), "int32")]
    arrays = {"a": np.ones((9, 3), np.int64), "b": np.zeros((9, 2)), "y": np.zeros(9, int)}
    _, out = prepare(tmp_path, arrays, inputs)
    assert read(out, "calibration").shape[1:] == (2,)
    assert read(out, "calibration", "inputs/1.npy").shape[1:] == (3,)


def test_arrays_that_are_no_input_are_left_out(tmp_path):
    names = np.array([f"{i}.png" for i in range(9)])
    _, out = prepare(tmp_path, {"names": names, "x": rows(9), "ids": np.arange(9)})
    assert read(out, "calibration").shape[1:] == (4, 4, 1)


def test_a_missing_channel_axis_is_added(tmp_path):
    _, out = prepare(tmp_path, {"x": rows(9)[..., 0]})
    assert read(out, "calibration").shape[1:] == (4, 4, 1)


@pytest.mark.parametrize(
    "arrays, told",
    [
        ({"x": np.zeros((9, 5, 4, 1))}, r"shape \(5, 4, 1\), the model takes \(4, 4, 1\)"),
        ({"x": np.full((9, 4, 4, 1), np.nan)}, "NaN"),
        ({"x": np.zeros((0, 4, 4, 1))}, "no rows"),
        ({"x": np.full((9, 4, 4, 1), "a")}, "not numbers"),
        ({"x": rows(1)}, "one row only"),
        ({"x": rows(9), "y": np.arange(9) + 5}, r"labels span 5\.\.13"),
        ({"x": rows(9), "y": -np.ones(9, int)}, "labels span"),
        ({"x": rows(9), "y": np.zeros(8, int)}, "8 labels for 9 rows"),
        ({"x": rows(9), "y": np.full(9, np.inf)}, "labels have NaN"),
        ({"a": rows(9), "b": rows(9)}, "has arrays a, b"),
        ({"y": np.zeros(9)}, r"\(none\)"),
    ],
)
def test_wrong_arrays_are_told_apart(tmp_path, arrays, told):
    with pytest.raises(DataError, match=told):
        prepare(tmp_path, arrays)


@pytest.mark.parametrize(
    "value, told", [(300, "takes uint8"), (-1, "takes uint8"), (0.5, "fractions")]
)
def test_values_that_the_inputs_type_cannot_hold(tmp_path, value, told):
    with pytest.raises(DataError, match=told):
        prepare(tmp_path, {"x": np.full((9, 2), value)}, [TensorSpec("x", (None, 2), "uint8")])


def test_pickles_are_not_opened(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="Python objects"):
        data.prepare(str(tmp_path / "d.npz"), IMAGE, TEN, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 but no more", b"hello"])
def test_files_that_are_no_npz(tmp_path, content):
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(DataError):
        data.check_spec(str(tmp_path / "d.npz"))


@pytest.mark.parametrize("spec", ["nowhere.npz", "no such thing", "a:b:c", __file__])
def test_what_is_no_data_is_refused_early(spec):
    with pytest.raises(DataError):
        data.check_spec(spec)


def picture(path, color, size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


def test_a_folder_of_images(tmp_path):
    for i in range(6):
        picture(tmp_path / "in" / "cat" / f"{i}.png", (10, 10, 10))
        picture(tmp_path / "in" / "dog" / f"{i}.jpg", (200, 200, 200))
    info = data.prepare(
        str(tmp_path / "in"),
        [TensorSpec("x", (None, 4, 4, 3), "float32")],
        TEN,
        tmp_path / "out",
        samples=4,
    )
    assert info["classes"] == ["cat", "dog"]
    labels = read(tmp_path / "out", "held_back", "labels.npy")
    pixels = read(tmp_path / "out", "held_back")
    assert pixels.shape == (8, 4, 4, 3) and ((pixels[:, 0, 0, 0] > 100) == labels).all()


def test_images_that_cannot_be_read_are_named(tmp_path):
    picture(tmp_path / "in" / "cat" / "a.png", (1, 2, 3))
    (tmp_path / "in" / "cat" / "b.png").write_bytes(b"broken")
    with pytest.raises(DataError, match="b.png"):
        data.prepare(
            str(tmp_path / "in"),
            [TensorSpec("x", (None, 4, 4, 3), "float32")],
            TEN,
            tmp_path / "out",
        )


def test_an_empty_folder_of_images(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="no images"):
        data.prepare(str(tmp_path / "in"), IMAGE, TEN, tmp_path / "out")


def test_normalization_is_applied_to_raw_pixels(tmp_path):
    _, out = prepare(tmp_path, {"x": np.full((9, 4, 4, 1), 255, np.uint8)}, normalize="-1..1")
    assert (read(out, "calibration") == 1).all()


def test_random_data_are_marked_and_fit_the_inputs(tmp_path):
    inputs = [TensorSpec("ids", (None, 7), "int32"), TensorSpec("x", (None, 2), "float32")]
    info = data.prepare("random", inputs, TEN, tmp_path, samples=10, vocabulary={"ids": 5})
    ids = read(tmp_path, "calibration")
    assert info["random"] and ids.shape == (10, 7) and 0 <= ids.min() and ids.max() < 5
    assert store.read_json(tmp_path / "held_back" / "samples.json")["random"]


SOURCES = """
import numpy as np

def endless():
    while True:
        yield np.ones((64, 4, 4, 1)), np.zeros(64, int)

def dicts():
    for _ in range(3):
        yield {"image": np.ones((8, 4, 4, 1)), "y": np.zeros(8, int)}

def nothing():
    return []

def broken():
    raise RuntimeError("no disk today")

def ragged():
    yield np.ones((8, 4, 4, 1))
    yield np.ones((8, 5, 5, 1))
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    name = f"source_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(SOURCES)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_a_function_without_end_is_read_as_far_as_needed(tmp_path, module):
    info = data.prepare(f"{module}:endless", IMAGE, TEN, tmp_path / "out")
    assert info["calibration"] == 200 and info["labels"]
    assert 9_000 < info["held_back"] <= 10_000


def test_a_function_may_yield_dicts(tmp_path, module):
    info = data.prepare(f"{module}:dicts", IMAGE, TEN, tmp_path / "out")
    assert info["calibration"] == 18 and info["labels"]


@pytest.mark.parametrize(
    "name, told",
    [
        ("nothing", "no data"),
        ("broken", "no disk today"),
        ("ragged", "do not fit|shape"),
        ("absent", "cannot import"),
    ],
)
def test_functions_that_do_not_deliver(tmp_path, module, name, told):
    with pytest.raises(DataError, match=told):
        data.prepare(f"{module}:{name}", IMAGE, TEN, tmp_path / "out")


@pytest.mark.slow
def test_tfrecords_of_pixels_of_values_and_of_encoded_images(tmp_path):
    import tensorflow as tf

    def feature(value):
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(float_list=tf.train.FloatList(value=value))

    def write(name, key, value):
        path = str(tmp_path / name)
        with tf.io.TFRecordWriter(path) as file:
            for i in range(10):
                features = tf.train.Features(feature={key: feature(value), "label": feature(i)})
                file.write(tf.train.Example(features=features).SerializeToString())
        return path

    png = io.BytesIO()
    Image.new("L", (4, 4), 7).save(png, "png")
    for name, key, value in (
        ("a.tfrecord", "image", [7.0] * 16),
        ("b.tfrecord", "image", bytes([7]) * 16),
        ("c.tfrecord", "image/encoded", png.getvalue()),
    ):
        out = tmp_path / f"out-{name}"
        info = data.prepare(write(name, key, value), IMAGE, TEN, out)
        assert info["labels"] and (read(out, "calibration") == 7).all()
    (tmp_path / "bad.tfrecord").write_bytes(b"not a record at all")
    with pytest.raises(DataError, match="not a readable TFRecord"):
        data.prepare(str(tmp_path / "bad.tfrecord"), IMAGE, TEN, tmp_path / "out")
