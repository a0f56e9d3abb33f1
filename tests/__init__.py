"""Tests of facelake.

Imported before numpy is: two test processes, each with a BLAS thread per core that waits by spinning, make small
matrices take ten times as long. The product limits the threads itself where tasks run beside each other.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
