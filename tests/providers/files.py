"""A small web server on the loopback, for the images that a server fetches."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Answers GET with what `files` has under the path; `asked` lists the paths that were asked for.

    A file that is an int is a redirect to `/allowed/other`, with that status. `hold` keeps answers back.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes | int] = {}
        self.asked: list[str] = []
        self.flowing = threading.Event()
        self.flowing.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                content = outer.files.get(self.path, 404)
                if isinstance(content, int):
                    self.send_response(content)
                    self.send_header("Location", f"{outer.url}/allowed/other")
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                half = len(content) // 2
                self.wfile.write(content[:half])
                outer.flowing.wait(60)
                self.wfile.write(content[half:])

            def log_message(self, *_arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End serving."""
        self.flowing.set()
        self._server.shutdown()
        self._server.server_close()
