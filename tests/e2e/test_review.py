"""A review session in a real browser: a wrong merge is split, and stays split in the next runs."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect, sync_playwright

from facelake.config import load_config
from facelake.lake.lake import Lake
from facelake.lake.lease import Lease
from facelake.nightly import writing
from facelake.stages.core.audit import audit_faults
from tests.conftest import FACELAKE
from tests.e2e.test_report import FLAGS
from tests.review_world import PURPOSE, World, identity_of_face, simulate_run, spoil

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
CONFLICT_MESSAGE = "Failed to load resource: the server responded with a status of 409 (Conflict)"


@contextmanager
def served(lake: Path) -> Iterator[str]:
    """Serve the page and yield the link that the command prints."""
    command = [*FACELAKE, "review", "--purpose", PURPOSE, "--reviewer", "eve", "--json", "--lake", str(lake)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()
        assert process.wait(30) == 0


def corrections(lake: Path) -> list[dict[str, Any]]:
    return sorted(Lake.open(str(lake))["corrections"].read().to_pylist(), key=lambda row: row["seq"])


def assert_accessible(page: Page, where: str) -> None:
    audit = Axe().run(page)
    assert audit.violations_count == 0, f"{where}\n{audit.generate_report()}"


def expect_status(page: Page, text: str) -> None:
    expect(page.locator("#status")).to_contain_text(text, timeout=20_000)


def wait_for_crops(page: Page) -> None:
    expect(page.locator("#work")).to_be_visible(timeout=20_000)
    loaded = "[...document.querySelectorAll('#columns .faces img')].filter(i => !(i.complete && i.naturalWidth === 192)).length"
    for _ in range(300):
        # images load lazily; in one call, since the page may draw the list again between two
        page.evaluate(
            "document.querySelectorAll('#columns .faces li:last-child').forEach(item => item.scrollIntoView())"
        )
        if page.evaluate(loaded) == 0:
            page.evaluate("document.getElementById('desk').scrollTo(0, 0)")
            return
        page.wait_for_timeout(100)
    raise AssertionError("some faces have no image")


def split_by_keyboard(page: Page, lake: Path, world: World) -> None:
    """Split the wrong merge by keyboard, and undo it."""
    parts = [set(world.of_person["person-1"]), set(world.of_person["person-2"])]
    page.keyboard.press("2")
    page.keyboard.press("Space")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    expect_status(page, "3 selected")
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    expect_status(page, "23 selected")
    page.keyboard.press("/")
    page.keyboard.type("two sisters?")
    page.keyboard.press("Enter")
    page.keyboard.press("s")
    expect_status(page, "Correction 1: 23 faces split off")
    [row] = corrections(lake)
    assert (row["kind"], row["reviewer"], row["reason"]) == ("split", "eve", "two sisters?")
    assert set(row["faces_b"]) in parts
    expect(page.locator("#queue-count")).to_contain_text("1 open of 2")
    page.keyboard.press("u")
    expect_status(page, "Correction 1 no longer counts")
    expect(page.locator("#queue-count")).to_contain_text("2 open of 2")


def split_by_mouse(page: Page, lake: Path) -> None:
    """Select faces with the lasso and as a range, and split them off."""
    tiles = page.locator("#faces-1 li")
    boxes = [tiles.nth(i).bounding_box() for i in (0, 1)]
    assert boxes[0]
    assert boxes[1]
    left, right = boxes[0]["x"] - 4, boxes[1]["x"] + boxes[1]["width"] + 4
    top, bottom = boxes[0]["y"] - 4, boxes[0]["y"] + boxes[0]["height"] + 3
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in ((right, top), (right, bottom), (left, bottom), (left, top)):
        page.mouse.move(x, y, steps=4)
    page.mouse.up()
    expect_status(page, "2 selected")
    page.keyboard.press("Escape")
    tiles.first.click()
    tiles.last.click(modifiers=["Shift"])
    expect_status(page, "23 selected")
    page.get_by_role("button", name="Split selected off").click()
    expect_status(page, "Correction 3: 23 faces split off")
    assert corrections(lake)[2]["reason"] == "these faces show another person"


def contradict(page: Page, lake: Path, world: World, folder: Path) -> None:
    """Answer during a run, answer, and contradict the answer."""
    page.keyboard.press("n")
    expect(page.locator("#question")).to_contain_text("one person or two")
    assert page.evaluate("location.hash") == "#same_person/" + "/".join(world.twins)
    wait_for_crops(page)
    assert_accessible(page, "pair")
    page.screenshot(path=folder / "review-pair.png")
    with Lease(Lake.open(str(lake)).store, "nightly"):
        page.keyboard.press("d")
        expect(page.locator("#alert")).to_contain_text("the lake is being written by process", timeout=20_000)
    assert len(corrections(lake)) == 3
    page.keyboard.press("d")
    expect_status(page, "Correction 4: different people")
    page.keyboard.press("m")
    dialog = page.locator("#contradiction")
    expect(dialog).to_be_visible(timeout=20_000)
    expect(dialog).to_contain_text("4: different people")
    expect(dialog).to_contain_text("“two different people” — eve")
    assert_accessible(page, "contradiction")
    page.screenshot(path=folder / "review-contradiction.png")
    page.get_by_role("button", name="Keep the earlier answer").click()
    expect_status(page, "nothing was recorded")
    assert [row["kind"] for row in corrections(lake)] == ["split", "undo", "split", "distinct"]


def check_layouts(page: Page, folder: Path) -> None:
    """Check accessibility and width in light and dark mode, wide and narrow; save screenshots."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        for name, size in (("wide", WIDE), ("phone", PHONE)):
            page.set_viewport_size(size)  # type: ignore[arg-type]
            assert_accessible(page, f"{scheme} {name}")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
            page.screenshot(path=folder / f"review-{scheme}-{name}.png")
    page.set_viewport_size(WIDE)  # type: ignore[arg-type]
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    assert_accessible(page, "help")
    page.keyboard.press("Escape")


