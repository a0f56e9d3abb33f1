"""The command `bench precision`: CPU time and recognition accuracy of an encoder in another precision."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from facelake.config import Config
from facelake.contracts import F32, U8
from facelake.embed import Pack
from facelake.embed.models import Encoder, load_encoder
from facelake.errors import ConfigError
from facelake.stages.admission.import_images import photos_of
from facelake.stages.evaluation.labels import read_labels
from facelake.stages.models.quantize import aligned_faces
from facelake.stages.models.registry import find_card, load_pack, pipeline_options

_RATES = (1e-3, 1e-4)
_BATCH, _ROUND_S, _ROUNDS = 8, 1.0, 5


def compare_precision(
    config: Config, other: str | None, images: str, labels: str, precision: str | None = None
) -> dict[str, Any]:
    """Compare the configured card's encoder with another one, on the same aligned faces, measured in turns.

    Args:
        other: card of the other encoder, such as one in int8; None: the same card.
        precision: embed.precision of the other encoder; None: that of its card's file.

    Returns:
        For both: CPU milliseconds per face on one thread (median of rounds), and the true accept rate at false match
        rates of 1e-3 and 1e-4 (best detection per photo). Also the ratio of times and the cosines between the two.

    Raises:
        ConfigError: no photos, no labels, an unknown card; this host does not compute the precision natively.
        Refused: the terms of a card are not accepted.
    """
    config = _with(config, config.model.card, None)
    of_card = {"float32": config, "other": _with(config, other or config.model.card, precision)}
    packs = {name: load_pack(settings) for name, settings in of_card.items()}
    people, faces = _labelled(config, packs["float32"], images, labels)
    runtimes = {name: pipeline_options(of_card[name], pack.card).runtime for name, pack in packs.items()}
    encoders = {name: load_encoder(pack, runtimes[name]) for name, pack in packs.items()}
    units = {name: np.concatenate([encoder.encode(f) for f in _parts(faces)]) for name, encoder in encoders.items()}
    rounds = [{name: _cpu_ms(encoder, faces) for name, encoder in encoders.items()} for _ in range(_ROUNDS)]
    cosines = (units["float32"] * units["other"]).sum(1)
    figures: dict[str, Any] = {
        "card": find_card(of_card["other"].model.card).name,
        "precision": runtimes["other"].precision,
        "faces": len(faces),
        "times_faster": round(statistics.median(times["float32"] / times["other"] for times in rounds), 2),
        "cosine_least": round(float(cosines.min()), 4),
        "cosine_median": round(float(np.median(cosines)), 4),
    }
    for name, unit in units.items():
        figures[f"{name}_cpu_ms"] = round(statistics.median(times[name] for times in rounds), 2)
        figures |= {f"{name}_{key}": value for key, value in recognition(unit, people).items()}
    return figures


def recognition(unit: F32, people: list[str]) -> dict[str, float]:
    """True accept rates of embeddings (n, dim): the share of genuine pairs above the threshold of a false match
    rate.
    """
    first, second = np.triu_indices(len(unit), 1)
    similarity = (unit @ unit.T)[first, second]
    same = np.array(people)[first] == np.array(people)[second]
    genuine, impostor = similarity[same], np.sort(similarity[~same])[::-1]
    figures = {"genuine_pairs": float(len(genuine)), "impostor_pairs": float(len(impostor))}
    for rate in _RATES:
        limit = impostor[int(rate * len(impostor))]  # the first impostor that exceeds the rate
        figures[f"tar_at_{rate:g}"] = round(float((genuine > limit).mean()), 4)
    return figures | {"genuine_least": round(float(genuine.min()), 4), "impostor_most": round(float(impostor[0]), 4)}


def _with(config: Config, card: str, precision: str | None) -> Config:
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"card": card}),
            "embed": config.embed.model_copy(update={"precision": precision}),
        }
    )


def _labelled(config: Config, pack: Pack, images: str, labels: str) -> tuple[list[str], U8]:
    """The person and the best face (112, 112, 3) of every labelled photo."""
    person_of = read_labels(labels)
    face_of: dict[str, U8] = {}
    for path, face in aligned_faces(config, pack, [p for p in photos_of(images) if p.name in person_of]):
        face_of.setdefault(path.name, face)
    people = [person_of[name] for name in face_of]
    if len(set(people)) in (0, len(people)):
        next_step = "label at least two photos of one person, and of another"
        raise ConfigError("no pair of photos shows one person", where=labels, next_step=next_step)
    return people, np.stack(list(face_of.values()))


def _parts(faces: U8) -> list[U8]:
    return [faces[start : start + _BATCH] for start in range(0, len(faces), _BATCH)]


def _cpu_ms(encoder: Encoder, faces: U8) -> float:
    """CPU milliseconds per face in batches of the pipeline's size, measured for one second."""
    cpu, done, began = time.process_time(), 0, time.monotonic()
    while time.monotonic() - began < _ROUND_S or not done:
        part = faces[:_BATCH] if len(faces) < 2 * _BATCH else faces[done % (len(faces) - _BATCH) :][:_BATCH]
        encoder.raw(part)
        done += len(part)
    return 1000 * (time.process_time() - cpu) / done
