"""`share` of a gallery: who it is shared with beside roles. Takes the right `galleries/share/action`.

Add and Remove change the subscriptions and tenants of a gallery whose permissions are `Groups`; EnableCommunity
shows one whose permissions are `Community` to everyone; Reset makes any gallery private again.
Source: Compute Gallery REST API, Gallery Sharing Profile, api-version 2024-03-03.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta

from opengallery.arm import operations, resources
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.operations import Work
from opengallery.arm.resource_type import Action, Properties
from opengallery.arm.resources import Resource
from opengallery.arm.validation import converted
from opengallery.identity.directory import UUID_FORM
from opengallery.providers.compute.sharing import shares
from opengallery.providers.compute.sharing.profile import COMMUNITY, GROUPS, PRIVATE, permissions

PERMISSION = "Microsoft.Compute/galleries/share/action"
_WORDS = {shares.SUBSCRIPTIONS: "subscriptions", shares.TENANTS: "tenants"}


class SharingGroup(Properties, forbid_unknown_fields=True):
    """Subscriptions, or tenants, to add or to remove."""

    type: Literal["Subscriptions", "AADTenants"]
    ids: Annotated[list[str], Meta(min_length=1, max_length=100)]


class SharingUpdate(Properties, forbid_unknown_fields=True):
    """The body of `share`."""

    operation_type: Literal["Add", "Remove", "Reset", "EnableCommunity"]
    groups: Annotated[list[SharingGroup], Meta(max_length=10)] = []


def _check(call: Call, gallery: Resource, body: dict[str, Any]) -> None:
    """Raise unless the gallery can be shared so now: nothing else changes it before it is."""
    update = converted(body, SharingUpdate, "body")
    named = _named(update)
    if update.operation_type in ("Add", "Remove"):
        if not any(named.values()):
            raise invalid_parameter(
                "groups",
                f"{update.operation_type} names nobody. Give --subscription-ids or --tenant-ids.",
            )
        _require(gallery, GROUPS, "groups")
        _check_limits(_changed(shares.groups(call.connection, gallery.key), update.operation_type, named))
        shares.check_free(call.connection, gallery, shares.SHARED)
    elif any(named.values()):
        raise invalid_parameter(
            "groups",
            f"{update.operation_type} concerns everyone. Leave out --subscription-ids and --tenant-ids.",
        )
    elif update.operation_type == "EnableCommunity":
        _require(gallery, COMMUNITY, "community")


def _named(update: SharingUpdate) -> dict[str, list[str]]:
    """The ids by type, in lower case. Raises 400 for what is no id."""
    named: dict[str, list[str]] = {shares.SUBSCRIPTIONS: [], shares.TENANTS: []}
    for number, group in enumerate(update.groups):
        for index, text in enumerate(group.ids):
            if not UUID_FORM.fullmatch(text):
                raise invalid_parameter(
                    f"groups[{number}].ids[{index}]",
                    f"'{text[:64]}' is no id of one of the {_WORDS[group.type]}. Give a GUID, such as "
                    "00000000-0000-0000-0000-000000000000.",
                )
            named[group.type].append(text.lower())
    return named


def _require(gallery: Resource, wanted: str, option: str) -> None:
    given = permissions(gallery)
    if given != wanted:
        raise ArmError(
            "OperationNotAllowed",
            f"The gallery '{gallery.id.name}' can't be shared so: its sharingProfile.permissions is '{given}', not "
            f"'{wanted}'. Change that first: az sig update --permissions {option}.",
            target="operationType",
            status=409,
        )


def _changed(before: dict[str, list[str]], kind: str, named: dict[str, list[str]]) -> dict[str, list[str]]:
    if kind == "Add":
        return {group: sorted({*before[group], *named[group]}) for group in before}
    return {group: [known for known in before[group] if known not in named[group]] for group in before}


def _check_limits(wanted: dict[str, list[str]]) -> None:
    for kind, most in shares.LIMITS.items():
        if len(wanted[kind]) > most:
            raise invalid_parameter(
                "groups",
                f"The gallery would be shared with {len(wanted[kind])} {_WORDS[kind]}; the most is {most}. Remove some "
                "(az sig share remove), or share it with a whole tenant.",
            )


def _fulfil(work: Work) -> dict[str, Any]:
    work.step("share", _share, work)
    return work.operation.input


def _share(work: Work) -> None:
    update = converted(work.operation.input, SharingUpdate, "body")
    named = _named(update)
    with work.services.database.write() as connection:
        gallery = resources.get(connection, work.key, lock=True)
        # Canceled: it was deleted, and may have been made again since.
        if gallery is None or not operations.is_running(connection, work.operation.id):
            raise ArmError("OperationPreempted", f"'{work.id}' was deleted meanwhile.", status=409)
        if update.operation_type in ("Add", "Remove"):
            wanted = _changed(shares.groups(connection, gallery.key), update.operation_type, named)
            shares.share(connection, gallery, wanted)
        elif update.operation_type == "EnableCommunity":
            shares.publish(connection, gallery, shares.COMMUNITY)
        else:
            shares.withdraw(connection, gallery.key)
            if "sharingProfile" in gallery.properties:
                gallery.properties["sharingProfile"] = {"permissions": PRIVATE}
            gallery.private.pop("publicName", None)
            resources.save(connection, gallery)


ACTION = Action(PERMISSION, fulfil=_fulfil, check=_check)
