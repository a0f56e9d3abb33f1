"""The contract of object stores, tested on a directory and a real S3 server."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.stub import Stubber

from facelake.config import S3Section
from facelake.errors import ConfigError, FacelakeError, Refused, Retryable
from facelake.lake import folder_listing
from facelake.lake.lake import Lake
from facelake.lake.lease import Lease
from facelake.lake.object_store import ObjectStore
from facelake.lake.s3 import S3Store
from facelake.lake.store import listed_by_folders, open_store, probe
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


def test_a_large_file_is_uploaded_in_parts(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facelake.lake.s3._PART_BYTES", 5 << 20)  # the least that S3 accepts
    data = secrets.token_bytes(11 << 20)
    (tmp_path / "file").write_bytes(data)
    store.write("a/large", b"before")
    store.upload("a/large", tmp_path / "file")
    assert store.read("a/large") == data
    assert [item.size_bytes for item in store.list("a")] == [len(data)]
    if isinstance(store, S3Store):
        assert str(store.tag("a/large")).strip('"').endswith("-3")  # the form of a multipart upload's ETag
    else:
        assert (tmp_path / "store/a/large").stat().st_mode & 0o077 == 0


def test_uploads_that_were_left_open_are_aborted(weed_env: Server) -> None:
    """Their parts are stored, and no listing of objects has them: an erasure would certify without seeing them."""
    place = secrets.token_hex(4)
    store, other = (S3Store(f"s3://lake/{place}{end}", S3Section()) for end in ("", "-other"))
    for each in (store, other):
        upload = each._client.create_multipart_upload(Bucket="lake", Key=each._key("faces/x.parquet"))
        part = {"Bucket": "lake", "Key": upload["Key"], "UploadId": upload["UploadId"], "PartNumber": 1}
        each._client.upload_part(**part, Body=b"an embedding")

    def open_uploads(store: S3Store) -> int:
        reply = store._client.list_multipart_uploads(Bucket="lake", Prefix=store._folder(""))
        return len(reply.get("Uploads", []))

    assert (open_uploads(store), open_uploads(other)) == (1, 1)
    store.clear_leftovers()
    assert (open_uploads(store), open_uploads(other)) == (0, 1)
    other.clear_leftovers()


def test_a_purge_takes_uploads_of_the_same_key_along(weed_env: Server) -> None:
    """A photo in the operator's bucket may be uploaded again while it is erased; another photo's upload goes on."""
    store = S3Store(f"s3://lake/{secrets.token_hex(4)}", S3Section())
    for key in ("a.jpg", "a.jpg.new"):
        upload = store._client.create_multipart_upload(Bucket="lake", Key=store._key(key))
        part = {"Bucket": "lake", "Key": upload["Key"], "UploadId": upload["UploadId"], "PartNumber": 1}
        store._client.upload_part(**part, Body=b"a photo")
    store.write("a.jpg", b"a photo")
    store.purge("a.jpg")
    left = store._client.list_multipart_uploads(Bucket="lake", Prefix=store._folder("")).get("Uploads", [])
    assert [item["Key"] for item in left] == [store._key("a.jpg.new")]
    store.clear_leftovers()


@pytest.mark.parametrize("code", ["AccessDenied", "NotImplemented"])
def test_uploads_that_cannot_be_aborted_are_refused(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    store = _answering(monkeypatch, ("list_multipart_uploads", code))
    if code == "NotImplemented":  # a store without them has none
        store.clear_leftovers()
        return
    with pytest.raises(Refused, match="s3:AbortMultipartUpload"):
        store.clear_leftovers()


@pytest.mark.parametrize("uri", ["s3://key:hunter2@lake/x", "s3://lake/x"])
def test_credentials_in_a_url_are_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://key:hunter2@127.0.0.1:1")
    with pytest.raises(ConfigError, match="contains credentials") as refusal:
        open_store(uri)
    assert "hunter2" not in str(refusal.value)


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


def test_lease_of_an_ended_process_is_taken_over(store: ObjectStore) -> None:
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


def test_lease_of_another_host_is_valid_until_it_expires(store: ObjectStore) -> None:
    import json
    import time

    body = {"nonce": "x", "for": "nightly", "ttl_s": 5, "host": "elsewhere:boot", "pid": 1, "started": "1"}
    store.write("lease.json", json.dumps(body | {"renewed": time.time()}).encode())
    with pytest.raises(Refused), Lease(store, "next"):
        pass
    store.write("lease.json", json.dumps(body | {"renewed": time.time() - 60}).encode())
    with Lease(store, "next"):
        pass


def test_a_lost_lease_is_detected(store: ObjectStore) -> None:
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


def test_unreachable_and_forbidden_stores_are_reported(weed_env: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(ConfigError, match="denies access") as caught:
        Lake.create("s3://lake/x")
    assert "wrong" not in str(caught.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(Retryable, match=r"127\.0\.0\.1:9 does not answer"):
        Lake.create("s3://lake/x")


def test_a_bucket_of_no_valid_name_is_not_called_unreachable(weed_env: Server) -> None:
    for name in ("b", "Not_A_Bucket", "a b"):
        with pytest.raises(ConfigError, match="is not a valid name of a bucket"):
            Lake.create(f"s3://{name}/x")


def test_keys_cannot_leave_a_directory(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for key in ("../x", "/etc/passwd", "a/../../x"):
        with pytest.raises(ValueError, match="leaves the store"):
            store.write(key, b"")


def test_nothing_is_dropped_where_nothing_is_versioned(store: ObjectStore) -> None:
    for body in (b"1", b"2"):
        store.write("a/b", body)
    assert store.drop_old_versions() == store.drop_old_versions("a") == 0
    assert store.read("a/b") == b"2"


@pytest.fixture(params=["Enabled", "Suspended"])
def versioned(request: pytest.FixtureRequest, weed_env: Server) -> S3Store:
    """A bucket whose versioning was switched on after its first objects, and possibly off again."""
    bucket = "versioned-" + secrets.token_hex(4)
    weed_env.make_bucket(bucket)
    store, neighbour = S3Store(f"s3://{bucket}/lake", S3Section()), S3Store(f"s3://{bucket}/lake2", S3Section())
    for body in (b"secret before", b"secret 1", b"secret 2", b"kept"):
        for key in ("t/kept", "t/deleted", "t/deleted and back", "other/ü +%&"):
            store.write(key, body)
        neighbour.write("t/kept", body)
        _set_versioning(store, "Enabled")
    _set_versioning(store, request.param)
    for key in ("t/deleted", "t/deleted and back"):
        store.delete(key)
        store.delete(key)
    store.write("t/deleted and back", b"back")
    store.write("other/last", b"kept")
    return store


def _set_versioning(store: S3Store, status: str) -> None:
    store._client.put_bucket_versioning(Bucket=store.bucket, VersioningConfiguration={"Status": status})


def _history(store: S3Store) -> list[tuple[str, bytes | None]]:
    """Every version in the bucket: its key and content; None: a delete marker."""
    page = store._client.list_object_versions(Bucket=store.bucket)
    found = [(item["Key"], None) for item in page.get("DeleteMarkers", [])]
    for item in page.get("Versions", []):
        reply = store._client.get_object(Bucket=store.bucket, Key=item["Key"], VersionId=item["VersionId"])
        found.append((item["Key"], reply["Body"].read()))
    return sorted(found, key=str)


# SeaweedFS 4.48 says that it deleted a suspended bucket's delete marker (version "null") and keeps it: a key, no content
_WEED_KEEPS = ("lake/t/deleted", None)
_KEPT = {"t/kept": b"kept", "t/deleted and back": b"back", "other/ü +%&": b"kept", "other/last": b"kept"}


def test_old_versions_and_delete_markers_are_deleted(versioned: S3Store) -> None:
    before = _history(versioned)
    of_neighbour = [(key, body) for key, body in before if key.startswith("lake2/")]
    assert len(of_neighbour) == 4
    assert any(body is None for _, body in before)
    gone = versioned.drop_old_versions()
    kept = [(f"lake/{key}", body) for key, body in _KEPT.items()]
    after = _history(versioned)
    status = versioned._client.get_bucket_versioning(Bucket=versioned.bucket)["Status"]
    if status == "Suspended" and _WEED_KEEPS in after:
        after.remove(_WEED_KEEPS)
    assert after == sorted([*kept, *of_neighbour], key=str)
    assert gone == len(before) - len(kept) - len(of_neighbour)
    assert {item.key for item in versioned.list()} == set(_KEPT)  # nothing deleted came back


def test_old_versions_of_one_folder_are_deleted(versioned: S3Store) -> None:
    before = len(_history(versioned))
    gone = versioned.drop_old_versions("other")
    assert (gone, len(_history(versioned))) == (3, before - 3)


def test_more_versions_than_a_page_or_a_batch_holds(weed_env: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facelake.lake.s3._BATCH", 20)
    bucket = "versioned-" + secrets.token_hex(4)
    weed_env.make_bucket(bucket)
    store = S3Store(f"s3://{bucket}/lake", S3Section())
    _set_versioning(store, "Enabled")
    for number in [*range(51), *range(51)]:  # one at a time: SeaweedFS fails with many concurrent versions
        store.write(f"t/{number}", b"x")
    assert store.drop_old_versions() == 51
    assert len(list(store.list())) == 51
    assert store.drop_old_versions() == 0


def test_a_store_without_versioning_has_no_old_versions(rclone: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in rclone.environment().items():
        monkeypatch.setenv(key, value)
    assert S3Store("s3://bucket/lake", S3Section()).drop_old_versions() == 0


_OLD = {"Versions": [{"Key": "lake/a", "VersionId": "v1", "IsLatest": False}]}


def _answering(monkeypatch: pytest.MonkeyPatch, *answers: tuple[str, dict[str, Any] | str]) -> S3Store:
    """A store that gives scripted answers in this order; a text is an error code."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", secrets.token_hex(4))  # so that no other store uses the stubbed client
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    store = S3Store("s3://bucket/lake", S3Section())
    stub = Stubber(store._client)
    for method, answer in answers:
        if isinstance(answer, str):
            stub.add_client_error(method, answer, http_status_code=405 if answer == "405" else 403)
        else:
            stub.add_response(method, answer)
    stub.activate()
    return store


