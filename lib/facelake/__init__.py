"""facelake: a nightly pipeline from a consented image corpus to a Delta Lake gallery of identities."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from facelake.embedder import Embedder

__all__ = ["Embedder", "__version__"]

__version__ = "0.1.0"

# Nothing that runs here may record or send anything about its use. These are read when the libraries are imported, on
# workers too: onnxruntime writes events with paths below ~/.cache otherwise, and Ray sends usage reports.
os.environ.update({"ORT_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0", "DO_NOT_TRACK": "1"})


def __getattr__(name: str) -> object:
    """Import `Embedder` when it is first used: it brings the networks' runtime, which most commands do not need."""
    if name == "Embedder":
        from facelake.embedder import Embedder

        return Embedder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
