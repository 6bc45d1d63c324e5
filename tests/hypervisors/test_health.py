"""Which replicas are silent, and how a machine's quorum is brought from one list to another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opengallery.hypervisors.health import Health
from opengallery.providers.compute.failover import steps

from .qemu_lab import Replicas, eventually


def test_a_replica_that_is_silent_dead_or_without_a_server_is_found_and_forgotten(replicas: Replicas) -> None:
    health = Health()
    good = replicas.serve("replica=health.1.a")
    hanging = replicas.serve("replica=health.1.b", "hang", "0")
    asked = {("a", "i"): good, ("b", "i"): hanging, ("c", "i"): replicas.dead(), ("d", "i"): None}
    assert health.ask(asked)
    assert health.silent == {("c", "i"), ("d", "i")}
    replicas.stop(hanging)
    eventually(lambda: replicas.is_stopped(hanging) or None)
    assert health.ask(asked)
    assert health.silent == {("b", "i"), ("c", "i"), ("d", "i")}
    assert not health.ask(asked)
    replicas.go_on(hanging)
    assert health.ask({("a", "i"): good, ("b", "i"): hanging})
    assert health.silent == set()
    health.close()


@pytest.mark.parametrize(
    ("reading", "wanted", "added", "dropped"),
    [
        ("abc", "abc", "", []),
        ("abc", "bc", "", [0]),
        ("bc", "abc", "abc", [0, 1]),
        ("abc", "acd", "d", [1]),
        ("a", "b", "b", [0]),
    ],
)
def test_a_quorum_changes_by_few_steps(reading: str, wanted: str, added: str, dropped: list[int]) -> None:
    assert steps(dict(enumerate(reading)), list(wanted)) == (list(added), dropped)


@given(st.lists(st.sampled_from("abcdef"), unique=True), st.lists(st.sampled_from("abcdef"), unique=True))
def test_any_quorum_becomes_what_is_wanted(reading: list[str], wanted: list[str]) -> None:
    added, dropped = steps(dict(enumerate(reading)), wanted)
    left = [url for index, url in enumerate(reading) if index not in dropped]
    assert left + added == wanted
