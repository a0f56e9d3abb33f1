"""What an operator should know about the key of a lake's hashes, which can only be chosen before the lake is made."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from facelake.config import Config
from facelake.errors import ConfigError
from facelake.lake.lake import Lake, has_lake, is_demo
from facelake.lake.ledger_copy import count_lakes
from facelake.lake.store import open_store

_SETTING = "governance.hash_key"
_EFFECT = "whoever has it can find out short references of erased people by trying them"


class HashKeyAdvice(NamedTuple):
    """The state of the key of hashes, and what to do about it.

    Attributes:
        state: in words.
        mend: what to do before the next command; None: nothing is missing.
        new: whether the lake is not there yet.
    """

    state: str
    mend: str | None = None
    new: bool = False


def without_hash_key(config: Config) -> Config:
    """Return the config of a demo: unless it names a key, it does without."""
    governance = config.governance
    return config.model_copy(update={"governance": governance.model_copy(update={"hash_key": governance.hash_key})})


def note_of_new_lake(config: Config) -> str | None:
    """Return what to say of the key of a lake that is about to be made: that it is made too, or that none was chosen;
    None: nothing.

    Raises:
        Retryable, ConfigError: the store does not answer, or denies access.
    """
    if path := config.governance.hash_key:
        if Path(path).expanduser().exists() or has_lake(open_store(config.lake, config.s3)):
            return None
        return f"a new key of hashes was made in {path}. Keep a copy: without it no command opens this lake"
    advice = hash_key_advice(config)
    if not (advice.new and advice.mend):
        return None
    then = "delete the lake now, before photos come, and set it; or set it to null to keep this"
    return f"a new lake without {_SETTING} ({advice.state}). It cannot be added later: {then}"


def note_of_other_lakes(config: Config) -> str | None:
    """Return what to say of other lakes of the same operator when a lake was made; None if there is none.

    Raises:
        Retryable, ConfigError: the store of the copies does not answer, or denies access.
    """
    if not (place := config.governance.ledger_copy):
        return None
    others = count_lakes(open_store(place, config.s3)) - 1
    if others < 1:
        return None
    lakes = "another lake has its copy" if others == 1 else f"{others} other lakes have their copies"
    what = (
        f"{lakes} of the ledger in {place}: people who were erased or have withdrawn there are not known to this lake"
    )
    return f"{what}. To move a lake, copy it (docs/backups.md)"


def hash_key_advice(config: Config) -> HashKeyAdvice:
    """Compare the setting with the lake; writes nothing.

    `hash_key: null` in the config is a decision; a config that does not name it has forgotten it.

    Raises:
        Retryable, ConfigError: the store does not answer, or denies access.
    """
    path, chosen = config.governance.hash_key, "hash_key" in config.governance.model_fields_set
    store = open_store(config.lake, config.s3)
    if not has_lake(store):
        if path:
            return HashKeyAdvice(f"{path}, made with the lake unless it exists", new=True)
        state = f"none: the key of hashes will be a salt in the lake, so that {_EFFECT}"
        mend = (
            f"set {_SETTING} to a file outside the lake (as `facelake init` does) before the lake is made, or to null"
        )
        return HashKeyAdvice(state, None if chosen else mend, new=True)
    if is_demo(store):
        return HashKeyAdvice("none: a demo lake")
    try:
        lake = Lake.open(config.lake, config.s3, path)
    except ConfigError as err:
        return HashKeyAdvice(f"{err.where}: {err.what}", err.next_step)
    if lake.has_key:
        return HashKeyAdvice(path) if path else HashKeyAdvice("not named, but the lake has one", f"set {_SETTING}")
    return HashKeyAdvice(f"none: the lake was made without one, which cannot be added; {_EFFECT}")
