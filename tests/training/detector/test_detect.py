"""A detector on files: what is drawn, what is written, and what is said of files that are none."""

import json
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import simplejpeg
import torch

import whim
from hands.drawing.sheets import write_image
from stages.errors import one_line
from tests.training.detector.small import random_detector, save
from training.detector.detect import detect
from training.detector.inference import HandDetector


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(random_detector(), tmp_path_factory.mktemp("net") / "best.pt")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (80, 120, 3), np.uint8))
    return path


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Seven frames at 10 a second, of odd sides."""
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 91, 67, "yuv420p"
        for k in range(7):
            frame = av.VideoFrame.from_ndarray(np.full((67, 91, 3), 30 * k, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_an_image_is_drawn_and_its_hands_are_in_the_table(checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    detector = HandDetector.load(checkpoint, size=64, threshold=0.4)
    out = tmp_path / "out"
    frames, hands = detect(detector, str(photo), out)
    (wanted,) = detector([np.asarray(cv2.imread(str(photo), cv2.IMREAD_COLOR_RGB))])
    table = pq.read_table(out / "photo.parquet")
    assert (frames, hands) == (1, len(wanted.score)) == (1, len(table))
    assert hands > 0
    np.testing.assert_allclose(np.array(table["box"].to_pylist()), wanted.box, atol=1e-3)
    np.testing.assert_allclose(np.array(table["keypoints"].to_pylist()), wanted.keypoints, atol=1e-3)
    assert table["side"].to_pylist() == wanted.side.tolist()
    drawn = np.asarray(cv2.imread(str(out / "photo.jpg")))
    assert drawn.shape == (80, 120, 3)
    assert (np.abs(drawn.astype(int) - cv2.imread(str(photo))) > 60).mean() > 0.01


def test_a_video_is_drawn_frame_by_frame(checkpoint: Path, film: Path, tmp_path: Path) -> None:
    detector = HandDetector.load(checkpoint, size=64, threshold=0.4)
    out = tmp_path / "out"
    assert detect(detector, str(film), out, table_format="json")[0] == 7
    rows = json.loads((out / "film.json").read_text())["hands"]
    assert {row["frame"] for row in rows} == set(range(7))
    assert sorted({row["time_s"] for row in rows}) == pytest.approx([k / 10 for k in range(7)], abs=2e-3)
    with av.open(str(out / "film.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 7
    assert frames[0].shape == (66, 90, 3)
    assert detect(detector, str(film), tmp_path / "few", max_frames=2)[0] == 2


def test_a_film_that_is_stopped_leaves_nothing_that_looks_whole(checkpoint: Path, film: Path, tmp_path: Path) -> None:
    seen: list[int] = []

    class Stopped(HandDetector):
        def __call__(self, images: Any) -> Any:
            seen.append(len(images))
            if len(seen) == 4:
                raise KeyboardInterrupt
            return super().__call__(images)

    with pytest.raises(KeyboardInterrupt):
        detect(Stopped.load(checkpoint, size=64), str(film), tmp_path / "out")
    assert len(seen) == 4
    assert list((tmp_path / "out").iterdir()) == []


def test_an_image_is_written_whatever_its_name_and_a_full_disk_is_told(tmp_path: Path) -> None:
    """OpenCV's own writer dies of the one, and is silent about the other."""
    image = np.full((8, 8, 3), 200, np.uint8)
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    write_image(path, image)
    assert np.array_equal(np.asarray(cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)), image)
    (tmp_path / "full.png").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as full:
        write_image(tmp_path / "full.png", image)
    assert "full.png" in (one_line(full.value) or "")


def test_what_is_no_image_and_no_video_is_named(checkpoint: Path, tmp_path: Path) -> None:
    detector = HandDetector.load(checkpoint, size=64)
    (tmp_path / "text.mp4").write_text("no video")
    for source, words in ((tmp_path / "text.mp4", "no video container"), (tmp_path / "none.jpg", "No such file")):
        with pytest.raises(ValueError, match=words):
            detect(detector, str(source), tmp_path / "out")
    (tmp_path / "out" / "webcam.mp4").touch()  # of an earlier run
    with pytest.raises(ValueError, match="/dev/video77 cannot be read"):
        detect(detector, "webcam:77", tmp_path / "out")


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[str]:
    """A camera in the network, as many are: JPEG after JPEG over http; it breaks off within its sixth frame."""
    images = [np.full((48, 64, 3), 40 * k, np.uint8) for k in range(6)]
    jpegs = [bytes(simplejpeg.encode_jpeg(image)) for image in images]

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for number, jpeg in enumerate(jpegs):
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                self.wfile.write(head.encode() + (jpeg + b"\r\n" if number < 5 else jpeg[:100]))

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/video.mjpg"
    server.shutdown()
    server.server_close()


