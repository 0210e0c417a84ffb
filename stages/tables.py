"""Every table and every column: the one schema file. Arrow schemas are derived from these annotations.

Frame of reference. A row names its frame by video, `frame` (index in presentation order, from 0) and `time_s` (presentation time after
the video's first frame). Boxes are xyxy in pixels of the full upright frame with square pixels, never clipped. Keypoints
are x, y in the same pixels and a confidence in [0, 1]; a hand's 21 are in OpenPose's order (wrist, then thumb, index, middle,
ring, little from palm to tip), a body's 17 in COCO's. Side: 0 left, 1 right, the person's own. Angles are axis-angle radians,
lengths metres. Unknown numbers are NaN, unknown indices -1.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Float64, Int8, Int16, Int32, Int64, Shaped, UInt64

SCHEMA_VERSION = 2

LEFT, RIGHT = 0, 1
UNKNOWN_SIDE = -1

HAND_KEYPOINTS: tuple[str, ...] = (
    "wrist",
    *(f"{finger}{joint}" for finger in ("thumb", "index", "middle", "ring", "little") for joint in (1, 2, 3, 4)),
)
"""OpenPose's hand order: joint 1 is nearest to the wrist, joint 4 the tip."""

BODY_KEYPOINTS: tuple[str, ...] = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow",
    "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
"""COCO's body order."""

Text = Shaped[np.ndarray, "n"]
"""A column of strings: an object array."""
TextList = Annotated[np.ndarray, pa.list_(pa.string())]
"""A ragged column: an object array whose items are lists."""
FloatList = Annotated[np.ndarray, pa.list_(pa.float32())]
IntList = Annotated[np.ndarray, pa.list_(pa.int16())]
_T = TypeVar("_T", bound="Table")  # not typing.Self: beartype knows that in decorated classes only
BoxList = Annotated[np.ndarray, pa.list_(pa.list_(pa.float32(), 4))]


def young(before: str | float | list[Any]) -> dict[str, Any]:
    """Metadata of a column that is younger than data folders: what it says in parts that were written without it."""
    return {"before": before}


def later(before: str | float | list[Any]) -> Any:
    """A young column that whoever makes a table may leave out: it says then what it does in parts of before."""
    return dataclasses.field(default=None, metadata=young(before))


def _arrow_type(annotation: Any) -> pa.DataType:
    """Arrow type of a column from its annotation: jaxtyping's dtype and trailing sizes, or the type stated in `Annotated`."""
    if get_origin(annotation) is Annotated:
        return next(a for a in get_args(annotation) if isinstance(a, pa.DataType))
    if annotation.dim_str == "n" and not isinstance(annotation.dtypes, (list, tuple)):
        return pa.string()
    arrow = pa.from_numpy_dtype(np.dtype(annotation.dtypes[0]))
    for size in reversed(annotation.dim_str.split()[1:]):
        arrow = pa.list_(arrow, int(size))
    return arrow


def _to_arrow(values: np.ndarray, arrow: pa.DataType) -> pa.Array:
    if pa.types.is_fixed_size_list(arrow):
        sizes = []
        while pa.types.is_fixed_size_list(arrow):
            sizes.append(arrow.list_size)
            arrow = arrow.value_type
        array = pa.array(np.ascontiguousarray(values).reshape(-1), arrow)
        for size in reversed(sizes):
            array = pa.FixedSizeListArray.from_arrays(array, size)
        return array
    if pa.types.is_list(arrow):
        return pa.array([np.asarray(v).tolist() for v in values], arrow)
    return pa.array(values, arrow)


def flattened(lists: pa.FixedSizeListArray) -> pa.Array:
    """The items of lists of one size, one after another, without a copy: `flatten` alone takes longer than all else for a small column."""
    size, items = lists.type.list_size, lists.values
    if lists.null_count:
        return lists.flatten()
    return items if len(items) == size * len(lists) else items.slice(size * lists.offset, size * len(lists))


