"""VM sizes: what there is, what is refused, and what a machine of a size really gets."""

from pathlib import Path

import msgspec
import pytest

from opengallery.providers.compute.vm_sizes import SIZES, granted
from opengallery.settings import MachineSettings

from .conftest import Api
from .images import COMPUTE, REGION, definition, machine_body, managed_image, version_body


def test_sizes_and_skus_are_listed(api: Api) -> None:
    sizes = {
        size["name"]: size
        for size in api.get(f"{COMPUTE}/locations/westus2/vmSizes?api-version=2024-11-01")["value"]
    }
    assert sizes["Standard_D2s_v5"]["numberOfCores"] == 2
    assert sizes["Standard_D2s_v5"]["memoryInMB"] == 8192
    assert sizes["Standard_DS1_v2"]["memoryInMB"] == 3584
    skus = api.get(f"{COMPUTE}/skus?api-version=2019-04-01")["value"]
    assert {sku["name"] for sku in skus} == set(sizes)
    (small,) = [sku for sku in skus if sku["name"] == "Standard_B1ls"]
    assert {"name": "MemoryGB", "value": "0.5"} in small["capabilities"]
    assert "westus2" in small["locations"]
    here = api.get(f"{COMPUTE}/skus?$filter=location eq 'West US 2'&api-version=2019-04-01")["value"]
    assert {location for sku in here for location in sku["locations"]} == {"westus2"}
    assert api.refused("GET", f"{COMPUTE}/locations/moon/vmSizes?api-version=2024-11-01")[0] == 400


@pytest.mark.parametrize(
    ("size", "caps", "gets"),
    [
        ("Standard_D4s_v5", (64, 65536), (4, 16384)),
        ("standard_d4s_v5", (2, 512), (2, 512)),
        ("Standard_B1ls", (2, 1024), (1, 512)),
    ],
)
def test_a_size_is_granted_up_to_the_cap(size: str, caps: tuple[int, int], gets: tuple[int, int]) -> None:
    assert granted(MachineSettings(vcpus_max=caps[0], memory_mib_max=caps[1]), size) == gets


def test_without_a_cap_the_host_decides() -> None:
    vcpus, memory_mib = granted(MachineSettings(), "Standard_E96s_v5")
    assert 1 <= vcpus <= 96
    assert memory_mib >= 256
    assert len({size.name for size in SIZES.values()}) == len(SIZES)


def test_a_machine_has_its_size_and_can_be_resized(api: Api) -> None:
    group = api.group("sizes")
    version = f"{definition(api, group)}/versions/1.0.0"
    api.put(version, version_body(api, managed_image(api, group, "image", 1), REGION))
    machine = f"{group}/{COMPUTE}/virtualMachines/vm"
    body = machine_body(api, version)
    for bad in ("Standard_D3s_v5", "Standard_Nonsense"):
        body["properties"]["hardwareProfile"]["vmSize"] = bad
        status, code, message = api.refused("PUT", machine, body)
        assert (status, code) == (400, "InvalidParameter")
        assert "The valid sizes in the current region are: Standard_B1ls" in message
    cap = api.services.settings.machines.bearable_memory_mib
    body["properties"]["hardwareProfile"]["vmSize"] = "Standard_B1ls"
    api.put(machine, body)
    parts = parts_of(api, machine)
    assert parts["memory_mib"] == api.get(f"{machine}/instanceView")["hardware"]["memoryMiB"] == min(512, cap)
    body["properties"]["hardwareProfile"]["vmSize"] = "Standard_D2s_v5"
    api.put(machine, body)
    assert parts_of(api, machine)["memory_mib"] == min(8192, cap)
    assert api.get(f"{machine}/instanceView")["statuses"][1]["code"] == "PowerState/running"
    assert len(api.get(f"{machine}/vmSizes")["value"]) == len(SIZES)


def parts_of(api: Api, machine: str) -> dict[str, int]:
    """What the hypervisor made the machine of."""
    vm_id = api.get(machine)["properties"]["vmId"]
    folder: Path = api.services.settings.data / "machines" / vm_id
    return dict(msgspec.json.decode((folder / "machine.json").read_bytes()))
