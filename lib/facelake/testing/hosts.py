"""Simulated hosts on one machine, each with its own address, name, processes, /tmp, home and shared memory. Needs Linux
and root.

A host is a set of namespaces (network, mount, process ids, host name, IPC) whose first process waits on a pipe of the
test: when the test ends for any reason, the kernel removes every process, mount and interface of the host. Hosts are
connected by veth pairs to a bridge in a separate namespace, so that the machine's own network is not affected and two
such networks are isolated. A host sees the machine's file system read-only except for its own folders; code and
interpreter correspond to the installation on every host of a real cluster. No two hosts share a writable disk.
"""

from __future__ import annotations

import os
import pwd
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

_SUBNET = "10.77.0"
_CODE = Path(sys.prefix).parent if sys.prefix != sys.base_prefix else Path(sys.prefix)
_CHECKOUT = Path(__file__).parents[3]  # the code under test, which need not be the checkout of the interpreter
_CACHE = Path(pwd.getpwuid(os.getuid()).pw_dir, ".cache")  # of the user that runs the tests; hidden from hosts
_HOST = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/code /mnt/checkout /mnt/own
mount --bind {code} /mnt/code
mount --bind {checkout} /mnt/checkout
mount --bind {own} /mnt/own
for folder in /run /tmp /var/tmp /dev/shm; do mount -t tmpfs tmpfs $folder; done
mount --bind /mnt/own/tmp /tmp
mount --bind /mnt/own/home /home
[ ! -d {cache} ] || mount -t tmpfs tmpfs {cache}
for place in code:{code} checkout:{checkout}; do
  mkdir -p ${{place#*:}}
  mount --bind /mnt/${{place%%:*}} ${{place#*:}}
  mount -o remount,bind,ro ${{place#*:}}
done
for absent in {without}; do mount --bind /dev/null "$absent"; done
mount --bind /mnt/own/hosts /etc/hosts
mount -o remount,bind,ro /
umount /mnt/code /mnt/checkout /mnt/own
mount -o remount,ro /mnt
hostname {name}
ip link set lo up
echo up
trap : CHLD
while read -r _; do :; done
"""
_SWITCH = "ip link add name bridge type bridge && ip link set bridge up && echo up && read -r _"


class Host:
    """A simulated host: runs commands, takes files, and can be powered off."""

    def __init__(self, name: str, address: str, folder: Path, init: subprocess.Popen[str]) -> None:
        self.name, self.address, self.folder, self._init = name, address, folder, init
        self.running: list[subprocess.Popen[bytes]] = []

    @property
    def _pid(self) -> int:
        return _only_child(self._init.pid)

    def _inside(self, command: Sequence[str], folder: str) -> list[str]:
        enter = ["nsenter", "--target", str(self._pid), "--mount", "--net", "--pid", "--uts", "--ipc"]
        return [*enter, f"--wd={folder}", "--", *command]

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of a new login on the host: of the test's environment only the search path."""
        plain = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": "/home", "LANG": "C.UTF-8"}
        if not _CHECKOUT.is_relative_to(_CODE):
            plain["PYTHONPATH"] = str(_CHECKOUT / "lib")
        return plain | dict(more or {})

    def start(
        self, command: Sequence[str], env: Mapping[str, str] | None = None, log: str | None = None, cwd: str = "/home"
    ) -> subprocess.Popen[bytes]:
        """Start a background process; its output goes to a log in the host's folder."""
        name = log or f"{Path(command[0]).name}-{len(self.running)}"
        with (self.folder / f"{name}.log").open("ab") as file:
            process = subprocess.Popen(
                self._inside(command, cwd),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=self.environment(env),
            )
        self.running.append(process)
        return process

    def run(
        self,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        timeout_s: float = 300.0,
        cwd: str = "/home",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; the exit code is not checked."""
        return subprocess.run(
            self._inside(command, cwd),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=self.environment(env),
            check=False,
        )

    def kill(self, process: subprocess.Popen[bytes], number: int = signal.SIGKILL) -> None:
        """Send a signal to a process of `start` (a child of the process that entered the namespaces)."""
        if process.poll() is None:
            os.kill(_only_child(process.pid), number)

    def log(self, name: str) -> str:
        """The output of a started process so far."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def until(self, name: str, text: str, times: int = 1, timeout_s: float = 240.0) -> None:
        """Wait until a log contains a text `times` times.

        Raises:
            TimeoutError: it does not; the message contains the end of the log.
        """
        deadline = time.monotonic() + timeout_s
        while self.log(name).count(text) < times:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name}/{name} did not print {text!r}: ...{self.log(name)[-2000:]}")
            time.sleep(0.2)

    def path(self, path: str) -> Path:
        """The machine's path of a file under the host's /tmp or /home."""
        for inside, outside in (("/tmp", "tmp"), ("/home", "home")):
            if path == inside or path.startswith(inside + "/"):
                return self.folder / "own" / outside / path[len(inside) :].lstrip("/")
        raise ValueError(f"not under the host's /tmp or /home: {path}")

    def write(self, path: str, text: str) -> str:
        """Write a file on the host; returns the path on the host."""
        target = self.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return path

    def power_off(self) -> None:
        """Kill every process of the host at once; its files remain."""
        if self._init.poll() is None:
            os.kill(self._pid, signal.SIGKILL)
        self._init.wait()
        for process in self.running:
            process.wait()
        self.running.clear()


class Network:
    """A bridge and the hosts on it; names resolve on every host."""

    def __init__(self, folder: Path, names: Sequence[str], stack: ExitStack, without: Sequence[Path]) -> None:
        self._folder, self._stack, self._without = folder, stack, without
        self._addresses = {name: f"{_SUBNET}.{number}" for number, name in enumerate(names, start=2)}
        self._switch = self._init(["--net"], _SWITCH)
        self.hosts = {name: self._make(name) for name in names}

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def _init(self, namespaces: Sequence[str], script: str) -> subprocess.Popen[str]:
        command = ["unshare", "--fork", "--kill-child", *namespaces, "bash", "-c", script]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._stack.callback(_end, process)
        assert process.stdout is not None
        if process.stdout.readline() != "up\n":
            raise PermissionError("a host could not be created: needs Linux, root and the right to create namespaces")
        return process

    def _make(self, name: str) -> Host:
        folder = self._folder / name
        for part in ("tmp", "home"):
            (folder / "own" / part).mkdir(parents=True, exist_ok=True)
        (folder / "own" / "tmp").chmod(0o1777)
        lines = ["127.0.0.1 localhost", *(f"{address} {host}" for host, address in self._addresses.items())]
        (folder / "own" / "hosts").write_text("\n".join(lines) + "\n")
        places = {"code": _CODE, "checkout": _CHECKOUT, "own": folder / "own", "cache": _CACHE}
        quoted = {key: shlex.quote(str(path)) for key, path in places.items()}
        script = _HOST.format(name=name, without=shlex.join(map(str, self._without)), **quoted)
        init = self._init(["--net", "--mount", "--pid", "--uts", "--ipc", "--mount-proc"], script)
        host = Host(name, self._addresses[name], folder, init)
        self._connect(host)
        return host

    def _connect(self, host: Host) -> None:
        switch, inside = str(_only_child(self._switch.pid)), str(_only_child(host._init.pid))
        port = f"p{host.address.rsplit('.', 1)[1]}"
        at_switch, at_host = (["nsenter", "--target", pid, "--net", "ip"] for pid in (switch, inside))
        # left over from before a restart
        subprocess.run([*at_switch, "link", "delete", port], capture_output=True, check=False)
        _do([*at_switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", inside])
        _do([*at_switch, "link", "set", port, "master", "bridge", "up"])
        _do([*at_host, "address", "add", f"{host.address}/24", "dev", "eth0"])
        _do([*at_host, "link", "set", "eth0", "up"])

    def plug(self, name: str, state: str) -> None:
        """Disconnect (`down`) or connect (`up`) a host at the bridge."""
        port = f"p{self[name].address.rsplit('.', 1)[1]}"
        switch = str(_only_child(self._switch.pid))
        _do(["nsenter", "--target", switch, "--net", "ip", "link", "set", port, state])

    def restart(self, name: str) -> Host:
        """Restart a host: a new machine with the old files, name and address."""
        self[name].power_off()
        self.hosts[name] = self._make(name)
        return self[name]


@contextmanager
def network(folder: Path, names: Sequence[str], without: Sequence[Path] = ()) -> Iterator[Network]:
    """Run hosts with these names; their files are under folder/<name>.

    Args:
        without: files of the machine that are hidden from the hosts.

    Raises:
        PermissionError: not root, or namespaces are not permitted.
    """
    with ExitStack() as stack:
        yield Network(folder, names, stack, without)


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def _only_child(pid: int) -> int:
    """The child process of `unshare --fork` or `nsenter --pid`, which have exactly one."""
    deadline = time.monotonic() + 5
    while not (children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        if time.monotonic() > deadline:
            raise ProcessLookupError(f"process {pid} has no child")
        time.sleep(0.01)
    return int(children[0])


def _do(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
