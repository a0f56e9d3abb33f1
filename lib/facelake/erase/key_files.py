"""Key files, which are readable by their owner only."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def create_key_file(path: Path, content: bytes) -> None:
    """Create a key file atomically; a file that another process created first is kept."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".key-") as file:  # created with mode 0600
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        try:
            os.link(file.name, path)
        except FileExistsError:
            return
