"""What recipients hold: exports, leases, recalls, changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from facelake.api.access import Access
from facelake.api.values import LeaseState
from facelake.publish.leases import FeedLease
from facelake.stages.sharing.export import export_gallery, lease_days, send_changes
from facelake.stages.sharing.leases import acknowledge, leases, mark_returned, recall, what_is_owed
from facelake.stages.sharing.push import PushTerms, push
from facelake.stages.sharing.renewals import renew


@dataclass(frozen=True, slots=True)
class Feed:
    """Hands templates out under leases, and records what recipients did. Every method that writes is audited.

    Attributes:
        access: opens the lake.
    """

    access: Access

    def leases(self) -> tuple[LeaseState, ...]:
        """Return every lease in the order of issue, and what its recipient owes."""
        context = self.access.read()
        owed = what_is_owed(context.lake, context.now)
        return tuple(LeaseState(lease, owed.get(lease.lease_id)) for lease in leases(context.lake))

    def export(
        self, out: str, *, purpose: str, recipient: str, days: int | None = None, key: bytes | None = None
    ) -> Mapping[str, Any]:
        """Export the templates in force for a purpose to a recipient under a lease.

        Args:
            out: a folder, or s3://bucket/prefix.
            purpose: what the recipient will use them for.
            recipient: who receives them.
            days: how long they may be used; default and maximum: the config's.
            key: by which the templates are rotated; None: they are not.

        Returns:
            The signed manifest.

        Raises:
            Refused: the gallery is not in force for the purpose, or the recipient owes an action on an earlier lease.
        """
        with self.access.write("export") as context:
            return export_gallery(context, out, purpose, recipient, days=days, key=key)

    def changes(
        self, lease_id: str, out: str, *, since: int | None = None, key: bytes | None = None
    ) -> Mapping[str, Any]:
        """Write the changes that bring the copy of a lease up to date.

        Args:
            lease_id: the lease.
            out: a folder, or s3://bucket/prefix.
            since: gallery version of the copy; None: the one that was acknowledged.
            key: of the export.

        Returns:
            The signed manifest.

        Raises:
            ConfigError: there is no such lease.
            Refused: the lease was recalled, has ended or was returned.
        """
        with self.access.write("feed") as context:
            return send_changes(context, lease_id, out, since, key)

    def push(
        self,
        target: str,
        *,
        recipient: str | None = None,
        purpose: str | None = None,
        days: int | None = None,
        key: bytes | None = None,
        exemplars: bool | None = None,
        new_lease: bool = False,
    ) -> Mapping[str, Any]:
        """Bring a matcher's database to the newest gallery; empty it if its lease was recalled or has ended.

        Args:
            target: postgresql://, qdrant://, milvus://, lancedb:// or lancedb+s3:// URL.
            recipient: who operates the target; needed for the first push.
            purpose: what it is used for; needed for the first push.
            days: until the lease expires; None: the config's.
            key: by which the templates are rotated; None: they are not.
            exemplars: whether each identity comes with its exemplars; None: as the target was made, a new one without.
            new_lease: whether a target whose lease was recalled or has ended, and which is empty, is filled again.

        Returns:
            Counts and state, as `facelake feed push --json` prints them.
        """
        with self.access.write("push") as context:
            terms = PushTerms(target, recipient, purpose, lease_days(context, days), key, exemplars, new_lease)
            return push(context, terms)

    def renew(self, lease_id: str, *, days: int | None = None, out: str | None = None) -> Mapping[str, Any]:
        """Let a lease end later, for the same recipient and purpose; nothing is exported again.

        Args:
            lease_id: the lease.
            days: from now until the new end; default and maximum: the config's.
            out: of a lease of files: the folder or s3://bucket/prefix to which the renewed manifest is written. None:
                the lease is of a database, whose next push brings the new end.

        Returns:
            `lease_id`, `recipient`, `purpose`, `expires_at`, and `target` or `out`.

        Raises:
            ConfigError: there is no such lease, or it lasts longer already.
            Refused: the lease has ended, was recalled or returned, the recipient owes an action, or no identity is in
                force for the purpose.
        """
        with self.access.write("feed") as context:
            return renew(context, lease_id, days=days, out=out)

    def acknowledge(self, lease_id: str, version: int | None = None) -> FeedLease:
        """Record that the recipient has applied what it was given, up to a gallery version; None: all of it.

        Raises:
            ConfigError: there is no such lease or version; changes up to the version were never handed out, or none
                since the last acknowledgement although one is owed.
        """
        with self.access.write("feed") as context:
            return acknowledge(context.lake, lease_id, version)

    def mark_returned(self, lease_id: str) -> FeedLease:
        """Record that the recipient has deleted their copy.

        Raises:
            ConfigError: there is no such lease.
        """
        with self.access.write("feed") as context:
            return mark_returned(context.lake, lease_id)

    def recall(self, *, lease_id: str | None = None, recipient: str | None = None) -> tuple[FeedLease, ...]:
        """Recall one lease, or all leases of a recipient; until they are returned, there is no further export.

        Raises:
            ConfigError: there is no such active lease.
        """
        with self.access.write("feed") as context:
            return tuple(recall(context.lake, lease_id, recipient))
