"""Strangers' servers: bounded, told apart by status, kept out of the inner network, and never told or telling a secret."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import whim
from stages.download import Download, Lane, _fetch_patiently
from stages.stage import Failure, Reason
from stages.tables import Videos
from stages.web.address import hide_secrets, is_public, without_secrets
from stages.web.fetch import Request
from stages.web.refusals import classify
from tests.trust.conftest import Hostile, fetched

ROOT = Path(__file__).resolve().parents[2]


def test_a_strangers_words_about_a_disk_are_not_believed(site: Hostile, tmp_path: Path) -> None:
    outcome = fetched(site.url("500/No space left on device/x.mp4"), tmp_path)
    assert isinstance(outcome, Failure)
    assert (outcome.reason, outcome.permanent) == (Reason.TRANSIENT, False), outcome.message
    assert "No space left" in outcome.message


@pytest.mark.parametrize("tell_length", [True, False])
def test_a_body_without_end_is_given_up_and_leaves_nothing(site: Hostile, tmp_path: Path, tell_length: bool) -> None:
    if tell_length:
        outcome = fetched(site.url("ok/clip.mp4"), tmp_path, largest_bytes=50_000)
    else:
        outcome = fetched(site.url("endless/clip.mp4"), tmp_path, largest_bytes=2_000_000)
    assert isinstance(outcome, Failure)
    assert (outcome.reason, outcome.permanent) == (Reason.TOO_LARGE, True), outcome.message
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_page_is_counted_as_it_unfolds(site: Hostile, tmp_path: Path) -> None:
    outcome = fetched(site.url("bomb/page.html"), tmp_path)
    assert isinstance(outcome, Failure)
    assert outcome.reason == Reason.TOO_LARGE, outcome.message
    assert "64 MiB" in outcome.message


def test_a_trickle_is_given_up(site: Hostile, tmp_path: Path) -> None:
    outcome = fetched(site.url("loris/clip.mp4"), tmp_path, slow_after_s=3.0, socket_timeout_s=30)
    assert isinstance(outcome, Failure)
    assert (outcome.reason, outcome.permanent) == (Reason.TIMEOUT, False), outcome.message
    assert "bytes a second" in outcome.message


@pytest.mark.parametrize("honesty", ["etag", "ignores the condition", "says nothing"])
def test_two_versions_are_never_joined(site: Hostile, tmp_path: Path, honesty: str) -> None:
    site.ignores_conditions = honesty != "etag"
    if honesty == "says nothing":
        site.etag = ""
    cut = site.body
    part = tmp_path / "incoming/v/v.mp4.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(cut[: len(cut) // 2])
    (part.parent / "version.json").write_text(json.dumps({"etag": site.etag, "last_modified": "", "num_bytes": len(cut)}))
    site.body = cut[:48] + bytes(byte ^ 0x55 for byte in cut[48:-2000]) + cut[-2000:]  # of the same length, its index sound
    site.etag = site.etag and '"two"'
    outcome = fetched(site.url("ok/clip.mp4"), tmp_path)
    if isinstance(outcome, Videos):
        assert outcome.sha256[0] == hashlib.sha256(site.body).hexdigest()
    stored = [path.read_bytes() for path in tmp_path.glob("*.mp4")]
    assert all(found == site.body for found in stored)
    assert site.visits["ok"] >= 2


def test_a_part_of_the_same_version_goes_on(site: Hostile, tmp_path: Path) -> None:
    outcome = fetched(site.url("cut/clip.mp4"), tmp_path)
    assert isinstance(outcome, Videos)
    assert outcome.sha256[0] == hashlib.sha256(site.body).hexdigest()
    assert site.ranges, "it began anew"


def test_a_part_of_another_address_is_no_part_of_this_one(site: Hostile, tmp_path: Path) -> None:
    incoming = tmp_path / "incoming/v"
    incoming.mkdir(parents=True)
    (incoming / "wish.json").write_text(json.dumps({"url": site.url("ok/other.mp4"), "lines": 1080, "frames_per_second": 0.0}))
    (incoming / "v.mp4").write_bytes(site.body[:-100])
    outcome = fetched(site.url("ok/clip.mp4"), tmp_path)
    assert isinstance(outcome, Videos)
    assert outcome.sha256[0] == hashlib.sha256(site.body).hexdigest()


@pytest.mark.parametrize("name", ["hands-copyright-free.mp4", "captcha.mp4", "private video.mp4", "video-unavailable/sign in.mp4"])
def test_the_words_of_an_address_decide_nothing(name: str) -> None:
    stem = Path(name).stem
    said = f"[generic] {stem}: Unable to download webpage: HTTP Error 503: Service Unavailable"
    assert classify(said, (), f"http://host/{name}").reason == Reason.TRANSIENT
    cut = f"[generic] {stem}: Unable to connect to http://host/{name.replace(' ', '%20')} (reset)"
    assert classify(cut, (), f"http://host/{name}").reason == Reason.TRANSIENT


def test_a_status_decides_whatever_is_said_beside_it() -> None:
    assert classify("HTTP Error 503: video has been removed, captcha").reason == Reason.TRANSIENT
    assert classify("HTTP Error 404: try again later").reason == Reason.GONE


@pytest.mark.parametrize("manner", ["redirect/a.mp4", "page/a.html", "playlist/a.m3u8"])
def test_nothing_leads_into_the_inner_network(site: Hostile, inner: Hostile, tmp_path: Path, manner: str) -> None:
    site.to = inner.url("ok/clip.mp4")
    outcome = fetched(site.url(manner), tmp_path)
    assert isinstance(outcome, Failure)
    assert not inner.visits, "the inner server was asked"
    assert outcome.reason == Reason.PRIVATE_ADDRESS, outcome.message


def test_no_program_is_sent_to_fetch(site: Hostile, tmp_path: Path) -> None:
    site.to = site.url("ok/clip.mp4")
    outcome = fetched(site.url("key/a.m3u8"), tmp_path)
    assert isinstance(outcome, Failure)
    assert outcome.reason == Reason.FORMAT_MISSING, outcome.message
    assert "ffmpeg" in outcome.message


def test_a_host_that_is_named_is_reached(site: Hostile, inner: Hostile, tmp_path: Path) -> None:
    site.to = inner.url("ok/clip.mp4")
    assert isinstance(fetched(site.url("redirect/a.mp4"), tmp_path, private_hosts=("127.0.0.2",)), Videos)
    assert inner.visits["ok"]


@pytest.mark.parametrize(
    ("address", "public"),
    [("1.1.1.1", True), ("2606:4700::1111", True), ("10.1.2.3", False), ("169.254.169.254", False), ("::ffff:127.0.0.1", False),
     ("64:ff9b::a00:1", False), ("2002:7f00:1::", False), ("100.64.0.1", False), ("0.0.0.0", False), ("fe80::1%eth0", False)],
)  # fmt: skip
def test_inner_addresses_are_known_in_every_spelling(address: str, public: bool) -> None:
    assert is_public(address) == public


def test_a_video_behind_a_password_is_not_told_as_gone(site: Hostile, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`whim refresh` asked with the stored address, which has no password, and advised to remove what is there."""
    listed, data = tmp_path / "list.txt", str(tmp_path / "data")
    listed.write_text(
        f"{site.url('private/clip.mp4', user='me:s3kr3t-word')} id=mine\n{site.url('signed/clip.mp4?token=t0k3n-word')} id=signed\n"
    )
    assert whim.main(["run", "--local", "--videos", str(listed), "--data", data, "--until", "download"]) == whim.DONE
    capsys.readouterr()
    assert whim.main(["refresh", "--data", data, "--json"]) == whim.DONE
    said = capsys.readouterr().out
    assert [look["offer"] for look in json.loads(said)] == ["offered", "offered"]
    assert not {word for word in ("s3kr3t-word", "t0k3n-word") if word in said}
    listed.unlink()  # known from the last run, which stores no token
    assert whim.main(["refresh", "--data", data, "--json"]) == whim.ITEMS_FAILED
    assert json.loads(capsys.readouterr().out)[1]["offer"] == "unknown"


