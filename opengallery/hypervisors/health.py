"""Which replicas answer: asked again and again, so that no machine waits for one that is silent.

A replica that misses two answers in a row is silent; one answer makes it good again. Together they take
less than QEMU grants a single read, so that a machine waits for one read and not for a second.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import httpx

from opengallery.hypervisors.machine import ReplicaUrl
from opengallery.hypervisors.probe import problem

TIMEOUT_S = 1.0
ATTEMPTS = 2
ASKED_AT_ONCE = 32

Key = tuple[str, str]
"""A replica, by store and image id."""


class Health:
    """What is known of the replicas that machines read. One thread asks; any may look at `silent`."""

    def __init__(self) -> None:
        """Nothing is known yet, so all are taken to be good."""
        self.silent: frozenset[Key] = frozenset()
        # Replicas are reached directly, whatever proxy the server's environment names.
        self._client = httpx.Client(timeout=TIMEOUT_S, trust_env=False)
        self._pool = ThreadPoolExecutor(ASKED_AT_ONCE, "health")

    def ask(self, replicas: Mapping[Key, ReplicaUrl | None]) -> bool:
        """Ask all `replicas` at once, and forget others. Returns whether `silent` is another set now.

        One without a URL has no server, and is silent.
        """
        problems = self._pool.map(self._problem, replicas.values())
        silent = frozenset(key for key, found in zip(replicas, problems, strict=True) if found)
        changed, self.silent = silent != self.silent, silent
        return changed

    def close(self) -> None:
        """Ask no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _problem(self, replica: ReplicaUrl | None) -> str | None:
        if replica is None:
            return "its server does not start"
        found: str | None = None
        for _ in range(ATTEMPTS):
            found = problem(self._client, replica)
            if found is None:
                break
        return found
