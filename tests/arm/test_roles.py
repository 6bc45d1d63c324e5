"""Role definitions and assignments as ARM serves them: who may give what to whom, and where it holds."""

import uuid
from typing import Any

import pytest

from opengallery.arm import access, assignments, roles

from ..providers.conftest import Api
from .conftest import Newcomer
from .galleries import COMPUTE, REGION, definition_body, full_id, gallery

AUTHORIZATION = "providers/Microsoft.Authorization"
VERSION = "api-version=2022-04-01"
DENIED = (403, "AuthorizationFailed")


def _assignment(scope: str, name: str | None = None) -> str:
    above = "" if scope == "/" else scope
    return f"{above}/{AUTHORIZATION}/roleAssignments/{name or uuid.uuid4()}?{VERSION}"


def _body(who: str, role: str, **properties: Any) -> dict[str, Any]:
    given = {"roleDefinitionId": f"/{AUTHORIZATION}/roleDefinitions/{role}", "principalId": who}
    return {"properties": given | properties}


def _listed(api: Api, scope: str, query: str = "") -> set[str]:
    above = "" if scope == "/" else scope
    url: str | None = f"{above}/{AUTHORIZATION}/roleAssignments?{VERSION}{query}"
    found: set[str] = set()
    while url:
        page = api.get(url.replace("https://testserver", ""))
        found |= {one["id"].rpartition("/")[2] for one in page["value"]}
        url = page.get("nextLink")
    return found


def _object_id(newcomer: Api) -> str:
    """Who a client is, by what it may read of itself."""
    message = newcomer.refused("GET", "resourceGroups/nowhere-at-all")[2]
    return message.split("object id '")[1].split("'")[0]


def _custom(name: str, scopes: list[str], *actions: str, without: tuple[str, ...] = ()) -> dict[str, Any]:
    permissions = [{"actions": list(actions), "notActions": list(without)}]
    return {"properties": {"roleName": name, "assignableScopes": scopes, "permissions": permissions}}


def _role_path(role: str) -> str:
    return f"{AUTHORIZATION}/roleDefinitions/{role}?{VERSION}"


def test_an_assignment_is_made_shown_and_taken_back(api: Api, newcomer: Newcomer) -> None:
    group = api.group("Mine")
    reader = newcomer()
    who, path = _object_id(reader), _assignment(full_id(api, group))
    answer = api.ask("PUT", path, _body(who, access.READER.id, description="why"))
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert made["type"] == "Microsoft.Authorization/roleAssignments"
    properties = made["properties"]
    assert properties["roleDefinitionId"].endswith(access.READER.id)
    assert (properties["principalType"], properties["description"]) == ("ServicePrincipal", "why")
    assert properties["scope"] == full_id(api, group)
    assert properties["createdBy"] and properties["createdOn"]
    assert api.get(path) == made
    assert reader.get(group)["name"] == "Mine"
    assert api.ask("PUT", path, _body(who, access.READER.id, description="new")).status_code == 200
    assert api.get(path)["properties"]["description"] == "new"
    assert api.ask("DELETE", path).status_code == 200
    assert api.ask("DELETE", path).status_code == 204
    assert api.refused("GET", path)[:2] == (404, "RoleAssignmentNotFound")
    assert reader.refused("GET", group)[:2] == DENIED


def test_an_assignment_holds_from_the_root_down_to_one_version(api: Api, newcomer: Newcomer) -> None:
    group = api.group("mine")
    one = gallery(api, group, "one")
    api.put(f"{one}/images/a", definition_body("a"))
    api.put(f"{one}/images/b", definition_body("b"))
    second = f"/subscriptions/{api.first.second_subscription_id}?api-version=2022-12-01"
    for scope, readable, hidden in (
        (full_id(api, f"{one}/images/a"), f"{one}/images/a", f"{one}/images/b"),
        (full_id(api, one), f"{one}/images/b", group),
        (f"/subscriptions/{api.first.subscription_id}", group, second),
        ("/", second, None),
    ):  # fmt: skip
        reader = newcomer()
        path = _assignment(scope)
        api.ask("PUT", path, _body(_object_id(reader), access.READER.id)).raise_for_status()
        assert reader.ask("GET", readable).status_code == 200
        assert hidden is None or reader.refused("GET", hidden)[:2] == DENIED
        api.ask("DELETE", path).raise_for_status()
        assert reader.refused("GET", readable)[:2] == DENIED


