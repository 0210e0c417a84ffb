"""WebDataset: `SPLIT/SPLIT-000000.tar` of pairs `VIDEO/FRAME.jpg` and `.json`; the JSON holds the frame, its hands and what to ignore."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from pipeline.exports.source import Frame, Source, json_of, plain, side_name

SAMPLES_A_TAR = 1000
BYTES_A_TAR = 256 << 20


def write(source: Source, folder: Path, _: Mapping[str, object]) -> None:
    """Write the tars of all splits."""
    for split in source.splits:
        with Tars(folder / split, split) as tars:
            for frame in source.frames(split):
                tars.add(frame.name, {"jpg": frame.image, "json": json_of(_told(frame)).encode()})


def _told(frame: Frame) -> dict[str, object]:
    columns = {name: plain(values) for name, values in frame.hands.items()}
    hands = [
        {**{name: values[row] for name, values in columns.items()}, "side_name": side_name(frame.hands["side"][row])}
        for row in range(len(frame))
    ]
    return {**frame.about_it(), "width": frame.width, "height": frame.height, "hands": hands, "ignore_boxes": plain(frame.ignore)}


class Tars:
    """Numbered tars of samples, files of one name and several endings; the same bytes every time."""

    def __init__(self, folder: Path, stem: str) -> None:
        self.folder, self.stem = folder, stem
        self.number, self.samples, self.size_bytes = 0, 0, 0
        self.open: tarfile.TarFile | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "Tars":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.open:
            self.open.close()

    def add(self, key: str, files: Mapping[str, bytes]) -> None:
        """One sample: its files by their endings. What follows the first dot of a key's last part would count as an ending."""
        assert "." not in key.rpartition("/")[2], key
        size_bytes = sum(map(len, files.values()))
        if self.open and (self.samples >= SAMPLES_A_TAR or self.size_bytes + size_bytes > BYTES_A_TAR):
            self.open.close()
            self.open, self.samples, self.size_bytes = None, 0, 0
        if not self.open:
            self.open = tarfile.open(self.folder / f"{self.stem}-{self.number:06d}.tar", "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
            self.number += 1
        for ending, data in files.items():
            entry = tarfile.TarInfo(f"{key}.{ending}")
            entry.size, entry.mode = len(data), 0o644
            self.open.addfile(entry, io.BytesIO(data))
        self.samples, self.size_bytes = self.samples + 1, self.size_bytes + size_bytes
