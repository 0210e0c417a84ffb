"""`whim reconstruct` on files: overlay, table, meshes and page of an image and a video; what is no source is said; ONNX equals torch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import whim
from fitting.hand.mano import load_hand_model, pose_either_hand
from hands.drawing.mesh_files import write_meshes
from hands.drawing.space import SCHEMA
from hands.drawing.video import frames_of
from tests.hands.test_mesh_files import read_glb
from tests.training.detector.small import random_detector
from tests.training.detector.small import save as save_detector
from training.detector.inference import HandDetector
from training.regressor.export import export
from training.regressor.inference import HandReconstructor
from training.regressor.network import Regressor, RegressorSettings
from training.regressor.reconstruct import ReconstructSettings, reconstruct
from training.regressor.task import RegressorTask
from training.regressor.vit import SHAPES
from training.run.checkpoint import Checkpoint, Progress
from training.run.ema import Ema

WIDTH, HEIGHT, FRAMES = 96, 64, 5


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A detector and a regressor of random weights, whose transformer has two blocks: the others are as the second."""
    folder = tmp_path_factory.mktemp("nets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SHAPES, "xs", SHAPES["xs"]._replace(depth=2))
        yield _saved(folder)


def _saved(folder: Path) -> tuple[Path, Path]:
    torch.manual_seed(1)
    settings = RegressorSettings(size="xs")
    network = Regressor(settings)
    assert network.refinement
    for layer, std in ((network.heads.pose, 0.03), (network.heads.shape, 0.03), (network.refinement.say, 0.003)):
        torch.nn.init.normal_(layer.weight, std=std)
    told = RegressorTask(held_out=None, network_settings=settings).settings()
    ema = Ema(network).network.state_dict()
    weights = {"network": network.state_dict(), "ema": ema, "optimizer": {}}
    Checkpoint(kind="regressor", settings=told, progress=Progress(), data="", **weights).save(folder / "regressor.pt")
    return save_detector(random_detector(), folder / "detector.pt"), folder / "regressor.pt"


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        still = np.kron(rng.integers(0, 255, (8, 12, 3)).astype(np.uint8), np.ones((8, 8, 1), np.uint8))
        for _ in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(still, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def done(checkpoints: Any, film: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    networks = HandDetector.load(checkpoints[0], size=64, threshold=0.4), HandReconstructor.load(checkpoints[1])
    frames, hands = reconstruct(*networks, str(film), out, ReconstructSettings(batch_frames=2))
    assert frames == FRAMES
    assert hands == len(pq.read_table(out / "film.parquet")) > FRAMES
    return out


def test_the_table_holds_parameters_that_give_its_joints(done: Path) -> None:
    table = pq.read_table(done / "film.parquet")
    assert table.schema.names == SCHEMA.names
    columns = {name: torch.tensor(table[name].to_pylist()) for name in ("side", "betas", "global_orient", "hand_pose", "joints_3d")}
    posed = pose_either_hand(load_hand_model(dtype=torch.float32), *(columns[n] for n in ("side", "betas", "global_orient", "hand_pose")))
    torch.testing.assert_close(posed.joints, columns["joints_3d"], atol=5e-5, rtol=0)
    assert set(table["frame"].to_pylist()) <= set(range(FRAMES))
    np.testing.assert_allclose(table["time_s"].to_numpy(), table["frame"].to_numpy() / 10, atol=1e-6)
    assert len({(a, b) for a, b in zip(table["frame"].to_pylist(), table["track"].to_pylist(), strict=True)}) == len(table)


def test_a_still_hand_is_one_track_of_one_shape(done: Path) -> None:
    table = pq.read_table(done / "film.parquet").to_pylist()
    tracks: dict[int, list] = {}
    for row in table:
        tracks.setdefault(row["track"], []).append(row)
    whole = [rows for rows in tracks.values() if len(rows) == FRAMES]
    assert whole
    for rows in whole:
        assert len({tuple(np.round(row["betas"], 5)) for row in rows}) == 1
        assert len({row["side"] for row in rows}) == 1


def test_the_overlay_has_every_frame_and_hands_drawn_on_it(done: Path, film: Path) -> None:
    def frames(path: Path) -> list[np.ndarray]:
        with av.open(str(path)) as container:
            return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]

    drawn, plain = frames(done / "film.mp4"), frames(film)
    assert len(drawn) == FRAMES
    assert all((np.abs(a.astype(int) - b) > 40).any(2).mean() > 0.01 for a, b in zip(drawn, plain, strict=True))
    page = (done / "film.html").read_text()
    assert '<video src="film.mp4"' in page
    assert page.count("<tr>") > 1


def test_meshes_are_one_file_a_frame_with_a_node_a_hand(done: Path) -> None:
    rows = pq.read_table(done / "film.parquet").to_pylist()
    for frame in {row["frame"] for row in rows}:
        told, _ = read_glb((done / "film-meshes" / f"{frame:06d}.glb").read_bytes())
        names = {f"{('left', 'right')[row['side']]}-{row['track']}" for row in rows if row["frame"] == frame}
        assert {node["name"] for node in told["nodes"]} == names


def run(*words: str) -> None:
    assert whim.main(words) == 0


def test_the_command_on_an_image(checkpoints: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = tmp_path / "photo.jpg"
    cv2.imwrite(str(photo), np.random.default_rng(3).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8))
    told = ["--detector", str(checkpoints[0]), "--regressor", str(checkpoints[1]), "--out", str(tmp_path / "out"), "--detector-image", "64"]
    run("reconstruct", str(photo), *told, "--threshold", "0.4", "--meshes", "obj", "--focal", "90")
    assert "hands in 1 frames" in capsys.readouterr().out
    assert cv2.imread(str(tmp_path / "out" / "photo.jpg")).shape == (HEIGHT, WIDTH, 3)  # type: ignore[union-attr]
    assert (tmp_path / "out" / "photo-meshes" / "000000.obj").exists()
    assert set(pq.read_table(tmp_path / "out" / "photo.parquet")["focal_px"].to_pylist()) == {90.0}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere.mp4"], "cannot be read as an image or a video"),
        (["{photo}", "--focal", "1e9"], "focal length of 1e"),
        (["{photo}", "--smooth", "-1"], "--smooth"),
        (["{photo}", "--frames", "0"], "--frames: must be 1 or more"),
    ],
)
def test_what_cannot_be_done_is_said(
    checkpoints: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    photo = tmp_path / "photo.jpg"
    cv2.imwrite(str(photo), np.random.default_rng(3).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8))
    nets = ["--detector", str(checkpoints[0]), "--regressor", str(checkpoints[1]), "--out", str(tmp_path / "out"), "--detector-image", "64"]
    assert whim.main(["reconstruct", *(word.format(photo=photo) for word in words), *nets, "--threshold", "0.4"]) == 1
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("name", ["photo.jpg", "film.mp4"])
def test_a_source_is_never_written_over(checkpoints: Any, film: Path, tmp_path: Path, name: str) -> None:
    source = tmp_path / name
    if name == "photo.jpg":
        cv2.imwrite(str(source), np.random.default_rng(3).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8))
    else:
        source.write_bytes(film.read_bytes())
    before = source.read_bytes()
    networks = HandDetector.load(checkpoints[0], size=64, threshold=0.4), HandReconstructor.load(checkpoints[1])
    with pytest.raises(ValueError, match="would be written over it: name another folder by --out"):
        reconstruct(*networks, str(source), tmp_path, ReconstructSettings())
    assert source.read_bytes() == before


