"""Security rules: which connections network security groups let in.

The rules of a group apply in the order of their priority, and the first that fits decides; Azure's default
rules come last, and let nothing in from outside. Everybody who connects is on this host, so a rule that
names a source fits when that covers 127.0.0.1.
Source: Azure's documentation, "Network security groups" and "Public IP addresses: SKU".
"""

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

USUAL_PORTS = (22, 80, 443, 3389)
"""What is forwarded of a range, an asterisk, or an open address: SSH, HTTP, HTTPS, RDP."""
SHORT_RANGE = 16
"""A range of no more ports than this is forwarded as a whole."""
PORTS_MAX = 32
"""How many ports of one public address are forwarded: each costs QEMU a socket."""

_CLIENT = ipaddress.IPv4Address("127.0.0.1")
_EVERYBODY = frozenset({"*", "any", "internet"})
_ANY_DESTINATION = frozenset({"*", "any", "virtualnetwork"})


@dataclass(frozen=True)
class Inbound:
    """What may connect to an interface: the rules of its subnet's group and of its own.

    Both have to let a connection in. `is_open` says what holds where there is no group at all: Azure
    lets everything in to a Basic address, and nothing to a Standard one.
    """

    address: str  # the interface's private address
    groups: tuple[Sequence[dict[str, Any]], ...]
    is_open: bool

    def allows(self, port: int) -> bool:
        """Whether a TCP connection to this port of the machine is let in."""
        if not self.groups:
            return self.is_open
        return all(_allows(rules, self.address, port) for rules in self.groups)

    def ports(self) -> list[int]:
        """The ports of the machine to forward: those named one by one, short ranges, and the usual ones."""
        named = [number for rules in self.groups for rule in _inbound(rules) for number in _named(rule)]
        candidates = dict.fromkeys([*USUAL_PORTS, *named])
        return [port for port in candidates if self.allows(port)][:PORTS_MAX]


def port_range(text: str) -> range:
    """The ports of `22`, `8000-8080` or `*`. Raises `ValueError`."""
    if text == "*":
        return range(65536)
    first, _, last = text.partition("-")
    low, high = int(first), int(last or first)
    if not 0 <= low <= high <= 65535:
        raise ValueError(f"{text} is not in 0-65535")
    return range(low, high + 1)


def several(properties: dict[str, Any], name: str) -> list[str]:
    """The values of a member that Azure has in the singular and in the plural: `destinationPortRange` and so on."""
    plural = f"{name}es" if name.endswith("x") else f"{name}s"
    single = properties.get(name)
    return [str(text) for text in ([single] if single not in (None, "") else []) + properties.get(plural, [])]


def _allows(rules: Sequence[dict[str, Any]], address: str, port: int) -> bool:
    for rule in _inbound(rules):
        if _fits(rule, address, port):
            return str(rule["access"]).lower() == "allow"
    return False


def _inbound(rules: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The properties of the inbound rules that can be about TCP, the first to apply first."""
    found = [rule["properties"] for rule in rules]
    for rule in sorted(found, key=lambda rule: int(rule["priority"])):
        if str(rule["direction"]).lower() == "inbound" and str(rule["protocol"]).lower() in ("tcp", "*"):
            yield rule


def _fits(rule: dict[str, Any], address: str, port: int) -> bool:
    is_denial = str(rule["access"]).lower() == "deny"
    if not any(port in port_range(text) for text in several(rule, "destinationPortRange")):
        return False
    if not any(_covers_client(text) for text in several(rule, "sourceAddressPrefix")):
        return False
    if not any(_covers(text, address) for text in several(rule, "destinationAddressPrefix")):
        return False
    # A client's own port isn't known beforehand: a rule about some of them can only forbid.
    return is_denial or any(len(port_range(text)) >= 65535 for text in several(rule, "sourcePortRange"))


def _covers_client(text: str) -> bool:
    return text.lower() in _EVERYBODY or _contains(text, _CLIENT)


def _covers(text: str, address: str) -> bool:
    return text.lower() in _ANY_DESTINATION or _contains(text, ipaddress.IPv4Address(address))


def _contains(text: str, address: ipaddress.IPv4Address) -> bool:
    """Whether a prefix has the address; a service tag such as AzureCloud has none of ours."""
    try:
        return address in ipaddress.IPv4Network(text, strict=False)
    except ValueError:
        return False


def _named(rule: dict[str, Any]) -> Iterator[int]:
    if str(rule["access"]).lower() == "allow":
        for text in several(rule, "destinationPortRange"):
            if len(ports := port_range(text)) <= SHORT_RANGE:
                yield from ports
