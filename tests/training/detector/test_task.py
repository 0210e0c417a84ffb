"""The whole chain learns: eight images off a shard, by heart."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import simplejpeg
import torch

import whim
from stages.tables import SCHEMA_VERSION
from tests.training.conftest import rows, write
from training.commands.train import photographed
from training.data.dataset import Dataset
from training.data.loader import Loader
from training.data.samples import Frames
from training.detector.augment import Augmentation, augment
from training.detector.inference import read
from training.detector.task import DetectorTask
from training.run.loop import Run, TrainSettings

SIZE = 128


def hands_in_images(count: int) -> pa.Table:
    """Right hands orange, left hands blue, each a disc with a bright spot for every keypoint, on noise."""
    rng = np.random.default_rng(0)
    table = rows(1, 1)
    (template,) = table["hands"][0].as_py()
    images, hands = [], []
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    for k in range(count):
        image = rng.integers(0, 60, (SIZE, SIZE, 3)).astype(np.float64)
        found = []
        for half in range(1 + k % 2):
            side = int(rng.integers(2))
            radius, middle = rng.uniform(16, 26), np.array([32 + 64 * half, rng.uniform(32, 96)])
            inside = ((x - middle[0]) ** 2 + (y - middle[1]) ** 2) < radius**2
            image[inside] = (220, 120, 40) if side else (40, 120, 220)
            angle = np.arange(21) / 21 * 2 * np.pi
            points = middle + 0.7 * radius * np.stack([np.cos(angle), np.sin(angle)], 1)
            for px, py in points.round().astype(int):
                image[py, px] = 255
            box = [*(middle - radius), *(middle + radius)]
            keypoints = np.concatenate([points, np.ones((21, 1))], 1).tolist()
            found.append(template | {"box": [float(v) for v in box], "side": side, "keypoints": keypoints})
        images.append(simplejpeg.encode_jpeg(image.astype(np.uint8), quality=95))
        hands.append(found)
    schema = table.schema
    columns = [pa.array(hands, schema.field("hands").type), pa.array([[]] * count, schema.field("ignore_boxes").type), pa.array(images)]
    return pa.table(columns, schema=schema)


@pytest.fixture
def eight(tmp_path: Path, cache: Path) -> Frames:
    return Frames(dataset=Dataset.of([write(tmp_path / "train" / "eight.parquet", hands_in_images(8))], cache), size=SIZE)


def learning(eight: Frames, folder: Path, num_epochs: int) -> tuple[DetectorTask, Run]:
    """A run of epochs of one step each, not measured."""
    task = DetectorTask(held_out=eight, augmentation=Augmentation.none())
    settings = TrainSettings(epochs=num_epochs, learning_rate=4e-3, warmup_steps=10)
    run = Run(task, Loader(sources=[eight], batch_size=8, num_threads=1), settings, folder)
    return task, run


def epochs(run: Run) -> None:
    for _ in range(run.chosen.epochs):
        run._epoch()
        run.progress.epoch, run.progress.step = run.progress.epoch + 1, 0


def test_fifty_steps_teach_places_sides_and_visibility(eight: Frames, tmp_path: Path) -> None:
    task, run = learning(replace(eight, size=64), tmp_path / "run", 50)
    (batch,) = run.loader.epoch(0)

    def terms() -> dict[str, float]:
        with torch.no_grad():
            return {name: float(value) for name, value in task.loss(run.plain, batch, run.device, 1.0).items()}

    before = terms()
    epochs(run)
    after = terms()
    assert sum(after.values()) < 0.3 * sum(before.values())
    for name in ("single_side", "single_keypoints", "single_visibility"):
        assert after[name] < 0.5 * before[name], name


def terms_of(task: DetectorTask, loader: Loader, share_done: float) -> dict[str, float]:
    """Terms of the first batch by a network that is new and the same each time."""
    torch.manual_seed(0)
    network = task.network().eval()
    with torch.no_grad():
        found = task.loss(network, next(iter(loader.epoch(0))), torch.device("cpu"), share_done)
    return {name: float(value) for name, value in found.items()}


def test_the_end_of_a_run_sees_whole_images_alone(eight: Frames) -> None:
    loader = Loader(sources=[replace(eight, size=64)], batch_size=8, num_threads=1)
    changed = replace(Augmentation.none(), mosaic=1.0, mixup=1.0)
    task = DetectorTask(held_out=None, augmentation=changed, plain_share=0.2)
    plain = replace(task, augmentation=Augmentation.none())
    assert terms_of(task, loader, 0.85) == terms_of(plain, loader, 0.85)
    assert terms_of(task, loader, 0.75)["side"] != terms_of(plain, loader, 0.75)["side"]


def test_both_heads_know_how_much_of_a_run_is_done(eight: Frames) -> None:
    """Keypoints begin with wide sigmas, by which a first guess is not wholly wrong; the one-to-one head's share grows."""
    loader = Loader(sources=[replace(eight, size=64)], batch_size=8, num_threads=1)
    task = DetectorTask(held_out=None, augmentation=Augmentation.none(), one_to_one=(0.25, 0.75))
    first, last = (terms_of(task, loader, share) for share in (0.0, 1.0))
    for head, begin, end in (("", 0.75, 0.25), ("single_", 0.25, 0.75)):
        assert first[f"{head}box"] / begin == pytest.approx(last[f"{head}box"] / end)
        assert first[f"{head}keypoints"] / begin < 0.8 * last[f"{head}keypoints"] / end


