"""From a path to a model that runs."""

import json
import os
import zipfile

import broken
import numpy as np
import pytest

from tfcompress.compress.models import load, signature
from tfcompress.errors import DataError, ModelError, UnsafeModelError, UsageError


def test_input_shapes():
    assert load.parse_input_shape("224,224,3") == {"": (224, 224, 3)}
    assert load.parse_input_shape("left=224, 224,3;right=(10,)") == {"left": (224, 224, 3),
                                                                    "right": (10,)}
    assert load.parse_input_shape("28x28") == {"": (28, 28)}
    assert load.parse_input_shape(None) == {} == load.parse_input_shape("")


@pytest.mark.parametrize("text", ["abc", "1,0,3", "-1,3", "a=", "1,,2", "a=1;a=2", "None,3"])
def test_wrong_input_shapes(text):
    with pytest.raises(UsageError, match="--input-shape"):
        load.parse_input_shape(text)


def test_unique_names():
    assert signature.unique(["a", "b", "a", "a_1", "a"]) == ["a", "b", "a_1", "a_1_1", "a_2"]


def test_missing_file_is_said_without_tensorflow(tmp_path):
    with pytest.raises(ModelError, match="no model file"):
        load.open_model(tmp_path / "m.keras")


# With TensorFlow


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of models, written once."""
    import keras

    L, folder = keras.layers, tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(7)
    image = keras.Input((8, 8, 3), name="img")
    x = L.RandomFlip()(image)
    x = L.RandomContrast(0.5)(x)
    x = L.Conv2D(4, 3, activation="relu")(x)
    x = L.GlobalAveragePooling2D()(L.BatchNormalization()(x))
    made = {"image": keras.Model(image, L.Dense(3, activation="softmax", name="probs")(x))}
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    both = L.Concatenate()([a, b])
    shared = L.Dense(2, name="out")
    made["several"] = keras.Model([b, a], [L.Dense(2, name="p")(a), L.Dense(5, name="q")(both)])
    made["twice"] = keras.Model(a, [shared(a), shared(a * 2)])
    made["dict"] = keras.Model({"left": a, "right": b}, {"sum": L.Dense(2)(both),
                                                         "diff": L.Dense(1)(a)})
    made["nested"] = keras.Sequential([keras.Input((5,)), keras.Sequential([L.Dense(3)]),
                                       L.Dense(2)])
    made["dynamic"] = keras.Sequential([keras.Input((None, None, 3), name="any"),
                                        L.Conv2D(2, 3), L.GlobalMaxPooling2D()])
    made["uint8"] = keras.Sequential([keras.Input((8,), dtype="uint8"), L.Rescaling(1 / 255),
                                      L.Dense(2)])
    made["mixed"] = keras.Sequential([keras.Input((6,)), L.Dense(4, dtype="mixed_float16")])
    made["text"] = keras.Sequential([
        keras.Input((1,), dtype="string"),
        L.TextVectorization(vocabulary=["red", "blue"], output_sequence_length=3),
        L.Embedding(5, 2), L.Flatten()])
    made["integers"] = keras.Sequential([keras.Input((3,), dtype="int32"), L.Embedding(5, 2),
                                         L.Flatten()])
    made["batch4"] = keras.Sequential([keras.Input(batch_shape=(4, 6)), L.Dense(2)])
    made["counting"] = keras.Model(a, keras.ops.argmax(L.Dense(5)(a), axis=-1))
    made["one_row"] = keras.Model(a, keras.ops.broadcast_to(keras.ops.expand_dims(a, 1), (1, 3, 4)))
    made["nan"] = keras.models.clone_model(made["nested"])
    weights = made["nan"].get_weights()
    weights[0][0, 0] = np.nan
    made["nan"].set_weights(weights)
    made["inf"] = keras.models.clone_model(made["image"])
    weights = made["inf"].get_weights()
    weights[0].flat[:2] = np.inf, -np.inf
    made["inf"].set_weights(weights)
    for name, model in made.items():
        model.save(folder / f"{name}.keras")
    made["image"].save(folder / "image.h5")
    made["image"].export(folder / "image_sm", verbose=False)
    made["several"].export(folder / "several_sm", verbose=False)
    made["image"].save_weights(folder / "image.weights.h5")
    return folder


def spec(specs):
    return [(s.name, s.shape, s.dtype) for s in specs]


@pytest.mark.slow
def test_images_from_every_format(saved, capfd):
    import keras

    loaded = load.open_model(saved / "image.keras")
    assert loaded.kind == "keras3" and loaded.trainable and not loaded.notes
    assert spec(loaded.inputs) == [("img", (None, 8, 8, 3), "float32")]
    assert spec(loaded.outputs) == [("probs", (None, 3), "float32")]
    x = np.random.default_rng(0).random((70, 8, 8, 3), "float32")
    out = load.call(loaded, [x])
    assert capfd.readouterr() == ("", "")
    want = keras.models.load_model(saved / "image.keras")(x, training=False).numpy()
    np.testing.assert_allclose(out[0], want, atol=1e-6)
    again = load.call(loaded, [x])[0]  # augmentation is off, batches make no difference
    assert (again == out[0]).all()
    assert loaded.compiled["function"].experimental_get_tracing_count() == 1
    np.testing.assert_allclose(load.as_function(loaded)([x])[0].numpy(), want, atol=1e-6)
    h5 = load.open_model(saved / "image.h5")
    assert h5.kind == "keras3" and (load.call(h5, [x])[0] == out[0]).all()
    folder = load.open_model(saved / "image_sm")
    assert folder.kind == "saved-model" and not folder.trainable
    assert spec(folder.inputs) == [("img", (None, 8, 8, 3), "float32")]
    assert load.call(folder, [x])[0].shape == (70, 3)


@pytest.mark.slow
def test_inputs_and_outputs_in_order(saved):
    several = load.open_model(saved / "several.keras")
    assert [s.name for s in several.inputs] == ["b", "a"]
    assert spec(several.outputs) == [("p", (None, 2), "float32"), ("q", (None, 5), "float32")]
    rng = np.random.default_rng(0)
    a, b = rng.random((5, 4), "float32"), rng.random((5, 3), "float32")
    p, q = load.call(several, [b, a])
    assert p.shape == (5, 2) and q.shape == (5, 5)
    folder = load.open_model(saved / "several_sm")
    assert [s.name for s in folder.inputs] == ["a", "b"]
    for want, got in zip((p, q), load.call(folder, [a, b]), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)
    by_key = load.open_model(saved / "dict.keras")
    assert [s.name for s in by_key.inputs] == ["left", "right"]
    assert spec(by_key.outputs) == [("diff", (None, 1), "float32"), ("sum", (None, 2), "float32")]
    assert [o.shape for o in load.call(by_key, [a, b])] == [(5, 1), (5, 2)]
    twice = load.open_model(saved / "twice.keras")
    assert [s.name for s in twice.outputs] == ["out", "out_1"]


@pytest.mark.slow
def test_types_stay_true(saved):
    specs = {n: load.open_model(saved / f"{n}.keras") for n in
             ("uint8", "mixed", "text", "integers", "batch4", "counting")}
    assert specs["uint8"].inputs[0].dtype == "uint8"
    assert specs["mixed"].outputs[0].dtype == "float16"
    assert load.call(specs["mixed"], [np.ones((3, 6))])[0].dtype == np.float32
    assert specs["text"].inputs[0].dtype == "string"
    words = np.array([["red"], ["blue red"]], object)
    assert load.call(specs["text"], [words])[0].shape == (2, 6)
    assert specs["integers"].inputs[0].dtype == "int32"
    assert specs["batch4"].inputs[0].shape == (4, 6)
    assert load.call(specs["batch4"], [np.ones((5, 6))])[0].shape == (5, 2)
    assert load.call(specs["counting"], [np.ones((5, 4))])[0].dtype.kind == "i"
    one = load.open_model(saved / "one_row.keras")  # holds a batch of 1 in its graph
    assert load.call(one, [np.ones((5, 4), "float32")])[0].shape == (5, 3, 4)


@pytest.mark.slow
def test_free_dimensions(saved):
    path = saved / "dynamic.keras"
    with pytest.raises(ModelError) as caught:
        load.open_model(path)
    assert "'any'" in caught.value.message and "--input-shape any=224,224,3" in caught.value.hint
    loaded = load.open_model(path, input_shapes=load.parse_input_shape("16,20,3"))
    assert loaded.inputs[0].shape == (None, 16, 20, 3)
    assert load.call(loaded, [np.ones((2, 16, 20, 3))])[0].shape == (2, 2)
    for wrong in ("16,16,1", "16,16", "other=16,16,3"):
        with pytest.raises(UsageError):
            load.open_model(path, input_shapes=load.parse_input_shape(wrong))
    with pytest.raises(UsageError, match="2 inputs"):
        load.open_model(saved / "several.keras", input_shapes={"": (4,)})


@pytest.mark.slow
def test_wrong_data(saved):
    loaded = load.open_model(saved / "several.keras")
    good = np.ones((2, 3)), np.ones((2, 4))
    for arrays in ([good[0]], [good[1], good[0]], [good[0], np.ones((3, 4))],
                   [np.ones((0, 3)), np.ones((0, 4))]):
        with pytest.raises(DataError):
            load.call(loaded, arrays)
    assert len(load.call(loaded, list(good))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name,layer", [("nan", "dense"), ("inf", "conv2d")])
def test_bad_weights_name_the_layer(name, layer, saved):
    with pytest.raises(ModelError, match=f"NaN or infinite weights in: .*{layer}") as caught:
        load.open_model(saved / f"{name}.keras")
    assert str(saved / f"{name}.keras") in caught.value.message


@pytest.mark.slow
def test_weights_files_and_saved_models_without_signature(saved, tmp_path):
    import tensorflow as tf

    with pytest.raises(ModelError, match="weights without a model"):
        load.open_model(saved / "image.weights.h5")
    tf.saved_model.save(tf.Module(), str(tmp_path / "sm"))
    with pytest.raises(ModelError, match="without signatures"):
        load.open_model(tmp_path / "sm")
    (tmp_path / "sm" / "saved_model.pb").write_bytes(b"junk" * 10)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load.open_model(tmp_path / "sm")


@pytest.mark.slow
def test_saved_model_that_writes_files_is_refused(tmp_path):
    import tensorflow as tf

    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.float32, name="x")])
    def serve(x):
        tf.io.write_file(str(tmp_path / "sentinel"), "x")
        return {"y": x}

    module.serve = serve
    tf.saved_model.save(module, str(tmp_path / "sm"), signatures=serve)
    with pytest.raises(UnsafeModelError, match="WriteFile"):
        load.open_model(tmp_path / "sm")
    loaded = load.open_model(tmp_path / "sm", unsafe=True)
    assert not (tmp_path / "sentinel").exists()
    assert load.call(loaded, [np.ones((1, 2))])[0].shape == (1, 2)


OWN = """
import keras

