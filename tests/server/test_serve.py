"""`gallery serve`: what it refuses, what it leaves, and what it keeps secret."""

import os
import socket
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from .serving import COMMAND, Gallery, free_port


def serve(*words: object) -> subprocess.CompletedProcess[str]:
    """A server that has to refuse to serve."""
    command = [str(word) for word in (COMMAND, "serve", *words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """It ended with status 1 and a message in which these words stand, and no traceback."""
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stderr.startswith("gallery serve: "), done.stderr
    for word in words:
        assert word in done.stderr


def test_a_second_server_on_the_same_folder_is_refused(gallery: Gallery) -> None:
    refused(serve("--data", gallery.data, "--port", free_port()), "Another server runs on", str(gallery.data))
    assert gallery.ask("GET", "resourcegroups").status_code == 200


def test_a_port_that_is_taken_is_refused(data: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(serve("--data", data, "--port", port), f"Can't listen on port {port}", "--port")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("port = 'x'", "port"),
        ("port = -3", "port"),
        ("port = 70000", "port"),
        ("data = '/tmp'", "--data"),
        ("# \udce9", "settings.toml"),
        ("colour = 1", "colour"),
        ("port = ", "settings.toml"),
        ("profile = 'future'", "profile"),
        ("database_url = 'postgresql+psycopg://a:hidden@127.0.0.1:1/x'", "database"),
        ("database_url = 'nothing'", "database"),
        ("[regions.atlantis]\nstores = [{name = 'a', path = '/tmp/a'}]", "atlantis"),
    ],
)
def test_an_unusable_setting_is_named(data: Path, content: str, word: str) -> None:
    config = data.parent / "settings.toml"
    config.write_text(content, encoding="utf-8", errors="surrogateescape")
    done = serve("--data", data, "--port", free_port(), "--config", config)
    refused(done, word)
    assert "hidden" not in done.stderr


def test_an_unusable_folder_is_named(data: Path) -> None:
    data.write_text("a file")
    done = serve("--data", data / "below", "--port", free_port())
    refused(done, str(data))
    missing = data.parent / "none.toml"
    refused(serve("--data", data.parent / "other", "--config", missing), str(missing))


def test_the_folder_and_what_is_in_it_are_for_one_user_alone(gallery: Gallery) -> None:
    gallery.put("resourcegroups/one", {"location": "westeurope"})
    assert stat.S_IMODE(gallery.data.stat().st_mode) == 0o700
    for path in gallery.data.rglob("*"):
        if path.is_file():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 or path.suffix in (".pem", ".crt"), path
    assert gallery.terminate() == 0


def test_a_server_that_was_ended_serves_again_what_it_kept(gallery: Gallery) -> None:
    gallery.put("resourcegroups/one", {"location": "westeurope"})
    assert gallery.terminate() == 0
    assert gallery.pids() == []
    gallery.serve()
    assert gallery.get("resourcegroups/one")["location"] == "westeurope"
    gallery.kill()
    gallery.serve()
    assert gallery.get("resourcegroups/one")["location"] == "westeurope"


def test_a_client_that_does_not_speak_delays_nobody(gallery: Gallery) -> None:
    silent = [socket.create_connection(("127.0.0.1", gallery.port)) for _ in range(50)]
    answers: list[int] = []
    asking = threading.Thread(target=lambda: answers.append(gallery.ask("GET", "resourcegroups").status_code))
    asking.start()
    asking.join(20)
    assert answers == [200]
    assert gallery.terminate() == 0
    for connection in silent:
        connection.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives its machines to another user")
def test_a_missing_user_for_machines_is_named(data: Path) -> None:
    config = data.parent / "settings.toml"
    config.write_text("[machines]\nuser = 'nosuchuser'")
    refused(serve("--data", data, "--port", free_port(), "--config", config), "nosuchuser")
