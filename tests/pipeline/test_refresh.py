"""`whim refresh` lists what its owners took down, fetches nothing and changes nothing; the room needed is told before a download."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

import whim
from pipeline.engine.graph import Graph
from pipeline.engine.store import Store
from pipeline.manifest import read_manifest
from pipeline.recipes import whim as recipe
from pipeline.refresh import refresh
from pipeline.report.needs import needs_of, print_needs
from stages.download import Download
from tests.stages.test_download import Site, site  # noqa: F401  # a fixture


def test_what_was_taken_down_is_listed_and_nothing_changes(
    site: Site,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    listed, data = tmp_path / "list.txt", tmp_path / "data"
    listed.write_text(f"{site.url('ok/clip.mp4')} id=stays\n{site.url('fine/clip.mp4')} id=goes\n")
    assert whim.main(["run", "--local", "--videos", str(listed), "--data", str(data), "--until", "download"]) == 0
    assert "2 videos are to be fetched: about 0.2 GB of media and 0.0 GB of shards" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    assert whim.main(["refresh", "--data", str(data)]) == 0
    assert "2 videos asked for: 0 are gone" in capsys.readouterr().out

    site.manners = {"fine": 404}
    assert whim.main(["refresh", "--data", str(data), "--json"]) == 2
    found = {one["video"]: one["offer"] for one in json.loads(capsys.readouterr().out)}
    assert found == {"stays": "offered", "goes": "gone"}
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before


def test_a_site_that_refuses_this_address_is_left_alone(site: Site, tmp_path: Path) -> None:  # noqa: F811
    listed, store = tmp_path / "list.txt", Store(tmp_path / "data")
    listed.write_text("".join(f"{site.url(f'{name}/clip.mp4')} id={name}\n" for name in "abcdef"))
    assert whim.main(["run", "--local", "--videos", str(listed), "--data", str(store.root), "--until", "download"]) == 0
    settings = Download(youtube_pauses=1, folder=tmp_path)

    def looks(**manners: int) -> list[str]:
        site.manners = manners
        site.visits.clear()
        return [look.reason for look in refresh(store, read_manifest(listed), settings)]

    assert looks(a=403, c=403, e=403) == ["blocked", "", "blocked", "", "blocked", ""]  # each speaks for itself
    assert looks(b=403, c=403, d=403, e=404) == ["", *5 * ["blocked"]]
    assert set(site.visits) == {"a", "b", "c"}


def test_a_disk_that_is_too_small_is_told_before_the_first_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("dQw4w9WgXcQ split=train fps=25 frames=90000 size=1280x720\n-05MRmp1i4w split=train\n")
    store, manifest = Store(tmp_path / "data"), read_manifest(listed)
    graph = Graph(recipe(manifest, store.root), manifest, store).load()
    told = needs_of(graph)
    assert told.num_videos == 2
    assert told.media_gb == pytest.approx(1.0 + 204 / 3600 * 1.8)
    assert told.shards_gb == pytest.approx((3600 + 204) * 5 * 60e-6)
    said = io.StringIO()
    monkeypatch.setattr("pipeline.report.needs.shutil.disk_usage", lambda path: type("Usage", (), {"free": 10**9})())
    print_needs(graph, Console(file=said, width=300))
    assert "1 GB are free: that will not do" in said.getvalue()
