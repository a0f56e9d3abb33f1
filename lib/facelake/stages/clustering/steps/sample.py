"""Step sample: the similarity of different people, and the effects of poor quality, measured on some faces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from facelake.cluster import columns
from facelake.cluster.calibrate import Prior, calibrate
from facelake.cluster.nuisance import nuisance_directions, without
from facelake.cluster.quality_norm import bin_bounds, make_gate
from facelake.config import ClusterSection
from facelake.contracts import F32, I32
from facelake.engines.exchange import Block, Exchange
from facelake.stages.clustering.blocks import joined
from facelake.stages.clustering.step_results import Sampled, Scanned
from facelake.stages.clustering.stored import Nuisance, SampleChoice, SampledFaces
from facelake.stages.clustering.work import Work

_SAMPLE = 100_000


@dataclass(frozen=True, slots=True)
class SampleTasks:
    """Reads the vectors of the chosen faces."""

    work: Work

    def sample(self, item: int) -> Iterator[Block]:
        """Write the vectors of the chosen faces of a file."""
        chosen = self.work.shared(SampleChoice).chosen
        batches = self.work.faces_of_file(item, lambda numbers: chosen[numbers] > 0)
        parts = [SampledFaces(numbers, vectors.astype(np.float16)) for numbers, vectors in batches]
        if parts:
            self.work.write(joined(parts), item)
            yield item, b""


def measure_sample(work: Work, exchange: Exchange, settings: ClusterSection, prior: Prior, scan: Scanned) -> Sampled:
    """Choose a sample of whole photos and measure it."""
    chosen = columns.chosen(scan.photo, settings.seed, _SAMPLE / scan.faces)  # faces of one photo are impostors
    work.write(SampleChoice(chosen.astype(np.uint8)))
    exchange.run(work.files, SampleTasks(work).sample)
    vectors, numbers = sample_vectors(work)
    quality, photos = scan.quality[numbers], scan.photo[numbers]
    directions, evidence = nuisance_directions(vectors, quality)
    work.write(Nuisance(directions))
    vectors = without(vectors, directions)
    gate = make_gate(vectors, quality, bin_bounds(scan.quality), settings.seed)
    cuts = calibrate(vectors, photos, scan.faces, prior, settings.seed, settings.threshold)
    return Sampled(gate, cuts, evidence)


def sample_vectors(work: Work) -> tuple[F32, I32]:
    """Return the vectors (n, dim) of the sample, and their face numbers (n,), ascending."""
    sample = joined([work.read(SampledFaces, name) for name in work.names(SampledFaces)])
    order = np.argsort(sample.faces, kind="stable")
    return sample.vectors[order].astype(np.float32), sample.faces[order]
