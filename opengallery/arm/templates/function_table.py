"""Tables of template functions: what each is called, does, and how many arguments it takes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Function:
    """A function and how many arguments it takes; `most` is None when there is no end."""

    call: Callable[..., Any]
    least: int
    most: int | None


class FunctionTable(dict[str, Function]):
    """Functions by their name in lower case."""

    def entry(
        self, name: str, least: int, most: int | None = -1
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Enter a function that takes `least` to `most` arguments; `most` is `least` unless said."""

        def enter(call: Callable[..., Any]) -> Callable[..., Any]:
            self[name.lower()] = Function(call, least, least if most == -1 else most)
            return call

        return enter
