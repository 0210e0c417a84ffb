"""A data folder in an object store and mishaps: late writes, strangers' objects, a damaged or full cache, keys that may only read."""

import http.server
import json
import os
import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from obstore.store import GCSStore

from pipeline.browse.session import Session
from pipeline.engine.durable import MIRRORS, StoreError, mirror_of, remove
from pipeline.engine.roots.address import Address
from pipeline.engine.roots.lease import CLOCK
from pipeline.engine.roots.mirror import Mirror
from pipeline.engine.roots.objects import Objects
from pipeline.engine.roots.opening import opened
from pipeline.engine.store import Store
from pipeline.exports.source import open_source
from pipeline.folder import Asked, load
from pipeline.report.watch import is_driven
from stages.errors import UserError
from stages.tables import Manifest, Reviews
from tests.engine import toy
from tests.engine.roots import on_another_machine, parts, run_at
from tests.object_store import ObjectStore


def mirror_at(root: Path) -> Mirror:
    mirror = mirror_of(root)
    assert isinstance(mirror, Mirror)
    return mirror


@pytest.mark.parametrize("how", ["drop", ""])
def test_a_write_that_began_before_the_lease_was_lost_takes_the_place_of_nothing(store: ObjectStore, folder: str, how: str) -> None:
    """It is dropped and to be tried again, or comes late."""
    driver = Store(opened(store.address(folder)))
    with driver.lock():
        driver.write_json("index.json", {})
        lease = mirror_at(driver.root).lease
        assert lease

        def meanwhile(number: int, method: str, name: str) -> str:
            if method not in ("PUT", "POST") or name.endswith(".lock"):
                return ""
            lease.renewed_at = 0.0
            for other in ("index.json", "reviews/a.parquet"):
                store.client().put_object(Bucket="hands", Key=f"{folder}/{other}", Body=b"of the next driver")
            return how

        writes: list[Callable[[], None]] = [lambda: driver.write_json("index.json", {"late": True})]
        if how == "drop":  # a part says what it was made from
            writes += [lambda: driver.commit("reviews", "a", Reviews.empty(), {}), lambda: remove(driver.root / "index.json")]
        for write in writes:
            lease.renewed_at = lease.renewed_at or 1e12
            store.fault = meanwhile
            with pytest.raises(StoreError, match="no longer holds it"):
                write()
            store.fault = lambda number, method, name: ""
            lease.renewed_at = 1e12
        assert store.content(folder, "index.json") == b"of the next driver"
        assert store.content(folder, "reviews/a.parquet") == b"of the next driver"
        driver.write_json("index.json", {"in time": True})
        assert b"in time" in store.content(folder, "index.json"), "what another command wrote meanwhile is no hindrance"


def test_a_worker_whose_driver_lost_the_folder_removes_nothing(store: ObjectStore, folder: str) -> None:
    root = opened(store.address(folder), asks=True, driver="the token of its driver")
    lock = b'{"holder": "pid 8 on elsewhere", "token": "another", "lease_s": 60}'
    for name, content in ((".lock", lock), ("a.error.json", b"{}")):
        Objects(Address.of(store.address(folder))).put_over(name, content, None)
    with pytest.raises(StoreError, match="no longer holds it"):
        remove(root / "a.error.json")
    assert "a.error.json" in store.names(folder)


