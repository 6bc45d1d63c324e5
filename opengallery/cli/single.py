"""Verbs that are alike for every noun whose resources have one name: show, list, delete, and actions."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from opengallery.arm.resource_id import ResourceId
from opengallery.cli.command import verb
from opengallery.cli.options import GroupOrNone, Ids, NameOrNone, NoWait, Yes, confirm, named
from opengallery.cli.output import Columns

if TYPE_CHECKING:
    from opengallery.cli.client import ArmClient


def one_or_all(results: list[Any]) -> Any:
    """az prints one result as it is, and those of several `--ids` as a list."""
    return results[0] if len(results) == 1 else results


def scope(arm: "ArmClient", group: str | None) -> ResourceId:
    """The resource group, or without one the subscription: where a list is made of."""
    return ResourceId(arm.subscription, group)


def add_show(app: typer.Typer, word: str, resource_type: str, columns: Columns) -> None:
    """`show` by name or ids. `word` is the noun."""

    @verb(app, "show", [f"gallery {word} show -g myRG -n my{word.title()}"], columns=columns)
    def show(
        arm: "ArmClient", resource_group: GroupOrNone = None, name: NameOrNone = None, ids: Ids = None
    ) -> Any:
        """Show one."""
        return one_or_all(
            [arm.get(each) for each in named(arm.subscription, resource_type, ids, resource_group, name=name)]
        )


def add_list(app: typer.Typer, word: str, resource_type: str, columns: Columns) -> None:
    """`list` of a group, or of the whole subscription."""

    @verb(app, "list", [f"gallery {word} list -g myRG -o table", f"gallery {word} list"], columns=columns)
    def list_all(arm: "ArmClient", resource_group: GroupOrNone = None) -> Any:
        """List those of a resource group, or of the subscription."""
        return arm.list(scope(arm, resource_group), resource_type)


def add_delete(app: typer.Typer, word: str, resource_type: str, *, asks: bool) -> None:
    """`delete` by name or ids; `asks` where az asks for confirmation."""

    @verb(app, "delete", [f"gallery {word} delete -g myRG -n my{word.title()}{' --yes' if asks else ''}"])
    def delete(
        arm: "ArmClient",
        resource_group: GroupOrNone = None,
        name: NameOrNone = None,
        ids: Ids = None,
        yes: Yes = False,
        no_wait: NoWait = False,
    ) -> None:
        """Delete one."""
        resources = named(arm.subscription, resource_type, ids, resource_group, name=name)
        confirm(f"Delete {', '.join(each.name for each in resources)}?", yes or not asks)
        each_at_once(resources, lambda each: arm.delete(each, wait=not no_wait))


def add_action(
    app: typer.Typer, word: str, name: str, resource_type: str, action: str, help_text: str
) -> None:
    """A verb that POSTs `action` and prints nothing, by name or ids."""

    def act(
        arm: "ArmClient",
        resource_group: GroupOrNone = None,
        name: NameOrNone = None,
        ids: Ids = None,
        no_wait: NoWait = False,
    ) -> None:
        resources = named(arm.subscription, resource_type, ids, resource_group, name=name)
        each_at_once(resources, lambda each: arm.act(each, action, wait=not no_wait))

    act.__doc__ = help_text
    verb(app, name, [f"gallery {word} {name} -g myRG -n my{word.title()}"])(act)


def each_at_once(resources: list[ResourceId], work: Callable[[ResourceId], object]) -> None:
    """Do the same with several resources, eight at a time; the first failure is raised at the end."""
    if len(resources) == 1:
        work(resources[0])
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, each) for each in resources]:
            done.result()
