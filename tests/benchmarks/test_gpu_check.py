"""`make gpu-check` names what differs, what failed and what it left out; its networks are the CPU's here."""

from benchmarks import gpu_check
from benchmarks.gpu_check import PARTS, check, faults


def test_without_a_gpu_the_networks_are_looked_at_all_the_same_and_what_needs_one_is_named() -> None:
    figures = check({name: PARTS[name] for name in ("mediapipe_networks", "detector_training_images_per_s")}, "cpu")
    assert figures["detector_training_images_per_s"] > 0
    assert set(figures["mediapipe_networks"]) == set(gpu_check.MEDIAPIPE)
    assert 0 < max(figures["mediapipe_networks"].values()) < 1e-4, "two engines are compared, not one with itself"
    assert figures["faults"] == []


def test_a_part_that_raises_is_reported_and_late_ones_are_left_out() -> None:
    def breaks(device: str, small: bool) -> float:
        raise RuntimeError("no kernel image")

    figures = check({"chain": breaks, "detector": lambda device, small: {"eager_1": small}}, "cpu")
    assert figures["chain"]["error"] == "RuntimeError: no kernel image"
    assert figures["detector"] == {"eager_1": True}
    assert figures["faults"] == ["chain: RuntimeError: no kernel image"]
    assert figures["skipped"] == {"detector": "needs a GPU: compiled and as a CUDA graph"}
    assert "no time left" in check({"detector": breaks}, "cuda-like", budget_s=-1.0)["skipped"]["detector"]


def test_numbers_that_differ_are_faults() -> None:
    assert faults({"mediapipe_networks": {"palm": 9e-5, "hand": 2e-4}, "torch_networks": {"a": float("nan")}, "fit": {"apart": 0.5}}) == [
        "hand is 0.0002 apart", "a is nan apart", "the fit is 0.5 apart",
    ]  # fmt: skip
