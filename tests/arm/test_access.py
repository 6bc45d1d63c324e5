"""Access: roles hold at their scope and below, for whom they are given to and who is in that group, in one tenant."""

import uuid
from dataclasses import replace
from itertools import pairwise

import pytest
from sqlalchemy import Connection, delete, insert

from opengallery.arm import access, assignments, roles
from opengallery.arm.access import CONTRIBUTOR, OWNER, READER, Assigned
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.roles import Permissions, Role
from opengallery.database import Database, now
from opengallery.identity.directory import principals, set_enabled, subscriptions, tenants
from opengallery.identity.groups import group_members, groups
from opengallery.identity.principal import Principal

TENANT, OTHER_TENANT = str(uuid.uuid4()), str(uuid.uuid4())
GROUP = ResourceId("22222222-2222-2222-2222-222222222222", "Group")
GALLERY = GROUP.child("Microsoft.Compute/galleries", "Gallery")
ELSEWHERE = ResourceId("33333333-3333-3333-3333-333333333333", "Group")
READ, WRITE = "Microsoft.Compute/galleries/read", "Microsoft.Compute/galleries/write"


def _role(*actions: str, without: tuple[str, ...] = ()) -> Role:
    return Role(id=str(uuid.uuid4()), name="one", permissions=Permissions(actions, without))


@pytest.mark.parametrize(
    ("role", "action", "allowed"),
    [
        (OWNER, WRITE, True),
        (OWNER, "Microsoft.Authorization/roleAssignments/write", True),
        (CONTRIBUTOR, WRITE, True),
        (CONTRIBUTOR, "microsoft.authorization/roleassignments/WRITE", False),
        (CONTRIBUTOR, "Microsoft.Compute/galleries/share/action", False),
        (READER, READ, True),
        (READER, "MICROSOFT.COMPUTE/GALLERIES/READ", True),
        (READER, WRITE, False),
        (READER, "Microsoft.Compute/disks/beginGetAccess/action", False),
        (READER, "read", False),
        (roles.built_in("Compute Gallery Sharing Admin"), "Microsoft.Compute/galleries/share/action", True),
        (roles.built_in("Compute Gallery Artifacts Publisher"), "Microsoft.Compute/galleries/write", True),
        (roles.built_in("Compute Gallery Artifacts Publisher"), "Microsoft.Compute/galleries/share/action", False),
        (roles.built_in("Compute Gallery Image Reader"), "Microsoft.Compute/galleries/images/versions/read", True),
        (roles.built_in("Compute Gallery Image Reader"), READ, False),
        (roles.built_in("Data Operator for Managed Disks"), "Microsoft.Compute/disks/upload/action", False),
        (_role("Microsoft.Compute/galleries/*"), READ, True),
        (_role("Microsoft.Compute/galleries/*"), "Microsoft.Compute/galleriesX/read", False),
        (_role("Microsoft.Compute/galleries/read"), "MicrosoftxCompute/galleries/read", False),
        (_role("*", without=("*/read",)), READ, False),
        (_role("*", without=("*/read",)), WRITE, True),
        (_role(), READ, False),
    ],
)  # fmt: skip
def test_a_role_allows_its_actions_but_for_those_it_takes_out(role: Role, action: str, allowed: bool) -> None:
    assert role.allows(action) is allowed


def _directory(connection: Connection) -> None:
    """Two tenants with a subscription each."""
    for tenant, place in ((TENANT, GROUP), (OTHER_TENANT, ELSEWHERE)):
        connection.execute(insert(tenants).values(id=tenant, display_name="t", administrator_id="a"))
        connection.execute(
            insert(subscriptions).values(id=place.subscription, tenant_id=tenant, display_name="s")
        )


def _principal(connection: Connection, tenant: str = TENANT, kind: str = "User") -> Principal:
    made = Principal(str(uuid.uuid4()), tenant, kind, None, "someone")  # type: ignore[arg-type]
    row = {"object_id": made.object_id, "tenant_id": tenant, "kind": kind, "display_name": "someone"}
    connection.execute(insert(principals).values(**row, enabled=True))
    if kind == "Group":
        connection.execute(insert(groups).values(object_id=made.object_id, details={}, created_at=now()))
    return made


