"""Real object stores on loopback: SeaweedFS, and rclone's S3 as the store that must be refused."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

ACCESS_KEY, SECRET_KEY = "testkey", "testsecret12"


@dataclass(frozen=True, slots=True)
class Server:
    """A running store."""

    endpoint: str

    def environment(self) -> dict[str, str]:
        """What a process needs to reach it."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
        }

    def make_bucket(self, name: str) -> None:
        """Create a bucket; retried until the server takes writes."""
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=Config(
                s3={"addressing_style": "path"}, retries={"max_attempts": 1}, connect_timeout=2, read_timeout=5
            ),
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                with suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
                    client.create_bucket(Bucket=name)
                client.put_object(Bucket=name, Key="ready", Body=b"")
                client.delete_object(Bucket=name, Key="ready")
                return
            except (BotoCoreError, ClientError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.3)


def of_workers(server: Server) -> dict[str, str]:
    """Settings of Spark that give its Python workers what they need to reach the server.

    A JVM that an earlier test started has the environment of that time.
    """
    return {f"spark.executorEnv.{name}": value for name, value in server.environment().items()}


def _program(name: str) -> str:
    beside = Path(sysconfig.get_path("scripts")) / name
    program = str(beside) if beside.exists() else shutil.which(name)
    if not program:
        raise FileNotFoundError(f"{name} is not installed: pip install -e '.[test]'")
    return program


def free_ports(count: int) -> list[int]:
    """Ports that are free now, each with port + 10000 (SeaweedFS opens its gRPC there).

    Every process begins to look elsewhere: two test processes at once must not find the same ones.
    """
    ports: list[int] = []
    places = range(21000, 30000, 7)
    for number in range(len(places)):
        port = places[(os.getpid() * 101 + number) % len(places)]
        with socket.socket() as low, socket.socket() as high:
            try:
                low.bind(("127.0.0.1", port))
                high.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise OSError("no free ports")


def weed_command(folder: Path, ports: list[int], address: str = "127.0.0.1") -> list[str]:
    """A SeaweedFS server with S3, telemetry off; ports of master, volume, filer, S3. Writes its key file."""
    master, volume, filer, s3 = ports
    keys = {"name": "test", "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]}
    identities = {"identities": [keys | {"actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
    config, data = folder / "s3.json", folder / "data"
    config.write_text(json.dumps(identities))
    data.mkdir(exist_ok=True)
    command = [_program("weed"), "-logtostderr=true", "server", f"-dir={data}", f"-ip={address}", f"-ip.bind={address}"]
    command += [f"-master.port={master}", "-master.telemetry=false", "-master.volumeSizeLimitMB=256"]
    command += [
        f"-volume.port={volume}",
        "-volume.max=500",  # a bucket takes seven; without a free one SeaweedFS answers InternalError
        "-volume.preStopSeconds=1",
        "-filer",
        f"-filer.port={filer}",
    ]
    return [*command, "-s3", f"-s3.port={s3}", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={config}"]


@contextmanager
def seaweedfs(folder: Path) -> Iterator[Server]:
    """A SeaweedFS server with S3 on loopback, telemetry off, data under `folder`."""
    ports = free_ports(4)
    command = weed_command(folder, ports)
    with (folder / "weed.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            yield Server(f"http://127.0.0.1:{ports[-1]}")
        finally:
            process.kill()
            process.wait()


@contextmanager
def rclone_s3(folder: Path) -> Iterator[Server]:
    """rclone's S3 server: answers success to conditional writes whose condition is false."""
    (port,) = free_ports(1)
    (folder / "bucket").mkdir(parents=True)
    command = [_program("rclone"), "serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}"]
    command += ["--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--config", str(folder / "none.conf")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield Server(f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        process.wait()
