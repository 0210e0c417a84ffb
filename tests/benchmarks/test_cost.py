"""What a list costs is what the measured rates say, and what docs/operations.md shows."""

from pathlib import Path

import pytest

from benchmarks import cost
from benchmarks.cost import Assumed, Job, cost_of, job_of

RATES = {"download": 1.0, "decode": 100.0, "detect-hands": 10.0}


def test_hours_and_dollars_follow_from_the_rates() -> None:
    assumed = Assumed(second_core=1.0, core_hour=0.1, gb_month=0.0)
    slow, fast = (cost_of(Job(num_videos=500, hours=10, frames_per_s=rate), RATES, assumed) for rate in (5, 25))
    assert slow.frames == 180_000
    assert slow.by_stage == {"decode": pytest.approx(0.5), "detect-hands": pytest.approx(5.0)}, "to download is not to work"
    assert slow.dollars == pytest.approx(0.55)
    assert [fast.by_stage["decode"], fast.by_stage["detect-hands"]] == pytest.approx([0.5, 25.0])
    assert [slow.download_h, slow.media_gb, slow.shards_gb] == pytest.approx([2.0, 14.0, 10.8])


def test_videos_of_unknown_length_count_as_the_others(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a split=train fps=25 frames=90000 size=640x480\nb split=train\n")
    assert job_of(tmp_path / "list.txt", 5.0).hours == 2.0
    (tmp_path / "none.txt").write_text("b split=train\n")
    with pytest.raises(ValueError, match="tells no lengths"):
        job_of(tmp_path / "none.txt", 5.0)


def test_the_page_shows_what_the_measured_rates_say() -> None:
    assert cost.shown(*cost.measured()) in cost.PAGE.read_text(), "run python -m benchmarks.cost --write"
