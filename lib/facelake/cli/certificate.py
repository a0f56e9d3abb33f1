"""Commands on the certificates of erasures and the key that signs them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from facelake.cli.command import Invocation, command, typer_app
from facelake.errors import ConfigError

certificate_app = typer_app("Check certificates of erasures, also without a lake; show the signing key.")


@command(certificate_app, "verify", config=False, lake=False)
def certificate_verify(
    call: Invocation,
    file: Annotated[str, typer.Argument(help="the certificate: a file of the lake's audit folder")],
    key: Annotated[
        list[str] | None, typer.Option(help="fingerprint of the controller's key, as they publish it (may be repeated)")
    ] = None,
) -> None:
    """Check the signature of a certificate and print what it states."""
    from facelake.stages.governance.certificates import check_certificate

    checked = check_certificate(file, key or [])
    body = checked.body
    facts: dict[str, Any] = {
        "controller": body.get("controller") or "not named",
        "completed at": body["completed_at"],
        "purpose": body.get("purpose") or "all",
        "removed": ", ".join(f"{name} {count}" for name, count in body["removed"].items() if count) or "nothing",
        "objects searched": body["residual_scan"].get("objects"),
        "remains": body["residual_scan"].get("hits"),
        "coincidences": sum((body["residual_scan"].get("coincidences") or {}).values()),
        "copies kept": body.get("copies_kept", 0),
        "other photos of the same identities": body.get("others_kept", 0),
        "recipients that have not confirmed": ", ".join(body.get("recipients_pending") or ()) or "none",
        "databases to be pushed to": "; ".join(
            f"{item['target']} (the engine keeps: {item['keeps']})" for item in body.get("databases_pending") or ()
        )
        or "none",
        "signed by key": checked.key or "none",
    }
    call.terminal.figures("certificate", facts)
    for item in body["residual_scan"].get("not_searched") or ():
        call.terminal.say(f"not searched: {item}")
    if not checked.intact:
        call.terminal.say("NOT VALID: the signature does not fit the content: it was changed after it was signed")
    elif not checked.valid:
        call.terminal.say(
            "NOT VALID: the content is as signed, but by another key than the given one; compare the keys"
        )
    elif checked.pinned:
        call.terminal.say("valid, and signed by the given key")
    else:
        call.terminal.say("the content is as signed. Compare the key with the one that the controller publishes: --key")
    call.terminal.result(
        {"ok": checked.valid, "valid": checked.valid, "pinned": checked.pinned, "key": checked.key, "certificate": body}
    )
    if not checked.valid:
        raise typer.Exit(1)


@command(certificate_app, "key", lake=False)
def certificate_key(call: Invocation) -> None:
    """Print the public key that signs on this host, and its fingerprint, for publication."""
    from facelake.erase import Signer

    path = Path(call.config().governance.signing_key).expanduser()
    if not path.exists():
        next_step = "it is made by the first run or erasure"
        raise ConfigError("there is no signing key yet", where=str(path), next_step=next_step)
    signer = Signer.load_or_create(path)
    call.terminal.say(f"fingerprint: {signer.fingerprint}\n{signer.public_pem}")
    call.terminal.result({"ok": True, "key": signer.fingerprint, "public_key": signer.public_pem})
