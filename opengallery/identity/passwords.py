"""Checking who a user is, by name and password.

Whether or not there is such a user, the same work is done, the same is counted, and the answer is the
same. What else is wrong (the user is disabled) is said only to who knows the password.
"""

import asyncio

import structlog
from starlette.concurrency import run_in_threadpool

from opengallery.database import Database
from opengallery.identity.accounts import Account, find_user
from opengallery.identity.client_secrets import (
    Password,
    SecretChecker,
    TooManyChecks,
    WrongSecret,
    nobodys_password,
)
from opengallery.identity.refusals import SignInError, invalid_grant, too_many

log = structlog.get_logger()

WRONG = "Error validating credentials due to invalid username or password."


async def check_password(
    database: Database,
    checker: SecretChecker,
    user_principal_name: str,
    password: str,
    tenant_ids: tuple[str, ...],
    address: str,
) -> Account:
    """The user of one of `tenant_ids` who has this name and password. Raises `SignInError`."""
    account, kept = await run_in_threadpool(_find, database, user_principal_name, tenant_ids)
    key = f"user:{user_principal_name.strip().lower()[:256]}"
    try:
        check = checker.submit(key, password, [kept], address)
        # Shielded: other requests may wait for the same check when this client goes away.
        await asyncio.shield(asyncio.wrap_future(check))
    except WrongSecret:
        log.warning("sign-in refused: wrong user name or password", address=address)
        raise invalid_grant(50126, WRONG) from None
    except TooManyChecks as error:
        log.warning("sign-in refused: too many attempts", address=address)
        if not error.is_locked:
            raise too_many(error.retry_after_s) from None
        message = f"Too many sign-ins of this user failed. Try again in {error.retry_after_s} seconds."
        headers = {"retry-after": str(error.retry_after_s)}
        raise SignInError(400, "invalid_grant", 50053, message, headers) from None
    if account is None:
        raise invalid_grant(50126, WRONG)
    require_enabled(account)
    return account


def require_enabled(account: Account) -> None:
    """Raise `SignInError` when the user may not sign in."""
    if not account.is_enabled:
        log.warning("sign-in refused: disabled user", object_id=account.principal.object_id)
        raise invalid_grant(50057, "The user account is disabled. Ask an administrator to enable it.")


def _find(database: Database, name: str, tenant_ids: tuple[str, ...]) -> tuple[Account | None, Password]:
    """The user, if there is one who could sign in, and what to check the password against."""
    nobodys = nobodys_password()
    with database.read() as connection:
        account = find_user(connection, name)
    if account is None or account.password_hash is None or account.principal.tenant_id not in tenant_ids:
        return None, nobodys
    return account, Password(account.principal.object_id, account.password_hash)
