"""The folder for temporary files of a lake on this host, so that erasure can delete what killed processes left."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from facelake.errors import Retryable

_RAY = "fl-ray-"
_ELSEWHERE = "elsewhere-"
_SHORT = Path("/tmp")  # Ray's sockets allow paths of about 100 characters only


def scratch_dir(lake_uri: str) -> Path:
    """The scratch folder of a lake; its content is not needed once the writer has ended."""
    return Path(tempfile.gettempdir()) / f"facelake-{hashlib.sha256(lake_uri.encode()).hexdigest()[:16]}"


def private_folder(folder: Path) -> Path:
    """Make a folder that only this account can read, or check that an existing one is such a folder; returns it.

    Its name is known beforehand: another account could have made it, and could exchange what is written there.

    Raises:
        Retryable: it belongs to another account.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    if {folder.lstat().st_uid, folder.stat().st_uid} != {os.getuid()}:
        what = "the folder for temporary files belongs to another account, which could change what is written there"
        raise Retryable(what, where=str(folder), next_step="set TMPDIR to a folder of your own and run again")
    folder.chmod(0o700)
    return folder


@contextmanager
def temporary_folder(lake_uri: str, beside: Path | None = None, prefix: str = "files-") -> Iterator[Path]:
    """Make a folder for temporary files of a lake, and delete it at the end.

    If the process is killed, `clear_scratch` deletes it, wherever it is.

    Args:
        lake_uri: the lake.
        beside: the folder in which it is made, of which a note is kept; None: the scratch folder of the lake.
        prefix: of its name.
    """
    scratch = private_folder(scratch_dir(lake_uri))
    with tempfile.TemporaryDirectory(prefix=prefix, dir=beside or scratch) as folder:
        note = scratch / f"{_ELSEWHERE}{secrets.token_hex(8)}"
        if beside is not None:
            note.write_text(os.path.abspath(folder))
        try:
            yield Path(folder)
        finally:
            note.unlink(missing_ok=True)


def _clear_elsewhere(scratch: Path) -> None:
    """Delete temporary folders outside of a scratch folder that killed processes left."""
    for note in scratch.glob(f"{_ELSEWHERE}*"):
        folder = Path(note.read_text())
        if folder.is_dir() and not folder.is_symlink() and folder.lstat().st_uid == os.getuid():
            shutil.rmtree(folder)


def clear_scratch(lake_uri: str) -> None:
    """Delete files that ended engines left. Requires the lake's lease, which excludes running engines.

    Raises:
        Retryable: something could not be deleted.
    """
    folder = scratch_dir(lake_uri)
    try:
        if folder.is_symlink() and (not folder.exists() or any(folder.iterdir())):
            what = "the folder for temporary files is a symbolic link, so that its files are not deleted"
            next_step = f"empty {folder.resolve()}, delete the link and run again; to use another disk set TMPDIR"
            raise Retryable(what, where=str(folder), next_step=next_step)
        if folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            _clear_elsewhere(folder)
            shutil.rmtree(folder)
        clear_ray_sessions()
    except OSError as err:
        next_step = "delete it by hand, as the account that owns it, and run again"
        raise Retryable(f"temporary files cannot be deleted: {err}", where=str(folder), next_step=next_step) from err


def process_folder(prefix: str) -> tempfile.TemporaryDirectory[str]:
    """Make a temporary folder of this process, after deleting those of the prefix whose process was killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*-*"):
        pid = folder.name.removeprefix(prefix).partition("-")[0]
        own = not folder.is_symlink() and folder.lstat().st_uid == os.getuid()
        if own and pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix=f"{prefix}{os.getpid()}-")


def new_ray_session() -> Path:
    """Make the folder of a local Ray of this process, which only this account can read."""
    return Path(tempfile.mkdtemp(prefix=f"{_RAY}{os.getpid()}-", dir=_SHORT if _SHORT.is_dir() else None))


def ray_sessions() -> list[tuple[Path, bool]]:
    """The folders of this account's local Rays, and whether the process of each is alive."""
    sessions = []
    for folder in sorted((_SHORT if _SHORT.is_dir() else Path(tempfile.gettempdir())).glob(f"{_RAY}*")):
        pid = folder.name.removeprefix(_RAY).partition("-")[0]
        if pid.isdigit() and not folder.is_symlink() and folder.stat().st_uid == os.getuid():
            sessions.append((folder, psutil.pid_exists(int(pid))))
    return sessions


def clear_ray_sessions() -> None:
    """Delete the folders of local Rays whose process has ended: they hold objects that were spilled."""
    for folder, alive in ray_sessions():
        if not alive:
            shutil.rmtree(folder)
