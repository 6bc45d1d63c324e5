"""The image store beside casync, restic, borg, `cp`, `rsync`, `cat` and `pread`, on real images.

Every tool stores deb12-v1, then its rebuild, then deb12-v2, in a folder of its own that is deleted
afterwards; in turns, medians of `TURNS`, sources in the page cache, every writer's folder synced inside the
measured time. Reads of whole images are with the page cache empty on both sides, which needs root.
Usage: store.py [IMAGES-FOLDER] [WORK-FOLDER]
"""

import ctypes
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np

from opengallery.imagestore import BLOCK_BYTES, FrameCache, ImageStore, open_image, transfer
from opengallery.imagestore.blocks import Digests
from opengallery.imagestore.index import Index

IMAGES = ("deb12-v1", "deb12-v1-rebuild", "deb12-v2")
ROOT = Path(__file__).parents[1]
TURNS = 3
MB = 1_000_000
READ_BYTES = 1 << 20
RANDOM_BYTES = 64 << 10
RANDOM_READS = 1500
HOT_BYTES = 1 << 30
VERSIONS = 20
INDEX_BLOCKS = (1_000_000, 50_000_000)
GIB = 1 << 30
PLAIN_WORKER = str(Path(__file__).with_name("plain_worker.py"))


@dataclass
class Stored:
    """What one tool took for one image: seconds and bytes added, one of each a turn."""

    seconds: list[float] = field(default_factory=list)
    added_bytes: list[int] = field(default_factory=list)


def main(images: Path, work: Path) -> None:
    """Print every table."""
    missing = [name for name in IMAGES if not (images / f"{name}.raw").exists()]
    if missing:
        raise SystemExit(f"{images} has no {', '.join(missing)}. Run `make images` first.")
    files = [images / f"{name}.raw" for name in IMAGES]
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="store-bench-", dir=work) as folder:
        publish(files, Path(folder))
        encryption(files[0], Path(folder))
        move(files, Path(folder))
        read(files[0], Path(folder))
        growth(files[0], files[2], Path(folder))
        index_growth(Path(folder))
        memory(Path(folder))


def publish(files: list[Path], work: Path) -> None:
    """Storing the three images in turn, beside the peers."""
    tools: dict[str, Callable[[Path, Path], None]] = {
        "gallery": ours,
        "casync": casync,
        "restic": restic,
        "borg -C none": borg,
        "cp --sparse": copy,
    }
    results = {tool: [Stored() for _ in files] for tool in tools}
    for _ in range(TURNS):
        for tool, store in tools.items():
            with folder_in(work) as folder:
                before = 0
                for file, result in zip(files, results[tool], strict=True):
                    warm(file)
                    result.seconds.append(seconds(lambda: (store(file, folder), sync(folder))))  # noqa: B023
                    now = stored_bytes(folder)
                    result.added_bytes.append(now - before)
                    before = now
    print(f"{'stores, in turn':<20}" + "".join(f"{file.stem:>26}" for file in files) + f"{'together':>12}")
    for tool, stored in results.items():
        cells = [f"{median(s.seconds):>12.2f} s {median(s.added_bytes) / MB:>8.1f} MB" for s in stored]
        total = sum(median(s.added_bytes) for s in stored)
        print(f"{tool:<20}" + "".join(f"{cell:>26}" for cell in cells) + f"{total / MB:>9.1f} MB")
    own, peers = results["gallery"], [results[t] for t in ("casync", "restic", "borg -C none")]
    took = median(own[0].seconds)
    first = median(own[0].added_bytes) / min(median(peer[0].added_bytes) for peer in peers)
    smallest = min(sum(median(s.added_bytes) for s in peer) for peer in peers)
    show("publish, of cp --sparse", took / median(results["cp --sparse"][0].seconds), "at most 3")
    fastest = min(median(peer[0].seconds) for peer in peers)
    show("publish, times faster than the fastest peer", fastest / took, "at least 2.5")
    show("first image, of the smallest peer's bytes", first, "at most 1.05")
    show("all three", sum(median(s.added_bytes) for s in own) / smallest, "at most 0.9")
    show("the rebuild adds, MB", median(own[1].added_bytes) / MB, "at most 20")


def ours(file: Path, folder: Path) -> None:
    """Publish into a store in `folder`, its index included."""
    with open_image(file) as source:
        ImageStore.at(folder).put(source)


def casync(file: Path, folder: Path) -> None:
    """One chunk store, an index file an image."""
    run("casync", "make", f"--store={folder}/store.castr", folder / f"{file.stem}.caibx", file)


