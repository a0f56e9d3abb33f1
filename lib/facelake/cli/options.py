"""Options that every command takes, and what they build."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated, Any

import typer

from facelake.config import Config, load_config
from facelake.errors import ConfigError
from facelake.terminal import Terminal

SETTINGS: dict[str, Any] = {"no_args_is_help": True, "rich_markup_mode": None, "pretty_exceptions_enable": False}

ConfigOption = Annotated[
    str | None, typer.Option("-c", "--config", help="YAML config; default: built-in, as conf/demo.yaml")
]
LakeOption = Annotated[str | None, typer.Option("--lake", help="lake directory or s3:// URI, over the config's")]
JsonOption = Annotated[bool, typer.Option("--json", help="one JSON object as the last line of stdout")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="say nothing but errors")]
DebugOption = Annotated[bool, typer.Option("--debug", help="tracebacks and log lines")]
YesOption = Annotated[bool, typer.Option("--yes", help="do not ask")]


def open_terminal(as_json: bool, quiet: bool, debug: bool) -> Terminal:
    """The terminal of one command, and logging as it wants it."""
    logging.basicConfig(level=logging.DEBUG if debug else logging.ERROR, stream=sys.stderr)
    for noisy in ("botocore", "boto3", "urllib3", "py4j", "numba", "s3transfer"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return Terminal(as_json=as_json, quiet=quiet, debug=debug)


def read_config(config: str | None, lake: str | None, **overrides: Any) -> Config:
    """The checked config with `--lake` and single keys (section__key) over it."""
    given = {k.replace("__", "."): v for k, v in overrides.items() if v is not None}
    if config and config.startswith("s3://"):
        from facelake.lake.store import read_text

        return load_config(config, lake=lake, overrides=given, read=read_text)
    return load_config(config, lake=lake, overrides=given)


def template_key(variable: str) -> bytes:
    """The key in an environment variable.

    Raises:
        ConfigError: it is not set or no key.
    """
    from facelake.publish.transform import read_key

    if variable not in os.environ:
        raise ConfigError(f"{variable} is not set", where="--key-env", next_step="export it: `openssl rand -hex 32`")
    return read_key(os.environ[variable])


def numbers(text: str, option: str) -> list[int]:
    """Positive numbers with commas between them, as `10000,30000`.

    Raises:
        ConfigError: it is something else.
    """
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ConfigError(f"{text!r} is no list of numbers", where=option, next_step="for example 10000,30000")
    return found