def test_assignments_are_refused_as_azure_does(api: Api, newcomer: Newcomer) -> None:
    group = api.group("mine")
    scope, who = full_id(api, group), _object_id(newcomer())
    path, reader = _assignment(scope), access.READER.id
    api.ask("PUT", path, _body(who, reader)).raise_for_status()
    unknown = str(uuid.uuid4())
    for target, body, status, code in (
        (_assignment(scope), _body(who, reader), 409, "RoleAssignmentExists"),
        (_assignment(scope.upper().replace("/SUB", "/sub")), _body(who.upper(), reader.upper()), 409,
         "RoleAssignmentExists"),
        (path, _body(who, access.OWNER.id), 409, "RoleAssignmentUpdateNotPermitted"),
        (_assignment(scope), _body(unknown, reader), 400, "PrincipalNotFound"),
        (_assignment(scope), _body(who, unknown), 404, "RoleDefinitionDoesNotExist"),
        (_assignment(scope), _body(who, "Reader"), 400, "InvalidRoleDefinitionId"),
        (_assignment(scope, "no-guid"), _body(who, reader), 400, "InvalidRoleAssignmentId"),
        (_assignment(scope), _body(who, reader, principalType="User"), 400, "UnmatchedPrincipalType"),
        (_assignment(scope), _body(who, reader, condition="@Resource[a] StringEquals 'b'"), 400,
         "RoleAssignmentConditionNotSupported"),
        (_assignment(f"{scope}/{COMPUTE}/galleries/gone"), _body(who, reader), 404, "ResourceNotFound"),
        (_assignment(full_id(api, "resourceGroups/gone")), _body(who, reader), 404, "ResourceGroupNotFound"),
        (_assignment(f"/subscriptions/{unknown}"), _body(who, reader), 404, "SubscriptionNotFound"),
        (_assignment("/nowhere"), _body(who, reader), 404, "InvalidResourceId"),
    ):  # fmt: skip
        assert api.refused("PUT", target, body)[:2] == (status, code)
    nulls = _body(_object_id(newcomer()), reader, condition=None, conditionVersion=None, principalType=None)
    assert api.ask("PUT", _assignment(scope), nulls).status_code == 201
    assert api.refused("POST", path)[:2] == (405, "MethodNotAllowed")


@pytest.mark.parametrize("role", ["Contributor", "Reader", "Compute Gallery Sharing Admin"])
def test_who_may_not_write_assignments_gives_nobody_a_role(api: Api, newcomer: Newcomer, role: str) -> None:
    group = api.group("mine")
    worker = newcomer((roles.built_in(role), full_id(api, group)))
    who = _object_id(newcomer())
    for scope in ("/", full_id(api, group), f"/subscriptions/{api.first.second_subscription_id}"):
        assert worker.refused("PUT", _assignment(scope), _body(who, access.READER.id))[:2] == DENIED
        assert worker.refused("DELETE", _assignment(scope))[:2] == DENIED
    role_id = str(uuid.uuid4())
    body = _custom(f"mine {role_id}", [full_id(api, group)], "*")
    for place in (full_id(api, group), f"/subscriptions/{api.first.subscription_id}"):
        assert worker.refused("PUT", f"{place}/{_role_path(role_id)}", body)[:2] == DENIED


def test_an_access_administrator_gives_roles_below_its_own_scope_only(api: Api, newcomer: Newcomer) -> None:
    mine, theirs = api.group("mine"), api.group("theirs")
    administrator = newcomer((roles.built_in("Role Based Access Control Administrator"), full_id(api, mine)))
    one, who = gallery(api, mine, "one"), _object_id(newcomer())
    body = _body(who, access.READER.id)
    assert administrator.ask("PUT", _assignment(full_id(api, one)), body).status_code == 201
    assert administrator.refused("PUT", _assignment(full_id(api, theirs)), body)[:2] == DENIED
    assert administrator.refused("PUT", _assignment("/"), body)[:2] == DENIED
    assert administrator.refused("PUT", f"{mine}/{COMPUTE}/galleries/x", {"location": REGION})[:2] == DENIED


def test_lists_are_of_a_scope_and_what_is_above_and_below_it(api: Api, newcomer: Newcomer) -> None:
    group = api.group("mine")
    one = gallery(api, group, "one")
    who = _object_id(newcomer())
    scopes = {"root": "/", "sub": f"/subscriptions/{api.first.subscription_id}"}
    scopes |= {"group": full_id(api, group), "gallery": full_id(api, one)}
    names = {place: str(uuid.uuid4()) for place in scopes}
    for place, scope in scopes.items():
        api.ask("PUT", _assignment(scope, names[place]), _body(who, access.READER.id)).raise_for_status()
    mine = set(names.values())

    def listed(place: str, query: str = "") -> set[str]:
        found = _listed(api, scopes[place], query)
        return {place for place, name in names.items() if name in found}

    assert listed("group") == set(names) and mine <= _listed(api, "/")
    assert listed("group", "&$filter=atScope()") == {"root", "sub", "group"}
    assert listed("gallery", f"&$filter=principalId eq '{who}'") == set(names)
    assert _listed(api, scopes["sub"], f"&$filter=principalId eq '{uuid.uuid4()}'") == set()
    assert listed("gallery", f"&$filter=atScope() and assignedTo('{who}')") == set(names)
    assert api.refused("GET", f"{AUTHORIZATION}/roleAssignments?{VERSION}&$filter=x eq 'y'")[:2] == (
        400,
        "UnsupportedQuery",
    )
    few = _listed(api, scopes["group"], "&$top=1")
    assert few == _listed(api, scopes["group"])
    for place, scope in scopes.items():
        api.ask("DELETE", _assignment(scope, names[place])).raise_for_status()


