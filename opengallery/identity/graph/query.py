"""Query options: `$filter`, `$select`, `$top`, `$count` and the pages that `@odata.nextLink` leads through.

An option that isn't known is refused rather than ignored, so that no client takes a list for another one.
Source: Microsoft Graph, query parameters and paging.
"""

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from sqlalchemy import Row, Select, func, select

from opengallery.identity.directory import as_id
from opengallery.identity.graph.call import Answer, GraphCall
from opengallery.identity.graph.errors import bad_request, unsupported_query
from opengallery.identity.graph.filter import Property, parse_filter

PAGE_SIZE = 100
PAGE_SIZE_MAX = 999
LIST_OPTIONS = frozenset({"$filter", "$select", "$top", "$count", "$skiptoken"})
SELECT_LENGTH_MAX = 2048

Shown = dict[str, Any]


@dataclass(frozen=True)
class Collection:
    """What can be listed: rows in the order of `key`, by which properties they are filtered, how they show.

    `default` are the properties that are shown unless `$select` says otherwise; `None`: all.
    """

    name: str
    rows: Callable[[GraphCall], Select[Any]]
    key: Any
    properties: Callable[[GraphCall], Mapping[str, Property]]
    show: Callable[[GraphCall, Sequence[Row[Any]]], list[Shown]]
    default: frozenset[str] | None = None


def answer_list(call: GraphCall, collection: Collection, path: str, where: Sequence[Any] = ()) -> Answer:
    """One page of a collection, of the rows for which `where` holds. `path` is below `/v1.0/`."""
    require_options(call, LIST_OPTIONS)
    matching = collection.rows(call).where(*where)
    if text := call.query.get("$filter"):
        matching = matching.where(parse_filter(text, collection.properties(call)))
    size = _page_size(call)
    query = matching.order_by(collection.key).limit(size + 1)
    if last := _last_key(call):
        query = query.where(collection.key > last)
    rows = call.connection.execute(query).all()
    content: dict[str, Any] = {"@odata.context": call.context(collection.name)}
    if call.query.get("$count", "").lower() == "true":
        content["@odata.count"] = count(call, matching)
    if len(rows) > size:
        content["@odata.nextLink"] = _next_link(call, path, rows[size - 1].object_id)
    shown = collection.show(call, rows[:size])
    content["value"] = [chosen(call, entry, collection.default) for entry in shown]
    return Answer(content)


def answer_count(call: GraphCall, collection: Collection) -> Answer:
    """`/$count`: how many there are, as plain text."""
    require_options(call, frozenset({"$filter"}))
    matching = collection.rows(call)
    if text := call.query.get("$filter"):
        matching = matching.where(parse_filter(text, collection.properties(call)))
    return Answer(str(count(call, matching)))


def answer_one(
    call: GraphCall, kind: str, shown: Shown, default: frozenset[str] | None = None, status: int = 200
) -> Answer:
    """One object, with the properties that `$select` asks for."""
    require_options(call, frozenset({"$select"}))
    return Answer({"@odata.context": call.context(f"{kind}/$entity"), **chosen(call, shown, default)}, status)


def chosen(call: GraphCall, shown: Shown, default: frozenset[str] | None) -> Shown:
    """What `$select` asks for of an object. Raises `GraphError` for a property that it hasn't."""
    wanted = selected(call)
    if wanted is None:
        return shown if default is None else {name: shown[name] for name in shown if _is_in(name, default)}
    names = {name.lower(): name for name in shown}
    unknown = [name for name in wanted if name.lower() not in names]
    if unknown and "@odata.type" not in shown:
        raise bad_request(f"Could not find a property named '{unknown[0]}'. Leave it out of $select.")
    kept = {names[name.lower()] for name in wanted if name.lower() in names}
    return {name: value for name, value in shown.items() if _is_in(name, kept)}


def selected(call: GraphCall) -> list[str] | None:
    """The names in `$select`, `None` when it asks for nothing special."""
    text = call.query.get("$select", "")
    if len(text) > SELECT_LENGTH_MAX:
        raise bad_request(f"$select has at most {SELECT_LENGTH_MAX} characters.")
    names = [name.strip() for name in text.split(",") if name.strip()]
    return names if names and names != ["*"] else None


def count(call: GraphCall, query: Select[Any]) -> int:
    """How many rows a query has."""
    return call.connection.scalar(select(func.count()).select_from(query.subquery())) or 0


def require_options(call: GraphCall, known: frozenset[str]) -> None:
    """Raise `GraphError` when the query has a `$` option that isn't known there, or one twice."""
    names = [name for name, _ in call.query.multi_items() if name.startswith("$")]
    for name in names:
        if name not in known:
            raise unsupported_query(
                f"The query option '{name[:32]}' is not supported here. Known: {', '.join(sorted(known))}."
            )
        if names.count(name) > 1:
            raise bad_request(f"The query option '{name}' stands there twice.")


def _is_in(name: str, names: Iterable[str]) -> bool:
    return name in names or name.startswith("@odata.")


def _page_size(call: GraphCall) -> int:
    text = call.query.get("$top")
    if text is None:
        return PAGE_SIZE
    if not (text.isascii() and text.isdigit()) or len(text) > 6 or not 0 < int(text) <= PAGE_SIZE_MAX:
        raise bad_request(f"Invalid page size specified: $top is a number from 1 to {PAGE_SIZE_MAX}.")
    return int(text)


def _last_key(call: GraphCall) -> str:
    """Where the page before ended, "" for the first one."""
    token = call.query.get("$skiptoken")
    if token is None:
        return ""
    try:
        key = as_id(base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode())
    except (binascii.Error, ValueError):
        key = ""
    if not key:
        raise bad_request("The $skiptoken is none of this server's. Start again without it.")
    return key


def _next_link(call: GraphCall, path: str, last: str) -> str:
    query = {name: value for name, value in call.query.items() if name != "$skiptoken"}
    query["$skiptoken"] = base64.urlsafe_b64encode(last.encode()).decode()
    return f"{call.root}/{quote(path)}?{urlencode(query, safe='$')}"
