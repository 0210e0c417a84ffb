"""Which rows are one hand through time: unbroken stretches of tracks, whole in a batch, and in a rectangle of tracks by frames."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor


def segments(track: Int64[np.ndarray, "n"], time_s: Float64[np.ndarray, "n"], max_gap_s: float) -> Int64[np.ndarray, "n"]:
    """Number of the unbroken stretch that each row belongs to.

    Rows of one track number belong together unless more than `max_gap_s` lies between two that follow each other, or no time at all.
    Rows without a track (-1) stand alone.
    """
    order = np.lexsort((time_s, track))
    gap = np.diff(time_s[order])
    joined = (np.diff(track[order]) == 0) & (track[order][1:] >= 0) & (gap > 0) & (gap <= max_gap_s + 1e-9)
    number = np.empty(len(track), np.int64)
    number[order] = np.concatenate([[0], np.cumsum(~joined)]) if len(track) else 0
    return number


def whole_tracks(segment: Int64[np.ndarray, "n"], size: int) -> Iterator[Int64[np.ndarray, "m"]]:
    """Rows in batches of at most `size`, segment by segment; one that is longer is a batch of its own. -1 is no segment."""
    order = np.argsort(segment, kind="stable")
    ends = np.flatnonzero(np.diff(segment[order], append=-2) | (segment[order] < 0)) + 1
    start = 0
    while start < len(order):
        longest, shortest = np.searchsorted(ends, [start + size, start], side="right") - [1, 0]
        end = ends[max(longest, shortest)]
        yield order[start:end]
        start = end


class Chain(NamedTuple):
    """Some tracks of a batch, in one rectangle."""

    rows: Int[Tensor, "k t"]  # of the batch, in time order; a shorter track's last one is repeated
    there: Bool[Tensor, "k t"]
    time_s: Float[Tensor, "k t"]

    def only(self, tracks: Bool[Tensor, "k"]) -> "Chain":
        """Some of the tracks."""
        return Chain(*(values[tracks] for values in self))

    def member(self) -> tuple[Int[Tensor, "m"], Int[Tensor, "m"], Int[Tensor, "m"]]:
        """Row, track and place of every frame."""
        track, place = torch.nonzero(self.there, as_tuple=True)
        return self.rows[track, place], track, place


def chains(segment: Int64[np.ndarray, "n"], time_s: Float64[np.ndarray, "n"]) -> list[Chain]:
    """Segments of two frames and more, those of like length together: none is filled up to more than twice its length."""
    order = np.lexsort((time_s, segment))
    _, first, length = np.unique(segment[order], return_index=True, return_counts=True)
    found = []
    longest_first = np.argsort(-length, kind="stable")
    longest_first = longest_first[length[longest_first] > 1]
    while len(longest_first):
        longest = length[longest_first[0]]
        taken = length[longest_first] * 2 > longest
        now, longest_first = longest_first[taken], longest_first[~taken]
        place = np.minimum(np.arange(longest), length[now, None] - 1)
        rows = order[first[now, None] + place]
        there = np.arange(longest) < length[now, None]
        found.append(Chain(torch.from_numpy(rows), torch.from_numpy(there), torch.from_numpy(time_s[rows])))
    return found
