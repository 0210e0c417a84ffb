"""The report of a regressor: WiLoR's tables with our own rows, all figures, curves, errors by joint, the best and the worst hands.

Each test set leaves `SET.json` in the folder; the page and the plots are drawn anew from all that lie there, so sets may be measured one
by one, on different days. A set that nobody has measured leaves its cells empty. A folder in it that is called as a row of Table 5 holds
that row's own report.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import UInt8

from fitting.files import sha256_of
from fitting.hand.mano import RIGHT
from hands.drawing.hands import draw_mesh, draw_targets, mesh_faces
from hands.drawing.sheets import sheet, write_image
from hands.drawing.tables import markdown
from hands.drawing.video import VideoFile
from hands.metrics.hands import THRESHOLDS_M
from stages.tables import HAND_KEYPOINTS
from training.regressor.camera import project_to_crop
from training.regressor.evaluate import Benchmark, Predictions, RegressorEvaluation
from training.regressor.network import Regressor
from training.regressor.paper import ABLATIONS, FREIHAND, HO3D, MOTION
from training.regressor.targets import targets_of

Measured = Mapping[str, Mapping[str, Any]]
"""Contents of the `SET.json`, by set."""

_OF_FREIHAND = ("pa_mpjpe_mm", "pa_mpvpe_mm", "pa_f5", "pa_f15")
_FREIHAND_HEAD = ("PA-MPJPE mm", "PA-MPVPE mm", "F@5", "F@15")
_OF_HO3D = ("pa_auc_j", "pa_mpjpe_mm", "pa_auc_v", "pa_mpvpe_mm", "pa_f5", "pa_f15")
_OF_MOTION = ("mpfve_frobenius", "mpfje_frobenius", "jitter", "rte")
_SHOWN = 8
"""Hands shown of the best and of the worst."""
_FILMED = 300
"""Frames of the longest track, the most."""


def write_report(folder: Path, benchmark: Benchmark, evaluation: RegressorEvaluation, checkpoint: Path, network: Regressor) -> None:
    """Add a set to the report in a folder: `SET.json`, `SET-best.jpg`, `SET-worst.jpg` and, of frames that follow each other,
    `SET-track.mp4`; draw `report.md` and the plots anew.
    """
    folder.mkdir(parents=True, exist_ok=True)
    track = max(benchmark.tracks, key=len, default=np.zeros(0, int))[:_FILMED].tolist()
    film = f"{benchmark.name}-track.mp4" if len(track) > 1 else None
    mine = {
        "checkpoint": checkpoint.name,
        "sha256": sha256_of(checkpoint),
        "network": f"ViT-{network.settings.size.upper()}" if network.settings.backbone == "vit" else "FastViT",
        "hand": network.settings.hand,
        "protocol": benchmark.protocol,
        "num_hands": len(benchmark.crops),
        "film": film,
        "estimates": {
            name: {
                "figures": dict(one.metrics),
                "curves": {key: values.tolist() for key, values in one.curves.items()},
                "joint_mm": {key: values.tolist() for key, values in one.joint_mm.items()},
            }
            for name, one in evaluation.evaluations.items()
        },
    }
    aside = folder / f"{benchmark.name}.json.partial"
    aside.write_text(json.dumps(mine, indent=1))
    aside.replace(folder / f"{benchmark.name}.json")
    _draw(folder, benchmark, evaluation, network, track if film else [])
    measured = measured_in(folder)
    _plot(folder, measured)
    (folder / "report.md").write_text(page(measured, {name: measured_in(folder / name) for name in ABLATIONS}))


def measured_in(folder: Path) -> Measured:
    """The sets of a report."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def page(measured: Measured, ablations: Mapping[str, Measured] | None = None) -> str:
    """The Markdown page; `ablations` are the reports of Table 5's rows, by name."""
    freihand = _rows(FREIHAND, measured.get("freihand"), _OF_FREIHAND)
    ho3d = _rows(HO3D, measured.get("ho3d"), _OF_HO3D)
    motion = _rows(MOTION, measured.get("ho3d"), [f"camera_motion_{name}" for name in _OF_MOTION])
    for name, of in measured["ho3d-detected"]["estimates"].items() if "ho3d-detected" in measured else ():
        figures = of["figures"]
        motion.append((f"**ours, {name}, boxes of a detector**", *(figures.get(f"camera_motion_{one}", math.nan) for one in _OF_MOTION)))
    if "ho3d" in measured:
        figures = next(iter(measured["ho3d"]["estimates"].values()))["figures"]
        motion.append(("the truth's own", *(figures.get(f"camera_motion_true_{name}", math.nan) for name in _OF_MOTION)))
    parts = [
        "# MANO regressor",
        "Rows named ours are of this report's checkpoints, before and after refinement; the others are WiLoR's tables. An empty cell has"
        " not been measured: FreiHAND and HO3D are licensed. With their official files in place, one command fills both:",
        "```sh\nwhim evaluate regressor CHECKPOINT --freihand DIR --ho3d DIR --report FOLDER\n```",
        f"## FreiHAND (Table 3)\n\n{_protocol(measured.get('freihand'))}",
        markdown(("method", *_FREIHAND_HEAD), freihand, "{:.3f}"),
        f"## HO3D version 2 (Table 4)\n\n{_protocol(measured.get('ho3d'))}",
        markdown(("method", "AUC joints", "PA-MPJPE mm", "AUC vertices", "PA-MPVPE mm", "F@5", "F@15"), ho3d, "{:.3f}"),
        "## Motion on HO3D (Table 6)\n\nBefore the camera. MPFVE and MPFJE as norms over all points, in metres x 100, which is what the"
        " paper's numbers can be; RTE as WHAM defines it, per cent of the path. A frozen hand would have 0 in all of them.",
        markdown(("method", "MPFVE", "MPFJE", "jitter", "RTE"), motion, "{:.3f}"),
        "## Ablations on FreiHAND (Table 5)\n\nEach row is one recipe, `whim train regressor --recipe NAME`; measured into"
        " FOLDER/NAME, it stands here beside the paper's.",
        markdown(
            ("row", "NAME", *(f"{of}, {name}" for of in ("paper", "ours") for name in _FREIHAND_HEAD)),
            _of_ablations(ablations or {}),
            "{:.3f}",
        ),
    ]
    if measured:
        parts += _details(measured)
    return "\n\n".join([*parts, ""])


