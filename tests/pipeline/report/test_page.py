"""The report: complete, self-contained, within its budget, honest about what is missing, and something to look at."""

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import whim
from hands.drawing.hands import SIDE_COLOURS, View, around, whole
from pipeline.report.overview import Overview
from pipeline.report.page import _clock, write_report
from pipeline.report.pictures import draw_fits
from stages.media.frames import read_frames
from stages.pack import ClipTables
from tests.small_tables import REASONS, clip_row, render_video, source_of, video_row, write_tables

STATUS = [
    {"stage": "download", "state": "done", "reason": "", "count": 2, "advice": ""},
    {"stage": "download", "state": "failed", "reason": "gone <1>", "count": 1, "advice": "remove the line & go on"},
    {"stage": "fit", "state": "pending", "reason": "new", "count": 3, "advice": ""},
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[ClipTables]:
    folder = tmp_path_factory.mktemp("videos")
    sizes = {"wide": (480, 270), "tall": (180, 320)}
    videos = [
        video_row(render_video(folder / f"{name}.mp4", width=w, height=h, seed=w), name, width=w, height=h)
        for name, (w, h) in sizes.items()
    ]
    return [source_of(video, clip_row(video.video[0]), seed=i) for i, video in enumerate(videos)]


@pytest.fixture(scope="module")
def root(sources: list[ClipTables], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_tables(folder, sources)
    return folder


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    write_report(root, root / "report.html", overview=Overview(status=STATUS), title="A <test> run")
    return (root / "report.html").read_text()


def images(page: str) -> list[bytes]:
    return [base64.b64decode(data) for data in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)]


def test_the_page_loads_nothing_from_elsewhere(page: str) -> None:
    addresses = re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', page)
    assert addresses
    assert all(a.startswith(("data:image/jpeg;base64,", "#")) for a in addresses)
    assert not re.search(r"url\(|@import|<script|<link|https?://", page)


def test_the_page_is_well_formed_and_escapes_what_it_was_given(page: str) -> None:
    class Balanced(HTMLParser):
        stack: ClassVar[list[str]] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "img", "br"):
                self.stack.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag not in ("rect", "line"):
                while self.stack[-1] in ("rect", "line") and tag not in ("rect", "line"):
                    self.stack.pop()
                assert self.stack.pop() == tag

    parser = Balanced()
    parser.feed(page)
    assert "A &lt;test&gt; run" in page
    assert "gone &lt;1&gt;" in page
    assert "remove the line &amp; go on" in page


def test_the_page_says_what_ran_and_what_was_found(page: str, sources: list[ClipTables]) -> None:
    num_hands = sum(len(s.hands) for s in sources)
    num_kept = sum(int(s.reviews.keep.sum()) for s in sources)
    assert f"<b>{num_hands}</b><span>hands found" in page
    assert f"<b>{num_kept}</b><span>hands kept" in page
    assert "2 of 6 parts are done; 3 pending, 1 failed" in page
    for reason in REASONS:
        count = sum(int((s.reviews.reason == reason).sum()) for s in sources)
        assert f"<code>{reason}</code><small>{count} hand" in page
    assert all(title in page for title in ("Quality", "Score", "Fit error", "Hand size", "Side of kept hands", "Hands by video"))


def test_best_come_first_and_no_kept_hand_is_shown_twice(page: str, sources: list[ClipTables]) -> None:
    section = page[page.index('id="best"') : page.index('id="run"')]
    best = max(float(s.reviews.quality[s.reviews.keep].max()) for s in sources)
    shown = [float(q) for q in re.findall(r"quality <b>([\d.]+)</b>", section)]
    assert shown[0] == round(best, 2)
    assert {"wide", "tall"} <= set(re.findall(r'<b title="(\w+)">', section))
    kept = page[page.index('id="best"') : page.index('id="dropped"')]
    where = re.findall(r'chip (left|right)">.*?<b title="(\w+)">.*?frame (\d+)', kept)
    assert len(where) == len(set(where))


def test_every_reason_shows_dropped_hands(page: str) -> None:
    section = page[page.index('id="dropped"') : page.index('id="videos"')]
    for group in section.split("<h3>")[1:]:
        assert 1 <= group.count('class="card"') <= 3
        assert group.count("data:image/jpeg") == 2 * group.count('class="card"')


