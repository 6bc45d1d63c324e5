"""What the benchmarks measure: a server on a data folder of its own, and the commands that talk to it."""

import json
import os
import select
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GALLERY = ROOT / ".venv/bin/gallery"
AZ = ROOT / ".venv-az/bin/az"


class Subject:
    """`gallery serve` on `data`; can be started again and again."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.process: subprocess.Popen[str] | None = None
        self.environment: dict[str, str] = {}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])

    def start(self) -> float:
        """Start it; the seconds until it prints `ready`."""
        begun = time.perf_counter()
        with (self.data / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(
                [GALLERY, "serve", "--data", self.data, "--port", str(self.port)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout
        readable, _, _ = select.select([self.process.stdout], [], [], 60)
        line = self.process.stdout.readline() if readable else ""
        taken_s = time.perf_counter() - begun
        if not line.startswith("ready "):
            raise SystemExit(f"The server did not start:\n{(self.data / 'serve.log').read_text()[-4000:]}")
        if not self.environment:
            self.environment = {**os.environ, "HOME": str(self.data), **self._variables()}
        return taken_s

    def stop(self) -> None:
        """End it with SIGTERM and wait."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)

    def run(self, *words: object) -> Any:
        """Run a command with `gallery env`; its answer read from JSON. Fails when the command does."""
        done = subprocess.run(
            [str(word) for word in words], env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{shlex.join(map(str, words))} failed:\n{done.stderr}")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def seconds(self, *words: object) -> float:
        """Wall time of a command."""
        begun = time.perf_counter()
        self.run(*words)
        return time.perf_counter() - begun

    def _variables(self) -> dict[str, str]:
        lines = self.run_plain("env", "--data", self.data)
        words = (word for line in lines.splitlines() for word in shlex.split(line, comments=True))
        return dict(word.split("=", 1) for word in words if "=" in word)

    def run_plain(self, *words: object) -> str:
        """Run gallery without an account; what it prints."""
        command = [str(GALLERY), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@contextmanager
def subject(parent: Path | None = None) -> Iterator[Subject]:
    """A server on a fresh data folder that goes away afterwards."""
    with tempfile.TemporaryDirectory(prefix="gallery-bench-", dir=parent) as folder:
        Path(folder).chmod(0o711)  # machines run as another user
        server = Subject(Path(folder))
        try:
            yield server
        finally:
            server.stop()
