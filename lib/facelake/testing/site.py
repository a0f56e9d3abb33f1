"""A complete installation on simulated hosts: SeaweedFS, a Ray cluster, a Spark standalone cluster, a driver host.

Daemons are started with the commands that an operator would use, with credentials in their environment.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from numba.core.caching import UserWideCacheLocator

from facelake.config import conf_dir, package_dir
from facelake.testing.clusters import SHORT_LIVED_JVM, use_classes
from facelake.testing.hosts import Host, Network
from facelake.testing.servers import ACCESS_KEY, SECRET_KEY, weed_command

NAMES = ("store", "head", "ray1", "ray2", "master", "spark1", "spark2", "driver")
ENDPOINT = "http://store:8333"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_ENDPOINT_URL": ENDPOINT}
_PORTS = [9333, 8080, 8888, 8333]
_CLASSES = "/home/spark.jsa"
_JVM = f"{SHORT_LIVED_JVM} {use_classes(_CLASSES)}"
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "SPARK_SUBMIT_OPTS": use_classes(_CLASSES)}
# a disconnected host is declared dead after about 20 s instead of a minute; a busy one must not be
_HEALTH = {
    "RAY_health_check_initial_delay_ms": "3000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "6000",
    "RAY_health_check_failure_threshold": "4",
    "RAY_raylet_start_wait_time_s": "120",  # five nodes start at once on the cores of one
}
_BUCKET = """
import boto3, sys, time
from botocore.config import Config
config = Config(connect_timeout=2, read_timeout=5, retries={"max_attempts": 1}, s3={"addressing_style": "path"})
client = boto3.client("s3", endpoint_url=sys.argv[1], region_name="us-east-1", config=config)
for attempt in range(120):
    try:
        if attempt == 0 or sys.argv[2] not in [b["Name"] for b in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=sys.argv[2])
        client.put_object(Bucket=sys.argv[2], Key="ready", Body=b"")
        client.delete_object(Bucket=sys.argv[2], Key="ready")
        break
    except Exception:
        time.sleep(0.5)
else:
    sys.exit("the store does not accept writes")
"""


class Site:
    """Starts the daemons on a network of the hosts in NAMES, and runs facelake on the driver host."""

    def __init__(self, net: Network, *, jobs: bool = False) -> None:
        self.net, self._jobs = net, jobs

    @property
    def driver(self) -> Host:
        """The host on which facelake runs."""
        return self.net["driver"]

    def start_store(self) -> None:
        """Start SeaweedFS on `store` without waiting for it."""
        host = self.net["store"]
        folder = host.path("/home/weed")
        folder.mkdir(exist_ok=True)
        inside = [word.replace(str(folder), "/home/weed") for word in weed_command(folder, _PORTS, host.address)]
        host.start(inside, log="weed")

    def make_bucket(self, name: str = "lake") -> None:
        """Create a bucket, once the store accepts writes."""
        done = self.driver.run([sys.executable, "-c", _BUCKET, ENDPOINT, name], CREDENTIALS, timeout_s=120)
        if done.returncode:
            raise TimeoutError(f"{done.stderr[-500:]} {self.net['store'].log('weed')[-1000:]}")

    def start_ray(self, workers: Sequence[str] = ("ray1", "ray2"), *, head: bool = True, cpus: int = 1) -> None:
        """Start a Ray head without cores, which only schedules, and workers."""
        common = ["--block", "--disable-usage-stats", "--object-store-memory=100000000", "--include-log-monitor=false"]
        env = CREDENTIALS | _QUIET | _HEALTH
        if head:
            host = self.net["head"]
            command = ["ray", "start", "--head", f"--node-ip-address={host.address}", "--port=6379", "--num-cpus=0"]
            page = ["--dashboard-host=0.0.0.0"] if self._jobs else ["--include-dashboard=false"]
            command += [*page, "--no-monitor", *common]
            host.start(command, env, log="ray")
            host.until("ray", "Ray runtime started")
        # a driver outside `ray job submit` must be a node of the cluster; it offers no cores
        for name in [*workers, *(["driver"] if head else [])]:
            host, cores = self.net[name], 0 if name == "driver" else cpus
            command = ["ray", "start", "--address=head:6379", f"--node-ip-address={host.address}"]
            command += [f"--num-cpus={cores}"]
            host.start([*command, *common], env, log="ray")

    def start_spark(self, workers: Sequence[str] = ("spark1", "spark2")) -> None:
        """Start a Spark standalone master and workers with one core each."""
        spec = importlib.util.find_spec("pyspark")
        assert spec is not None
        assert spec.origin is not None
        program = str(Path(spec.origin).parent / "bin" / "spark-class")
        env = CREDENTIALS | {"PYSPARK_PYTHON": sys.executable, "SPARK_WORKER_DIR": "/home/work"}
        env |= {"SPARK_DAEMON_JAVA_OPTS": _JVM}
        master = self.net["master"]
        package = "org.apache.spark.deploy"
        page = ["--webui-port", "8081"]
        master.start([program, f"{package}.master.Master", "--host", "master", "--port", "7077", *page], env, "spark")
        for name in workers:
            sizes = ["--host", name, "--cores", "1", "--memory", "1g", *page]
            command = [program, f"{package}.worker.Worker", *sizes, "spark://master:7077"]
            self.net[name].start(command, env, log="spark")

    def wait(self, ray: int = 2, spark: int = 2) -> None:
        """Wait until every worker is registered."""
        for name in ["driver", *(f"ray{number}" for number in range(1, ray + 1))]:
            self.net[name].until("ray", "Ray runtime started")
        for number in range(1, spark + 1):
            self.net[f"spark{number}"].until("spark", "Successfully registered with master")

    def config(self, over: Mapping[str, Any], base: str = "cluster.yaml") -> dict[str, Any]:
        """The settings of conf/cluster.yaml as an operator would edit them for this site."""
        data: dict[str, Any] = yaml.safe_load((conf_dir() / base).read_text())
        data |= {"lake": "s3://lake/night", "corpus": None}
        data["s3"] = {"endpoint_url": ENDPOINT, "region": "us-east-1"}
        data["ray"] = {"address": "auto"}
        data["spark"]["master"] = "spark://master:7077"
        data["spark"]["driver_memory"] = "1g"
        data["spark"]["conf"] = data["spark"]["conf"] | {
            "spark.executor.memory": "700m",
            "spark.executor.extraJavaOptions": _JVM,
        }
        data["embed"] |= {"chunk_rows": 32, "commit_every_chunks": 2}
        for key, value in over.items():
            section, _, name = key.rpartition(".")
            (data[section] if section else data)[name] = value
        return data

    def state(self, config: str) -> dict[str, Any]:
        """The state of the lake, as state_of."""
        return state_of(lambda command: self.driver.run(command, CREDENTIALS), config)

    def write_config(self, path: str = "/home/cluster.yaml", **over: Any) -> str:
        """Write the config to a file on the driver host; keys are given as `section__key`."""
        data = self.config({key.replace("__", "."): value for key, value in over.items()})
        return self.driver.write(path, yaml.safe_dump(data, sort_keys=False))

    def facelake(self, *arguments: str, timeout_s: float = 300.0, code: int = 0) -> dict[str, Any]:
        """Run a facelake command on the driver host; returns its JSON result."""
        done = self.driver.run(
            [sys.executable, "-m", "facelake", *arguments, "--json"], CREDENTIALS | _QUIET, timeout_s=timeout_s
        )
        if done.returncode != code:
            raise AssertionError(f"exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}")
        return dict(json.loads(done.stdout.splitlines()[-1]))


_DUMP = """
import hashlib, json, sys
from facelake.config import load_config
from facelake.lake.lake import Lake
from facelake.stages.gallery.versions import current_gallery
config = load_config(sys.argv[1])
lake = Lake.open(config.lake, config.s3)
found = {"assignments": {}, "gallery": 0}
if gallery := current_gallery(lake):
    rows = gallery.read("memberships", ["face_id", "identity_id"])
    found |= {"assignments": dict(zip(*(c.to_pylist() for c in rows.columns))), "gallery": gallery.version}
