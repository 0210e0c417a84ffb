"""`make bench-camera`: one studio scene taken by a pinhole, a fisheye and a full sphere, through the whole chain, against its truth.

Writes benchmarks/results/camera.json. The full sphere is turned so that a hand lies across its seam. Joints are the fitted ones in the
video's own pixels, places the wrists in the axes of the video's camera. How far a hand is hangs on how large it is, which no image says: so
places are measured again with the hand's true size. Nothing was chosen by these scenes.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float64

from benchmarks.annotate import clips as decoding_clips
from benchmarks.annotate import decoding
from benchmarks.machine import describe
from fitting.camera import Camera
from fitting.landmarks.offsets import load_offsets
from pipeline.engine.finish import Where, finish
from pipeline.engine.graph import Graph
from pipeline.engine.store import Store
from pipeline.manifest import read_manifest
from pipeline.recipes import find_recipe
from stages.cameras.said import cameras_of
from stages.cameras.views import to_source
from stages.fitted import on_joints
from stages.fuse_hands import FuseHands
from stages.fusion.pairs import WRIST_M, contradiction_m
from stages.tables import HAND_KEYPOINTS, Cameras, Clips, Fits, Hands
from studio.lenses import taken_by
from studio.render import Camera as Pinhole
from studio.truth import CLEAR_VISIBLE
from studio.video import Film, render_film, write_video

RESULT = Path(__file__).parent / "results" / "camera.json"
KANNALA = (0.03, -0.008, 0.002, -0.0003)
FRAMES_PER_SECOND = 5.0
WRIST, MIDDLE = HAND_KEYPOINTS.index("wrist"), HAND_KEYPOINTS.index("middle1")
FOUND_SHARE = 0.15
"""A hand is found whose joints lie within this share of the true box on average."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Taken:
    """A scene as one camera took it, and where its hands truly are."""

    camera: Camera
    said: str  # in the words of a list
    pixels: Float64[np.ndarray, "n 21 2"]  # of the camera; across the seam they go on beyond the image
    wrist: Float64[np.ndarray, "n 3"]  # metres, camera axes
    palm: Float64[np.ndarray, "n"]  # its length, metres
    frame: np.ndarray
    side: np.ndarray
    clear: np.ndarray
    across_seam: np.ndarray


