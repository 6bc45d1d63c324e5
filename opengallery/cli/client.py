"""A client of the ARM REST API: requests with a token, retries, pages, long-running operations."""

import os
import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cached_property
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx

from opengallery.arm.resource_id import RESOURCE_GROUPS, SUBSCRIPTIONS, ResourceId
from opengallery.cli.api_versions import api_version
from opengallery.cli.failure import CommandFailed
from opengallery.cli.options import check_name
from opengallery.cli.progress import Waiting
from opengallery.cli.sign_in import Credentials, SignIn

Json = dict[str, Any]

TIMEOUT = httpx.Timeout(120, connect=10)
RETRIES = 5
RETRY_WAIT_MAX_S = 30.0
POLL_S = 1.0
# A server that restarts goes on with its operations: whoever waits for one waits for the server, too.
OUTAGE_MAX_S = 120.0

IDEMPOTENT = {"GET", "HEAD", "PUT", "DELETE"}
RUNNING = {
    "accepted",
    "creating",
    "updating",
    "deleting",
    "running",
    "inprogress",
    "registering",
    "migrating",
}


class ArmClient:
    """One caller at one endpoint and in one subscription. Safe to use from several threads."""

    def __init__(self, credentials: Credentials, subscription: str | None, *, quiet: bool = False) -> None:
        """`subscription` is an id or a display name; `quiet` is for progress and notes."""
        self.endpoint = credentials.endpoint
        self.credentials = credentials
        self.quiet = quiet
        self.waiting = Waiting(quiet=quiet)
        self._asked_subscription = subscription
        local = urlsplit(self.endpoint).hostname in {"localhost", "127.0.0.1", "::1"}
        self._http = httpx.Client(verify=_trust(), timeout=TIMEOUT, trust_env=not local)
        self._sign_in = SignIn(credentials, self._ask)

    @classmethod
    def from_environment(cls, subscription: str | None = None, *, quiet: bool = False) -> "ArmClient":
        """The caller that `gallery env` describes. Raises `CommandFailed` when it is incomplete."""
        return cls(
            Credentials.from_environment(),
            subscription or os.environ.get("AZURE_SUBSCRIPTION_ID"),
            quiet=quiet,
        )

    def __enter__(self) -> "ArmClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    @cached_property
    def subscription(self) -> str:
        """The id of the subscription that commands work in."""
        asked = self._asked_subscription
        if not asked:
            raise CommandFailed(
                "AZURE_SUBSCRIPTION_ID is not set. Use --subscription, or run: "
                'eval "$(gallery env --data DIR)"'
            )
        if re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", asked):
            return asked
        for one in self.list(None, SUBSCRIPTIONS):
            if one.get("displayName", "").lower() == asked.lower():
                return str(one["subscriptionId"])
        raise CommandFailed(f"There is no subscription '{asked}' that you can read.")

    # Resources

    def get(self, resource: ResourceId, query: dict[str, str] | None = None) -> Json:
        """The resource. Raises `CommandFailed` with the server's code when it can't be had."""
        return self._json(self.request("GET", self._resource_url(resource, query)))

    def find(self, resource: ResourceId) -> Json | None:
        """The resource, or None when there is none."""
        try:
            return self.get(resource)
        except CommandFailed as failure:
            if failure.status == 404:
                return None
            raise

    def list(
        self, parent: ResourceId | None, resource_type: str, query: dict[str, str] | None = None
    ) -> list[Json]:
        """All resources of a type in a subscription, a group or a parent resource, page by page."""
        if parent is not None:
            _check_names(parent)
        collection = resource_type.rsplit("/", 1)[1]
        if parent is None or resource_type in (SUBSCRIPTIONS, RESOURCE_GROUPS):
            path = f"{parent or ''}/{collection}"
        elif parent.namespace:
            path = f"{parent}/{collection}"
        else:
            path = f"{parent}/providers/{resource_type}"
        return [*self.pages(self._url(path, resource_type, query))]

    def pages(self, url: str | None) -> Iterator[Json]:
        """The members of a collection, following `nextLink`."""
        while url:
            page = self._json(self.request("GET", url))
            yield from page.get("value") or ()
            url = page.get("nextLink")

    def put(
        self, resource: ResourceId, body: Json, *, wait: bool = True, watch: Callable[[], None] | None = None
    ) -> Json | None:
        """Create or replace, and wait until it is done; `watch` is called at every poll."""
        what = f"waiting for {_thing(resource)}"
        return self._change("PUT", self._resource_url(resource), body, wait, what, watch)

    def patch(self, resource: ResourceId, body: Json, *, wait: bool = True) -> Json | None:
        """Change some properties, and wait until it is done."""
        return self._change(
            "PATCH", self._resource_url(resource), body, wait, f"waiting for {_thing(resource)}"
        )

    def delete(self, resource: ResourceId, *, wait: bool = True) -> None:
        """Delete, and wait until it is gone."""
        what = f"waiting for {_thing(resource)} to be deleted"
        self._change("DELETE", self._resource_url(resource), None, wait, what)

    def act(
        self, resource: ResourceId, action: str, body: Json | None = None, *, wait: bool = True
    ) -> Json | None:
        """POST an action (`start`, `beginGetAccess`) and wait for its result, if it has one."""
        _check_names(resource)
        url = self._url(f"{resource}/{action}", resource.type)
        return self._change("POST", url, body, wait, f"waiting for {action} of {_thing(resource)}")

    def location(self, group: str) -> str:
        """The region of a resource group: what its resources get when no region is given."""
        return str(self.get(ResourceId(self.subscription, group))["location"])

    def exists(self, resource: ResourceId) -> bool:
        """Whether the resource is there (HEAD)."""
        url = self._resource_url(resource)
        return self.request("HEAD", url, allowed=(404,)).status_code != 404

    # Requests

    def request(
        self,
        method: str,
        url: str,
        body: Json | None = None,
        *,
        allowed: tuple[int, ...] = (),
    ) -> httpx.Response:
        """Send one request with a token. Raises `CommandFailed` for every answer but 2xx and `allowed`."""
        for is_fresh in (False, True):
            response = self.send(
                method, url, json=body, headers={"Authorization": f"Bearer {self._sign_in.token()}"}
            )
            if response.status_code != 401 or is_fresh:
                break
            # A server whose signing keys were changed takes no token from before.
            self._sign_in.forget()
        if response.is_success or response.status_code in allowed:
            return response
        raise _failure(response)

    def send(self, method: str, url: str, **arguments: Any) -> httpx.Response:
        """Send one request as it is, again after 429, 503 and, if it is idempotent, a lost connection."""
        for attempt in range(RETRIES + 1):
            pause_s = min(0.5 * 2**attempt, RETRY_WAIT_MAX_S)
            try:
                response = self._http.request(method, url, **arguments)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                raise _unreachable(url, error) from error
            except httpx.TransportError as error:
                if method not in IDEMPOTENT or attempt >= 2:
                    raise _unreachable(url, error) from error
            else:
                if response.status_code not in (429, 503) or attempt == RETRIES:
                    return response
                pause_s = min(_retry_after_s(response, pause_s), RETRY_WAIT_MAX_S)
            time.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    def send_signed(self, method: str, url: str, **arguments: Any) -> httpx.Response:
        """Send one request to a URL that carries its own signature. Raises `CommandFailed`."""
        response = self.send(method, url, **arguments)
        if not response.is_success:
            raise _failure(response)
        return response

    def _ask(self, method: str, url: str, form: dict[str, str] | None) -> Any:
        return self._json(self.send_signed(method, url, data=form))

    def _resource_url(self, resource: ResourceId, query: dict[str, str] | None = None) -> str:
        _check_names(resource)
        return self._url(resource, resource.type, query)

    def _url(self, path: object, resource_type: str, query: dict[str, str] | None = None) -> str:
        parameters = httpx.QueryParams({**(query or {}), "api-version": api_version(resource_type)})
        return f"{self.endpoint}{_quoted(str(path))}?{parameters}"

    def url(self, path: str, version: str) -> str:
        """The URL of a path that is no resource's."""
        return f"{self.endpoint}{_quoted(path)}?api-version={version}"

    def _json(self, response: httpx.Response) -> Json:
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise CommandFailed(
                f"{response.request.url} answered {response.status_code} without a JSON object."
            )
        return body

    # Long-running operations

    def _change(
        self,
        method: str,
        url: str,
        body: Json | None,
        wait: bool,
        what: str,
        watch: Callable[[], None] | None = None,
    ) -> Json | None:
        if not wait:
            self.request(method, url, body)
            return None
        # Whoever watches shows something better.
        with nullcontext() if watch else self.waiting.on(what):
            return self._finish(method, url, self.request(method, url, body), watch)

    def _finish(
        self, method: str, url: str, response: httpx.Response, watch: Callable[[], None] | None
    ) -> Json | None:
        """Wait for the end of what a request began, and return its result."""
        status_url = response.headers.get("Azure-AsyncOperation")
        location = response.headers.get("Location")
        if status_url:
            operation = self._poll(status_url, response, watch, _operation_state)
            if method in ("PUT", "PATCH"):
                return self._json(self.request("GET", url))
            if method == "POST" and location:
                return _body(self.request("GET", location, allowed=(404,)))
            return operation.get("properties") or None
        if location and response.status_code == 202:
            return self._poll(
                location, response, watch, lambda reply: "running" if reply.status_code == 202 else ""
            )
        result = _body(response)
        if method in ("PUT", "PATCH") and _provisioning_state(response) in RUNNING:
            return self._poll(url, response, watch, _provisioning_state)
        return result

    def _poll(
        self,
        url: str,
        response: httpx.Response,
        watch: Callable[[], None] | None,
        state: Callable[[httpx.Response], str],
    ) -> Json:
        pause_s, reached_at = 0.1, time.monotonic()
        while True:
            time.sleep(min(_retry_after_s(response, pause_s), POLL_S))
            pause_s = min(pause_s * 1.6, POLL_S)
            try:
                if watch:
                    watch()
                response = self.request("GET", url)
                reached_at = time.monotonic()
            except CommandFailed as failure:
                if not isinstance(failure.__cause__, httpx.TransportError):
                    raise
                if time.monotonic() - reached_at > OUTAGE_MAX_S:
                    raise
                continue
            now = state(response)
            if now in ("failed", "canceled"):
                raise _operation_failure(response, now)
            if now not in RUNNING:
                if watch:
                    watch()
                return _body(response) or {}


