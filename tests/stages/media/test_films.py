"""Frames and times are those that ffmpeg's own program gives for the stream a player would show, whatever the file."""

import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pytest

from pipeline.dataset.oddities import ODD, odd_lines
from pipeline.manifest import read_listing
from stages.download import Download
from stages.media.film import find_film, open_video, raw_frames, stream_of
from stages.media.frames import Reading, decode, images_of, read_frames
from stages.media.probe import Probe, probe
from stages.media.spliced import Spliced
from stages.split import Split
from stages.stage import Failure
from stages.tables import Clips, Manifest, Videos

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
X264 = "-c:v libx264 -preset ultrafast -bf 2 -g 8 -x264-params b-adapt=0 -pix_fmt yuv420p"
MPEG2 = "-c:v mpeg2video -bf 2 -q:v 3"


def ffmpeg(arguments: str, folder: Path, out: str) -> Path:
    """Run ffmpeg in a folder; {s:160x120} is a moving pattern of a size."""
    words = re.sub(
        r"\{s:(\d+x\d+)(?::([\d.]+))?\}", lambda m: f"-f lavfi -t {m[2] or 1} -i testsrc2=size={m[1]}:rate=10", arguments
    ).split()
    subprocess.run([FFMPEG, "-v", "error", "-y", *words, "-threads", "1", out], check=True, capture_output=True, cwd=folder)
    return folder / out


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """How a file is made, and what is right."""

    make: str | Callable[[Path, str], Path]
    stream: int = 0
    num_films: int = 1
    like: str = ""  # the filter by which ffmpeg makes the same frames
    tolerance: float = 3.0  # grey levels
    decoder: str = ""  # of ffmpeg's, where the one that it takes by itself shows less


def two(codec: str, *, first: str, second: str, flags: str = "") -> str:
    return f"{first} {second} -map 0 -map 1 {codec} {flags}"


def preview(codec: str) -> str:
    return f"{{s:32x24:0.1}} {{s:64x48}} -map 0 -map 1 {codec} -disposition:v:0 default -disposition:v:1 0"


def joined(*parts: str, suffix: str) -> Callable[[Path, str], Path]:
    """Files put behind each other byte by byte."""

    def make(folder: Path, out: str) -> Path:
        pieces = [ffmpeg(part, folder, f"part{number}{suffix}") for number, part in enumerate(parts)]
        (folder / out).write_bytes(b"".join(piece.read_bytes() for piece in pieces))
        return folder / out

    return make


def listed(*parts: str, suffix: str) -> Callable[[Path, str], Path]:
    """Files joined by ffmpeg without encoding anew."""

    def make(folder: Path, out: str) -> Path:
        for number, part in enumerate(parts):
            ffmpeg(part, folder, f"part{number}{suffix}")
        (folder / "list.txt").write_text("".join(f"file part{number}{suffix}\n" for number in range(len(parts))))
        return ffmpeg("-f concat -i list.txt -c copy", folder, out)

    return make


def repacked(codec: str, suffix: str, how: str = "-c copy") -> Callable[[Path, str], Path]:
    """A file whose packets are put into another container."""

    def make(folder: Path, out: str) -> Path:
        ffmpeg(f"{{s:64x48}} {codec}", folder, f"first{suffix}")
        return ffmpeg(f"-i first{suffix} {how}", folder, out)

    return make


def with_aperture(width: int, height: int, left: int, top: int) -> Callable[[Path, str], Path]:
    """A film of 64 x 48 of which the container says that so much is to be shown."""

    def make(folder: Path, out: str) -> Path:
        data = ffmpeg(f"{{s:64x48}} {X264}", folder, out).read_bytes()
        shift = 2 * left + width - 64, 2 * top + height - 48
        box = struct.pack(">I4s8i", 40, b"clap", width, 1, height, 1, shift[0], 2, shift[1], 2)
        entry = data.index(b"avc1", data.index(b"stsd")) - 4
        end = entry + int.from_bytes(data[entry : entry + 4], "big")
        grown = bytearray(data[:end] + box + data[end:])
        for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
            place = data.rindex(name, 0, entry + 8) - 4
            grown[place : place + 4] = (int.from_bytes(data[place : place + 4], "big") + len(box)).to_bytes(4, "big")
        (folder / out).write_bytes(grown)
        return folder / out

    return make


def shown_as(how: str, suffix: str, filters: str = "") -> Callable[[Path, str], Path]:
    """A file that is to be shown turned or mirrored."""

    def make(folder: Path, out: str) -> Path:
        ffmpeg(f"{{s:64x48}} {filters} {X264}", folder, f"first{suffix}")
        return ffmpeg(f"{how} -i first{suffix} -c copy", folder, out)

    return make


