"""The checker of annotations under test: it holds calls to the sizes that arguments and result share, and to all that is no array."""

from typing import Any

import pytest
import torch

from fitting.files import below
from fitting.fit import disagreement


def test_sizes_of_one_name_are_one_size() -> None:
    points = torch.rand(3, 21, 3)
    assert disagreement(points, points + 0.1).shape == (3,)
    with pytest.raises(TypeError, match="disagreement"):
        disagreement(points, points[:1])


def test_what_is_no_array_is_checked_as_well() -> None:
    wrong: Any = "a folder"
    with pytest.raises(TypeError, match="below"):
        below(wrong, "a file")
