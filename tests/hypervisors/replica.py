"""A replica for tests: serves one file in ranges to who shows the cookie, and fails when told to.

Usage: replica.py FILE PORT COOKIE [die|hang AFTER_REQUESTS]
Prints its port when it listens.
"""

import os
import re
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

file, port, cookie = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
fault, after_requests = (sys.argv[4], int(sys.argv[5])) if len(sys.argv) > 4 else ("", 0)
requests = 0


class Replica(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        global requests
        requests += 1
        if fault and requests > after_requests:
            os.kill(os.getpid(), signal.SIGKILL if fault == "die" else signal.SIGSTOP)
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        if self.headers.get("Cookie") != cookie:
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first, last, size = 0, file.stat().st_size - 1, file.stat().st_size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            first, last = int(wanted[1]), min(int(wanted[2] or last), last)
        self.send_response(206 if wanted else 200)
        self.send_header("Accept-Ranges", "bytes")
        # QEMU 7.2 forgets a request whose answer comes at once on a connection that it used before.
        self.send_header("Connection", "close")
        self.send_header("Content-Length", str(last - first + 1))
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        if with_body:
            with file.open("rb") as image:
                image.seek(first)
                self.wfile.write(image.read(last - first + 1))

    def log_message(self, *_: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", port), Replica)
print(server.server_port, flush=True)
server.serve_forever()
