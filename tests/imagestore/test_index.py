"""The index is derived: lost, damaged or lying, it costs time and never a byte."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from opengallery.imagestore import BLOCK_BYTES, ImageStore, verify
from opengallery.imagestore.index import NOT_HELD, Index

from .image_sources import blocks, image


def digests(count: int, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (count, 32), np.uint8)


def run_files(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "index/west-01").glob("*.run"))


def test_a_lost_index_is_built_again_from_the_footers(
    make_store: Callable[..., ImageStore], tmp_path: Path
) -> None:
    make_store().put(image(blocks(100, 1)))
    for file in run_files(tmp_path):
        file.unlink()
    assert make_store().put(image(blocks(100, 1), blocks(1, 2))).new_bytes == BLOCK_BYTES


@pytest.mark.parametrize("damage", ["cut", "header", "empty"])
def test_a_damaged_index_is_built_again(
    make_store: Callable[..., ImageStore], tmp_path: Path, damage: str
) -> None:
    make_store().put(image(blocks(100, 1)))
    (file,) = run_files(tmp_path)
    content = bytearray(file.read_bytes())
    if damage == "header":
        content[9] ^= 1
    file.write_bytes({"cut": content[:-5], "header": content, "empty": b""}[damage])
    assert make_store().put(image(blocks(100, 1), blocks(1, 2))).new_bytes == BLOCK_BYTES


def test_an_index_that_lies_is_found_out_before_the_manifest_is_written(
    make_store: Callable[..., ImageStore], tmp_path: Path
) -> None:
    content = blocks(100, 1)
    make_store().put(image(content))
    (file,) = run_files(tmp_path)
    lie = bytearray(file.read_bytes())
    entries = np.frombuffer(lie, "<u4", 100, len(lie) - 400)
    entries[:] = entries[::-1].copy()
    file.write_bytes(lie)
    store = make_store()
    report = store.put(image(content, blocks(1, 2)))
    assert store.open(report.image_id).read(0, len(content)) == content
    assert verify(store, report.image_id).is_good
    assert report.new_bytes <= BLOCK_BYTES


def test_every_digest_is_found_after_many_runs_were_merged(tmp_path: Path) -> None:
    index = Index(tmp_path)
    known = {f"{seed:064x}": digests(50 + seed, seed) for seed in range(60)}
    for pack_id, content in known.items():
        index.add(pack_id, content)
        if int(pack_id, 16) % 7 == 0:
            index.flush()
    index.flush()
    again = Index(tmp_path)
    again.refresh(again.begin_refresh(), known, set(), lambda pack_id: pytest.fail("read a footer"))
    for searched in (index, again):
        for pack_id, content in known.items():
            places = searched.lookup(content)
            assert [searched.pack_id(place >> 32) for place in places.tolist()] == [pack_id] * len(content)
            assert (places & 0xFFFFFFFF).tolist() == list(range(len(content)))
        assert (searched.lookup(digests(500, 999)) == NOT_HELD).all()
    assert len(list(tmp_path.glob("*.run"))) <= 9


def test_a_pack_that_is_gone_or_excluded_is_not_relied_on(tmp_path: Path) -> None:
    index = Index(tmp_path)
    same = digests(10, 1)
    index.add("a" * 64, same)
    index.add("b" * 64, same)
    index.refresh(index.begin_refresh(), ["b" * 64], set(), lambda _: None)
    assert {index.pack_id(place >> 32) for place in index.lookup(same).tolist()} == {"b" * 64}
    index.refresh(index.begin_refresh(), ["b" * 64], {"b" * 64}, lambda _: None)
    assert (index.lookup(same) == NOT_HELD).all()
    index.flush()
    index.refresh(index.begin_refresh(), ["a" * 64], set(), lambda _: same)
    assert {index.pack_id(place >> 32) for place in index.lookup(same).tolist()} == {"a" * 64}


def test_a_pack_added_while_the_store_was_listed_stays(tmp_path: Path) -> None:
    index = Index(tmp_path)
    began = index.begin_refresh()
    index.add("a" * 64, digests(10, 1))
    index.refresh(began, [], set(), lambda _: None)
    assert (index.lookup(digests(10, 1)) != NOT_HELD).all()


def test_runs_are_merged_slice_by_slice_and_stay_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opengallery.imagestore.index.SPILL_ENTRIES", 500)
    monkeypatch.setattr("opengallery.imagestore.index.SMALLEST_ENTRIES", 500)
    monkeypatch.setattr("opengallery.imagestore.index.SLICE_ENTRIES", 700)
    index = Index(tmp_path)
    known = {f"{seed:064x}": digests(300, seed) for seed in range(100)}
    for pack_id, content in known.items():
        index.add(pack_id, content)
    index.forget([f"{3:064x}"])
    index.flush()
    assert len(list(tmp_path.glob("*.run"))) < 16
    gone = f"{3:064x}"
    again = Index(tmp_path)
    again.refresh(again.begin_refresh(), known.keys() - {gone}, set(), lambda _: pytest.fail("read a footer"))
    for searched in (index, again):
        for pack_id, content in known.items():
            places = searched.lookup(content)
            if pack_id == gone:
                assert (places == NOT_HELD).all()
            else:
                assert {searched.pack_id(place >> 32) for place in places.tolist()} == {pack_id}
                assert (places & 0xFFFFFFFF).tolist() == list(range(300))
        assert (searched.lookup(digests(2000, 999)) == NOT_HELD).all()


def test_digests_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    index = Index(tmp_path)
    same = np.repeat(digests(1, 1), 300, axis=0)
    same[:, 8:10] = np.arange(300, dtype="<u2").view(np.uint8).reshape(-1, 2)
    index.add("a" * 64, same)
    for _ in range(2):
        assert (index.lookup(same) & 0xFFFFFFFF).tolist() == list(range(300))
        index.flush()


def test_a_block_that_was_written_anew_is_found_where_it_lies_now(tmp_path: Path) -> None:
    index = Index(tmp_path)
    moved = digests(40_000, 1)
    for number in range(30):
        index.add(f"{number:064x}", digests(40_000, number + 100))
    index.add("a" * 64, moved)
    index.flush()
    old = index.lookup(moved)
    index.add("b" * 64, moved[:100])
    index.flush()
    listed = [*(f"{number:064x}" for number in range(30)), "a" * 64, "b" * 64]
    again = Index(tmp_path)
    again.refresh(again.begin_refresh(), listed, set(), lambda _: None)
    for opened in (index, again):
        places = opened.lookup(moved)
        assert {opened.pack_id(number) for number in (places[:100] >> 32).tolist()} == {"b" * 64}
        assert {opened.pack_id(number) for number in (places[100:] >> 32).tolist()} == {"a" * 64}
        assert (places[100:] & 0xFFFFFFFF == old[100:] & 0xFFFFFFFF).all()
