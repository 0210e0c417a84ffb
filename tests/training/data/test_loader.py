"""Batches: the same bits for any number of ranks and threads and after any stop; one bad sample does not end a run."""

import itertools
import pickle
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.training.conftest import HEIGHT, picture, rows, write
from training.data.dataset import Dataset
from training.data.loader import Loader, Quarantine
from training.data.order import Mixture
from training.data.pages import extents, map_file
from training.data.samples import FILL, Crops, Frames, cut, decode_jpeg, moved, squared
from training.data.shard import CorruptSampleError


@pytest.fixture
def frames(shards: Callable[..., list[Path]], cache: Path) -> Frames:
    return Frames(dataset=Dataset.of(shards(), cache), size=96)


def copied(loader: Loader, epoch: int = 0, step: int = 0, count: int | None = None) -> Any:
    """Batches that outlive their loan."""
    return [
        (batch.images.clone(), batch.key.clone(), batch.samples.sample.copy(), dict(batch.labels))
        for batch in itertools.islice(loader.epoch(epoch, step), count)
    ]


def test_images_are_those_of_their_samples(frames: Frames) -> None:
    for images, _, samples, labels in copied(Loader(sources=[frames], batch_size=8)):
        for image, sample in zip(images.numpy(), samples, strict=True):
            middle = image[16 : 16 + HEIGHT]
            assert np.abs(middle.astype(int) - picture(int(sample))).mean() < 3
            assert (image[:15] == FILL).all()
        assert (np.bincount(labels["image"], minlength=8) == samples % 3).all()
        assert np.allclose(labels["box"][:, 0], (samples % 20)[labels["image"]])
        assert np.allclose(labels["box"][:, 1], 5 + 16)


@pytest.mark.parametrize("world_size", [1, 2, 4, 8, 16])
def test_any_number_of_ranks_sees_the_same_batches(frames: Frames, world_size: int) -> None:
    whole = copied(Loader(sources=[frames], batch_size=16))
    ranks = [
        copied(Loader(sources=[frames], batch_size=16, rank=r, world_size=world_size, num_threads=1 + r % 3)) for r in range(world_size)
    ]
    for step, (images, key, samples, _) in enumerate(whole):
        assert torch.equal(images, torch.cat([rank[step][0] for rank in ranks]))
        assert torch.equal(key, torch.cat([rank[step][1] for rank in ranks]))
        assert np.array_equal(samples, np.concatenate([rank[step][2] for rank in ranks]))


