"""What an access decision costs: for a principal in 50 nested groups, with few and many assignments of others.

Each decision is what a request makes: a new `Assigned`, all that it reads, one `may()`. The principal's role is
that of the outermost group. On SQLite; with a URL of an empty database as argument, there. Usage: access.py [URL]
"""

import argparse
import tempfile
import time
import uuid
from pathlib import Path
from statistics import median, quantiles

from sqlalchemy import Connection, insert, text

from opengallery.arm import access
from opengallery.arm.access import READER, Assigned
from opengallery.arm.assignments import role_assignments
from opengallery.arm.resource_id import ResourceId
from opengallery.database import Database, now
from opengallery.identity.directory import principals, subscriptions, tenants
from opengallery.identity.groups import group_members, groups
from opengallery.identity.principal import Principal

GROUPS, FEW, MANY = 50, 1_000, 100_000
DECISIONS = 2_000
LIMIT_MS = 1
TENANT, SUBSCRIPTION = str(uuid.uuid4()), str(uuid.uuid4())
PLACE = ResourceId(SUBSCRIPTION, "group")
VERSION = PLACE.child("Microsoft.Compute/galleries", "g").child("images", "i").child("versions", "1.0.0")
ACTION = "Microsoft.Compute/galleries/images/versions/read"


def main(url: str | None = None) -> None:
    """Print a line for each number of assignments, and how the medians compare."""
    with tempfile.TemporaryDirectory() as folder:
        database = Database(url or f"sqlite:///{Path(folder) / 'access.sqlite'}")
        database.migrate()
        with database.write() as connection:
            someone = populate(connection)
        print(f"access decisions on {database.engine.dialect.name}: {GROUPS} nested groups, ms each")
        print(f"{'others':>10}{'median':>9}{'95 %':>9}")
        medians = []
        made = 0
        for others in (FEW, MANY):
            with database.write() as connection:
                add_others(connection, others - made)
            made = others
            if database.engine.dialect.name == "postgresql":
                with database.write() as connection:
                    connection.execute(text("analyze"))
            taken = measure(database, someone)
            medians.append(median(taken))
            print(f"{others:>10}{medians[-1]:>9.3f}{quantiles(taken, n=20)[-1]:>9.3f}")
        print(
            f"with {MANY // FEW} times the assignments of others: {medians[1] / medians[0]:.2f} times the time"
        )
        if medians[1] >= LIMIT_MS:
            print(f"NOT REACHED: {LIMIT_MS} ms")
        database.close()


def measure(database: Database, someone: Principal) -> list[float]:
    """Milliseconds of each decision."""
    taken = []
    with database.read() as connection:
        for number in range(DECISIONS):
            scope = VERSION if number % 2 else PLACE.child("Microsoft.Compute/galleries", f"g{number}")
            began_s = time.perf_counter()
            allowed = Assigned(connection, someone).may(ACTION, scope)
            taken.append((time.perf_counter() - began_s) * 1000)
            assert allowed
    return taken


def populate(connection: Connection) -> Principal:
    """A tenant, a subscription, a principal, and its groups, each in the next one."""
    connection.execute(insert(tenants).values(id=TENANT, display_name="t", administrator_id="a"))
    connection.execute(insert(subscriptions).values(id=SUBSCRIPTION, tenant_id=TENANT, display_name="s"))
    someone = add_principal(connection, "User")
    inner = someone
    for _ in range(GROUPS):
        outer = add_principal(connection, "Group")
        connection.execute(insert(group_members).values(group_id=outer.object_id, member_id=inner.object_id))
        inner = outer
    access.assign(connection, inner.object_id, READER, PLACE.key)
    return someone


def add_principal(connection: Connection, kind: str) -> Principal:
    """Insert a principal."""
    made = Principal(str(uuid.uuid4()), TENANT, kind, None, "p")  # type: ignore[arg-type]
    row = {"object_id": made.object_id, "tenant_id": TENANT, "kind": kind, "display_name": "p"}
    connection.execute(insert(principals).values(**row, enabled=True))
    if kind == "Group":
        connection.execute(insert(groups).values(object_id=made.object_id, details={}, created_at=now()))
    return made


def add_others(connection: Connection, count: int) -> None:
    """Assignments of others: at the root, the subscription, the same group and gallery, and elsewhere."""
    scopes = ["/", f"/subscriptions/{SUBSCRIPTION}", PLACE.key, VERSION.key]
    scopes += [PLACE.child("Microsoft.Compute/disks", f"disk{number}").key for number in range(16)]
    at = now()
    rows = [
        {
            "tenant_id": TENANT,
            "name": str(uuid.uuid4()),
            "scope": scopes[number % len(scopes)],
            "scope_id": scopes[number % len(scopes)],
            "principal_id": str(uuid.uuid4()),
            "principal_type": "User",
            "role_definition_id": READER.id,
            "created_at": at,
            "created_by": "a",
            "updated_at": at,
            "updated_by": "a",
        }
        for number in range(count)
    ]
    connection.execute(insert(role_assignments), rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What an access decision costs.")
    parser.add_argument("url", nargs="?")
    main(**vars(parser.parse_args()))
