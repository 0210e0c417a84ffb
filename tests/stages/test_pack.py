"""Pack: what stands in a shard, where it stands, and that it is the same bytes every time."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.engine.files.shard import write_shard
from stages.media.frames import read_frames
from stages.pack import ClipTables, Pack
from stages.shards import HAND, Shards, shard_of, split_of
from stages.stage import MissingVideoError
from stages.tables import RefusedHands
from tests.small_tables import clip_row, columns, render_video, source_of, video_row

RECIPE = {"fingerprint": "f" * 64, "key": "train/train-00000-of-00001"}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[ClipTables]:
    """Two clips of one video and one of another; every fourth sampled frame shows no hand."""
    folder = tmp_path_factory.mktemp("videos")
    first = video_row(render_video(folder / "a.mp4", num_frames=80, seed=1), "a")
    second = video_row(render_video(folder / "b.mp4", seed=2), "b")
    later = clip_row("a", number=1, start_s=4.0, end_s=8.0, first_frame=40)
    return [source_of(first, clip_row("a"), seed=1), source_of(first, later, seed=2), source_of(second, clip_row("b"), seed=3)]


def packed(sources: list[ClipTables], folder: Path, **settings: Any) -> Path:
    stage = Pack(**settings)
    path = folder / "train" / "train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_shard(stage, stage.build()(iter(sources)), path, RECIPE)
    return path


def rows(path: Path) -> Shards:
    return Shards.from_arrow(pq.read_table(path))


def test_a_row_a_frame_with_all_its_kept_hands(sources: list[ClipTables], tmp_path: Path) -> None:
    shard = rows(packed(sources, tmp_path, negatives=0.0))
    expected: dict[str, list[tuple[ClipTables, int]]] = {}
    for source in sources:
        for i in np.flatnonzero(source.reviews.keep).tolist():
            expected.setdefault(f"{source.videos.video[0]}/{source.hands.frame[i]}", []).append((source, i))
    assert sorted(shard.sample) == sorted(expected)
    for sample, listed in zip(shard.sample, shard.hands, strict=True):
        assert len(listed) == len(expected[sample])
        for hand, (source, i) in zip(listed, expected[sample], strict=True):
            for column, table in (("box", source.hands), ("keypoints", source.hands), ("betas", source.fits), ("camera", source.fits)):
                np.testing.assert_array_equal(np.array(hand[column], np.float32), getattr(table, column)[i], err_msg=column)
            np.testing.assert_array_equal(np.array(hand["box_mesh"], np.float32), source.fits.box[i])
            assert (hand["side"], hand["sources"]) == (source.hands.side[i], ["mediapipe", "vitpose"])
            assert (hand["quality"], hand["keep"], hand["reason"]) == (source.reviews.quality[i], True, "")


def test_doubtful_landmarks_and_what_was_fitted_to_them_are_unknown(sources: list[ClipTables], tmp_path: Path) -> None:
    (source, *_) = sources
    doubtful = source.reviews.keep & (np.arange(len(source.reviews)) % 2 == 0)
    source = dataclasses.replace(source, reviews=dataclasses.replace(source.reviews, box_only=doubtful))
    shard = rows(packed([source], tmp_path, negatives=0.0))
    of = {(frame, hand["hand"]): hand for frame, listed in zip(shard.frame, shard.hands, strict=True) for hand in listed}
    for row in np.flatnonzero(source.reviews.keep):
        hand = of[int(source.hands.frame[row]), int(source.hands.hand[row])]
        assert hand["box_only"] == doubtful[row]
        for column in ("keypoints", "world", "hand_pose", "betas", "camera", "joints_2d", "joints_3d", "box_mesh"):
            assert np.isnan(np.array(hand[column], np.float32)).all() == doubtful[row], column
        assert np.isfinite(hand["box"]).all()


def test_the_image_is_the_frame_of_the_row(sources: list[ClipTables], tmp_path: Path) -> None:
    import cv2

    shard = rows(packed(sources[1:2], tmp_path, jpeg_quality=95))
    frames = {
        int(f): image
        for stretch in read_frames(Path(sources[1].videos.path[0]), sources[1].clips)
        for f, image in zip(stretch.frame, stretch.images, strict=True)
    }
    for frame, data in zip(shard.frame, shard.image, strict=True):
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        decoded = picture[..., ::-1].astype(int)
        errors = {f: float(np.abs(decoded - image).mean()) for f, image in frames.items()}
        assert min(errors, key=errors.__getitem__) == frame
        assert errors[int(frame)] < 3


def test_dropped_hands_become_boxes_to_ignore(sources: list[ClipTables], tmp_path: Path) -> None:
    source = sources[0]
    shard = rows(packed([source], tmp_path))
    for frame, boxes in zip(shard.frame, shard.ignore_boxes, strict=True):
        dropped = source.hands.box[(source.hands.frame == frame) & ~source.reviews.keep]
        np.testing.assert_array_equal(np.array(boxes, np.float32).reshape(-1, 4), dropped)
    assert any(len(b) for b in shard.ignore_boxes)


def test_what_fusion_refused_and_may_be_a_hand_is_ignored_too(sources: list[ClipTables], tmp_path: Path) -> None:
    source = sources[0]
    before = rows(packed([source], tmp_path / "before", negatives=1.0, max_side=160))
    bare = next(frame for frame in before.frame.tolist() if frame not in source.hands.frame)
    frame, score = np.array([source.hands.frame[0], bare, bare]), np.array([0.3, 0.06, 0.01], np.float32)
    box = np.array([[10, 20, 50, 60], [200, 20, 240, 60], [20, 100, 60, 140]], np.float32)
    refused = columns(RefusedHands, 3, video="a", frame=frame, score=score, box=box, width=320, height=240, reason="weak")
    assert isinstance(refused, RefusedHands)
    after = rows(packed([dataclasses.replace(source, refused=refused)], tmp_path / "after", negatives=1.0, max_side=160))
    assert after.sample.tolist() == before.sample.tolist(), "a frame of which nobody is sure is as good as another"
    assert repr(after.hands.tolist()) == repr(before.hands.tolist())
    more = {
        f: a[len(b) :] for f, a, b in zip(after.frame.tolist(), after.ignore_boxes, before.ignore_boxes, strict=True) if len(a) > len(b)
    }
    assert {f: np.array(boxes).tolist() for f, boxes in more.items()} == {int(frame[0]): [[5, 10, 25, 30]], bare: [[100, 10, 120, 30]]}
    again = dataclasses.replace(refused, reason=np.array(["covered", "other_view", "lone"], object))
    known = rows(packed([dataclasses.replace(source, refused=again)], tmp_path / "again", negatives=1.0, max_side=160))
    assert repr(known.ignore_boxes.tolist()) == repr(before.ignore_boxes.tolist()), "what is kept is not ignored where it is seen again"
    alone = rows(packed([dataclasses.replace(source, refused=refused)], tmp_path / "all", negatives=1.0, unsure_score=0.0))
    assert len(alone.ignore_boxes[alone.frame.tolist().index(bare)]) == 2


@pytest.mark.parametrize(("version", "is_taken"), [(2, False), (3, True), (Pack.version, True)])
def test_images_of_a_version_that_stored_them_alike_outlive_their_video(
    sources: list[ClipTables], tmp_path: Path, version: int, is_taken: bool
) -> None:
    source, stage, path = sources[0], Pack(), tmp_path / "train-00000-of-00001.parquet"
    stored = {"version": version, "settings": {"jpeg_quality": stage.jpeg_quality, "max_side": stage.max_side}}
    write_shard(stage, stage.build()(iter([source])), path, RECIPE | stored)
    gone = dataclasses.replace(source.videos, path=np.array([str(tmp_path / "gone.mp4")], object))
    tables = (gone, source.clips, source.hands, source.fits, source.reviews, source.verdicts, None, source.poses, None)
    (found,) = stage.gather([tables], [path])
    assert len(list(found.earlier or ())) == (len(rows(path).sample) if is_taken else 0)


def test_dropped_hands_can_be_listed_with_their_reason(sources: list[ClipTables], tmp_path: Path) -> None:
    source = sources[0]
    shard = rows(packed([source], tmp_path, keep_dropped=True, min_quality=0.5))
    hands = [hand for listed in shard.hands for hand in listed]
    assert len(hands) == len(source.hands)
    weak = [h for h in hands if h["quality"] < 0.5]
    assert weak
    assert not any(h["keep"] for h in weak)
    assert {h["reason"] for h in weak} == {"min_quality", *source.reviews.reason[~source.reviews.keep]}
    assert all(h["keep"] and h["reason"] == "" for h in hands if h["quality"] >= 0.5)


def test_only_frames_where_nothing_was_found_are_negatives(sources: list[ClipTables], tmp_path: Path) -> None:
    shard, half = (rows(packed(sources, tmp_path / str(share), negatives=share)) for share in (1.0, 0.5))
    for source in sources:
        of_clip = shard.clip == source.clips.clip[0]
        without = {int(f) for f, hands in zip(shard.frame[of_clip], np.array(shard.hands, object)[of_clip], strict=True) if not len(hands)}
        sampled = {int(f) for stretch in read_frames(Path(source.videos.path[0]), source.clips) for f in stretch.frame}
        assert without == sampled - set(source.hands.frame.tolist())
        assert without
    assert set(half.sample) < set(shard.sample)
    assert sum(len(h) for h in half.hands) == sum(len(h) for h in shard.hands)


def test_a_smaller_image_takes_its_pixels_along(sources: list[ClipTables], tmp_path: Path) -> None:
    large, small = (rows(packed(sources[:1], tmp_path / str(side), max_side=side)) for side in (0, 160))
    assert set(small.width) == {160}
    assert set(small.height) == {120}
    assert set(small.scale) == {0.5}
    for ours, theirs in zip(small.hands, large.hands, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            for column in ("box", "box_mesh", "joints_2d", "camera", "source_boxes", "error_px"):
                np.testing.assert_allclose(a[column], np.array(b[column]) / 2, rtol=1e-6, err_msg=column)
            np.testing.assert_allclose(np.array(a["keypoints"])[:, :2], np.array(b["keypoints"])[:, :2] / 2, rtol=1e-6)
            np.testing.assert_array_equal(np.array(a["keypoints"])[:, 2], np.array(b["keypoints"])[:, 2])
            np.testing.assert_array_equal(a["joints_3d"], b["joints_3d"])
            points = a["camera"][0] * np.array(a["joints_3d"])[:, :2] + a["camera"][1:]
            np.testing.assert_allclose(points, a["joints_2d"], atol=1e-2)
    ignored, whole = (np.concatenate([np.reshape(b, (-1, 4)) for b in shard.ignore_boxes]) for shard in (small, large))
    np.testing.assert_allclose(ignored, whole / 2, rtol=1e-6)


def test_the_same_bytes_from_the_same_inputs(sources: list[ClipTables], tmp_path: Path) -> None:
    first, second = (packed(sources, tmp_path / str(run)).read_bytes() for run in range(2))
    assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest()


def test_row_groups_are_small_and_cross_clips(sources: list[ClipTables], tmp_path: Path) -> None:
    metadata = pq.read_metadata(packed(sources, tmp_path, row_group_size=16, negatives=1.0))
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert sizes[:-1] == [16] * (len(sizes) - 1)
    assert sum(sizes) == metadata.num_rows > 32
    by_bytes = pq.read_metadata(packed(sources, tmp_path / "bytes", row_group_bytes=40_000))
    assert max(by_bytes.row_group(i).num_rows for i in range(by_bytes.num_row_groups)) < 16


def test_packing_holds_one_batch_however_many_clips(sources: list[ClipTables]) -> None:
    given = 0

    def endless() -> object:
        nonlocal given
        while True:
            given += 1
            yield sources[given % 3]

    batches = Pack(row_group_size=8).build()(endless())
    assert next(batches).num_rows == 8
    assert given == 1


def test_images_lie_plain_and_annotations_compressed(sources: list[ClipTables], tmp_path: Path) -> None:
    path = packed(sources, tmp_path)
    metadata = pq.read_metadata(path)
    columns = [metadata.row_group(0).column(i) for i in range(metadata.num_columns)]
    image = columns[-1]
    assert image.path_in_schema == "image"
    assert (image.compression, image.has_dictionary_page, image.is_stats_set) == ("UNCOMPRESSED", False, False)
    assert not Shards.schema().field("image").nullable
    assert {c.compression for c in columns[:-1]} == {"ZSTD"}
    assert all(c.has_dictionary_page for c in columns[:-1] if c.physical_type == "BYTE_ARRAY")
    assert next(c for c in columns if c.path_in_schema == "frame").is_stats_set
    data = path.read_bytes()
    for jpeg in rows(path).image[: metadata.row_group(0).num_rows]:
        assert jpeg in data[image.data_page_offset : image.data_page_offset + image.total_compressed_size]


def test_a_flipped_byte_in_an_image_is_noticed(sources: list[ClipTables], tmp_path: Path) -> None:
    path = packed(sources, tmp_path)
    pq.read_table(path, page_checksum_verification=True)
    metadata = pq.read_metadata(path)
    image = metadata.row_group(0).column(metadata.num_columns - 1)
    data = bytearray(path.read_bytes())
    data[image.data_page_offset + image.total_compressed_size // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(path, page_checksum_verification=True)


def test_metadata_say_what_made_the_shard(sources: list[ClipTables], tmp_path: Path) -> None:
    schema = pq.read_schema(packed(sources, tmp_path))
    facts = {k.decode(): v.decode() for k, v in schema.metadata.items()}
    assert (facts["split"], facts["fingerprint"], facts["schema_version"]) == ("train", RECIPE["fingerprint"], "2")
    assert "simplejpeg" in facts["generator"]
    assert schema.equals(Shards.schema())


def test_duckdb_reads_hands(sources: list[ClipTables], tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    path = packed(sources, tmp_path)
    query = f"select count(*), count(*) filter (hand.side = 0) from (select unnest(hands) as hand from '{path}')"
    kept = np.concatenate([s.reviews.keep for s in sources])
    sides = np.concatenate([s.hands.side for s in sources])
    assert duckdb.sql(query).fetchall() == [(kept.sum(), (kept & (sides == 0)).sum())]


def test_tables_that_contradict_each_other_are_refused(sources: list[ClipTables]) -> None:
    source = sources[0]
    run = Pack().build()
    with pytest.raises(ValueError, match="a-0000: rows of Reviews"):
        list(run([dataclasses.replace(source, reviews=source.reviews.take(slice(1, None)))]))
    elsewhere = dataclasses.replace(source.hands, width=source.hands.width * 2)
    with pytest.raises(ValueError, match="320x240"):
        list(run([dataclasses.replace(source, hands=elsewhere)]))
    beyond = dataclasses.replace(source.clips, num_frames=np.array([10]))
    with pytest.raises(ValueError, match="can no longer be read"):
        list(run([dataclasses.replace(source, clips=beyond)]))


def test_a_video_that_is_gone_is_packed_from_the_earlier_shard_and_by_other_settings_named(
    sources: list[ClipTables], tmp_path: Path
) -> None:
    before, again = tmp_path / "before.parquet", Pack()
    write_shard(again, again.build()(iter(sources[:1])), before, RECIPE | {"version": again.version, "settings": dataclasses.asdict(again)})
    gone = dataclasses.replace(sources[0].videos, path=np.array([str(tmp_path / "gone.mp4")], object))
    one = dataclasses.replace(sources[0], videos=gone)
    tables = [one.videos, one.clips, one.hands, one.fits, one.reviews, one.verdicts, one.cameras, one.poses, one.refused]
    repacked = pa.Table.from_batches(again.build()(again.gather([tables], [before])))
    assert repr(repacked.to_pylist()) == repr(pq.read_table(before).to_pylist())
    smaller = Pack(jpeg_quality=70)
    with pytest.raises(
        MissingVideoError, match=r"clip a-0000: .*gone.mp4 is not there, .* by jpeg_quality 70 and max_side 0: put the video"
    ):
        list(smaller.build()(smaller.gather([tables], [before])))


def test_a_clip_without_hands_gives_no_rows_and_a_shard_can_be_empty(sources: list[ClipTables], tmp_path: Path) -> None:
    source = sources[0]
    none = slice(0, 0)
    bare = dataclasses.replace(source, hands=source.hands.take(none), fits=source.fits.take(none), reviews=source.reviews.take(none))
    path = packed([bare], tmp_path, negatives=0.0)
    assert pq.read_table(path).num_rows == 0
    assert len(rows(path)) == 0


def test_a_local_path_does_not_leave_the_machine(sources: list[ClipTables], tmp_path: Path) -> None:
    videos = dataclasses.replace(sources[0].videos, source=np.array(["/home/somebody/films/a.mp4"], object))
    path = packed([dataclasses.replace(sources[0], videos=videos)], tmp_path)
    assert set(rows(path).source) == {"a.mp4"}
    assert b"somebody" not in path.read_bytes()


def test_every_video_lies_in_one_shard_whatever_the_others() -> None:
    names = [shard_of(f"video{i}", "train", 4) for i in range(400)]
    assert set(names) == {f"train/train-{i:05d}-of-00004" for i in range(4)}
    assert shard_of("video7", "train", 4) == "train/train-00003-of-00004"  # fixed: another rule would rewrite every data set
    assert shard_of("video7", "test", 1) == "test/test-00000-of-00001"
    dealt = [split_of(f"video{i}", "") for i in range(2000)]
    assert 0.76 < dealt.count("train") / 2000 < 0.84
    assert {"val", "test"} < set(dealt)
    with pytest.raises(ValueError, match="video x: split must be one of train, val, test"):
        split_of("x", "training")


@pytest.mark.parametrize(
    ("field", "value"), [("jpeg_quality", 101), ("negatives", 1.5), ("row_group_size", 0), ("min_quality", float("nan")), ("num_shards", 0)]
)
def test_bad_settings_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"pack.{field}"):
        Pack(**{field: value})


def test_real_video_packs(media: Path, tmp_path: Path) -> None:
    path = media / "videos" / "intel" / "asl_bird.mkv"
    source = source_of(video_row(path, "asl_bird", width=640, height=480), clip_row("asl_bird"))
    shard = rows(packed([source], tmp_path))
    assert len(shard) > 3
    assert all(image[:2] == b"\xff\xd8" and image[-2:] == b"\xff\xd9" for image in shard.image)


def test_every_column_of_a_shard_stands_in_its_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "shards.md").read_text()
    assert [name for name in [*Shards.schema().names, *(field.name for field in HAND)] if f"`{name}`" not in page] == []
