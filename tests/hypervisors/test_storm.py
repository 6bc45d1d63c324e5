"""The forecast of a storm, against cases that can be computed by hand."""

import pytest

from opengallery.hypervisors.storm import fewest_replicas, forecast, simulate
from opengallery.hypervisors.trace import AT_START, FORMAT, Read, Trace, choose

SECOND = 1_000_000
MB = 1_000_000


def trace(*reads: Read, ready_think_us: int = 0) -> Trace:
    return Trace(FORMAT, "by hand", 100 * MB, "", "", ready_think_us, reads)


ONE = trace(Read(0, MB, AT_START, 2 * SECOND, SECOND), ready_think_us=4 * SECOND)
CHAIN = trace(Read(0, MB, AT_START, 0, 0), Read(MB, MB, 0, 3 * SECOND, 0))


def test_a_machine_alone_thinks_is_served_gets_its_bytes_and_thinks_again() -> None:
    found = simulate(ONE, 1, MB)
    assert (found.ready_s, found.longest_read_s) == (2 + 1 + 1 + 4, 1 + 1)


def test_machines_wait_for_each_other_at_the_link_alone() -> None:
    found = simulate(ONE, 5, MB)
    assert (found.ready_s, found.longest_read_s) == (2 + 1 + 5 * 1 + 4, 1 + 5)


def test_one_machine_thinks_while_another_is_sent_its_bytes() -> None:
    # First reads end at 1 and 2; second ones come at 4 and 5, when the link is free.
    assert simulate(CHAIN, 2, MB).ready_s == 6
    # First reads end at 1 to 4; the second ones come at 4 to 7, each when the one before is out.
    assert simulate(CHAIN, 4, MB).ready_s == 8
    # First reads end at 1 to 10: the link is never free before 10, and sends ten more.
    assert simulate(CHAIN, 10, MB).ready_s == 20


def test_reads_that_were_made_side_by_side_share_the_link() -> None:
    beside = trace(Read(0, MB, AT_START, 0, 0), Read(MB, MB, AT_START, 0, 0), Read(2 * MB, MB, 1, SECOND, 0))
    assert simulate(beside, 1, MB).ready_s == 4


@pytest.mark.parametrize("machines", [1, 3, 60, 200])
def test_what_is_not_simulated_is_what_would_be(machines: int) -> None:
    boot = choose(48 << 20)
    for bytes_per_s in (30 * MB, 125 * MB):
        quick, whole = (count(boot, machines, bytes_per_s) for count in (forecast, simulate))
        assert quick.ready_s == pytest.approx(whole.ready_s, rel=0.1)


def test_a_faster_machine_waits_for_the_link_only() -> None:
    assert simulate(ONE.at_pace(4), 1, MB).ready_s == 0.5 + 1 + 1 + 1
    slow, fast = (simulate(choose(48 << 20).at_pace(pace), 40, 30 * MB).ready_s for pace in (1, 10))
    assert choose(48 << 20).total_bytes * 40 / (30 * MB) < fast < slow


def test_the_fewest_replicas_that_meet_the_target_are_found() -> None:
    # Each machine on a replica adds a second to 7.
    assert fewest_replicas(ONE, 12, 10 * MB, 7.31, 100) == 4
    assert fewest_replicas(ONE, 12, 10 * MB, 7.29, 100) == 6
    assert fewest_replicas(ONE, 12, 10 * MB, 7.05, 100) is None
    assert fewest_replicas(ONE, 12, 10 * MB, 7.31, 3) is None


def test_reads_that_qemu_would_give_up_meet_no_target() -> None:
    # Ready after 11 s, but the last read takes longer than QEMU's 3 s.
    assert not simulate(ONE, 4, MB).meets(60)
    assert fewest_replicas(ONE, 4, MB, 60, 100) == 2
