"""NBD: a client of the Network Block Device protocol, over a socket that is connected already.

The part that reads an export: fixed newstyle handshake, structured replies, the meta contexts
`base:allocation` and QEMU's `qemu:allocation-depth`, read and block status. Source: the protocol's proto.md, of 2022.
"""

import contextlib
import socket
import struct
from collections.abc import Iterator

NBD_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC = b"NBDMAGIC", b"IHAVEOPT", 0x3E889045565A9
FIXED_NEWSTYLE, NO_ZEROES = 1, 2
OPTION_STRUCTURED_REPLY, OPTION_SET_META_CONTEXT, OPTION_GO = 8, 10, 7
REPLY_ACK, REPLY_INFO, REPLY_META_CONTEXT, REPLY_ERROR = 1, 3, 4, 1 << 31
INFO_EXPORT = 0
REQUEST_MAGIC, SIMPLE_MAGIC, STRUCTURED_MAGIC = 0x25609513, 0x67446698, 0x668E33EF
READ, DISCONNECT, BLOCK_STATUS = 0, 2, 7
CHUNK_NONE, CHUNK_DATA, CHUNK_HOLE, CHUNK_STATUS, CHUNK_ERROR = 0, 1, 2, 5, 1 << 15
IS_LAST, IS_ZERO = 1, 2
ALLOCATION, DEPTH = b"base:allocation", b"qemu:allocation-depth"
STATUS_MAX_BYTES = 1 << 30
PIECE_MAX_BYTES = 64 << 20
REQUEST_BYTES = 1 << 20


class NbdError(Exception):
    """The server closed, fell silent, answered with an error, or answered nonsense."""


