"""An object store for tests: moto's S3 server on loopback behind a proxy that injects what goes wrong on the way."""

import http.client
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from moto.server import ThreadedMotoServer

BUCKET = "hands"

Fault = Callable[[int, str, str], str]
"""From the number of a request, its method and its object's name to what happens to it: '', `drop`, `cut`, `lost`, `slow` or an answer."""

_ANSWERS = {
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "expired": (400, "ExpiredToken"),
    "denied": (403, "AccessDenied"),
    "late": (400, "RequestTimeout"),
}


@dataclass
class ObjectStore:
    """A bucket, and what happens to requests for it."""

    port: int
    behind: int
    """Port of the server itself."""
    fault: Fault = lambda number, method, name: ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Method and name of every request, as they came."""
    reads: list[tuple[str, bool, int]] = field(default_factory=list)
    """Name of every object that was read, whether by a range, and bytes of the answer."""
    slow_s: float = 0.3
    number: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def address(self, folder: str) -> str:
        """A data folder's address."""
        return f"s3://{BUCKET}/{folder}?scheme=http&endpoint_override=127.0.0.1:{self.port}&region=us-east-1"

    def client(self) -> Any:
        """Another library's client, past the proxy."""
        import boto3  # type: ignore[import-untyped]

        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.behind}", region_name="us-east-1", **keys)

    def names(self, folder: str) -> set[str]:
        """Names of the objects of a data folder."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{folder}/")
        return {one["Key"].removeprefix(f"{folder}/") for page in pages for one in page.get("Contents", [])}

    def content(self, folder: str, name: str) -> bytes:
        """Bytes of an object."""
        found: bytes = self.client().get_object(Bucket=BUCKET, Key=f"{folder}/{name}")["Body"].read()
        return found

    def fails_with(self, **shares: int) -> None:
        """Have one request in so many fail so: `fails_with(drop=7)`."""

        def fault(number: int, method: str, name: str) -> str:
            return next((how.strip("_") for how, every in shares.items() if number % every == every - 1), "")

        self.fault = fault


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """A store with an empty bucket."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    behind = server.get_host_and_port()[1]
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as proxy:
        store = ObjectStore(proxy.server_port, behind)
        proxy.RequestHandlerClass = _handler(store)
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        store.client().create_bucket(Bucket=BUCKET)
        yield store
        proxy.shutdown()
    server.stop()


def _handler(store: ObjectStore) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            name = unquote(re.sub(rf"^/{BUCKET}/?", "", self.path.partition("?")[0]))
            with store.lock:
                store.requests.append((self.command, name))
                number, store.number = store.number, store.number + 1
                how = store.fault(number, self.command, name)
            if how == "slow":
                time.sleep(store.slow_s)
            if how == "drop":
                self.close_connection = True
                return
            if how in _ANSWERS:
                status, code = _ANSWERS[how]
                answer = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code} of key SECRETKEYID</Message></Error>".encode()
                self.answer(status, [("Content-Type", "application/xml")], answer)
                return
            onward = http.client.HTTPConnection("127.0.0.1", store.behind, timeout=60)
            onward.request(self.command, self.path, body, dict(self.headers))
            told = onward.getresponse()
            content = told.read()
            onward.close()
            if self.command == "GET" and name:
                store.reads.append((name, "Range" in self.headers, len(content)))
            if how == "lost":  # done, and nobody hears of it
                self.close_connection = True
                return
            headers = [(k, v) for k, v in told.getheaders() if k.lower() not in ("transfer-encoding", "connection", "server", "date")]
            self.answer(told.status, headers, content, cut=how == "cut")

        def answer(self, status: int, headers: list[tuple[str, str]], content: bytes, *, cut: bool = False) -> None:
            self.send_response(status)
            for name, value in headers:
                if self.command == "HEAD" or name.lower() != "content-length":
                    self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[: len(content) // 2] if cut else content)
            self.close_connection = self.close_connection or cut

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_one

    return Handler
