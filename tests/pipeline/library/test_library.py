"""The library and the commands that need nothing trained: what they give is what the shards and the chain say."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

import whim
from pipeline.library.annotated import Annotated, annotated
from pipeline.library.drawn import in_space
from stages.errors import UserError
from studio.video import Film, make_videos
from tests.pipeline.exports.shards import truth, write_small_shards
from tests.small_tables import clip_row, render_video, source_of, video_row

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user has it: data/mine, a video of half a second of rendered hands, and one of its frames."""
    folder = tmp_path_factory.mktemp("user")
    write_small_shards(folder / "data" / "mine")
    make_videos(folder / "studio", 1, Film(seconds=0.5, frames_per_second=10))
    (video,) = (folder / "studio").glob("*.mp4")
    video.rename(folder / "video.mp4")
    with av.open(str(folder / "video.mp4")) as container:
        image = next(container.decode(video=0)).to_ndarray(format="bgr24")
    (folder / "media").mkdir()
    cv2.imwrite(str(folder / "media" / "still.png"), image)
    (folder / "media" / "film.mp4").write_bytes((folder / "video.mp4").read_bytes())
    return folder


def test_import_loads_nothing_heavy() -> None:
    code = "import whim, sys; print(sorted({'torch', 'numpy', 'cv2', 'ray', 'pyarrow', 'duckdb', 'rich'} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stdout == "[]\n"
    with pytest.raises(AttributeError, match="no attribute 'opne': it has open, "):
        whim.opne  # noqa: B018


def test_the_page_of_the_library_runs(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "library.md").read_text(), re.DOTALL)
    monkeypatch.chdir(place)
    said: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/library.md", "exec"), said)
    assert len(blocks) >= 5
    assert said["keypoints"].shape == (len(said["hands"]), 21, 3)
    assert len(said["frame"].hands["box"]) == len(said["boxes"])
    assert len(said["found"]) >= 3
    assert "hands, columns sample, split, video" in capsys.readouterr().out


def test_the_notebook_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = json.loads((ROOT / "docs" / "first_look.ipynb").read_text())["cells"]
    monkeypatch.chdir(place)
    monkeypatch.setenv("WHIM_DATA", str(place / "data" / "mine"))
    monkeypatch.setenv("MPLBACKEND", "agg")
    said: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "docs/first_look.ipynb", "exec"), said)
    assert sum(said["sides"].values()) == len(said["hands"])
    assert 0 < len(said["better"]) < len(said["hands"])
    assert said["image"].shape == (240, 320, 3)


def test_hands_and_frames_are_those_of_the_shards(place: Path) -> None:
    data = whim.open(place / "data" / "mine")
    hands, wanted = data.hands(), truth(place / "data" / "mine")
    assert len(hands) == sum(map(len, wanted.values()))
    assert set(hands["signer"]) == {"ann", "ben"}
    some = data.hands("signer = 'ben' and side = left")
    assert (set(some["video"]), set(some["side"].tolist())) == ({"b"}, {0})
    assert some.to_pandas()["gloss"].tolist() == ["HAND-1"] * len(some)
    frames = {f"{frame.split}/{frame.name}": frame for frame in data.frames()}
    assert set(frames) == set(wanted)
    for name, frame in frames.items():
        np.testing.assert_allclose(frame.hands["box"], np.reshape([box for _, box, _ in wanted[name]], (-1, 4)), rtol=1e-6)
        assert frame.rgb().shape == (240, 320, 3)
    assert len(data.hands("quality > 2")) == 0
    with pytest.raises(UserError, match="holds no shards"):
        whim.open(place / "media")


