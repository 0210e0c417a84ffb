"""Download: real yt-dlp against a real HTTP server that behaves as servers do, and yt-dlp's recorded words."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stages.download import Download, Lane, _request, is_offered
from stages.stage import Failure, Reason
from stages.tables import Manifest, Videos
from stages.web.fetch import Request, classify

ROOT = Path(__file__).resolve().parents[2]
MESSAGES = [json.loads(line) for line in (ROOT / "tests/data/yt_dlp_messages.jsonl").read_text().splitlines()]


class Site(ThreadingHTTPServer):
    """A video site on loopback. The first part of a path says how it is served, e.g. /503x2/clip.mp4."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Visit)
        self.files = files
        self.visits: Counter[str] = Counter()
        self.ranges: list[str] = []
        self.sent_bytes = 0
        self.manners: dict[str, int] = {}
        """Refusals of a manner from now on."""

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"


class Visit(BaseHTTPRequestHandler):
    server: Site

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        manner, name = self.path.strip("/").split("/")
        self.server.visits[manner] += 1
        refusal = re.fullmatch(r"(\d{3})(?:x(\d+))?", manner)
        if manner in self.server.manners:
            self.send_error(self.server.manners[manner])
            return
        if refusal and self.server.visits[manner] <= int(refusal[2] or 1_000_000):
            self.send_error(int(refusal[1]))
            return
        body, start = self.server.files[name], 0
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and int(wanted[1]) and manner != "norange":
            start = int(wanted[1])
            self.server.ranges.append(manner)
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", "text/html" if manner == "page" else "video/mp4")
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        first_transfer = self.server.visits[manner] == 2  # visit 1 is yt-dlp's look at the headers
        self._send(body[start:], manner, first_transfer)

    def _send(self, body: bytes, manner: str, first_transfer: bool) -> None:
        stop = len(body) // 2 if manner in ("reset", "norange", "stall", "slow") and first_transfer else len(body)
        try:
            self.wfile.write(body[:stop])
            self.wfile.flush()
            self.server.sent_bytes += stop
            if stop < len(body) and manner in ("stall", "slow"):
                time.sleep(60)
        except OSError:
            return
        if stop < len(body):
            self.connection.close()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def site(media: Path) -> Iterator[Site]:
    files = {
        "clip.mp4": (media / "odd/fiveshots.mp4").read_bytes(),
        "html.mp4": (media / "broken/html_named.mp4").read_bytes() * 30,
        "sound.mp4": (media / "broken/audio_only_named.mp4").read_bytes(),
        "cut.mp4": (media / "broken/truncated_no_moov.mp4").read_bytes(),
    }
    server = Site(files)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def line(source: str, video: str = "v", height: int = 0) -> Manifest:
    def text(value: str) -> np.ndarray:
        return np.array([value], object)

    return Manifest.of(
        video=text(video),
        source=text(source),
        split=text("train"),
        frames_per_second=np.zeros(1),
        num_frames=np.zeros(1, np.int64),
        width=np.zeros(1, np.int32),
        height=np.full(1, height, np.int32),
    )


def settings(folder: Path, **changes: Any) -> Download:
    return replace(Download(folder=folder, backoff_s=0.05, attempts=2, socket_timeout_s=50), **changes)


def test_a_video_arrives_whole_with_its_checksum(site: Site, tmp_path: Path) -> None:
    videos = settings(tmp_path).build()(line(site.url("ok/clip.mp4"), video="-abc_DEF123"))
    assert isinstance(videos, Videos)
    assert Path(videos.path[0]) == tmp_path / "-abc_DEF123.mp4"
    assert Path(videos.path[0]).read_bytes() == site.files["clip.mp4"]
    assert videos.sha256[0] == hashlib.sha256(site.files["clip.mp4"]).hexdigest()
    assert (videos.width[0], videos.height[0], videos.frames_per_second[0], videos.codec[0]) == (640, 360, 25.0, "h264")
    assert videos.tool[0].startswith("yt-dlp 20")
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["-abc_DEF123.info.json", "-abc_DEF123.mp4"]


