import pytest

from tfcompress import targets
from tfcompress.errors import UsageError


def test_the_built_in_targets_are_these():
    assert targets.names() == [
        "keras",
        "saved-model",
        "tflite-float32",
        "litert-js",
        "tflite-float16",
        "tflite-gpu",
        "litert-js-dynamic",
        "tflite-dynamic",
        "edge-tpu",
        "ethos-u55-128",
        "ethos-u55-256",
        "ethos-u65-256",
        "ethos-u65-512",
        "ethos-u85-256",
        "micro",
        "tflite-int8",
        "tflite-int16x8",
        "tflite-int4",
        "onnx-float32",
        "onnx-web",
        "onnx-float16",
        "onnx-int8",
        "onnx-web-int8",
        "onnx-int4",
        "tfjs",
        "tfjs-float16",
        "tfjs-uint8",
    ]


def test_only_calibrated_targets_need_data():
    found = [t.name for t in targets.load_all() if t.needs_data and not t.compiler]
    assert found == ["tflite-int8", "tflite-int16x8", "onnx-int8"]
    assert all(t.needs_data for t in targets.load_all() if t.compiler not in ("", "web"))


def test_a_near_miss_is_answered_with_the_right_name():
    with pytest.raises(UsageError) as caught:
        targets.load("tflite-int-8")
    assert "did you mean tflite-int8" in caught.value.hint


@pytest.mark.parametrize("name", ["", "../errors", "/etc/passwd", "nothing like it"])
def test_unknown_names_list_the_known_ones(name):
    with pytest.raises(UsageError) as caught:
        targets.load(name)
    assert "tflite-int8" in caught.value.hint


def test_a_users_own_target(tmp_path):
    path = tmp_path / "watch.toml"
    path.write_text(
        'summary = "a watch"\nformat = "tflite"\nquantization = "int8"\n'
        'io_dtype = "uint8"\n[limits]\nbytes = 100000\n'
    )
    target = targets.load(str(path))
    assert (target.name, target.io_dtype, target.limits) == ("watch", "uint8", {"bytes": 100000})


@pytest.mark.parametrize(
    "text, told",
    [
        ("format = ", "not TOML"),
        ('summary = "x"', "'format' is missing"),
        ('summary = "x"\nformat = "tflite"\nquantisation = "int8"', "quantisation"),
        ('summary = "x"\nformat = "onyx"', "onyx"),
        ('summary = "x"\nformat = "tflite"\nmin_snr_db = "high"', "wrong type"),
        ('summary = "x"\nformat = "tflite"\n[limits]\nbites = 1', "bites"),
    ],
)
def test_wrong_target_files_are_told_apart(tmp_path, text, told):
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=told):
        targets.load(str(path))


def test_a_missing_target_file():
    with pytest.raises(UsageError, match="no target file"):
        targets.load("nowhere.toml")


@pytest.mark.parametrize("name, hint", [
    ("tflite", "did you mean tflite-float32, tflite-float16, tflite-gpu,"),
    ("ethos-u55", "did you mean ethos-u55-128 or ethos-u55-256?"),
    ("TFLITE_INT8", "did you mean tflite-int8? known targets:"),
    ("", "known targets:"),
])
def test_a_part_of_a_name_is_answered_with_all_that_have_it(name, hint):
    with pytest.raises(UsageError) as caught:
        targets.load(name)
    assert caught.value.hint.startswith(hint)
