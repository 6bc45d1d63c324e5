"""Replica servers that start on demand, come back after a kill, and end with their parent."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from opengallery.database import now
from opengallery.imagestore import open_image
from opengallery.replica_server.supervisor import ReplicaServers


def test_nothing_runs_before_it_is_needed(region: Any) -> None:
    assert region.servers.pids() == {}
    assert region.servers.served_bytes() == {}
    assert region.get("bytes=0-9").status_code == 206
    assert list(region.servers.pids()) == ["westeurope"]


def test_many_threads_get_one_server(region: Any) -> None:
    found: list[tuple[str, int]] = []
    threads = [
        threading.Thread(target=lambda: found.append(region.servers.address("westeurope", "westeurope-01")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1
    assert len(region.servers.pids()) == 1


def test_a_killed_server_comes_back_on_its_port_and_loses_no_read(region: Any) -> None:
    url = region.url()
    assert region.get("bytes=0-9").status_code == 206
    first = region.servers.pids()["westeurope"]
    os.kill(first, signal.SIGKILL)
    # The supervisor holds the socket: this read waits for the next server, it is not refused.
    for _ in range(2):
        try:
            answer = region.get("bytes=0-99")
            break
        except httpx.TransportError:
            continue  # it was accepted by the one that died
    assert answer.content == region.content[:100]
    assert region.url() == url
    assert region.servers.pids()["westeurope"] != first
    key = ("westeurope-01", region.image_id)
    assert region.servers.served_bytes()[key] >= 100


def test_ports_outlive_the_control_plane(region: Any) -> None:
    url, cookie = region.url(), region.cookie()
    assert json.loads((region.settings.data / "replica-servers.json").read_text()) == {
        "westeurope": region.servers.address("westeurope", "westeurope-01")[1]
    }
    region.servers.close()
    again = ReplicaServers(region.settings, region.stores)
    try:
        again.start([("westeurope", "westeurope-01")])
        answer = region.client.get(url, headers={"Cookie": cookie, "Range": "bytes=0-9"})
        assert answer.content == region.content[:10]
    finally:
        again.close()


def test_the_key_is_for_its_owner_only_and_in_no_argument_list(region: Any) -> None:
    region.url()
    path = region.settings.data / "replica.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    arguments = Path(f"/proc/{region.servers.pids()['westeurope']}/cmdline").read_bytes()
    environment = Path(f"/proc/{region.servers.pids()['westeurope']}/environ").read_bytes()
    for secret in (path.read_text().strip(), region.stores.keys.data_key("tenant").hex()):
        assert secret.encode() not in arguments + environment


def test_new_stores_and_tenants_are_served_without_a_restart(region: Any) -> None:
    for pack in region.packs("westeurope-01"):
        pack.unlink()
    # It says so in its log, which must not mix with its answers to the supervisor.
    assert region.get("bytes=0-9").status_code == 503
    (pid,) = region.servers.pids().values()
    with open_image(region.settings.data / "a.raw") as source:
        image_id = region.stores.open("westeurope-07", "another tenant").put(source).image_id
    url = region.servers.url("westeurope", "westeurope-07", "another tenant", image_id)
    until = now() + timedelta(minutes=1)
    cookie = region.servers.cookie("westeurope", "westeurope-07", "another tenant", image_id, "m", until)
    assert (
        region.client.get(url, headers={"Cookie": cookie, "Range": "bytes=0-9"}).content
        == region.content[:10]
    )
    assert list(region.servers.pids().values()) == [pid]


def test_a_port_that_is_taken_is_not_shared(region: Any, tmp_path: Path) -> None:
    _, port = region.servers.address("westeurope", "westeurope-01")
    other = tmp_path / "other"
    other.mkdir()
    (other / "replica-servers.json").write_text(json.dumps({"westeurope": port}))
    region.settings.data = other
    servers = ReplicaServers(region.settings, region.stores)
    try:
        assert servers.address("westeurope", "westeurope-01")[1] != port
    finally:
        servers.close()


def test_close_ends_every_process(region: Any) -> None:
    region.url()
    (pid,) = region.servers.pids().values()
    region.servers.close()
    assert not Path(f"/proc/{pid}").exists()


PARENT = """
import sys, time
from pathlib import Path
from opengallery.database import Database, metadata
from opengallery.replica_server.supervisor import ReplicaServers
from opengallery.replication.stores import Stores
from opengallery.settings import Settings

settings = Settings(data=Path(sys.argv[1]))
servers = ReplicaServers(settings, Stores(settings, Database(settings.database)))
servers.address("westeurope", "westeurope-01")
print(servers.pids()["westeurope"], flush=True)
time.sleep(600)
"""


def test_servers_die_with_their_parent(region: Any, wait_until: Any) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(region.settings.data)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text())
