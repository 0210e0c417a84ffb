"""Networks that read MediaPipe's landmark network, trained on its looks at the hands of shards: the hint of the fit and the regressor.

`whim train landmarks` writes `hint.npz`, what `stages.detectors.mediapipe.hint` reads, and `regressor.pt`. Looks and finished networks
of the folder are kept: an interrupted run goes on at the network it was at.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fitting.hand.kinematics import FROM_KEYPOINTS, JointModel
from fitting.hand.mano import load_hand_model
from stages.detectors.mediapipe.hand_landmarks import MAPS
from stages.detectors.mediapipe.hint import LEAST_M, NUM_SAID, inputs_of
from stages.detectors.mediapipe.kernel import Learned, placed
from training.regressor.camera import project_to_crop
from training.regressor.landmark_kernel import KernelSettings, Solver, lay
from training.regressor.landmark_layers import LayersSettings, train_layers
from training.regressor.looks import Looks, looks_of
from training.regressor.losses import betas_loss, matrices_loss, point_loss
from training.regressor.network import Numbers, Regressor, RegressorSettings
from training.run.checkpoint import Checkpoint, Progress, load_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadsSettings:
    """How long and on what the networks learn. All ours."""

    examples: int = 7500
    """Looks that the hint keeps, at most; it learns from all of them."""
    real_trust: float = 0.5
    """Weight of a real hand, whose truth is a fit, as an example beside a rendered one."""
    kernel: KernelSettings = field(default_factory=KernelSettings)
    """How the hint learns from them."""
    layers: LayersSettings = field(default_factory=LayersSettings)
    """How the network beside it learns."""
    coarse_steps: int = 2000
    refinement_steps: int = 2500
    """0 leaves the refinement out."""
    batch_size: int = 128
    refinement_batch_size: int = 32
    """Maps take more time than all else."""
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 100
    real: float = 0.5
    """Share of the samples that are real hands; the others are the studio's."""
    noise: float = 0.05
    """Deviation of what is added to each number that the networks read, in deviations of its own."""
    drop: float = 0.2
    """Share of the hidden numbers that are left out at each step; half as many of those that are read."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("real", "drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"landmark_heads.{name} must lie in [0, 1], got {getattr(self, name)}")


def train_hint(looks: Looks, settings: HeadsSettings) -> Learned:
    """The function that hints joints and how far off depths may be, on looks that show a right hand. Raises ValueError where none does.

    How far off a joint's depth may be is learned from what the kernels of each half of the hands miss of the other.
    """
    _refuse_none(looks)
    looks, own = looks.take(np.flatnonzero(looks.right & (looks.weight > 0))), settings.kernel
    laid = lay(_inputs(looks.take(known_rows(looks, settings))), BLOCKS, own)
    place = placed(laid.mean, laid.scale, laid.directions, laid.step)
    values = np.concatenate([place(_inputs(looks.take(rows))) for rows in np.array_split(np.arange(len(looks)), len(looks) // 2000 + 1)])
    world = looks.said[:, -63:].reshape(-1, 21, 3)
    target = (looks.joints - (world - world[:, :1])).reshape(-1, 63)
    weight = (np.where(looks.exact, 1, settings.real_trust) * looks.weight).astype(np.float32)
    solver = Solver(laid, values, looks.hand, weight, own)
    missed = np.abs(solver.missed(target, own.ridge).reshape(-1, 21, 3)[..., 2])
    joints = solver.solve(target, own.ridge)
    unsure = (np.log(np.maximum(missed, LEAST_M)) + EULER).astype(np.float32)
    deviations = solver.solve(unsure, own.sure_ridge)
    both = {name: np.concatenate([getattr(one, name) for one in (joints, deviations)], -1) for name in ("gaussian", "linear", "constant")}
    return Learned(kernel=replace(joints, **both), layers=train_layers(values, target, unsure, weight, settings.layers))


def _inputs(looks: Looks) -> Float[np.ndarray, "n inputs"]:
    return inputs_of(looks.said, looks.near.astype(np.float32))


EULER = 0.5772
"""Of a Laplacian number the logarithm is on average so much less than that of its mean size."""
BLOCKS = [NUM_SAID, 21 * (MAPS[46] + MAPS[104]), 21 * MAPS[143]]
"""Of `inputs_of`: what is said, the maps that show where, the one that shows what."""


def known_rows(looks: Looks, settings: HeadsSettings) -> np.ndarray:
    """Rows of the looks that are kept as examples: first one of each hand, by chance."""
    rows = np.random.default_rng(settings.seed).permutation(len(looks))
    again = np.ones(len(rows), bool)
    again[np.unique(looks.hand[rows], return_index=True)[1]] = False
    return np.sort(rows[np.argsort(again, kind="stable")][: settings.examples])


def train_coarse(network: Regressor, looks: Looks, settings: HeadsSettings) -> None:
    """The regressor's coarse hand, on looks that show a right one. Raises ValueError where none does."""
    _refuse_none(looks)
    looks = looks.take(np.flatnonzero(looks.right))
    torch.manual_seed(settings.seed)
    said, model = torch.from_numpy(looks.said), JointModel.of(load_hand_model())
    network.reader.mean, network.reader.scale = said.mean(0), said.std(0) + 1e-3
    for rows, step in _steps(nn.ModuleList([network.reader, network.heads]), looks, settings, settings.coarse_steps):
        shown = said[rows] + settings.noise * network.reader.scale * torch.randn(len(rows), NUM_SAID)
        step(look_loss(network.coarse(network.reader(shown)), looks.take(rows.numpy()), model).mean())


