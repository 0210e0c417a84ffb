"""A filter takes the hands that it says, in the grammar that is documented, and can neither read nor write a file."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.dataset.where import ALL, Where, columns_of, connect, flat, matching, read_where
from stages.errors import UserError
from stages.pack import Pack
from stages.shards import Shards
from tests.small_tables import clip_row, render_video, source_of, video_row


@pytest.fixture(scope="module")
def hands() -> pa.Table:
    return pa.table(
        {
            "video": ["a", "a", "b", "it's"],
            "quality": pa.array([0.9, 0.85, 0.2, np.nan], pa.float32()),
            "side": pa.array([1, 0, -1, 1], pa.int8()),
            "keep": [True, True, False, True],
            "reason": ["", "", "too_small", ""],
            "sources": pa.array([["mediapipe"], ["mediapipe", "whim"], ["whim"], []], pa.list_(pa.string())),
            "extra.signer": ["ann", "bob", None, "ann"],
            "extra.age": ["31", "7", "unknown", None],
        }
    )


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("quality > .8 and side = 1", [1, 0, 0, 0]),
        ("QUALITY>.8 AND NOT side=right", [0, 1, 0, 0]),
        ("side = unknown or side = 'left'", [0, 1, 1, 0]),
        ("not quality > .8", [0, 0, 1, 0]),  # what is unknown matches no comparison
        ("quality is null", [0, 0, 0, 1]),
        ("quality is not null and keep", [1, 1, 0, 0]),
        ("keep = false", [0, 0, 1, 0]),
        ("video = 'it''s'", [0, 0, 0, 1]),
        ("video in ('a', 'b') and (quality < .3 or side = left)", [0, 1, 1, 0]),
        ("video not in ('a')", [0, 0, 1, 1]),
        ("quality between .2 and .86", [0, 1, 1, 0]),
        ("quality not between .2 and .86", [1, 0, 0, 0]),
        ("reason like 'too%'", [0, 0, 1, 0]),
        ("sources = 'whim'", [0, 1, 1, 0]),
        ("sources != 'whim'", [1, 0, 0, 1]),
        ("signer = 'ann'", [1, 0, 0, 1]),
        ("extra.signer in ('bob', 'eve')", [0, 1, 0, 0]),
        ("age >= 10", [1, 0, 0, 0]),  # free columns are texts: what reads as a number is compared as one
        ("", [1, 1, 1, 1]),
    ],
)
def test_a_filter_takes_what_it_says(text: str, taken: list[int], hands: pa.Table) -> None:
    assert matching(hands, read_where(text, columns_of(hands.schema))).tolist() == [bool(one) for one in taken]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("qualty > 1", "did you mean 'quality'"),
        ("quality >", "expected a number, got its end"),
        ("quality > 'much'", "expected a number"),
        ("side = middle", "expected left, right or a number, got 'middle'"),
        ("video = a", "a text in 'quotes'"),
        ("quality > 1 side = 1", "expected and, or, or its end, got 'side' at character 13"),
        ("(keep", "a closing bracket"),
        ("quality; drop table hands", "says nothing here"),
        ("video = 'a' -- and so on", "says nothing here"),
        ("video = 'a' union select 1", "expected and, or, or its end"),
        ("read_csv('/etc/passwd')", "no column 'read_csv'"),
        ("(select 1)", "no column 'select'"),
        ("quality = 1 or 1 = 1", "expected a column, got '1'"),
        ("sources > 'a'", "sources lists texts"),
        ("quality like 'a'", "like asks for a text"),
        ("not " * 200 + "keep", "nested deeper"),
        ("keep or " * 2000 + "keep", "at most 4000 characters"),
        ("video", "what video is compared with"),
    ],
)
def test_what_is_no_filter_is_told(text: str, told: str, hands: pa.Table) -> None:
    with pytest.raises(UserError) as error:
        read_where(text, columns_of(hands.schema))
    assert told in str(error.value)


def test_a_value_is_never_read_as_sql(hands: pa.Table) -> None:
    where = read_where("video = 'x'') or (''1'' = ''1'", columns_of(hands.schema))
    assert where == Where('("video" = ?)', ("x') or ('1' = '1",))
    assert not matching(hands, where).any()


def test_a_name_is_never_read_as_sql() -> None:
    table = pa.table({'extra.a" or true or "b': ["x"]})
    with pytest.raises(UserError, match="no column"):
        read_where('"a" or true', columns_of(table.schema))


def test_no_connection_of_a_filter_touches_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    secret = tmp_path  # noqa: F841  Python's variables are out of reach too
    with connect() as connection:
        for query in (
            f"select * from read_csv('{tmp_path}/secret.csv')",
            f"select * from '{tmp_path}/secret.csv'",
            f"select * from glob('{tmp_path}/*')",
            f"copy (select 1) to '{tmp_path}/out.csv'",
            f"attach '{tmp_path}/out.db'",
            f"export database '{tmp_path}/out'",
            "install httpfs",
            "load httpfs",
            "set enable_external_access = true",
            "select * from secret",
        ):
            with pytest.raises(Exception, match=r"(?i)disabled|locked|configuration|does not exist|cannot access|not found"):
                connection.execute(query).fetchall()
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]


def test_hands_of_a_shard_lie_flat(tmp_path: Path) -> None:
    source = source_of(video_row(render_video(tmp_path / "a.mp4"), "a"), clip_row("a"))
    source.clips.extra[:] = '{"signer": "ann", "take": 2}'
    stage = Pack(negatives=1.0)
    frames = pa.Table.from_batches(list(stage.build()([source])), schema=Shards.schema())
    hands = flat(frames.drop_columns(["image"]), "train")
    lists = frames["hands"].to_pylist()
    assert len(hands) == sum(map(len, lists)) > 10
    for row, place, quality, size_px, frame in zip(
        *(hands[n].to_pylist() for n in ("row", "place", "quality", "size_px", "frame")), strict=True
    ):
        one = lists[row][place]
        assert (quality, frame) == (one["quality"], frames["frame"][row].as_py())
        assert size_px == pytest.approx(max(one["box"][2] - one["box"][0], one["box"][3] - one["box"][1]))
    columns = columns_of(hands.schema)
    assert matching(hands, read_where("signer = 'ann' and take = 2 and split = 'train'", columns)).all()
    right = matching(hands, read_where("side = right and video = 'a'", columns))
    assert right.tolist() == [side == 1 for side in hands["side"].to_pylist()]
    assert 0 < right.sum() < len(hands)
    assert matching(hands, ALL).all()
