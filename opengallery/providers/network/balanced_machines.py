"""Balanced machines: who is behind a load balancer, and at which of its ports, as ARM shows it."""

from typing import Any

from opengallery.arm.call import Call
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.resources import Resource
from opengallery.providers.network import nat_ports

_INSTANCE = "microsoft.compute/virtualmachinescalesets/virtualmachines"
MEMBERS = ("loadBalancerBackendAddresses", "backendIPConfigurations")
"""What is shown of a backend pool, and never sent: who is in it."""


class Behind:
    """The interfaces behind one load balancer."""

    def __init__(self, call: Call, balancer: Resource) -> None:
        self._call = call
        self._balancer = balancer
        self._nics = nat_ports.behind(call.connection, balancer.id)
        self._rules = nat_ports.rule_ranges(call.connection, balancer.id) if self._nics else []

    def pool(self, name: str) -> dict[str, Any]:
        """The members of a backend pool, with the ports that lead to each."""
        pool = self._balancer.id.child("backendAddressPools", name)
        nics = [nic for nic in self._nics if nat_ports.in_pool(nic, pool)]
        addresses = [
            {
                "name": f"{self._balancer.id.name}_{name}{nic.id.name}",
                "properties": {
                    "networkInterfaceIPConfiguration": _reference(nic),
                    "inboundNatRulesPortMapping": [
                        {
                            "inboundNatRuleName": each.id.name,
                            "protocol": "Tcp",
                            "frontendPort": self._port(nic, port, each.backend_port),
                            "backendPort": each.backend_port,
                        }
                        for rule_pool, each in self._rules
                        if rule_pool == pool and (port := each.port_of(nic)) is not None
                    ],
                },
            }
            for nic in nics
        ]
        return {
            "loadBalancerBackendAddresses": addresses,
            "backendIPConfigurations": [_reference(nic) for nic in nics],
        }

    def pool_rules(self) -> list[dict[str, Any]]:
        """A rule for each machine behind an inbound NAT pool."""
        return [
            self._pool_rule(each, nic, port)
            for each in nat_ports.pool_ranges(self._balancer)
            for nic in self._nics
            if (port := each.port_of(nic)) is not None
        ]

    def single(self, rule: Resource) -> dict[str, Any]:
        """Whom a rule leads to, when it is for one machine alone."""
        for nic in self._nics:
            if any(one.id == rule.id for one in nat_ports.single_rules(self._call.connection, nic)):
                return {"backendIPConfiguration": _reference(nic)}
        return {}

    def _pool_rule(self, pool: nat_ports.NatRange, nic: Resource, port: int) -> dict[str, Any]:
        name = f"{pool.id.name}.{_machine_name(nic)}"
        rule = self._balancer.id.child("inboundNatRules", name)
        return {
            "id": str(rule),
            "name": name,
            "type": rule.type,
            "properties": {
                "frontendIPConfiguration": {"id": pool.frontend},
                "backendIPConfiguration": _reference(nic),
                "protocol": "Tcp",
                "frontendPort": self._port(nic, port, pool.backend_port),
                "backendPort": pool.backend_port,
                "provisioningState": self._balancer.state,
            },
        }

    def _port(self, nic: Resource, port: int, backend_port: int) -> int:
        """The port that leads to the machine: not its own, where another program holds that."""
        machine = self._call.get(_machine_id(nic)) if _machine_id(nic) else None
        if machine is not None and "vmId" in machine.properties:
            for forward in self._call.services.hypervisor.forwards(machine.properties["vmId"]):
                if (forward.port.host_port, forward.port.guest_port) == (port, backend_port):
                    return forward.taken
        return port


def _machine_id(nic: Resource) -> str:
    return str(nic.properties.get("virtualMachine", {}).get("id", ""))


def _machine_name(nic: Resource) -> str:
    return ResourceId.parse(_machine_id(nic)).name if _machine_id(nic) else nic.id.name


def _reference(nic: Resource) -> dict[str, str]:
    """The id of an interface's address: below its instance, for that of a scale set in Uniform orchestration."""
    holder = nic.id
    if _machine_id(nic):
        machine = ResourceId.parse(_machine_id(nic))
        if machine.type.lower() == _INSTANCE:
            holder = machine.child("networkInterfaces", nic.id.name)
    return {"id": str(holder.child("ipConfigurations", nic.properties["ipConfigurations"][0]["name"]))}
