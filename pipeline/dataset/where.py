"""Filters of hands as a person writes them: `quality > .8 and side = left and sources = 'mediapipe'`.

A filter is read by the small grammar below, never handed on as text: what reaches duckdb is made here, of names of known columns and of
placeholders, and runs in a connection that reads and writes no file. So a filter of an address or of a script can ask and nothing else.

    filter  = test {and|or test}, with not and brackets
    test    = column [not] in (value, ...) | column [not] between value and value | column [not] like 'te%t'
            | column is [not] null | column (= != <> < <= > >=) value | column, where it is true or false
    value   = number | 'text', '' for a quote in it | true | false | left, right, unknown for a side

What is unknown (NaN in the tables) matches no comparison. A column that lists, `sources`, equals what it holds. Free columns of the list
of videos go by their names, or by `extra.NAME` where another column has that name.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa

from stages.errors import UserError
from stages.settings import unknown
from stages.shards import Shards
from stages.tables import LEFT, RIGHT, UNKNOWN_SIDE


class Kind(StrEnum):
    """What a column holds."""

    NUMBER = "number"
    TEXT = "text"
    FLAG = "true or false"
    LIST = "list of texts"
    FREE = "free column"


SIDES: Mapping[str, int] = {"left": LEFT, "right": RIGHT, "unknown": UNKNOWN_SIDE}
MOST_CHARACTERS, MOST_DEPTH = 4000, 40
"""Longest filter, and deepest nesting of its brackets."""

Columns = Mapping[str, Kind]
Value = float | str | bool


@dataclass(frozen=True, slots=True)
class Where:
    """A filter as duckdb takes it: a condition with a placeholder for each value."""

    sql: str
    values: tuple[Value, ...] = ()


ALL = Where("true")
"""Every hand."""


def kind_of(arrow: pa.DataType) -> Kind | None:
    """What a column of this type holds; None where no filter can ask for it (images, arrays)."""
    if pa.types.is_boolean(arrow):
        return Kind.FLAG
    if pa.types.is_integer(arrow) or pa.types.is_floating(arrow):
        return Kind.NUMBER
    if pa.types.is_string(arrow):
        return Kind.TEXT
    return Kind.LIST if pa.types.is_list(arrow) and pa.types.is_string(arrow.value_type) else None


def flat(frames: pa.Table, split: str = "") -> pa.Table:
    """One row a hand of a shard's rows, with all that a filter can ask for: the frame's columns, the hand's, the free ones as `extra.NAME`.

    `row` is the frame's row and `place` the hand's among those of its frame, from 0. Images need not be among the columns.
    """
    lists = frames.column("hands").combine_chunks()
    counts = lists.value_lengths().to_numpy()
    row = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    hands = pa.Table.from_struct_array(lists.flatten())
    columns: dict[str, Any] = {field.name: hands[field.name] for field in hands.schema if kind_of(field.type)}
    of_frame = frames.select([f.name for f in Shards.schema() if f.name in frames.column_names and kind_of(f.type)]).take(pa.array(row))
    columns |= {name: of_frame[name] for name in of_frame.column_names if name != "extra"}
    box = hands["box"].combine_chunks().flatten().to_numpy().reshape(-1, 4)
    columns |= {"size_px": (box[:, 2:] - box[:, :2]).max(1, initial=0), "split": pa.array([split] * len(row)), "row": row, "place": place}
    if "extra" in of_frame.column_names:
        columns |= free_columns(of_frame["extra"].to_pylist())
    return pa.table(columns)


def free_columns(extras: Sequence[str]) -> dict[str, pa.Array]:
    """The free columns of rows, from their JSON: `extra.NAME`, null where a row has none. Raises ValueError for what is no JSON object."""
    read = {text: json.loads(text) if text else {} for text in set(extras)}
    if strange := [text for text, values in read.items() if not isinstance(values, dict)]:
        raise ValueError(f"free columns are a JSON object, and `extra` says {strange[0][:40]!r}")
    names = sorted({str(name) for values in read.values() for name in values})
    texts = {name: [None if (value := read[text].get(name)) is None else str(value) for text in extras] for name in names}
    return {f"extra.{name}": pa.array(values, pa.string()) for name, values in texts.items()}


def columns_of(schema: pa.Schema) -> dict[str, Kind]:
    """What a filter may ask of a table of these columns."""
    kinds = {field.name: kind_of(field.type) for field in schema}
    return {name: Kind.FREE if name.startswith("extra.") else kind for name, kind in kinds.items() if kind}


def read_where(text: str, columns: Columns) -> Where:
    """A filter that a person wrote; '' takes every hand. Raises UserError that names what is wrong, and where."""
    return _Reader(text, columns).read() if text.strip() else ALL


def connect(**config: Any) -> Any:
    """A connection to duckdb in memory that reads and writes no file, loads nothing, and cannot be set otherwise."""
    import duckdb

    connection = duckdb.connect(config={"autoinstall_known_extensions": False, "autoload_known_extensions": False, **config})
    lock(connection)
    return connection


def lock(connection: Any) -> None:
    """Shut a connection off from files, Python's variables and its own settings."""
    for setting in ("python_enable_replacements = false", "enable_external_access = false", "lock_configuration = true"):
        connection.execute(f"set {setting}")


