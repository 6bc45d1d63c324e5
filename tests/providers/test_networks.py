"""Networks: their addresses, what uses what, and what is refused."""

import threading
from typing import Any

import pytest

from .conftest import Api
from .images import id_of

NETWORK = "providers/Microsoft.Network"
REGION = "westcentralus"


def network_body(*prefixes: str, space: str = "10.0.0.0/16") -> dict[str, Any]:
    """A virtual network with the subnets s0, s1 ..."""
    subnets = [
        {"name": f"s{index}", "properties": {"addressPrefix": text}} for index, text in enumerate(prefixes)
    ]
    return {
        "location": REGION,
        "properties": {"addressSpace": {"addressPrefixes": [space]}, "subnets": subnets},
    }


def nic_body(subnet: str, **properties: Any) -> dict[str, Any]:
    """A network interface in a subnet."""
    configuration = {"name": "c", "properties": {"subnet": {"id": subnet}, **properties}}
    return {"location": REGION, "properties": {"ipConfigurations": [configuration]}}


def address_of(nic: Any) -> str:
    """The private address of an interface."""
    return str(nic["properties"]["ipConfigurations"][0]["properties"]["privateIPAddress"])


@pytest.fixture
def group(api: Api) -> str:
    """A resource group; its path."""
    return api.group("Networks")


@pytest.fixture
def subnet(api: Api, group: str) -> str:
    """The id of a subnet with room for 11 interfaces."""
    api.put(f"{group}/{NETWORK}/virtualNetworks/Net", network_body("10.0.0.0/28", "10.0.1.0/24"))
    return f"{id_of(api, group)}/{NETWORK}/virtualNetworks/Net/subnets/s0"


def test_subnets_are_shown_and_asked_for(api: Api, group: str, subnet: str) -> None:
    network = f"{group}/{NETWORK}/virtualNetworks/Net"
    shown = api.get(network)["properties"]["subnets"]
    assert [one["name"] for one in shown] == ["s0", "s1"]
    assert shown[0]["id"] == subnet
    assert shown[0]["properties"] == {"addressPrefix": "10.0.0.0/28", "provisioningState": "Succeeded"}
    assert api.get(f"{network}/subnets/S0") == shown[0]
    assert api.get(f"{network}/SUBNETS")["value"] == shown
    assert api.refused("GET", f"{network}/subnets/none")[:2] == (404, "ResourceNotFound")
    assert api.refused("GET", f"{network}-none/subnets/s0")[:2] == (404, "ResourceNotFound")
    assert api.refused("GET", f"{network}-none/subnets")[:2] == (404, "ResourceNotFound")


def wrong_subnets(*subnets: Any) -> dict[str, Any]:
    """A virtual network with subnets as they are given."""
    return {"location": REGION, "properties": {**network_body()["properties"], "subnets": list(subnets)}}


def wrong_space(prefixes: Any) -> dict[str, Any]:
    """A virtual network with an address space as it is given."""
    return {"location": REGION, "properties": {"addressSpace": {"addressPrefixes": prefixes}}}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (network_body("10.0.0.5/24"), "InvalidAddressPrefixFormat"),
        (network_body("ten"), "InvalidAddressPrefixFormat"),
        (network_body(""), "InvalidAddressPrefixFormat"),
        (network_body("fd00::/64"), "InvalidAddressPrefixFormat"),
        (network_body(space="10.0.0.0/40"), "InvalidAddressPrefixFormat"),
        (network_body("10.1.0.0/24"), "NetcfgSubnetRangeOutsideVnet"),
        (network_body("10.0.0.0/8"), "NetcfgSubnetRangeOutsideVnet"),
        (network_body("10.0.0.0/24", "10.0.0.128/25"), "NetcfgSubnetRangesOverlap"),
        ({"location": REGION}, "InvalidRequestContent"),
        (wrong_space("10.0.0.0/8"), "InvalidRequestContent"),
        (wrong_space([8]), "InvalidRequestContent"),
        (wrong_subnets({"name": "s"}), "InvalidRequestContent"),
        (wrong_subnets("s"), "InvalidRequestContent"),
        (wrong_subnets({"name": "s", "properties": {"addressPrefixes": {"0": "10.0.0.0/24"}}}),
         "InvalidRequestContent"),
        (wrong_subnets({"name": "s", "properties": {"addressPrefix": "10.0.1.0/24"}},
                       {"name": "S", "properties": {"addressPrefix": "10.0.2.0/24"}}), "InvalidParameter"),
    ],
)  # fmt: skip
def test_a_wrong_network_leaves_nothing_behind(api: Api, group: str, body: Any, code: str) -> None:
    path = f"{group}/{NETWORK}/virtualNetworks/net"
    assert api.refused("PUT", path, body)[:2] == (400, code)
    assert api.ask("GET", path).status_code == 404


