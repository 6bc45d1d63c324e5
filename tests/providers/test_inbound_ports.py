"""What reaches a machine: security rules in their order, NAT ports, and who may have an address."""

import json
from typing import Any

import pytest

from opengallery.arm import resources
from opengallery.hypervisors.machine import Port
from opengallery.providers.network.inbound_ports import inbound_ports
from opengallery.providers.network.security_rules import PORTS_MAX, Inbound

from .conftest import Api
from .images import id_of
from .test_networks import NETWORK, REGION, network_body, nic_body

ADDRESS = "10.0.0.4"


def rule(priority: int, ports: str | list[str], access: str = "Allow", **others: Any) -> dict[str, Any]:
    """An inbound rule for everybody, unless told otherwise."""
    several = {"destinationPortRange": ports} if isinstance(ports, str) else {"destinationPortRanges": ports}
    properties = {
        "access": access,
        "direction": "Inbound",
        "priority": priority,
        "protocol": "*",
        "sourcePortRange": "*",
        "sourceAddressPrefix": "*",
        "destinationAddressPrefix": "*",
    }
    return {"name": f"r{priority}", "properties": {**properties, **several, **others}}


def let_in(*rules: dict[str, Any]) -> list[int]:
    """The ports that one group with these rules lets in."""
    return Inbound(ADDRESS, (rules,), is_open=False).ports()


@pytest.mark.parametrize(
    ("rules", "ports"),
    [
        ([], []),
        ([rule(100, "22")], [22]),
        ([rule(100, "*")], [22, 80, 443, 3389]),
        ([rule(100, "1-1000")], [22, 80, 443]),
        ([rule(100, ["8080", "9000-9002"])], [8080, 9000, 9001, 9002]),
        ([rule(200, "22"), rule(100, "22", "Deny")], []),
        ([rule(100, "22"), rule(200, "22", "Deny")], [22]),
        ([rule(100, "22", "deny"), rule(200, "*", "allow")], [80, 443, 3389]),
        ([rule(100, "22", direction="Outbound")], []),
        ([rule(100, "53", protocol="Udp"), rule(101, "80", protocol="tcp")], [80]),
        ([rule(100, "22", sourceAddressPrefix="Internet")], [22]),
        ([rule(100, "22", sourceAddressPrefix="127.0.0.0/8")], [22]),
        ([rule(100, "22", sourceAddressPrefix="203.0.113.7")], []),
        ([rule(100, "22", "Deny", sourceAddressPrefix="203.0.113.7"), rule(101, "22")], [22]),
        ([rule(100, "22", sourceAddressPrefix="AzureCloud")], []),
        ([rule(100, "22", destinationAddressPrefix="10.0.0.0/24")], [22]),
        ([rule(100, "22", destinationAddressPrefix="10.0.0.5")], []),
        ([rule(100, "22", sourcePortRange="1000-2000")], []),
        ([rule(100, "22", "Deny", sourcePortRange="1000-2000"), rule(101, "22")], []),
    ],
)
def test_the_first_rule_that_fits_decides(rules: list[dict[str, Any]], ports: list[int]) -> None:
    assert let_in(*rules) == ports


def test_the_number_of_ports_is_bounded() -> None:
    many = let_in(rule(100, [str(port) for port in range(5000, 5100)]))
    assert many == list(range(5000, 5000 + PORTS_MAX))


def test_subnet_and_interface_both_let_in_and_without_a_group_the_sku_decides() -> None:
    assert Inbound(ADDRESS, ([rule(100, "*")], [rule(100, "22")]), is_open=False).ports() == [22]
    assert Inbound(ADDRESS, ([rule(100, "80")], [rule(100, "22")]), is_open=True).ports() == []
    assert Inbound(ADDRESS, (), is_open=True).ports() == [22, 80, 443, 3389]
    assert Inbound(ADDRESS, (), is_open=False).ports() == []


@pytest.fixture
def group(api: Api) -> str:
    """A resource group with a network of one subnet; its path."""
    path = api.group("Inbound")
    api.put(f"{path}/{NETWORK}/virtualNetworks/net", network_body("10.0.0.0/24"))
    return path


