"""Words for what is odd of some videos, and for who knows their cameras: plan, status, report and card say the same."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from stages.cameras.path import num_within
from stages.media.sequence import DEFAULT_RATE, is_pattern
from stages.tables import CameraPoses, Clips, Manifest

ODD: Mapping[str, str] = {
    "interlaced": "are interlaced",
    "size": "change their size: a clip ends there",
    "codec": "change their codec: a clip ends there",
    "stream": "hold several streams: videos/*.parquet says which is read, and why",
    "times": "have times that are missing, faulty or leap: they are filled as ffmpeg does",
    "tone": "are of high dynamic range or wide gamut: mapped to BT.709",
    "transparent": "are transparent: they lie on grey",
    "stretch": "are read in part, as the list wants",
}
"""What the words of `Clips.odd` mean, after a number of videos."""

KNOWN: Mapping[str, str] = {"manifest": "as the list says", "metadata": "as their files' tags say"}


def odd_videos(odd: Mapping[str, str]) -> dict[str, list[str]]:
    """Videos that are read in another way than plain ones, by what is odd of them; `odd`: the words on each (`Clips.odd`)."""
    found: dict[str, list[str]] = defaultdict(list)
    for video, words in sorted(odd.items()):
        for word in dict.fromkeys(words.split()):
            found[word].append(video)
    return {word: found[word] for word in sorted(found)}


def odd_lines(odd: Mapping[str, Sequence[str]]) -> list[str]:
    """A line on each thing that is odd of some videos, with their number and some of their names."""
    return [f"{len(videos)} videos {ODD.get(word, word)} ({_some(videos)})" for word, videos in odd.items()]


def camera_lines(by_origin: Mapping[str, Sequence[str]], focal_share: float) -> list[str]:
    """A line on the cameras of the videos whose origin is each word; `focal_share`: the assumed focal length in longer sides."""
    lines = [f"camera of {len(by_origin[word])} videos {KNOWN[word]} ({_some(by_origin[word])})" for word in KNOWN if by_origin.get(word)]
    if assumed := by_origin.get("assumed"):
        degrees = math.degrees(2 * math.atan(0.5 / focal_share))
        guess = f"a focal length of {focal_share:.2f} longer sides ({degrees:.1f} degrees of view)"
        lines.append(
            f"camera of {len(assumed)} videos unknown: {guess} is assumed, and depths are not metres; say focal= or hfov= in the list"
        )
    return lines


def image_lines(manifest: Manifest) -> list[str]:
    """A line on the videos that are numbered images, and on those of them whose rate nobody says."""
    films = [row for row, source in enumerate(manifest.source) if is_pattern(str(source))]
    if not films:
        return []
    unsaid = [str(manifest.video[row]) for row in films if not manifest.frames_per_second[row]]
    line = f"{len(films)} videos are numbered images ({_some([str(manifest.video[row]) for row in films])})"
    guess = f"; {len(unsaid)} of them at {DEFAULT_RATE:g} images a second, since nobody says fps= ({_some(unsaid)})"
    return [line + (guess if unsaid else "")]


def path_lines(paths: Mapping[str, tuple[CameraPoses, Clips]]) -> list[str]:
    """A line on each video of which somebody says where its camera stood: on how many frames of its clips."""
    lines = []
    for video, (poses, clips) in paths.items():
        inside, frames = num_within(poses, clips), int(clips.num_frames.sum())
        line = f"the camera's place is known on {inside:,} of {frames:,} frames of {video}"
        line += "; hands on the others have none in the world" if inside < frames else ""
        lines.append(line + (f"; {len(poses) - inside:,} poses are of no frame" if inside < len(poses) else ""))
    return lines


def _some(videos: Sequence[str]) -> str:
    return ", ".join(videos[:5]) + (", ..." if len(videos) > 5 else "")
