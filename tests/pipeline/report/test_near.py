"""The report finds hands of one pose in different tracks, and frames of one image in different videos, and nothing else."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg

from pipeline.engine.store import Store
from pipeline.report.found import gather
from pipeline.report.near import NEAR_BITS, image_hash, near_frames, near_poses
from stages.pack import ClipTables
from stages.tables import LEFT
from tests.pipeline.exports.shards import write_small_shards
from tests.small_tables import clip_row, render_video, source_of, video_row, write_tables

MIRROR = np.tile(np.array([1, -1, -1], np.float32), 15)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[ClipTables]:
    """Two videos whose hands have poses of their own."""
    folder, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    video = render_video(folder / "video.mp4")
    found = [source_of(video_row(video, name), clip_row(name), seed=i) for i, name in enumerate("ab")]
    return [kept(posed(one, rng.normal(0, 0.4, one.fits.hand_pose.shape))) for one in found]


def kept(source: ClipTables) -> ClipTables:
    return replace(source, reviews=replace(source.reviews, keep=np.ones(len(source.reviews), bool)))


def posed(source: ClipTables, poses: np.ndarray) -> ClipTables:
    """The hands of a clip in these poses of right hands."""
    own = np.where((source.fits.side == LEFT)[:, None], poses * MIRROR, poses).astype(np.float32)
    return replace(source, fits=replace(source.fits, hand_pose=own))


def as_right(source: ClipTables) -> np.ndarray:
    return np.where((source.fits.side == LEFT)[:, None], source.fits.hand_pose * MIRROR, source.fits.hand_pose)


def test_hands_of_one_pose_are_found_across_tracks_and_sides(sources: list[ClipTables], tmp_path: Path) -> None:
    first, second = sources
    write_tables(tmp_path / "apart", sources)
    apart = near_poses(Store(tmp_path / "apart"), gather(Store(tmp_path / "apart")).found)
    assert (apart.num_near, list(apart.pairs)) == (0, [])
    assert apart.num_looked_at > 2
    alike = posed(second, as_right(first)[: len(second.fits)] + np.radians(1))
    write_tables(tmp_path / "alike", [first, alike])
    store = Store(tmp_path / "alike")
    found = gather(store).found
    near = near_poses(store, found)
    assert near.num_near == near.num_looked_at == apart.num_looked_at
    pair = near.pairs[0]
    assert {pair.first[0], pair.second[0]} == {"a", "b"}
    assert pair.distance == pytest.approx(1, rel=1e-2)  # degrees
    places = {(v, f, h) for v, f, h in zip(found.video, found.frame, found.hand, strict=True)}
    assert {pair.first, pair.second} <= places


def test_frames_of_one_image_are_found_across_videos(tmp_path: Path) -> None:
    same = near_frames(Store(write_small_shards(tmp_path / "same", seeds=(0, 0, 1))))
    assert [(pair.first[0], pair.second[0]) for pair in same.pairs] == [("a.b", "b")]
    assert 0 < same.num_near < same.num_looked_at
    assert near_frames(Store(write_small_shards(tmp_path / "apart"))).num_near == 0
    assert near_frames(Store(tmp_path)).num_looked_at == 0


def test_damaged_images_of_a_shard_are_passed_over(tmp_path: Path) -> None:
    """The report died of a page of images that cannot be read, though nothing else of the shard is damaged."""
    data = write_small_shards(tmp_path / "data", seeds=(0, 0, 1))
    looked_at = near_frames(Store(data)).num_looked_at
    shard = next((data / "shards").glob("val/*.parquet"))
    content = bytearray(shard.read_bytes())
    for place in [k for k in range(len(content) - 2) if content[k : k + 3] == b"\xff\xd8\xff"]:
        content[place + 100] ^= 255
    shard.write_bytes(content)
    assert 0 < near_frames(Store(data)).num_looked_at < looked_at


def test_an_image_is_known_again_smaller_and_coarser() -> None:
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 255, (12, 16, 3), np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
    other = cv2.resize(rng.integers(0, 255, (12, 16, 3), np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
    small = cv2.resize(image, (320, 240), interpolation=cv2.INTER_AREA)
    told, again, else_ = (image_hash(simplejpeg.encode_jpeg(one, quality=q)) for one, q in ((image, 95), (small, 40), (other, 95)))
    assert told is not None and again is not None and else_ is not None  # noqa: PT018
    assert np.bitwise_count(told ^ again).sum() <= NEAR_BITS < np.bitwise_count(told ^ else_).sum()
    assert image_hash(simplejpeg.encode_jpeg(np.zeros((48, 64, 3), np.uint8))) is None
