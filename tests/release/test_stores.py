"""Stores: a folder, a web server with ranges, fsspec's memory, and an S3-compatible server."""

import json
import os
import threading

import pytest
import storing

from tfcompress import transfer
from tfcompress.errors import MissingExtra, StoreError, UsageError
from tfcompress.release import publishing, stores


@pytest.fixture
def out(tmp_path):
    return storing.make_output(tmp_path / "out")


@pytest.fixture
def web(tmp_path, out):
    publishing.publish(out, f"{tmp_path}/store/digits:1")
    with storing.web_server(tmp_path / "store") as server:
        yield server


def pull(reference, folder, **more):
    return publishing.pull(reference, folder=str(folder), **more)


def test_a_folder_keeps_each_file_once_and_only_whole_objects(tmp_path, out):
    store = tmp_path / "store"
    first = publishing.publish(out, f"{store}/digits:1")
    second = publishing.publish(out, f"{store}/digits:2")
    assert first["sent_bytes"] == first["bytes"] and second["sent_bytes"] == 0
    names = sorted(p.relative_to(store / "digits").as_posix() for p in store.rglob("*.*"))
    assert names == ["versions/1.json", "versions/2.json"]  # nothing half-made, no dot files
    assert len(list((store / "digits" / "blobs").iterdir())) == 4


def test_a_damaged_blob_is_refused_on_the_way_out_and_repaired_by_publishing(tmp_path, out):
    publishing.publish(out, f"{tmp_path}/store/digits:1")
    blob = max((tmp_path / "store/digits/blobs").iterdir(), key=lambda p: p.stat().st_size)
    data = blob.read_bytes()
    blob.write_bytes(b"x" + data[1:])
    with pytest.raises(StoreError, match="damaged|SHA-256"):
        pull(f"{tmp_path}/store/digits:1", tmp_path / "in")
    assert not (tmp_path / "in").exists()
    publishing.publish(out, f"{tmp_path}/store/digits:1")
    pull(f"{tmp_path}/store/digits:1", tmp_path / "in")
    assert storing.contents(tmp_path / "in") == storing.contents(out)


def test_a_new_object_is_created_once(tmp_path):
    folder = stores.Folder(tmp_path)
    folder.create("versions/1.json", b"first")
    folder.create("versions/1.json", b"second")
    assert folder.read("versions/1.json", 100) == b"first"


