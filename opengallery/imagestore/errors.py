"""What can go wrong in an image store, each in one class."""


class ImageStoreError(Exception):
    """The base of every error that this package raises by itself."""


class CorruptBlock(ImageStoreError):
    """Stored bytes are missing or do not match their digest; none of them are given out.

    A sibling replica can serve the block; `verify.quarantine` and `transfer` repair this store.
    """

    def __init__(self, store: str, pack: str, digest: str, reason: str) -> None:
        """`store` by name; `pack` and `digest` in hex, empty where they are not known."""
        self.store, self.pack, self.digest, self.reason = store, pack, digest, reason
        where = f"pack {pack}" if pack else "manifest"
        super().__init__(
            f"Store '{store}', {where}: {reason}"
            + (f" (digest {digest})" if digest else "")
            + ". Read from another replica and repair this one."
        )


class ImageNotFound(ImageStoreError):
    """The store has no manifest for this image."""

    def __init__(self, store: str, image_id: str) -> None:
        """`store` by name."""
        self.store, self.image_id = store, image_id
        super().__init__(f"Store '{store}' has no image {image_id}.")


class UnusableImage(ImageStoreError):
    """A source file that cannot become an image; the message says what to do about it."""

    def __init__(self, reason: str) -> None:
        """`reason` is a whole sentence for the user."""
        self.reason = reason
        super().__init__(reason)


class WrongKey(ImageStoreError):
    """The data key is not the one that this prefix of the store was written with."""


class UnsupportedFormat(ImageStoreError):
    """The store was written in a format that this release does not know."""


class StoreUnavailable(ImageStoreError):
    """The objects under a store cannot be reached or written: full, read-only, gone."""


class StoreChanged(ImageStoreError):
    """What a write relied on was not there any more at its end, several times in a row."""


class UnreadableManifests(ImageStoreError):
    """Manifests are damaged, so nobody knows which packs they need, and nothing may be deleted."""

    def __init__(self, store: str, images: list[str]) -> None:
        """`store` by name; `images` by their ids."""
        self.store, self.images = store, images
        super().__init__(
            f"Store '{store}': nothing is deleted while the manifest of an image cannot be read: "
            f"{', '.join(images)}. Repair it from another replica, or delete that image."
        )


class IndexMismatch(ImageStoreError):
    """The index named a place that holds another block. It is thrown away and built again."""
