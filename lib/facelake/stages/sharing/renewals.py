"""Renews leases: the right of use ends later, and what the recipient holds is told so. Nothing is exported again.

Files: the recipient gets the manifest of their export with the new end, signed, in place of the former one. It is made
from the audit trail, whose record of the export has the manifest. A database: the next push gives all rows the new end.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from facelake.erase import verify
from facelake.errors import ConfigError, Corrupt, Refused
from facelake.publish.leases import FeedLease
from facelake.stages.core.audit import append_audit
from facelake.stages.core.context import Context
from facelake.stages.sharing.changes import Outgoing
from facelake.stages.sharing.delivery import MANIFEST, check_place, place_manifest, read_manifest
from facelake.stages.sharing.export import lease_days
from facelake.stages.sharing.leases import exports_of, extend, lease_in_force, lease_time, refuse_debtor


def renew(context: Context, lease_id: str, *, days: int | None = None, out: str | None = None) -> dict[str, Any]:
    """Let a lease end later, for the same recipient and purpose. Audited.

    Args:
        context: of the run.
        lease_id: the lease.
        days: from now until the new end; default and maximum: the config's.
        out: of a lease of files: where the renewed manifest is written, the export itself or another folder or
            s3://bucket/prefix. None: the lease is of a database, whose next push brings the new end.

    Returns:
        `lease_id`, `recipient`, `purpose`, `expires_at`, and `target` or `out`.

    Raises:
        ConfigError: there is no such lease, it lasts longer already, or `out` is missing or does not fit.
        Refused: the lease has ended, was recalled or returned, the recipient owes an action on one of their leases, or
            no identity is in force for the purpose.
        Corrupt: the record of the export in the audit trail was changed.
        LedgerMoved: an event was recorded meanwhile; nothing was renewed.
    """
    now = lease_time(context.lake, datetime.now(UTC))
    lease = lease_in_force(context.lake, lease_id, now)
    end = now + timedelta(days=lease_days(context, days))
    _check_arguments(context, lease, end, out)
    refuse_debtor(context.lake, lease.recipient, now)
    outgoing = Outgoing.of(context.lake, lease.purpose, now)
    if not outgoing.in_force():
        what = f"no identity is in force for the purpose {lease.purpose!r}"
        raise Refused(what, where=context.lake.uri, next_step="recall the lease: `facelake feed recall`")
    facts = {"lease_id": lease_id, "recipient": lease.recipient, "purpose": lease.purpose}
    facts |= {"expires_at": end.isoformat(), "renewed_at": now.isoformat()}
    if lease.target is not None:
        outgoing.ledger.check_unchanged()
        append_audit(context.lake, "renewal", facts | {"target": lease.target}, context.sign)
        extend(context.lake, lease, end, now)
        return facts | {"target": lease.target}
    renewed = _exported_manifest(context, lease_id) | {"expires_at": end.isoformat()}
    # what the recipient has acknowledged has to be applied to the files again whenever they are opened
    known = lease.acknowledged_at or lease.issued_at
    renewed |= {"renewal": {"renewed_at": now.isoformat(), "needs_changes_of": known.isoformat()}}
    renewed["signature"] = context.sign(renewed)
    outgoing.ledger.check_unchanged()
    append_audit(context.lake, "renewal", facts | {"needs_changes_of": known.isoformat()}, context.sign)
    extend(context.lake, lease, end, now)
    place_manifest(str(out), context.config.s3, renewed)
    return facts | {"out": out}


def _check_arguments(context: Context, lease: FeedLease, end: datetime, out: str | None) -> None:
    if end <= lease.expires_at:
        what = f"lease {lease.lease_id} lasts until {lease.expires_at:%Y-%m-%d} already"
        most = context.config.governance.lease_days
        raise ConfigError(what, where="--days", next_step=f"give a later end, of at most {most} days from now")
    if lease.target is not None:
        if out is not None:
            what = f"lease {lease.lease_id} is of the database {lease.target}"
            raise ConfigError(what, where="--out", next_step="leave --out out: the next `feed push` brings the new end")
        return
    if out is None:
        what = f"lease {lease.lease_id} is of files"
        raise ConfigError(what, where="--out", next_step="give the folder of the export, or one to send from")
    check_place(out, context.config)
    there = read_manifest(out, context.config.s3)
    if there is not None and (there.get("lease_id") != lease.lease_id or "kind" in there):
        what = f"there is a {MANIFEST} that is not of the export under {lease.lease_id}"
        raise ConfigError(what, where=out, next_step="give the folder of that export, or an empty one")


def _exported_manifest(context: Context, lease_id: str) -> dict[str, Any]:
    """Return the manifest of an export, unsigned, from the audit trail.

    Raises:
        Corrupt: it is not there, or was changed.
    """
    keys = context.config.governance.trusted_keys or [context.signer().fingerprint]
    for key, manifest in exports_of(context.lake, lease_id):
        body = {name: value for name, value in manifest.items() if name != "signature"}
        if not any(verify(body, manifest.get("signature"), name) for name in keys):
            what = f"the record of the export under {lease_id} is not signed by an accepted key"
            next_step = "run `facelake verify --audit`; have the copy returned, and export again"
            raise Corrupt(what, where=f"{context.lake.uri}/{key}", next_step=next_step)
        return body
    what = f"the audit trail has no record of the export under {lease_id}"
    raise Corrupt(what, where=f"{context.lake.uri}/audit", next_step="have the copy returned, and export again")
