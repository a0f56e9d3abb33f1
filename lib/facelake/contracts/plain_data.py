"""Reads YAML and JSON that others wrote: limited in size and depth, without YAML's aliases and without repeated keys.

Aliases let a few hundred bytes stand for gigabytes; none of facelake's files needs them. Of a key that occurs
twice, parsers take the last value: a person who reads the text may take the first.
"""

from __future__ import annotations

import json
from typing import Any

import yaml

_MOST_BYTES = 1 << 20
_MOST_DEPTH = 60
_OPENS = (yaml.SequenceStartEvent, yaml.MappingStartEvent)
_CLOSES = (yaml.SequenceEndEvent, yaml.MappingEndEvent)
# libyaml's parser, which PyYAML's wheels contain, takes a twentieth of the time of the one in Python
_SAFE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SAFE):  # type: ignore[misc]
    """Refuses a mapping in which a key occurs twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if repeated := [key[1] for at, key in enumerate(keys) if key in keys[:at]]:
            raise ValueError(f"the key {repeated[0]!r} occurs twice: keep one of them")
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


def parse_yaml(text: str | bytes, *, only: bool = False) -> Any:
    """Return the first YAML document as plain values; None for an empty text.

    Args:
        text: of the file.
        only: whether further documents are refused; they are ignored otherwise.

    Raises:
        ValueError: it is not YAML, uses aliases, has a key twice, or is too large or too deeply nested.
    """
    _check_size(text)
    depth = documents = 0
    try:
        for event in yaml.parse(text, _SAFE):
            depth += isinstance(event, _OPENS) - isinstance(event, _CLOSES)
            documents += isinstance(event, yaml.DocumentStartEvent)
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"it uses the alias *{event.anchor}: write the value out")
            if depth > _MOST_DEPTH:
                raise ValueError(f"it is nested more than {_MOST_DEPTH} levels deep")
            if documents > 1:
                if only:
                    raise ValueError("it has more than one document (---): keep one")
                break
        return next(iter(yaml.load_all(text, _Loader)), None)
    except (yaml.YAMLError, RecursionError, OverflowError, TypeError, AttributeError) as err:
        raise ValueError(" ".join(str(err).split()) or type(err).__name__) from err


def parse_json(text: str | bytes, most_bytes: int = _MOST_BYTES) -> Any:
    """Return a JSON value.

    Raises:
        ValueError: it is not JSON, has a key twice in one object, or is too large or too deeply nested.
    """
    _check_size(text, most_bytes)
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError as err:
        raise ValueError("it is nested too deeply") from err


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for at, name in enumerate(names) if name in names[:at])
        raise ValueError(f"the key {repeated!r} occurs twice")
    return made


def _check_size(text: str | bytes, most_bytes: int = _MOST_BYTES) -> None:
    if len(text) > most_bytes:
        raise ValueError(f"it has {len(text)} bytes; at most {most_bytes} are read")
