"""Services: what a running server has, as the providers reach it."""

from dataclasses import dataclass, field
from threading import Event

from opengallery.database import Database
from opengallery.hypervisors.machine import Hypervisor
from opengallery.replica_server.supervisor import ReplicaServers
from opengallery.replication.stores import Stores
from opengallery.settings import Settings


@dataclass(frozen=True)
class Services:
    """The parts of the house below ARM, put together by `app.py`."""

    settings: Settings
    database: Database
    stores: Stores
    replica_servers: ReplicaServers
    hypervisor: Hypervisor
    closing: Event = field(default_factory=Event)
