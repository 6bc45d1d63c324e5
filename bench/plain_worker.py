"""A worker that does not encrypt, to measure what encryption costs. For the benchmark alone.

Imported, it takes encryption out of the process that imports it; run, it is a worker process.
"""

import runpy

from opengallery.imagestore import keys


class _Plain:
    def __init__(self, key: bytes, tag: bytes) -> None:
        pass

    def seal(self, plain: bytes, context: bytes = b"") -> bytes:
        return bytes(keys.SEAL_OVERHEAD_BYTES) + plain

    def open(self, sealed: bytes | memoryview, context: bytes = b"") -> bytes:
        return bytes(sealed[keys.SEAL_OVERHEAD_BYTES :])


keys.Seal = _Plain  # type: ignore[assignment,misc]

if __name__ == "__main__":
    runpy.run_module("opengallery.imagestore.worker", run_name="__main__")