def test_frames_of_a_stream_without_a_clock_are_apart_in_time(tmp_path: Path) -> None:
    if "libx264" not in av.codecs_available:
        pytest.skip("no encoder of H.264 here")
    path = tmp_path / "bare.h264"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    assert [time_s for time_s, _, _ in frames_of(str(path))] == pytest.approx([0.0, 0.04, 0.08, 0.12])


def test_nobody_in_the_image_is_no_hand_and_no_error(checkpoints: Any, tmp_path: Path) -> None:
    photo = tmp_path / "grey #1.png"
    cv2.imwrite(str(photo), np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    networks = HandDetector.load(checkpoints[0], size=64, threshold=0.999), HandReconstructor.load(checkpoints[1])
    before = tmp_path / "out" / "grey #1-meshes" / "000000.glb"
    write_meshes(before, [])
    assert reconstruct(*networks, str(photo), tmp_path / "out", ReconstructSettings()) == (1, 0)
    assert not before.exists(), "a mesh of an earlier run"
    assert len(pq.read_table(tmp_path / "out" / "grey #1.parquet")) == 0
    assert (tmp_path / "out" / "grey #1.jpg").exists()
    assert 'src="grey%20%231.jpg"' in (tmp_path / "out" / "grey #1.html").read_text()


def test_a_detector_is_no_regressor(checkpoints: Any) -> None:
    with pytest.raises(ValueError, match="holds a detector, not a regressor"):
        HandReconstructor.load(checkpoints[0])


def test_onnx_says_what_torch_says(checkpoints: Any, tmp_path: Path) -> None:
    import onnxruntime

    export(tmp_path / "hands.onnx", checkpoints[1])
    session = onnxruntime.InferenceSession(str(tmp_path / "hands.onnx"), providers=["CPUExecutionProvider"])
    images = torch.rand(3, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    said = dict(zip([output.name for output in session.get_outputs()], session.run(None, {"images": images.numpy()}), strict=True))
    with torch.inference_mode():
        wanted = HandReconstructor.load(checkpoints[1]).network(images)[-1]._asdict()
    assert set(said) == set(wanted)
    for name, values in wanted.items():
        np.testing.assert_allclose(said[name], values.numpy(), atol=2e-4, rtol=1e-3)
    with pytest.raises(ValueError, match=r"\.onnx"):
        export(tmp_path / "hands.pt2", checkpoints[1])
