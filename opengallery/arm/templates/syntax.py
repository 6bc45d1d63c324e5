"""The grammar of template expressions: text in, tree out.

    expression = primary { "." name | "[" expression "]" }
    primary    = name "(" [ expression { "," expression } ] ")" | 'text' | integer

A string literal is quoted with ' and writes it twice to contain one. Names are case-insensitive.
Source: Azure Resource Manager, "Syntax and expressions in ARM templates".
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from opengallery.arm.templates.errors import TemplateError

MAX_LENGTH = 24_576  # characters of one expression, ARM's limit
MAX_DEPTH = 64  # expressions inside expressions; Python's own stack is the reason for a limit

_TOKEN = re.compile(
    r"(?P<space>\s+)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<integer>-?\d+)|(?P<text>'(?:[^']|'')*')|(?P<sign>[()\[\].,])"
)


@dataclass(frozen=True)
class Literal:
    """A text or an integer."""

    value: str | int


@dataclass(frozen=True)
class Call:
    """`name(arguments)`."""

    name: str
    arguments: tuple["Node", ...]


@dataclass(frozen=True)
class Member:
    """`target.name` and `target[key]`."""

    target: "Node"
    key: "Node"


Node = Literal | Call | Member


def is_expression(value: str) -> bool:
    """Whether a template's string is an expression: `[...]`, but not the escaped `[[...]`."""
    return value.startswith("[") and value.endswith("]") and not value.startswith("[[")


def unescape(value: str) -> str:
    """A string that is no expression, as it is meant: `[[x]` is the text `[x]`."""
    return value[1:] if value.startswith("[[") and value.endswith("]") else value


@lru_cache(maxsize=512)
def parse(value: str) -> Node:
    """The tree of an expression `[...]`. Raises `TemplateError`, which shows where the text goes wrong."""
    if len(value) > MAX_LENGTH:
        raise TemplateError(f"An expression has {len(value)} characters; at most {MAX_LENGTH} are possible.")
    parser = _Parser(value[1:-1])
    node = parser.expression(0)
    if parser.kind != "end":
        raise parser.unexpected()
    return node


def calls(node: Node) -> Iterator[Call]:
    """Every function call in a tree, the outer before the inner."""
    if isinstance(node, Call):
        yield node
        for argument in node.arguments:
            yield from calls(argument)
    elif isinstance(node, Member):
        yield from calls(node.target)
        yield from calls(node.key)


class _Parser:
    """Reads one expression; `kind` and `text` are the token it stands at."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.position = self.end = 0
        self.advance()

    def advance(self) -> None:
        while True:
            self.position = self.end
            if self.position == len(self.source):
                self.kind, self.text = "end", ""
                return
            match = _TOKEN.match(self.source, self.position)
            if match is None:
                self.kind, self.text = "unknown", self.source[self.position]
                raise self.unexpected()
            self.end = match.end()
            self.kind, self.text = match.lastgroup or "", match[0]
            if self.kind != "space":
                return

    def unexpected(self) -> TemplateError:
        found = f"'{self.text}'" if self.text else "the end"
        return TemplateError(
            f"The language expression '[{_shortened(self.source)}]' is not valid: "
            f"unexpected {found} at character {self.position + 1}."
        )

    def take(self, sign: str) -> None:
        if self.kind != "sign" or self.text != sign:
            raise self.unexpected()
        self.advance()

    def expression(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise TemplateError(f"An expression is nested deeper than {MAX_DEPTH} levels.")
        node = self.primary(depth)
        links = 0
        while self.kind == "sign" and self.text in ".[":
            links += 1
            if links > MAX_DEPTH:
                raise TemplateError(f"An expression reaches through more than {MAX_DEPTH} members.")
            if self.text == ".":
                self.advance()
                if self.kind != "name":
                    raise self.unexpected()
                node = Member(node, Literal(self.text))
                self.advance()
            else:
                self.advance()
                node = Member(node, self.expression(depth + 1))
                self.take("]")
        return node

    def primary(self, depth: int) -> Node:
        kind, text = self.kind, self.text
        if kind == "text":
            self.advance()
            return Literal(text[1:-1].replace("''", "'"))
        if kind == "integer":
            if not -(2**63) <= int(text[:21]) < 2**63:
                raise self.unexpected()
            self.advance()
            return Literal(int(text))
        if kind != "name":
            raise self.unexpected()
        self.advance()
        self.take("(")
        arguments: list[Node] = []
        while not (self.kind == "sign" and self.text == ")"):
            if arguments:
                self.take(",")
            arguments.append(self.expression(depth + 1))
        self.take(")")
        return Call(text, tuple(arguments))


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "..."
