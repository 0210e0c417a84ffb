"""Faster R-CNN line by line, from the layout of a detectron2 checkpoint and detectron2's documented conventions: slow and plain."""

import math

import torch
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d, grid_sample, interpolate, linear, max_pool2d, relu

from tests.stages.detectors.checkpoints import Layout, random_state

BLOCKS = ((2, 3, 64), (3, 4, 128), (4, 23, 256), (5, 3, 512))
"""Stage, blocks, width."""


def _norm(name: str, channels: int) -> Layout:
    return {f"{name}.norm.{v}": (channels,) for v in ("weight", "bias", "running_mean", "running_var")}


def official_layout() -> Layout:
    """The hands' part of a ContactHands checkpoint: R101-FPN, one class."""
    root = "backbone.bottom_up"
    layout = {f"{root}.stem.conv1.weight": (64, 3, 7, 7), **_norm(f"{root}.stem.conv1", 64)}
    inputs = 64
    for stage, blocks, width in BLOCKS:
        for block in range(blocks):
            at = f"{root}.res{stage}.{block}"
            shapes = {"conv1": (width, inputs, 1, 1), "conv2": (width, width, 3, 3), "conv3": (4 * width, width, 1, 1)}
            if block == 0:
                shapes["shortcut"] = (4 * width, inputs, 1, 1)
            for name, shape in shapes.items():
                layout |= {f"{at}.{name}.weight": shape, **_norm(f"{at}.{name}", shape[0])}
            inputs = 4 * width
        layout |= {f"backbone.fpn_lateral{stage}.weight": (256, inputs, 1, 1), f"backbone.fpn_lateral{stage}.bias": (256,)}
        layout |= {f"backbone.fpn_output{stage}.weight": (256, 256, 3, 3), f"backbone.fpn_output{stage}.bias": (256,)}
    for name, outputs, kernel in (("conv", 256, 3), ("objectness_logits", 3, 1), ("anchor_deltas", 12, 1)):
        at = f"proposal_generator.rpn_head.{name}"
        layout |= {f"{at}.weight": (outputs, 256, kernel, kernel), f"{at}.bias": (outputs,)}
    heads = (
        ("box_head.fc1", 1024, 256 * 7 * 7),
        ("box_head.fc2", 1024, 1024),
        ("box_predictor.cls_score", 2, 1024),
        ("box_predictor.bbox_pred", 4, 1024),
    )
    for name, outputs, inputs in heads:
        layout |= {f"roi_heads.{name}.weight": (outputs, inputs), f"roi_heads.{name}.bias": (outputs,)}
    return layout


def tame_weights() -> dict[str, Tensor]:
    """Random weights that keep scores between 0 and 1 and boxes near their anchors."""
    state = random_state(official_layout())
    factors = (("conv3.norm.weight", 0.3), ("stem.conv1.weight", 0.02), ("fpn_output", 0.02), ("cls_score", 0.3), ("_deltas", 0.3))
    for pattern, factor in factors:
        for name in state:
            state[name] *= factor if pattern in name else 1
    state["roi_heads.box_predictor.cls_score.bias"] = torch.tensor([0.5, -0.5])
    return state