def test_pictures_keep_to_their_budget(root: Path, page: str, tmp_path: Path) -> None:
    write_report(root, tmp_path / "small.html", budget_bytes=200_000)
    small = (tmp_path / "small.html").read_text()
    assert len(images(small)) == len(images(page))
    assert sum(map(len, re.findall(r'src="data:[^"]+"', small))) <= 200_000 < sum(map(len, re.findall(r'src="data:[^"]+"', page)))


def test_the_same_tables_give_the_same_page(root: Path, page: str, tmp_path: Path) -> None:
    write_report(root, tmp_path / "again.html", overview=Overview(status=STATUS), title="A <test> run")
    assert (tmp_path / "again.html").read_text() == page


def test_an_unfinished_run_has_a_report(sources: list[ClipTables], tmp_path: Path) -> None:
    write_report(tmp_path, tmp_path / "empty.html")
    assert "None yet." in (tmp_path / "empty.html").read_text()
    write_tables(tmp_path, sources)
    (tmp_path / "fits" / "wide-0000.parquet").unlink()
    (tmp_path / "reviews" / "wide-0000.parquet").unlink()
    write_report(tmp_path, tmp_path / "half.html")
    half = (tmp_path / "half.html").read_text()
    assert f"{len(sources[0].hands)} wait" in half
    assert "<code>not_reviewed</code>" not in half
    assert f"<b>{sum(len(s.hands) for s in sources)}</b><span>hands found" in half


def test_a_video_that_is_gone_leaves_a_note(sources: list[ClipTables], tmp_path: Path) -> None:
    gone = [s for s in sources if s.videos.video[0] == "wide"]
    write_tables(tmp_path, gone)
    kept = Path(gone[0].videos.path[0])
    aside = kept.rename(kept.with_suffix(".aside"))
    try:
        write_report(tmp_path, tmp_path / "report.html")
    finally:
        aside.rename(kept)
    page = (tmp_path / "report.html").read_text()
    assert "can no longer be read" in page
    assert not images(page)


def test_a_damaged_part_is_named_and_the_rest_is_shown(sources: list[ClipTables], tmp_path: Path) -> None:
    for table, name in (("videos", "wide"), ("clips", "wide"), ("fits", "wide-0000")):
        root = tmp_path / table
        write_tables(root, sources)
        (root / "shards").mkdir()
        (root / "shards/index.json").write_text('{"shards": [1]}')
        part = root / table / f"{name}.parquet"
        part.write_bytes(part.read_bytes()[:-40])
        write_report(root, root / "report.html")
        page = (root / "report.html").read_text()
        assert f"{part} is corrupt" in page[page.index("What is damaged") : page.index('id="best"')]
        assert f"<b>{len(sources[1].hands)}</b><span>hands found" in page
        assert "tall" in page


def test_the_mesh_lies_on_the_keypoints_in_every_view(sources: list[ClipTables]) -> None:
    source = sources[0]
    image = np.zeros_like(next(read_frames(Path(source.videos.path[0]), source.clips)).images[0])
    one = slice(0, 1)
    hands, fits, reviews = source.hands.take(one), source.fits.take(one), source.reviews.take(one)
    colour = np.array(SIDE_COLOURS[hands.side[0]], float)
    for view in (whole(image, 270), whole(image, 540), around(image, hands.box[0], 300)):
        blank = hands.keypoints * 0
        drawn = draw_fits(image, type(hands)(**{**vars(hands), "keypoints": blank}), fits, reviews, view).astype(float)
        hue = (drawn @ colour) / (np.linalg.norm(drawn, axis=2) * np.linalg.norm(colour) + 1e-9)
        rows, columns = np.nonzero((hue > 0.99) & (drawn.sum(2) > 60))
        low, high = view.points(fits.box[0].reshape(2, 2))
        np.testing.assert_allclose([columns.min(), rows.min()], low, atol=3 * view.scale)
        np.testing.assert_allclose([columns.max(), rows.max()], high, atol=3 * view.scale)