def full(api: Api, group: str, name: str) -> str:
    """The id of something in the group's network."""
    return f"{id_of(api, group)}/{NETWORK}/{name}"


def ports_of(api: Api, group: str, nic: str) -> list[Port]:
    """The ports that would lead to a machine with this interface."""
    machine = resources.Resource(
        resources.ResourceId.parse(full(api, group, "x/y")),
        properties={
            "networkProfile": {"networkInterfaces": [{"id": full(api, group, f"networkInterfaces/{nic}")}]}
        },
    )
    with api.services.database.read() as connection:
        return inbound_ports(connection, machine)


def put(api: Api, group: str, path: str, properties: Any, **others: Any) -> Any:
    """Make a network resource; its properties."""
    made = api.put(f"{group}/{NETWORK}/{path}", {"location": REGION, "properties": properties, **others})
    return made["properties"]


def test_an_address_leads_where_its_group_says(api: Api, group: str) -> None:
    subnet = full(api, group, "virtualNetworks/net/subnets/s0")
    standard = put(api, group, "publicIPAddresses/standard", {}, sku={"name": "Standard"})["ipAddress"]
    basic = put(api, group, "publicIPAddresses/basic", {})["ipAddress"]
    assert standard.startswith("127.") and basic.startswith("127.") and standard != basic
    for name in ("standard", "basic"):
        body = nic_body(subnet, publicIPAddress={"id": full(api, group, f"publicIPAddresses/{name}")})
        api.put(f"{group}/{NETWORK}/networkInterfaces/{name}", body)
    assert ports_of(api, group, "standard") == []
    assert [port.guest_port for port in ports_of(api, group, "basic")] == [22, 80, 443, 3389]
    put(api, group, "networkSecurityGroups/nsg", {"securityRules": [rule(100, "22")]})
    network = network_body("10.0.0.0/24")
    network["properties"]["subnets"][0]["properties"]["networkSecurityGroup"] = {
        "id": full(api, group, "networkSecurityGroups/nsg")
    }
    api.put(f"{group}/{NETWORK}/virtualNetworks/net", network)
    assert ports_of(api, group, "standard") == [Port(standard, 22, 22)]
    assert ports_of(api, group, "basic") == [Port(basic, 22, 22)]
    refused = api.refused("DELETE", f"{group}/{NETWORK}/networkSecurityGroups/nsg")
    assert refused[:2] == (400, "InUseNetworkSecurityGroupCannotBeDeleted")


def test_an_address_is_of_one_machine(api: Api, group: str) -> None:
    subnet = full(api, group, "virtualNetworks/net/subnets/s0")
    put(api, group, "publicIPAddresses/ip", {})
    body = nic_body(subnet, publicIPAddress={"id": full(api, group, "publicIPAddresses/ip")})
    for _ in range(2):  # to send it again changes nothing
        api.put(f"{group}/{NETWORK}/networkInterfaces/first", body)
    refused = api.refused("PUT", f"{group}/{NETWORK}/networkInterfaces/second", body)
    assert refused[:2] == (400, "PublicIPAddressInUse")
    front = {"name": "f", "properties": {"publicIPAddress": {"id": full(api, group, "publicIPAddresses/ip")}}}
    balancer = {"location": REGION, "properties": {"frontendIPConfigurations": [front]}}
    assert api.refused("PUT", f"{group}/{NETWORK}/loadBalancers/lb", balancer)[1] == "PublicIPAddressInUse"