def test_a_camera_in_the_network_is_filmed_until_it_ends(checkpoint: Path, camera: str, tmp_path: Path) -> None:
    detector = HandDetector.load(checkpoint, size=64, threshold=0.4)
    assert detect(detector, camera, tmp_path / "out", table_format="json")[0] == 5
    with av.open(str(tmp_path / "out" / "webcam.mp4")) as container:
        shown = [int(frame.to_ndarray(format="rgb24")[:8, :8].mean()) for frame in container.decode(video=0)]
    assert len(shown) == 5
    assert shown == sorted(shown)
    assert detect(detector, camera.replace("//", "//ann:secret@"), tmp_path / "few", max_frames=2)[0] == 2
    assert pq.read_schema(tmp_path / "few" / "webcam.parquet").metadata[b"source"].decode() == camera
    with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:9/x cannot be read as a camera"):
        detect(detector, "http://127.0.0.1:9/x", tmp_path / "other")


def test_a_source_is_not_drawn_over(checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    before = photo.read_bytes()
    with pytest.raises(ValueError, match=r"the hands drawn on .*photo.jpg would be written over it: name another folder by --out"):
        detect(HandDetector.load(checkpoint, size=64), str(photo), tmp_path)
    assert photo.read_bytes() == before


def test_a_source_that_is_gone_or_another_of_its_name_leaves_the_earlier_table(
    checkpoint: Path, film: Path, photo: Path, tmp_path: Path
) -> None:
    detector, out = HandDetector.load(checkpoint, size=64, threshold=0.4), tmp_path / "out"
    detect(detector, str(film), out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert sorted(before) == ["film.mp4", "film.parquet"]
    film.unlink()
    with pytest.raises(ValueError, match="cannot be read as a"):
        detect(detector, str(film), out)
    (tmp_path / "elsewhere").mkdir()
    other = photo.rename(tmp_path / "elsewhere" / "film.jpg")
    with pytest.raises(ValueError, match=rf"holds the hands of {film}: name another folder"):
        detect(detector, str(other), out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert detect(detector, str(other), tmp_path / "json", table_format="json")[0] == 1
    third = other.rename(tmp_path / "film.jpg")
    before = {path.name: path.read_bytes() for path in (tmp_path / "json").iterdir()}
    with pytest.raises(ValueError, match=rf"holds the hands of {other}: name another folder"):
        detect(detector, str(third), tmp_path / "json", table_format="json")
    assert {path.name: path.read_bytes() for path in (tmp_path / "json").iterdir()} == before
    assert detect(detector, str(third.rename(other)), tmp_path / "json", table_format="json")[0] == 1, "the same again"


def test_a_file_may_be_called_as_a_camera(checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    photo = photo.rename(tmp_path / "webcam-still.jpg")
    assert detect(HandDetector.load(checkpoint, size=64), str(photo), tmp_path / "out")[0] == 1
    assert (tmp_path / "out" / "webcam-still.jpg").exists()


def labels(folder: Path, **entry: Any) -> Path:
    image = {"id": "A0", "jpeg": "photo.jpg", "width": 120, "height": 80, "hands": [], "ignore": []} | entry
    path = folder / "labels" / "some.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"format": "handmedia-bench/1", "images": [image]}))
    return path


def test_the_command_line_reaches_training(
    checkpoint: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def say(*words: object) -> str:
        assert whim.main([*map(str, words)]) == 0
        return str(capsys.readouterr().out)

    assert "hands in 1 images" in say("detect", checkpoint, photo, "--image", 64, "--threshold", 0.4, "--out", tmp_path / "out")
    assert (tmp_path / "out" / "photo.parquet").exists()
    beside = tmp_path / "beside.json"
    beside.write_text(json.dumps({"recall": 0.5, "precision": 0.75, "side_accuracy": 0.25}))
    told = ("evaluate", "detector", checkpoint, "--labels", labels(tmp_path), "--image", 64, "--beside", beside)
    assert json.loads(say(*told, "--json"))["beside"] == {"recall": 0.5, "precision": 0.75} | dict.fromkeys(("ap", "ap50", "ap75", "ar"))
    assert "0.7500" in say(*told)
    for content in ("[1]", '{"recall": "much"}'):
        beside.write_text(content)
        assert whim.main([*map(str, told)]) == 1
        assert "beside.json holds no metrics of annotators: whim evaluate annotators --json writes them" in capsys.readouterr().err
    nothing = tmp_path / "nothing.json"
    nothing.write_text('{"images": [], "annotations": []}')
    assert whim.main(["evaluate", "detector", str(checkpoint), "--labels", str(nothing)]) == 1
    assert "nothing has no labelled image: there is nothing to measure on" in capsys.readouterr().err
    assert whim.main(["detect", str(checkpoint), str(photo), "--image", "100"]) == 1
    assert "--image must be a multiple of 32, got 100" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert whim.main(["detect", str(checkpoint), str(photo), "--gpu"]) == 1
    assert "--gpu: torch sees no GPU here" in capsys.readouterr().err
