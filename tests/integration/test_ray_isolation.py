"""A local Ray is closed to other hosts, and to accounts that do not have the token of the run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facelake.engines.ray_isolation import must_be_on_loopback
from facelake.errors import ConfigError
from tests.conftest import FACELAKE, run_cli

_LISTEN = "0A"
_MARK = "FACELAKE_TEST_RUN"


def processes_of(mark: str) -> list[int]:
    """The processes that inherited the marked environment, whatever their parents are by now."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{_MARK}={mark}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def listening(pids: list[int]) -> dict[str, str]:
    """The address of each TCP socket on which one of the processes listens, with the name of the process."""
    owners = {}
    for pid in pids:
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            for handle in Path(f"/proc/{pid}/fd").iterdir():
                owners[os.readlink(handle)] = name
        except OSError:
            continue
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            owner = owners.get(f"socket:[{fields[9]}]")
            if fields[3] == _LISTEN and owner is not None:
                found[fields[1]] = owner
    return found


def is_loopback(place: str) -> bool:
    """Whether an address as the kernel prints it (words in the host's byte order) is a loopback address."""
    digits = place.partition(":")[0]
    body = b"".join(bytes.fromhex(digits[i : i + 8])[::-1] for i in range(0, len(digits), 8))
    address = ip_address(body)
    return bool((getattr(address, "ipv4_mapped", None) or address).is_loopback)


def secrets_of(pids: list[int]) -> set[str]:
    """The tokens in the environments of the processes."""
    tokens = set()
    for pid in pids:
        try:
            for word in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                if word.startswith(b"RAY_AUTH_TOKEN="):
                    tokens.add(word.partition(b"=")[2].decode())
        except OSError:
            continue
    return tokens


def arguments_of(pids: list[int]) -> str:
    """The command lines of the processes, which every account can read."""
    lines = []
    for pid in pids:
        try:
            lines.append(Path(f"/proc/{pid}/cmdline").read_text())
        except OSError:
            continue
    return "\n".join(lines)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "s"
    folder.mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.jpg")
    return folder


def test_nothing_of_a_run_listens_beyond_loopback_during_embed(photos: Path, tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")
    assert run_cli("import", str(photos), "--basis", "release", "--lake", lake).returncode == 0
    settings = tmp_path / "my.yaml"
    settings.write_text(f"lake: {lake}\ngovernance: {{dpia: test}}\nembed: {{actors: 1}}\nray: {{num_cpus: 1}}\n")
    assert run_cli("admit", "-c", str(settings)).returncode == 0
    mark, seen, arguments = uuid.uuid4().hex, dict[str, str](), ""
    tokens: set[str] = set()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [*FACELAKE, "embed", "-c", str(settings)]
    with subprocess.Popen(command, env=inherited | {_MARK: mark}, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            pids = processes_of(mark)
            seen |= listening(pids)
            tokens |= secrets_of(pids)
            arguments += arguments_of(pids)
            time.sleep(0.05)
    assert process.returncode == 0
    assert {"gcs_server", "raylet"} <= set(seen.values())  # the run was seen while it worked
    assert {place: owner for place, owner in seen.items() if not is_loopback(place)} == {}
    (token,) = tokens
    assert len(token) == 64
    assert token not in arguments


def test_a_local_ray_that_could_not_be_isolated_does_not_start() -> None:
    program = (
        "import ray\n"
        "from facelake.config import RaySection\n"
        "from facelake.engines.ray_isolation import isolate_local_ray\n"
        "from facelake.engines.ray_embed import start_ray\n"
        "isolate_local_ray(RaySection())\n"
        "start_ray(RaySection(num_cpus=1))\n"
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", program], env=inherited, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Ray was imported before facelake" in done.stderr


@pytest.mark.parametrize(("address", "stops"), [("127.0.0.1:1", False), ("[::1]:1", False), ("192.0.2.7:1", True)])
def test_a_local_ray_on_an_external_address_is_stopped(address: str, stops: bool) -> None:
    calls: list[str] = []
    try:
        must_be_on_loopback(address, stop=lambda: calls.append(address))
        assert not stops
    except ConfigError:
        assert stops
    assert calls == [address] * stops
