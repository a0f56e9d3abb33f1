"""The identities of a copy: few are in memory, many are mapped and changes are kept beside them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import faiss
import numpy as np

from facelake.contracts import F16, F32, I64
from facelake.publish.template_files import Vectors
from facelake.publish.template_index import Codes, IndexFacts, flat_index

_BLOCK = 8_192  # identities that are compared at once


class Identities(Protocol):
    """What a matcher's copy searches."""

    @property
    def dim(self) -> int:
        """Dimensions of the vectors."""
        ...

    def __len__(self) -> int: ...

    def __contains__(self, identity_id: object) -> bool: ...

    def ids(self) -> list[str]:
        """All ids, ascending."""
        ...

    def templates(self, names: Sequence[str] | None = None) -> F32:
        """Templates (n, dim) of identities, zero for one that is not there; None: of all, in the order of `ids`."""
        ...

    def exemplars(self, name: str) -> F16:
        """Exemplars (k, dim) of an identity that is there."""
        ...

    def nearest(self, probes: F32, k: int) -> tuple[list[list[str]], F32]:
        """The k most similar identities of each unit probe (m, dim), best first, and the cosines (m, at most k)."""
        ...

    def updated(self, removed: Collection[str], rows: Vectors) -> Identities:
        """These identities without the removed ones, and with rows added or in place of those of the same id."""
        ...


@dataclass(frozen=True)
class FlatIdentities:
    """Identities in memory with an exact index.

    Attributes:
        vectors: by ascending id.
        index: of their templates, in the same order.
    """

    vectors: Vectors
    index: faiss.Index

    @classmethod
    def of(cls, vectors: Vectors) -> FlatIdentities:
        """Index vectors."""
        ordered = vectors.sorted()
        return cls(ordered, flat_index(ordered.templates))

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.vectors.ids)}

    @property
    def dim(self) -> int:
        """Implements Identities."""
        return int(self.vectors.templates.shape[1])

    def __len__(self) -> int:
        return len(self.vectors.ids)

    def __contains__(self, identity_id: object) -> bool:
        return identity_id in self._row_of

    def ids(self) -> list[str]:
        """Implements Identities."""
        return list(self.vectors.ids)

    def templates(self, names: Sequence[str] | None = None) -> F32:
        """Implements Identities."""
        if names is None:
            return self.vectors.templates
        return _templates_of(self.vectors, np.array([self._row_of.get(name, -1) for name in names], np.int64))

    def exemplars(self, name: str) -> F16:
        """Implements Identities."""
        return self.vectors.exemplars_of(self._row_of[name])

    def nearest(self, probes: F32, k: int) -> tuple[list[list[str]], F32]:
        """Implements Identities."""
        similarity, rows = self.index.search(probes, min(k, len(self)))
        return [[self.vectors.ids[i] for i in row] for row in rows.tolist()], similarity

    def updated(self, removed: Collection[str], rows: Vectors) -> FlatIdentities:
        """Implements Identities."""
        kept = self.vectors.without({*removed, *rows.ids})
        return FlatIdentities.of(Vectors.concat([kept, rows], self.dim))