def to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """The values of a column, with the sizes of its lists as further axes; ragged lists and texts as objects."""
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if pa.types.is_fixed_size_list(array.type):
        shape = [len(array)]
        while pa.types.is_fixed_size_list(array.type):
            shape.append(array.type.list_size)
            array = flattened(array)
        return array.to_numpy(zero_copy_only=False).reshape(shape)
    if pa.types.is_list(array.type):
        ragged = np.empty(len(array), object)
        ragged[:] = array.to_pylist()
        return ragged
    if pa.types.is_string(array.type):
        return array.to_numpy(zero_copy_only=False).astype(object)
    return array.to_numpy(zero_copy_only=False)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Table:
    """A struct of columns, all of length n, zero-copy to and from Arrow where the type allows."""

    def __post_init__(self) -> None:
        """Fill the `later` columns that nobody gave."""
        absent = {name: before for name, before in self.young_columns().items() if getattr(self, name) is None}
        if absent:
            for name, values in self._filled(absent, len(self)).items():
                object.__setattr__(self, name, values)

    @classmethod
    def _filled(cls, columns: dict[str, Any], count: int) -> dict[str, np.ndarray]:
        """Columns that say one thing in every row."""
        types = {field.name: field.type for field in cls.schema()} if columns else {}
        return {name: to_numpy(pa.chunked_array([pa.array([v] * count, types[name])])) for name, v in columns.items()}

    @classmethod
    def schema(cls) -> pa.Schema:
        """Arrow schema: one field a column, with the table's name and schema version as metadata."""
        return _schema(cls)  # type: ignore[arg-type]  # classes are hashable, whatever their instances are

    @classmethod
    def from_arrow(cls: type[_T], table: pa.Table) -> _T:
        """Columns of an Arrow table, young ones filled; raises ValueError that names what is missing when the schema differs."""
        wanted = cls.schema()
        if not table.schema.equals(wanted):
            table = cls._fitted(table)
        return cls(**{name: to_numpy(column) for name, column in zip(_names(cls), table.columns, strict=True)})  # type: ignore[arg-type]

    @classmethod
    def _fitted(cls, table: pa.Table) -> pa.Table:
        """The columns of this table alone, in their order, young ones filled. Raises ValueError."""
        wanted = cls.schema()
        for name, before in cls.young_columns().items():
            if name not in table.column_names:
                table = table.append_column(wanted.field(name), pa.array([before] * len(table), wanted.field(name).type))
        for field in wanted:
            if field.name not in table.column_names or table.schema.field(field.name).type != field.type:
                raise ValueError(
                    f"table {cls.__name__} needs a column {field.name}: {field.type}; this file was written by another "
                    f"schema version ({(table.schema.metadata or {}).get(b'schema_version', b'?').decode()}, ours {SCHEMA_VERSION})"
                )
        return table.select(wanted.names)

    @classmethod
    def of(cls: type[_T], **columns: Any) -> _T:
        """The table of these columns; a young one that is not among them says what it does where it is lacking."""
        return cls(**cls._filled(cls.young_columns(), len(next(iter(columns.values())))) | columns)

    @classmethod
    def young_columns(cls) -> dict[str, Any]:
        """Columns that parts of earlier versions lack, with what they say there."""
        return dict(_young_columns(cls))  # type: ignore[arg-type]  # classes are hashable, whatever their instances are

    def to_arrow(self) -> pa.Table:
        """The Arrow table of these columns, in the derived schema."""
        schema = self.schema()
        return pa.Table.from_arrays([_to_arrow(getattr(self, f.name), f.type) for f in schema], schema=schema)

    @classmethod
    def empty(cls: type[_T]) -> _T:
        """A table without rows."""
        found: _T = _empty(cls)  # type: ignore[arg-type]
        return found

    @classmethod
    def concat(cls: type[_T], tables: Sequence[_T]) -> _T:
        """One table of all rows, in order."""
        if len(tables) == 1:
            return tables[0]
        columns = _names(cls)  # type: ignore[arg-type]
        return cls(**{c: np.concatenate([getattr(t, c) for t in tables]) for c in columns}) if tables else cls.empty()

    def take(self: _T, rows: Any) -> _T:
        """The rows of a mask, an index array or a slice."""
        return type(self)(**{name: getattr(self, name)[rows] for name in _names(type(self))})  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(getattr(self, _names(type(self))[0]))  # type: ignore[arg-type]

    def rows(self: _T) -> Iterator[_T]:
        """One-row tables, in order."""
        return (self.take(slice(i, i + 1)) for i in range(len(self)))


