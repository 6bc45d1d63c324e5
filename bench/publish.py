"""How long publishing a real 2 GiB image takes, and the same recipe built anew after it.

Each goes into 3 regions with 5, 1 and 1 replicas, beside `cp --sparse=always` and fsync of the same file
in the same run, with the file in the page cache. Usage: publish.py [IMAGES-FOLDER]
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from subject import GALLERY, ROOT, Subject, subject

IMAGES = ("deb12-v1", "deb12-v1-rebuild")
TARGETS = ("West Central US=5", "South Central US=1", "East US 2=1")
COPIES = 3
MIB = 1024 * 1024


def main(folder: Path) -> None:
    """Publish both images and print a table."""
    missing = [name for name in IMAGES if not (folder / f"{name}.raw").exists()]
    if missing:
        raise SystemExit(f"{folder} has no {', '.join(missing)}. Run `make images` first.")
    print(
        f"{'':<18}{'cp':>8}{'import':>9}{'publish':>9}{'moved':>8}{'saved':>8}{'stored':>8}{'per':>6}\n"
        f"{'image':<18}{'s':>8}{'s':>9}{'s':>9}{'MiB':>8}{'MiB':>8}{'MiB':>8}{'cp':>6}"
    )
    with subject(ROOT / ".cache") as server:
        server.start()
        server.run(GALLERY, "group", "create", "-n", "bench", "-l", "westcentralus", "-o", "json")
        server.run(GALLERY, "sig", "create", "-g", "bench", "--gallery-name", "g", "-o", "json")
        server.run(
            GALLERY, "sig", "image-definition", "create", "-g", "bench", "--gallery-name", "g",
            "--gallery-image-definition", "d", "--publisher", "p", "--offer", "o", "--sku", "s",
            "--os-type", "Linux", "--hyper-v-generation", "V1", "-o", "json",
        )  # fmt: skip
        for number, name in enumerate(IMAGES):
            _publish(server, folder / f"{name}.raw", f"1.0.{number}")


def _publish(server: Subject, image: Path, version: str) -> None:
    _warm(image)
    copy_s = median(_copy_s(image, server.data / "copy.raw") for _ in range(COPIES))
    before = _stored_bytes(server)
    import_s = server.seconds(
        GALLERY, "image", "import", image, "-g", "bench", "-n", image.stem, "--os-type", "Linux", "-o", "json"
    )
    where = (
        "-g", "bench", "--gallery-name", "g", "--gallery-image-definition", "d",
        "--gallery-image-version", version, "-o", "json",
    )  # fmt: skip
    publish_s = server.seconds(
        GALLERY, "sig", "image-version", "create", *where, "--target-regions", *TARGETS,
        "--managed-image", image.stem,
    )  # fmt: skip
    shown = server.run(GALLERY, "sig", "image-version", "show", *where, "--expand", "ReplicationStatus")
    assert shown["provisioningState"] == "Succeeded", shown
    regions = shown["replicationStatus"]["summary"]
    assert {entry["progress"] for entry in regions} == {100}
    moved = sum(entry["bytesMoved"] for entry in regions)
    saved = sum(entry["bytesSaved"] for entry in regions)
    stored = _stored_bytes(server) - before
    print(
        f"{image.stem:<18}{copy_s:>8.2f}{import_s:>9.2f}{publish_s:>9.2f}{moved / MIB:>8.0f}{saved / MIB:>8.0f}"
        f"{stored / MIB:>8.0f}{(import_s + publish_s) / copy_s:>6.1f}"
    )


def _warm(image: Path) -> None:
    with image.open("rb", buffering=0) as source:
        while source.read(16 * MIB):
            pass


def _copy_s(image: Path, target: Path) -> float:
    """Wall time of a sparse copy that is on the disk when it ends."""
    target.unlink(missing_ok=True)
    begun = time.perf_counter()
    subprocess.run(["cp", "--sparse=always", image, target], check=True)
    handle = os.open(target, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
    taken_s = time.perf_counter() - begun
    target.unlink()
    return taken_s


def _stored_bytes(server: Subject) -> int:
    """What all stores hold on the disk, in the import's own store as well."""
    stores = server.data / "stores"
    return sum(path.stat().st_blocks * 512 for path in stores.rglob("*") if path.is_file())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".cache/images")
