"""Erasure certificates and the key that signs them."""

from __future__ import annotations

import base64
import copy
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facelake.erase import Signer, certificate, verify
from facelake.errors import ConfigError
from facelake.stages.erasure.request import Request, Targets

BODY = certificate(
    "run-1",
    datetime(2026, 1, 2, tzinfo=UTC),
    ["cd", "ab"],
    {"images": 3, "faces": 4},
    gallery_version=7,
    objects_scanned=120,
    residual_hits=0,
    versions={"faces": 12, "ledger": 3},
    purpose="identity-grouping",
    recipients_pending=["zoo", "door"],
)


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer.load_or_create(tmp_path_factory.mktemp("key") / "key.pem")


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to every plain value of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = False
    for name, part in items:
        found = True
        yield from leaves(part, (*path, name))
    if not found:
        yield path


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    changed = copy.deepcopy(value)
    at = changed
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = new
    return changed


def test_content_of_a_certificate() -> None:
    scan = BODY["residual_scan"]
    assert BODY | {"residual_scan": {}} == {
        "erasure": "run-1",
        "completed_at": "2026-01-02T00:00:00+00:00",
        "targets_keyed_sha256": ["ab", "cd"],
        "removed": {"images": 3, "faces": 4},
        "gallery_version": 7,
        "versions": {"faces": 12, "ledger": 3},
        "purpose": "identity-grouping",
        "recipients_pending": ["door", "zoo"],
        "residual_scan": {},
        "copies_kept": 0,
        "others_kept": 0,
        "controller": None,
        "lake": "",
    }
    assert (scan["objects"], scan["hits"], scan["coincidences"]) == (120, 0, {})
    assert scan["searched"], "what was searched for"
    plain = certificate(
        "r", datetime(2026, 1, 2, tzinfo=UTC), [], {}, gallery_version=0, objects_scanned=0, residual_hits=0
    )
    assert (plain["versions"], plain["purpose"], plain["recipients_pending"]) == ({}, None, [])
    with pytest.raises(ValueError, match="1 residual hits: not certified"):
        certificate(
            "r", datetime(2026, 1, 2, tzinfo=UTC), [], {}, gallery_version=0, objects_scanned=0, residual_hits=1
        )


def test_a_signature_holds_for_the_body_and_its_json(signer: Signer) -> None:
    signature = signer.sign(BODY)
    assert set(signature) == {"algorithm", "key", "public_key", "signature"}
    assert (signature["algorithm"], signature["key"]) == ("ed25519", signer.fingerprint)
    assert len(base64.b64decode(signature["public_key"])) == 32
    again = json.loads(json.dumps(BODY)), json.loads(json.dumps(signature))
    assert verify(*again)
    assert verify(*again, key=signer.fingerprint)
    assert signer.verify(*again)
    assert signer.verify(dict(reversed(BODY.items())), signature)  # the order of fields says nothing


@pytest.mark.parametrize("path", list(leaves(BODY)), ids=str)
def test_a_change_of_any_field_invalidates_the_signature(signer: Signer, path: tuple[Any, ...]) -> None:
    signature = signer.sign(BODY)
    for new in ("other", 5, None, True, [], {}, 7.5):
        changed = replaced(BODY, path, new)
        assert not verify(changed, signature) or json.dumps(changed) == json.dumps(BODY)
    dropped = copy.deepcopy(BODY)
    del dropped[path[0]]
    assert not verify(dropped, signature)
    assert not verify(BODY | {"more": 1}, signature)


def test_a_change_of_any_character_invalidates_the_signature(signer: Signer) -> None:
    signature = signer.sign(BODY)
    for name, text in signature.items():
        for at in range(len(text)):
            for letter in {"A", "B", "0", "=", "\n"} - {text[at]}:
                assert not verify(BODY, signature | {name: text[:at] + letter + text[at + 1 :]})


def test_another_key_fails(signer: Signer, tmp_path: Path) -> None:
    other = Signer.load_or_create(tmp_path / "other.pem")
    theirs, ours = other.sign(BODY), signer.sign(BODY)
    assert verify(BODY, theirs)
    assert not signer.verify(BODY, theirs)
    assert not verify(BODY, theirs, key=signer.fingerprint)
    for name in ("key", "public_key", "signature"):
        assert not verify(BODY, ours | {name: theirs[name]})
    swapped = ours | {"key": theirs["key"], "public_key": theirs["public_key"]}
    assert not verify(BODY, swapped)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@given(_JSON, _JSON)
