"""Flipped bits in the files of a data folder are found when the files are read, whatever they hit."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.engine.files.corrupt import set_corrupt_aside
from pipeline.engine.store import ErrorRecord, Store
from stages.digest import CorruptFileError, digest_of, fingerprint_of
from stages.tables import Clips, Fits, Hands, Reviews, Table

RECIPE: dict[str, Any] = {"stage": "review", "key": "a", "settings": {"least": 0.25}}
RECIPE["fingerprint"] = fingerprint_of({k: v for k, v in RECIPE.items() if k != "fingerprint"})


def some(kind: type[Table], n: int, seed: int = 0) -> Table:
    """A table of random numbers and words."""
    rng = np.random.default_rng(seed)
    made: dict[str, Any] = {}
    for field in kind.schema():
        if pa.types.is_list(field.type):
            ragged = np.empty(n, object)
            inner = field.type.value_type
            ragged[:] = [
                [[1.0, 2.0, 3.0, float(k)]] * k
                if pa.types.is_fixed_size_list(inner)
                else (["x"] if pa.types.is_string(inner) else [0.5]) * k
                for k in rng.integers(0, 3, n)
            ]
            made[field.name] = ragged
        elif pa.types.is_string(field.type):
            made[field.name] = np.array([f"word {k}" for k in rng.integers(0, 9, n)], object)
        else:
            shape, inner = [n], field.type
            while pa.types.is_fixed_size_list(inner):
                shape.append(inner.list_size)
                inner = inner.value_type
            made[field.name] = (
                rng.integers(0, 2, shape).astype(inner.to_pandas_dtype())
                if pa.types.is_boolean(inner)
                else rng.normal(size=shape, scale=9).astype(inner.to_pandas_dtype())
            )
    return kind(**made)


@pytest.mark.parametrize("kind", [Hands, Reviews, Clips])
@pytest.mark.parametrize("n", [0, 1, 57])
def test_what_was_committed_is_read_back_with_its_digest(tmp_path: Path, kind: type[Table], n: int) -> None:
    store = Store(tmp_path)
    store.commit("some", "a", some(kind, n), RECIPE)
    again = store.read(kind, "some", "a")
    assert again.to_arrow().equals(some(kind, n).to_arrow())
    assert digest_of(again.to_arrow()) == digest_of(some(kind, n).to_arrow())
    assert store.made_by("some", "a", kind.schema()) == RECIPE


@pytest.mark.parametrize(
    ("kind", "n", "digest"),
    [
        (Hands, 0, "e85cb8f845f35961067f063d8b380cca02cbeb4077f861ff1de659cb555a2e41"),
        (Hands, 3, "cbab43b77dc91f6f841fc04d278c994bab0daded40de5fa1fc0c5f2c3e6977e7"),
        (Fits, 3, "c62f15c312b9f0bd4336da949148ba9f63a1f3cddcc66f4e948668c26644dd3c"),
        (Reviews, 3, "af39e776bb27743aa11bbf77dc8a4170a7f4bdca426d9771a6a91110c64ff32c"),
    ],
)
def test_a_digest_stays_what_it_was_in_folders_of_before(kind: type[Table], n: int, digest: str) -> None:
    assert digest_of(some(kind, n, seed=1).to_arrow()) == digest


def test_the_digest_of_lists_structs_and_nulls_stays_what_it_was_sliced_or_in_pieces() -> None:
    table = pa.table(
        {
            "numbers": pa.array([1, None, 3], pa.int32()),
            "texts": ["a", None, "cde"],
            "lists": pa.array([[1.5], None, [2.5, 3.5]], pa.list_(pa.float32())),
            "pairs": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int8(), 2)),
            "structs": [{"x": 1, "y": "u"}, {"x": 2, "y": "v"}, None],
            "words": [["a"], [], ["b", "c"]],
            "bytes": [[b"x", b"y"], [], [b"z"]],
            "word pairs": pa.array([["a", "b"], ["c", "d"], ["e", "f"]], pa.list_(pa.string(), 2)),
            "large": pa.array([[1], [2, 3], []], pa.large_list(pa.int16())),
            "choices": [[True], [], [False, True]],
            "polygons": pa.array([[[1.0, 2.0]], [], [[3.0, 4.0], [5.0, 6.0]]], pa.list_(pa.list_(pa.float32(), 2))),
        }
    )
    assert digest_of(table) == "a91610e608634d7679e74e492182a59017d69902a4dc816671815a90db25edb8"
    parts = (table.slice(1), pa.concat_tables([table.slice(1, 1), table.slice(2)]), table.slice(1).combine_chunks())
    assert {digest_of(part) for part in parts} == {"d6be005e1b700335829def86d685ee2e4a1712ed15d2cc5e1d607dc0962f18a7"}
    assert digest_of(table.slice(0, 0)) == "32a054e0148868af92e7131f7ca947c199d140bbd28d922eeebec09a8a9c1926"


def flipped(path: Path, whole: bytes, bit: int) -> None:
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)


@pytest.mark.parametrize("kind", [Hands, Reviews])
def test_no_flipped_bit_of_a_part_gives_another_value(tmp_path: Path, kind: type[Table]) -> None:
    store, before = Store(tmp_path), some(kind, 23)
    store.commit("some", "a", before, RECIPE)
    path = store.part("some", "a")
    whole = path.read_bytes()
    found = 0
    for bit in random.Random(1).sample(range(8 * len(whole)), 150):
        flipped(path, whole, bit)
        recipe = store.made_by("some", "a", kind.schema())
        assert recipe in (None, {}, RECIPE), "another recipe is believed"
        try:
            after = store.read(kind, "some", "a")
        except (CorruptFileError, ValueError):  # ValueError: columns of another name
            found += 1
        else:
            assert after.to_arrow().equals(before.to_arrow()), f"bit {bit} changes a value without a word"
    assert found > 75


def test_every_flipped_bit_of_a_small_file_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_json("run.json", {"recipe": "whim", "videos": "/a/b.txt", "rate": 0.1})
    assert store.read_json("run.json") == {"recipe": "whim", "videos": "/a/b.txt", "rate": 0.1}
    path = tmp_path / "run.json"
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        flipped(path, whole, bit)
        with pytest.raises(CorruptFileError, match=r"run\.json is corrupt"):
            store.read_json("run.json")


def test_a_failure_that_cannot_be_read_counts_as_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.fail("hands", "a", ErrorRecord("f", "gone", "the owner removed it", True, 1))
    assert store.error("hands", "a") == ErrorRecord("f", "gone", "the owner removed it", True, 1)
    path = store.error_file("hands", "a")
    path.write_text(path.read_text().replace("gone", "fine"))
    assert store.error("hands", "a") is None


def test_a_failure_leaves_the_earlier_part_where_it_is(tmp_path: Path) -> None:
    """It is stale, and may be the only copy there will ever be."""
    store = Store(tmp_path)
    store.commit("shards", "a", some(Reviews, 3), RECIPE)
    store.fail("shards", "a", ErrorRecord("another", "exception", "File too large", False, 1))
    assert len(store.read(Reviews, "shards", "a")) == 3


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.write_text("[1]"), lambda path: path.write_text("")])
def test_what_is_no_file_of_ours_is_named(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    make(tmp_path / "run.json")
    with pytest.raises(CorruptFileError, match=r"run\.json is corrupt"):
        Store(tmp_path).read_json("run.json")


def test_a_corrupt_part_is_kept_until_its_successor_is_committed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.commit("some", "a", some(Reviews, 3), RECIPE)
    set_corrupt_aside(store, store.part("some", "a"))
    assert store.made_by("some", "a") is None
    assert store.corrupt_file("some", "a").exists()
    store.commit("some", "a", some(Reviews, 3), RECIPE)
    assert not store.corrupt_file("some", "a").exists()