for name, key in (("faces", ["face_id"]), ("rejects", ["corpus_file", "corpus_row"])):
    rows = lake[name].read().sort_by([(column, "ascending") for column in key])
    found[name] = hashlib.sha256(json.dumps(rows.to_pylist(), default=str).encode()).hexdigest()
    found[f"{name}_rows"] = rows.num_rows
print(json.dumps(found))
"""


def state_of(run: Callable[[Sequence[str]], subprocess.CompletedProcess[str]], config: str) -> dict[str, Any]:
    """The identity of each face and digests of all faces and rejects; equal states mean equal lakes, including vectors.

    Args:
        run: runs a command on a host that can access the lake.
    """
    done = run([sys.executable, "-c", _DUMP, config])
    if done.returncode:
        raise AssertionError(done.stderr[-3000:])
    return dict(json.loads(done.stdout))


def give_caches(site: Site, models: Path, names: Sequence[str] = ("driver",)) -> None:
    """Copy models and demo photos to the driver (as after `facelake models fetch`), and the chosen runtimes and numba's
    cache to all hosts.

    Without this host's choice each host would measure, and runtimes differ in the last bit of an embedding. numba's
    cache is that of this checkout, if it has one; without it a host compiles for a minute.
    """
    for name in names:
        shutil.copytree(models, site.net[name].path("/home/.cache/facelake"), dirs_exist_ok=True)
    for host in site.net.hosts.values():
        chosen = host.path("/home/.cache/facelake/runtimes")
        shutil.copytree(models / "runtimes", chosen, dirs_exist_ok=True)
    compiled = {file.parent for file in package_dir().rglob("__pycache__/*.nb?")}
    for host in site.net.hosts.values():
        for folder in compiled:
            place = UserWideCacheLocator.get_suitable_cache_subpath(str(folder.parent / "x.py"))
            target = host.path("/home/.cache/numba") / place
            target.mkdir(parents=True, exist_ok=True)
            for file in folder.glob("*.nb?"):
                shutil.copy(file, target)


def start_site(net: Network, classes: Path | None = None, *, jobs: bool = False) -> Site:
    """Start all daemons, then wait until all are ready.

    Args:
        net: with the hosts in NAMES.
        classes: an archive of Spark's classes (clusters.py) that hosts link to.
        jobs: whether Ray takes `ray job submit`, by its dashboard.
    """
    site = Site(net, jobs=jobs)
    if classes and classes.exists():
        for host in net.hosts.values():
            os.link(classes, host.path(_CLASSES))
    site.start_store()
    site.start_spark()
    site.start_ray()
    site.wait()
    site.make_bucket()
    return site
