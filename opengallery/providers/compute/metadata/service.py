"""The metadata service: one request of one machine's guest, whatever it came over.

Which machine asks is known by the channel; nothing in the request is asked for a proof. The header `Metadata: true`
keeps out requests that a guest's program was tricked into, as in Azure.
Source: Azure Instance Metadata Service, "Access Azure Instance Metadata Service".
"""

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from opengallery.arm import resources
from opengallery.arm.services import Services
from opengallery.providers.compute.metadata.answer import Answer, MetadataError, answer
from opengallery.providers.compute.metadata.instance import instance
from opengallery.providers.compute.metadata.tokens import Issue, token

_VERSION = re.compile(r"20\d\d-\d\d-\d\d")
_FIELDS_MAX = 20


class MetadataService:
    """Answers guests. `issue` gives a principal a token, if this server gives tokens at all."""

    def __init__(self, services: Services, issue: Issue | None) -> None:
        """Read from the services' database."""
        self._database = services.database
        self._issue = issue

    def answer(
        self, machine_key: str, method: str, target: str, headers: Iterable[tuple[str, str]]
    ) -> Answer:
        """Answer a request of a machine's guest. `headers` have names in lower case."""
        try:
            return self._answer(machine_key, method, target, dict(headers))
        except MetadataError as error:
            return error.answer()

    def _answer(self, machine_key: str, method: str, target: str, headers: dict[str, str]) -> Answer:
        if method != "GET":
            raise MetadataError("Only GET is served here.", "method_not_allowed", 405)
        if headers.get("metadata", "").strip().lower() != "true":
            raise MetadataError("Required metadata header not specified or not correct. Send Metadata: true.")
        if "x-forwarded-for" in headers:
            raise MetadataError("Requests through a proxy (X-Forwarded-For) are refused. Ask directly.")
        try:
            path, query = _parsed(target)
        except ValueError as error:
            raise MetadataError("The request's target is malformed.") from error
        if not _VERSION.fullmatch(query.get("api-version", "")):
            raise MetadataError(
                "Required query variable 'api-version' is missing or malformed. Give api-version=2018-02-01 for a "
                "token, 2021-02-01 for what is known of the machine."
            )
        parts = [part for part in path.split("/") if part]
        with self._database.read() as connection:
            machine = resources.get(connection, machine_key)
            if machine is None or machine.state == resources.DELETING:
                raise MetadataError("The machine is being deleted.", "not_found", 404)
            if parts == ["metadata", "identity", "oauth2", "token"]:
                return answer(token(connection, machine, query, self._issue))
            if parts[:2] == ["metadata", "instance"]:
                return _part(instance(connection, machine), parts[2:], query.get("format", "json"))
        raise MetadataError(
            "Nothing has this path. Ask for /metadata/identity/oauth2/token or /metadata/instance.",
            "not_found",
            404,
        )


def _parsed(target: str) -> tuple[str, dict[str, str]]:
    """Path and query of a request's target. Raises `ValueError`."""
    parts = urlsplit(target)
    fields = parse_qsl(parts.query, max_num_fields=_FIELDS_MAX)
    return unquote(parts.path), {name.lower(): value for name, value in fields}


def _part(document: Any, path: list[str], wanted_format: str) -> Answer:
    """A part of the document: JSON for one with parts of its own, text for a value."""
    for name in path:
        if isinstance(document, list) and name.isdecimal() and int(name) < len(document):
            document = document[int(name)]
        elif isinstance(document, dict) and name in document:
            document = document[name]
        else:
            raise MetadataError("The machine has no such value.", "not_found", 404)
    if isinstance(document, (dict, list)):
        if wanted_format != "json":
            raise MetadataError("This has parts: give format=json, or the path of a value.")
        return answer(document)
    if wanted_format != "text":
        raise MetadataError("This is a value: give format=text.")
    return Answer(200, str(document).encode(), "text/plain; charset=utf-8")