def test_what_an_image_shows_of_its_square_is_told_of_that_image(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels come dataset by dataset, images as they were dealt: wide ones have grey above and below them, high ones at their sides."""
    sources = []
    for name, turned in (("wide", False), ("high", True)):
        table = rows(0, 8)
        place = table.schema.get_field_index("image")
        jpegs = [simplejpeg.decode_jpeg(jpeg.as_py()) for jpeg in table["image"]]
        turned_jpegs = [simplejpeg.encode_jpeg(np.ascontiguousarray(one.swapaxes(0, 1) if turned else one)) for one in jpegs]
        shard = write(tmp_path / name / "a.parquet", table.set_column(place, table.schema.field(place), pa.array(turned_jpegs)))
        sources.append(Frames(dataset=Dataset.of([shard], cache / name), size=64))
    loader = Loader(sources=sources, batch_size=16, num_threads=1)
    seen: dict[str, torch.Tensor] = {}

    def watched(images: torch.Tensor, labels: dict[str, torch.Tensor], key: torch.Tensor, chosen: Augmentation) -> Any:
        seen.update(images=images, shown=labels["shown"])
        return augment(images, labels, key, chosen)

    monkeypatch.setattr("training.detector.task.augment", watched)
    terms_of(DetectorTask(held_out=None, augmentation=Augmentation.none()), loader, 0.0)
    corners = [(int(x), int(y)) for x, y in seen["shown"][:, :2].round()]
    assert len(set(corners)) == 2
    for image, (x, y) in zip(seen["images"], corners, strict=True):
        border = image[:, :y] if y else image[:, :, :x]
        assert (border - 114 / 255).abs().max() < 1e-6
        assert (image[:, y + 2, x + 2] - 1).abs().max() < 0.2, "each image has a white corner"


@pytest.mark.long
def test_eight_images_are_learnt_by_heart(eight: Frames, tmp_path: Path) -> None:
    task, run = learning(replace(eight, size=96), tmp_path / "run", 260)
    epochs(run)
    metrics = task.evaluate(run.ema.network, torch.device("cpu"))
    assert metrics["ap"] > 0.95
    assert metrics["side_ap"] > 0.95
    assert metrics["side"] == metrics["recall"] == 1
    task.draw(run.ema.network, torch.device("cpu"), tmp_path / "sheet.jpg")
    assert (tmp_path / "sheet.jpg").stat().st_size > 10_000


def test_the_command_trains_measures_and_goes_on(
    eight: Frames, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHIM_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "val" / "some.parquet", hands_in_images(4))
    words = ["train", "detector", "--data", str(tmp_path), "--out", str(tmp_path / "run"), "--set", "image_px=64", "--set", "batch_size=4"]
    few = ("--set", "epoch_images=12")
    assert whim.main([*words, *few, "--epochs", "1"]) == 0
    assert whim.main([*words, *few, "--epochs", "2"]) == 0
    assert "ap50" in capsys.readouterr().out
    lines = (tmp_path / "run" / "log.jsonl").read_text()
    assert lines.count('"minutes"') == 2
    assert '"num_steps": 6, "epoch": 2' in lines, "as many images as the recipe says"
    assert read(tmp_path / "run" / "last.pt").settings.image == 64
    whim.main(
        ["evaluate", "detector", str(tmp_path / "run" / "best.pt"), "--data", str(tmp_path), "--split", "val", "--image", "64", "--json"]
    )
    monkeypatch.setattr("training.commands.train._LEAST_STEPS", 5)
    assert whim.main([*words, "--epochs", "1", "--out", str(tmp_path / "whole")]) == 0
    assert '"num_steps": 5, "epoch": 1' in (tmp_path / "whole" / "log.jsonl").read_text(), "eight images are gone through several times"
    assert whim.main([*words, "--set", "epoch_images=3"]) == 1
    assert "detector.epoch_images must be at least a batch, 4, got 3" in capsys.readouterr().err
    for odd, wanted in ((("--set", "batch_size=6"), "4, 4 a worker"), (("--workers", "2"), "8, 4 a worker")):
        assert whim.main([*words, *odd, "--out", str(tmp_path / "odd")]) == 1
        assert f"detector.batch_size must be a multiple of {wanted} for mosaic and mixup" in capsys.readouterr().err
    assert not (tmp_path / "odd").exists(), "a refused training left something"
    assert whim.main([*words, "--set", "share=0"]) == 1
    assert "detector.share must lie in (0, 1], got 0.0" in capsys.readouterr().err
    assert whim.main([*words, "--held-out", str(tmp_path / "run")]) == 1
    assert "no shard of a val or test split in" in capsys.readouterr().err


def test_rendered_images_choose_no_epoch_where_photographs_are_held_out(tmp_path: Path) -> None:
    real = write(tmp_path / "real" / "val" / "a.parquet", rows(0, 3)).parents[1]
    of_albums = {"schema_version": str(SCHEMA_VERSION), "recipe": json.dumps({"albums": [{"seed": 1}]})}
    rendered = write(tmp_path / "studio" / "val" / "a.parquet", rows(0, 3).replace_schema_metadata(of_albums)).parents[1]
    assert photographed([rendered, real]) == [real]
    assert photographed([rendered]) == [rendered], "better than nothing"


def test_an_epoch_is_measured_on_photographs_where_rendered_images_are_beside_them(
    eight: Frames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rendered frames with hands; photographs without any, of which the command says that they measure nothing."""
    monkeypatch.setenv("WHIM_CACHE", str(tmp_path / "cache"))
    table = rows(0, 8)
    of_albums = {"schema_version": str(SCHEMA_VERSION), "recipe": json.dumps({"albums": [{"seed": 1}]})}
    for split in ("train", "val"):
        write(tmp_path / "studio" / split / "a.parquet", hands_in_images(4).replace_schema_metadata(of_albums))
    no_hands = pa.array([[]] * len(table), table.schema.field("hands").type)
    write(tmp_path / "val" / "bare.parquet", table.set_column(0, table.schema.field(0), no_hands))
    words = ["train", "detector", "--data", str(tmp_path), str(tmp_path / "studio"), "--out", str(tmp_path / "run"), "--epochs", "1"]
    assert whim.main([*words, "--set", "image_px=64", "--set", "batch_size=4", "--set", "epoch_images=4"]) == 0
    assert "no hand on the frames to measure on" in " ".join(capsys.readouterr().out.split())


def test_a_training_without_any_hand_is_refused(tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = rows(0, 24)
    no_hands = pa.array([[]] * len(table), table.schema.field("hands").type)
    folder = write(tmp_path / "shards" / "train" / "a.parquet", table.set_column(0, table.schema.field(0), no_hands)).parents[1]
    assert whim.main(["train", "detector", "--data", str(folder), "--out", str(tmp_path / "run")]) == 1
    assert f"no hand in the train split of {folder}" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()