def test_a_view_keeps_places(sources: list[ClipTables]) -> None:
    view = View(region=(10, 20, 60, 70), height=100)
    assert view.scale == 2
    np.testing.assert_allclose(view.points(np.array([[10.0, 20.0], [59.0, 69.0]])), [[0.5, 0.5], [98.5, 98.5]])


def test_chromium_shows_the_page(root: Path, page: str, tmp_path: Path) -> None:
    import cv2

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium: apt-get install chromium")
    for name, width in (("desktop", 1280), ("phone", 500)):
        shot = tmp_path / f"{name}.png"
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}"]
        command += [f"--window-size={width},1800", f"--screenshot={shot}", (root / "report.html").as_uri()]
        subprocess.run(command, check=True, capture_output=True)
        picture = cv2.imread(str(shot))
        assert picture is not None
        assert picture.shape[:2] == (1800, width)
        saturation = cv2.cvtColor(picture, cv2.COLOR_BGR2HSV)[..., 1]
        assert (saturation > 90).mean() > 0.05  # the pictures are there
        edges = cv2.Canny(picture, 80, 160)
        assert (edges[:250] > 0).mean() > 0.005  # and so is the heading
        assert np.ptp(picture[:, -6:].reshape(-1, 3), axis=0).max() < 40  # nothing hangs over the right edge


def test_the_page_answers_what_a_person_asks_first(tmp_path: Path) -> None:
    """Two good videos, one of them twice, a broken one and one that is nowhere: all of it by a real run."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("one", "two"):
        render_video(folder / f"{name}.mp4", width=160, height=120, seed=len(name), num_frames=4)
    (folder / "broken.mp4").write_bytes((folder / "one.mp4").read_bytes()[:900])
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{folder / name}.mp4\n" for name in ("one", "two", "broken")) + f"{tmp_path}/nowhere.mp4\n")
    data = tmp_path / "data"
    assert whim.main(["run", "-q", "--local", "--recipe", "fast", "--videos", str(listed), "--data", str(data)]) == 2
    assert whim.main(["report", "-q", "--data", str(data)]) == 0
    page = (data / "report.html").read_text()
    assert "2 of the 4 videos of the list are here (50 %)" in page
    failed = page[page.index("What failed") : page.index('id="best"')]
    assert "correct the path in the manifest" in failed
    assert "fetch the file again" in failed
    assert f"{tmp_path}/nowhere.mp4" in failed
    assert "2 videos have no hand that was kept" in page
    bad = {
        data / "videos/one.parquet": b"nothing",
        data / "shards/index.json": b'{"shards": [1]}',
        data / "left_out.json": b'{"files": [1]}',
    }
    for path, content in bad.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    assert whim.main(["report", "-q", "--data", str(data)]) == 0
    page = (data / "report.html").read_text()
    assert all(f"{path} is corrupt" in page for path in bad)
    assert "1 videos have no hand that was kept" in page


def test_files_that_were_not_taken_stand_in_the_page_with_why(tmp_path: Path) -> None:
    folder, data = tmp_path / "videos", tmp_path / "data"
    folder.mkdir()
    for name in ("empty.mp4", "._one.mkv", "notes <1>.txt"):
        (folder / name).touch()
    words = ["-q", "--local", "--recipe", "fast", "--until", "download"]
    assert whim.main(["run", *words, "--videos", str(folder), "--data", str(data)]) == whim.ITEMS_FAILED
    assert whim.main(["report", "-q", "--data", str(data)]) == whim.DONE
    page = (data / "report.html").read_text()
    assert "<summary>2 files beside the videos were not taken</summary>" in page
    assert f"<li>{folder}/._one.mkv: hidden</li>" in page
    assert f"<li>{folder}/notes &lt;1&gt;.txt: no video by its name and content</li>" in page


def test_a_moment_is_told_by_whole_minutes_and_seconds_below_sixty() -> None:
    told = {_clock(time_s, tenths=True) for time_s in (59.94, 59.96, 3599.96)} | {_clock(59.6), _clock(7.4)}
    assert told == {"0:59.9", "1:00.0", "1:00:00.0", "1:00", "0:07"}
