"""ImageStore: the images of one tenant in one store, by content.

The prefix of a store holds `format.json`, `manifests/`, `packs/`, and while they are needed
`quarantine/` (packs found damaged) and `collect/` (packs about to be deleted). An image is there when
its manifest is. Readers and writers need no lock; only `collect` deletes packs.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from opengallery.imagestore.blocks import BLOCK_BYTES, BlockSource, Digests
from opengallery.imagestore.cache import FrameCache
from opengallery.imagestore.directory import DirectoryObjects
from opengallery.imagestore.errors import (
    CorruptBlock,
    ImageNotFound,
    StoreChanged,
    UnsupportedFormat,
    WrongKey,
)
from opengallery.imagestore.index import Index
from opengallery.imagestore.keys import DataKey
from opengallery.imagestore.manifest import (
    IMAGE_ID,
    Manifest,
    ManifestWriter,
    manifest_path,
    read_manifest,
    read_runs,
)
from opengallery.imagestore.objects import Objects, ObstoreObjects
from opengallery.imagestore.packs import pack_path, read_footer
from opengallery.imagestore.put import PutProgress, PutReport, put_image
from opengallery.imagestore.reader import ImageReader

FORMAT = 1
FORMAT_PATH = "format.json"
QUARANTINE = "quarantine/"
MARKS = "collect/marks/"
DOOMED = "collect/doomed/"
FEW_PACKS = 32


@dataclass(frozen=True)
class ImageStat:
    """What a manifest says of its image. `data_bytes` are those of blocks that are no holes."""

    size_bytes: int
    data_bytes: int
    packs: int
    manifest_bytes: int


@dataclass(frozen=True)
class StoreStat:
    """What a prefix of a store holds."""

    images: int
    packs: int
    pack_bytes: int
    manifest_bytes: int
    quarantined_packs: int


class ImageStore:
    """One prefix of one store. Safe to use from many threads, and many processes at once."""

    def __init__(
        self,
        objects: Any,
        *,
        prefix: str,
        key: DataKey,
        index_dir: Path,
        name: str,
        cache: FrameCache | None = None,
    ) -> None:
        """Open the prefix, and make it when it is new.

        `objects` is the path of a directory, an obstore store, or an `Objects`. `index_dir` keeps the
        derived index, for this store and prefix alone. Raises `WrongKey`, `UnsupportedFormat`.
        """
        if isinstance(objects, (str, Path)):
            self.objects: Objects = DirectoryObjects(Path(objects) / prefix)
        elif isinstance(objects, DirectoryObjects) or hasattr(objects, "writer"):
            self.objects = objects
        else:
            self.objects = ObstoreObjects(objects, prefix)
        self.name = name
        self.key = key
        self.cache = cache if cache is not None else FrameCache()
        self._index_dir = index_dir
        self._index: Index | None = None
        self._index_lock = Lock()
        self._check_format()

    @classmethod
    def at(cls, path: Path | str) -> "ImageStore":
        """Open a directory that stands alone, with its data key (`data.key`) and index in it."""
        path = Path(path)
        objects = DirectoryObjects(path)
        if not objects.exists("data.key"):
            objects.put("data.key", DataKey.generate().secret)
        key = DataKey(objects.get("data.key"))
        return cls(objects, prefix="", key=key, index_dir=path / "index", name=path.name)

    @property
    def index(self) -> Index:
        """The index, opened when a writer needs it first."""
        with self._index_lock:
            if self._index is None:
                self._index = Index(self._index_dir)
            return self._index

    def put(self, source: BlockSource, progress: Callable[[PutProgress], None] | None = None) -> PutReport:
        """Store what `source` gives as an image; only blocks that are not held are written.

        When this returns, the image survives a power cut. Raises `StoreUnavailable`, `StoreChanged`.
        """
        return put_image(self, source, progress)

    def has(self, image_id: str) -> bool:
        """Whether the image's manifest is there."""
        return self.objects.exists(manifest_path(image_id))

    def open(self, image_id: str) -> ImageReader:
        """Open an image for reading. Raises `ImageNotFound`, `CorruptBlock`."""
        return ImageReader(self, self.manifest(image_id))

    def delete(self, image_id: str) -> None:
        """Take the manifest away, if it is there; `collect` frees the packs that nothing else needs."""
        self.objects.delete(manifest_path(image_id))

    def images(self) -> Iterator[str]:
        """Yield the ids of the images that are there."""
        for found in self.objects.list("manifests/"):
            image_id = found.path.rsplit("/", 1)[1]
            if IMAGE_ID.fullmatch(image_id):
                yield image_id

    def stat(self, image_id: str) -> ImageStat:
        """Return what the manifest says. Raises `ImageNotFound`, `CorruptBlock`."""
        manifest = self.manifest(image_id)
        return ImageStat(
            manifest.size_bytes,
            manifest.data_blocks * BLOCK_BYTES,
            len(manifest.packs),
            manifest.stored_bytes,
        )

    def stats(self) -> StoreStat:
        """Count what the prefix holds, by listing it."""
        packs = list(self.objects.list("packs/"))
        manifests = list(self.objects.list("manifests/"))
        return StoreStat(
            images=len(manifests),
            packs=len(packs),
            pack_bytes=sum(pack.size_bytes for pack in packs),
            manifest_bytes=sum(manifest.size_bytes for manifest in manifests),
            quarantined_packs=len(self.quarantined_packs()),
        )

    def manifest(self, image_id: str) -> Manifest:
        """Read an image's manifest. Raises `ImageNotFound`, `CorruptBlock`."""
        return read_manifest(self.objects, self.name, self.key, image_id)

    def refresh_index(self) -> None:
        """Follow what other writers and `collect` have done since; every write begins with this."""
        began = self.index.begin_refresh()
        excluded = self.quarantined_packs() | self.packs_of(MARKS) | self.packs_of(DOOMED)
        listed = [found.path.rsplit("/", 1)[1] for found in self.objects.list("packs/")]
        self.index.refresh(began, listed, excluded, self._load_digests)

    def commit_manifest(self, writer: ManifestWriter) -> int:
        """Make a finished manifest durable, and check that what it relies on is going to stay.

        Returns the bytes written, 0 when a whole manifest of this image is there already. Raises
        `StoreChanged` when `collect` took a pack meanwhile: then write the image again.
        """
        image_id = writer.image_id
        version = self._version_to_replace(image_id)
        stored_bytes = writer.commit(version)
        if version is not None and not stored_bytes:
            raise StoreChanged(f"Store '{self.name}': another writer mended image {image_id}, or it is gone.")
        try:
            lost = self.unreliable_packs(self.manifest(image_id).packs)
        except ImageNotFound:
            raise StoreChanged(f"Store '{self.name}': image {image_id} was deleted meanwhile.") from None
        if lost:
            self.index.forget(lost)
            raise StoreChanged(f"Store '{self.name}': {len(lost)} packs of image {image_id} were collected.")
        return stored_bytes

    def unreliable_packs(self, packs: Iterable[str]) -> set[str]:
        """Return those of `packs` that are missing, quarantined or about to be deleted.

        The order matters: a pack that is not doomed now either is gone already, which the second look
        sees, or is doomed later, after which `collect` lists the manifests again.
        """
        wanted = set(packs)
        lost = wanted & (self.packs_of(DOOMED) | self.quarantined_packs())
        if len(wanted) > FEW_PACKS:
            listed = {found.path.rsplit("/", 1)[1] for found in self.objects.list("packs/")}
            return lost | (wanted - listed)
        return lost | {pack_id for pack_id in wanted if not self.objects.exists(pack_path(pack_id))}

    def quarantine(self, pack_id: str, reason: str) -> None:
        """Let no writer rely on this pack any more; readers still use what is good in it."""
        self.index.forget([pack_id])
        self.objects.put(QUARANTINE + pack_id, reason.encode())

    def quarantined_packs(self) -> set[str]:
        """Return the ids of the packs that were found damaged."""
        return {found.path.rsplit("/", 1)[1] for found in self.objects.list(QUARANTINE)}

    def packs_of(self, folder: str) -> set[str]:
        """Return the packs that the lists in `folder` (`MARKS` or `DOOMED`) name."""
        packs: set[str] = set()
        for found in self.objects.list(folder):
            try:
                packs.update(json.loads(self.objects.get(found.path))["packs"])
            except FileNotFoundError:
                continue
            except (ValueError, KeyError, TypeError):
                # Damaged: `collect` deletes it.
                continue
        return packs

    def _version_to_replace(self, image_id: str) -> str | None:
        """Return the version of an image's manifest that cannot be relied on, if that is what is there."""
        try:
            version = self.objects.version(manifest_path(image_id))
        except FileNotFoundError:
            return None
        return None if self._is_whole(image_id) else version

    def _is_whole(self, image_id: str) -> bool:
        try:
            manifest = self.manifest(image_id)
            for segment in manifest.sections:
                read_runs(self.objects, self.name, self.key, manifest, segment)
            return not self.unreliable_packs(manifest.packs)
        except (CorruptBlock, ImageNotFound):
            return False

    def _load_digests(self, pack_id: str) -> Digests | None:
        try:
            return read_footer(self, pack_id).digests
        except CorruptBlock:
            # Its blocks are stored again where they are needed; `verify` reports it.
            return None

    def _check_format(self) -> None:
        wanted = {"format": FORMAT, "block_size": BLOCK_BYTES, "key_check": self.key.check}
        if not self.objects.exists(FORMAT_PATH):
            self.objects.put(FORMAT_PATH, json.dumps(wanted, indent=1).encode() + b"\n")
        try:
            found: dict[str, Any] = dict(json.loads(self.objects.get(FORMAT_PATH)))
        except (ValueError, TypeError):
            raise UnsupportedFormat(
                f"Store '{self.name}' has a damaged {FORMAT_PATH}. Copy it from another store of this tenant."
            ) from None
        if found.get("format") != FORMAT or found.get("block_size") != BLOCK_BYTES:
            raise UnsupportedFormat(
                f"Store '{self.name}' has format {found.get('format')}; this release reads {FORMAT}. "
                "Open it with the release that wrote it, or a newer one."
            )
        if found.get("key_check") != self.key.check:
            raise WrongKey(
                f"Store '{self.name}' was written with another data key. Give the tenant's own key; "
                "check that the master key belongs to this installation."
            )
