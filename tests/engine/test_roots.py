"""A data folder in an object store: the same files as on a disk, whatever goes wrong on the way; one driver; mirrors that believe it."""

import os
import threading
import time
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import whim
from pipeline.browse.session import Session
from pipeline.engine.durable import MIRRORS, StoreError, mirror_of, remove
from pipeline.engine.files.corrupt import set_corrupt_aside
from pipeline.engine.roots.address import Address
from pipeline.engine.roots.lease import Lease
from pipeline.engine.roots.mirror import Mirror
from pipeline.engine.roots.objects import Objects
from pipeline.engine.roots.opening import opened
from pipeline.engine.store import ErrorRecord, Store
from pipeline.report import doctor
from stages.digest import seal
from stages.errors import UserError
from stages.stage import Failure, Reason
from stages.tables import Manifest, Reviews, Videos
from stages.web.note import kept_video
from tests.engine import toy
from tests.engine.roots import on_another_machine, parts, run_at
from tests.object_store import ObjectStore


def test_a_run_leaves_the_same_parts_in_a_store_as_on_a_disk(store: ObjectStore, folder: str, tmp_path: Path) -> None:
    run_at(tmp_path / "disk", "a", "b")
    assert run_at(store.address(folder), "a", "b").num_made == 20
    near = parts(tmp_path / "disk")
    assert {name: store.content(folder, name) for name in near} == near
    assert {name for name in store.names(folder) if name.endswith(".parquet")} == {*near, "ledger.parquet"}
    assert [name for name in store.names(folder) if name.startswith("runs/")], "its log too"


def test_faults_on_the_way_change_nothing(store: ObjectStore, folder: str, tmp_path: Path) -> None:
    run_at(tmp_path / "disk", "a", "b")
    store.fails_with(drop=7, cut=11, lost=13, slow=17, **{"500": 5, "503": 9})
    assert run_at(store.address(folder), "a", "b").num_made == 20
    near = parts(tmp_path / "disk")
    assert {name: store.content(folder, name) for name in near} == near


