"""Networks that read MediaPipe's landmark network, trained on its looks at the hands of shards: the hint of the fit and the regressor.

`whim train landmarks` writes `hint.npz`, what `stages.detectors.mediapipe.hint` reads, and `regressor.pt`. Looks and finished networks
of the folder are kept: an interrupted run goes on at the network it was at.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fitting.hand.kinematics import FROM_KEYPOINTS, JointModel
from fitting.hand.mano import load_hand_model
from stages.detectors.mediapipe.hint import DEVIATION_M, NUM_LAYERS, STEP_M
from training.regressor.camera import project_to_crop
from training.regressor.landmark_trunk import HIDDEN, NUM_SAID
from training.regressor.looks import Looks, looks_of
from training.regressor.losses import betas_loss, matrices_loss, point_loss
from training.regressor.network import Numbers, Regressor, RegressorSettings
from training.run.checkpoint import Checkpoint, Progress, load_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadsSettings:
    """How long and on what the networks learn. All ours."""

    hint_steps: int = 2500
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
    certainty: float = 0.1
    """Weight of the hint's log-likelihood of depths beside its distances in centimetres."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("real", "drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"landmark_heads.{name} must lie in [0, 1], got {getattr(self, name)}")


class HintNetwork(nn.Module):
    """What the landmark network says of looks to joints and the deviations of their depths, in the looks' axes."""

    mean: Float[Tensor, "1278"]
    scale: Float[Tensor, "1278"]

    def __init__(self, drop: float = 0.2) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(NUM_SAID))
        self.register_buffer("scale", torch.ones(NUM_SAID))
        self.layers = nn.ModuleList([nn.Linear(NUM_SAID, HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, 84)])
        self.drop, self.drop_read = nn.Dropout(drop), nn.Dropout(drop / 2)
        for values in self.layers[-1].parameters():
            nn.init.zeros_(values)

    def forward(self, said: Float[Tensor, "b 1278"]) -> tuple[Float[Tensor, "b 21 3"], Float[Tensor, "b 21"]]:
        values = self.drop_read((said - self.mean) / self.scale)
        for layer in list(self.layers)[:-1]:
            values = self.drop(torch.relu(layer(values)))
        values = self.layers[-1](values)
        world = said[:, -63:].reshape(-1, 21, 3)
        joints = world + STEP_M * values[:, :63].reshape(-1, 21, 3)
        return joints - joints[:, :1], DEVIATION_M * values[:, 63:].clamp(-3, 3).exp()

    def save(self, path: Path) -> None:
        """Write the arrays that `load_hint` reads, in half precision."""
        arrays: dict[str, Any] = {"mean": self.mean.numpy(), "scale": self.scale.numpy()}
        for number, layer in enumerate(self.layers):
            arrays[f"weight{number}"] = layer.weight.detach().numpy().astype(np.float16)  # type: ignore[operator]
            arrays[f"bias{number}"] = layer.bias.detach().numpy().astype(np.float32)  # type: ignore[operator]
        assert len(self.layers) == NUM_LAYERS
        aside = path.with_suffix(".partial.npz")
        np.savez_compressed(aside, **arrays)
        aside.rename(path)


def hint_loss(
    joints: Float[Tensor, "b 21 3"], deviation: Float[Tensor, "b 21"], target: Float[Tensor, "b 21 3"], certainty: float
) -> Float[Tensor, "b"]:
    """Mean distance along the axes, centimetres, and the Laplacian likelihood of the depths behind the wrist; one value a look."""
    gap = (joints - target).abs()
    unlikely = (gap[:, 1:, 2] / deviation[:, 1:]).clamp(max=20) + deviation[:, 1:].log()
    return 100 * gap.mean((1, 2)) + certainty * unlikely.mean(1)


def train_hint(looks: Looks, settings: HeadsSettings) -> HintNetwork:
    """The hint network, on looks at hands of both sides."""
    torch.manual_seed(settings.seed)
    network = HintNetwork(settings.drop)
    said, joints = torch.from_numpy(looks.said), torch.from_numpy(looks.joints)
    network.mean, network.scale = said.mean(0), said.std(0) + 1e-3
    for rows, step in _steps(network, looks, settings, settings.hint_steps):
        shown = said[rows] + settings.noise * network.scale * torch.randn(len(rows), NUM_SAID)
        predicted, deviation = network(shown)
        step(hint_loss(predicted, deviation, joints[rows], settings.certainty).mean())
    return network.eval()


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