def test_of_many_writers_of_a_version_one_wins(tmp_path):
    folder, together = stores.Folder(tmp_path), threading.Barrier(8)
    found = [[b""] * 8 for _ in range(25)]

    def body(i):
        for turn in range(25):
            together.wait()
            folder.create(f"versions/{turn}.json", b"%d" % i)
            found[turn][i] = folder.read(f"versions/{turn}.json", 100)

    threads = [storing.Watched(lambda i=i: body(i)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not [t.error for t in threads if t.error]
    assert all(len(set(read)) == 1 for read in found)


def test_a_web_server_is_read(tmp_path, out, web):
    done = pull(f"{web.url}/digits@latest", tmp_path / "in")
    assert storing.contents(tmp_path / "in") == storing.contents(out)
    assert done["version"] == "1" and done["fetched_bytes"] == done["bytes"]


def test_a_web_server_is_not_written_or_listed(tmp_path, out, web):
    with pytest.raises(UsageError, match="only be read"):
        publishing.publish(out, f"{web.url}/digits:2")
    with pytest.raises(StoreError, match="cannot be listed"):
        publishing.listing(f"{web.url}/digits")


def test_a_broken_connection_goes_on_where_it_stopped(tmp_path, out, web):
    web.break_after = [1000, 3000]
    pull(f"{web.url}/digits:1", tmp_path / "in", targets=("tflite-float16",))
    assert [r for path, r, _ in web.asked if "/blobs/" in path] == [
        "", "bytes=1000-", "bytes=4000-"]
    assert (tmp_path / "in/tflite-float16.tflite").read_bytes() == (
        out / "tflite-float16.tflite").read_bytes()


def test_an_interrupted_pull_is_continued_by_the_next(tmp_path, out, web, monkeypatch):
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    web.break_after = [2000, 0]
    with pytest.raises(transfer.Dropped):
        pull(f"{web.url}/digits:1", tmp_path / "in", targets=("tflite-float16",))
    assert not (tmp_path / "in").exists()
    (part,) = (tmp_path / ".in.pull").glob("*.part")
    assert part.stat().st_size == 2000
    web.asked.clear()
    done = pull(f"{web.url}/digits:1", tmp_path / "in", targets=("tflite-float16",))
    assert [r for path, r, _ in web.asked if "/blobs/" in path] == ["bytes=2000-"]
    assert done["fetched_bytes"] == done["bytes"] - 2000
    assert not (tmp_path / ".in.pull").exists()


def test_what_an_earlier_pull_left_damaged_is_fetched_anew(tmp_path, out, web):
    sha256 = storing.entry((out / "tflite-int8.tflite").read_bytes())["sha256"]
    (tmp_path / ".in.pull").mkdir()
    (tmp_path / ".in.pull" / f"{sha256}.part").write_bytes(b"not these")
    pull(f"{web.url}/digits:1", tmp_path / "in", targets=("tflite-int8",))
    assert (tmp_path / "in/tflite-int8.tflite").read_bytes().startswith(b"one int8")


def test_a_server_without_ranges_and_a_busy_one_are_borne_with(tmp_path, out, web):
    web.ranges, web.break_after, web.busy = False, [1000], 2
    pull(f"{web.url}/digits:1", tmp_path / "in")
    assert storing.contents(tmp_path / "in") == storing.contents(out)


def test_a_blob_longer_than_said_is_not_written_out(tmp_path, out, web):
    (tmp_path / "longer").mkdir()
    blob = max((tmp_path / "store/digits/blobs").iterdir(), key=lambda p: p.stat().st_size)
    blob.write_bytes(blob.read_bytes() + b"x" * 10_000_000)
    done = pull(f"{web.url}/digits:1", tmp_path / "in")  # its first bytes are the right ones
    assert done["fetched_bytes"] == done["bytes"] < 100_000


def test_a_token_goes_to_its_own_host_only(tmp_path, out, web, monkeypatch):
    web.token = "a-secret-token"
    with pytest.raises(StoreError, match="401"):
        pull(f"{web.url}/digits:1", tmp_path / "in")
    monkeypatch.setenv("TFCOMPRESS_HTTP_TOKEN", "a-secret-token")
    with storing.web_server(tmp_path / "store") as other:
        web.redirect = other.url
        pull(f"{web.url}/digits:1", tmp_path / "in")
        assert other.asked and not any(auth for _, _, auth in other.asked)
    with pytest.raises(StoreError, match="without https"):
        pull("http://192.0.2.1/digits:1", tmp_path / "in")


def test_nobody_listens(tmp_path):
    with pytest.raises(StoreError, match="cannot reach 127.0.0.1"):
        pull(f"http://127.0.0.1:{storing.free_port()}/digits:1", tmp_path / "in")


def test_secrets_are_not_repeated(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter22")
    told = transfer.redact("https://me:pw@host/x?X-Amz-Signature=abc&b=1 hunter22\nnext")
    assert told == "https://***@host/x?X-Amz-Signature=***&b=1 *** next"


def test_a_web_page_in_the_place_of_an_alias_is_told(tmp_path, web):
    (tmp_path / "store/digits/aliases/prod").write_text("<html>")
    with pytest.raises(StoreError, match="alias prod"):
        pull(f"{web.url}/digits@prod", tmp_path / "in")


def test_the_memory_of_fsspec(tmp_path, out):
    pytest.importorskip("fsspec")
    store = f"memory://{tmp_path.name}"
    publishing.publish(out, f"{store}/digits:1", aliases=("prod",))
    publishing.publish(storing.make_output(tmp_path / "two", "two"), f"{store}/digits:2")
    with pytest.raises(StoreError, match="other bytes"):
        publishing.publish(out, f"{store}/digits:2")
    pull(f"{store}/digits@prod", tmp_path / "in")
    assert storing.contents(tmp_path / "in") == storing.contents(out)
    assert [e["version"] for e in publishing.listing(f"{store}/digits")] == ["1", "2"]
    assert publishing.listing(store)[0]["aliases"] == {"latest": "2", "prod": "1"}
    remote = stores.objects(f"{store}/digits")
    remote.create("versions/1.json", b"other")
    assert remote.read("versions/1.json", 1 << 20) == (out / "manifest.json").read_bytes()


def test_an_unknown_scheme_and_a_missing_package(tmp_path, monkeypatch):
    pytest.importorskip("fsspec")
    with pytest.raises(UsageError, match="unknown store nonsense://"):
        pull("nonsense://x/digits:1", tmp_path / "in")
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(MissingExtra, match="fsspec is not installed"):
        pull("s3://bucket/digits:1", tmp_path / "in")


@pytest.fixture(scope="module")
def s3():
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=storing.free_port())
    server.start()
    host, port = server.get_host_and_port()
    env = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "a-very-secret-word",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        import s3fs

        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("models")
        yield "s3://models"
    server.stop()


@pytest.mark.slow
def test_an_s3_store(tmp_path, out, s3):
    publishing.publish(out, f"{s3}/team/digits:1", aliases=("prod",))
    again = publishing.publish(out, f"{s3}/team/digits:1")
    assert not again["created"] and again["sent_bytes"] == 0
    two = storing.make_output(tmp_path / "two", "two")
    publishing.publish(two, f"{s3}/team/digits:2")
    with pytest.raises(StoreError, match="other bytes"):
        publishing.publish(two, f"{s3}/team/digits:1")
    pull(f"{s3}/team/digits@prod", tmp_path / "in")
    assert storing.contents(tmp_path / "in") == storing.contents(out)
    publishing.alias(f"{s3}/team/digits:2", "prod")
    assert pull(f"{s3}/team/digits@prod", tmp_path / "in")["version"] == "2"
    assert storing.contents(tmp_path / "in") == storing.contents(two)
    assert [e["aliases"] for e in publishing.listing(f"{s3}/team/digits")] == [
        [], ["latest", "prod"]]
    assert [e["name"] for e in publishing.listing(f"{s3}/team")] == ["digits"]
    with pytest.raises(StoreError, match="nothing is published"):
        publishing.listing(s3 + "/nowhere")


@pytest.mark.slow
def test_s3_refuses_a_second_writer_of_a_version(s3):
    first, second = (stores.objects(f"{s3}/race") for _ in range(2))
    second._size = lambda key: None  # has looked before the first one wrote
    first.create("versions/1.json", b"first")
    second.create("versions/1.json", b"second")
    assert first.read("versions/1.json", 100) == b"first"


@pytest.mark.slow
def test_an_s3_download_starts_at_an_offset(s3):
    remote = stores.objects(f"{s3}/ranges")
    data = os.urandom(20_000_000)  # more than two pieces
    remote.put("blobs/x", data)
    assert b"".join(remote.pieces("blobs/x", 9_999_999)) == data[9_999_999:]


@pytest.mark.slow
def test_many_publishers_at_once_on_s3(tmp_path, s3):
    outs = [storing.make_output(tmp_path / f"out{i}", f"content {i}") for i in range(4)]
    said = storing.publish_at_once(f"{s3}/many", outs)
    assert sorted(said)[0] == "" and "already with other bytes" in sorted(said)[1]
    pull(f"{s3}/many/digits:same", tmp_path / "in")
    assert storing.contents(tmp_path / "in") == storing.contents(outs[said.index("")])


@pytest.mark.slow
def test_s3_failures_are_one_line_without_secrets(tmp_path, out, s3):
    dead = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{storing.free_port()}", "AWS_MAX_ATTEMPTS": "1"}
    argv = ("publish", out, "s3://models/digits:1", "--json")
    done = storing.tfcompress(*argv, cwd=tmp_path, env=dead)
    error = json.loads(done.stdout)["error"]
    assert done.returncode == error["exit_code"] == 6 and not done.stderr
    assert "a-very-secret-word" not in done.stdout
    with pytest.raises(StoreError, match="there is no digits:1"):
        pull("s3://no-such-bucket/digits:1", tmp_path / "in")
