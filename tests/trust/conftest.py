"""A hostile web: one server that the list names, and one of the inner network that nobody named."""

import base64
import gzip
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import imageio_ffmpeg
import numpy as np
import pytest

from stages.download import Download
from stages.stage import Failure
from stages.tables import Manifest, Videos

NOISE = "nullsrc=size=160x120:rate=10,geq=random(1)*255:128:128"


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second of noise, about 100 kB."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    make_video(path, NOISE, "-t", "1", "-c:v", "mpeg4", "-q:v", "4")
    return path


def make_video(path: Path, source: str, *options: str) -> None:
    program = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([program, "-loglevel", "error", "-y", "-f", "lavfi", "-i", source, *options, path], check=True)


class Hostile(ThreadingHTTPServer):
    """Serves as strangers do. The first part of a path says how, e.g. /cut/clip.mp4."""

    daemon_threads = True

    def __init__(self, body: bytes, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), Visit)
        self.body = body
        self.visits: Counter[str] = Counter()
        self.ranges: list[str] = []
        self.authorized: list[str] = []
        self.to = ""
        self.etag = '"one"'
        self.ignores_conditions = False
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def url(self, path: str, user: str = "") -> str:
        host, port = self.server_address[:2]
        return f"http://{user and user + '@'}{host!s}:{port}/{path}"


class Visit(BaseHTTPRequestHandler):
    server: Hostile

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        manner, _, name = unquote(self.path.partition("?")[0]).strip("/").partition("/")
        self.server.visits[manner] += 1
        self.server.authorized.append(self.headers.get("Authorization", ""))
        serve = getattr(self, f"serve_{manner}", None)
        if manner.isdigit():
            self.send_response(int(manner), name.partition("/")[0] if "/" in name else None)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif serve:
            serve(name)
        else:
            self.give(self.server.body)

    def give(self, body: bytes, kind: str = "video/mp4", *, stop: int | None = None, **headers: str) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-\d*", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        holds = condition in (None, self.server.etag) or self.server.ignores_conditions
        start = int(wanted[1]) if wanted and holds else 0
        if start:
            self.server.ranges.append(self.headers["Range"])
        self.send_response(206 if start else 200)
        for header, value in {"Content-Type": kind, "Content-Length": str(len(body) - start), **headers}.items():
            self.send_header(header.replace("_", "-"), value)
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[start:stop])
            if stop is not None:
                self.wfile.flush()
                self.connection.close()

    def serve_endless(self, name: str) -> None:
        self.begin_without_end()
        while True:
            self.wfile.write(self.server.body)

    def serve_loris(self, name: str) -> None:
        self.begin_without_end()
        for byte in self.server.body:
            self.wfile.write(bytes([byte]))
            time.sleep(0.1)

    def begin_without_end(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "video/mp4")
        self.end_headers()

    def serve_bomb(self, name: str) -> None:
        self.give(gzip.compress(b"<html>" + b" " * (200 << 20), 1), "text/html", Content_Encoding="gzip")

    def serve_cut(self, name: str) -> None:
        whole = self.headers.get("Range") or self.server.visits["cut"] == 1  # the first visit looks at the headers
        self.give(self.server.body, stop=None if whole else len(self.server.body) // 2)

    def serve_redirect(self, name: str) -> None:
        self.send_response(302)
        self.send_header("Location", self.server.to)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def serve_page(self, name: str) -> None:
        self.give(f'<html><title>x</title><video src="{self.server.to}"></video></html>'.encode(), "text/html")

    def serve_playlist(self, name: str) -> None:
        text = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{self.server.to}\n#EXT-X-ENDLIST\n"
        self.give(text.encode(), "application/vnd.apple.mpegurl")

    def serve_key(self, name: str) -> None:
        key = f'#EXT-X-KEY:METHOD=SAMPLE-AES,URI="{self.server.to}"'
        text = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n{key}\n#EXTINF:1,\n{self.server.to}\n#EXT-X-ENDLIST\n"
        self.give(text.encode(), "application/vnd.apple.mpegurl")

    def serve_private(self, name: str) -> None:
        if self.headers.get("Authorization") == "Basic " + base64.b64encode(b"me:s3kr3t-word").decode():
            self.give(self.server.body)
        else:
            self.send_error(401)

    def serve_signed(self, name: str) -> None:
        if "token=t0k3n-word" in self.path:
            self.give(self.server.body)
        else:
            self.send_error(401)

    def log_message(self, *_: object) -> None: ...

    def handle(self) -> None:
        with suppress(OSError):  # the other side has had enough, or so have we
            super().handle()


@pytest.fixture
def site(clip: Path) -> Iterator[Hostile]:
    """The server that the list names."""
    server = Hostile(clip.read_bytes())
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def inner(clip: Path) -> Iterator[Hostile]:
    """A server of the inner network, at another address."""
    server = Hostile(clip.read_bytes(), "127.0.0.2")
    yield server
    server.shutdown()
    server.server_close()


def line(source: str, *, num_frames: int = 0) -> Manifest:
    def text(value: str) -> np.ndarray:
        return np.array([value], object)

    return Manifest.of(
        video=text("v"),
        source=text(source),
        split=text("train"),
        frames_per_second=np.zeros(1),
        num_frames=np.full(1, num_frames, np.int64),
        width=np.zeros(1, np.int32),
        height=np.zeros(1, np.int32),
    )


def fetched(url: str, folder: Path, **changes: Any) -> Videos | Failure:
    """Download one address, trying once unless told otherwise."""
    settings = replace(Download(folder=folder, backoff_s=0.01, attempts=1, socket_timeout_s=50), **changes)
    return settings.build()(line(url))