def _trust() -> ssl.SSLContext:
    """Trust the operator's own CA where the environment names it."""
    file = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
    try:
        return ssl.create_default_context(cafile=file or None)
    except OSError as error:
        raise CommandFailed(f"Can't read the CA certificate {file}: {error.strerror or error}.") from error


def _check_names(resource: ResourceId) -> None:
    """Raises `Misuse` for a name that would lead elsewhere."""
    for name in (resource.subscription, resource.resource_group, *resource.names):
        if name is not None:
            check_name(name)


def _thing(resource: ResourceId) -> str:
    """`virtual machine 'myVM'`."""
    word = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", resource.type.rsplit("/", 1)[1]).lower()
    word = re.sub(r"ies$", "y", word) if word.endswith("ies") else word.removesuffix("s")
    return f"{word} '{resource.name}'"


def _quoted(path: str) -> str:
    from urllib.parse import quote

    return quote(path, safe="/:@!$&'()*+,;=~")


def _retry_after_s(response: httpx.Response, default_s: float) -> float:
    try:
        return max(float(response.headers["Retry-After"]), 0.1)
    except (KeyError, ValueError):
        return default_s


def _body(response: httpx.Response) -> Json | None:
    try:
        body = response.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _provisioning_state(response: httpx.Response) -> str:
    properties = (_body(response) or {}).get("properties")
    return str(properties.get("provisioningState", "")).lower() if isinstance(properties, dict) else ""


