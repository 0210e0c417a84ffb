"""The cost of a list of videos: hours, gigabytes and dollars, from the rates in `annotate.json`: `python -m benchmarks.cost`.

Rates are those of one core of the machine that they were measured on, frames looked at a second and stage; decoding and cutting go with
the seconds of video. What is not measured here (prices, sizes of downloads) stands in `Assumed`, with its source.
"""

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.manifest import read_manifest
from pipeline.report.needs import SHARD_KB_PER_FRAME

ROOT = Path(__file__).resolve().parents[1]
ANNOTATE = ROOT / "benchmarks" / "results" / "annotate.json"
PAGE = ROOT / "docs" / "operations.md"
BEGIN, END = "<!-- cost -->", "<!-- /cost -->"
MEASURED_FRAMES_PER_S = 5.0
"""Frames a second of video that were looked at when the rates were measured."""
BY_THE_SECOND = ("decode", "split")
"""Stages that look at every frame of a video, however many are kept."""
NOT_WORK = ("download",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """Prices, sizes and rates that nobody measured here."""

    videos_per_hour: float = 250.0
    """One address at YouTube (`download.youtube_per_hour`)."""
    media_gb_per_hour: float = 1.4
    """An hour of video without sound, 720 to 1080 lines: between 0.8 and 2."""
    shard_kb_per_frame: float = SHARD_KB_PER_FRAME
    """Kilobytes of a stored frame: the figure by which a run tells the disk that it needs, before it downloads."""
    core_hour: float = 0.045
    """Dollars: a vCPU of AWS c7i in us-east-1, list price of 2025. Spot is about a third of it."""
    gb_month: float = 0.023
    """Dollars: S3 standard, list price of 2025."""
    second_core: float
    """Share of its own speed that a core has beside a second busy one, as measured: `speedup_two_workers` / 2 of annotate.json."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """How much there is to do."""

    num_videos: int
    hours: float
    """Length of all videos together."""
    frames_per_s: float = MEASURED_FRAMES_PER_S
    """Frames a second that are looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Frames, hours and gigabytes that a job takes."""

    frames: float
    download_h: float
    """Hours that one address takes to download it all."""
    core_h: float
    by_stage: Mapping[str, float] = field(default_factory=dict)
    """Core hours."""
    media_gb: float
    shards_gb: float
    dollars: float
    """For the work, and a month of media and shards."""


def cost_of(job: Job, rates: Mapping[str, float], assumed: Assumed) -> Cost:
    """Everything, from frames/s of each stage on one core."""
    seconds = job.hours * 3600
    frames = seconds * job.frames_per_s
    looked_at = {stage: seconds * MEASURED_FRAMES_PER_S if stage in BY_THE_SECOND else frames for stage in rates if stage not in NOT_WORK}
    by_stage = {stage: count / rates[stage] / 3600 / assumed.second_core for stage, count in looked_at.items()}
    media_gb, shards_gb = job.hours * assumed.media_gb_per_hour, frames * assumed.shard_kb_per_frame / 1e6
    return Cost(
        frames=frames,
        download_h=job.num_videos / assumed.videos_per_hour,
        core_h=sum(by_stage.values()),
        by_stage=by_stage,
        media_gb=media_gb,
        shards_gb=shards_gb,
        dollars=sum(by_stage.values()) * assumed.core_hour + (media_gb + shards_gb) * assumed.gb_month,
    )


def job_of(videos: Path, frames_per_s: float) -> Job:
    """The videos of a list whose lengths it tells."""
    manifest = read_manifest(videos)
    known = manifest.frames_per_second > 0
    hours = float((manifest.num_frames[known] / manifest.frames_per_second[known]).sum()) / 3600
    if not hours:
        raise ValueError(f"{videos} tells no lengths: num_frames and fps of each video")
    return Job(num_videos=len(manifest), hours=hours * len(manifest) / int(known.sum()), frames_per_s=frames_per_s)


def table(jobs: Iterable[tuple[str, Job]], rates: Mapping[str, float], assumed: Assumed) -> str:
    """The costs side by side, as Markdown."""
    titles = ("", "videos", "hours of video", "frames", "hours of download", "core hours", "media, GB", "shards, GB", "dollars")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, job in jobs:
        cost = cost_of(job, rates, assumed)
        numbers = (job.num_videos, job.hours, cost.frames, cost.download_h, cost.core_h, cost.media_gb, cost.shards_gb, cost.dollars)
        lines.append(f"| {name} | " + " | ".join(_short(number) for number in numbers) + " |")
    return "\n".join(lines)


def _short(number: float) -> str:
    """Three digits that a person reads: 12,400,000 is 12.4 M."""
    for size, unit in ((1e9, " G"), (1e6, " M")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"


def shown(rates: Mapping[str, float], assumed: Assumed) -> str:
    """The table of docs/operations.md: WHIM's own list, and lists of the same kind that are larger."""
    few, every = (job_of(ROOT / "manifests" / "whim.txt", frames_per_s) for frames_per_s in (MEASURED_FRAMES_PER_S, 28.2))
    larger = {f"10^{k} such videos": 10**k / few.num_videos for k in (5, 7)}
    jobs = [("WHIM, 5 frames/s", few), ("WHIM, every frame", every)]
    jobs += [(name, Job(num_videos=round(few.num_videos * times), hours=few.hours * times)) for name, times in larger.items()]
    shares = cost_of(few, rates, assumed).by_stage
    spent = ", ".join(f"{stage} {hours / sum(shares.values()):.0%}" for stage, hours in sorted(shares.items(), key=lambda s: -s[1])[:5])
    return f"{BEGIN}\n{table(jobs, rates, assumed)}\n\nOf the core hours: {spent}.\n{END}"


def measured() -> tuple[dict[str, float], Assumed]:
    """Rates by stage of the newest measurement, and what two workers of it were worth."""
    annotate = json.loads(ANNOTATE.read_text())
    return annotate["frames_per_s_by_stage"], Assumed(second_core=annotate["speedup_two_workers"] / 2)


def main() -> None:
    """Print what a list takes, or write the table of docs/operations.md anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="a list with lengths (default: the table of docs/operations.md)")
    parser.add_argument("--frames-per-second", type=float, default=MEASURED_FRAMES_PER_S, help="that are looked at (default: 5)")
    parser.add_argument("--write", action="store_true", help="write the table into docs/operations.md")
    rates, assumed = measured()
    arguments = parser.parse_args()
    if arguments.videos:
        print(table([(arguments.videos.stem, job_of(arguments.videos, arguments.frames_per_second))], rates, assumed))
    elif arguments.write:
        before, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(before + shown(rates, assumed) + rest.split(END)[1])
    else:
        print(shown(rates, assumed))


if __name__ == "__main__":
    main()
