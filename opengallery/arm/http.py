"""HTTP: from a request to a `Call`, and from an `Answer` or `ArmError` back.

Sync handlers run in threads; each request is one transaction, a writing one for writing methods.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

import structlog
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from opengallery.activity_log.events import Origin
from opengallery.arm import auditing, embedded, extensions, handling, listing, operation_names, operations
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError
from opengallery.arm.handling import Answer
from opengallery.arm.request_body import LIMIT_BYTES, read_body
from opengallery.arm.resource_id import RESOURCE_GROUPS, MalformedId, ResourceId, ResourcePath, is_segment
from opengallery.arm.resource_type import (
    Registry,
    ResourceType,
    Route,
    check_api_version,
    require_api_version,
)
from opengallery.arm.services import Services
from opengallery.identity.principal import Principal
from opengallery.identity.tokens import InvalidToken

log = structlog.get_logger()
_OPERATION = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)(/providers/(?P<namespace>[^/]+)/locations/[^/]+)?"
    r"/(?P<kind>operations|operationResults|operationStatuses)/(?P<id>[^/]+)/?",
    re.IGNORECASE,
)


class ArmEndpoint:
    """Answers every path of ARM."""

    def __init__(
        self,
        services: Services,
        registry: Registry,
        validate: Callable[[str], Principal | Awaitable[Principal]],
        authorization_uri: str,
    ) -> None:
        """`validate` turns a bearer token into a principal, or raises `InvalidToken`; it may have to wait."""
        self._services = services
        self._registry = registry
        self._validate = validate
        self._authorization_uri = authorization_uri

    async def answer(self, request: Request) -> Response:
        """Answer one request; every failure becomes ARM's error body."""
        origin = auditing.origin_of(request)
        headers = {
            "x-ms-request-id": origin.request_id,
            "x-ms-correlation-request-id": origin.correlation_id,
            "Cache-Control": "no-store",
        }
        if client := request.headers.get("x-ms-client-request-id"):
            headers["x-ms-client-request-id"] = client
        principal: Principal | None = None
        try:
            principal = await self._authenticate(request)
            content = await _read_content(request)
            answer = await to_thread.run_sync(self._answer, request, principal, content, origin)
        except ArmError as error:
            self._note(request, principal, origin, error)
            return _response(request, Answer(error.status, {"error": error.error()}, error.headers), headers)
        except Exception:
            log.exception(
                "request failed", request_id=origin.request_id, method=request.method, path=request.url.path
            )
            failure = ArmError(
                "InternalServerError",
                f"The server failed; its log says why under request id {origin.request_id}. Try again.",
                status=500,
            )
            self._note(request, principal, origin, failure)
            return _response(request, Answer(500, {"error": failure.error()}), headers)
        return _response(request, answer, headers)

    def _note(self, request: Request, principal: Principal | None, origin: Origin, error: ArmError) -> None:
        """Tell the activity log of a request that was denied, or of a write that failed."""
        if principal is None or error.status == 403 or request.method not in auditing.READS:
            what = operation_names.of_request(self._registry, request.method, _segments(request))
            event = auditing.failure(what, request.method, principal, origin, error)
            self._services.activity_log.offer(event)

    async def _authenticate(self, request: Request) -> Principal:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        challenge = f'Bearer authorization_uri="{self._authorization_uri}"'
        if scheme.lower() != "bearer" or not token:
            raise ArmError(
                "AuthenticationFailed",
                "Authentication failed. The 'Authorization' header is missing or has no bearer token. "
                "Sign in: az login --service-principal.",
                status=401,
                headers={"WWW-Authenticate": challenge},
            )
        try:
            found = self._validate(token)
            return found if isinstance(found, Principal) else await found
        except InvalidToken as error:
            raise ArmError(
                "InvalidAuthenticationToken",
                f"The access token is invalid. {error} Sign in again.",
                status=401,
                headers={"WWW-Authenticate": f'{challenge}, error="invalid_token"'},
            ) from error

    def _answer(self, request: Request, principal: Principal, content: bytes, origin: Origin) -> Answer:
        database = self._services.database
        path = _segments(request)
        body = read_body(content, "/" + "/".join(path))
        reads = request.method in auditing.READS
        with database.read() if reads else database.write() as connection:
            call = Call(
                connection,
                principal,
                self._services,
                self._registry,
                {
                    name.lower() if name.lower() == "api-version" else name: value
                    for name, value in request.query_params.items()
                },
                str(request.base_url).rstrip("/"),
                origin,
            )
            answer = self._dispatch(call, request, path, body)
            if not reads:
                what = operation_names.of_request(self._registry, request.method, path)
                auditing.record(call, what, request.method, answer.status, answer.operation)
        if answer.operation is not None:
            operations.launch(answer.operation.id)
        return answer

    def _dispatch(self, call: Call, request: Request, segments: list[str], body: dict[str, Any]) -> Answer:
        path = "/" + "/".join(segments)
        method = "GET" if request.method == "HEAD" else request.method
        version = call.query.get("api-version")
        if not all(is_segment(segment) for segment in segments):
            raise _no_resource(path)
        if (extension := extensions.find(self._registry, method, path)) is not None:
            return extensions.answer(call, extension, body, version)
        for route in self._registry.routes:
            parameters = route.match(method, path)
            if parameters is not None:
                return _answer_route(call, route, parameters, body, version)
        if (asked := _OPERATION.fullmatch(path)) is not None and method == "GET":
            require_api_version(version)
            return _answer_operation(
                call, asked["subscription"], asked["namespace"], asked["kind"], asked["id"]
            )
        try:
            found = ResourcePath.parse(segments)
        except MalformedId as error:
            require_api_version(version)
            raise _no_resource(path) from error
        if found.tail is not None:
            return self._collection_or_action(call, found, method, body, version)
        assert found.id is not None
        return self._resource(call, request, found.id, method, body, version)

    def _resource(
        self,
        call: Call,
        request: Request,
        resource_id: ResourceId,
        method: str,
        body: dict[str, Any],
        version: str | None,
    ) -> Answer:
        holder = _embedding(self._registry, resource_id.type)
        match = {
            name: request.headers[name] for name in ("if-match", "if-none-match") if name in request.headers
        }
        if holder is not None and self._registry.find(resource_id.type) is None:
            check_api_version(holder, version, None)
            if method == "GET":
                return embedded.get(call, holder, resource_id)
            if method == "PUT":
                return embedded.put(call, holder, resource_id, body, match)
            if method == "DELETE":
                return embedded.delete(call, holder, resource_id)
        declared = self._require(resource_id.type, version)
        check_api_version(
            declared, version, body.get("location") if isinstance(body.get("location"), str) else None
        )
        declared, resource_id = self._meant(call, declared, resource_id.spelled_as(declared.type))
        if method == "GET":
            return handling.get(call, declared, resource_id)
        if method == "PUT":
            return handling.put(call, declared, resource_id, body, match)
        if method == "PATCH":
            return handling.patch(call, declared, resource_id, body, match)
        if method == "DELETE":
            return handling.delete(call, declared, resource_id, match)
        raise ArmError("MethodNotAllowed", f"{method} is not for a resource.", status=405)

    def _meant(
        self, call: Call, declared: ResourceType, resource_id: ResourceId
    ) -> tuple[ResourceType, ResourceId]:
        """The resource that an id means, where it may be another name of it, and its type."""
        if declared.stands_for is None:
            return declared, resource_id
        meant = declared.stands_for(call, resource_id)
        return self._registry.require(meant.type, None), meant

    def _require(self, resource_type: str, version: str | None) -> ResourceType:
        if self._registry.find(resource_type) is None:
            require_api_version(version)
        return self._registry.require(resource_type, version)

    def _collection_or_action(
        self, call: Call, path: ResourcePath, method: str, body: dict[str, Any], version: str | None
    ) -> Answer:
        scope, tail = path.id or ResourceId(), path.tail or ""
        if tail.lower() == "resources" and not scope.namespace:
            check_api_version(self._require(RESOURCE_GROUPS, version), version, None)
            _require_get(method)
            return listing.list_resources(call, None, scope)
        if tail == "resourceGroups":
            declared = self._require(RESOURCE_GROUPS, version)
        elif "/" in tail:
            declared = self._require(tail, version)
        else:
            owner = self._require(scope.type, version)
            owner, scope = self._meant(call, owner, scope.spelled_as(owner.type))
            child = self._registry.find(f"{owner.type}/{tail}")
            is_action = any(verb.lower() == tail.lower() for verb in owner.actions)
            if embedded := next((name for name in owner.embedded if name.lower() == tail.lower()), None):
                check_api_version(owner, version, None)
                _require_get(method)
                return listing.list_embedded(call, owner, scope, embedded)
            if is_action or child is None or method != "GET":
                check_api_version(owner, version, None)
                return handling.act(call, owner, scope, tail, method, body)
            declared = child
        check_api_version(declared, version, None)
        _require_get(method)
        return listing.list_resources(call, declared, scope)


