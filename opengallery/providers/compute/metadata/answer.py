"""Answers of the metadata service, and its errors: `{"error": ..., "error_description": ...}`."""

import json
from dataclasses import dataclass
from typing import Any

JSON = "application/json; charset=utf-8"


@dataclass(frozen=True)
class Answer:
    """What goes back to the guest. It may hold a token: it is never logged."""

    status: int
    body: bytes
    content_type: str = JSON


class MetadataError(Exception):
    """A refused request."""

    def __init__(self, description: str, error: str = "invalid_request", status: int = 400) -> None:
        """Say why, and what to do."""
        super().__init__(description)
        self.status = status
        self.body = {"error": error, "error_description": description}

    def answer(self) -> Answer:
        """The error as the guest gets it."""
        return answer(self.body, self.status)


def answer(body: Any, status: int = 200) -> Answer:
    """An answer in JSON."""
    return Answer(status, json.dumps(body).encode())
