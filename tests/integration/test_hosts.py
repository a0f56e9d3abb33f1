"""One night over hosts with addresses and disks of their own: Ray, Spark, a store and a driver; needs Linux and root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from facelake.testing.hosts import network
from facelake.testing.site import CREDENTIALS, ENDPOINT, NAMES, Site, give_caches, start_site, state_of
from tests.conftest import ROOT

Demo = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, demo_template: Demo, spark_classes: Path
) -> Iterator[Site]:
    """The demo's night came first: it compiled the loops that the hosts are given."""
    jobs = any(item.name == test_jobs_submitted_to_clusters.__name__ for item in request.session.items)
    with network(tmp_path_factory.mktemp("hosts"), NAMES) as net:
        site = start_site(net, spark_classes, jobs=jobs)
        give_caches(site, Path(os.environ["FACELAKE_CACHE"]))
        yield site


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory, demo_template: Demo) -> dict[str, Any]:
    """The state of the night that one machine ran."""
    config = tmp_path_factory.mktemp("single") / "c.yaml"
    config.write_text(f"lake: {demo_template[0]}\n")
    return state_of(lambda command: subprocess.run(command, capture_output=True, text=True, check=False), str(config))


def test_hosts_share_no_disk(tmp_path: Path) -> None:
    with network(tmp_path, ["one", "two"]) as net:
        script = (
            "for f in /tmp /home /dev/shm /var/tmp /run; do touch $f/mark-$(hostname); ls $f; done; getent hosts two"
        )
        said = [net[name].run(["bash", "-c", script]).stdout for name in ("one", "two")]
        for mine, other, text in (("one", "two", said[0]), ("two", "one", said[1])):
            assert text.count(f"mark-{mine}") == 5
            assert f"mark-{other}" not in text
            assert "10.77.0.3" in text
        places = ["/", "/etc", "/usr", "/var", "/opt", "/mnt", str(ROOT), str(Path(sys.executable).parent)]
        for place in places:
            done = net["one"].run(["touch", f"{place}/mark"])
            assert "Read-only file system" in done.stderr, place


def test_night_over_hosts_is_the_night_on_one(site: Site, single: dict[str, Any]) -> None:
    config = site.write_config()
    result = site.facelake("demo", "-c", config)
    assert result["stages"]["embed"]["embedded"] == 196
    assert site.state(config) == single
    assert site.facelake("verify", "-c", config)["ok"]
    again = site.facelake("nightly", "-c", config)["stages"]
    assert all(stage["skipped"] for stage in again.values())


def submit(site: Site, job: str, archive: str, config: str) -> None:
    """The two jobs as their users know them, from the driver's host."""
    jobs = str(Path(job) / "jobs")
    ray = ["ray", "job", "submit", "--address=http://head:8265", "--working-dir", job, "--"]
    done = site.driver.run([*ray, "python", "jobs/embed.py", "-c", config, "--json"], CREDENTIALS, timeout_s=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert '"embedded": 196' in done.stdout
    spark = ["spark-submit", "--master", "spark://master:7077", "--conf", "spark.executor.memory=700m"]
    spark += ["--driver-memory", "800m", "--py-files", archive, f"{jobs}/cluster.py"]
    done = site.driver.run([*spark, "-c", config, "--json"], CREDENTIALS | {"PYSPARK_PYTHON": sys.executable})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    stages = json.loads(done.stdout.splitlines()[-1])["stages"]
    assert stages["cluster"]["faces"] == 255
    assert stages["publish"]["identities"] == 8


def on_s3(site: Site, path: str) -> str:
    """Put a file of the driver's host into the bucket; its URI."""
    script = "import boto3, sys; boto3.client('s3', endpoint_url=sys.argv[1], region_name='us-east-1').upload_file(*sys.argv[2:])"
    name = path.rsplit("/", 1)[1]
    done = site.driver.run([sys.executable, "-c", script, ENDPOINT, path, "lake", f"conf/{name}"], CREDENTIALS)
    assert done.returncode == 0, done.stderr
    return f"s3://lake/conf/{name}"


_BUILD = """
import sys
from facelake.config import load_config
from facelake.nightly import writing
from facelake.demo import build_demo
with writing(load_config(sys.argv[1]), "demo") as context:
    context.lake.mark_as_demo()
    build_demo(context)
"""


def submitted_lake(site: Site) -> str:
    """The demo's corpus and ledger in a lake of their own; its config names a master that submission must correct."""
    config = site.write_config("/home/submitted.yaml", lake="s3://lake/submitted", spark__master="local[1]")
    done = site.driver.run([sys.executable, "-c", _BUILD, config], CREDENTIALS)
    assert done.returncode == 0, done.stderr
    site.facelake("models", "fetch", "-c", config)  # the head has no package index: it finds the model in the lake
    return on_s3(site, config)


@pytest.mark.slow
def test_jobs_submitted_to_clusters(site: Site, single: dict[str, Any]) -> None:
    """`ray job submit` of the checkout and `spark-submit` with our archive, the config read from s3://."""
    archive = site.driver.path("/home/dist")
    subprocess.run([sys.executable, ROOT / "infra/package.py", str(archive)], check=True, capture_output=True)
    config = submitted_lake(site)
    submit(site, str(ROOT), "/home/dist/facelake.zip", config)
    assert site.state("/home/submitted.yaml") == single
    assert "Registered app cluster.py" in site.net["master"].log("spark")  # and not on the config's local[1]
