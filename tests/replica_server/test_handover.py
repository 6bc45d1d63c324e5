"""Replica servers that outlive their control plane, and give their socket to the next."""

import dataclasses
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from opengallery.replica_server.supervisor import ReplicaServers

STORE = ("westeurope", "westeurope-01")


def keeping(region: Any) -> Any:
    """The region with servers that are kept."""
    region.settings.machines.keep_running = True
    return dataclasses.replace(region, servers=ReplicaServers(region.settings, region.stores))


def test_reads_go_on_while_one_control_plane_ends_and_the_next_begins(region: Any, wait_until: Any) -> None:
    kept = keeping(region)
    url, cookie = kept.url(), kept.cookie()
    first = kept.servers.pids()["westeurope"]
    failures: list[Exception] = []
    counts: list[int] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            try:
                answer = httpx.get(url, headers={"Cookie": cookie, "Range": "bytes=0-65535"}, timeout=10)
                assert answer.content == region.content[:65536]
                counts.append(len(answer.content))
            except (httpx.HTTPError, AssertionError) as error:
                failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(counts) > 20)
    kept.servers.record(region.database)
    kept.servers.close([STORE])
    at_end = len(counts)
    wait_until(lambda: len(counts) > at_end + 20)
    again = ReplicaServers(region.settings, region.stores)
    again.start([STORE])
    second = again.pids()["westeurope"]
    assert second != first
    wait_until(lambda: not Path(f"/proc/{first}").exists() or _is_zombie(first))
    at_takeover = len(counts)
    wait_until(lambda: len(counts) > at_takeover + 20)
    ended.set()
    for thread in threads:
        thread.join()
    # A read that the old server had just accepted may break: a machine reads that from its next replica.
    assert len(failures) <= len(threads), failures
    # What was sent while nobody counted is counted.
    assert sum(again.served_bytes().values()) > (len(counts) - at_end) * 65536 * 0.9
    again.close()
    assert not Path(f"/proc/{second}").exists()


def test_a_server_that_nobody_reads_ends_with_the_next_start(region: Any, wait_until: Any) -> None:
    kept = keeping(region)
    kept.url()
    first = kept.servers.pids()["westeurope"]
    kept.servers.close([STORE])
    assert Path(f"/proc/{first}").exists()
    again = ReplicaServers(region.settings, region.stores)
    again.start([])
    wait_until(lambda: _is_zombie(first))
    assert again.pids() == {}
    again.close()


def test_a_server_that_died_meanwhile_is_started_on_its_port(region: Any, wait_until: Any) -> None:
    kept = keeping(region)
    url = kept.url()
    first = kept.servers.pids()["westeurope"]
    kept.servers.close([STORE])
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: _is_zombie(first))
    again = dataclasses.replace(region, servers=ReplicaServers(region.settings, region.stores))
    assert again.url() == url
    assert again.get("bytes=0-9").content == region.content[:10]
    again.servers.close()


def test_without_the_setting_nothing_is_kept(region: Any) -> None:
    region.url()
    first = region.servers.pids()["westeurope"]
    region.servers.close([STORE])
    time.sleep(0.1)
    assert not Path(f"/proc/{first}").exists()


def _is_zombie(pid: int) -> bool:
    """Whether the process has ended: it is this one's child, whoever took its socket."""
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"
