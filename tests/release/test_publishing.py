"""publish, pull, list and alias: references, immutability, suspicion, concurrency, lightness."""

import hashlib
import json
import os
import subprocess
import sys
import time

import pytest
import storing
from storing import contents, make_output, tfcompress

from tfcompress.errors import MissingExtra, OutputError, StoreError, UsageError
from tfcompress.release import publishing, references


@pytest.fixture
def out(tmp_path):
    return make_output(tmp_path / "out", extra={"tflite-int8-model/a/b.bin": b"deep"})


@pytest.fixture
def store(tmp_path):
    return str(tmp_path / "store")


@pytest.fixture
def keys(tmp_path):
    pytest.importorskip("cryptography")
    return storing.make_keys(tmp_path / "keys")


def pull(reference, folder, **more):
    return publishing.pull(reference, folder=str(folder), **more)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("store/digits", ("store", "digits", "", "")),
        ("./store/digits:1.0-rc_1", ("./store", "digits", "1.0-rc_1", "")),
        ("/abs/digits@prod", ("/abs", "digits", "", "prod")),
        ("s3://bucket/a/b/digits:7", ("s3://bucket/a/b", "digits", "7", "")),
        ("oci://localhost:5000/digits@prod", ("oci://localhost:5000", "digits", "", "prod")),
        ("https://host/models/digits/", ("https://host/models", "digits", "", "")),
    ],
)
def test_references(text, parts):
    at = references.parse(text)
    assert (at.store, at.name, at.version, at.alias) == parts


@pytest.mark.parametrize(
    "text",
    ["digits", "store/Digits", "store/", "store/..", "store/a:b:c", "store/a@", "store/a:",
     "store/a:..", "store/a@.hid", "oci://localhost:5000", "s3://bucket", "store/a:1@prod",
     "store/a\n", "store/a:" + "x" * 65, "https://me:pw@host/digits"],
)
def test_references_that_are_none(text):
    with pytest.raises(UsageError) as caught:
        references.parse(text)
    assert "pw" not in caught.value.message and "\n" not in caught.value.message


def test_a_version_is_named_by_the_digest_unless_told(out, store, tmp_path):
    done = publishing.publish(out, f"{store}/digits")
    digest = hashlib.sha256((out / "manifest.json").read_bytes()).hexdigest()
    assert done["version"] == digest[:12] and done["sha256"] == digest
    assert pull(f"{store}/digits:{digest[:12]}", tmp_path / "in")["version"] == digest[:12]
    assert contents(tmp_path / "in") == contents(out)
    publishing.publish(tmp_path / "in", f"{store}/copy:1")  # what was pulled can be published


def test_versions_never_change(out, store, tmp_path):
    two = make_output(tmp_path / "two", "two")
    publishing.publish(out, f"{store}/digits:1")
    with pytest.raises(StoreError, match="digits:1 is there already with other bytes"):
        publishing.publish(two, f"{store}/digits:1", aliases=("prod",))
    assert not publishing.parse(f"{store}/digits").open().alias("prod")
    assert not publishing.publish(out, f"{store}/digits:1")["created"]
    assert pull(f"{store}/digits:1", tmp_path / "in") and contents(tmp_path / "in") == contents(out)


def test_aliases_move_and_latest_follows_new_versions_only(out, store, tmp_path):
    two = make_output(tmp_path / "two", "two")
    publishing.publish(out, f"{store}/digits:1", aliases=("prod",))
    publishing.publish(two, f"{store}/digits:2")
    publishing.publish(out, f"{store}/digits:1")
    releases = publishing.parse(f"{store}/digits").open()
    assert releases.aliases() == {"latest": "2", "prod": "1"}
    assert publishing.alias(f"{store}/digits@latest", "prod")["before"] == "1"
    assert releases.aliases() == {"latest": "2", "prod": "2"}


def test_aliases_and_versions_share_their_names(out, store):
    publishing.publish(out, f"{store}/digits:1", aliases=("prod",))
    for call in (
        lambda: publishing.publish(out, f"{store}/digits:prod"),
        lambda: publishing.publish(out, f"{store}/digits:latest"),
        lambda: publishing.publish(out, f"{store}/digits@prod"),
        lambda: publishing.publish(out, f"{store}/digits:2", aliases=("2",)),
        lambda: publishing.publish(out, f"{store}/digits:2", aliases=("1",)),
        lambda: publishing.alias(f"{store}/digits:1", "1"),
        lambda: publishing.alias(f"{store}/digits:1", "../1"),
    ):
        with pytest.raises(UsageError):
            call()
    assert [e["version"] for e in publishing.listing(f"{store}/digits")] == ["1"]


