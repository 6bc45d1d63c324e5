"""The scope of a deployment: what `resourceGroup()`, `subscription()` and `providers()` speak about."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

# What `reference()` asks: a resource's id (any case) and the api-version, if one is named. The answer is
# the whole resource as GET answers it, `properties` included; it raises ArmError when there is none.
GetResource = Callable[[str, str | None], dict[str, Any]]


@dataclass(frozen=True)
class ProviderType:
    """One resource type of a provider, as `providers(namespace, type)` shows it."""

    api_versions: tuple[str, ...]  # newest first
    locations: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeploymentScope:
    """A deployment into a resource group."""

    tenant_id: str
    subscription_id: str
    resource_group: str
    location: str  # of the group
    deployment_name: str
    subscription_name: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)  # of the group
    mode: str = "Incremental"
    # namespace in its own case -> type ("virtualMachines", "galleries/images") -> ProviderType
    providers: Mapping[str, Mapping[str, ProviderType]] = field(default_factory=dict)

    @property
    def subscription_scope(self) -> str:
        """`/subscriptions/{id}`."""
        return f"/subscriptions/{self.subscription_id}"

    @property
    def group_scope(self) -> str:
        """`/subscriptions/{id}/resourceGroups/{name}`."""
        return f"{self.subscription_scope}/resourceGroups/{self.resource_group}"
