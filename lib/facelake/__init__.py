"""facelake: a nightly pipeline from a consented image corpus to a Delta Lake gallery of identities."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from facelake.api import Lake, open
    from facelake.embedder import Embedder

__all__ = ["Embedder", "Lake", "__version__", "open"]

__version__ = "0.1.0"

# Nothing that runs here may record or send anything about its use. These are read when the libraries are imported, on
# workers too: onnxruntime writes events with paths below ~/.cache otherwise, and Ray sends usage reports.
os.environ.update({"ORT_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0", "DO_NOT_TRACK": "1"})


_LAZY = {"Embedder": "facelake.embedder", "Lake": "facelake.api", "open": "facelake.api"}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: they bring Arrow and the networks' runtime."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the names of the module, those that are not imported yet included."""
    return sorted({*globals(), *_LAZY})