def test_a_target_brings_its_usage_note(store, tmp_path):
    mine = ["usage/explorer/tflite-int8-macs.json", "usage/tflite-int8.md", "usage/tflite-int8.py"]
    others = ["usage/tflite-float16.md", "README.md", "usage/tflite-int8x.md"]
    out = make_output(tmp_path / "out", extra={name: b"told" for name in mine + others})
    publishing.publish(out, f"{store}/digits:1")
    done = pull(f"{store}/digits", tmp_path / "in", targets=("tflite-int8",))
    assert done["files"] == ["tflite-int8.tflite", *mine]
    assert sorted(contents(tmp_path / "in")) == ["manifest.json", *done["files"]]
    assert set(pull(f"{store}/digits", tmp_path / "all")["files"]) >= {*mine, *others}


def test_targets_and_what_belongs_to_them(out, store, tmp_path):
    publishing.publish(out, f"{store}/digits:1")
    done = pull(f"{store}/digits", tmp_path / "in", targets=("tflite-int8",))
    assert done["files"] == ["tflite-int8-model/a/b.bin", "tflite-int8.tflite"]
    assert sorted(contents(tmp_path / "in")) == ["manifest.json", *done["files"]]
    pull(f"{store}/digits", tmp_path / "in", targets=("tflite-float16",))  # the same release: added
    assert len(contents(tmp_path / "in")) == 4
    with pytest.raises(UsageError, match="tflite-int4") as caught:
        pull(f"{store}/digits", tmp_path / "in", targets=("tflite-int4",))
    assert caught.value.hint == "it has: tflite-int8, tflite-float16"
    with pytest.raises(OutputError, match="is missing"):
        publishing.publish(tmp_path / "in", f"{store}/part:1")


def test_pulling_again_fetches_only_what_changed(out, store, tmp_path):
    publishing.publish(out, f"{store}/digits:1")
    two = make_output(tmp_path / "two", "one", extra={"new.txt": b"new"})
    publishing.publish(two, f"{store}/digits:2")
    assert pull(f"{store}/digits:1", tmp_path / "in")["fetched_bytes"] > 0
    assert pull(f"{store}/digits:1", tmp_path / "in")["fetched_bytes"] == 0
    assert pull(f"{store}/digits:2", tmp_path / "in")["fetched_bytes"] == 3
    assert contents(tmp_path / "in") == contents(two)
    (tmp_path / "in/tflite-int8.tflite").write_bytes(b"spoilt")
    assert pull(f"{store}/digits:2", tmp_path / "in")["fetched_bytes"] > 0
    assert contents(tmp_path / "in") == contents(two)


def test_a_folder_of_something_else_is_left_alone(out, store, tmp_path):
    publishing.publish(out, f"{store}/digits:1")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(OutputError, match="did not write"):
        pull(f"{store}/digits:1", tmp_path / "mine")
    assert contents(tmp_path / "mine") == {"thesis.txt": b"years"}


def test_what_changed_after_shrink_is_not_published(out, store, tmp_path):
    (out / "report.html").write_text("edited")
    with pytest.raises(OutputError, match="changed since"):
        publishing.publish(out, f"{store}/digits:1")
    assert not os.path.exists(store)
    with pytest.raises(UsageError, match="no output folder"):
        publishing.publish(tmp_path / "nowhere", f"{store}/digits:1")


