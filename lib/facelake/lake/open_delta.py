"""Opening a Delta table: maps the errors of delta-rs to passing store faults, newer formats and purged versions."""

from __future__ import annotations

import logging

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, DeltaProtocolError, TableNotFoundError

from facelake.errors import Corrupt, Retryable, VersionGone
from facelake.lake.object_store import ObjectStore
from facelake.lake.retries import first_line, retrying

_LOG = logging.getLogger(__name__)
_ATTEMPTS, _FIRST_PAUSE_S = 6, 0.1
# How delta-rs reports that the store failed, its own retries included: "Kernel error -> Generic S3 error". The log is
# several files, and delta-rs does not request a truncated reply again.
_STORE_FAULT = "Generic "


def open_table(store: ObjectStore, uri: str, version: int | None = None) -> DeltaTable | None:
    """A table, or None where there is none.

    Args:
        version: None for the newest.

    Raises:
        VersionGone: the log no longer reaches back to the version.
        Corrupt: the table is written in a newer format.
        Retryable: the store failed six times.
    """
    again = retrying(f"opening {uri}", attempts=_ATTEMPTS, first_pause_s=_FIRST_PAUSE_S, when=_is_store_fault, log=_LOG)
    try:
        return again(lambda: DeltaTable(uri, version=version, storage_options=store.storage_options()))
    except TableNotFoundError:
        return None
    except (DeltaError, OSError, ValueError) as err:
        reason = first_line(err)
        # delta-kernel reports an unknown protocol feature as a plain DeltaError, recognisable by its text only
        if isinstance(err, DeltaProtocolError) or "Unsupported" in reason:
            what = f"table is written in a newer format: {reason}"
            raise Corrupt(what, where=uri, next_step="upgrade facelake") from err
        if version is not None and _STORE_FAULT not in reason:
            raise version_gone(uri, version) from err
        raise Retryable(f"table cannot be opened: {reason}", where=uri, next_step="run again") from err


def _is_store_fault(err: BaseException) -> bool:
    known = isinstance(err, DeltaError | OSError | ValueError) and not isinstance(err, TableNotFoundError)
    return known and _STORE_FAULT in first_line(err)


def version_gone(uri: str, version: int) -> VersionGone:
    """The error for a version that can no longer be read."""
    what = f"version {version} can no longer be read: its history was purged"
    return VersionGone(
        what, where=uri, next_step="use the newest version; erasures and withdrawals remove earlier ones"
    )
