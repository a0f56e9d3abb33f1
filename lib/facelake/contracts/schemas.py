"""The tables' Arrow schemas. The field documentation is the source of docs/tables.md (infra/tables_doc.py)."""

from __future__ import annotations

import pyarrow as pa

LAKE_FORMAT = 1
"""Raised when a lake written by this version cannot be read by an older one."""


def _schema(*fields: tuple[str, pa.DataType, str]) -> pa.Schema:
    return pa.schema([pa.field(n, t, metadata={"doc": d}) for n, t, d in fields])


_S, _I, _F, _T = pa.string(), pa.int64(), pa.float32(), pa.timestamp("us", tz="UTC")

CORPUS = _schema(
    ("image_id", _S, "unique in the corpus; `import` uses source/relative-path"),
    ("image", pa.binary(), "the encoded photo, as it was received"),
    ("source_id", _S, "who or what supplied the photo; legal-basis events refer to it"),
    ("subject_ref", _S, "optional: the custodian's reference for the person depicted"),
    ("captured_at", _T, "optional"),
    ("source_class", _S, "optional: see SourceClass; web-scrape, cctv, unknown and anything else are refused"),
    ("content_sha256", _S, "of the encoded photo; written by `import`, so that known photos need not be read"),
    ("source_tag", _S, "size and modification time or ETag of the imported file, by which it is known again"),
)
CORPUS_REQUIRED = ("image_id", "image", "source_id")

IMAGES = _schema(
    ("image_id", _S, "in Unicode form NFC; null when the photo has none, or was erased"),
    ("source_id", _S, ""),
    ("subject_ref", _S, ""),
    ("captured_at", _T, ""),
    ("source_class", _S, ""),
    ("corpus_file", _S, "corpus file, or a name of its own where every photo is a file"),
    ("corpus_row", _I, "row in it, from 0"),
    ("uri", _S, "object with the photo: relative to the corpus, or complete; null: a row of the corpus file"),
    ("byte_offset", _I, "of the photo in a tar file; null: the object is the photo"),
    ("size_bytes", _I, "encoded bytes"),
    ("tag", _S, "ETag or modification time of the object; photos are hashed again when it changes"),
    ("content_sha256", _S, "of the encoded photo"),
    ("erased", pa.bool_(), "on the suppression list: nothing of the photo is kept here"),
)

LEDGER = _schema(
    ("seq", _I, "order of events; a later event of the same scope and key overrides an earlier one"),
    ("kind", _S, "grant, withdraw or expire"),
    ("scope", _S, "source or subject"),
    ("key", _S, "the source_id or subject_ref; after an erasure a keyed hash"),
    ("purposes", pa.list_(_S), "empty on a withdraw: every purpose"),
    ("basis", _S, "legal basis as the operator recorded it"),
    ("exemption", _S, "the Art. 9 GDPR exemption or the written release on which faces may be processed"),
    (
        "covers",
        _S,
        "everyone_depicted or named_subject_only; null: everyone for a source, the named subject for a subject",
    ),
    ("source_class", _S, "see SourceClass; null: not stated by this event"),
    ("evidence_sha256", _S, "digest of the written release or other evidence"),
    ("valid_from", _T, "inclusive"),
    ("valid_until", _T, "exclusive; null: until withdrawn"),
    ("last_contact", _T, "last contact with the person; null: the time of recording"),
    ("destroy_by", _T, "date by which the data must be deleted: end of the purpose, or 3 years after the last contact"),
    ("recorded_at", _T, "when the event was appended"),
    ("recorded_by", _S, "operating-system user that appended it"),
)

ADMISSIONS = _schema(
    ("image_id", _S, "null when the corpus row has none"),
    ("source_id", _S, ""),
    ("subject_ref", _S, ""),
    ("corpus_file", _S, "path under the corpus root"),
    ("corpus_row", _I, "row in that file, from 0"),
    ("admitted", pa.bool_(), ""),
    ("reason", _S, "refusal reason; null when admitted"),
    ("covers", _S, "of an admitted image: see Covers; with named_subject_only no bystander may be encoded"),
    ("purpose", _S, "the purpose for which it was decided"),
    ("ledger_version", _I, "Delta version of the ledger at the decision"),
    ("content_sha256", _S, "of the encoded photo; other content is embedded again"),
)

