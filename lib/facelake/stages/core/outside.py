"""Copies of personal data that leave the lake must lie outside of it."""

from __future__ import annotations

from pathlib import Path

from facelake.config import Config
from facelake.errors import ConfigError
from facelake.partitions import all_partitions_uri


def must_be_outside(uri: str, config: Config, option: str) -> None:
    """Check that a copy is not written into the lake or the corpus.

    The scan of every later erasure would find a copy inside the lake, and one among the photos may be read as a photo.

    Args:
        uri: a folder or file, or s3://bucket/prefix.
        config: says where lake and corpus are.
        option: of the command line, for the error.

    Raises:
        ConfigError: it is inside.
    """
    for name, root in (("lake", all_partitions_uri(config)), ("lake", config.lake), ("corpus", config.corpus_uri)):
        if _is_inside(uri, root):
            what = f"{uri} is inside the {name}: copies that leave the lake must lie outside of it"
            raise ConfigError(what, where=option, next_step="name another place")


def keys_must_be_outside(config: Config) -> None:
    """Check that the key files are not in the lake, of which a copy would have the keys, too; nor the ledger's copy,
    which would be restored with it.

    Raises:
        ConfigError: one is.
    """
    for name in ("signing_key", "hash_key"):
        path = getattr(config.governance, name)
        if path and any(_is_inside(path, root) for root in (all_partitions_uri(config), config.lake)):
            what = "the key file is inside the lake: whoever can copy or write that has the key"
            next_step = f"move {path} to a folder that only this account can read, and correct the setting"
            raise ConfigError(what, where=f"governance.{name}", next_step=next_step)
    if config.governance.ledger_copy:
        must_be_outside(config.governance.ledger_copy, config, "governance.ledger_copy")


def _is_inside(uri: str, root: str) -> bool:
    """Whether a folder or prefix is another one or lies in it, symbolic links resolved."""
    if uri.startswith("s3://") or root.startswith("s3://"):
        return f"{uri.rstrip('/')}/".startswith(f"{root.rstrip('/')}/")
    return _local(uri).is_relative_to(_local(root))


def _local(uri: str) -> Path:
    return Path(uri.removeprefix("file://")).expanduser().resolve()
