"""Registrations: which resource providers and preview features a subscription has registered.

A registration passes NotRegistered -> Registering -> Registered: it is answered as Registering,
and is Registered when it is read next. Resource providers of this server are there without it.
Source: Features REST API 2021-07-01; Resource Manager REST API, Providers, 2024-11-01.
"""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Column, Connection, String, Table, delete, insert, select

from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError
from opengallery.arm.resource_type import Route
from opengallery.database import UtcDateTime, metadata, now
from opengallery.providers.resources import RESOURCE_VERSIONS
from opengallery.regions import REGIONS

FEATURE_VERSIONS = ("2021-07-01", "2015-12-01", "2014-08-01-preview")
FEATURES = {"microsoft.compute/gallerypreview": "Microsoft.Compute/GalleryPreview"}
REGISTERED, REGISTERING, NOT_REGISTERED = "Registered", "Registering", "NotRegistered"

registrations = Table(
    "registrations",
    metadata,
    Column("subscription", String(36), primary_key=True),
    Column("name", String, primary_key=True),
    Column("registered_at", UtcDateTime, nullable=False),
)


def is_registered(connection: Connection, subscription: str, name: str) -> bool:
    """Whether a subscription has registered a feature (`Microsoft.Compute/GalleryPreview`) or a namespace."""
    row = connection.execute(
        select(registrations.c.name).where(
            registrations.c.subscription == subscription.lower(), registrations.c.name == name.lower()
        )
    ).first()
    return row is not None


def _register(call: Call, subscription: str, name: str) -> str:
    """Register, and tell the state to answer."""
    call.lock(f"registration of {name}".lower())
    if is_registered(call.connection, subscription, name):
        return REGISTERED
    call.connection.execute(
        insert(registrations).values(
            subscription=subscription.lower(), name=name.lower(), registered_at=now()
        )
    )
    return REGISTERING


def _unregister(call: Call, subscription: str, name: str) -> str:
    call.connection.execute(
        delete(registrations).where(
            registrations.c.subscription == subscription.lower(), registrations.c.name == name.lower()
        )
    )
    return NOT_REGISTERED


def _state(call: Call, subscription: str, name: str) -> str:
    return REGISTERED if is_registered(call.connection, subscription, name) else NOT_REGISTERED


def _feature_view(parameters: dict[str, str], name: str, state: str) -> dict[str, Any]:
    namespace, _, feature = name.partition("/")
    return {
        "id": f"/subscriptions/{parameters['subscription']}/providers/Microsoft.Features/providers/{namespace}"
        f"/features/{feature}",
        "name": name,
        "type": "Microsoft.Features/providers/features",
        "properties": {"state": state},
    }


def _feature_name(parameters: dict[str, str]) -> str:
    asked = f"{parameters['namespace']}/{parameters['feature']}"
    known = FEATURES.get(asked.lower())
    if known is None:
        raise ArmError(
            "FeatureNotFound",
            f"The feature '{parameters['feature']}' could not be found. "
            f"Known are: {', '.join(FEATURES.values())}.",
            status=404,
        )
    return known


def _register_feature(call: Call, parameters: dict[str, str], _body: dict[str, Any]) -> dict[str, Any]:
    name = _feature_name(parameters)
    return _feature_view(parameters, name, _register(call, parameters["subscription"], name))


def _unregister_feature(call: Call, parameters: dict[str, str], _body: dict[str, Any]) -> dict[str, Any]:
    name = _feature_name(parameters)
    return _feature_view(parameters, name, _unregister(call, parameters["subscription"], name))


def _show_feature(call: Call, parameters: dict[str, str], _body: dict[str, Any]) -> dict[str, Any]:
    name = _feature_name(parameters)
    return _feature_view(parameters, name, _state(call, parameters["subscription"], name))


def _list_features(call: Call, parameters: dict[str, str], _body: dict[str, Any]) -> dict[str, Any]:
    namespace = parameters.get("namespace", "")
    return {
        "value": [
            _feature_view(parameters, name, _state(call, parameters["subscription"], name))
            for name in FEATURES.values()
            if namespace.lower() in ("", name.lower().split("/")[0])
        ]
    }


def _provider_view(call: Call, subscription: str, namespace: str, state: str | None = None) -> dict[str, Any]:
    return {
        "id": f"/subscriptions/{subscription}/providers/{namespace}",
        "namespace": namespace,
        "registrationPolicy": "RegistrationRequired",
        "registrationState": state or _state(call, subscription, namespace),
        "resourceTypes": list(_resource_types(call, namespace)),
    }


