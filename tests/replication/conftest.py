"""Rows of the replicas table for tests."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, insert

from opengallery.database import now
from opengallery.replication.progress import replicas_table


def _add_replica(
    connection: Connection, owner: str, store: str, state: str = "Completed", **more: Any
) -> None:
    """A replica of image `i...` of tenant `t` in the region that the store's name says."""
    seconds = more.pop("seconds", 0)
    ended = now()
    row = {
        "owner": owner,
        "store": store,
        "tenant_id": "t",
        "region": store.rpartition("-")[0],
        "image_id": "1" * 64,
        "state": state,
        "started_at": ended - timedelta(seconds=seconds),
        "updated_at": ended,
        **more,
    }
    connection.execute(insert(replicas_table).values(row))


@pytest.fixture
def add_replica() -> Callable[..., None]:
    """Adds a row: connection, owner, store, state, any other column; `seconds` since it was started."""
    return _add_replica