def test_interfaces_get_the_first_free_addresses(api: Api, group: str, subnet: str) -> None:
    base = f"{group}/{NETWORK}/networkInterfaces"
    spelled_otherwise = subnet.lower().replace("/subscriptions/", "/SUBSCRIPTIONS/")
    first = api.put(f"{base}/one", nic_body(subnet))
    second = api.put(f"{base}/two", nic_body(spelled_otherwise))
    assert [address_of(first), address_of(second)] == ["10.0.0.4", "10.0.0.5"]
    configuration = second["properties"]["ipConfigurations"][0]
    assert configuration["id"] == f"{id_of(api, base)}/two/ipConfigurations/c"
    assert configuration["properties"]["subnet"]["id"] == subnet
    assert configuration["properties"]["privateIPAllocationMethod"] == "Dynamic"
    assert first["properties"]["macAddress"] != second["properties"]["macAddress"]
    again = api.put(f"{base}/two", nic_body(subnet))
    assert address_of(again) == "10.0.0.5"
    assert again["properties"]["macAddress"] == second["properties"]["macAddress"]
    api.delete(f"{base}/one")
    assert address_of(api.put(f"{base}/three", nic_body(subnet))) == "10.0.0.4"
    moved = api.put(f"{base}/three", nic_body(subnet.replace("/s0", "/s1")))
    assert address_of(moved) == "10.0.1.4"


def test_a_static_address_is_the_one_asked_for(api: Api, group: str, subnet: str) -> None:
    base = f"{group}/{NETWORK}/networkInterfaces"
    static = {"privateIPAllocationMethod": "Static"}
    one = api.put(f"{base}/one", nic_body(subnet, **static, privateIPAddress="10.0.0.9"))
    assert address_of(one) == "10.0.0.9"
    assert (
        address_of(api.put(f"{base}/one", nic_body(subnet, **static, privateIPAddress="10.0.0.9")))
        == "10.0.0.9"
    )
    refused = api.refused("PUT", f"{base}/two", nic_body(subnet, **static, privateIPAddress="10.0.0.9"))
    assert refused[:2] == (400, "PrivateIPAddressInUse")
    for address in ("10.0.0.3", "10.0.0.15", "10.0.1.5", "::1", "x"):
        refused = api.refused("PUT", f"{base}/two", nic_body(subnet, **static, privateIPAddress=address))
        assert refused[:2] == (400, "PrivateIPAddressNotInSubnet")
    assert api.ask("GET", f"{base}/two").status_code == 404


def test_a_full_subnet_says_so(api: Api, group: str) -> None:
    api.put(f"{group}/{NETWORK}/virtualNetworks/small", network_body("10.0.0.0/29"))
    subnet = f"{id_of(api, group)}/{NETWORK}/virtualNetworks/small/subnets/s0"
    base = f"{group}/{NETWORK}/networkInterfaces"
    for number in range(3):
        api.put(f"{base}/nic{number}", nic_body(subnet))
    assert api.refused("PUT", f"{base}/more", nic_body(subnet))[:2] == (409, "SubnetIsFull")
    assert api.ask("GET", f"{base}/more").status_code == 404


def _side_by_side(api: Api, paths: list[str], body: Any) -> list[Any]:
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda path=path: answers.append(api.ask("PUT", path, body)))
        for path in paths
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [201] * len(paths)
    return [answer.json() for answer in answers]


def test_addresses_are_given_once_side_by_side_from_two_groups(api: Api, group: str, subnet: str) -> None:
    groups = [group, api.group("Networks2")]
    nics = [f"{groups[number % 2]}/{NETWORK}/networkInterfaces/nic{number}" for number in range(8)]
    assert len({address_of(nic) for nic in _side_by_side(api, nics, nic_body(subnet))}) == 8
    addresses = [f"{groups[number % 2]}/{NETWORK}/publicIPAddresses/ip{number}" for number in range(8)]
    made = _side_by_side(api, addresses, {"location": REGION, "sku": {"name": "Standard"}})
    assert len({one["properties"]["ipAddress"] for one in made}) == 8
    for path in nics:
        api.delete(path)


@pytest.mark.parametrize(
    ("properties", "status", "code"),
    [
        ({}, 400, "InvalidRequestContent"),
        ({"ipConfigurations": []}, 400, "InvalidParameter"),
        ({"ipConfigurations": [{"name": "c"}]}, 400, "InvalidRequestContent"),
        ({"ipConfigurations": [{"name": "c", "properties": {"subnet": "s"}}]}, 400, "InvalidRequestContent"),
        (nic_body("s")["properties"], 400, "LinkedInvalidPropertyId"),
        (nic_body("/subscriptions/x")["properties"], 400, "InvalidParameter"),
    ],
)  # fmt: skip
def test_a_wrong_interface_leaves_nothing_behind(
    api: Api, group: str, properties: Any, status: int, code: str
) -> None:
    path = f"{group}/{NETWORK}/networkInterfaces/nic"
    assert api.refused("PUT", path, {"location": REGION, "properties": properties})[:2] == (status, code)
    assert api.ask("GET", path).status_code == 404


