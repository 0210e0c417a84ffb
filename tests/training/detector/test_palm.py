"""The detector on MediaPipe's palm network: what learns when, and that it learns at once."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hands.metrics.labels import UNKNOWN
from pipeline.dataset.studio_shards import album_tables
from pipeline.engine.files.shard import write_shard
from stages.detectors.networks import computes_bfloat16
from stages.pack import Pack
from studio.stills import Album
from training.data.dataset import Dataset
from training.data.loader import Loader
from training.data.readers.shard_frames import shard_frames
from training.data.samples import Frames
from training.detector import task
from training.detector.augment import Augmentation, Labels, augment
from training.detector.evaluate import evaluate, metrics
from training.detector.inference import HandDetector
from training.detector.losses import keypoint_loss
from training.detector.network import Detector, DetectorSettings, Raw
from training.detector.objective import DetectorLossWeights, Terms, detector_loss, targets_of
from training.detector.task import DetectorTask
from training.recipes import detector_palm
from training.run.loop import Narrowed, Run, TrainSettings

SIZE = 128


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """64 rendered images of hands."""
    folder = tmp_path_factory.mktemp("album")
    pack = Pack(num_shards=1, negatives=0)
    clips = [album_tables(Album(seed=seed, num_pictures=16, size=SIZE), 90) for seed in range(4)]
    path = folder / "train-00000-of-00001.parquet"
    write_shard(pack, pack.build()(clips), path, {"fingerprint": "album"})
    return Dataset.of([path], folder / "cache")


def palm_run(album: Dataset, folder: Path, *, start: Path | None = None, **settings: Any) -> Run:
    recipe = detector_palm()
    frames = Frames(dataset=album, size=SIZE)
    task = DetectorTask(
        held_out=None,
        network_settings=replace(recipe.network, image=SIZE),
        augmentation=Augmentation.none(),
        weights=recipe.loss,
        start=start,
    )
    loader = Loader(sources=[frames], batch_size=16, num_threads=1)
    return Run(task, loader, replace(recipe.train, **settings), folder)


def test_thirty_steps_on_64_images_learn(album: Dataset, tmp_path: Path) -> None:
    run = palm_run(album, tmp_path, epochs=8, precision="float32", warmup_steps=5)
    for _ in range(7):
        run._epoch()
        run.progress.epoch, run.progress.step = run.progress.epoch + 1, 0
    detector = HandDetector(run.plain, threshold=0.01)
    found = metrics(evaluate(detector, shard_frames(Frames(dataset=album, size=SIZE))), threshold=0.05, min_iou=0.3)
    assert run.progress.num_steps <= 30
    assert found["recall"] > 0.5


def test_the_first_operators_stay_and_the_others_wait(album: Dataset, tmp_path: Path) -> None:
    run = palm_run(album, tmp_path, epochs=10, precision="float32")
    before = {name: values.clone() for name, values in run.plain.named_parameters()}
    batch = next(iter(run.loader.epoch(0)))
    run._step(batch, 0.1)
    moved = {name for name, values in run.plain.named_parameters() if not torch.equal(values, before[name])}
    assert moved
    assert not any(name.startswith("backbone.") for name in moved)
    run._step(batch, 0.5)
    moved = {name for name, values in run.plain.named_parameters() if not torch.equal(values, before[name])}
    numbers = {int(name.split(".")[3]) for name in moved if name.startswith("backbone.")}
    assert min(numbers) > run.plain.backbone.kept
    assert max(numbers) == 261
    rates = {group.get("share", 1.0): group["lr"] for group in run.optimizer.param_groups}
    assert rates[0.1] == pytest.approx(rates[1.0] / 10)


def test_bfloat16_is_the_networks_alone(album: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = palm_run(album, tmp_path, precision="bfloat16")
    seen: dict[str, Any] = {}

    def watched(images: torch.Tensor, labels: Labels, key: torch.Tensor, chosen: Augmentation) -> tuple[torch.Tensor, Labels]:
        seen["augment"] = torch.is_autocast_enabled("cpu")
        return augment(images, labels, key, chosen)

    def weighed(raw: Raw, *more: Any, **named: Any) -> Terms:
        seen["loss"] = raw.side.dtype
        return detector_loss(raw, *more, **named)

    monkeypatch.setattr(task, "augment", watched)
    monkeypatch.setattr(task, "detector_loss", weighed)
    run.plain.heads.register_forward_hook(lambda module, given, said: seen.update(network=said.side.dtype))
    run._step(next(iter(run.loader.epoch(0))), 0.0)
    assert seen == {"augment": False, "network": torch.bfloat16, "loss": torch.float32}


def test_the_recipe_takes_bfloat16_where_the_processor_computes_in_it(album: Dataset, tmp_path: Path) -> None:
    run = palm_run(album, tmp_path, precision=detector_palm().train.precision)
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    assert isinstance(run.network, Narrowed) is computes_bfloat16(torch.device("cpu"))
    if "avx2" in flags and "avx512" not in flags:
        assert not isinstance(run.network, Narrowed)
    if "avx512_bf16" in flags:
        assert isinstance(run.network, Narrowed)


def test_warm_up_ends_with_a_share_of_the_run_whatever_the_clock_makes_of_it(album: Dataset, tmp_path: Path) -> None:
    run = palm_run(album, tmp_path, warmup_steps=500, max_minutes=10.0, final_share=1.0)
    run.progress.num_steps = 9
    assert run._learning_rate(0.0) == pytest.approx(run.chosen.learning_rate * 10 / 500)
    assert run._learning_rate(0.025) == pytest.approx(run.chosen.learning_rate / 2)
    assert run._learning_rate(0.06) == pytest.approx(run.chosen.learning_rate)


def test_keypoints_have_a_gradient_at_the_first_guess() -> None:
    rng = np.random.default_rng(0)
    target = torch.from_numpy(rng.uniform(0, 60, (40, 21, 2)))
    area, weight = torch.full((40,), 3600.0), torch.ones(40, 21)

    def felt(widened: float) -> float:
        guess = torch.full_like(target, 30.0).requires_grad_()
        keypoint_loss(guess, target, weight, area, widened).sum().backward()
        assert guess.grad is not None
        return float((guess.grad.norm(dim=-1) > 1e-4 * 60 / 3600).double().mean())

    weights = DetectorLossWeights()
    assert felt(weights.widened(1.0)) < 0.4
    assert felt(weights.widened(0.0)) > 0.95
    assert weights.widened(0.25) == pytest.approx(weights.widest**0.5)
    assert weights.widened(0.5) == weights.widened(0.9) == 1


def test_a_hand_of_unknown_side_says_nothing_of_the_other_side() -> None:
    network = Detector(DetectorSettings(one_to_one=False)).eval()
    raw, _ = network(torch.rand(1, 3, 64, 64))
    raw = Raw(*(values.detach().requires_grad_() for values in raw))
    labels = {
        "image": torch.tensor([0]),
        "box": torch.tensor([[8.0, 8, 56, 56]]),
        "side": torch.tensor([UNKNOWN]),
        "keypoints": torch.zeros(1, 21, 3),
        "ignore_image": torch.zeros(0, dtype=torch.long),
        "ignore": torch.zeros(0, 4),
    }
    with torch.no_grad():
        raw.side[:, :, 1] += 0.5
    terms = detector_loss(raw, targets_of(labels, 1), (64, 64), DetectorLossWeights())
    terms.total().backward()
    assert raw.side.grad is not None
    pulled = raw.side.grad[0, :, 1] < 0  # towards a hand
    assert pulled.any()
    assert (raw.side.grad[0, pulled, 0] == 0).all()
    assert (raw.side.grad[0, ~pulled] > 0).all()
    assert terms.keypoints == terms.visibility == 0


def test_a_checkpoint_knows_the_size_of_its_images(album: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = palm_run(album, tmp_path)
    run.checkpoint().save(tmp_path / "here.pt")
    assert HandDetector.load(tmp_path / "here.pt").size == SIZE
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert HandDetector.load(tmp_path / "here.pt", size=256).size == 256
        HandDetector.load(size=256)
    assert "here.pt was trained at 128 px and is used at 256" in caplog.text
    assert "palm.pt was trained at 416 px and is used at 256" in caplog.text


def test_a_second_round_begins_with_the_first_and_killed_goes_on_with_its_own(album: Dataset, tmp_path: Path) -> None:
    first = palm_run(album, tmp_path / "one")
    with torch.no_grad():
        for values in first.ema.network.parameters():
            values.add_(1)
    first.checkpoint().save(tmp_path / "one.pt")
    second = palm_run(album, tmp_path / "two", start=tmp_path / "one.pt")
    assert all(torch.equal(a, b) for a, b in zip(second.plain.parameters(), first.ema.network.parameters(), strict=True))
    assert second.progress.num_steps == 0
    with torch.no_grad():
        next(second.plain.parameters()).add_(1)
    second.progress.num_steps = 5
    (tmp_path / "two").mkdir(exist_ok=True)
    second.checkpoint().save(tmp_path / "two" / "last.pt")
    again = palm_run(album, tmp_path / "two", start=tmp_path / "one.pt")
    assert again.progress.num_steps == 5
    assert all(torch.equal(a, b) for a, b in zip(again.plain.parameters(), second.plain.parameters(), strict=True))


def test_a_checkpoint_of_a_backbone_that_nobody_knows_is_refused_by_name(album: Dataset, tmp_path: Path) -> None:
    saved = palm_run(album, tmp_path).checkpoint()
    replace(saved, settings={**saved.settings, "backbone": "another"}).save(tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"(?s)other.pt holds a detector that this version cannot build: .*another"):
        HandDetector.load(tmp_path / "other.pt")
    replace(saved, settings={**saved.settings, "backbone": "darknet"}).save(tmp_path / "swapped.pt")
    with pytest.raises(ValueError, match=r"swapped.pt is of another network"):
        HandDetector.load(tmp_path / "swapped.pt")


def test_short_runs_learn_by_the_head_of_many_anchors() -> None:
    recipe = detector_palm()
    assert not recipe.network.one_to_one
    assert recipe.augmentation.rotation_deg <= 30
    assert isinstance(recipe.train, TrainSettings)
