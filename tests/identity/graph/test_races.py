"""Requests at the same time: what one may have only one gets, and no circle comes about."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..conftest import ENDPOINT
from .conftest import PASSWORD, Graph


def _statuses(requests: list[tuple[Graph, str, Any]]) -> list[int]:
    def send(request: tuple[Graph, str, Any]) -> int:
        graph, path, body = request
        token = graph.identity.tokens.issue(graph.principal, f"{ENDPOINT}/").text
        headers = {"authorization": f"Bearer {token}"}
        return graph.client.post(f"/v1.0{path}", json=body, headers=headers).status_code

    with ThreadPoolExecutor(len(requests)) as pool:
        return sorted(pool.map(send, requests))


def test_a_user_principal_name_goes_to_one_of_two_tenants(graph: Graph, stranger: Graph) -> None:
    body = {
        "accountEnabled": True,
        "displayName": "Bob",
        "mailNickname": "bob",
        "userPrincipalName": "bob@local",
        "passwordProfile": {"password": PASSWORD},
    }
    statuses = _statuses([(asking, "/users", body) for asking in (graph, stranger) * 2])
    assert statuses == [201, 400, 400, 400]
    assert len(graph.get("/users")["value"] + stranger.get("/users")["value"]) == 1


def test_two_groups_never_come_to_hold_each_other(graph: Graph) -> None:
    for number in range(5):
        first, second = graph.group(f"first{number}"), graph.group(f"second{number}")
        requests = [
            (
                graph,
                f"/groups/{outer}/members/$ref",
                {"@odata.id": f"{ENDPOINT}/v1.0/directoryObjects/{inner}"},
            )
            for outer, inner in ((first, second), (second, first))
        ]
        assert _statuses(requests) == [204, 403]
