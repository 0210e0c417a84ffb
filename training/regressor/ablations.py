"""The paper's Table 5: what each row changes, and what the paper says of it on FreiHAND."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from training.regressor.network import RegressorSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """One row."""

    row: str
    """As the paper calls it."""
    paper: tuple[float, float, float, float]
    """PA-MPJPE and PA-MPVPE, millimetres, F@5 and F@15."""
    network: Mapping[str, Any]
    """Settings of the network that differ."""
    vitpose: bool = True
    """Whether the transformer starts from ViTPose's weights."""
    share: float = 1.0
    """Of the shards, which stands for the paper's smaller sets of images."""

    def settings(self, full: RegressorSettings) -> RegressorSettings:
        """The network of this row beside that of the last."""
        return replace(full, **self.network)


ABLATIONS: Mapping[str, Ablation] = {
    "fastvit": Ablation(row="Proposed w. FastViT", paper=(6.5, 6.3, 0.741, 0.967), network={"backbone": "fastvit"}, vitpose=False),
    "no_vitpose": Ablation(row="Proposed w/o ViTPose", paper=(5.9, 5.7, 0.795, 0.989), network={}, vitpose=False),
    "single_scale": Ablation(row="Proposed w. Single-Scale", paper=(6.0, 5.9, 0.793, 0.991), network={"scales": (1,)}),
    "no_refinement": Ablation(row="Proposed w/o Refinement", paper=(6.1, 5.8, 0.795, 0.991), network={"refine_steps": 0}),
    "data_3": Ablation(row="Proposed w. FreiHAND", paper=(6.1, 5.8, 0.793, 0.990), network={}, share=0.031),
    "data_64": Ablation(row="Proposed w. Datasets [HaMeR]", paper=(5.9, 5.7, 0.805, 0.992), network={}, share=0.64),
    "full": Ablation(row="Proposed Full", paper=(5.5, 5.1, 0.825, 0.993), network={}),
}
"""FreiHAND's 130,240 images are 3.1 % of the paper's 4.2 million, HaMeR's 2.7 million 64 %. With FreiHAND's files, and no shards besides,
`data_3` is the paper's row itself."""
