"""One small interface over a directory and an S3 bucket: whole objects, conditional creation, listing.

Keys are relative to the store's root and use `/`. A store must honour conditional creation, because two
commits that both believe to be first lose one of the two; `probe` finds out and refuses a store that lies.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import boto3
import pyarrow as pa
import pyarrow.fs as pafs
from botocore.config import Config as BotoConfig
from botocore.exceptions import BotoCoreError, ClientError

from facelake.config import S3Section, read_local
from facelake.errors import ConfigError, Refused, Retryable
from facelake.lake.patient import PatientFile

_TEMPORARY = ".tmp"  # one folder for what is being written, so that leftovers can be found
_Versions = list[dict[str, Any]]  # as S3 lists them
_READ_ATTEMPTS = 10  # Arrow's own 3 do not suffice for a store that fails one request in five
_BATCH = 1000  # what S3 deletes in one call
_DENIED = ("AccessDenied", "403")
_LACKING = ("NotImplemented", "MethodNotAllowed", "501", "405")  # a store without this part of S3


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One listed object."""

    key: str
    size_bytes: int


class ObjectStore(Protocol):
    """What the lake needs of its storage. Errors: FileNotFoundError for a missing key, Retryable for faults."""

    uri: str

    def read(self, key: str) -> bytes: ...
    def tag(self, key: str) -> str | None:
        """A tag that changes with the object's content; None when there is no such object."""
        ...

    def write(self, key: str, data: bytes) -> None: ...
    def create(self, key: str, data: bytes) -> bool:
        """Write only if the key does not exist; False when it did."""
        ...

    def replace(self, key: str, data: bytes, tag: str) -> bool:
        """Write only if the object still has this tag; False when it has not."""
        ...

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Objects whose key starts with prefix (a folder), in key order."""
        ...

    def delete(self, key: str) -> None:
        """Delete; a missing key is no error."""
        ...

    def clear_leftovers(self) -> None:
        """Delete what writers that died left half written; needs exclusive use."""
        ...

    def drop_old_versions(self, prefix: str = "") -> int:
        """Delete what a versioned bucket keeps of replaced and deleted objects under prefix (a folder).

        Returns how many versions and delete markers; Refused without the rights, or if versions cannot be listed.
        """
        ...

    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        """An Arrow file system and the root path in it, for ranged reads of Parquet."""
        ...

    def storage_options(self) -> dict[str, str]: ...


def open_store(uri: str, s3: S3Section | None = None) -> ObjectStore:
    """The store behind a directory path, file:// or s3:// URI. Nothing is read or written yet."""
    if uri.startswith("s3://"):
        return S3Store(uri, s3 or S3Section())
    return DirectoryStore(uri.removeprefix("file://"))


class DirectoryStore:
    """A local directory; conditional writes by hard link and file lock."""

    def __init__(self, path: str) -> None:
        self.root = Path(os.path.abspath(os.path.expanduser(path)))
        self.uri = str(self.root)
        if "%" in self.uri:
            next_step = "Delta logs cannot name it; use another path"
            raise ConfigError("the path contains %", where=self.uri, next_step=next_step)

    def _path(self, key: str) -> Path:
        if PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts:
            raise ValueError(f"key leaves the store: {key!r}")
        return self.root / key

    def read(self, key: str) -> bytes:
        return self._path(key).read_bytes()

    def tag(self, key: str) -> str | None:
        try:
            return hashlib.sha256(self.read(key)).hexdigest()
        except FileNotFoundError:
            return None

    def _write_beside(self, target: Path, data: bytes) -> Path:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            (self.root / _TEMPORARY).mkdir(exist_ok=True)
            prefix = f"{os.getpid()}-"
            with tempfile.NamedTemporaryFile(dir=self.root / _TEMPORARY, prefix=prefix, delete=False) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as err:
            next_step = "check the path, rights and space"
            raise Retryable(f"cannot write: {err}", where=str(target), next_step=next_step) from err
        return Path(file.name)

    def write(self, key: str, data: bytes) -> None:
        target = self._path(key)
        self._write_beside(target, data).replace(target)

    def create(self, key: str, data: bytes) -> bool:
        target = self._path(key)
        beside = self._write_beside(target, data)
        try:
            os.link(beside, target)
        except FileExistsError:
            return False
        finally:
            beside.unlink()
        return True

    def replace(self, key: str, data: bytes, tag: str) -> bool:
        lock = self._path(key + ".lock")
        with lock.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if self.tag(key) != tag:
                return False
            self.write(key, data)
            return True

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        base = self._path(prefix) if prefix else self.root
        if not base.is_dir():
            return

        def unreadable(err: OSError) -> None:
            raise Retryable(f"cannot list: {err}", where=str(base), next_step="check the rights and run again") from err

        for folder, folders, names in os.walk(base, onerror=unreadable):
            folders[:] = sorted(name for name in folders if Path(folder, name) != self.root / _TEMPORARY)
            for name in sorted(names):
                path = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):  # deleted while we listed
                    yield StoredObject(path.relative_to(self.root).as_posix(), path.stat().st_size)

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def clear_leftovers(self) -> None:
        for path in (self.root / _TEMPORARY).glob("*"):
            if not path.name.startswith(f"{os.getpid()}-"):  # the lease is renewed while we clear
                path.unlink(missing_ok=True)

    def drop_old_versions(self, prefix: str = "") -> int:
        return 0

    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        return pafs.LocalFileSystem(), str(self.root)

    def storage_options(self) -> dict[str, str]:
        return {}


