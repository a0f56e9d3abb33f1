"""Every night: run the pipeline, then bring a matcher's database to the new gallery, and check what it holds.

    python docs/examples/nightly_sync.py my.yaml 'postgresql://facelake@db/faces?table=gate' gate-7 identity-grouping

Exit code 0: the database holds the newest gallery, and the recipient owes nothing. Run it again after a failure.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

config, target, recipient, purpose = sys.argv[1:5]


def facelake(*arguments: str) -> dict[str, Any]:
    """Run a command; its result, or the end of this script with the command's exit code."""
    command = [sys.executable, "-m", "facelake", *arguments, "-c", config, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    result = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
    if done.returncode:
        sys.exit(done.returncode)
    return dict(result)


night = facelake("nightly")
pushed = facelake("feed", "push", "--to", target, "--recipient", recipient, "--purpose", purpose)
if pushed["state"] == "emptied":  # the lease was recalled or has ended: a person decides about a new one
    sys.exit(f"lease {pushed['lease_id']} is over; the target is empty")
owed = [lease for lease in facelake("feed", "leases")["leases"] if lease["lease_id"] == pushed["lease_id"]]
if pushed["gallery_version"] != night["gallery"] or owed[0]["owes"]:
    sys.exit(f"not in step: gallery {night['gallery']}, target {pushed['gallery_version']}, owes {owed[0]['owes']}")
print(f"gallery {pushed['gallery_version']}: {pushed['after']} identities, {pushed['deleted']} deleted")  # noqa: T201
