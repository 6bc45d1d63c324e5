"""Steps: what the answers are made of that `connections` sends."""

import mmap
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, NamedTuple


class Words(NamedTuple):
    """Bytes that go out as they are."""

    content: bytes


class Part(NamedTuple):
    """A head that goes out as it is, and bytes `start` to `end` of a memory behind it.

    They are sent at once as far as the socket takes them; the step's value is how many.
    """

    head: bytes
    memory: mmap.mmap
    start: int
    end: int


Step = Words | Part | Future[Any]
Chore = Generator[Future[Any], Any, None]
"""Steps for nobody's connection: they only wait for work."""
Steps = Generator[Step, Any, None]


Hot = tuple[bytes, mmap.mmap, int, int, bool, Callable[[int], Steps | None]]
"""An answer that begins at once: a `Part`, whether the connection is kept, and what gives the other steps
when so many bytes of the part were sent."""


class AnswerBroken(Exception):
    """The rest of an answer can't be sent: only the end of its connection tells the client so."""
