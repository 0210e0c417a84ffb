"""Getting the videos: from YouTube, any http address, or the user's own disk; whole and probed, or a reason."""

import errno
import json
import os
import random
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np

from fitting.files import sha256_of
from stages.digest import seal
from stages.media.probe import Probe, probe
from stages.media.sequence import DEFAULT_RATE, is_pattern, listing_digest, numbered, write_film
from stages.stage import Failure, Key, Reason, Resources, check_settings, setting
from stages.tables import Manifest, Table, Videos
from stages.web.address import hide_secrets, without_secrets
from stages.web.attempt import Pace, attempt
from stages.web.fetch import Answer, Request
from stages.web.note import kept_video
from stages.web.refusals import classify

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

    default_lines: int = setting(1080, least=1)
    """Wanted shorter side in pixels where the manifest does not say. Ours: most of WHIM's videos."""
    folder: Path = setting(Path("media"), identity=False)
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
    """Refusals of one video after which it is left for the next run; where the next video is refused as well, all others are."""
    cookies_file: str = setting("", identity=False)
    """Netscape cookies of an account that may see the videos. YouTube may ban an account used so."""
    proxy: str = setting("", identity=False)
    """Address of a proxy, e.g. socks5://host:1080. One with a password belongs in the environment: HTTPS_PROXY."""
    proxies: tuple[str, ...] = setting((), identity=False)
    """Proxies that each are an address of their own, instead of `proxy`: one lane each, at a pace of its own."""
    lanes: int = setting(1, least=1, identity=False)
    """Addresses that the cluster's nodes reach the web by, without `proxies`: so many videos are fetched at once. Nodes behind one router
    have one."""
    largest_bytes: int = setting(32 << 30, least=1, identity=False)
    """No file may have more bytes; where the manifest knows a video's length, 64 MiB and 16 MB for each second of it."""
    slowest_bytes_per_s: float = setting(10_000.0, least=0, identity=False)
    """A try that brings less for `slow_after_s` is given up; the next one goes on from what has arrived."""
    slow_after_s: float = setting(120.0, above=0, identity=False)
    """How long a try may bring less, in seconds. YouTube takes up to a minute before the first byte."""
    max_pixels: int = setting(1 << 26, least=1, identity=False)
    """A video whose images have more pixels is refused: 8192 x 8192; 8K has half as many. Memory grows with it."""
    private_hosts: tuple[str, ...] = setting((), identity=False)
    """Hosts of the inner network that an address may lead on to. Hosts that the list itself names need no mention."""
    plugins: bool = setting(False, identity=False)
    """Load yt-dlp's plugins of this user: code of others, which runs with this user's rights."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.cookies_file and not Path(self.cookies_file).is_file():
            raise ValueError(f"download.cookies_file {self.cookies_file} is not there")
        if "@" in self.proxy:
            raise ValueError("download.proxy has a user or password, which would be stored: set HTTPS_PROXY in the environment instead")
        if any("@" in proxy for proxy in self.proxies):
            raise ValueError("download.proxies has a user or password, which would be stored: name proxies here that log in to those")

    @property
    def resources(self) -> Resources:
        """Little of a core, and a lane for each address."""
        return Resources(cpus=0.1, lane="egress", lanes=len(self.proxies) or self.lanes, limit_s=self._longest_s)

    @property
    def _longest_s(self) -> float:
        """Longest time of one video in seconds: its tries, the waits between them, and an hour for what comes before and after."""
        pauses = sum(min(self.youtube_pause_s * 2 ** min(k, 30), _PAUSE_LONGEST_S) for k in range(self.youtube_pauses))
        backoffs = sum(1.5 * self.backoff_s * 2 ** min(k, 30) for k in range(self.attempts - 1))
        asked = self.attempts + self.youtube_pauses
        return asked * (self.attempt_limit_s + 2 * self.youtube_sleep_s + 3600 / self.youtube_per_hour) + pauses + backoffs + 3600

    @property
    def own_proxy(self) -> str:
        """The proxy of this process's lane (`WHIM_LANE`, which the engine sets)."""
        return self.proxies[int(os.environ.get("WHIM_LANE", "0")) % len(self.proxies)] if self.proxies else self.proxy

    @property
    def weights(self) -> Mapping[str, str]:
        """No model files."""
        return {}

    def build(self) -> Callable[[Manifest], Videos | Failure]:
        return partial(download, settings=self, lane=Lane(self.youtube_per_hour, self.youtube_sleep_s))


