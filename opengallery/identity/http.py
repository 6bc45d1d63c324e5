"""What clients ask before they have a token: the cloud's endpoints, OpenID discovery, keys, sign-in.

Nothing here needs a token, and nothing here tells more than a client needs to get one.
Source: Azure `metadata/endpoints` as azure-cli and the SDKs read it; OpenID Connect Discovery 1.0.
"""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from opengallery.database import Database
from opengallery.identity.client_secrets import SecretChecker
from opengallery.identity.folder import IdentityFolder
from opengallery.identity.grants import device_code
from opengallery.identity.grants.client_assertions import ALGORITHMS
from opengallery.identity.grants.request import ANY_TENANT, Parts, tenant_ids
from opengallery.identity.grants.scopes import OPENID_SCOPES
from opengallery.identity.keys import SigningKeys
from opengallery.identity.pages.authorization_request import PROMPTS, RESPONSE_MODES
from opengallery.identity.pages.authorize import AuthorizePage
from opengallery.identity.pages.device import DevicePage
from opengallery.identity.pages.page_tokens import PageTokens
from opengallery.identity.refusals import SignInError, error_response
from opengallery.identity.token_endpoint import GRANTS, TokenEndpoint
from opengallery.identity.tokens import Tokens, TokenVersion

CLOUD_NAME = "OpenGallery"
OBJECT_FORM_SINCE = "2022-09-01"
LIST_FORM_SINCE = "2019-05-01"
CLAIMS = [
    "sub",
    "iss",
    "aud",
    "exp",
    "iat",
    "nonce",
    "name",
    "oid",
    "preferred_username",
    "tid",
    "upn",
    "ver",
]


def identity_routes(
    endpoint: str,
    database: Database,
    keys: SigningKeys,
    tokens: Tokens,
    checker: SecretChecker,
    folder: IdentityFolder,
) -> list[Route]:
    """The routes, for the server that clients reach as `endpoint` (a URL without a slash at its end)."""
    parts = Parts(endpoint, database, tokens, checker)
    discovery = Discovery(endpoint, database, keys, tokens)
    token_endpoint = TokenEndpoint(parts)
    page_tokens = PageTokens.open(folder, endpoint, tokens.clock)
    authorize = AuthorizePage(parts, page_tokens)
    both = ["GET", "POST"]
    return [
        Route("/metadata/endpoints", discovery.cloud),
        Route("/common/discovery/instance", discovery.instance),
        Route("/{tenant}/v2.0/.well-known/openid-configuration", discovery.openid_version_2),
        Route("/{tenant}/.well-known/openid-configuration", discovery.openid_version_1),
        Route("/{tenant}/discovery/v2.0/keys", discovery.keys),
        Route("/{tenant}/discovery/keys", discovery.keys),
        Route("/{tenant}/userrealm/{user}", discovery.user_realm),
        Route("/{tenant}/oauth2/v2.0/token", token_endpoint.version_2, methods=["POST"]),
        Route("/{tenant}/oauth2/token", token_endpoint.version_1, methods=["POST"]),
        Route("/{tenant}/oauth2/v2.0/devicecode", token_endpoint.device_code_2, methods=["POST"]),
        Route("/{tenant}/oauth2/devicecode", token_endpoint.device_code_1, methods=["POST"]),
        Route("/{tenant}/oauth2/v2.0/authorize", authorize.version_2, methods=both),
        Route("/{tenant}/oauth2/authorize", authorize.version_1, methods=both),
        Route(device_code.PAGE, DevicePage(parts, page_tokens).answer, methods=both),
    ]


