"""The server under test and the shell that drives it: `gallery serve`, az, gallery."""

import json
import os
import select
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opengallery.arm.resource_id import ResourceId

ROOT = Path(__file__).parents[2]
GALLERY = ROOT / ".venv/bin/gallery"
AZ_PYTHON = ROOT / ".venv-az/bin/python"
BOOT_IMAGE = ROOT / ".cache/boot.raw"
READY_TIMEOUT_S = 60


class CommandRefused(Exception):
    """A command exited with something else than 0; the message holds what it said."""


class Server:
    """`gallery serve` on a data folder of its own."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.log = data / "serve.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [GALLERY, "serve", "--data", data, "--port", str(free_port())],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Wait for the line `ready`. Fails with the log when it doesn't come."""
        assert self.process.stdout
        readable, _, _ = select.select([self.process.stdout], [], [], READY_TIMEOUT_S)
        first = self.process.stdout.readline() if readable else ""
        assert first.startswith("ready https://localhost:"), f"{first!r}\n{self.log_tail()}"

    def environment(self) -> dict[str, str]:
        """What `eval "$(gallery env --data DIR)"` puts into a shell."""
        lines = subprocess.run(
            [GALLERY, "env", "--data", self.data], capture_output=True, text=True, check=True
        ).stdout
        words = (word for line in lines.splitlines() for word in shlex.split(line, comments=True))
        return dict(word.split("=", 1) for word in words if "=" in word)

    def stop(self) -> int:
        """End it with SIGTERM; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def children(self) -> list[str]:
        """Command lines of the processes that were started for this data folder, machines included."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) not in (os.getpid(), self.process.pid):
                try:
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except OSError:
                    continue
                if f"{self.data}/" in line:
                    found.append(line)
        return found

    def log_tail(self) -> str:
        """The last lines that the server wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-60:])


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Shell:
    """Runs az and gallery as a user would, after the lines of `gallery env`."""

    def __init__(self, environment: dict[str, str], home: Path) -> None:
        self.variables = environment
        self.environment = {
            "PATH": f"{ROOT / '.venv-az/bin'}:{os.environ['PATH']}",
            "HOME": str(home),  # az writes SSH keys there
            "LANG": "C.UTF-8",
            **environment,
        }

    def az(self, *words: object) -> Any:
        """Run az; its answer read from JSON, None when it printed nothing."""
        return self._run(ROOT / ".venv-az/bin/az", *words, "--only-show-errors", "-o", "json")

    def gallery(self, *words: object) -> Any:
        """Run gallery; its answer read from JSON."""
        return self._run(GALLERY, *words, "-o", "json")

    def refused(self, *words: object) -> str:
        """Run az, which has to fail; what it printed on standard error."""
        with pytest.raises(CommandRefused) as caught:
            self.az(*words)
        message = str(caught.value)
        assert "Traceback" not in message, message
        return message

    def python(self, *words: object) -> None:
        """Run the Python that az runs on, which has the Azure SDK."""
        self._run(AZ_PYTHON, *words)

    def _run(self, *words: object) -> Any:
        command = [str(word) for word in words]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            shown = shlex.join(command).replace(self.variables["AZURE_CLIENT_SECRET"], "...")
            raise CommandRefused(f"{shown}: exit {done.returncode}\n{done.stderr}")
        return json.loads(done.stdout) if done.stdout.strip() else None


class Group:
    """The resource group of the announcement, and the ids in it."""

    def __init__(self, shell: Shell) -> None:
        self.id = ResourceId(shell.variables["AZURE_SUBSCRIPTION_ID"], "myResourceGroup")

    def compute(self, kind: str, name: str) -> str:
        """Id of `Microsoft.Compute/{kind}`."""
        return str(self.id.child(f"Microsoft.Compute/{kind}", name))

    def version(self, name: str) -> str:
        """Id of a version of the announcement's image definition."""
        return f"{self.compute('galleries', 'myGallery')}/images/myImageDefinition/versions/{name}"


def until(
    condition: Callable[[], Any],
    timeout_s: float = 600,
    every_s: float = 0.5,
    seen: Callable[[], str] = lambda: "",
) -> Any:
    """The first true answer of `condition`. Fails when none comes in time, and tells what was `seen`.

    The time is for machines that boot without hardware's help on a host that is busy with others.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        answer = condition()
        if answer:
            return answer
        time.sleep(every_s)
    raise AssertionError(f"nothing came within {timeout_s} s. {seen()}")
