"""Failed attempts of the last while, counted for each account and for each address.

What is counted is bounded: when too many names have failed, those that failed longest ago are forgotten.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable

NAMES_MAX = 16 * 1024
KEPT_MAX = 1024


class Failures:
    """The times of failures by name. Safe to use from many threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Start with none. `clock` gives seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def add(self, name: str) -> None:
        """`name` failed now."""
        with self._lock:
            self._times.setdefault(name, deque(maxlen=KEPT_MAX)).append(self._clock())
            self._times.move_to_end(name)
            while len(self._times) > NAMES_MAX:
                self._times.popitem(last=False)

    def wait_s(self, name: str, failures_max: int, window_s: float) -> int:
        """How long `name` has to wait, in whole seconds; 0 when it may try.

        It has to when it failed `failures_max` times in the last `window_s` seconds.
        """
        with self._lock:
            times = self._times.get(name)
            if times is None:
                return 0
            oldest_s = self._clock() - window_s
            while times and times[0] <= oldest_s:
                times.popleft()
            if not times:
                del self._times[name]
                return 0
            if len(times) < failures_max:
                return 0
            return max(1, round(times[-failures_max] - oldest_s))
