"""What a model file may not hold. None of these tests loads TensorFlow except the last ones."""

import json
import os
import stat
import subprocess
import sys
import zipfile

import broken
import pytest

from tfcompress.compress.models import container, scan
from tfcompress.errors import ModelError, UnsafeModelError


def refused(path) -> UnsafeModelError:
    with pytest.raises(UnsafeModelError) as caught:
        scan.check(path)
    assert caught.value.hint and "\n" not in caught.value.message
    return caught.value


def hostile(folder) -> dict:
    """Every known hole: name -> (file, a word of the refusal)."""
    s = folder / "sentinel"
    gadget = broken.function("keras.utils", "get_file")
    op = {"class_name": "TFOpLambda", "config": {"name": "evil", "function": "io.write_file"}}
    unsafe_mode = broken.lambda3(broken.function("keras.config", "enable_unsafe_deserialization"))
    z, h, f, f2 = broken.keras_zip, broken.h5, broken.functional, broken.functional2
    made = {
        "CVE-2024-3660-h5": h(folder / "a.h5", f2(broken.lambda2(s))),
        "CVE-2024-3660-keras2": z(folder / "a2.keras", f2(broken.lambda2(s)), version="2.12.0"),
        "CVE-2025-1550": z(folder / "b.keras", f(broken.dense(
            activation=broken.function("os", "system")))),
        "CVE-2025-8747": z(folder / "c.keras", f(broken.lambda3(
            gadget, origin=f"file://{s}", cache_dir=str(folder)))),
        "CVE-2025-9905": h(folder / "d.h5", f2(broken.lambda2(s)), version="3.10.0"),
        "CVE-2025-9906": z(folder / "e.keras", f(unsafe_mode)),
        "CVE-2025-12060": z(folder / "f.keras", f(broken.dense(activation=gadget))),
        "CVE-2026-1462": z(folder / "g.keras", f(
            {"module": "keras.layers", "class_name": "TFSMLayer", "config": {
                "name": "evil", "filepath": str(folder), "call_endpoint": "serve"}})),
        "CVE-2026-12479": z(folder / "h.keras", f(broken.dense(name="../../evil"))),
        "CVE-2025-12058": z(folder / "i.keras", f(
            {"module": "keras.layers", "class_name": "StringLookup",
             "config": {"name": "evil", "vocabulary": "/etc/passwd"}})),
        "lambda-in-initializer": z(folder / "j.keras", f(
            broken.dense(kernel_initializer=broken.lambda_code(s)))),
        "lambda-in-loss": z(folder / "k.keras", f(broken.dense()) | {
            "compile_config": {"loss": broken.lambda_code(s)}}),
        "lambda-in-wrapper": z(folder / "l.keras", f(
            {"module": "keras.layers", "class_name": "TimeDistributed", "config": {
                "name": "t", "layer": broken.lambda3(broken.lambda_code(s))}})),
        "lambda-in-nested-model": z(folder / "m.keras", f(
            {**f(broken.lambda3(broken.lambda_code(s))), "name": "inner"})),
        "json-in-string": z(folder / "n.keras", f(
            broken.dense(note=json.dumps(broken.lambda3(broken.lambda_code(s)))))),
        "torch": z(folder / "o.keras", f(
            {"module": "keras.layers", "class_name": "TorchModuleWrapper",
             "config": {"name": "evil", "module": "gASV"}})),
        "python-builtin": h(folder / "p.h5", f2(
            {"class_name": "Dense", "config": {
                "name": "d", "units": 1, "activation": broken.function("builtins", "eval")}})),
        "module-tf_keras-imports": z(folder / "q.keras", f2(
            {"module": "subprocess", "class_name": "Popen", "config": {"name": "e", "args": "x"},
             "registered_name": None}), version="2.15.0"),
        "keras-internals": z(folder / "r.keras", f(
            {"module": "keras.src.utils.file_utils", "class_name": "function", "config": {},
             "registered_name": None})),
        "loader-as-class": z(folder / "s.keras", f(broken.dense(activation={
            "module": "keras.models", "class_name": "load_model", "config": {},
            "registered_name": None}))),
        "op-writes-file": h(folder / "t.h5", f2(op, {"contents": "x"})),
        "raw-op": h(folder / "u.h5", f2({"class_name": "TFOpLambda", "config": {
            "name": "e", "function": "raw_ops.WriteFile"}})),
        "py_function": h(folder / "v.h5", f2({"class_name": "TFOpLambda", "config": {
            "name": "e", "function": "numpy_function"}})),
        "method": h(folder / "w.h5", f2({"class_name": "ClassMethod", "config": {
            "name": "e", "cls_symbol": "io.TFRecordWriter", "method_name": "write"}})),
    }
    return made


