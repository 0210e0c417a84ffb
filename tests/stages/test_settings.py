"""Every setting says which values it may have, and a stage refuses every other one in one line."""

import math
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

import pytest

from pipeline import recipes
from stages.fit import Fit
from stages.stage import Bounds, bounds_of, check_settings, setting


@dataclass(frozen=True, kw_only=True)
class Example:
    share: float = setting(0.5, least=0, most=1)
    decay: float = setting(0.9, above=0, below=1)
    reach: float = setting(1.0, above=0)
    count: int = setting(3, least=1)
    zooms: tuple[float, ...] = setting((1.0, 2.0), least=1)
    device: str = setting("cpu", choices=("cpu", "cuda"))
    engine: Literal["torch", "onnx"] = "torch"
    free: float = -1.0

    def __post_init__(self) -> None:
        check_settings(self)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"share": 1.5}, r"share must lie in [0, 1], got 1.5"),
        ({"share": math.nan}, r"share must lie in [0, 1], got nan"),
        ({"share": "half"}, r"share must lie in [0, 1], got 'half'"),
        ({"decay": 1.0}, r"decay must lie in (0, 1), got 1.0"),
        ({"reach": 0}, r"reach must be more than 0, got 0"),
        ({"reach": math.inf}, r"reach must be more than 0 and be finite, got inf"),
        ({"count": 0}, r"count must be 1 or more, got 0"),
        ({"count": 2.5}, r"count must be a whole number, got 2.5"),
        ({"zooms": (1.0, 0.5)}, r"zooms must be 1 or more, got (1.0, 0.5)"),
        ({"device": "tpu"}, r"device must be one of cpu, cuda, got 'tpu'"),
        ({"engine": "caffe"}, r"engine must be one of torch, onnx, got 'caffe'"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_field_range_and_value(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011  the whole message is compared
        Example(**change)
    assert str(error.value) == f"test_settings.{complaint}"


def test_values_at_closed_ends_and_settings_without_bounds_pass() -> None:
    Example(share=0, reach=1e-9, count=1, zooms=(), free=-7.0)
    assert bounds_of(fields(Example)[-1]) is None
    assert bounds_of(fields(Example)[0]) == Bounds(least=0, most=1)
    assert str(bounds_of(fields(Example)[-2])) == "be one of torch, onnx"


STAGES = [found for found in vars(recipes).values() if is_dataclass(found) and hasattr(found, "reads")]


@pytest.mark.parametrize("kind", [stage for stage in STAGES if stage is not Fit])
def test_every_number_of_every_stage_has_bounds_and_keeps_them(kind: Any) -> None:
    stage = kind()
    for one in fields(stage):
        if one.type not in (int, float):
            continue
        bounds = bounds_of(one)
        assert bounds is not None, f"{stage.name}.{one.name}"
        worst = -(10**12) if bounds.least is not None or bounds.above is not None else 10**12
        with pytest.raises(ValueError, match=rf"\.{one.name} must (be|lie)"):
            replace(stage, **{one.name: one.type(worst)})
