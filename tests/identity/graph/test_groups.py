"""Groups: members directly and through groups, owners, and the bounds of both."""

import pytest

from opengallery.identity import memberships

from .conftest import Graph, ids


def test_a_group_is_created_shown_changed_and_deleted(graph: Graph) -> None:
    group = graph.group("builders", description="They build")
    shown = graph.get(f"/groups/{group}")
    assert (shown["displayName"], shown["description"]) == ("builders", "They build")
    assert (shown["securityEnabled"], shown["mailEnabled"], shown["groupTypes"]) == (True, False, [])
    text = "displayName eq 'Builders' and mailNickname eq 'builders'"
    assert ids(graph.get("/groups", _filter=text)) == {group}
    graph.patch(f"/groups/{group}", {"displayName": "Masons", "description": None})
    assert graph.get(f"/groups/{group}")["description"] is None
    assert ids(graph.get("/groups", _filter="displayName eq 'builders'")) == set()
    graph.delete(f"/groups/{group}")
    assert graph.refused("DELETE", f"/groups/{group}", status=404)[1] == "Request_ResourceNotFound"


def test_only_security_groups_are_made(graph: Graph) -> None:
    body = {"displayName": "g", "mailEnabled": False, "mailNickname": "g", "securityEnabled": True}
    for change in ({"mailEnabled": True}, {"securityEnabled": False}, {"groupTypes": ["Unified"]}):
        assert "Only security groups" in graph.refused("POST", "/groups", body | change, status=400)[2]
    del body["mailNickname"]
    assert "mailNickname" in graph.refused("POST", "/groups", body, status=400)[2]


def test_members_of_all_kinds_are_added_listed_and_removed(graph: Graph) -> None:
    group, inner = graph.group("outer"), graph.group("inner")
    bob, robot = graph.user("bob")["id"], graph.service_principal("robot")["id"]
    for member in (inner, bob, robot):
        graph.add(f"/groups/{group}/members", member)
    members = graph.get(f"/groups/{group}/members")["value"]
    assert {entry["id"]: entry["@odata.type"] for entry in members} == {
        inner: "#microsoft.graph.group",
        bob: "#microsoft.graph.user",
        robot: "#microsoft.graph.servicePrincipal",
    }
    assert ids(graph.get(f"/groups/{group}/members/microsoft.graph.user")) == {bob}
    assert ids(graph.get(f"/groups/{group}/members", _filter="displayName eq 'Bob'")) == {bob}
    again = graph.add(f"/groups/{group}/members", bob, 400)["error"]
    assert "already exist for the following modified properties: 'members'" in again["message"]
    graph.delete(f"/groups/{group}/members/{bob}/$ref")
    missing = graph.refused("DELETE", f"/groups/{group}/members/{bob}/$ref", status=404)
    assert missing[1] == "Request_ResourceNotFound"
    graph.delete(f"/servicePrincipals/{robot}")
    assert ids(graph.get(f"/groups/{group}/members")) == {inner}


def test_membership_reaches_through_groups_in_groups(graph: Graph) -> None:
    outer, middle, inner, other = (graph.group(name) for name in ("outer", "middle", "inner", "other"))
    bob = graph.user("bob")["id"]
    graph.add(f"/groups/{outer}/members", middle)
    graph.add(f"/groups/{middle}/members", inner)
    graph.add(f"/groups/{inner}/members", bob)
    assert ids(graph.get(f"/users/{bob}/memberOf")) == {inner}
    assert ids(graph.get(f"/users/{bob}/transitiveMemberOf")) == {inner, middle, outer}
    assert ids(graph.get(f"/users/{bob}/transitiveMemberOf/microsoft.graph.group")) == {inner, middle, outer}
    assert ids(graph.get(f"/groups/{outer}/transitiveMembers")) == {middle, inner, bob}
    assert ids(graph.get(f"/groups/{inner}/transitiveMemberOf")) == {middle, outer}
    for path in (f"/users/{bob}", f"/directoryObjects/{bob}", "/users/bob@local"):
        asked = {"groupIds": [outer.upper(), other, "nonsense"]}
        assert graph.post(f"{path}/checkMemberGroups", asked, 200)["value"] == [outer]
        all_groups = graph.post(f"{path}/getMemberGroups", {"securityEnabledOnly": True}, 200)["value"]
        assert set(all_groups) == {outer, middle, inner}
    assert graph.post(f"/groups/{middle}/getMemberObjects", {}, 200)["value"] == [outer]
    his = graph.seen_by(bob)
    assert his.post("/me/checkMemberGroups", {"groupIds": [middle]}, 200)["value"] == [middle]
    too_many = {"groupIds": [outer] * 21}
    assert "at most 20" in graph.refused("POST", f"/users/{bob}/checkMemberGroups", too_many, status=400)[2]
    graph.delete(f"/groups/{middle}")
    assert ids(graph.get(f"/users/{bob}/transitiveMemberOf")) == {inner}


