"""A damaged lease blocks no lake."""

from __future__ import annotations

from pathlib import Path

import pytest

from facelake.lake.directory import DirectoryStore
from facelake.lake.lease import Lease


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b'{"ttl_s": "x", "host": "h", "renewed": 1}',
        b'{"ttl_s": 60, "host": "h", "pid": {}}',
        b'{"ttl_s": 1e300, "host": "h", "renewed": 1}',
        b'{"ttl_s": 60, "host": "h", "renewed": 1e300}',
        b'{"ttl_s": 60, "host": "h", "renewed": NaN}',
    ],
)
def test_a_damaged_lease_is_taken_over(tmp_path: Path, content: bytes) -> None:
    store = DirectoryStore(str(tmp_path))
    store.write("lease.json", content)
    with Lease(store, "next") as lease:
        lease.check()
