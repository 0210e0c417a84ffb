"""Photos as cameras and phones write them: turned and mirrored by EXIF, of other colours, and HEIC of many tiles."""

import json
import struct
import subprocess
import sys
import time
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from jaxtyping import UInt8
from PIL import Image, ImageOps

from pipeline.manifest import read_listing
from pipeline.video_files import find_files
from stages.media.frames import images_of
from stages.media.heif import exif_of, film_of_tiles, tiling_of
from stages.media.probe import Probe, is_image, probe
from stages.stage import Failure, Reason

TILE = 64


def ffmpeg(*words: str | Path) -> None:
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *words], check=True, capture_output=True)


def photo(path: Path, size: str = "96x64", *options: str) -> Path:
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=size={size}", "-frames:v", "1", *options, path)
    return path


def read(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    ((_, image),) = images_of(path)
    found = probe(path, images=True)
    assert isinstance(found, Probe)
    assert (found.height, found.width) == image.shape[:2]
    return image


def near(ours: np.ndarray, theirs: np.ndarray, most: float) -> bool:
    return ours.shape == theirs.shape and float(np.abs(ours.astype(int) - theirs.astype(int)).mean()) < most


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_and_mirrored_as_its_exif_says(tmp_path: Path, suffix: str, orientation: int) -> None:
    plain = Image.open(photo(tmp_path / "plain.png")).convert("RGB")
    exif = Image.Exif()
    exif[0x112] = orientation
    path = tmp_path / f"photo{suffix}"
    plain.save(path, exif=exif, quality=95)
    assert near(read(path), np.array(ImageOps.exif_transpose(Image.open(path)).convert("RGB")), 15)


@pytest.mark.parametrize("mode", ["CMYK", "L"])
def test_a_photo_of_other_colours_is_the_same_in_red_green_and_blue(tmp_path: Path, mode: str) -> None:
    plain = Image.open(photo(tmp_path / "plain.png")).convert("RGB").convert(mode)
    plain.save(tmp_path / "photo.jpg", quality=95)
    assert near(read(tmp_path / "photo.jpg"), np.array(plain.convert("RGB")), 5)


def test_sixteen_bits_are_read_as_their_first_eight(tmp_path: Path) -> None:
    plain = photo(tmp_path / "plain.png")
    for pixels in ("rgb48be", "rgba64be"):
        ffmpeg("-i", plain, "-pix_fmt", pixels, tmp_path / f"{pixels}.png")
        assert near(read(tmp_path / f"{pixels}.png"), read(plain), 1)


def test_photos_beside_videos_are_left_out_and_films_of_photos_suffixes_are_not(tmp_path: Path) -> None:
    plain = Image.open(photo(tmp_path / "plain.png")).convert("RGB")
    plain.save(tmp_path / "still.avif")
    plain.save(tmp_path / "moving.avif", save_all=True, append_images=[plain.rotate(10 * k) for k in range(1, 5)], duration=100)
    heic(tmp_path / "tiles.heic", 100, 60, columns=2, rows=1)
    for made in ("tiles.png", "tiles.mp4"):
        (tmp_path / made).unlink()
    listing = read_listing(tmp_path)
    assert [Path(str(source)).name for source in listing.manifest.source] == ["moving.avif"]
    assert [(Path(one.name).name, one.why) for one in listing.left_out] == [
        (name, "an image beside videos") for name in ("plain.png", "still.avif", "tiles.heic")
    ]
    (tmp_path / "moving.avif").unlink()
    assert sorted(Path(str(source)).name for source in read_listing(tmp_path).manifest.source) == ["plain.png", "still.avif", "tiles.heic"]
    assert is_image(tmp_path / "still.avif")
    assert is_image(tmp_path / "tiles.heic")


def box(kind: bytes, *parts: bytes) -> bytes:
    return struct.pack(">I4s", 8 + sum(map(len, parts)), kind) + b"".join(parts)


def full(kind: bytes, version: int, *parts: bytes) -> bytes:
    return box(kind, struct.pack(">I", version << 24), *parts)


def heic(
    path: Path, width: int, height: int, *turns: bytes, columns: int = 3, rows: int = 2, exif: bytes = b""
) -> UInt8[np.ndarray, "height width 3"]:
    """A photo of tiles, each an HEVC picture, as phones write it; its image before it is turned."""
    whole = photo(path.with_suffix(".png"), f"{columns * TILE}x{rows * TILE}")
    count, tiles, configuration = columns * rows, list[bytes](), b""
    for number in range(count):
        y, x = TILE * (number // columns), TILE * (number % columns)
        film = path.with_suffix(".mp4")
        codec = ["-c:v", "libx265", "-pix_fmt", "yuv420p", "-x265-params", "log-level=none:qp=4", "-tag:v", "hvc1"]
        ffmpeg("-i", whole, "-vf", f"crop={TILE}:{TILE}:{x}:{y}", *codec, film)
        data = film.read_bytes()
        head, frame = data.index(b"hvcC") - 4, data.index(b"mdat") - 4
        configuration = data[head : head + int.from_bytes(data[head : head + 4], "big")]
        tiles.append(data[frame + 8 : frame + int.from_bytes(data[frame : frame + 4], "big")])
    items = [*enumerate(tiles, 1), (count + 1, struct.pack(">4BHH", 0, 0, rows - 1, columns - 1, width, height))]
    if exif:
        items.append((count + 2, struct.pack(">I", 6) + b"Exif\0\0" + exif))
    kinds = {count + 1: b"grid", count + 2: b"Exif"}
    named = [full(b"infe", 2, struct.pack(">HH", item, 0), kinds.get(item, b"hvc1"), b"\0") for item, _ in items]
    sizes = [full(b"ispe", 0, struct.pack(">II", *size)) for size in ((TILE, TILE), (width, height))]
    uses = [
        bytes([0, item, 2, 0x81, 2]) if item <= count else bytes([0, item, 1 + len(turns), 3, *range(4, 4 + len(turns))])
        for item, _ in items
    ]
    uses = uses[: count + 1]
    properties = box(b"iprp", box(b"ipco", configuration, *sizes, *turns), full(b"ipma", 0, struct.pack(">I", len(uses)), *uses))
    parts = struct.pack(f">HH{count}H", count + 1, count, *range(1, count + 1))

    def index(start: int) -> bytes:
        places = []
        for item, content in items:
            places.append(struct.pack(">HHHII", item, 0, 1, start, len(content)))
            start += len(content)
        return full(
            b"meta", 0, full(b"hdlr", 0, bytes(4), b"pict", bytes(13)), full(b"pitm", 0, struct.pack(">H", count + 1)),
            full(b"iloc", 0, b"\x44\0", struct.pack(">H", len(items)), *places), full(b"iinf", 0, struct.pack(">H", len(items)), *named),
            full(b"iref", 0, box(b"dimg", parts)), properties,
        )  # fmt: skip

    brand = box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    path.write_bytes(brand + index(len(brand) + len(index(0)) + 8) + box(b"mdat", *(content for _, content in items)))
    return np.array(Image.open(whole).convert("RGB"))[:height, :width]


def test_a_photo_of_tiles_is_one_photo(tmp_path: Path) -> None:
    plain = heic(tmp_path / "plain.heic", 160, 100)
    assert near(read(tmp_path / "plain.heic"), plain, 15)
    found = probe(tmp_path / "plain.heic", images=True)
    assert isinstance(found, Probe)
    assert (found.codec, found.film.num_films, found.width, found.height) == ("heif", 1, 160, 100)


def test_a_photo_of_tiles_says_its_focal_length(tmp_path: Path) -> None:
    entries = struct.pack(">HHHII", 1, 0x8769, 4, 1, 26) + struct.pack(">I", 0)
    details = struct.pack(">HHHIHH", 1, 0xA405, 3, 1, 26, 0) + struct.pack(">I", 0)
    heic(tmp_path / "photo.heic", 100, 60, columns=2, rows=1, exif=b"MM\0*" + struct.pack(">I", 8) + entries + details)
    found = probe(tmp_path / "photo.heic", images=True)
    assert isinstance(found, Probe)
    assert json.loads(found.camera)["focal_px"][0] == pytest.approx(26 / np.hypot(36, 24) * np.hypot(100, 60), abs=0.01)


@pytest.mark.parametrize("turns", [(("irot", 1),), (("irot", 3), ("imir", 1)), (("imir", 0), ("irot", 2))])
def test_a_photo_of_tiles_is_turned_and_mirrored_as_ffmpeg_does(tmp_path: Path, turns: tuple[tuple[str, int], ...]) -> None:
    path = tmp_path / "turned.heic"
    heic(path, 100, 60, *(box(kind.encode(), bytes([how])) for kind, how in turns), columns=2, rows=1)
    ffmpeg("-i", path, "-frames:v", "1", tmp_path / "theirs.png")
    assert near(read(path), np.array(Image.open(tmp_path / "theirs.png").convert("RGB")), 3)


def test_a_photo_of_tiles_that_is_damaged_or_huge_has_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "photo.heic"
    heic(path, 100, 60, columns=2, rows=1)
    whole = path.read_bytes()
    grid = struct.pack(">4BHH", 0, 0, 0, 1, 100, 60)
    for name, data in {
        "huge": whole.replace(grid, struct.pack(">4BHH", 0, 0, 0, 1, 65535, 65535)),
        "uncovered": whole.replace(grid, struct.pack(">4BHH", 0, 0, 0, 1, 1000, 60)),
        "more tiles than it needs": whole.replace(grid, struct.pack(">4BHH", 0, 0, 0, 1, 60, 60)),
        "fewer tiles than it names": whole.replace(grid, struct.pack(">4BHH", 0, 0, 0, 0, 60, 60)),
        "another version": whole.replace(grid, struct.pack(">4BHH", 1, 0, 0, 1, 100, 60)),
        "no reference": whole.replace(b"dimg", b"thmb"),
        "cut": whole[: len(whole) * 2 // 3],
    }.items():
        assert data != whole
        path.write_bytes(data)
        found = probe(path, images=True)
        assert isinstance(found, Failure), name
        assert found.reason is Reason.BROKEN_FILE
        assert "tile" in found.message or "pixels" in found.message


def test_a_tile_is_used_in_several_places(tmp_path: Path) -> None:
    path = tmp_path / "photo.heic"
    plain = heic(path, 100, 60, columns=2, rows=1)
    path.write_bytes(path.read_bytes().replace(struct.pack(">HHHH", 3, 2, 1, 2), struct.pack(">HHHH", 3, 2, 1, 1)))
    assert near(read(path), np.hstack([plain[:, :TILE], plain[:, : 100 - TILE]]), 15)


def hostile(path: Path, locations: bytes, *more: bytes) -> Path:
    """A photo whose primary item is a grid, and of which hardly more is told than where its items lie."""
    named = [full(b"infe", 2, struct.pack(">HH", item, 0), kind, b"\0") for item, kind in ((1, b"grid"), (2, b"Exif"))]
    index = full(
        b"meta", 0, full(b"pitm", 0, struct.pack(">H", 1)), full(b"iinf", 0, struct.pack(">H", 2), *named), locations,
        full(b"iref", 0, box(b"dimg", struct.pack(">HHH", 1, 1, 3))), *more,
    )  # fmt: skip
    path.write_bytes(box(b"ftyp", b"heic", bytes(4), b"mif1heic") + index)
    return path


def test_items_of_many_pieces_that_use_no_bytes_cost_no_time(tmp_path: Path) -> None:
    items = b"".join(struct.pack(">HHH", item, 0, 65535) for item in range(3, 153))
    path = hostile(tmp_path / "photo.heic", full(b"iloc", 0, bytes(2), struct.pack(">H", 150), items))
    start_s = time.process_time()
    assert [one.name for one in find_files(tmp_path).images] == [path.name]
    assert isinstance(probe(path, images=True), Failure)
    assert exif_of(path) == b""
    assert time.process_time() - start_s < 2  # minutes, where each piece is looked at


@pytest.mark.parametrize("offset", [1 << 40, (1 << 63) - 1, (1 << 64) - 1])
def test_items_beyond_the_end_of_the_file_are_not_looked_for(tmp_path: Path, offset: int) -> None:
    items = b"".join(struct.pack(">HHHQI", item, 0, 1, offset, 8) for item in (1, 2))
    path = hostile(tmp_path / "photo.heic", full(b"iloc", 0, b"\x84\0", struct.pack(">H", 2), items))
    assert exif_of(path) == b""
    found = probe(path, images=True)
    assert isinstance(found, Failure)
    assert "what it says of its tiles is missing or makes no sense" in found.message


def test_an_index_larger_than_a_camera_writes_is_refused_and_one_with_room_to_grow_is_not(tmp_path: Path) -> None:
    places = struct.pack(">HHHHII", 1, 1, 0, 1, 0, 8)
    path = hostile(tmp_path / "photo.heic", full(b"iloc", 0, b"\x44\0", places), box(b"iprp", bytes(1 << 20), b"\0"))
    found = probe(path, images=True)
    assert isinstance(found, Failure)
    assert "its box iprp of 1048577 bytes is larger" in found.message
    properties = box(b"iprp", box(b"ipco"), full(b"ipma", 0, bytes(4)))
    in_index = full(b"iloc", 1, b"\x44\0", struct.pack(">HHHHHII", 1, 1, 1, 0, 1, 0, 8))
    grid = box(b"idat", struct.pack(">4BHH", 0, 0, 0, 0, 60, 50))
    tiling = tiling_of(hostile(path, in_index, box(b"free", bytes(1 << 20)), properties, grid))
    assert tiling is not None
    assert (tiling.tiles, tiling.width, tiling.height) == ((3,), 60, 50)


def test_a_photo_of_tiles_is_not_decoded_to_list_its_folder(tmp_path: Path) -> None:
    path, called = tmp_path / "photo.heic", list[str]()
    heic(path, 100, 60, columns=2, rows=1)
    sys.setprofile(lambda frame, event, _: called.append(frame.f_code.co_name) if event == "call" else None)
    try:
        find_files(tmp_path)
    finally:
        sys.setprofile(None)
    assert "is_heif_photo" in called
    assert film_of_tiles.__name__ not in called