@dataclass(slots=True)
class Lane:
    """The pace of one address at YouTube: a bucket of tokens that fills steadily, a wait by chance between videos, and an end where
    the address is refused though it waited."""

    per_hour: float
    sleep_s: float
    refused: int = 0
    """Videos in a row that were refused to the last pause: behind the first the next one is asked for once, and none after it."""
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
    if is_pattern(source):
        return _from_images(manifest, Path(source), settings)
    if Path(source).is_absolute():
        found = probe(Path(source), settings.max_pixels, images=True)
        return found if isinstance(found, Failure) else _videos(manifest, Path(source), found, sha256_of(Path(source)), {}, "")
    if YOUTUBE_ID.fullmatch(source):
        return _from_web(manifest, f"https://www.youtube.com/watch?v={source}", settings, lane)
    return Failure(Reason.MALFORMED_ID, f"{source[:200]!r} is no YouTube id (11 of A-Z a-z 0-9 _ -), http address or absolute path")


def is_offered(settings: Download) -> Callable[[Manifest], Failure | None]:
    """Asks whether the video of a one-row manifest is still offered, at the pace of downloads; None where it is.

    A site that refuses this address is left alone: YouTube after the pauses that a download waits through, another one when it has
    refused as many videos in a row. What is not asked for is BLOCKED.
    """
    lane = Lane(settings.youtube_per_hour, settings.youtube_sleep_s)
    refusals = Counter[str]()

    def ask(manifest: Manifest) -> Failure | None:
        source = str(manifest.source[0])
        url = source if source.startswith(("http://", "https://")) else f"https://www.youtube.com/watch?v={source}"
        of_youtube = _YOUTUBE_HOST.match(url)
        site = "youtube.com" if of_youtube else urlsplit(url).netloc.rpartition("@")[2].lower()
        if refusals[site] > settings.youtube_pauses:
            return Failure(Reason.BLOCKED, f"{without_secrets(url)}: not asked for, as {site} refuses this address")
        with tempfile.TemporaryDirectory() as folder:
            request = replace(_request(manifest, url, settings), folder=folder, only_ask=True)
            answer = _fetch_patiently(request, settings, lane if of_youtube else None)
        if isinstance(answer, Failure) and answer.reason is Reason.BLOCKED:
            refusals[site] += 1 + settings.youtube_pauses if of_youtube else 1
            return answer
        del refusals[site]
        return answer if isinstance(answer, Failure) else None

    return ask


def _request(manifest: Manifest, url: str, settings: Download) -> Request:
    """One video as it is asked for."""
    video = str(manifest.video[0])
    return Request(
        url=url,
        folder=str(settings.folder.absolute() / "incoming" / video),
        stem=video,
        lines=int(min(manifest.width[0], manifest.height[0])) or int(manifest.height[0]) or settings.default_lines,
        frames_per_second=float(manifest.frames_per_second[0]),
        socket_timeout_s=settings.socket_timeout_s,
        cookies_file=settings.cookies_file,
        proxy=settings.own_proxy,
        largest_bytes=_largest_bytes(manifest, settings),
        private_hosts=settings.private_hosts,
        plugins=settings.plugins,
    )


