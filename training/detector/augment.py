"""The detector's augmentation, all of a batch at once on its device (WiLoR, section 4.1): mosaic, rotation, scale, shift, cropping,
flip, colours, masking, mixup.

Frame of reference: pixels of the image. Every number is drawn by the sample's key, and images meet only within groups of
`GROUP` neighbours of the global order, so that the result does not depend on how many ranks share a batch.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from training.data.keyed_random import between, uniform
from training.data.samples import FILL

GROUP = 4
"""Images of a mosaic; a rank's share of a batch is a multiple of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Ranges of the random changes; zeros turn them off."""

    rotation_deg: float = 60.0
    """Either way (paper, section 5.1)."""
    shift: float = 0.1
    """Largest shift as a share of the image's side, either way (paper, section 5.1)."""
    scale: tuple[float, float] = (0.5, 1.5)
    """Ours, as in the YOLO family."""
    flip: float = 0.5
    """Share of mirrored images; left hands become right ones. Ours."""
    mosaic: float = 1.0
    """Share of images that are four (paper; the share is ours)."""
    mixup: float = 0.1
    """Share of images that are blended with another (paper; the share is ours)."""
    masking: float = 0.5
    """Share of images of which one to three rectangles are hidden (paper; the share is ours)."""
    hue: float = 0.015
    saturation: float = 0.7
    value: float = 0.4
    """Gains of the colours, as in the YOLO family."""

    @classmethod
    def none(cls) -> "Augmentation":
        """The paper's ablation without augmentation."""
        return cls(rotation_deg=0, shift=0, scale=(1, 1), flip=0, mosaic=0, mixup=0, masking=0, hue=0, saturation=0, value=0)

    def __post_init__(self) -> None:
        for name in ("flip", "mosaic", "mixup", "masking"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augmentation.{name} is a share in [0, 1], got {getattr(self, name)}")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"augmentation.scale must be a range of positive numbers, got {self.scale}")


Labels = dict[str, Tensor]
"""Flat columns `image`, `box`, `side`, `keypoints`, `ignore_image`, `ignore`; where `augment` begins also `shown`, the box [b, 4] that each
image fills of its square. Boxes and keypoints may lie beyond it, where nobody can see them."""


def augment(
    images: Float[Tensor, "b 3 size size"], labels: Labels, key: Int64[Tensor, "b"], chosen: Augmentation
) -> tuple[Float[Tensor, "b 3 size size"], Labels]:
    """Images in [0, 1] and their labels, changed together. Raises ValueError when mosaic or mixup meet a batch of odd size."""
    b, size = len(images), images.shape[2]
    if (chosen.mosaic or chosen.mixup) and b % GROUP:
        raise ValueError(f"mosaic and mixup need a batch that is a multiple of {GROUP} on every rank, got {b}")
    to_source, tiles = _placement(key, size, chosen)
    images, labels = _resampled(images, labels, to_source, tiles, size)
    images = _hidden(_coloured(images, key, chosen), key, chosen)
    return _mixed(images, labels, key, chosen)


def _placement(
    key: Int64[Tensor, "b"], size: int, chosen: Augmentation
) -> tuple[Float[Tensor, "b 2 3"], tuple[Bool[Tensor, "b"], Float[Tensor, "b 2"]]]:
    """The map from the new image to the canvas (the image itself, or four around a point), and which are mosaics around where."""
    mosaic = uniform(key, 1)[:, 0] < chosen.mosaic
    centre = size * (0.5 + uniform(key, 2, 2))
    angle = between(key, 3, -1, 1) * math.radians(chosen.rotation_deg)
    low, high = chosen.scale
    scale = between(key, 4, low, high)
    shift = size * (0.5 + chosen.shift * (2 * uniform(key, 5, 2) - 1))
    flip = torch.where(uniform(key, 6)[:, 0] < chosen.flip, -1.0, 1.0)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    turn = torch.stack([torch.stack([cos * flip, sin], -1), torch.stack([-sin * flip, cos], -1)], -2)
    middle = torch.where(mosaic[:, None], torch.full_like(shift, float(size)), torch.full_like(shift, size / 2))
    offset = middle - (turn @ shift[..., None])[..., 0]
    return torch.cat([turn, offset[..., None]], 2), (mosaic, centre)


def _tile(k: int, tiles: tuple[Bool[Tensor, "b"], Float[Tensor, "b 2"]], size: int) -> tuple[Float[Tensor, "b 2"], Float[Tensor, "b 4"]]:
    """Where image k of a mosaic lies on its canvas of twice the size: its upper left corner, and the window it is seen in.

    The four meet at the centre, each with the corner that is nearest. An image alone is tile 0 of itself.
    """
    mosaic, centre = tiles
    right, below = k % 2, k // 2
    corner = centre - size * centre.new_tensor([1.0 - right, 1.0 - below])
    x0, x1 = (centre[:, 0], torch.full_like(centre[:, 0], 2.0 * size)) if right else (torch.zeros_like(centre[:, 0]), centre[:, 0])
    y0, y1 = (centre[:, 1], torch.full_like(centre[:, 1], 2.0 * size)) if below else (torch.zeros_like(centre[:, 1]), centre[:, 1])
    window = torch.stack([x0, y0, x1, y1], 1)
    alone = centre.new_tensor([0.0, 0.0, size, size]) if k == 0 else centre.new_zeros(4)
    return torch.where(mosaic[:, None], corner, 0), torch.where(mosaic[:, None], window, alone)


def _partner(b: int, k: int, device: torch.device) -> Int64[Tensor, "b"]:
    """The k-th neighbour of each image within its group."""
    row = torch.arange(b, device=device)
    return row // GROUP * GROUP + (row + k) % GROUP


def _resampled(
    images: Float[Tensor, "b 3 size size"],
    labels: Labels,
    to_source: Float[Tensor, "b 2 3"],
    tiles: tuple[Bool[Tensor, "b"], Float[Tensor, "b 2"]],
    size: int,
) -> tuple[Float[Tensor, "b 3 size size"], Labels]:
    """The new images, each of up to four old ones, and the labels of what is still to be seen."""
    b, device = len(images), images.device
    place = (torch.arange(size, device=device) + 0.5).to(images.dtype)
    grid = torch.stack(torch.meshgrid(place, place, indexing="xy"), -1)
    canvas = torch.einsum("nij,hwj->nhwi", to_source[:, :, :2], grid) + to_source[:, None, None, :, 2]
    out = torch.full_like(images, FILL / 255)
    parts: list[Labels] = []
    for k in range(GROUP if bool(tiles[0].any()) else 1):
        corner, window = _tile(k, tiles, size)
        partner = torch.where(tiles[0], _partner(b, k, device), torch.arange(b, device=device))
        here = canvas - corner[:, None, None]
        inside = ((canvas >= window[:, None, None, :2]) & (canvas < window[:, None, None, 2:])).all(-1)
        inside &= ((here >= 0) & (here < size)).all(-1)
        seen = torch.nn.functional.grid_sample(images[partner], 2 * here / size - 1, padding_mode="border", align_corners=False)
        out = torch.where(inside[:, None], seen, out)
        parts.append(_moved(labels, partner, corner, window, to_source, size))
    return out, {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _moved(
    labels: Labels,
    partner: Int64[Tensor, "b"],
    corner: Float[Tensor, "b 2"],
    window: Float[Tensor, "b 4"],
    to_source: Float[Tensor, "b 2 3"],
    size: int,
) -> Labels:
    """The labels of each image's partner, where they come to lie; hands of which little is left are dropped."""
    window = _cut(window, labels["shown"][partner] + corner.repeat(1, 2))
    row, new = torch.nonzero(labels["image"][:, None] == partner, as_tuple=True)
    box, keypoints = labels["box"][row], labels["keypoints"][row]
    inverse = _inverse(to_source[new, :, :2])
    offset, shown = corner[new], window[new]

    def moved(points: Float[Tensor, "n k 2"]) -> Float[Tensor, "n k 2"]:
        canvas: Tensor = (points + offset[:, None] - to_source[new, None, :, 2]) @ inverse.mT
        return canvas

    on_canvas = box + offset.repeat(1, 2)
    visible = _cut(on_canvas, shown)
    points = moved(keypoints[..., :2])
    turned = _cut(_turned_box(box, keypoints, points, moved, inverse), _hull(visible, to_source[new]))
    clipped = turned.clamp(0, size)
    share = _area(visible) / _area(on_canvas).clamp_min(1e-6) * _area(clipped) / _area(turned).clamp_min(1e-6)
    sides = clipped[:, 2:] - clipped[:, :2]
    kept = (share > 0.1) & (sides > 2).all(1)
    out_of_sight = ((points < 0) | (points >= size)).any(-1)
    on = keypoints[..., :2] + offset[:, None]
    out_of_sight |= ((on < shown[:, None, :2]) | (on >= shown[:, None, 2:])).any(-1)
    weight = torch.where(out_of_sight, 0, keypoints[..., 2])
    side = labels["side"][row]
    side = torch.where((_determinant(inverse) < 0) & (side >= 0), 1 - side, side)
    ignored, of = torch.nonzero(labels["ignore_image"][:, None] == partner, as_tuple=True)
    area = _cut(labels["ignore"][ignored] + corner[of].repeat(1, 2), window[of])
    of, area = of[_area(area) > 0], area[_area(area) > 0]
    return {
        "image": new[kept],
        "box": clipped[kept],
        "side": side[kept],
        "keypoints": torch.cat([points, weight[..., None]], 2)[kept],
        "ignore_image": of,
        "ignore": _hull(area, to_source[of]),
    }


def _turned_box(
    box: Float[Tensor, "n 4"],
    keypoints: Float[Tensor, "n 21 3"],
    points: Float[Tensor, "n 21 2"],
    moved: Callable[[Float[Tensor, "n k 2"]], Float[Tensor, "n k 2"]],
    inverse: Float[Tensor, "n 2 2"],
) -> Float[Tensor, "n 4"]:
    """The box of a turned hand: of its keypoints, with the margin that its box had around them; without keypoints, of the turned
    ellipse inside the box. The hull of a turned box would be up to twice too large."""
    known = keypoints[..., 2:] > 0
    low, high = torch.where(known, keypoints[..., :2], torch.inf).amin(1), torch.where(known, keypoints[..., :2], -torch.inf).amax(1)
    margin = (torch.cat([low - box[:, :2], box[:, 2:] - high], 1)).mean(1) * _determinant(inverse).abs().sqrt()
    low, high = torch.where(known, points, torch.inf).amin(1), torch.where(known, points, -torch.inf).amax(1)
    of_points = torch.cat([low - margin[:, None], high + margin[:, None]], 1)
    middle = moved(((box[:, :2] + box[:, 2:]) / 2)[:, None])[:, 0]
    half = ((inverse * ((box[:, 2:] - box[:, :2]) / 2)[:, None]) ** 2).sum(2).sqrt()
    of_ellipse = torch.cat([middle - half, middle + half], 1)
    return torch.where(known.all(1), of_points, of_ellipse)


def _hull(box: Float[Tensor, "n 4"], to_source: Float[Tensor, "n 2 3"]) -> Float[Tensor, "n 4"]:
    """The upright box around a box of the canvas, moved."""
    corners = box[:, [0, 1, 2, 1, 0, 3, 2, 3]].reshape(-1, 4, 2)
    points = (corners - to_source[:, None, :, 2]) @ _inverse(to_source[:, :, :2]).mT
    return torch.cat([points.amin(1), points.amax(1)], 1)


def _inverse(matrix: Float[Tensor, "n 2 2"]) -> Float[Tensor, "n 2 2"]:
    (a, b), (c, d) = (row.unbind(1) for row in matrix.unbind(1))
    return torch.stack([d, -b, -c, a], 1).reshape(-1, 2, 2) / _determinant(matrix)[:, None, None]


def _determinant(matrix: Float[Tensor, "n 2 2"]) -> Float[Tensor, "n"]:
    return matrix[:, 0, 0] * matrix[:, 1, 1] - matrix[:, 0, 1] * matrix[:, 1, 0]


def _cut(box: Float[Tensor, "n 4"], window: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
    """The part of a box that lies in a window; its area is 0 where nothing does."""
    return torch.cat([torch.maximum(box[:, :2], window[:, :2]), torch.minimum(box[:, 2:], window[:, 2:])], 1)


def _area(box: Float[Tensor, "n 4"]) -> Float[Tensor, "n"]:
    return (box[:, 2:] - box[:, :2]).clamp_min(0).prod(1)


def _coloured(images: Float[Tensor, "b 3 h w"], key: Int64[Tensor, "b"], chosen: Augmentation) -> Float[Tensor, "b 3 h w"]:
    """Hue turned about the grey axis, saturation and value scaled: one 3 x 3 matrix an image."""
    angle = between(key, 7, -1, 1) * chosen.hue * 2 * math.pi
    saturation, value = (1 + between(key, stream, -1, 1) * gain for stream, gain in ((8, chosen.saturation), (9, chosen.value)))
    grey = images.new_full((3, 3), 1 / 3)
    cross = images.new_tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    chroma = torch.eye(3).to(images) - grey
    turn = angle.cos()[:, None, None] * chroma + angle.sin()[:, None, None] * cross
    matrix = value[:, None, None] * (grey + saturation[:, None, None] * turn)
    return torch.einsum("nij,njhw->nihw", matrix, images).clamp(0, 1)


def _hidden(images: Float[Tensor, "b 3 h w"], key: Int64[Tensor, "b"], chosen: Augmentation) -> Float[Tensor, "b 3 h w"]:
    """One to three rectangles of a random colour, 2 to 20 % of the image together; the labels stay, the hand is still there."""
    if not chosen.masking:
        return images
    h, w = images.shape[2:]
    y = (torch.arange(h, device=images.device) / h)[:, None]
    x = (torch.arange(w, device=images.device) / w)[None]
    wanted = uniform(key, 10)[:, 0] < chosen.masking
    count = 1 + (3 * uniform(key, 11)[:, 0]).long()
    for k in range(3):
        u = uniform(key, 12 + k, 7)
        area = (0.02 + 0.18 * u[:, 0]) / count
        stretch = torch.exp((u[:, 1] - 0.5) * 1.4)
        wide, high = (area * stretch).sqrt(), (area / stretch).sqrt()
        left, top = u[:, 2] * (1 - wide), u[:, 3] * (1 - high)
        within = (
            (x >= left[:, None, None]) & (x < (left + wide)[:, None, None]) & (y >= top[:, None, None]) & (y < (top + high)[:, None, None])
        )
        within &= (wanted & (k < count))[:, None, None]
        images = torch.where(within[:, None], u[:, 4:7, None, None].to(images.dtype), images)
    return images


def _mixed(
    images: Float[Tensor, "b 3 h w"], labels: Labels, key: Int64[Tensor, "b"], chosen: Augmentation
) -> tuple[Float[Tensor, "b 3 h w"], Labels]:
    """Some images blended with their neighbour, about half and half (Beta(32, 32)), with the hands of both."""
    if not chosen.mixup:
        return images, labels
    mix = uniform(key, 15)[:, 0] < chosen.mixup
    share = 0.5 + 0.062 * torch.special.ndtri(uniform(key, 16)[:, 0].clamp(1e-3, 1 - 1e-3))  # the normal law next to Beta(32, 32)
    partner = _partner(len(images), 1, images.device)
    share = torch.where(mix, share, 1.0)[:, None, None, None].to(images.dtype)
    added: Labels = {}
    for of, names in (("image", ("box", "side", "keypoints")), ("ignore_image", ("ignore",))):
        row, new = torch.nonzero((labels[of][:, None] == partner) & mix, as_tuple=True)
        added |= {of: torch.cat([labels[of], new])} | {name: torch.cat([labels[name], labels[name][row]]) for name in names}
    return share * images + (1 - share) * images[partner], added


def as_floats(images: Tensor) -> Float[Tensor, "b 3 h w"]:
    """uint8 [b, h, w, 3] to [0, 1], channels first in the memory order that convolutions like."""
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(255)


def of_training(labels: Mapping[str, Tensor], image: Int64[Tensor, "b"], size: int) -> Labels:
    """The columns that augmentation knows; hands that were not kept become boxes to ignore, and unknown keypoints count for nothing.

    `image`: which one of the batch each row of `to_input` is of.
    """
    kept = labels["keep"]
    border = torch.empty_like(labels["to_input"][:, 1:])
    border[image] = labels["to_input"][:, 1:]
    return {
        "image": labels["image"][kept],
        "box": labels["box"][kept],
        "side": labels["side"][kept].long(),
        "keypoints": labels["keypoints"][kept].nan_to_num(0.0),
        "ignore_image": torch.cat([labels["ignore_image"], labels["image"][~kept]]),
        "ignore": torch.cat([labels["ignore"], labels["box"][~kept]]),
        "shown": torch.cat([border, size - border], 1),
    }
