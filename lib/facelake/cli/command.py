"""The options that commands share, the decorator that adds them, and helpers that parse option values."""

from __future__ import annotations

import inspect
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer

from facelake.config import Config, load_config
from facelake.errors import ConfigError
from facelake.partitions import in_partition
from facelake.terminal import Terminal, error_boundary

if TYPE_CHECKING:  # imported when a command runs: pyarrow takes long
    from facelake.api import Lake

P = ParamSpec("P")

_CONFIG = Annotated[str | None, typer.Option("-c", "--config", help="YAML config; default: built-in settings")]
_LAKE = Annotated[str | None, typer.Option("--lake", help="lake directory or s3:// URI; overrides the config")]
_PARTITION = Annotated[
    str | None, typer.Option("--partition", help="source to work on, where gallery.partition_by is set")
]
_JSON = Annotated[bool, typer.Option("--json", help="print one JSON object as the last line of stdout")]
_QUIET = Annotated[bool, typer.Option("--quiet", help="print errors only")]
_DEBUG = Annotated[bool, typer.Option("--debug", help="print tracebacks and log lines")]


def typer_app(help_text: str) -> typer.Typer:
    """Return a Typer application with the settings that all groups of commands share."""
    return typer.Typer(help=help_text, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def program() -> str:
    """Return how this program was called, for commands that are printed to be pasted: by its path, if the shell would
    not find it by its name.
    """
    path = sys.argv[0]
    by_path = os.path.basename(path) == "facelake" and shutil.which("facelake") != os.path.abspath(path)
    return shlex.quote(path) if by_path else "facelake"


@dataclass(frozen=True, slots=True)
class Invocation:
    """One call of a command: its terminal and the values of the common options.

    Attributes:
        terminal: where progress, tables, messages and the JSON result go.
        config_path: value of --config.
        lake: value of --lake.
        as_json: whether --json was given.
        partition: value of --partition.
    """

    terminal: Terminal
    config_path: str | None
    lake: str | None
    as_json: bool
    partition: str | None = None

    def config(self, **overrides: Any) -> Config:
        """Load and check the config, with `--lake` and single keys (section__key) over it; None overrides nothing.

        Raises:
            ConfigError: the config is not valid or cannot be read.
        """
        given = {key.replace("__", "."): value for key, value in overrides.items() if value is not None}
        if self.partition is not None:
            given["partition"] = self.partition
        if self.config_path and self.config_path.startswith("s3://"):
            from facelake.lake.store import read_text  # boto3 is slow to import, and a local file needs none of it

            return in_partition(load_config(self.config_path, lake=self.lake, overrides=given, read=read_text))
        return in_partition(load_config(self.config_path, lake=self.lake, overrides=given))

    def options(self) -> str:
        """Return the config and lake options of the call, for a command that is printed as a next step."""
        given = (("-c", self.config_path), ("--lake", self.lake), ("--partition", self.partition))
        return "".join(f" {name} {shlex.quote(value)}" for name, value in given if value is not None)

    def open_lake(self) -> Lake:
        """Return the lake of the call; progress goes to the terminal.

        Raises:
            ConfigError: the config is not valid or cannot be read.
        """
        from facelake.api import Lake

        return Lake(self.config(), self.terminal.listen)


def command(
    app: typer.Typer, name: str | None = None, *, config: bool = True, lake: bool = True, help_text: str | None = None
) -> Callable[[Callable[Concatenate[Invocation, P], None]], Callable[Concatenate[Invocation, P], None]]:
    """Register a function as a command that also takes the common options.

    The function's first parameter is the Invocation; the others become options and arguments as Typer reads them. An
    error inside becomes one line on stderr, a JSON object with --json, and an exit code.

    Args:
        app: the application or group that the command belongs to.
        name: the command's name; default: the function's.
        config: whether the command takes --config.
        lake: whether the command takes --lake.
        help_text: the command's help; default: the function's docstring.
    """
    common = {"config": _CONFIG} if config else {}
    common |= {"lake": _LAKE} if lake else {}
    common |= {"partition": _PARTITION} if config else {}
    flags = {"json": _JSON, "quiet": _QUIET, "debug": _DEBUG}

    def register(
        function: Callable[Concatenate[Invocation, P], None],
    ) -> Callable[Concatenate[Invocation, P], None]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]

        def run(**values: Any) -> None:
            as_json, quiet, debug = (values.pop(flag) for flag in flags)
            config_path = values.pop("config", None)
            lake_uri = values.pop("lake", None) if lake else values.get("lake")  # some commands declare their own
            partition = values.pop("partition", None)
            _set_up_logging(debug=debug)
            terminal = Terminal(as_json=as_json, quiet=quiet, debug=debug)
            with error_boundary(terminal):
                function(Invocation(terminal, config_path, lake_uri, as_json, partition), **values)  # type: ignore[call-arg]

        keyword = inspect.Parameter.KEYWORD_ONLY
        shared = [inspect.Parameter(key, keyword, default=None, annotation=hint) for key, hint in common.items()]
        shared += [inspect.Parameter(key, keyword, default=False, annotation=hint) for key, hint in flags.items()]
        parameters = [parameter.replace(kind=keyword) for parameter in own] + shared
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__name__, run.__doc__ = function.__name__, help_text or function.__doc__
        app.command(name)(run)
        return function

    return register


def _set_up_logging(*, debug: bool) -> None:
    logging.basicConfig(level=logging.DEBUG if debug else logging.ERROR, stream=sys.stderr)
    for verbose in ("botocore", "boto3", "urllib3", "py4j", "numba", "s3transfer"):
        logging.getLogger(verbose).setLevel(logging.WARNING)


def template_key(variable: str) -> bytes:
    """Return the key that an environment variable holds in hexadecimal.

    Raises:
        ConfigError: the variable is not set, or its value is not a key.
    """
    from facelake.publish.transform import read_key

    if variable not in os.environ:
        next_step = "set it to the key of the export; for the first export make one with `openssl rand -hex 32`"
        raise ConfigError(f"{variable} is not set", where="--key-env", next_step=next_step)
    return read_key(os.environ[variable])


def numbers(text: str, option: str) -> list[int]:
    """Parse positive integers separated by commas, as `10000,30000`.

    Raises:
        ConfigError: the text is something else; the message names `option`.
    """
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or min(values) < 1:
        raise ConfigError(
            f"{text!r} is not a list of positive numbers", where=option, next_step="write it as 10000,30000"
        )
    return values


def moment(text: str | None, option: str) -> datetime | None:
    """Parse an ISO 8601 date or time; a time without a zone is UTC; None stays None.

    Raises:
        ConfigError: the text is something else; the message names `option`.
    """
    if text is None:
        return None
    try:
        parsed = datetime.fromisoformat(text)
        parsed = parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as err:
        raise ConfigError(
            f"not a date: {text!r}", where=option, next_step="write 2027-01-31 or 2027-01-31T12:00+00:00"
        ) from err
    return parsed
