"""`gallery vmss`: what is done to the instances of a scale set, to all or to those that are named."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from opengallery.cli.command import verb
from opengallery.cli.deployment import SCALE_SETS
from opengallery.cli.options import Group, Name, NoWait, resource_id

if TYPE_CHECKING:
    from opengallery.cli.client import ArmClient

INSTANCES = f"{SCALE_SETS}/virtualMachines"
INSTANCE_COLUMNS = {
    "InstanceId": "instanceId",
    "Name": "name",
    "Location": "location",
    "LatestModelApplied": "latestModelApplied",
    "ProvisioningState": "provisioningState",
}
InstanceIds = Annotated[
    list[str] | None,
    typer.Option("--instance-ids", metavar="ID...", help="Machines, by instance id; all without it."),
]
RequiredIds = Annotated[
    list[str], typer.Option("--instance-ids", metavar="ID...", help="Machines, by instance id; * for all.")
]


def add_verbs(app: typer.Typer) -> None:
    """All verbs of this file."""
    _add_list(app)
    _add_action(app, "start", "start", "Start machines.")
    _add_action(app, "stop", "powerOff", "Power machines off.")
    _add_action(app, "restart", "restart", "Restart machines.")
    _add_action(app, "deallocate", "deallocate", "Power machines off and free what they hold.")
    _add_action(app, "reimage", "reimage", "Give machines a new disk, from the latest model.")
    _add_action_with_ids(app, "update-instances", "manualUpgrade", "Bring machines to the latest model.")
    _add_action_with_ids(app, "delete-instances", "delete", "Delete machines of a scale set.")


def _add_list(app: typer.Typer) -> None:
    @verb(
        app,
        "list-instances",
        [
            "gallery vmss list-instances -g myRG -n myScaleSet",
            "gallery vmss list-instances -g myRG -n myScaleSet --expand instanceView -o json",
        ],
        columns=INSTANCE_COLUMNS,
    )
    def list_instances(
        arm: "ArmClient",
        resource_group: Group,
        name: Name,
        expand: Annotated[
            str | None,
            typer.Option("--expand", metavar="instanceView", help="Add what each machine does."),
        ] = None,
    ) -> Any:
        """List the machines of a scale set."""
        scale_set = resource_id(arm.subscription, resource_group, SCALE_SETS, name)
        return arm.list(scale_set, INSTANCES, {"$expand": expand} if expand else None)


def _add_action(app: typer.Typer, word: str, action: str, help_text: str) -> None:
    def act(
        arm: "ArmClient",
        resource_group: Group,
        name: Name,
        instance_ids: InstanceIds = None,
        no_wait: NoWait = False,
    ) -> None:
        scale_set = resource_id(arm.subscription, resource_group, SCALE_SETS, name)
        arm.act(scale_set, action, {"instanceIds": instance_ids or ["*"]}, wait=not no_wait)

    act.__doc__ = help_text
    verb(app, word, [f"gallery vmss {word} -g myRG -n myScaleSet --instance-ids 0 1"])(act)


def _add_action_with_ids(app: typer.Typer, word: str, action: str, help_text: str) -> None:
    def act(
        arm: "ArmClient",
        resource_group: Group,
        name: Name,
        instance_ids: RequiredIds,
        no_wait: NoWait = False,
    ) -> None:
        scale_set = resource_id(arm.subscription, resource_group, SCALE_SETS, name)
        arm.act(scale_set, action, {"instanceIds": instance_ids}, wait=not no_wait)

    act.__doc__ = help_text
    verb(app, word, [f"gallery vmss {word} -g myRG -n myScaleSet --instance-ids 0 1"])(act)
