"""How an optional dependency is installed here, for the next step of an error."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def install_command(extra: str) -> str:
    """Return the command that installs an extra: in a checkout the pinned one, which asks no index for facelake."""
    if (_ROOT / "pyproject.toml").is_file() and (_ROOT / "constraints.txt").is_file():
        return f".venv/bin/pip install -c constraints.txt -e '.[{extra}]'"
    return f"pip install 'facelake[{extra}]'"
