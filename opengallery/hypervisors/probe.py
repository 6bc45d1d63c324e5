"""Which replicas answer: asked before a machine starts, since QEMU does not start with a dead one."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx

from opengallery.hypervisors.machine import NoLiveReplica, ReplicaUrl

TIMEOUT_S = 3


def probe(replicas: Sequence[ReplicaUrl]) -> list[str | None]:
    """Ask every replica for its header, all at once; return None for each that serves, else why not."""
    if not replicas:
        return []
    # Replicas are reached directly, whatever proxy the server's environment names.
    with (
        httpx.Client(timeout=TIMEOUT_S, trust_env=False) as client,
        ThreadPoolExecutor(len(replicas)) as pool,
    ):
        return list(pool.map(lambda replica: problem(client, replica), replicas))


def living(machine_id: str, replicas: Sequence[ReplicaUrl]) -> dict[int, ReplicaUrl]:
    """Return those that serve, by index. Raises `NoLiveReplica` when none does."""
    problems = probe(replicas)
    live = {index: replicas[index] for index, found in enumerate(problems) if found is None}
    if not live:
        raise NoLiveReplica(machine_id, [found for found in problems if found])
    return live


def problem(client: httpx.Client, replica: ReplicaUrl) -> str | None:
    """Ask one replica; return None if it serves, else why not."""
    try:
        response = client.head(replica.url, headers={"Cookie": replica.cookie})
    except httpx.HTTPError as error:
        return f"{replica.url} does not answer ({type(error).__name__})"
    if response.status_code != 200:
        return f"{replica.url} answers {response.status_code}"
    if response.headers.get("accept-ranges") != "bytes":
        return f"{replica.url} serves no ranges"
    return None
