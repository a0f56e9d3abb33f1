"""One suite over every object store: a directory and a real S3."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from facelake.errors import ConfigError, FacelakeError, Refused, Retryable
from facelake.lake.lake import Lake
from facelake.lake.lease import Lease
from facelake.lake.store import ObjectStore, open_store, probe
from facelake.testing.servers import Server


@pytest.fixture(params=["directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "directory":
        return open_store(str(tmp_path / "store"))
    request.getfixturevalue("weed_env")
    return open_store(f"s3://lake/{secrets.token_hex(4)}")


def test_write_read_tag_delete(store: ObjectStore) -> None:
    assert store.tag("a/b") is None
    with pytest.raises(FileNotFoundError):
        store.read("a/b")
    store.write("a/b", b"1")
    tag = store.tag("a/b")
    store.write("a/b", b"2")
    assert store.read("a/b") == b"2"
    assert store.tag("a/b") != tag
    store.delete("a/b")
    store.delete("a/b")
    assert store.tag("a/b") is None


def test_list_is_by_folder_and_in_order(store: ObjectStore) -> None:
    for key in ("t/2", "t/1", "t/x/0", "tt/1", "u"):
        store.write(key, key.encode())
    assert [item.key for item in store.list("t")] == ["t/1", "t/2", "t/x/0"]
    assert {item.key for item in store.list()} == {"t/2", "t/1", "t/x/0", "tt/1", "u"}
    assert [item.size_bytes for item in store.list("t")] == [3, 3, 5]
    assert list(store.list("none")) == []


def test_one_creator_wins(store: ObjectStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: store.create("race", str(i).encode()), range(16)))
    assert won.count(True) == 1
    assert store.read("race") == str(won.index(True)).encode()


def test_one_replacer_wins(store: ObjectStore) -> None:
    store.write("race", b"start")
    tag = store.tag("race")
    assert tag is not None
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: store.replace("race", f"new {i}".encode(), tag), range(16)))
    assert won.count(True) == 1
    assert store.read("race") == f"new {won.index(True)}".encode()


def test_probe_accepts_and_leaves_nothing(store: ObjectStore) -> None:
    probe(store)
    assert list(store.list("probe")) == []


def test_lease_excludes_and_ends(store: ObjectStore) -> None:
    with Lease(store, "first") as first:
        first.check()
        with pytest.raises(Refused, match="being written by process"), Lease(store, "second"):
            pass
    with Lease(store, "third"):
        pass
    assert store.tag("lease.json") is None


def test_lease_of_a_dead_process_is_taken_over(store: ObjectStore) -> None:
    import json

    from facelake.lake.lease import _host

    body = {
        "nonce": "x",
        "for": "nightly",
        "ttl_s": 60,
        "renewed": 4e9,
        "host": _host(),
        "pid": 2**22 + 1,
        "started": "1",
    }
    store.write("lease.json", json.dumps(body).encode())
    with Lease(store, "next") as lease:
        lease.check()


def test_lease_of_another_host_holds_until_it_runs_out(store: ObjectStore) -> None:
    import json
    import time

    body = {"nonce": "x", "for": "nightly", "ttl_s": 5, "host": "elsewhere:boot", "pid": 1, "started": "1"}
    store.write("lease.json", json.dumps(body | {"renewed": time.time()}).encode())
    with pytest.raises(Refused), Lease(store, "next"):
        pass
    store.write("lease.json", json.dumps(body | {"renewed": time.time() - 60}).encode())
    with Lease(store, "next"):
        pass


def test_lease_lost_is_noticed(store: ObjectStore) -> None:
    import time

    with Lease(store, "first", ttl_s=0.3) as lease:
        store.write("lease.json", b"{}")
        time.sleep(0.5)
        with pytest.raises(Refused, match="lost"):
            lease.check()


def test_suppression_is_by_keyed_hash(store: ObjectStore) -> None:
    lake = Lake.create(store.uri)
    lake.suppress(["subject:ann"])
    lake.suppress(["image:b", "image:c"])
    assert lake.keyed_hash("subject:ann") in lake.suppressed()
    assert lake.keyed_hash("subject:bob") not in lake.suppressed()
    assert len(lake.suppressed()) == 3
    assert b"ann" not in b"".join(store.read(item.key) for item in store.list("suppressed"))


def test_newer_lake_and_damaged_marker_are_refused(store: ObjectStore) -> None:
    for marker in (b'{"format": 99}', b"{", b"[]"):
        store.write("lake.json", marker)
        with pytest.raises(FacelakeError, match="Next: "):
            Lake.open(store.uri)


def test_a_store_that_ignores_conditions_is_refused(rclone: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in rclone.environment().items():
        monkeypatch.setenv(key, value)
    with pytest.raises(Refused, match="ignores conditional writes"):
        Lake.create("s3://bucket/lake")


def test_unreachable_and_forbidden_stores_say_so(weed_env: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(ConfigError, match="denies access") as caught:
        Lake.create("s3://lake/x")
    assert "wrong" not in str(caught.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(Retryable, match=r"127\.0\.0\.1:9 does not answer"):
        Lake.create("s3://lake/x")


def test_keys_cannot_leave_a_directory(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for key in ("../x", "/etc/passwd", "a/../../x"):
        with pytest.raises(ValueError, match="leaves the store"):
            store.write(key, b"")
