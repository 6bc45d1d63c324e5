"""HTTP: from a request to a `Call`, and from an `Answer` or `ArmError` back.

Sync handlers run in threads; each request is one transaction, a writing one for writing methods.
"""

import json
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import structlog
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from opengallery.arm import handling, operations
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError
from opengallery.arm.handling import Answer
from opengallery.arm.resource_id import RESOURCE_GROUPS, MalformedId, ResourceId, ResourcePath
from opengallery.arm.resource_type import Registry, Route, check_api_version
from opengallery.arm.services import Services
from opengallery.identity.principal import Principal
from opengallery.identity.tokens import InvalidToken

log = structlog.get_logger()
BODY_LIMIT_BYTES = 4 * 1024 * 1024
_OPERATIONS = ("operations", "operationresults")


class ArmEndpoint:
    """Answers every path of ARM."""

    def __init__(
        self,
        services: Services,
        registry: Registry,
        validate: Callable[[str], Principal],
        authorization_uri: str,
    ) -> None:
        """`validate` turns a bearer token into a principal, or raises `InvalidToken`."""
        self._services = services
        self._registry = registry
        self._validate = validate
        self._authorization_uri = authorization_uri

    async def answer(self, request: Request) -> Response:
        """Answer one request; every failure becomes ARM's error body."""
        request_id = str(uuid.uuid4())
        headers = {
            "x-ms-request-id": request_id,
            "x-ms-correlation-request-id": request.headers.get("x-ms-correlation-request-id", request_id),
            "Cache-Control": "no-cache",
        }
        if client := request.headers.get("x-ms-client-request-id"):
            headers["x-ms-client-request-id"] = client
        try:
            principal = self._authenticate(request)
            body = await _read_body(request)
            answer = await to_thread.run_sync(self._answer, request, principal, body)
        except ArmError as error:
            return _response(request, Answer(error.status, {"error": error.error()}, error.headers), headers)
        except Exception:
            log.exception(
                "request failed", request_id=request_id, method=request.method, path=request.url.path
            )
            failure = ArmError(
                "InternalServerError",
                f"The server failed; its log says why under request id {request_id}. Try again.",
            )
            return _response(request, Answer(500, {"error": failure.error()}), headers)
        return _response(request, answer, headers)

    def _authenticate(self, request: Request) -> Principal:
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
            return self._validate(token)
        except InvalidToken as error:
            raise ArmError(
                "InvalidAuthenticationToken",
                f"The access token is invalid: {error}. Sign in again.",
                status=401,
                headers={"WWW-Authenticate": f'{challenge}, error="invalid_token"'},
            ) from error

    def _answer(self, request: Request, principal: Principal, body: dict[str, Any]) -> Answer:
        database = self._services.database
        reads = request.method in ("GET", "HEAD")
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
            )
            answer = self._dispatch(call, request, body)
        if answer.operation is not None:
            operations.launch(answer.operation.id)
        return answer

    def _dispatch(self, call: Call, request: Request, body: dict[str, Any]) -> Answer:
        path = request.url.path.rstrip("/") or "/"
        method = "GET" if request.method == "HEAD" else request.method
        version = call.query.get("api-version")
        for route in self._registry.routes:
            parameters = route.match(method, path)
            if parameters is not None:
                return _answer_route(call, route, parameters, body, version)
        segments = [unquote(segment) for segment in path.split("/")[1:]]
        if (operation := _find_operation(call, segments)) is not None:
            return operation
        try:
            found = ResourcePath.parse(segments)
        except MalformedId as error:
            raise ArmError(
                "InvalidResourceId",
                f"'{path}' is no path of a resource. Check the id it was made from.",
                status=404,
            ) from error
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
        if holder is not None and method == "GET" and self._registry.find(resource_id.type) is None:
            check_api_version(holder, version, None)
            return handling.get_embedded(call, holder, resource_id)
        declared = self._registry.require(resource_id.type, version)
        check_api_version(
            declared, version, body.get("location") if isinstance(body.get("location"), str) else None
        )
        resource_id = _spelled_as(declared.type, resource_id)
        match = {
            name: request.headers[name] for name in ("if-match", "if-none-match") if name in request.headers
        }
        if method == "GET":
            return handling.get(call, declared, resource_id)
        if method == "PUT":
            return handling.put(call, declared, resource_id, body, match)
        if method == "PATCH":
            return handling.patch(call, declared, resource_id, body, match)
        if method == "DELETE":
            return handling.delete(call, declared, resource_id, match)
        raise ArmError("MethodNotAllowed", f"{method} is not for a resource.", status=405)

    def _collection_or_action(
        self, call: Call, path: ResourcePath, method: str, body: dict[str, Any], version: str | None
    ) -> Answer:
        scope, tail = path.id or ResourceId(), path.tail or ""
        if tail == "resourceGroups":
            declared = self._registry.require(RESOURCE_GROUPS, version)
        elif tail.lower() == "resources" and not scope.namespace:
            return handling.list_resources(call, None, scope)
        elif "/" in tail:
            declared = self._registry.require(tail, version)
        else:
            owner = self._registry.require(scope.type, version)
            child = self._registry.find(f"{owner.type}/{tail}")
            is_action = any(verb.lower() == tail.lower() for verb in owner.actions)
            if is_action or child is None or method != "GET":
                check_api_version(owner, version, None)
                return handling.act(call, owner, _spelled_as(owner.type, scope), tail, method, body)
            declared = child
        if method != "GET":
            raise ArmError(
                "MethodNotAllowed", f"{method} is not for a collection; name one resource.", status=405
            )
        check_api_version(declared, version, None)
        return handling.list_resources(call, declared, scope)