def _details(measured: Measured) -> list[str]:
    """All figures, errors by joint, curves and images."""
    columns = [(key, name, of) for key, one in measured.items() for name, of in one["estimates"].items()]
    head = [f"{key}, {name}" for key, name, _ in columns]
    names = list(dict.fromkeys(figure for *_, of in columns for figure in of["figures"]))
    every = [(name, *(of["figures"].get(name, math.nan) for *_, of in columns)) for name in names]
    joints = [(joint, *(of["joint_mm"]["proper_pa"][k] for *_, of in columns)) for k, joint in enumerate(HAND_KEYPOINTS)]
    sets = [(key, one["num_hands"], one["network"], one["checkpoint"], one["hand"], one["protocol"]) for key, one in measured.items()]
    images = [f"{key}, {title}, errors in mm:\n\n![{key} {title}]({key}-{title}.jpg)" for key in measured for title in ("best", "worst")]
    films = [f"[{key}, the longest track, as a video]({one['film']})" for key, one in measured.items() if one.get("film")]
    return [
        "## Every figure",
        markdown(("set", "hands", "network", "checkpoint", "hand model", "protocol"), sets, "{}"),
        "`pa_` as the official scripts align, reflections allowed; `proper_pa_` rotations only; `root_` at the wrist; `camera_` as it"
        " stands; `scaled_` HO3D's scale and translation. `true_` is the truth's own motion.",
        markdown(("figure", *head), every, "{:.4f}"),
        "## Errors by joint\n\nMillimetres, aligned without reflections.",
        markdown(("joint", *head), joints, "{:.2f}"),
        "![errors by joint](joints.png)\n\n![share of joints within a distance](pck.png)",
        *images,
        *films,
    ]


def _rows(paper: Mapping[str, Sequence[float]], mine: Mapping[str, Any] | None, names: Sequence[str]) -> list[tuple[Any, ...]]:
    """The paper's rows and ours, which are empty where nothing was measured."""
    ours = mine["estimates"] if mine else {"coarse": {"figures": {}}, "refined": {"figures": {}}}
    return [(method, *values) for method, values in paper.items()] + [
        (f"**ours, {name}**", *(of["figures"].get(figure, math.nan) for figure in names)) for name, of in ours.items()
    ]


