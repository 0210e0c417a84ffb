"""A regressor judged: places before an uncentred camera, left hands of shards, tracks, the page, files that the official loops score."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import whim
from fitting.hand.mano import LEFT, RIGHT, load_hand_model, pose_either_hand
from hands.metrics.hands import Hands3D
from tests.hands.test_hands import slow_metrics
from tests.training.conftest import rows, write
from tests.training.data.sets.hand_sets import Posed, exact_model, freihand_folder, ho3d_folder, mano_file, posed
from training.data.samples import Crops
from training.data.sets.hint import hint
from training.data.sets.ho3d import TO_CAMERA, TO_HO3D
from training.regressor.detected_boxes import kept
from training.regressor.evaluate import Predictions, estimates, evaluation_of, freihand_benchmark, ho3d_benchmark, placed, shards_benchmark
from training.regressor.hint import evaluate_hint, pck
from training.regressor.inference import read
from training.regressor.network import Regressor, RegressorSettings
from training.regressor.report import measured_in, page
from training.run.checkpoint import Checkpoint, Progress


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """FreiHAND's and HO3D's folders, and the hand model that their parameters are of."""
    folder = tmp_path_factory.mktemp("sets")
    mano = mano_file(folder)
    model = exact_model(mano)
    training, evaluation = posed(1, model, seed=1), steady(posed(6, model, seed=2))
    return {
        "mano": mano,
        "freihand": freihand_folder(folder / "freihand", training, evaluation, hands_mean=model.hands_mean.numpy()),
        "ho3d": ho3d_folder(folder / "ho3d", training, evaluation),
    }


def steady(hands: Posed) -> Posed:
    """The first hand and, of every sequence, the same a millimetre further with every frame."""
    path = np.arange(len(hands.joints))[:, None, None] // 2 * np.array([0.001, 0, 0])
    return Posed(*(np.repeat(values[:1], len(values), 0) for values in hands[:3]), hands.joints[:1] + path, hands.vertices[:1] + path)  # type: ignore[call-arg]


@pytest.fixture
def _their_model(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIM_MANO", str(folders["mano"]))


@pytest.fixture
def checkpoint(folders: dict[str, Path], tmp_path: Path, _their_model: None) -> Path:
    """A tiny network whose refinement says something."""
    torch.manual_seed(0)
    network = Regressor(RegressorSettings(size="xs"))
    assert network.refinement
    torch.nn.init.normal_(network.refinement.say.weight, std=0.05)
    weights = network.state_dict()
    made: dict[str, Any] = {"kind": "regressor", "settings": asdict(network.settings), "network": weights, "ema": weights}
    Checkpoint(**made, optimizer={}, progress=Progress(), data="").save(tmp_path / "best.pt")
    return tmp_path / "best.pt"


def run(*words: object) -> None:
    assert whim.main(["evaluate", "regressor", *map(str, words)]) == 0


@pytest.mark.usefixtures("_their_model")
@pytest.mark.parametrize("name", ["freihand", "ho3d"])
def test_a_hand_said_where_it_is_is_placed_where_it_is(folders: dict[str, Path], name: str) -> None:
    """Crop -> frame with the set's own focal length and an axis off the middle of the image."""
    benchmark = (freihand_benchmark if name == "freihand" else ho3d_benchmark)(folders[name])
    wrist = torch.as_tensor(benchmark.truth.joints[:, 0])
    labels = benchmark.crops.labels(range(6))
    scale = labels["to_input"][:, :1].astype(float)
    centre, side = (128 - labels["to_input"][:, 1:]) / scale, 256 / scale
    assert benchmark.matrix is not None
    matrix = benchmark.matrix[0]
    box = torch.as_tensor(np.concatenate([centre - matrix[:2, 2] - 0.5, side], 1))
    metres = wrist[:, 2:] * box[:, 2:] / ((matrix[0, 0] + matrix[1, 1]) / 2)  # the crop's side, where the wrist is
    camera = torch.cat([2 / metres, wrist[:, :2] - box[:, :2] / box[:, 2:] * metres], 1)
    about = Predictions(benchmark.truth.about_wrist(), camera.float().numpy())
    found = placed(about, benchmark)
    np.testing.assert_allclose(found.joints, benchmark.truth.joints, atol=2e-5)
    metrics = evaluation_of(about, benchmark).metrics
    assert metrics["camera_mpjpe_mm"] < 0.02
    assert metrics["pa_mpvpe_mm"] < 1e-3
    assert metrics["own_tips_pa_mpjpe_mm"] == pytest.approx(metrics["pa_mpjpe_mm"], abs=1e-3), "the truth has the set's own tips"
    pixels = found.joints @ benchmark.matrix[0].T
    np.testing.assert_allclose(pixels[..., :2] / pixels[..., 2:] + 0.5, labels["joints_2d"], atol=0.1)


