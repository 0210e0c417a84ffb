"""Every export says what the shards say, is there whole or not at all, and never takes the place of somebody else's files."""

import io
import json
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg
import torch
from rich.console import Console
from scipy.spatial.transform import Rotation

from benchmarks.exports.read_back import READERS, hand
from fitting.hand.mano import load_hand_model, pose_either_hand
from pipeline.dataset.index import write_index
from pipeline.exports.export import Exported, export
from pipeline.exports.formats import ABOUT, FORMATS
from pipeline.exports.lerobot.film import Film
from pipeline.exports.lerobot.plan import Plan, mean_step_s, size_of_film
from stages.digest import CorruptFileError
from stages.errors import UserError, one_line
from tests.pipeline.exports.shards import SIGNERS, SIZE, as_held, same, truth, write_small_shards
from tests.training.run.test_log import files_of_at_most

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_shards(tmp_path_factory.mktemp("exports"))


def exported(format: str, data: Path, out: Path, where: str = "", **options: Any) -> Exported:
    return export(FORMATS[format], data, out, where=where, options=options, console=Console(quiet=True))


def tars_of(folder: Path) -> Any:
    """Split, key and files of each sample of some tars, by the standard library."""
    for path in sorted(folder.glob("*/*.tar")):
        samples: dict[str, dict[str, bytes]] = {}
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                place, _, name = member.name.rpartition("/")
                key, _, ending = name.partition(".")
                file = tar.extractfile(member)
                assert file
                samples.setdefault(f"{path.parent.name}/{place}/{key}", {})[ending] = file.read()
        yield from samples.items()


def read_webdataset(folder: Path) -> dict[str, Any]:
    found = {}
    for name, files in tars_of(folder):
        assert files["jpg"][:2] == b"\xff\xd8"
        hands = json.loads(files["json"])["hands"]
        points = [np.array(h["keypoints"], np.float64) for h in hands]
        found[name] = [hand(h["side_name"], h["box"], p) for h, p in zip(hands, points, strict=True)]
    return found


def read_hamer(folder: Path) -> dict[str, Any]:
    found = {}
    for name, files in tars_of(folder):
        hands = pickle.load(io.BytesIO(files["data.pyd"]))
        assert all(data["hand_pose"].shape == (48,) and data["betas"].shape == (10,) for data in hands)
        boxes = [np.concatenate([d["center"] - d["scale"] * 100, d["center"] + d["scale"] * 100]) for d in hands]
        found[name] = [hand(("left", "right")[int(d["right"])], box, d["keypoints_2d"]) for d, box in zip(hands, boxes, strict=True)]
    return found


def read_yolo(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("labels/*/*/*.txt")):
        name = str(path.relative_to(folder / "labels").with_suffix(""))
        assert (folder / "images" / f"{name}.jpg").is_file()
        found[name] = []
        for line in path.read_text().splitlines():
            side, *numbers = line.split()
            middle, half = np.array(numbers[:2], float) * SIZE, np.array(numbers[2:4], float) * SIZE / 2
            points = np.array(numbers[4:], float).reshape(21, 3) * [*SIZE, 1]
            found[name].append(hand(("left", "right")[int(side)], np.concatenate([middle - half, middle + half]), points))
    return found


def read_fiftyone(folder: Path) -> dict[str, Any]:
    found = {}
    for sample in json.loads((folder / "samples.json").read_text())["samples"]:
        name = f"{sample['tags'][0]}/{sample['video']}/{sample['frame']:08d}"
        assert sample["filepath"] == f"data/{name}.jpg"
        pairs = zip(sample["hands"]["detections"], sample["keypoints"]["keypoints"], strict=True)
        boxes = [(box["label"], np.array(box["bounding_box"]) * np.tile(SIZE, 2), points["points"]) for box, points in pairs]
        found[name] = [hand(side, [*b[:2], *(b[:2] + b[2:])], np.array(points, np.float64) * SIZE) for side, b, points in boxes]
    return found


