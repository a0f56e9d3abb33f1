"""Retries of store operations: growing pauses with jitter, so that many workers do not return at the same moment."""

from __future__ import annotations

import logging
from collections.abc import Callable

import tenacity


def retrying(
    what: str, *, attempts: int, first_pause_s: float, when: Callable[[BaseException], bool], log: logging.Logger
) -> tenacity.Retrying:
    """A controller whose call `controller(function)` runs the function again after errors that are worth it.

    The pause before attempt n + 1 is first_pause_s * 2**(n - 1), plus up to first_pause_s of jitter. The last error is
    raised as it is.

    Args:
        what: the operation, for the log.
        attempts: how often the function runs at most.
        when: whether an error is worth another attempt; others are raised at once.
    """

    def warn(state: tenacity.RetryCallState) -> None:
        fault = state.outcome.exception() if state.outcome else None
        log.warning("%s failed (attempt %d): %s", what, state.attempt_number, first_line(fault))

    return tenacity.Retrying(
        stop=tenacity.stop_after_attempt(attempts),
        wait=tenacity.wait_exponential(multiplier=first_pause_s) + tenacity.wait_random(0, first_pause_s),
        retry=tenacity.retry_if_exception(when),
        after=warn,
        reraise=True,
    )


def first_line(err: BaseException | None) -> str:
    """The first line of an error; delta-rs appends a native backtrace."""
    return (str(err).strip().splitlines() or [type(err).__name__])[0]
