"""Learns what machines read when they boot: pieces of an image, in the order of first use.

A boot begins when a machine reads the first bytes of its disk, and is over when it has read nothing for a
while: before hydration, which reads everything, begins. Only some boots of an image are learned from.
"""

import threading
import time
from collections import Counter
from pathlib import Path

import structlog

from opengallery.replication import boot_pieces
from opengallery.replication.boot_pieces import MAX_PIECES, PIECE_BYTES

BOOT_S = 120.0
QUIET_S = 11.0
# A machine's reads are short: who reads more at once copies the image.
MAX_READ_BYTES = 8 << 20
AT_ONCE = 16
BOOTS_OF_AN_IMAGE = 8
IMAGES = 256
MACHINES = 4096
SAVE_INTERVAL_S = 2.0

Image = tuple[str, str]
"""Tenant id and image id."""

log = structlog.get_logger()


class _Boot:
    __slots__ = ("image", "last_s", "until_s")

    def __init__(self, image: Image, now_s: float) -> None:
        self.image, self.last_s, self.until_s = image, now_s, now_s + BOOT_S


class Boots:
    """All calls come from the thread that answers, but for `pieces` and `save`."""

    def __init__(self, data: Path) -> None:
        """`data` is the folder that `boot_pieces` writes into."""
        self._data = data
        # By machine. While there is none, `note` wants to know of reads of the first bytes only.
        self.under_way: dict[str, _Boot] = {}
        self._over: set[str] = set()
        self._begun: Counter[Image] = Counter()
        self._learned: dict[Image, dict[int, None]] = {}
        self._unsaved: set[Image] = set()
        self._saving = threading.Lock()

    def note(self, image: Image, machine: str, first: int, end: int) -> bool:
        """Learn from a machine's read of bytes `first` to `end`. Returns whether it begins a boot."""
        boot = self.under_way.get(machine)
        if boot is None:
            if first or end > MAX_READ_BYTES or machine in self._over:
                return False
            self._begin(image, machine)
            boot = self.under_way.get(machine)
            if boot is not None:
                self._learn(boot, first, end)
            return True
        now_s = time.monotonic()
        if boot.image != image or now_s > boot.until_s or now_s - boot.last_s > QUIET_S:
            self._end(machine)
            return False
        boot.last_s = now_s
        if end - first <= MAX_READ_BYTES:
            self._learn(boot, first, end)
        return False

    def pieces(self, image: Image) -> list[int]:
        """What boots of an image read, as far as it is known. For any thread."""
        known = boot_pieces.load(self._data, *image)
        return list(dict.fromkeys([*known, *list(self._learned.get(image, ()))]))[:MAX_PIECES]

    def save_now_and_then(self) -> None:
        """Save for as long as the process lives, in a thread of its own."""
        while True:
            time.sleep(SAVE_INTERVAL_S)
            self.save()

    def save(self) -> None:
        """Write down what was learned since the last time."""
        with self._saving:
            while self._unsaved:
                image = self._unsaved.pop()
                try:
                    boot_pieces.add(self._data, *image, list(self._learned[image]))
                except OSError as error:
                    log.warning("what boots read can't be kept", image=image[1], reason=error.strerror)

    def _begin(self, image: Image, machine: str) -> None:
        if self._begun[image] >= BOOTS_OF_AN_IMAGE:
            return
        now_s = time.monotonic()
        if len(self.under_way) >= AT_ONCE:
            for other, boot in list(self.under_way.items()):
                if now_s > boot.until_s or now_s - boot.last_s > QUIET_S:
                    self._end(other)
        if len(self.under_way) < AT_ONCE and (image in self._learned or len(self._learned) < IMAGES):
            self._begun[image] += 1
            self._learned.setdefault(image, {})
            self.under_way[machine] = _Boot(image, now_s)

    def _end(self, machine: str) -> None:
        """Learn no more from it: a machine that is started again shows another cookie."""
        del self.under_way[machine]
        if len(self._over) >= MACHINES:
            self._over.clear()
        self._over.add(machine)

    def _learn(self, boot: _Boot, first: int, end: int) -> None:
        learned = self._learned[boot.image]
        for piece in range(first // PIECE_BYTES, (end - 1) // PIECE_BYTES + 1):
            if piece not in learned and len(learned) < MAX_PIECES:
                learned[piece] = None
                self._unsaved.add(boot.image)