def take(film: Film, folder: Path, wide_px: int, names: Sequence[str] = ("pinhole", "fisheye", "sphere")) -> dict[str, Taken]:
    """The film by three cameras, or some of them: videos `pinhole.mp4`, `fisheye.mp4` and `sphere.mp4` of a folder, and their truths."""
    pictures, rows = zip(*render_film(film), strict=True)
    truth = {name: np.stack([row[name] for of_frame in rows for row in of_frame]) for name in rows[0][0]}
    pinhole = Camera.pinhole(film.width, film.height, Pinhole().focal_px * film.width / Pinhole().width)
    joints = truth["joints_3d"].astype(np.float64) + truth["transl"][:, None]
    middle = np.median(joints[truth["side"] == 1].reshape(-1, 3), 0)
    side = 2 * (wide_px // 4)
    fisheye = Camera(
        projection="fisheye",
        width=side,
        height=side,
        focal_px=(side / np.radians(190),) * 2,
        principal=(side / 2, side / 2),
        distortion=KANNALA,
    )
    cameras = {
        "pinhole": (pinhole, np.eye(3), f"focal={pinhole.focal_px[0]}"),
        "fisheye": (fisheye, _yaw(np.radians(25)), "camera=fisheye.json"),
        "sphere": (Camera.sphere(wide_px, wide_px // 2), _yaw(np.pi - np.arctan2(middle[0], middle[2])), "projection=equirectangular"),
    }
    words = {"model": "OPENCV_FISHEYE", "width": side, "height": side, "params": [*fisheye.focal_px, *fisheye.principal, *KANNALA]}
    (folder / "fisheye.json").write_text(json.dumps(words))
    taken = {}
    for name in names:
        camera, turn, said = cameras[name]
        images = (one.image if name == "pinhole" else taken_by(camera, turn, one.image, pinhole) for one in pictures)
        write_video(folder / f"{name}.mp4", images, replace(film, width=camera.width, height=camera.height))
        points = camera.project(joints @ turn.T)
        wrapped = np.ptp(points[..., 0], axis=1) > camera.width / 2
        points[..., 0] += np.where(wrapped[:, None] & (points[..., 0] < camera.width / 2), camera.width, 0)
        clear = truth["visible"] >= CLEAR_VISIBLE
        facts = {"frame": truth["frame"], "side": truth["side"], "clear": clear, "across_seam": wrapped, "palm": _palm(truth["joints_3d"])}
        taken[name] = Taken(camera=camera, said=said, pixels=points, wrist=truth["transl"] @ turn.T, **facts)
    return taken


def _palm(joints: Float[np.ndarray, "n 21 3"]) -> Float64[np.ndarray, "n"]:
    """Lengths of palms, metres."""
    return np.asarray(np.linalg.norm(joints[:, MIDDLE] - joints[:, WRIST], axis=1), np.float64)


def _yaw(angle_rad: float) -> Float64[np.ndarray, "3 3"]:
    """A rotation that moves what is straight ahead to the right."""
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def run(folder: Path, said: Mapping[str, str], recipe: str, settings: Mapping[str, Any]) -> Graph:
    """The chain up to the fits on videos of a folder, with what a list says of each."""
    from pipeline.stage_settings import with_settings

    (folder / "list.txt").write_text("\n".join(f"{name}.mp4 {words}" for name, words in said.items()))
    manifest, root = read_manifest(folder / "list.txt"), folder / "data"
    stages = [stage for stage in with_settings(find_recipe(recipe)(manifest, root), settings) if stage.name not in ("review", "pack")]
    graph = Graph(stages, manifest, Store(root)).load()
    finish(graph, Where(local=True), on_outcome=lambda task, outcome: print(outcome.message) if outcome.message else None)
    return graph


def found_of(graph: Graph, video: str) -> tuple[Hands, Fits, Cameras]:
    """Hands and fits of a video's clips, and its camera."""
    store = graph.store
    clips = store.read(Clips, "clips", video)
    hands = Hands.concat([store.read(Hands, "hands", clip) for clip in clips.clip])
    fits = Fits.concat([store.read(Fits, "fits", clip) for clip in clips.clip])
    return hands, fits, cameras_of(graph.camera_of(video), int(clips.width[0]), int(clips.height[0]))


def joints_in_source(hands: Hands, fits: Fits, cameras: Cameras) -> tuple[Float64[np.ndarray, "n 21 2"], Float64[np.ndarray, "n 3"]]:
    """Fitted joints in the video's own pixels, and wrists in its camera's axes."""
    pixels, wrist = fits.joints_2d.astype(np.float64), fits.transl.astype(np.float64)
    if len(cameras) == 1:
        return pixels, wrist
    for row in np.flatnonzero(cameras.view >= 0):
        here = hands.view == cameras.view[row]
        pixels[here] = to_source(cameras, int(cameras.view[row]), fits.joints_2d[here])
        wrist[here] = fits.transl[here] @ cameras.rotation[row]
    return pixels, wrist


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Match:
    """Which found hand is each true one that is clearly seen, and how far off it is."""

    true: np.ndarray  # rows of `Taken`
    row: np.ndarray  # of the found hands, or -1
    error_px: np.ndarray  # mean over the joints; NaN where it was not found
    keypoint_error_px: np.ndarray  # of what the detectors saw, moved onto the model's joints: what the fit was given
    error_deg: np.ndarray  # between the rays of the joints found and of the true ones
    error_share: np.ndarray  # the first over the longer side of the true joints
    place_share: np.ndarray  # distance of the wrists over the true one's distance
    sized_share: np.ndarray  # the same with the hand enlarged to its true size, about the camera
    palm_share: np.ndarray  # by how much its palm is longer or shorter than the true one
    num_false: int  # found hands that are none of the true ones, clearly seen or not


def match(taken: Taken, hands: Hands, fits: Fits, cameras: Cameras) -> Match:
    """The nearest found hand of each frame for every true one."""
    pixels, wrist = joints_in_source(hands, fits, cameras)
    seen = on_joints(hands, load_offsets())
    points, _ = joints_in_source(seen, replace(fits, joints_2d=seen.keypoints[..., :2]), cameras)
    true = np.flatnonzero(taken.clear)
    row, (error, place, given, angle, share, sized, longer) = np.full(len(true), -1), np.full((7, len(true)), np.nan)
    palm = _palm(fits.joints_3d)
    for number, one in enumerate(true.tolist()):
        rows = np.flatnonzero((hands.frame == taken.frame[one]) & np.isfinite(pixels).all((1, 2)))
        off = _off(taken, pixels[rows], one)
        size = np.ptp(taken.pixels[one], axis=0).max()
        if len(rows) and off.min() < FOUND_SHARE * size:
            row[number], error[number] = rows[off.argmin()], off.min()
            given[number] = _off(taken, points[rows[[off.argmin()]]], one)[0]
            rays = [taken.camera.rays(at) for at in (pixels[row[number]], taken.pixels[one])]
            angle[number] = np.degrees(np.arccos(np.clip((rays[0] * rays[1]).sum(1), -1, 1))).mean()
            ratio = palm[row[number]] / taken.palm[one]
            share[number], longer[number] = error[number] / size, abs(ratio - 1)
            away = [np.linalg.norm(wrist[row[number]] * scale - taken.wrist[one]) for scale in (1, 1 / ratio)]
            place[number], sized[number] = np.array(away) / np.linalg.norm(taken.wrist[one])
    return Match(
        true=true,
        row=row,
        error_px=error,
        keypoint_error_px=given,
        error_deg=angle,
        error_share=share,
        place_share=place,
        sized_share=sized,
        palm_share=longer,
        num_false=_num_false(taken, hands, pixels),
    )


def _num_false(taken: Taken, hands: Hands, pixels: Float64[np.ndarray, "n 21 2"]) -> int:
    """Found hands whose joints are farther from those of every true hand of their frame than that is large."""
    count = 0
    for row in range(len(hands)):
        rows = np.flatnonzero(taken.frame == hands.frame[row])
        count += not any(_off(taken, pixels[[row]], one)[0] < np.ptp(taken.pixels[one], axis=0).max() for one in rows.tolist())
    return count


def appearances(taken: Taken, of: Match, hands: Hands) -> list[int]:
    """The number of tracks of each true hand while it is there: one that is out of sight for longer than tracks wait comes as another."""
    found = []
    for side in (0, 1):
        frames = np.unique(taken.frame[of.true[taken.side[of.true] == side]])
        for stretch in np.split(frames, np.flatnonzero(np.diff(frames) > FuseHands().max_gap_s * FRAMES_PER_SECOND) + 1):
            rows = of.row[(of.row >= 0) & (taken.side[of.true] == side) & np.isin(taken.frame[of.true], stretch)]
            if len(rows):
                found.append(len(set(hands.track[rows].tolist())))
    return found


def _off(taken: Taken, pixels: Float64[np.ndarray, "k 21 2"], one: int) -> Float64[np.ndarray, "k"]:
    """How far points are from those of a true hand on average, pixels; across the seam the short way."""
    gap = pixels - taken.pixels[one]
    if taken.camera.projection == "equirectangular":
        gap[..., 0] = (gap[..., 0] + taken.camera.width / 2) % taken.camera.width - taken.camera.width / 2
    return np.asarray(np.linalg.norm(gap, axis=2).mean(1))


def scenes(num_films: int, seconds: float, wide_px: int, recipe: str, folder: Path) -> Iterator[tuple[str, Taken, Match, Hands]]:
    """Every film by every camera, through the chain; `assumed` is the pinhole of which nothing is said."""
    for seed in range(num_films):
        place = folder / str(seed)
        place.mkdir()
        film = Film(seed=50 + seed, seconds=seconds, frames_per_second=FRAMES_PER_SECOND, width=640, height=480, shots=("close",))
        taken = take(film, place, wide_px)
        graph = run(place, {name: one.said for name, one in taken.items()}, recipe, {})
        for name, one in taken.items():
            hands, fits, cameras = found_of(graph, name)
            yield name, one, match(one, hands, fits, cameras), hands
        graph = run(place, {"pinhole": ""}, recipe, {})
        hands, fits, cameras = found_of(graph, "pinhole")
        yield "assumed", taken["pinhole"], match(taken["pinhole"], hands, fits, cameras), hands


def by_size(num_films: int, seconds: float, recipe: str, folder: Path) -> dict[str, dict[str, float]]:
    """The scenes by pinholes of half and twice the pixels: how far off joints are in pixels, and as a share of the hand."""
    result = {}
    for width in (320, 1280):
        found: list[Match] = []
        for seed in range(num_films):
            place = folder / f"{width}-{seed}"
            place.mkdir()
            film = Film(
                seed=50 + seed, seconds=seconds, frames_per_second=FRAMES_PER_SECOND, width=width, height=width * 3 // 4, shots=("close",)
            )
            taken = take(film, place, 64, ("pinhole",))["pinhole"]
            found.append(match(taken, *found_of(run(place, {"pinhole": taken.said}, recipe, {}), "pinhole")))
        names = {"joint_error_px_median": "error_px", "joint_error_share_median": "error_share", "place_error_share_median": "place_share"}
        result[str(width)] = {
            told: float(np.nanmedian(np.concatenate([getattr(of, what) for of in found]))) for told, what in names.items()
        }
    return result


def pairs(num_films: int, seconds: float, recipe: str, folder: Path) -> dict[str, dict[str, float]]:
    """Signers before a pinhole that is known: their two hands as each was fitted, and placed together."""
    found: dict[str, list[list[float]]] = {"apart": [], "together": []}
    for seed in range(num_films):
        place = folder / f"signer{seed}"
        place.mkdir()
        film = Film(seed=80 + seed, seconds=seconds, frames_per_second=FRAMES_PER_SECOND, width=1280, height=960, shots=("signer",))
        pictures, rows = zip(*render_film(film), strict=True)
        write_video(place / "signer.mp4", (one.image for one in pictures), film)
        truth = {name: np.stack([row[name] for of_frame in rows for row in of_frame]) for name in rows[0][0]}
        camera = Camera.pinhole(film.width, film.height, Pinhole().focal_px * film.width / Pinhole().width)
        joints = truth["joints_3d"].astype(np.float64) + truth["transl"][:, None]
        clear = truth["visible"] >= CLEAR_VISIBLE
        facts = {"frame": truth["frame"], "side": truth["side"], "clear": clear, "across_seam": np.zeros_like(clear)}
        facts["palm"] = _palm(truth["joints_3d"])
        taken = Taken(camera=camera, said=f"focal={camera.focal_px[0]}", pixels=camera.project(joints), wrist=truth["transl"], **facts)
        for name, listed in found.items():
            graph = run(place, {"signer": taken.said}, recipe, {"fit.pairs": name})
            hands, fits, cameras = found_of(graph, "signer")
            listed += _of_pairs(taken, hands, fits, match(taken, hands, fits, cameras))
    medians, shares = (
        ("between_wrists_mm", "place_error_share", "joint_error_px"),
        ("depth_order_right", "wrists_within", "contradiction_mm"),
    )
    result = {}
    for name, listed in found.items():
        columns = np.array(listed).reshape(-1, 6).T
        values = [*np.nanmedian(columns[:3], 1), *np.nanmean(columns[3:], 1)]
        result[name] = {"num_pairs": len(listed)} | dict(zip((*medians, *shares), map(float, values), strict=True))
    return result


def _of_pairs(taken: Taken, hands: Hands, fits: Fits, of: Match) -> list[list[float]]:
    """Figures of each pair of true hands of a frame of which both were found, as the two of one person."""
    rows = []
    for frame in np.unique(taken.frame[of.true]):
        one = np.flatnonzero((taken.frame[of.true] == frame) & (of.row >= 0))
        if len(one) != 2 or len(set(hands.person[of.row[one]])) != 1 or hands.person[of.row[one[0]]] < 0:
            continue
        first, second = of.row[one]
        true = taken.wrist[of.true[one[0]]] - taken.wrist[of.true[one[1]]]
        vector = (fits.transl[first] - fits.transl[second]).astype(np.float64)
        order = float(np.sign(vector[2]) == np.sign(true[2])) if abs(true[2]) > 0.01 else np.nan
        off, within = 1000 * float(np.linalg.norm(vector - true)), float(np.linalg.norm(vector) < 2 * WRIST_M - 1e-4)
        rows.append(
            [off, of.place_share[one].mean(), of.error_px[one].mean(), order, within, 1000 * float(contradiction_m(hands, fits)[first])]
        )
    return rows


NAMES = (
    "joint_error_px", "keypoint_error_px", "joint_error_share", "joint_error_deg", "place_error_share", "place_error_share_sized",
    "palm_error_share",
)  # fmt: skip


def figures(results: list[tuple[str, Taken, Match, Hands]]) -> dict[str, Any]:
    """Recall, errors in pixels and in space, by camera."""
    by_camera: dict[str, Any] = {}
    for name in dict.fromkeys(name for name, *_ in results):
        mine = [(taken, of, hands) for other, taken, of, hands in results if other == name]
        names = ("error_px", "keypoint_error_px", "error_share", "error_deg", "place_share", "sized_share", "palm_share")
        of_all = {what: np.concatenate([getattr(of, what) for _, of, _ in mine]) for what in names}
        error = of_all["error_px"]
        seam = np.concatenate([taken.across_seam[of.true] for taken, of, _ in mine])
        by_hand = [
            np.nanmedian(of.place_share[rows])
            for taken, of, _ in mine
            for side in (0, 1)
            if np.isfinite(of.place_share[rows := taken.side[of.true] == side]).any()
        ]
        by_camera[name] = {
            "num_true": len(error),
            "recall": float(np.isfinite(error).mean()),
            "num_across_seam": int(seam.sum()),
            "seam_recall": float(np.isfinite(error[seam]).mean()) if seam.any() else None,
            **{f"{told}_median": float(np.nanmedian(of_all[what])) for what, told in zip(names, NAMES, strict=True)},
            "num_hands": len(by_hand),
            "place_error_share_by_hand": [float(value) for value in np.percentile(by_hand, [25, 50, 75])],
            "tracks_an_appearance": float(np.mean([count for one in mine for count in appearances(*one)])),
            "num_found": sum(len(hands) for *_, hands in mine),
            "num_false": sum(of.num_false for _, of, _ in mine),
        }
    return by_camera


def _added_px(by_camera: Mapping[str, Mapping[str, float]], name: str, wide_px: int) -> float:
    """Pixels by which joints are farther off through a bent camera than those of the same hands through the pinhole, at its density."""
    a_degree = np.radians(1) * wide_px / (2 * np.pi) if name == "sphere" else (wide_px // 4 * 2) / 190
    return float(a_degree * (by_camera[name]["joint_error_deg_median"] - by_camera["pinhole"]["joint_error_deg_median"]))


def main() -> None:
    """Read the arguments, measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.camera", description="Known, assumed and bent cameras against exact truth.")
    parser.add_argument("--films", type=int, default=8, help="scenes (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each, at five frames a second (%(default)s)")
    parser.add_argument("--wide", type=int, default=3840, help="width of the full sphere, pixels (%(default)s)")
    parser.add_argument("--recipe", default="whim", help="of the chain (%(default)s)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        by_camera = figures(list(scenes(given.films, given.seconds, given.wide, given.recipe, Path(folder))))
        sizes = by_size(given.films, given.seconds, given.recipe, Path(folder))
        of_pairs = pairs(given.films, given.seconds, given.recipe, Path(folder))
        decode_ratio = decoding(decoding_clips(Path(folder) / "videos"))["decode_vs_pyav"]
    result = {
        "seam_recall": by_camera["sphere"]["seam_recall"],
        "fisheye_recall": by_camera["fisheye"]["recall"],
        "transl_error_share_known": by_camera["pinhole"]["place_error_share_median"],
        "transl_error_share_assumed": by_camera["assumed"]["place_error_share_median"],
        "decode_vs_pyav": decode_ratio,
        "by_camera": by_camera,
        "by_width_px": sizes,
        "two_hands": of_pairs,
        "added_px": {name: _added_px(by_camera, name, given.wide) for name in ("fisheye", "sphere")},
        "scenes": {"films": given.films, "seconds": given.seconds, "sphere_px": given.wide, "recipe": given.recipe},
        "machine": describe(),
    }
    print(json.dumps(result, indent=1))
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
