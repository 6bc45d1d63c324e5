"""What a thousand instances cost the control plane: CPU seconds to create them, seconds to list a page of them.

The machines replay a recorded boot in a process of their own, and read from replica servers of their own: what
is counted is the CPU time of `gallery serve` itself, with all its threads. Usage: control_plane.py [BOOT-IMAGE]
[--instances N]
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from replica_processes import cpu_s
from subject import GALLERY, ROOT, Subject, subject

REGION, REPLICAS = "westcentralus", 5
COMPUTE_VERSION, NETWORK_VERSION = "2024-11-01", "2024-05-01"
CREATE_CPU_MS = 20
PAGE_S = 1
DEADLINE_S = 900
IDLE_S = 10


def main(boot_image: Path, instances: int) -> None:
    """Print a line for each kind of scale set."""
    with subject(ROOT / ".cache") as server:
        (server.data / "opengallery.toml").write_text('[machines]\nhypervisor = "replay"\n')
        server.start()
        version = publish(server, boot_image)
        print(
            f"scale sets of {instances} replayed machines, {REPLICAS} replicas; ms are CPU time of the server "
            f"per instance (idle, it takes {idle(server) * 1000:.0f} ms a second)\n"
            f"{'':<12}{'create':>9}{'create':>9}{'delete':>9}{'pages':>7}{'page ms':>9}"
            f"{'longest':>9}{'with views':>12}{'longest':>9}\n"
            f"{'instances':<12}{'s':>9}{'ms':>9}{'ms':>9}{'':>7}{'median':>9}{'ms':>9}{'median ms':>12}{'ms':>9}"
        )
        with client(server) as http:
            for mode in ("Flexible", "Uniform"):
                measure(server, http, version, mode, instances)


def measure(server: Subject, http: httpx.Client, version: str, mode: str, instances: int) -> None:
    """Create a scale set, list it, delete it: one line."""
    path = f"{group(server)}/providers/Microsoft.Compute/virtualMachineScaleSets/{mode.lower()}"
    assert server.process is not None
    pid = server.process.pid
    before_s, began_s = cpu_s(pid), time.monotonic()
    carry_out(http, "PUT", path, scale_set(server, version, mode, instances))
    create_s, create_cpu_s = time.monotonic() - began_s, cpu_s(pid) - before_s
    plain = list(pages(http, f"{path}/virtualMachines"))
    views = list(pages(http, f"{path}/virtualMachines", "&$expand=instanceView"))
    for listed in (plain, views):
        found = sum(count for _, count in listed)
        assert found == instances, f"{found} of {instances} instances were listed"
    before_s = cpu_s(pid)
    carry_out(http, "DELETE", path)
    delete_cpu_s = cpu_s(pid) - before_s
    plain_ms, views_ms = ([taken_s * 1000 for taken_s, _ in listed] for listed in (plain, views))
    print(
        f"{mode:<12}{create_s:>9.0f}{create_cpu_s / instances * 1000:>9.1f}{delete_cpu_s / instances * 1000:>9.1f}"
        f"{len(plain):>7}{median(plain_ms):>9.0f}{max(plain_ms):>9.0f}{median(views_ms):>12.0f}{max(views_ms):>9.0f}"
        f"   wanted: create under {CREATE_CPU_MS} ms, a page under {PAGE_S} s",
        flush=True,
    )


def idle(server: Subject) -> float:
    """CPU seconds per second of a server that has nothing to do."""
    assert server.process is not None
    before_s = cpu_s(server.process.pid)
    time.sleep(IDLE_S)
    return (cpu_s(server.process.pid) - before_s) / IDLE_S


def publish(server: Subject, image: Path) -> str:
    """Bring the image into a version, and make a network large enough. Returns the version's id."""
    quiet = ("-g", "bench", "-o", "json")
    definition = (*quiet, "--gallery-name", "g", "--gallery-image-definition", "d")
    server.run(GALLERY, "group", "create", "-n", "bench", "-l", REGION, "-o", "json")
    server.run(GALLERY, "sig", "create", *quiet, "--gallery-name", "g")
    server.run(
        GALLERY, "sig", "image-definition", "create", *definition, "--publisher", "p", "--offer", "o",
        "--sku", "s", "--os-type", "Linux", "--hyper-v-generation", "V1",
    )  # fmt: skip
    server.run(GALLERY, "image", "import", image, *quiet, "-n", "boot", "--os-type", "Linux")
    version = server.run(
        GALLERY, "sig", "image-version", "create", *definition, "--gallery-image-version", "1.0.0",
        "--managed-image", "boot", "--replica-count", REPLICAS,
    )  # fmt: skip
    with client(server) as http:
        subnet = {"name": "default", "properties": {"addressPrefix": "10.0.0.0/16"}}
        properties = {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": [subnet]}
        body = {"location": REGION, "properties": properties}
        carry_out(http, "PUT", network(server), body, NETWORK_VERSION)
    return str(version["id"])


def group(server: Subject) -> str:
    return f"/subscriptions/{server.environment['AZURE_SUBSCRIPTION_ID']}/resourceGroups/bench"


def network(server: Subject) -> str:
    return f"{group(server)}/providers/Microsoft.Network/virtualNetworks/vnet"


def scale_set(server: Subject, version: str, mode: str, instances: int) -> dict[str, Any]:
    """The body that makes a scale set as az would, without a load balancer."""
    address = {"name": "ip", "properties": {"subnet": {"id": f"{network(server)}/subnets/default"}}}
    key = {"path": "/home/azureuser/.ssh/authorized_keys", "keyData": "ssh-ed25519 AAAA bench"}
    profile = {
        "storageProfile": {"imageReference": {"id": version}, "osDisk": {"createOption": "FromImage"}},
        "osProfile": {
            "computerNamePrefix": mode[:4].lower(),
            "adminUsername": "azureuser",
            "linuxConfiguration": {"disablePasswordAuthentication": True, "ssh": {"publicKeys": [key]}},
        },
        "networkProfile": {
            "networkInterfaceConfigurations": [
                {"name": "nic", "properties": {"primary": True, "ipConfigurations": [address]}}
            ]
        },
    }
    return {
        "location": REGION,
        "sku": {"name": "Standard_D2s_v5", "capacity": instances},
        "properties": {
            "orchestrationMode": mode,
            "upgradePolicy": {"mode": "Manual"},
            "virtualMachineProfile": profile,
        },
    }


def client(server: Subject) -> httpx.Client:
    """A signed-in client."""
    names = server.environment
    endpoint, trusted = names["GALLERY_ENDPOINT"], names["REQUESTS_CA_BUNDLE"]
    answer = httpx.post(
        f"{endpoint}/{names['AZURE_TENANT_ID']}/oauth2/v2.0/token",
        data={
            "grant_type": "client_credentials",
            "client_id": names["AZURE_CLIENT_ID"],
            "client_secret": names["AZURE_CLIENT_SECRET"],
            "scope": f"{endpoint}/.default",
        },
        verify=trusted,
    )
    token = answer.raise_for_status().json()["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.Client(base_url=endpoint, verify=trusted, timeout=60, headers=headers)


def carry_out(
    http: httpx.Client, method: str, path: str, body: Any = None, version: str = COMPUTE_VERSION
) -> None:
    """Send a request and wait until its operation has succeeded."""
    answer = http.request(method, f"{path}?api-version={version}", json=body)
    if answer.is_error:
        raise SystemExit(f"{method} {path}: {answer.text}")
    operation = answer.headers.get("Azure-AsyncOperation")
    deadline_s = time.monotonic() + DEADLINE_S
    while operation and time.monotonic() < deadline_s:
        state = http.get(operation).raise_for_status().json()
        if state["status"] == "Succeeded":
            return
        if state["status"] != "InProgress":
            raise SystemExit(f"{method} {path}: {state}")
        time.sleep(1)
    if operation:
        raise SystemExit(f"{method} {path} did not end within {DEADLINE_S} s")


def pages(http: httpx.Client, path: str, query: str = "") -> Iterator[tuple[float, int]]:
    """The seconds that each page of a list takes, and how many are on it."""
    url: str | None = f"{path}?api-version={COMPUTE_VERSION}{query}"
    while url:
        began_s = time.perf_counter()
        answer = http.get(url).raise_for_status()
        taken_s = time.perf_counter() - began_s
        page = answer.json()
        yield taken_s, len(page["value"])
        url = page.get("nextLink")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What a thousand instances cost the control plane.")
    parser.add_argument("boot_image", type=Path, nargs="?", default=ROOT / ".cache/boot.raw")
    parser.add_argument("--instances", type=int, default=1000)
    main(**vars(parser.parse_args()))