def _from_web(manifest: Manifest, url: str, settings: Download, lane: Lane) -> Videos | Failure:
    """Fetch, probe, and only then give the file its final name: what has one is whole."""
    video, folder = str(manifest.video[0]), settings.folder.absolute()
    request = _request(manifest, url, settings)
    wish = {"url": without_secrets(url), "lines": request.lines, "frames_per_second": request.frames_per_second}
    note = folder / f"{video}.info.json"
    kept = kept_video(note, wish)
    if kept is None:
        _make_incoming(Path(request.folder), wish)
        answer = _fetch_patiently(request, settings, lane if _YOUTUBE_HOST.match(url) else None)
        if isinstance(answer, Failure):
            if answer.reason is Reason.TOO_LARGE:
                shutil.rmtree(request.folder)
            return answer
        arrived = Path(answer.path)
        found = probe(arrived, settings.max_pixels)
        if isinstance(found, Failure):
            size = arrived.stat().st_size if arrived.exists() else 0
            shutil.rmtree(request.folder)
            return Failure(found.reason, f"{wish['url']} gave {size} bytes: {found.message}")
        kept = {"wish": wish, "file": arrived.name, "video_sha256": sha256_of(arrived), "size_bytes": arrived.stat().st_size}
        kept |= {"tool": answer.tool, "info": answer.info}
        _keep(arrived, kept, note)
    shutil.rmtree(request.folder, ignore_errors=True)
    path = folder / kept["file"]
    found = probe(path, settings.max_pixels)
    return found if isinstance(found, Failure) else _videos(manifest, path, found, kept["video_sha256"], kept["info"], kept["tool"])


def _keep(arrived: Path, kept: Mapping[str, Any], note: Path) -> None:
    """Give a whole file its final name beside a note on it."""
    aside = arrived.parent / "info.json"
    aside.write_text(seal(dict(kept)))
    _flush(arrived, aside)
    aside.replace(note)  # first: a note without its file is ignored, a file without its note would be fetched again
    arrived.replace(note.parent / arrived.name)
    _flush(note.parent)


def _from_images(manifest: Manifest, pattern: Path, settings: Download) -> Videos | Failure:
    """Numbered images as one file beside the downloads, made once while they stay what they are."""
    video, folder = str(manifest.video[0]), settings.folder.absolute()
    rate, note, incoming = float(manifest.frames_per_second[0]) or DEFAULT_RATE, folder / f"{video}.info.json", folder / "incoming" / video
    try:
        images = numbered(pattern)
        wish = {"images": str(pattern), "rate": rate, "listing": listing_digest(images)}
    except OSError as error:
        return Failure(Reason.FILE_MISSING, f"{pattern}: {error.strerror}")
    if not images:
        return Failure(Reason.FILE_MISSING, f"{pattern}: no image is named so")
    kept = kept_video(note, wish)
    if kept is None:
        _make_incoming(incoming, wish)
        arrived = incoming / f"{video}.nut"
        try:
            write_film(images, rate, arrived)
        except ValueError as error:
            return Failure(Reason.BROKEN_FILE, str(error))
        kept = {"wish": wish, "file": arrived.name, "video_sha256": sha256_of(arrived), "size_bytes": arrived.stat().st_size}
        kept |= {"tool": "", "info": {}}
        _keep(arrived, kept, note)
    shutil.rmtree(incoming, ignore_errors=True)
    path = folder / kept["file"]
    found = probe(path, settings.max_pixels)
    if isinstance(found, Failure):
        return found
    return _videos(manifest, path, replace(found, frames_per_second=rate), kept["video_sha256"], {}, "")


def _largest_bytes(manifest: Manifest, settings: Download) -> int:
    """Bytes that a video may have: by its length where the manifest knows it, 16 MB/s being twice the rate of a 4K camera."""
    length_s = float(manifest.num_frames[0]) / (float(manifest.frames_per_second[0]) or 24.0)
    return min(settings.largest_bytes, (64 << 20) + int(16e6 * length_s)) if length_s else settings.largest_bytes


