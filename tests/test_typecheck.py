"""The checker of annotations under test: it holds calls to the sizes that arguments and result share, and to all that is no array."""

from dataclasses import dataclass
from typing import Any

import jaxtyping
import pytest
import torch
from jaxtyping import Float

from fitting.files import below
from fitting.fit import disagreement
from tests.typecheck import check


def test_sizes_of_one_name_are_one_size() -> None:
    points = torch.rand(3, 21, 3)
    assert disagreement(points, points + 0.1).shape == (3,)
    with pytest.raises(TypeError, match="disagreement"):
        disagreement(points, points[:1])


def test_what_is_no_array_is_checked_as_well() -> None:
    wrong: Any = "a folder"
    with pytest.raises(TypeError, match="below"):
        below(wrong, "a file")


def test_a_result_and_an_object_are_held_to_their_sizes() -> None:
    checked = jaxtyping.jaxtyped(typechecker=check)

    @checked
    def columns(points: Float[torch.Tensor, "n 3"], width: int, added: int = 0) -> Float[torch.Tensor, "n {width}"]:
        return torch.zeros(len(points) + added, 2)

    @checked
    @dataclass(frozen=True)
    class Pair:
        one: Float[torch.Tensor, "n 3"]
        other: Float[torch.Tensor, "n 3"]

    points = torch.rand(4, 3)
    assert columns(points, 2).shape == (4, 2)
    for width, added in ((2, 1), (3, 0)):
        with pytest.raises(TypeError, match="columns"):
            columns(points, width, added)
    assert Pair(points, points).one is points
    with pytest.raises(TypeError, match="other"):
        Pair(points, points[:1])
