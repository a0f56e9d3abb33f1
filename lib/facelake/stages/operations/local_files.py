"""What facelake and its engines wrote on this host outside lakes: caches, temporary files and keys."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from facelake.config import USUAL_HASH_KEY, USUAL_LEDGER_COPY, Config
from facelake.engines.scratch import ray_sessions
from facelake.stages.models.registry import cache_folder

IN_USE_S = 3600.0
"""a temporary folder that changed within this time may belong to a run that is in progress"""
_MODEL = re.compile(r"[0-9a-f]{12}-.+")
_SCRATCH = re.compile(r"facelake-(?:[0-9a-f]{16}|(?:package|cluster|runtime)-\w+|gallery-[0-9]+-\w+)")


class LocalKind(StrEnum):
    """Kinds of local files."""

    CACHE = "cache"
    """downloaded again when needed"""
    TEMPORARY = "temporary"
    """not needed once the process that made it has ended"""
    KEY = "key"
    """signs certificates and the audit trail, or keys the hashes of a lake; lakes that were made with it need it. So
    are copies of ledgers, which nothing else replaces"""


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """One folder or file on this host."""

    path: str
    kind: LocalKind
    bytes: int
    in_use: bool
    """whether a process may be using it"""

    def as_json(self) -> dict[str, object]:
        """The fields by name."""
        return asdict(self)


def local_files(config: Config) -> list[LocalFiles]:
    """What this account's facelake left on this host outside lakes, ordered by kind and path.

    The numba cache of a checkout is inside `.venv` or the checkout, and goes with it. Spark's JVMs leave no performance
    data: that folder (`hsperfdata_USER`) is of other programs.
    """
    return [
        *(_described(path, LocalKind.CACHE, in_use=False) for path in _cached_models(config)),
        *(_described(path, LocalKind.TEMPORARY, in_use=_recent(path)) for path in _scratch_folders()),
        *(_described(path, LocalKind.TEMPORARY, in_use=alive) for path, alive in ray_sessions()),
        *(_described(path, LocalKind.KEY, in_use=False) for path in _keys(config)),
    ]


def delete_local_files(files: list[LocalFiles], *, keys: bool) -> list[LocalFiles]:
    """Delete all of them but keys and what may be in use.

    Args:
        files: as `local_files` returns them.
        keys: whether keys are deleted too.

    Returns:
        What was deleted.
    """
    deleted = []
    for item in files:
        if item.in_use or (item.kind == LocalKind.KEY and not keys):
            continue
        path = Path(item.path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        if item.kind != LocalKind.TEMPORARY:
            with contextlib.suppress(OSError):  # other files are there
                path.parent.rmdir()
        deleted.append(item)
    return deleted


def _described(path: Path, kind: LocalKind, *, in_use: bool) -> LocalFiles:
    files = (entry for entry in (path.rglob("*") if path.is_dir() else [path]) if not entry.is_symlink())
    return LocalFiles(str(path), kind, sum(_size(entry) for entry in files), in_use)


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size if path.is_file() else 0
    return 0


def _own(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return path.lstat().st_uid == os.getuid()
    return False


def _cached_models(config: Config) -> Iterator[Path]:
    """Model files that were downloaded, and measured choices of runtimes; the folder may hold files of others."""
    folder = cache_folder(config)
    if folder.is_dir():
        yield from (path for path in sorted(folder.iterdir()) if _MODEL.fullmatch(path.name) and path.is_file())
        yield from (path for path in [folder / "runtimes"] if path.is_dir())


def _scratch_folders() -> Iterator[Path]:
    for path in sorted(Path(tempfile.gettempdir()).glob("facelake-*")):
        if _SCRATCH.fullmatch(path.name) and path.is_dir() and not path.is_symlink() and _own(path):
            yield path


def _recent(folder: Path) -> bool:
    newest = 0.0
    for path in (folder, *folder.rglob("*")):
        with contextlib.suppress(OSError):
            newest = max(newest, path.lstat().st_mtime)
    return any(folder.iterdir()) and time.time() - newest < IN_USE_S


def _keys(config: Config) -> Iterator[Path]:
    """The keys and copies of ledgers of the config, and those in their usual places, which other configs name."""
    governance = config.governance
    copies = governance.ledger_copy or USUAL_LEDGER_COPY
    named = dict.fromkeys((governance.signing_key, governance.hash_key or USUAL_HASH_KEY, USUAL_HASH_KEY, copies))
    yield from (path for path in (Path(name).expanduser() for name in named) if path.exists())
