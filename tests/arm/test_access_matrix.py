"""The whole matrix: `arm/access.py` and a naive model of role assignments decide alike.

Every kind of principal, every action of our resource types, every level of scope; roles that are given
directly, by a group, by a group in a group, at the scope, above it, or not at all; built-in roles and custom ones
that take actions out again. The model reads no database and shares no code: it walks lists.
`SOAK=1` makes 100,000 decisions, else some thousands.
"""

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, delete, insert

from opengallery.arm import access, roles
from opengallery.arm.access import Assigned
from opengallery.arm.assignments import role_assignments
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.roles import BUILT_IN, Permissions, Role, role_definitions
from opengallery.database import Database, now
from opengallery.identity.directory import principals, subscriptions, tenants
from opengallery.identity.groups import group_members, groups
from opengallery.identity.principal import Principal
from opengallery.providers import load_registry

DECISIONS_EACH = 100
EXAMPLES = 1000 if os.environ.get("SOAK") == "1" else 60

KINDS = ("User", "ServicePrincipal")
TENANTS = ["00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000b"]
SUBSCRIPTIONS = {f"11111111-0000-0000-0000-00000000000{n}": TENANTS[n // 2] for n in range(3)}
PEOPLE = {str(uuid.UUID(int=n + 1)): (KINDS[n % 2], TENANTS[n // 4]) for n in range(6)}
GROUPS = {str(uuid.UUID(int=n + 100)): TENANTS[n // 5] for n in range(7)}


def _actions() -> list[str]:
    """Every action of every registered type and route."""
    registry = load_registry()
    found = {"Microsoft.Authorization/roleAssignments/delete", "Microsoft.Compute/galleries/share/action"}
    for declared in registry.types():
        found |= {declared.permission(verb) for verb in ("read", "write", "delete")}
        found |= {action.permission for action in declared.actions.values()}
        found |= {f"{declared.type}/{name}/join/action" for name in declared.embedded}
    found |= {route.permission for route in (*registry.routes, *registry.extensions) if route.permission}
    return sorted(found)


ACTIONS = _actions()


def _scopes() -> list[str]:
    """Scopes of every level: the root, subscriptions, groups, resources of every type and what is nested in them."""
    found = ["/"]
    for subscription in SUBSCRIPTIONS:
        found.append(f"/subscriptions/{subscription}")
        for group in ("rg", "rg2"):
            base = f"/subscriptions/{subscription}/resourceGroups/{group}"
            gallery = f"{base}/providers/Microsoft.Compute/galleries/g"
            found += [base, gallery, f"{gallery}2", f"{gallery}/images/i", f"{gallery}/images/i2"]
            found += [f"{gallery}/images/i/versions/1.0.0", f"{gallery}/images/i/versions/1.0.1"]
            found += [f"{base}/providers/Microsoft.Compute/disks/g"]
            network = f"{base}/providers/Microsoft.Network/virtualNetworks/n"
            found += [network, f"{network}/subnets/s"]
    return found


SCOPES = _scopes()
WIDE_SCOPES = [scope for scope in SCOPES if scope.count("/") < 5]
PAIRS = cycle((action, scope) for scope in SCOPES for action in ACTIONS)


@dataclass
class Model:
    """Who has what, in lists."""

    members: set[tuple[str, str]] = field(default_factory=set)  # group, member
    custom: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)
    given: set[tuple[str, str, str]] = field(default_factory=set)  # who, role, scope

    def may(self, person: str, action: str, scope: str) -> bool:
        """Decide as Azure describes it."""
        tenant = PEOPLE[person][1]
        parts = scope.split("/")
        if len(parts) > 2 and SUBSCRIPTIONS[parts[2]] != tenant:
            return False
        who, grown = {person}, True
        while grown:
            grown = False
            for group, member in self.members:
                if member in who and group not in who:
                    who.add(group)
                    grown = True
        for holder, role, place in self.given:
            owner = PEOPLE[holder][1] if holder in PEOPLE else GROUPS[holder]
            above = place.lower().rstrip("/")
            covers = scope.lower() == above or scope.lower().startswith(above + "/")
            if (
                holder in who
                and owner == tenant
                and (covers or place == "/")
                and self._allows(role, tenant, action)
            ):
                return True
        return False

    def _allows(self, role: str, tenant: str, action: str) -> bool:
        if role in BUILT_IN:
            entry = BUILT_IN[role].permissions
            allowed, taken = entry.actions, entry.not_actions
        elif role in self.custom and self.custom[role][0] == tenant:
            _, allowed, taken = self.custom[role]
        else:
            return False
        return any(_like(action, one) for one in allowed) and not any(_like(action, one) for one in taken)


def _like(action: str, pattern: str) -> bool:
    """Whether an action is what a pattern with stars says: piece by piece."""
    pieces = pattern.lower().split("*")
    rest = action.lower()
    if len(pieces) == 1:
        return rest == pieces[0]
    if not rest.startswith(pieces[0]):
        return False
    rest = rest[len(pieces[0]) :]
    for piece in pieces[1:-1]:
        at = rest.find(piece)
        if at < 0:
            return False
        rest = rest[at + len(piece) :]
    return rest.endswith(pieces[-1]) and len(rest) >= len(pieces[-1])


def _patterns() -> st.SearchStrategy[str]:
    """Whole actions, and what is left of them when parts become stars."""

    def starred(action: str, first: int, last: int) -> str:
        words = action.split("/")
        first, last = sorted((first % len(words), last % len(words)))
        return "/".join([*words[:first], "*", *words[last + 1 :]])

    some = st.builds(starred, st.sampled_from(ACTIONS), st.integers(0, 9), st.integers(0, 9))
    cased = st.builds(str.upper, some)
    return st.one_of(st.sampled_from(["*", "*/read", "*/action"]), st.sampled_from(ACTIONS), some, cased)


@st.composite
def models(draw: st.DrawFn) -> Model:
    """A directory and its assignments: from almost nothing to a thicket of groups in circles."""
    model = Model()
    everybody = st.sampled_from([*PEOPLE, *GROUPS])
    pairs = st.tuples(st.sampled_from(list(GROUPS)), everybody)
    model.members = set(draw(st.lists(pairs, min_size=4, max_size=16)))
    for number in range(draw(st.integers(0, 3))):
        patterns = [tuple(draw(st.lists(_patterns(), max_size=3))) for _ in range(2)]
        tenant = draw(st.sampled_from(TENANTS))
        model.custom[str(uuid.UUID(int=number + 500))] = (tenant, patterns[0], patterns[1])
    known = st.sampled_from([*BUILT_IN, *model.custom, str(uuid.UUID(int=999))])
    places = st.one_of(st.sampled_from(WIDE_SCOPES), st.sampled_from(SCOPES))
    size = draw(st.sampled_from([0, 3, 12]))
    given_roles = st.tuples(everybody, known, places)
    model.given = set(draw(st.lists(given_roles, min_size=size, max_size=size)))
    return model


def _fill(connection: Connection, model: Model) -> None:
    """The model's changing part as rows."""
    for table in (role_assignments, role_definitions, group_members):
        connection.execute(delete(table))
    for group, member in model.members:
        connection.execute(insert(group_members).values(group_id=group, member_id=member))
    made: dict[str, Any] = {"created_at": now(), "created_by": "a", "updated_at": now(), "updated_by": "a"}
    for role_id, (tenant, allowed, taken) in model.custom.items():
        role = Role(id=role_id, name=role_id, permissions=Permissions(allowed, taken), **made)
        roles.save(connection, tenant, role)
    for who, role_id, scope in model.given:
        unknown = Role(id=role_id, name="", permissions=Permissions())
        access.assign(connection, who, BUILT_IN.get(role_id, unknown), scope.lower())


@pytest.fixture
def filled(database: Database) -> Iterator[Database]:
    """A database with the tenants, subscriptions and principals of the matrix."""
    with database.write() as connection:
        for tenant in TENANTS:
            connection.execute(insert(tenants).values(id=tenant, display_name="t", administrator_id="a"))
        for subscription, tenant in SUBSCRIPTIONS.items():
            row = {"id": subscription, "tenant_id": tenant, "display_name": "s"}
            connection.execute(insert(subscriptions).values(row))
        everybody = PEOPLE | {group: ("Group", tenant) for group, tenant in GROUPS.items()}
        for object_id, (kind, tenant) in everybody.items():
            row = {"object_id": object_id, "tenant_id": tenant, "kind": kind, "display_name": "p"}
            connection.execute(insert(principals).values(**row, enabled=True))
        for group in GROUPS:
            connection.execute(insert(groups).values(object_id=group, details={}, created_at=now()))
    yield database


def test_every_decision_is_that_of_the_model(filled: Database) -> None:
    decided = {True: 0, False: 0}

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=os.environ.get("SOAK") != "1",
    )
    @given(models(), st.randoms(use_true_random=False), st.booleans())
    def check(model: Model, random: Random, lists_first: bool) -> None:
        with filled.write() as connection:
            _fill(connection, model)
            assigned = {
                person: Assigned(connection, Principal(person, tenant, kind, None, "p"))  # type: ignore[arg-type]
                for person, (kind, tenant) in PEOPLE.items()
            }
            if lists_first:
                for person, one in enumerate(assigned.values()):
                    one.below(ResourceId.parse(SCOPES[person + 1]))
            for person, (action, scope) in zip(
                random.choices(list(PEOPLE), k=DECISIONS_EACH), PAIRS, strict=False
            ):
                place = ResourceId() if scope == "/" else ResourceId.parse(scope)
                expected = model.may(person, action, scope)
                assert assigned[person].may(action, place) is expected, (person, action, scope)
                decided[expected] += 1

    check()
    assert sum(decided.values()) >= EXAMPLES * DECISIONS_EACH
    assert min(decided.values()) > sum(decided.values()) / 100, "hardly a decision went one way"