def test_another_machine_finds_everything_done(store: ObjectStore, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_at(store.address(folder), "a", "b")
    on_another_machine(monkeypatch, tmp_path / "other")
    assert run_at(store.address(folder), "a", "b").num_made == 0
    near = opened(store.address(folder))
    assert near.is_relative_to(tmp_path / "other")
    assert parts(near) == {name: store.content(folder, name) for name in parts(near)}


def test_a_mirror_does_not_believe_what_the_store_no_longer_has(
    store: ObjectStore, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_at(store.address(folder), "a")
    here = opened(store.address(folder))
    store.client().delete_object(Bucket="hands", Key=f"{folder}/reviews/a-0001.parquet")
    other = store.content(folder, "reviews/a-0003.parquet")
    store.client().put_object(Bucket="hands", Key=f"{folder}/reviews/a-0002.parquet", Body=other)
    opened(store.address(folder))
    assert not (here / "reviews/a-0001.parquet").exists()
    assert (here / "reviews/a-0002.parquet").read_bytes() == other
    assert run_at(store.address(folder), "a").num_made == 4, "two reviews, and the hands that follow"


def test_what_is_the_same_is_not_fetched_again(store: ObjectStore, folder: str) -> None:
    run_at(store.address(folder), "a")
    MIRRORS.clear()
    store.requests.clear()
    opened(store.address(folder))
    assert [method for method, _ in store.requests] == ["GET"], "the listing alone"
    assert store.requests[0][1] == ""


def test_a_file_damaged_here_comes_again_from_the_store(store: ObjectStore, folder: str) -> None:
    run_at(store.address(folder), "a")
    part = opened(store.address(folder)) / "reviews/a-0001.parquet"
    sound, told = part.read_bytes(), part.stat()
    part.write_bytes(sound[:-9] + b"x" + sound[-8:])
    os.utime(part, ns=(told.st_atime_ns, told.st_mtime_ns))
    set_corrupt_aside(Store(part.parent.parent), part)
    assert part.read_bytes() == sound
    assert not part.with_name(part.name + ".corrupt").exists()


def test_a_part_that_is_damaged_in_the_store_is_set_aside_there(store: ObjectStore, folder: str) -> None:
    run_at(store.address(folder), "a")
    store.client().put_object(Bucket="hands", Key=f"{folder}/reviews/a-0001.parquet", Body=b"PAR1 no part PAR1")
    part = opened(store.address(folder)) / "reviews/a-0001.parquet"
    set_corrupt_aside(Store(part.parent.parent), part)
    assert {name for name in store.names(folder) if "a-0001" in name and name.startswith("reviews")} == {"reviews/a-0001.parquet.corrupt"}
    assert run_at(store.address(folder), "a").num_made == 2
    assert "reviews/a-0001.parquet.corrupt" not in store.names(folder), "its successor is there"


class Killed(BaseException):
    """Stands for a death: nothing that the code does about exceptions helps."""


def test_a_kill_between_put_and_rename_loses_and_doubles_nothing(
    store: ObjectStore, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_at(tmp_path / "disk", "a")
    whole = Mirror.put

    def put_and_die(self: Mirror, files: Any) -> None:
        whole(self, files)
        if any("reviews/a-0002" in str(written.final) for written in files):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Mirror, "put", put_and_die)
        with pytest.raises(Killed):
            run_at(store.address(folder), "a")
    assert "reviews/a-0002.parquet" in store.names(folder)
    made = run_at(store.address(folder), "a").num_made
    near = parts(tmp_path / "disk")
    assert {name: store.content(folder, name) for name in near} == near
    assert parts(opened(store.address(folder))) == near
    assert made < 10, "what was put is taken up"


def test_one_driver_is_refused_by_the_name_of_the_other(
    store: ObjectStore, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHIM_LEASE_S", "4")
    first = Store(opened(store.address(folder)))
    with first.lock():
        mirror = mirror_of(first.root)
        assert isinstance(mirror, Mirror)
        on_another_machine(monkeypatch, tmp_path / "other")
        second = Store(opened(store.address(folder)))
        with pytest.raises(StoreError, match=rf"s3://hands/{folder} is in use by pid {os.getpid()} on "), second.lock():
            raise AssertionError
        mirror.check()
    with second.lock():
        assert second.root != first.root


def test_a_dead_drivers_lease_ends_and_the_next_one_takes_it(
    store: ObjectStore, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHIM_LEASE_S", "3")
    objects = Objects(Address.of(store.address(folder)))
    dead = Lease(objects, objects, "pid 1 on elsewhere", "mirror of elsewhere", 3.0)
    start = time.monotonic()
    dead.take()
    dead.stop.set()  # it renews nothing any more
    with Store(opened(store.address(folder))).lock():
        assert 2.0 < time.monotonic() - start < 60.0, "where nothing else is said, a lease lasts a minute"
        with pytest.raises(StoreError, match=rf"s3://hands/{folder}: this run no longer holds it"):
            dead.check()


def test_a_driver_that_lost_its_lease_writes_nothing_more(
    store: ObjectStore, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Store(opened(store.address(folder)))
    with first.lock():
        first.write_json("before.json", {})
        other = Objects(Address.of(store.address(folder)))
        other.put_over(".lock", b'{"holder": "pid 7 on elsewhere", "token": "other", "lease_s": 60}', other.read(".lock")[1].etag)  # type: ignore[index]
        mirror = mirror_of(first.root)
        assert isinstance(mirror, Mirror)
        assert mirror.lease
        monkeypatch.setattr(mirror.lease, "seconds", 2.0)
        mirror.lease.renewed_at -= 1.0
        time.sleep(1.1)
        with pytest.raises(StoreError, match="no longer holds it"):
            first.still_held()
        for writes in (lambda: first.write_json("after.json", {}), lambda: remove(first.root / "before.json")):
            with pytest.raises(StoreError, match="no longer holds it"):
                writes()
    assert store.names(folder) == {".lock", "before.json"}
    assert b"pid 7 on elsewhere" in store.content(folder, ".lock"), "nor does it give back what is another's"


def test_a_worker_whose_driver_lost_the_folder_writes_nothing(store: ObjectStore, folder: str) -> None:
    objects = Objects(Address.of(store.address(folder)))
    theirs = Store(opened(store.address(folder), asks=True, driver="the token of its driver"))
    objects.put_over(".lock", b'{"holder": "pid 7 on elsewhere", "token": "the token of its driver", "lease_s": 60}', None)
    theirs.write_json("before.json", {})
    objects.put_over(".lock", b'{"holder": "pid 8 on elsewhere", "token": "another", "lease_s": 60}', None)
    with pytest.raises(StoreError, match="the run that this worker works for no longer holds it"):
        theirs.write_json("after.json", {})
    assert store.names(folder) == {".lock", "before.json"}


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("expired", "the key has expired: renew it and run again"),
        ("denied", "this key has no right to list: grant it"),
    ],
)
def test_what_cannot_succeed_is_one_line_at_once(store: ObjectStore, folder: str, how: str, told: str) -> None:
    store.fault = lambda number, method, name: how
    with pytest.raises(StoreError, match=rf"^s3://hands/{folder}: {told}") as caught:
        opened(store.address(folder))
    assert len(store.requests) == 1
    assert "SECRETKEYID" not in str(caught.value)


def test_a_name_that_leads_elsewhere_is_refused(store: ObjectStore, folder: str, tmp_path: Path) -> None:
    store.client().put_object(Bucket="hands", Key=f"{folder}/../../evil.json", Body=b"{}")
    with pytest.raises(StoreError, match=rf"^s3://hands/{folder}: an object is called '{folder}/../../evil.json', which no file can be"):
        opened(store.address(folder))
    assert not list(tmp_path.rglob("evil.json"))


def test_a_bucket_that_is_not_there_is_named(store: ObjectStore) -> None:
    with pytest.raises(StoreError, match=r"^s3://no-such-bucket/data: there is no such bucket"):
        opened(store.address("data").replace("hands", "no-such-bucket"))


def test_a_store_that_does_not_answer_is_told_after_its_tries(store: ObjectStore, folder: str) -> None:
    store.fault = lambda number, method, name: "drop"
    waits: list[float] = []
    objects = Objects(Address.of(store.address(folder)), tries=4, pause=waits.append)
    with pytest.raises(StoreError, match=rf"^s3://hands/{folder} does not answer .*run again, it goes on$"):
        objects.listed()
    assert len(waits) == 3
    assert all(0.2 * 2**k <= 2 * wait <= 3 * 0.2 * 2**k for k, wait in enumerate(waits))


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("s3://bucket", "is no data folder: name one as s3://BUCKET/FOLDER"),
        ("s3:///folder", "is no data folder"),
        ("s3://bucket/a/../b", "is no data folder"),
        ("s3://KEY:SECRET@bucket/a", "an address holds no key"),
        ("s3://bucket/a?password=1", "'password' is no option of an address"),
        ("s3://bucket/a?password", "'password' is no option of an address"),
        ("s3://bucket/a?region", "'region' of an address has no value"),
        ("s3://bucket/a#1?region=x", "no data folder of an object store can have a # in its name"),
        ("S3://localhost:9000/a", "localhost:9000 is a server, no bucket: .*endpoint_override=localhost:9000"),
    ],
)
def test_an_address_that_is_none_is_refused(address: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        Address.of(address)
    assert "SECRET" not in str(caught.value)


def test_a_failure_is_read_where_it_was_not_written(
    store: ObjectStore, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(opened(store.address(folder))).lock():
        Store(opened(store.address(folder))).fail("reviews", "a-0001", ErrorRecord("f", "gone", "it is gone", True, 1))
    on_another_machine(monkeypatch, tmp_path / "other")
    seen = Store(opened(store.address(folder))).error("reviews", "a-0001")
    assert seen is not None
    assert seen.message == "it is gone"


def test_what_takes_several_requests_is_whole(store: ObjectStore, folder: str, tmp_path: Path) -> None:
    content = os.urandom(1000) * 40_000  # 40 MB: pieces of 16
    (tmp_path / "large").write_bytes(content)
    objects = Objects(Address.of(store.address(folder)))
    store.fails_with(cut=4)
    objects.put("large", tmp_path / "large")
    meta = objects.get("large", tmp_path / "again")
    assert meta is not None
    assert meta.size_bytes == len(content)
    assert (tmp_path / "again").read_bytes() == content
    assert objects.get("large", tmp_path / "again", unless=meta.etag) is None


def test_videos_make_room_for_each_other(store: ObjectStore, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = opened(store.address(folder))
    mirror = mirror_of(root)
    assert isinstance(mirror, Mirror)
    (root / "media").mkdir()
    videos = [root / f"media/{k}.mp4" for k in range(4)]
    for video in videos:
        video.write_bytes(os.urandom(1_000_000))
    mirror.put_as_it_is(videos[:3])
    monkeypatch.setenv("WHIM_MEDIA_GB", "0.0021")
    mirror.have_video(videos[0])
    assert [video.exists() for video in videos] == [True, False, True, True], "the store does not have the last one: it stays"
    mirror.have_video(videos[1])
    assert [video.exists() for video in videos] == [True, True, False, True]
    assert videos[1].read_bytes() == store.content(folder, "media/1.mp4")


def test_parts_of_other_threads_are_not_taken_for_old_ones(store: ObjectStore, folder: str) -> None:
    """A look at a folder beside its driver drops nothing that is being written."""
    root = opened(store.address(folder))
    beside = Store(root)
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            opened(store.address(folder))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        content = Reviews.empty()
        for k in range(60):
            beside.commit("reviews", f"a-{k:04d}", content, {})
            assert beside.part("reviews", f"a-{k:04d}").is_file()
    finally:
        stop.set()
        looking.join()
    assert len(list((root / "reviews").glob("*.parquet"))) == 60


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOnce(toy.Fetch):
    """Takes up a video that was fetched before; from the web it is gone."""

    root: Path = Path()

    def build(self) -> Any:
        def fetch(row: Manifest) -> Videos | Failure:
            if kept_video(self.root / f"media/{row.video[0]}.info.json", {}) is None:
                return Failure(Reason.GONE, "the owner removed it")
            return toy.Fetch().build()(row)

        return fetch


def test_a_video_that_the_store_has_is_not_fetched_from_the_web_again(
    store: ObjectStore, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = opened(store.address(folder))
    (root / "media").mkdir()
    (root / "media/a.mp4").write_bytes(b"a video")
    note = {"wish": {}, "file": "a.mp4", "size_bytes": 7, "video_sha256": "", "info": {}, "tool": ""}
    (root / "media/a.info.json").write_text(seal(note))
    mirror = mirror_of(root)
    assert isinstance(mirror, Mirror)
    mirror.put_as_it_is([root / "media/a.mp4", root / "media/a.info.json"])
    on_another_machine(monkeypatch, tmp_path / "other")
    root = opened(store.address(folder))
    assert not (root / "media/a.mp4").exists()
    run_at(store.address(folder), "a", "b", stages=[FetchOnce(root=root), *toy.recipe()[1:]])
    failed = [Store(root).error("videos", video) for video in ("a", "b")]
    assert [error and error.reason for error in failed] == [None, "gone"]
    assert Store(root).keys("videos") == ["a"]


def test_a_mirror_is_named_by_its_address(store: ObjectStore, folder: str) -> None:
    root = opened(store.address(folder))
    with pytest.raises(UserError, match=rf"^s3://hands/{folder} has no hands yet: whim run .* --data 's3://hands/{folder}\?"):
        Session(root, "ann")
    assert opened(root) == root, "for workers of this process"
    MIRRORS.clear()
    for inside in (root, root / "shards"):
        with pytest.raises(UserError, match="is the mirror of a data folder in an object store: name that by its address"):
            opened(inside)


def test_a_list_larger_than_the_mirror_is_no_reason_to_go_elsewhere(
    store: ObjectStore, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Videos make room for each other there; a disk that is too small is mended where the mirror lies, not by another address."""
    listed = tmp_path / "list.txt"
    listed.write_text("dQw4w9WgXcQ split=train fps=25 frames=90000 size=1280x720\n")
    plan = ["plan", "--recipe", "whim", "--videos", str(listed), "--data", store.address(folder)]
    monkeypatch.setenv("WHIM_MEDIA_GB", "0.2")
    for free, told in ((1.8, "free for the mirror here\n"), (0.5, "that will not do, set WHIM_CACHE to a larger disk or make room\n")):
        usage = types.SimpleNamespace(free=free * 1e9)
        monkeypatch.setattr("pipeline.report.needs.shutil.disk_usage", lambda path, usage=usage: usage)
        assert whim.main(plan) == 0
        assert told in capsys.readouterr().out
    monkeypatch.setattr(doctor, "LEAST_FREE_BYTES", 1 << 60)
    monkeypatch.setattr("pipeline.report.needs.shutil.disk_usage", lambda path: types.SimpleNamespace(free=1, total=1))
    assert "set WHIM_CACHE" in doctor._disk(opened(store.address(folder))).mend
