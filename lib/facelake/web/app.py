"""The web application: routes over `stages/review`, and the page's static files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from facelake.config import package_dir
from facelake.contracts import Verdict
from facelake.errors import Busy, ConfigError, Contradiction, FacelakeError, Refused
from facelake.stages.gallery.corrections import CorrectionRequest
from facelake.stages.review import answers, browser, person, questions, views
from facelake.stages.review.session import ReviewSession
from facelake.web import bodies
from facelake.web.guard import Keys

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
Offset = Annotated[int, Query(ge=0, le=1_000_000)]
Limit = Annotated[int, Query(ge=1, le=200)]


def build_app(session: ReviewSession, keys: Keys) -> FastAPI:
    """Return the application. Serve it only behind the guard (guard.py), which authenticates requests."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _files(app)
    _sign_in(app, session, keys)
    _read_routes(app, session)
    _write_routes(app, session)

    @app.exception_handler(FacelakeError)
    def error_response(request: Request, err: FacelakeError) -> JSONResponse:
        return JSONResponse(_error(session, err).model_dump(mode="json"), _status(err, request.method))

    return app


def static_dir() -> Path:
    """Return the folder of the page's static files."""
    return package_dir() / "web" / "static"


def _files(app: FastAPI) -> None:
    """Serve exactly the shipped files, by name: no path of a request reaches the file system."""

    def route(path: str, file: Path) -> None:
        @app.get(path, include_in_schema=False)
        def send() -> FileResponse:
            return FileResponse(file, media_type=_TYPES[file.suffix])

    for file in sorted(static_dir().iterdir()):
        if file.suffix in _TYPES:
            route("/" if file.name == "index.html" else f"/{file.name}", file)


def _sign_in(app: FastAPI, session: ReviewSession, keys: Keys) -> None:
    @app.post("/api/session", response_model=None)
    def redeem(body: bodies.SignIn) -> Response:
        cookie = keys.redeem(body.ticket)
        if cookie is None:
            error = bodies.ErrorOut(
                kind="Refused",
                what="this link was already used",
                where="",
                next="stop `facelake review` and run it again",
            )
            return JSONResponse(error.model_dump(mode="json"), 401)
        return JSONResponse({"token": keys.token}, headers={"set-cookie": cookie})

    @app.get("/api/session")
    def session_info() -> bodies.SessionOut:
        return bodies.SessionOut(
            purpose=session.purpose,
            reviewer=session.reviewer,
            gallery_version=session.state().gallery.version,
            lake=session.context.lake.uri,
        )


def _read_routes(app: FastAPI, session: ReviewSession) -> None:
    @app.get("/api/queue")
    def queue(offset: Offset = 0, limit: Limit = 50) -> questions.Queue:
        return questions.queue(session, offset, limit)

    @app.get("/api/identity")
    def identity(a: bodies.Name, at_a: Offset = 0, at_b: Offset = 0, limit: Limit = 60) -> views.View:
        return views.view_one(session, a, (at_a, at_b), limit)

    @app.get("/api/pair")
    def pair(a: bodies.Name, b: bodies.Name, at_a: Offset = 0, at_b: Offset = 0, limit: Limit = 60) -> views.View:
        return views.view_pair(session, a, b, (at_a, at_b), limit)

    @app.post("/api/identities")  # what is searched for may name a person: it is sent in the body, not in the address
    def identities(body: bodies.BrowseIn) -> browser.IdentityPage:
        return browser.browse(session, browser.Listing(body.listing), body.text, body.after, body.limit)

    @app.get("/api/person")
    def one_identity(a: bodies.Name, at: Offset = 0, limit: Limit = 60) -> person.Person:
        return person.person(session, a, at, limit)

    @app.get("/api/why")
    def why(a: bodies.Name, face: bodies.Name, other: bodies.Name | None = None) -> person.Why:
        return person.why(session, a, face, other)

    @app.get("/api/face/{face_id}", response_model=None)
    def face(face_id: str) -> Response:
        picture = session.crop(face_id)
        if picture is None:
            return Response("the photo is no longer available", 410, media_type="text/plain")
        return Response(picture, media_type="image/jpeg")

    @app.get("/api/corrections", response_model=list[bodies.CorrectionOut])
    def corrections(limit: Limit = 50) -> list[dict[str, Any]]:
        return answers.corrections(session, limit)


def _write_routes(app: FastAPI, session: ReviewSession) -> None:
    @app.post("/api/answer")
    def answer(body: bodies.AnswerIn) -> answers.Recorded:
        request = CorrectionRequest(
            kind=Verdict(body.kind),
            identity=body.identity,
            other=body.other,
            faces=tuple(body.faces),
            reason=body.reason.strip(),
            reviewer=session.reviewer,
            supersede=body.supersede,
        )
        return answers.answer(session, request, body.gallery_version)

    @app.post("/api/undo")
    def undo(body: bodies.UndoIn) -> answers.Recorded:
        return answers.undo_correction(session, body.seq, body.reason.strip())

    @app.post("/api/skip", status_code=204)
    def skip(body: bodies.SkipIn) -> None:
        answers.skip(session, body.identity, body.other)


def _status(err: FacelakeError, method: str) -> int:
    if isinstance(err, Contradiction | Busy):
        return 409
    if isinstance(err, ConfigError):
        return 404 if method == "GET" else 409
    return 403 if isinstance(err, Refused) else 503


def _error(session: ReviewSession, err: FacelakeError) -> bodies.ErrorOut:
    contradicted: list[bodies.CorrectionOut] = []
    if isinstance(err, Contradiction):
        rows = answers.corrections(session, limit=1_000_000)
        contradicted = [bodies.CorrectionOut.model_validate(row) for row in rows if row["seq"] in err.seqs]
    return bodies.ErrorOut(
        kind=type(err).__name__, what=err.what, where=str(err.where), next=err.next_step, contradicts=contradicted
    )
