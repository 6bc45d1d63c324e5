"""Warming: read and check what boots of an image read, before machines ask for it.

It begins when the control plane says that machines will come, or when one begins to boot. It goes on in
the order in which boots read, in one thread that works at most half of the time, and stands back while a
machine waits for a read. It takes three quarters of the cache at most.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import structlog

from opengallery.replica_server.boots import Boots
from opengallery.replica_server.checked_bytes import CheckedBytes
from opengallery.replica_server.images import Images, UnknownReplica, UnreadableReplica
from opengallery.replica_server.steps import Chore
from opengallery.replication.boot_pieces import PIECE_BYTES

STEP_PIECES = 4
WISHES = 64
# What was warmed is not looked at again for so long.
WARM_S = 60.0
STAND_BACK_S = 0.002

Replica = tuple[str, str, str]
"""Store, tenant id and image id."""

log = structlog.get_logger()


class Warming:
    """Fulfils wishes for warm images, one after the other. Used by the thread that answers."""

    def __init__(
        self, images: Images, checked: CheckedBytes, boots: Boots, is_wanted: Callable[[], bool]
    ) -> None:
        """`is_wanted` tells whether machines wait for reads just now."""
        self._images, self._checked, self._boots, self._is_wanted = images, checked, boots, is_wanted
        self._thread = ThreadPoolExecutor(1, "warm")
        self._wishes: dict[tuple[str, str], Replica] = {}
        self._warmed_s: dict[tuple[str, str], float] = {}
        self._wish: Future[None] = Future()

    @property
    def is_at_work(self) -> bool:
        """Whether a wish is not fulfilled yet."""
        return bool(self._wishes)

    def wish(self, replica: Replica) -> bool:
        """Have what boots read of this replica's image made ready soon; whether that was just done."""
        image = replica[1:]
        if time.monotonic() - self._warmed_s.get(image, -WARM_S) < WARM_S:
            return True
        if image not in self._wishes and len(self._wishes) < WISHES:
            self._wishes[image] = replica
            if not self._wish.done():
                self._wish.set_result(None)
        return False

    def fulfil(self) -> Chore:
        """The steps of all warming, without an end."""
        while True:
            yield self._wish
            self._wish = Future()
            while self._wishes:
                image = next(iter(self._wishes))
                replica = self._wishes[image]
                try:
                    yield from self._warm(replica)
                except (UnknownReplica, UnreadableReplica) as error:
                    log.warning("replica is not warmed", store=replica[0], reason=str(error))
                del self._wishes[image]
                if len(self._warmed_s) >= WISHES:
                    self._warmed_s.clear()
                self._warmed_s[image] = time.monotonic()

    def _warm(self, replica: Replica) -> Chore:
        image = replica[1:]
        pieces = yield self._thread.submit(self._boots.pieces, image)
        if not pieces:
            return
        size_bytes = yield self._thread.submit(self._images.size_bytes, *replica)
        room_bytes = self._checked.max_bytes * 3 // 4
        for first, end in _steps(pieces, size_bytes):
            room_bytes -= end - first
            if room_bytes < 0:
                return
            if not self._checked.image(*image).holds(first, end):
                content = yield self._thread.submit(self._read, replica, first, end - first)
                self._checked.image(*image).put(first, content)

    def _read(self, replica: Replica, offset: int, length: int) -> bytes:
        while self._is_wanted():
            time.sleep(STAND_BACK_S)
        begun_s = time.monotonic()
        content = self._images.read(*replica, offset, length)
        time.sleep(time.monotonic() - begun_s)
        return content


def _steps(pieces: Sequence[int], size_bytes: int) -> Iterator[tuple[int, int]]:
    """First byte and end of what is read at once: neighbours that follow each other."""
    count = -(-size_bytes // PIECE_BYTES)
    within = [piece for piece in pieces if piece < count]
    start = 0
    for position in range(1, len(within) + 1):
        is_next = position < len(within) and within[position] == within[position - 1] + 1
        if not is_next or position - start == STEP_PIECES:
            first, last = within[start], within[position - 1]
            yield first * PIECE_BYTES, min((last + 1) * PIECE_BYTES, size_bytes)
            start = position