RGB = "format=gbrp,setparams=color_primaries=bt709:color_trc=bt709:colorspace=gbr:range=pc"
PLAIN = f"{RGB},zscale=m=bt709:r=tv,format=yuv420p"
TO_HDR = f"{RGB},zscale=t=linear:npl=203,format=gbrpf32le,zscale=p=bt2020:t={{}}:npl=203:m=bt2020nc:r=tv,format=yuv420p10le"
WIDE = f"{RGB},zscale=p=bt2020:t=bt709:m=bt2020nc:r=tv,format=yuv420p"
INTERLACED = "-vf scale=64:48,tinterlace=interleave_top -flags +ilme+ildct"
BWDIF = "bwdif=send_frame:auto:interlaced"
FILES: dict[str, File] = {
    # which stream: times container
    "preview_first.mp4": File(make=preview(X264), stream=1),
    "preview_first.mkv": File(make=preview(X264), stream=1),
    "preview_first.mov": File(make=preview("-c:v mjpeg"), stream=1),
    "preview_first.nut": File(make=preview(X264), stream=1),
    "preview_first.ts": File(make=preview(MPEG2), stream=1),
    "larger_second.mp4": File(make=two(X264, first="{s:32x24}", second="{s:64x48}", flags="-disposition:v default"), stream=1, num_films=2),
    "larger_second.mkv": File(make=two(X264, first="{s:32x24}", second="{s:64x48}", flags="-disposition:v default"), stream=1, num_films=2),
    "larger_second.nut": File(make=two(X264, first="{s:32x24}", second="{s:64x48}", flags="-disposition:v default"), stream=1, num_films=2),
    "larger_second.ts": File(make=two(MPEG2, first="{s:32x24}", second="{s:64x48}"), stream=1, num_films=2),
    "equals.mp4": File(make=two(X264, first="{s:64x48}", second="{s:64x48:2}"), num_films=2),
    "default_second.mkv": File(
        make=two(X264, first="{s:64x48}", second="{s:32x24}", flags="-disposition:v:0 0 -disposition:v:1 default"), stream=1, num_films=2
    ),
    "default_second.mov": File(
        make=two(X264, first="{s:64x48}", second="{s:32x24}", flags="-disposition:v:0 0 -disposition:v:1 default"), stream=1, num_films=2
    ),
    "cover.mp4": File(make=f"-i cover.png {{s:64x48}} -map 0 -map 1 {X264} -c:v:0 copy -disposition:v:0 attached_pic"),
    "sound_first.mkv": File(make=f"-f lavfi -t 3 -i sine {{s:64x48}} -map 0 -map 1 {X264}", stream=1),
    # sizes
    "grows.ts": File(make=joined(f"{{s:64x48}} {MPEG2}", f"{{s:96x72}} {MPEG2} -output_ts_offset 1", suffix=".ts")),
    "grows.h264": File(make=joined(f"{{s:64x48}} {X264}", f"{{s:96x72}} {X264}", suffix=".h264")),
    "grows.vob": File(make=joined(f"{{s:64x48}} -r 25 {MPEG2}", f"{{s:96x72}} -r 25 {MPEG2} -output_ts_offset 1.54", suffix=".vob")),
    "turns.mkv": File(make=listed("{s:64x48} -c:v libvpx", "{s:48x64} -c:v libvpx", suffix=".mkv")),
    "turns.nut": File(make=listed("{s:64x48} -c:v mjpeg", "{s:48x64} -c:v mjpeg", suffix=".nut")),
    "cropped.mp4": File(make=repacked(X264, ".mp4", "-c copy -bsf:v h264_metadata=crop_left=4:crop_right=6:crop_top=2:crop_bottom=8")),
    "aperture.mp4": File(make=with_aperture(47, 39, 5, 3)),
    "aperture.mkv": File(make=lambda folder, out: ffmpeg(f"-i {with_aperture(48, 40, 6, 2)(folder, 'cut.mp4').name} -c copy", folder, out)),
    "aperture.mov": File(
        make=lambda folder, out: ffmpeg(
            f"-display_rotation:v 90 -i {with_aperture(48, 40, 6, 2)(folder, 'cut.mp4').name} -c copy", folder, out
        )
    ),
    "whole_aperture.mp4": File(make=with_aperture(64, 48, 0, 0)),
    "absurd_aperture.mp4": File(make=with_aperture(64, 48, 9, 0)),
    "uneven_sides.webm": File(make="{s:65x49} -c:v libvpx"),
    # turned and mirrored
    "mirrored.mp4": File(make=shown_as("-display_hflip:v", ".mp4")),
    "mirrored.mkv": File(make=shown_as("-display_hflip:v", ".mkv")),
    "turned_mirrored.mp4": File(make=shown_as("-display_rotation:v 90 -display_hflip:v", ".mp4")),
    "upside_down.mov": File(make=shown_as("-display_rotation:v 180 -display_vflip:v", ".mov")),
    "turned_wide.mp4": File(make=shown_as("-display_rotation:v 90", ".mp4", "-vf setsar=4/3"), like="scale=iw:ih/sar", tolerance=15),
    # fields
    "top_first.mp4": File(make=f"{{s:64x48}} {INTERLACED} {X264} -x264-params tff=1", like=BWDIF),
    "top_first.mkv": File(make=f"{{s:64x48}} {INTERLACED} {MPEG2}".replace("top", "top,setfield=tff"), like=BWDIF),
    "bottom_first.ts": File(make=f"{{s:64x48}} {INTERLACED.replace('top', 'bottom')} {X264} -x264-params bff=1", like=BWDIF),
    "bottom_first.mpg": File(make=f"{{s:64x48}} {INTERLACED.replace('top', 'bottom')} {MPEG2}", like=BWDIF),
    # transfer: the images are mapped, so that their times and sizes alone are ffmpeg's
    "pq.mp4": File(make=f"{{s:64x48}} -vf {TO_HDR.format('smpte2084')} -c:v libx265 -x265-params log-level=none", tolerance=255),
    "hlg.mkv": File(make=f"{{s:64x48}} -vf {TO_HDR.format('arib-std-b67')} -c:v libx265 -x265-params log-level=none", tolerance=255),
    "wide.ts": File(make=f"{{s:64x48}} -vf {WIDE} {X264}", tolerance=255),
    # pixels
    "deep.mov": File(make="{s:64x48} -c:v prores_ks -profile:v 3 -pix_fmt yuv422p10le"),
    "green_blue_red.mkv": File(make="{s:64x48} -c:v ffv1 -pix_fmt gbrp10le"),
    "red_green_blue.mp4": File(make="{s:64x48} -c:v libx264rgb -preset ultrafast -pix_fmt rgb24"),
    "palette.avi": File(make="{s:64x48} -vf split[a][b];[a]palettegen[p];[b][p]paletteuse -c:v rawvideo -pix_fmt pal8"),
    "cinema.mxf": File(make="{s:64x48} -r 25 -c:v jpeg2000 -pix_fmt yuv422p"),
    # what is transparent
    "alpha.mov": File(make="{s:64x48} -vf format=rgba,geq=r='r(X,Y)':g='g(X,Y)':b='b(X,Y)':a='4*X' -c:v qtrle", like="grey"),
    "alpha.mkv": File(make="{s:64x48} -vf format=rgba,geq=r='r(X,Y)':g='g(X,Y)':b='b(X,Y)':a='4*X' -c:v ffv1 -pix_fmt bgra", like="grey"),
    "alpha.apng": File(make="{s:64x48} -vf format=rgba,geq=r='r(X,Y)':g='g(X,Y)':b='b(X,Y)':a='4*X' -plays 0", like="grey"),
    "alpha_prores.mov": File(
        make="{s:64x48} -vf format=rgba,geq=r='r(X,Y)':g='g(X,Y)':b='b(X,Y)':a='4*X' -c:v prores_ks -profile:v 4444 -pix_fmt yuva444p10le",
        like="grey", tolerance=5,
    ),
    **{f"alpha_{vp}.webm": File(
        make=f"{{s:64x48}} -vf format=rgba,geq=r='r(X,Y)':g='g(X,Y)':b='b(X,Y)':a='4*X',format=yuva420p -c:v {coder} -auto-alt-ref 0",
        like="grey", tolerance=5, decoder=coder,
    ) for vp, coder in (("vp8", "libvpx"), ("vp9", "libvpx-vp9"))},
    "animated.gif": File(make="{s:64x48}", tolerance=6),
    "animated.webp": File(make="{s:64x48} -c:v libwebp_anim -lossless 1"),
    # times
    "stamped.avi": File(make=repacked(X264, ".mp4")),
    "ntsc.mp4": File(make=f"{{s:64x48}} -r 30000/1001 {X264}"),
    "uneven.mkv": File(make=f"{{s:64x48:2}} -vf select='not(mod(n,3))+eq(n,4)' -fps_mode passthrough {X264}"),
    "late.mkv": File(make=f"{{s:64x48}} {X264} -output_ts_offset 100"),
    "late.ts": File(make=f"{{s:64x48}} {X264} -output_ts_offset 100"),
    "wraps.ts": File(make=f"{{s:64x48}} {X264} -output_ts_offset 95442"),
    "leaps.ts": File(make=joined(f"{{s:64x48}} {X264}", f"{{s:64x48}} {X264} -output_ts_offset 500", suffix=".ts")),
    "leaps_back.ts": File(make=joined(f"{{s:64x48}} {MPEG2} -output_ts_offset 50", f"{{s:64x48}} {MPEG2}", suffix=".ts")),
    "cut.mp4": File(make=repacked(X264 + " -g 4", ".mp4", "-ss 0.35 -c copy")),
    "bare.h264": File(make=f"{{s:64x48}} {X264}"),
    "bare.m2v": File(make=f"{{s:64x48}} -r 25 {MPEG2}"),
    "flash.flv": File(make=f"{{s:64x48}} {X264}"),
    "programme.mpg": File(make=f"{{s:64x48}} -r 25 {MPEG2}"),
    "windows.asf": File(make="{s:64x48} -c:v msmpeg4v3"),
    "open.webm": File(make="{s:64x48} -c:v libvpx"),
    "phone.3gp": File(make="{s:176x144} -c:v h263"),
    "material.mxf": File(make="{s:64x48} -r 25 -c:v mpeg2video -bf 2"),
    "fragments.mp4": File(make=f"{{s:64x48}} {X264} -movflags frag_keyframe+empty_moov"),
    "disc.vob": File(make=f"{{s:64x48}} -r 25 {MPEG2}"),
    "two_programmes.ts": File(
        make=f"{{s:32x24}} {{s:64x48}} -map 0 -map 1 {MPEG2} -program title=a:st=0 -program title=b:st=1", stream=1, num_films=2,
    ),
    "two_films.mpg": File(make=two(f"{MPEG2} -r 25", first="{s:32x24}", second="{s:64x48}", flags="-f vob"), stream=1, num_films=2),
    "before_nought.mp4": File(make=f"{{s:64x48}} {X264} -output_ts_offset -0.3 -avoid_negative_ts disabled"),
    "pieces.mp4": File(make=f"{{s:64x48}} {X264} -movflags cmaf+frag_keyframe"),
    "fine_clock.mp4": File(make=f"{{s:64x48}} {X264} -r 7.123457 -video_track_timescale 999983"),
    "old.avi": File(make="{s:64x48} -c:v mpeg4 -bf 2"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("films")
    ffmpeg("{s:96x96} -frames:v 1", place, "cover.png")
    return place


def made(folder: Path, name: str, file: File) -> Path:
    return file.make(folder, name) if callable(file.make) else ffmpeg(file.make, folder, name)


def shown(path: Path, stream: int, like: str, decoder: str = "") -> tuple[list[float], list[str], bytes]:
    """Times, sizes and RGB of every frame as ffmpeg has them."""
    grey = "split[a][b];[b]geq=r=128:g=128:b=128:a=255[c];[c][a]overlay=format=gbrp" if like == "grey" else like
    filters = ",".join(filter(None, ["showinfo=checksum=0", f"format=rgba,{grey}" if like == "grey" else grey]))
    if like and like != "grey":
        filters = f"{like},showinfo=checksum=0"
    taken = ["-c:v", decoder] if decoder else []
    command = [FFMPEG, "-v", "info", "-threads", "1", *taken, "-i", path, "-map", f"0:{stream}", "-vf", filters,
               "-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]  # fmt: skip
    ran = subprocess.run(command, check=True, capture_output=True)
    found = re.findall(r"pts_time:(\S+).*? s:(\d+x\d+)", ran.stderr.decode(errors="replace"))
    times = [float(time) for time, _ in found]
    return [time - times[0] for time in times], [size for _, size in found], ran.stdout


def test_the_rate_is_one_that_frames_can_have(tmp_path: Path) -> None:
    for make, name, rate in (
        ("{s:720x576} -r 25 -c:v dvvideo -pix_fmt yuv420p", "bare.dv", 25.0),
        (FILES["cinema.mxf"].make, "cinema.mxf", 25.0),
        ("{s:64x48} -c:v libvpx", "bare.ivf", 10.0),
    ):
        assert isinstance(make, str)
        found = probe(ffmpeg(make, tmp_path, name))
        assert isinstance(found, Probe)
        assert found.frames_per_second == pytest.approx(rate), name


def test_a_frame_whose_stamp_comes_again_leaves_the_next_ones_their_times(tmp_path: Path) -> None:
    stamps = [0, 100, 100, 200, 250, 250, 250, 400, 401, 1000, 1100]
    with av.open(str(tmp_path / "again.mkv"), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * number, np.uint8), format="rgb24")
            frame.pts = number
            for packet in stream.encode(frame):
                packet.pts = packet.dts = stamp
                packet.time_base = Fraction(1, 1000)
                container.mux(packet)
    times = [time_s for time_s, _ in images_of(tmp_path / "again.mkv")]
    assert np.diff(times).min() > 0
    own = [number for number, stamp in enumerate(stamps) if stamp not in stamps[:number]]
    assert [times[number] for number in own] == pytest.approx([stamps[number] / 1000 for number in own], abs=1e-6)
    assert len(set(stamps)) < len(times) == len(stamps)


@pytest.mark.parametrize("name", FILES)
def test_frames_and_times_are_those_of_ffmpeg(folder: Path, name: str) -> None:
    file = FILES[name]
    path = made(folder, name, file)
    found = probe(path)
    assert isinstance(found, Probe)
    assert found.film.num_films == file.num_films
    frames = list(images_of(path))
    assert found.film.stream == file.stream
    times, sizes, rgb = shown(path, file.stream, file.like, file.decoder)
    assert [time_s for time_s, _ in frames] == pytest.approx(times, abs=1.1e-3 if path.suffix in (".flv", ".asf") else 2e-4)
    assert [f"{image.shape[1]}x{image.shape[0]}" for _, image in frames] == sizes
    if len(set(sizes)) == 1:
        theirs = np.frombuffer(rgb, np.uint8).reshape(len(frames), *frames[0][1].shape)
        ours = np.stack([image for _, image in frames])
        assert float(np.abs(ours.astype(int) - theirs).mean()) < file.tolerance


def row(path: Path, **wish: float | str) -> Videos:
    """The row that `download` writes of a local file."""
    known = {"video": "v", "source": str(path), "split": "train"} | wish
    columns = {name: np.array([known.get(name, "" if c.dtype == object else 0)], c.dtype) for name, c in vars(Manifest.empty()).items()}
    videos = Download().build()(Manifest(**columns))
    assert isinstance(videos, Videos)
    return videos


def clips_of(videos: Videos, **settings: str | float) -> Clips:
    clips = Split(frames_per_second=0, scene_threshold=1, **settings).build()(videos)  # type: ignore[arg-type]
    assert isinstance(clips, Clips)
    return clips


def test_where_a_stream_changes_its_size_a_clip_ends(folder: Path) -> None:
    path = made(folder, "turns.mkv", FILES["turns.mkv"])
    clips = clips_of(row(path))
    assert list(zip(clips.width, clips.height, clips.num_frames, clips.ends_with, clips.odd, strict=True)) == [
        (64, 48, 10, "size", "size"),
        (48, 64, 10, "end", "size"),
    ]
    for clip in clips.rows():
        (frames,) = read_frames(path, clip)
        assert {image.shape for image in frames.images} == {(clip.height[0], clip.width[0], 3)}


CODECS = {
    "ab": (f"{{s:64x48}} {MPEG2}", f"{{s:64x48}} {X264} -output_ts_offset 1"),
    "ba": (f"{{s:64x48}} {X264}", f"{{s:96x72}} {MPEG2} -output_ts_offset 1"),
    "again": (f"{{s:64x48}} {X264}", f"{{s:64x48}} {X264} -streamid 0:300", f"{{s:64x48}} {MPEG2} -output_ts_offset 50"),
}


@pytest.mark.parametrize("name", CODECS)
def test_where_a_film_changes_its_codec_a_clip_ends_and_nothing_is_lost(tmp_path: Path, name: str) -> None:
    path = joined(*CODECS[name], suffix=".ts")(tmp_path, f"{name}.ts")
    videos, count = row(path), len(CODECS[name])
    whole = [image for number in range(count) for _, image in images_of(tmp_path / f"part{number}.ts")]
    frames = list(images_of(path))
    assert len(frames) == len(whole) == 10 * count
    assert all(np.array_equal(image, other) for (_, image), other in zip(frames, whole, strict=True))
    times = np.array([time_s for time_s, _ in frames])
    assert np.diff(times) == pytest.approx(np.full(10 * count - 1, 0.1), abs=0.11)
    assert np.diff(times).min() > 0
    assert videos.duration_s[0] == pytest.approx(count, abs=0.3)
    clips = clips_of(videos)
    cut = "size" if name == "ba" else "codec"
    assert list(zip(clips.num_frames, clips.ends_with, strict=True)) == [*[(10, cut)] * (count - 1), (10, "end")]
    assert {"codec"} <= set(clips.odd[0].split())
    for clip in clips.rows():
        (found,) = read_frames(path, clip)
        first = int(clip.first_frame[0])
        assert all(np.array_equal(a, b) for a, b in zip(found.images, whole[first : first + 10], strict=True))
        assert found.time_s.tolist() == times[first : first + 10].tolist()


def test_damage_in_a_film_of_several_codecs_is_passed_over(tmp_path: Path) -> None:
    path = joined(*CODECS["again"], suffix=".ts")(tmp_path, "again.ts")
    whole, first = path.read_bytes(), (tmp_path / "part0.ts").stat().st_size
    path.write_bytes(whole[: first + 3 * 188] + b"\0" * 40 * 188 + whole[first + 43 * 188 :])
    frames = list(images_of(path))
    assert 20 <= len(frames) < 30
    path.write_bytes(b"".join(whole[:first][k * 188 : (k + 1) * 188] + whole[-first:][:188] for k in range(first // 188)))
    assert len(list(images_of(path))) <= 10


def test_each_frame_tells_its_part_whatever_becomes_of_the_others(tmp_path: Path) -> None:
    path = joined(*CODECS["ba"], suffix=".ts")(tmp_path, "ba.ts")
    with open_video(path) as container:
        film = find_film(path, container)
        assert film is not None
        frames = list(raw_frames(container, stream_of(container, film)))
    del frames[12]
    assert [frame.opaque for frame in frames] == [None] * 10 + [(1,)] * 9


def test_an_error_in_a_later_part_ends_that_part_and_no_part_is_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = joined(*CODECS["again"], suffix=".ts")(tmp_path, "again.ts")
    opened, real = list[int](), Spliced._opened

    class Damaged:
        def __init__(self, container: Any) -> None:
            self._container = container

        def __getattr__(self, name: str) -> Any:
            return getattr(self._container, name)

        def __enter__(self) -> "Damaged":
            return self

        def __exit__(self, *_: object) -> None:
            self._container.close()

        def demux(self, *streams: Any) -> Iterator[Any]:
            yield from islice(self._container.demux(*streams), 4)
            raise av.error.InvalidDataError(1, "damage")

    def opening(self: Spliced, number: int) -> Any:
        opened.append(number)
        return Damaged(real(self, number)) if number == 1 else real(self, number)

    monkeypatch.setattr(Spliced, "_opened", opening)
    frames = list(images_of(path))
    assert 20 <= len(frames) < 30, "the first and the last are whole"
    assert opened.count(1) == opened.count(2) <= 8
    assert all(later > earlier for (earlier, _), (later, _) in pairwise(frames))


def test_interlaced_video_is_marked_and_has_the_rate_that_is_set(folder: Path) -> None:
    path = made(folder, "top_first.mp4", FILES["top_first.mp4"])
    videos = row(path)
    assert videos.interlaced.tolist() == [True]
    counts = {how: int(clips_of(videos, deinterlace=how).num_frames.sum()) for how in ("off", "frame", "field")}
    assert counts["field"] == 2 * counts["frame"] == 2 * counts["off"]
    (clip,) = clips_of(videos, deinterlace="field").rows()
    (frames,) = read_frames(path, clip)
    assert np.diff(frames.time_s) == pytest.approx(np.full(counts["field"] - 1, 0.1), abs=1e-3)
    (woven,), (whole,) = (list(read_frames(path, clips_of(videos, deinterlace=how))) for how in ("off", "frame"))
    assert comb(woven.images[4]) > 1.3 * comb(whole.images[4])


def comb(image: np.ndarray) -> float:
    """How much neighbouring rows differ more than every other row."""
    rows = image.astype(np.int16)
    return float(np.abs(rows[1:-1] - rows[:-2]).mean() / (np.abs(rows[2:] - rows[:-2]).mean() + 1))


def test_a_clip_of_interlaced_video_is_found_again_after_a_seek(tmp_path: Path) -> None:
    path = ffmpeg(f"{{s:64x48:16}} {INTERLACED} {X264} -x264-params tff=1", tmp_path, "long.mp4")
    videos = row(path)
    everything = list(images_of(path))
    for clip in clips_of(videos, max_clip_s=5.0).rows():
        (frames,) = read_frames(path, clip)
        first = int(clip.first_frame[0])
        assert frames.time_s.tolist() == [time_s for time_s, _ in everything[first : first + len(frames.images)]]
        assert all(np.array_equal(a, b) for a, (_, b) in zip(frames.images, everything[first:], strict=False))


@pytest.mark.parametrize(("name", "filters", "codec"), [
    ("pq", TO_HDR.format("smpte2084"), "-c:v libx265 -x265-params log-level=none"),
    ("hlg", TO_HDR.format("arib-std-b67"), "-c:v libx265 -x265-params log-level=none"),
    ("bt2020", WIDE, "-c:v libx264"),
])  # fmt: skip
def test_high_dynamic_range_and_wide_gamut_look_like_the_film_they_were_made_of(
    tmp_path: Path, name: str, filters: str, codec: str
) -> None:
    plain = ffmpeg(f"{{s:96x72}} -vf {PLAIN} -c:v libx264", tmp_path, "plain.mp4")
    path = ffmpeg(f"{{s:96x72}} -vf {filters} {codec}", tmp_path, "other.mp4")
    videos = row(path)
    assert (videos.transfer[0], clips_of(videos).odd[0]) == (name, "tone")
    wanted, ours = (np.stack([image.astype(int) for _, image in images_of(one)]) for one in (plain, path))
    flat = np.stack([frame.reformat(format="rgb24").to_ndarray().astype(int) for _, frame in decode(path)])
    off = np.abs(ours - wanted).mean()
    assert off < (30 if name == "hlg" else 20)  # zscale makes HLG's display gamma a channel at a time, where BT.2100 has luminance
    assert off < np.abs(flat - wanted).mean() * (0.7 if name == "hlg" else 0.5)
    assert ours.std() == pytest.approx(wanted.std(), rel=0.25)


def test_what_is_transparent_is_marked(folder: Path) -> None:
    assert row(made(folder, "alpha.mov", FILES["alpha.mov"])).transparent.tolist() == [True]
    assert row(made(folder, "ntsc.mp4", FILES["ntsc.mp4"])).transparent.tolist() == [False]


@pytest.mark.parametrize("suffix", [".mkv", ".nut", ".ts", ".mp4"])
def test_a_film_that_begins_late_is_no_damage(tmp_path: Path, suffix: str) -> None:
    videos = row(ffmpeg(f"{{s:64x48}} {X264} -output_ts_offset 4000", tmp_path, f"late{suffix}"))
    assert videos.duration_s[0] == pytest.approx(1.0, abs=0.11)
    assert clips_of(videos).ends_with.tolist() == ["end"]


@pytest.mark.parametrize("tags", ["", "-fflags +bitexact"])
def test_sound_that_outlasts_the_film_is_no_damage(tmp_path: Path, tags: str) -> None:
    path = ffmpeg(f"{{s:64x48:2}} -f lavfi -t 8 -i sine -c:a flac {X264} {tags}", tmp_path, "sound.mkv")
    videos = row(path)
    assert videos.duration_s[0] == pytest.approx(2.0, abs=0.11)
    assert clips_of(videos).ends_with.tolist() == ["end"]


def test_a_film_cut_off_before_its_sound_and_itself_end_is_damage(tmp_path: Path) -> None:
    whole = ffmpeg(f"{{s:64x48:4}} -f lavfi -t 4 -i sine -c:a flac {X264} -g 10", tmp_path, "whole.mkv")
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 3])
    assert clips_of(row(cut)).ends_with.tolist() == ["damage"]


def test_a_list_may_want_a_stretch_of_a_video(tmp_path: Path) -> None:
    path = ffmpeg(f"{{s:64x48:4}} {X264}", tmp_path, "talk.mp4")
    videos = row(path, start_s=1.0, end_s=2.5, extra='{"signer": "ann"}')
    (clip,) = clips_of(videos).rows()
    (frames,) = read_frames(path, clip)
    assert frames.frame.tolist() == list(range(10, 25))
    assert frames.time_s[[0, -1]] == pytest.approx([1.0, 2.4])
    assert (clip.ends_with[0], clip.odd[0], clip.extra[0]) == ("end", "stretch", '{"signer": "ann"}')


def test_a_chosen_stream_is_named_with_what_was_passed_over(folder: Path) -> None:
    videos = row(made(folder, "larger_second.mkv", FILES["larger_second.mkv"]))
    assert (videos.stream[0], videos.num_films[0]) == (1, 2)
    assert videos.stream_why[0] == "stream 1, the largest of 2 films (0: 32x24 h264, 1: 64x48 h264)"
    assert row(made(folder, "preview_first.mp4", FILES["preview_first.mp4"])).stream_why[0] == "1 preview of one frame passed over"


def test_a_plain_video_is_what_it_always_was(folder: Path) -> None:
    for name in ("ntsc.mp4", "late.mkv", "uneven.mkv"):
        clips = clips_of(row(made(folder, name, FILES[name])))
        assert (clips.odd[0], Reading.of(clips).deinterlace) == ("", "")
    assert clips_of(row(made(folder, "stamped.avi", FILES["stamped.avi"]))).odd.tolist() == ["times"]


def test_files_of_a_folder_are_taken_by_their_content(folder: Path, tmp_path: Path) -> None:
    camera = made(folder, "ntsc.mp4", FILES["ntsc.mp4"])
    for suffix in ("insv", "360", "lrv", "vob", "3g2", "m2v", "mxf", "f4v", "asf", "LRV"):
        shutil.copy(camera, tmp_path / f"{suffix}.{suffix}")
    for name in ("bare.h264", "bare.m2v", "material.mxf", "disc.vob"):
        shutil.copy(made(folder, name, FILES[name]), tmp_path / f"true_{name}")
    shutil.copy(made(folder, "animated.webp", FILES["animated.webp"]), tmp_path)
    ffmpeg("{s:64x48} -frames:v 1", tmp_path, "still.webp")
    shutil.copy(camera, tmp_path / "coming.mp4.part")
    (tmp_path / "notes.txt").write_text("no video")
    (tmp_path / "sound.bin").write_bytes(ffmpeg("-f lavfi -t 1 -i sine", folder, "sound.m4a").read_bytes())
    listing = read_listing(tmp_path)
    assert len(listing.manifest) == 15
    assert [(Path(one.name).name, one.why) for one in listing.left_out] == [
        ("coming.mp4.part", "unfinished or put aside, by its name"),
        ("notes.txt", "no video by its name and content"),
        ("sound.bin", "no video by its name and content"),
        ("still.webp", "an image beside videos"),
    ]
    assert read_listing(tmp_path / "insv.insv").manifest.video.tolist() == ["insv"]


def test_what_is_odd_is_counted_and_named(folder: Path) -> None:
    lines = odd_lines({"size": ["a", "b"], "tone": ["a"]})
    assert lines == [
        "2 videos change their size: a clip ends there (a, b)",
        "1 videos are of high dynamic range or wide gamut: mapped to BT.709 (a)",
    ]
    words = {word for name in ("turns.mkv", "top_first.mp4", "preview_first.mp4", "stamped.avi", "alpha.mov")
             for word in clips_of(row(made(folder, name, FILES[name]))).odd[0].split()}  # fmt: skip
    assert words | {"tone", "stretch", "codec"} == set(ODD)


def test_a_damaged_or_huge_animation_has_its_reason(folder: Path, tmp_path: Path) -> None:
    whole = made(folder, "animated.webp", FILES["animated.webp"]).read_bytes()
    (tmp_path / "cut.webp").write_bytes(whole[:60])
    (tmp_path / "huge.webp").write_bytes(whole[:24] + b"\xff" * 6 + whole[30:])
    for name in ("cut.webp", "huge.webp"):
        found = probe(tmp_path / name, images=True)
        assert isinstance(found, Failure)
        assert name in found.message


def test_absurd_films_are_read_or_have_their_reason(tmp_path: Path) -> None:
    many = ffmpeg(" ".join(["{s:16x16:0.3}"] * 60) + " " + " ".join(f"-map {n}" for n in range(60)) + " -c:v mjpeg", tmp_path, "many.mkv")
    videos = row(many)
    assert videos.num_films.tolist() == [60]
    assert videos.stream_why[0].endswith("5: 16x16 mjpeg and 54 more)")
    dot = ffmpeg("{s:16x16:0.5} -vf scale=1:1,format=rgb24 -c:v ffv1", tmp_path, "dot.mkv")
    assert {image.shape for _, image in images_of(dot)} == {(1, 1, 3)}
    assert clips_of(row(dot)).num_frames.tolist() == [5]


def test_a_matroska_film_that_was_cut_off_keeps_its_crop(tmp_path: Path) -> None:
    path = ffmpeg(f"-i {with_aperture(48, 40, 6, 2)(tmp_path, 'cut.mp4').name} -c copy", tmp_path, "film.mkv")
    whole = probe(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    found = probe(path)
    assert isinstance(whole, Probe)
    assert isinstance(found, Probe)
    assert (found.width, found.height) == (whole.width, whole.height) == (48, 40)
