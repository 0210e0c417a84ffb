"""Verdicts go to other tools and come back as they were; what is no verdict is named and nothing of its file is taken."""

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.browse.decisions import Decision, lost_verdicts, undo
from pipeline.browse.exchange import export_verdicts, import_verdicts
from pipeline.browse.images import looked_at
from pipeline.browse.session import Session
from pipeline.engine.store import Store
from pipeline.engine.verdicts import read_verdicts
from stages.errors import UserError
from stages.tables import Hands
from stages.verdicts import What, standing
from tests.pipeline.browse.small_run import run_again
from tests.small_tables import clip_row, render_video, video_row


@pytest.fixture
def decided(data: Path, tmp_path: Path) -> Path:
    """A run in which somebody decided every kind of thing, and took one back."""
    session = Session(data, 'ann "a, b"', file=tmp_path / "index.duckdb")
    hands = [
        (str(row["video"]), int(row["frame"]), int(row["hand"]))
        for row in session.asking.hands(session.asking.where(""), limit=500)["rows"]
    ]
    session.decide(Decision(what=What.REJECT, who="ann"), [hands[0], hands[-1]])
    session.decide(Decision(what=What.SIDE, who='b "c", d'), [hands[1]])
    session.decide(Decision(what=What.LANDMARKS, who="ann"), [hands[2]])
    session.decide(Decision(what=What.BOX, who="ann", to_box=(0.1, 2.3, 40.7, 50.9)), [hands[3]])
    session.decide(Decision(what=What.ADD, who="ann", to_box=(0.1, 2.3, 40.7, 50.9), to_side=1), [(*hands[3][:2], -1)])
    session.decide(Decision(what=What.KEEP, who="ann"), [hands[4]])
    session.undo()
    return data


def rows(store: Store, *, held: bool) -> list[str]:
    tables = [read_verdicts(store, video) for video in ("asl_bird", "asl_milk")]
    return sorted(repr(row) for table in tables for row in (standing(table) if held else table).to_arrow().to_pylist())


@pytest.mark.parametrize("kind", ["csv", "coco", "labelstudio"])
def test_what_is_exported_is_read_back_equal(kind: str, decided: Path, real_run: Path, tmp_path: Path) -> None:
    file = tmp_path / f"verdicts.{kind}"
    count = export_verdicts(Store(decided), kind, file)
    assert count == (8 if kind == "csv" else 6)
    other = Store(Path(shutil.copytree(real_run, tmp_path / "other")))
    assert import_verdicts(other, file, "somebody") == (count, 0)
    assert rows(other, held=kind != "csv") == rows(Store(decided), held=kind != "csv")
    assert import_verdicts(other, file, "somebody") == (0, count)  # twice is once
    assert rows(other, held=kind != "csv") == rows(Store(decided), held=kind != "csv")


def test_what_was_taken_back_stays_so_whatever_the_clock_said(tmp_path: Path) -> None:
    """An import put all verdicts in order of time: an undo by a clock that was set back came before what it undoes, which stood again."""
    store = Store(tmp_path / "data")
    store.commit("clips", "film", clip_row("film"), {})
    store.commit("videos", "film", video_row(render_video(tmp_path / "film.mp4", num_frames=2), "film"), {})

    def drawn(*boxes: list[int]) -> Path:
        told = {"images": [{"id": 5, "file_name": "film/0"}], "categories": [{"id": 9, "name": "Left hand"}]}
        notes = [{"image_id": 5, "category_id": 9, "bbox": box} for box in boxes]
        (tmp_path / "drawn.json").write_text(json.dumps(told | {"annotations": notes}))
        return tmp_path / "drawn.json"

    assert import_verdicts(store, drawn([1, 2, 30, 40], [1, 2, 30, 40]), "ann") == (1, 1), "a box that is drawn twice is one hand"
    undo(store, "ann")
    known = read_verdicts(store, "film")
    store.commit("verdicts", "film", replace(known, when_s=known.when_s - [0, 3600]), {})
    assert import_verdicts(store, drawn([5, 2, 30, 40]), "ann") == (1, 0)
    assert standing(read_verdicts(store, "film")).to_box.tolist() == [[5, 2, 35, 42]]


def test_coco_tools_read_it(decided: Path, tmp_path: Path) -> None:
    from faster_coco_eval import COCO

    export_verdicts(Store(decided), "coco", tmp_path / "v.json")
    coco = COCO(str(tmp_path / "v.json"))
    boxes = {(a["verdict"]["what"], coco.loadCats(a["category_id"])[0]["name"]): a["bbox"] for a in coco.loadAnns(coco.getAnnIds())}
    assert boxes["add", "right hand"] == pytest.approx([0.1, 2.3, 40.6, 48.6], abs=1e-4)