_ENABLED = ("get_bucket_versioning", {"Status": "Enabled"})
_LISTED = ("list_object_versions", _OLD)


@pytest.mark.parametrize("code", ["NotImplemented", "MethodNotAllowed", "405"])
def test_a_store_that_knows_no_versioning_counts_as_unversioned(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    assert _answering(monkeypatch, ("get_bucket_versioning", code)).drop_old_versions() == 0


@pytest.mark.parametrize(
    "answers",
    [
        [("get_bucket_versioning", "AccessDenied")],
        [_ENABLED, ("list_object_versions", "AccessDenied")],
        [_ENABLED, ("list_object_versions", "NotImplemented")],
        [("get_bucket_versioning", {"Status": "Suspended"}), ("list_object_versions", "MethodNotAllowed")],
        [_ENABLED, _LISTED, ("delete_objects", "AccessDenied")],
        [_ENABLED, _LISTED, ("delete_objects", {"Errors": [{"Key": "lake/a", "Code": "AccessDenied"}]})],
    ],
)
def test_versions_that_cannot_be_removed_are_refused(monkeypatch: pytest.MonkeyPatch, answers: list[Any]) -> None:
    with pytest.raises(Refused, match=r"Next: grant .*s3:ListBucketVersions and s3:DeleteObjectVersion"):
        _answering(monkeypatch, *answers).drop_old_versions()


@pytest.mark.parametrize(
    "answers, error",
    [
        ([("get_bucket_versioning", "NoSuchBucket")], ConfigError),
        ([("get_bucket_versioning", "InvalidAccessKeyId")], ConfigError),
        ([_ENABLED, ("list_object_versions", "SlowDown")], Retryable),
        ([_ENABLED, _LISTED, ("delete_objects", {"Errors": [{"Key": "a", "Code": "InternalError"}]})], Retryable),
    ],
)
def test_other_faults_keep_their_names(
    monkeypatch: pytest.MonkeyPatch, answers: list[Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        _answering(monkeypatch, *answers).drop_old_versions()


def test_deleting_a_missing_version_is_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = ("delete_objects", {"Errors": [{"Key": "lake/a", "Code": "NoSuchVersion"}]})
    assert _answering(monkeypatch, _ENABLED, _LISTED, gone).drop_old_versions() == 1


def test_stores_of_an_endpoint_share_a_client_but_not_with_other_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    section = S3Section(endpoint_url="http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "one")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    first, second = S3Store("s3://a/x", section), S3Store("s3://b", section)
    assert first._client is second._client
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "two")
    other = S3Store("s3://a/x", section)
    assert other._client is not first._client
    assert other._session.get_credentials().access_key == "two"
    assert S3Store("s3://a", S3Section(endpoint_url="http://127.0.0.1:8"))._client is not other._client


def test_large_folders_of_a_bucket_are_listed_as_page_by_page(
    weed_env: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = S3Store(f"s3://lake/{secrets.token_hex(4)}/p", S3Section())
    monkeypatch.setattr("facelake.lake.s3._BATCH", 10)
    keys = [f"{folder}/{number:04}.jpg" for folder in "ab" for number in range(25)]
    keys += [f"c/{number:04}/1.jpg" for number in range(25)] + ["a.jpg", "c.txt", "d/e/f/g/1.jpg"]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: store.write(key, b"1"), keys))
    for large in (folder_listing._are_large, lambda *_: True):
        monkeypatch.setattr(folder_listing, "_are_large", large)
        found = list(listed_by_folders(store))
        assert sorted(item.key for item in found) == sorted(keys)  # in a folder SeaweedFS lists a/ before a.jpg
        assert {(item.key, item.tag) for item in found} == {(item.key, item.tag) for item in store.list()}
    assert [item.key for item in found] == sorted(keys)


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_empty_endpoint_in_the_environment_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    with pytest.raises(ConfigError, match=f"{name} is empty"):
        open_store("s3://lake/x")