def test_a_group_never_comes_to_contain_itself(graph: Graph) -> None:
    first, second, third = (graph.group(name) for name in ("first", "second", "third"))
    graph.add(f"/groups/{first}/members", second)
    graph.add(f"/groups/{second}/members", third)
    for group in (first, second, third):
        error = graph.add(f"/groups/{third}/members", group, 403)["error"]
        assert "can't be a member of itself" in error["message"]
    assert ids(graph.get(f"/groups/{third}/members")) == set()


def test_members_and_owners_come_with_the_group(graph: Graph) -> None:
    bob, carol = graph.user("bob")["id"], graph.user("carol")["id"]
    reference = "https://localhost/v1.0/directoryObjects/"
    bound = {"members@odata.bind": [reference + bob], "owners@odata.bind": [reference + carol]}
    group = graph.group("builders", **bound)
    assert ids(graph.get(f"/groups/{group}/members")) == {bob}
    assert ids(graph.get(f"/groups/{group}/owners")) == {carol}
    graph.patch(f"/groups/{group}", {"members@odata.bind": [reference + carol]})
    assert ids(graph.get(f"/groups/{group}/members")) == {bob, carol}
    assert ids(graph.get(f"/users/{carol}/ownedObjects")) == {group}
    lots = {"members@odata.bind": [reference + bob] * 21}
    assert "at most 20" in graph.refused("PATCH", f"/groups/{group}", lots, status=400)[2]


def test_an_owner_changes_the_members_and_nothing_else(graph: Graph) -> None:
    group, bob, carol = graph.group("builders"), graph.user("bob")["id"], graph.user("carol")["id"]
    graph.add(f"/groups/{group}/owners", bob)
    his, hers = graph.seen_by(bob), graph.seen_by(carol)
    assert hers.add(f"/groups/{group}/members", carol, 403)["error"]["code"] == "Authorization_RequestDenied"
    his.add(f"/groups/{group}/members", carol)
    his.delete(f"/groups/{group}/members/{carol}/$ref")
    his.patch(f"/groups/{group}", {"members@odata.bind": [f"https://x/v1.0/directoryObjects/{carol}"]})
    assert his.add(f"/groups/{group}/owners", carol, 403)
    assert his.refused("PATCH", f"/groups/{group}", {"displayName": "Mine"}, status=403)
    assert his.refused("DELETE", f"/groups/{group}", status=403)
    graph.delete(f"/groups/{group}/owners/{bob}/$ref")
    assert his.add(f"/groups/{group}/members", bob, 403)


def test_a_group_owns_nothing(graph: Graph) -> None:
    group, other = graph.group("one"), graph.group("other")
    assert "can't be an owner" in graph.add(f"/groups/{group}/owners", other, 400)["error"]["message"]


def test_members_are_bounded(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    group, bob, carol = graph.group("builders"), graph.user("bob")["id"], graph.user("carol")["id"]
    graph.add(f"/groups/{group}/members", bob)
    with monkeypatch.context() as patch:
        patch.setattr(memberships, "MEMBERS_MAX", 1)
        error = graph.add(f"/groups/{group}/members", carol, 403)["error"]
        assert error["code"] == "Directory_QuotaExceeded" and "members" in error["message"]
    with monkeypatch.context() as patch:
        patch.setattr(memberships, "MEMBERSHIPS_MAX", 1)
        error = graph.add(f"/groups/{graph.group('other')}/members", bob, 403)["error"]
        assert error["code"] == "Directory_QuotaExceeded"


def test_a_reference_that_names_nothing_is_refused(graph: Graph) -> None:
    path = f"/groups/{graph.group('builders')}/members/$ref"
    for reference in (None, 7, "", "nonsense", "https://[", "https://x/v1.0/users/bob"):
        refused = graph.refused("POST", path, {"@odata.id": reference}, status=400)
        assert "directoryObjects/OBJECT-ID" in refused[2]
