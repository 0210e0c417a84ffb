"""`whim learn all`: calibrations and offsets of a member that has neither, from rendered hands, found where fusion and fit look."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from rich.console import Console

from fitting.files import sha256_of
from fitting.landmarks.offsets import LANDMARK_OFFSETS, load_offsets, offsets_file
from pipeline.evaluate import learn_all as module
from pipeline.evaluate.learn_all import learn_all
from pipeline.members import say_uncalibrated
from stages.detectors.as_hand_stage import rows_of
from stages.detectors.found import FoundHands
from stages.fit import Fit
from stages.fuse_hands import FuseHands
from stages.media.frames import Frames
from stages.stage import Resources
from stages.tables import HandDetections, People
from studio.stills import Album, render_album
from studio.truth import CLEAR_VISIBLE

SEED, ALBUMS = 5, 2


@cache
def rendered(album: Album) -> list[Any]:
    """An album's images and what is true of them, rendered once for whoever asks."""
    return list(render_album(album))


@dataclass(frozen=True, slots=True, kw_only=True)
class FromTruth:
    """A detector of the test's own: it knows the album, draws boxes 1.25 times too small and every landmark a tenth of the hand too low."""

    name: ClassVar[str] = "detect-hands"
    version: ClassVar[int] = 1
    key: ClassVar[str] = "clip"
    reads: ClassVar[tuple[type, ...]] = (Frames, People)
    writes: ClassVar[type] = HandDetections
    detector: ClassVar[str] = "truthful"
    resources: ClassVar[Resources] = Resources(cpus=1)
    weights: ClassVar[dict[str, str]] = {}

    def build(self) -> Callable[..., HandDetections]:
        truths = [truth for k in range(ALBUMS) for _, truth in rendered(Album(seed=SEED + k))]
        shown = iter(truths)

        def find(images: Any, people: Any) -> FoundHands:
            told = [row for row in next(shown) if row["visible"] >= CLEAR_VISIBLE]
            box = np.array([row["box"] for row in told], np.float32).reshape(-1, 4)
            middle, half = (box[:, :2] + box[:, 2:]) / 2, (box[:, 2:] - box[:, :2]) / 2.5
            points = np.array([row["keypoints"] for row in told], np.float32).reshape(-1, 21, 2)
            points = points + np.array([0, 0.1]) * np.ptp(points, axis=1).max(1)[:, None, None] if len(points) else points
            count = len(told)
            return FoundHands(
                picture=np.zeros(count, np.int64),
                route=np.full(count, "frame", object),
                person=np.full(count, -1),
                crop=np.tile(np.array([0, 0, 256, 256], np.float32), (count, 1)),
                box=np.concatenate([middle - half, middle + half], 1),
                score=np.full(count, 0.6, np.float32),
                p_right=np.full(count, np.nan, np.float32),
                keypoints=np.concatenate([points, np.ones((count, 21, 1))], 2).astype(np.float32),
            )

        return rows_of(find, self.detector)


def test_a_member_that_has_neither_gets_both_in_one_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WHIM_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(module, "FIRST_SEED", SEED)
    monkeypatch.setattr(module, "render_album", rendered)
    monkeypatch.setattr(module, "MIN_HANDS", 20)
    monkeypatch.setattr("pipeline.evaluate.calibrate.MIN_DETECTIONS", 20)
    monkeypatch.setattr("fitting.landmarks.learn_offsets.MIN_HANDS", 20)
    fuse = FuseHands(detectors=("truthful",))
    assert fuse.uncalibrated == ("truthful",)
    say_uncalibrated(fuse)
    assert "Of MediaPipe that costs a squared error of scores of 0." in caplog.text
    assert "whim learn all" in caplog.text
    assert offsets_file() == LANDMARK_OFFSETS
    assert learn_all([FromTruth(), fuse], Console(quiet=True), num_albums=ALBUMS) == ["truthful"]  # type: ignore[list-item]
    assert not fuse.uncalibrated
    learned = fuse.calibrations()["truthful"]
    np.testing.assert_allclose(learned.extent, [1.25, 1.25], atol=0.01)
    assert np.interp(0.6, *learned.knots.T) > 0.9, "all of them are hands"
    entry = json.loads((tmp_path / "landmark_offsets.json").read_text())["detectors"]["truthful"]
    assert np.mean(entry["error_before"]) > 0.09
    assert np.mean(entry["error_after"]) < 0.05
    assert set(load_offsets()) == {*load_offsets(LANDMARK_OFFSETS), "truthful"}
    assert Fit().weights["landmark_offsets"] == sha256_of(tmp_path / "landmark_offsets.json")
    with pytest.raises(ValueError, match=r"nothing to learn from 24 frames: each of mediapipe has what comes with the project"):
        learn_all([FuseHands(detectors=("mediapipe",))], Console(quiet=True), num_albums=1)
