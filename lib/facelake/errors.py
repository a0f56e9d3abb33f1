"""Errors, named by what the caller should do about them.

Every message says what went wrong, at which key or shard, and what to do next.
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


class Refused(FacelakeError):
    """facelake will not do this: no legal basis, an unsafe store, a withdrawn lineage."""


class Contradiction(Refused):
    """A correction that cannot be met together with earlier ones; `seqs` are theirs."""

    def __init__(self, what: str, *, where: str = "", next_step: str = "", seqs: tuple[int, ...] = ()) -> None:
        super().__init__(what, where=where, next_step=next_step)
        self.seqs = seqs


class Retryable(FacelakeError):
    """A passing fault: the same call may succeed later; nothing was committed."""


class Busy(Retryable):
    """Another process writes the lake: the same call succeeds when it has ended."""


class LedgerMoved(Retryable):
    """The ledger changed while something was made of its decisions: decide again."""


class CommitConflict(FacelakeError):
    """Someone else changed the table first; nothing of ours was committed."""


class CommitUnknown(FacelakeError):
    """The commit may or may not have landed; staged files are kept. Rerun: the log decides."""


class Corrupt(FacelakeError):
    """Stored data contradicts itself: counters that do not add up, a missing data file, a newer format."""


class VersionGone(Corrupt):
    """A table version was asked for whose history has been purged."""
