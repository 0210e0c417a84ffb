"""A data folder of clips that nobody ran: what a plan reads of it is real, what no plan opens is empty.

Videos and clip lists are parts as a run writes them, the ledger is whole, and each part of a clip is an empty file of which the ledger says
what a run would have put there.
"""

from pathlib import Path

from benchmarks.scale.clips import manifest, recipe
from pipeline.engine.files.ledger import Line, facts_of
from pipeline.engine.graph import Graph
from pipeline.engine.plan.columns import Columns
from pipeline.engine.plan.contents import Contents
from pipeline.engine.plan.inputs import Inputs
from pipeline.engine.plan.recipes import Recipes
from pipeline.engine.store import Store
from stages.stage import tables_written

PLANNED_ONLY = "planned_only"
"""A file that marks such a folder."""
_TOGETHER = 200
"""Videos whose parts are flushed together."""


def pretend(folder: Path, num_clips: int) -> None:
    """Fill an empty folder. Raises AssertionError where a plan of it has anything to do."""
    store, stages, listed = Store(folder), recipe(num_clips), manifest(num_clips)
    (folder / PLANNED_ONLY).touch()
    graph = Graph(stages, listed, store)
    columns = Columns(stages, graph.reads, map(str, listed.video))
    inputs = Inputs(stages, listed, store, columns, Contents(store))
    recipes = Recipes(stages, listed, columns, inputs, Contents(store))
    fetch, cut, *_ = (stage.build() for stage in stages)
    schemas = [tables_written(stage)[0].schema() for stage in stages]
    for table in recipes.tables[2:]:
        (folder / table).mkdir()
    for start in range(0, len(listed), _TOGETHER):
        with store.together():
            for video in range(start, min(start + _TOGETHER, len(listed))):
                columns.add_video(video, 0)
                inputs.take_video(video)
                videos = fetch(listed.take(slice(video, video + 1)))
                clips = cut(videos)
                columns.add_clips(video, list(clips.clip))
                inputs.take_clips(video, clips)
                for task, content in zip(columns.tasks_of_video(video), (videos, clips), strict=True):
                    store.commit(recipes.table(task), columns.key(task), content, recipes.recipe(task))
                for task in columns.tasks_of_clips(video):
                    table, key = recipes.table(task), columns.key(task)
                    part, fits = store.part(table, key), store.footers.digest_of_schema(schemas[columns.stage[task]])
                    part.touch()
                    store.footers.ledger.note(table, key, Line(*facts_of(part.stat()), fits, recipes.fingerprint(task), "", "{}"))
    graph.load()
    assert not graph.pending
    graph.remember()
