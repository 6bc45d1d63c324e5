"""Filling a data disk: what its image has, read from replicas over HTTP into a new qcow2 file.

Only what is no hole is read, a few pieces at a time. A piece that one replica does not serve is read from the
next; a replica that failed is asked last from then on.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

import httpx

from opengallery.hypervisors.arguments import REPLICA_TIMEOUT_S
from opengallery.hypervisors.machine import (
    DataDisk,
    DiskContent,
    HypervisorError,
    NoLiveReplica,
    ReplicaUrl,
)
from opengallery.imagestore.qcow2 import CLUSTER_BYTES, Qcow2Writer

PIECE_BYTES = 4 << 20
READERS = 4
SECTOR_BYTES = 512


def fill(path: Path, machine_id: str, disk: DataDisk, is_wanted: Callable[[], bool]) -> None:
    """Write the disk with its content to `path`, and bring it to the disk.

    Stops as soon as it is not wanted any more. Raises `NoLiveReplica`, `HypervisorError`; no file is left then.
    """
    assert disk.content is not None
    size_bytes = -(-disk.size_bytes // SECTOR_BYTES) * SECTOR_BYTES
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            writer = Qcow2Writer(file, size_bytes)
            with httpx.Client(timeout=REPLICA_TIMEOUT_S, trust_env=False) as client:
                _bring(_Source(client, machine_id, disk), writer, is_wanted)
            writer.finish()
        finally:
            os.close(file)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise HypervisorError(
            f"The data disk of lun {disk.lun} of machine '{machine_id}' can't be written: {error.strerror}."
        ) from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def pieces(extents: Iterable[tuple[int, int]], size_bytes: int) -> Iterator[tuple[int, int]]:
    """Offset and length of what to read: whole clusters but for the image's last, each once, of 4 MiB at most."""
    at = 0
    for offset, length in extents:
        start = max(at, offset - offset % CLUSTER_BYTES)
        end = min(-(-(offset + length) // CLUSTER_BYTES) * CLUSTER_BYTES, size_bytes)
        while start < end:
            stop = min(end, (start // PIECE_BYTES + 1) * PIECE_BYTES)
            yield start, stop - start
            start = stop
        at = max(at, end)


class _Source:
    """The replicas of one disk's image. Safe to use from several threads."""

    def __init__(self, client: httpx.Client, machine_id: str, disk: DataDisk) -> None:
        assert disk.content is not None
        self._client, self._machine_id, self._lun = client, machine_id, disk.lun
        self.content: DiskContent = disk.content
        self._order = list(self.content.replicas)
        self._lock = threading.Lock()

    def read(self, offset: int, length: int) -> bytes:
        """These bytes of the image, from the first replica that serves them. Raises `NoLiveReplica`."""
        problems = []
        with self._lock:
            order = list(self._order)
        for replica in order:
            try:
                return self._ask(replica, offset, length)
            except (httpx.HTTPError, HypervisorError) as error:
                problems.append(f"{replica.url}: {str(error) or type(error).__name__}")
                with self._lock:
                    self._order.remove(replica)
                    self._order.append(replica)
        raise NoLiveReplica(f"{self._machine_id}, data disk {self._lun}", problems)

    def _ask(self, replica: ReplicaUrl, offset: int, length: int) -> bytes:
        headers = {"Cookie": replica.cookie, "Range": f"bytes={offset}-{offset + length - 1}"}
        answer = self._client.get(replica.url, headers=headers)
        if answer.status_code != httpx.codes.PARTIAL_CONTENT or len(answer.content) != length:
            raise HypervisorError(f"answers {answer.status_code} with {len(answer.content)} bytes")
        return answer.content


def _bring(source: _Source, writer: Qcow2Writer, is_wanted: Callable[[], bool]) -> None:
    def bring(offset: int, length: int) -> None:
        content = source.read(offset, length)
        if length % CLUSTER_BYTES:
            # The image ends here; the disk may be larger.
            whole = min(-(-length // CLUSTER_BYTES) * CLUSTER_BYTES, writer.size_bytes - offset)
            content = content.ljust(whole, b"\0")
        writer.write(offset, content)

    with ThreadPoolExecutor(READERS) as pool:
        running: set[Future[None]] = set()
        try:
            for offset, length in pieces(source.content.extents(), source.content.size_bytes):
                if not is_wanted():
                    raise HypervisorError("The machine is not wanted any more, or the server is ending.")
                if len(running) >= 2 * READERS:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for each in done:
                        each.result()
                running.add(pool.submit(bring, offset, length))
            for each in running:
                each.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
