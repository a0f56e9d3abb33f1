"""The folder for temporary files of engines on this host, one per lake, so that erasure can delete it."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path


def scratch_dir(lake_uri: str) -> Path:
    """The scratch folder of a lake; its content is not needed once the writer has ended."""
    return Path(tempfile.gettempdir()) / f"facelake-{hashlib.sha256(lake_uri.encode()).hexdigest()[:16]}"


def clear_scratch(lake_uri: str) -> None:
    """Delete files that ended engines left. Requires the lake's lease, which excludes running engines."""
    shutil.rmtree(scratch_dir(lake_uri), ignore_errors=True)
