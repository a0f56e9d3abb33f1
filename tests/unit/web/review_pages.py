"""A signed-in review page over a lake, for the tests of its server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from facelake.config import load_config
from facelake.lake.lake import Lake
from facelake.nightly import reading
from facelake.stages.review import session as review_session
from facelake.stages.review.session import ReviewSession
from facelake.web.app import build_app
from facelake.web.guard import TOKEN, Guard, Keys
from tests.review_world import PURPOSE, World

OWN = "http://127.0.0.1:7777"


@dataclass(frozen=True, slots=True)
class Page:
    """A signed-in review page on its own lake."""

    lake: Path
    world: World
    session: ReviewSession
    keys: Keys
    client: TestClient
    """a client with the session cookie"""

    def get(self, path: str, code: int = 200, **values: Any) -> Any:
        response = self.client.get(path, params=values)
        assert response.status_code == code, response.text
        return response.json() if "json" in response.headers["content-type"] else response.content

    def post(self, path: str, body: dict[str, Any], code: int = 200) -> Any:
        response = self.client.post(path, json=body, headers={"origin": OWN})
        assert response.status_code == code, response.text
        return response.json() if response.content else None

    def answer(self, kind: str, code: int = 200, **fields: Any) -> Any:
        version = self.get("/api/session")["gallery_version"]
        return self.post("/api/answer", {"kind": kind, "gallery_version": version} | fields, code)

    def audit(self) -> list[dict[str, Any]]:
        files = sorted((self.lake / "audit").glob("*.json"))
        records = [json.loads(file.read_text()) for file in files]
        return [record["body"] for record in records if record["kind"] == "review"]

    def corrections(self) -> list[dict[str, Any]]:
        return Lake.open(str(self.lake))["corrections"].read().to_pylist()


def open_session(lake: Path, reviewer: str = "eve") -> ReviewSession:
    return ReviewSession.open(reading(load_config(lake=str(lake))), PURPOSE, reviewer)


def signed_out_client(session: ReviewSession, keys: Keys, **client: Any) -> TestClient:
    return TestClient(Guard(build_app(session, keys), keys), base_url=OWN, **client)


@contextmanager
def open_page(lake: Path, world: World) -> Iterator[Page]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(review_session, "_STATE_MAX_AGE_S", 0.0)
        session, keys = open_session(lake), Keys(7777)
        client = signed_out_client(session, keys)
        response = client.post("/api/session", json={"ticket": keys.ticket}, headers={"origin": OWN})
        client.headers[TOKEN] = response.json()["token"]
        yield Page(lake, world, session, keys, client)
        session.close()