@pytest.mark.usefixtures("_their_model")
def test_motion_is_of_frames_that_follow_each_other(folders: dict[str, Path]) -> None:
    benchmark = ho3d_benchmark(folders["ho3d"])
    assert [part.tolist() for part in benchmark.tracks] == [[0, 2, 4], [1, 3, 5]], "two sequences, every second number of each"
    assert freihand_benchmark(folders["freihand"]).tracks[0].tolist() == [0], "FreiHAND is no video"


def test_one_command_fills_the_tables(folders: dict[str, Path], checkpoint: Path, tmp_path: Path) -> None:
    out, sent = tmp_path / "report", tmp_path / "sent"
    run(checkpoint, "--ho3d", folders["ho3d"], "--report", out, "--predictions", sent)
    text = (out / "report.md").read_text()
    assert "| **ours, coarse** |  |  |  |  |" in text, "FreiHAND was not measured yet"
    run(checkpoint, "--freihand", folders["freihand"], "--report", out, "--predictions", sent, "--json")
    text = (out / "report.md").read_text()
    told = {name: json.loads((out / f"{name}.json").read_text()) for name in ("freihand", "ho3d")}
    for name, of in told.items():
        metrics = of["estimates"]["refined"]["figures"]
        assert f"{metrics['pa_mpjpe_mm']:.3f}" in text, name
        assert metrics["pa_mpjpe_mm"] != of["estimates"]["coarse"]["figures"]["pa_mpjpe_mm"]
        assert of["num_hands"] == 6
    assert "| WiLoR | 5.500 | 5.100 | 0.825 | 0.993 |" in text
    for name in ("freihand-best.jpg", "freihand-worst.jpg", "ho3d-worst.jpg", "pck.png", "joints.png"):
        assert (out / name).stat().st_size > 1000, name
        assert name in text
    with av.open(str(out / "ho3d-track.mp4")) as film:
        assert [(frame.height, frame.width) for frame in film.decode(video=0)] == [(256, 512)] * 3, "three frames, bare and drawn"
    assert "(ho3d-track.mp4)" in text
    assert "freihand-track" not in text, "FreiHAND is no video"
    check_submission(folders["freihand"], sent / "freihand/pred.json", told["freihand"])
    check_submission(folders["ho3d"], sent / "ho3d/pred.json", told["ho3d"])
    joints = np.array(json.loads((sent / "ho3d/pred.json").read_text())[0])
    assert (joints[..., 2] < 0).all(), "in HO3D's axes a hand before the camera has a negative z"


