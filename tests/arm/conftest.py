"""The server of tests/providers for the tests of ARM itself, and a second principal with few rights."""

import uuid
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import delete, insert

from opengallery.arm import access
from opengallery.identity.directory import find_principal, principals
from opengallery.identity.folder import IdentityFolder
from opengallery.identity.keys import SigningKeys
from opengallery.identity.tokens import Tokens

from ..providers.conftest import Api, api, file_server, server

__all__ = ["api", "file_server", "server"]

Newcomer = Callable[..., Api]


@pytest.fixture
def newcomer(api: Api) -> Iterator[Newcomer]:
    """Makes a principal with roles at scopes, `newcomer((access.READER, scope), ...)`: its client."""
    made: list[str] = []
    settings, database = api.services.settings, api.services.database
    tokens = Tokens(database, SigningKeys.open(IdentityFolder(settings.data)), settings.endpoint)

    def make(*roles: tuple[access.Role, str]) -> Api:
        object_id = str(uuid.uuid4())
        made.append(object_id)
        with database.write() as connection:
            row = {"object_id": object_id, "tenant_id": api.first.tenant_id, "kind": "ServicePrincipal"}
            row |= {"app_id": str(uuid.uuid4()), "display_name": "newcomer"}
            connection.execute(insert(principals).values(**row, enabled=True))
            for role, scope in roles:
                access.assign(connection, object_id, role, scope.lower())
            principal = find_principal(connection, object_id)
        assert principal is not None
        return Api(api.client, api.services, api.first, tokens.issue(principal, settings.endpoint).text)

    yield make
    with database.write() as connection:
        connection.execute(
            delete(access.role_assignments).where(access.role_assignments.c.principal_id.in_(made))
        )
        connection.execute(delete(principals).where(principals.c.object_id.in_(made)))
