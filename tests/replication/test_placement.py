"""Which stores hold replicas, and which replica a machine reads first."""

import threading
from collections import Counter
from collections.abc import Callable

import pytest
from sqlalchemy import delete

from opengallery.database import Database
from opengallery.replication.placement import (
    NoReplicaInRegion,
    TooManyReplicas,
    add_fallbacks,
    choose_reader,
    choose_stores,
    end_reading,
    is_pinned,
    read_plan,
    read_replicas,
    readers_per_store,
    release_reader,
)
from opengallery.replication.progress import replicas_table, set_state

NAMES = [f"east-0{number}" for number in range(1, 6)]
AddReplica = Callable[..., None]


def test_stores_that_hold_a_replica_are_kept() -> None:
    assert choose_stores("east", NAMES, 5, 2) == ["east-01", "east-02"]
    assert choose_stores("east", NAMES, 5, 2, held=["east-04"]) == ["east-04", "east-01"]
    assert choose_stores("east", NAMES, 5, 1, held=["east-04", "east-02"]) == ["east-04"]
    assert choose_stores("east", NAMES, 5, 2, load={"east-01": 9, "east-02": 5}) == ["east-03", "east-04"]
    assert choose_stores("east", NAMES, 5, 2, held=["gone-01"]) == ["east-01", "east-02"]


def test_more_replicas_than_stores_are_refused() -> None:
    with pytest.raises(TooManyReplicas) as refused:
        choose_stores("westeurope", NAMES, 5, 7)
    assert str(refused.value) == (
        "Replica count 7 exceeds the 5 stores of region 'westeurope'. "
        "Lower regionalReplicaCount or add a store in opengallery.toml."
    )


@pytest.mark.parametrize("replica_count", [1, 3, 5])
def test_readers_spread_evenly_over_replicas(
    database: Database, add_replica: AddReplica, replica_count: int
) -> None:
    with database.write() as connection:
        for store in NAMES[:replica_count]:
            add_replica(connection, "v", store)
    for number in range(23):
        with database.write() as connection:
            choose_reader(connection, f"m{number}", "v", "east")
    with database.read() as connection:
        told = readers_per_store(connection, "v")
    assert sum(told.values()) == 23
    assert len(told) == replica_count
    assert max(told.values()) - min(told.values()) <= 1