def _segments(request: Request) -> list[str]:
    """The segments of the path, each decoded once: an encoded slash is no border between two."""
    raw: bytes | None = request.scope.get("raw_path")
    if raw is None:
        return str(request.scope["path"]).rstrip("/").split("/")[1:]
    return [unquote(segment) for segment in raw.decode("latin-1").split("?")[0].rstrip("/").split("/")[1:]]


def _no_resource(path: str) -> ArmError:
    return ArmError(
        "InvalidResourceId",
        f"'{path}' is no path of a resource. Check the id it was made from.",
        status=404,
    )


def _require_get(method: str) -> None:
    if method != "GET":
        raise ArmError(
            "MethodNotAllowed", f"{method} is not for a collection; name one resource.", status=405
        )


def _answer_operation(
    call: Call, subscription: str, namespace: str | None, kind: str, operation_id: str
) -> Answer:
    """An operation's state or result, to who started it; to others, what their roles let them see."""
    operation = operations.get(call.connection, operation_id)
    resource_id = ResourceId.parse(operation.resource_id) if operation else ResourceId(subscription)
    declared = call.registry.find(resource_id.type)
    is_own = operation is not None and operation.principal["object_id"] == call.principal.object_id
    if not is_own and not (declared and call.may(declared.permission("read"), resource_id)):
        # The same for one that isn't there, which would tell that from one that is.
        call.authorize(f"{namespace or 'Microsoft.Resources'}/operations/read", ResourceId(subscription))
    if (
        operation is None
        or declared is None
        or subscription.lower() != (resource_id.subscription or "").lower()
    ):
        raise ArmError(
            "NotFound", f"Operation '{operation_id}' is unknown. It may be of another server.", status=404
        )
    # An action's output may be a secret, such as a URL to write to.
    action = declared.actions.get(operation.verb)
    if not is_own and action is not None and not call.may(action.permission, resource_id):
        operation.output = None
    if kind.lower() != "operationresults":
        headers = {"Retry-After": "1"} if operation.status == operations.IN_PROGRESS else {}
        return Answer(200, operation.view(), headers)
    if operation.status == operations.IN_PROGRESS:
        return Answer(202, None, handling.asynchronous(call, operation, location=True))
    if operation.error:
        raise ArmError.from_error(operation.error)
    if operation.verb == "DELETE":
        return Answer(204)
    if operation.output is not None or operation.verb != "PUT":
        return Answer(200, operation.output)
    return handling.get(call, declared, resource_id)


