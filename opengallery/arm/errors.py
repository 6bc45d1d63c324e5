"""ArmError: the one way for a request to go wrong, in the form that every Azure client reads.

Source: Microsoft REST API guidelines for Azure, `{"error": {"code", "message", "target", "details"}}`.
"""

from collections.abc import Sequence
from typing import Any

from opengallery.arm.resource_id import RESOURCE_GROUPS, ResourceId


class ArmError(Exception):
    """A refused request or failed operation: Azure's `code`, a `message` that says what to do."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        target: str | None = None,
        status: int = 400,
        details: Sequence["ArmError"] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.target = target
        self.status = status
        self.details = tuple(details)
        self.headers = headers or {}

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle, by which a durable step keeps what it failed with."""
        return _restored, (type(self), self.__dict__)

    def error(self) -> dict[str, Any]:
        """The value of the body's `error` member; also kept with a failed operation."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.target:
            error["target"] = self.target
        if self.details:
            error["details"] = [detail.error() for detail in self.details]
        return error

    @classmethod
    def from_error(cls, error: dict[str, Any], status: int = 409) -> "ArmError":
        """The opposite of `error()`: raise again what an operation ended with."""
        details = [cls.from_error(detail) for detail in error.get("details", ())]
        return cls(
            error["code"], error["message"], target=error.get("target"), status=status, details=details
        )


def _restored(kind: type[ArmError], members: dict[str, Any]) -> ArmError:
    error = kind.__new__(kind, members["message"])
    error.__dict__.update(members)
    return error


def resource_not_found(resource_id: ResourceId) -> ArmError:
    """404 for a resource, or resource group, that isn't there."""
    if resource_id.type == RESOURCE_GROUPS:
        return resource_group_not_found(resource_id.name)
    where = f" under resource group '{resource_id.resource_group}'" if resource_id.resource_group else ""
    place = str(resource_id).rpartition("/providers/")[2]
    return ArmError(
        "ResourceNotFound",
        f"The Resource '{place}'{where} was not found. Check its name and the subscription, or create it first.",
        status=404,
    )


def subscription_not_found(name: str) -> ArmError:
    """404 for a subscription that isn't there, or is another tenant's."""
    return ArmError(
        "SubscriptionNotFound",
        f"The subscription '{name}' could not be found. "
        "List yours by 'az account list' and choose one by 'az account set'.",
        status=404,
    )


def resource_group_not_found(name: str) -> ArmError:
    """404 for a resource group that isn't there."""
    return ArmError(
        "ResourceGroupNotFound",
        f"Resource group '{name}' could not be found. Create it first: az group create -n {name} -l LOCATION.",
        status=404,
    )


def invalid_parameter(target: str, message: str) -> ArmError:
    """400 for a value that can't be used."""
    return ArmError("InvalidParameter", message, target=target)