def test_a_video_may_have_the_bytes_that_its_length_allows(tmp_path: Path) -> None:
    def asked(num_frames: int, frames_per_second: float, **changes: Any) -> int:
        rate, length = np.full(1, frames_per_second), np.full(1, num_frames, np.int64)
        manifest = replace(line("http://host/clip.mp4"), num_frames=length, frames_per_second=rate)
        return _request(manifest, "http://host/clip.mp4", settings(tmp_path, **changes)).largest_bytes

    assert asked(24, 24.0) == 64 * 2**20 + 16_000_000
    assert asked(240, 24.0) == 64 * 2**20 + 160_000_000
    assert asked(24, 0.0) == 64 * 2**20 + 16_000_000, "an unknown rate counts as 24 a second"
    assert asked(24, 24.0, largest_bytes=1_000_000) == 1_000_000, "no more than the setting allows"
    assert asked(0, 24.0, largest_bytes=1 << 30) == 1 << 30, "nobody knows its length"


def test_a_second_run_asks_for_nothing(site: Site, tmp_path: Path) -> None:
    first = settings(tmp_path).build()(line(site.url("ok/clip.mp4")))
    visits = site.visits.total()
    second = settings(tmp_path).build()(line(site.url("ok/clip.mp4")))
    assert isinstance(first, Videos)
    assert isinstance(second, Videos)
    assert first.to_arrow().equals(second.to_arrow())
    assert site.visits.total() == visits
    (tmp_path / "v.mp4").unlink()
    assert isinstance(settings(tmp_path).build()(line(site.url("ok/clip.mp4"))), Videos)
    assert site.visits.total() > visits


@pytest.mark.parametrize(
    ("path", "reason", "permanent"),
    [
        ("404/clip.mp4", Reason.GONE, True),
        ("410/clip.mp4", Reason.GONE, True),
        ("403/clip.mp4", Reason.BLOCKED, False),
        ("429/clip.mp4", Reason.BLOCKED, False),
        ("503/clip.mp4", Reason.TRANSIENT, False),
        ("page/html.mp4", Reason.NOT_A_VIDEO, True),
        ("ok/html.mp4", Reason.NOT_A_VIDEO, True),
        ("ok/sound.mp4", Reason.NO_VIDEO_STREAM, True),
        ("ok/cut.mp4", Reason.BROKEN_FILE, True),
    ],
)
def test_refusals_have_their_reason(site: Site, tmp_path: Path, path: str, reason: Reason, permanent: bool) -> None:
    outcome = settings(tmp_path).build()(line(site.url(path)))
    assert isinstance(outcome, Failure)
    assert (outcome.reason, outcome.permanent) == (reason, permanent), outcome.message
    assert site.url(path) in outcome.message
    assert not list(tmp_path.glob("*.mp4"))
    tries = {Reason.TRANSIENT: 2, Reason.BLOCKED: 2 if "429" in path else 1}.get(reason, 1)
    assert path.startswith(("ok", "page")) or site.visits[path.split("/")[0]] == tries


@pytest.mark.parametrize("manner", ["503x1", "429x1"])
def test_a_server_that_recovers_is_tried_again(site: Site, tmp_path: Path, manner: str) -> None:
    assert isinstance(settings(tmp_path).build()(line(site.url(f"{manner}/clip.mp4"))), Videos)


@pytest.mark.parametrize("manner", ["reset", "stall"])
def test_a_broken_transfer_goes_on_where_it_stopped(site: Site, tmp_path: Path, manner: str) -> None:
    videos = settings(tmp_path, socket_timeout_s=5).build()(line(site.url(f"{manner}/clip.mp4")))
    assert isinstance(videos, Videos)
    assert videos.sha256[0] == hashlib.sha256(site.files["clip.mp4"]).hexdigest()
    assert site.ranges == [manner]


def test_a_server_without_ranges_gives_the_same_file(site: Site, tmp_path: Path) -> None:
    videos = settings(tmp_path).build()(line(site.url("norange/clip.mp4")))
    assert isinstance(videos, Videos)
    assert videos.sha256[0] == hashlib.sha256(site.files["clip.mp4"]).hexdigest()
    assert site.ranges == []