@contextmanager
def google() -> Iterator[tuple[int, list[str]]]:
    """A server that answers as Google's store does to a write: its port, and the generations that were asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.headers["x-goog-if-generation-match"])
            self.send_response(200)
            for name, value in (("ETag", f'"e{len(asked)}"'), ("x-goog-generation", f"{len(asked)}"), ("Content-Length", "0")):
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, asked
        server.shutdown()


def test_googles_store_is_asked_for_the_generation_that_was_seen() -> None:
    objects = Objects(Address.of("gs://bucket/folder"), tries=1)
    with google() as (port, asked):
        key = {"gcs_base_url": f"http://127.0.0.1:{port}", "disable_oauth": True}
        words = json.dumps(key | dict.fromkeys(("client_email", "private_key", "private_key_id"), ""))
        client = GCSStore("bucket", prefix="folder", service_account_key=words, client_options={"allow_http": True})
        objects.__dict__["store"] = objects.__dict__["hasty_store"] = client
        tag = objects.put_over(".lock", b"{}", "")
        objects.put_over(".lock", b"{}", *tag)
    assert asked == ["0", "1"]


def test_objects_by_which_consoles_show_folders_are_no_files(store: ObjectStore, folder: str) -> None:
    for name in ("", "reviews/", "later/"):
        store.client().put_object(Bucket="hands", Key=f"{folder}/{name}", Body=b"")
    root = opened(store.address(folder))
    assert [path for path in root.rglob("*") if path.is_file()] == []
    assert run_at(store.address(folder), "a").num_made == 10
    MIRRORS.clear()
    assert (opened(store.address(folder)) / "reviews/a-0001.parquet").is_file()


def test_a_cache_that_is_damaged_is_made_anew_and_one_that_cannot_be_used_is_one_line(
    store: ObjectStore, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_at(store.address(folder), "a")
    root, near = opened(store.address(folder)), parts(opened(store.address(folder)))
    known, file = mirror_at(root).known, root.with_suffix(".sqlite")
    known.database.execute("pragma max_page_count = 3")

    def fill() -> None:
        for number in range(300):
            with known.alone():
                known.note(f"{number}.json", "e" * 100, "", file.stat())

    with pytest.raises(StoreError, match=rf"^{file} cannot be used \(database or disk is full\): make room there"):
        fill()
    known.database.close()
    MIRRORS.clear()
    for left in root.parent.glob("*.sqlite*"):
        left.write_bytes(b"no database" * 1000)
    assert parts(opened(store.address(folder))) == near
    on_another_machine(monkeypatch, tmp_path / "other")
    (tmp_path / "other/roots" / file.name).mkdir(parents=True)
    with pytest.raises(StoreError, match=r"\.sqlite cannot be used \(unable to open database file\)"):
        opened(store.address(folder))


def test_a_large_file_that_is_replaced_while_it_comes_is_begun_anew(store: ObjectStore, folder: str, tmp_path: Path) -> None:
    contents = [bytes([k]) * 20_000_000 for k in range(2)]
    objects, gets = Objects(Address.of(store.address(folder))), list[str]()

    def replace() -> None:
        store.client().put_object(Bucket="hands", Key=f"{folder}/large", Body=contents[len(gets) % 2])

    def meanwhile(number: int, method: str, name: str) -> str:
        gets.append(name)
        if len(gets) == 2:
            replace()
        return ""

    replace()
    store.fault = meanwhile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.engine.roots.objects.PIECE", 16_000_000)
        assert objects.get("large", tmp_path / "large")
    first = (tmp_path / "large").read_bytes()
    assert first in contents
    assert first == store.content(folder, "large")


def test_a_body_that_came_too_late_is_sent_again(store: ObjectStore, folder: str) -> None:
    root, late = opened(store.address(folder)), ["late"]
    store.fault = lambda number, method, name: late.pop() if method == "PUT" and late else ""
    Store(root).write_json("run.json", {})
    assert "run.json" in store.names(folder)
    assert not late


def test_a_key_that_may_only_read_sees_whether_a_run_is_at_work(
    store: ObjectStore, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Store(opened(store.address(folder)))
    with driver.lock():
        on_another_machine(monkeypatch, tmp_path / "other")
        store.fault = lambda number, method, name: "denied" if method != "GET" and "/.clock" in name else ""
        assert is_driven(opened(store.address(folder)))
    store.fault = lambda number, method, name: ""
    assert not is_driven(opened(store.address(folder)))


def test_what_was_left_of_hearing_the_time_goes_once_it_is_old(store: ObjectStore, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import timedelta

    store.client().put_object(Bucket="hands", Key=f"{folder}/{CLOCK}old", Body=b"")
    with Store(opened(store.address(folder))).lock():
        assert f"{CLOCK}old" in store.names(folder)
    monkeypatch.setattr("pipeline.engine.roots.mirror._CLOCK_LASTS", timedelta(seconds=-5))
    with Store(opened(store.address(folder))).lock():
        assert f"{CLOCK}old" not in store.names(folder)


def test_videos_that_were_fetched_here_make_room_too(store: ObjectStore, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = opened(store.address(folder))
    mirror = mirror_at(root)
    (root / "media").mkdir()
    monkeypatch.setenv("WHIM_MEDIA_GB", "0.0021")
    videos = [root / f"media/{k}.mp4" for k in range(4)]
    for video in videos:
        video.write_bytes(os.urandom(1_000_000))
        mirror.put_as_it_is([video])
    assert [video.exists() for video in videos] == [False, False, True, True]
    assert all(store.content(folder, f"media/{k}.mp4") for k in range(4))


def test_commands_that_are_named_work_when_they_are_typed(store: ObjectStore, folder: str) -> None:
    """They name the address with its options, never the mirror."""
    address = store.address(folder)
    root = opened(address)
    options = Address.of(address).whole.partition("?")[2]
    assert shlex.split(Store(root).word()) == [f"s3://hands/{folder}?{options}"]
    assert shlex.split(Store(root).word("shards")) == [f"s3://hands/{folder}/shards?{options}"]
    assert Store(root).shown(root / "report.html") == f"s3://hands/{folder}/report.html"
    for asks in (lambda: Session(root, "ann"), lambda: open_source(root), lambda: load(root, Asked())):
        with pytest.raises((UserError, ValueError), match=rf"^s3://hands/{folder} h.*") as caught:
            asks()
        assert str(caught.value).count(f"s3://hands/{folder}?{options}") == 1
        assert str(root) not in str(caught.value)
    assert Store(Path("/a folder")).word("shards") == "'/a folder/shards'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Own(toy.Fetch):
    """Takes videos that lie outside the data folder where they are."""

    folder: str = ""

    def build(self) -> Callable[..., Any]:
        fetch = toy.Fetch.build(self)

        def take(row: Manifest) -> Any:
            videos = fetch(row)
            return replace(videos, path=toy.text(str(Path(self.folder, videos.video[0]))))

        return take


def test_videos_of_ones_own_stay_where_they_lie_and_the_next_command_finds_them(store: ObjectStore, folder: str, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    stages = [Own(folder=str(tmp_path)), *toy.recipe()[1:]]
    run_at(store.address(folder), "a", stages=stages)
    assert run_at(store.address(folder), "a", stages=stages).num_made == 0
    assert not [name for name in store.names(folder) if name.startswith("media/")]
    here = Store(opened(store.address(folder)))
    assert (here.size_of(tmp_path / "a"), here.size_of(tmp_path / "b")) == (0, None)
