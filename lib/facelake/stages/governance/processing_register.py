"""Governance of a lake: no run without an impact assessment, and a record of processing for every run with work.

The record has the contents of a register under Art. 30 GDPR. It is in `register/` and not in the audit trail, so that
an erasure can still redact free text of operators; the audit trail keeps its digest. A record gets its place after the
audit record that names it: one that the trail does not name shows that the trail's end was removed.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from facelake.config import Config
from facelake.contracts import EventKind, parse_json
from facelake.erase import Needles, scan, verify
from facelake.errors import ConfigError
from facelake.lake.lake import is_demo
from facelake.lake.store import open_store
from facelake.stages.admission.corpus_rewrite import owns_corpus
from facelake.stages.admission.ledger_head import pin_for_audit
from facelake.stages.admission.withdrawn_datasets import accepted_lineage
from facelake.stages.core.audit import append_audit, records
from facelake.stages.core.context import Context, StageResult
from facelake.stages.models.registry import find_card
from facelake.stages.sharing.leases import leases

REGISTER = "register"
PENDING = f"{REGISTER}/pending.json"
"""a record whose audit record is being appended"""
MOST_RECORD_BYTES = 64 << 20
REDACTED = "redacted"
"""field of a record from which an erasure removed free text"""
_REDACTED_WORDS = "words that named an erased person"
_PROCESSING_STAGES = {"admit", "embed", "cluster", "publish", "erase"}


def require_assessment(config: Config) -> None:
    """Require a data-protection impact assessment outside demo lakes: faces are special-category data.

    A demo lake over a corpus of its own users is no demo.

    Raises:
        ConfigError: the config names none.
    """
    demo = owns_corpus(config) and is_demo(open_store(config.lake, config.s3))
    if not config.governance.dpia and not demo:
        what = "the config names no data-protection impact assessment (Art. 35 GDPR)"
        next_step = "add `governance: {dpia: <its reference>, controller: <who decides>}` to the config given with -c"
        raise ConfigError(what, where="governance.dpia", next_step=next_step)


def require_assessment_to_import(config: Config) -> None:
    """Require an impact assessment before other photos come into the lake of the demo, whose runs need none.

    Raises:
        ConfigError: the config names none, and the lake is the demo's.
    """
    if not config.governance.dpia and is_demo(open_store(config.lake, config.s3)):
        what = "this lake was made by `facelake demo`, and runs in it need no impact assessment (Art. 35 GDPR)"
        next_step = "import into a lake at another place, or add `governance: {dpia: <its reference>}` to the config"
        raise ConfigError(what, where=config.lake, next_step=next_step)


def record_processing(context: Context, results: Sequence[StageResult]) -> str | None:
    """Write the record of a run and its digest into the audit trail; return its key, or None if no stage had work."""
    done = [result for result in results if result.stage in _PROCESSING_STAGES and not result.skipped]
    if not done:
        return None
    store = context.lake.store
    _complete(context)
    body = _signed(context, _record(context, done))
    key = f"{REGISTER}/{context.run_id}.json"
    context.check_lease()
    store.write(PENDING, body)
    summary = {"run": context.run_id, "register": key, "sha256": hashlib.sha256(body).hexdigest()}
    append_audit(context.lake, "processing", summary | pin_for_audit(context.lake), context.sign)
    store.write(key, body)
    store.delete(PENDING)
    return key


def _complete(context: Context) -> None:
    """Give the record of a run that was killed meanwhile its place, if the audit trail names it; else remove it."""
    store = context.lake.store
    try:
        data = store.read(PENDING)
    except FileNotFoundError:
        return
    key = key_of_register(parse_register(data) or {})
    if key == next((newest for newest in _named_registers(context)), None):
        store.write(key, data)
    store.delete(PENDING)


def _named_registers(context: Context) -> Iterator[str]:
    """Yield the keys of records of processing that the audit trail names, the newest first."""
    for _, data in records(context.lake):
        named = (parse_register(data) or {}).get("body", {})
        if isinstance(named, dict) and "register" in named:
            yield str(named["register"])


def key_of_register(record: Mapping[str, Any]) -> str:
    """Return where a record of processing belongs."""
    return f"{REGISTER}/{record.get('run')}.json"


def redact_register(context: Context, *needles: Needles) -> int:
    """Remove free text from the records that name an erased person; return the number of redacted records.

    Only a record whose signature is valid is signed again. What is no record is left as it is: the scan reports it.
    """
    redacted = 0
    for item in list(context.lake.store.list(REGISTER)):
        body = context.lake.store.read(item.key)
        record = parse_register(body)
        if record is None or not any(scan(item.key, body, own) for own in needles):
            continue
        removed = ("bases", "recipients", "signature")
        kept = {key: value for key, value in record.items() if key not in removed} | {REDACTED: _REDACTED_WORDS}
        keys = context.config.governance.trusted_keys or [context.signer().fingerprint]
        valid = register_is_signed(record, keys)
        context.lake.store.write(item.key, _signed(context, kept) if valid else json.dumps(kept).encode())
        redacted += 1
    return redacted


def parse_register(data: bytes) -> dict[str, Any] | None:
    """Return a record of processing; None for what is none."""
    try:
        record = parse_json(data, MOST_RECORD_BYTES)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def register_is_signed(record: Mapping[str, Any], keys: Collection[str]) -> bool:
    """Return whether a record of processing has a valid signature by one of some keys; no keys: by any."""
    body = {name: value for name, value in record.items() if name != "signature"}
    return any(verify(body, record.get("signature"), key) for key in keys or (None,))


def _signed(context: Context, record: dict[str, Any]) -> bytes:
    """Return a record as JSON, with its signature."""
    body = json.loads(json.dumps(record, default=str))
    return json.dumps(body | {"signature": context.sign(body)}, indent=1, sort_keys=True).encode()


def _record(context: Context, done: Sequence[StageResult]) -> dict[str, Any]:
    config, lake = context.config, context.lake
    card = find_card(config.model.card)
    return {
        "run": context.run_id,
        "recorded_at": datetime.now(UTC),
        "controller": config.governance.controller,
        "contact": config.governance.contact,
        "dpia": config.governance.dpia or "none: a demo lake",
        "purposes": [config.purpose],
        "data": "photos; faces in them as biometric templates (Art. 9 GDPR)",
        "stages": {result.stage: dict(result.counts) for result in done},
        "bases": _bases(context),
        "retention": _retention(context),
        "recipients": [
            {"recipient": lease.recipient, "purpose": lease.purpose, "until": lease.expires_at}
            for lease in leases(lake)
            if not lease.returned
        ],
        "model": {
            "name": card.name,
            "digest": context.model_digest,
            "withdrawn_lineage": accepted_lineage(config, card),
        },
    }


def _bases(context: Context) -> list[dict[str, Any]]:
    """Return each recorded legal basis with the number of its grants, without names."""
    grants: Counter[tuple[str | None, ...]] = Counter()
    for row in context.lake["ledger"].read().to_pylist():
        if row["kind"] == EventKind.GRANT and context.config.purpose in (row["purposes"] or ()):
            grants[tuple(row[name] for name in ("scope", "basis", "exemption", "covers", "source_class"))] += 1
    names = ("scope", "basis", "exemption", "covers", "source_class")
    return [dict(zip(names, key, strict=True)) | {"grants": count} for key, count in sorted(grants.items(), key=str)]


def _retention(context: Context) -> dict[str, Any]:
    ends = [end for end in context.lake["ledger"].read(["destroy_by"])["destroy_by"].to_pylist() if end]
    return {"first_destroy_by": min(ends, default=None), "last_destroy_by": max(ends, default=None)}