class S3Store:
    """An S3-compatible bucket and prefix."""

    def __init__(self, uri: str, s3: S3Section) -> None:
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not bucket:
            raise ConfigError("s3 URI names no bucket", where=uri, next_step="write s3://bucket/prefix")
        self.bucket, self.prefix = bucket, prefix.strip("/")
        self.uri = f"s3://{bucket}/{self.prefix}".rstrip("/")
        self.endpoint = s3.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        self.region = s3.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        self._session = boto3.session.Session()
        style = {"addressing_style": "path" if s3.path_style else "auto"}
        self._path_style = s3.path_style
        self._client = self._session.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            config=BotoConfig(
                s3=style, retries={"mode": "standard", "max_attempts": 6}, connect_timeout=5, read_timeout=60
            ),
        )

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}".strip("/") if key else self.prefix

    def _folder(self, prefix: str) -> str:
        return self._key(prefix) + "/" if self._key(prefix) else ""

    def _fault(self, err: BotoCoreError | ClientError, key: str) -> Exception:
        where = f"s3://{self.bucket}/{self._key(key)}"
        code = _code(err)
        if code in ("NoSuchKey", "404"):
            return FileNotFoundError(where)
        if code in (*_DENIED, "InvalidAccessKeyId", "SignatureDoesNotMatch"):
            return ConfigError(
                f"the store denies access ({code})", where=where, next_step="check the AWS_* environment"
            )
        if code == "NoSuchBucket":
            return ConfigError("no such bucket", where=where, next_step="create the bucket, or correct the URI")
        if type(err).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
            return ConfigError(
                "no S3 credentials", where=where, next_step="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        at = f" at {self.endpoint}" if self.endpoint else ""
        what = f"the object store{at} does not answer: {type(err).__name__} {code}".rstrip()
        return Retryable(what, where=where, next_step="check the endpoint and the network, then run again")

    def _call(self, method: str, key: str, **kwargs: Any) -> Any:
        try:
            return getattr(self._client, method)(Bucket=self.bucket, **kwargs)
        except (BotoCoreError, ClientError) as err:
            raise self._fault(err, key) from err

    def read(self, key: str) -> bytes:
        for attempt in range(_READ_ATTEMPTS):
            body = self._call("get_object", key, Key=self._key(key))["Body"]
            try:
                return bytes(body.read())
            except BotoCoreError as err:  # cut in the middle of the reply, which botocore does not try again
                fault = err
                time.sleep(0.05 * 2 ** min(attempt, 5))
        raise self._fault(fault, key) from fault

    def tag(self, key: str) -> str | None:
        try:
            return str(self._call("head_object", key, Key=self._key(key))["ETag"])
        except FileNotFoundError:
            return None

    def write(self, key: str, data: bytes) -> None:
        self._call("put_object", key, Key=self._key(key), Body=data)

    def _conditional(self, key: str, data: bytes, **condition: str) -> bool:
        try:
            self._client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data, **condition)
        except ClientError as err:
            meta = err.response.get("ResponseMetadata", {})
            if meta.get("HTTPStatusCode") in (409, 412):
                return bool(meta.get("RetryAttempts")) and self._is_ours(key, data)
            raise self._fault(err, key) from err
        except BotoCoreError as err:
            raise self._fault(err, key) from err
        return True

    def _is_ours(self, key: str, data: bytes) -> bool:
        """Did an earlier attempt of the same request win, its reply having been lost?"""
        try:
            return self.read(key) == data
        except FileNotFoundError:
            return False

    def create(self, key: str, data: bytes) -> bool:
        return self._conditional(key, data, IfNoneMatch="*")

    def replace(self, key: str, data: bytes, tag: str) -> bool:
        return self._conditional(key, data, IfMatch=tag)

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        start = self._folder(prefix)
        token: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", prefix, Prefix=start, **token)
            for item in page.get("Contents", []):
                key = item["Key"][len(self.prefix) :].lstrip("/") if self.prefix else item["Key"]
                yield StoredObject(key, item["Size"])
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, key: str) -> None:
        self._call("delete_object", key, Key=self._key(key))

    def clear_leftovers(self) -> None:
        """A put is whole or not at all."""

    def drop_old_versions(self, prefix: str = "") -> int:
        try:
            if not self._client.get_bucket_versioning(Bucket=self.bucket).get("Status"):
                return 0
            return self._delete_versions(self._old_versions(prefix))
        except (BotoCoreError, ClientError) as err:
            code = _code(err)
            if code in _LACKING and getattr(err, "operation_name", "") == "GetBucketVersioning":
                return 0
            if code not in (*_DENIED, *_LACKING):
                raise self._fault(err, prefix) from err
            what = f"the bucket may keep old versions of what is erased, and they cannot be removed ({code})"
            rights = "s3:GetBucketVersioning, s3:ListBucketVersions and s3:DeleteObjectVersion"
            next_step = f"grant {rights} without object lock or MFA delete, or use a bucket without versioning"
            raise Refused(what, where=f"s3://{self.bucket}/{self._key(prefix)}", next_step=next_step) from err

    def _old_versions(self, prefix: str) -> _Versions:
        """All of them before any is deleted (a page is found from the one before it); delete markers last.

        A marker that goes before the versions which it hides would bring the newest of them back.
        """
        old: _Versions = []
        markers: _Versions = []
        pages = self._client.get_paginator("list_object_versions")
        for page in pages.paginate(Bucket=self.bucket, Prefix=self._folder(prefix)):
            old += [item for item in page.get("Versions", []) if not item["IsLatest"]]
            markers += page.get("DeleteMarkers", [])
        return old + markers

    def _delete_versions(self, versions: _Versions) -> int:
        for at in range(0, len(versions), _BATCH):
            batch = [{name: item[name] for name in ("Key", "VersionId")} for item in versions[at : at + _BATCH]]
            reply = self._client.delete_objects(Bucket=self.bucket, Delete={"Objects": batch, "Quiet": True})
            for error in reply.get("Errors", []):
                if error.get("Code") not in ("NoSuchVersion", "NoSuchKey"):
                    raise ClientError({"Error": error}, "DeleteObjects")
        return len(versions)

    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        scheme, _, host = (self.endpoint or "").partition("://")
        options: dict[str, Any] = {"region": self.region, "request_timeout": 60, "connect_timeout": 5}
        options["retry_strategy"] = pafs.AwsStandardS3RetryStrategy(max_attempts=_READ_ATTEMPTS)
        if host:
            options |= {"scheme": scheme, "endpoint_override": host.rstrip("/")}
        if not self._path_style:
            options["force_virtual_addressing"] = True
        options |= self._file_credentials("access_key", "secret_key", "session_token")
        return pafs.S3FileSystem(**options), f"{self.bucket}/{self.prefix}".rstrip("/")

    def storage_options(self) -> dict[str, str]:
        options = {"AWS_REGION": self.region}
        if self.endpoint:
            options |= {
                "AWS_ENDPOINT_URL": self.endpoint,
                "AWS_ALLOW_HTTP": str(self.endpoint.startswith("http:")).lower(),
            }
        if not self._path_style:
            options["AWS_VIRTUAL_HOSTED_STYLE_REQUEST"] = "true"
        return options | self._file_credentials("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")

    def _file_credentials(self, key: str, secret: str, token: str) -> dict[str, str]:
        """Credentials of ~/.aws files, which delta-rs does not read; other chains it walks (and renews) itself."""
        found = self._session.get_credentials()
        if found is None or "file" not in found.method:
            return {}
        frozen = found.get_frozen_credentials()
        parts = {key: frozen.access_key, secret: frozen.secret_key}
        return parts | ({token: frozen.token} if frozen.token else {})


