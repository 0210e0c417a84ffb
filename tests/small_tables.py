"""Small real inputs for tests of what comes after the fit: a rendered video and the tables of a clip of it, hands of the hand model."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from fitting.hand.mano import load_hand_model, pose_either_hand, project
from stages.media.frames import read_frames
from stages.pack import ClipTables
from stages.tables import Clips, Fits, Hands, Reviews, Table, Videos

REASONS = ("joint_limits", "too_small", "weak_source")


def render_video(
    path: Path, *, num_frames: int = 40, width: int = 320, height: int = 240, frames_per_second: int = 10, seed: int = 0
) -> Path:
    """A video of smooth colours that drift: cheap, and no two frames alike."""
    import imageio_ffmpeg

    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 6, 3)
    y, x = np.mgrid[:height, :width] / max(width, height)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = imageio_ffmpeg.write_frames(str(path), (width, height), fps=frames_per_second, macro_block_size=1, ffmpeg_log_level="error")
    writer.send(None)
    for t in range(num_frames):
        waves = [np.sin(9 * (x * np.cos(p) + y * np.sin(p)) + p + 0.1 * t) for p in phase]
        writer.send(np.ascontiguousarray((127 + 90 * np.stack(waves, 2)).astype(np.uint8)))
    writer.close()
    return path


def columns(table: type[Table], n: int, **given: Any) -> Table:
    """A table of n rows: the given columns, zeros, '' or empty lists in all others. A single value stands for all rows."""
    values = {}
    for field in table.schema():
        is_list = str(field.type).startswith("list")
        value = given.pop(field.name, [[] for _ in range(n)] if is_list else "" if str(field.type) == "string" else 0)
        dtype: Any = object if str(field.type) == "string" or is_list else None
        shape, arrow = [n], field.type
        while hasattr(arrow, "list_size"):
            shape.append(arrow.list_size)
            arrow = arrow.value_type
        if dtype is None:
            dtype = arrow.to_pandas_dtype()
        if dtype is object and isinstance(value, list):
            column = np.empty(n, object)
            column[:] = value
        else:
            column = np.array(np.broadcast_to(np.asarray(value, dtype), shape))
        values[field.name] = column
    assert not given, f"no such column: {given}"
    return table(**values)


def video_row(path: Path, video: str, *, width: int = 320, height: int = 240) -> Videos:
    row = columns(
        Videos, 1, video=video, path=str(path), source=f"https://example.org/{video}", sha256="0" * 64,
        width=width, height=height, licence="CC-BY 4.0", channel="a channel", title=f"title of {video}",
    )  # fmt: skip
    assert isinstance(row, Videos)
    return row


def clip_row(video: str, *, number: int = 0, start_s: float = 0.0, end_s: float = 4.0, first_frame: int = 0, num_frames: int = 40) -> Clips:
    row = columns(
        Clips, 1, clip=f"{video}-{number:04d}", video=video, start_s=start_s, end_s=end_s, first_frame=first_frame,
        num_frames=num_frames, frames_per_second=5.0, ends_with="end",
    )  # fmt: skip
    assert isinstance(row, Clips)
    return row


def source_of(videos: Videos, clips: Clips, *, seed: int = 0, empty_every: int = 4) -> ClipTables:
    """A right and a left hand on every sampled frame but each `empty_every`-th; a third of the hands dropped, each with a reason."""
    rng = np.random.default_rng(seed)
    video = videos.video[0]
    sampled = [
        (frame, time_s, *image.shape[1::-1])
        for stretch in read_frames(Path(videos.path[0]), clips)
        for frame, time_s, image in zip(stretch.frame.tolist(), stretch.time_s.tolist(), stretch.images, strict=True)
    ]
    rows = [(*s, side) for i, s in enumerate(sampled) if i % empty_every != empty_every - 1 for side in (0, 1)]
    frame, time_s, width, height, side = (np.array(c) for c in zip(*rows, strict=True))
    n = len(rows)
    key = {"video": video, "frame": frame, "time_s": time_s, "hand": 1 - side}
    fits = _fits(rng, side, width, height, key)
    noise = rng.normal(0, 2, (n, 21, 2)).astype(np.float32)
    keypoints = np.concatenate([fits.joints_2d + noise, rng.uniform(0.5, 1, (n, 21, 1))], 2).astype(np.float32)
    quality = rng.uniform(0, 1, n).astype(np.float32)
    keep = quality > 0.33
    hands = columns(
        Hands, n, **key, width=width, height=height, box=fits.box, score=rng.uniform(0.4, 1, n), side=side, keypoints=keypoints,
        world=fits.joints_3d, landmark_score=0.9, track=side, track_length=n // 2, num_agree=2, num_run=2,
        sources=[["mediapipe", "vitpose"]] * n, source_scores=[[0.9, 0.5]] * n, source_boxes=[[b, b + 1] for b in fits.box],
    )  # fmt: skip
    reviews = columns(
        Reviews,
        n,
        **key,
        quality=quality,
        keep=keep,
        box_only=False,
        reason=[("" if k else REASONS[i % len(REASONS)]) for i, k in enumerate(keep)],
    )
    assert isinstance(hands, Hands)
    assert isinstance(reviews, Reviews)
    return ClipTables(videos=videos, clips=clips, hands=hands, fits=fits, reviews=reviews)


def _fits(rng: np.random.Generator, side: np.ndarray, width: np.ndarray, height: np.ndarray, key: dict[str, object]) -> Fits:
    n = len(side)
    model = load_hand_model()
    betas = torch.from_numpy(rng.normal(0, 0.5, (n, 10)).astype(np.float32))
    orient = torch.from_numpy(rng.normal(0, 0.6, (n, 3)).astype(np.float32))
    pose = model.hands_mean.float() + torch.from_numpy(rng.normal(0, 0.1, (n, 45)).astype(np.float32))
    hand = pose_either_hand(model, torch.from_numpy(side.astype(np.int64)), betas, orient, pose)
    at = np.stack([width * (0.7 - 0.4 * side), height * 0.6], 1) + rng.normal(0, 4, (n, 2))
    camera = torch.from_numpy(np.concatenate([(height * 1.6)[:, None], at], 1).astype(np.float32))
    vertices, joints = project(hand.vertices, camera).numpy(), project(hand.joints, camera).numpy()
    fits = columns(
        Fits, n, **key, side=side, outcome="converged", betas=betas.numpy(), global_orient=orient.numpy(), hand_pose=pose.numpy(),
        camera=camera.numpy(), joints_3d=hand.joints.numpy(), joints_2d=joints,
        box=np.concatenate([vertices.min(1), vertices.max(1)], 1), error_px=rng.gamma(3, 1, n), error_share=0.02, num_points=21,
    )  # fmt: skip
    assert isinstance(fits, Fits)
    return fits


def write_tables(root: Path, sources: list[ClipTables]) -> None:
    """The sources as the parts of a data folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(table: str, key: str, rows: pa.Table) -> None:
        path = root / table / f"{key}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, path)

    by_video: dict[str, list[ClipTables]] = {}
    for source in sources:
        by_video.setdefault(source.videos.video[0], []).append(source)
    for video, of_video in by_video.items():
        write("videos", video, of_video[0].videos.to_arrow())
        write("clips", video, Clips.concat([s.clips for s in of_video]).to_arrow())
    for source in sources:
        for table, rows in (("hands", source.hands), ("fits", source.fits), ("reviews", source.reviews)):
            write(table, source.clips.clip[0], rows.to_arrow())
