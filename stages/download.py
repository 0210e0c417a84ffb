"""Getting the videos: from YouTube, any http address, or the user's own disk; whole and probed, or a reason."""

import errno
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import stages
from fitting.files import sha256_of
from stages.media.fetch import Answer, Request, classify
from stages.media.probe import Probe, probe
from stages.stage import Failure, Key, Reason, Resources, check_settings, setting
from stages.tables import Manifest, Table, Videos

YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_YOUTUBE_HOST = re.compile(r"https?://([a-z0-9-]+\.)*(youtube(-nocookie)?\.com|youtu\.be)(:\d+)?/", re.IGNORECASE)
_PAUSE_LONGEST_S = 3600.0
"""YouTube limits a guest's session for up to an hour (yt-dlp wiki, Extractors)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """Fetch a video as it is offered, video only where possible; a file of the user's own is used where it lies."""

    name: ClassVar[str] = "download"
    version: ClassVar[int] = 1
    key: ClassVar[Key] = "video"
    reads: ClassVar[tuple[type, ...]] = (Manifest,)
    writes: ClassVar[type[Table]] = Videos
    detector: ClassVar[str] = ""
    resources: ClassVar[Resources] = Resources(cpus=0.1, lane="egress", limit_s=6 * 3600)

    default_lines: int = setting(1080, least=1)
    """Wanted shorter side in pixels where the manifest does not say. Ours: most of WHIM's videos."""
    folder: Path = setting(Path("media"), identity=False)  # noqa: RUF009  a constant
    """Where downloaded files lie."""
    attempts: int = setting(5, least=1, identity=False)
    """Tries of one video within a run, when the network or the server fails."""
    backoff_s: float = setting(5.0, least=0, identity=False)
    """Wait after the first failed try, in seconds; doubled each time, and up to half as much again by chance."""
    attempt_limit_s: float = setting(3600.0, above=0, identity=False)
    """Wall-clock limit of one try, in seconds; what has arrived by then is kept and the next try goes on from it."""
    socket_timeout_s: float = setting(20.0, above=0, identity=False)
    """A connection silent for so long is given up, in seconds."""
    youtube_per_hour: float = setting(250.0, above=0, identity=False)
    """YouTube videos an hour and address. A guest's session is stopped at about 300 (yt-dlp wiki, Extractors)."""
    youtube_sleep_s: float = setting(5.0, least=0, identity=False)
    """Least wait between two YouTube videos, in seconds, up to twice that by chance. The wiki advises 5 to 10."""
    youtube_pause_s: float = setting(600.0, least=0, identity=False)
    """Wait when YouTube refuses this address, in seconds; doubled each time, an hour at most."""
    youtube_pauses: int = setting(3, least=0, identity=False)
    """Refusals of one video after which it is left for the next run."""
    cookies_file: str = setting("", identity=False)
    """Netscape cookies of an account that may see the videos. YouTube may ban an account used so."""
    proxy: str = setting("", identity=False)
    """Address of a proxy, e.g. socks5://host:1080."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.cookies_file and not Path(self.cookies_file).is_file():
            raise ValueError(f"download.cookies_file {self.cookies_file} is not there")

    @property
    def weights(self) -> Mapping[str, str]:
        """No model files."""
        return {}

    def build(self) -> Callable[[Manifest], Videos | Failure]:
        return partial(download, settings=self, lane=Lane(self.youtube_per_hour, self.youtube_sleep_s))


@dataclass(slots=True)
class Lane:
    """The pace of one address at YouTube: a bucket of tokens that fills steadily, and a wait by chance between videos."""

    per_hour: float
    sleep_s: float
    tokens: float = 10.0
    filled_at: float = field(default_factory=time.monotonic)

    def wait(self) -> None:
        """Sleep until the next video may be asked for."""
        time.sleep(self.sleep_s * random.uniform(1, 2))
        now = time.monotonic()
        self.tokens = min(10.0, self.tokens + (now - self.filled_at) * self.per_hour / 3600)
        self.filled_at = now
        self.tokens -= 1
        time.sleep(max(0.0, -self.tokens * 3600 / self.per_hour))


def download(manifest: Manifest, settings: Download, lane: Lane) -> Videos | Failure:
    """The video of a one-row manifest as a file that is whole and can be decoded, or the reason why there is none."""
    source = str(manifest.source[0])
    if source.startswith(("http://", "https://")):
        return _from_web(manifest, source, settings, lane)
    if Path(source).is_absolute():
        found = probe(Path(source))
        return found if isinstance(found, Failure) else _videos(manifest, Path(source), found, sha256_of(Path(source)), {}, "")
    if YOUTUBE_ID.fullmatch(source):
        return _from_web(manifest, f"https://www.youtube.com/watch?v={source}", settings, lane)
    return Failure(Reason.MALFORMED_ID, f"{source!r} is no YouTube id (11 of A-Z a-z 0-9 _ -), http address or absolute path")


def _from_web(manifest: Manifest, url: str, settings: Download, lane: Lane) -> Videos | Failure:
    """Fetch, probe, and only then give the file its final name: what has one is whole."""
    video, folder = str(manifest.video[0]), settings.folder.absolute()
    request = Request(
        url=url,
        folder=str(folder / "incoming" / video),
        stem=video,
        lines=int(min(manifest.width[0], manifest.height[0])) or int(manifest.height[0]) or settings.default_lines,
        frames_per_second=float(manifest.frames_per_second[0]),
        socket_timeout_s=settings.socket_timeout_s,
        cookies_file=settings.cookies_file,
        proxy=settings.proxy,
    )
    wish = {"url": url, "lines": request.lines, "frames_per_second": request.frames_per_second}
    note = folder / f"{video}.info.json"
    kept = _kept(note, wish)
    if kept is None:
        Path(request.folder).mkdir(parents=True, exist_ok=True)
        answer = _fetch_patiently(request, settings, lane if _YOUTUBE_HOST.match(url) else None)
        if isinstance(answer, Failure):
            return answer
        arrived = Path(answer.path)
        found = probe(arrived)
        if isinstance(found, Failure):
            shutil.rmtree(request.folder)
            return Failure(found.reason, f"{url} gave {arrived.stat().st_size if arrived.exists() else 0} bytes: {found.message}")
        kept = {"wish": wish, "file": arrived.name, "sha256": sha256_of(arrived), "size_bytes": arrived.stat().st_size}
        kept |= {"tool": answer.tool, "info": answer.info}
        aside = Path(request.folder) / "info.json"
        aside.write_text(json.dumps(kept, indent=1, ensure_ascii=False))
        aside.replace(note)  # first: a note without its file is ignored, a file without its note would be fetched again
        arrived.replace(folder / arrived.name)
    shutil.rmtree(request.folder, ignore_errors=True)
    path = folder / kept["file"]
    found = probe(path)
    return found if isinstance(found, Failure) else _videos(manifest, path, found, kept["sha256"], kept["info"], kept["tool"])


def _kept(note: Path, wish: dict[str, Any]) -> dict[str, Any] | None:
    """What an earlier run noted beside a whole file of the same wish; None when the file must be fetched."""
    if not note.exists():
        return None
    kept: dict[str, Any] = json.loads(note.read_text())
    path = note.parent / kept["file"]
    return kept if kept["wish"] == wish and path.exists() and path.stat().st_size == kept["size_bytes"] else None


def _fetch_patiently(request: Request, settings: Download, lane: Lane | None) -> Answer | Failure:
    """Try until it is here or there is no use. yt-dlp itself gives up at the first 4xx or 5xx answer."""
    failed, refused = 0, 0
    while True:
        if lane:
            lane.wait()
        answer = _attempt(request, settings.attempt_limit_s)
        if isinstance(answer, Answer) and answer.path:
            return answer
        failure = answer if isinstance(answer, Failure) else classify(answer.message, answer.warnings)
        if "No space left" in failure.message:
            raise OSError(errno.ENOSPC, failure.message, request.folder)
        tried = f"after {failed + refused + 1} tries"
        if failure.reason == Reason.BLOCKED and lane and refused < settings.youtube_pauses:
            time.sleep(min(settings.youtube_pause_s * 2**refused, _PAUSE_LONGEST_S))
            refused += 1
        elif _worth_retrying(failure) and failed + 1 < settings.attempts:
            time.sleep(settings.backoff_s * 2**failed * random.uniform(1, 1.5))
            failed += 1
        else:
            return Failure(failure.reason, f"{request.url}: {failure.message} ({tried})", failure.permanent)


def _worth_retrying(failure: Failure) -> bool:
    return failure.reason in (Reason.TRANSIENT, Reason.TIMEOUT) or "HTTP Error 429" in failure.message


def _attempt(request: Request, limit_s: float) -> Answer | Failure:
    """One run of yt-dlp in a process of its own, killed with all it started at the limit."""
    root = str(Path(stages.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "stages.media.fetch", json.dumps(asdict(request))]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=out, stderr=errors, env=environment, start_new_session=True, text=True
        )
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return Failure(Reason.TIMEOUT, f"not here within {limit_s:g} s; the next try goes on from what has arrived", permanent=False)
        finally:
            _end(process)
        out.seek(0)
        errors.seek(0)
        lines = out.read().splitlines()
        if process.returncode or not lines:
            return Failure(Reason.TRANSIENT, f"yt-dlp's process ended with {process.returncode}: {errors.read()[-1500:]}", permanent=False)
    return Answer(**json.loads(lines[-1]))


def _end(process: "subprocess.Popen[str]") -> None:
    """Kill a process with its children (yt-dlp starts a JavaScript runtime); nothing happens when it is over."""
    if process.poll() is None:
        os.killpg(process.pid, 9)
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


def _videos(manifest: Manifest, path: Path, found: Probe, sha256: str, info: dict[str, Any], tool: str) -> Videos:
    def text(value: object) -> np.ndarray:
        return np.array(["" if value is None else str(value)], object)

    return Videos(
        video=manifest.video,
        path=text(path),
        source=manifest.source,
        sha256=text(sha256),
        size_bytes=np.array([path.stat().st_size]),
        codec=text(found.codec),
        pixel_format=text(found.pixel_format),
        format_id=text(info.get("format_id")),
        width=np.array([found.width], np.int32),
        height=np.array([found.height], np.int32),
        frames_per_second=np.array([found.frames_per_second]),
        duration_s=np.array([found.duration_s]),
        rotation_deg=np.array([found.rotation_deg], np.int32),
        licence=text(info.get("license")),
        channel=text(info.get("channel") or info.get("uploader")),
        title=text(info.get("title")),
        upload_date=text(info.get("upload_date")),
        tool=text(tool),
    )
