"""kill -9 at any moment of a replication: the next start goes on, and it ends right."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select

from opengallery.database import Database
from opengallery.imagestore import verify
from opengallery.replication.leftovers import leftovers
from opengallery.replication.progress import replicas
from opengallery.replication.stores import Stores
from opengallery.settings import Settings

PROGRAM = Path(__file__).with_name("replicating_process.py")
KILLS = int(os.environ.get("GALLERY_KILLS", "6"))
MIB = 1 << 20


@pytest.mark.slow
def test_a_replication_survives_kills_at_any_moment(tmp_path: Path, image_file: Callable[..., Path]) -> None:
    path = image_file("a.raw", 600, [*range(12), *range(300, 312), *range(560, 572)])
    moments = random.Random(20261124)
    kills = 0
    while True:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(tmp_path), str(path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        if kills < KILLS:
            time.sleep(moments.uniform(0.05, 0.8))
            process.kill()
            kills += 1
        is_done = process.stdout.read() == "done\n"
        process.wait()
        process.stdout.close()
        if is_done:
            break
        assert process.returncode == -9

    settings = Settings(data=tmp_path)
    database = Database(settings.database)
    stores = Stores(settings, database)
    with database.read() as connection:
        found = {replica.store: replica for replica in replicas(connection, "version")}
        assert replicas(connection, "image") == []
        assert connection.execute(select(leftovers)).all() == []
    assert {store: replica.state for store, replica in found.items()} == dict.fromkeys(
        ["north-01", "north-02", "south-01"], "Completed"
    )
    image_id = found["south-01"].image_id
    for region in ("east", "west", "south", "north"):
        for store in stores.names(region):
            expected = [image_id] if store in found else []
            assert list(stores.open(store, "tenant").images()) == expected, store
    for store in found:
        opened = stores.open(store, "tenant")
        assert verify(opened, image_id).is_good
        reader = opened.open(image_id)
        with path.open("rb") as file:
            for offset in range(0, 600 * MIB, 24 * MIB):
                assert reader.read(offset, 24 * MIB) == file.read(24 * MIB)
    database.close()
