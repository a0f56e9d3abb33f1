"""The object store of an S3-compatible bucket, by boto3; bulk reads go through Arrow's own client."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pyarrow.fs as pafs
from boto3.exceptions import S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.config import Config as BotoConfig
from botocore.exceptions import BotoCoreError, ClientError

from facelake.config import S3Section
from facelake.errors import ConfigError, Refused, Retryable, Unreachable
from facelake.lake.folder_listing import Page, page_by_page
from facelake.lake.object_store import StoredObject

_Versions = list[dict[str, Any]]  # as S3 lists them
_READ_ATTEMPTS = 10  # Arrow's own 3 do not suffice for a store that fails one request in five
_PART_BYTES = 16 << 20  # of a multipart upload
_CONNECTIONS = 64  # photos are read by half as many threads at most; other stores share them
_BATCH = 1000  # what S3 deletes and lists in one call
_DENIED = ("AccessDenied", "403")
_CHECK = "check the AWS_* environment"
_LACKING = ("NotImplemented", "MethodNotAllowed", "501", "405")  # a store without this part of S3


def endpoint_of(s3: S3Section) -> str | None:
    """Return the endpoint URL of the config or of the environment; None means Amazon's own.

    Raises:
        ConfigError: the URL contains credentials, which errors and logs would show; it is not repeated here. Or a
            variable of the environment is empty, which the S3 clients do not take for unset.
    """
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if os.environ.get(name) == "":
            raise ConfigError(f"{name} is empty", where="environment", next_step=f"`unset {name}`, or set it to a URL")
    endpoint = s3.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint and "@" in endpoint:
        next_step = "pass them as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise ConfigError("the endpoint URL contains credentials", where="AWS_ENDPOINT_URL", next_step=next_step)
    return endpoint


@lru_cache(maxsize=16)
def _connected(
    endpoint: str | None, region: str, *, path_style: bool, environment: frozenset[tuple[str, str]], process: int
) -> tuple[Any, Any]:
    """Return a session and a client, shared by all stores of an endpoint.

    Making one takes 0.1 s of CPU, and a run opens hundreds of stores. Threads may share a client.

    Args:
        endpoint: URL; None means Amazon's own.
        region: the bucket's.
        path_style: whether URLs name the bucket in their path.
        environment: variables from which the credentials come.
        process: id of this process, since connections must not be shared with a forked one.
    """
    core = botocore.session.get_session()
    # times as the store writes them: nobody reads them here, and parsing them is most of what a listing costs
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
    session = boto3.session.Session(botocore_session=core)
    style = {"addressing_style": "path" if path_style else "auto"}
    retries = {"mode": "standard", "max_attempts": 6}
    config = BotoConfig(
        s3=style, retries=retries, connect_timeout=5, read_timeout=60, max_pool_connections=_CONNECTIONS
    )
    return session, session.client("s3", endpoint_url=endpoint, region_name=region, config=config)


class S3Store:
    """An S3-compatible bucket and prefix."""

    def __init__(self, uri: str, s3: S3Section) -> None:
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if "@" in bucket:
            next_step = "write s3://bucket/prefix, and pass credentials in the environment"
            raise ConfigError("the URI contains credentials", where="s3://...", next_step=next_step)
        if not bucket:
            raise ConfigError("s3 URI names no bucket", where=uri, next_step="write s3://bucket/prefix")
        self.bucket, self.prefix = bucket, prefix.strip("/")
        self.uri = f"s3://{bucket}/{self.prefix}".rstrip("/")
        self.endpoint = endpoint_of(s3)
        self.region = s3.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        self._path_style = s3.path_style
        environment = frozenset(item for item in os.environ.items() if item[0].startswith("AWS_") or item[0] == "HOME")
        self._session, self._client = _connected(
            self.endpoint, self.region, path_style=s3.path_style, environment=environment, process=os.getpid()
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
        if code in _DENIED:
            return Unreachable(f"the store denies access ({code})", where=where, next_step=_CHECK)
        if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch"):
            return ConfigError(f"the store denies access ({code})", where=where, next_step=_CHECK)
        if _names_no_bucket(err, self.bucket):
            what = f"{self.bucket!r} is not a valid name of a bucket"
            next_step = "correct the URI: 3 to 63 lower-case letters, digits, dots and hyphens"
            return ConfigError(what, where=where, next_step=next_step)
        if code == "NoSuchBucket":
            return Unreachable("no such bucket", where=where, next_step="create the bucket, or correct the URI")
        if type(err).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
            return ConfigError(
                "no S3 credentials", where=where, next_step="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        at = f" at {self.endpoint}" if self.endpoint else ""
        if code and not _answers_later(err):
            what = f"the object store{at} refuses the request: {code}"
            return Retryable(what, where=where, next_step=f"{_CHECK}, and the URI")
        what = f"the object store{at} does not answer: {type(err).__name__} {code}".rstrip()
        return Retryable(what, where=where, next_step="check the endpoint and the network, then run again")

    def _call(self, method: str, key: str, **kwargs: Any) -> Any:
        try:
            return getattr(self._client, method)(Bucket=self.bucket, **kwargs)
        except (BotoCoreError, ClientError) as err:
            raise self._fault(err, key) from err

    def read(self, key: str) -> bytes:
        return self._read(key)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        return self._read(key, Range=f"bytes={start}-{start + length - 1}") if length else b""

    def stat(self, key: str) -> StoredObject | None:
        try:
            head = self._call("head_object", key, Key=self._key(key))
        except FileNotFoundError:
            return None
        return StoredObject(key, head["ContentLength"], head["ETag"].strip('"'))

    def _read(self, key: str, **options: str) -> bytes:
        for attempt in range(_READ_ATTEMPTS):
            body = self._call("get_object", key, Key=self._key(key), **options)["Body"]
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

    def upload(self, key: str, file: Path) -> None:
        transfer = TransferConfig(multipart_threshold=_PART_BYTES, multipart_chunksize=_PART_BYTES, max_concurrency=4)
        try:
            self._client.upload_file(str(file), self.bucket, self._key(key), Config=transfer)
        except S3UploadFailedError as err:
            if isinstance(cause := err.__cause__ or err.__context__, ClientError):
                raise self._fault(cause, key) from err
            where = f"s3://{self.bucket}/{self._key(key)}"
            raise Retryable(f"cannot write: {err}", where=where, next_step="check the store and run again") from err
        except (BotoCoreError, ClientError) as err:
            raise self._fault(err, key) from err

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
        return page_by_page(self.page, f"{folder}/" if (folder := prefix.strip("/")) else "")

    def page(self, folder: str, *, after: str = "", own: bool = False) -> Page:
        """Return one page of a folder, as `folder_listing.Pages` says; its name is "" or ends with "/"."""
        root = self._folder("")
        options = ({"ContinuationToken": after} if after else {}) | ({"Delimiter": "/"} if own else {})
        found = self._call("list_objects_v2", folder, Prefix=root + folder, MaxKeys=_BATCH, **options)
        objects = [
            StoredObject(item["Key"][len(root) :].lstrip("/"), item["Size"], item["ETag"].strip('"'))
            for item in found.get("Contents", [])
        ]
        folders = [item["Prefix"][len(root) :] for item in found.get("CommonPrefixes", [])]
        return Page(objects, folders, found["NextContinuationToken"] if found.get("IsTruncated") else "")

    def delete(self, key: str) -> None:
        self._call("delete_object", key, Key=self._key(key))

    def purge(self, key: str) -> None:
        self.delete(key)
        self._without_versions(key, lambda: self._versions_of(key))
        self._abort_uploads(self._key(key), only=self._key(key))

    def clear_leftovers(self) -> None:
        """Abort uploads in parts that writers left open: their parts are kept, and no listing of objects has them."""
        self._abort_uploads(self._folder(""))

    def _abort_uploads(self, prefix: str, only: str | None = None) -> None:
        try:
            pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=prefix)
            uploads = [item for page in pages for item in page.get("Uploads", [])]
            for upload in [item for item in uploads if only in (None, item["Key"])]:
                self._client.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        except (BotoCoreError, ClientError) as err:
            code = _code(err)
            if code in (*_LACKING, "NoSuchUpload"):
                return
            if code not in _DENIED:
                raise self._fault(err, "") from err
            what = "the bucket may keep parts of unfinished uploads of what is erased, and they cannot be removed"
            next_step = "grant s3:ListBucketMultipartUploads and s3:AbortMultipartUpload"
            raise Refused(what, where=self.uri, next_step=next_step) from err

    def drop_old_versions(self, prefix: str = "") -> int:
        return self._without_versions(prefix, lambda: self._old_versions(prefix))

    def _versions_of(self, key: str) -> _Versions:
        """All versions of one object, its delete markers last."""
        pages = list(
            self._client.get_paginator("list_object_versions").paginate(Bucket=self.bucket, Prefix=self._key(key))
        )
        kinds = ("Versions", "DeleteMarkers")
        return [
            item for kind in kinds for page in pages for item in page.get(kind, []) if item["Key"] == self._key(key)
        ]

    def _without_versions(self, prefix: str, versions: Callable[[], _Versions]) -> int:
        try:
            if not self._client.get_bucket_versioning(Bucket=self.bucket).get("Status"):
                return 0
            return self._delete_versions(versions())
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
        for page in pages.paginate(
            Bucket=self.bucket, Prefix=self._folder(prefix), PaginationConfig={"PageSize": _BATCH}
        ):
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
        credentials = self._session.get_credentials()
        if credentials is None or "file" not in credentials.method:
            return {}
        frozen = credentials.get_frozen_credentials()
        parts = {key: frozen.access_key, secret: frozen.secret_key}
        return parts | ({token: frozen.token} if frozen.token else {})


def _code(err: BotoCoreError | ClientError) -> str:
    return str(err.response["Error"].get("Code", "")) if isinstance(err, ClientError) else ""


def _names_no_bucket(err: BotoCoreError | ClientError, bucket: str) -> bool:
    """Tell whether the fault is the bucket's name; reading, some stores only say that there is no such bucket."""
    if _code(err) == "NoSuchBucket":
        return not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket)
    return _code(err) == "InvalidBucketName" or type(err).__name__ == "ParamValidationError"


def _answers_later(err: BotoCoreError | ClientError) -> bool:
    """Whether the store answered that it cannot serve the request now (5xx, 429), or did not say why."""
    status = (
        err.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500) if isinstance(err, ClientError) else 500
    )
    return not 400 <= int(status) < 500 or status == 429
