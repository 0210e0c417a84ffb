"""The page in a real browser, on a real run: seen, filtered, judged by keys alone; what was judged is in the shard after the next run."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.browse.server import Served
from pipeline.engine.store import Store
from pipeline.report.page import write_report
from stages.tables import Hands, Reviews
from tests.pipeline.browse.conftest import serving
from tests.pipeline.browse.small_run import run_again, with_refused

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
CLIP = "asl_bird-0000"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


class Reader:
    """Somebody before the page, who has a keyboard."""

    def __init__(self, browser: Any, address: str, width: int = 1280, scheme: str = "light") -> None:
        self.address = address
        self.page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
        self.page.set_default_timeout(60_000)
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda said: self.faults.append(said.text) if said.type == "error" else None)

    def open(self, view: str = "hands", **state: Any) -> Any:
        """A view, loaded anew."""
        self.page.goto("about:blank")
        where = "&".join(f"{name}={value}" for name, value in state.items())
        self.page.goto(f"{self.address}#view={view}&{where}")
        return self.shown(view)

    def shown(self, view: str) -> Any:
        """The page, once a view stands; the next one is waited for anew."""
        self.page.wait_for_selector(f"body[data-ready^={view}]")
        self.page.evaluate("delete document.body.dataset.ready")
        return self.page

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def told(self, text: str) -> None:
        """Wait for a line of the page's status, and forget it."""
        self.page.wait_for_function("text => document.getElementById('status').textContent.includes(text)", arg=text)
        self.page.evaluate("document.getElementById('status').textContent = ''")

    def labels(self) -> list[str]:
        found: list[str] = self.page.eval_on_selector_all(".tile", "tiles => tiles.map(tile => tile.getAttribute('aria-label'))")
        return found

    def focused(self) -> str:
        return str(self.page.evaluate("document.activeElement.getAttribute('aria-label')"))


def hands_in_shard(data: Path) -> dict[tuple[str, int], dict[str, Any]]:
    (shard,) = (data / "shards").glob("*/*.parquet")
    rows = pq.read_table(shard, columns=["video", "frame", "hands"]).to_pylist()
    return {(f"{row['video']}/{row['frame']}", hand["hand"]): hand for row in rows for hand in row["hands"]}


def test_hands_are_judged_by_keys_alone_and_the_shard_changes_so_and_nothing_else(browser: Any, served: Served, data: Path) -> None:
    hands, before = Store(data).read(Hands, "hands", CLIP), hands_in_shard(data)
    reader = Reader(browser, served.address)
    page = reader.open()
    assert page.locator("#count").inner_text() == f"{len(Store(data).read(Hands, 'hands', 'asl_milk-0000')) + len(hands)} hands"
    reader.press("/")
    page.keyboard.type("side = right and video = 'asl_bird'")
    reader.press("Enter")
    reader.shown("hands")
    right = np.flatnonzero(hands.side == 1)
    names = [f"right hand {hands.hand[row]} of asl_bird, frame {hands.frame[row]}" for row in right]
    assert reader.labels() == names
    reader.press("Tab")
    page.locator(".tile").first.focus()
    reader.press("ArrowRight")
    assert reader.focused() == names[1]
    reader.press("r")
    reader.told("Reject: 1 hand")
    assert reader.labels()[1] == f"{names[1]}, rejected"
    reader.press("ArrowRight", " ", "Shift+ArrowRight")  # two at once
    reader.press("w")
    reader.told("Wrong landmarks: 2 hands")
    reader.press("u")
    reader.told("undone")
    assert [label for label in reader.labels() if "landmarks" in label] == []
    reader.press("Home", "Enter")
    reader.shown("frame")
    reader.press("s")
    reader.told("Swap side: 1 hand")
    assert page.locator("[aria-pressed=true]").first.inner_text().endswith("side: left")
    frames = sorted(set(hands.frame.tolist()))
    for frame in frames[1:3]:
        reader.press("ArrowRight")
        reader.shown("frame")
        assert f"frame {frame} " in page.locator("main p").first.inner_text()
    reader.press("b", "ArrowRight", "ArrowDown", "Enter")
    reader.told("box moved")
    reader.press("a", "s", "Shift+ArrowRight", "Enter")
    reader.told("added a left hand")
    reader.press("Escape")
    reader.shown("hands")
    reader.open("hands", where="verdict is not null")  # all of it was kept
    assert len(reader.labels()) == 3
    assert not reader.faults
    made = run_again(data)
    assert [key for stage, key in made if stage in ("fit", "review")] == [CLIP, CLIP]
    after = hands_in_shard(data)
    changed = {place for place in before.keys() | after.keys() if repr(before.get(place)) != repr(after.get(place))}
    rejected = (f"asl_bird/{hands.frame[right[1]]}", int(hands.hand[right[1]]))
    assert rejected not in after
    assert after[f"asl_bird/{hands.frame[right[0]]}", int(hands.hand[right[0]])]["side"] == 0
    (added,) = after.keys() - before.keys()
    assert (added[0], after[added]["side"], after[added]["sources"]) == (f"asl_bird/{frames[2]}", 0, ["person"])
    moved = [place for place in changed & after.keys() & before.keys() if before[place]["box"] != after[place]["box"]]
    assert [place[0] for place in moved] == [f"asl_bird/{frames[2]}"]
    assert {place[0].split("/")[0] for place in changed} == {"asl_bird"}  # the hands of a track share a fit; the other video is as it was
    kept = Store(data).read(Reviews, "reviews", CLIP)
    assert (kept.reason == "rejected").sum() == 1


