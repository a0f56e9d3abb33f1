"""Reads YAML and JSON that others wrote, with limits: on size and depth, and without YAML's aliases.

Aliases let a few hundred bytes stand for gigabytes; none of facelake's files needs them.
"""

from __future__ import annotations

import json
from typing import Any

import yaml

_MOST_BYTES = 1 << 20
_MOST_DEPTH = 60
_OPENS = (yaml.SequenceStartEvent, yaml.MappingStartEvent)
_CLOSES = (yaml.SequenceEndEvent, yaml.MappingEndEvent)


def parse_yaml(text: str | bytes) -> Any:
    """Return the first YAML document as plain values; None for an empty text.

    Raises:
        ValueError: it is not YAML, uses aliases, or is too large or too deeply nested.
    """
    _check_size(text)
    depth = documents = 0
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, _OPENS) - isinstance(event, _CLOSES)
            documents += isinstance(event, yaml.DocumentStartEvent)
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"it uses the alias *{event.anchor}: write the value out")
            if depth > _MOST_DEPTH:
                raise ValueError(f"it is nested more than {_MOST_DEPTH} levels deep")
            if documents > 1:
                break
        return next(iter(yaml.safe_load_all(text)), None)
    except (yaml.YAMLError, RecursionError, OverflowError, TypeError, AttributeError) as err:
        raise ValueError(" ".join(str(err).split()) or type(err).__name__) from err


def parse_json(text: str | bytes, most_bytes: int = _MOST_BYTES) -> Any:
    """Return a JSON value.

    Raises:
        ValueError: it is not JSON, or is too large or too deeply nested.
    """
    _check_size(text, most_bytes)
    try:
        return json.loads(text)
    except RecursionError as err:
        raise ValueError("it is nested too deeply") from err


def _check_size(text: str | bytes, most_bytes: int = _MOST_BYTES) -> None:
    if len(text) > most_bytes:
        raise ValueError(f"it has {len(text)} bytes; at most {most_bytes} are read")
