"""Answers of a web server as an attacker gives them, to the stage that fetches videos."""

import os
import random
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.trust.spoil import spoilt


class Answers(BaseHTTPRequestHandler):
    """Answers with whatever the server was told."""

    raw = b""

    def do_GET(self) -> None:
        self.wfile.write(self.raw)
        self.close_connection = True

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None: ...


def web_answers(folder: Path, dice: random.Random, mark: Path) -> Callable[[], object]:
    """An answer of a server of videos."""
    from pipeline.manifest import read_manifest
    from stages.download import Download

    clip = (folder.parents[1] / "videos/studio-1.mp4").read_bytes()
    body = dice.choice(
        (
            clip,
            spoilt(clip, dice),
            b"",
            b"<html>" + b"<video src='file:///etc/passwd'>" * 50,
            b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
            b"#EXTM3U\n#EXTINF:1,\nhttp://169.254.169.254/x\n",
            b"\x89PNG" * 100,
            os.urandom(3000),
        )
    )
    headers = (
        f"Content-Type: {dice.choice(('video/mp4', 'text/html', 'application/vnd.apple.mpegurl', 'x' * 5000, ''))}",
        f"Content-Length: {dice.choice((len(body), -1, 1 << 62, 'x', len(body) + 5000, 0))}",
        dice.choice(
            (
                "Content-Encoding: gzip",
                "Location: file:///etc/passwd",
                "Location: http://10.0.0.1/",
                "Content-Range: bytes 9-3/1",
                "ETag: " + "e" * 70_000,
                "Content-Disposition: attachment; filename=../../../x.mp4",
                "Set-Cookie: " + "a=b; " * 2000,
                "Refresh: 0; url=file:///etc/passwd",
                "X: \0\r\r",
            )
        ),
    )
    status = dice.choice(
        ("200 OK", "206 Partial", "302 Found", "500 No space left on device", "999 x", "403 copyright", "000", "200", "-1 x", "429 captcha")
    )
    raw = f"HTTP/1.1 {status}\r\n".encode() + "\r\n".join(headers).encode() + b"\r\n\r\n" + body

    def read() -> int:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Told", (Answers,), {"raw": raw}))
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        (folder / "list.txt").write_text(f"http://127.0.0.1:{server.server_address[1]}/copyright/x.mp4 id=v\n")
        row = read_manifest(folder / "list.txt")
        Download(folder=folder / "media", backoff_s=0.01, attempts=1, socket_timeout_s=3, youtube_pauses=0).build()(row)
        allowed = folder / "media", folder / "list.txt"
        outside = [path for path in folder.rglob("*") if path.is_file() and not any(path.is_relative_to(one) for one in allowed)]
        return 70 if outside else 0

    return read
