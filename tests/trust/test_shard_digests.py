"""A shard is held against itself: damage of the files that state its sha256 hides nothing, and damage never gets a digest of its own."""

import json
import random
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import whim
from fitting.files import sha256_of
from pipeline.dataset.index import renew_index, write_index
from pipeline.engine.files.shard import check_shard, write_shard
from pipeline.engine.finish import ShardFiles
from pipeline.engine.store import Store
from pipeline.engine.verify import verify
from stages.digest import CorruptFileError, seal
from stages.pack import Pack
from tests.small_tables import clip_row, render_video, source_of, video_row, write_tables
from tests.trust.test_digests import flipped

SHARD, MEDIUM, NOTE, ROW = "shards/train/train-00000-of-00001.parquet", "media/v.mp4", "media/v.info.json", "videos/v.parquet"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one fetched video, with its shard and what lies beside it."""
    root = tmp_path_factory.mktemp("whole") / "data"
    (root / "media").mkdir(parents=True)
    video = video_row(render_video(root / MEDIUM, seed=1), "v")
    video.sha256[0] = sha256_of(root / MEDIUM)
    source = source_of(video, clip_row("v"), seed=1)
    store, stage = Store(root), Pack(row_group_size=8, negatives=1.0)
    store.write_json("run.json", {"recipe": "whim"})
    (root / NOTE).write_text(seal({"file": "v.mp4", "video_sha256": str(video.sha256[0])}))
    (root / SHARD).parent.mkdir(parents=True)
    write_shard(stage, stage.build()([source]), root / SHARD, {"fingerprint": "a" * 64, "key": "train"})
    write_index(root / "shards")
    video.path[0] = MEDIUM
    write_tables(root, [source])
    assert verify(root).corrupt == verify(root).unknown == {}
    return root


@pytest.fixture
def data(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "data")


def damage(path: Path, bit: int = 9) -> None:
    whole = path.read_bytes()
    flipped(path, whole, bit % (8 * len(whole)))


def test_every_flipped_bit_is_found_whatever_became_of_index_and_statistics(data: Path) -> None:
    for beside in ("index.json", "stats.json", "README.md"):
        damage(data / "shards" / beside)
    path, chance = data / SHARD, random.Random(3)
    whole = path.read_bytes()
    footer = 8 * (len(whole) - pq.read_metadata(path).serialized_size - 8)
    for bit in [*chance.sample(range(footer), 60), *chance.sample(range(footer, 8 * len(whole)), 200)]:
        flipped(path, whole, bit)
        with pytest.raises(CorruptFileError):
            check_shard(path)
    assert set(verify(data).corrupt) == {SHARD, *(f"shards/{name}" for name in ("index.json", "stats.json", "README.md"))}
    path.write_bytes(whole)
    assert check_shard(path)


def test_shards_of_the_same_rows_are_the_same_bytes_and_carry_their_digest(data: Path, tmp_path: Path) -> None:
    batches = pq.ParquetFile(data / SHARD).iter_batches(batch_size=8)
    path = tmp_path / "train" / "again.parquet"
    path.parent.mkdir()
    write_shard(Pack(row_group_size=8, negatives=1.0), batches, path, {"fingerprint": "a" * 64, "key": "train"})
    assert path.read_bytes() == (data / SHARD).read_bytes()


@pytest.mark.parametrize("index", ["damaged", "gone", "sound"])
def test_a_damaged_shard_never_gets_a_digest_of_its_own(data: Path, index: str) -> None:
    before = (data / "shards/index.json").read_text()
    damage(data / SHARD, 8 * 2000)
    if index == "damaged":
        damage(data / "shards/index.json")
    elif index == "gone":
        (data / "shards/index.json").unlink()
    if index == "sound":  # the earlier sha256 stays
        write_index(data / "shards")
        assert (data / "shards/index.json").read_text() == before
    else:
        with pytest.raises(CorruptFileError, match="its bytes are not those of the sha256 that it carries"):
            write_index(data / "shards")
    assert SHARD in verify(data).corrupt


def test_a_shard_of_an_earlier_version_is_told_to_be_unsure_where_the_index_is_damaged(data: Path) -> None:
    table = pq.read_table(data / SHARD)
    facts = {key: value for key, value in table.schema.metadata.items() if key != b"sealed"}
    pq.write_table(table.replace_schema_metadata(facts), data / SHARD, write_page_checksum=True)
    write_index(data / "shards")
    assert verify(data).corrupt == verify(data).unknown == {}
    damage(data / "shards/index.json")
    verdict = verify(data)
    assert list(verdict.corrupt) == ["shards/index.json"]
    assert list(verdict.unknown) == [SHARD]


def test_a_run_sets_a_damaged_shard_aside_that_the_index_does_not_vouch_for(data: Path) -> None:
    other = data / "shards/val/val-00000-of-00001.parquet"
    other.parent.mkdir()
    shutil.copy(data / SHARD, other)
    damage(data / SHARD, 8 * 2000)
    damage(data / "shards/index.json")
    assert renew_index(ShardFiles(data / "shards", (data / SHARD, other), ())) == [data / SHARD]
    assert [path.name for path in (data / SHARD).parent.iterdir()] == ["train-00000-of-00001.parquet.corrupt"]
    assert [one["path"] for one in json.loads((data / "shards/index.json").read_text())["shards"]] == [f"val/{other.name}"]
    assert verify(data).corrupt == {}


@pytest.mark.parametrize("damaged", [(NOTE,), (ROW,), (NOTE, ROW)])
def test_a_damaged_video_is_found_by_whichever_file_still_states_its_sha256(data: Path, damaged: tuple[str, ...]) -> None:
    for name in (MEDIUM, *damaged):
        damage(data / name, 8 * 1000)
    assert set(verify(data).corrupt) == {MEDIUM, *damaged}


def test_a_video_whose_sha256_nobody_states_any_more_is_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (NOTE, ROW, SHARD):
        damage(data / name, 8 * 1000)
    verdict = verify(data)
    assert set(verdict.corrupt) == {NOTE, ROW, SHARD}
    assert list(verdict.unknown) == [MEDIUM]
    assert whim.main(["verify", str(data), "--json"]) == whim.ITEMS_FAILED
    assert list(json.loads(capsys.readouterr().out)["unknown"]) == [MEDIUM]


def test_what_is_damaged_is_set_aside_when_asked(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing reads a table again once its shard is made: a run alone would not find it."""
    damaged = {MEDIUM, "reviews/v-0000.parquet", "run.json", "shards/stats.json"} & {str(p.relative_to(data)) for p in data.rglob("*")}
    assert len(damaged) == 4
    for name in damaged:
        damage(data / name, 8 * 1000)
    assert whim.main(["verify", str(data)]) == whim.ITEMS_FAILED
    assert f"4 files are damaged: whim verify {data} --repair, then whim run" in " ".join(capsys.readouterr().out.split())
    assert whim.main(["verify", str(data), "--repair"]) == whim.ITEMS_FAILED
    assert "2 set aside, whim run makes them again" in " ".join(capsys.readouterr().out.split())
    assert set(verify(data).corrupt) == {"run.json", "shards/stats.json"}
    assert set(verify(data).foreign) == {f"{MEDIUM}.corrupt", "reviews/v-0000.parquet.corrupt"}