NAMES = sorted(["CVE-2024-3660-h5", "CVE-2024-3660-keras2", "CVE-2025-1550", "CVE-2025-8747",
                "CVE-2025-9905", "CVE-2025-9906", "CVE-2025-12060", "CVE-2026-1462",
                "CVE-2026-12479", "CVE-2025-12058", "lambda-in-initializer", "lambda-in-loss",
                "lambda-in-wrapper", "lambda-in-nested-model", "json-in-string", "torch",
                "python-builtin", "module-tf_keras-imports", "keras-internals",
                "loader-as-class", "op-writes-file", "raw-op", "py_function", "method"])


@pytest.mark.parametrize("name", NAMES)
def test_code_in_a_file_is_refused_and_the_layer_named(name, tmp_path):
    error = refused(hostile(tmp_path)[name])
    assert "layer '" in error.message or "object in" in error.message
    assert "--unsafe-load" in error.hint and "your rights" in error.hint
    assert not (tmp_path / "sentinel").exists()


def test_every_hostile_file_is_tested(tmp_path):
    assert sorted(hostile(tmp_path)) == NAMES


def test_unsafe_accepts_code_but_no_broken_container(tmp_path):
    assert scan.check(hostile(tmp_path)["CVE-2024-3660-h5"], unsafe=True).container.kind == "h5"
    bad = broken.keras_zip(tmp_path / "bad.keras", {}, members={"../x": "y"})
    with pytest.raises(UnsafeModelError):
        scan.check(bad, unsafe=True)


def test_harmless_files_pass_and_own_classes_are_listed(tmp_path):
    own = {"module": "my.layers", "class_name": "Mine", "registered_name": "my>Mine",
           "config": {"name": "mine", "activation": broken.function("builtins", "relu")}}
    found = scan.check(broken.keras_zip(tmp_path / "m.keras", broken.functional(own)))
    assert found.custom == (scan.Custom("my.layers", "Mine", "my>Mine"),)
    own["registered_name"] = None  # tf_keras would import the module
    found = scan.check(broken.keras_zip(tmp_path / "r.keras", broken.functional(own)))
    assert found.custom == (scan.Custom("my.layers", "Mine", ""),)
    for module in ("keras.layers", "keras.src.layers.core.dense", "tf_keras.src.layers",
                   "keras.src.engine.sequential", "tensorflow.keras.layers", "keras.engine.x"):
        config = broken.functional({**broken.dense(), "module": module})
        assert not scan.check(broken.keras_zip(tmp_path / "k.keras", config)).custom
    loss = broken.functional(broken.dense()) | {"compile_config": {"loss": {
        "module": "mine", "class_name": "Loss", "registered_name": "mine>Loss", "config": {}}}}
    assert not scan.check(broken.keras_zip(tmp_path / "l.keras", loss)).custom  # never built
    op = {"class_name": "TFOpLambda", "config": {"name": "m", "function": "math.multiply"}}
    scan.check(broken.h5(tmp_path / "o.h5", broken.functional2(op, {"y": 2.0})))


# containers


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "assets/../../evil", "..\\evil",
                                  "C:\\evil"])
def test_ghsa_hqp4_2352_xf5r_members_stay_inside(name, tmp_path):
    path = broken.keras_zip(tmp_path / "m.keras", broken.functional(broken.dense()),
                            members={name: "x"})
    assert "outside" in refused(path).message