def test_hands_are_shown_as_they_are_kept(browser: Any, served: Served) -> None:
    reader = Reader(browser, served.address)
    page = reader.open("hands", sort="quality", descending="1")
    page.wait_for_function("() => [...document.images].slice(0, 6).every(image => image.complete && image.naturalWidth === 144)")
    picture = cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.std() > 30
    page.get_by_role("button", name="left").first.click()
    reader.shown("hands")
    assert all(label.startswith("left") for label in reader.labels())
    page = reader.open("frame", video="asl_bird", frame=0, hand=0)
    for name in ("mesh", "sources", "people"):
        before = page.evaluate("document.querySelector('canvas.whole').toDataURL()")
        page.check(f"#layer-{name}")
        page.wait_for_function("before => document.querySelector('canvas.whole').toDataURL() !== before", arg=before)
    page.wait_for_selector("canvas.turn[data-yaw]")
    space = page.locator("canvas.turn")
    before = page.evaluate("document.querySelector('canvas.turn').toDataURL()")
    space.focus()
    reader.press("ArrowRight")
    assert page.evaluate("document.querySelector('canvas.turn').toDataURL()") != before
    painted = page.evaluate(
        "(() => { const c = document.querySelector('canvas.turn'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        " let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n / (c.width * c.height); })()"
    )
    assert 0.05 < painted < 0.9
    page = reader.open("poses")
    page.locator("canvas.map").hover()
    box = page.locator("canvas.map").bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] - 2)
    page.mouse.up()
    reader.shown("hands")
    assert "map_x between" in page.locator("#count").inner_text()
    assert len(reader.labels()) > 10
    assert not reader.faults


def test_a_bar_of_a_histogram_is_a_filter(browser: Any, untouched: tuple[Path, Served]) -> None:
    reader = Reader(browser, untouched[1].address)
    page = reader.open("hands", where="side = right")
    before = page.locator("#count").inner_text()
    tallest = page.locator(".spread").nth(0).locator("button:not([aria-disabled])").last
    label = tallest.get_attribute("aria-label")
    tallest.click()
    reader.shown("hands")
    condition, _, number = label.rpartition(": ")
    assert page.locator("#count").inner_text() == f"{number} where side = right and {condition.replace(', ', ' and ')}"
    pressed = page.locator(".spread button[aria-pressed=true]")
    pressed.wait_for()
    assert pressed.count() == 1
    pressed.focus()
    reader.press("Enter")  # off again
    reader.shown("hands")
    assert page.locator("#count").inner_text() == before
    page.go_back()
    reader.shown("hands")
    assert condition.split(", ")[0] in page.locator("#filter").input_value()
    page.locator(".spread").nth(1).locator("button[aria-pressed=false]").first.wait_for()
    page.locator(".spread").nth(1).locator("button").first.focus()
    reader.press("ArrowRight", "ArrowRight")
    assert reader.focused().startswith("score >= 0.1, score < 0.15: ")
    split = "text => import('/web/filter.js').then(filter => filter.conditions(text))"
    parts = ["video = 'salt and pepper'", "(keep or side = left)", "score between .1 and .2", "sources = 'o''or and'"]
    assert page.evaluate(split, " and ".join(parts)) == parts
    assert page.evaluate(split, "keep or side = left") == ["(keep or side = left)"]
    assert not reader.faults