def test_assignments_are_listed_as_far_as_they_may_be_read(api: Api, newcomer: Newcomer) -> None:
    mine, theirs = api.group("mine"), api.group("theirs")
    reader = newcomer((access.READER, full_id(api, mine)))
    hidden = str(uuid.uuid4())
    api.ask("PUT", _assignment(full_id(api, theirs), hidden), _body(_object_id(newcomer()), access.READER.id))
    subscription = f"/subscriptions/{api.first.subscription_id}"
    assert len(_listed(reader, subscription)) == 1
    assert hidden in _listed(api, subscription)
    assert reader.refused("GET", f"{theirs}/{AUTHORIZATION}/roleAssignments?{VERSION}")[:2] == DENIED
    assert (
        newcomer().refused("GET", f"{subscription}/{AUTHORIZATION}/roleAssignments?{VERSION}")[:2] == DENIED
    )


def test_the_last_owner_of_the_root_stays(api: Api, newcomer: Newcomer) -> None:
    newcomer((access.OWNER, "/"))
    owners = {
        one["properties"]["principalId"]: one
        for one in api.get(f"/{AUTHORIZATION}/roleAssignments?{VERSION}&$filter=atScope()")["value"]
        if one["properties"]["roleDefinitionId"].endswith(access.OWNER.id)
    }
    first = owners.pop(api.first.object_id)
    (own,) = owners.values()
    assert api.ask("DELETE", f"{own['id']}?{VERSION}").status_code == 200
    status, code, message = api.refused("DELETE", f"{first['id']}?{VERSION}")
    assert (status, code) == (409, "LastOwnerCannotBeRemoved")
    assert "az role assignment create --role Owner" in message
    with api.services.database.read() as connection:
        assert assignments.has_owner(connection, api.first.tenant_id)
    assert api.get(f"{first['id']}?{VERSION}") == first


def test_what_is_assigned_at_a_resource_ends_with_it(api: Api, newcomer: Newcomer) -> None:
    group = api.group("mine")
    one = gallery(api, group, "one")
    reader = newcomer((access.READER, full_id(api, one)))
    assert reader.get(one)["name"] == "one"
    api.delete(one)
    gallery(api, group, "one")
    assert reader.refused("GET", one)[:2] == DENIED


def test_the_built_in_roles_are_azures(api: Api) -> None:
    listed = api.get(f"{AUTHORIZATION}/roleDefinitions?{VERSION}&$filter=roleName eq 'Reader'")["value"]
    assert [one["name"] for one in listed] == ["acdd72a7-3385-48ef-bd42-f606fba81ae7"]
    one = listed[0]
    assert (
        one["id"]
        == f"/subscriptions/{api.first.subscription_id}/{AUTHORIZATION}/roleDefinitions/{one['name']}"
    )
    assert one["properties"]["type"] == "BuiltInRole"
    assert one["properties"]["permissions"] == [
        {"actions": ["*/read"], "notActions": [], "dataActions": [], "notDataActions": []}
    ]
    for scope in ("", f"/subscriptions/{api.first.subscription_id}"):
        assert api.get(f"{scope}/{_role_path(one['name'])}")["name"] == one["name"]
    body = _custom("Mine", ["/"], "*")
    assert api.refused("PUT", _role_path(one["name"]), body)[:2] == (
        403,
        "RoleDefinitionCannotBeModified",
    )
    assert api.refused("DELETE", _role_path(one["name"]))[:2] == (403, "RoleDefinitionCannotBeModified")
    provider = api.get("providers/Microsoft.Authorization?api-version=2024-11-01")
    assert {"roleAssignments", "roleDefinitions"} <= {
        kind["resourceType"] for kind in provider["resourceTypes"]
    }