def _of_ablations(reports: Mapping[str, Measured]) -> list[tuple[Any, ...]]:
    """Table 5: the paper's figures and ours, of the last estimate."""
    rows = []
    for name, (row, paper) in ABLATIONS.items():
        estimates = reports.get(name, {}).get("freihand", {}).get("estimates", {})
        figures = list(estimates.values())[-1]["figures"] if estimates else {}
        rows.append((row, f"`{name}`", *paper, *(figures.get(figure, math.nan) for figure in _OF_FREIHAND)))
    return rows


def _protocol(mine: Mapping[str, Any] | None) -> str:
    return f"{mine['protocol']}, {mine['num_hands']} hands; {mine['network']}, {mine['checkpoint']}." if mine else "Not measured."


def _draw(folder: Path, benchmark: Benchmark, evaluation: RegressorEvaluation, network: Regressor, track: Sequence[int]) -> None:
    """`SET-best.jpg`, `SET-worst.jpg`, and of a track's rows `SET-track.mp4`, of the last estimate."""
    last = list(evaluation.predictions)[-1]
    hand_mm = evaluation.evaluations[last].hand_mm
    pairs = partial(_pairs, benchmark, evaluation.predictions[last], network, hand_mm)
    order = np.argsort(hand_mm, kind="stable")
    for title, rows in (("best", order[:_SHOWN]), ("worst", order[::-1][:_SHOWN])):
        write_image(folder / f"{benchmark.name}-{title}.jpg", sheet(list(pairs(rows.tolist())), 2))
    if track:
        rate, size = Fraction(benchmark.frames_per_second).limit_denominator(1000), benchmark.crops.size
        with VideoFile(folder / f"{benchmark.name}-track.mp4", rate, (size, 2 * size)) as film:
            for pair in pairs(track):
                film.add(pair)


def _pairs(
    benchmark: Benchmark, predictions: Predictions, network: Regressor, hand_mm: np.ndarray, rows: Sequence[int]
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """Crops twice, bare and with the estimated mesh, the true joints as white dots and the error in millimetres."""
    crops, faces = benchmark.crops, mesh_faces(RIGHT)
    targets = targets_of(crops.labels(rows), crops.size, 1.0, network.hand, next(network.parameters()).device).points.cpu().numpy()
    for row, joints in zip(rows, targets, strict=True):
        bare = np.empty(crops.shape, np.uint8)
        crops.decode(row, bare)
        drawn, vertices = bare.copy(), predictions.hands.vertices[row]
        flat = project_to_crop(torch.as_tensor(vertices[None]), torch.as_tensor(predictions.camera[row][None]))[0].numpy()
        draw_mesh(drawn, vertices, (flat + 0.5) * crops.size - 0.5, faces, RIGHT)
        draw_targets(drawn, (joints + 0.5) * crops.size - 0.5)
        cv2.putText(drawn, f"{hand_mm[row]:.1f}", (6, crops.size - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1, cv2.LINE_AA)
        yield np.hstack([bare, drawn])


def _plot(folder: Path, measured: Measured) -> None:
    """`pck.png`, share of joints within a distance, and `joints.png`, errors by joint, both without reflections."""
    from matplotlib.figure import Figure

    columns = [(f"{key}, {name}", of) for key, one in measured.items() for name, of in one["estimates"].items()]
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    for title, of in columns:
        axes.plot(1000 * THRESHOLDS_M, of["curves"]["proper_pa_auc_j"], label=f"{title}, AUC {of['figures']['proper_pa_auc_j']:.3f}")
    axes.set(xlabel="distance, mm", ylabel="share of joints within it", xlim=(0, 50), ylim=(0, 1.02))
    axes.legend()
    figure.savefig(folder / "pck.png", dpi=120)
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(columns)
    for number, (title, of) in enumerate(columns):
        axes.bar(np.arange(len(HAND_KEYPOINTS)) + number * width, of["joint_mm"]["proper_pa"], width, label=title)
    axes.set_xticks(np.arange(len(HAND_KEYPOINTS)) + 0.4 - width / 2, HAND_KEYPOINTS, rotation=60, ha="right")
    axes.set(ylabel="error, mm")
    axes.legend()
    figure.savefig(folder / "joints.png", dpi=120)
