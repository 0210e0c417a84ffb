"""LeRobot v3.0: `data/`, `meta/` and `videos/` as `lerobot.datasets.LeRobotDataset(repo_id, root=folder)` reads them.

An episode is an unbroken stretch of a clip. A frame's state is that of one left and one right hand, those of its clip that are seen on most
frames; `present` says whether one is there, all else is 0 where it is not. Times are frame numbers over `fps`, the rate of most clips;
`source.time_s` is when the frame truly was. Images of other sizes are fitted into the commonest one, on grey, and all pixels with them. Of
a camera that bends straight lines the one view is shown that most hands of the clip are in.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from pipeline.exports.lerobot.meta import write_meta
from pipeline.exports.lerobot.plan import episodes, planned
from pipeline.exports.lerobot.writer import Writer
from pipeline.exports.source import Source


def write(source: Source, folder: Path, options: Mapping[str, object]) -> None:
    """Write data, videos and metadata; a frame is in memory, and the numbers of an episode."""
    plan = planned(source)
    video = not options.get("images")
    with ExitStack() as stack:
        writer = Writer(folder, plan, video=video)
        stack.callback(writer.close)
        for episode in episodes(source, plan):
            writer.add(episode)
    write_meta(folder, source, plan, writer, video=video)
