"""A bounded cache of what readers have decompressed and checked: frames, footers, segment layouts."""

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Any

DEFAULT_BYTES = 256 << 20


class FrameCache:
    """The most recently used values up to `max_bytes` together. One can serve every reader."""

    def __init__(self, max_bytes: int = DEFAULT_BYTES) -> None:
        """Start empty."""
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable) -> Any:
        """Return the value and make it the most recent; None when it is not here."""
        with self._lock:
            found = self._values.get(key)
            if found is None:
                return None
            self._values.move_to_end(key)
            return found[0]

    def put(self, key: Hashable, value: Any, size_bytes: int) -> None:
        """Keep `value`, and drop the least recently used ones beyond the bound."""
        with self._lock:
            old = self._values.pop(key, None)
            if old is not None:
                self.used_bytes -= old[1]
            self._values[key] = (value, size_bytes)
            self.used_bytes += size_bytes
            while self.used_bytes > self.max_bytes and self._values:
                _, (_, dropped_bytes) = self._values.popitem(last=False)
                self.used_bytes -= dropped_bytes

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._values.clear()
            self.used_bytes = 0