def test_malformed_input_is_not_a_signature(body: Any, signature: Any) -> None:
    assert not verify(body, signature)
    form = {"algorithm": "ed25519", "key": signature, "public_key": signature, "signature": signature}
    assert not verify(body, form)


def test_a_body_that_is_not_json_does_not_verify(signer: Signer) -> None:
    signature = signer.sign({})
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for body in ({"x": object()}, {"x": float("nan")}, {1: 2, "1": 3}, {"x": deep}, "text", None):
        assert not verify(body, signature)  # type: ignore[arg-type]
    while deep:
        deep = deep.pop()
    half = {"x": "\ud800"}
    assert verify(half, signer.sign(half))


def test_the_key_file_is_the_owners_only(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        path = tmp_path / "new" / "key.pem"
        made = Signer.load_or_create(path)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [file.name for file in path.parent.iterdir()] == ["key.pem"]
    assert path.read_text().startswith("-----BEGIN PRIVATE KEY-----")
    again = Signer.load_or_create(str(path))
    assert again.fingerprint == made.fingerprint
    assert len(made.fingerprint) == 32
    assert made.public_pem.startswith("-----BEGIN PUBLIC KEY-----")
    assert path.read_text().splitlines()[1] not in repr(made)


def test_processes_that_start_together_share_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = pool.map(lambda _: Signer.load_or_create(tmp_path / "deep" / "er" / "key.pem").fingerprint, range(16))
    assert len(set(made)) == 1


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Signer.load_or_create("~/key.pem")
    assert (tmp_path / "key.pem").exists()


@pytest.mark.parametrize(
    "content", [b"", b"no key", b"\xff\xfe", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_an_invalid_key_file_is_reported(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"does not contain a PEM private key.*key\.pem.*Next: "):
        Signer.load_or_create(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "options, said",
    [
        (["-algorithm", "x25519"], "not an ed25519 key"),
        (["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"], "not an ed25519 key"),
        (["-algorithm", "ed25519", "-aes256", "-pass", "pass:x"], "without a password"),
    ],
)
def test_a_key_of_another_type_is_reported(tmp_path: Path, options: list[str], said: str) -> None:
    path = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", *options, "-out", str(path)], check=True, capture_output=True)
    with pytest.raises(ConfigError, match=rf"{said}.*Next: "):
        Signer.load_or_create(path)


def test_openssl_checks_a_signature_and_makes_a_key(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(path)], check=True)
    signer = Signer.load_or_create(path)
    files = {"public": signer.public_pem.encode(), "body": b'{"a":[1,"\xc3\xbc"],"b":null}'}
    files["signature"] = base64.b64decode(signer.sign({"b": None, "a": (1, "ü")})["signature"])
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    check = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "public", "-rawin", "-in", "body"]
    done = subprocess.run([*check, "-sigfile", "signature"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_path_that_cannot_be_read_or_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path, tmp_path / "file" / "key.pem", tmp_path / "dangling", Path("/proc/no/key.pem")):
        with pytest.raises(ConfigError, match=r"cannot be read or created.*Next: "):
            Signer.load_or_create(path)


def test_an_unreadable_key_file_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key.pem"
    Signer.load_or_create(path)

    def denied(_: Path) -> bytes:  # root reads whatever the mode says
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(ConfigError, match=r"cannot be read or created: Permission denied.*key\.pem.*Next: "):
        Signer.load_or_create(path)


def test_a_certificate_says_that_short_references_were_not_searched_for() -> None:
    body = certificate("e", datetime(2026, 1, 1, tzinfo=UTC), [], {}, gallery_version=1, objects_scanned=1, residual_hits=0, short_references=2)  # fmt: skip
    first = body["residual_scan"]["not_searched"][0]
    assert first.startswith("2 subject reference(s) of fewer than 6 bytes")
    targets = Targets(Request.of(subjects=["010", "person-3"]), subjects={"010", "person-3"})
    assert targets.short_references() == {"010"}
    assert Targets(Request.of(subjects=["010"], purpose="p")).short_references() == set(), "its photos and name stay"