def test_concurrent_readers_spread_evenly_over_replicas(database: Database, add_replica: AddReplica) -> None:
    with database.write() as connection:
        for store in NAMES[:4]:
            add_replica(connection, "v", store)

    def start_machines(worker: int) -> None:
        for number in range(6):
            with database.write() as connection:
                choose_reader(connection, f"m{worker}-{number}", "v", "east")

    threads = [threading.Thread(target=start_machines, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as connection:
        assert readers_per_store(connection, "v") == dict.fromkeys(NAMES[:4], 12)


def test_machines_of_one_replica_have_different_fallbacks(
    database: Database, add_replica: AddReplica
) -> None:
    with database.write() as connection:
        for store in NAMES[:4]:
            add_replica(connection, "v", store)
        plans = [choose_reader(connection, f"m{number}", "v", "east").stores for number in range(12)]
    assert all(sorted(plan) == NAMES[:4] for plan in plans)
    assert Counter(tuple(plan[:2]) for plan in plans) == Counter(
        {(first, second): 1 for first in NAMES[:4] for second in NAMES[:4] if first != second}
    )


def test_a_plan_names_a_few_replicas_only(database: Database, add_replica: AddReplica) -> None:
    with database.write() as connection:
        for store in NAMES:
            add_replica(connection, "v", store)
        assert len(choose_reader(connection, "m", "v", "east").stores) == 4


def test_only_completed_replicas_of_the_region_are_read(database: Database, add_replica: AddReplica) -> None:
    with database.write() as connection:
        add_replica(connection, "v", "east-01", "Replicating")
        add_replica(connection, "v", "east-02", "Failed")
        add_replica(connection, "v", "west-01")
        add_replica(connection, "other", "east-03")
        with pytest.raises(NoReplicaInRegion):
            choose_reader(connection, "m", "v", "east")
        set_state(connection, "v", ["east-02"], "Completed")
        assert choose_reader(connection, "m", "v", "east").stores == ["east-02"]


def test_a_machine_is_told_the_same_again(database: Database, add_replica: AddReplica) -> None:
    with database.write() as connection:
        for store in NAMES[:2]:
            add_replica(connection, "v", store)
        plan = choose_reader(connection, "m", "v", "east")
        assert choose_reader(connection, "m", "v", "east") == plan
        assert read_plan(connection, "m") == plan
        set_state(connection, "v", plan.stores, "Removing")
        assert choose_reader(connection, "m", "v", "east") == plan
        set_state(connection, "v", plan.stores, "Completed")
        set_state(connection, "v", [plan.stores[0]], "Failed")
        assert choose_reader(connection, "m", "v", "east").stores == [plan.stores[1]]
        assert sum(readers_per_store(connection, "v").values()) == 1


def test_a_hydrated_machine_pins_nothing_but_is_still_counted(
    database: Database, add_replica: AddReplica
) -> None:
    with database.write() as connection:
        for store in NAMES[:2]:
            add_replica(connection, "v", store)
        plan = choose_reader(connection, "m", "v", "east")
        assert all(is_pinned(connection, store, "t", plan.image_id) for store in NAMES[:2])
        assert not is_pinned(connection, NAMES[2], "t", plan.image_id)
        assert read_replicas(connection) == {("east", store, "t", plan.image_id) for store in NAMES[:2]}
        end_reading(connection, "m")
        assert not any(is_pinned(connection, store, "t", plan.image_id) for store in NAMES[:2])
        assert readers_per_store(connection, "v") == {plan.stores[0]: 1}
        assert read_plan(connection, "m") is None
        assert read_replicas(connection) == set()
        release_reader(connection, "m")
        assert readers_per_store(connection, "v") == {}


def test_a_released_replica_is_read_next(database: Database, add_replica: AddReplica) -> None:
    with database.write() as connection:
        for store in NAMES[:2]:
            add_replica(connection, "v", store)
        first = {f"m{number}": choose_reader(connection, f"m{number}", "v", "east") for number in range(4)}
        freed = [machine for machine, plan in first.items() if plan.stores[0] == "east-02"]
        for machine in freed:
            end_reading(connection, machine)
        assert [choose_reader(connection, f"n{number}", "v", "east").stores[0] for number in range(2)] == [
            "east-02",
            "east-02",
        ]


def test_of_equal_replicas_the_store_with_fewer_readers_is_read(
    database: Database, add_replica: AddReplica
) -> None:
    with database.write() as connection:
        for owner in ("v1", "v2"):
            for store in NAMES[:2]:
                add_replica(connection, owner, store)
        assert choose_reader(connection, "m1", "v1", "east").stores[0] == "east-01"
        assert choose_reader(connection, "m2", "v2", "east").stores[0] == "east-02"


def test_a_machine_that_reads_is_never_told_another_image(
    database: Database, add_replica: AddReplica
) -> None:
    with database.write() as connection:
        add_replica(connection, "v", "east-01")
        plan = choose_reader(connection, "m", "v", "east")
        connection.execute(delete(replicas_table))
        assert choose_reader(connection, "m", "v", "east") == plan
        add_replica(connection, "v", "east-01", image_id="2" * 64)
        assert choose_reader(connection, "m", "v", "east") == plan
        release_reader(connection, "m")
        assert choose_reader(connection, "m", "v", "east").image_id == "2" * 64


def test_a_silent_replica_is_told_to_new_machines_last(database: Database, add_replica: AddReplica) -> None:
    with database.write() as connection:
        for store in NAMES[:3]:
            add_replica(connection, "v", store)
        silent = {("east-01", "1" * 64)}
        plans = [choose_reader(connection, f"m{n}", "v", "east", silent=silent).stores for n in range(4)]
        assert [plan[0] for plan in plans] == ["east-02", "east-03", "east-02", "east-03"]
        assert {plan[-1] for plan in plans} == {"east-01"}
        assert choose_reader(connection, "back", "v", "east").stores[0] == "east-01"
        every = {(store, "1" * 64) for store in NAMES}
        assert len(choose_reader(connection, "m9", "v", "east", silent=every).stores) == 3


def test_a_machine_whose_replicas_fall_silent_is_told_others(
    database: Database, add_replica: AddReplica
) -> None:
    with database.write() as connection:
        for store in NAMES:
            add_replica(connection, "v", store)
        plan = choose_reader(connection, "m", "v", "east")
        assert add_fallbacks(connection, "m", set()) == plan
        (other,) = set(NAMES) - set(plan.stores)
        silent = {(store, plan.image_id) for store in plan.stores}
        extended = add_fallbacks(connection, "m", silent)
        assert extended is not None and extended.stores == [*plan.stores, other]
        assert read_plan(connection, "m") == extended
        assert is_pinned(connection, other, "t", plan.image_id)
        connection.execute(delete(replicas_table))
        assert add_fallbacks(connection, "m", silent) == extended
        end_reading(connection, "m")
        assert add_fallbacks(connection, "m", silent) is None
