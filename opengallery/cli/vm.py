"""`gallery vm`: machines from an image version or a managed image."""

import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from opengallery.arm.resource_id import ResourceId
from opengallery.cli.arguments import parse_tags
from opengallery.cli.command import new_app, verb
from opengallery.cli.deployment import MACHINES, Place, deploy, machine_resources, os_disk, subnet
from opengallery.cli.failure import CommandFailed, Misuse
from opengallery.cli.options import (
    Group,
    GroupOrNone,
    Ids,
    Location,
    Name,
    NameOrNone,
    NoWait,
    Tags,
    id_or_name,
    named,
    parse_id,
    resource_id,
)
from opengallery.cli.output import flatten
from opengallery.cli.published import find_shared, is_shared, require_accepted
from opengallery.cli.run_command import run_command
from opengallery.cli.single import add_action, add_delete, one_or_all, scope

if TYPE_CHECKING:
    from opengallery.cli.client import ArmClient

VERSIONS = "microsoft.compute/galleries/images/versions"
DEFINITIONS = "microsoft.compute/galleries/images"
IMAGES = "Microsoft.Compute/images"
DEFAULT_SIZE = "Standard_D2s_v5"
INSTANCE_VIEW = {"$expand": "instanceView"}

COLUMNS = {
    "Name": "name",
    "ResourceGroup": "resourceGroup",
    "PowerState": "powerState",
    "PublicIps": "publicIps",
    "Fqdns": "fqdns",
    "Ports": "ports",
    "Location": "location",
    "ProvisioningState": "provisioningState",
}
# What only --show-details gets.
DETAILS = ("PowerState", "PublicIps", "Fqdns", "Ports")
CREATE_COLUMNS = {
    "ResourceGroup": "resourceGroup",
    "PowerState": "powerState",
    "PublicIpAddress": "publicIpAddress",
    "Ports": "ports",
    "Fqdns": "fqdns",
    "PrivateIpAddress": "privateIpAddress",
    "MacAddress": "macAddress",
    "Location": "location",
}

Image = Annotated[
    str,
    typer.Option("--image", metavar="ID|NAME", help="Image version, definition, managed or shared image."),
]
Username = Annotated[str | None, typer.Option("--admin-username", metavar="NAME", help="Who may sign on.")]
Password = Annotated[str | None, typer.Option("--admin-password", help="Asked for, if one is needed.")]
GenerateKeys = Annotated[
    bool, typer.Option("--generate-ssh-keys", help="Make ~/.ssh/id_rsa, if it does not exist.")
]
KeyValues = Annotated[
    list[str] | None,
    typer.Option(
        "--ssh-key-values", metavar="KEY|FILE...", help="Public keys; by default ~/.ssh/id_rsa.pub."
    ),
]
Authentication = Annotated[
    Literal["ssh", "password", "all"] | None,
    typer.Option("--authentication-type", case_sensitive=False, help="How one signs on."),
]
OsDiskSize = Annotated[
    int | None, typer.Option("--os-disk-size-gb", min=1, metavar="GIB", help="A larger disk than the image.")
]
StorageSku = Annotated[str | None, typer.Option("--storage-sku", metavar="SKU", help="Storage type.")]
AcceptTerm = Annotated[bool, typer.Option("--accept-term", help="Accept the agreement of a community image.")]
CustomData = Annotated[
    str | None, typer.Option("--custom-data", metavar="FILE|TEXT", help="Cloud-init user data.")
]
ShowDetails = Annotated[
    bool, typer.Option("--show-details", "-d", help="Add power state and addresses (slower).")
]

app = new_app("Virtual machines.")
boot_diagnostics = new_app("What a machine wrote to its console.")
app.add_typer(boot_diagnostics, name="boot-diagnostics")
app.add_typer(run_command, name="run-command")


@boot_diagnostics.callback()
def console() -> None:
    """What a machine wrote to its console."""


add_delete(app, "vm", MACHINES, asks=True)
add_action(app, "vm", "start", MACHINES, "start", "Start a machine.")
add_action(app, "vm", "stop", MACHINES, "powerOff", "Power a machine off.")
add_action(app, "vm", "deallocate", MACHINES, "deallocate", "Power a machine off and free what it holds.")
add_action(
    app,
    "vm",
    "generalize",
    MACHINES,
    "generalize",
    "Say that a machine is ready to become an image, for good.",
)