def test_a_custom_role_is_made_changed_used_and_deleted(api: Api, newcomer: Newcomer) -> None:
    group, role_id = api.group("mine"), str(uuid.uuid4())
    path, scope = _role_path(role_id), full_id(api, group)
    body = _custom("Gallery keeper", [scope], "Microsoft.Compute/galleries/*", without=("*/delete",))
    answer = api.ask("PUT", path, body)
    assert answer.status_code == 201, answer.text
    assert answer.json()["properties"]["type"] == "CustomRole"
    keeper = newcomer()
    who, given = _object_id(keeper), _assignment(scope)
    api.ask("PUT", given, _body(who, role_id)).raise_for_status()
    one = gallery(keeper, group, "one")
    assert keeper.refused("DELETE", one)[:2] == DENIED
    assert keeper.refused("GET", group)[:2] == DENIED
    narrower = _custom("gallery KEEPER", [scope], "Microsoft.Compute/galleries/read")
    assert api.ask("PUT", path, narrower).status_code == 201
    assert keeper.refused("PUT", one, {"location": REGION})[:2] == DENIED
    assert keeper.get(one)["name"] == "one"
    subscription = f"/subscriptions/{api.first.subscription_id}"
    outside = api.refused("PUT", _assignment(subscription), _body(who, role_id))
    assert outside[:2] == (400, "RoleAssignmentScopeNotAssignableToRoleDefinition")
    same_name = _custom("Gallery Keeper", [scope], "*")
    assert api.refused("PUT", _role_path(str(uuid.uuid4())), same_name)[:2] == (
        409,
        "RoleDefinitionWithSameNameExists",
    )
    assert api.refused("DELETE", path)[:2] == (409, "RoleDefinitionHasAssignments")
    elsewhere = _custom("Gallery keeper", [full_id(api, api.group("other"))], "*")
    assert api.refused("PUT", path, elsewhere)[:2] == (409, "RoleDefinitionHasAssignments")
    names = {
        one["properties"]["roleName"]
        for one in keeper.get(f"{group}/{AUTHORIZATION}/roleDefinitions?{VERSION}")["value"]
    }
    assert {"gallery KEEPER", "Owner"} <= names
    api.ask("DELETE", given).raise_for_status()
    assert api.ask("DELETE", path).status_code == 200
    assert api.ask("DELETE", path).status_code == 204
    assert api.refused("GET", path)[:2] == (404, "RoleDefinitionDoesNotExist")


@pytest.mark.parametrize("properties", [
    {"permissions": [{"actions": ["no action!"]}]},
    {"permissions": [{"actions": ["Microsoft.Compute/\u017f"]}]},
    {"permissions": []},
    {"assignableScopes": []},
    {"assignableScopes": ["nowhere"]},
    {"assignableScopes": [f"/subscriptions/{uuid.uuid4()}"]},
    {"roleName": ""},
])  # fmt: skip
def test_a_custom_role_that_makes_no_sense_is_refused(api: Api, properties: dict[str, Any]) -> None:
    body = _custom("Sense", ["/"], "*")
    body["properties"] |= properties
    path = _role_path(str(uuid.uuid4()))
    assert api.refused("PUT", path, body)[0] in (400, 404)
    assert api.refused("GET", path)[0] == 404


def test_permissions_are_the_callers_own(api: Api, newcomer: Newcomer) -> None:
    group = api.group("mine")
    reader = newcomer((access.READER, full_id(api, group)))
    listed = reader.get(f"{group}/{AUTHORIZATION}/permissions?{VERSION}")["value"]
    assert [one["actions"] for one in listed] == [["*/read"]]
    assert newcomer().refused("GET", f"{group}/{AUTHORIZATION}/permissions?{VERSION}")[:2] == DENIED


def test_the_directory_keeps_the_last_owner_of_the_root(api: Api, newcomer: Newcomer) -> None:
    def ask(caller: Api, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {caller.token}"}
        return caller.client.request(method, f"/v1.0/{path}", json=body, headers=headers)

    def reference(object_id: str) -> dict[str, str]:
        return {"@odata.id": f"{api.services.settings.endpoint}/v1.0/directoryObjects/{object_id}"}

    body = {"displayName": "g", "mailEnabled": False, "securityEnabled": True, "mailNickname": "g"}
    group = ask(api, "POST", "groups", body).json()["id"]
    owner, chief = newcomer(), newcomer()
    membership = f"groups/{group}/members/{_object_id(owner)}/$ref"
    for kind, object_id in (("members", _object_id(owner)), ("owners", _object_id(chief))):
        assert ask(api, "POST", f"groups/{group}/{kind}/$ref", reference(object_id)).status_code == 204
    with api.services.database.write() as connection:
        access.assign(connection, group, access.OWNER, "/")
    first = f"servicePrincipals/{api.first.object_id}"
    assert ask(owner, "PATCH", first, {"accountEnabled": False}).status_code == 204
    for caller, path in ((chief, membership), (owner, membership), (owner, f"groups/{group}")):
        refused = ask(caller, "DELETE", path)
        assert refused.status_code == 409, refused.text
        assert "Nobody who can sign in would be Owner" in refused.json()["error"]["message"]
    assert ask(owner, "PATCH", first, {"accountEnabled": True}).status_code == 204
    assert ask(chief, "DELETE", membership).status_code == 204
    assert ask(api, "DELETE", f"groups/{group}").status_code == 204
