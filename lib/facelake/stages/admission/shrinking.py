"""Stops a run when much of the corpus is missing: a wrong `corpus` setting would remove every face and identity."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.config import Config
from facelake.distinct import among, union
from facelake.errors import Refused
from facelake.stages.core.known_ids import U64, hashed

_SHARE = 0.2
_FEW = 10  # photos that may vanish from a small corpus
PRESENCE = ["image_id", "content_sha256"]


@dataclass(frozen=True, slots=True)
class Present:
    """Hashes of the ids and contents that the corpus has, sorted: 16 bytes per photo."""

    ids: np.ndarray
    contents: np.ndarray

    @classmethod
    def of(cls, tables: Iterable[pa.Table], more_ids: Iterable[U64] = ()) -> Present:
        """Read them from tables with the columns PRESENCE; `more_ids` are hashes of others."""
        ids, contents = [np.zeros(0, np.uint64), *more_ids], [np.zeros(0, np.uint64)]
        for rows in tables:
            ids.append(hashed(rows["image_id"].drop_null()))
            contents.append(hashed(rows["content_sha256"].drop_null()))
        return cls(union(*ids), union(*contents))

    def missing(self, tables: Iterable[pa.Table]) -> int:
        """How many photos are gone: neither their id nor their content is in the corpus any more."""
        count = 0
        for rows in tables:
            named = rows.filter(pc.is_valid(rows["image_id"]))
            known = among(hashed(named["image_id"]), self.ids)
            known |= among(hashed(named["content_sha256"]), self.contents)
            count += int((~known).sum())
        return count


def is_much(config: Config, missing: int, before: int) -> bool:
    """Whether so many of `before` photos are missing that the run must stop."""
    many = missing >= _SHARE * before and (missing > _FEW or missing >= before)
    return missing > 0 and many and not config.corpus_may_shrink


def refuse_if_much(config: Config, missing: int, before: int) -> None:
    """Raise Refused if a fifth or more of the photos, and more than a few, are missing and the config forbids it."""
    if is_much(config, missing, before):
        what = f"{missing} of {before} photos decided before are no longer in the corpus"
        next_step = "check `corpus`; to remove these photos and their faces, set corpus_may_shrink: true"
        raise Refused(what, where=config.corpus_uri, next_step=next_step)