def test_passwords_and_tokens_are_used_and_never_stored(site: Hostile, tmp_path: Path) -> None:
    url = site.url("private/clip.mp4?access_token=t0k3n-word&part=1", user="me:s3kr3t-word")
    seen: list[str] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            for line in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.append(line.read_bytes().decode(errors="replace"))
                except OSError:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        outcome = fetched(url, tmp_path)
    finally:
        stop.set()
        watcher.join()
    assert isinstance(outcome, Videos)
    assert any("stages.web.fetch" in line for line in seen), "the process was not seen"
    everything = (
        b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()) + repr(outcome.to_arrow().to_pylist()).encode()
    )
    for secret in ("s3kr3t-word", "t0k3n-word"):
        assert secret.encode() not in everything
        assert not any(secret in line for line in seen if "stages.web.fetch" in line)
    refused = fetched(site.url("404/clip.mp4?sig=t0k3n-word", user="me:s3kr3t-word"), tmp_path / "b", proxy="")
    assert isinstance(refused, Failure)
    assert "s3kr3t" not in refused.message
    assert "t0k3n" not in refused.message


def test_what_of_an_address_is_kept() -> None:
    assert without_secrets("http://u:p@h:80/x.mp4?v=1") == "http://h:80/x.mp4?v=1"
    one, other = (without_secrets(f"https://h/x?X-Amz-Signature={value}") for value in ("abc", "abd"))
    assert one != other
    assert "abc" not in one
    assert without_secrets("5-TyAsFwo40") == "5-TyAsFwo40"
    assert "s3" not in hide_secrets("cannot reach socks5://me:s3%40x@proxy:1 (s3@x)", ["socks5://me:s3%40x@proxy:1"])


