"""What an embed actor tells Ray's own metrics, which every node's agent serves to Prometheus.

Counted when a chunk's files are staged. A worker or driver that dies may leave chunks counted that are embedded again,
so sums over disturbed nights are a little above those in the table `runs`, which are exact.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge, Histogram

from facelake.contracts import ChunkReceipt

METRICS = {
    "facelake_embed_photos_total": "photos that have an outcome",
    "facelake_embed_faces_total": "faces found in them",
    "facelake_embed_rejects_total": "photos that gave no face, by reason",
    "facelake_embed_chunk_seconds": "seconds of a worker for one chunk, read to staged",
    "facelake_embed_queue_chunks": "chunks of a worker's task that are not staged yet",
}
_SECONDS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0]


class EmbedMetrics:
    """The metrics of one actor."""

    def __init__(self) -> None:
        names = iter(METRICS.items())
        self._photos = Counter(*next(names))
        self._faces = Counter(*next(names))
        self._rejects = Counter(*next(names), tag_keys=("reason",))
        self._seconds = Histogram(*next(names), boundaries=_SECONDS)
        self._queue = Gauge(*next(names))

    def wait(self, chunks: int) -> None:
        """So many chunks are still to be done."""
        self._queue.set(chunks)

    def count(self, receipt: ChunkReceipt) -> None:
        """A chunk was staged."""
        if photos := receipt.embedded + receipt.rejected:
            self._photos.inc(photos)
        if receipt.face_rows:
            self._faces.inc(receipt.face_rows)
        for reason, photos in receipt.reasons.items():
            self._rejects.inc(photos, tags={"reason": reason})
        self._seconds.observe(receipt.seconds)
