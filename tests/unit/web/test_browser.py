"""The identity browser of the review page: lists, searches, faces over time, and what the ledger forbids."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from facelake.config import load_config
from facelake.contracts import DataFileName, EventKind, Scope
from facelake.errors import Refused
from facelake.lake.lake import Lake
from facelake.lake.row_reader import pick_scattered
from facelake.nightly import writing
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.core.audit import audit_faults
from facelake.stages.gallery import face_index
from facelake.stages.review import browser
from facelake.stages.review import session as review_session
from facelake.web.app import static_dir
from tests.review_world import simulate_run
from tests.unit.web.review_pages import OWN, Page, signed_out_client

HOSTILE = ["<img src=x onerror=alert(1)>", "' OR 1=1 --", "../../lake.json", "\x00", "%", "id-" + "x" * 190]


def listed(page: Page, listing: str, text: str = "", **more: Any) -> list[dict[str, Any]]:
    body = {"listing": listing, "text": text, **more}
    return list(page.post("/api/identities", body)["identities"])


def ids(page: Page, listing: str, text: str = "") -> list[str]:
    return [row["identity"] for row in listed(page, listing, text)]


def gallery_sizes(page: Page) -> dict[str, int]:
    rows = page.session.state().gallery.read("identities", ["identity_id", "status", "size"]).to_pylist()
    return {row["identity_id"]: row["size"] for row in rows if row["status"] == "active"}


def withdraw(page: Page, source: str) -> None:
    record(Lake.open(str(page.lake)), [Entry(EventKind.WITHDRAW, Scope.SOURCE, source)])


def withdraw_subject(page: Page, subject: str) -> None:
    record(Lake.open(str(page.lake)), [Entry(EventKind.WITHDRAW, Scope.SUBJECT, subject)])


# ---- lists


def test_the_largest_identities_are_listed_in_pages(shared_page: Page) -> None:
    sizes = gallery_sizes(shared_page)
    rows, after = [], 0
    while after is not None:
        page = shared_page.post("/api/identities", {"listing": "largest", "after": after, "limit": 3})
        assert len(page["identities"]) <= 3
        rows += page["identities"]
        after = page["next"]
    assert {row["identity"]: row["size"] for row in rows} == sizes
    assert [row["size"] for row in rows] == sorted(sizes.values(), reverse=True)
    assert rows[0]["identity"] == shared_page.world.merged
    assert shared_page.get(f"/api/face/{rows[-1]['face']}")[:2] == b"\xff\xd8"


def test_the_newest_and_the_changed_identities_are_listed(page: Page) -> None:
    with writing(load_config(lake=str(page.lake)), "test") as context:
        simulate_run(context, page.world.of_person, 10, page.world.of_person["person-8"][0])
    gallery = page.session.state(fresh=True).gallery
    changes = gallery.read("changes", ["gallery_version", "kind", "identity_id"]).to_pylist()
    recent = {row["identity_id"]: row["kind"] for row in changes if row["gallery_version"] == gallery.version}
    rows = listed(page, "changed")
    assert {row["identity"]: row["change"] for row in rows} == recent
    assert list(recent.values()) == ["shrank"]
    first = [row["first_version"] for row in listed(page, "newest")]
    assert first == sorted(first, reverse=True)
    assert first[0] == 2  # the duplicate identity of person-3 came with the second gallery


def test_identities_are_found_by_their_id(page: Page) -> None:
    merged = page.world.merged
    assert ids(page, "identity", merged) == [merged]
    assert ids(page, "identity", f"  {merged} ") == [merged]
    assert merged in ids(page, "identity", merged[:4])
    gallery = page.session.state().gallery
    rows = gallery.read("identities", ["identity_id", "merged_into"]).to_pylist()
    former = {row["identity_id"]: row["merged_into"] for row in rows if row["merged_into"]}
    assert set(former.values()) == {merged}  # person-1 and person-2
    assert [ids(page, "identity", name) for name in former] == [[merged]]


@pytest.mark.parametrize("text", ["", *HOSTILE])
@pytest.mark.parametrize("listing", ["identity", "subject", "photo"])
def test_a_search_without_a_result_lists_nothing(shared_page: Page, listing: str, text: str) -> None:
    assert listed(shared_page, listing, text) == []


def test_identities_are_found_by_photo_and_by_subject(shared_page: Page) -> None:
    face = shared_page.world.of_person["person-4"][0]
    lake = Lake.open(str(shared_page.lake))
    members = (
        shared_page.session.state().gallery.read("memberships", ["face_id", "identity_id", "image_id"]).to_pylist()
    )
    image = next(row["image_id"] for row in members if row["face_id"] == face)
    expected = {row["identity_id"] for row in members if row["image_id"] == image}
    rows = listed(shared_page, "photo", image)
    assert {row["identity"] for row in rows} == expected
    assert {(row["image"], row["matches"]) for row in rows} == {(image, 1)}
    admissions = lake["admissions"].read(["image_id", "subject_ref", "admitted"]).to_pylist()
    subjects = {row["subject_ref"] for row in admissions if row["admitted"] and row["subject_ref"]}
    assert subjects, "the demo has photos of named subjects"
    for subject in subjects:
        photos = {row["image_id"] for row in admissions if row["subject_ref"] == subject and row["admitted"]}
        found = {row["identity"]: row["matches"] for row in listed(shared_page, "subject", f" {subject}")}
        counts: dict[str, int] = {}
        for row in members:
            if row["image_id"] in photos:
                counts[row["identity_id"]] = counts.get(row["identity_id"], 0) + 1
        assert found == counts


def test_requests_are_checked(shared_page: Page) -> None:
    for body in ({"listing": "all"}, {"listing": "largest", "limit": 101}, {"listing": "largest", "after": -1},
                 {"listing": "subject", "text": "x" * 201}, {"listing": "largest", "more": 1}):  # fmt: skip
        shared_page.post("/api/identities", body, 422)
    outside = signed_out_client(shared_page.session, shared_page.keys)
    assert outside.post("/api/identities", json={"listing": "largest"}, headers={"origin": OWN}).status_code == 401
    for path in ("/api/person?a=x", "/api/why?a=x&face=y"):
        assert outside.get(path).status_code == 401
    assert shared_page.client.post("/api/identities", json={"listing": "largest"}).status_code == 403  # no origin


# ---- one identity


def test_the_faces_of_an_identity_are_listed_over_time(shared_page: Page) -> None:
    view = shared_page.get("/api/person", a=shared_page.world.merged)
    assert (view["size"], view["total"], view["hidden"], len(view["faces"])) == (46, 46, 0, 46)
    order = [(face["captured_at"] is None, face["captured_at"] or "", face["image_id"]) for face in view["faces"]]
    assert order == sorted(order)
    parts = [shared_page.get("/api/person", a=shared_page.world.merged, at=at, limit=20)["faces"] for at in (0, 20, 40)]
    assert [face["face_id"] for part in parts for face in part] == [face["face_id"] for face in view["faces"]]
    assert view["how"] == {"grouped": 46}
    assert all(face["nearest"] > 0.4 for face in view["faces"])
    assert shared_page.get(f"/api/face/{view['faces'][0]['face_id']}")[:2] == b"\xff\xd8"


def test_capture_times_order_the_faces(page: Page) -> None:
    lake = Lake.open(str(page.lake))
    table = lake["images"]
    before = page.get("/api/person", a=page.world.twins[0])["faces"]
    rows = table.read().to_pylist()
    dated = {face["image_id"]: f"20{10 + number}-05-04T12:00:00Z" for number, face in enumerate(before[::-1][:3])}
    files = table.snapshot().files
    assert len({row["corpus_file"] for row in rows}) == len(files)
    adds = []
    for file in files:
        part = table.file(file)
        times = [dated.get(name) for name in part["image_id"].to_pylist()]
        adds.append(stage_with_times(table, file, part, times))
    table.commit(adds, files)
    after = page.get("/api/person", a=page.world.twins[0])["faces"]
    assert [face["image_id"] for face in after[:3]] == list(dated)
    assert [face["captured_at"][:10] for face in after[:3]] == ["2010-05-04", "2011-05-04", "2012-05-04"]
    assert {face["captured_at"] for face in after[3:]} == {None}


def stage_with_times(table: Any, file: Any, part: Any, times: list[str | None]) -> Any:
    column = pa.array(times, pa.string()).cast(pa.timestamp("us", tz="UTC"))
    changed = part.set_column(part.schema.get_field_index("captured_at"), "captured_at", column)
    return table.stage(changed, DataFileName.parse(file.path))


def test_a_face_is_explained_by_the_strongest_connection(shared_page: Page) -> None:
    merged = shared_page.world.merged
    faces = shared_page.get("/api/person", a=merged)["faces"]
    by_similarity = sorted(faces, key=lambda face: face["similarity"])
    why = shared_page.get("/api/why", a=merged, face=by_similarity[0]["face_id"])
    assert why["path"][0]["face_id"] == by_similarity[-1]["face_id"]  # from the face nearest to the template
    assert why["path"][-1]["face_id"] == by_similarity[0]["face_id"]
    assert "cosine similarity" in why["sentences"][0]
    assert "weakest link" in why["sentences"][1]
    a, b = (shared_page.world.of_person[name][0] for name in ("person-1", "person-2"))
    apart = shared_page.get("/api/why", a=merged, face=a, other=b)
    assert apart["weakest"] < apart["limit"]  # a wrong merge: no chain of links leads from one to the other
    assert "below the limit" in apart["sentences"][1]
    twin = shared_page.get("/api/person", a=shared_page.world.twins[0])["faces"][0]["face_id"]
    assert "not shown" in shared_page.get("/api/why", 404, a=merged, face=twin)["what"]


def test_corrections_of_an_identity_are_named(page: Page) -> None:
    merged = page.world.merged
    faces = page.get("/api/person", a=merged)["faces"]  # being shown here permits an answer
    page.answer("split", identity=merged, faces=page.world.of_person["person-2"], reason="sisters")
    assert page.get("/api/person", a=merged)["corrections"] == [1]
    a, b = (page.world.of_person[name][0] for name in ("person-1", "person-2"))
    assert "says: two people" in page.get("/api/why", a=merged, face=a, other=b)["sentences"][-1]
    assert len(faces) == 46


# ---- what the ledger forbids


def test_withdrawn_people_are_neither_listed_nor_found(page: Page) -> None:
    face = page.world.of_person["person-4"][0]
    members = page.session.state().gallery.read("memberships", ["face_id", "identity_id", "image_id"]).to_pylist()
    of_album = {row["identity_id"] for row in members if row["image_id"].startswith("album/")}
    others = {row["identity_id"] for row in members if not row["image_id"].startswith("album/")}
    row = next(row for row in members if row["face_id"] == face)
    view = page.get("/api/person", a=row["identity_id"])
    assert page.get("/api/why", a=row["identity_id"], face=face)
    withdraw(page, "album")
    assert set(ids(page, "largest")) == others
    assert row["identity_id"] in of_album - others
    assert ids(page, "identity", row["identity_id"]) == ids(page, "photo", row["image_id"]) == []
    unknown = page.get("/api/person", 404, a="id-none")
    withheld = page.get("/api/person", 404, a=row["identity_id"])
    assert withheld == {**unknown, "what": unknown["what"].replace("id-none", row["identity_id"])}
    page.get("/api/why", 404, a=row["identity_id"], face=face)
    page.get(f"/api/face/{view['faces'][0]['face_id']}", 403)


def test_hidden_faces_are_only_counted(page: Page) -> None:
    faces = page.get("/api/person", a=page.world.merged)["faces"]
    erased = faces[0]["image_id"]
    Lake.open(str(page.lake)).suppress([f"image:{erased}"])
    view = page.get("/api/person", a=page.world.merged)
    assert (view["total"], view["hidden"]) == (45, 1)
    assert erased not in {face["image_id"] for face in view["faces"]}
    assert page.world.merged not in ids(page, "photo", erased)
    for face in view["faces"][:3]:
        why = page.get("/api/why", a=page.world.merged, face=face["face_id"])
        assert erased not in {step["image_id"] for step in why["path"]}


def test_identities_that_may_not_be_shown_fill_no_page(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "_SCANNED_PAGES", 1)
    withdraw(page, "album")
    first = page.post("/api/identities", {"listing": "largest", "limit": 2})
    assert first["identities"] == []
    assert first["next"] == 2  # a request examines a bounded number of identities


def test_the_page_writes_names_as_text_only() -> None:
    for script in static_dir().glob("*.js"):
        for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert way not in script.read_text(), f"{way} in {script.name}"


def test_large_identities_that_may_not_be_shown_end_a_request_early(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser, "_MOST_FACES", 30)
    before = ids(page, "largest")
    withdraw(page, "album")
    shown, after, requests = [], 0, 0
    while after is not None:
        answer = page.post("/api/identities", {"listing": "largest", "after": after, "limit": 50})
        shown += [row["identity"] for row in answer["identities"]]
        after, requests = answer["next"], requests + 1
    assert 1 < requests <= len(before)
    monkeypatch.setattr(browser, "_MOST_FACES", 10_000)
    assert shown == ids(page, "largest")


def test_merged_ids_do_not_name_whoever_withdrew(page: Page) -> None:
    gallery = page.session.state().gallery
    rows = gallery.read("identities", ["identity_id", "merged_into"]).to_pylist()
    former = next(row["identity_id"] for row in rows if row["merged_into"])
    withdraw(page, "album")
    assert listed(page, "identity", former) == []
    assert page.world.merged not in json.dumps(page.get("/api/person", 404, a=former))


# ---- audit trail and limits


def test_lists_and_views_are_in_the_audit_trail_without_names(page: Page) -> None:
    image = page.get("/api/person", a=page.world.merged)["faces"][0]["image_id"]
    rows = listed(page, "photo", image)
    listed(page, "subject", "Jane Doe")
    page.get("/api/why", a=page.world.merged, face=rows[0]["face"])
    records = page.audit()
    assert [record["event"] for record in records] == ["opened", "identity", "browse", "browse", "explain"]
    assert records[2]["identities"] == [row["identity"] for row in rows]
    assert records[2]["faces"] == page.session.hashes([row["face"] for row in rows])
    assert records[2]["sought"] == page.session.context.lake.keyed_hash(f"photo:{image}")[:32]
    assert (records[3]["identities"], records[3]["listing"]) == ([], "subject")
    text = "".join(file.read_text() for file in (page.lake / "audit").glob("*.json"))
    assert "Jane" not in text
    assert image not in text
    assert rows[0]["face"] not in text
    assert audit_faults(Lake.open(str(page.lake))) == []


def test_nothing_is_listed_if_the_audit_trail_cannot_be_written(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> str:
        raise Refused("the disk is full", where="audit", next_step="make room")

    monkeypatch.setattr(review_session, "append_audit", broken)
    page.post("/api/identities", {"listing": "largest"}, 403)
    page.get("/api/person", 403, a=page.world.merged)
    page.get(f"/api/face/{page.world.of_person['person-1'][0]}", 404)
    assert not page.session.viewed


def test_a_session_remembers_a_bounded_number_of_faces(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review_session, "_REMEMBERED_FACES", 30)
    faces = [face["face_id"] for face in page.get("/api/person", a=page.world.merged)["faces"]]
    assert page.get(f"/api/face/{faces[-1]}")[:2] == b"\xff\xd8"
    assert "not shown" in page.get(f"/api/face/{faces[0]}", 404)["what"]


def test_lists_read_no_embedding(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def recorded(store: Any, table: str, paths: Any, file: Any, row: Any, columns: Any) -> Any:
        read.extend(columns)
        return pick_scattered(store, table, paths, file, row, columns)

    monkeypatch.setattr(face_index, "pick_scattered", recorded)
    assert listed(page, "largest")
    assert "image_id" in read
    assert not {"embedding", "prototype", "exemplars"} & set(read)
