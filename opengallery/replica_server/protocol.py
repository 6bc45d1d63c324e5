"""What the supervisor and its replica servers say to each other.

On standard input: `Start`, answered by `serving`; then any number of `StorePlaces`, each answered by
`learned`. Over HTTP: `Counters`.
"""

import msgspec

from opengallery.replication.places import StorePlaces

BACKLOG = 4096
"""Connections that may wait while a server is started again."""


class Start(msgspec.Struct):
    """The first line: who the parent is, the listening socket it hands down, and the secrets.

    `boots` is the folder to keep what boots read in; without it nothing is learned or warmed.
    """

    parent_pid: int
    listener: int
    cookie_key: bytes
    counters_secret: str
    cache_bytes: int
    index: str
    places: StorePlaces
    boots: str | None = None


class Counters(msgspec.Struct):
    """What a replica server did since it started: bytes sent, and reads that found a bad block.

    `served` has (store, image id, bytes), `corrupt` has (store, tenant id, image id, reads).
    """

    served: list[tuple[str, str, int]]
    corrupt: list[tuple[str, str, str, int]]
