"""`whim weights`: files fetched from a real HTTP server that cuts, lies, moves and refuses; verified, locked, whole or not at all."""

import hashlib
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from pipeline import weights
from pipeline.engine.durable import StoreError
from pipeline.weights import DownloadError, Standing, fetch, standing
from stages.detectors import weights as catalogue_module
from stages.detectors.weights import BadWeights, MissingWeights, Weights, catalogue, weight_file, weight_sha256
from whim import main

BODY = np.random.default_rng(5).bytes(3_000_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


class Site(ThreadingHTTPServer):
    """A file server on loopback; the path says how it behaves."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Visit)
        self.visits: Counter[str] = Counter()
        self.ranges: list[str] = []
        self.body = BODY
        self.etag: str | None = '"v1"'

    def url(self, manner: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{manner}"


class Visit(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        site, manner = self.server, self.path.strip("/")
        site.visits[manner] += 1
        if manner.startswith("moved-"):
            self.send_response(302)
            self.send_header("Location", site.url(manner.removeprefix("moved-")))
            self.end_headers()
            return
        refusal = re.fullmatch(r"(\d{3})(?:x(\d+))?", manner)
        if refusal and site.visits[manner] <= int(refusal[2] or 1_000_000):
            self.send_error(int(refusal[1]))
            return
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked:
            site.ranges.append(asked[0])
        start = int(asked[1]) if asked and manner != "no-range" else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", "text/html" if manner == "page" else "application/octet-stream")
        self.send_header("Content-Length", str(len(site.body) - start))
        if site.etag:
            self.send_header("ETag", site.etag)
        self.end_headers()
        stop = {"cut": 1_000_000, "no-range": 1_000_000 if site.visits[manner] == 1 else None}.get(manner)
        self.wfile.write(site.body[start : start + stop if stop else None])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def row(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Weights]:
    """A row of the manifest whose file is served in a manner, in an empty folder of weights."""
    monkeypatch.setenv("WHIM_WEIGHTS", str(tmp_path))

    def make(manner: str, **columns: Any) -> Weights:
        return Weights(name="net", file="nets/net.pth", network="a net", url=site.url(manner), licence="free", paper="none", **columns)

    return make


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "nets").glob("*") if p.name != ".lock")


def test_file_is_fetched_and_locked_at_first_use(row: Callable[..., Weights], tmp_path: Path) -> None:
    net = row("plain")
    assert standing(net) is Standing.ABSENT
    assert fetch(net, pauses_s=()).read_bytes() == BODY
    assert net.lock.read_text() == f"{SHA256}  net.pth\n"
    assert standing(net) is Standing.INTACT
    assert leftovers(tmp_path) == ["net.pth", "net.pth.sha256"]


def test_cut_connections_go_on_where_they_were(row: Callable[..., Weights], site: Site) -> None:
    assert fetch(row("cut", sha256=SHA256), pauses_s=(0, 0, 0)).read_bytes() == BODY
    assert site.ranges == ["bytes=1000000-", "bytes=2000000-"]


def test_next_run_goes_on_where_the_last_one_gave_up(row: Callable[..., Weights], site: Site, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"cut after 1,000,000 of 3,000,000 bytes.*run again, it goes on"):
        fetch(row("cut"), pauses_s=())
    assert not row("cut").path.exists()
    assert [(tmp_path / "nets" / name).stat().st_size for name in leftovers(tmp_path)] == [1_000_000]
    assert fetch(row("plain"), pauses_s=()).read_bytes() == BODY
    assert site.ranges == ["bytes=1000000-"]


def test_a_file_that_moved_is_followed_and_resumed_there(row: Callable[..., Weights], site: Site) -> None:
    assert fetch(row("moved-cut"), pauses_s=(0, 0)).read_bytes() == BODY
    assert site.ranges == ["bytes=1000000-", "bytes=2000000-"]


def test_bytes_of_two_versions_are_never_joined(row: Callable[..., Weights], site: Site, tmp_path: Path) -> None:
    with pytest.raises(DownloadError):
        fetch(row("cut"), pauses_s=())
    site.body, site.etag = BODY[::-1], '"v2"'
    assert fetch(row("plain"), pauses_s=()).read_bytes() == BODY[::-1]
    assert site.ranges == []
    assert leftovers(tmp_path) == ["net.pth", "net.pth.sha256"]


def test_server_without_versions_is_resumed_only_when_the_hash_is_known(row: Callable[..., Weights], site: Site) -> None:
    site.etag = None
    with pytest.raises(DownloadError):
        fetch(row("cut"), pauses_s=())
    site.body = BODY[::-1]
    assert fetch(row("plain"), pauses_s=()).read_bytes() == BODY[::-1]
    assert site.ranges == []


def test_server_that_ignores_ranges_is_read_from_the_start(row: Callable[..., Weights], site: Site) -> None:
    assert fetch(row("no-range"), pauses_s=(0,)).read_bytes() == BODY
    assert site.ranges == ["bytes=1000000-"]


def test_another_file_than_the_pinned_one_is_thrown_away(row: Callable[..., Weights], tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=f"another file.*{SHA256}.*wanted {'0' * 64}"):
        fetch(row("plain", sha256="0" * 64), pauses_s=())
    assert leftovers(tmp_path) == []


def test_another_file_than_the_locked_one_is_thrown_away(row: Callable[..., Weights], site: Site) -> None:
    fetch(row("plain"), pauses_s=()).unlink()
    site.body, site.etag = b"replaced", '"v2"'
    with pytest.raises(DownloadError, match="another file"):
        fetch(row("plain"), pauses_s=())
    assert not row("plain").path.exists()


@pytest.mark.parametrize("status", [404, 403, 410])
def test_refusal_is_final_and_says_where_from(row: Callable[..., Weights], site: Site, status: int) -> None:
    with pytest.raises(DownloadError, match=f"net: HTTP {status} at http.*licence: free"):
        fetch(row(str(status)), pauses_s=(0, 0, 0))
    assert site.visits[str(status)] == 1


def test_busy_server_is_asked_again(row: Callable[..., Weights], site: Site) -> None:
    assert fetch(row("503x2"), pauses_s=(0, 0, 0)).read_bytes() == BODY
    with pytest.raises(DownloadError, match=r"HTTP 500.*2 times"):
        fetch(row("500"), pauses_s=(0,))


def test_unreachable_server_is_an_error_of_one_line(row: Callable[..., Weights]) -> None:
    net = Weights(name="net", file="nets/net.pth", network="a net", url="http://127.0.0.1:9/x", licence="free", paper="none")
    with pytest.raises(DownloadError, match="refused"):
        fetch(net, pauses_s=())


def test_web_page_is_no_checkpoint(row: Callable[..., Weights], tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"web page; get it in a browser and put it at .*nets/net\.pth"):
        fetch(row("page"), pauses_s=())
    assert leftovers(tmp_path) == []


def test_full_disk_leaves_no_file(row: Callable[..., Weights], site: Site) -> None:
    net = row("plain")
    net.path.parent.mkdir(parents=True)
    digest = hashlib.sha256(f"{site.etag} {len(BODY)}".encode()).hexdigest()[:12]
    net.path.with_name(f"net.pth.{digest}.part").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"no room left in .*nets"):
        fetch(net, pauses_s=())
    assert not net.path.exists()
    assert not net.lock.exists()


@pytest.fixture
def manifest(row: Callable[..., Weights], tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A manifest of three networks: free, bound to terms, by hand."""
    common = f'network = "a net"\nurl = "{site.url("plain")}"\nlicence = "free"\npaper = "none"\n'
    text = (
        f'[open]\nfile = "nets/open.pth"\n{common}'
        f'[bound]\nfile = "nets/bound.pth"\nagreement = "whoever fetches it agrees"\n{common}'
        f'[signed]\nfile = "nets/signed.pth"\nby_hand = "sign the form"\n{common}'
    )
    (tmp_path / "weights.toml").write_text(text)
    monkeypatch.setattr(catalogue_module, "MANIFEST", tmp_path / "weights.toml")
    catalogue.cache_clear()
    yield
    catalogue.cache_clear()


def whim(*arguments: str) -> int:
    return main(arguments)


def test_get_takes_what_is_free_and_asks_for_the_rest(manifest: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert whim("weights", "get") == 0
    assert leftovers(tmp_path) == ["open.pth", "open.pth.sha256"]
    assert whim("weights", "get", "bound") == 1
    assert "whoever fetches it agrees): whim weights get bound --agree" in capsys.readouterr().out
    assert whim("weights", "get", "signed") == 1
    assert "sign the form, then put it at" in capsys.readouterr().out
    assert whim("weights", "get", "bound", "--agree") == 0
    assert weight_file("bound").read_bytes() == BODY
    assert whim("weights", "get", "nothing") == 1
    assert "no weights 'nothing'" in capsys.readouterr().err


def test_check_tells_a_damaged_file(manifest: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whim("weights", "get", "open")
    assert whim("weights", "check") == 0
    with (tmp_path / "nets" / "open.pth").open("r+b") as file:
        file.write(b"!")
    assert whim("weights", "check", "open") == 1
    assert "damaged or replaced" in capsys.readouterr().out


def test_missing_weights_say_which_where_from_and_how(manifest: None, tmp_path: Path) -> None:
    with pytest.raises(MissingWeights) as error:
        weight_file("bound")
    for word in ("bound", str(tmp_path / "nets" / "bound.pth"), "http://127.0.0.1", "licence: free", "whim weights get bound --agree"):
        assert word in str(error.value)


def test_file_put_there_by_hand_is_locked_at_first_use(manifest: None, tmp_path: Path) -> None:
    (tmp_path / "nets").mkdir(exist_ok=True)
    (tmp_path / "nets" / "signed.pth").write_bytes(b"first")
    assert weight_sha256("signed") == {"signed": hashlib.sha256(b"first").hexdigest()}
    (tmp_path / "nets" / "signed.pth").write_bytes(b"second")
    with pytest.raises(BadWeights, match=r"not the file known as signed.*remove .*signed\.pth\.sha256"):
        weight_file("signed")
    (tmp_path / "nets" / "signed.pth.sha256").unlink()
    assert weight_file("signed").read_bytes() == b"second"


def test_every_row_of_the_shipped_manifest_says_whose_terms_bind() -> None:
    catalogue.cache_clear()
    for row in catalogue().values():
        assert row.url.startswith("https://")
        assert row.licence
        assert row.paper
        assert "non-commercial" not in row.licence or row.agreement, row.name
    files = [row.file for row in catalogue().values()]
    assert len(set(files)) == len(files)
    wide = Console(width=200, record=True)
    weights.list_weights(wide)
    listed = wide.export_text()
    assert all(name in listed for name in catalogue())
