"""The detectors' benchmark: every network's row is whole, its ratios are those of its own times, and the peers do the same work."""

import numpy as np
import pytest
import torch

from benchmarks.networks.detectors import row_of, run
from benchmarks.networks.detectors_networks import MEDIAPIPE, TORCH, Contest, gflop_of_tflite, pictures
from benchmarks.networks.detectors_peers import forward, mediapipe_alone

BATCHES = (1, 2, 3)


def test_a_row_of_mediapipes_networks_says_what_was_measured() -> None:
    pytest.importorskip("mediapipe")
    rows = run([*MEDIAPIPE], batches=BATCHES, seconds=0)
    assert rows.keys() == MEDIAPIPE.keys()
    for row in rows.values():
        assert {f"ms_batch_{n}" for n in BATCHES} < row.keys()
        assert row["vs_peer"] == pytest.approx(row["ms_peer"] / min(times for name, times in row.items() if name.startswith("ms_batch")))
        assert row["vs_peer_litert_one_core"] == pytest.approx(row["ms_peer"] / row["ms_batch_2_litert_one_core"])
        assert 0 < row["share_of_limit"] < 1


def test_a_row_of_torchs_networks_counts_its_operations_and_compares_each_way() -> None:
    network, inputs = torch.nn.Conv2d(3, 8, 3, padding=1), torch.rand(8, 3, 32, 32)

    def work(count: int) -> None:
        forward(network, inputs[:count])

    def one_by_one(count: int) -> None:
        for _ in range(count):
            work(1)

    contest = Contest(ours=work, also={"float32": work}, peer=one_by_one, peer_is="itself", per="crop")
    row = row_of(contest, BATCHES, 0.0, gflops=100.0)
    assert row["gflop"] == pytest.approx(2 * 8 * 3 * 9 * 32 * 32 / 1e9)
    assert row["limit_ms"] == pytest.approx(row["gflop"] * 10)
    assert row["vs_peer"] == pytest.approx(row["ms_peer"] / min(times for name, times in row.items() if name.startswith("ms_batch")))
    assert row["vs_peer_float32"] == pytest.approx(row["ms_peer"] / row["ms_batch_2_float32"])


def test_every_network_of_the_ensemble_is_there() -> None:
    names = "palm hand_landmarks person_boxes_rtdetr_r50 person_boxes_dfine_large vitpose_base_body vitpose_base_wholebody alphapose"
    assert {*MEDIAPIPE, *TORCH} == {*names.split(), "openpose_hand", "contact_hands"}


def test_the_mediapipe_package_runs_one_network_alone() -> None:
    pytest.importorskip("mediapipe")
    with mediapipe_alone("palms") as look:
        assert not any(look(image).hand_landmarks for image in pictures())
    with mediapipe_alone("landmarks") as look:
        seen = [len(look(image).hand_landmarks) for image in np.repeat(pictures()[1:2], 3, axis=0)]
    assert seen == [1, 1, 1], "one hand is tracked in every picture"


def test_operations_are_counted_as_by_hand() -> None:
    assert gflop_of_tflite("palm_detection_full") == pytest.approx(0.675, rel=0.01)  # 0.544 dense and 0.130 depthwise
    assert gflop_of_tflite("hand_landmark_full") == pytest.approx(0.662, rel=0.01)
