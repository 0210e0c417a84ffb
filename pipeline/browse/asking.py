"""Questions to the index: which hands a filter takes, in which order, how they are spread. Every value that comes from outside is bound."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.dataset.where import Kind, Where, columns_of, read_where
from stages.errors import UserError
from stages.settings import unknown

_HIDDEN = ("clip_id", "video_id", "stamp")
_LISTED = (
    "video", "clip", "frame", "time_s", "hand", "side", "score", "quality", "keep", "box_only", "reason", "verdict", "track", "size_px",
    "error_px", "rarity", "sources", "split", "width", "height", "x0", "y0", "x1", "y1", "refused", "view",
)  # fmt: skip
MOST_LISTED, MOST_ON_MAP = 500, 4000
_FACETS = ("side", "split", "keep", "box_only", "reason", "verdict", "stale", "outcome")
_SPREADS: Mapping[str, tuple[float, float]] = {"quality": (0, 1), "score": (0, 1), "size_px": (0, 400), "error_px": (0, 20)}
"""Numbers whose histograms are shown, and their range; what lies outside counts in the outermost bin."""
_BINS = 20
_HANDS = """
    create or replace view hands as
    select h.*, h.hand < 0 as refused, c.clip, v.* exclude (video_id), s.verdict
    from ix.hands h join ix.clips c using (clip_id) join ix.videos v using (video_id)
    left join said s on s.video = v.video and s.frame = h.frame and s.hand = h.hand"""
_FRAMES = pa.schema([("video", pa.string()), ("frame", pa.int64())])
_SAID = pa.schema([("video", pa.string()), ("frame", pa.int64()), ("hand", pa.int16()), ("verdict", pa.string())])

Row = dict[str, Any]


@dataclass(slots=True)
class Asking:
    """An index opened, with what is decided on its hands beside it."""

    connection: Any
    columns: dict[str, Kind] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.connection.execute("create or replace table said (video varchar, frame bigint, hand smallint, verdict varchar)")
        self.connection.execute(_HANDS)
        empty = self.connection.sql("select * from hands limit 0").to_arrow_table()
        self.columns = {name: kind for name, kind in columns_of(empty.schema).items() if name not in _HIDDEN}

    def where(self, text: str) -> Where:
        """A filter that a person wrote. Candidates that fusion refused are taken where it asks for `refused`. Raises UserError."""
        where = read_where(text, self.columns)
        return where if '"refused"' in where.sql else Where(f"({where.sql} and not refused)", where.values)

    def set_said(self, video: str, rows: Sequence[tuple[int, int, str]]) -> None:
        """State what stands decided on the hands of a video: frame, hand, verdict."""
        frames, hands, verdicts = ([row[i] for row in rows] for i in range(3))
        said = pa.table([[video] * len(rows), frames, hands, verdicts], schema=_SAID)
        with self.connection.cursor() as cursor:
            cursor.execute("delete from said where video = ?", [video])
            cursor.register("new_said", said)
            cursor.execute("insert into said select * from new_said")

    def hands(self, where: Where, *, sort: str = "", descending: bool = False, offset: int = 0, limit: int = 60) -> Row:
        """A page of the hands that a filter takes, and how many there are. Raises UserError for a column that cannot be sorted by."""
        if sort and sort not in self.columns:
            raise UserError(unknown(sort[:60], self.columns, "column"))
        quoted = '"' + sort.replace('"', '""') + '"'
        first = f"{quoted} {'desc' if descending else 'asc'} nulls last, " if sort else ""
        values = list(where.values)
        rows = self._ask(
            f"select {', '.join(_LISTED)} from hands where {where.sql} order by {first}clip_id, frame, hand limit ? offset ?",
            [*values, max(1, min(limit, MOST_LISTED)), max(0, offset)],
        )
        counts = self._ask(f"select count(*) as total, count(*) filter (where refused) as refused from hands where {where.sql}", values)[0]
        return {**counts, "rows": rows}

    def facets(self, where: Where) -> Row:
        """How the hands of a filter are spread: counts by value, and histograms."""
        bins = ", ".join(
            f"case when {name} is not null then "
            f"least({_BINS - 1}, greatest(0, floor(({name}::double - {low}) * {_BINS} / {high - low})))::tinyint end as bin_{name}"
            for name, (low, high) in _SPREADS.items()
        )
        asked = [*_FACETS, *(f"bin_{name}" for name in _SPREADS)]
        sets = ", ".join(f"({name})" for name in asked)
        grouped = self._ask(
            f"with taken as (select {', '.join(_FACETS)}, {bins} from hands where {where.sql}) "
            f"select {', '.join(asked)}, {', '.join(f'grouping({name}) as g_{name}' for name in asked)}, count(*) as num "
            f"from taken group by grouping sets ({sets})",
            list(where.values),
        )
        counts: dict[str, list[Row]] = {name: [] for name in _FACETS}
        spreads = {name: {"low": low, "high": high, "counts": [0] * _BINS} for name, (low, high) in _SPREADS.items()}
        for row in grouped:
            name = next(name for name in asked if not row[f"g_{name}"])
            if name in counts:
                counts[name].append({"value": row[name], "num": row["num"]})
            elif row[name] is not None:
                bins_of: Any = spreads[name.removeprefix("bin_")]["counts"]
                bins_of[row[name]] = row["num"]
        counts["refused"] = self._ask("select reason as value, count(*) as num from ix.hands where hand < 0 group by 1")
        counts["sources"] = self._ask(
            f"select source as value, count(*) as num from (select unnest(sources) as source from hands where {where.sql}) group by 1",
            list(where.values),
        )
        counts["video"] = self._ask(
            f"select video as value, count(*) as num from hands where {where.sql} group by 1 order by 2 desc, 1 limit 50",
            list(where.values),
        )
        for rows in counts.values():
            rows.sort(key=lambda row: (-int(row["num"]), str(row["value"])))
        return {"counts": counts, "spreads": spreads}

    def poses(self, where: Where) -> list[Row]:
        """Hands of a filter on the map of poses: all of them, or as many by chance."""
        return self._ask(
            f"select video, frame, hand, side, quality, rarity, map_x, map_y from hands where {where.sql} and map_x is not null "
            f"order by hash(clip_id, frame, hand) limit {MOST_ON_MAP}",
            list(where.values),
        )

    def sample(self, where: Where, size: int, seed: int) -> list[Row]:
        """So many hands of a filter, by chance, the same by the same seed."""
        return self._ask(
            f"select video, clip, frame, time_s, hand, side, x0, y0, x1, y1 from hands where {where.sql} and not refused "
            "order by hash(video, frame, hand, ?), video, frame, hand limit ?",
            [*where.values, seed, size],
        )

    def of_clip(self, clip: str) -> list[Row]:
        """Every hand of a clip, in order of frames."""
        return self._ask(
            "select frame, time_s, hand, side, track, keep, reason, quality, verdict, view, [x0, y0, x1, y1] as box from hands "
            "where clip = ? and not refused order by frame, hand",
            [clip],
        )

    def on_frames(self, places: Sequence[tuple[str, int]]) -> list[Row]:
        """Every hand of some frames (video, frame)."""
        return self._ask_of(
            places,
            "select v.video, h.frame, h.hand, [h.x0, h.y0, h.x1, h.y1] as box from ix.hands h join ix.clips using (clip_id) "
            "join ix.videos v using (video_id) semi join asked_frames a on a.video = v.video and a.frame = h.frame where h.hand >= 0",
        )

    def place_of(self, video: str, frame: int, hand: int) -> tuple[float, ...] | None:
        """A hand's box, the width of the image that it is measured in, and which view of the frame that is."""
        found = self._ask(
            "select x0, y0, x1, y1, width, view from ix.hands join ix.clips using (clip_id) join ix.videos using (video_id) "
            "where video = ? and frame = ? and hand = ? limit 1",
            [video, frame, hand],
        )
        return tuple(map(float, found[0].values())) if found else None

    def clips_of(self, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], str]:
        """The clips that some frames (video, frame) lie in; those of no clip are left out."""
        found = self._ask_of(
            places,
            "select a.video, a.frame, c.clip from asked_frames a join ix.videos v on v.video = a.video join ix.clips c using (video_id) "
            "where a.frame >= c.first_frame and a.frame < c.first_frame + c.num_frames",
        )
        return {(row["video"], row["frame"]): row["clip"] for row in found}

    def images_of(self, video: str, first: int, last: int) -> list[Row]:
        """Frames of a stretch whose images lie in a shard, and where."""
        return self._ask(
            "select frame, view, path, row_group, row from ix.samples join ix.shards using (shard) join ix.videos using (video_id) "
            "where video = ? and frame between ? and ? order by frame, view",
            [video, first, last],
        )

    def _ask(self, query: str, values: Sequence[Any] = ()) -> list[Row]:
        with self.connection.cursor() as cursor:
            found = cursor.execute(query, list(values))
            return _rows(found)

    def _ask_of(self, places: Sequence[tuple[str, int]], query: str) -> list[Row]:
        """Rows of a query about some frames (video, frame), which it finds in the table `asked_frames`."""
        asked = pa.table({"video": [video for video, _ in places], "frame": [frame for _, frame in places]}, schema=_FRAMES)
        with self.connection.cursor() as cursor:
            cursor.register("asked_frames", asked)
            return _rows(cursor.execute(query))


def _rows(found: Any) -> list[Row]:
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]
