"""Names of operations: every request has one, and the scope that it is about."""

import pytest

from opengallery.arm.operation_names import of_request
from opengallery.providers import load_registry

GROUP = "/subscriptions/s/resourceGroups/g"
DISK = f"{GROUP}/providers/Microsoft.Compute/disks/d"
OPERATION = "/subscriptions/s/providers/Microsoft.Compute/locations/global/operations/1"
ASSIGNMENT = f"{DISK}/providers/Microsoft.Authorization/roleAssignments/1"
UNKNOWN = "Microsoft.Resources/unknown"


@pytest.mark.parametrize(
    ("method", "path", "operation", "scope"),
    [
        ("PUT", GROUP, "Microsoft.Resources/resourceGroups/write", GROUP),
        ("GET", "/subscriptions/s", "Microsoft.Resources/subscriptions/read", "/subscriptions/s"),
        ("GET", "/subscriptions/s/resourcegroups", "Microsoft.Resources/resourceGroups/read", "/subscriptions/s"),
        ("GET", f"{GROUP}/providers/microsoft.compute/DISKS", "Microsoft.Compute/disks/read", GROUP),
        ("HEAD", DISK, "Microsoft.Compute/disks/read", DISK),
        ("PATCH", DISK, "Microsoft.Compute/disks/write", DISK),
        ("DELETE", DISK, "Microsoft.Compute/disks/delete", DISK),
        ("POST", f"{DISK}/BEGINGETACCESS", "Microsoft.Compute/disks/beginGetAccess/action", DISK),
        ("POST", f"{DISK}/what", "Microsoft.Compute/disks/what/action", DISK),
        ("GET", OPERATION, "Microsoft.Compute/locations/operations/read", OPERATION),
        ("PUT", ASSIGNMENT, "Microsoft.Authorization/roleAssignments/write", ASSIGNMENT),
        ("POST", "/subscriptions/s/providers/Microsoft.Compute/register", "Microsoft.Resources/register/action",
         "/subscriptions/s"),
        ("TRACE", "/what/ever", f"{UNKNOWN}/action", "/what/ever"),
        ("GET", "/", f"{UNKNOWN}/read", "/"),
        ("GET", "/what", f"{UNKNOWN}/read", "/what"),
        ("GET", "/tenants", "Microsoft.Resources/tenants/read", "/tenants"),
        ("PUT", f"{GROUP}//x", f"{UNKNOWN}/write", f"{GROUP}//x"),
    ],
)  # fmt: skip
def test_every_request_has_a_name(method: str, path: str, operation: str, scope: str) -> None:
    named = of_request(load_registry(), method, path.split("/")[1:])
    assert (named.operation, named.scope) == (operation, scope)
    assert named.subscription == ("s" if path.startswith("/subscriptions/s") else None)