def test_an_interface_names_what_is_there(api: Api, group: str, subnet: str) -> None:
    path = f"{group}/{NETWORK}/networkInterfaces/nic"
    gone = f"{id_of(api, group)}/{NETWORK}"
    for body, code in (
        (nic_body(subnet.replace("/s0", "/none")), "InvalidResourceReference"),
        (nic_body(subnet.replace("/Net/", "/none/")), "ResourceNotFound"),
        (nic_body(subnet, publicIPAddress={"id": f"{gone}/publicIPAddresses/none"}), "ResourceNotFound"),
    ):
        assert api.refused("PUT", path, body)[:2] == (404, code)
    assert api.refused("PUT", path, nic_body(subnet, publicIPAddress="x"))[:2] == (
        400,
        "InvalidRequestContent",
    )
    body = nic_body(subnet)
    body["properties"]["networkSecurityGroup"] = {"id": f"{gone}/networkSecurityGroups/none"}
    assert api.refused("PUT", path, body)[:2] == (404, "ResourceNotFound")
    assert api.ask("GET", path).status_code == 404


def test_what_is_used_is_not_deleted(api: Api, group: str, subnet: str) -> None:
    base = f"{group}/{NETWORK}"
    address, rules = f"{base}/publicIPAddresses/Ip", f"{base}/networkSecurityGroups/Nsg"
    api.put(address, {"location": REGION})
    api.put(rules, {"location": REGION, "properties": {"securityRules": []}})
    body = nic_body(
        subnet,
        publicIPAddress={"id": id_of(api, address).upper().replace("/SUBSCRIPTIONS", "/subscriptions")},
    )
    body["properties"]["networkSecurityGroup"] = {"id": id_of(api, rules)}
    pool = {"id": f"{id_of(api, base)}/loadBalancers/lb/backendAddressPools/pool"}
    body["properties"]["ipConfigurations"][0]["properties"]["loadBalancerBackendAddressPools"] = [pool]
    assert api.refused("PUT", f"{base}/networkInterfaces/nic", body)[:2] == (404, "ResourceNotFound")
    api.put(f"{base}/loadBalancers/lb", {"location": REGION})
    nic = api.put(f"{base}/networkInterfaces/nic", body)
    kept = nic["properties"]["ipConfigurations"][0]["properties"]
    assert kept["publicIPAddress"]["id"] == id_of(api, address)
    assert kept["loadBalancerBackendAddressPools"] == [pool]
    network = f"{base}/virtualNetworks/Net"
    for path, code in (
        (address, "PublicIPAddressCannotBeDeleted"),
        (rules, "InUseNetworkSecurityGroupCannotBeDeleted"),
        (network, "InUseSubnetCannotBeDeleted"),
    ):
        status, found, message = api.refused("DELETE", path)
        assert (status, found) == (400, code)
        assert nic["id"] in message
    assert api.refused("PUT", network, network_body("10.0.9.0/24"))[:2] == (400, "InUseSubnetCannotBeDeleted")
    api.put(network, network_body("10.0.0.0/28", "10.0.2.0/24"))
    api.delete(f"{base}/networkInterfaces/nic")
    for path in (address, rules, network):
        api.delete(path)


def test_a_load_balancer_shows_its_parts_and_has_rules_below(api: Api, group: str) -> None:
    path = f"{group}/{NETWORK}/loadBalancers/lb"
    frontend = {"name": "front", "properties": {}}
    body = {
        "location": REGION,
        "sku": {"name": "Standard"},
        "properties": {"frontendIPConfigurations": [frontend]},
    }
    shown = api.put(path, body)
    part = shown["properties"]["frontendIPConfigurations"][0]
    assert part["id"] == f"{id_of(api, path)}/frontendIPConfigurations/front"
    assert shown["properties"]["backendAddressPools"] == []
    assert shown["sku"] == {"name": "Standard"}
    rule = {"properties": {"backendPort": 22, "frontendPort": "2222"}}
    assert api.put(f"{path}/inboundNatRules/NatRule", rule)["properties"]["backendPort"] == 22
    assert [one["name"] for one in api.get(f"{path}/inboundNatRules")["value"]] == ["NatRule"]
    for port in (0, 65536, "22", None):
        refused = api.refused("PUT", f"{path}/inboundNatRules/x", {"properties": {"backendPort": port}})
        assert refused[0] == 400
    api.delete(path)
    assert api.ask("GET", f"{path}/inboundNatRules/NatRule").status_code == 404