def test_rules_are_made_and_deleted_one_by_one(api: Api, group: str) -> None:
    path = f"{group}/{NETWORK}/networkSecurityGroups/nsg"
    put(api, group, "networkSecurityGroups/nsg", {"securityRules": [rule(100, "22")]}, tags={"a": "b"})
    answer = api.ask("PUT", f"{path}/securityRules/web", rule(200, "80"))
    assert answer.status_code == 201, answer.text
    assert answer.json()["id"] == f"{id_of(api, path)}/securityRules/web"
    assert api.ask("PUT", f"{path}/securityRules/WEB", rule(201, "81")).status_code == 200
    shown = api.get(path)
    assert [one["name"] for one in shown["properties"]["securityRules"]] == ["r100", "web"]
    assert shown["properties"]["securityRules"][1]["properties"]["priority"] == 201
    assert shown["tags"] == {"a": "b"}
    defaults = [one["name"] for one in shown["properties"]["defaultSecurityRules"]]
    assert "DenyAllInBound" in defaults
    assert "defaultSecurityRules" in api.put(path, shown)["properties"]  # as sent back by a client
    refused = api.refused("PUT", f"{path}/securityRules/other", rule(100, "80"))
    assert refused[:2] == (400, "SecurityRuleConflict")
    for wrong in ("70000", "9-8", "x", "22,80"):
        refused = api.refused("PUT", f"{path}/securityRules/other", rule(300, wrong))
        assert refused[:2] == (400, "SecurityRuleInvalidPortRange")
    for member, value in (("priority", 99), ("access", "Perhaps"), ("protocol", "Tdp"), ("direction", None)):
        body = rule(300, "80")
        body["properties"][member] = value
        assert api.refused("PUT", f"{path}/securityRules/other", body)[0] == 400
    assert api.ask("DELETE", f"{path}/securityRules/r100").status_code == 200
    assert api.ask("DELETE", f"{path}/securityRules/r100").status_code == 204
    assert [one["name"] for one in api.get(f"{path}/securityRules")["value"]] == ["web"]
    assert api.refused("PUT", f"{path}-none/securityRules/x", rule(100, "80"))[0] == 404
    assert api.refused("DELETE", f"{path}-none/securityRules/x")[0] == 404


def unmarked(shown: dict[str, Any]) -> Any:
    """The properties without the etags of their parts."""

    def without_etag(members: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in members.items() if name != "etag"}

    return json.loads(json.dumps(shown["properties"]), object_hook=without_etag)


def balancer(api: Api, group: str, **parts: Any) -> str:
    """Make a load balancer with a public address, a pool, and `parts`; its address."""
    address = put(api, group, "publicIPAddresses/lb", {}, sku={"name": "Standard"})["ipAddress"]
    front = {
        "name": "front",
        "properties": {"publicIPAddress": {"id": full(api, group, "publicIPAddresses/lb")}},
    }
    properties = {"frontendIPConfigurations": [front], "backendAddressPools": [{"name": "pool"}], **parts}
    put(api, group, "loadBalancers/lb", properties, sku={"name": "Standard"})
    return str(address)


def nat(api: Api, group: str, first: int, last: int, **others: Any) -> dict[str, Any]:
    """A range of ports of the frontend, as az sends it."""
    frontend = full(api, group, "loadBalancers/lb/frontendIPConfigurations/front")
    return {
        "frontendIPConfiguration": {"id": frontend},
        "backendPort": 22,
        "frontendPortRangeStart": str(first),
        "frontendPortRangeEnd": str(last),
        **others,
    }


def member(api: Api, group: str, name: str, kind: str, part: str) -> None:
    """Make an interface behind the load balancer that lets SSH in."""
    put(api, group, "networkSecurityGroups/nsg", {"securityRules": [rule(100, "22")]})
    body = nic_body(
        full(api, group, "virtualNetworks/net/subnets/s0"), **{kind: [{"id": full(api, group, part)}]}
    )
    body["properties"]["networkSecurityGroup"] = {"id": full(api, group, "networkSecurityGroups/nsg")}
    api.put(f"{group}/{NETWORK}/networkInterfaces/{name}", body)


