"""The review page's server over a real lake: access, views, answers and audit records."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facelake.config import load_config
from facelake.contracts import EventKind, Scope
from facelake.erase import Needles
from facelake.errors import ConfigError, Refused
from facelake.lake.lake import Lake
from facelake.lake.lease import Lease
from facelake.nightly import reading, writing
from facelake.publish.similarity import evenly_spaced, mean_between, mean_within, nearest_links, split_in_two
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.core.audit import audit_faults
from facelake.stages.core.face_crops import CropWorkers, cut_face
from facelake.stages.erasure.lake_scan import residual
from facelake.stages.erasure.request import Request
from facelake.stages.erasure.stage import erase
from facelake.stages.models.registry import limits_of
from facelake.stages.review import session as review_session
from facelake.stages.review.session import ReviewSession
from facelake.web.guard import HEADERS, TOKEN, Guard, Keys
from facelake.web.server import bind
from tests.conftest import run_cli
from tests.review_world import PURPOSE, identity_of_face, simulate_run
from tests.unit.web.review_pages import OWN, Page, open_session, signed_out_client

# ---- access


def test_every_response_has_the_security_headers(shared_page: Page) -> None:
    paths = ["/", "/main.js", "/style.css", "/api/queue", "/api/face/none", "/nowhere"]
    for path in paths:
        headers = shared_page.client.get(path).headers
        assert {name: headers.get(name) for name in HEADERS} == HEADERS, path
        assert "access-control-allow-origin" not in headers
    assert "unsafe" not in HEADERS["content-security-policy"]
    refused = shared_page.client.get("/api/queue", headers={"host": "evil.example"})
    assert {name: refused.headers.get(name) for name in HEADERS} == HEADERS


def test_the_ticket_works_once_and_becomes_a_cookie(shared_page: Page) -> None:
    fresh = Keys(7777)
    client = signed_out_client(shared_page.session, fresh)
    ticket = fresh.ticket
    wrong = client.post("/api/session", json={"ticket": "x" * 43}, headers={"origin": OWN})
    assert wrong.status_code == 401
    signed = client.post("/api/session", json={"ticket": ticket}, headers={"origin": OWN})
    cookie = signed.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    # the cookie alone opens nothing: browsers send it to every port of this host
    assert client.get("/api/session").status_code == 401
    assert client.get("/api/session", headers={TOKEN: "x" * 43}).status_code == 401
    token = {TOKEN: signed.json()["token"]}
    assert client.get("/api/session", headers=token).json()["reviewer"] == "eve"
    assert signed_out_client(shared_page.session, fresh).get("/api/session", headers=token).status_code == 401
    again = signed_out_client(shared_page.session, fresh).post(
        "/api/session", json={"ticket": ticket}, headers={"origin": OWN}
    )
    assert again.status_code == 401


@pytest.mark.parametrize("path", ["/api/session", "/api/queue", "/api/identity?a=x", "/api/face/x", "/api/corrections"])
def test_requests_without_the_cookie_are_refused(shared_page: Page, path: str) -> None:
    assert signed_out_client(shared_page.session, shared_page.keys).get(path).status_code == 401
    wrong = {"cookie": f"{shared_page.keys.name}={'x' * 43}", TOKEN: shared_page.keys.token}
    assert signed_out_client(shared_page.session, shared_page.keys).get(path, headers=wrong).status_code == 401


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"host": "evil.example"}, 400),
        ({"host": "evil.example:7777"}, 400),
        ({"host": "192.168.1.4:7777"}, 400),
        ({"host": "127.0.0.1.evil.example"}, 400),
        ({"host": ""}, 400),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"host": "localhost:9999"}, 200),
        ({"host": "[::1]:9999"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
    ],
)
def test_host_names_and_fetch_sites_are_checked(shared_page: Page, headers: dict[str, str], code: int) -> None:
    cookie = {"cookie": f"{shared_page.keys.name}={shared_page.keys.cookie}", TOKEN: shared_page.keys.token}
    client = signed_out_client(shared_page.session, shared_page.keys)
    assert client.get("/api/session", headers=cookie | headers).status_code == code


@pytest.mark.parametrize(
    ("headers", "body", "code"),
    [
        ({}, b"{}", 403),
        ({"origin": "http://127.0.0.1:8888"}, b"{}", 403),
        ({"origin": "null"}, b"{}", 403),
        ({"origin": OWN, "content-type": "text/plain"}, b"{}", 415),
        ({"origin": OWN, "content-type": "application/x-www-form-urlencoded"}, b"seq=1", 415),
        ({"origin": OWN, "content-type": "application/json"}, b" " * (1 << 20) + b"{}", 413),
        ({"origin": OWN, "content-type": "application/json"}, b"{}", 422),
    ],
)
def test_posts_of_other_origins_are_refused(shared_page: Page, headers: dict[str, str], body: bytes, code: int) -> None:
    for path in ("/api/answer", "/api/undo", "/api/skip"):
        assert shared_page.client.post(path, content=body, headers=headers).status_code == code
    assert shared_page.corrections() == []


def test_duplicate_host_headers_are_refused() -> None:
    guard = Guard(lambda *_: None, Keys(1))  # type: ignore[arg-type,return-value]
    scope = {"path": "/", "method": "GET", "headers": [(b"host", b"localhost"), (b"host", b"evil.example")]}
    assert guard._refusal(scope) == (400, "unknown host name")


def test_an_exposed_page_accepts_its_name_and_ip_addresses() -> None:
    exposed = Guard(lambda *_: None, Keys(1), ["Lake-Host"], exposed=True)  # type: ignore[arg-type,return-value]
    hosts = [
        "lake-host:80",
        "192.168.1.4:80",
        "[2001:db8::1]:80",
        "localhost",
        "evil.example",
        "192.168.1.4.evil.example",
    ]
    assert [exposed._host_is_ours(host) for host in hosts] == [True, True, True, True, False, False]


def test_binding_beyond_loopback_must_be_requested() -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(ConfigError, match="without encryption"):
            bind(host, 0, exposed=False)
    with bind("127.0.0.1", 0, exposed=False) as listener, pytest.raises(ConfigError, match="cannot listen"):
        bind("127.0.0.1", listener.getsockname()[1], exposed=False)
    with bind("0.0.0.0", 0, exposed=True) as listener:
        assert listener.getsockname()[1] > 0


def test_only_the_review_command_needs_the_review_extra(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        without = (
            "import sys; sys.modules['fastapi'] = sys.modules['uvicorn'] = None; from facelake.cli import main; main()"
        )
        return subprocess.run([sys.executable, "-c", without, *arguments], capture_output=True, text=True, check=False)

    result = run("review", "--purpose", PURPOSE, "--lake", str(tmp_path))
    assert result.returncode == 2
    assert "pip install -c constraints.txt -e '.[review]'" in result.stderr
    assert run("correct", "list", "--help").returncode == 0


# ---- purpose and legal basis


def test_a_purpose_without_identities_in_force_is_refused(shared_page: Page) -> None:
    with pytest.raises(Refused, match="no identity is in force for the purpose 'marketing'"):
        ReviewSession.open(reading(load_config(lake=str(shared_page.lake))), "marketing", "eve")
    result = run_cli("review", "--purpose", "marketing", "--lake", str(shared_page.lake), "--no-open")
    assert result.returncode == 1
    assert "no identity is in force" in result.stderr
    assert run_cli("review", "--lake", str(shared_page.lake)).returncode == 2


def test_review_requires_an_assessment(page: Page) -> None:
    (page.lake / "demo.txt").unlink()
    with pytest.raises(ConfigError, match="impact assessment"):
        open_session(page.lake)


def withdraw(lake: Path, source: str) -> None:
    record(Lake.open(str(lake)), [Entry(EventKind.WITHDRAW, Scope.SOURCE, source)])


def test_photos_withdrawn_during_the_session_are_not_shown(page: Page) -> None:
    view = page.get("/api/identity", a=page.world.merged)
    assert [side["total"] for side in view["sides"]] == [23, 23]
    face = view["sides"][0]["faces"][0]["face_id"]
    assert page.get(f"/api/face/{face}")[:2] == b"\xff\xd8"
    withdraw(page.lake, "album")
    page.get(f"/api/face/{face}", 403)
    view = page.get("/api/identity", a=page.world.merged)
    assert [(side["total"], side["hidden"], side["faces"]) for side in view["sides"]] == [(0, 46, []), (0, 46, [])]
    assert view["links"] == []


def test_suppressed_photos_are_not_shown(page: Page) -> None:
    before = page.get("/api/identity", a=page.world.merged)
    images = [face["image_id"] for face in before["sides"][0]["faces"][:3]]
    Lake.open(str(page.lake)).suppress([f"image:{images[0]}", f"for:{PURPOSE}:image:{images[1]}"])
    after = page.get("/api/identity", a=page.world.merged)
    shown = {face["image_id"] for side in after["sides"] for face in side["faces"]}
    assert len(shown) == 44
    assert not shown & set(images[:2])
    assert images[2] in shown


# ---- views


def test_the_queue_has_the_wrong_merge_and_the_duplicate_identities(shared_page: Page) -> None:
    page = shared_page.get("/api/queue")
    questions = page["questions"]
    assert page["total"] == page["open"] == 2
    assert {question["kind"]: (question["identity"], question["other"]) for question in questions} == {
        "two_people": (shared_page.world.merged, None),
        "same_person": shared_page.world.twins,
    }
    scores = [question["score"] for question in questions]
    assert scores == sorted(scores, reverse=True)
    second_page = shared_page.get("/api/queue", offset=1)["questions"]
    assert [question["kind"] for question in second_page] == [questions[1]["kind"]]


def test_the_two_parts_are_the_two_people(shared_page: Page) -> None:
    view = shared_page.get("/api/identity", a=shared_page.world.merged)
    parts = [{face["face_id"] for face in side["faces"]} for side in view["sides"]]
    people = [set(shared_page.world.of_person[name]) for name in ("person-1", "person-2")]
    assert parts in (people, people[::-1])
    assert view["between"] < 0.4 < min(side["inside"] for side in view["sides"])
    similarity = [face["similarity"] for face in view["sides"][0]["faces"]]
    assert similarity == sorted(similarity, reverse=True)


def test_a_column_can_be_read_in_pages(shared_page: Page) -> None:
    view = shared_page.get("/api/pair", a=shared_page.world.twins[0], b=shared_page.world.twins[1])
    ids = [face["face_id"] for face in view["sides"][0]["faces"]]
    pages = [
        shared_page.get("/api/pair", a=shared_page.world.twins[0], b=shared_page.world.twins[1], at_a=start, limit=10)[
            "sides"
        ][0]
        for start in (0, 10, 20, 30)
    ]
    assert [face["face_id"] for part in pages for face in part["faces"]] == ids
    assert view["prototypes"] > 0.9
    assert len(view["links"]) == 6


def test_large_identities_are_sampled_and_the_view_states_it(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review_session, "MAX_COMPARED", 10)
    view = page.get("/api/identity", a=page.world.merged)
    assert {(side["size"], side["compared"], side["hidden"]) for side in view["sides"]} == {(46, 10, 0)}
    faces = [face["face_id"] for side in view["sides"] for face in side["faces"]]
    assert len(faces) == 10
    page.answer("split", identity=page.world.merged, faces=faces[:3])
    assert [(len(row["faces_a"]), len(row["faces_b"])) for row in page.corrections()] == [(43, 3)]


def test_only_faces_that_were_shown_are_cropped(shared_page: Page) -> None:
    view = shared_page.get("/api/identity", a=shared_page.world.merged)
    face = view["sides"][0]["faces"][0]["face_id"]
    with Image.open(io.BytesIO(shared_page.get(f"/api/face/{face}"))) as image:
        assert image.size == (192, 192)
        assert np.asarray(image).std() > 10
    other = shared_page.world.of_person["person-5"][0]
    assert "not shown" in shared_page.get(f"/api/face/{other}", 404)["what"]
    shared_page.get("/api/face/..%2f..%2flake.json", 404)


def test_replaced_or_broken_photos_give_no_crop() -> None:
    sink = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(sink, "PNG")
    data, broken = sink.getvalue(), b"\xff\xd8 no photo"
    digests = [hashlib.sha256(body).hexdigest() for body in (data, broken)]
    limits, box = limits_of(load_config().embed), [0.0, 0.0, 9.0, 9.0]
    assert cut_face(data, digests[1], box, 32, limits) is None
    assert cut_face(broken, digests[1], box, 32, limits) is None
    workers = CropWorkers(1)
    cut = workers.cut(data, digests[0], box, 32, limits)
    assert cut is not None
    assert Image.open(io.BytesIO(cut)).size == (32, 32)
    workers.close()


def test_unknown_identities_are_reported(shared_page: Page) -> None:
    assert "no identity 'id-none'" in shared_page.get("/api/identity", 404, a="id-none")["what"]
    assert "no identity 'id-none'" in shared_page.get("/api/pair", 404, a=shared_page.world.merged, b="id-none")["what"]
    assert "same identity twice" in shared_page.get("/api/pair", 404, a="x", b="x")["what"]


# ---- answers


def test_an_answer_becomes_a_correction_that_can_be_undone(page: Page) -> None:
    faces = page.world.of_person["person-2"]
    page.get("/api/identity", a=page.world.merged)
    recorded = page.answer("split", identity=page.world.merged, faces=faces, reason="  two people  ")
    [row] = page.corrections()
    assert (row["seq"], row["kind"], row["identity_a"]) == (recorded["seq"], "split", page.world.merged)
    assert (row["reviewer"], row["reason"], sorted(row["faces_b"])) == ("eve", "two people", sorted(faces))
    questions = page.get("/api/queue")["questions"]
    question = next(question for question in questions if question["kind"] == "two_people")
    settled = (question["settled_by"], question["settled_how"], question["settled_who"])
    assert settled == (recorded["seq"], "split", "eve")
    page.post("/api/undo", {"seq": recorded["seq"], "reason": "my mistake"})
    assert page.get("/api/queue")["open"] == 2
    rows = [(row["kind"], row["counts"], row["undoes"]) for row in page.get("/api/corrections")]
    assert rows == [("undo", None, [recorded["seq"]]), ("split", False, [])]
    page.post("/api/undo", {"seq": recorded["seq"]}, 409)


def test_a_contradiction_names_the_earlier_correction_and_can_overrule_it(page: Page) -> None:
    a, b = page.world.twins
    page.get("/api/pair", a=a, b=b)
    first = page.answer("distinct", identity=a, other=b, reason="brothers")
    error = page.answer("merge", 409, identity=a, other=b)
    assert error["kind"] == "Contradiction"
    assert [(row["seq"], row["reason"]) for row in error["contradicts"]] == [(first["seq"], "brothers")]
    assert len(page.corrections()) == 1
    second = page.answer("merge", identity=a, other=b, supersede=True)
    assert second["supersedes"] == [first["seq"]]


def test_confirming_all_faces_binds_them_to_one_face(page: Page) -> None:
    view = page.get("/api/identity", a=page.world.merged)
    faces = [face["face_id"] for side in view["sides"] for face in side["faces"]]
    page.answer("confirm", identity=page.world.merged, faces=faces)
    [row] = page.corrections()
    assert (len(row["faces_a"]), len(row["faces_b"])) == (1, 45)
    assert page.answer("split", 409, identity=page.world.merged, faces=faces[:5])["kind"] == "Contradiction"


def test_a_confirmation_holds_in_the_next_run(page: Page) -> None:
    view = page.get("/api/identity", a=page.world.merged)
    faces = [face["face_id"] for side in view["sides"] for face in side["faces"]]
    page.answer("confirm", identity=page.world.merged, faces=faces[:5])
    assert page.get("/api/queue")["open"] == 2
    page.answer("confirm", identity=page.world.merged, faces=faces)
    assert page.get("/api/queue")["open"] == 1
    with writing(load_config(lake=str(page.lake)), "test") as context:
        simulate_run(context, page.world.of_person, 10, page.world.of_person["person-8"][0])
    questions = page.get("/api/queue")["questions"]
    [question] = [question for question in questions if question["kind"] == "two_people"]
    assert question["settled_how"] == "confirm"


def test_answers_about_unseen_faces_are_refused(page: Page) -> None:
    unseen = page.world.of_person["person-4"][0]
    page.get("/api/identity", a=page.world.merged)
    assert "not shown" in page.answer("reject", 409, identity=page.world.merged, faces=[unseen])["what"]
    assert "not shown" in page.answer("merge", 409, identity=page.world.twins[0], other=page.world.twins[1])["what"]
    assert page.corrections() == []


def test_faces_withdrawn_since_they_were_shown_are_not_decided_about(page: Page) -> None:
    view = page.get("/api/identity", a=page.world.merged)
    faces = [face["face_id"] for face in view["sides"][0]["faces"][:2]]
    page.get("/api/pair", a=page.world.twins[0], b=page.world.twins[1])
    withdraw(page.lake, "album")
    for kind in ("reject", "not_a_face", "confirm", "split"):
        refused = page.answer(kind, 403, identity=page.world.merged, faces=faces)
        assert "may be shown any more" in refused["what"]
    page.answer("merge", 403, identity=page.world.twins[0], other=page.world.twins[1])
    assert "may not be shown any more" in page.answer("not_a_face", 403, faces=faces)["what"]
    assert page.corrections() == []


def test_no_text_of_a_request_gets_into_the_audit_trail(page: Page) -> None:
    """Nothing can be taken out of it: a name there would prevent every later erasure of the person."""
    page.post("/api/skip", {"identity": "person-3"}, 409)
    page.post("/api/skip", {"identity": page.world.twins[0], "other": "person-3"}, 409)
    page.post("/api/identities", {"listing": "subject", "text": "person-3"})
    page.get("/api/identity", 404, a="person-3")
    page.get("/api/pair", 404, a=page.world.twins[0], b="person-3")
    page.get("/api/person", 404, a="person-3")
    page.get("/api/why", 404, a="person-3", face="person-3")
    page.get("/api/face/person-3", 404)
    page.answer("reject", 409, identity="person-3", faces=["person-3"], reason="person-3")
    page.answer("merge", 409, identity=page.world.twins[0], other="person-3")
    assert "person-3" not in str(page.audit())
    with writing(load_config(lake=str(page.lake)), "test") as context:
        assert erase(context, Request.of(subjects=["person-3"])).certificate


def test_an_answer_during_a_run_is_refused_at_once(page: Page) -> None:
    page.get("/api/pair", a=page.world.twins[0], b=page.world.twins[1])
    with Lease(Lake.open(str(page.lake)).store, "nightly"):
        error = page.answer("merge", 409, identity=page.world.twins[0], other=page.world.twins[1])
    assert error["kind"] == "Busy"
    assert "for nightly" in error["what"]
    assert page.corrections() == []
    assert page.answer("merge", identity=page.world.twins[0], other=page.world.twins[1])["seq"] == 1


def test_an_answer_to_an_older_gallery_is_refused(page: Page) -> None:
    before = page.get("/api/identity", a=page.world.merged)
    with writing(load_config(lake=str(page.lake)), "test") as context:
        simulate_run(context, page.world.of_person, 10, page.world.of_person["person-8"][0])
    body = {"kind": "reject", "identity": page.world.merged, "faces": [before["sides"][0]["faces"][0]["face_id"]]}
    error = page.post("/api/answer", body | {"gallery_version": before["gallery_version"]}, 409)
    assert "was published since" in error["what"]
    assert page.get("/api/session")["gallery_version"] == before["gallery_version"] + 1
    assert page.get("/api/queue")["gallery_version"] == before["gallery_version"] + 1


def test_corrections_hold_in_later_runs(page: Page) -> None:
    page.get("/api/identity", a=page.world.merged)
    page.get("/api/pair", a=page.world.twins[0], b=page.world.twins[1])
    page.answer("split", identity=page.world.merged, faces=page.world.of_person["person-2"])
    page.answer("merge", identity=page.world.twins[0], other=page.world.twins[1])
    for shift, without in ((10, page.world.of_person["person-8"][0]), (20, page.world.of_person["person-7"][0])):
        with writing(load_config(lake=str(page.lake)), "test") as context:
            simulate_run(context, page.world.of_person, shift, without)
            home = identity_of_face(context)
        identities = {
            name: {home[face] for face in faces if face in home} for name, faces in page.world.of_person.items()
        }
        assert all(len(identities[name]) == 1 for name in ("person-1", "person-2", "person-3")), identities
        assert identities["person-1"] != identities["person-2"]


# ---- audit trail


def test_views_and_answers_are_in_the_audit_trail_without_face_ids(page: Page) -> None:
    view = page.get("/api/identity", a=page.world.merged)
    page.get("/api/queue")
    face = view["sides"][1]["faces"][0]["face_id"]
    page.answer("reject", identity=page.world.merged, faces=[face], reason="album/person-1")
    page.post("/api/skip", {"identity": page.world.merged, "other": None}, 204)
    page.post("/api/undo", {"seq": 1})
    records = page.audit()
    assert [record["event"] for record in records] == [
        "opened",
        "view",
        "queue",
        "answer",
        "answer recorded",
        "skip",
        "undo",
    ]
    assert {(record["reviewer"], record["purpose"], record["session"]) for record in records} == {
        ("eve", PURPOSE, page.session.name)
    }
    assert records[1]["identities"] == [page.world.merged]
    assert len(records[1]["faces"]) == 46
    assert records[3]["faces"] == page.session.hashes([face])
    assert records[3]["faces"][0] in records[1]["faces"]
    text = "".join(file.read_text() for file in (page.lake / "audit").glob("*.json"))
    assert face not in text
    assert "album/" not in text
    assert audit_faults(Lake.open(str(page.lake))) == []


def test_concurrent_requests_leave_an_intact_audit_trail(page: Page) -> None:
    a, b = page.world.twins
    requests = [("/api/identity", {"a": page.world.merged}), ("/api/pair", {"a": a, "b": b}), ("/api/queue", {})] * 4
    with ThreadPoolExecutor(6) as pool:
        codes = list(pool.map(lambda request: page.client.get(request[0], params=request[1]).status_code, requests))
    assert codes == [200] * 12
    assert Counter(record["event"] for record in page.audit()) == {"opened": 1, "view": 8, "queue": 4}
    assert audit_faults(Lake.open(str(page.lake))) == []


def test_nothing_is_shown_if_the_audit_trail_cannot_be_written(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> str:
        raise Refused("the disk is full", where="audit", next_step="make room")

    monkeypatch.setattr(review_session, "append_audit", broken)
    page.get("/api/identity", 403, a=page.world.merged)
    page.get("/api/queue", 403)
    assert not page.session.viewed
    page.get(f"/api/face/{page.world.of_person['person-1'][0]}", 404)
    monkeypatch.undo()


def test_the_page_works_on_after_an_erasure_and_keeps_nothing_erased(page: Page) -> None:
    view = page.get("/api/identity", a=page.world.merged)
    erased = view["sides"][0]["faces"][0]
    page.answer("split", identity=page.world.merged, faces=page.world.of_person["person-2"])
    with writing(load_config(lake=str(page.lake)), "erase") as context:
        erase(context, Request.of(images=[erased["image_id"]]))
        needles = Needles.of([erased["image_id"], erased["face_id"]])
        assert sum(residual(context, needles)[1].values()) == 0
    after = page.get("/api/identity", a=page.world.merged)
    shown = {face["face_id"] for side in after["sides"] for face in side["faces"]}
    assert len(shown) == 45
    assert erased["face_id"] not in shown
    page.get(f"/api/face/{erased['face_id']}", 403)
    assert page.get(f"/api/face/{shown.pop()}")[:2] == b"\xff\xd8"


# ---- similarity


unit = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed))


@given(unit, st.integers(2, 30), st.integers(2, 30))
def test_two_distinct_sets_are_separated_in_any_order(generator: np.random.Generator, many: int, few: int) -> None:
    if many == few:
        many += 1
    many, few = max(many, few), min(many, few)
    centres = np.eye(8)[:2]
    truth = generator.permutation(np.arange(many + few) < few)
    vectors = centres[truth.astype(int)] + generator.normal(0, 0.05, (many + few, 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    assert (split_in_two(vectors) == truth).all()
    assert (split_in_two(vectors[::-1]) == truth[::-1]).all()


def test_mean_cosines_are_those_of_all_pairs() -> None:
    generator = np.random.default_rng(1)
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (generator.normal(size=(n, 5)) for n in (6, 4)))
    pairs = [float(a[i] @ a[j]) for i in range(6) for j in range(6) if i != j]
    assert mean_within(a.astype(np.float32)) == pytest.approx(np.mean(pairs), abs=1e-6)
    assert mean_between(a.astype(np.float32), b.astype(np.float32)) == pytest.approx((a @ b.T).mean(), abs=1e-6)
    assert mean_within(a[:1].astype(np.float32)) is None
    links = nearest_links(a.astype(np.float32), b.astype(np.float32), 3)
    assert links[0][2] == pytest.approx((a @ b.T).max(), abs=1e-6)
    assert len({i for i, _, _ in links}) == len({j for _, j, _ in links}) == 3
    assert evenly_spaced(10, 4).tolist() == [0, 3, 6, 9]
    assert split_in_two(np.ones((1, 4), np.float32)).tolist() == [False]