FACES = _schema(
    ("face_id", _S, "blake2b-128 of image id, content hash, rounded box and model digest"),
    ("image_id", _S, ""),
    ("content_sha256", _S, "of the encoded photo"),
    ("box", pa.list_(_F), "x0, y0, x1, y1 in pixels"),
    ("landmarks", pa.list_(_F), "five x, y pairs in pixels"),
    ("image_width", pa.int32(), "pixels after orientation"),
    ("image_height", pa.int32(), "pixels after orientation"),
    ("det_score", _F, "0..1"),
    (
        "quality",
        _F,
        "0..1: size, sharpness, detector score and pose together; 0: landmarks not confirmed, joins nothing",
    ),
    ("landmark_score", _F, "0..1: detector score in a crop turned upright with the face"),
    ("roll", _F, "degrees, clockwise in the photo"),
    ("yaw", _F, "-1..1: where the nose is between the eyes; 0 is frontal, beyond -.5 and .5 a profile"),
    ("view", _S, "how the face was found: whole, tiles, turned, brightened"),
    ("damaged", pa.bool_(), "the file is damaged; most of the photo is intact"),
    ("embedding", pa.binary(), "little-endian float16, unit norm"),
    ("covers", _S, "what the grant covered when the face was encoded"),
    ("model_digest", _S, "digest of the model card and model files that produced the row"),
    ("corpus_file", _S, ""),
    ("corpus_row", _I, ""),
)

REJECTS = _schema(
    ("image_id", _S, ""),
    ("reason", _S, "see Reject"),
    ("detail", _S, "one line for the operator"),
    ("covers", _S, "what the grant covered at that time"),
    ("content_sha256", _S, ""),
    ("model_digest", _S, ""),
    ("corpus_file", _S, ""),
    ("corpus_row", _I, ""),
)

CHUNKS = _schema(
    ("corpus_file", _S, ""),
    ("row_start", _I, ""),
    ("row_end", _I, "exclusive"),
    ("model_digest", _S, ""),
    ("admitted_digest", _S, "digest of the chunk's admitted rows; when it changes, the chunk is embedded again"),
    ("admitted", _I, "images"),
    (
        "embedded",
        _I,
        "images with a face in the run that closed the chunk; 0 if all had an outcome before it",
    ),
    ("rejected", _I, "images without a face in that run"),
    ("faces", _I, "faces found in that run"),
)

GROUPS = _schema(
    ("face_id", _S, ""),
    ("group_id", _I, "no meaning beyond one clustering"),
    ("score", _F, "cosine to the group's centroid"),
)

IDENTITIES = _schema(
    ("identity_id", _S, "opaque, never reused"),
    ("status", _S, "active, merged or retired"),
    ("merged_into", _S, "the winner, when merged"),
    ("size", _I, "faces"),
    ("first_version", _I, "gallery version that created it"),
    ("last_version", _I, "gallery version that last changed it"),
    ("prototype", pa.list_(_F), "template: quality-weighted mean embedding, unit norm; null unless active"),
    ("cohesion", _F, "quality-weighted mean cosine of the faces to the template"),
    ("weight", _F, "sum of the faces' weights, so that prototype * cohesion * weight is the sum of weighted faces"),
    ("exemplars", pa.list_(pa.binary()), "float16 embeddings of a few faces that cover its modes, best first"),
    ("exemplar_faces", pa.list_(_S), "their face ids"),
    (
        "core_hashes",
        pa.list_(_S),
        "retired only: keyed hashes of its core faces, by which it is restored if they return",
    ),
    ("purposes", pa.list_(_S), "purposes it may be used for"),
    ("model_digest", _S, ""),
    ("withdrawn_lineage", pa.list_(_S), "withdrawn data sets in the reported training lineage of the model"),
)