def browse_identities(page: Page, folder: Path, world: World) -> None:
    """List the identities, search for one, look at its faces and why they are together, and go to its review."""
    page.set_viewport_size(WIDE)  # type: ignore[arg-type]
    page.keyboard.press("i")
    rows = page.locator("#identities button")
    expect(rows.first).to_contain_text(world.merged, timeout=20_000)
    expect(rows.first).to_have_attribute("data-identity", world.merged)
    expect(page.locator("#identity-count")).to_contain_text("identities listed")
    page.locator("#listing").select_option("subject")
    typed = page.get_by_role("textbox", name="Subject reference")
    typed.press_sequentially("<img src=x onerror=alert(1)>?")  # its letters are keys of answers elsewhere
    page.keyboard.press("Enter")
    expect(page.locator("#identity-count")).to_contain_text("No identity that may be shown", timeout=20_000)
    page.locator("#listing").select_option("identity")
    page.get_by_role("textbox", name="Identity id").fill(world.twins[0])
    page.get_by_role("button", name="Search").click()
    expect(rows).to_have_count(1, timeout=20_000)
    rows.first.click()
    expect(page.locator("#person-title")).to_have_text(world.twins[0], timeout=20_000)
    assert page.evaluate("location.hash") == f"#identity/{world.twins[0]}"
    faces = page.locator("#dated button")
    expect(faces.first.locator("img")).to_have_js_property("naturalWidth", 192, timeout=20_000)
    faces.last.click()
    expect(page.locator("#person-why-texts")).to_contain_text("weakest link", timeout=20_000)
    expect(page.locator("#person-why-path img").last).to_have_js_property("naturalWidth", 192, timeout=20_000)
    assert_accessible(page, "identity")
    page.screenshot(path=folder / "review-identity.png")
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.screenshot(path=folder / "review-identity-phone.png")
    page.set_viewport_size(WIDE)  # type: ignore[arg-type]
    page.evaluate(f"location.hash = '#identity/{world.merged}'")
    expect(page.locator("#person-title")).to_have_text(world.merged, timeout=20_000)
    page.get_by_role("button", name="Split, reject or confirm").click()
    wait_for_crops(page)
    assert page.evaluate("location.hash") == f"#two_people/{world.merged}"
    page.keyboard.press("i")
    expect(page.locator("#question-list")).to_be_visible()


def test_a_review_session(demo_lake: Path, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    assert chromium, "Chromium is missing: bash infra/test.sh installs it"
    world = spoil(demo_lake)
    requests: list[str] = []
    messages: list[str] = []
    with served(demo_lake) as link, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_context(viewport=WIDE).new_page()  # type: ignore[arg-type]
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.goto(link)
        wait_for_crops(page)
        assert page.evaluate("location.hash") == f"#two_people/{world.merged}"
        assert page.evaluate("document.cookie") == ""
        check_layouts(page, tmp_path)
        browse_identities(page, tmp_path, world)
        split_by_keyboard(page, demo_lake, world)
        split_by_mouse(page, demo_lake)
        contradict(page, demo_lake, world, tmp_path)
        assert_split_holds(demo_lake, world)
        page.keyboard.press("m")
        expect(page.locator("#banner")).to_contain_text("Gallery 4 was published", timeout=20_000)
        expect(page.locator("#who")).to_contain_text("gallery 4")
        page.reload()
        wait_for_crops(page)
        page.keyboard.press("m")
        page.get_by_role("button", name="Overrule it").click()
        expect_status(page, "It overrules 4.")
        assert [(row["kind"], row["undoes"]) for row in corrections(demo_lake)][3:] == [
            ("distinct", []),
            ("merge", [4]),
        ]
        page.locator("#faces-1 li").first.click()
        page.keyboard.press("x")  # with the focus on the face that was clicked
        expect_status(page, "1 face not a face")
        assert corrections(demo_lake)[-1]["kind"] == "not_a_face"
        other = browser.new_page()
        other.goto(link)
        expect(other.locator("#alert")).to_contain_text("already used", timeout=20_000)
        browser.close()
    ours = urlsplit(link).netloc
    # crops are fetched with the page's token and shown from memory
    assert {urlsplit(url.removeprefix("blob:")).netloc for url in requests} == {ours}
    assert any(url.startswith("blob:") for url in requests)
    assert "ticket" not in "".join(requests)
    assert messages == [CONFLICT_MESSAGE] * 4
    assert audit_faults(Lake.open(str(demo_lake))) == []


def assert_split_holds(lake: Path, world: World) -> None:
    """Simulate two runs with the same wrong groups as the first."""
    for shift, person in ((10, "person-8"), (20, "person-7")):
        with writing(load_config(lake=str(lake)), "test") as context:
            simulate_run(context, world.of_person, shift, world.of_person[person][0])
            home = identity_of_face(context)
            asked = context.lake["reviews"].read(["identity_id", "other_id"]).to_pylist()
        identities = {name: {home[face] for face in faces if face in home} for name, faces in world.of_person.items()}
        assert len(identities["person-1"]) == len(identities["person-2"]) == 1
        assert identities["person-1"] != identities["person-2"]
        decided = identities["person-1"] | identities["person-2"]
        assert all({row["identity_id"], row["other_id"]} != decided for row in asked), "asked about once"
        assert len(identities["person-3"]) == 2