class Discovery:
    """Answers what a client must know of one gallery before it signs in."""

    def __init__(self, endpoint: str, database: Database, keys: SigningKeys, tokens: Tokens) -> None:
        """Describe the gallery that is served at `endpoint`."""
        self._endpoint = endpoint
        self._database = database
        self._keys = keys
        self._tokens = tokens

    def cloud(self, request: Request) -> Response:
        """`GET /metadata/endpoints`: an object, a list or the oldest form, as the api-version asks."""
        version = request.query_params.get("api-version", OBJECT_FORM_SINCE)
        if version < LIST_FORM_SINCE:
            return _cacheable(self._oldest_form())
        cloud = self._cloud()
        return _cacheable(cloud if version >= OBJECT_FORM_SINCE else [cloud])

    def instance(self, request: Request) -> Response:
        """`GET /common/discovery/instance`: this server is the only authority, under its own name."""
        host = self._endpoint.removeprefix("https://")
        return _cacheable(
            {
                "tenant_discovery_endpoint": f"{self._endpoint}/common/v2.0/.well-known/openid-configuration",
                "api-version": "1.1",
                "metadata": [{"preferred_network": host, "preferred_cache": host, "aliases": [host]}],
            }
        )

    def openid_version_2(self, request: Request) -> Response:
        """OpenID configuration of the v2.0 endpoints."""
        return self._openid(request, "2.0")

    def openid_version_1(self, request: Request) -> Response:
        """OpenID configuration of the older endpoints."""
        return self._openid(request, "1.0")

    def keys(self, request: Request) -> Response:
        """The public keys that verify tokens, a JSON Web Key Set."""
        try:
            self._tenant_id(request)
        except SignInError as error:
            return error_response(error, request)
        return _cacheable({"keys": self._keys.public()})

    def user_realm(self, request: Request) -> Response:
        """`GET /common/userrealm/{user}`: every user, known or not, signs in here."""
        try:
            self._tenant_id(request)
        except SignInError as error:
            return error_response(error, request)
        user = request.path_params["user"][:256]
        return JSONResponse(
            {
                "ver": "1.0",
                "account_type": "Managed",
                "domain_name": user.rpartition("@")[2],
                "cloud_instance_name": self._endpoint.removeprefix("https://"),
                "cloud_audience_urn": "urn:federation:MicrosoftOnline",
            },
            headers={"cache-control": "no-store"},
        )

    def _openid(self, request: Request, version: TokenVersion) -> Response:
        try:
            tenant_id = self._tenant_id(request)
        except SignInError as error:
            return error_response(error, request)
        name = request.path_params["tenant"].lower()
        base = f"{self._endpoint}/{name if name in ANY_TENANT else tenant_id}"
        oauth = f"{base}/oauth2/v2.0" if version == "2.0" else f"{base}/oauth2"
        return _cacheable(
            {
                "issuer": self._tokens.issuer(tenant_id, version),
                "token_endpoint": f"{oauth}/token",
                "authorization_endpoint": f"{oauth}/authorize",
                "device_authorization_endpoint": f"{oauth}/devicecode",
                "jwks_uri": f"{base}/discovery/v2.0/keys",
                "grant_types_supported": list(GRANTS),
                "token_endpoint_auth_methods_supported": [
                    "client_secret_post",
                    "client_secret_basic",
                    "private_key_jwt",
                    "none",
                ],
                "token_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
                "response_types_supported": ["code"],
                "response_modes_supported": list(RESPONSE_MODES),
                "scopes_supported": sorted(OPENID_SCOPES),
                "code_challenge_methods_supported": ["S256"],
                "prompt_values_supported": list(PROMPTS),
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "claims_supported": CLAIMS,
                "request_uri_parameter_supported": False,
                "tenant_region_scope": None,
            }
        )

    def _tenant_id(self, request: Request) -> str:
        with self._database.read() as connection:
            return tenant_ids(connection, request.path_params["tenant"])[0]

    def _audiences(self) -> list[str]:
        return [f"{self._endpoint}/", self._endpoint]

    def _cloud(self) -> dict[str, object]:
        slashed = f"{self._endpoint}/"
        return {
            "name": CLOUD_NAME,
            "portal": slashed,
            "authentication": {
                "loginEndpoint": self._endpoint,
                "audiences": self._audiences(),
                "tenant": "common",
                "identityProvider": "AAD",
            },
            "graph": slashed,
            "graphAudience": slashed,
            "microsoftGraphResourceId": slashed,
            "resourceManager": slashed,
            "gallery": slashed,
            "batch": slashed,
            "media": slashed,
            "suffixes": {"storage": "localhost", "keyVaultDns": "vault.localhost"},
        }

    def _oldest_form(self) -> dict[str, object]:
        slashed = f"{self._endpoint}/"
        return {
            "galleryEndpoint": slashed,
            "graphEndpoint": slashed,
            "portalEndpoint": slashed,
            "authentication": {"loginEndpoint": self._endpoint, "audiences": self._audiences()},
        }


def _cacheable(content: object) -> JSONResponse:
    return JSONResponse(content, headers={"cache-control": "public, max-age=300"})