MEMBERSHIPS = _schema(
    ("face_id", _S, ""),
    ("identity_id", _S, ""),
    ("image_id", _S, ""),
    ("score", _F, "cosine to the identity's template when the face was assigned"),
    ("how", _S, "grouped (full clustering), joined (incremental clustering) or corrected (by a reviewer)"),
    ("core", pa.bool_(), "one of the few faces nearest to the template; the identity_id follows the majority of them"),
    ("former_id", _S, "the identity that contained the face before that one was merged"),
    ("withdrawn_lineage", pa.list_(_S), "withdrawn data sets in the reported training lineage of the model"),
)

CHANGES = _schema(
    ("gallery_version", _I, ""),
    ("kind", _S, "see Change"),
    ("identity_id", _S, ""),
    ("other_id", _S, "merged: the winner; split: the parent; resurrected: the identity that it was part of, if any"),
    ("size_before", _I, "faces in the version before"),
    ("size_after", _I, "size_before + new + moved_in - gone - moved_out"),
    ("new", _I, "faces that were in no identity before"),
    ("gone", _I, "faces that are no longer grouped: their photos left the corpus or may no longer be used"),
    ("moved_in", _I, "faces that were in other identities"),
    ("moved_out", _I, "faces that are in other identities now"),
)

CORRECTIONS = _schema(
    ("seq", _I, "order of corrections; where two contradict each other the later one counts"),
    ("kind", _S, "see Verdict"),
    ("identity_a", _S, "the identity to which the correction applies"),
    ("identity_b", _S, "merge, distinct: the other one"),
    (
        "faces_a",
        pa.list_(_S),
        "faces of identity_a at the time; for split, reject and confirm without those in faces_b",
    ),
    ("faces_b", pa.list_(_S), "faces of identity_b at the time; for split, reject and confirm the faces that it names"),
    ("contents", pa.list_(_S), "not_a_face: SHA-256 of the photo of each face in faces_b"),
    ("boxes", pa.list_(pa.list_(_F)), "not_a_face: box of each face in faces_b, as in table faces"),
    ("undoes", pa.list_(_I), "seq of corrections that no longer apply: undone or superseded by this one"),
    ("reason", _S, "in the reviewer's words"),
    ("reviewer", _S, ""),
    ("gallery_version", _I, "the gallery that the reviewer saw"),
    ("recorded_at", _T, ""),
)

IDENTITY_STATS = _schema(
    ("identity_id", _S, ""),
    ("gallery_version", _I, "in which the row was computed; rows of identities without changes nearby are kept"),
    ("size", _I, "faces"),
    ("growth", _I, "change of size since the version before"),
    ("cohesion", _F, "see identities"),
    ("nearest_id", _S, "the other identity with the most similar template"),
    ("nearest_similarity", _F, "cosine of the two templates"),
    (
        "separation",
        _F,
        "mean cosine of pairs of its faces minus the mean cosine of its faces with those of the nearest identity",
    ),
    ("shared_photos", _I, "photos with more than one of its faces: collages, mirrors, or two people in one identity"),
)

REVIEWS = _schema(
    ("kind", _S, "same_person: two identities that may be one person; two_people: one identity that may be two"),
    ("identity_id", _S, ""),
    ("other_id", _S, "same_person: the other identity"),
    ("score", _F, "value of an answer: doubt times the logarithm of the affected faces; sorted descending"),
    ("doubt", _F, "0..1"),
    ("faces", _I, "affected faces"),
    ("reason", _S, "explanation for the reviewer"),
    ("gallery_version", _I, ""),
)