def _make_incoming(folder: Path, wish: dict[str, Any]) -> None:
    """Make the folder of a video's parts; parts that came from another address or for another wish go."""
    written = folder / "wish.json"
    if written.exists() and written.read_text() != json.dumps(wish):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written.write_text(json.dumps(wish))


def _flush(*paths: Path) -> None:
    """Bring files and folders to the disk: after it a power loss takes nothing of them."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _fetch_patiently(request: Request, settings: Download, lane: Lane | None) -> Answer | Failure:
    """Try until it is here or there is no use. yt-dlp itself gives up at the first 4xx or 5xx answer."""
    failed, refused, pauses = 0, 0, 0 if lane and lane.refused else settings.youtube_pauses
    if lane and lane.refused > 1:
        return Failure(Reason.BLOCKED, f"{without_secrets(request.url)}: not asked for, as YouTube refuses this address", permanent=False)
    while True:
        if lane:
            lane.wait()
        answer = attempt(request, settings.attempt_limit_s, Pace(settings.slowest_bytes_per_s, settings.slow_after_s))
        if isinstance(answer, Answer) and (answer.path or (request.only_ask and answer.info)):
            if lane:
                lane.refused = 0
            return answer
        failure = _failure(answer, request)
        if (isinstance(answer, Answer) and answer.disk_full) or not _has_room(Path(request.folder)):
            raise OSError(errno.ENOSPC, failure.message, request.folder)
        tried = f"after {failed + refused + 1} tries"
        if failure.reason == Reason.BLOCKED and lane and refused < pauses:
            time.sleep(min(settings.youtube_pause_s * 2**refused, _PAUSE_LONGEST_S))
            refused += 1
        elif _worth_retrying(failure) and failed + 1 < settings.attempts:
            time.sleep(settings.backoff_s * 2**failed * random.uniform(1, 1.5))
            failed += 1
        else:
            if lane and failure.reason not in (Reason.TRANSIENT, Reason.TIMEOUT):  # of which nobody knows what YouTube would say
                lane.refused = lane.refused + 1 if failure.reason == Reason.BLOCKED else 0
            return Failure(failure.reason, f"{without_secrets(request.url)}: {failure.message} ({tried})", failure.permanent)


def _failure(answer: Answer | Failure, request: Request) -> Failure:
    """Why a try gave no file, without the secrets of the address."""
    if isinstance(answer, Failure):
        failure = answer
    elif answer.reason:
        failure = Failure(Reason(answer.reason), answer.message)
    else:
        failure = classify(answer.message, answer.warnings, request.url)
    return replace(failure, message=hide_secrets(failure.message, [request.url, request.proxy]))


def _has_room(folder: Path) -> bool:
    """Whether the disk takes another MiB: a server may say in its own words that there is none."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, 1 << 20)
    except OSError as error:
        return error.errno not in (errno.ENOSPC, errno.EDQUOT)
    return True


def _worth_retrying(failure: Failure) -> bool:
    return failure.reason in (Reason.TRANSIENT, Reason.TIMEOUT) or "HTTP Error 429" in failure.message


def _videos(manifest: Manifest, path: Path, found: Probe, sha256: str, info: dict[str, Any], tool: str) -> Videos:
    def text(value: object) -> np.ndarray:
        return np.array(["" if value is None else str(value)], object)

    return Videos(
        video=manifest.video,
        path=text(path),
        source=text(without_secrets(str(manifest.source[0]))),
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
        stream=np.array([found.film.stream], np.int16),
        num_films=np.array([found.film.num_films], np.int16),
        stream_why=text(found.film.why),
        interlaced=np.array([found.interlaced]),
        transfer=text(found.transfer),
        transparent=np.array([found.transparent]),
        start_s=manifest.start_s,
        end_s=manifest.end_s,
        extra=manifest.extra,
        camera=text(found.camera),
    )