def test_detect_does_without_a_network(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An image and a video of a folder by the chain: tables with fitted hands where the rendered ones are, and frames drawn.

    What cannot be read is named, and the exit code tells of it.
    """
    (place / "media" / "notes.mp4").write_text("no film")
    assert whim.main(["detect", str(place / "media"), "--out", str(tmp_path), "--frames", "2"]) == whim.ITEMS_FAILED
    (place / "media" / "notes.mp4").unlink()
    said = capsys.readouterr().out
    assert re.search(r"\d+ hands in 3 images of 2 files", said)
    assert "left out: notes: " in said
    film, still = pq.read_table(tmp_path / "film.parquet"), pq.read_table(tmp_path / "still.parquet")
    assert set(film["frame"].to_pylist()) == {0, 1}
    assert film.column_names[:6] == ["frame", "time_s", "box", "score", "side", "keypoints"]
    assert np.isfinite(np.array(film["joints_3d"].to_pylist())[film["keep"].to_numpy()]).all()
    told = json.loads((place / "studio" / "labels.json").read_text())["images"][0]["hands"]
    first = [row for row in film.to_pylist() if row["frame"] == 0 and row["keep"]]
    assert sorted(("left", "right")[row["side"]] for row in first) == sorted(one["side"] for one in told)
    assert len(still) == len(told)
    with av.open(str(tmp_path / "film.mp4")) as container:
        assert len(list(container.decode(video=0))) == 2
    drawn, plain = (np.asarray(cv2.imread(str(path))) for path in (tmp_path / "still.jpg", place / "media" / "still.png"))
    assert (np.abs(drawn.astype(int) - plain.astype(int)) > 60).mean() > 0.001
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mp4", "film.parquet", "still.jpg", "still.parquet"]


@pytest.mark.parametrize("by", [[], ["--regressor", "fit"]])
def test_reconstruct_does_without_a_checkpoint(place: Path, tmp_path: Path, by: list[str]) -> None:
    source = place / "media" / "still.png"
    assert whim.main(["reconstruct", str(source), *by, "--out", str(tmp_path), "--focal", "900", "--quiet"]) == whim.DONE
    rows = pq.read_table(tmp_path / "still.parquet").to_pylist()
    height, width = np.asarray(cv2.imread(str(source))).shape[:2]
    assert rows
    for row in rows:
        points = np.array(row["joints_3d"]) + row["transl"]
        pixels = row["focal_px"] * points[:, :2] / points[:, 2:] + [width / 2, height / 2]
        np.testing.assert_allclose(pixels[0], row["joints_2d"][0], atol=0.05)
        assert np.abs(pixels - row["joints_2d"]).max() < 0.2 * np.ptp(row["joints_2d"])  # fingers are nearer or farther than the wrist
    (still,) = annotated([str(source)])
    same = [np.isclose(np.array(row["betas"]), still.fits.betas, atol=1e-5).all(1).any() for row in rows]
    assert all(same) == bool(by), "the fit's hands are the chain's, the network's are its own"
    assert (tmp_path / "still-meshes" / "000000.glb").read_bytes()[:4] == b"glTF"
    assert '<img src="still.jpg"' in (tmp_path / "still.html").read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("detect nowhere.mp4", "there is no nowhere.mp4: name an image, a video, a folder or webcam"),
        ("detect empty", "empty: no video and no image below this folder"),
        ("detect notes.mp4", "notes"),
        ("detect media --detector nowhere.pt", "--detector nowhere.pt: there is no such checkpoint; chain, ours or a file"),
        ("detect media --detector ours", "media is a folder: a network takes a file or webcam"),
        ("detect webcam:77 --out out", "cannot be read as a camera"),
        ("reconstruct nowhere.mp4", "there is no file nowhere.mp4"),
    ],
)
def test_what_cannot_be_looked_at_is_one_line(
    words: str, told: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "empty").mkdir(exist_ok=True)
    (place / "notes.mp4").write_text("no film at all")
    monkeypatch.chdir(place)
    assert whim.main([*words.split(), "--quiet"]) == whim.USER_ERROR
    said = capsys.readouterr().err.strip().splitlines()
    assert told in said[-1]
    assert not list(place.glob("out/*"))


def test_hands_seen_through_views_are_not_drawn_where_they_are_not(tmp_path: Path) -> None:
    """Places of hands in views of a full sphere were drawn on the whole image as if a pinhole had taken it."""
    film = render_video(tmp_path / "film.mp4", num_frames=10)
    source = source_of(video_row(film, "film"), clip_row("film", end_s=1.0, num_frames=10))
    tables = {name: getattr(source, name) for name in ("videos", "clips", "hands", "fits", "reviews")}
    nowhere = replace(source.hands, box_source=np.full_like(source.hands.box_source, np.nan))
    one = Annotated(video="film", path=film, **tables | {"hands": nowhere})
    assert len(in_space(one, None, range(10)))
    with pytest.raises(UserError, match=r"film.mp4 is of a camera that bends straight lines: whim run and whim export glb"):
        in_space(replace(one, hands=source.hands), None, range(10))