class NbdExport:
    """The default export of a server. For one thread at a time."""

    def __init__(self, connection: socket.socket) -> None:
        """Shake hands over `connection`, whose time-out bounds every wait. Raises `NbdError`."""
        self._socket = connection
        self._handle = 0
        self._contexts: dict[bytes, int] = {}
        self.size_bytes = 0
        with _translated():
            self._negotiate()

    def read_into(self, offset: int, memory: memoryview) -> None:
        """Fill `memory` from byte `offset`; all of it lies inside the export. Raises `NbdError`.

        Asked for in several requests at once, so that the server works on one while another is sent.
        """
        with _translated():
            asked = {}
            for start in range(0, len(memory), REQUEST_BYTES):
                length = min(REQUEST_BYTES, len(memory) - start)
                asked[self._request(READ, offset + start, length)] = (start, start + length)
            while asked:
                handle, kind, is_last, size = self._chunk()
                if handle not in asked:
                    raise NbdError("a reply to another question")
                self._take(kind, size, offset, memory, *asked[handle])
                if is_last:
                    del asked[handle]

    def _take(self, kind: int, size: int, offset: int, memory: memoryview, low: int, high: int) -> None:
        """Take a part of a reply to a read of `memory[low:high]`."""
        if kind == CHUNK_NONE:
            return
        if kind not in (CHUNK_DATA, CHUNK_HOLE) or size < (12 if kind == CHUNK_HOLE else 9):
            raise NbdError(f"a reply of kind {kind}")
        start = struct.unpack(">Q", self._receive(8))[0] - offset
        length = struct.unpack(">I", self._receive(4))[0] if kind == CHUNK_HOLE else size - 8
        if not low <= start <= start + length <= high:
            raise NbdError("data outside of what was asked for")
        if kind == CHUNK_HOLE:
            memory[start : start + length] = bytes(length)
        else:
            self._receive_into(memory[start : start + length])

    def data(self) -> Iterator[tuple[int, int]]:
        """Yield (offset, length) of what does not read as zeros, in order. Raises `NbdError`."""
        offset = 0
        while offset < self.size_bytes:
            length = min(STATUS_MAX_BYTES, self.size_bytes - offset)
            if ALLOCATION not in self._contexts:
                yield offset, length
                offset += length
                continue
            for extent, flags in self._statuses(offset, length)[ALLOCATION]:
                extent = min(extent, self.size_bytes - offset)
                if not flags & IS_ZERO:
                    yield offset, extent
                offset += extent

    def own(self) -> Iterator[tuple[int, int, bool]]:
        """Yield (offset, length, whether it reads as zeros) of what the file itself decides, in order.

        The rest is for a backing file to say. Raises `NbdError`, also when the server doesn't tell.
        """
        if not {ALLOCATION, DEPTH} <= self._contexts.keys():
            raise NbdError("the server does not tell what the file itself holds")
        offset = 0
        while offset < self.size_bytes:
            found = self._statuses(offset, min(STATUS_MAX_BYTES, self.size_bytes - offset))
            # Each context divides the disk at places of its own.
            allocation, depth = found[ALLOCATION], found[DEPTH]
            zeros, owned = iter(allocation), iter(depth)
            end = min(sum(length for length, _ in allocation), sum(length for length, _ in depth))
            left_zero = left_own = 0
            flags = level = 0
            while end > 0:
                if not left_zero:
                    left_zero, flags = next(zeros)
                if not left_own:
                    left_own, level = next(owned)
                length = min(left_zero, left_own, end, self.size_bytes - offset)
                if length <= 0:
                    break
                if level:
                    yield offset, length, bool(flags & IS_ZERO)
                left_zero, left_own, end, offset = (
                    left_zero - length,
                    left_own - length,
                    end - length,
                    offset + length,
                )

    def close(self) -> None:
        """Tell the server to end, and hang up."""
        with contextlib.suppress(OSError):
            self._request(DISCONNECT, 0, 0)
        self._socket.close()

    def _negotiate(self) -> None:
        head = self._receive(18)
        if head[:16] != NBD_MAGIC + OPTION_MAGIC:
            raise NbdError("this is no NBD server")
        flags = struct.unpack(">H", head[16:])[0]
        if not flags & FIXED_NEWSTYLE:
            raise NbdError("the server is too old")
        self._socket.sendall(struct.pack(">I", FIXED_NEWSTYLE | (flags & NO_ZEROES)))
        self._option(OPTION_STRUCTURED_REPLY, b"")
        names = b"".join(struct.pack(">I", len(name)) + name for name in (ALLOCATION, DEPTH))
        for kind, content in self._option(OPTION_SET_META_CONTEXT, struct.pack(">II", 0, 2) + names):
            if kind == REPLY_META_CONTEXT:
                self._contexts[content[4:]] = struct.unpack(">I", content[:4])[0]
        for kind, content in self._option(OPTION_GO, struct.pack(">IH", 0, 0)):
            if kind & REPLY_ERROR:
                raise NbdError(content.decode(errors="replace") or "the server refused")
            if kind == REPLY_INFO and struct.unpack(">H", content[:2])[0] == INFO_EXPORT:
                self.size_bytes = struct.unpack(">Q", content[2:10])[0]

    def _option(self, option: int, content: bytes) -> list[tuple[int, bytes]]:
        """Send an option; its replies, the acknowledgement left out."""
        self._socket.sendall(OPTION_MAGIC + struct.pack(">II", option, len(content)) + content)
        replies: list[tuple[int, bytes]] = []
        while True:
            magic, echoed, kind, size = struct.unpack(">QIII", self._receive(20))
            if magic != OPTION_REPLY_MAGIC or echoed != option or size > PIECE_MAX_BYTES:
                raise NbdError("nonsense in the handshake")
            reply = self._receive(size)
            if kind == REPLY_ACK:
                return replies
            replies.append((kind, reply))
            if kind & REPLY_ERROR:
                return replies

    def _request(self, command: int, offset: int, length: int) -> int:
        self._handle += 1
        self._socket.sendall(struct.pack(">IHHQQI", REQUEST_MAGIC, 0, command, self._handle, offset, length))
        return self._handle

    def _chunk(self) -> tuple[int, int, bool, int]:
        """The head of the next part of a reply: to what, its kind, whether it is the last, bytes that follow."""
        magic = struct.unpack(">I", self._receive(4))[0]
        if magic != STRUCTURED_MAGIC:
            raise NbdError("a reply without structure")
        flags, kind, answered, size = struct.unpack(">HHQI", self._receive(16))
        if size > PIECE_MAX_BYTES:
            raise NbdError("a reply of too many bytes")
        if kind & CHUNK_ERROR:
            content = self._receive(size)
            raise NbdError(content[6:].decode(errors="replace") or f"error {content[:4].hex()}")
        return answered, kind, bool(flags & IS_LAST), size

    def _statuses(self, offset: int, length: int) -> dict[bytes, list[tuple[int, int]]]:
        """By meta context, (length, flags) of what follows `offset`, one piece at least."""
        with _translated():
            found = self._status(offset, length)
        statuses = {name: found.get(number, []) for name, number in self._contexts.items()}
        for extents in statuses.values():
            if not extents:
                raise NbdError("no status of a block")
            if min(extent for extent, _ in extents) <= 0:
                raise NbdError("a status of nothing")
        return statuses

    def _status(self, offset: int, length: int) -> dict[int, list[tuple[int, int]]]:
        handle = self._request(BLOCK_STATUS, offset, length)
        found: dict[int, list[tuple[int, int]]] = {}
        is_last = False
        while not is_last:
            answered, kind, is_last, size = self._chunk()
            if answered != handle:
                raise NbdError("a reply to another question")
            content = self._receive(size)
            if kind == CHUNK_STATUS and size % 8 == 4:
                number = struct.unpack(">I", content[:4])[0]
                found.setdefault(number, []).extend(struct.iter_unpack(">II", content[4:]))
        return found

    def _receive(self, length: int) -> bytes:
        content = bytearray(length)
        self._receive_into(memoryview(content))
        return bytes(content)

    def _receive_into(self, room: memoryview) -> None:
        while room:
            count = self._socket.recv_into(room)
            if not count:
                raise NbdError("it closed the connection")
            room = room[count:]


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise NbdError("it gave no answer in time") from error
    except (OSError, struct.error) as error:
        raise NbdError(str(error)) from error
