"""Commands that use what is there: exports, hands of any file, weights."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.exports.formats import Format


def exporter(format: "Format") -> "Callable[[argparse.Namespace], None]":
    """The handler of the command that exports in a format, whose help is the format's line."""

    def write(arguments: argparse.Namespace) -> None:
        from pipeline.engine.roots.opening import opened
        from pipeline.exports.export import export

        options = {name: getattr(arguments, name) for name in format.options if hasattr(arguments, name)}
        done = export(format, opened(arguments.data), arguments.out, where=arguments.where, options=options, console=arguments.console)
        told = "was there already" if done.up_to_date else f"written to {done.folder}"
        arguments.console.print(f"{done.num_hands:,} hands on {done.num_frames:,} frames: {told}", markup=False)

    write.__doc__ = f"{format.about}."
    return write


def weights_list(arguments: argparse.Namespace) -> None:
    """List the larger networks: what each is, under which licence, and whether it is here."""
    from pipeline.weights import list_weights

    list_weights(arguments.console)


def weights_get(arguments: argparse.Namespace) -> int:
    """Fetch networks' files: the named ones, or all that bind nobody to anything."""
    from pipeline.weights import get_weights

    return 1 if get_weights(arguments.names, arguments.console, agree=arguments.agree) else 0


def weights_check(arguments: argparse.Namespace) -> int:
    """Compare the files that are here with their hashes."""
    from pipeline.weights import check_weights

    return 1 if check_weights(arguments.names, arguments.console) else 0


def detect(arguments: argparse.Namespace) -> int:
    """Find the hands of an image, a video, a folder or a camera by the whole chain: drawn, and as a table."""
    from pipeline.library.drawn import detect

    failed: list[str] = []
    files, frames, hands = detect(
        arguments.source,
        arguments.out,
        table_format=arguments.table,
        max_frames=arguments.frames,
        console=None if arguments.quiet else arguments.console,
        failed=failed,
    )
    many = f" of {files} files" if files != 1 else ""
    arguments.console.print(f"{hands} hands in {frames} images{many}: {arguments.out}", markup=False)
    return _tell_failed(failed, arguments)


def reconstruct(arguments: argparse.Namespace, instead: "Callable[..., Any] | None" = None) -> int:
    """Reconstruct the hands of an image or a video in space, by the fit or `instead` of it: meshes, overlay, parameters."""
    from pipeline.library.drawn import reconstruct

    failed: list[str] = []
    frames, hands = reconstruct(
        arguments.source,
        arguments.out,
        meshes=arguments.meshes,
        focal_px=arguments.focal,
        max_frames=arguments.frames,
        console=None if arguments.quiet else arguments.console,
        failed=failed,
        instead=instead,
    )
    arguments.console.print(f"{hands} hands in {frames} frames: {arguments.out}", markup=False)
    return _tell_failed(failed, arguments)


def _tell_failed(failed: Sequence[str], arguments: argparse.Namespace) -> int:
    """Name what was left out; the exit code."""
    for why in failed:
        arguments.console.print(f"left out: {why}", style="red", markup=False)
    return 2 if failed else 0
