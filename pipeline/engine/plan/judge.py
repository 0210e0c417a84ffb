"""Where tasks stand by what lies in the folder: which are done, which failed for good, and why the others are pending."""

from collections.abc import Collection, Sequence
from functools import partial

from pipeline.engine.plan.columns import Columns
from pipeline.engine.plan.contents import Contents
from pipeline.engine.plan.former import Former
from pipeline.engine.plan.recipes import Recipes
from pipeline.engine.plan.tasks import BAD, State, Task, Why, difference, tables_of
from pipeline.engine.store import Store
from stages.stage import Stage, tables_written
from stages.tables import Clips, Videos

_NOT_FOR_CLIPS = frozenset({"camera"})
"""Columns of `Videos` that no clip hangs on: a video that lacks them is looked at again, and what was made from it is as good as it was."""


class Judge:
    """Settles tasks from the parts and error files of a folder."""

    def __init__(self, stages: Sequence[Stage], store: Store, columns: Columns, recipes: Recipes, contents: Contents) -> None:
        self.store, self.columns, self.recipes, self.contents = store, columns, recipes, contents
        self.fetch: Collection[str] = ()
        """Videos whose file is gone and is wanted."""
        folders = [tables_of(stage) for stage in stages]
        self._tables = [[(folder, kind.schema()) for kind, folder in tables.items()] for tables in folders]
        self._written = [tables_written(stage) for stage in stages]
        self._formers = tuple(Former(stages, recipes.origins, folders, one_people) for one_people in (False, True))

    def forget(self) -> None:
        """Let go of what was needed for a video's tasks."""
        for former in self._formers:
            former.forget()

    def judge(self, task: int) -> None:
        """Settle a task, or say why it is pending. Done is what has all of its parts."""
        parts = self._parts(task)
        self._settle_from(task, parts)
        there = any(fingerprint is not None for _, fingerprint in parts)
        self.columns.stale[task] = there and self.columns.state(task) is not State.DONE and not self.columns.again(task)

    def refresh(self, task: int, bundled: Collection[str]) -> None:
        """See the parts of a task as they are now, where a worker may have another mirror of the folder; but for tables whose part was
        `bundled`. Raises StoreError."""
        folders = [folder for folder, _ in self._tables[self.columns.stage[task]] if folder not in bundled]
        self.store.refresh(folders, self.columns.key(task))

    def is_made(self, task: int) -> bool:
        """Whether the parts of a task lie in the folder, as this process sees it."""
        return all(found == self.recipes.fingerprint(task) for _, found in self._parts(task))

    def is_there(self, task: int) -> bool:
        """Whether a task has parts at all, of whatever fingerprint."""
        return all(found for _, found in self._parts(task))

    def _parts(self, task: int) -> list[tuple[str, str | None]]:
        """The folder and the fingerprint of each part of a task; None of one that is not there."""
        key = self.columns.key(task)
        return [(folder, self.store.footers.fingerprint(folder, key, schema)) for folder, schema in self._tables[self.columns.stage[task]]]

    def _settle_from(self, task: int, parts: Sequence[tuple[str, str | None]]) -> None:
        columns, wanted, needs = self.columns, self.recipes.fingerprint(task), self.columns.needs(task)
        if self._made_before(task, parts):
            columns.set_state(task, State.DONE)
            return
        if any(columns.state(need) in BAD for need in needs):
            columns.set_state(task, State.BLOCKED)
            columns.set_reason(task, "upstream failed")
            return
        why = Why.UPSTREAM if any(columns.state(need) is State.PENDING and not columns.again(need) for need in needs) else None
        if all(fingerprint == wanted for _, fingerprint in parts):
            why = why or self._why_again(task)
            columns.set_why(task, why)
            columns.set_state(task, State.PENDING if why else State.DONE)
            return
        key = columns.key(task)
        error = self.store.error(parts[0][0], key)
        if error and error.fingerprint == wanted:
            columns.set_reason(task, error.reason)
            if error.permanent and why is None:
                columns.set_state(task, State.FAILED)
            else:
                columns.set_why(task, Why.RETRY)
            return
        place = next(place for place, (_, fingerprint) in enumerate(parts) if fingerprint != wanted)
        folder, schema = self._tables[columns.stage[task]][place]
        other = None if parts[place][1] is None else self.store.made_by(folder, key, schema)
        columns.set_why(task, Why.NEW if other is None else difference(other, self.recipes.recipe(task)))

    def _why_again(self, task: int) -> Why | None:
        """Why a committed part is made again all the same: its file is gone and wanted, or the plan cannot read it."""
        written, key = self._written[self.columns.stage[task]], self.columns.key(task)
        if Videos in written and key in self.fetch:
            return Why.MISSING
        if Videos in written and self._is_here(key):
            lacks = partial(self.store.footers.lacks, self.recipes.table(task), key, Videos.schema())
            if lacks(Videos.young_columns().keys() - _NOT_FOR_CLIPS):
                return Why.CODE
            return Why.PROBE if lacks(_NOT_FOR_CLIPS) else None
        if Clips in written:
            try:
                self.contents.clips(key)
            except ValueError:
                return Why.CORRUPT
        return None

    def _made_before(self, task: int, parts: Sequence[tuple[str, str | None]]) -> bool:
        """Whether the parts were made, wholly or in part, in the layout before, and what they were made from is still there."""
        found, wanted = [fingerprint for _, fingerprint in parts if fingerprint], self.recipes.fingerprint(task)
        if len(found) < len(parts) or all(fingerprint == wanted for fingerprint in found):
            return False
        if Clips in self._written[self.columns.stage[task]] and self._is_here(self.columns.key(task)):
            return False  # the video can be asked again
        one = Task(self.recipes, task)
        for former in self._formers:
            before = former.fingerprints(one)
            good = all(fingerprint in (wanted, before.get(folder)) for fingerprint, (folder, _) in zip(found, parts, strict=True))
            if good and all(need.state is State.DONE for need in former.needs(one)):
                return True
        return False

    def _is_here(self, video: str) -> bool:
        """Whether the file of a video lies there to be read."""
        row = self.contents.row(video)
        return row is not None and self.store.size_of(self.store.root / row.path) is not None
