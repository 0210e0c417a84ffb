"""A data folder in Python: `whim.open(folder).hands(where=...)`, a row a hand, and `.frames()`, an image with its hands at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.engine.roots.opening import opened
from pipeline.exports.mano import schema_of, tables
from pipeline.exports.source import Frame, open_source
from stages.tables import to_numpy

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False, slots=True)
class HandTable:
    """Hands, one a row, as an Arrow table; a column by its name is a numpy array: `hands["keypoints"]` is [n, 21, 3]."""

    arrow: pa.Table

    def __len__(self) -> int:
        return len(self.arrow)

    def __getitem__(self, column: str) -> np.ndarray:
        """A column as numpy, lists of one length as further axes. Raises KeyError for one that there is not."""
        return to_numpy(self.arrow.column(column))

    def __repr__(self) -> str:
        return f"{len(self):,} hands, columns {', '.join(self.columns)}"

    @property
    def columns(self) -> list[str]:
        """Names of all columns: docs/shards.md says what they mean."""
        return list(self.arrow.column_names)

    def to_pandas(self) -> "pandas.DataFrame":
        """A data frame. Needs pandas."""
        return self.arrow.to_pandas()


@dataclass(frozen=True, slots=True)
class Data:
    """The shards of a data folder."""

    folder: Path

    def hands(self, where: str = "") -> HandTable:
        """The hands that were kept, those alone that a filter takes: `"quality > .8 and side = right"` (docs/exports.md).

        Raises UserError for a filter that cannot be read.
        """
        source = open_source(self.folder, where)
        return HandTable(pa.concat_tables([schema_of(source).empty_table(), *tables(source)]))

    def frames(self, where: str = "", *, split: str | None = None) -> Iterator[Frame]:
        """Frames with their hands, in the order of the shards, a row group in memory; under a filter those alone with a hand that it takes.

        `frame.rgb()` is the image, `frame.hands["keypoints"]` an array [n, 21, 3], `frame.ignore` boxes of hands that were dropped.
        """
        return open_source(self.folder, where).frames(split)


def open(folder: str | Path) -> Data:
    """A data folder of `whim run`, or a folder of shards. Raises UserError where there are no shards."""
    return Data(open_source(opened(folder)).folder)
