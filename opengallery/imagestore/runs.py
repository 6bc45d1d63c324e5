"""Runs: sorted, immutable parts of the index; searched in bulk, merged slice by slice.

The digests that begin with the same few bits are a *bucket* of a run in a file. Of each bucket the file keeps
its *fence* (where it begins) and its *filter*: a 64-bit word in which each of its digests sets two bits. Among
tens of millions of digests each step of a search is a cache miss, so a filter's single word is looked at
before anything else.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from opengallery.imagestore.blocks import Digests


@dataclass(frozen=True)
class Run:
    """Sorted entries of whole packs: pack i has the index's number `numbers[i]` and the ranks from
    `starts[i]` to `starts[i + 1]`."""

    head: NDArray[np.uint64]
    more: NDArray[np.uint32]
    rank: NDArray[np.uint32]
    numbers: NDArray[np.int64]
    starts: NDArray[np.int64]
    fences: NDArray[np.uint32] | None = None
    filters: NDArray[np.uint64] | None = None
    file: Path | None = None
    made_ns: int = field(default_factory=time.time_ns)

    def may_hold(self, heads: NDArray[np.uint64], marks: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Whether each digest can be here; `marks` are those of `marks_of`."""
        if self.filters is None:
            return np.ones(len(heads), bool)
        found: NDArray[np.bool_] = (self.filters[buckets_of(heads, len(self.filters))] & marks) == marks
        return found

    def search(self, heads: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the first position of each head, or where it would stand."""
        if self.fences is None:
            return np.searchsorted(self.head, heads)
        fence = buckets_of(heads, len(self.fences) - 1)
        low = self.fences[fence].astype(np.int64)
        high = self.fences[fence + 1].astype(np.int64)
        for _ in range(int((high - low).max(initial=0)).bit_length()):
            middle = (low + high) >> 1
            # Where low meets high there is nothing left to compare with.
            is_less = (low < high) & (self.head[np.minimum(middle, len(self.head) - 1)] < heads)
            low = np.where(is_less, middle + 1, low)
            high = np.where(is_less, high, middle)
        return low

    def locate(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the index's pack number and the entry of what stands at `positions`."""
        ranks = self.rank[positions].astype(np.int64)
        own = np.searchsorted(self.starts, ranks, side="right") - 1
        own = np.minimum(own, len(self.numbers) - 1)
        return self.numbers[own], ranks - self.starts[own]


def words_of(digests: Digests) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """Return the first 8 bytes of each digest, and the next 4, as numbers."""
    digests = np.ascontiguousarray(digests)
    return digests.view("<u8").reshape(-1, 4)[:, 0].copy(), digests.view("<u4").reshape(-1, 8)[:, 2].copy()


def marks_of(more: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Return the word with the two bits that each digest sets in a filter."""
    wide = more.astype(np.uint64)
    one, mask = np.uint64(1), np.uint64(63)
    marks: NDArray[np.uint64] = (one << (wide & mask)) | (one << ((wide >> np.uint64(6)) & mask))
    return marks


def buckets_of(heads: NDArray[np.uint64], count: int) -> NDArray[np.int64]:
    """Return which of `count` buckets, a power of two and 2 or more, each digest is in."""
    return (heads >> np.uint64(65 - count.bit_length())).astype(np.int64)


def fences_and_filters(
    heads: NDArray[np.uint64], more: NDArray[np.uint32], first: int, end: int, count: int
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Return how many of the sorted `heads` are in each of the buckets `first` to `end` of `count`, and
    the buckets' filters."""
    buckets = buckets_of(heads, count) - first
    sizes = np.bincount(buckets, minlength=end - first)
    filters = np.zeros(end - first, np.uint64)
    if len(heads):
        is_used = sizes > 0
        starts = np.cumsum(sizes)[is_used] - sizes[is_used]
        filters[is_used] = np.bitwise_or.reduceat(marks_of(more), starts)
    return sizes, filters


def merged_slices(
    runs: list[Run], bases: list[NDArray[np.int64]], cuts: NDArray[np.uint64]
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.uint32], NDArray[np.uint32]]]:
    """Yield head, more and rank of the entries that stay, in order, in slices that begin at `cuts`.

    Of equal heads those of the first run come first.
    """
    slices = len(cuts) + 1
    bounds = [[0, *np.searchsorted(run.head, cuts).tolist(), len(run.head)] for run in runs]
    for number in range(slices):
        heads, mores, ranks = [], [], []
        for run, base, bound in zip(runs, bases, bounds, strict=True):
            part = slice(bound[number], bound[number + 1])
            rank = run.rank[part].astype(np.int64)
            own = np.searchsorted(run.starts, rank, side="right") - 1
            own = np.minimum(own, len(base) - 1)
            rank += base[own] - run.starts[own]
            is_kept = base[own] >= 0
            heads.append(run.head[part][is_kept])
            mores.append(run.more[part][is_kept])
            ranks.append(rank[is_kept].astype(np.uint32))
        head = np.concatenate(heads)
        order = np.argsort(head, kind="stable")
        yield head[order], np.concatenate(mores)[order], np.concatenate(ranks)[order]
