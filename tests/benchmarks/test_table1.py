"""Average precision of each member of an ensemble and of their fusion, on images of any published set."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.networks.table1 import FUSED, measure
from stages.fuse_hands import FuseHands
from training.data.readers.labelled_image import LabelledImage

SKIN = (224, 172, 140)


def image(*patches: tuple[int, int, int, int]) -> np.ndarray:
    canvas = np.zeros((240, 320, 3), np.uint8)
    for x0, y0, x1, y1 in patches:
        canvas[y0:y1, x0:x1] = SKIN
    return canvas


def labelled(name: str, *hands: tuple[int, int, int, int], patches: list[tuple[int, int, int, int]]) -> LabelledImage:
    return LabelledImage(name=name, source=image(*patches), box=np.array(hands, float).reshape(-1, 4), side=np.full(len(hands), -1))


def test_each_member_and_their_fusion_have_a_row() -> None:
    skin = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "new_detector.py"))["DetectHandsSkin"]()
    stages = [skin, FuseHands(detectors=("skin",), mode="raw")]
    hand, other = (40, 50, 80, 95), (200, 100, 240, 150)
    both = [labelled("a", hand, patches=[hand]), labelled("b", hand, other, patches=[other])]
    found = measure(both, stages)
    assert set(found) == {"skin", FUSED}
    assert found["skin"]["ap50"] == pytest.approx(0.67, abs=0.01), "two of three hands, and nothing false"
    assert found[FUSED]["ap50"] == pytest.approx(found["skin"]["ap50"])
    with pytest.raises(ValueError, match="no image to measure on"):
        measure([], stages)
    with pytest.raises(ValueError, match="no stage fuse-hands"):
        measure(both, [replace(skin)])
