"""Reads and validates a YAML config; an unknown key is refused with the most similar known one."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from facelake.config.sections import Config
from facelake.contracts import parse_yaml
from facelake.errors import ConfigError

_ALTERNATIVE = re.compile(r"^(constrained-|literal\[|function-|nullable|str$|int$|float$|bool$|list\[|dict\[)")
M = TypeVar("M", bound=BaseModel)


def read_local(path: str) -> str:
    """The text of a local UTF-8 file; `~` is expanded."""
    return Path(os.path.expanduser(path)).read_text("utf-8")


def load_config(
    path: str | None = None,
    *,
    lake: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    read: Callable[[str], str] = read_local,
) -> Config:
    """Read a YAML config, apply `lake` and `overrides` to it, and validate it.

    Args:
        path: of the YAML file; None: every value is the default.
        overrides: values by dotted key, such as `embed.device`.
        read: returns the text at `path`; `facelake.lake.store.read_text` reads s3:// as well.

    Raises:
        ConfigError: no such file, not YAML, an unknown key (the message suggests a similar one) or an invalid value; or
            the lake's relative path names a lake beside the config and none here.
    """
    data = _read_yaml(path, read) if path else {}
    if lake:
        data["lake"] = lake
    for key, value in (overrides or {}).items():
        section, _, name = key.rpartition(".")
        (data.setdefault(section, {}) if section else data)[name] = value
    try:
        config = _validate(Config, data, path or "arguments")
        if path and not lake:
            _refuse_other_folder(path, config.lake)
        return config
    except ConfigError as err:
        if lake and err.what.startswith("key 'lake': "):
            raise ConfigError(
                err.what.removeprefix("key 'lake': "), where=f"--lake {lake}", next_step=err.next_step
            ) from None
        raise


def _refuse_other_folder(path: str, lake: str) -> None:
    """Refuse a relative lake that exists beside the config only: a second one would be made in the working directory,
    with copies of photos that no erasure of the first reaches.
    """
    local = Path(os.path.expanduser(path))
    if "://" in lake or "://" in path or Path(os.path.expanduser(lake)).is_absolute():
        return
    beside = local.parent / lake
    if beside.is_dir() and not Path(lake).exists():
        what = f"the lake {lake!r} is in the folder of the config, and a relative path starts in the working directory"
        next_step = f"run this in {local.parent.resolve()}, or write the absolute path into the config"
        raise ConfigError(what, where=path, next_step=next_step)


def read_yaml_as(kind: type[M], path: Path) -> M:
    """Read a YAML file as a pydantic model; errors are reported as for the configuration."""
    return _validate(kind, _read_yaml(str(path)), str(path))


def _read_yaml(path: str, read: Callable[[str], str] = read_local) -> dict[str, Any]:
    try:
        text = read(path)
        data = parse_yaml(text, only=True) or {}
    except FileNotFoundError as err:
        next_step = "give the path of a config with -c; `facelake init` writes a new one"
        raise ConfigError("there is no such config", where=path, next_step=next_step) from err
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(
            f"config cannot be read: {err}", where=path, next_step="correct the path given with -c"
        ) from err
    except ValueError as err:
        raise ConfigError(f"config is not YAML: {err}", where=path, next_step="correct the YAML syntax") from err
    if not isinstance(data, dict):
        raise ConfigError("config must be a mapping of keys", where=path, next_step="follow the form of conf/demo.yaml")
    return data


def _validate(kind: type[M], data: dict[str, Any], where: str) -> M:
    try:
        return kind.model_validate(data)
    except ValidationError as err:
        problem = err.errors()[0]
        path = ".".join(_keys(kind, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            near = _nearest(kind, problem["loc"])
            hint = f"did you mean {near!r}" if near else "remove the key"
            raise ConfigError(f"unknown key {path!r}", where=where, next_step=hint) from None
        # of a key that may be one of several kinds, each kind has its own message
        same = (str(p["msg"]) for p in err.errors() if ".".join(_keys(kind, p["loc"])) == path)
        message = ", or ".join(dict.fromkeys(text.removeprefix("Value error, ") for text in same))
        raise ConfigError(f"key {path!r}: {message}", where=where, next_step="correct the value") from None


def _keys(kind: type[BaseModel], loc: tuple[int | str, ...]) -> Iterator[str]:
    """Yield the keys of the file in a location, without the names of alternatives that pydantic puts behind them."""
    section: Any = kind
    for part in loc:
        is_section = isinstance(section, type) and issubclass(section, BaseModel)
        if not is_section and isinstance(part, str) and _ALTERNATIVE.search(part):
            return
        yield str(part)
        field = section.model_fields.get(str(part)) if is_section else None
        section = field.annotation if field else None


def _nearest(kind: type[BaseModel], loc: tuple[int | str, ...]) -> str | None:
    """The known key that is most similar to the unknown one, in its own section or else in any."""
    section: type[BaseModel] | None = kind
    for part in loc[:-1]:
        annotation = section.model_fields[str(part)].annotation if section else None
        section = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    name = str(loc[-1])
    in_section = difflib.get_close_matches(name, section.model_fields if section else [], n=1, cutoff=0.5)
    if in_section:
        return ".".join([*map(str, loc[:-1]), in_section[0]])
    all_keys = dict(_keys_of(kind))
    similar = difflib.get_close_matches(name, all_keys, n=1, cutoff=0.6)
    return all_keys[similar[0]] if similar else None


def _keys_of(kind: type[BaseModel], prefix: str = "") -> list[tuple[str, str]]:
    """(name, dotted key) of every field of a model and of its nested models."""
    keys = []
    for name, info in kind.model_fields.items():
        keys.append((name, prefix + name))
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            keys += _keys_of(info.annotation, f"{prefix}{name}.")
    return keys