@pytest.mark.parametrize(
    "name",
    ["../evil", "a/../../evil", "/etc/evil", "a//b", "a/./b", "", "..", "C:evil", "a\\..\\evil",
     "a\x00b", "a\u202eb", "a\x9bb", "line\nbreak", "manifest.json", "Manifest.JSON", "dot.",
     " space", "a" * 1001],
)
def test_names_that_leave_the_folder_are_refused(name, store, tmp_path):
    publishing.publish(make_output(tmp_path / "good"), f"{store}/digits:1")
    storing.write_manifest(tmp_path / "bad", {name: storing.entry(b"")})
    (tmp_path / "store/digits/versions/1.json").write_bytes(
        (tmp_path / "bad/manifest.json").read_bytes())
    before = sorted(p for p in tmp_path.rglob("*"))
    with pytest.raises(StoreError, match="its manifest.json names") as caught:
        pull(f"{store}/digits:1", tmp_path / "in")
    assert len(caught.value.message) < 500 and "\n" not in caught.value.message
    assert sorted(p for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"files": []}', b'{"files": {"a": {}}}', b"[" * 10_000,
     b'{"files": {"a": {"sha256": "../x", "bytes": 1}}}',
     b'{"files": {"a": {"sha256": "' + b"0" * 64 + b'", "bytes": -1}}}',
     b'{"files": {"a": {"sha256": "' + b"0" * 64 + b'", "bytes": true}}}'],
)
def test_manifests_that_are_none(data):
    with pytest.raises(StoreError, match="not one of tfcompress"):
        references.read_manifest(data, "here")


def test_a_manifest_that_names_missing_bytes_leaves_nothing(out, store, tmp_path):
    publishing.publish(out, f"{store}/digits:1")
    for blob in (tmp_path / "store/digits/blobs").iterdir():
        blob.unlink()
    with pytest.raises(StoreError, match="has lost"):
        pull(f"{store}/digits:1", tmp_path / "in")
    assert not (tmp_path / "in").exists() and not (tmp_path / ".in.pull").exists()


def test_two_names_of_the_same_bytes_are_two_files(store, tmp_path):
    out = make_output(tmp_path / "out", extra={"a.txt": b"same", "b.txt": b"same"})
    publishing.publish(out, f"{store}/digits:1")
    pull(f"{store}/digits:1", tmp_path / "in")
    (tmp_path / "in/a.txt").write_bytes(b"mine")
    assert (tmp_path / "in/b.txt").read_bytes() == b"same"
    pull(f"{store}/digits:1", tmp_path / "in")
    assert contents(tmp_path / "in") == contents(out)


def test_an_alias_that_points_outside_is_refused(out, store, tmp_path):
    publishing.publish(out, f"{store}/digits:1")
    (tmp_path / "store/evil.json").write_bytes((out / "manifest.json").read_bytes())
    (tmp_path / "store/digits/aliases/prod").write_text('{"version": "../../evil"}')
    with pytest.raises(StoreError, match="stands for no version"):
        pull(f"{store}/digits@prod", tmp_path / "in")


def test_signatures(out, store, tmp_path, keys):
    private, public = keys
    other, other_public = storing.make_keys(tmp_path / "others")
    done = publishing.publish(out, f"{store}/digits:1", sign=private)
    assert pull(f"{store}/digits:1", tmp_path / "in", verify=public)["verified_by"] == (
        done["signed_by"])
    with pytest.raises(StoreError, match="not signed by the key"):
        pull(f"{store}/digits:1", tmp_path / "in", verify=other_public)
    publishing.publish(out, f"{store}/digits:1", sign=other)  # a second signature beside the first
    for key in (public, other_public):
        pull(f"{store}/digits:1", tmp_path / "in", verify=key)


def test_a_signature_holds_for_its_name_version_and_bytes_only(out, store, tmp_path, keys):
    private, public = keys
    publishing.publish(out, f"{store}/digits:1", sign=private)
    place = tmp_path / "store/digits"
    (signature,) = (place / "signatures").iterdir()
    (place / "versions/2.json").write_bytes((place / "versions/1.json").read_bytes())
    signature.with_name("2" + signature.name[1:]).write_bytes(signature.read_bytes())
    with pytest.raises(StoreError, match="does not fit"):
        pull(f"{store}/digits:2", tmp_path / "in", verify=public)
    make_output(tmp_path / "two", "two")
    (place / "versions/1.json").write_bytes((tmp_path / "two/manifest.json").read_bytes())
    with pytest.raises(StoreError, match="not signed"):
        pull(f"{store}/digits:1", tmp_path / "in", verify=public)
    assert not (tmp_path / "in").exists()


