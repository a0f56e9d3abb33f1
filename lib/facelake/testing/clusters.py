"""A Spark standalone cluster on loopback, with master and workers from the pyspark wheel."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facelake.testing.servers import free_ports

_START_S = 240.0
# these JVMs live for a minute: what an optimising compiler and a parallel collector cost is not earned back
SHORT_LIVED_JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:-UsePerfData"


def archive_classes(archive: Path) -> str:
    """The option of a JVM that writes the classes it has loaded into an archive when it ends."""
    return f"-XX:ArchiveClassesAtExit={archive} -Xlog:disable"


def use_classes(archive: Path | str) -> str:
    """The option of a JVM that takes Spark's classes from such an archive, which saves half of its start.

    Without the archive, or with that of another Java or Spark, they are loaded as ever.
    """
    return f"-XX:SharedArchiveFile={archive} -Xshare:auto -Xlog:disable"


def short_lived_jvm() -> str:
    """Options of daemons and executors: those above, and those that this process gives to drivers."""
    return f"{SHORT_LIVED_JVM} {os.environ.get('SPARK_SUBMIT_OPTS', '')}".strip()


@contextmanager
def spark_standalone(folder: Path, workers: int = 1, cores: int = 2, *, hosts: bool = False) -> Iterator[str]:
    """Run a master and workers, each a separate process; yields the master's URL.

    Args:
        hosts: give every worker its own loopback address, so that Spark treats it as another host.

    Raises:
        RuntimeError: a worker did not register; the message contains the end of the log.
    """
    spec = importlib.util.find_spec("pyspark")
    assert spec is not None
    assert spec.origin is not None
    program = Path(spec.origin).parent / "bin" / "spark-class"
    environment = os.environ | {
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_DAEMON_JAVA_OPTS": short_lived_jvm(),
    }
    port, *pages = free_ports(workers + 2)
    url, log = f"spark://127.0.0.1:{port}", folder / "master.log"
    host = ["--host", "127.0.0.1", "--webui-port"]
    commands = [["org.apache.spark.deploy.master.Master", *host, str(pages[0]), "--port", str(port)]]
    addresses = ["127.0.0.1"] * (workers + 1)
    for number in range(workers):
        sizes = ["--cores", str(cores), "--memory", "2g", "--work-dir", str(folder / f"worker-{number}")]
        addresses[number + 1] = f"127.0.0.{number + 2}" if hosts else "127.0.0.1"
        page = ["--host", addresses[number + 1], "--webui-port", str(pages[number + 1])]
        commands.append(["org.apache.spark.deploy.worker.Worker", *page, *sizes, url])
    running: list[subprocess.Popen[bytes]] = []
    try:
        with log.open("wb") as file:
            for command, address in zip(commands, addresses, strict=True):
                own = environment | {"SPARK_LOCAL_IP": address}
                running.append(subprocess.Popen([str(program), *command], stdout=file, stderr=file, env=own))
            _until_registered(log, workers)
            yield url
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _until_registered(log: Path, workers: int) -> None:
    deadline = time.monotonic() + _START_S
    while log.read_bytes().count(b"Successfully registered with master") < workers:
        if time.monotonic() > deadline:
            raise RuntimeError(f"a Spark worker did not register: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.3)