def pyramid(state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """p2 to p6."""

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        y = conv2d(x, weight, state.get(f"{name}.bias"), stride, padding=weight.shape[-1] // 2)
        if f"{name}.norm.weight" not in state:
            return y
        mean, variance, scale, shift = (state[f"{name}.norm.{v}"] for v in ("running_mean", "running_var", "weight", "bias"))
        return batch_norm(y, mean, variance, scale, shift)

    x = max_pool2d(relu(conv(x, "backbone.bottom_up.stem.conv1", 2)), 3, 2, 1)
    stages = {}
    for stage, blocks, _ in BLOCKS:
        for block in range(blocks):
            at = f"backbone.bottom_up.res{stage}.{block}"
            stride = 2 if stage > 2 and block == 0 else 1
            y = conv(relu(conv(relu(conv(x, f"{at}.conv1", stride)), f"{at}.conv2")), f"{at}.conv3")
            x = relu(y + (conv(x, f"{at}.shortcut", stride) if block == 0 else x))
        stages[stage] = x
    maps, above = {}, None
    for stage in (5, 4, 3, 2):
        above = conv(stages[stage], f"backbone.fpn_lateral{stage}") + (
            0 if above is None else interpolate(above, scale_factor=2, mode="nearest")
        )
        maps[stage] = conv(above, f"backbone.fpn_output{stage}")
    return [maps[2], maps[3], maps[4], maps[5], maps[5][:, :, ::2, ::2]]


def apply_deltas(box: list[float], deltas: list[float], weights: tuple[float, ...]) -> list[float]:
    """One box moved, R-CNN's parameters."""
    x0, y0, x1, y1 = box
    dx, dy, dw, dh = (d / w for d, w in zip(deltas, weights, strict=True))
    limit = math.log(1000 / 16)
    centre_x, centre_y = (x0 + x1) / 2 + dx * (x1 - x0), (y0 + y1) / 2 + dy * (y1 - y0)
    width, height = (x1 - x0) * math.exp(min(dw, limit)), (y1 - y0) * math.exp(min(dh, limit))
    return [centre_x - width / 2, centre_y - height / 2, centre_x + width / 2, centre_y + height / 2]


def overlap(a: list[float], b: list[float]) -> float:
    """IoU of two boxes."""
    shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def greedy(boxes: list[list[float]], scores: list[float], max_iou: float) -> list[int]:
    """Suppression, box by box."""
    kept: list[int] = []
    for row in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(overlap(boxes[row], boxes[other]) <= max_iou for other in kept):
            kept.append(row)
    return kept


def clip(box: list[float], height: int, width: int) -> list[float]:
    return [min(max(box[0], 0), width), min(max(box[1], 0), height), min(max(box[2], 0), width), min(max(box[3], 0), height)]


def propose(state: dict[str, Tensor], maps: list[Tensor], height: int, width: int) -> list[list[float]]:
    """Proposals of one picture."""
    head = "proposal_generator.rpn_head"
    found: list[tuple[float, list[float]]] = []
    for x, stride, size in zip(maps, (4, 8, 16, 32, 64), (32, 64, 128, 256, 512), strict=True):
        t = relu(conv2d(x, state[f"{head}.conv.weight"], state[f"{head}.conv.bias"], padding=1))
        logits = conv2d(t, state[f"{head}.objectness_logits.weight"], state[f"{head}.objectness_logits.bias"])[0].tolist()
        deltas = conv2d(t, state[f"{head}.anchor_deltas.weight"], state[f"{head}.anchor_deltas.bias"])[0].tolist()
        rows = []
        for y in range(x.shape[2]):
            for column in range(x.shape[3]):
                for a, ratio in enumerate((0.5, 1.0, 2.0)):
                    w = math.sqrt(size * size / ratio)
                    h = ratio * w
                    anchor = [column * stride - w / 2, y * stride - h / 2, column * stride + w / 2, y * stride + h / 2]
                    moved = apply_deltas(anchor, [deltas[4 * a + d][y][column] for d in range(4)], (1, 1, 1, 1))
                    rows.append((logits[a][y][column], clip(moved, height, width)))
        rows = [row for row in sorted(rows, key=lambda row: -row[0])[:1000] if row[1][2] > row[1][0] and row[1][3] > row[1][1]]
        found += [rows[i] for i in greedy([box for _, box in rows], [logit for logit, _ in rows], 0.7)]
    return [box for _, box in sorted(found, key=lambda row: -row[0])[:1000]]


def align(x: Tensor, box: list[float], stride: int) -> Tensor:
    """ROIAlign of one box of one map [1, c, h, w], 7 x 7, by sampling every point."""
    height, width = x.shape[2:]
    x0, y0, x1, y1 = (v / stride - 0.5 for v in box)
    step_x, step_y = (x1 - x0) / 7, (y1 - y0) / 7
    count_x, count_y = math.ceil(step_x), math.ceil(step_y)
    xs = torch.tensor([x0 + (b + (s + 0.5) / count_x) * step_x for b in range(7) for s in range(count_x)])
    ys = torch.tensor([y0 + (b + (s + 0.5) / count_y) * step_y for b in range(7) for s in range(count_y)])
    unit_x, unit_y = (2 * v.clamp(0, n - 1) / max(n - 1, 1) - 1 for v, n in ((xs, width), (ys, height)))
    grid = torch.stack(torch.meshgrid(unit_x, unit_y, indexing="xy"), -1)[None]
    inside = ((ys >= -1) & (ys <= height))[:, None] & ((xs >= -1) & (xs <= width))[None]
    samples = grid_sample(x, grid, align_corners=True, padding_mode="border")[0] * inside
    return samples.reshape(x.shape[1], 7, count_y, 7, count_x).mean((2, 4))


def detect(state: dict[str, Tensor], picture: Tensor, height: int, width: int, *, min_score: float, max_iou: float) -> Tensor:
    """Boxes and scores of one padded picture [1, 3, h, w], best first."""
    maps = pyramid(state, picture)
    boxes = propose(state, maps, height, width)
    pooled = []
    for box in boxes:
        size = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
        level = min(max(math.floor(4 + math.log2(size / 224 + 1e-8)), 2), 5)
        pooled.append(align(maps[level - 2], box, 2**level).flatten())
    y = torch.stack(pooled)
    for name in ("fc1", "fc2"):
        y = relu(linear(y, state[f"roi_heads.box_head.{name}.weight"], state[f"roi_heads.box_head.{name}.bias"]))
    logits, deltas = (
        linear(y, state[f"roi_heads.box_predictor.{name}.weight"], state[f"roi_heads.box_predictor.{name}.bias"])
        for name in ("cls_score", "bbox_pred")
    )
    scores = logits.softmax(1)[:, 0].tolist()
    rows = [
        (score, clip(apply_deltas(box, d, (10, 10, 5, 5)), height, width))
        for score, box, d in zip(scores, boxes, deltas.tolist(), strict=True)
        if score > min_score
    ]
    kept = greedy([box for _, box in rows], [score for score, _ in rows], max_iou)[:100]
    return torch.tensor([[*rows[i][1], rows[i][0]] for i in kept])