def test_refused_candidates_are_looked_at_and_kept_by_keys(browser: Any, served: Served, data: Path) -> None:
    frame, _ = with_refused(data)
    reader = Reader(browser, served.address)
    page = reader.open()
    assert not [label for label in reader.labels() if label.startswith("refused")]
    page.get_by_role("button", name="weak 1", exact=True).first.click()
    reader.shown("hands")
    assert reader.labels() == [f"refused right hand of asl_bird, frame {frame}, weak"]
    assert page.locator("#count").inner_text() == "1 refused where refused and reason = 'weak'"
    page.locator(".tile").first.focus()
    reader.press("Enter")
    reader.shown("frame")
    assert page.locator("[aria-pressed=true]").first.inner_text() == "refused right (weak)"
    reader.press("r")
    reader.told("that was refused is no hand")
    reader.press("k")
    reader.told("Keep: 1 hand")
    assert page.locator("[aria-pressed=true]").first.inner_text() == "refused right (weak), added"
    reader.press("Escape")
    reader.shown("hands")
    assert reader.labels() == [f"refused right hand of asl_bird, frame {frame}, weak, added"]
    assert [fault for fault in reader.faults if "400" not in fault] == []


def test_the_report_opens_the_hands_of_its_bars(browser: Any, served: Served, data: Path) -> None:
    write_report(data, data / "report.html")
    reader = Reader(browser, served.address)
    page = reader.open()
    page.get_by_role("link", name="Report").click()
    bar = page.locator(".chart", has_text="Quality").first.locator("a.browse").last
    label = str(bar.locator("title").text_content())
    bar.click(force=True)
    reader.shown("hands")
    number = sum(map(int, re.findall(r"(\d+) (?:kept|dropped)", label)))
    assert page.locator("#count").inner_text().startswith(f"{number} hands where quality >= ")
    assert not reader.faults


def test_a_view_that_comes_late_is_not_shown_and_a_server_that_is_gone_is_named(
    browser: Any, untouched: tuple[Path, Served], tmp_path: Path
) -> None:
    data, served = untouched
    reader = Reader(browser, served.address)
    page = reader.open()
    held: list[Any] = []
    page.route("**/api/frame?*", lambda route: held.append(route))
    page.locator(".tile").first.focus()
    reader.press("Enter")
    page.wait_for_function("() => location.hash.includes('view=frame')")
    while not held:
        page.wait_for_timeout(50)
    page.go_back()
    reader.shown("hands")
    held[0].continue_()
    page.wait_for_timeout(1500)
    assert page.locator("canvas.whole").count() == 0
    assert len(reader.labels()) > 10
    with serving(data, tmp_path / "index.duckdb") as other:
        elsewhere = Reader(browser, other.address)
        elsewhere.open()
    elsewhere.press("r")
    elsewhere.told("whim browse does not answer any more")


