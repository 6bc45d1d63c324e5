"""The HTTPS port of this machine, led on to another one.

Before it sends a password, MSAL asks the authority's host which realm the user is of, and leaves the port
out: it always asks port 443. So `az login -u NAME -p PASSWORD` needs the server to be reached there.
"""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator

HTTPS_PORT = 443


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    target = 0


class _Connection(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Server)
        with socket.create_connection(("127.0.0.1", self.server.target)) as other:
            back = threading.Thread(target=_pipe, args=(other, self.request), daemon=True)
            back.start()
            _pipe(self.request, other)
            back.join()


def _pipe(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def https_port_led_to(port: int) -> Iterator[None]:
    """While the block runs, 127.0.0.1:443 is 127.0.0.1:`port`. Raises `OSError` when it can't be had."""
    with _Server(("127.0.0.1", HTTPS_PORT), _Connection) as server:
        server.target = port
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield
        server.shutdown()
        thread.join()