def test_a_nat_rule_gives_each_machine_of_its_pool_a_port(api: Api, group: str) -> None:
    address = balancer(api, group)
    pool = "loadBalancers/lb/backendAddressPools/pool"
    member(api, group, "early", "loadBalancerBackendAddressPools", pool)
    assert ports_of(api, group, "early") == []
    path = f"{group}/{NETWORK}/loadBalancers/lb"
    rule_body = {
        "properties": nat(api, group, 50000, 50002, backendAddressPool={"id": full(api, group, pool)})
    }
    api.put(f"{path}/inboundNatRules/NatRule", rule_body)
    for name in ("second", "third", "fourth"):
        member(api, group, name, "loadBalancerBackendAddressPools", pool)
    assert ports_of(api, group, "early") == [Port(address, 50000, 22)]
    assert ports_of(api, group, "third") == [Port(address, 50002, 22)]
    assert ports_of(api, group, "fourth") == []  # none is left
    api.delete(f"{group}/{NETWORK}/networkInterfaces/second")
    member(api, group, "fifth", "loadBalancerBackendAddressPools", pool)
    assert ports_of(api, group, "fifth") == [Port(address, 50001, 22)]
    (shown,) = api.get(path)["properties"]["backendAddressPools"]
    found = {
        one["properties"]["networkInterfaceIPConfiguration"]["id"].split("/")[8]: [
            mapping["frontendPort"] for mapping in one["properties"]["inboundNatRulesPortMapping"]
        ]
        for one in shown["properties"]["loadBalancerBackendAddresses"]
    }
    assert found == {"early": [50000], "third": [50002], "fourth": [], "fifth": [50001]}
    # What is let in by no rule isn't forwarded, and a client may send back what it was shown.
    put(api, group, "networkSecurityGroups/nsg", {"securityRules": []})
    assert ports_of(api, group, "early") == []
    again = api.get(path)
    assert unmarked(api.put(path, again)) == unmarked(again)
    api.delete(f"{path}/inboundNatRules/NatRule")
    assert api.get(path)["properties"]["inboundNatRules"] == []


def test_a_nat_pool_shows_a_rule_for_each_machine(api: Api, group: str) -> None:
    balancer(api, group, inboundNatPools=[])
    pools = [{"name": "natpool", "properties": nat(api, group, 50000, 50119)}]
    path = f"{group}/{NETWORK}/loadBalancers/lb"
    shown = api.get(path)
    shown["properties"]["inboundNatPools"] = pools
    api.put(path, shown)
    for name in ("a", "b"):
        member(api, group, name, "loadBalancerInboundNatPools", "loadBalancers/lb/inboundNatPools/natpool")
    rules = api.get(path)["properties"]["inboundNatRules"]
    assert [one["properties"]["frontendPort"] for one in rules] == [50000, 50001]
    assert rules[0]["properties"]["backendIPConfiguration"]["id"].endswith(
        "networkInterfaces/a/ipConfigurations/c"
    )
    assert [port.host_port for port in ports_of(api, group, "b")] == [50001]
    again = api.get(path)
    assert unmarked(api.put(path, again)) == unmarked(again)


def test_a_nat_rule_for_one_machine(api: Api, group: str) -> None:
    address = balancer(api, group)
    path = f"{group}/{NETWORK}/loadBalancers/lb/inboundNatRules"
    single = {name: value for name, value in nat(api, group, 1, 1).items() if "Range" not in name}
    api.put(f"{path}/one", {"properties": {**single, "frontendPort": 2222}})
    member(api, group, "only", "loadBalancerInboundNatRules", "loadBalancers/lb/inboundNatRules/one")
    assert ports_of(api, group, "only") == [Port(address, 2222, 22)]
    for wrong in (
        nat(api, group, 50000, 50119),
        {**single, "backendAddressPool": {"id": "x"}},
        {**single, "frontendPort": 65535},
        nat(api, group, 60000, 50000, backendAddressPool={"id": "x"}),
        nat(api, group, 60000, 70000, backendAddressPool={"id": "x"}),
    ):
        assert api.refused("PUT", f"{path}/wrong", {"properties": wrong})[0] == 400
    inline = api.get(f"{group}/{NETWORK}/loadBalancers/lb")
    inline["properties"]["inboundNatRules"].append({"name": "new", "properties": single})
    assert api.refused("PUT", f"{group}/{NETWORK}/loadBalancers/lb", inline)[:2] == (400, "InvalidParameter")
