"""What each kind of object shows: users, groups, service principals and applications, in Graph's form.

No secret and no hash is among it: of a client secret its hint, of a certificate its public half.
Source: Microsoft Graph REST API v1.0, the resource types of these names.
"""

import base64
from collections.abc import Iterable, Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import Encoding

from opengallery.identity import groups as group_directory
from opengallery.identity import registrations, service_principals, users
from opengallery.identity.applications import ClientCertificate, applications
from opengallery.identity.credentials import KeptSecret, list_certificates, list_secrets
from opengallery.identity.directory import principals
from opengallery.identity.graph.call import GraphCall
from opengallery.identity.graph.changes import shown_time
from opengallery.identity.graph.query import Shown
from opengallery.identity.groups import Group, group_of, selected_groups
from opengallery.identity.properties import shown_details
from opengallery.identity.registrations import (
    Registration,
    list_identifier_uris,
    registration_of,
    selected_registrations,
)
from opengallery.identity.service_principals import (
    ServicePrincipal,
    selected_service_principals,
    service_principal_of,
)
from opengallery.identity.users import User, selected_users, user_of

TYPES = {
    "User": "#microsoft.graph.user",
    "Group": "#microsoft.graph.group",
    "ServicePrincipal": "#microsoft.graph.servicePrincipal",
    "Application": "#microsoft.graph.application",
}


def show_user(user: User) -> Shown:
    """Everything of a user that may be seen."""
    return {
        "id": user.object_id,
        "accountEnabled": user.is_enabled,
        "createdDateTime": shown_time(user.created_at),
        "displayName": user.display_name,
        "userPrincipalName": user.user_principal_name,
        "userType": "Member",
        **shown_details(users.DETAILS, user.details),
    }


def show_group(group: Group) -> Shown:
    """A group, which is a security group, as all are here."""
    return {
        "id": group.object_id,
        "createdDateTime": shown_time(group.created_at),
        "deletedDateTime": None,
        "displayName": group.display_name,
        "groupTypes": [],
        "mail": None,
        "mailEnabled": False,
        "securityEnabled": True,
        **shown_details(group_directory.DETAILS, group.details),
    }


def show_service_principals(call: GraphCall, found: Sequence[ServicePrincipal]) -> list[Shown]:
    """Service principals with the names and credentials of their applications."""
    app_ids = [entry.app_id for entry in found]
    uris = list_identifier_uris(call.connection, app_ids)
    secrets = list_secrets(call.connection, app_ids)
    certificates = list_certificates(call.connection, app_ids)
    return [
        {
            "id": entry.object_id,
            "accountEnabled": entry.is_enabled,
            "appDisplayName": entry.display_name,
            "appId": entry.app_id,
            "appOwnerOrganizationId": entry.tenant_id,
            "appRoles": [],
            "createdDateTime": shown_time(entry.created_at),
            "deletedDateTime": None,
            "displayName": entry.display_name,
            "keyCredentials": [show_certificate(kept) for kept in certificates[entry.app_id]],
            "oauth2PermissionScopes": [],
            "passwordCredentials": [show_secret(kept) for kept in secrets[entry.app_id]],
            "servicePrincipalNames": [entry.app_id, *uris[entry.app_id]],
            "servicePrincipalType": entry.type,
            "signInAudience": "AzureADMyOrg",
            **shown_details(service_principals.DETAILS, entry.details),
        }
        for entry in found
    ]


def show_applications(call: GraphCall, found: Sequence[Registration]) -> list[Shown]:
    """Applications with their names and credentials."""
    app_ids = [entry.app_id for entry in found]
    uris = list_identifier_uris(call.connection, app_ids)
    secrets = list_secrets(call.connection, app_ids)
    certificates = list_certificates(call.connection, app_ids)
    return [
        {
            "id": entry.object_id,
            "appId": entry.app_id,
            "createdDateTime": shown_time(entry.created_at),
            "deletedDateTime": None,
            "displayName": entry.display_name,
            "identifierUris": uris[entry.app_id],
            "keyCredentials": [show_certificate(kept) for kept in certificates[entry.app_id]],
            "passwordCredentials": [show_secret(kept) for kept in secrets[entry.app_id]],
            **shown_details(registrations.DETAILS, entry.details),
        }
        for entry in found
    ]


def show_secret(kept: KeptSecret, text: str | None = None) -> Shown:
    """A client secret; `text` is its text, which only the answer that makes it may have."""
    return {
        "customKeyIdentifier": None,
        "displayName": kept.display_name,
        "endDateTime": shown_time(kept.expires_at),
        "hint": kept.hint,
        "keyId": kept.key_id,
        "secretText": text,
        "startDateTime": shown_time(kept.starts_at),
    }


def show_certificate(kept: ClientCertificate, with_key: bool = False) -> Shown:
    """A certificate; the identifier is its SHA-1 thumbprint, as on Azure: a name, not a proof."""
    certificate = x509.load_pem_x509_certificate(kept.pem.encode())
    thumbprint = certificate.fingerprint(SHA1()).hex().upper()  # noqa: S303
    key = base64.b64encode(certificate.public_bytes(Encoding.DER)).decode() if with_key else None
    return {
        "customKeyIdentifier": thumbprint,
        "displayName": kept.display_name,
        "endDateTime": shown_time(kept.expires_at),
        "key": key,
        "keyId": kept.key_id,
        "startDateTime": shown_time(kept.starts_at),
        "type": "AsymmetricX509Cert",
        "usage": "Verify",
    }


def show_objects(call: GraphCall, ids: Iterable[str], types: Iterable[str] = TYPES) -> list[Shown]:
    """Those of the objects with these ids that are in the tenant and of one of `types`, in that order."""
    wanted = list(dict.fromkeys(ids))
    found: dict[str, Shown] = {}
    kinds = set(types)

    def keep(kind: str, shown: Iterable[Shown]) -> None:
        found.update({entry["id"]: {"@odata.type": TYPES[kind], **entry} for entry in shown})

    def rows(kind: str, query: Any, key: Any) -> list[Any]:
        if kind not in kinds or not wanted:
            return []
        return list(call.connection.execute(query.where(key.in_(wanted))))

    tenant_id, key = call.tenant_id, principals.c.object_id
    keep("User", (show_user(user_of(row)) for row in rows("User", selected_users(tenant_id), key)))
    keep("Group", (show_group(group_of(row)) for row in rows("Group", selected_groups(tenant_id), key)))
    found_rows = rows("ServicePrincipal", selected_service_principals(tenant_id), key)
    keep(
        "ServicePrincipal",
        show_service_principals(call, [service_principal_of(row) for row in found_rows]),
    )
    found_rows = rows("Application", selected_registrations(tenant_id), applications.c.object_id)
    keep("Application", show_applications(call, [registration_of(row) for row in found_rows]))
    return [found[object_id] for object_id in wanted if object_id in found]