def matching(hands: pa.Table, where: Where) -> np.ndarray:
    """Which rows of a table of hands a filter takes: one truth a row, in their order."""
    with connect(threads=1) as connection:
        connection.register("hands", hands)
        found = connection.sql(f"select coalesce({where.sql}, false) as taken from hands", params=list(where.values)).to_arrow_table()
    return np.asarray(found["taken"].combine_chunks().to_numpy(zero_copy_only=False), np.bool_)


_TOKEN = re.compile(
    r"\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?![\w.])|'(?P<text>(?:[^']|'')*)'|\"(?P<quoted>[^\"]+)\""
    r"|(?P<word>[^\W\d][\w.-]*)|(?P<sign><=|>=|<>|!=|==|[=<>(),]))"
)
_SIGNS = {"=": "=", "==": "=", "!=": "<>", "<>": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_RESERVED = ("and", "or", "not", "in", "between", "like", "is", "null", "true", "false")


class _Reader:
    """Reads one filter from its first word to its last."""

    def __init__(self, text: str, columns: Columns) -> None:
        self.text, self.columns = text, columns
        self.values: list[Value] = []
        self.at, self.depth = 0, 0
        if len(text) > MOST_CHARACTERS:
            raise UserError(f"a filter has at most {MOST_CHARACTERS} characters, this one {len(text)}")
        self.tokens = list(self._split())

    def read(self) -> Where:
        sql = self._any()
        if self.at < len(self.tokens):
            raise self._wrong("and, or, or its end")
        return Where(sql, tuple(self.values))

    def _split(self) -> Any:
        place, end = 0, len(self.text.rstrip())
        while place < end:
            found = _TOKEN.match(self.text, place)
            if found is None:
                raise UserError(f"filter: {self.text[place : place + 20].strip()!r} says nothing here; texts stand in 'quotes'")
            kind = str(found.lastgroup)
            yield kind, found[kind], found.start(kind)
            place = found.end()

    def _next(self) -> tuple[str, str, int]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "", len(self.text))

    def _word(self) -> str:
        kind, token, _ = self._next()
        return token.lower() if kind in ("word", "sign") else ""

    def _took(self, *words: str) -> bool:
        """Whether these words come next; they are passed over then."""
        found = [t.lower() if k in ("word", "sign") else "" for k, t, _ in self.tokens[self.at : self.at + len(words)]]
        if found != list(words):
            return False
        self.at += len(words)
        return True

    def _wrong(self, wanted: str) -> UserError:
        kind, token, place = self._next()
        said = "its end" if kind == "end" else repr(token[:40])
        return UserError(f"filter: expected {wanted}, got {said} at character {place + 1}")

    def _any(self) -> str:
        parts = [self._all()]
        while self._took("or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else f"({' or '.join(parts)})"

    def _all(self) -> str:
        parts = [self._one()]
        while self._took("and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else f"({' and '.join(parts)})"

    def _one(self) -> str:
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise UserError(f"filter: brackets are nested deeper than {MOST_DEPTH}")
        if self._took("not"):
            sql = f"(not {self._one()})"
        elif self._took("("):
            sql = self._any()
            if not self._took(")"):
                raise self._wrong("a closing bracket")
        else:
            sql = self._test()
        self.depth -= 1
        return sql

    def _column(self) -> str:
        kind, token, _ = self._next()
        if kind not in ("word", "quoted") or (kind == "word" and token.lower() in _RESERVED):
            raise self._wrong("a column")
        name = next((n for n in (token, token.lower(), f"extra.{token}") if n in self.columns), None)
        if name is None:
            raise UserError(f"filter: {unknown(token[:60], self.columns, 'column')}")
        self.at += 1
        return name

    def _test(self) -> str:
        name = self._column()
        kind, column = self.columns[name], '"' + name.replace('"', '""') + '"'
        if kind is Kind.NUMBER:
            column = f"nullif({column}, 'nan'::double)"
        if self._took("is", "not", "null"):
            return f"({column} is not null)"
        if self._took("is", "null"):
            return f"({column} is null)"
        negated = "not " if self._took("not") else ""
        if self._took("in"):
            return f"({negated}{self._among(name, column)})"
        if self._took("between"):
            low = self._compared(name, column, ">=")
            if not self._took("and"):
                raise self._wrong("and")
            return f"({negated}({low} and {self._compared(name, column, '<=')}))"
        if self._took("like"):
            if kind not in (Kind.TEXT, Kind.FREE):
                raise UserError(f"filter: like asks for a text, {name} is a {kind}")
            return f"({column} {negated}like {self._value(name, Kind.TEXT)})"
        if not negated and self._word() in _SIGNS:
            sign = _SIGNS[self._word()]
            self.at += 1
            return self._compared(name, column, sign)
        if kind is Kind.FLAG and not negated:
            return column
        raise self._wrong(f"what {name} is compared with")

    def _compared(self, name: str, column: str, sign: str) -> str:
        kind = self.columns[name]
        if kind is Kind.LIST:
            if sign not in ("=", "<>"):
                raise UserError(f"filter: {name} lists texts: ask for = or != of one of them")
            return f"({'not ' if sign == '<>' else ''}list_contains({column}, {self._value(name, Kind.TEXT)}))"
        if kind is Kind.FREE:
            if self._next()[0] == "number":
                return f"(try_cast({column} as double) {sign} {self._value(name, Kind.NUMBER)})"
            return f"({column} {sign} {self._value(name, Kind.TEXT)})"
        return f"({column} {sign} {self._value(name, kind)})"

    def _among(self, name: str, column: str) -> str:
        if not self._took("("):
            raise self._wrong("an opening bracket")
        parts = [self._compared(name, column, "=")]
        while self._took(","):
            parts.append(self._compared(name, column, "="))
        if not self._took(")"):
            raise self._wrong("a closing bracket")
        return f"({' or '.join(parts)})"

    def _value(self, name: str, wanted: Kind) -> str:
        kind, token, _ = self._next()
        word = token.lower()
        if wanted is Kind.NUMBER and kind == "number":
            self.values.append(float(token))
        elif wanted is Kind.NUMBER and name == "side" and kind in ("word", "text") and word in SIDES:
            self.values.append(float(SIDES[word]))
        elif wanted is Kind.TEXT and kind == "text":
            self.values.append(token.replace("''", "'"))
        elif wanted is Kind.FLAG and kind == "word" and word in ("true", "false"):
            self.values.append(word == "true")
        else:
            wanted_words = "left, right or a number" if name == "side" else "a number"
            raise self._wrong({Kind.NUMBER: wanted_words, Kind.TEXT: "a text in 'quotes'"}.get(wanted, "true or false"))
        self.at += 1
        return "?"