def test_symbolic_link_in_zip(tmp_path):
    info = zipfile.ZipInfo("assets/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = broken.keras_zip(tmp_path / "m.keras", broken.functional(broken.dense()))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, "/etc/passwd")
    assert "symbolic link" in refused(path).message


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_second_config_in_zip(tmp_path):
    path = broken.keras_zip(tmp_path / "m.keras", broken.functional(broken.dense()),
                            members={"config.json": "{}"})
    assert "two files" in refused(path).message


def test_zip_bomb(tmp_path):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        with archive.open("model.weights.h5", "w", force_zip64=True) as member:
            for _ in range(300):
                member.write(bytes(1 << 20))
    assert "zip bomb" in refused(path).message


def test_ghsa_xfhx_r7ww_5995_declared_size(tmp_path):
    def write(file):
        file["layers"].create_dataset("kernel", shape=(50_000, 50_000, 100), dtype="f4",
                                      chunks=(10, 10, 10), compression="gzip")

    path = broken.keras_zip(tmp_path / "m.keras", broken.functional(broken.dense()),
                            weights=broken.weights_h5(write))
    assert "declared" in refused(path).message
    assert "declared" in refused(broken.h5(tmp_path / "m.h5", {}, write=lambda f: f.create_dataset(
        "w", shape=(1 << 20, 1 << 20), dtype="f4", chunks=(8, 8)))).message


def test_weights_in_other_files(tmp_path):
    import h5py

    secret = tmp_path / "secret.bin"
    secret.write_bytes(b"x" * 64)

    def virtual(file):
        layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
        layout[:] = h5py.VirtualSource(str(secret), "d", shape=(4,))
        file.create_virtual_dataset("v", layout)

    def external(file):
        file.create_dataset("e", (4,), "f4", external=[(str(secret), 0, 16)])

    def linked(file):
        file["l"] = h5py.ExternalLink(str(secret), "/")

    def soft(file):
        file["s"] = h5py.SoftLink("/nowhere")

    for number, write in enumerate([virtual, external, linked, soft]):
        message = refused(broken.h5(tmp_path / f"{number}.h5", {}, write=write)).message
        assert "another file" in message or "link" in message
        inside = broken.keras_zip(tmp_path / f"{number}.keras", {},
                                  weights=broken.weights_h5(write))
        refused(inside)


def test_hard_link_cycle_ends(tmp_path):
    def write(file):
        file["model_weights/again"] = file["/"]

    path = broken.h5(tmp_path / "m.h5", broken.functional2({"class_name": "Dense", "config": {
        "name": "d", "units": 1}}), write=write)
    assert scan.check(path).container.kind == "h5"


@pytest.mark.parametrize("depth", [300, 100_000])
def test_deep_nesting(depth, tmp_path):
    path = broken.keras_zip(tmp_path / "m.keras", '{"a":' * depth + "1" + "}" * depth)
    assert "nested too deeply" in refused(path).message


def test_pickled_weights(tmp_path):
    import io

    import numpy as np

    out = io.BytesIO()
    np.savez(out, w=np.array([print], dtype=object))
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.npz", out.getvalue())
    assert "pickled" in refused(path).message


@pytest.mark.parametrize("op", ["ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "EagerPyFunc",
                                "PyFuncStateless", "TextLineDataset"])
def test_saved_model_operations(op, tmp_path):
    path = broken.saved_model(tmp_path / "sm", "MatMul", op)
    assert op.removesuffix("Stateless") in refused(path).message
    assert scan.check(path, unsafe=True).container.kind == "saved-model"
    assert scan.check(broken.saved_model(tmp_path / "ok", "MatMul", "Relu"))


# not models


def said(path) -> str:
    with pytest.raises(ModelError) as caught:
        scan.check(path)
    assert not isinstance(caught.value, UnsafeModelError)
    assert caught.value.hint and "\n" not in caught.value.message + caught.value.hint
    assert str(path) in caught.value.message
    return caught.value.message


def test_files_that_are_no_models(tmp_path):
    def file(name: str, content: bytes):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    good = broken.keras_zip(tmp_path / "good.keras", broken.functional(broken.dense()))
    plain = tmp_path / "plain.zip"
    with zipfile.ZipFile(plain, "w") as archive:
        archive.writestr("a.txt", "hello")
    torch = tmp_path / "torch.zip"
    with zipfile.ZipFile(torch, "w") as archive:
        archive.writestr("archive/data.pkl", "x")
    (tmp_path / "folder").mkdir()
    cases = {
        tmp_path / "missing.keras": "no model file",
        file("empty.keras", b""): "is empty",
        file("text.keras", b"hello\n" * 10): "text file",
        file("lfs.keras", b"version https://git-lfs.github.com/spec/v1\n"): "Git LFS",
        file("arch.json", b'{"class_name": "Sequential", "config": {}}'): "architecture",
        file("junk.keras", bytes(range(256)) * 8): "damaged, or not a model",
        file("cut.keras", good.read_bytes()[:200]): "truncated or damaged",
        file("cut.h5", b"\x89HDF\r\n\x1a\n" + bytes(100)): "truncated or damaged",
        file("m.tflite", b"\x1c\0\0\0TFL3" + bytes(64)): "TFLite",
        file("m.onnx", b"\x08\x07\x12\x04test"): "ONNX",
        file("m.pb", b"\x0a\x07junk\xff"): "bare TensorFlow graph",
        file("m.pt", b"\x80\x02junk"): "PyTorch",
        plain: "without a Keras model",
        torch: "PyTorch",
        tmp_path / "folder": "without a saved_model.pb",
        tmp_path / "folder" / "deep.keras" / "x": "no model file",
        broken.keras_zip(tmp_path / "nojson.keras", "not json"): "not JSON",
    }
    for path, words in cases.items():
        assert words in said(path), path


def test_damaged_in_the_middle(tmp_path):
    path = broken.keras_zip(tmp_path / "m.keras", broken.functional(broken.dense()))
    data = bytearray(path.read_bytes())
    at = data.index(b"InputLayer")
    data[at:at + 4] = b"XXXX"
    path.write_bytes(data)
    assert "damaged" in said(path)


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_truncated(keep, tmp_path):
    def write(file):
        file["model_weights"].create_dataset("kernel", data=[[1.5] * 200] * 200)

    path = broken.h5(tmp_path / "m.h5", broken.functional2({"class_name": "Dense", "config": {
        "name": "d", "units": 1}}), write=write)
    path.write_bytes(path.read_bytes()[:int(path.stat().st_size * keep)])
    assert "truncated or damaged" in said(path)
    path = broken.keras_zip(tmp_path / "m.keras", broken.functional(broken.dense()))
    path.write_bytes(path.read_bytes()[:int(path.stat().st_size * keep)])
    assert "truncated or damaged" in said(path)


def test_weights_only(tmp_path):
    path = tmp_path / "m.weights.h5"
    path.write_bytes(broken.weights_h5())
    assert "weights without a model" in said(path)


def test_unreadable(tmp_path):
    path = broken.keras_zip(tmp_path / "m.keras", {})
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # root may read everything
        os.seteuid(65534)
    try:
        assert "permission" in said(path)
    finally:
        os.seteuid(user)


def test_fifo_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.keras")
    assert "regular file" in said(tmp_path / "pipe.keras")


def test_the_file_is_only_read(tmp_path):
    path = broken.h5(tmp_path / "m.h5", broken.functional2(
        {"class_name": "Dense", "config": {"name": "d", "units": 1}}))
    before = path.read_bytes(), sorted(tmp_path.iterdir())
    path.chmod(0o400)
    scan.check(path)
    assert (path.read_bytes(), sorted(tmp_path.iterdir())) == before


def test_scanning_imports_no_tensorflow(tmp_path):
    path = broken.h5(tmp_path / "m.h5", broken.functional2(
        {"class_name": "Dense", "config": {"name": "d", "units": 1}}))
    code = ("import sys; from tfcompress.compress.models import scan; "
            f"scan.check({str(path)!r}); "
            "sys.exit(bool({'tensorflow', 'keras', 'tf_keras'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_container_of_a_model(tmp_path):
    path = broken.keras_zip(tmp_path / "m.keras", broken.functional(broken.dense()))
    found = container.read(path)
    assert found.kind == "keras" and found.keras_version == "3.10.0"


# alive: the same files do run code where nobody looks first


@pytest.mark.slow
def test_the_payloads_are_alive_and_open_model_never_runs_them(tmp_path):
    import tf_keras

    from tfcompress.compress.models import load

    sentinel = tmp_path / "sentinel"
    files = hostile(tmp_path)
    for path in files.values():
        with pytest.raises(UnsafeModelError):
            load.open_model(path)
        assert not sentinel.exists()
    tf_keras.models.load_model(files["CVE-2024-3660-h5"], compile=False)
    assert sentinel.exists()  # tf_keras alone runs the lambda
    sentinel.unlink()
    op = {"class_name": "TFOpLambda", "config": {"name": "evil", "function": "io.write_file"}}
    config = broken.functional2(op, {"contents": "x"})
    config["config"]["layers"][0]["config"] |= {"batch_input_shape": [], "dtype": "string"}
    path = broken.h5(tmp_path / "write.h5", config)
    with pytest.raises(UnsafeModelError, match=r"tf\.io\.write_file"):
        load.open_model(path)


@pytest.mark.slow
def test_unsafe_load_runs_lambdas_in_both_kerases(tmp_path):
    import keras

    from tfcompress.compress.models import load

    path = broken.h5(tmp_path / "m.h5", broken.functional2(broken.lambda2(tmp_path / "sentinel")))
    loaded = load.open_model(path, unsafe=True)
    assert (tmp_path / "sentinel").exists() and "--unsafe-load" in " ".join(loaded.notes)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x * 3)])
    model.save(tmp_path / "l.keras")
    loaded = load.open_model(tmp_path / "l.keras", unsafe=True)
    import numpy as np

    assert (load.call(loaded, [np.ones((2, 4), "float32")])[0] == 3).all()