def _find_operation(call: Call, segments: list[str]) -> Answer | None:
    """An operation's state, under any of the paths that `handling.asynchronous` and templates give out."""
    if len(segments) < 2 or segments[-2].lower() not in (*_OPERATIONS, "operationstatuses"):
        return None
    operation = operations.get(call.connection, segments[-1])
    if operation is None:
        raise ArmError(
            "NotFound", f"Operation '{segments[-1]}' is unknown. It may be of another server.", status=404
        )
    resource_id = ResourceId.parse(operation.resource_id)
    if (
        operation.principal["objectId" if "objectId" in operation.principal else "object_id"]
        != call.principal.object_id
    ):
        call.authorize(f"{resource_id.type}/read", resource_id)
    if segments[-2].lower() != "operationresults":
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
    declared = call.registry.require(resource_id.type, None)
    return handling.get(call, declared, resource_id)


def _answer_route(
    call: Call, route: Route, parameters: dict[str, str], body: dict[str, Any], version: str | None
) -> Answer:
    check_api_version(route, version, None)
    subscription = parameters.get("subscription")
    scope = ResourceId(subscription, parameters.get("group"))
    if route.permission:
        call.authorize(route.permission, scope)
    if subscription:
        handling.require_scope(call, scope)
    found = route.run(call, parameters, body)
    return found if isinstance(found, Answer) else Answer(200, found)


def _embedding(registry: Registry, resource_type: str) -> Any:
    parent, _, kind = resource_type.rpartition("/")
    holder = registry.find(parent)
    if holder is not None and kind.lower() in {name.lower() for name in holder.embedded}:
        return holder
    return None


def _spelled_as(resource_type: str, resource_id: ResourceId) -> ResourceId:
    """The same id with the namespace and types as the declaration spells them."""
    if not resource_id.namespace:
        return resource_id
    namespace, *types = resource_type.split("/")
    return ResourceId(
        resource_id.subscription, resource_id.resource_group, namespace, tuple(types), resource_id.names
    )


async def _read_body(request: Request) -> dict[str, Any]:
    """The JSON object of the body ({} for none). Raises 413 over the limit, 400 for anything else."""
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > BODY_LIMIT_BYTES:
            raise ArmError(
                "RequestContentTooLarge",
                f"The request's body is over the limit of {BODY_LIMIT_BYTES} bytes. Send a smaller one.",
                status=413,
            )
    if not content:
        return {}
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ArmError(
            "InvalidRequestContent", f"The request content is no valid JSON: {error}. Correct it."
        ) from error
    if not isinstance(body, dict):
        raise ArmError("InvalidRequestContent", "The request content has to be a JSON object.")
    return body


def _response(request: Request, answer: Answer, headers: dict[str, str]) -> Response:
    headers = {**headers, **answer.headers}
    if request.method == "HEAD" and answer.status == 200:
        return Response(status_code=204, headers=headers)
    if answer.body is None or request.method == "HEAD":
        return Response(status_code=answer.status, headers=headers)
    if isinstance(answer.body, dict) and isinstance(answer.body.get("etag"), str):
        headers["ETag"] = answer.body["etag"]
    return JSONResponse(answer.body, answer.status, headers)
