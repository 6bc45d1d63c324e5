"""Query options: filters mean what they say, whatever is in them; what isn't known is refused."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opengallery.identity.graph.errors import GraphError
from opengallery.identity.graph.filter import constant_property, parse_filter

from .conftest import Graph, ids

NAMES = ["Anna", "anna b", "O'Brien", "100%", "a_b", "Ärger", "x and y eq 'z'"]


@pytest.fixture
def groups(graph: Graph) -> dict[str, str]:
    """Groups with awkward names, by their ids."""
    return {name: graph.group(name, mailNickname=f"n{number}") for number, name in enumerate(NAMES)}


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def test_a_text_is_compared_in_any_case_and_never_as_a_pattern(graph: Graph, groups: dict[str, str]) -> None:
    for name, group in groups.items():
        assert ids(graph.get("/groups", _filter=f"displayName eq {quoted(name)}")) == {group}
        start = quoted(name[: len(name) - 1])
        assert group in ids(graph.get("/groups", _filter=f"startswith(displayName,{start})"))
    assert ids(graph.get("/groups", _filter="startswith(displayName,'ANNA')")) == {
        groups["Anna"],
        groups["anna b"],
    }
    assert ids(graph.get("/groups", _filter="startswith(displayName,'%')")) == set()
    assert ids(graph.get("/groups", _filter="startswith(displayName,'a_')")) == {groups["a_b"]}


def test_conditions_are_combined_with_the_right_precedence(graph: Graph, groups: dict[str, str]) -> None:
    anna, both = groups["Anna"], {groups["Anna"], groups["anna b"]}
    for text, expected in (
        ("displayName eq 'anna' or displayName eq 'anna b' and mailNickname eq 'n9'", {anna}),
        ("(displayName eq 'anna' or displayName eq 'anna b') and mailNickname eq 'n9'", set()),
        ("startswith(displayName,'anna') eq true and not (displayName eq 'anna')", both - {anna}),
        ("startsWith(displayName, 'anna') and mailNickname ne 'n1'", {anna}),
        ("DISPLAYNAME in ('ANNA','Anna B')", both),
        ("description eq null and displayName eq 'anna'", {anna}),
        ("not (description eq 'x') and displayName eq 'anna'", {anna}),
        ("securityEnabled eq true and mailEnabled eq false and displayName eq 'anna'", {anna}),
        ("securityEnabled eq false", set()),
        (f"id eq '{anna}' and displayName ne 'x'", {anna}),
        (f"id eq {anna}", {anna}),
        ("id eq 'nonsense'", set()),
    ):
        assert ids(graph.get("/groups", _filter=text)) == expected, text


UNREADABLE = [
    "displayName",
    "displayName eq",
    "displayName eq anna",
    "displayName like 'a'",
    "displayName eq 'a' and",
    "displayName eq 'a",
    "displayName eq 'a')",
    "(displayName eq 'a'",
    "displayName eq true",
    "securityEnabled eq 'true' or displayName eq null or id eq 7",
    "nonsense eq 'a'",
    "displayName/any(x:x eq 'a')",
    "startswith(securityEnabled,'a')",
    "startswith(displayName,'a') eq false",
    "endswith(displayName,'a')",
    "password_hash eq 'a'",
    "displayName eq 'a' ; drop table groups",
    "displayName eq 'a\0b'",
    "not " * 20 + "displayName eq 'a'",
    "(" * 20 + "displayName eq 'a'" + ")" * 20,
    " or ".join(["displayName eq 'a'"] * 101),
    "displayName in (" + ",".join(["'a'"] * 102) + ")",
    "displayName eq '" + "a" * 4096 + "'",
]


def test_a_filter_that_cant_be_read_is_refused(graph: Graph) -> None:
    for text in UNREADABLE:
        refused = graph.refused("GET", "/groups", params={"$filter": text}, status=400)
        assert refused[1] == "Request_UnsupportedQuery" and refused[2], text


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(["'", "a", "(", ")", " eq ", "not ", " and ", ",", ":", "in", "/any", "\u00e4"]))
)
def test_no_text_breaks_the_parser(pieces: list[str]) -> None:
    try:
        parse_filter("".join(pieces), {"a": constant_property("a")})
    except GraphError as error:
        assert error.status == 400


def test_unknown_options_are_refused_rather_than_ignored(graph: Graph) -> None:
    for option in ("$search", "$orderby", "$expand", "$skip", "$apply"):
        refused = graph.refused("GET", "/users", params={option: "displayName"}, status=400)
        assert refused[1] == "Request_UnsupportedQuery" and option in refused[2]
    for top in ("0", "1000", "x", "-1", "9999999"):
        assert "1 to 999" in graph.refused("GET", "/users", params={"$top": top}, status=400)[2]
    for token in ("x", "eHg=", "\0"):
        assert graph.refused("GET", "/users", params={"$skiptoken": token}, status=400)
    assert graph.refused("GET", "/users?$top=1&$top=2", status=400)
    assert graph.get("/users", client="x")["value"] == []


def test_select_keeps_what_is_asked_for(graph: Graph) -> None:
    group = graph.group("builders")
    assert graph.get("/groups", _select="id,DisplayName")["value"] == [
        {"id": group, "displayName": "builders"}
    ]
    one = graph.get(f"/groups/{group}", _select="displayName")
    assert set(one) == {"@odata.context", "displayName"}
    assert "nonsense" in graph.refused("GET", "/groups?$select=nonsense", status=400)[2]
    found = graph.post("/directoryObjects/getByIds?$select=id,userPrincipalName", {"ids": [group]}, 200)
    assert found["value"] == [{"@odata.type": "#microsoft.graph.group", "id": group}]


def test_objects_are_found_by_their_ids_and_kinds(graph: Graph) -> None:
    bob, group, robot = graph.user("bob")["id"], graph.group("builders"), graph.service_principal("robot")
    app = graph.get(f"/applications(appId='{robot['appId']}')")["id"]
    asked = {"ids": [bob.upper(), group, robot["id"], app, "nonsense", bob]}
    everything = graph.post("/directoryObjects/getByIds", asked, 200)["value"]
    assert [entry["id"] for entry in everything] == [bob, group, robot["id"], app]
    kinds = {"types": ["user", "group", "servicePrincipal", "directoryObjectPartnerReference"]}
    assert ids(graph.post("/directoryObjects/getByIds", asked | kinds, 200)) == {bob, group, robot["id"]}
    assert ids(graph.post("/directoryObjects/getByIds", asked | {"types": ["Group"]}, 200)) == {group}
    for body in ({}, {"ids": "x"}, {"ids": [bob] * 1001}, {"ids": [7]}, {"ids": [], "types": [7]}):
        assert graph.refused("POST", "/directoryObjects/getByIds", body, status=400)
    many = {"ids": [bob] * 1000}
    assert len(graph.post("/directoryObjects/getByIds", many, 200)["value"]) == 1
    assert graph.get(f"/directoryObjects/{group}")["@odata.type"] == "#microsoft.graph.group"