def read_lerobot(folder: Path) -> dict[str, Any]:
    info = json.loads((folder / "meta" / "info.json").read_text())
    rows = pq.read_table(next(folder.glob("data/*/*.parquet"))).to_pylist()
    episodes = pq.read_table(next(folder.glob("meta/episodes/*/*.parquet"))).to_pylist()
    assert info["total_frames"] == len(rows)
    with av.open(str(next(folder.glob("videos/*/*/*.mp4")))) as film:
        times = [float(frame.time) for frame in film.decode(video=0)]
    found = {}
    for row in rows:
        episode = episodes[row["episode_index"]]
        at = episode["videos/observation.images.camera/from_timestamp"] + row["timestamp"]
        assert min(abs(np.array(times) - at)) < 1e-3
        assert info["features"]["observation.left_hand.box"]["names"] == ["x1_px", "y1_px", "x2_px", "y2_px"]
        name = f"{episode['split']}/{episode['video']}/{row['source.frame']:08d}"
        sides = [side for side in ("right", "left") if row[f"observation.{side}_hand.present"]]
        columns = [(row[f"observation.{side}_hand.box"], row[f"observation.{side}_hand.keypoints"]) for side in sides]
        found[name] = [hand(side, box, np.reshape(points, (21, 3))) for side, (box, points) in zip(sides, columns, strict=True)]
    return found


def by_its_own(format: str) -> Callable[[Path], dict[str, Any]]:
    """The reader of a library that is installed here."""
    return lambda folder: dict(READERS[format](folder)["hands"])


READ: dict[str, Callable[[Path], dict[str, Any]]] = {
    **{name: by_its_own(name) for name in ("coco", "huggingface", "parquet", "csv")},
    "webdataset": read_webdataset,
    "hamer": read_hamer,
    "yolo": read_yolo,
    "fiftyone": read_fiftyone,
    "lerobot": read_lerobot,
}


def bytes_of(folder: Path) -> dict[Path, bytes]:
    """Every file but films: on a busy machine H.264's encoder differs now and then by a few grey levels in a frame."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".mp4"}


@pytest.mark.parametrize("format", READ)
def test_every_format_says_what_the_shards_say(format: str, data: Path, tmp_path: Path) -> None:
    done = exported(format, data, tmp_path / "out")
    wanted = truth(data)
    assert (done.num_frames, done.num_hands) == (len(wanted), sum(map(len, wanted.values())))
    assert any(None in points for hands in wanted.values() for _, _, points in hands), "some hands are known by their box alone"
    same(READ[format](tmp_path / "out"), as_held(format, wanted))
    about = json.loads((tmp_path / "out" / ABOUT).read_text())
    assert {video: of["extra"]["signer"] for video, of in about["videos"].items()} == SIGNERS
    assert "CC-BY 4.0" in (tmp_path / "out" / "README.md").read_text()
    exported(format, data, tmp_path / "again")
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "again"), "the same shards give the same bytes"


@pytest.mark.parametrize("format", READ)
def test_a_clip_without_a_hand_is_background(format: str, tmp_path: Path) -> None:
    """LeRobot's export ended in a traceback by an episode on whose frames no hand is."""
    data = write_small_shards(tmp_path / "data", bare="b")
    wanted = truth(data)
    assert sum(not hands for name, hands in wanted.items() if name.startswith("val/b/")) > 5
    exported(format, data, tmp_path / "out")
    same(READ[format](tmp_path / "out"), as_held(format, wanted))


def test_an_animation_is_the_hand_of_its_track(data: Path, tmp_path: Path) -> None:
    """Joints and mesh, moved as glTF 2.0 says, are those of the model; 21 keypoints and boxes stand beside them."""
    exported("glb", data, tmp_path / "out")
    rows = {
        (row["clip"], h["track"], h["side"], row["frame"]): h
        for path in sorted((data / "shards").glob("*/*.parquet"))
        for row in pq.read_table(path).to_pylist()
        for h in row["hands"]
    }
    seen = 0
    for path in sorted((tmp_path / "out").glob("*/*/*.glb")):
        gltf = Gltf(path.read_bytes())
        told = gltf.document["scenes"][0]["extras"]
        for k, frame in enumerate(told["frame"]):
            of = rows[told["clip"], told["track"], ("left", "right").index(told["side"]), frame]
            np.testing.assert_allclose(told["box"][k], of["box"], rtol=1e-6)
            vertices, joints = gltf.posed(k)
            parameters = [torch.tensor([of[name]]) for name in ("betas", "global_orient", "hand_pose")]
            track = [h["betas"] for (clip, track, *_), h in rows.items() if (clip, track) == (told["clip"], told["track"])]
            parameters[0] = torch.tensor(np.mean([b for b in track if np.isfinite(b).all()], 0)[None], dtype=torch.float32)
            wanted = pose_either_hand(load_hand_model(), torch.tensor([of["side"]]), *parameters)
            right_side_up = (vertices - joints[0]) * [1, -1, -1]
            assert np.abs(right_side_up - wanted.vertices[0].numpy()).max() < 2e-4
            mano = {"wrist": 0, "thumb1": 1, "index1": 5, "middle1": 9, "ring1": 13, "little1": 17, "little3": 19, "thumb3": 3}
            names = [node["name"] for node in gltf.document["nodes"]]
            for name, openpose in mano.items():
                place = (joints[names.index(name)] - joints[0]) * [1, -1, -1]
                np.testing.assert_allclose(place, wanted.joints[0, openpose].numpy(), atol=2e-5)
            seen += 1
    assert seen > 20