def test_a_run_goes_on_where_it_stopped(frames: Frames) -> None:
    loader = Loader(sources=[frames], batch_size=8, seed=3)
    whole, rest = copied(loader, epoch=2), copied(loader, epoch=2, step=9)
    assert len(whole) == len(loader) == 15
    assert len(rest) == 6
    for (a, key_a, *_), (b, key_b, *_) in zip(whole[9:], rest, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(key_a, key_b)


def test_keys_of_augmentation_differ_by_sample_epoch_and_seed(frames: Frames) -> None:
    keys = {
        int(key)
        for seed, epoch in itertools.product((0, 1), (0, 1))
        for _, batch, *_ in copied(Loader(sources=[frames], batch_size=8, seed=seed), epoch)
        for key in batch
    }
    assert len(keys) == 4 * 120


def test_a_step_of_two_million_samples_is_known_at_once() -> None:
    """A bound far above what it takes (milliseconds), to catch an order that is built."""
    mixture = Mixture(counts=[1_500_000, 500_000], weights=[1, 1])
    before = time.process_time()
    for epoch in range(20):
        mixture.at(epoch, np.arange(1_900_000, 1_900_064))
    assert time.process_time() - before < 5


def test_datasets_are_mixed_by_weight(frames: Frames, shards: Callable[..., list[Path]], tmp_path: Path, cache: Path) -> None:
    other = Frames(dataset=Dataset.of([write(tmp_path / "other.parquet", rows(500, 10))], cache), size=96)
    loader = Loader(sources=[frames, other], batch_size=10, weights=[1, 1], num_samples=40)
    for batch in loader.epoch(0):
        for k, (dataset, sample) in enumerate(zip(batch.samples.dataset, batch.samples.sample, strict=True)):
            number = int(sample) + 500 * int(dataset)
            assert np.abs(batch.images[k, 16 : 16 + HEIGHT].numpy().astype(int) - picture(number)).mean() < 3
            on_it = batch.labels["image"] == k
            assert on_it.sum() == number % 3
            assert (batch.labels["box"][on_it, 0] == number % 20).all()


def test_a_batch_may_lack_crops_of_a_rare_dataset(shards: Callable[..., list[Path]], tmp_path: Path, cache: Path) -> None:
    crops = Crops.of(Dataset.of(shards(), cache), size=64)
    rare = Crops.of(Dataset.of([write(tmp_path / "rare.parquet", rows(500, 10))], cache), size=64)
    loader = Loader(sources=[crops, rare], batch_size=4, weights=[39, 1], num_samples=40)
    drawn = [(batch.samples.dataset.tolist(), batch.labels["keypoints"].shape) for batch in loader.epoch(0)]
    assert [0] * 4 in [datasets for datasets, _ in drawn]
    assert sum(map(sum, (datasets for datasets, _ in drawn))) == 1
    assert {shape for _, shape in drawn} == {(4, 21, 3)}


def flip(path: Path, row: int, byte: int) -> None:
    found = extents(path, "image", map_file(path))
    assert found
    data = bytearray(path.read_bytes())
    data[int(found.offset[row]) + byte] ^= 0xFF
    path.write_bytes(bytes(data))


def test_a_corrupt_sample_is_quarantined_counted_and_replaced_alike_everywhere(shards: Callable[..., list[Path]], cache: Path) -> None:
    paths = shards(3, data_page_size=1, write_batch_size=1)  # a page a row
    flip(paths[0], 20, 0)
    frames = Frames(dataset=Dataset.of(paths, cache), size=96)
    first, second = (Loader(sources=[frames], batch_size=8, num_threads=n, quarantine=Quarantine()) for n in (1, 4))
    a, b = copied(first), copied(second)
    assert list(first.quarantine.reasons) == list(second.quarantine.reasons) == [(0, 20)]
    assert "checksum" in first.quarantine.reasons[0, 20]
    samples = np.concatenate([samples for _, _, samples, _ in a])
    assert 20 not in samples
    assert (samples == 21).sum() == 2
    assert all(torch.equal(x[0], y[0]) for x, y in zip(a, b, strict=True))
    for images, _, samples, labels in a:
        assert (np.bincount(labels["image"], minlength=8) == samples % 3).all()
        assert images.shape == (8, 96, 96, 3)


def test_bytes_that_are_no_image_are_quarantined_too(tmp_path: Path, cache: Path) -> None:
    table = rows(0, 40)
    images = table["image"].to_pylist()
    images[3] = b"not an image"
    table = table.set_column(2, table.schema.field("image"), [images])
    frames = Frames(dataset=Dataset.of([write(tmp_path / "a.parquet", table)], cache), size=96)
    loader = Loader(sources=[frames], batch_size=8)
    assert len(copied(loader)) == 5
    assert "no JPEG" in loader.quarantine.reasons[0, 3]


@pytest.mark.parametrize("size", [96, 64])
def test_an_image_that_is_cut_short_is_quarantined_at_any_size(tmp_path: Path, cache: Path, size: int) -> None:
    table = rows(0, 40)
    images = table["image"].to_pylist()
    images[5] = images[5][: len(images[5]) // 2]
    table = table.set_column(2, table.schema.field("image"), [images])
    frames = Frames(dataset=Dataset.of([write(tmp_path / "a.parquet", table)], cache), size=size)
    loader = Loader(sources=[frames], batch_size=8)
    samples = np.concatenate([samples for _, _, samples, _ in copied(loader)])
    assert list(loader.quarantine.reasons) == [(0, 5)]
    assert 5 not in samples


def test_too_many_corrupt_samples_end_the_run(tmp_path: Path, cache: Path) -> None:
    table = rows(0, 40)
    images = [b"broken" if k % 3 else image for k, image in enumerate(table["image"].to_pylist())]
    table = table.set_column(2, table.schema.field("image"), [images])
    frames = Frames(dataset=Dataset.of([write(tmp_path / "a.parquet", table)], cache), size=96)
    with pytest.raises(CorruptSampleError, match=r"of \d+ samples are corrupt, the last: .*no JPEG"):
        copied(Loader(sources=[frames], batch_size=8, quarantine=Quarantine(tolerated=10)))


def test_crops_hold_their_hand_in_the_middle_and_left_hands_are_mirrored(shards: Callable[..., list[Path]], cache: Path) -> None:
    dataset = Dataset.of(shards(), cache)
    crops = Crops.of(dataset, size=64, factor=2.0)
    assert len(crops) == sum(k % 3 for k in range(120) if k % 7 != 6)
    out = np.empty(crops.shape, np.uint8)
    for sample in (0, 1, len(crops) - 1):
        crops.decode(sample, out)
        labels = crops.labels([sample])
        row = int(crops.hand[sample, 0])
        middle = moved(np.array([[[row % 20 + 15, 25.0]]], np.float32), labels["to_input"])[0, 0]
        assert np.allclose(middle, 32, atol=1e-3)
        corner = moved(np.array([[[4.0, 4.0]]], np.float32), labels["to_input"])[0, 0]  # the frame's bright corner
        if labels["side"][0] == 0:
            corner[0] = 64 - corner[0]
        if (corner > 2).all() and (corner < 62).all():
            assert out[int(corner[1]), int(corner[0])].min() > 200
        colour = picture(row)[30, 50].astype(int)
        assert np.abs(out[32, 32].astype(int) - colour).max() < 12


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("box", [[100, 80, 180, 140], [-20, 150, 70, 260], [5, 3, 620, 350], [900, 900, 950, 950]])
def test_a_crop_is_what_a_warp_would_cut(box: list[int], mirrored: bool) -> None:
    import cv2

    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (360, 640, 3), np.uint8), (0, 0), 6)
    to_input = squared(np.array(box, np.float32), 96, 2.0)
    scale, dx, dy = to_input.tolist()
    half = 0.5 * (scale - 1)
    wanted = cv2.warpAffine(image, np.array([[scale, 0, dx + half], [0, scale, dy + half]]), (96, 96), borderValue=(FILL,) * 3)
    shrunk = [cv2.resize(image, (640 * k // 8, 360 * k // 8), interpolation=cv2.INTER_AREA) for k in (2, 4) if k >= 8 * scale]
    for given in [image, *shrunk]:
        out = np.empty((96, 96, 3), np.uint8)
        cut(given, (640, 360), to_input, out, mirrored=mirrored)
        apart = np.abs((out[:, ::-1] if mirrored else out).astype(int) - wanted)
        assert np.median(apart) <= 2
        assert np.quantile(apart, 0.97) < 12, "but for the image's edge, where a warp blends"


def test_a_large_frame_is_shrunk_and_its_labels_with_it(tmp_path: Path, cache: Path) -> None:
    import simplejpeg

    table = rows(1, 1)
    large = np.full((600, 1200, 3), 60, np.uint8)
    large[280:320, 900:940] = 250
    table = table.set_column(2, table.schema.field("image"), [[simplejpeg.encode_jpeg(large, quality=95)]])
    frames = Frames(dataset=Dataset.of([write(tmp_path / "a.parquet", table)], cache), size=96)
    out = np.empty(frames.shape, np.uint8)
    frames.decode(0, out)
    y, x = np.argwhere(out[..., 0] > 160).mean(0) + 0.5
    wanted = moved(np.array([[[920.0, 300.0]]], np.float32), frames.labels([0])["to_input"])[0, 0]
    assert np.allclose([x, y], wanted, atol=0.6)


def test_a_share_of_the_data_is_the_same_frames_in_every_epoch(frames: Frames) -> None:
    part = Frames(dataset=frames.dataset, size=96, share=0.25)
    loader = Loader(sources=[part], batch_size=10)
    seen: list[set[int]] = [set(), set()]
    for epoch in (0, 1):
        for images, _, samples, labels in copied(loader, epoch):
            for k in range(len(samples)):
                (row,) = [row for row in range(120) if np.abs(images[k, 16 : 16 + HEIGHT].numpy().astype(int) - picture(row)).mean() < 1.5]
                assert (labels["image"] == k).sum() == row % 3
                seen[epoch].add(row)
    assert seen[0] == seen[1]
    assert len(seen[0]) == 30
    assert max(seen[0]) > 90
    assert part.fingerprint != frames.fingerprint
    with pytest.raises(ValueError, match=r"frames.share must lie in \(0, 1\], got 1.5"):
        Frames(dataset=frames.dataset, share=1.5)


def test_a_loader_can_be_sent_to_another_process(frames: Frames) -> None:
    for source in (frames, Crops.of(frames.dataset, size=64)):
        loader = Loader(sources=[source], batch_size=8)
        sent = pickle.loads(pickle.dumps(loader))
        for (a, key, *_), (b, other, *_) in zip(copied(loader, count=3), copied(sent, count=3), strict=True):
            assert torch.equal(a, b)
            assert torch.equal(key, other)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"batch_size": 7, "world_size": 2}, "multiple"),
        ({"rank": 2, "world_size": 2}, "rank"),
        ({"batch_size": 500}, r"^batch_size 500 is more than the \d+ samples of an epoch: --set batch_size=\d+ at most"),
    ],
)
def test_senseless_loaders_are_refused(frames: Frames, wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Loader(sources=[frames], **({"batch_size": 8} | wrong))


def test_an_image_that_opencv_alone_reads_lies_as_it_is_stored_whatever_its_exif_says() -> None:
    """OpenCV turned it, and boxes are in pixels of the image as it is stored."""
    data = cv2.imencode(".png", np.zeros((40, 60, 3), np.uint8))[1].tobytes()
    quarter_turn = b"eXIfII*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    told = struct.pack(">I", len(quarter_turn) - 4) + quarter_turn + struct.pack(">I", zlib.crc32(quarter_turn))
    turned = data[:33] + told + data[33:]  # behind the header
    assert np.asarray(cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR)).shape == (60, 40, 3)
    assert decode_jpeg(memoryview(turned)).shape == (40, 60, 3)