def _resource_types(call: Call, namespace: str) -> Iterator[dict[str, Any]]:
    for declared in call.registry.types(namespace):
        yield {
            "resourceType": declared.kind,
            "locations": [region.display_name for region in REGIONS.values()] if declared.located else [],
            "apiVersions": sorted(declared.api_versions, reverse=True),
            "capabilities": "None",
        }
    versions = {one.type: one.api_versions for one in call.registry.extensions}
    for resource_type, api_versions in versions.items():
        owner, _, kind = resource_type.partition("/")
        if owner.lower() == namespace.lower():
            yield {
                "resourceType": kind,
                "locations": [],
                "apiVersions": sorted(api_versions, reverse=True),
                "capabilities": "SupportsExtension",
            }


def _namespaces(call: Call) -> list[str]:
    extensions = {route.type.partition("/")[0] for route in call.registry.extensions}
    return sorted({*call.registry.namespaces(), *extensions, "Microsoft.Features"})


def _namespace(call: Call, parameters: dict[str, str]) -> str:
    for known in _namespaces(call):
        if known.lower() == parameters["namespace"].lower():
            return known
    raise ArmError(
        "InvalidResourceNamespace",
        f"The resource namespace '{parameters['namespace']}' is invalid. "
        f"Known are: {', '.join(_namespaces(call))}.",
        status=404,
    )


def _register_provider(call: Call, parameters: dict[str, str], _body: dict[str, Any]) -> dict[str, Any]:
    namespace = _namespace(call, parameters)
    state = _register(call, parameters["subscription"], namespace)
    return _provider_view(call, parameters["subscription"], namespace, state)


def _unregister_provider(call: Call, parameters: dict[str, str], _body: dict[str, Any]) -> dict[str, Any]:
    namespace = _namespace(call, parameters)
    state = _unregister(call, parameters["subscription"], namespace)
    return _provider_view(call, parameters["subscription"], namespace, state)


def _show_provider(call: Call, parameters: dict[str, str], _body: dict[str, Any]) -> dict[str, Any]:
    return _provider_view(call, parameters["subscription"], _namespace(call, parameters))


def _list_providers(call: Call, parameters: dict[str, str], _body: dict[str, Any]) -> dict[str, Any]:
    return {
        "value": [
            _provider_view(call, parameters["subscription"], namespace) for namespace in _namespaces(call)
        ]
    }


_FEATURES = "/subscriptions/{subscription}/providers/Microsoft.Features"
_FEATURE = _FEATURES + "/providers/{namespace}/features/{feature}"
_PROVIDER = "/subscriptions/{subscription}/providers/{namespace}"
_READ_FEATURES = "Microsoft.Features/features/read"
_READ_PROVIDERS = "Microsoft.Resources/subscriptions/providers/read"
_REGISTER_FEATURE = "Microsoft.Features/providers/features/register/action"

ROUTES = (
    Route("GET", _FEATURES + "/features", FEATURE_VERSIONS, _READ_FEATURES, _list_features),
    Route(
        "GET", _FEATURES + "/providers/{namespace}/features", FEATURE_VERSIONS, _READ_FEATURES, _list_features
    ),
    Route("GET", _FEATURE, FEATURE_VERSIONS, _READ_FEATURES, _show_feature),
    Route("POST", _FEATURE + "/register", FEATURE_VERSIONS, _REGISTER_FEATURE, _register_feature),
    Route("POST", _FEATURE + "/unregister", FEATURE_VERSIONS, _REGISTER_FEATURE, _unregister_feature),
    Route(
        "GET", "/subscriptions/{subscription}/providers", RESOURCE_VERSIONS, _READ_PROVIDERS, _list_providers
    ),
    Route("GET", _PROVIDER, RESOURCE_VERSIONS, _READ_PROVIDERS, _show_provider),
    Route(
        "POST",
        _PROVIDER + "/register",
        RESOURCE_VERSIONS,
        "Microsoft.Resources/register/action",
        _register_provider,
    ),
    Route(
        "POST",
        _PROVIDER + "/unregister",
        RESOURCE_VERSIONS,
        "Microsoft.Resources/unregister/action",
        _unregister_provider,
    ),
)
