"""ContactHands' hand boxes by detectron2 itself, in `FasterRCNN`'s place; by the Python of `.env-detectron2` (`make env-detectron2`)."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from stages.detectors.contacthands.boxes import LEFT_OUT
from stages.detectors.contacthands.network import NUM_DETECTIONS
from stages.detectors.weights import State, fill

CONFIG: dict[str, Any] = {
    "MODEL.DEVICE": "cpu",
    "MODEL.PIXEL_MEAN": [0.0, 0.0, 0.0],
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.RESNETS.DEPTH": 101,
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_HEADS.NUM_CLASSES": 1,
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
}
"""Where ContactHands' network, but for its mask and contact heads, is not detectron2's default; means are taken off by `cut_look`."""


class Detectron2(nn.Module):
    """detectron2's GeneralizedRCNN, called as `FasterRCNN` is."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Float[Tensor, "b 3 h w"], sizes: Int[Tensor, "b 2"]) -> Float32[Tensor, "b 100 5"]:
        """Box and score of each detection, best first, then rows of zeros. Pictures are padded from their own height and width, `sizes`."""
        looks = [{"image": picture[:, :height, :width]} for picture, (height, width) in zip(pictures, sizes.tolist(), strict=True)]
        found = pictures.new_zeros((len(looks), NUM_DETECTIONS, 5), dtype=torch.float32)
        for rows, one in zip(found, self.network(looks), strict=True):
            hands = one["instances"]
            rows[: len(hands)] = torch.cat([hands.pred_boxes.tensor, hands.scores[:, None]], 1)
        return found


def generalized_rcnn(state: State, source: Path, *, min_score: float, max_iou: float) -> Detectron2:
    """The network with the hands' part of a checkpoint. Raises BadWeights when it is another network's."""
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    config = get_cfg()
    thresholds = {"MODEL.ROI_HEADS.SCORE_THRESH_TEST": float(min_score), "MODEL.ROI_HEADS.NMS_THRESH_TEST": float(max_iou)}
    config.merge_from_list([one for setting in (CONFIG | thresholds).items() for one in setting])
    network = build_model(config)
    fill(network, state, source, ignore=LEFT_OUT)
    return Detectron2(network)