def restic(file: Path, folder: Path) -> None:
    """One repository; no cache outside of it."""
    environment = {**os.environ, "RESTIC_PASSWORD": "bench"}
    if not (folder / "config").exists():
        run("restic", "init", "--no-cache", "-q", "-r", folder, environment=environment)
    run("restic", "backup", "--no-cache", "-q", "-r", folder, file, environment=environment)


def borg(file: Path, folder: Path) -> None:
    """One repository with a cache beside it, which is not counted."""
    cache = folder.with_name(f"{folder.name}.cache")
    environment = {
        **os.environ,
        "BORG_BASE_DIR": str(cache),
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
    }
    if not (folder / "config").exists():
        run("borg", "init", "-e", "none", folder, environment=environment)
    run("borg", "create", "-C", "none", f"{folder}::{file.stem}", file, environment=environment)


def copy(file: Path, folder: Path) -> None:
    """A plain sparse copy."""
    run("cp", "--sparse=always", file, folder / file.name)


def encryption(file: Path, work: Path) -> None:
    """Publishing with and without AES; without, by workers that seal nothing, which only this has."""
    took: dict[str, list[float]] = {"sealed": [], "plain": []}
    code = (
        "import sys, time; from pathlib import Path; from opengallery.imagestore import *; "
        "import opengallery.imagestore.workers as w; "
        "sys.argv[3] == 'plain' and (w.COMMAND.clear(), w.COMMAND.extend([sys.executable, '-P', sys.argv[4]])); "
        "sys.argv[3] == 'plain' and __import__('runpy').run_path(sys.argv[4]); "
        "put = lambda n: ImageStore.at(Path(sys.argv[2]) / n).put(open_image(Path(sys.argv[1]))); "
        "put('first'); t = time.perf_counter(); put('second'); print(time.perf_counter() - t)"
    )
    for _ in range(TURNS):
        for kind, times in took.items():
            with folder_in(work) as folder:
                command = [sys.executable, "-c", code, str(file), str(folder), kind, PLAIN_WORKER]
                times.append(
                    float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                )
    show(
        "publish, of the same without encryption",
        median(took["sealed"]) / median(took["plain"]),
        "at most 1.15",
    )


def move(files: list[Path], work: Path) -> None:
    """Replicating the rebuild to a store that has the first image, beside rsync in place."""
    took, rsync, moved_bytes = [], [], 0
    with folder_in(work) as folder:
        source = ImageStore.at(folder / "source")
        ids = []
        for file in files[:2]:
            with open_image(file) as image:
                ids.append(source.put(image).image_id)
        for turn in range(TURNS):
            target = ImageStore(
                folder / f"target{turn}",
                prefix="",
                key=source.key,
                index_dir=folder / f"i{turn}",
                name="target",
            )
            transfer(source, target, ids[0])
            start = time.perf_counter()
            moved_bytes = transfer(source, target, ids[1]).moved_bytes
            took.append(time.perf_counter() - start)
            old = folder / "old.raw"
            copy(files[0], old.parent)
            (old.parent / files[0].name).rename(old)
            warm(files[1])
            rsync.append(seconds(synced, update_in_place, files[1], old))
            old.unlink()
    show("the rebuild moves, MB", moved_bytes / MB, "at most 20")
    show("moving it, of rsync --inplace", median(took) / median(rsync), "less than 1")


def update_in_place(file: Path, old: Path) -> None:
    """Bring `old` up to `file`."""
    run("rsync", "--inplace", "--no-whole-file", file, old)


def read(file: Path, work: Path) -> None:
    """Reading an image through beside cat, and hot random reads beside pread."""
    with folder_in(work) as folder:
        store = ImageStore.at(folder)
        with open_image(file) as source:
            image_id = store.put(source).image_id
        cat, own = [], []
        for _ in range(TURNS):
            drop_caches()
            cat.append(seconds(lambda: run("cat", file)))
            own.append(read_through(folder, image_id))
        show("sequential read, of cat's speed", median(cat) / median(own), "at least 0.5")
        reader = ImageStore(
            store.objects, prefix="", key=store.key, index_dir=folder / "index", name="hot",
            cache=FrameCache(HOT_BYTES),
        ).open(image_id)  # fmt: skip
        numbers = random.Random(1)  # noqa: S311
        extents = [extent for extent in reader.extents() if extent[1] > RANDOM_BYTES]
        chosen = numbers.choices(extents, [length for _, length in extents], k=RANDOM_READS)
        offsets = [
            (start + numbers.randrange(length - RANDOM_BYTES)) // BLOCK_BYTES * BLOCK_BYTES
            for start, length in chosen
        ]
        for offset in offsets:
            reader.read(offset, RANDOM_BYTES)
        raw, hot = [], []
        with file.open("rb") as plain:
            handle = plain.fileno()
            for _ in range(TURNS + 1):
                raw.append(seconds(lambda: [os.pread(handle, RANDOM_BYTES, at) for at in offsets]))
                hot.append(seconds(lambda: [len(reader.read(at, RANDOM_BYTES)) for at in offsets]))
        show("hot random 64 KiB reads, of pread's speed", median(raw[1:]) / median(hot[1:]), "at least 0.5")