@cache
def _names(kind: type[Table]) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(kind))


@cache
def _young_columns(kind: type[Table]) -> dict[str, Any]:
    return {f.name: f.metadata["before"] for f in dataclasses.fields(kind) if "before" in f.metadata}


@cache
def _empty(kind: type[Table]) -> Any:
    """Made once: a stage asks for one in every clip in which it has nothing to say."""
    return kind.from_arrow(kind.schema().empty_table())


@cache
def _schema(kind: type[Table]) -> pa.Schema:
    hints = get_type_hints(kind, include_extras=True)
    fields = [pa.field(f.name, _arrow_type(hints[f.name]), nullable=False) for f in dataclasses.fields(kind)]
    return pa.schema(fields, {"table": kind.__name__, "schema_version": str(SCHEMA_VERSION)})


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Manifest(Table):
    """What to build from: one row a video of the list. Unknown wishes are 0 or ''."""

    video: Text  # id, unique, safe as a file name
    source: Text  # YouTube id, URL or absolute path of a local file
    split: Text  # train, val, test, or '' to be dealt by a hash of the id
    frames_per_second: Float64[np.ndarray, "n"]  # of the annotated original
    num_frames: Int64[np.ndarray, "n"]
    width: Int32[np.ndarray, "n"]
    height: Int32[np.ndarray, "n"]
    start_s: Float64[np.ndarray, "n"] = dataclasses.field(metadata=young(0.0))  # the stretch that is wanted
    end_s: Float64[np.ndarray, "n"] = dataclasses.field(metadata=young(0.0))  # 0: to its end
    extra: Text = dataclasses.field(metadata=young(""))  # free columns of the list as JSON: {"signer": "ann"}
    camera: Text = later("")  # what the list says of the camera, as JSON: see `stages.cameras.said`


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Videos(Table):
    """A video that is here: where it lies, what it is, whose it is."""

    video: Text
    path: Text  # relative to the data folder, or absolute for the user's own files
    source: Text
    sha256: Text
    size_bytes: Int64[np.ndarray, "n"]
    codec: Text
    pixel_format: Text
    format_id: Text  # yt-dlp's name of the stream
    width: Int32[np.ndarray, "n"]  # upright, square pixels
    height: Int32[np.ndarray, "n"]
    frames_per_second: Float64[np.ndarray, "n"]  # average, as the container says
    duration_s: Float64[np.ndarray, "n"]  # as the container says; the clips say what could be decoded
    rotation_deg: Int32[np.ndarray, "n"]  # clockwise turn that makes it upright
    licence: Text
    channel: Text
    title: Text
    upload_date: Text
    tool: Text  # downloader and version
    stream: Int16[np.ndarray, "n"] = dataclasses.field(metadata=young(-1))  # which stream of the file is the film; -1: nobody looked
    num_films: Int16[np.ndarray, "n"] = dataclasses.field(metadata=young(1))  # moving streams that could have been it
    stream_why: Text = dataclasses.field(metadata=young(""))  # why this stream, and what was passed over; '' when it is the only one
    interlaced: Bool[np.ndarray, "n"] = dataclasses.field(metadata=young(False))  # its frames are woven of two fields
    transfer: Text = dataclasses.field(metadata=young(""))  # pq, hlg or bt2020: mapped to BT.709; '' of ordinary video
    transparent: Bool[np.ndarray, "n"] = dataclasses.field(metadata=young(False))  # it lies on grey
    start_s: Float64[np.ndarray, "n"] = dataclasses.field(metadata=young(0.0))  # the stretch that the list wants
    end_s: Float64[np.ndarray, "n"] = dataclasses.field(metadata=young(0.0))  # 0: to its end
    extra: Text = dataclasses.field(metadata=young(""))  # free columns of the list, as JSON
    camera: Text = later("")  # what the file itself says of its camera, as JSON: see `stages.cameras.said`


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Clips(Table):
    """Stretches of one video between two shot cuts, in order. All decodable frames that the list wants lie in exactly one."""

    clip: Text  # <video>-<four digits>
    video: Text
    start_s: Float64[np.ndarray, "n"]  # presentation time of the first frame
    end_s: Float64[np.ndarray, "n"]  # presentation time just after the last frame (exclusive)
    first_frame: Int64[np.ndarray, "n"]  # index of the first frame
    num_frames: Int64[np.ndarray, "n"]  # decoded, not claimed
    frames_per_second: Float64[np.ndarray, "n"]  # rate at which the clip is annotated; 0 = every frame
    ends_with: Text  # shot, size, codec, length, end, or damage (the decoder stopped before the container's end)
    width: Int32[np.ndarray, "n"] = dataclasses.field(metadata=young(0))  # of its images; 0: those of the video
    height: Int32[np.ndarray, "n"] = dataclasses.field(metadata=young(0))
    stream: Int16[np.ndarray, "n"] = dataclasses.field(metadata=young(-1))  # which stream of the file its frames are
    deinterlace: Text = dataclasses.field(metadata=young(""))  # '', or that it has one frame for each `frame` or each `field`
    odd: Text = dataclasses.field(metadata=young(""))  # what makes it another clip than versions before had: see `split`
    extra: Text = dataclasses.field(metadata=young(""))  # free columns of the list, as JSON


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Cameras(Table):
    """The camera of a clip, and the views that are looked at: one row a view, of a plain camera the one that is its whole image.

    What bends straight lines much is looked at through views, pinholes at the same place: then row -1 is the camera itself. Never stored:
    made of what the list and the file say (`stages.cameras.said`).
    """

    view: Int16[np.ndarray, "n"]
    projection: Text  # rectilinear, fisheye, equirectangular
    width: Int32[np.ndarray, "n"]  # of the view's image
    height: Int32[np.ndarray, "n"]
    focal_px: Float64[np.ndarray, "n 2"]  # along x and y; NaN where nobody knows it
    principal: Float64[np.ndarray, "n 2"]
    distortion: FloatList  # see `fitting.camera`
    rotation: Float64[np.ndarray, "n 3 3"]  # from the axes of the camera to those of the view
    camera_from: Text  # manifest, metadata, or assumed


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Views(Cameras):
    """Rows of `Cameras` for who needs to know only where one looks: the focal length of a plain camera is nothing to them."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class CameraPoses(Table):
    """Where a video's camera stood on the frames of which somebody says it. Never stored: read where it is said (`stages.cameras.path`)."""

    frame: Int64[np.ndarray, "n"]  # index within the video; -1: its time is known
    time_s: Float64[np.ndarray, "n"]  # NaN: its index is known
    world_from_camera: Float64[np.ndarray, "n 3 4"]  # world = R @ camera + t, metres


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PersonBoxes(Table):
    """One row a person that one detector boxed in one frame: where a pose network looks."""

    video: Text
    frame: Int64[np.ndarray, "n"]
    time_s: Float64[np.ndarray, "n"]
    source: Text  # the detector
    box: Float32[np.ndarray, "n 4"]
    score: Float32[np.ndarray, "n"]
    view: Int16[np.ndarray, "n"] = later(0)  # which view of the frame its pixels are


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Poses(Table):
    """One row a person and frame, as one whole-body pose network sees them: the body and both hands."""

    video: Text
    frame: Int64[np.ndarray, "n"]
    time_s: Float64[np.ndarray, "n"]
    source: Text  # the pose network
    person: Int16[np.ndarray, "n"]  # index within the frame
    box: Float32[np.ndarray, "n 4"]  # of the person, as the person detectors have it
    score: Float32[np.ndarray, "n"]  # the person detectors'
    body: Float32[np.ndarray, "n 17 3"]
    left_hand: Float32[np.ndarray, "n 21 3"]
    right_hand: Float32[np.ndarray, "n 21 3"]
    view: Int16[np.ndarray, "n"] = later(0)  # which view of the frame its pixels are


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PersonDetections(Table):
    """One row a person that one detector found in one frame, with the body's keypoints."""

    video: Text
    frame: Int64[np.ndarray, "n"]
    time_s: Float64[np.ndarray, "n"]
    source: Text  # the detector
    person: Int16[np.ndarray, "n"]  # index within the frame, the detector's own
    box: Float32[np.ndarray, "n 4"]
    score: Float32[np.ndarray, "n"]
    keypoints: Float32[np.ndarray, "n 17 3"]
    view: Int16[np.ndarray, "n"] = later(0)  # which view of the frame its pixels are


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class People(Table):
    """One row a person and frame, however many detectors saw them: `person` is the number that hands and detections name."""

    video: Text
    frame: Int64[np.ndarray, "n"]
    time_s: Float64[np.ndarray, "n"]
    person: Int16[np.ndarray, "n"]  # index within the frame, surest first
    box: Float32[np.ndarray, "n 4"]
    score: Float32[np.ndarray, "n"]
    keypoints: Float32[np.ndarray, "n 17 3"]
    sources: TextList  # one item a row of `PersonDetections` that is this person, surest first
    source_persons: IntList  # its number there, in the same order
    view: Int16[np.ndarray, "n"] = later(0)  # which view of the frame its pixels are