@dataclass(frozen=True)
class MappedIdentities:
    """Identities whose vectors are mapped files, found by their codes; changes since then are in memory.

    Attributes:
        vectors: mapped, by ascending id.
        index: codes of their templates.
        candidates: identities nearest by code whose similarity is computed.
        left_out: rows that were removed or replaced since.
        changed: identities that were added or replaced since.
    """

    vectors: Vectors
    index: faiss.Index
    candidates: int
    left_out: frozenset[int] = frozenset()
    changed: FlatIdentities | None = None

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.vectors.ids)}

    @property
    def dim(self) -> int:
        """Implements Identities."""
        return int(self.vectors.templates.shape[1])

    def __len__(self) -> int:
        return len(self.vectors.ids) - len(self.left_out) + (len(self.changed) if self.changed else 0)

    def __contains__(self, identity_id: object) -> bool:
        if self.changed is not None and identity_id in self.changed:
            return True
        row = self._row_of.get(str(identity_id), -1)
        return row >= 0 and row not in self.left_out

    def ids(self) -> list[str]:
        """Implements Identities."""
        kept = [name for row, name in enumerate(self.vectors.ids) if row not in self.left_out]
        return sorted([*kept, *(self.changed.ids() if self.changed else ())])

    def templates(self, names: Sequence[str] | None = None) -> F32:
        """Implements Identities."""
        names = self.ids() if names is None else names
        rows = [self._row_of.get(name, -1) for name in names]
        out = _templates_of(self.vectors, np.array([-1 if row in self.left_out else row for row in rows], np.int64))
        if self.changed is not None:
            here = [place for place, name in enumerate(names) if name in self.changed]
            out[here] = self.changed.templates([names[place] for place in here])
        return out

    def exemplars(self, name: str) -> F16:
        """Implements Identities."""
        if self.changed is not None and name in self.changed:
            return self.changed.exemplars(name)
        return self.vectors.exemplars_of(self._row_of[name])

    def nearest(self, probes: F32, k: int) -> tuple[list[list[str]], F32]:
        """Implements Identities."""
        k = min(k, len(self))
        similarity, rows = self._nearest_mapped(probes, k)
        names = [[self.vectors.ids[i] for i in found[found >= 0]] for found in rows]
        if self.changed is None:
            return names, similarity
        more_names, more = self.changed.nearest(probes, k)
        for number, row in enumerate(zip(similarity, more, strict=True)):
            own, other = row
            pairs = sorted([*zip(-own, names[number]), *zip(-other, more_names[number])])[:k]  # noqa: B905  own is padded
            names[number] = [name for _, name in pairs]
            similarity[number, : len(pairs)] = [-value for value, _ in pairs]
        return names, similarity

    def _nearest_mapped(self, probes: F32, k: int) -> tuple[F32, I64]:
        """Cosines and rows (m, k) of the nearest mapped identities; -1 where there are no more.

        Codes of those that were left out take places among the candidates, so that more are compared; if few are left,
        all of them.
        """
        left = len(self.vectors.ids) - len(self.left_out)
        if left * 2 >= len(self.vectors.ids):
            candidates = -(-self.candidates * len(self.vectors.ids) // left)
            similarity, rows = Codes(self.index, self.vectors.templates, candidates).search(probes, k, self.left_out)
            if (rows >= 0).sum(axis=1).min(initial=k) == min(k, left):
                return similarity, rows
        best = np.full((len(probes), k), -np.inf, np.float32), np.full((len(probes), k), -1, np.int64)
        kept = np.delete(np.arange(len(self.vectors.ids)), sorted(self.left_out))
        for start in range(0, len(kept), _BLOCK):
            block = kept[start : start + _BLOCK]
            values = np.concatenate([best[0], probes @ self.vectors.templates[block].T], axis=1)
            rows = np.concatenate([best[1], np.broadcast_to(block, (len(probes), len(block)))], axis=1)
            order = np.argsort(-values, axis=1, kind="stable")[:, :k]
            best = np.take_along_axis(values, order, 1), np.take_along_axis(rows, order, 1)
        return best

    def updated(self, removed: Collection[str], rows: Vectors) -> MappedIdentities:
        """Implements Identities."""
        replaced = {*removed, *rows.ids}
        left_out = self.left_out | {row for name in replaced if (row := self._row_of.get(name)) is not None}
        before = self.changed.vectors.without(replaced) if self.changed else Vectors.concat([], self.dim)
        changed = FlatIdentities.of(Vectors.concat([before, rows], self.dim))
        return replace(self, left_out=left_out, changed=changed if len(changed) else None)


def identities_of(vectors: Vectors, index: faiss.Index, facts: IndexFacts) -> Identities:
    """Return the identities of an export: vectors in memory with a flat index, or mapped ones with codes."""
    return (
        FlatIdentities(vectors, index) if facts.kind == "flat" else MappedIdentities(vectors, index, facts.candidates)
    )


def _templates_of(vectors: Vectors, rows: I64) -> F32:
    """Return the templates (n, dim) of rows; zero for row -1."""
    out = np.zeros((len(rows), vectors.templates.shape[1]), np.float32)
    out[rows >= 0] = vectors.templates[rows[rows >= 0]]
    return out
