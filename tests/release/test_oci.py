"""OCI registries: Debian's docker-registry on loopback, open, with a password, and with tokens."""

import base64
import datetime
import http.server
import json
import threading
import time
import urllib.parse
import urllib.request

import pytest
import storing

from tfcompress.errors import StoreError, UsageError
from tfcompress.release import oci, publishing

pytestmark = pytest.mark.skipif(
    not storing.registry_binary(), reason="docker-registry is not installed (apt-get install it)"
)
# bcrypt of "secret-word"
HTPASSWD = "somebody:$2b$05$abcdefghijklmnopqrstuuUOabO4v2PoT/v47Y.znQK.9MsMDnesq\n"


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    with storing.registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture
def store(host, request):
    """A namespace of its own for each test."""
    return f"oci://{host}/{request.node.name.replace('_', '-').lower()[:60]}"


@pytest.fixture
def out(tmp_path):
    return storing.make_output(tmp_path / "out")


@pytest.fixture
def keys(tmp_path):
    pytest.importorskip("cryptography")
    return storing.make_keys(tmp_path / "keys")


def get(url, accept=oci.MANIFEST):
    asked = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return answer.read()


def test_out_and_in(tmp_path, out, store):
    first = publishing.publish(out, f"{store}/digits:1.0", aliases=("prod",))
    again = publishing.publish(out, f"{store}/digits:1.0")
    assert first["created"] and first["sent_bytes"] == first["bytes"]
    assert not again["created"] and again["sent_bytes"] == 0
    done = publishing.pull(f"{store}/digits@prod", folder=str(tmp_path / "in"))
    assert done["version"] == "1.0"
    assert storing.contents(tmp_path / "in") == storing.contents(out)


def test_versions_do_not_change_and_aliases_do(tmp_path, out, store):
    two = storing.make_output(tmp_path / "two", "two")
    publishing.publish(out, f"{store}/digits:1")
    with pytest.raises(StoreError, match="other bytes"):
        publishing.publish(two, f"{store}/digits:1")
    publishing.publish(two, f"{store}/digits:2", aliases=("prod",))
    moved = publishing.alias(f"{store}/digits:1", "prod")
    assert (moved["version"], moved["before"]) == ("1", "2")
    assert publishing.pull(f"{store}/digits@prod", folder=str(tmp_path / "in"))["version"] == "1"
    with pytest.raises(UsageError, match="is an alias"):
        publishing.publish(out, f"{store}/digits:prod")
    with pytest.raises(UsageError, match="is a version"):
        publishing.alias(f"{store}/digits:1", "2")
    with pytest.raises(StoreError, match="no digits@nothing"):
        publishing.alias(f"{store}/digits@nothing", "prod")


def test_the_layout_is_that_of_oras(out, store, host):
    publishing.publish(out, f"{store}/digits:1", aliases=("prod",))
    name = store.partition(f"{host}/")[2] + "/digits"
    data = get(f"http://{host}/v2/{name}/manifests/1")
    assert data == get(f"http://{host}/v2/{name}/manifests/prod")
    record = json.loads(data)
    assert record["artifactType"] == "application/vnd.tfcompress.release.v1"
    assert record["config"] == {
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "size": 2,
    }
    assert record["annotations"]["org.opencontainers.image.version"] == "1"
    files = storing.contents(out)
    for layer in record["layers"]:
        title = layer["annotations"]["org.opencontainers.image.title"]
        blob = get(f"http://{host}/v2/{name}/blobs/{layer['digest']}")
        assert blob == files.pop(title) and layer["size"] == len(blob)
    assert not files


def test_listing(tmp_path, out, store):
    publishing.publish(out, f"{store}/digits:1")
    publishing.publish(storing.make_output(tmp_path / "two", "two"), f"{store}/digits:2",
                       aliases=("prod",))
    found = publishing.listing(f"{store}/digits")
    assert [(e["version"], e["aliases"]) for e in found] == [("1", []), ("2", ["latest", "prod"])]
    assert found[0]["targets"] == ["tflite-int8", "tflite-float16"]
    assert publishing.listing(store) == [
        {"name": "digits", "aliases": {"latest": "2", "prod": "2"}}]
    with pytest.raises(StoreError, match="nothing is published"):
        publishing.listing(store + "x")


