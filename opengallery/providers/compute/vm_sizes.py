"""VM sizes: which there are, what each has, and what a machine of one really gets on this host.

Sources: Virtual Machine Sizes and Resource SKUs REST APIs; Azure's documents of its size series.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError
from opengallery.arm.resource_type import Route
from opengallery.providers.compute import COMPUTE_VERSIONS
from opengallery.regions import REGIONS, find_region
from opengallery.settings import MachineSettings

SKU_VERSIONS = ("2021-07-01", "2019-04-01", "2017-09-01")
_READ_SIZES = "Microsoft.Compute/locations/vmSizes/read"
_READ_SKUS = "Microsoft.Compute/skus/read"
_OS_DISK_MIB = 1023 * 1024


@dataclass(frozen=True)
class VmSize:
    """One size: `Standard_D2s_v5` of the family `standardDSv5Family` has 2 processors and 8192 MiB."""

    name: str
    family: str
    vcpus: int
    memory_mib: int

    @property
    def data_disks(self) -> int:
        """How many data disks a machine of this size takes."""
        return min(64, max(2, 2 * self.vcpus))


def _series(
    name: str, family: str, gib_per_vcpu: float, vcpus: Iterable[int], **memory_gib: float
) -> list[VmSize]:
    """The sizes of a series whose memory grows with its processors; `memory_gib` are exceptions, as `x96`."""
    return [
        VmSize(
            name.format(n=count), family, count, int(memory_gib.get(f"x{count}", gib_per_vcpu * count) * 1024)
        )
        for count in vcpus
    ]


def _all() -> list[VmSize]:
    large = (2, 4, 8, 16, 32, 48, 64, 96)
    found = [
        VmSize(f"Standard_{name}", family, vcpus, int(gib * 1024))
        for family, sizes in {
            "standardBSFamily": (
                ("B1ls", 1, 0.5), ("B1s", 1, 1), ("B1ms", 1, 2), ("B2s", 2, 4), ("B2ms", 2, 8), ("B4ms", 4, 16),
                ("B8ms", 8, 32), ("B12ms", 12, 48), ("B16ms", 16, 64), ("B20ms", 20, 80),
            ),
            "standardBsv2Family": (
                ("B2ts_v2", 2, 1), ("B2ls_v2", 2, 4), ("B2s_v2", 2, 8), ("B4ls_v2", 4, 8), ("B4s_v2", 4, 16),
                ("B8ls_v2", 8, 16), ("B8s_v2", 8, 32), ("B16ls_v2", 16, 32), ("B16s_v2", 16, 64),
                ("B32ls_v2", 32, 64), ("B32s_v2", 32, 128),
            ),
            "standardAv2Family": (
                ("A1_v2", 1, 2), ("A2_v2", 2, 4), ("A4_v2", 4, 8), ("A8_v2", 8, 16), ("A2m_v2", 2, 16),
                ("A4m_v2", 4, 32), ("A8m_v2", 8, 64),
            ),
        }.items()
        for name, vcpus, gib in sizes
    ]  # fmt: skip
    for letter, family in (("D", "standardDv2Family"), ("DS", "standardDSv2Family")):
        for number, vcpus, gib in ((1, 1, 3.5), (2, 2, 7), (3, 4, 14), (4, 8, 28), (5, 16, 56)):
            found.append(VmSize(f"Standard_{letter}{number}_v2", family, vcpus, int(gib * 1024)))
    for version in ("v3", "v4", "v5"):
        for middle in ("", "s", "as", "ds", "ads") if version != "v3" else ("", "s"):
            tail = f"{middle.upper()}{version}Family"
            found += _series(f"Standard_D{{n}}{middle}_{version}", f"standardD{tail}", 4, large)
            found += _series(f"Standard_E{{n}}{middle}_{version}", f"standardE{tail}", 8, large, x96=672)
    for middle in ("s", "ds", "as", "ads"):
        tail = f"{middle.upper()}v6Family"
        found += _series(f"Standard_D{{n}}{middle}_v6", f"standardD{tail}", 4, large)
        found += _series(f"Standard_E{{n}}{middle}_v6", f"standardE{tail}", 8, large, x96=672)
    return found + _series("Standard_F{n}s_v2", "standardFSv2Family", 2, (2, 4, 8, 16, 32, 48, 64, 72))


SIZES = {size.name.lower(): size for size in _all()}


def find_size(name: str) -> VmSize:
    """The size of this name, in any case. Raises 400 as Azure does."""
    found = SIZES.get(name.lower())
    if found is None:
        raise ArmError(
            "InvalidParameter",
            f"The value {name} provided for the VM size is not valid. The valid sizes in the current region are: "
            f"{', '.join(size.name for size in SIZES.values())}. Give one of them (--size).",
            target="vmSize",
        )
    return found


def granted(settings: MachineSettings, name: str) -> tuple[int, int]:
    """The processors and the MiB of memory that a machine of this size gets on this host."""
    size = find_size(name)
    return min(size.vcpus, settings.bearable_vcpus), min(size.memory_mib, settings.bearable_memory_mib)


def view(size: VmSize) -> dict[str, Any]:
    """A size as lists of sizes have it."""
    return {
        "name": size.name,
        "numberOfCores": size.vcpus,
        "memoryInMB": size.memory_mib,
        "osDiskSizeInMB": _OS_DISK_MIB,
        "resourceDiskSizeInMB": 0,
        "maxDataDiskCount": size.data_disks,
    }


def _sizes(_call: Call, parameters: dict[str, str], _body: dict[str, Any]) -> dict[str, Any]:
    if find_region(parameters["location"]) is None:
        raise ArmError(
            "NoRegisteredProviderFound",
            f"No registered resource provider found for location '{parameters['location']}'. "
            "List the regions by 'az account list-locations' and give one of them.",
        )
    return {"value": [view(size) for size in SIZES.values()]}


def _skus(call: Call, _parameters: dict[str, str], _body: dict[str, Any]) -> dict[str, Any]:
    """Each size once, with all its regions, or the one that `$filter=location eq '...'` names."""
    wanted = (call.option("$filter") or "").partition("location eq ")[2].strip().strip("'")
    regions = [region.name for region in REGIONS.values()]
    if wanted:
        region = find_region(wanted)
        regions = [region.name] if region else []
    return {"value": [_sku(size, regions) for size in SIZES.values() if regions]}


def _sku(size: VmSize, regions: list[str]) -> dict[str, Any]:
    capabilities = {
        "vCPUs": size.vcpus,
        "MemoryGB": f"{size.memory_mib / 1024:g}",
        "MaxDataDiskCount": size.data_disks,
        "HyperVGenerations": "V1,V2",
        "CpuArchitectureType": "x64",
        "PremiumIO": "True",
    }
    return {
        "resourceType": "virtualMachines",
        "name": size.name,
        "tier": "Standard",
        "size": size.name.removeprefix("Standard_"),
        "family": size.family,
        "locations": regions,
        "locationInfo": [{"location": region, "zones": []} for region in regions],
        "capabilities": [{"name": name, "value": str(value)} for name, value in capabilities.items()],
        "restrictions": [],
    }


_SUBSCRIPTION = "/subscriptions/{subscription}/providers/Microsoft.Compute"
ROUTES = (
    Route("GET", _SUBSCRIPTION + "/locations/{location}/vmSizes", COMPUTE_VERSIONS, _READ_SIZES, _sizes),
    Route("GET", _SUBSCRIPTION + "/skus", SKU_VERSIONS, _READ_SKUS, _skus),
)