def read_through(folder: Path, image_id: str) -> float:
    """Seconds to read an image from a store that nothing was read from, with the page cache empty."""
    drop_caches()
    store = ImageStore.at(folder)

    def through() -> None:
        reader = store.open(image_id)
        for offset in range(0, reader.size_bytes, READ_BYTES):
            reader.read(offset, READ_BYTES)

    return seconds(through)


def growth(file: Path, upgraded: Path, work: Path) -> None:
    """Twenty versions of an image, each changed in place: long runs, and blocks here and there.

    What is written is what an upgrade wrote: the blocks of `upgraded` that `file` has nowhere, in order.
    """
    numbers = random.Random(7)  # noqa: S311
    written = new_blocks(file, upgraded)
    with folder_in(work) as folder:
        disk = folder / "disk.raw"
        copy(file, folder)
        (folder / file.name).rename(disk)
        with open_image(disk) as source:
            extents = list(source.extents())
        store = ImageStore.at(folder / "store")
        ids, took, stored = [], [], []
        for version in range(VERSIONS):
            if version:
                change(disk, extents, numbers, written)
            warm(disk)
            sync(folder)
            start = time.perf_counter()
            with open_image(disk) as source:
                report = store.put(source)
            took.append(time.perf_counter() - start)
            ids.append(report.image_id)
            stored.append(report.stored_bytes)
        # Its neighbours stand in for turns: a version can be published once.
        late, early = median(took[-3:]), median(took[1:4])
        print(
            f"versions 2 to 4 added {sum(stored[1:4]) / 3 / MB:.1f} MB each, 18 to 20 {sum(stored[-3:]) / 3 / MB:.1f}"
        )
        show("publishing the 20th version, of the second", late / early, "at most 1.3")
        first, last = [], []
        for _ in range(TURNS):
            first.append(read_through(folder / "store", ids[0]))
            last.append(read_through(folder / "store", ids[-1]))
        show("reading the 20th version, of the first", median(last) / median(first), "at most 1.3")


def new_blocks(old: Path, new: Path) -> Iterator[bytes]:
    """Yield the blocks of `new` that are not zero and that `old` holds nowhere, in order."""
    known = {hash(block) for block in blocks_of(old)} | {hash(bytes(BLOCK_BYTES))}
    return (block for block in blocks_of(new) if hash(block) not in known)


def blocks_of(file: Path) -> Iterator[bytes]:
    """Yield a file's blocks."""
    with file.open("rb") as source:
        while content := source.read(READ_BYTES):
            for at in range(0, len(content), BLOCK_BYTES):
                yield content[at : at + BLOCK_BYTES]