def _answer_route(
    call: Call, route: Route, parameters: dict[str, str], body: dict[str, Any], version: str | None
) -> Answer:
    check_api_version(route, version, None)
    subscription = parameters.get("subscription")
    scope = ResourceId(subscription, parameters.get("group"))
    # A route without a permission asks for one itself; before that, nobody learns what there is.
    if route.permission:
        if not (route.is_for_any_below and call.assigned.below(scope)):
            call.authorize(route.permission, scope)
        extensions.require_group(call, scope)
    found = route.run(call, parameters, body)
    return found if isinstance(found, Answer) else Answer(200, found)


def _embedding(registry: Registry, resource_type: str) -> ResourceType | None:
    parent, _, kind = resource_type.rpartition("/")
    holder = registry.find(parent)
    if holder is not None and kind.lower() in {name.lower() for name in holder.embedded}:
        return holder
    return None


async def _read_content(request: Request) -> bytes:
    """The bytes of the body. Raises 413 over the limit."""
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > LIMIT_BYTES:
            raise ArmError(
                "RequestContentTooLarge",
                f"The request's body is over the limit of {LIMIT_BYTES} bytes. Send a smaller one.",
                status=413,
            )
    return bytes(content)


def _response(request: Request, answer: Answer, headers: dict[str, str]) -> Response:
    headers = {**headers, **answer.headers}
    if request.method == "HEAD" and answer.status == 200:
        return Response(status_code=204, headers=headers)
    if answer.body is None or request.method == "HEAD":
        return Response(status_code=answer.status, headers=headers)
    if isinstance(answer.body, dict) and isinstance(answer.body.get("etag"), str):
        headers["ETag"] = answer.body["etag"]
    return JSONResponse(answer.body, answer.status, headers)