def test_signatures_are_artifacts_that_name_their_subject(tmp_path, out, store, host, keys):
    publishing.publish(out, f"{store}/digits:1.0.2", sign=keys[0])
    done = publishing.pull(f"{store}/digits:1.0.2", folder=str(tmp_path / "in"), verify=keys[1])
    name = store.partition(f"{host}/")[2] + "/digits"
    tags = json.loads(get(f"http://{host}/v2/{name}/tags/list"))["tags"]
    (signature,) = [tag for tag in tags if tag.startswith("sig.1.0.2.")]
    record = json.loads(get(f"http://{host}/v2/{name}/manifests/{signature}"))
    release = get(f"http://{host}/v2/{name}/manifests/1.0.2")
    assert record["subject"]["digest"] == oci.digest_of(release)
    assert done["verified_by"] in signature
    assert [e["version"] for e in publishing.listing(f"{store}/digits")] == ["1.0.2"]


def test_an_interrupted_pull_asks_for_the_rest(tmp_path, out, store):
    publishing.publish(out, f"{store}/digits:1")
    data = (out / "tflite-int8.tflite").read_bytes()
    (tmp_path / ".in.pull").mkdir()
    sha256 = storing.entry(data)["sha256"]
    (tmp_path / ".in.pull" / f"{sha256}.part").write_bytes(data[:1000])
    done = publishing.pull(
        f"{store}/digits:1", targets=("tflite-int8",), folder=str(tmp_path / "in"))
    assert done["fetched_bytes"] == len(data) - 1000
    assert (tmp_path / "in/tflite-int8.tflite").read_bytes() == data


def test_a_bad_upload_is_refused_by_the_registry(tmp_path, store):
    (tmp_path / "file").write_bytes(b"these bytes")
    releases = publishing.parse(f"{store}/digits").open()
    with pytest.raises(StoreError, match="400"):
        releases.add_blob(tmp_path / "file", "0" * 64, 11)


def test_what_others_keep_there_is_no_release(tmp_path, out, store, host):
    publishing.publish(out, f"{store}/digits:1")
    releases = publishing.parse(f"{store}/digits").open()
    record = json.loads(releases._manifest("1")) | {"artifactType": "application/x.other"}
    releases._put_manifest("other", json.dumps(record).encode())
    with pytest.raises(StoreError, match="there is no digits:other"):
        publishing.pull(f"{store}/digits:other", folder=str(tmp_path / "in"))
    with pytest.raises(StoreError, match="already with other bytes"):
        publishing.publish(out, f"{store}/digits:other")
    assert [e["version"] for e in publishing.listing(f"{store}/digits")] == ["1"]


def test_many_publishers_at_once(tmp_path, store):
    """Their own versions and one alias; a tag has no condition, so `same` may be anyone's."""
    outs = [storing.make_output(tmp_path / f"out{i}", f"content {i}") for i in range(8)]
    said = storing.publish_at_once(store, outs)
    assert "" in said
    publishing.pull(f"{store}/digits:same", folder=str(tmp_path / "in"))
    assert storing.contents(tmp_path / "in") in [storing.contents(out) for out in outs]
    assert len(publishing.listing(f"{store}/digits")) == 9


