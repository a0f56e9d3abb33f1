"""Opening a Delta table: which of delta-rs's errors pass, which mean a newer format, which a version that is gone."""

from __future__ import annotations

import logging
import time

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, DeltaProtocolError, TableNotFoundError

from facelake.errors import Corrupt, Retryable, VersionGone
from facelake.lake.object_store import ObjectStore

_LOG = logging.getLogger(__name__)
_ATTEMPTS, _FIRST_PAUSE_S = 6, 0.1
# What delta-rs says when the store failed, its own retries included: "Kernel error -> Generic S3 error". The log is
# several files, and a reply that is cut in its middle is not asked for again there.
_PASSING = "Generic "


def open_table(store: ObjectStore, uri: str, version: int | None = None) -> DeltaTable | None:
    """A table, or None where there is none.

    Args:
        version: None for the newest.

    Raises:
        VersionGone: the log does not lead to the version any more.
        Corrupt: it is written in a newer format.
        Retryable: the store failed six times.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return DeltaTable(uri, version=version, storage_options=store.storage_options())
        except TableNotFoundError:
            return None
        except (DeltaError, OSError, ValueError) as err:
            fault = err
            if _PASSING not in first_line(err):
                break
            _LOG.warning("opening %s failed (attempt %d): %s", uri, attempt + 1, first_line(err))
            time.sleep(_FIRST_PAUSE_S * 2**attempt)
    said = first_line(fault)
    # (a protocol that delta's kernel does not know is no error of its own)
    if isinstance(fault, DeltaProtocolError) or "Unsupported" in said:
        what = f"table is written in a newer format: {said}"
        raise Corrupt(what, where=uri, next_step="upgrade facelake") from fault
    if version is not None and _PASSING not in said:
        raise gone(uri, version) from fault
    raise Retryable(f"table cannot be opened: {said}", where=uri, next_step="run again") from fault


def gone(uri: str, version: int) -> VersionGone:
    """The error for a version that can no longer be read."""
    what = f"version {version} can no longer be read: its history was purged"
    return VersionGone(what, where=uri, next_step="run `facelake nightly`; it settles an interrupted erasure")


def first_line(err: BaseException | None) -> str:
    """The first line of an error; delta-rs appends a native backtrace."""
    return (str(err).strip().splitlines() or [type(err).__name__])[0]