def train_refinement(network: Regressor, looks: Looks, settings: HeadsSettings) -> None:
    """The regressor's refinement on looks with maps; the coarse hand stays as it is. Raises ValueError where none shows a right hand."""
    _refuse_none(looks)
    torch.manual_seed(settings.seed)
    assert network.refinement is not None
    model = JointModel.of(load_hand_model())
    fewer = replace(settings, batch_size=settings.refinement_batch_size)
    network.eval()  # what is frozen; `_steps` puts the refinement into training
    for rows, step in _steps(network.refinement, looks, fewer, settings.refinement_steps):
        told = looks.take(rows.numpy())
        with torch.no_grad():
            coarse = network.in_look(torch.from_numpy(told.said), [])[0]
        maps = [torch.from_numpy(values.astype(np.float32)) for values in (told.map_28, told.map_14)]
        step(look_loss(network.mended(coarse, network.refinement.pyramid(maps)), told, model).mean())


def _refuse_none(looks: Looks) -> None:
    """Raise ValueError where no look shows a right hand."""
    if not looks.right.any():
        raise ValueError("no look shows a right hand: the shards hold no hand that is good enough to learn from")


def look_loss(hand: Numbers, told: Looks, model: JointModel) -> Float[Tensor, "b"]:
    """L_3D and L_2D of the joints and L_mano (WiLoR, eq. 8), weighted, one value a look; without the mesh, which takes most of the time."""
    joints = model.pose(hand.rotations[:, 0], hand.rotations[:, 1:], hand.betas).points[:, TO_KEYPOINTS]
    points = project_to_crop(joints, hand.camera)
    target = [torch.from_numpy(values) for values in (told.joints, told.points, told.rotations, told.betas)]
    return (
        30 * (joints - target[0]).abs().mean((1, 2))
        + 4 * point_loss(points, target[1], torch.ones(len(points), 21))
        + 1.5 * matrices_loss(hand.rotations, target[2])
        + 0.005 * betas_loss(hand.betas, target[3])
    )


TO_KEYPOINTS = [FROM_KEYPOINTS.index(k) for k in range(21)]
"""Row of each of OpenPose's keypoints among the points of `JointModel`."""


def _steps(network: nn.Module, looks: Looks, settings: HeadsSettings, num_steps: int) -> Iterator[tuple[Tensor, Callable[[Any], None]]]:
    """Rows of each step, and what is to be called with its loss: AdamW, warmed up, along half a cosine."""
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    chance, rng = chances(looks, settings.real), np.random.default_rng(settings.seed)
    network.train()

    def step(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    for number in range(num_steps):
        rate = min(1.0, (number + 1) / settings.warmup_steps) * 0.5 * (1 + np.cos(np.pi * number / num_steps))
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate
        yield torch.from_numpy(rng.choice(len(looks), settings.batch_size, p=chance)), step
    network.eval()


def chances(looks: Looks, real: float) -> Float[np.ndarray, "n"]:
    """Chances of the looks to be drawn: real ones by their quality, so that they make up `real` of all where there are others.

    Raises ValueError where no look has a weight.
    """
    of_kind = [np.where(looks.exact == exact, looks.weight, 0.0).astype(np.float64) for exact in (False, True)]
    kinds = [(share, values) for share, values in zip((real, 1 - real), of_kind, strict=True) if values.any()]
    if not kinds:
        raise ValueError("no look has a weight: there is nothing to learn from")
    total = sum((share if len(kinds) == 2 else 1.0) * values / values.sum() for share, values in kinds)
    return np.asarray(total / np.sum(total))


NETWORK = RegressorSettings(backbone="mediapipe", aggregation=("joints",))
"""The regressor that ships."""


def train_landmarks(folders: Sequence[Path], out: Path, settings: HeadsSettings, say: Callable[[str], None]) -> None:
    """Both networks on the train splits of folders of shards; what `out` holds already is kept."""
    torch.set_num_threads(1)
    cache, hint, coarse, regressor = (out / name for name in ("looks", "hint.npz", "coarse.pt", "regressor.pt"))
    if not hint.exists():
        looks = looks_of(folders, cache)
        say(f"{len(looks)} looks at {len(np.unique(looks.hand))} hands, {int(looks.exact.sum())} of them at rendered ones")
        train_hint(looks, settings).save(hint)
        say(f"{hint}: {hint.stat().st_size / 1e6:.1f} MB")
    network = Regressor(NETWORK if settings.refinement_steps else replace(NETWORK, refine_steps=0))
    if not coarse.exists():
        train_coarse(network, looks_of(folders, cache), settings)
        save_heads(network, coarse)
    load_heads(network, coarse)
    if not regressor.exists():
        if settings.refinement_steps:
            train_refinement(network, looks_of(folders, cache, mapped=True), settings)
        save_heads(network, regressor)
        say(f"{regressor}: {regressor.stat().st_size / 1e6:.1f} MB")


def save_heads(network: Regressor, path: Path) -> None:
    """A checkpoint in half precision."""
    weights = {name: values.half() for name, values in network.state_dict().items()}
    Checkpoint(
        kind="regressor", settings=asdict(network.settings), network={}, ema=weights, optimizer={}, progress=Progress(), data="landmarks"
    ).save(path)


def load_heads(network: Regressor, path: Path) -> None:
    """The weights of a checkpoint that `save_heads` wrote."""
    load_weights(network, Checkpoint.load(path, "regressor").ema, path)
