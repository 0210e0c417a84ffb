"""Full disks, folders that cannot be written, signals, second drivers: a clear end, nothing half-written, and the next run goes on."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.chain.conftest import ROOT, command, environment, status

Whim = Callable[..., "subprocess.CompletedProcess[str]"]
RAYS_OWN = ("DashboardAgent", "RuntimeEnvAgent")
"""Of Ray's small helpers, the two that outlive a killed driver by a minute."""


def left_over(data: Path) -> list[Path]:
    return list(data.rglob("*.tmp"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 600 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True, check=False).returncode
    ):
        pytest.skip("needs root and mount, for a disk that can be filled")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_is_named_and_the_run_goes_on_once_there_is_room(small_disk: Path, served: str, whim: Whim) -> None:
    videos, data = small_disk.parent / "list.txt", small_disk / "data"
    videos.write_text(f"{served}/videos/intel/asl_yes.mkv id=yes")  # 170 kB, and 700 kB of parts

    def filled(free_kb: int) -> None:
        (small_disk / "filler").unlink(missing_ok=True)
        free = os.statvfs(small_disk)
        (small_disk / "filler").write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - free_kb * 1024)))

    for free_kb in (0, 100, 260):  # not even for the lock; for half of the video; for some parts
        filled(free_kb)
        said = whim("run", "--local", "--videos", videos, "--data", data, status=1)
        assert f"no room left in {data}" in said.stderr
        assert "Traceback" not in said.stdout + said.stderr
        assert not left_over(data)
        assert not list(data.rglob("*.error.json"))
    assert status(whim, data)["stages"]["download"]["done"] == 1
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    whim("run", "--local", "--data", data)
    assert status(whim, data)["stages"]["pack"]["done"] == 1


def test_a_folder_that_cannot_be_written_is_named_and_can_be_read(small_disk: Path, few_videos: Path, whim: Whim) -> None:
    data = small_disk / "data"
    whim("run", "--local", "--videos", few_videos / "black_3s.mp4", "--data", data, "--until", "split")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    said = whim("run", "--local", "--data", data, status=1).stderr
    assert f"cannot write to the data folder {data}" in said
    assert "--data" in said
    assert status(whim, data)["stages"]["split"]["done"] == 1


def started(videos: Path, data: Path, *flags: str) -> "subprocess.Popen[str]":
    """A run that has committed something new and is in the middle of the rest."""
    before = set(data.rglob("*.parquet"))
    line = command("run", "--videos", videos, "--data", data, *flags)
    driver = subprocess.Popen(
        line,
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs, this test's too, ignore it
    )
    while driver.poll() is None and set(data.rglob("*.parquet")) <= before:
        time.sleep(0.05)
    assert driver.poll() is None, driver.communicate()[0]
    return driver


def stopped(driver: "subprocess.Popen[str]", number: signal.Signals, data: Path) -> None:
    driver.send_signal(number)
    said = driver.communicate()[0]
    assert driver.returncode == 130, said
    assert "run again to go on" in said
    assert ("what is being made is finished" in said) == (number == signal.SIGTERM)
    assert "Traceback" not in said
    assert not left_over(data)


def stopped_and_on(videos: Path, data: Path, number: signal.Signals, *flags: str) -> None:
    """A run stopped in its middle, with something left to do for the next one."""
    stopped(started(videos, data, *flags), number, data)
    shutil.rmtree(data / "person_detections", ignore_errors=True)


def test_stopped_in_any_way_a_run_goes_on_later(few_videos: Path, whim: Whim, tmp_path: Path) -> None:
    data = tmp_path / "data"
    stopped_and_on(few_videos, data, signal.SIGINT, "--local")

    driver = started(few_videos, data)
    driver.send_signal(signal.SIGSTOP)  # it is not to end meanwhile
    second = whim("run", "--local", "--data", data, status=1).stderr
    driver.send_signal(signal.SIGCONT)
    assert f"in use by pid {driver.pid} on " in second
    stopped(driver, signal.SIGTERM, data)
    shutil.rmtree(data / "person_detections", ignore_errors=True)

    driver = started(few_videos, data)
    family = psutil.Process(driver.pid).children(recursive=True)
    workers = [child for child in family if not any(name in " ".join(child.cmdline()) for name in RAYS_OWN)]
    driver.kill()
    driver.communicate()
    assert len(workers) >= 3
    _, alive = psutil.wait_procs(workers, timeout=120)
    assert not alive, "a killed driver leaves processes"
    (data / "hands").mkdir(exist_ok=True)
    (data / "hands/.asl_yes-0000.parquet.0a1b2c3d.tmp").write_bytes(b"half")  # what a kill in the middle of a write leaves

    whim("run", "--local", "--data", data, status=2)
    assert not left_over(data)
    assert status(whim, data)["stages"]["review"]["done"] == 3


@pytest.mark.long
def test_each_signal_stops_a_run_of_each_kind(few_videos: Path, whim: Whim, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for flags in (("--local",), ()):
        for number in (signal.SIGINT, signal.SIGTERM):
            stopped_and_on(few_videos, data, number, *flags)
    whim("run", "--local", "--data", data, status=2)
    assert status(whim, data)["stages"]["review"]["done"] == 3
