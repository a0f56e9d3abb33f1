"""Photos that are files of a folder or objects under a prefix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa

from facelake.lake.corpora.listing import list_photos
from facelake.lake.corpora.rules import Rules, apply_rules, normal_form
from facelake.lake.corpora.selection import LeftOut, Selection
from facelake.lake.object_store import ObjectStore

_ROWS = 4096


@dataclass(frozen=True, slots=True)
class FilesLayout:
    """Every photo under the root; the image_id is the path, unless a rule says otherwise."""

    store: ObjectStore
    selection: Selection
    rules: Rules
    follow_links: bool = False

    def entries(self, left_out: LeftOut) -> Iterator[pa.Table]:
        """Yield the photos in batches, with size and tag."""
        listing = list_photos(self.store, self.selection, left_out, follow_links=self.follow_links, to_the_end=True)
        while batch := list(islice(listing, _ROWS)):
            keys = [item.key for item in batch]
            uris = pa.array(keys, pa.string())
            made = apply_rules(self.rules, pa.table({"path": uris}), keys)
            if "image_id" not in self.rules:
                made = made.set_column(0, "image_id", normal_form(uris))
            made = made.append_column("uri", uris)
            made = made.append_column("size_bytes", pa.array([item.size_bytes for item in batch], pa.int64()))
            yield made.append_column("tag", pa.array([item.tag for item in batch], pa.string()))
