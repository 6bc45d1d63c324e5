"""The endpoint of the Microsoft Graph subset: from a request to an operation, and from its answer back.

Sync operations run in threads; each request is one transaction. What the request's caller may is asked
in that transaction, so that a right that was taken away doesn't work once more.
"""

import uuid

import structlog
from anyio import to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from opengallery.activity_log.recorder import Recorder
from opengallery.database import Database
from opengallery.identity.client_secrets import SecretChecker
from opengallery.identity.directory import lock_directory
from opengallery.identity.directory_errors import DirectoryError
from opengallery.identity.graph import (
    applications,
    directory_objects,
    groups,
    me,
    service_principals,
    users,
)
from opengallery.identity.graph.activity import event_of
from opengallery.identity.graph.call import Answer, EndSessions, GraphCall, HasOwner, MayAdminister
from opengallery.identity.graph.errors import GraphError, no_owner_left, refusal
from opengallery.identity.graph.operation import Operation, find_operation, split_path
from opengallery.identity.graph.request_body import LIMIT_BYTES, read_body, too_large
from opengallery.identity.principal import Principal
from opengallery.identity.tokens import InvalidToken, Tokens

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
OPERATIONS: list[Operation] = [
    *users.OPERATIONS,
    *groups.OPERATIONS,
    *service_principals.OPERATIONS,
    *applications.OPERATIONS,
    *directory_objects.OPERATIONS,
    *me.OPERATIONS,
]

log = structlog.get_logger()


def _no_sessions(_connection: object, _object_id: str) -> None:
    """There are no refresh tokens to end."""


def _has_owner(_connection: object, _tenant_id: str) -> bool:
    """There are no roles, so none has to be left."""
    return True


class GraphEndpoint:
    """Answers every path below `/v1.0/`, for the server that clients reach as `endpoint`."""

    def __init__(
        self,
        endpoint: str,
        database: Database,
        tokens: Tokens,
        checker: SecretChecker,
        may_administer: MayAdminister,
        end_sessions: EndSessions = _no_sessions,
        activity_log: Recorder | None = None,
        has_owner: HasOwner = _has_owner,
    ) -> None:
        """`may_administer` says who changes the directory of their tenant.

        `end_sessions` is told, in the transaction, whose refresh tokens have to end; `activity_log` gets
        every change, in its transaction too, and every refusal. No change takes a tenant's last owner away, of
        which `has_owner` says whether there is one.
        """
        self._endpoint = endpoint
        self._database = database
        self._tokens = tokens
        self._checker = checker
        self._may_administer = may_administer
        self._end_sessions = end_sessions
        self._activity_log = activity_log
        self._has_owner = has_owner

    def routes(self) -> list[Route]:
        """The routes of the endpoint."""
        return [
            Route("/v1.0", self.answer, methods=METHODS),
            Route("/v1.0/{path:path}", self.answer, methods=METHODS),
        ]

    async def answer(self, request: Request) -> Response:
        """Answer one request; every failure becomes Graph's error body."""
        request_id = str(uuid.uuid4())
        headers = {
            "request-id": request_id,
            "client-request-id": _client_request_id(request) or request_id,
            "cache-control": "no-store",
        }
        ids = (request_id, headers["client-request-id"])
        principal: Principal | None = None
        try:
            principal = await to_thread.run_sync(self._authenticate, request)
            content = await _read_content(request)
            answer = await to_thread.run_sync(self._answer, request, principal, content, ids)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:
            refused = _as_graph_error(error)
            if refused is None:
                log.exception("directory request failed", request_id=request_id, method=request.method)
                refused = GraphError(
                    500,
                    "InternalServerError",
                    f"The server failed; its log says why under request id {request_id}. Try again.",
                )
            is_noted = principal is None or refused.status == 403 or request.method not in ("GET", "HEAD")
            if self._activity_log is not None and is_noted:
                self._activity_log.offer(event_of(request, *ids, principal, refused.status, refused.code))
            body = refused.content(request_id, headers["client-request-id"])
            return JSONResponse(body, refused.status, {**headers, **refused.headers})
        return _response(answer, headers)

    def _authenticate(self, request: Request) -> Principal:
        """Who asks. Raises `GraphError`."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        challenge = f'Bearer realm="", authorization_uri="{self._endpoint}/common/oauth2/authorize"'
        if scheme.lower() != "bearer" or not token:
            message = "Access token is empty. Sign in, and send the token as 'Authorization: Bearer TOKEN'."
            headers = {"www-authenticate": challenge}
            raise GraphError(401, "InvalidAuthenticationToken", message, headers=headers)
        try:
            return self._tokens.validate(token)
        except InvalidToken as error:
            headers = {"www-authenticate": f'{challenge}, error="invalid_token"'}
            message = f"The access token is invalid. {error.reason} Sign in again."
            raise GraphError(401, "InvalidAuthenticationToken", message, headers=headers) from error

    def _answer(self, request: Request, principal: Principal, content: bytes, ids: tuple[str, str]) -> Answer:
        method = "GET" if request.method == "HEAD" else request.method
        segments = split_path(request.scope.get("raw_path") or request.url.path.encode())
        operation, (key, other_key) = find_operation(OPERATIONS, method, segments)
        call = GraphCall(
            principal,
            key,
            other_key,
            request.query_params,
            read_body(content),
            f"{self._endpoint}/v1.0",
            self._database,
            self._checker,
            self._may_administer,
            self._end_sessions,
        )
        if operation.prepare is not None:
            with self._database.read() as call.connection:
                operation.right(call)
            call.prepared = operation.prepare(call)
        opened = self._database.write() if operation.writes else self._database.read()
        with opened as call.connection:
            if operation.writes:
                lock_directory(call.connection, principal.tenant_id)
            operation.right(call)
            takes_away = operation.method in ("PATCH", "DELETE")
            had_owner = takes_away and self._has_owner(call.connection, principal.tenant_id)
            answer = operation.handle(call)
            if had_owner and not self._has_owner(call.connection, principal.tenant_id):
                raise no_owner_left()
            if self._activity_log is not None and operation.writes:
                event = event_of(request, *ids, principal, answer.status)
                self._activity_log.record(call.connection, event)
        for object_id in call.changed:
            self._tokens.forget(object_id)
        return answer


def _as_graph_error(error: Exception) -> GraphError | None:
    if isinstance(error, GraphError):
        return error
    return refusal(error) if isinstance(error, DirectoryError) else None


async def _read_content(request: Request) -> bytes:
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > LIMIT_BYTES:
            raise too_large()
    return bytes(content)


def _client_request_id(request: Request) -> str | None:
    for name in ("client-request-id", "x-ms-client-request-id"):
        try:
            return str(uuid.UUID(request.headers.get(name, "")))
        except ValueError:
            continue
    return None


def _response(answer: Answer, headers: dict[str, str]) -> Response:
    headers = {**headers, "odata-version": "4.0"}
    if answer.content is None:
        return Response(status_code=answer.status, headers=headers)
    if isinstance(answer.content, str):
        return PlainTextResponse(answer.content, answer.status, headers)
    return JSONResponse(answer.content, answer.status, headers)
