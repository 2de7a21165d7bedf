"""The bucket of a cluster: objects, ranges, large files, and whose place in it is."""

import os
import socket
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

pytest.importorskip("obstore", reason="the extra `cluster` is not installed")

from rlm_mcp.bucket_address import BucketAddress
from rlm_mcp.cluster.objects import BucketUnusable, ObjectDiffers, ObjectMissing, Objects
from tests.peers.cluster import BUCKET, access_to

pytestmark = pytest.mark.cluster


def test_an_object_is_read_whole_in_part_and_into_a_file_until_it_is_deleted(objects: Objects, tmp_path: Path) -> None:
    etag = objects.put("a/one", b"hello world")
    assert (objects.get("a/one"), objects.get_range("a/one", 2, 5, etag=etag), objects.size("a/one")) == (
        b"hello world",
        b"llo",
        11,
    )
    objects.put("a/one", b"new")
    assert objects.get_range("a/one", 3, 3, etag=etag) == b""
    with pytest.raises(ObjectDiffers, match="has another object a/one: restore it"):
        objects.get_range("a/one", 0, 1, etag=etag)
    assert objects.put_new("a/one", b"newer") is False
    large = tmp_path / "large"
    large.write_bytes(os.urandom(11 << 20))
    objects.put("a/b/large", large)
    assert b"".join(objects.pieces("a/b/large")) == large.read_bytes()
    assert sorted(objects.keys("a/")) == ["a/b/large", "a/one"]
    objects.delete("a/one")
    objects.delete("a/one")
    assert (objects.size("a/one"), list(objects.keys("a/"))) == (None, ["a/b/large"])
    with pytest.raises(ObjectMissing, match="has no object a/one: restore it"):
        objects.get("a/one")


def test_a_place_in_a_bucket_is_that_of_one_database(objects: Objects) -> None:
    objects.claim("cluster-1")
    objects.claim("cluster-1")
    with pytest.raises(BucketUnusable, match=r"belongs to another database \(cluster-1; that of RLM_MCP_STORE is clu"):
        objects.claim("cluster-2")


@pytest.mark.parametrize(
    ("bucket", "port", "reason"), [("missing", None, "there is no such bucket"), (BUCKET, 1, "nothing answers")]
)
def test_a_bucket_that_cannot_be_used_is_one_sentence(
    endpoint: str, bucket: str, port: int | None, reason: str
) -> None:
    access = access_to(endpoint if port is None else f"http://127.0.0.1:{port}")
    objects = Objects(BucketAddress(bucket=bucket), access=access, patience=0.2)
    with pytest.raises(
        BucketUnusable, match=r"^the bucket of the server cannot be used now: try again later"
    ) as refused:
        objects.claim("cluster-1")
    assert f"the bucket s3://{bucket} cannot be used ({reason}): check that it exists" in refused.value.reason


class Overwriting(BaseHTTPRequestHandler):
    """A store that ignores the condition that an object must not exist yet."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Length", "0")
        self.send_header("ETag", '"1"')
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_store_without_conditional_writes_is_refused() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Overwriting) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        access = access_to(f"http://127.0.0.1:{server.server_address[1]}")
        with pytest.raises(
            BucketUnusable, match="overwrites objects that must not exist yet: use one that supports If-"
        ):
            Objects(BucketAddress(bucket=BUCKET), access=access).claim("cluster-1")
        server.shutdown()


def test_a_store_that_accepts_a_connection_and_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        access = access_to(f"http://127.0.0.1:{silent.getsockname()[1]}")
        objects = Objects(BucketAddress(bucket=BUCKET), access=access, patience=0.1, silence=0.1)
        with pytest.raises(BucketUnusable) as refused:
            objects.put("a/one", b"hello world")
    assert "cannot be used (nothing answers" in refused.value.reason