def test_the_command_line(tmp_path, out, store):
    done = storing.tfcompress("publish", out, f"{store}/digits:1", "--alias", "prod")
    assert done.returncode == 0 and "digits@prod -> 1" in done.stdout, done.stderr
    done = storing.tfcompress("pull", f"{store}/digits@prod", "-t", "tflite-int8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["digits/tflite-int8.tflite"]


def test_with_a_password(tmp_path, out, monkeypatch):
    folder = tmp_path / "registry"
    folder.mkdir()
    (folder / "htpasswd").write_text(HTPASSWD)
    auth = f"auth:\n  htpasswd:\n    realm: here\n    path: {folder / 'htpasswd'}\n"
    with storing.registry(folder, auth) as host:
        with pytest.raises(StoreError, match="refuses access .401."):
            publishing.publish(out, f"oci://{host}/digits:1")
        monkeypatch.setenv("TFCOMPRESS_REGISTRY_USER", "somebody")
        monkeypatch.setenv("TFCOMPRESS_REGISTRY_PASSWORD", "wrong-word")
        with pytest.raises(StoreError, match="refuses access") as caught:
            publishing.publish(out, f"oci://{host}/digits:1")
        assert "wrong-word" not in caught.value.message
        monkeypatch.setenv("TFCOMPRESS_REGISTRY_PASSWORD", "secret-word")
        publishing.publish(out, f"oci://{host}/digits:1")
        publishing.pull(f"oci://{host}/digits", folder=str(tmp_path / "in"))
    assert storing.contents(tmp_path / "in") == storing.contents(out)
    with pytest.raises(UsageError, match="credentials"):
        publishing.pull(f"oci://somebody:secret-word@{host}/digits", folder=str(tmp_path / "in"))


def test_with_tokens(tmp_path, out, monkeypatch):
    """As Docker Hub and ghcr.io do: a token per scope, from another server, for a password."""
    folder = tmp_path / "registry"
    folder.mkdir()
    tokens = Tokens(folder)
    threading.Thread(target=tokens.serve_forever, daemon=True).start()
    auth = (
        f"auth:\n  token:\n    realm: http://127.0.0.1:{tokens.server_port}/token\n"
        f"    service: here\n    issuer: us\n    rootcertbundle: {folder / 'cert.pem'}\n"
    )
    monkeypatch.setenv("TFCOMPRESS_REGISTRY_USER", "somebody")
    monkeypatch.setenv("TFCOMPRESS_REGISTRY_PASSWORD", "secret-word")
    try:
        with storing.registry(folder, auth) as host:
            publishing.publish(out, f"oci://{host}/digits:1", aliases=("prod",))
            publishing.pull(f"oci://{host}/digits@prod", folder=str(tmp_path / "in"))
            assert publishing.listing(f"oci://{host}")[0]["name"] == "digits"
    finally:
        tokens.shutdown()
        tokens.server_close()
    assert storing.contents(tmp_path / "in") == storing.contents(out)
    scopes = {  # the registry names the actions in any order
        ":".join([*s.split(":")[:2], ",".join(sorted(s.split(":")[2].split(",")))])
        for s in tokens.scopes}
    assert scopes == {
        "repository:digits:pull", "repository:digits:pull,push", "registry:catalog:*"}


class Tokens(http.server.ThreadingHTTPServer):
    """A token server, with a key and certificate made for the occasion."""

    daemon_threads = True

    def __init__(self, folder):
        pytest.importorskip("cryptography")
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        self.scopes = []
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "us")])
        now = datetime.datetime.now(datetime.UTC)
        cert = (
            x509.CertificateBuilder().subject_name(name).issuer_name(name)
            .public_key(self.key.public_key()).serial_number(1)
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        (folder / "cert.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        self.x5c = base64.b64encode(cert.public_bytes(serialization.Encoding.DER)).decode()
        super().__init__(("127.0.0.1", 0), _Tokens)

    def token(self, scope: str) -> str:
        """A signed token as the registry's documentation describes it."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, utils

        kind, name, actions = scope.split(":")
        access = {"type": kind, "name": name, "actions": actions.split(",")}
        head = {"typ": "JWT", "alg": "ES256", "x5c": [self.x5c]}
        now = int(time.time())
        body = {"iss": "us", "sub": "somebody", "aud": "here", "exp": now + 60, "nbf": now - 60,
                "iat": now, "jti": "1", "access": [access]}
        text = b".".join(_b64(json.dumps(part).encode()) for part in (head, body))
        r, s = utils.decode_dss_signature(self.key.sign(text, ec.ECDSA(hashes.SHA256())))
        return (text + b"." + _b64(r.to_bytes(32) + s.to_bytes(32))).decode()


class _Tokens(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        pair = base64.b64encode(b"somebody:secret-word").decode()
        if self.headers.get("Authorization") != f"Basic {pair}" or query["service"] != "here":
            return self.send_error(401)
        self.server.scopes.append(query["scope"])
        body = json.dumps({"token": self.server.token(query["scope"])}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
