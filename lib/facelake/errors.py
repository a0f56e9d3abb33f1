"""Errors, named by what the caller should do about them.

Every message says what went wrong, where (a config key, file or table), and what to do next.
"""

from __future__ import annotations


class FacelakeError(Exception):
    """Base of every error that facelake raises on purpose."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", next_step: str = "") -> None:
        self.what, self.where, self.next_step = what, where, next_step
        super().__init__(" ".join(self._parts()))

    def __reduce__(self) -> tuple[object, ...]:  # keyword arguments do not survive default pickling (Ray)
        return (_rebuild, (type(self), self.what, self.where, self.next_step))

    def _parts(self) -> list[str]:
        parts = [self.what.rstrip(".") + (f" [{self.where}]" if self.where else "") + "."]
        if self.next_step:
            parts.append(f"Next: {self.next_step.rstrip('.')}.")
        return parts


def _rebuild(kind: type[FacelakeError], what: str, where: str, next_step: str) -> FacelakeError:
    return kind(what, where=where, next_step=next_step)


class ConfigError(FacelakeError):
    """Correct the configuration or the arguments; nothing was started."""

    exit_code = 2


class Unreachable(ConfigError):
    """One object, bucket or URI cannot be read, for a reason that need not concern the next one."""


class Refused(FacelakeError):
    """facelake refuses the operation: no legal basis, an unsafe store, a withdrawn data set in the lineage."""


class Contradiction(Refused):
    """A correction that contradicts earlier ones, whose sequence numbers are `seqs`."""

    def __init__(self, what: str, *, where: str = "", next_step: str = "", seqs: tuple[int, ...] = ()) -> None:
        super().__init__(what, where=where, next_step=next_step)
        self.seqs = seqs


class Retryable(FacelakeError):
    """A transient fault: the same call may succeed later; nothing was committed."""


class Busy(Retryable):
    """Another process is writing the lake: the same call succeeds after that process has ended."""


class LedgerMoved(Retryable):
    """The ledger changed after the decisions were read: run admission again."""


class CommitConflict(FacelakeError):
    """Another writer changed the table first; this process committed nothing."""


class CommitUnknown(FacelakeError):
    """The commit may or may not have landed; staged files are kept. The next run reads the log to find out."""


class Undelivered(FacelakeError):
    """Handing files over failed midway, and what was written of them cannot be removed from its place."""


class Corrupt(FacelakeError):
    """Stored data contradicts itself: counters that do not add up, a missing data file, a newer format."""


class VersionGone(Corrupt):
    """The requested table version is no longer readable, because its history was purged."""
