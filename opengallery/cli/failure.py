"""How a command ends badly: it failed (exit 1), or it was called wrongly (exit 2)."""

from collections.abc import Sequence
from typing import Any

import typer


class Misuse(typer.BadParameter):
    """The command line makes no sense; the message says what to write instead. Exit code 2."""

    def format_message(self) -> str:
        """The message alone: it names the option itself."""
        return self.message


class CommandFailed(Exception):
    """A command could not do what it was asked. `str()` is what the user reads on stderr. Exit code 1."""

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        target: str | None = None,
        details: Sequence["CommandFailed"] = (),
        status: int | None = None,
        result: Any = None,
    ) -> None:
        """`code`, `target` and `details` are those of an ARM error, `status` that of the HTTP answer.

        `result` is printed all the same, on standard output.
        """
        super().__init__(message)
        self.message = message
        self.code = code
        self.target = target
        self.details = tuple(details)
        self.status = status
        self.result = result

    def __str__(self) -> str:
        lines = [f"({self.code}) {self.message}" if self.code else self.message]
        if self.target:
            lines.append(f"Target: {self.target}")
        for detail in self.details:
            first, *rest = str(detail).splitlines()
            lines += [f"- {first}", *(f"  {line}" for line in rest)]
        return "\n".join(lines)

    @classmethod
    def from_error(cls, error: Any, status: int | None = None) -> "CommandFailed":
        """Read an ARM error: `{"code", "message", "target", "details"}`."""
        if not isinstance(error, dict):
            return cls(str(error), status=status)
        return cls(
            str(error.get("message") or "The server gave no reason."),
            code=error.get("code"),
            target=error.get("target"),
            details=[cls.from_error(detail) for detail in error.get("details") or ()],
            status=status,
        )
