"""Services: what a running server has, as the providers reach it."""

from dataclasses import dataclass, field
from threading import Event

from opengallery.activity_log.recorder import Recorder
from opengallery.arm.resources import Resource
from opengallery.database import Database
from opengallery.hypervisors.health import Health
from opengallery.hypervisors.machine import Hydration, Hypervisor
from opengallery.replica_server.supervisor import ReplicaServers
from opengallery.replication.stores import Stores
from opengallery.settings import Settings


@dataclass(frozen=True)
class Services:
    """The parts of the house below ARM, put together by `app.py`.

    `hydrations` has what was last seen of the machines that read, by key; `machines` the machines' rows as last read.
    """

    settings: Settings
    database: Database
    stores: Stores
    replica_servers: ReplicaServers
    hypervisor: Hypervisor
    activity_log: Recorder
    health: Health = field(default_factory=Health)
    hydrations: dict[str, Hydration] = field(default_factory=dict)
    machines: dict[str, Resource] = field(default_factory=dict)
    closing: Event = field(default_factory=Event)
