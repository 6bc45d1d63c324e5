"""What a replica server keeps of what it has checked: right bytes under eviction, never unchecked ones."""

import os
import random
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from opengallery.imagestore import open_image
from opengallery.replica_server.supervisor import ReplicaServers

MIB = 1 << 20


def flip(pack: Path, position: int) -> None:
    content = bytearray(pack.read_bytes())
    content[position] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(content)


def test_hot_bytes_need_no_store(region: Any) -> None:
    assert region.get("bytes=1000000-1200000").status_code == 206
    for pack in region.packs("westeurope-01"):
        pack.unlink()
    assert region.get("bytes=1000000-1200000").content == region.content[1000000:1200001]


def test_hot_reads_end_with_their_cookie(region: Any) -> None:
    cookie, first = region.cookie(seconds=3), 0
    # Heads that differ in nothing but the range.
    while (answer := region.get(f"bytes={first}-{first + 9}", Cookie=cookie)).status_code == 206:
        assert answer.content == region.content[first : first + 10]
        first += 1
    assert answer.status_code == 403
    assert first > 1


def test_hot_reads_stay_within_the_image(region: Any) -> None:
    cookie, size = region.cookie(), len(region.content)
    for first, last in ((0, 9), (size - 5, size - 1), (size - 5, size + 90), (size - 70_000, size * 9)):
        answer = region.get(f"bytes={first}-{last}", Cookie=cookie)
        assert answer.content == region.content[first : last + 1]
        assert answer.headers["content-range"] == f"bytes {first}-{min(last, size - 1)}/{size}"
    for first, last in ((size, size + 5), (9, 3), (10**18, 10**19 - 1)):
        assert region.get(f"bytes={first}-{last}", Cookie=cookie).status_code == 416


def test_replicas_of_an_image_share_what_was_checked(region: Any) -> None:
    region.get("bytes=0-65535", store="westeurope-02")
    for pack in region.packs("westeurope-01"):
        flip(pack, 1000)
    answer = region.get("bytes=0-65535")
    assert (answer.status_code, answer.content) == (206, region.content[:65536])
    assert region.get("bytes=0-9", store="westeurope-03").status_code == 404


def test_a_corrupt_block_never_gets_out_of_or_into_the_cache(region: Any) -> None:
    for pack in region.packs("westeurope-01"):
        for position in range(0, pack.stat().st_size - 4096, MIB // 2):
            flip(pack, position)
    numbers = random.Random(2)
    statuses = []
    for _ in range(300):
        first = numbers.randrange(12 * MIB)
        last = min(len(region.content) - 1, first + numbers.choice([511, 65535, 300_000, 3 * MIB]))
        try:
            answer = region.get(f"bytes={first}-{last}")
        except httpx.RemoteProtocolError:
            continue  # found in the middle of an answer
        statuses.append(answer.status_code)
        if answer.status_code == 206:
            assert answer.content == region.content[first : last + 1]
    assert {206, 503} == set(statuses)


@pytest.fixture
def large_region(region: Any) -> Any:
    """The region with an image of four times its cache."""
    region.servers.close()
    region.settings.replicas.cache_mib = 16
    region.servers = ReplicaServers(region.settings, region.stores)
    region.content = os.urandom(40 * MIB) + bytes(4 * MIB) + os.urandom(20 * MIB + 1536)
    path = region.settings.data / "large.raw"
    path.write_bytes(region.content)
    with open_image(path) as source:
        region.image_id = region.stores.open("westeurope-01", "tenant").put(source).image_id
    return region


def test_eviction_under_load_gives_right_bytes(large_region: Any) -> None:
    region = large_region
    wrong: list[str] = []
    url, cookie = region.url(), region.cookie()

    def read(seed: int) -> None:
        numbers = random.Random(seed)
        with httpx.Client(timeout=60) as client:
            for _ in range(40):
                first = numbers.randrange(len(region.content))
                last = min(len(region.content) - 1, first + numbers.choice([4095, 65535, MIB, 6 * MIB]))
                headers = {"Cookie": cookie, "Range": f"bytes={first}-{last}"}
                answer = client.get(url, headers=headers)
                if answer.content != region.content[first : last + 1]:
                    wrong.append(f"{answer.status_code} {first}-{last}")

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
