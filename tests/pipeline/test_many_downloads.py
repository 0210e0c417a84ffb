"""WHIM's whole list downloaded in simulated time: every video ends in one state with the true reason, no address goes over its rate."""

import json
import re
import shutil
import tracemalloc
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.graph import Graph
from pipeline.engine.nodes.executor import Local
from pipeline.engine.plan.tasks import State
from pipeline.engine.run import run
from pipeline.engine.store import Store
from pipeline.manifest import read_manifest
from stages import download
from stages.download import Download
from stages.stage import Reason
from stages.web.fetch import Answer, Request

ROOT = Path(__file__).resolve().parents[2]
MESSAGES = [json.loads(line) for line in (ROOT / "tests/data/yt_dlp_messages.jsonl").read_text().splitlines()]
GONE, BUSY, BLOCKED = (
    [one["message"] for one in MESSAGES if one["reason"] == reason and not one.get("warnings")]
    for reason in ("gone", "transient", "blocked")
)


class Youtube:
    """Answers as the site does, in time that passes only by waiting: a sixth of the videos is gone, some fail now and then, and who asks
    more than 300 times an hour is refused."""

    def __init__(self, clip: Path) -> None:
        self.now, self.clip = 0.0, clip
        self.asked: list[float] = []
        self.by_video: Counter[str] = Counter()
        self.down = True
        """Whether the unlucky ones fail whatever one does."""

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def answer(self, request: Request, limit_s: float, pace: Any = None) -> Answer:
        video = request.url.partition("v=")[2]
        self.asked.append(self.now)
        self.by_video[video] += 1
        self.now += 6.0
        kind = sum(map(ord, video)) % 12
        if sum(at > self.now - 3600 for at in self.asked) > 300 or (kind == 5 and self.by_video[video] == 1):
            return Answer(message=BLOCKED[0])
        if kind in (0, 1):
            return Answer(message=GONE[sum(map(ord, video)) % len(GONE)])
        if kind == 2 and self.by_video[video] == 1:
            return Answer(message=BUSY[0])
        if kind == 3 and self.down:
            return Answer(message=BUSY[0])
        path = Path(request.folder) / f"{request.stem}.mp4"
        shutil.copyfile(self.clip, path)
        return Answer(path=str(path), tool="yt-dlp 2026", info={"title": video})


def kind_of(video: str) -> int:
    return sum(map(ord, video)) % 12


@pytest.mark.parametrize("count", [60, pytest.param(1457, marks=pytest.mark.long)])
def test_every_video_ends_in_one_state_and_a_second_run_asks_for_what_can_still_succeed(
    count: int, tmp_path: Path, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Youtube(media / "odd/fiveshots.mp4")
    monkeypatch.setattr(download, "attempt", site.answer)
    monkeypatch.setattr("stages.download.time.sleep", site.sleep)
    monkeypatch.setattr("stages.download.time.monotonic", lambda: site.now)
    whole = read_manifest(ROOT / "manifests" / "whim.txt")
    manifest = whole.take(slice(0, None, len(whole) // count)).take(slice(0, count))
    stages = [Download(folder=tmp_path / "data" / "media")]
    graph = Graph(stages, manifest, Store(tmp_path / "data")).load()
    stages_without_limit = [replace(stage) for stage in stages]
    tracemalloc.start()
    sizes: list[int] = []
    run(
        graph,
        Local(graph.store.root, stages_without_limit),
        on_outcome=lambda task, outcome: sizes.append(tracemalloc.get_traced_memory()[0]),
    )
    tracemalloc.stop()
    found = {task.key: (task.state, task.reason) for task in graph.tasks}
    assert len(found) == count
    for task in graph.tasks:
        source, kind = str(task.row.source[0]), kind_of(str(task.row.source[0]))  # type: ignore[union-attr]
        if not re.fullmatch(r"[A-Za-z0-9_-]{11}", source):
            assert found[task.key] == (State.FAILED, Reason.MALFORMED_ID)
        elif kind in (0, 1):
            assert found[task.key] == (State.FAILED, Reason.GONE)
        elif kind == 3:
            assert found[task.key] == (State.RETRY, Reason.TRANSIENT)
        else:
            assert found[task.key][0] is State.DONE
    hours = Counter(int(at // 3600) for at in site.asked)
    assert max(hours.values()) <= 260, "the bucket's ten tokens beside 250 an hour"
    assert min(later - earlier for earlier, later in pairwise(site.asked)) >= 5
    half = len(sizes) // 2
    assert max(sizes[half:]) < 1.2 * max(sizes[:half]) + 2e6, "memory does not grow with the videos"

    site.down, before = False, dict(site.by_video)
    again = Graph(stages, manifest, Store(tmp_path / "data")).load()
    run(again, Local(again.store.root, stages))
    asked = {video for video, n in site.by_video.items() if n > before.get(video, 0)}
    assert asked == {str(task.row.source[0]) for task in graph.tasks if found[task.key][0] is State.RETRY}  # type: ignore[union-attr]
    assert {task.state for task in again.tasks} == {State.DONE, State.FAILED}
