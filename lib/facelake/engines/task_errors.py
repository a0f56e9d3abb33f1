"""Errors of tasks as values: an error that a retry cannot mend comes back as a block instead of a failed Spark job.

Spark wraps whatever a task raises into text. Transient errors are raised all the same, so that Spark tries the task
again; every other FacelakeError travels as a block under a key of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from facelake import errors
from facelake.engines.exchange import Block
from facelake.errors import FacelakeError, Retryable

ERROR_KEY = -(2**62)
"""Key of a block that holds an error; no item or range has it."""


def errors_as_blocks(blocks: Iterable[Block]) -> Iterator[Block]:
    """Yield a task's blocks; a FacelakeError that is not transient ends them with an error block."""
    try:
        yield from blocks
    except Retryable:
        raise
    except FacelakeError as err:
        fields = {"kind": type(err).__name__, "what": err.what, "where": err.where, "next": err.next_step}
        yield ERROR_KEY, json.dumps(fields).encode()


def without_errors(blocks: Iterable[Block]) -> list[Block]:
    """Return blocks; raises the first error that is among them.

    Raises:
        FacelakeError: a task failed; of the class and with the fields that it had there.
    """
    kept: list[Block] = []
    for key, body in blocks:
        if key == ERROR_KEY:
            fields = json.loads(body)
            kind = getattr(errors, fields["kind"], FacelakeError)
            raise kind(fields["what"], where=fields["where"], next_step=fields["next"])
        kept.append((key, body))
    return kept