def test_a_try_over_its_limit_is_killed_and_the_next_run_resumes(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def clock() -> float:
        """An hour passes once something has arrived."""
        return 3601.0 if any((tmp_path / "incoming/v").glob("*.part")) else 0.0

    hasty = settings(tmp_path, attempts=1, attempt_limit_s=3600)
    monkeypatch.setattr("stages.web.attempt.time", SimpleNamespace(monotonic=clock))
    outcome = hasty.build()(line(site.url("slow/clip.mp4")))
    monkeypatch.undo()
    assert isinstance(outcome, Failure)
    assert (outcome.reason, outcome.permanent) == (Reason.TIMEOUT, False)
    assert isinstance(settings(tmp_path).build()(line(site.url("slow/clip.mp4"))), Videos)
    assert site.ranges == ["slow"]


def test_a_whole_file_of_a_killed_run_is_not_sent_again(site: Site, tmp_path: Path) -> None:
    incoming = tmp_path / "incoming/v"
    incoming.mkdir(parents=True)
    (incoming / "v.mp4").write_bytes(site.files["clip.mp4"])
    assert isinstance(settings(tmp_path).build()(line(site.url("ok/clip.mp4"))), Videos)
    assert site.visits["ok"] == 1


def test_the_fetching_process_loads_nothing_that_only_tables_need() -> None:
    code = "import sys, stages.web.fetch, stages.web.ytdlp; print(sorted({'numpy', 'pyarrow', 'jaxtyping'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout == "[]\n"


def test_the_fetching_process_dies_with_its_parent(site: Site, tmp_path: Path) -> None:
    parent_code = (
        "import sys, json; from stages.web.attempt import attempt; from stages.web.fetch import Request;"
        "attempt(Request(**json.loads(sys.argv[1])), 60)"
    )
    request = Request(url=site.url("slow/clip.mp4"), folder=str(tmp_path), stem="v", lines=360, frames_per_second=0, socket_timeout_s=50)
    parent = subprocess.Popen([sys.executable, "-c", parent_code, json.dumps(asdict(request))], cwd=ROOT)
    child = _wait_for(lambda: next(iter(_children(parent.pid)), None))
    _wait_for(lambda: site.visits["slow"] >= 2)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    _wait_for(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2])


def _children(pid: int) -> list[int]:
    stats = (p.read_text().rsplit(")", 1) for p in Path("/proc").glob("[0-9]*/stat") if p.exists())
    return [int(head.split()[0]) for head, tail in stats if int(tail.split()[1]) == pid]


def _wait_for(condition, limit_s: float = 120):  # type: ignore[no-untyped-def]
    end = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
    return value


@pytest.mark.parametrize("source", ["4x8XQAPC4Vk3cugR5eQA5s", "look_and_see", "ytsearch:hands", "ftp://example.org/a.mp4", ""])
def test_malformed_ids_are_settled_without_a_request(tmp_path: Path, source: str) -> None:
    outcome = settings(tmp_path).build()(line(source))
    assert isinstance(outcome, Failure)
    assert (outcome.reason, outcome.permanent) == (Reason.MALFORMED_ID, True)


def test_a_file_of_the_users_own_is_used_where_it_lies(media: Path, tmp_path: Path) -> None:
    path = media / "odd/rot90meta_learn.mp4"
    videos = settings(tmp_path).build()(line(str(path)))
    assert isinstance(videos, Videos)
    assert Path(videos.path[0]) == path
    assert videos.sha256[0] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (videos.width[0], videos.height[0], videos.rotation_deg[0]) == (640, 480, 270)
    assert not list(tmp_path.iterdir())
    missing = settings(tmp_path).build()(line(str(tmp_path / "none.mp4")))
    assert isinstance(missing, Failure)
    assert missing.reason == Reason.FILE_MISSING


@pytest.mark.parametrize("recorded", MESSAGES, ids=lambda recorded: recorded["reason"] + " " + recorded["message"][:40])
def test_recorded_messages_are_told_apart(recorded: dict) -> None:
    failure = classify(recorded["message"], recorded.get("warnings", []))
    assert (failure.reason, failure.permanent) == (recorded["reason"], recorded["permanent"])


