"""Workers: one process a core for the tasks of `bulk`, because 4 KiB digests need the GIL.

A job runs in one of the pool's threads, with that thread's `Worker` at hand. As long as little is to be
done, and while the processes start, tasks run in the threads themselves; a worker that dies costs a task
that is done again here. Processes are spawned, never forked (the server has threads), get the data key
through their socket, and end with the process that started them.
"""

import atexit
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from socket import socketpair
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from opengallery.imagestore import bulk
from opengallery.imagestore.arena import MAP, Arena
from opengallery.imagestore.keys import DataKey

P = ParamSpec("P")
T = TypeVar("T")

# Frames of 4 MiB of blocks at once, sealed and open.
SCRATCH_BYTES: Final = 4 << 20
SCRATCH_SEALED_BYTES: Final = SCRATCH_BYTES + (256 << 10)
MAX_FREE_ARENAS = 2
# -P: nothing is imported from the folder that the server happens to run in.
COMMAND = [sys.executable, "-P", "-m", "opengallery.imagestore.worker"]
MAX_FAILED_STARTS = 3


class Worker:
    """One process, for one thread of the pool."""

    def __init__(self, pool: "WorkerPool") -> None:
        """Start nothing yet."""
        self._pool = pool
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._is_ready = False
        self._known: set[int] = set()
        self._scratch: Arena | None = None
        self._failed_starts = 0

    @property
    def scratch(self) -> Arena:
        """Memory for one call: sealed frames at 0, blocks at `SCRATCH_SEALED_BYTES`."""
        if self._scratch is None:
            self._scratch = Arena(SCRATCH_SEALED_BYTES + SCRATCH_BYTES, is_shared=True)
        return self._scratch

    def run(self, task: str, arena: Arena, key: DataKey, *arguments: object) -> Any:
        """Do a task of `bulk` on `arena`: in the process when it is there, else here."""
        if arena.file is not None and self._is_there():
            try:
                return self._ask(task, arena, arena.file, key, arguments)
            except (OSError, EOFError):
                self.stop()
        return bulk.TASKS[task](arena.memory, key, *arguments)

    def stop(self) -> None:
        """End the process."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None
        self._is_ready = False
        self._known.clear()

    def _ask(self, task: str, arena: Arena, file: int, key: DataKey, arguments: tuple[object, ...]) -> Any:
        connection, process = self._connection, self._process
        assert connection is not None
        assert process is not None
        if arena.number not in self._known:
            connection.send((MAP, arena.number, arena.size_bytes))
            send_handle(connection, file, process.pid)
            self._known.add(arena.number)
        connection.send((task, arena.number, key.secret, *arguments))
        return connection.recv()

    def _is_there(self) -> bool:
        """Whether the process can be asked; starts it when there is much to do."""
        try:
            if self._connection is None:
                if self._pool.has_much_to_do and self._failed_starts < MAX_FAILED_STARTS:
                    self._start()
            elif self._connection.poll(0):
                # It is ready, or `recv` raises: it had nothing to do for a while, or cannot start.
                self._connection.recv()
                self._is_ready = True
                self._failed_starts = 0
        except (OSError, EOFError):
            self._failed_starts += not self._is_ready
            self._pool.has_much_to_do = False
            self.stop()
        return self._is_ready

    def _start(self) -> None:
        ours, theirs = socketpair()
        with theirs:
            self._connection = Connection(ours.detach())
            self._process = subprocess.Popen(
                [*COMMAND, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )


class WorkerPool:
    """Threads with a worker each, as many as there are cores, and arenas that workers see.

    A job must not wait for another job.
    """

    def __init__(self, size: int) -> None:
        """Start threads and processes when they are needed first."""
        self.size = size
        self.process_id = os.getpid()
        self.has_much_to_do = False
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="bulk")
        self._local = threading.local()
        self._lock = threading.Lock()
        self._arenas: list[Arena] = []
        self._workers: list[Worker] = []

    def submit(
        self, job: Callable[Concatenate[Worker, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Run `job(worker, ...)` in a thread of the pool."""
        return self._threads.submit(self._run, job, args, kwargs)

    def expect_much(self) -> None:
        """Say that more is to be done than starting the processes costs."""
        self.has_much_to_do = self.size > 1

    def borrow(self, size_bytes: int) -> Arena:
        """Return an arena of `size_bytes` that workers see; give it back when no job uses it any more."""
        with self._lock:
            for arena in self._arenas:
                if arena.size_bytes == size_bytes:
                    self._arenas.remove(arena)
                    return arena
        return Arena(size_bytes, is_shared=True)

    def give_back(self, arena: Arena) -> None:
        """Take an arena back; its memory goes to the system at once."""
        with suppress(OSError):
            arena.release_pages()
        with self._lock:
            if len(self._arenas) < MAX_FREE_ARENAS:
                self._arenas.append(arena)
                return
        arena.close()

    def close(self) -> None:
        """End the threads and the processes, when they are this process's own."""
        if self.process_id != os.getpid():
            return
        self._threads.shutdown()
        for own in self._workers:
            own.stop()

    def _run(self, job: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        own = getattr(self._local, "worker", None)
        if own is None:
            own = self._local.worker = Worker(self)
            self._workers.append(own)
        return job(own, *args, **kwargs)


_pool: WorkerPool | None = None
_pool_lock = threading.Lock()


def workers() -> WorkerPool:
    """Return the pool of this process."""
    global _pool
    with _pool_lock:
        if _pool is None or _pool.process_id != os.getpid():
            _pool = WorkerPool(max(1, min(8, len(os.sched_getaffinity(0)))))
            atexit.register(_pool.close)
        return _pool