UNKNOWN_HINT = [[float("nan")] * 4] * 21


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class HandProposals(Table):
    """One row a box of a frame that may be a hand: places for others to look at, nothing that counts by itself."""

    video: Text
    frame: Int64[np.ndarray, "n"]
    time_s: Float64[np.ndarray, "n"]
    source: Text  # who proposes
    box: Float32[np.ndarray, "n 4"]
    score: Float32[np.ndarray, "n"]  # as the proposer says it, in [0, 1]
    p_right: Float32[np.ndarray, "n"]  # probability of a right hand; NaN when the proposer does not say
    keypoints: Float32[np.ndarray, "n 21 3"]  # roughly; NaN when it does not say
    view: Int16[np.ndarray, "n"] = later(0)  # which view of the frame its pixels are


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class HandDetections(Table):
    """One row a hand that one detector found in one frame, merged over its routes."""

    video: Text
    frame: Int64[np.ndarray, "n"]
    time_s: Float64[np.ndarray, "n"]
    source: Text  # the detector
    route: Text  # the crop it came from: frame, tile, wrist, person, track
    person: Int16[np.ndarray, "n"]  # whose crop, as `People` numbers them, or -1
    crop: Float32[np.ndarray, "n 4"]  # the region that was looked at
    box: Float32[np.ndarray, "n 4"]  # as the detector means it
    score: Float32[np.ndarray, "n"]  # P(b|d) in [0, 1] as the detector says it, for MediaPipe palm x presence; fusion calibrates it
    palm_score: Float32[np.ndarray, "n"]
    presence: Float32[np.ndarray, "n"]
    p_right: Float32[np.ndarray, "n"]  # probability of a right hand; NaN when the detector does not say
    keypoints: Float32[np.ndarray, "n 21 3"]
    spread: Float32[np.ndarray, "n 21"]  # how far second looks put each keypoint apart, in lengths of the hand; NaN where there was none
    world: Float32[np.ndarray, "n 21 3"]  # metres, about the hand's centre, camera axes; NaN when unknown
    hint: Float32[np.ndarray, "n 21 4"] = later(UNKNOWN_HINT)  # the model's joints about the wrist, camera axes, and deviations of their
    # depths, metres: what a network of ours makes of the landmark network's features; NaN when unknown
    view: Int16[np.ndarray, "n"] = later(0)  # which view of the frame its pixels are


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Hands(Table):
    """One row a hand and frame: all detectors' views of it, fused (WiLoR, eq. 1)."""

    video: Text
    frame: Int64[np.ndarray, "n"]
    time_s: Float64[np.ndarray, "n"]
    hand: Int16[np.ndarray, "n"]  # index within the frame
    width: Int32[np.ndarray, "n"]  # of the frame
    height: Int32[np.ndarray, "n"]
    box: Float32[np.ndarray, "n 4"]
    score: Float32[np.ndarray, "n"]  # existence in [0, 1]
    side: Int8[np.ndarray, "n"]  # 0 left, 1 right, -1 undecided
    side_log_odds: Float32[np.ndarray, "n"]  # of right against left, of all evidence in the clip
    keypoints: Float32[np.ndarray, "n 21 3"]  # confidence: that it is right, where second looks tell; else the detector's own
    landmark_score: Float32[np.ndarray, "n"]  # probability that the keypoints are not grossly wrong; NaN where nobody looked twice
    world: Float32[np.ndarray, "n 21 3"]
    person: Int16[np.ndarray, "n"]  # whose, as `People` numbers them, or -1
    track: Int32[np.ndarray, "n"]  # the same number for one hand through a clip
    track_length: Int32[np.ndarray, "n"]  # rows of that track
    num_agree: Int16[np.ndarray, "n"]  # how many sources saw it
    num_run: Int16[np.ndarray, "n"]  # how many sources looked there
    keypoint_sources: Int16[np.ndarray, "n 21"]  # who each landmark is from: bit i stands for item i of `sources`
    sources: TextList  # one item a source that saw it, in the same order below
    source_scores: FloatList  # calibrated; the source's own where nobody calibrated it
    source_scores_raw: FloatList  # P(b|d) as the detector says it
    source_boxes: BoxList
    view: Int16[np.ndarray, "n"] = later(0)  # which view of the frame its pixels are: a row of `Cameras`
    box_source: Float32[np.ndarray, "n 4"] = later([float("nan")] * 4)  # in the video's own pixels where those of a view are others
    keypoints_source: Float32[np.ndarray, "n 21 2"] = later([[float("nan")] * 2] * 21)
    hint: Float32[np.ndarray, "n 21 4"] = later(UNKNOWN_HINT)  # as in `HandDetections`, of the source that `world` is from


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class RefusedHands(Hands):
    """What detectors saw and fusion did not take for a hand, untracked: one row a frame and place, in the columns of `Hands`."""

    reason: Text  # weak, lone or covered


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Fits(Table):
    """One row a hand of `Hands`, in its order: the MANO hand that explains its landmarks.

    Parameters are smplx's for a hand of the row's side (left = right mirrored in x): vertices = MANO(betas, global_orient,
    hand_pose), camera axes x right, y down, z forward, wrist-centred before `transl`. Pixels = camera[0] * xy + camera[1:] where the
    camera is assumed, and focal_px * (xyz + transl)[:2] / (xyz + transl)[2] + principal where it is known.
    """

    video: Text
    frame: Int64[np.ndarray, "n"]
    time_s: Float64[np.ndarray, "n"]
    hand: Int16[np.ndarray, "n"]
    side: Int8[np.ndarray, "n"]  # the hand's, and of an undecided one the side that is fitted better
    outcome: Text  # converged, stalled, or why it could not be fitted
    betas: Float32[np.ndarray, "n 10"]
    global_orient: Float32[np.ndarray, "n 3"]
    hand_pose: Float32[np.ndarray, "n 45"]  # full axis-angle, the mean pose added (flat_hand_mean)
    transl: Float32[np.ndarray, "n 3"]  # the wrist before the camera, metres; to scale alone where that is assumed
    camera: Float32[np.ndarray, "n 3"]  # weak perspective: pixels per metre at the wrist, then the wrist's pixel x, y
    joints_3d: Float32[np.ndarray, "n 21 3"]  # metres, wrist-centred, camera axes
    joints_2d: Float32[np.ndarray, "n 21 2"]  # pixels
    box: Float32[np.ndarray, "n 4"]  # of the projected 778 vertices
    loss_reprojection: Float32[np.ndarray, "n"]
    loss_bone: Float32[np.ndarray, "n"]
    loss_angle: Float32[np.ndarray, "n"]
    loss_prior: Float32[np.ndarray, "n"]
    loss_shape: Float32[np.ndarray, "n"]
    loss_depth: Float32[np.ndarray, "n"]
    loss_smooth: Float32[np.ndarray, "n"]  # of the track's acceleration here; 0 at its ends and without one
    error_px: Float32[np.ndarray, "n"]  # confidence-weighted mean distance of joints to landmarks
    error_share: Float32[np.ndarray, "n"]  # error_px over the box's longer side
    inlier_ratio: Float32[np.ndarray, "n"]  # share of the landmarks used that lie near their joints: 3 robust scales, 6 % of the hand
    flip_margin: Float32[
        np.ndarray, "n"
    ]  # what the hand tilted the other way would cost more, as a share, in [-1, 1]; small = a flip may be
    violation_deg: Float32[np.ndarray, "n"]  # worst joint angle beyond its limit
    num_points: Int16[np.ndarray, "n"]  # landmarks used
    camera_from: Text = later("assumed")  # who knows the camera: manifest, metadata, or assumed
    focal_px: Float32[np.ndarray, "n"] = later(float("nan"))  # of the view that the hand is seen in; NaN where it is assumed
    principal: Float32[np.ndarray, "n 2"] = later([float("nan")] * 2)  # pixels
    contradiction_m: Float32[np.ndarray, "n"] = later(float("nan"))  # by how much the person's two hands contradict, each alone
    global_orient_world: Float32[np.ndarray, "n 3"] = later([float("nan")] * 3)  # global_orient and transl in the world, where
    transl_world: Float32[np.ndarray, "n 3"] = later([float("nan")] * 3)  # somebody says where the camera stood on the frame


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Reviews(Table):
    """One row a hand of `Hands`, in its order: how good, and why dropped."""

    video: Text
    frame: Int64[np.ndarray, "n"]
    time_s: Float64[np.ndarray, "n"]
    hand: Int16[np.ndarray, "n"]
    quality: Float32[np.ndarray, "n"]  # in [0, 1]
    keep: Bool[np.ndarray, "n"]
    reason: Text  # '' when kept
    box_only: Bool[np.ndarray, "n"] = dataclasses.field(metadata=young(False))  # only box and side can be trusted: the keypoints may be
    # grossly wrong, and so what was fitted to them, or the fit does not meet them


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Verdicts(Table):
    """What people decided on the hands of one video, in the order in which they did; what was undone stays among it."""

    video: Text
    frame: Int64[np.ndarray, "n"]
    time_s: Float64[np.ndarray, "n"]
    hand: Int16[np.ndarray, "n"]  # its index within the frame then; -1 of one that is added
    box: Float32[np.ndarray, "n 4"]  # the hand's as `Hands` had it: by it the hand is found again; of one that is added, its own
    side: Int8[np.ndarray, "n"]  # the hand's then
    fingerprint: Text  # of the part of `hands` that was looked at
    decision: Text  # id; the rows that were decided in one go share it
    who: Text
    when_s: Float64[np.ndarray, "n"]  # Unix time
    what: Text  # keep, reject, side, landmarks, box, add or undo
    to_box: Float32[np.ndarray, "n 4"]  # of box and add
    to_side: Int8[np.ndarray, "n"]  # of side and add; else -1
    undoes: Text  # the decision that an undo takes back
    audit: Text  # the audit that it answers, or ''


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Audits(Table):
    """Hands that were drawn by chance for a person to look at; what the person said of each stands in `Verdicts`."""

    audit: Text  # id, the same in every row
    who: Text
    when_s: Float64[np.ndarray, "n"]  # Unix time
    where: Text  # the filter that they were drawn from
    seed: Int64[np.ndarray, "n"]
    population: Int64[np.ndarray, "n"]  # hands that the filter took
    video: Text
    frame: Int64[np.ndarray, "n"]
    time_s: Float64[np.ndarray, "n"]
    hand: Int16[np.ndarray, "n"]
    box: Float32[np.ndarray, "n 4"]
    side: Int8[np.ndarray, "n"]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Ledger(Table):
    """What the footers of a data folder's parts say, one row a part, in order of table and key: see `pipeline.engine.files.ledger`."""

    table: Text
    key: Text
    size_bytes: Int64[np.ndarray, "n"]
    modified_ns: Int64[np.ndarray, "n"]
    changed_ns: Int64[np.ndarray, "n"]
    inode: UInt64[np.ndarray, "n"]
    fits: Text  # digest of the schema that the part was held against
    fingerprint: Text  # of its recipe
    lacks: Text  # columns of that schema which it was written without, parted by spaces
    item: Text  # `item` of its recipe, as JSON
    bundle: Text  # file name of the bundle that it lies in; '' of a part that has a file of its own
    row_group: Int32[np.ndarray, "n"]
