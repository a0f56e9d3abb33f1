"""Turns the errors of database clients into errors with a next step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from facelake.errors import ConfigError, Retryable


@dataclass(frozen=True, slots=True)
class Faults:
    """What the client of an engine raises.

    Attributes:
        engine: its name, for people.
        secret: environment variable of its credentials.
        unreachable: errors that another attempt may not meet.
        refused: errors that the operator has to mend; those of `unreachable` take precedence.
        opening: errors that mean so while the target is being opened only.
    """

    engine: str
    secret: str
    unreachable: tuple[type[Exception], ...] = ()
    refused: tuple[type[Exception], ...] = ()
    opening: tuple[type[Exception], ...] = ()

    @contextmanager
    def reported(self, where: str, *, opening: bool) -> Iterator[None]:
        """Report the errors of the body.

        Raises:
            Retryable: the database does not answer.
            ConfigError: it refuses a request.
        """
        try:
            yield
        except Exception as err:
            line = (str(err).strip().splitlines() or [type(err).__name__])[0]
            if isinstance(err, (*self.unreachable, *(self.opening if opening else ()))):
                next_step = f"check server, user and {self.secret}, then run again"
                raise Retryable(f"{self.engine} does not answer: {line}", where=where, next_step=next_step) from err
            if isinstance(err, self.refused):
                next_step = "correct the rights or the table in the database, then run again"
                raise ConfigError(f"{self.engine} refuses: {line}", where=where, next_step=next_step) from err
            raise
