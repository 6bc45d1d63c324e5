"""What a client asks for: one resource, and what of OpenID Connect.

The v2.0 endpoint takes `scope`, a list such as `https://.../.default offline_access openid profile`;
the older one takes `resource`, and gives users the rest unasked.
Source: Microsoft identity platform, scopes and permissions; OpenID Connect Core 1.0, section 5.4.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from opengallery.identity.refusals import SignInError
from opengallery.identity.tokens import Tokens, TokenVersion

DEFAULT_SCOPE = "/.default"
USER_SCOPE = "/user_impersonation"
OPENID_SCOPES = frozenset({"openid", "profile", "email", "offline_access"})
SCOPE_LENGTH_MAX = 4096


@dataclass(frozen=True, slots=True)
class Scopes:
    """A resource of this gallery (`None`: the client names none), and the OpenID scopes asked for."""

    resource: str | None
    openid: frozenset[str]

    @property
    def text(self) -> str:
        """The scopes as a list again, to be kept."""
        named = [] if self.resource is None else [self.resource + DEFAULT_SCOPE]
        return " ".join([*named, *sorted(self.openid)])


def user_scopes(fields: Mapping[str, str], version: TokenVersion, tokens: Tokens) -> Scopes:
    """What is asked for in a user's name. Raises `SignInError`."""
    if version == "1.0" and "scope" not in fields:
        resource = fields.get("resource") or None
        return Scopes(_known(resource, tokens), OPENID_SCOPES)
    return read_scopes(fields.get("scope", ""), tokens)


def read_scopes(text: str, tokens: Tokens) -> Scopes:
    """The scopes of a list. Raises `SignInError` when it names no or several resources of this gallery."""
    if len(text) > SCOPE_LENGTH_MAX:
        raise _invalid_scope(text)
    names = set(text.split())
    resources = set()
    for name in names - OPENID_SCOPES:
        for suffix in (DEFAULT_SCOPE, USER_SCOPE):
            if name.endswith(suffix):
                resources.add(name.removesuffix(suffix))
                break
        else:
            raise _invalid_scope(name)
    if len(resources) > 1:
        raise _invalid_scope(text)
    return Scopes(_known(resources.pop() if resources else None, tokens), frozenset(names & OPENID_SCOPES))


def application_resource(fields: Mapping[str, str], version: TokenVersion) -> str:
    """The resource that an application asks for in its own name. Raises `SignInError`."""
    name = "resource" if version == "1.0" else "scope"
    text = fields.get(name, "")
    if not text:
        message = f"The request body must contain the following parameter: '{name}'."
        raise SignInError(400, "invalid_request", 900144, message)
    if version == "1.0":
        return text
    if not text.endswith(DEFAULT_SCOPE) or " " in text:
        raise SignInError(
            400,
            "invalid_scope",
            1002012,
            f"The scope '{text[:256]}' is not valid: it must be one resource with {DEFAULT_SCOPE} behind.",
        )
    return text.removesuffix(DEFAULT_SCOPE)


def unknown_resource(resource: str, tokens: Tokens) -> SignInError:
    """The refusal of a resource that is none of this gallery's."""
    known = ", ".join(sorted(tokens.audiences))
    message = f"The resource principal named {resource[:256]} was not found. Known here: {known}."
    return SignInError(400, "invalid_resource", 500011, message)


def _known(resource: str | None, tokens: Tokens) -> str | None:
    if resource is not None and resource not in tokens.audiences:
        raise unknown_resource(resource, tokens)
    return resource


def _invalid_scope(text: str) -> SignInError:
    message = (
        f"The scope '{text[:256]}' is not valid: give one resource with {DEFAULT_SCOPE} or {USER_SCOPE} "
        f"behind, and of OpenID Connect {', '.join(sorted(OPENID_SCOPES))}."
    )
    return SignInError(400, "invalid_scope", 70011, message)