def _code(err: BotoCoreError | ClientError) -> str:
    return str(err.response["Error"].get("Code", "")) if isinstance(err, ClientError) else ""


def probe(store: ObjectStore) -> None:
    """Check that the store can be written and honours conditional creation and replacement.

    Raises:
        Refused: the store answers success to a conditional write whose condition is false.
        ConfigError, Retryable: it cannot be reached or written.
    """
    key = f"probe/{secrets.token_hex(8)}"
    try:
        first, second = store.create(key, b"1"), store.create(key, b"2")
        stale = first and store.replace(key, b"3", '"0123456789abcdef0123456789abcdef"')
    finally:
        with contextlib.suppress(Retryable, ConfigError):
            store.delete(key)
            store.delete(key + ".lock")
    if not first or second or stale:
        what = "the store ignores conditional writes (If-None-Match, If-Match): concurrent commits would be lost"
        raise Refused(what, where=store.uri, next_step="use a store that honours them (see docs/storage.md)")


def read_text(uri: str) -> str:
    """The text of a local file or of s3://bucket/key, the store being what AWS_ENDPOINT_URL says.

    Raises:
        OSError, FileNotFoundError: as for a local file.
        ConfigError, Retryable: the store denies access or does not answer.
    """
    if not uri.startswith("s3://"):
        return read_local(uri)
    folder, _, key = uri.rpartition("/")
    return S3Store(folder, S3Section()).read(key).decode("utf-8")


def read_input(store: ObjectStore, key: str) -> pa.NativeFile:
    """Open an object for ranged reads."""
    filesystem, root = store.filesystem()
    try:
        source = filesystem.open_input_file(f"{root}/{key}")
        return source if isinstance(filesystem, pafs.LocalFileSystem) else pa.PythonFile(PatientFile(source), mode="r")
    except FileNotFoundError:
        raise
    except OSError as err:
        next_step = "check the store and run again"
        raise Retryable(f"cannot open: {err}", where=f"{store.uri}/{key}", next_step=next_step) from err
