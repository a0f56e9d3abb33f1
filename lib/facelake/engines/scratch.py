"""Where engines on this host put what does not fit in memory: under one name per lake, so that erasure can empty it."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path


def scratch_dir(lake_uri: str) -> Path:
    """The folder for one lake; nothing in it is needed once its writer has ended."""
    return Path(tempfile.gettempdir()) / f"facelake-{hashlib.sha256(lake_uri.encode()).hexdigest()[:16]}"


def clear_scratch(lake_uri: str) -> None:
    """Delete what killed engines left. Needs the lake's lease: nobody else is at work on it then."""
    shutil.rmtree(scratch_dir(lake_uri), ignore_errors=True)