def _operation_state(response: httpx.Response) -> str:
    body = _body(response) or {}
    return str(body.get("status") or _provisioning_state(response)).lower()


def _operation_failure(response: httpx.Response, state: str) -> CommandFailed:
    error = (_body(response) or {}).get("error")
    if error:
        return CommandFailed.from_error(error)
    return CommandFailed("The operation was canceled." if state == "canceled" else "The operation failed.")


def _failure(response: httpx.Response) -> CommandFailed:
    """Read an error's body: ARM's, OAuth's or that of blob storage."""
    body, status = _body(response), response.status_code
    if body and isinstance(body.get("error"), dict):
        return CommandFailed.from_error(body["error"], status)
    if body and "error" in body:
        message = str(body.get("error_description") or "The server refused the sign-in.")
        message = re.sub(r"(?<!\.)\.\s?\.(?=\s|$)", ".", message)
        return CommandFailed(message, code=str(body["error"]), status=status)
    if code := re.search(r"<Code>([^<]*)</Code>", response.text):
        reason = re.search(r"<Message>([^<]*)</Message>", response.text)
        return CommandFailed(reason[1] if reason else "No reason given.", code=code[1], status=status)
    address = str(response.request.url).split("?")[0]
    return CommandFailed(f"{response.request.method} {address} answered {status}.", status=status)


def _unreachable(url: str, error: httpx.TransportError) -> CommandFailed:
    parts = urlsplit(url)
    place = f"{parts.scheme}://{parts.netloc}"
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return CommandFailed(
            f"The certificate of {place} is not trusted. Does REQUESTS_CA_BUNDLE name its CA?"
        )
    if isinstance(error, httpx.TimeoutException):
        return CommandFailed(f"{place} did not answer in time.")
    return CommandFailed(f"Can't reach {place}: {str(error).rstrip('.')}. Is `gallery serve` running?")
