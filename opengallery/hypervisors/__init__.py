"""Running machines: the hypervisors that start a VM from replicas of its image."""

from opengallery.hypervisors.machine import (
    Forward,
    Hydration,
    Hypervisor,
    HypervisorError,
    MachineNotFound,
    MachineSpec,
    NoLiveReplica,
    Port,
    ReplicaUrl,
    Seed,
    StartFailed,
    State,
)
from opengallery.hypervisors.qemu import Qemu

__all__ = [
    "Forward",
    "Hydration",
    "Hypervisor",
    "HypervisorError",
    "MachineNotFound",
    "MachineSpec",
    "NoLiveReplica",
    "Port",
    "Qemu",
    "ReplicaUrl",
    "Seed",
    "StartFailed",
    "State",
]
