"""`gallery vmss`: scale sets, many machines from one image version."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from opengallery.cli.arguments import parse_tags
from opengallery.cli.command import new_app, verb
from opengallery.cli.deployment import SCALE_SETS, Place, deploy, os_disk, scale_set_resources, subnet
from opengallery.cli.options import (
    Group,
    GroupOrNone,
    Ids,
    Location,
    Name,
    NameOrNone,
    NoWait,
    Tags,
    named,
)
from opengallery.cli.published import require_accepted
from opengallery.cli.single import add_delete, add_list, add_show, one_or_all
from opengallery.cli.vm import (
    DEFAULT_SIZE,
    AcceptTerm,
    Authentication,
    CustomData,
    GenerateKeys,
    Image,
    KeyValues,
    OsDiskSize,
    Password,
    StorageSku,
    Username,
    find_image,
    remote_rule,
    sign_on_profile,
)
from opengallery.cli.vmss_instances import add_verbs

if TYPE_CHECKING:
    from opengallery.cli.client import ArmClient

COLUMNS = {
    "Name": "name",
    "ResourceGroup": "resourceGroup",
    "Location": "location",
    "Capacity": "sku.capacity",
    "OrchestrationMode": "orchestrationMode",
    "ProvisioningState": "provisioningState",
}
REFERENCE = (
    f"[reference(resourceId('{SCALE_SETS}', 'NAME'),"
    "providers('Microsoft.Compute', 'virtualMachineScaleSets').apiVersions[0])]"
)

Size = Annotated[str, typer.Option("--vm-sku", metavar="SIZE", help="Size of each machine.")]

app = new_app("Scale sets.")
add_show(app, "vmss", SCALE_SETS, COLUMNS)
add_list(app, "vmss", SCALE_SETS, COLUMNS)
add_delete(app, "vmss", SCALE_SETS, asks=False)
add_verbs(app)


@verb(
    app,
    "create",
    ["gallery vmss create -g myRG -n myScaleSet --image $VERSION_ID --instance-count 50 --generate-ssh-keys"],
)
def create(
    arm: "ArmClient",
    resource_group: Group,
    name: Name,
    image: Image,
    instance_count: Annotated[
        int, typer.Option("--instance-count", min=0, metavar="COUNT", help="How many machines.")
    ] = 2,
    admin_username: Username = None,
    generate_ssh_keys: GenerateKeys = False,
    ssh_key_values: KeyValues = None,
    authentication_type: Authentication = None,
    admin_password: Password = None,
    vm_sku: Size = DEFAULT_SIZE,
    os_disk_size_gb: OsDiskSize = None,
    storage_sku: StorageSku = None,
    computer_name_prefix: Annotated[
        str | None, typer.Option("--computer-name-prefix", metavar="PREFIX", help="Begins each host name.")
    ] = None,
    custom_data: CustomData = None,
    orchestration_mode: Annotated[
        Literal["Flexible", "Uniform"],
        typer.Option("--orchestration-mode", case_sensitive=False, help="Mode."),
    ] = "Flexible",
    upgrade_policy_mode: Annotated[
        Literal["Manual", "Automatic", "Rolling"],
        typer.Option("--upgrade-policy-mode", case_sensitive=False, help="When machines follow the model."),
    ] = "Manual",
    accept_term: AcceptTerm = False,
    location: Location = None,
    tags: Tags = None,
    no_wait: NoWait = False,
) -> Any:
    """Create a scale set and start its machines."""
    place = Place(
        arm.subscription, resource_group, location or arm.location(resource_group), parse_tags(tags) or {}
    )
    require_accepted(arm, image, place.location, accept_term)
    reference, os_type, is_generalized = find_image(arm, resource_group, image, place.location)
    profile: dict[str, Any] = {
        "storageProfile": {
            "osDisk": os_disk("FromImage", os_disk_size_gb, storage_sku),
            "imageReference": reference,
        },
    }
    if is_generalized:
        profile["osProfile"] = {
            "computerNamePrefix": computer_name_prefix or name[:8],
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
    resources = scale_set_resources(
        place,
        name,
        subnet_id,
        needs,
        rule=remote_rule(None, os_type),
        size=vm_sku,
        count=instance_count,
        profile=profile,
        is_flexible=orchestration_mode == "Flexible",
        upgrade_mode=upgrade_policy_mode.lower(),
    )
    outputs = {"VMSS": {"type": "object", "value": REFERENCE.replace("NAME", name)}}
    result = deploy(arm, place, "vmss", [*network, *resources], outputs, wait=not no_wait)
    return None if no_wait else result


@verb(app, "scale", ["gallery vmss scale -g myRG -n myScaleSet --new-capacity 100"], columns=COLUMNS)
def scale(
    arm: "ArmClient",
    new_capacity: Annotated[
        int, typer.Option("--new-capacity", min=0, metavar="COUNT", help="How many machines.")
    ],
    resource_group: GroupOrNone = None,
    name: NameOrNone = None,
    ids: Ids = None,
    no_wait: NoWait = False,
) -> Any:
    """Start or delete machines until there are so many."""
    results = []
    for scale_set in named(arm.subscription, SCALE_SETS, ids, resource_group, name=name):
        found = arm.get(scale_set)
        body = {"location": found["location"], "sku": {**(found.get("sku") or {}), "capacity": new_capacity}}
        results.append(arm.put(scale_set, body, wait=not no_wait))
    return one_or_all(results)
