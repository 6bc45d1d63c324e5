"""Tenants, subscriptions and their locations: what a sign-in reads first.

Source: Resource Manager REST API, Subscriptions and Tenants, api-version 2022-12-01.
"""

from typing import Any

from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.resource_type import Route
from opengallery.identity.directory import Subscription, list_subscriptions, list_tenants
from opengallery.providers.resources import SUBSCRIPTION_VERSIONS
from opengallery.regions import REGIONS


def _tenants(call: Call, _parameters: dict[str, str], _body: dict[str, Any]) -> dict[str, Any]:
    return {
        "value": [
            {
                "id": f"/tenants/{tenant_id}",
                "tenantId": tenant_id,
                "displayName": display_name,
                "tenantCategory": "Home",
            }
            for tenant_id, display_name in list_tenants(call.connection)
            if tenant_id == call.principal.tenant_id
        ]
    }


def _view(subscription: Subscription) -> dict[str, Any]:
    return {
        "id": f"/subscriptions/{subscription.subscription_id}",
        "subscriptionId": subscription.subscription_id,
        "tenantId": subscription.tenant_id,
        "displayName": subscription.display_name,
        "state": "Enabled",
        "subscriptionPolicies": {
            "locationPlacementId": "Public_2014-09-01",
            "quotaId": "Internal_2014-09-01",
            "spendingLimit": "Off",
        },
        "authorizationSource": "RoleBased",
        "managedByTenants": [],
    }


def _subscriptions(call: Call, _parameters: dict[str, str], _body: dict[str, Any]) -> dict[str, Any]:
    """Those that the caller may read, or in which it has a role for anything: without them nobody gets there."""
    assigned = call.assigned
    assigned.below(ResourceId())  # all at once
    scopes = {
        subscription: ResourceId(subscription.subscription_id)
        for subscription in list_subscriptions(call.connection, call.principal.tenant_id)
    }
    return {
        "value": [
            _view(subscription)
            for subscription, scope in scopes.items()
            if assigned.may(_READ, scope) or assigned.below(scope)
        ]
    }


def _subscription(call: Call, parameters: dict[str, str], _body: dict[str, Any]) -> dict[str, Any]:
    for subscription in list_subscriptions(call.connection, call.principal.tenant_id):
        if subscription.subscription_id == parameters["subscription"].lower():
            return _view(subscription)
    raise ArmError(
        "SubscriptionNotFound",
        f"The subscription '{parameters['subscription']}' could not be found. List yours by 'az account list'.",
        status=404,
    )


def _locations(_call: Call, parameters: dict[str, str], _body: dict[str, Any]) -> dict[str, Any]:
    base = f"/subscriptions/{parameters['subscription']}/locations"
    return {
        "value": [
            {
                "id": f"{base}/{region.name}",
                "name": region.name,
                "type": "Region",
                "displayName": region.display_name,
                "regionalDisplayName": region.regional_display_name,
                "metadata": {
                    "regionType": "Physical",
                    "regionCategory": region.category,
                    "geography": region.geography,
                    "geographyGroup": region.geography_group,
                    "latitude": region.latitude,
                    "longitude": region.longitude,
                    "physicalLocation": region.physical_location,
                    "pairedRegion": [{"id": f"{base}/{region.paired_region}", "name": region.paired_region}]
                    if region.paired_region
                    else [],
                },
            }
            for region in REGIONS.values()
        ]
    }


_READ = "Microsoft.Resources/subscriptions/read"

ROUTES = (
    Route("GET", "/tenants", SUBSCRIPTION_VERSIONS, None, _tenants),
    Route("GET", "/subscriptions", SUBSCRIPTION_VERSIONS, None, _subscriptions),
    Route("GET", "/subscriptions/{subscription}", SUBSCRIPTION_VERSIONS, _READ, _subscription),
    Route("GET", "/subscriptions/{subscription}/locations", SUBSCRIPTION_VERSIONS, _READ, _locations),
)