@pytest.mark.parametrize("tool", ["coco", "labelstudio"])
def test_a_box_drawn_in_another_tool_is_a_hand_that_is_added(tool: str, data: Path, tmp_path: Path) -> None:
    frame = int(Store(data).read(Hands, "hands", "asl_bird-0000").frame[0])
    drawn = {
        "coco": {
            "images": [{"id": 5, "file_name": f"asl_bird/{frame}"}],
            "categories": [{"id": 9, "name": "Left hand"}],
            "annotations": [{"id": 1, "image_id": 5, "category_id": 9, "bbox": [64, 48, 64, 96]}],
        },
        "labelstudio": [
            {
                "data": {"image": f"/data/upload/asl_bird/{frame}.jpg"},
                "annotations": [{"result": [{
                    "type": "rectanglelabels", "original_width": 640, "original_height": 480,
                    "value": {"x": 10, "y": 10, "width": 10, "height": 20, "rectanglelabels": ["left"]},
                }]}],
            }
        ],
    }  # fmt: skip
    (tmp_path / "drawn.json").write_text(json.dumps(drawn[tool]))
    store = Store(data)
    assert import_verdicts(store, tmp_path / "drawn.json", "eve") == (1, 0)
    (one,) = read_verdicts(store, "asl_bird").to_arrow().to_pylist()
    assert (one["what"], one["who"], one["to_side"], one["to_box"]) == ("add", "eve", 0, [64, 48, 128, 144])
    assert import_verdicts(store, tmp_path / "drawn.json", "eve") == (0, 1)
    assert ("review", "asl_bird-0000") in run_again(data)
    assert not len(lost_verdicts(store))


@pytest.mark.parametrize(
    ("frame", "box", "told"),
    [
        (0, [400, 20, 50, 50], "annotation 7: the box lies beside the image, which has 320 x 240 pixels"),
        (0, [-60, 20, 50, 50], "annotation 7: the box lies beside the image"),
        (10**6, [10, 20, 50, 50], "annotation 7: film has no frame 1000000"),
        (3, [10, 20, 50, 50], "annotation 7: frame 3 of film is not among those that are looked at; the nearest is 2"),
    ],
)
def test_a_box_that_shows_nothing_of_a_frame_is_named(frame: int, box: list[int], told: str, tmp_path: Path) -> None:
    """Such a box was taken up, and became a hand of no pixels or was lost later."""
    store = Store(tmp_path / "data")
    store.commit("clips", "film", clip_row("film"), {})
    store.commit("videos", "film", video_row(render_video(tmp_path / "film.mp4", num_frames=4), "film"), {})
    drawn = {"images": [{"id": 5, "file_name": f"film/{frame}"}], "categories": [{"id": 9, "name": "Left hand"}]}
    drawn |= {"annotations": [{"id": 7, "image_id": 5, "category_id": 9, "bbox": box}]}
    (tmp_path / "drawn.json").write_text(json.dumps(drawn))
    with pytest.raises(UserError, match=told):
        import_verdicts(store, tmp_path / "drawn.json", "ann")
    assert not len(read_verdicts(store, "film"))


def test_a_clip_that_several_ask_for_at_once_is_decoded_once(tmp_path: Path) -> None:
    path, clip = render_video(tmp_path / "film.mp4", num_frames=40), clip_row("film")
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda _: looked_at(str(path), clip), range(8)))
    assert all(one is told[0] for one in told)
    assert [frame for frame, _ in told[0]] == list(range(0, 40, 2))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text.replace("reject", "paint"), "what must be one of"),
        (lambda text: text.replace("asl_bird,", "elsewhere,"), "has no video 'elsewhere'"),
        (lambda text: text.replace("asl_bird,", "../asl_bird,"), "has no video"),
        (
            lambda text: text.replace("video,", "film,", 1),
            "file of verdicts: ValueError in line 2: it lacks 'video'",
        ),
        (lambda text: re.sub(r"\n((?:[^,]*,){7})", r"\n\1x", text, count=1), "in line 2: invalid literal for int() with base 10: 'x"),
        (lambda text: "{}", "is no CSV, COCO or Label Studio file"),
        (lambda text: "[" * 100_000, "is no CSV, COCO or Label Studio file"),
        (lambda text: "\n".join([*text.splitlines()[:1], text.splitlines()[1].rsplit(",", 8)[0] + ",9,9,1,1,,,,"]), "x0 < x1"),
        (lambda text: "\n".join([*text.splitlines()[:1], text.splitlines()[1].rsplit(",", 8)[0] + ",9,9,1e39,inf,,,,"]), "x0 < x1"),
    ],
)
def test_a_file_with_faults_is_named_and_left(change: object, told: str, decided: Path, real_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "verdicts.csv"
    export_verdicts(Store(decided), "csv", file)
    file.write_text(change(file.read_text()))  # type: ignore[operator]
    other = Store(Path(shutil.copytree(real_run, tmp_path / "other")))
    with pytest.raises(UserError) as error:
        import_verdicts(other, file, "somebody")
    assert told in str(error.value)
    assert not list((other.root / "verdicts").glob("*.parquet"))
