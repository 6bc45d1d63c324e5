"""Ways into real machines: their public addresses, what security groups let in, and NAT ports."""

import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from .publishing import GROUP, REGION, definition, id_of, machine_body, upload, version_body
from .serving import ROOT, Gallery, until

NETWORK = f"{GROUP}/providers/Microsoft.Network"
VM = f"{GROUP}/providers/Microsoft.Compute/virtualMachines"
SOON_S = 15
pytestmark = pytest.mark.timeout(400)


@dataclass
class Site:
    """A server with a published image and a network; makes machines with addresses in it."""

    gallery: Gallery
    image: str
    key: Path
    made: list[str] = field(default_factory=list)

    def put(self, kind: str, name: str, properties: Any, **others: Any) -> Any:
        """Make a network resource."""
        return self.gallery.put(
            f"{NETWORK}/{kind}/{name}", {"location": REGION, "properties": properties, **others}
        )

    def ref(self, kind: str, name: str) -> dict[str, str]:
        """A reference to a network resource."""
        return {"id": id_of(self.gallery, f"{NETWORK}/{kind}/{name}")}

    def address(self, name: str) -> str:
        """A new public address."""
        made = self.put("publicIPAddresses", name, {}, sku={"name": "Standard"})
        return str(made["properties"]["ipAddress"])

    def nic(self, name: str, address: str | None, group: str = "ssh-only", **properties: Any) -> None:
        """An interface."""
        properties["subnet"] = self.ref("virtualNetworks", "net/subnets/default")
        if address:
            properties["publicIPAddress"] = self.ref("publicIPAddresses", address)
        configuration = {"name": "c", "properties": properties}
        self.put(
            "networkInterfaces",
            name,
            {
                "ipConfigurations": [configuration],
                "networkSecurityGroup": self.ref("networkSecurityGroups", group),
            },
        )

    def machine(self, name: str, nic: str) -> str:
        """A machine with an interface, which is up when this returns; its path."""
        body = machine_body(self.gallery, self.image, name)
        keys = body["properties"]["osProfile"]["linuxConfiguration"]["ssh"]["publicKeys"]
        keys[0]["keyData"] = self.key.with_suffix(".pub").read_text().strip()
        body["properties"]["networkProfile"] = {"networkInterfaces": [self.ref("networkInterfaces", nic)]}
        self.gallery.put(f"{VM}/{name}", body)
        self.made.append(f"{VM}/{name}")
        return f"{VM}/{name}"

    def with_address(self, name: str, group: str = "ssh-only") -> tuple[str, str]:
        """A machine with a public address: its path, its address."""
        address = self.address(name)
        self.nic(name, name, group)
        return self.machine(name, name), address

    def ssh(self, address: str, port: int = 22, command: str = "hostname") -> str:
        """What a command says, run by SSH as az's users do, with the key and no password."""
        options = (
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "BatchMode=yes",
            "LogLevel=ERROR",
        )
        words = [word for option in options for word in ("-o", option)]
        done = subprocess.run(
            ["ssh", *words, "-i", str(self.key), "-p", str(port), f"azureuser@{address}", command],
            capture_output=True,
            text=True,
            timeout=90,
        )
        return done.stdout.strip() or f"failed: {done.stderr}"

    def ports(self, machine: str) -> dict[int, int]:
        """The ports of its addresses, each with that of the guest."""
        view = self.gallery.get(f"{machine}/instanceView")
        return {port["port"]: port["guestPort"] for port in view["ports"]}

    def clear(self) -> None:
        """Delete the machines."""
        while self.made:
            self.gallery.act("DELETE", self.made.pop())


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """One for all tests of this file."""
    folder = Path(tempfile.mkdtemp(prefix="opengallery-server-"))
    subprocess.run([str(ROOT / "scripts/build-boot-image.sh"), str(ROOT / ".cache/boot.raw")], check=True)
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    gallery = Gallery(folder / "data")
    gallery.serve()
    try:
        version = f"{definition(gallery)}/versions/1.0.0"
        gallery.put(
            version, version_body(gallery, upload(gallery, ROOT / ".cache/boot.raw", "boot"), westcentralus=1)
        )
        site = Site(gallery, version, key)
        subnet = {"name": "default", "properties": {"addressPrefix": "10.0.0.0/24"}}
        site.put(
            "virtualNetworks",
            "net",
            {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": [subnet]},
        )
        site.put("networkSecurityGroups", "ssh-only", {"securityRules": [allow("ssh", 1000, "22")]})
        yield site
    finally:
        gallery.end()
        shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def _cleared(site: Site) -> Iterator[None]:
    """No machine of an earlier test runs."""
    yield
    site.clear()


def allow(name: str, priority: int, ports: str, access: str = "Allow") -> dict[str, Any]:
    """A rule as az makes it."""
    return {
        "name": name,
        "properties": {
            "protocol": "Tcp",
            "sourcePortRange": "*",
            "destinationPortRange": ports,
            "sourceAddressPrefix": "*",
            "destinationAddressPrefix": "*",
            "access": access,
            "priority": priority,
            "direction": "Inbound",
        },
    }


def listens(address: str, port: int) -> bool:
    """Whether connections are taken there."""
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex((address, port)) == 0


def test_ssh_opens_a_machine_right_after_it_was_created(site: Site) -> None:
    machine, address = site.with_address("first")
    ((port, guest_port),) = site.ports(machine).items()
    assert guest_port == 22
    assert site.ssh(address, port) == "first"
    assert not listens(address, 80)
    site.gallery.act("POST", f"{machine}/restart")
    assert site.ssh(address, port) == "first"
    site.gallery.act("POST", f"{machine}/deallocate")
    assert not listens(address, port)
    assert site.ports(machine) == {}


def test_what_a_rule_says_takes_effect_on_a_machine_that_runs(site: Site) -> None:
    site.put("networkSecurityGroups", "changing", {"securityRules": [allow("ssh", 1000, "22")]})
    machine, address = site.with_address("ruled", "changing")
    rules = f"{NETWORK}/networkSecurityGroups/changing/securityRules"
    site.gallery.put(f"{rules}/open-port-8088", allow("", 900, "8088"))
    until(lambda: listens(address, 8088), SOON_S)
    site.gallery.put(f"{rules}/no-ssh", allow("", 500, "22", "Deny"))
    until(lambda: list(site.ports(machine)) == [8088], SOON_S)
    assert not listens(address, 22)
    site.gallery.act("DELETE", f"{rules}/no-ssh")
    until(lambda: 22 in site.ports(machine).values(), SOON_S)
    (port,) = [port for port, guest_port in site.ports(machine).items() if guest_port == 22]
    assert site.ssh(address, port) == "ruled"


def test_where_port_22_is_taken_the_server_says_which_it_took(site: Site) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(("0.0.0.0", 22))
            other.listen()
        except OSError:
            pass  # a program of this host has it already, or we may not
        machine, address = site.with_address("elsewhere")
        (port,) = site.ports(machine)
        assert port == 10022
        assert site.ssh(address, port) == "elsewhere"
        (told,) = [
            status
            for status in site.gallery.get(f"{machine}/instanceView")["statuses"]
            if status["code"] == "PortForwarding/22"
        ]
        assert told["level"] == "Warning"
        assert "10022" in told["message"]
        assert re.search(rf"Port 22 of {re.escape(address)} .*10022", site.gallery.log.read_text())


def test_an_address_goes_from_one_machine_to_another_with_its_port(site: Site) -> None:
    first, address = site.with_address("giver")
    (port,) = site.ports(first)
    site.nic("giver", None)
    site.nic("taker", "giver")
    second = site.machine("taker", "taker")
    assert list(site.ports(second)) == [port]
    assert site.ports(first) == {}
    assert site.ssh(address, port) == "taker"
    site.clear()
    assert not listens(address, port)
    for path in ("networkInterfaces/giver", "networkInterfaces/taker", "publicIPAddresses/giver"):
        site.gallery.act("DELETE", f"{NETWORK}/{path}")


@pytest.mark.slow
def test_ways_in_outlive_a_killed_server(site: Site) -> None:
    machine, address = site.with_address("survivor")
    before = site.ports(machine)
    (port,) = before
    site.gallery.kill()
    assert listens(address, port)
    site.gallery.serve()
    assert site.ports(machine) == before
    until(lambda: site.ssh(address, port) == "survivor", 60)
    # It is followed as before.
    site.put(
        "networkSecurityGroups",
        "ssh-only",
        {"securityRules": [allow("ssh", 1000, "22"), allow("w", 1001, "8089")]},
    )
    until(lambda: listens(address, 8089), SOON_S)
    site.put("networkSecurityGroups", "ssh-only", {"securityRules": [allow("ssh", 1000, "22")]})
    until(lambda: not listens(address, 8089), SOON_S)


def test_each_machine_behind_a_load_balancer_has_a_port_of_its_address(site: Site) -> None:
    address = site.address("lb")
    front = {"name": "front", "properties": {"publicIPAddress": site.ref("publicIPAddresses", "lb")}}
    site.put(
        "loadBalancers",
        "lb",
        {"frontendIPConfigurations": [front], "backendAddressPools": [{"name": "pool"}]},
        sku={"name": "Standard"},
    )
    pool = site.ref("loadBalancers", "lb/backendAddressPools/pool")
    rule = {
        "frontendIPConfiguration": site.ref("loadBalancers", "lb/frontendIPConfigurations/front"),
        "backendAddressPool": pool,
        "backendPort": 22,
        "frontendPortRangeStart": "50000",
        "frontendPortRangeEnd": "50119",
        "protocol": "tcp",
    }
    site.gallery.put(f"{NETWORK}/loadBalancers/lb/inboundNatRules/NatRule", {"properties": rule})
    for name in ("one", "two"):
        site.nic(name, None, loadBalancerBackendAddressPools=[pool])
        site.machine(name, name)
    shown = site.gallery.get(f"{NETWORK}/loadBalancers/lb")["properties"]["backendAddressPools"][0]
    ports = {}
    for member in shown["properties"]["loadBalancerBackendAddresses"]:
        (mapping,) = member["properties"]["inboundNatRulesPortMapping"]
        nic = member["properties"]["networkInterfaceIPConfiguration"]["id"].split("/")[8]
        ports[nic] = mapping["frontendPort"]
    assert ports == {"one": 50000, "two": 50001}
    for name, port in ports.items():
        assert site.ssh(address, port) == name
