"""The end of the run: this file comes after all others, which need the server."""

from .running import Server


def test_the_server_ends_cleanly(server: Server) -> None:
    assert server.stop() == 0
    assert server.children() == []
