"""Any image through any chain of put, transfer, collect, verify and repair reads back the same."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from obstore.store import MemoryStore

from opengallery.imagestore import (
    BLOCK_BYTES,
    SEGMENT_BYTES,
    FrameCache,
    ImageStore,
    collect,
    repair,
    scrub,
    transfer,
    usage,
    verify,
)

from .faults import IS_SOAK, POOL
from .image_sources import KEY, PiecesSource

NAMES = ["directory", "memory", "other"]
STORE = st.sampled_from(NAMES)
PIECE = st.one_of(
    st.tuples(st.integers(0, 300), st.integers(1, 90)).map(lambda run: b"".join(POOL[run[0] : sum(run)])),
    st.integers(1, 3 * BLOCK_BYTES).map(bytes),
    st.integers(1, 255).flatmap(lambda byte: st.integers(1, 40_000).map(lambda n: bytes([byte]) * n)),
    st.binary(max_size=100),
)
GAP = st.sampled_from([0, 0, 0, 5000, 9 * BLOCK_BYTES, SEGMENT_BYTES - 3 * BLOCK_BYTES])


class Chain(RuleBasedStateMachine):
    """Three stores, and what each must hold: images by id, with the bytes they were made of."""

    @initialize(cache_bytes=st.sampled_from([0, 200_000, 1 << 24]))
    def open(self, cache_bytes: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.backends = {
            "directory": self.folder / "a",
            "memory": MemoryStore(),
            "other": self.folder / "b",
        }
        self.caches = {name: FrameCache(cache_bytes) for name in NAMES}
        self.stores = {name: self.fresh(name) for name in NAMES}
        self.images: dict[str, PiecesSource] = {}
        self.held: dict[str, set[str]] = {name: set() for name in NAMES}

    def fresh(self, name: str) -> ImageStore:
        return ImageStore(
            self.backends[name],
            prefix="",
            key=KEY,
            index_dir=self.folder / "index" / name,
            name=name,
            cache=self.caches[name],
        )

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            for name in NAMES:
                self.check(name)
            shutil.rmtree(self.folder)

    def check(self, name: str) -> None:
        store = self.stores[name]
        assert set(store.images()) == self.held[name]
        for image_id in self.held[name]:
            source = self.images[image_id]
            reader = store.open(image_id)
            assert reader.size_bytes == source.size_bytes
            for offset, content in source.pieces:
                assert reader.read(offset, len(content)) == content
            assert reader.read(source.size_bytes - 5, 10) == source.read(source.size_bytes - 5, 5)

    @rule(name=STORE, pieces=st.lists(st.tuples(GAP, PIECE), max_size=6), tail=GAP)
    def put(self, name: str, pieces: list[tuple[int, bytes]], tail: int) -> None:
        offset = 0
        placed = []
        for gap, content in pieces:
            placed.append((offset + gap, content))
            offset += gap + len(content)
        source = PiecesSource(offset + tail + 5, placed)
        image_id = self.stores[name].put(source).image_id
        self.images[image_id] = source
        self.held[name].add(image_id)

    @precondition(lambda self: self.images)
    @rule(data=st.data())
    def transfer(self, data: st.DataObject) -> None:
        source = data.draw(st.sampled_from([name for name in NAMES if self.held[name]] or NAMES))
        target = data.draw(st.sampled_from([name for name in NAMES if name != source]))
        if self.held[source]:
            image_id = data.draw(st.sampled_from(sorted(self.held[source])))
            transfer(self.stores[source], self.stores[target], image_id)
            self.held[target].add(image_id)

    @precondition(lambda self: self.images)
    @rule(name=STORE, data=st.data())
    def delete(self, name: str, data: st.DataObject) -> None:
        if self.held[name]:
            image_id = data.draw(st.sampled_from(sorted(self.held[name])))
            self.stores[name].delete(image_id)
            self.held[name].discard(image_id)

    @rule(name=STORE, below=st.sampled_from([0.0, 0.5, 1.0]))
    def collect(self, name: str, below: float) -> None:
        collect(self.stores[name], 0, wait=True, repack_below=below)
        if below:
            held = usage(self.stores[name])
            assert held.unreadable == []
            assert len(held.images) == len(self.held[name])

    @rule(name=STORE)
    def verify(self, name: str) -> None:
        for image_id in self.held[name]:
            assert verify(self.stores[name], image_id).is_good
        assert list(scrub(self.stores[name], 1e12)) == []

    @rule(name=STORE)
    def reopen(self, name: str) -> None:
        self.caches[name].clear()
        self.stores[name] = self.fresh(name)

    @rule(name=STORE)
    def lose_the_index(self, name: str) -> None:
        shutil.rmtree(self.folder / "index" / name, ignore_errors=True)
        self.stores[name] = self.fresh(name)

    @rule(name=STORE, where=st.floats(0, 1, exclude_max=True), which=st.integers(0, 50))
    def damage_and_repair(self, name: str, where: float, which: int) -> None:
        store = self.stores[name]
        siblings = [self.stores[other] for other in NAMES if other != name]
        # Only what every image has elsewhere can be healed from there.
        if any(not any(s.has(image_id) for s in siblings) for image_id in self.held[name]):
            return
        paths = sorted(found.path for found in store.objects.list("packs/"))
        if paths:
            path = paths[which % len(paths)]
            content = bytearray(store.objects.get(path))
            content[int(where * len(content))] ^= 16
            store.objects.put(path, bytes(content), replace=True)
            self.caches[name].clear()
            for found in scrub(store, 1e12):
                repair(store, found.image_id, [s for s in siblings if s.has(found.image_id)])
            for image_id in self.held[name]:
                assert verify(store, image_id).is_good


TestChain = pytest.mark.usefixtures("small_packs")(Chain.TestCase)
TestChain.settings = settings(
    max_examples=1000 if IS_SOAK else 25,
    stateful_step_count=40 if IS_SOAK else 15,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestChain = pytest.mark.timeout(3600)(TestChain)
