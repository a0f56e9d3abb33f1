"""Items by the group that each belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facelake.contracts import I64


@dataclass(frozen=True, slots=True)
class ByGroup:
    """Positions of items, ordered by their group.

    Attributes:
        order: (n,) positions, by group, then ascending.
        start: (groups + 1,) where the positions of each group begin.
    """

    order: I64
    start: I64

    @classmethod
    def of(cls, group: I64, count: int) -> ByGroup:
        """Order items (n,) by their group, a number from 0 to `count` - 1."""
        order = np.argsort(group, kind="stable")
        return cls(order, np.searchsorted(group[order], np.arange(count + 1)))

    def of_group(self, group: int) -> I64:
        """Return the positions of the items of one group, ascending."""
        return self.order[self.start[group] : self.start[group + 1]]

    def members(self, groups: I64) -> tuple[I64, I64]:
        """Return the positions (m,) of the items of some groups, and the place (m,) of each one's group in `groups`."""
        counts = self.start[groups + 1] - self.start[groups]
        place = np.repeat(np.arange(len(groups)), counts)
        within = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.order[self.start[groups][place] + within], place