def test_two_tabs_show_what_each_decides_and_a_reload_in_mid_edit_decides_nothing(browser: Any, served: Served, data: Path) -> None:
    one, other = (Reader(browser, served.address) for _ in range(2))
    page = one.open("frame", video="asl_bird", frame=0)
    other.open("hands", where="video = 'asl_bird'")
    other.press("ArrowRight", " ", "ArrowRight", " ")
    one.press("ArrowDown")
    chosen = page.locator("[aria-pressed=true]").first.inner_text()
    one.press("b", "ArrowRight")
    page.reload()
    one.shown("frame")
    assert page.locator("[aria-pressed=true]").first.inner_text() == chosen
    assert not (data / "verdicts").exists()
    one.press("b", "ArrowRight")
    edited = page.evaluate("document.querySelector('canvas.whole').toDataURL()")
    other.press("r")
    other.told("Reject: 2 hands")
    page.evaluate("window.dispatchEvent(new Event('focus'))")  # whoever comes back to a box that is being moved finds it so
    page.wait_for_timeout(500)
    assert page.evaluate("document.querySelector('canvas.whole').toDataURL()") == edited
    one.press("Escape", "r")
    one.told("Reject: 1 hand")
    other.press("Home", " ")
    other.page.evaluate("window.dispatchEvent(new Event('focus'))")
    other.page.wait_for_function(
        "() => [...document.querySelectorAll('.tile')].filter(t => t.textContent.includes('rejected')).length >= 2"
    )
    assert other.page.locator(".tile[aria-selected=true]").count() == 1
    other.press("u")
    other.told("undone: reject of a hand on frame 0 of asl_bird, by ann")
    other.press("u")
    other.told("undone: reject of 2 hands, the first on frame ")
    assert not [label for label in other.labels() if "rejected" in label]
    assert not one.faults + other.faults


def test_whoever_comes_back_after_a_new_numbering_has_chosen_no_other_hand(browser: Any, served: Served, data: Path) -> None:
    store = Store(data)
    hands = store.read(Hands, "hands", CLIP)
    frame = hands.frame[0]
    here = np.flatnonzero(hands.frame == frame)
    reader, opened = (Reader(browser, served.address) for _ in range(2))
    page = reader.open("hands", where=f"video = 'asl_bird' and frame = {frame}")
    page.locator(".tile").first.focus()
    reader.press(" ")
    in_frame = opened.open("frame", video="asl_bird", frame=frame, hand=hands.hand[here[0]])
    order = np.arange(len(hands))
    order[here] = here[::-1]
    store.commit("hands", CLIP, replace(hands.take(order), hand=hands.hand), store.made_by("hands", CLIP) or {})
    for one in (page, in_frame):
        one.evaluate("window.dispatchEvent(new Event('focus'))")
    other = hands.hand[here[-1]]
    in_frame.wait_for_selector(f"button[data-hand='{other}'][aria-pressed=true]")
    page.wait_for_function("() => !document.querySelector('.tile[aria-selected=true]')")
    assert not reader.faults + opened.faults


def test_an_audit_states_its_figures(browser: Any, served: Served) -> None:
    reader = Reader(browser, served.address)
    page = reader.open("audit")
    page.fill("#size", "5")
    reader.press("Enter")
    reader.shown("audit")
    for key, looked_at in (("k", 1), ("k", 2), ("s", 3), ("r", 4)):
        reader.press(key)
        page.wait_for_function("n => document.querySelector('main').innerText.includes(`; ${n} looked at`)", arg=looked_at)
    assert page.locator("#precision").inner_text() == "0.750 (0.301 to 0.954; 3 of 4)"
    assert page.locator("#side-accuracy").inner_text() == "0.667 (0.208 to 0.939; 2 of 3)"
    assert not reader.faults


def test_everybody_can_use_it_at_any_width(browser: Any, served: Served) -> None:
    """axe-core finds no serious fault, and nothing hangs over the edge."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-core: pip install axe-playwright-python").Axe()
    for width, scheme in ((1280, "light"), (390, "dark")):
        reader = Reader(browser, served.address, width, scheme)
        for view, state in (("hands", {}), ("frame", {"video": "asl_bird", "frame": 0}), ("poses", {}), ("audit", {}), ("history", {})):
            page = reader.open(view, **state)
            if view == "hands":
                page.wait_for_selector(".spread", state="attached")
                page.evaluate("document.querySelector('details').open = true")
            found = axe.run(page, options={"resultTypes": ["violations"]}).response["violations"]
            serious = [(one["id"], [node["html"][:120] for node in one["nodes"]][:3]) for one in found if one["impact"] != "minor"]
            assert not serious, (view, width, serious)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (view, width)
        page.evaluate("document.querySelector('main').append(document.createElement('input'))")  # it would find one
        assert "label" in [one["id"] for one in axe.run(page).response["violations"] if one["impact"] == "critical"]
        reader.press("?")
        assert page.locator("dialog[open]").count() == 1
        assert not reader.faults