def test_youtube_videos_are_paced(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = [0.0]
    monkeypatch.setattr("stages.download.time", SimpleNamespace(monotonic=lambda: sum(slept), sleep=slept.append))
    lane = Lane(per_hour=36_000, sleep_s=0.0, tokens=1.0, filled_at=0.0)
    for _ in range(6):
        lane.wait()
    assert sum(slept) == pytest.approx(5 * 3600 / 36_000), "the first finds its token, each other waits for one"


def test_whether_a_video_is_offered_is_asked_without_fetching_it(site: Site, tmp_path: Path) -> None:
    ask = is_offered(settings(tmp_path / "media"))
    assert ask(line(site.url("ok/clip.mp4"))) is None
    gone = ask(line(site.url("404/clip.mp4")))
    assert gone is not None
    assert (gone.reason, gone.permanent) == (Reason.GONE, True)
    assert not (tmp_path / "media").exists()


def test_every_proxy_is_a_lane_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    two = Download(proxies=("socks5://a:1", "socks5://b:1"))
    assert (two.resources.lanes, Download().resources.lanes, Download(lanes=3).resources.lanes) == (2, 1, 3)
    assert two.own_proxy == "socks5://a:1"
    monkeypatch.setenv("WHIM_LANE", "1")
    assert two.own_proxy == "socks5://b:1"
    assert Download(proxy="http://one:1").own_proxy == "http://one:1"


def test_a_worker_lives_as_long_as_all_tries_of_a_video_may_take() -> None:
    """It was killed after six hours, less than five tries of an hour with three pauses take, and the video given up for good."""
    assert Download().resources.limit_s > (5 + 3) * 3600 + 600 + 1200 + 2400
    patient = Download(attempt_limit_s=10 * 3600, attempts=2, youtube_pauses=0)
    assert 2 * patient.attempt_limit_s < patient.resources.limit_s < 3 * patient.attempt_limit_s


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"download\.attempts"):
        Download(attempts=0)
    with pytest.raises(ValueError, match=r"download\.cookies_file"):
        Download(cookies_file="/nowhere/cookies.txt")


@pytest.mark.parametrize(
    ("offered", "taken"),
    [
        (["1080avc", "720avc", "720avc60", "720vp9", "720av1", "720sound", "480avc"], "720avc"),
        (["1080avc", "720avc60", "720vp9", "720av1", "720sound", "480avc"], "720vp9"),
        (["1080avc", "720avc60", "720av1", "720sound", "480avc"], "720av1"),
        (["1080avc", "720avc60", "720sound", "480avc"], "720avc60"),
        (["1080avc", "480avc"], "480avc"),
        (["720sound"], "720sound"),
    ],
)
def test_the_stream_nearest_in_size_then_rate_then_codec_is_taken(tmp_path: Path, offered: list[str], taken: str) -> None:
    from yt_dlp import YoutubeDL

    from stages.web.fetch import _Log, _options

    request = Request(url="", folder=str(tmp_path), stem="v", lines=720, frames_per_second=29.97, socket_timeout_s=1)
    codecs = {"avc": "avc1.4d401f", "vp9": "vp9", "av1": "av01.0.05M.08", "sound": "avc1.64001F", "avc60": "avc1.4d4020"}
    formats = []
    for name in offered:
        lines, codec = re.fullmatch(r"(\d+)(\w+?\d*)", name).groups()  # type: ignore[union-attr]
        size = {"width": int(lines) * 16 // 9, "height": int(lines), "fps": 60 if codec == "avc60" else 30}
        sound = "mp4a.40.2" if codec == "sound" else "none"
        formats.append({"format_id": name, "url": f"http://x/{name}", "ext": "mp4", "vcodec": codecs[codec], "acodec": sound} | size)
    with YoutubeDL(_options(request, _Log())) as downloader:
        video = {"id": "v", "title": "", "extractor": "youtube", "extractor_key": "Youtube", "formats": formats}
        assert downloader.process_ie_result(video, download=False)["format_id"] == taken
