"""facelake: a nightly pipeline from a consented image corpus to a Delta Lake gallery of identities."""

import os

__version__ = "0.1.0"

# Nothing that runs here may record or send anything about its use. These are read when the libraries are imported, on
# workers too: onnxruntime writes events with paths below ~/.cache otherwise, and Ray sends usage reports.
os.environ.update({"ORT_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0", "DO_NOT_TRACK": "1"})
