"""Users and applications for tests of signing in, and a browser that fills in the pages."""

import base64
import hashlib
import json
import re
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit
from uuid import uuid4

import httpx
from sqlalchemy import insert, update

from opengallery.database import now
from opengallery.identity.applications import applications, client_secrets
from opengallery.identity.client_secrets import hash_secret
from opengallery.identity.directory import principals, tenants
from opengallery.identity.users import users

from .conftest import ENDPOINT, Identity

CLI = "04b07795-8ddb-461a-bbee-02f9e1bf7b46"
POWERSHELL = "1950a258-227b-4e31-a9cf-717495945fc2"
BOB, PASSWORD = "bob@local", "correct horse battery staple"
SCOPE = f"{ENDPOINT}//.default offline_access openid profile"
REDIRECT = "http://localhost:41999"
VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
OTHER_TENANT = "00000000-0000-4000-8000-000000000002"


def add_principal(identity: Identity, kind: str, name: str, **values: Any) -> str:
    """A principal of the first tenant, unless `values` say another; its object id."""
    row = {"object_id": str(uuid4()), "tenant_id": identity.first.tenant_id, "enabled": True, **values}
    with identity.database.write() as connection:
        connection.execute(insert(principals).values(kind=kind, display_name=name, **row))
    return str(row["object_id"])


def add_user(identity: Identity, name: str = BOB, password: str | None = PASSWORD, **values: Any) -> str:
    """A user; its object id."""
    object_id = add_principal(identity, "User", name.partition("@")[0].title(), **values)
    with identity.database.write() as connection:
        connection.execute(
            insert(users).values(
                object_id=object_id,
                user_principal_name=name,
                user_principal_name_key=name.lower(),
                password_hash=hash_secret(password) if password else None,
                details={},
                created_at=now(),
            )
        )
    return object_id


def set_password(identity: Identity, object_id: str, password: str) -> None:
    """Give a user another password."""
    with identity.database.write() as connection:
        connection.execute(
            update(users).where(users.c.object_id == object_id).values(password_hash=hash_secret(password))
        )


def add_application(
    identity: Identity, details: dict[str, Any], secret: str | None = None, **values: Any
) -> str:
    """An application with its service principal, perhaps with a secret; its client id."""
    app_id = str(uuid4())
    add_principal(identity, "ServicePrincipal", "An application", app_id=app_id, **values)
    tenant_id = values.get("tenant_id", identity.first.tenant_id)
    row = {
        "object_id": str(uuid4()),
        "app_id": app_id,
        "tenant_id": tenant_id,
        "display_name": "An application",
    }
    with identity.database.write() as connection:
        connection.execute(insert(applications).values(details=details, created_at=now(), **row))
        if secret:
            kept = {"app_id": app_id, "key_id": "k", "hash": hash_secret(secret)}
            connection.execute(insert(client_secrets).values(kept))
    return app_id


def add_tenant(identity: Identity) -> str:
    """A second tenant, without anybody in it; its id."""
    with identity.database.write() as connection:
        connection.execute(
            insert(tenants).values(id=OTHER_TENANT, display_name="Other", administrator_id="nobody")
        )
    return OTHER_TENANT


def post(identity: Identity, tenant: str = "organizations", **fields: str) -> httpx.Response:
    """A request to the token endpoint."""
    return identity.client.post(f"/{tenant}/oauth2/v2.0/token", data=fields)


def by_password(identity: Identity, **changes: str) -> httpx.Response:
    """What az sends for `az login -u -p`, with `changes`."""
    fields = {
        "grant_type": "password",
        "client_id": CLI,
        "username": BOB,
        "password": PASSWORD,
        "scope": SCOPE,
        "client_info": "1",
    }
    tenant = changes.pop("tenant", "organizations")
    return post(identity, tenant, **{**fields, **changes})


def refresh(identity: Identity, token: str, **changes: str) -> httpx.Response:
    """What az sends when its access token is over, with `changes`."""
    fields = {"grant_type": "refresh_token", "client_id": CLI, "refresh_token": token, "scope": SCOPE}
    tenant = changes.pop("tenant", identity.first.tenant_id)
    return post(identity, tenant, **{**fields, **changes})


def refused(response: httpx.Response, error: str, code: int, status: int = 400) -> None:
    """The answer is this refusal, in Entra's form."""
    answer = response.json()
    assert (response.status_code, answer["error"], answer["error_codes"]) == (status, error, [code]), answer
    assert answer["error_description"].startswith(f"AADSTS{code}: ")
    assert response.headers["cache-control"] == "no-store"


def claims(token: str) -> dict[str, Any]:
    """The claims of a token, unchecked."""
    part = token.split(".")[1]
    content: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return content


def authorize_query(**changes: str | None) -> str:
    """The query that `az login` opens a browser with, with `changes`."""
    fields: dict[str, str | None] = {
        "client_id": CLI,
        "response_type": "code",
        "redirect_uri": REDIRECT,
        "scope": SCOPE,
        "state": "a state & more",
        "nonce": "a nonce",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
        "prompt": "select_account",
        "client_info": "1",
        **changes,
    }
    return urlencode({name: value for name, value in fields.items() if value is not None})


def fields_of(page: httpx.Response) -> dict[str, str]:
    """The inputs of a page's form."""
    inputs = re.findall(r"<input ([^>]*)>", page.text)
    found = {}
    for attributes in inputs:
        named = dict(re.findall(r'([a-z_]+)="([^"]*)"', attributes))
        found[named["name"]] = unescape(named.get("value", ""))
    return found


def submit(identity: Identity, page: httpx.Response, path: str, **values: str) -> httpx.Response:
    """Send the form of a page that `path` showed, as a browser does."""
    return identity.client.post(
        path, data={**fields_of(page), **values}, headers={"origin": ENDPOINT}, follow_redirects=False
    )


def sign_in_by_page(
    identity: Identity, tenant: str = "organizations", **changes: str | None
) -> httpx.Response:
    """Sign Bob in on the authorize page; the answer that leads back to the client."""
    path = f"/{tenant}/oauth2/v2.0/authorize?{authorize_query(**changes)}"
    page = identity.client.get(path)
    assert page.status_code == 200, page.text
    return submit(identity, page, path, username=BOB, password=PASSWORD, action="continue")


def code_of(response: httpx.Response) -> str:
    """The code that an answer brings the client in the query of its redirect URI."""
    assert response.status_code == 303, response.text
    return parse_qs(urlsplit(response.headers["location"]).query)["code"][0]


def redeem(identity: Identity, code: str, **changes: str) -> httpx.Response:
    """What az sends when the browser brought it a code, with `changes`."""
    fields = {
        "grant_type": "authorization_code",
        "client_id": CLI,
        "code": code,
        "redirect_uri": REDIRECT,
        "code_verifier": VERIFIER,
        "scope": SCOPE,
        "client_info": "1",
    }
    tenant = changes.pop("tenant", "organizations")
    return post(identity, tenant, **{name: value for name, value in {**fields, **changes}.items() if value})
