"""The benchmark of the image store: `python -m opengallery.imagestore.bench DIRECTORY FILE...`.

Puts each file into a fresh store in DIRECTORY, reads and verifies it, and transfers it to a second store.
Prints seconds and bytes. Take ratios, not seconds, on a machine that is shared.
"""

import argparse
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opengallery.imagestore.formats import open_image
from opengallery.imagestore.store import ImageStore
from opengallery.imagestore.transfer import transfer
from opengallery.imagestore.verify import verify

READ_BYTES = 4 << 20


def run(directory: Path, files: list[Path]) -> None:
    """Measure `files` one after the other, in two stores that are deleted at the end."""
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=directory))
    try:
        store = ImageStore.at(folder / "first")
        replica = ImageStore(
            folder / "second", prefix="", key=store.key, index_dir=folder / "index", name="second"
        )
        for file in files:
            with _timed(f"put {file.name}"), open_image(file) as source:
                report = store.put(source)
            _say(f"  {report.read_bytes} read, {report.new_bytes} new, {report.stored_bytes} stored")
            with _timed("read"):
                reader = store.open(report.image_id)
                for offset in range(0, reader.size_bytes, READ_BYTES):
                    reader.read(offset, READ_BYTES)
            with _timed("verify"):
                is_good = verify(store, report.image_id).is_good
            _say(f"  {'good' if is_good else 'BAD'}")
            with _timed("transfer"):
                moved = transfer(store, replica, report.image_id)
            _say(f"  {moved.moved_bytes} moved, {moved.saved_bytes} saved of {moved.data_bytes}")
        _say(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB")
    finally:
        shutil.rmtree(folder)


@contextmanager
def _timed(what: str) -> Iterator[None]:
    start_s = time.monotonic()
    yield
    _say(f"{what}: {time.monotonic() - start_s:.2f} s")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    options = parser.parse_args()
    run(options.directory, options.files)
