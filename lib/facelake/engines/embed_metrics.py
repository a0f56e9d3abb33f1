"""Metrics of an embed actor in Ray's metrics system, which every node's agent exports to Prometheus.

Chunks are counted when their files are staged. If a worker or driver ends, some counted chunks are embedded again, so
that sums over such runs are slightly higher than the exact counts in the table `runs`.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge, Histogram

from facelake.contracts import ChunkReceipt

METRICS = {
    "facelake_embed_photos_total": "photos with an outcome",
    "facelake_embed_faces_total": "faces of these photos",
    "facelake_embed_rejects_total": "photos without a face, by reason",
    "facelake_embed_chunk_seconds": "seconds of a worker per chunk, from reading to staging",
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

    def set_queue(self, chunks: int) -> None:
        """Record the number of chunks that are still to be staged."""
        self._queue.set(chunks)

    def count(self, receipt: ChunkReceipt) -> None:
        """Count a staged chunk."""
        if photos := receipt.embedded + receipt.rejected:
            self._photos.inc(photos)
        if receipt.face_rows:
            self._faces.inc(receipt.face_rows)
        for reason, photos in receipt.reasons.items():
            self._rejects.inc(photos, tags={"reason": reason})
        self._seconds.observe(receipt.seconds)
