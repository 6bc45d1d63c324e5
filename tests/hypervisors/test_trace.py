"""Traces: what is shipped, what is refused, which one an image gets, and how one comes of a recording."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from opengallery.hypervisors.trace import (
    AT_START,
    FORMAT,
    Read,
    Trace,
    TraceError,
    choose,
    load,
    save,
    shipped,
)

REPOSITORY = Path(__file__).parents[2]
MIB = 1 << 20


def trace(*reads: Read, name: str = "tiny", image_bytes: int = MIB, format: int = FORMAT) -> Trace:
    return Trace(format, name, image_bytes, "by hand", "it said so", 1000, reads)


@pytest.fixture(scope="module")
def record_boot() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record_boot", REPOSITORY / "scripts/record-boot.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_real_boots_are_shipped() -> None:
    assert [found.name for found in shipped()] == ["deb12-v1", "mini"]
    for found in shipped():
        assert found.total_bytes > 20 * MIB
        assert sum(read.think_us for read in found.reads) > 1_000_000
        assert any(read.offset > found.image_bytes // 3 for read in found.reads)


def test_a_trace_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    one = trace(Read(0, 4096, AT_START, 5, 6), Read(4096, 512, 0, 7, 8))
    save(one, tmp_path / "one.json")
    assert load(tmp_path / "one.json") == one
    assert len((tmp_path / "one.json").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (trace(), "has no reads"),
        (trace(Read(0, 1, AT_START, 0, 0), format=FORMAT + 1), "has format 2"),
        (trace(Read(0, 1, 0, 0, 0)), "Read 0 .* is impossible"),
        (trace(Read(0, 1, AT_START, -1, 0)), "Read 0 .* is impossible"),
        (trace(Read(0, 0, AT_START, 0, 0)), "Read 0 .* is impossible"),
        (trace(Read(0, 1, AT_START, 0, 0), Read(MIB, 1, 0, 0, 0)), "Read 1 .* lies outside"),
    ],
)
def test_what_no_machine_could_have_read_is_refused(broken: Trace, why: str, tmp_path: Path) -> None:
    save(broken, tmp_path / "broken.json")
    with pytest.raises(TraceError, match=why):
        load(tmp_path / "broken.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(TraceError, match="can't be read"):
        load(tmp_path / "broken.json")


def test_an_image_gets_the_boot_of_the_largest_that_is_no_larger(tmp_path: Path) -> None:
    assert choose(48 * MIB).name == "mini"
    assert choose(2047 * MIB).name == "mini"
    assert choose(4096 * MIB).name == "deb12-v1"
    with pytest.raises(TraceError, match="no recorded boot"):
        choose(MIB)
    save(trace(Read(0, 1, AT_START, 0, 0)), tmp_path / "own.json")
    assert choose(4096 * MIB, str(tmp_path / "own.json")).name == "tiny"


def test_checksums_are_of_what_the_image_holds_there() -> None:
    content = bytes(range(256)) * 16
    one = trace(Read(0, 512, AT_START, 0, 0), Read(256, 512, 0, 0, 0), Read(1, 512, 1, 0, 0))
    first, same, other = one.checksums(lambda offset, length: content[offset : offset + length])
    assert first == same != other


def test_a_read_waits_for_the_last_one_that_had_ended_when_it_was_made(record_boot: ModuleType) -> None:
    seen = [
        record_boot.Seen(0, 10, 1.0, 2.0),
        record_boot.Seen(10, 10, 1.5, 4.0),  # beside the first
        record_boot.Seen(20, 10, 2.5, 3.0),  # after the first, beside the second
        record_boot.Seen(30, 10, 4.25, 5.0),
        record_boot.Seen(40, 10, 5.5, 9.0),  # was under way when the machine was ready
    ]
    recorded = record_boot.trace_of("x", 100, "READY ", seen, 0.5, 6.0)
    assert [(read.after, read.think_us, read.service_us) for read in recorded.reads] == [
        (AT_START, 500_000, 1_000_000),
        (AT_START, 1_000_000, 2_500_000),
        (0, 500_000, 500_000),
        (1, 250_000, 750_000),
    ]
    assert recorded.ready_think_us == 1_000_000
