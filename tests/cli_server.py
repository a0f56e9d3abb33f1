"""Runs `facelake` commands in processes forked from one that has imported the library already.

A command has a process, an environment, a working directory and pipes of its own, as one that is started by a shell; it
only does not import numpy, pyarrow, numba and scipy again, which takes 2 to 6 seconds of CPU per command. Neither Ray
nor PySpark is imported before the fork, because a command isolates Ray before its import. Tests of the start itself run
`python -m facelake` (`FACELAKE` in conftest.py). `install` makes a `facelake` for shell scripts.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[1]
_FDS = array.array("i", [0, 0]).itemsize * 2
_lock = threading.Lock()
_servers: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}


def can_fork() -> bool:
    """Whether this system has what the server needs; elsewhere commands are started one by one."""
    return hasattr(os, "pidfd_open")


def run(arguments: Sequence[str], environment: Mapping[str, str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, and to the end of all processes that hold its stdout or stderr.

    Raises:
        TimeoutExpired: it did not end in time, and was killed.
    """
    request = {"arguments": list(arguments), "environment": dict(environment), "folder": os.getcwd()}
    pipes = [os.pipe() for _ in range(2)]
    texts = ["", ""]

    def read(number: int) -> None:
        with open(pipes[number][0], encoding="utf-8") as stream:
            texts[number] = stream.read()

    readers = [threading.Thread(target=read, args=(number,), daemon=True) for number in range(2)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(_server())
        writers = [pipe[1] for pipe in pipes]
        socket.send_fds(connection, [b"x"], writers)
        for writer in writers:
            os.close(writer)
        for reader in readers:
            reader.start()
        connection.sendall(json.dumps(request).encode() + b"\n")
        connection.settimeout(timeout_s)
        replies = connection.makefile()
        pid = int(replies.readline())
        try:
            code = int(replies.readline())
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(list(arguments), timeout_s) from None
    for reader in readers:
        reader.join(timeout_s)
        if reader.is_alive():
            raise subprocess.TimeoutExpired(list(arguments), timeout_s)
    return subprocess.CompletedProcess(list(arguments), code, *texts)


def install(folder: Path) -> None:
    """Write a program `facelake` into a folder, which runs its commands in forked processes too."""
    program = folder / "facelake"
    program.write_text(
        f"#!{sys.executable} -SE\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        f"from tests import cli_server\nsys.exit(cli_server.relay({_server()!r}, sys.argv[1:]))\n"
    )
    program.chmod(0o755)


def relay(address: str, arguments: Sequence[str]) -> int:
    """Run a command to its end with the streams, the environment and the folder of this process; its exit code."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(address)
        socket.send_fds(connection, [b"x"], [1, 2])
        request = {"arguments": list(arguments), "environment": dict(os.environ), "folder": os.getcwd()}
        connection.sendall(json.dumps(request).encode() + b"\n")
        return [int(line) for line in connection.makefile()][1]  # after the process id


def _server() -> str:
    """The address of this process's server, which is started by its first command and ends with this process."""
    with _lock:
        if os.getpid() not in _servers:
            folder = tempfile.mkdtemp(prefix="facelake-cli-")
            address = f"{folder}/socket"
            command = [sys.executable, "-m", "tests.cli_server", address]
            process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            _servers[os.getpid()] = address, process
            atexit.register(_stop, os.getpid(), process, address)
        return _servers[os.getpid()][0]


def _stop(owner: int, process: subprocess.Popen[bytes], address: str) -> None:
    if os.getpid() != owner:
        return
    process.communicate()  # its stdin is closed
    with contextlib.suppress(OSError):
        os.unlink(address)
        os.rmdir(os.path.dirname(address))


def _prepare() -> None:
    """Import what commands need, and freeze the objects so that no garbage collection copies their memory."""
    import numpy as np

    import facelake.api
    import facelake.cli
    import facelake.embed
    import facelake.nightly
    import facelake.stages.admission.admit
    import facelake.stages.admission.import_images
    import facelake.stages.clustering.explain
    import facelake.stages.clustering.stage
    import facelake.stages.embedding.embed
    import facelake.stages.erasure.stage
    import facelake.stages.gallery.analytics
    import facelake.stages.gallery.publish
    import facelake.stages.operations.verify
    import facelake.stages.reporting.report  # noqa: F401
    from facelake.cluster import columns

    columns.vector_keys(np.ones((1, 2), np.float32))  # initialises numba's registries
    assert not {"ray", "pyspark"} & set(sys.modules)
    gc.collect()
    gc.freeze()


def _serve(address: str) -> None:
    """Fork a process per connection, and send its id and exit code; ends when stdin is closed."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(address)
    listener.listen()
    print("ready", flush=True)
    running: dict[int, tuple[int, socket.socket]] = {}
    while True:
        readable, _, _ = select.select([0, listener, *running], [], [])
        if 0 in readable:
            return
        if listener in readable:
            connection, _ = listener.accept()
            _, fds, _, _ = socket.recv_fds(connection, 1, 2)
            request = json.loads(connection.makefile().readline())
            pid = os.fork()
            if not pid:
                for descriptor in (listener, connection, *(other for _, other in running.values())):
                    descriptor.close()
                for descriptor in running:
                    os.close(descriptor)
                _become(request, fds)
            for descriptor in fds:
                os.close(descriptor)
            connection.sendall(f"{pid}\n".encode())
            running[os.pidfd_open(pid)] = pid, connection
        for descriptor in set(running) & set(readable):
            pid, connection = running.pop(descriptor)
            os.close(descriptor)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            with contextlib.suppress(OSError), connection:
                connection.sendall(f"{code}\n".encode())


def _become(request: dict[str, object], fds: Sequence[int]) -> NoReturn:
    """Run the command in this process, with its own streams, environment and working directory."""
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (fds[0], 1), (fds[1], 2)):
        os.dup2(source, target)
        os.close(source)
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    environment, arguments = request["environment"], request["arguments"]
    assert isinstance(environment, dict)
    assert isinstance(arguments, list)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(str(request["folder"]))
    tempfile.tempdir = None  # TMPDIR may be another one
    sys.argv = ["facelake", *arguments]
    import facelake.cli

    code = 1
    try:
        facelake.cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001  as the interpreter does
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # freeing every imported module's objects takes 0.3 s


if __name__ == "__main__":
    _prepare()
    _serve(sys.argv[1])