def _put_in(connection: Connection, group: Principal, member: Principal) -> None:
    connection.execute(insert(group_members).values(group_id=group.object_id, member_id=member.object_id))


@pytest.mark.parametrize("scope", ["/", f"/subscriptions/{GROUP.subscription}", GROUP.key, GALLERY.key])
def test_a_role_holds_at_its_scope_and_below(database: Database, scope: str) -> None:
    with database.write() as connection:
        _directory(connection)
        someone, other = _principal(connection), _principal(connection)
        access.assign(connection, someone.object_id, READER, scope)
        access.assign(connection, someone.object_id, READER, scope)
        upper = ResourceId.parse(str(GALLERY).upper().replace("/SUBSCRIPTIONS/", "/subscriptions/"))
        for gallery in (GALLERY, upper, GALLERY.child("images", "i")):
            assert Assigned(connection, someone).may(READ, gallery)
            assert not Assigned(connection, someone).may(WRITE, gallery)
            assert not Assigned(connection, other).may(READ, gallery)


def test_a_role_holds_neither_above_nor_beside_its_scope(database: Database) -> None:
    with database.write() as connection:
        _directory(connection)
        someone = _principal(connection)
        access.assign(connection, someone.object_id, OWNER, GALLERY.key)
        beside = GROUP.child("Microsoft.Compute/galleries", "Gallery2")
        for scope in (GROUP, beside, ResourceId(GROUP.subscription)):
            assert not Assigned(connection, someone).may(READ, scope)
        assigned = Assigned(connection, someone)
        assert assigned.below(GROUP) == assigned.below(ResourceId()) == [GALLERY.key]
        assert assigned.below(GALLERY) == assigned.below(beside) == []
        assert assigned.may(READ, GALLERY) and not assigned.may(READ, beside)


def test_an_assignment_of_an_unknown_role_allows_nothing(database: Database) -> None:
    with database.write() as connection:
        _directory(connection)
        someone = _principal(connection)
        access.assign(connection, someone.object_id, _role("*"), "/")
        assert not Assigned(connection, someone).may(READ, GALLERY)


def test_a_custom_role_is_its_tenants_own(database: Database) -> None:
    with database.write() as connection:
        _directory(connection)
        someone, stranger = _principal(connection), _principal(connection, OTHER_TENANT)
        values = {"created_at": now(), "created_by": "a", "updated_at": now(), "updated_by": "a"}
        role = Role(
            id=str(uuid.uuid4()), name="Custom", permissions=Permissions(("*",), ("*/write",)), **values
        )
        roles.save(connection, TENANT, role)
        access.assign(connection, someone.object_id, role, "/")
        access.assign(connection, stranger.object_id, role, "/")
        assert Assigned(connection, someone).may(READ, GALLERY)
        assert not Assigned(connection, someone).may(WRITE, GALLERY)
        assert not Assigned(connection, stranger).may(READ, ELSEWHERE)
        assert roles.find(connection, OTHER_TENANT, role.id) is None
        assert roles.find(connection, TENANT, role.id) == role


def test_nobody_has_a_right_in_another_tenants_subscription(database: Database) -> None:
    with database.write() as connection:
        _directory(connection)
        owner = _principal(connection)
        unknown = ResourceId(str(uuid.uuid4()), "Group")
        for scope in ("/", ELSEWHERE.key, unknown.key):
            access.assign(connection, owner.object_id, OWNER, scope)
        assigned = Assigned(connection, owner)
        assert assigned.may(READ, GROUP)
        for scope in (ELSEWHERE, unknown, ResourceId(ELSEWHERE.subscription)):
            assert not assigned.may(READ, scope)
            assert assigned.below(scope) == assigned.permissions(scope) == []
        stranger = _principal(connection, OTHER_TENANT)
        assert not Assigned(connection, stranger).may(READ, ELSEWHERE)


