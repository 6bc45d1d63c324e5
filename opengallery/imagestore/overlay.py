"""Overlays: a machine's disk, a qcow2 file that holds what was written over a base image.

Where the file decides (written, zeroed, or hydrated), its bytes count; everywhere else the base's do.
A file that was hydrated to its end decides everything, and needs no base.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self, TypeVar

from opengallery.imagestore.blocks import BlockSource
from opengallery.imagestore.conversion import ConvertedSource
from opengallery.imagestore.errors import ImageStoreError, UnusableImage
from opengallery.imagestore.formats import open_image

Answer = TypeVar("Answer")


class OverlaySource:
    """An overlay over its base, a `BlockSource`. Owns both."""

    def __init__(self, overlay: ConvertedSource, base: BlockSource | None) -> None:
        """Where neither says anything, the disk reads as zeros. Raises `UnusableImage`."""
        self._overlay, self._base = overlay, base
        own = overlay.own()
        self._starts = [offset for offset, _, _ in own]
        self._ends = [offset + length for offset, length, _ in own]
        self._is_zero = [is_zero for _, _, is_zero in own]

    @property
    def size_bytes(self) -> int:
        """The size of the disk."""
        return self._overlay.size_bytes

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close both."""
        self._overlay.close()
        if self._base is not None:
            self._base.close()

    def extents(self) -> Iterator[tuple[int, int]]:
        """Yield what the overlay has written, and what it leaves to the base and the base has data for."""
        at = 0
        for offset, length in self._base.extents() if self._base is not None else ():
            end = min(offset + length, self.size_bytes)
            yield from self._written(at, offset)
            for start, stop, number in self._pieces(offset, end):
                if number is None or not self._is_zero[number]:
                    yield start, stop - start
            at = max(at, end)
        yield from self._written(at, self.size_bytes)

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes."""
        content = bytearray(length)
        self.read_into(offset, memoryview(content))
        return bytes(content)

    def read_into(self, offset: int, memory: memoryview) -> None:
        """Fill `memory` from byte `offset`."""
        for start, stop, number in self._pieces(offset, offset + len(memory)):
            room = memory[start - offset : stop - offset]
            if number is None:
                content = self._base.read(start, stop - start) if self._base is not None else b""
                room[: len(content)] = content
                room[len(content) :] = bytes(len(room) - len(content))
            elif self._is_zero[number]:
                room[:] = bytes(len(room))
            else:
                self._overlay.read_into(start, room)

    def _written(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """What the overlay has written there and is no zero."""
        for low, high, number in self._pieces(start, stop):
            if number is not None and not self._is_zero[number]:
                yield low, high - low

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int | None]]:
        """Divide a range: (start, stop, number of the overlay's piece that decides there, if one does)."""
        number = bisect_right(self._starts, start) - 1
        while start < stop:
            if number >= 0 and start < self._ends[number]:
                end = min(stop, self._ends[number])
                yield start, end, number
            else:
                end = min(stop, self._starts[number + 1]) if number + 1 < len(self._starts) else stop
                if end > start:
                    yield start, end, None
                number += 1
            start = end


class AnyOf:
    """The same image in several places, a `BlockSource`: what one can't serve, the next one does."""

    def __init__(self, places: Sequence[BlockSource]) -> None:
        """`places` has one at least, of the same size."""
        self._places = list(places)
        self.size_bytes = places[0].size_bytes

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close all."""
        for place in self._places:
            place.close()

    def extents(self) -> Iterator[tuple[int, int]]:
        """Yield what holds data, as the first one says that can. Raises its error when none can."""
        yield from self._first_of(lambda place: list(place.extents()))

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes, from the first one that can. Raises its error when none can."""
        return self._first_of(lambda place: place.read(offset, length))

    def _first_of(self, ask: Callable[[BlockSource], Answer]) -> Answer:
        for place in self._places[:-1]:
            with suppress(ImageStoreError):
                return ask(place)
        return ask(self._places[-1])


def open_overlay(path: Path, base: BlockSource | None, max_size_bytes: int) -> OverlaySource:
    """Open a machine's disk over its base. The file is judged as any that comes in. Raises `UnusableImage`."""
    overlay = open_image(path, max_size_bytes)
    if not isinstance(overlay, ConvertedSource):
        overlay.close()
        raise UnusableImage("This is no qcow2 file, so it is no machine's disk.")
    try:
        return OverlaySource(overlay, base)
    except BaseException:
        overlay.close()
        raise
