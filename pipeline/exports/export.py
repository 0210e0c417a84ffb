"""One export from beginning to end: what is there already, the bar, the writer of the format, and what the folder says of itself.

The folder is there whole or not at all, and never one of somebody else's: what is written lies in `.NAME.incomplete` beside it and takes
its name at the end; what a killed export left there goes with the next one.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.engine.durable import flush, room
from pipeline.engine.files.shard import check_shard
from pipeline.exports.formats import ABOUT, Format
from pipeline.exports.source import Source, open_source
from stages.digest import CorruptFileError, fingerprint_of, seal, unseal
from stages.errors import UserError

README = "README.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export holds."""

    folder: Path
    num_frames: int
    num_hands: int
    up_to_date: bool
    """It lay there already."""


def export(
    format: Format, data: Path, out: Path, *, where: str = "", options: Mapping[str, Any] | None = None, console: Console
) -> Exported:
    """Write the hands of a data folder that a filter takes in a format, unless they lie there already.

    Raises UserError for a folder that is no export's or one of another format's, a filter that cannot be read, and where no hand is
    taken; CorruptFileError for a shard that is not what was written.
    """
    chosen = {**format.options, **(options or {})}
    source = open_source(data, where)
    made_from = {
        "format": format.name,
        "version": format.version,
        "options": chosen,
        "where": source.filter,
        "shards": [[split, fingerprint] for _, split, fingerprint in source.shards],
        "hand_model": source.hand_model,
        "pose_prior": source.pose_prior,
    }
    fingerprint = fingerprint_of(made_from)
    before = made_of(out)
    if before and before.get("fingerprint") == fingerprint and all(fingerprint for *_, fingerprint in source.shards):
        return Exported(folder=out, num_frames=before["num_frames"], num_hands=before["num_hands"], up_to_date=True)
    if before and before.get("format", format.name) != format.name:
        raise UserError(f"{out} holds an export in another format ({before['format']}): name another folder, or remove that one first")
    for path, *_ in source.shards:
        check_shard(path)
    about: dict[str, Any] = {**made_from, "fingerprint": fingerprint}
    with whole(out, about) as folder, _bar(source, format, console):
        format.write(source, folder, chosen)
        num_frames, num_hands = (sum(video[name] for video in source.videos.values()) for name in ("frames", "hands"))
        if not num_hands:
            raise UserError(f"{data} holds no hand that {f'the filter {where!r} takes' if where else 'was kept'}: nothing is exported")
        about |= {"num_frames": num_frames, "num_hands": num_hands, "videos": source.videos}
        if not (folder / README).exists():
            (folder / README).write_text(readme(format, source, num_frames, num_hands))
    return Exported(folder=out, num_frames=num_frames, num_hands=num_hands, up_to_date=False)


class _bar:
    """A bar of the rows read; silent without a terminal."""

    def __init__(self, source: Source, format: Format, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal)
        task = self.progress.add_task(f"{format.name}: frames", total=format.passes * source.num_rows)
        source.on_rows = lambda count: self.progress.advance(task, count)

    def __enter__(self) -> None:
        self.progress.start()

    def __exit__(self, *_: object) -> None:
        self.progress.stop()


def readme(format: Format, source: Source, num_frames: int, num_hands: int) -> str:
    """What a person finds beside an export: what it is, how it was filtered, whose the videos are."""
    from pipeline.dataset.card import HAND_MODELS, table_cell

    licences: dict[str, int] = {}
    for video in source.videos.values():
        licences[video["licence"] or "not stated"] = licences.get(video["licence"] or "not stated", 0) + 1
    lines = [
        f"# Hands in video: {format.about}",
        "",
        f"{num_hands:,} hands on {num_frames:,} frames of {len(source.videos):,} videos, exported as {format.name} by whim"
        + (f" with the filter `{source.filter}`." if source.filter else "."),
        "",
        "Every label is automatic unless a person corrected it. Boxes and keypoints are in pixels, keypoints in OpenPose's order of 21",
        "(wrist, then thumb to little from palm to tip), sides the person's own, angles radians, lengths metres; docs/exports.md",
        "of the builder says where each lies in this format.",
        "",
        f"Hand model: {HAND_MODELS.get(source.hand_model, 'not stated')}. Pose prior: {source.pose_prior or 'not stated'}.",
        "",
        "## Licences",
        "Each video keeps its own licence, and so do its frames here; 'not stated' means that all rights stay with the owner.",
        "",
        *(f"- {table_cell(licence)} ({count:,} videos)" for licence, count in sorted(licences.items())),
        "",
        "| video | split | frames | hands | licence | by | title | source |",
        "|---|---|--:|--:|---|---|---|---|",
        *(
            f"| {table_cell(name)} | {of['split']} | {of['frames']} | {of['hands']} | {table_cell(of['licence'] or 'not stated')} | "
            f"{table_cell(of['channel'])} | {table_cell(of['title'])} | {table_cell(of['source'], is_address=True)} |"
            for name, of in sorted(source.videos.items())
        ),
        "",
    ]
    return "\n".join(lines)


def made_of(folder: Path) -> dict[str, Any] | None:
    """What an export says of itself; None where there is none. Raises UserError for a folder that is not empty and no export."""
    if not folder.exists() and not folder.is_symlink():
        return None
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: name one by --out")
    try:
        return unseal(folder / ABOUT)
    except FileNotFoundError:
        if any(folder.iterdir()):
            raise UserError(f"{folder} holds what no export wrote: name another folder by --out") from None
        return None
    except CorruptFileError:
        return {}  # one of ours, whose mark was damaged


@contextmanager
def whole(folder: Path, about: Mapping[str, Any]) -> Iterator[Path]:
    """An empty folder that takes the name of `folder` when the block ends well, in the place of an export of before.

    `about` is filled within the block and written at its end. Raises UserError where another export writes there.
    """
    made_of(folder)
    folder = folder.resolve()  # a link stays, and what it leads to is replaced
    aside, lock = (folder.with_name(f".{folder.name}.{what}") for what in ("incomplete", "lock"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(lock, folder), room(folder.parent):
        try:
            _clear(aside)
            aside.mkdir()
            yield aside
            (aside / ABOUT).write_text(seal(about))
            os.sync()  # one flush for all of its files
            _take_place(aside, folder)
        except OSError as error:
            if error.errno in (errno.EFBIG, errno.EIO) and not error.filename:  # a write knows no name
                raise OSError(error.errno, str(error), f"a file of {aside}") from error
            raise
        finally:
            _clear(aside)


@contextmanager
def _alone(lock: Path, folder: Path) -> Iterator[None]:
    """Hold a folder for one export; the kernel lets go of it when its holder dies."""
    file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
        lock.unlink(missing_ok=True)
    except BlockingIOError:
        raise UserError(f"another export writes {folder} at this moment: wait for its end") from None
    except BaseException:
        lock.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)


def _take_place(aside: Path, folder: Path) -> None:
    """One name after the other: a kill between them leaves the old export under another name, and none that is half."""
    before = folder.with_name(f".{folder.name}.before")
    _clear(before)
    if folder.exists():
        folder.rename(before)
    aside.rename(folder)
    flush(folder.parent)
    _clear(before)


def _clear(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)