def change(
    disk: Path, extents: list[tuple[int, int]], numbers: random.Random, written: Iterator[bytes]
) -> None:
    """Write 100 runs of 64 KiB and 1,500 single blocks, about 2 % of the data, where there was data."""
    weights = [length for _, length in extents]
    with disk.open("r+b") as file:
        for count, blocks in ((100, 16), (1500, 1)):
            for start, length in numbers.choices(extents, weights, k=count):
                if length > 2 * blocks * BLOCK_BYTES:
                    at = start + numbers.randrange(length - blocks * BLOCK_BYTES)
                    file.seek(at // BLOCK_BYTES * BLOCK_BYTES)
                    file.write(b"".join(islice(written, blocks)))


def index_growth(work: Path) -> None:
    """Looking up blocks among one million and among fifty, half of them held; synthetic digests."""
    took = []
    with folder_in(work) as folder:
        index = Index(folder)
        generator = np.random.default_rng(1)
        digests = np.zeros((15_360, 32), np.uint8)
        held = 0
        before = anonymous_bytes()
        for wanted in INDEX_BLOCKS:
            while held < wanted:
                digests = generator.integers(0, 256, digests.shape, np.uint8)
                index.add(f"{held:064x}", digests)
                held += len(digests)
            index.flush()
            asked = np.concatenate((digests[:7680], generator.integers(0, 256, (7680, 32), np.uint8)))
            index.lookup(asked)
            took.append(median(seconds(look_up, index, asked) for _ in range(5)))
        grown = (anonymous_bytes() - before) / MB
    logarithm = np.log(INDEX_BLOCKS[1]) / np.log(INDEX_BLOCKS[0])
    per_block = [seconds_ / 15_360 * 1e6 for seconds_ in took]
    print(
        f"a block is looked up in {per_block[0]:.2f} us among 1 million, {per_block[1]:.2f} us among 50 million"
    )
    show("looking up among 50 million, of 1 million", took[1] / took[0], f"at most {logarithm:.2f} (log n)")
    show("index of 50 million blocks, MB of memory", grown, "bounded")


def look_up(index: Index, digests: Digests) -> None:
    """Look blocks up as a put does, a chunk at a time."""
    for at in range(0, len(digests), 1024):
        index.lookup(digests[at : at + 1024])


def memory(work: Path) -> None:
    """Anonymous and shared memory of publish and transfer, workers included, for a large sparse image."""
    with folder_in(work) as folder:
        disk = folder / "large.raw"
        size_bytes, segments = 100 * GIB, 400
        piece_bytes = 8 * GIB // segments
        generator = np.random.default_rng(3)
        with disk.open("wb") as file:
            file.truncate(size_bytes)
            for segment in range(segments):
                content = generator.integers(0, 256, piece_bytes // 2, np.uint8)
                file.seek(segment * (256 << 20) + (segment % 200 << 20))
                for at in range(0, len(content), BLOCK_BYTES // 2):
                    file.write(content[at : at + BLOCK_BYTES // 2].tobytes() * 2)
        code = (
            "import sys; from pathlib import Path; from opengallery.imagestore import *; "
            "a = ImageStore.at(Path(sys.argv[1]) / 'a'); "
            "b = ImageStore(Path(sys.argv[1]) / 'b', prefix='', key=a.key, "
            "index_dir=Path(sys.argv[1]) / 'i', name='b'); "
            "print('begin', flush=True); "
            "sys.argv[3] == 'publish' and a.put(open_image(Path(sys.argv[2]))); "
            "sys.argv[3] == 'transfer' and transfer(a, b, next(a.images()))"
        )
        for what in ("publish", "transfer"):
            begun = time.perf_counter()
            peak = peak_bytes([sys.executable, "-c", code, str(folder), str(disk), what])
            took = time.perf_counter() - begun
            print(f"{what} of 100 GiB with 8 GiB of data: {took:.0f} s")
            show(f"{what}, peak MiB of memory, workers included", peak / (1 << 20), "under 512")


def peak_bytes(command: list[str]) -> int:
    """Peak of the anonymous and shared memory of a process and its children, looked at every 50 ms."""
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            children = subprocess.run(
                ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=False
            ).stdout.split()
            private = [status_bytes(pid, "RssAnon") for pid in (str(process.pid), *children)]
            # Arenas are mapped by all of them: counted once.
            shared = [status_bytes(pid, "RssShmem") for pid in (str(process.pid), *children)]
            peak = max(peak, sum(private) + max(shared))
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{command[-1]} failed")
    return peak


def status_bytes(pid: str, name: str) -> int:
    """One line of /proc/PID/status."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(name)), 0)


def anonymous_bytes() -> int:
    """Anonymous memory of this process."""
    return status_bytes("self", "RssAnon")


def run(*words: object, environment: dict[str, str] | None = None) -> None:
    """Run a command, its output dropped."""
    subprocess.run(
        [str(word) for word in words],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def seconds(work: Callable[..., object], *arguments: object) -> float:
    """Wall time."""
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def warm(file: Path) -> None:
    """Bring a file into the page cache."""
    with file.open("rb", buffering=0) as source:
        while source.read(16 << 20):
            pass


def synced(work: Callable[[Path, Path], None], file: Path, target: Path) -> None:
    """Do `work`, and see that it is on the disk."""
    work(file, target)
    sync(target)


def drop_caches() -> None:
    """Write everything out and empty the page cache."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def sync(path: Path) -> None:
    """Make everything on the file system of `path` durable: for tools that do not by themselves."""
    handle = os.open(path, os.O_RDONLY)
    try:
        if ctypes.CDLL(None).syncfs(handle):
            raise OSError("syncfs failed")
    finally:
        os.close(handle)


def stored_bytes(folder: Path) -> int:
    """What the files in `folder` take of the disk: whole file system blocks, holes not counted."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def show(what: str, value: float, wanted: str) -> None:
    """One line of the result."""
    print(f"  {what:<52}{value:>9.2f}   wanted: {wanted}", flush=True)


@contextmanager
def folder_in(work: Path) -> Iterator[Path]:
    """A fresh folder that goes away, with what tools keep beside it."""
    folder = Path(tempfile.mkdtemp(dir=work))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
        shutil.rmtree(folder.with_name(f"{folder.name}.cache"), ignore_errors=True)


if __name__ == "__main__":
    main(
        Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".cache/images",
        Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / ".cache",
    )