@verb(
    app,
    "create",
    [
        "gallery vm create -g myRG -n myVM --image $VERSION_ID --generate-ssh-keys",
        "gallery vm create -g myRG -n myVM --image myImage --admin-username me --ssh-key-values key.pub",
    ],
    columns=CREATE_COLUMNS,
)
def create(
    arm: "ArmClient",
    resource_group: Group,
    name: Name,
    image: Image,
    admin_username: Username = None,
    generate_ssh_keys: GenerateKeys = False,
    ssh_key_values: KeyValues = None,
    authentication_type: Authentication = None,
    admin_password: Password = None,
    size: Annotated[str, typer.Option("--size", metavar="SIZE", help="VM size.")] = DEFAULT_SIZE,
    os_disk_size_gb: OsDiskSize = None,
    storage_sku: StorageSku = None,
    computer_name: Annotated[
        str | None, typer.Option("--computer-name", metavar="NAME", help="Host name; by default the VM's.")
    ] = None,
    custom_data: CustomData = None,
    nsg_rule: Annotated[
        Literal["SSH", "RDP", "NONE"] | None,
        typer.Option("--nsg-rule", case_sensitive=False, help="What is let in."),
    ] = None,
    public_ip_address: Annotated[
        str | None, typer.Option("--public-ip-address", metavar='""', help='"" for no public address.')
    ] = None,
    accept_term: AcceptTerm = False,
    location: Location = None,
    tags: Tags = None,
    no_wait: NoWait = False,
) -> Any:
    """Create and start a machine."""
    if public_ip_address:
        raise Misuse('--public-ip-address: only "" (none) is known here.')
    place = Place(
        arm.subscription, resource_group, location or arm.location(resource_group), parse_tags(tags) or {}
    )
    require_accepted(arm, image, place.location, accept_term)
    reference, os_type, is_generalized = find_image(arm, resource_group, image, place.location)
    properties: dict[str, Any] = {
        "hardwareProfile": {"vmSize": size},
        "storageProfile": {
            "osDisk": {**os_disk("fromImage", os_disk_size_gb, storage_sku), "name": None},
            "imageReference": reference,
        },
    }
    if is_generalized:
        properties["osProfile"] = {
            "computerName": computer_name or name,
            **sign_on_profile(
                os_type,
                admin_username,
                authentication_type,
                admin_password,
                ssh_key_values,
                generate_ssh_keys,
                custom_data,
            ),
        }
    subnet_id, network, needs = subnet(arm, place, name)
    machine = machine_resources(
        place,
        name,
        subnet_id,
        needs,
        rule=remote_rule(nsg_rule, os_type),
        has_public_ip=public_ip_address is None,
        properties=properties,
    )
    deploy(arm, place, "vm", [*network, *machine], {}, wait=not no_wait)
    if no_wait:
        return None
    details = _details(arm, resource_id(arm.subscription, resource_group, MACHINES, name))
    return {
        "fqdns": details["fqdns"],
        "id": details["id"],
        "location": details["location"],
        "macAddress": details["macAddresses"],
        "ports": details["ports"],
        "powerState": details["powerState"],
        "privateIpAddress": details["privateIps"],
        "publicIpAddress": details["publicIps"],
        "resourceGroup": resource_group,
    }


@verb(app, "show", ["gallery vm show -g myRG -n myVM -d -o table"], columns=COLUMNS, details=DETAILS)
def show(
    arm: "ArmClient",
    resource_group: GroupOrNone = None,
    name: NameOrNone = None,
    ids: Ids = None,
    show_details: ShowDetails = False,
) -> Any:
    """Show a machine."""
    machines = named(arm.subscription, MACHINES, ids, resource_group, name=name)
    return one_or_all([_details(arm, each) if show_details else arm.get(each) for each in machines])


@verb(
    app,
    "list",
    ["gallery vm list -d -o table", "gallery vm list -g myRG"],
    columns=COLUMNS,
    details=DETAILS,
)
def list_machines(
    arm: "ArmClient", resource_group: GroupOrNone = None, show_details: ShowDetails = False
) -> Any:
    """List the machines of a resource group, or of the subscription."""
    machines = arm.list(scope(arm, resource_group), MACHINES)
    if not show_details:
        return machines
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda machine: _details(arm, ResourceId.parse(machine["id"])), machines))


@verb(
    app,
    "get-instance-view",
    ["gallery vm get-instance-view -g myRG -n myVM"],
    columns={**COLUMNS, "PowerState": "instanceView.statuses[].displayStatus"},
    details=("PublicIps", "Fqdns", "Ports"),
)
def get_instance_view(
    arm: "ArmClient", resource_group: GroupOrNone = None, name: NameOrNone = None, ids: Ids = None
) -> Any:
    """Show a machine with what it does right now."""
    machines = named(arm.subscription, MACHINES, ids, resource_group, name=name)
    return one_or_all([arm.get(each, INSTANCE_VIEW) for each in machines])