def check_submission(folder: Path, path: Path, told: dict) -> None:
    """The written file, scored beside the set's own by the official formulas, has the figures of the report."""
    predictions = Hands3D(*(np.array(part) for part in json.loads(path.read_text())))
    true = Hands3D(*(np.array(json.loads((folder / f"evaluation_{kind}.json").read_text())) for kind in ("xyz", "verts")))
    for name, value in slow_metrics(predictions, true).items():
        assert told["estimates"]["refined"]["figures"][name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    error = np.linalg.norm(predictions.joints - true.joints, axis=2).mean()
    assert told["estimates"]["refined"]["figures"]["camera_mpjpe_mm"] == pytest.approx(1000 * error, rel=1e-4)


def test_an_empty_page_has_the_papers_rows_and_says_how_to_fill_ours() -> None:
    text = page({})
    assert text.count("**ours, refined**") == 3
    assert "| Proposed w/o Refinement | `regressor_no_refinement` | 6.100 | 5.800 | 0.795 | 0.991 |  |  |  |  |" in text
    assert "| HaMeR | 10.600 | 1.768 | 20.430 | 2.920 |" in text
    assert "whim evaluate regressor CHECKPOINT --freihand DIR --ho3d DIR" in text
    assert "nan" not in text


def test_a_row_of_table_5_stands_beside_the_papers() -> None:
    predictions = {"pa_mpjpe_mm": 7.25, "pa_mpvpe_mm": 7.0, "pa_f5": 0.7, "pa_f15": 0.98}
    text = page(
        {}, {"regressor_single_scale": {"freihand": {"estimates": {"coarse": {"figures": {}}, "refined": {"figures": predictions}}}}}
    )
    assert "`regressor_single_scale` | 6.000 | 5.900 | 0.793 | 0.991 | 7.250 | 7.000 | 0.700 | 0.980 |" in text


def test_the_page_in_the_docs_says_what_its_figures_say() -> None:
    folder = Path(__file__).parents[3] / "docs/results_regressor"
    assert (folder / "report.md").read_text() == page(measured_in(folder)), "write it anew: whim evaluate regressor --report"


def test_nothing_to_measure_on_is_said(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert whim.main(["evaluate", "regressor", str(checkpoint)]) == 1
    assert "name --freihand DIR" in capsys.readouterr().err


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Shards of one clip at 10 frames a second; hand h of each frame is track h."""
    table = rows(0, 12)
    hands = [[hand | {"track": h} for h, hand in enumerate(row)] for row in table.column("hands").to_pylist()]
    kind = table.schema.field("hands").type.value_type
    with_track = pa.struct([*kind, pa.field("track", pa.int32(), nullable=False)])
    column = pa.field("hands", pa.list_(pa.field("element", with_track, nullable=False)), nullable=False)
    table = table.set_column(0, column, pa.array(hands, column.type))
    for name, values in (("clip", ["c"] * 12), ("frame", list(range(12))), ("time_s", [k / 10 for k in range(12)])):
        table = table.append_column(name, pa.array(values))
    write(tmp_path / "shards/test/test-0.parquet", table)
    return tmp_path / "shards"


def test_hands_of_shards_are_judged_as_right_hands(video: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIM_CACHE", str(cache))
    benchmark = shards_benchmark(video)
    labels = benchmark.crops.labels(range(len(benchmark.crops)))
    told = [torch.as_tensor(labels[name].astype(np.float32)) for name in ("betas", "global_orient", "hand_pose")]
    either = pose_either_hand(load_hand_model(), torch.as_tensor(labels["side"].astype(np.int64)), *told).vertices.numpy()
    left = labels["side"] == LEFT
    assert left.any()
    assert not left.all()
    either[left] *= [-1, 1, 1]
    np.testing.assert_allclose(benchmark.truth.vertices, either, atol=1e-6)
    assert benchmark.matrix is None
    assert benchmark.frames_per_second == pytest.approx(10)
    assert isinstance(benchmark.crops, Crops)
    times = [[int(benchmark.crops.hand[row, 0]) for row in rows] for rows in benchmark.tracks]
    assert sorted(times) == [[1, 2], [2, 5, 8, 11], [4, 5], [7, 8], [10, 11]], "one hand in every third frame, another in two of three"
    some = shards_benchmark(video, max_hands=3)
    assert len(some.truth.joints) == 3
    assert isinstance(some.crops, Crops)
    assert some.crops.hand[:, 0].tolist() == [1, 5, 11], "from all over the split"


def test_a_hand_whose_image_is_corrupt_is_left_out_by_name(
    video: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WHIM_CACHE", str(cache))
    whole = shards_benchmark(video)
    path = video / "test/test-0.parquet"
    table = pq.read_table(path)
    images = table.column("image").to_pylist()
    images[5] = b"no image"
    at = table.schema.get_field_index("image")
    write(path, table.set_column(at, table.schema.field(at), pa.array(images, pa.binary())))
    benchmark = shards_benchmark(video)
    assert isinstance(whole.crops, Crops)
    assert isinstance(benchmark.crops, Crops)
    sound = whole.crops.hand[:, 0] != 5
    assert (~sound).sum() >= 1
    np.testing.assert_array_equal(benchmark.crops.hand, whole.crops.hand[sound])
    np.testing.assert_allclose(benchmark.truth.vertices, whole.truth.vertices[sound], atol=1e-6)
    assert caplog.text.count("a hand is left out: no JPEG") == (~sound).sum()


def test_estimates_are_in_the_order_of_the_crops_however_batched(video: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIM_CACHE", str(cache))
    torch.manual_seed(0)
    network = Regressor(RegressorSettings(size="xs"))
    for layer in (network.heads.pose, network.heads.camera):
        torch.nn.init.normal_(layer.weight, std=0.2)
    crops = shards_benchmark(video).crops
    one, other = estimates(network, crops, batch_size=3)["refined"], estimates(network, crops, batch_size=64)["refined"]
    np.testing.assert_allclose(one.camera, other.camera, rtol=1e-4, atol=1e-5)
    assert np.ptp(one.camera, 0).max() > 1e-4, "other images, other answers"


def test_the_axes_of_ho3d_are_a_rotation() -> None:
    assert np.prod(TO_CAMERA) == 1
    assert sorted(TO_HO3D) == list(range(21))
    assert TO_HO3D[4] == 9, "the joint that its script scales by is the middle finger's knuckle"


def test_a_gap_keeps_the_last_box_of_its_video_and_its_beginning_takes_the_next() -> None:
    box = np.array([[np.nan] * 4, [1.0, 1, 2, 2], [np.nan] * 4, [3.0, 3, 4, 4], [np.nan] * 4, [np.nan] * 4])
    whole = np.tile([0.0, 0, 9, 9], (6, 1))
    filled = kept(box, whole, ["a", "a", "a", "a", "b", "b"], np.array([0, 1, 2, 3, 0, 1]))
    assert filled[:, 0].tolist() == [1, 1, 1, 3, 0, 0]
    assert filled[4].tolist() == [0, 0, 9, 9]
    backward = kept(box, whole, ["a"] * 4 + ["b"] * 2, np.array([3, 2, 1, 0, 0, 1]))
    assert backward[:4, 0].tolist() == [1, 1, 3, 3], "in order of time, not of rows"
    alone = kept(box, whole, [str(k) for k in range(6)], np.zeros(6, np.int64))
    assert alone[:, 0].tolist() == [0, 1, 0, 3, 0, 0]


@pytest.mark.usefixtures("_their_model")
def test_motion_is_measured_on_a_detectors_boxes_too(
    folders: dict[str, Path], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shipped detector finds no hand in these grey images: their crops are whole images, and the report says how many it found."""
    run(checkpoint, "--ho3d", folders["ho3d"], "--detector", "ours", "--report", tmp_path / "report")
    told = json.loads((tmp_path / "report" / "ho3d-detected.json").read_text())
    assert "boxes of a detector, which finds 0.0% of the hands" in told["protocol"]
    assert told["num_hands"] == json.loads((tmp_path / "report" / "ho3d.json").read_text())["num_hands"]
    assert "| **ours, refined, boxes of a detector** |" in (tmp_path / "report" / "report.md").read_text()
    assert whim.main(["evaluate", "regressor", str(checkpoint), "--data", str(tmp_path), "--detector", "ours"]) == 1
    assert "on the images of published sets: name --freihand DIR or --ho3d DIR" in capsys.readouterr().err


@pytest.mark.usefixtures("_their_model")
def test_hint_is_joints_in_the_image_seen_and_hidden(folders: dict[str, Path], checkpoint: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    place = tmp_path / "TEST_newdays_img"
    for k, side in enumerate("rl"):
        points = rng.uniform(60, 180, (21, 2))
        told = [{"bbox": [[50.0, 50, 190, 190]], "keypoints": points.tolist(), "occlusion": [int(j < 5 * k) for j in range(21)]}]
        place.mkdir(exist_ok=True)
        cv2.imwrite(str(place / f"image{k}_{side}.jpg"), rng.integers(0, 255, (240, 320, 3), np.uint8))
        (place / f"image{k}_{side}.json").write_text(json.dumps(told))
    hands = hint(tmp_path, "newdays")
    assert hands
    assert hands.crops.columns["side"].tolist() == [RIGHT, LEFT]
    assert hands.crops.box[0].tolist() == [50, 50, 190, 190]
    assert hands.occluded.sum(1).tolist() == [0, 5]
    assert hint(tmp_path, "epick") is None
    found = evaluate_hint(read(checkpoint), tmp_path)
    assert set(found) == {"hint-newdays"}
    assert 0 <= found["hint-newdays"]["refined"]["pck_15"] <= 1
    with pytest.raises(FileNotFoundError, match="has no TEST_newdays_img"):
        evaluate_hint(read(checkpoint), tmp_path / "none")
    hidden = np.zeros((1, 21), bool)
    hidden[0, :3] = True
    distance = np.array([[0.01, 0.06, 0.2, *[0.12] * 18]])
    got = pck(distance, hidden)
    assert (got["pck_05"], got["pck_10"], got["pck_15"]) == pytest.approx((1 / 21, 2 / 21, 20 / 21))
    assert (got["pck_15_visible"], got["pck_10_occluded"], got["pck_05_visible"]) == pytest.approx((1, 2 / 3, 0))