def test_keys_of_openssl_and_keys_that_are_none(out, store, tmp_path, keys, monkeypatch):
    key, pub = tmp_path / "k.pem", tmp_path / "p.pem"
    make = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", key, "-aes256", "-pass"]
    subprocess.run([*make, "pass:a-password"], check=True, capture_output=True)
    show = ["openssl", "pkey", "-in", key, "-pubout", "-out", pub, "-passin", "pass:a-password"]
    subprocess.run(show, check=True, capture_output=True)
    with pytest.raises(UsageError, match="is encrypted"):
        publishing.publish(out, f"{store}/digits:1", sign=str(key))
    monkeypatch.setenv("TFCOMPRESS_KEY_PASSWORD", "a-password")
    publishing.publish(out, f"{store}/digits:1", sign=str(key))
    pull(f"{store}/digits:1", tmp_path / "in", verify=str(pub))
    for wrong in (keys[1], str(out / "report.html"), str(tmp_path / "nowhere")):
        with pytest.raises(UsageError):
            publishing.publish(out, f"{store}/digits:2", sign=wrong)
    with pytest.raises(UsageError, match="not a public Ed25519 key"):
        pull(f"{store}/digits:1", tmp_path / "in", verify=keys[0])
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(MissingExtra):
        pull(f"{store}/digits:1", tmp_path / "in", verify=keys[1])


PUBLISHERS = 8
PUBLISHER = """
import sys, time, pathlib
from tfcompress.release import publishing
from tfcompress.errors import StoreError
store, out, version, start = sys.argv[1:]
while not pathlib.Path(start).exists():
    time.sleep(0.001)
for turn in range(6):
    try:
        publishing.publish(out, f"{store}/digits:{version}", aliases=("prod",))
        publishing.publish(out, f"{store}/digits:same")
        print("same")
    except StoreError as error:
        print(error.message)
"""


def test_eight_publishers_at_once(store, tmp_path):
    """Eight versions of their own and one that all want; aliases move all the time."""
    outs = [make_output(tmp_path / f"out{i}", f"content {i}" * 50) for i in range(PUBLISHERS)]
    start = tmp_path / "start"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, store, out, f"v{i}", start],
            stdout=subprocess.PIPE, text=True)
        for i, out in enumerate(outs)
    ]
    watcher = storing.AliasWatcher(f"{store}/digits")
    watcher.start()
    start.touch()
    said = [process.communicate(timeout=120)[0].splitlines() for process in running]
    assert watcher.finish() is None and watcher.seen
    assert all(process.returncode == 0 for process in running)
    winners = [i for i, lines in enumerate(said) if "same" in lines]
    assert len(winners) == 1 and said[winners[0]] == ["same"] * 6
    refused = "digits:same is there already with other bytes"
    assert all(lines == [refused] * 6 for i, lines in enumerate(said) if i != winners[0])
    found = publishing.listing(f"{store}/digits")
    assert {e["version"] for e in found} == {"same", *(f"v{i}" for i in range(PUBLISHERS))}
    pull(f"{store}/digits:same", tmp_path / "in")
    assert contents(tmp_path / "in") == contents(outs[winners[0]])
    assert not [p for p in (tmp_path / "store").rglob(".*")]  # nothing half-made stays


def test_pulls_into_one_folder_take_turns(out, store, tmp_path):
    publishing.publish(out, f"{store}/digits:1")
    with storing.web_server(tmp_path / "store") as server:
        server.pause_after, server.pause = 1000, 0.2
        reference, folder = f"{server.url}/digits:1", tmp_path / "in"
        threads = [storing.Watched(lambda: pull(reference, folder)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert [t.error for t in threads] == [None] * 4
    asked = [path for path, _, _ in server.asked if "/blobs/" in path]
    assert len(asked) == len(set(asked)) == 5  # the later pulls find everything there
    assert contents(tmp_path / "in") == contents(out)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".in")]


