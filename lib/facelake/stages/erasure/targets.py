"""What the lake holds of a request: photos, faces, embeddings, and the same photos under other ids."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import label, reference, references
from facelake.errors import ConfigError
from facelake.events import Notice
from facelake.plural import counted, first_of
from facelake.stages.admission.corpus_rewrite import own_corpus
from facelake.stages.admission.known_references import Known, also_there, not_suppressed, refuse_unknown
from facelake.stages.admission.shared_references import of_several_sources
from facelake.stages.core.context import Context
from facelake.stages.erasure.copies import find_copies
from facelake.stages.erasure.request import Request, Targets, is_in, strings
from facelake.stages.gallery.versions import FIND_IDENTITY, Gallery, current_gallery


def refuse_unknown_targets(context: Context, request: Request) -> None:
    """Refuse a request that names something which the lake neither has nor erased before; nothing is noted then.

    Raises:
        ConfigError: it does; the error names what is alike.
    """
    known = Known.of(context.config, context.lake, request.images, request.subjects)
    unknown = [
        *known.unknown("subject", request.subjects),
        *known.unknown("image", request.images),
        *known.unknown("source", request.sources),
        *known.unknown("purpose", [request.purpose] if request.purpose else []),
    ]
    refuse_unknown(not_suppressed(context.lake, unknown), "erase")
    for kind, names in (("subject", request.subjects), ("source", request.sources)):
        for text in also_there(known, kind, names):
            context.emit(Notice("erase", text))
    for text in (*of_several_sources(known), *_photos_in_words(context, request)):
        context.emit(Notice("erase", text))


def _photos_in_words(context: Context, request: Request) -> Iterator[str]:
    """Yield what is erased with identities, and which people the photos name who are not erased with them."""
    gallery = current_gallery(context.lake)
    shown = _of_identities(context, request, gallery, known=True) if request.identities else set()
    named = _named_by(context, shown.union(request.images))
    if gallery is not None and shown:
        yield _identities_in_words(request, gallery, shown, {named[image] for image in shown & named.keys()})
    if stay := sorted(set(named.values()) - {reference(name) for name in request.subjects}):
        what = f"the photos are barred, not the people whom they name: {first_of(stay)}. Their references and grants"
        options = first_of([f"`--subject {shlex.quote(name)}`" for name in stay])
        yield f"{what} stay, and new photos of them are processed. To bar them too, add {options}"


def _named_by(context: Context, images: set[str]) -> dict[str, str]:
    """Return the subject whom each photo names, by image; photos that name nobody are left out."""
    wanted, named = strings(images), dict[str, str]()
    for _, rows in context.lake["admissions"].parts(["image_id", "subject_ref"]) if images else ():
        own = rows.filter(pc.is_in(rows["image_id"], wanted))
        subjects = references(own["subject_ref"]).to_pylist()
        named |= {image: name for image, name in zip(own["image_id"].to_pylist(), subjects, strict=True) if name}
    return named


def _identities_in_words(request: Request, gallery: Gallery, images: set[str], subjects: set[str]) -> str:
    """Return what is erased with the identities: all photos that show them, whomever they name and show besides."""
    wanted, own_ids = strings(images), strings(request.identities)
    faces = 0
    for rows in gallery.parts("memberships", ["image_id", "identity_id"]):
        others = pc.and_(pc.is_in(rows["image_id"], wanted), pc.invert(pc.is_in(rows["identity_id"], own_ids)))
        faces += pc.sum(others).as_py() or 0
    one = len(request.identities) == 1
    who = f"identity {request.identities[0]} is" if one else f"the {len(request.identities)} identities are"
    named = f", which name {counted(len(subjects), 'subject')}: {first_of(sorted(subjects))}" if subjects else ""
    besides = f", and have {counted(faces, 'face')} of other identities" if faces else ""
    return f"{who} in {counted(len(images), 'photo')}{named}{besides}: all are erased"


def find_targets(
    context: Context,
    request: Request,
    known: Targets | None = None,
    also: Callable[[Context, Targets], None] | None = None,
) -> Targets:
    """Find images by admissions, corpus and gallery, and what belongs to them, copies under other ids included.

    Args:
        context: of the run.
        request: the request.
        known: what an earlier attempt found.
        also: adds images that are known elsewhere, before their faces and copies are looked up.

    Raises:
        ConfigError: an identity is not active; the request is about a person, and does not say what to do with copies.
    """
    targets = known or Targets(request, images=set(request.images))
    targets.request = request
    gallery = current_gallery(context.lake)
    if request.identities:
        targets.images |= _of_identities(context, request, gallery, known=bool(targets.images))
    _by_name(context, targets)
    if also:
        also(context, targets)
    copies = find_copies(context, targets)
    if copies and request.copies == "erase":
        targets.images |= copies
        copies = find_copies(context, targets)  # for their faces; copies are of equal photos, so there are no more
    if copies and not request.copies and not request.sources:
        raise _undecided(context, copies)
    targets.copies = copies
    wanted = strings(targets.images)
    for rows in gallery.parts("memberships", ["face_id", "image_id"]) if gallery else ():
        targets.faces.update(rows["face_id"].filter(pc.is_in(rows["image_id"], wanted)).to_pylist())
    return targets


def _by_name(context: Context, targets: Targets) -> None:
    """Add the images of the named subjects, sources and images, and the spellings of the subjects."""
    columns = ["image_id", "source_id", "subject_ref"]
    tables = [(rows for _, rows in context.lake["admissions"].parts(columns))]
    tables.append(corpus.ids(path) for corpus, path in own_corpus(context.config))
    for rows in itertools.chain(*tables):
        own = rows.filter(pa.array(targets.hits(rows)))
        targets.held |= own.num_rows > 0
        targets.images.update(filter(None, own["image_id"].to_pylist()))
        if targets.request.subjects:
            spelled = pc.unique(own["subject_ref"]).drop_null()
            targets.subjects.update(
                spelled.filter(pa.array(is_in(references(spelled), targets.request.subjects))).to_pylist()
            )


def _undecided(context: Context, copies: set[str]) -> ConfigError:
    what = f"the same photos are in the lake under other ids: {first_of(sorted(copies))}"
    next_step = "nothing was erased. Add --with-copies to erase them too, or --keep-copies if they are to stay"
    return ConfigError(what, where=context.lake.uri, next_step=next_step)


def _of_identities(context: Context, request: Request, gallery: Gallery | None, known: bool) -> set[str]:
    """Return every image that shows one of the identities.

    Raises:
        ConfigError: an identity is not active, and no earlier attempt has noted its images.
    """
    names = strings(request.identities)
    images: set[str] = set()
    present: set[str] = set()
    for rows in gallery.parts("memberships", ["identity_id", "image_id"]) if gallery else ():
        own = rows.filter(pc.is_in(rows["identity_id"], names))
        present.update(own["identity_id"].to_pylist())
        images.update(own["image_id"].to_pylist())
    missing = [name for name in request.identities if name not in present]
    if missing and not known:
        if context.lake.keyed_hash(label("identity", missing[0])) in context.lake.suppressed():
            what = f"identity {missing[0]!r} was erased before"
            next_step = "nothing was erased now. `facelake erase --restored` erases what a backup brought back"
            raise ConfigError(what, where=context.lake.uri, next_step=next_step)
        what = f"no active identity {missing[0]!r}"
        raise ConfigError(what, where=context.lake.uri, next_step=FIND_IDENTITY)
    return images