PLANTED = "import pathlib; pathlib.Path({mark!r}).touch()\n"


def test_no_module_of_the_current_folder_and_no_plugin_runs(site: Hostile, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    here = tmp_path / "here"
    plugin = tmp_path / "config/yt-dlp/plugins/any/yt_dlp_plugins/extractor/planted.py"
    for module in (here / "yt_dlp.py", here / "stages.py", here / "json.py", plugin):
        module.parent.mkdir(parents=True, exist_ok=True)
        module.write_text(PLANTED.format(mark=str(mark)))
    code = (
        f"import os, sys; os.environ['PYTHONPATH'] = ':relative';"
        f"sys.path.append({str(ROOT)!r}); from pathlib import Path;"
        "from tests.trust.conftest import fetched;"
        f"print(type(fetched({site.url('ok/clip.mp4')!r}, Path({str(tmp_path / 'media')!r}))).__name__)"
    )
    environment = os.environ | {"PYTHONPATH": "", "XDG_CONFIG_HOME": str(tmp_path / "config")}
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=here, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "Videos", done.stdout + done.stderr
    assert not mark.exists()


def test_half_a_file_is_no_file(site: Hostile, tmp_path: Path) -> None:
    media, url = tmp_path / "media", site.url("ok/clip.mp4")
    assert isinstance(fetched(url, media), Videos)
    for damage in (site.body[: len(site.body) // 2], b""):
        (media / "v.mp4").write_bytes(damage)
        assert isinstance(fetched(url, media), Videos)
        assert (media / "v.mp4").read_bytes() == site.body
    victim = tmp_path / "victim.mp4"
    victim.write_bytes(site.body)
    note = json.loads((media / "v.info.json").read_text())
    (media / "v.info.json").write_text(json.dumps(note | {"file": "../victim.mp4"}))
    again = fetched(url, media)
    assert isinstance(again, Videos)
    assert Path(again.path[0]) == media / "v.mp4", "a note led out of its folder"


def test_a_video_its_note_and_their_folder_are_on_the_disk_before_it_counts(
    site: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    media, really = tmp_path / "media", os.fsync
    flushed: list[tuple[Path, list[str]]] = []

    def flush(descriptor: int) -> None:
        really(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_relative_to(media.resolve()):
            flushed.append((path.relative_to(media.resolve()), sorted(one.name for one in media.iterdir() if one.is_file())))

    monkeypatch.setattr(os, "fsync", flush)
    assert isinstance(fetched(site.url("ok/clip.mp4"), media, socket_timeout_s=60), Videos)
    whole = ["v.info.json", "v.mp4"]
    assert flushed == [(Path("incoming/v/v.mp4"), []), (Path("incoming/v/info.json"), []), (Path(), whole)]


def test_a_site_that_refuses_is_given_longer_and_longer_pauses(site: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request(url=site.url("429/x.mp4"), folder=str(tmp_path), stem="v", lines=360, frames_per_second=0, socket_timeout_s=50)
    patient = Download(folder=tmp_path, attempts=1, youtube_pause_s=600.0, youtube_pauses=2)
    slept: list[float] = []
    monkeypatch.setattr("stages.download.time", SimpleNamespace(monotonic=time.monotonic, sleep=slept.append))
    outcome = _fetch_patiently(request, patient, Lane(per_hour=1e6, sleep_s=0.0))
    assert [pause for pause in slept if pause] == [600.0, 1200.0]
    assert isinstance(outcome, Failure)
    assert (outcome.reason, outcome.permanent) == (Reason.BLOCKED, False)
    assert site.visits["429"] == 3


def test_an_address_that_is_refused_is_told_after_one_video_s_pauses(
    site: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of a list's videos waited through all pauses, more than an hour, before a run said that this address is refused."""
    patient = Download(folder=tmp_path, attempts=1, youtube_pause_s=600.0, youtube_pauses=2)
    slept: list[float] = []
    monkeypatch.setattr("stages.download.time", SimpleNamespace(monotonic=time.monotonic, sleep=slept.append))
    lane = Lane(per_hour=1e6, sleep_s=0.0)

    def asked(address: str) -> Failure | None:
        request = Request(url=site.url(address), folder=str(tmp_path), stem="v", lines=360, frames_per_second=0, socket_timeout_s=50)
        outcome = _fetch_patiently(request, patient, lane)
        return outcome if isinstance(outcome, Failure) else None

    asked("429/x.mp4")
    gone = asked("404/x.mp4")
    assert gone is not None
    assert (gone.reason, lane.refused) == (Reason.GONE, 0), "an answer says that the address is refused no more"
    slept.clear()
    outcomes = [asked("429/x.mp4") for _ in range(4)]
    assert [pause for pause in slept if pause] == [600.0, 1200.0]
    assert site.visits["429"] == 3 + 3 + 1, "the next video is asked for once, others are not"
    assert all(outcome and (outcome.reason, outcome.permanent) == (Reason.BLOCKED, False) for outcome in outcomes)