class Gltf:
    """A GLB read by the letter of glTF 2.0."""

    def __init__(self, data: bytes) -> None:
        magic, version, length = struct.unpack_from("<III", data)
        assert (magic, version, length) == (0x46546C67, 2, len(data))
        size, kind = struct.unpack_from("<II", data, 12)
        assert kind == 0x4E4F534A
        self.document = json.loads(data[20 : 20 + size])
        self.buffer = data[28 + size :]

    def accessor(self, number: int) -> np.ndarray:
        told = self.document["accessors"][number]
        view = self.document["bufferViews"][told["bufferView"]]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}[told["type"]]
        kind = {5126: np.float32, 5121: np.uint8, 5123: np.uint16}[told["componentType"]]
        return np.frombuffer(self.buffer, kind, told["count"] * width, view["byteOffset"]).reshape(-1, width)

    def posed(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Vertices of the skinned mesh and places of the 16 joints at the k-th key frame."""
        nodes, animation = self.document["nodes"], self.document["animations"][0]
        values: dict[tuple[int, str], np.ndarray] = {}
        for channel in animation["channels"]:
            output = self.accessor(animation["samplers"][channel["sampler"]]["output"])
            target = channel["target"]
            values[target["node"], target["path"]] = output.reshape(-1, 135)[k] if target["path"] == "weights" else output[k]
        parents = {child: j for j, node in enumerate(nodes) for child in node.get("children", ())}
        world: list[np.ndarray] = []
        for j in range(16):
            local = np.eye(4)
            local[:3, :3] = Rotation.from_quat(values[j, "rotation"]).as_matrix()
            local[:3, 3] = values.get((j, "translation"), nodes[j]["translation"])
            world.append(world[parents[j]] @ local if j in parents else local)
        (primitive,) = self.document["meshes"][0]["primitives"]
        directions = np.stack([self.accessor(target["POSITION"]) for target in primitive["targets"]])
        rest = self.accessor(primitive["attributes"]["POSITION"]) + np.einsum("k,kvc->vc", values[16, "weights"], directions)
        inverse = self.accessor(self.document["skins"][0]["inverseBindMatrices"]).reshape(16, 4, 4).transpose(0, 2, 1)
        matrices = np.stack(world) @ inverse
        whole = np.concatenate([rest, np.ones((len(rest), 1))], 1)
        moved = np.zeros((len(rest), 3))
        for one in range(2):
            joints, weights = (self.accessor(primitive["attributes"][f"{name}_{one}"]) for name in ("JOINTS", "WEIGHTS"))
            for c in range(4):
                moved += weights[:, c : c + 1] * np.einsum("vab,vb->va", matrices[joints[:, c]], whole)[:, :3]
        return moved, np.stack(world)[:, :3, 3]


@pytest.mark.parametrize("format", ["coco", "huggingface", "parquet"])
def test_a_filter_takes_its_hands_and_leaves_no_other_in_the_background(format: str, data: Path, tmp_path: Path) -> None:
    def taken(row: dict[str, Any], one: dict[str, Any]) -> bool:
        return bool(json.loads(row["extra"])["signer"] == "ann" and one["quality"] > 0.6 and one["side"] == 1)

    exported(format, data, tmp_path / "out", where="signer = 'ann' and quality > .6 and side = right")
    wanted = truth(data, taken)
    assert 0 < len(wanted) < len(truth(data))
    same(READ[format](tmp_path / "out"), wanted)
    if format == "coco":
        notes = json.loads((tmp_path / "out" / "annotations" / "train.json").read_text())["annotations"]
        hidden = sum(len(hands) for name, hands in truth(data).items() if name in wanted and name.startswith("train/"))
        taken_here = sum(len(hands) for name, hands in wanted.items() if name.startswith("train/"))
        assert sum(note["iscrowd"] for note in notes) >= hidden - taken_here > 0


def test_what_nobody_takes_is_told_and_leaves_nothing(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no hand that the filter 'quality > 2' takes"):
        exported("coco", data, tmp_path / "out", where="quality > 2")
    with pytest.raises(UserError, match="did you mean 'quality'"):
        exported("coco", data, tmp_path / "out", where="qualty > 2")
    with pytest.raises(UserError, match="holds no shards"):
        exported("coco", tmp_path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_folder_is_refused_and_an_export_replaced(data: Path, tmp_path: Path) -> None:
    foreign, file, own = tmp_path / "foreign", tmp_path / "file", tmp_path / "own"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    file.write_text("more of it")
    for place in (foreign, file):
        with pytest.raises(UserError, match=r"name (another folder|one) by --out"):
            exported("coco", data, place)
    assert (foreign / "thesis.txt").read_text() == "years of work"
    exported("yolo", data, own)
    before = (own / "data.yaml").stat().st_mtime_ns
    assert exported("yolo", data, own).up_to_date
    assert (own / "data.yaml").stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"own holds an export in another format \(yolo\): name another folder"):
        exported("csv", data, own)
    assert (own / "data.yaml").stat().st_mtime_ns == before
    labels = len(list(own.rglob("labels/*/*/*.txt")))
    assert not exported("yolo", data, own, where="side = left").up_to_date
    assert 0 < len(list(own.rglob("labels/*/*/*.txt"))) < labels
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "foreign", "own"]


def test_a_killed_export_leaves_no_folder_and_the_next_is_whole(data: Path, tmp_path: Path) -> None:
    """Killed while it writes images: the name is not there, and the next run gives what an undisturbed one gives."""
    out, aside = tmp_path / "out", tmp_path / ".out.incomplete"
    command = [sys.executable, "-m", "pipeline", "export", "coco", str(data), "--out", str(out)]
    slow = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(command, env=slow, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while child.poll() is None and not list(aside.glob("images/*/*/*.jpg")):
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    if not out.exists():  # else it was quicker than the kill
        assert aside.exists()
    exported("coco", data, out)
    exported("coco", data, tmp_path / "undisturbed")
    assert bytes_of(out) == bytes_of(tmp_path / "undisturbed")
    assert not aside.exists()


def test_two_exports_do_not_write_one_folder(data: Path, tmp_path: Path) -> None:
    from pipeline.exports.export import whole

    with whole(tmp_path / "out", {}), pytest.raises(UserError, match="another export writes"):
        exported("csv", data, tmp_path / "out")


def test_recordings_need_their_library(data: Path, tmp_path: Path) -> None:
    try:
        import rerun  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match="pip install rerun-sdk"):
            exported("rerun", data, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_damaged_shard_is_named_and_nothing_is_exported(data: Path, tmp_path: Path) -> None:
    """A flip in the footer renames a column, and what has no column is unknown: the pages' own checksums do not see it."""
    folder, dice = Path(shutil.copytree(data, tmp_path / "data")), np.random.default_rng(0)
    shard = sorted(folder.glob("**/train/*.parquet"))[0]
    sound = shard.read_bytes()
    footer = len(sound) - 8 - int.from_bytes(sound[-8:-4], "little")
    for place in [*dice.integers(footer, len(sound), 40), *dice.integers(0, footer, 10)]:
        damaged = bytearray(sound)
        damaged[place] ^= 1 << dice.integers(8)
        shard.write_bytes(damaged)
        with pytest.raises(CorruptFileError, match=shard.name):
            exported("csv", folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def worldly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_shards(tmp_path_factory.mktemp("worldly"), doubtful=False, in_world=True)


PLACES = ("transl", "transl_world", "global_orient_world", "focal_px")


def places(data: Path) -> dict[str, list[dict[str, Any]]]:
    """Where the hands of every frame are, by the shards."""
    rows = [(path, row) for path in sorted((data / "shards").glob("*/*.parquet")) for row in pq.read_table(path).to_pylist()]
    return {f"{path.parent.name}/{row['video']}/{row['frame']:08d}": row["hands"] for path, row in rows}


def placed_coco(folder: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for path in folder.glob("annotations/*.json"):
        told = json.loads(path.read_text())
        names = {image["id"]: image["file_name"].removesuffix(".jpg") for image in told["images"]}
        assert sum("world_from_camera" in image["whim"] for image in told["images"]) > len(names) / 2
        found |= {name: [] for name in names.values()}
        for note in told["annotations"]:
            if not note["iscrowd"]:
                found[names[note["image_id"]]].append(note)
    return found


def placed_webdataset(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {name: json.loads(files["json"])["hands"] for name, files in tars_of(folder)}


def placed_fiftyone(folder: Path) -> dict[str, list[dict[str, Any]]]:
    samples = json.loads((folder / "samples.json").read_text())["samples"]
    return {sample["filepath"].removeprefix("data/").removesuffix(".jpg"): sample["hands"]["detections"] for sample in samples}


@pytest.mark.parametrize(("format", "read"), [("coco", placed_coco), ("webdataset", placed_webdataset), ("fiftyone", placed_fiftyone)])
def test_hands_are_in_the_world_where_their_camera_is(format: str, read: Callable[..., Any], worldly: Path, tmp_path: Path) -> None:
    exported(format, worldly, tmp_path / "out")
    found, wanted = read(tmp_path / "out"), places(worldly)
    assert found.keys() == wanted.keys()
    in_world = 0
    for name, hands in wanted.items():
        for one, other in zip(found[name], hands, strict=True):
            for column in PLACES:
                np.testing.assert_allclose(np.array(one[column], float), np.array(other[column], float), rtol=1e-6, err_msg=name)
            in_world += bool(np.isfinite(np.array(one["transl_world"], float)).all())
    assert in_world > 20


def test_lerobots_wrists_are_where_a_known_camera_says_and_in_the_world(worldly: Path, data: Path, tmp_path: Path) -> None:
    exported("lerobot", worldly, tmp_path / "out")
    wanted, count = places(worldly), [0, 0]
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    episodes = pq.read_table(next((tmp_path / "out").glob("meta/episodes/*/*.parquet"))).to_pylist()
    for row in pq.read_table(next((tmp_path / "out").glob("data/*/*.parquet"))).to_pylist():
        episode = episodes[row["episode_index"]]
        for hand_of in wanted[f"{episode['split']}/{episode['video']}/{row['source.frame']:08d}"]:
            told = f"observation.{('left', 'right')[hand_of['side']]}_hand."
            assert np.allclose(row[told + "wrist"], hand_of["transl"])
            known = np.isfinite(hand_of["transl_world"]).all()
            count[int(known)] += 1
            assert row[told + "in_world"] == known
            assert np.allclose(row[told + "wrist_world"], np.nan_to_num(hand_of["transl_world"]))
            assert np.allclose(row[told + "global_orient_world"], np.nan_to_num(hand_of["global_orient_world"]))
    assert min(count) > 2
    assert info["features"]["observation.left_hand.wrist_world"]["names"] == [f"wrist_{axis}_world_m" for axis in "xyz"]
    exported("lerobot", data, tmp_path / "plain")
    assert "world" not in (tmp_path / "plain/meta/info.json").read_text()


@pytest.mark.parametrize("format", ["coco", "huggingface", "parquet"])
def test_shards_of_before_cameras_were_known_are_exported_with_what_they_have(format: str, data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    for path in folder.glob("**/index.json"):
        path.unlink()
    for path in folder.glob("**/*.parquet"):
        table = pq.read_table(path)
        hands, frames = table.column("hands").combine_chunks(), table.drop_columns(["world_from_camera", "view"])
        fields = [field for field in hands.type.value_type if field.name not in ("transl_world", "flips")]
        structs = pa.StructArray.from_arrays([hands.values.field(field.name) for field in fields], fields=fields)
        column = pa.ListArray.from_arrays(hands.offsets, structs)
        frames = frames.set_column(frames.column_names.index("hands"), "hands", column)
        facts = {key: value for key, value in table.schema.metadata.items() if key not in (b"sealed", b"file_sha256")}
        pq.write_table(frames.replace_schema_metadata(facts), path, write_page_checksum=True)
    exported(format, folder, tmp_path / "out")
    wanted = {name: hands for name, hands in truth(data).items() if hands or format != "parquet"}  # a table of hands has no frame without
    same(READ[format](tmp_path / "out"), wanted)


@pytest.mark.parametrize("format", ["coco", "parquet"])
def test_a_write_that_fails_names_the_place(format: str, data: Path, tmp_path: Path) -> None:
    with files_of_at_most(3000), pytest.raises(OSError, match="File too large") as large:
        exported(format, data, tmp_path / "out")
    told = one_line(large.value) or ""
    assert str(tmp_path) in told
    assert "ulimit -f" in told
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="session")
def viewed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards as a camera that bends straight lines gives them: of every frame view 2 with the left hands and view 5 with all."""
    folder = Path(shutil.copytree(data, tmp_path_factory.mktemp("views") / "data"))

    def both(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        views = []
        for view, sides in ((2, (0,)), (5, (0, 1))):
            for row in rows:
                hands = [hand for hand in row["hands"] if hand["side"] in sides]
                image = np.ascontiguousarray(simplejpeg.decode_jpeg(row["image"])[:, :: -1 if view == 5 else 1])
                stored = simplejpeg.encode_jpeg(image, quality=95)
                views.append(row | {"sample": f"{row['sample']}/{view}", "view": view, "hands": hands, "image": stored})
        return views

    rewrite(folder, both)
    return folder


def rewrite(folder: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Change the rows of every shard of a folder, which has no index afterwards."""
    for path in folder.glob("**/index.json"):
        path.unlink()
    for path in folder.glob("**/*.parquet"):
        table = pq.read_table(path)
        facts = {key: value for key, value in table.schema.metadata.items() if key not in (b"sealed", b"file_sha256")}
        rows = change(table.to_pylist())
        pq.write_table(pa.Table.from_pylist(rows, table.schema.with_metadata(facts)), path, write_page_checksum=True)


def test_every_view_of_a_frame_is_an_image_of_its_own(viewed: Path, tmp_path: Path) -> None:
    """Views of a frame took one another's name: the last one's pixels lay beneath the hands of all."""
    rows = [row for path in sorted(viewed.glob("**/*.parquet")) for row in pq.read_table(path).to_pylist()]
    wanted = {(row["video"], row["frame"], row["view"]): (row["image"], len(row["hands"])) for row in rows}
    exported("coco", viewed, tmp_path / "coco")
    found = {}
    for path in (tmp_path / "coco/annotations").glob("*.json"):
        told = json.loads(path.read_text())
        hands = [note["image_id"] for note in told["annotations"] if not note["iscrowd"]]
        for image in told["images"]:
            place = image["whim"]["video"], image["whim"]["frame"], image["whim"]["view"]
            found[place] = (tmp_path / "coco/images" / image["file_name"]).read_bytes(), hands.count(image["id"])
    assert found == wanted
    for format, images in {"yolo": "images/*/*/*.jpg", "fiftyone": "data/*/*/*.jpg"}.items():
        exported(format, viewed, tmp_path / format)
        assert sorted(path.read_bytes() for path in (tmp_path / format).glob(images)) == sorted(image for image, _ in wanted.values())
    exported("webdataset", viewed, tmp_path / "tars")
    assert len(dict(tars_of(tmp_path / "tars"))) == len(wanted)
    exported("glb", viewed, tmp_path / "glb")
    assert {path.name.partition("left")[2] for path in (tmp_path / "glb").rglob("*left*.glb")} == {"-view-02.glb", "-view-05.glb"}


def test_lerobot_shows_the_view_of_most_hands_and_counts_those_of_others(viewed: Path, tmp_path: Path) -> None:
    exported("lerobot", viewed, tmp_path / "out")
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    rows = [row for path in sorted(viewed.glob("**/*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert info["fps"] == 5, "two views of a frame are not two moments"
    assert info["total_frames"] == sum(row["view"] == 5 for row in rows)
    assert info["hands_in_other_views_left_out"] == sum(len(row["hands"]) for row in rows if row["view"] == 2) > 0


@pytest.mark.parametrize(("film_rate", "rate"), [(24, 5), (24, 10), (29.97, 5), (30, 10), (25, 25)])
def test_the_rate_of_frames_that_lie_on_no_grid_is_the_one_asked_for(film_rate: float, rate: float) -> None:
    """A film of 24 frames a second is looked at on every fourth or fifth, at 5 a second: their shortest distance says 6."""
    film = np.arange(int(60 * film_rate)) / film_rate
    point = np.floor(film * rate + 1e-6)
    times = film[np.flatnonzero(np.diff(point, prepend=-1) > 0)]
    dice = np.random.default_rng(0)
    for kept in (times, times[dice.random(len(times)) > 0.3]):  # some frames have no hand
        assert 1 / mean_step_s(kept.tolist()) == pytest.approx(rate, rel=0.01)
    assert mean_step_s([1.0]) == mean_step_s([1.0, 1.0]) == 0


@pytest.mark.parametrize("name", ["sample", "video", "clip"])
@pytest.mark.parametrize("foreign", ["../../../thief", "{}/thief"])
def test_no_shard_leads_an_export_out_of_its_folder(name: str, foreign: str, data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    rewrite(folder, lambda rows: [row | {name: foreign.format(tmp_path)} for row in rows])
    for format in ("coco", "glb"):
        with pytest.raises(CorruptFileError, match="thief' is no path below"):
            exported(format, folder, tmp_path / "deep/er/out")
    assert not list(tmp_path.rglob("thief*"))


def test_free_columns_of_a_stranger_that_are_none_are_told(data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    rewrite(folder, lambda rows: [row | {"extra": "[1]"} for row in rows])
    with pytest.raises(CorruptFileError, match=r"free columns are a JSON object, and `extra` says '\[1\]'"):
        exported("csv", folder, tmp_path / "out")


def test_an_export_goes_where_a_link_leads(data: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    for where in ("", "side = left"):
        exported("csv", data, tmp_path / "link", where=where)
        assert (tmp_path / "disk/hands.csv").is_file()
        assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "link"]


def test_hands_told_in_another_models_parameters_are_not_drawn_with_the_one_at_hand(data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    write_index(folder / "shards", hand_model="mano")
    with pytest.raises(UserError, match=r"are told in MANO.s parameters, and here is the stand-in hand alone: put MANO_RIGHT\.pkl at"):
        exported("glb", folder, tmp_path / "out")
    assert exported("csv", folder, tmp_path / "csv").num_hands


def test_images_whose_names_differ_by_a_point_alone_are_two_files(data: Path, tmp_path: Path) -> None:
    """`a.b.jpg` and `a_b.jpg` were one file of an export, and the last image in it had the hands of both."""
    names = ["g/a.b.jpg", "g/a_b.jpg", "g/a.b_jpg", "g/a_b_jpg", "g/a.jpg", "g/a.PNG", "g/a", "g/a.b"]
    (tmp_path / "shards" / "train").mkdir(parents=True)
    rows = pq.read_table(next((data / "shards" / "train").glob("*.parquet"))).slice(0, len(names))
    rows = rows.set_column(rows.column_names.index("sample"), "sample", pa.array(names)).replace_schema_metadata({})
    pq.write_table(rows, tmp_path / "shards" / "train" / "images-00000-of-00001.parquet")
    exported("coco", tmp_path / "shards", tmp_path / "coco")
    told = json.loads((tmp_path / "coco" / "annotations" / "train.json").read_text())["images"]
    assert [one["whim"]["sample"] for one in told] == names
    for one, image in zip(told, rows["image"].to_pylist(), strict=True):
        assert (tmp_path / "coco" / "images" / one["file_name"]).read_bytes() == image, one["whim"]["sample"]
    assert [told[4]["file_name"], told[6]["file_name"]] == ["train/g/a_jpg.jpg", "train/g/a.jpg"], "names that nothing can be mistaken for"


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (320, 240)])
def test_a_film_of_lerobots_is_there_from_its_first_image_whatever_its_size(size: tuple[int, int], tmp_path: Path) -> None:
    """A first episode of two frames ended an export, as its film had no file yet, and so did images of a pixel, which none encodes."""
    plan = plan_of(size_of_film(size))
    film = Film(tmp_path / "film.mp4", plan)
    film.add(np.zeros((plan.size[1], plan.size[0], 3), np.uint8))
    assert film.path.exists()
    film.close()
    with av.open(str(film.path)) as read:
        assert [(frame.width, frame.height) for frame in read.decode(video=0)] == [plan.size]


def test_a_size_that_no_film_of_lerobots_may_have_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="encodes no images of 30000 x 20 pixels: export with --images"):
        Film(tmp_path / "film.mp4", plan_of((30_000, 20)))


def plan_of(size: tuple[int, int]) -> Plan:
    return Plan(fps=5, size=size, views={}, tracks={}, num_elsewhere=0, left_out=frozenset(), in_world=False)