@keras.saving.register_keras_serializable("own")
class Scale(keras.layers.Layer):
    def __init__(self, by=2.0, **kwargs):
        super().__init__(**kwargs)
        self.by = by
    def call(self, x):
        return x * self.by
    def get_config(self):
        return super().get_config() | {"by": self.by}

class Plain(keras.layers.Layer):
    def call(self, x):
        return x + 1.0

def wave(x):
    return keras.ops.sin(x)

@keras.saving.register_keras_serializable("own")
class Two(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.left, self.right = keras.layers.Dense(3), keras.layers.Dense(3)
    def call(self, p, q):
        return {"sum": self.left(p) + self.right(q)}

@keras.saving.register_keras_serializable("own")
class One(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(3)
    def call(self, x):
        return self.dense(x)
"""

# Run in processes of their own: registering a class is for good.
MAKE = """
import keras, numpy as np, own_layers as own
L = keras.layers
x = keras.Input((4,), name="x")
keras.Model(x, own.Plain()(own.Scale(3.0)(x))).save("own.keras")
keras.Model(x, L.Dense(2, activation=own.wave)(x)).save("wave.keras")
keras.Model(x, own.Plain()(x)).save("own.h5")
one = own.One(); one(np.zeros((1, 6))); one.save("one.keras")
two = own.Two(); y = two(np.ones((2, 6)), np.ones((2, 5))); two.save("two.keras")
np.save("one.npy", one(np.ones((2, 6)))); np.save("two.npy", y["sum"])
"""

USE = """
import numpy as np, json, sys
from tfcompress.compress.models import load
from tfcompress.errors import ModelError
said = {}
for name in ("own.keras", "own.h5", "wave.keras", "one.keras", "two.keras"):
    try:
        load.open_model(name)
    except ModelError as error:
        said[name] = error.message + " | " + error.hint
own = {"custom_objects": ["own_layers"]}
try:
    load.open_model("own.keras", custom_objects=["no_such_module"])
except ModelError as error:
    said["import"] = error.message
assert "own_layers" not in sys.modules
a = load.open_model("own.keras", **own)
said["own"] = load.call(a, [np.ones((2, 4))])[0].tolist()
said["h5"] = load.call(load.open_model("own.h5", **own), [np.ones((2, 4))])[0].tolist()
load.open_model("wave.keras", **own)
one = load.open_model("one.keras", **own)
said["one"] = [(s.name, s.shape) for s in one.inputs + one.outputs]
same = np.allclose(load.call(one, [np.ones((2, 6))])[0], np.load("one.npy"), atol=1e-6)
try:
    load.open_model("two.keras", **own)
except ModelError as error:
    said["shape"] = error.hint
two = load.open_model("two.keras", input_shapes=load.parse_input_shape("p=6;q=5"), **own)
said["two"] = [(s.name, s.shape) for s in two.inputs + two.outputs]
sum = load.call(two, [np.ones((2, 6)), np.ones((2, 5))])[0]
said["same"] = [same, np.allclose(sum, np.load("two.npy"), atol=1e-6)]
said["path"] = sys.path
print(json.dumps(said))
"""


@pytest.mark.slow
def test_own_classes(tmp_path):
    import subprocess
    import sys

    (tmp_path / "own_layers.py").write_text(OWN)
    subprocess.run([sys.executable, "-c", MAKE], cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run([sys.executable, "-P", "-c", USE], cwd=tmp_path, check=False,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    for name, missing in {"own.keras": "Plain", "own.h5": "Plain", "wave.keras": "wave",
                          "one.keras": "One", "two.keras": "Two"}.items():
        assert "--custom-objects package.module" in said[name], said[name]
        assert missing in said[name] or "Scale" in said[name]
    assert "no_such_module" in said["import"]
    assert said["own"] == [[4.0] * 4] * 2 and said["h5"] == [[2.0] * 4] * 2
    assert said["one"] == [["x", [None, 6]], ["output", [None, 3]]]
    assert said["two"] == [["p", [None, 6]], ["q", [None, 5]], ["sum", [None, 3]]]
    assert said["same"] == [True, True] and "p=10;q=10" in said["shape"]
    assert str(tmp_path) not in said["path"]


@pytest.mark.slow
def test_own_class_without_a_shape_takes_input_shape(tmp_path):
    import keras

    @keras.saving.register_keras_serializable("test_load")
    class Shapeless(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = keras.layers.Dense(3)

        def call(self, x):
            return self.dense(x)

    model = Shapeless()
    x = np.ones((1, 6), "float32")
    want = model(x).numpy()
    model.save(tmp_path / "m.keras")
    path = tmp_path / "n.keras"  # the same file, as if it did not say its shape
    with zipfile.ZipFile(tmp_path / "m.keras") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json":
                config = json.loads(data)
                config.pop("build_config")
                data = json.dumps(config)
            new.writestr(name, data)
    with pytest.raises(ModelError) as caught:
        load.open_model(path)
    assert "--input-shape" in caught.value.hint
    loaded = load.open_model(path, input_shapes={"": (6,)})
    np.testing.assert_allclose(load.call(loaded, [x])[0], want, atol=1e-6)


@pytest.mark.slow
def test_the_users_folder_is_only_read(saved):
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in saved.iterdir() if p.is_file()}
    os.chmod(saved / "image.h5", 0o400)
    load.open_model(saved / "image.h5")
    load.open_model(saved / "image.keras")
    assert before == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in saved.iterdir()
                      if p.is_file()}


@pytest.mark.slow
def test_a_file_that_keras_cannot_read_is_one_line(tmp_path):
    config = broken.functional(broken.dense(units="many"))
    path = broken.keras_zip(tmp_path / "m.keras", config)
    with pytest.raises(ModelError) as caught:
        load.open_model(path)
    assert "\n" not in caught.value.message and str(path) in caught.value.message
    assert "custom object" not in caught.value.message
    missing = broken.functional({"class_name": "Nowhere", "module": None, "config": {"name": "n"}})
    with pytest.raises(ModelError, match="Nowhere") as caught:
        load.open_model(broken.keras_zip(tmp_path / "n.keras", missing))
    assert "--custom-objects" in caught.value.hint


@pytest.mark.slow
def test_a_module_named_by_the_file_is_never_imported(tmp_path, monkeypatch):
    """tf_keras imports whatever module a Keras 2 file names; here it does not get that far."""
    (tmp_path / "evil_module.py").write_text(
        f"open({str(tmp_path / 'sentinel')!r}, 'w').close()\nclass Known: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import keras

    @keras.saving.register_keras_serializable("test_load")
    class Known(keras.layers.Layer):
        pass

    for number, registered in enumerate((None, "evil>Known", "Known")):
        layer = {"module": "evil_module", "class_name": "Known", "registered_name": registered,
                 "config": {"name": "k"}}
        for make in (broken.functional, broken.functional2):
            path = broken.keras_zip(tmp_path / f"{number}{make.__name__}.keras", make(layer),
                                    version="2.15.0")
            with pytest.raises(ModelError, match="Known"):
                load.open_model(path)
    assert not (tmp_path / "sentinel").exists()


@pytest.mark.slow
def test_a_model_with_an_operator_that_has_no_kernel_here_is_run_by_xla():
    import keras
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("GPUs have the kernel")
    keras.utils.set_random_seed(0)
    kind = {"dtype": "float64"}  # TensorFlow has no such kernel in this precision
    image = np.random.default_rng(0).normal(size=(5, 8, 8, 3))
    first = keras.Sequential([keras.Input((3, 8, 8), **kind),
                              keras.layers.Conv2D(4, 3, data_format="channels_first", **kind)])
    last = keras.Sequential([keras.Input((8, 8, 3), **kind), keras.layers.Conv2D(4, 3, **kind)])
    last.set_weights(first.get_weights())
    loaded = load.describe(first, {}, [])
    found = load.call(loaded, [image.transpose(0, 3, 1, 2)])[0]
    assert loaded.compiled["xla"] and "batch" not in loaded.compiled
    assert np.allclose(found.transpose(0, 2, 3, 1), load.call(load.describe(last, {}, []),
                                                              [image])[0], atol=1e-5)


def test_an_index_out_of_range_is_an_error_and_nothing_for_xla():
    import keras
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("GPUs give zeros")
    words = keras.Sequential([keras.Input((3,), dtype="int32"), keras.layers.Embedding(5, 2)])
    loaded = load.describe(words, {}, [])
    with pytest.raises(tf.errors.InvalidArgumentError, match="is not in"):
        load.call(loaded, [np.array([[0, 1, 7]])])
    assert "xla" not in loaded.compiled
    assert load.call(loaded, [np.array([[0, 1, 2]])])[0].shape == (1, 3, 2)
