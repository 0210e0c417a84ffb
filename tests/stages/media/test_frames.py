"""Reading frames and probing: every awkward file gives its true frames, every broken one its reason."""

import json
import subprocess
import zlib
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from stages.media.frames import Frames, images_of, read_frames
from stages.media.probe import Probe, probe
from stages.stage import Failure, Reason
from stages.tables import Clips

# file: frames that can be decoded, upright width, height, time of the last frame
ODD = {
    "anamorphic_sar43_student.mp4": (52, 853, 480, 51 / 30),
    "black_3s.mp4": (75, 320, 240, 74 / 25),
    "decord_unordered.mov": (4, 50, 50, 3 / 32),
    "decord_video_0.mov": (3, 568, 320, 2 / 30),
    "decord_video_180.mov": (3, 568, 320, 2 / 30),
    "decord_video_270.mov": (3, 320, 568, 2 / 30),
    "decord_video_90.mov": (3, 320, 568, 2 / 30),
    "fiveshots.mp4": (283, 640, 360, 282 / 25),
    "letterbox_bird.mp4": (63, 640, 480, 62 / 30),
    "mirrored_yes.mp4": (65, 640, 480, 64 / 30),
    "neardup_yes_lowq.mp4": (65, 480, 360, 64 / 30),
    "oddsize_yuv444_no.mp4": (66, 423, 317, 65 / 30),
    "oneframe_thanks.mp4": (1, 640, 480, 0.0),
    "rot90meta_learn.mp4": (61, 640, 480, 60 / 30),
    "torchcodec_av1_video.mkv": (125, 640, 360, 124 / 25),
    "torchcodec_h264_10bits.mp4": (30, 200, 200, 29 / 30),
    "torchcodec_h265_10bits.mp4": (30, 200, 200, 29 / 30),
    "torchcodec_h265_video.mp4": (10, 128, 128, 9 / 10),
    "tsoffset_again.mkv": (77, 640, 480, 76 / 30),  # timestamps begin at 100 s
    "vfr_book.mp4": (50, 640, 480, 3.5),
    "vp9_help.webm": (58, 640, 480, 57 / 30),
}
BROKEN: dict[str, Reason | int] = {
    "audio_only.m4a": Reason.NO_VIDEO_STREAM,
    "audio_only_named.mp4": Reason.NO_VIDEO_STREAM,
    "bitrot_hand.mp4": 202,
    "decord_corrupted.mp4": 49,
    "html_named.mp4": Reason.NOT_A_VIDEO,
    "truncated_again.mkv": 14,
    "truncated_moov_first.mp4": 98,
    "truncated_no_moov.mp4": Reason.BROKEN_FILE,
    "zero_bytes.mp4": Reason.EMPTY_FILE,
}


def clip(first_frame: int = 0, start_s: float = 0.0, num_frames: int = 1_000_000, rate: float = 0.0) -> Clips:
    def text(value: str) -> np.ndarray:
        return np.array([value], object)

    return Clips.of(
        clip=text("v-0000"),
        video=text("v"),
        start_s=np.array([start_s]),
        end_s=np.array([start_s + 1e6]),
        first_frame=np.array([first_frame]),
        num_frames=np.array([num_frames]),
        frames_per_second=np.array([rate]),
        ends_with=text("end"),
    )


def read(path: Path, wanted: Clips) -> Frames:
    """All stretches as one."""
    stretches = list(read_frames(path, wanted))
    return Frames(
        video="v",
        frame=np.concatenate([s.frame for s in stretches] or [np.zeros(0, np.int64)]),
        time_s=np.concatenate([s.time_s for s in stretches] or [np.zeros(0)]),
        images=[image for s in stretches for image in s.images],
    )


def fingerprints(frames: Frames) -> list[tuple[int, float, int]]:
    return [(int(i), float(t), zlib.crc32(im.tobytes())) for i, t, im in zip(frames.frame, frames.time_s, frames.images, strict=True)]