@verb(boot_diagnostics, "get-boot-log", ["gallery vm boot-diagnostics get-boot-log -g myRG -n myVM"])
def get_boot_log(
    arm: "ArmClient", resource_group: GroupOrNone = None, name: NameOrNone = None, ids: Ids = None
) -> None:
    """Print what the machine wrote to its serial console."""
    for machine in named(arm.subscription, MACHINES, ids, resource_group, name=name):
        answer = arm.act(machine, "retrieveBootDiagnosticsData") or {}
        url = answer.get("serialConsoleLogBlobUri")
        if not url:
            raise CommandFailed(f"{machine.name} has no console log.")
        sys.stdout.buffer.write(arm.send_signed("GET", url).content)
        sys.stdout.flush()


def find_image(arm: "ArmClient", group: str, image: str, location: str) -> tuple[dict[str, str], str, bool]:
    """The reference to an image, its operating system, and whether machines from it get a user and a name."""
    if not image.strip():
        raise Misuse("--image: give the id of an image version or definition, or a managed image.")
    if is_shared(image):
        reference, shared = find_shared(arm, image, location)
        given = shared.get("properties") or {}
        return reference, given.get("osType", "Linux"), given.get("osState") != "Specialized"
    identity = id_or_name(arm.subscription, group, IMAGES, image)
    kind = identity.type.lower()
    if kind in (VERSIONS, DEFINITIONS):
        definition = identity if kind == DEFINITIONS else identity.parent
        assert definition
        properties = arm.get(definition).get("properties") or {}
        # A deployment that fails later would leave a network behind.
        if kind == VERSIONS and identity.name.lower() != "latest":
            arm.get(identity)
        elif not arm.list(definition, VERSIONS):
            raise CommandFailed(f"Image definition '{definition.name}' has no version.", code="ImageNotFound")
        return (
            {"id": str(identity)},
            properties.get("osType", "Linux"),
            properties.get("osState") != "Specialized",
        )
    if kind == IMAGES.lower():
        profile = (arm.get(identity).get("properties") or {}).get("storageProfile") or {}
        disk = profile.get("osDisk") or {}
        return {"id": str(identity)}, disk.get("osType", "Linux"), disk.get("osState") != "Specialized"
    raise Misuse(f"--image: '{image}' is neither an image version nor a definition nor a managed image.")


def sign_on_profile(
    os_type: str,
    username: str | None,
    authentication: str | None,
    password: str | None,
    ssh_keys: list[str] | None,
    generates_keys: bool,
    custom_data: str | None,
) -> dict[str, Any]:
    """The `osProfile` but for the computer's name."""
    import base64
    from pathlib import Path

    from opengallery.cli.sign_on import os_profile

    profile = os_profile(
        os_type,
        username=username,
        authentication=authentication,
        password=password,
        ssh_keys=ssh_keys,
        generates_keys=generates_keys,
    )
    if custom_data:
        is_file = "\n" not in custom_data and Path(custom_data).is_file()
        content = Path(custom_data).read_bytes() if is_file else custom_data.encode()
        profile["customData"] = base64.b64encode(content).decode()
    return profile


def remote_rule(asked: str | None, os_type: str) -> str | None:
    """What the security group lets in: SSH or RDP, unless told otherwise."""
    if asked == "NONE":
        return None
    return asked or ("RDP" if os_type == "Windows" else "SSH")


def _details(arm: "ArmClient", machine: ResourceId) -> dict[str, Any]:
    """A machine with what az adds: `powerState`, `publicIps`, `privateIps`, `fqdns`, `macAddresses`.

    And with `ports`, which az doesn't know: where this server lets one in.
    """
    shown: dict[str, Any] = flatten(arm.get(machine, INSTANCE_VIEW))
    view = shown.pop("instanceView", None) or {}
    public, private, fqdns, macs = [], [], [], []
    for reference in (shown.get("networkProfile") or {}).get("networkInterfaces") or ():
        nic = flatten(arm.get(parse_id(reference["id"], "A network interface")))
        macs.append(nic.get("macAddress"))
        for configuration in nic.get("ipConfigurations") or ():
            private.append(configuration.get("privateIPAddress"))
            if address := configuration.get("publicIPAddress"):
                found = flatten(arm.get(parse_id(address["id"], "A public address")))
                public.append(found.get("ipAddress"))
                fqdns.append((found.get("dnsSettings") or {}).get("fqdn"))
    states = [
        status.get("displayStatus", "")
        for status in view.get("statuses") or ()
        if status.get("code", "").startswith("PowerState/")
    ]
    shown["powerState"] = ",".join(states)
    for key, values in (
        ("ports", [_port(port) for port in view.get("ports") or ()]),
        ("publicIps", public),
        ("fqdns", fqdns),
        ("privateIps", private),
        ("macAddresses", macs),
    ):
        shown[key] = ",".join(value for value in values if value)
    return shown


def _port(port: dict[str, Any]) -> str:
    """`127.64.0.1:22`, or `127.64.0.1:10022->22` where the guest's port is another one."""
    where = f"{port['address']}:{port['port']}"
    return where if port["port"] == port["guestPort"] else f"{where}->{port['guestPort']}"