def test_a_killed_pull_is_continued(store, tmp_path):
    """SIGKILL in the middle of a body: what had arrived is not asked for again."""
    big = os.urandom(6_000_000)
    out = make_output(tmp_path / "out", extra={"big.bin": big})
    publishing.publish(out, f"{store}/digits:1")
    with storing.web_server(tmp_path / "store") as server:
        server.pause_after = 4_000_000
        argv = [sys.executable, "-m", "tfcompress", "pull", f"{server.url}/digits:1", "-o", "in"]
        process = subprocess.Popen(argv, cwd=tmp_path)
        part = tmp_path / ".in.pull" / (storing.entry(big)["sha256"] + ".part")
        until = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size > 1_000_000):
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert not (tmp_path / "in").exists()
        kept = part.stat().st_size
        server.asked.clear()
        server.pause_after = 0
        done = tfcompress("pull", f"{server.url}/digits:1", "-o", "in", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"bytes={kept}-" in [wanted for _, wanted, _ in server.asked]
    assert contents(tmp_path / "in") == contents(out)


HEAVY = ("numpy", "tensorflow", "keras", "tf_keras", "h5py", "PIL", "ai_edge_litert",
         "ai_edge_quantizer", "flatbuffers", "rich", "fsspec", "cryptography")


def test_pulling_needs_the_standard_library_only(out, store, tmp_path):
    publishing.publish(out, f"{store}/digits:1")
    code = (
        "import sys\n"
        f"for name in {HEAVY!r}:\n    sys.modules[name] = None\n"
        "from tfcompress import cli\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    run = [sys.executable, "-c", code]
    with storing.web_server(tmp_path / "store") as server:
        for argv in (
            ["pull", f"{store}/digits:1", "-o", str(tmp_path / "a")],
            ["pull", f"{server.url}/digits", "-o", str(tmp_path / "b"), "-t", "tflite-int8"],
            ["list", store],
            ["publish", str(tmp_path / "a"), f"{store}/copy"],
            ["alias", f"{store}/copy", "prod"],
        ):
            terminal, inside = os.openpty()  # where progress would be shown
            done = subprocess.run([*run, *argv], stdout=subprocess.PIPE, stderr=inside)
            os.close(inside)
            assert done.returncode == 0, os.read(terminal, 10_000).decode()
            os.close(terminal)


def test_words(out, store, tmp_path):
    done = tfcompress("publish", out, f"{store}/digits:1", "--alias", "prod")
    assert done.stdout.splitlines()[1:] == ["digits@prod -> 1", "digits@latest -> 1"]
    done = tfcompress("list", f"{store}/digits")
    assert done.stdout.split()[0] == "1" and "@latest @prod" in done.stdout
    done = tfcompress("alias", f"{store}/digits:1", "staging")
    assert done.stdout == "digits@staging -> 1\n"
    done = tfcompress("pull", f"{store}/digits@staging", cwd=tmp_path)
    assert done.returncode == 0 and "digits/tflite-int8.tflite" in done.stdout.splitlines()


def test_words_for_machines_and_exit_codes(out, store, tmp_path):
    done = json.loads(tfcompress("publish", out, f"{store}/digits:1", "--json").stdout)
    assert done["version"] == "1" and done["aliases"] == ["latest"]
    (one,) = json.loads(tfcompress("list", f"{store}/digits", "--json").stdout)
    assert one["targets"] == ["tflite-int8", "tflite-float16"] and one["aliases"] == ["latest"]
    done = tfcompress("pull", f"{store}/digits:2", "--json", cwd=tmp_path)
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["type"], done.stderr) == (6, "StoreError", "")
    assert tfcompress("pull", "digits", cwd=tmp_path).returncode == 2


def test_progress_is_told_when_it_takes_long(out, store, tmp_path, monkeypatch):
    told = []

    def listen(*event):
        told.append(event)

    publishing.publish(out, f"{store}/digits:1", on_event=listen)
    assert not told
    monkeypatch.setattr(publishing, "PATIENCE", 0)
    publishing.publish(out, f"{store}/digits:2", on_event=listen)
    pull(f"{store}/digits:2", tmp_path / "in", on_event=listen)
    assert [stage for stage, share, _ in told if share == 1.0] == ["publish", "pull"]


def test_the_commands_of_the_page(tmp_path):
    """The commands and the program of docs/publish.md, one after the other in one folder."""
    pytest.importorskip("cryptography")
    make_output(tmp_path / "digits-tfcompress")
    text = (storing.DOCS / "publish.md").read_text()
    blocks = [block.partition("\n") for block in text.split("```")[1::2]]
    for kind, _, body in blocks:
        if kind == "sh":
            body = body.replace("tfcompress ", f"{sys.executable} -m tfcompress ")
            argv = ["sh", "-ec", body]
        else:
            argv = [sys.executable, "-c", body]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "app/model").keys() == {"manifest.json", "tflite-int8.tflite"}
    assert contents(tmp_path / "signed") == contents(tmp_path / "digits-tfcompress")