def encode(source: Path, target: Path, *options: str) -> Path:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(source), *options, "-threads", "1", "-an", "-y", str(target)]
    subprocess.run(command, check=True, capture_output=True)
    return target


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference in grey levels."""
    return float(np.abs(a.astype(np.int16) - b).mean())


def test_every_file_of_the_media_is_spoken_for(media: Path) -> None:
    entries = [json.loads(line)["file"] for line in (media / "manifest.jsonl").read_text().splitlines()]
    assert {e for e in entries if e.startswith("odd/")} == {f"odd/{name}" for name in ODD}
    assert {e for e in entries if e.startswith("broken/")} == {f"broken/{name}" for name in BROKEN}


@pytest.mark.parametrize("name", ODD)
def test_odd_files_give_the_expected_frames(media: Path, name: str) -> None:
    count, width, height, last_s = ODD[name]
    frames = read(media / "odd" / name, clip())
    assert frames.frame.tolist() == list(range(count))
    assert {image.shape for image in frames.images} == {(height, width, 3)}
    assert frames.time_s[0] == 0.0
    assert (np.diff(frames.time_s) > 0).all()
    assert frames.time_s[-1] == pytest.approx(last_s, abs=0.002)
    found = probe(media / "odd" / name)
    assert isinstance(found, Probe)
    assert (found.width, found.height) == (width, height)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_or_read_as_far_as_they_go(media: Path, name: str) -> None:
    found = probe(media / "broken" / name)
    expected = BROKEN[name]
    if isinstance(expected, Reason):
        assert isinstance(found, Failure)
        assert (found.reason, found.permanent) == (expected, True)
        assert name in found.message
    else:
        assert isinstance(found, Probe)
        assert read(media / "broken" / name, clip()).frame.tolist() == list(range(expected))


def test_what_is_no_video_has_its_reason(media: Path, tmp_path: Path) -> None:
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    (tmp_path / "text.txt").write_text("nothing to see\n" * 100)
    for path in (tmp_path / "list.mp4", tmp_path / "text.txt", media / "images/tfjs/hands.jpg"):
        found = probe(path)
        assert isinstance(found, Failure), path
        assert found.reason == Reason.NOT_A_VIDEO
    missing = probe(tmp_path / "none.mp4")
    assert isinstance(missing, Failure)
    assert missing.reason == Reason.FILE_MISSING


def test_turned_files_come_out_upright(media: Path) -> None:
    turned = read(media / "odd/rot90meta_learn.mp4", clip(num_frames=1)).images[0]
    upright = read(media / "videos/intel/asl_learn.mkv", clip(num_frames=1)).images[0]
    assert similarity(turned, upright) < 4  # another encoding of the same picture
    assert similarity(turned[::-1, ::-1], upright) > 20


@pytest.mark.parametrize("options", [("-display_hflip",), ("-display_rotation", "90", "-display_hflip")])
def test_mirrored_files_come_out_as_a_viewer_shows_them(media: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    source = media / "odd/oneframe_thanks.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *options, "-i", str(source), "-c", "copy", str(tmp_path / "m.mp4")]
    subprocess.run(command, check=True)
    encode(tmp_path / "m.mp4", tmp_path / "shown.png", "-frames:v", "1")
    import cv2

    picture = cv2.imread(str(tmp_path / "shown.png"))
    assert picture is not None
    shown = picture[..., ::-1]
    image = read(tmp_path / "m.mp4", clip()).images[0]
    assert image.shape == shown.shape
    assert similarity(image, shown) < 1


def test_anamorphic_pixels_are_made_square(media: Path) -> None:
    import cv2

    wide = read(media / "odd/anamorphic_sar43_student.mp4", clip(num_frames=1)).images[0]
    stored = read(media / "videos/intel/asl_student.mkv", clip(num_frames=1)).images[0]
    assert similarity(wide, cv2.resize(stored, (853, 480))) < 4


def test_times_of_a_variable_rate_are_those_of_the_file(media: Path) -> None:
    times = read(media / "odd/vfr_book.mp4", clip()).time_s
    assert len(set(np.diff(times).round(3))) > 1
    np.testing.assert_allclose(times * 30, (times * 30).round(), atol=1e-3)  # multiples of a thirtieth, some left out


@pytest.mark.parametrize("rate", [1.0, 5.0, 7.0, 100.0])
@pytest.mark.parametrize("name", ["odd/vfr_book.mp4", "odd/tsoffset_again.mkv", "videos/intel/car-detection.mp4"])
def test_sampling_takes_the_first_frame_at_or_after_each_grid_point(media: Path, name: str, rate: float) -> None:
    every = read(media / name, clip())
    first = 7
    start_s = float(every.time_s[first])
    grid = np.arange(0, every.time_s[-1] - start_s + 1, 1 / rate)
    at_or_after = np.searchsorted(every.time_s[first:] - start_s + 1e-3, grid - 1e-9)
    expected = first + np.unique(at_or_after[at_or_after < len(every.frame) - first])
    assert read(media / name, clip(first, start_s, rate=rate)).frame.tolist() == expected.tolist()


SEEKS = {
    "plain": ("c.mp4", "-c:v", "libx264", "-preset", "ultrafast", "-g", "40"),
    "open groups": ("c.mkv", "-c:v", "libx264", "-preset", "veryfast", "-x264-params", "open-gop=1:keyint=40:bframes=3:b-pyramid=normal"),
    "hevc": ("c.mp4", "-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "keyint=40:bframes=4:log-level=error"),
    "transport stream": ("c.ts", "-c:v", "libx264", "-preset", "veryfast", "-g", "40"),
    "mpeg2": ("c.mpg", "-c:v", "mpeg2video", "-g", "15", "-bf", "2"),
    "no timestamps": ("c.h264", "-c:v", "libx264", "-preset", "ultrafast", "-g", "40"),
    "gif": ("c.gif", "-vf", "scale=160:-1,fps=10"),
    "vp9": ("c.webm", "-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "40"),
}


@pytest.mark.parametrize("kind", SEEKS)
def test_frames_after_a_seek_are_those_of_a_read_from_the_start(media: Path, tmp_path: Path, kind: str) -> None:
    name, *options = SEEKS[kind]
    if kind != "gif":
        options += ["-vf", "scale=320:-2"] if "-vf" not in options else []
    path = encode(media / "odd/fiveshots.mp4", tmp_path / name, *options)
    every = read(path, clip())
    assert len(every.frame) >= (110 if kind == "gif" else 281)
    assert every.time_s[-1] == pytest.approx(len(every.frame) / (10 if kind == "gif" else 25), abs=0.2)
    for first in range(1, len(every.frame), 23):
        part = read(path, clip(first, float(every.time_s[first]), num_frames=9))
        assert fingerprints(part) == fingerprints(every)[first : first + 9], first


def test_a_stretch_is_bounded_in_frames_and_bytes(media: Path) -> None:
    path = media / "odd/fiveshots.mp4"
    by_count = [len(s.images) for s in read_frames(path, clip(), max_frames=20)]
    assert by_count == [20] * 14 + [3]
    frame_bytes = 640 * 360 * 3
    by_bytes = [sum(i.nbytes for i in s.images) for s in read_frames(path, clip(num_frames=10), max_bytes=3 * frame_bytes + 5)]
    assert by_bytes == [3 * frame_bytes] * 3 + [frame_bytes]
    assert [len(s.images) for s in read_frames(path, clip(num_frames=2), max_bytes=1)] == [1, 1]


def test_a_stream_that_changes_its_size_keeps_the_first(media: Path, tmp_path: Path) -> None:
    small = encode(media / "odd/black_3s.mp4", tmp_path / "a.ts", "-c:v", "libx264", "-vf", "scale=160:120")
    large = encode(media / "odd/vfr_book.mp4", tmp_path / "b.ts", "-c:v", "libx264", "-preset", "ultrafast")
    (tmp_path / "c.ts").write_bytes(small.read_bytes() + large.read_bytes())
    frames = read(tmp_path / "c.ts", clip())
    assert len(frames.images) > 75 + 45
    assert {image.shape for image in frames.images} == {(120, 160, 3)}
    assert (np.diff(frames.time_s) > 0).all()
    assert frames.images[-1].mean() > 30  # the second part's picture, not the first's black


def test_one_frame_a_second_is_read_to_its_end(media: Path, tmp_path: Path) -> None:
    path = encode(
        media / "odd/fiveshots.mp4", tmp_path / "slow.mp4", "-vf", "setpts=N/TB,scale=64:-2", "-fps_mode", "vfr", "-frames:v", "40"
    )
    frames = read(path, clip(rate=5.0))
    assert frames.frame.tolist() == list(range(40))
    np.testing.assert_allclose(np.diff(frames.time_s), 1.0, atol=1e-3)


@pytest.mark.parametrize("name", ["odd/anamorphic_sar43_student.mp4", "odd/tsoffset_again.mkv", "broken/truncated_moov_first.mp4"])
def test_who_reads_a_whole_file_sees_the_images_and_times_of_its_clips(media: Path, name: str) -> None:
    (found,) = read_frames(media / name, clip(num_frames=40), max_bytes=1 << 30, max_frames=40)
    whole = [pair for pair, _ in zip(images_of(media / name), range(40), strict=False)]
    assert [time_s for time_s, _ in whole] == found.time_s.tolist()
    assert found.time_s[0] == 0
    for (_, image), other in zip(whole, found.images, strict=True):
        np.testing.assert_array_equal(image, other)
