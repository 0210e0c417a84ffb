"""Small shards for tests of exports: three videos of drifting colours with hands of the hand model, free columns, and all splits."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.exports.read_back import hand
from pipeline.dataset.index import write_index
from pipeline.engine.files.shard import write_shard
from stages.cameras.path import in_world as in_world_of
from stages.cameras.said import cameras_of
from stages.pack import ClipTables, Pack
from stages.tables import CameraPoses
from tests.small_tables import clip_row, render_video, source_of, video_row

SPLITS = {"a.b": "train", "b": "val", "c": "test"}
SIZE = np.array([320.0, 240.0])
"""Width and height of the images."""
SIGNERS = {"a.b": "ann", "b": "ben", "c": "ann"}


def write_small_shards(
    folder: Path, *, doubtful: bool = True, seeds: Sequence[int] = (0, 1, 2), in_world: bool = False, bare: str = ""
) -> Path:
    """A shard a split; with `doubtful` one hand in seven has a box and a side alone. Videos of one seed show the same.

    `in_world`: the hands' cameras are known, and of all frames but the first three where they stood. `bare`: a video without a hand.
    """
    stage = Pack(row_group_size=8, negatives=1.0)
    for seed, (name, split) in zip(seeds, SPLITS.items(), strict=True):
        video = video_row(render_video(folder / "videos" / f"{name}.mp4", num_frames=24, seed=seed), name)
        source = source_of(video, clip_row(name, end_s=2.4, num_frames=24), seed=seed)
        source.clips.extra[0] = json.dumps({"signer": SIGNERS[name], "gloss": f"HAND-{seed}"})
        source.reviews.box_only[:] = doubtful & (np.arange(len(source.reviews)) % 7 == 3)
        nowhere = np.full((len(source.fits), 3), np.nan, np.float32)
        source = replace(source, fits=replace(source.fits, transl_world=nowhere, global_orient_world=nowhere))
        if name == bare:
            source = replace(source, hands=source.hands.take([]), fits=source.fits.take([]), reviews=source.reviews.take([]))
        if in_world:
            source = placed_in_world(source)
        key = f"{split}/{split}-00000-of-00001"
        path = folder / "shards" / f"{key}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_shard(stage, stage.build()([source]), path, {"fingerprint": name.ljust(64, "0"), "key": key})
    write_index(folder / "shards", hand_model="standin")
    return folder


def placed_in_world(source: ClipTables) -> ClipTables:
    """A clip seen by a known camera that stands 5 m to the right of the world's origin and looks along its axis."""
    count, pose = int(source.clips.num_frames[0]), np.eye(4)[:3]
    pose[0, 3] = 5.0
    frames = np.arange(3, count)
    poses = CameraPoses(frame=frames, time_s=np.full(len(frames), np.nan), world_from_camera=np.tile(pose, (len(frames), 1, 1)))
    said = json.dumps({"from": "manifest", "projection": "rectilinear", "focal_px": [400, 400]})
    cameras = cameras_of(said, *SIZE.astype(int).tolist())
    rng, n = np.random.default_rng(5), len(source.fits)
    known = {
        "focal_px": np.full(n, 400, np.float32),
        "camera_from": np.full(n, "manifest", object),
        "principal": np.tile(SIZE / 2, (n, 1)).astype(np.float32),
    }
    placed = replace(source.fits, transl=rng.uniform(0.2, 0.6, (n, 3)).astype(np.float32), **known)
    return replace(source, fits=in_world_of(placed, source.hands, cameras, poses), cameras=cameras, poses=poses)


def truth(data: Path, taken: Callable[[dict[str, Any], dict[str, Any]], bool] | None = None) -> dict[str, Any]:
    """Hands by frame as `benchmarks/exports/read_back.py` tells them; `taken` says of a row and a hand whether it is wanted."""
    wanted = {}
    for path in sorted((data / "shards").glob("*/*.parquet")):
        for row in pq.read_table(path).to_pylist():
            hands = [h for h in row["hands"] if taken is None or taken(row, h)]
            if hands or taken is None:
                name = f"{path.parent.name}/{row['video']}/{row['frame']:08d}"
                wanted[name] = [hand(("left", "right")[h["side"]], h["box"], np.array(h["keypoints"])[:, :2]) for h in hands]
    return wanted


def same(found: dict[str, Any], wanted: dict[str, Any], *, atol_px: float = 2e-3) -> None:
    """Raises AssertionError that names the first hand which differs."""
    assert set(found) == set(wanted)
    for name, hands in wanted.items():
        assert [h[0] for h in found[name]] == [h[0] for h in hands], name
        for (_, box, points), (_, wanted_box, wanted_points) in zip(found[name], hands, strict=True):
            np.testing.assert_allclose(box, wanted_box, atol=atol_px, err_msg=name)
            assert [p is None for p in points] == [p is None for p in wanted_points], name
            if any(p is not None for p in points):
                np.testing.assert_allclose([p for p in points if p], [p for p in wanted_points if p], atol=atol_px, err_msg=name)


def as_held(format: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """What a format can hold of the truth."""
    if format in ("parquet", "csv", "hamer"):
        return {name: hands for name, hands in wanted.items() if hands}
    if format == "glb":  # by track, which here is the side; a hand that was not fitted moves nothing
        fitted = {name: sorted((h for h in hands if any(h[2])), key=lambda one: str(one[0])) for name, hands in wanted.items()}
        return {name: hands for name, hands in fitted.items() if hands}
    if format == "yolo":
        return {name: [cut(one) for one in hands] for name, hands in wanted.items()}
    if format == "lerobot":
        return {name: sorted(hands, key=lambda one: str(one[0]), reverse=True) for name, hands in wanted.items()}
    return wanted


def cut(one: list[Any]) -> list[Any]:
    """A hand as YOLO has it: the box within the image, keypoints beyond it unknown."""
    side, box, points = one
    inside = [p if p and 0 <= p[0] <= SIZE[0] and 0 <= p[1] <= SIZE[1] else None for p in points]
    return [side, np.clip(box, 0, np.tile(SIZE, 2)).tolist(), inside]
