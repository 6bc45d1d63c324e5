"""Access: roles hold at their scope and below, and nothing is allowed without one."""

import uuid

import pytest

from opengallery.arm import access
from opengallery.arm.access import CONTRIBUTOR, OWNER, READER, Assigned, Role
from opengallery.arm.resource_id import ResourceId
from opengallery.database import Database
from opengallery.identity.principal import Principal

GROUP = ResourceId("22222222-2222-2222-2222-222222222222", "Group")
GALLERY = GROUP.child("Microsoft.Compute/galleries", "Gallery")
READ, WRITE = "Microsoft.Compute/galleries/read", "Microsoft.Compute/galleries/write"


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
        (Role("1", "one", ("Microsoft.Compute/galleries/*",)), READ, True),
        (Role("1", "one", ("Microsoft.Compute/galleries/*",)), "Microsoft.Compute/galleriesX/read", False),
        (
            Role("1", "a dot is a dot", ("Microsoft.Compute/galleries/read",)),
            "MicrosoftxCompute/galleries/read",
            False,
        ),
        (Role("1", "none", ()), READ, False),
    ],
)
def test_a_role_allows_its_actions_but_for_those_it_takes_out(role: Role, action: str, allowed: bool) -> None:
    assert role.allows(action) is allowed


def _principal() -> Principal:
    return Principal(str(uuid.uuid4()), "t", "User", None, "someone")


@pytest.mark.parametrize(
    "scope", ["/", "/subscriptions/22222222-2222-2222-2222-222222222222", GROUP.key, GALLERY.key]
)
def test_a_role_holds_at_its_scope_and_below(database: Database, scope: str) -> None:
    someone, other = _principal(), _principal()
    with database.write() as connection:
        access.assign(connection, someone.object_id, READER, scope)
        access.assign(connection, someone.object_id, READER, scope)
        upper = ResourceId.parse(str(GALLERY).upper().replace("/SUBSCRIPTIONS/", "/subscriptions/"))
        for gallery in (GALLERY, upper, GALLERY.child("images", "i")):
            assert Assigned(connection, someone).may(READ, gallery)
            assert not Assigned(connection, other).may(READ, gallery)


def test_a_role_holds_neither_above_nor_beside_its_scope(database: Database) -> None:
    someone = _principal()
    with database.write() as connection:
        access.assign(connection, someone.object_id, OWNER, GALLERY.key)
        beside = GROUP.child("Microsoft.Compute/galleries", "Gallery2")
        for scope in (GROUP, beside, ResourceId(GROUP.subscription)):
            assert not Assigned(connection, someone).may(READ, scope)
        assigned = Assigned(connection, someone)
        assert assigned.below(GROUP) == assigned.below(ResourceId()) == [GALLERY.key]
        assert assigned.below(GALLERY) == assigned.below(beside) == []


def test_an_assignment_of_an_unknown_role_allows_nothing(database: Database) -> None:
    someone = _principal()
    with database.write() as connection:
        access.assign(connection, someone.object_id, Role(str(uuid.uuid4()), "gone", ("*",)), "/")
        assert not Assigned(connection, someone).may(READ, GALLERY)
