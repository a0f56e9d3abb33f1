"""Checks with the lake, where it is at hand, that a copy of an export may be used as it is.

A copy knows when its lease ends, but not who was erased or withdrew since, nor whether the lease was recalled. What its
recipient has acknowledged need not be in this copy: `feed changes` are applied to an open copy, its files stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from facelake.config import Config
from facelake.corpus_config import CorpusSection
from facelake.errors import Refused
from facelake.lake.lake import Lake, has_lake
from facelake.lake.store import open_store
from facelake.partitions import all_partitions_uri
from facelake.publish.leases import FeedLease
from facelake.stages.core.partition_names import partitions_of
from facelake.stages.sharing.leases import lease_time, leases, owed_by


@dataclass(frozen=True, slots=True)
class HeldCopy:
    """A copy of an export, as it would be used.

    Attributes:
        lease_id: under which it was handed out.
        lake: name of the lake that it is from.
        version: gallery version of its content.
        computed_at: when its content was computed.
    """

    lease_id: str
    lake: str
    version: int
    computed_at: datetime


def refuse_stale_copy(config: Config, copy: HeldCopy) -> bool:
    """Check with the config's lake, or that of one of its partitions, that a copy may be used.

    Returns:
        Whether it was checked: copies from other lakes are not known.

    Raises:
        Refused: the lease was recalled or returned, has ended or is not known to the lake that the copy is from; or
            the copy lacks an erasure or a withdrawal, whatever its recipient has acknowledged.
    """
    for lake in _lakes(config):
        lease = next((lease for lease in leases(lake) if lease.lease_id == copy.lease_id), None)
        if lease is not None:
            _check(lake, lease, copy)
            return True
        if lake.name == copy.lake:
            what = f"this copy may not be used: its lake has no lease {copy.lease_id}"
            raise Refused(what, where=lake.uri, next_step="delete the copy, run `facelake verify`, and export again")
    return False


def _lakes(config: Config) -> Iterator[Lake]:
    """Open the lake of the config; with partitions, all of them: the copy says of which it is."""
    several = [config]
    if config.gallery.partition_by is not None:
        whole = {"lake": all_partitions_uri(config), "partition": None, "corpus": CorpusSection()}
        several = list(partitions_of(config.model_copy(update=whole)).values())
    for one in several:
        if has_lake(open_store(one.lake, one.s3)):
            yield Lake.open(one.lake, one.s3, one.governance.hash_key, one.governance.ledger_copy)


def _check(lake: Lake, lease: FeedLease, copy: HeldCopy) -> None:
    now = lease_time(lake, datetime.now(UTC))
    delete = "delete the copy" + ("" if lease.returned else f" and run `facelake feed return {lease.lease_id}`")
    if reason := lease.ended(now):
        raise Refused(f"this copy may not be used: its lease {reason}", where=lake.uri, next_step=delete)
    if duty := owed_by(lake, lease, now):
        next_step = (
            f"run `facelake feed changes {lease.lease_id} --out DIR`, apply them to the copy (docs/matcher.md), and "
            f"`facelake feed ack {lease.lease_id}`; or {delete}"
        )
        raise Refused(f"this copy may not be used: its recipient {duty}", where=lake.uri, next_step=next_step)
    if owed_by(lake, _known_by(lease, copy), now):
        what = "this copy may not be used: it lacks changes that its recipient has acknowledged"
        next_step = "apply them (--changes DIR, for what `facelake feed changes` wrote; "
        next_step += f"`facelake feed changes {lease.lease_id} --since {copy.version} --out DIR` writes them again); "
        raise Refused(what, where=lake.uri, next_step=f"{next_step}or {delete}, and export again")


def _known_by(lease: FeedLease, copy: HeldCopy) -> FeedLease:
    """Return the lease as if its recipient had acknowledged what the copy has and no more."""
    if lease.acknowledged_at is None or copy.computed_at >= lease.acknowledged_at:
        return lease
    # by the clock of the lake, which is ahead of none that handed out data before
    known = next((seq for as_of, seq in reversed(lease.given) if as_of <= copy.computed_at), lease.issued_seq)
    acknowledged = min(lease.acknowledged, copy.version)
    return replace(lease, acknowledged=acknowledged, acknowledged_at=copy.computed_at, acknowledged_seq=known)