DRIFT = _schema(
    ("gallery_version", _I, ""),
    ("created_at", _T, ""),
    ("mode", _S, "full or increment (incremental clustering)"),
    ("faces", _I, ""),
    ("identities", _I, ""),
    ("single", _I, "singletons: identities of one face"),
    ("largest", _I, "faces of the largest identity"),
    ("cohesion", _F, "median over identities of two or more faces"),
    ("nearest_similarity", _F, "median cosine to the nearest other template"),
    ("reviews", _I, "rows of the review queue"),
    ("created", _I, ""),
    ("merged", _I, ""),
    ("split", _I, ""),
    ("retired", _I, ""),
    (
        "drift_sds",
        _F,
        "shift of the impostor mean since the last full clustering, in standard deviations; null after one",
    ),
    ("subject_photos", _I, "photos of one face that name a subject"),
    ("joined", _I, "identities with such photos of several subjects"),
    ("divided", _I, "subjects with such photos in several identities"),
    ("admissions_version", _I, "Delta version that these three counts are from"),
    ("faces_version", _I, "Delta version that these three counts are from"),
)

GALLERIES = _schema(
    ("gallery_version", _I, "the last row of the highest version is the gallery that readers see"),
    ("identities_version", _I, "Delta version to read"),
    ("memberships_version", _I, "Delta version to read"),
    ("changes_version", _I, "Delta version to read"),
    ("clustering", _S, "digest of the clustering that it was built from"),
    ("model_digest", _S, ""),
    ("purpose", _S, ""),
    ("identities", _I, "active identities"),
    ("faces", _I, ""),
    ("withdrawn_lineage", pa.list_(_S), "withdrawn data sets in the reported training lineage of the model"),
    ("created_at", _T, ""),
)

LEASES = _schema(
    ("seq", _I, "order of events"),
    ("lease_id", _S, "one export to one recipient"),
    ("event", _S, "issued, renewed, sent (changes), acknowledged, recalled or returned"),
    ("recipient", _S, ""),
    ("purpose", _S, "purpose for which the recipient may use it"),
    ("issued_at", _T, "issued, renewed: when; sent: as of when the changes were computed"),
    ("expires_at", _T, "issued, renewed: end of the right of use"),
    ("gallery_version", _I, "issued or sent: that version; acknowledged: the version up to which changes are applied"),
    ("identities", _I, "rows exported"),
    ("target", _S, "issued by a push: the database that it fills, without credentials; null: files"),
    ("ledger_seq", _I, "issued or sent: newest event of the ledger that was known"),
    ("recorded_at", _T, ""),
    ("recorded_by", _S, "operating-system user"),
    ("mac", _S, "of the other columns, by the key of the lake's hashes; an event with another one counts for nothing"),
)

RUNS = _schema(
    ("run_id", _S, "one nightly run; its stages share it"),
    ("stage", _S, ""),
    ("started_at", _T, ""),
    ("seconds", pa.float64(), ""),
    ("input_digest", _S, "digest of everything the stage read; unchanged input is not processed again"),
    ("config_digest", _S, ""),
    ("model_digest", _S, ""),
    ("purpose", _S, ""),
    ("counts", _S, "JSON object of integer counters; totals are checked"),
    ("details", _S, "JSON object of what else the stage recorded: mode, thresholds, plan"),
    ("peak_rss_bytes", _I, "peak resident memory of the driver process"),
)

WITHDRAWN_PHOTOS = _schema(
    ("subject", _S, "keyed hash of the reference of a subject who has withdrawn"),
    ("content", _S, "keyed hash of the SHA-256 of a photo that named the subject and is no longer in the corpus"),
)

TABLES: dict[str, pa.Schema] = {
    "images": IMAGES,
    "ledger": LEDGER,
    "admissions": ADMISSIONS,
    "withdrawn_photos": WITHDRAWN_PHOTOS,
    "faces": FACES,
    "rejects": REJECTS,
    "chunks": CHUNKS,
    "groups": GROUPS,
    "identities": IDENTITIES,
    "memberships": MEMBERSHIPS,
    "changes": CHANGES,
    "corrections": CORRECTIONS,
    "identity_stats": IDENTITY_STATS,
    "reviews": REVIEWS,
    "drift": DRIFT,
    "galleries": GALLERIES,
    "leases": LEASES,
    "runs": RUNS,
}
