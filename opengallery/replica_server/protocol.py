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

    With `handover`, the path of a socket, the server outlives its parent and waits there for the next.
    `boots` is the folder to keep what boots read in; without it nothing is learned or warmed.
    """

    parent_pid: int
    listener: int
    cookie_key: bytes
    counters_secret: str
    cache_bytes: int
    index: str
    places: StorePlaces
    handover: str | None = None
    boots: str | None = None


class Counters(msgspec.Struct):
    """What a replica server did since it started: bytes sent, and reads that found a bad block.

    `served` has (store, image id, bytes), `corrupt` has (store, tenant id, image id, reads).
    """

    served: list[tuple[str, str, int]]
    corrupt: list[tuple[str, str, str, int]]

    def since(self, earlier: "Counters") -> "Counters":
        """What came after `earlier`."""
        sent = {(store, image): count for store, image, count in earlier.served}
        found = {(store, tenant, image): reads for store, tenant, image, reads in earlier.corrupt}
        return Counters(
            [(store, image, count - sent.get((store, image), 0)) for store, image, count in self.served],
            [
                (store, tenant, image, reads)
                for store, tenant, image, reads in self.corrupt
                if reads != found.get((store, tenant, image))
            ],
        )