def test_a_groups_roles_are_its_members_however_deep(database: Database) -> None:
    with database.write() as connection:
        _directory(connection)
        someone = _principal(connection)
        chain = [_principal(connection, kind="Group") for _ in range(50)]
        for outer, inner in pairwise(chain):
            _put_in(connection, outer, inner)
        _put_in(connection, chain[-1], someone)
        access.assign(connection, chain[0].object_id, READER, GALLERY.key)
        assert Assigned(connection, someone).may(READ, GALLERY)
        assert Assigned(connection, someone).below(GROUP) == [GALLERY.key]
        assert not Assigned(connection, someone).may(WRITE, GALLERY)
        assert len(access.identities(connection, TENANT, someone.object_id)) == 51
        connection.execute(delete(group_members).where(group_members.c.member_id == chain[25].object_id))
        assert not Assigned(connection, someone).may(READ, GALLERY)


def test_groups_that_a_token_names_count_too(database: Database) -> None:
    with database.write() as connection:
        _directory(connection)
        outer, named = _principal(connection, kind="Group"), _principal(connection, kind="Group")
        foreign = _principal(connection, OTHER_TENANT, kind="Group")
        _put_in(connection, outer, named)
        access.assign(connection, outer.object_id, READER, GALLERY.key)
        someone = _principal(connection)
        assert not Assigned(connection, someone).may(READ, GALLERY)
        assert Assigned(connection, replace(someone, groups=(named.object_id,))).may(READ, GALLERY)
        assert not Assigned(connection, replace(someone, groups=(named.object_id,))).may(WRITE, GALLERY)
        _put_in(connection, outer, foreign)
        assert not Assigned(connection, replace(someone, groups=(foreign.object_id,))).may(READ, GALLERY)


def test_groups_in_a_circle_end(database: Database) -> None:
    with database.write() as connection:
        _directory(connection)
        someone, (one, two) = _principal(connection), [_principal(connection, kind="Group") for _ in "ab"]
        for group, member in ((one, two), (two, one), (two, someone), (one, one)):
            _put_in(connection, group, member)
        access.assign(connection, one.object_id, READER, "/")
        assert Assigned(connection, someone).may(READ, GALLERY)
        assert not Assigned(connection, someone).may(WRITE, GALLERY)
        assert sorted(access.identities(connection, TENANT, someone.object_id)) == sorted(
            one.object_id for one in (someone, one, two)
        )


def test_of_too_many_groups_the_nearest_count(database: Database) -> None:
    with database.write() as connection:
        _directory(connection)
        someone = _principal(connection)
        chain = [_principal(connection, kind="Group") for _ in range(access.GROUPS_MAX + 5)]
        for inner, outer in zip([someone, *chain], chain, strict=False):
            _put_in(connection, outer, inner)
        access.assign(connection, chain[access.GROUPS_MAX - 1].object_id, READER, GALLERY.key)
        access.assign(connection, chain[access.GROUPS_MAX].object_id, OWNER, "/")
        assert Assigned(connection, someone).may(READ, GALLERY)
        assert not Assigned(connection, someone).may(WRITE, GALLERY)
        assert len(access.identities(connection, TENANT, someone.object_id)) == access.GROUPS_MAX + 1


def test_an_owner_is_somebody_who_can_sign_in(database: Database) -> None:
    with database.write() as connection:
        _directory(connection)
        someone, group = _principal(connection), _principal(connection, kind="Group")
        access.assign(connection, group.object_id, OWNER, "/")
        access.assign(connection, someone.object_id, OWNER, GROUP.key)
        access.assign(connection, someone.object_id, CONTRIBUTOR, "/")
        assert not assignments.has_owner(connection, TENANT)
        _put_in(connection, group, someone)
        assert assignments.has_owner(connection, TENANT)
        assert not assignments.has_owner(connection, OTHER_TENANT)
        set_enabled(connection, someone.object_id, False)
        assert not assignments.has_owner(connection, TENANT)
        assignments.ensure_owner(connection, TENANT, _principal(connection).object_id)
        assert assignments.has_owner(connection, TENANT)


def test_what_is_assigned_at_a_resource_goes_with_it(database: Database) -> None:
    with database.write() as connection:
        _directory(connection)
        someone = _principal(connection)
        beside = f"{GALLERY.key}2"
        for scope in (GALLERY.key, f"{GALLERY.key}/images/i", beside, GROUP.key):
            access.assign(connection, someone.object_id, READER, scope)
        assignments.forget_scope(connection, GALLERY.key)
        assert Assigned(connection, someone).below(ResourceId()) == [GROUP.key, beside]
