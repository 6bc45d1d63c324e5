"""OData filters: from `startswith(displayName,'a') and accountEnabled eq true` to a condition in SQL.

Known are eq, ne, in, startswith, any, not, and, or and parentheses, over the properties that a
collection offers. Texts compare in any case. Whoever names another property is told which there are.
Source: OData 4.01 URL conventions; Microsoft Graph, `$filter` query parameter.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, false, func, not_, or_, true

from opengallery.identity.directory import as_id
from opengallery.identity.graph.errors import GraphError, unsupported_query

LENGTH_MAX = 4096
DEPTH_MAX = 16
CLAUSES_MAX = 100
_TOKEN = re.compile(r"\s*(?:'((?:[^']|'')*)'|([A-Za-z_][\w./-]*|[0-9A-Fa-f][\w-]*)|([(),:]))")

Literal = str | bool | None
Condition = ColumnElement[bool]


@dataclass(frozen=True)
class Property:
    """A property that can be filtered by: conditions that an operator and a value come to."""

    equals: Callable[[Literal], Condition]
    starts: Callable[[str], Condition] | None = None
    is_collection: bool = False


def text_property(column: Any) -> Property:
    """A text. SQL lowers ASCII alone for sure, so other letters compare as they are."""

    def equals(value: Literal) -> Condition:
        if value is None:
            return or_(column.is_(None), column == "")
        return or_(column == value, func.lower(column) == _lower_ascii(_text(value)))

    def starts(value: str) -> Condition:
        beginning = func.substr(column, 1, len(value))
        return or_(beginning == value, func.lower(beginning) == _lower_ascii(value))

    return Property(equals, starts)


def key_property(column: Any, key: Callable[[str], str] = as_id) -> Property:
    """An id, or another text that is kept in the form that `key` gives it, with an index."""
    return Property(lambda value: column == key(_text(value)), lambda value: _starts_key(column, value))


def flag_property(column: Any) -> Property:
    """True or false."""
    return Property(lambda value: column.is_(_flag(value)))


def constant_property(constant: Literal) -> Property:
    """A property that is the same for all."""
    return Property(lambda value: true() if value == constant else false())


def collection_property(contains: Callable[[str], Condition]) -> Property:
    """A list of texts: `names/any(n:n eq 'value')`."""
    return Property(lambda value: contains(_text(value)), is_collection=True)


def parse_filter(text: str, properties: Mapping[str, Property]) -> Condition:
    """The condition that `text` means. Raises `GraphError`."""
    if len(text) > LENGTH_MAX or not text.isprintable():
        raise unsupported_query(f"A filter has at most {LENGTH_MAX} printable characters.")
    return _Parser(text, {name.lower(): value for name, value in properties.items()}).whole()


class _Parser:
    """Recursive descent over the tokens; each is (kind, value) with kind `text`, `word` or `mark`."""

    def __init__(self, text: str, properties: Mapping[str, Property]) -> None:
        self._text = text
        self._properties = properties
        self._tokens: list[tuple[str, str]] = []
        self._at = 0
        self._clauses = 0
        end = len(text.rstrip())
        position = 0
        while position < end:
            found = _TOKEN.match(text, position)
            if found is None:
                raise self._failed(f"it can't be read from '{text[position : position + 20]}' on")
            if found[1] is not None:
                self._tokens.append(("text", found[1].replace("''", "'")))
            else:
                self._tokens.append(("word", found[2]) if found[2] else ("mark", found[3]))
            position = found.end()

    def whole(self) -> Condition:
        """The whole filter."""
        condition = self._either(0)
        if self._at < len(self._tokens):
            raise self._failed(f"'{self._tokens[self._at][1]}' comes unexpected")
        return condition

    def _either(self, depth: int) -> Condition:
        conditions = [self._both(depth)]
        while self._take_word("or"):
            conditions.append(self._both(depth))
        return or_(*conditions)

    def _both(self, depth: int) -> Condition:
        conditions = [self._one(depth)]
        while self._take_word("and"):
            conditions.append(self._one(depth))
        return and_(*conditions)

    def _one(self, depth: int) -> Condition:
        if depth > DEPTH_MAX:
            raise self._failed(f"it nests deeper than {DEPTH_MAX} levels")
        if self._take_word("not"):
            return not_(func.coalesce(self._one(depth + 1), false()))
        if self._take_mark("("):
            condition = self._either(depth + 1)
            self._need_mark(")")
            return condition
        self._clauses += 1
        if self._clauses > CLAUSES_MAX:
            raise self._failed(f"it has more than {CLAUSES_MAX} clauses")
        name = self._need_word()
        if name.lower() == "startswith" and self._take_mark("("):
            return self._starts_with()
        if name.lower().endswith("/any") and self._take_mark("("):
            return self._any(name[:-4])
        return self._comparison(name, self._property(name))

    def _starts_with(self) -> Condition:
        name = self._need_word()
        found = self._property(name)
        self._need_mark(",")
        value = self._need_text()
        self._need_mark(")")
        if self._take_word("eq") and self._literal() is not True:
            raise self._failed("after startswith only 'eq true' may follow")
        if found.starts is None or found.is_collection:
            raise self._failed(f"startswith is not known for '{name}'")
        return found.starts(value)

    def _any(self, name: str) -> Condition:
        found = self._property(name, is_collection=True)
        variable = self._need_word()
        self._need_mark(":")
        if self._need_word() != variable or not self._take_word("eq"):
            raise self._failed(f"inside any() only '{variable} eq VALUE' is known")
        condition = found.equals(self._literal())
        self._need_mark(")")
        return condition

    def _comparison(self, name: str, found: Property) -> Condition:
        if self._take_word("eq"):
            return found.equals(self._literal())
        if self._take_word("ne"):
            return not_(func.coalesce(found.equals(self._literal()), false()))
        if self._take_word("in"):
            self._need_mark("(")
            conditions = [found.equals(self._literal())]
            while self._take_mark(","):
                conditions.append(found.equals(self._literal()))
                self._clauses += 1
            self._need_mark(")")
            if self._clauses > CLAUSES_MAX:
                raise self._failed(f"it has more than {CLAUSES_MAX} clauses")
            return or_(*conditions)
        raise self._failed(f"after '{name}' comes none of eq, ne and in")

    def _property(self, name: str, is_collection: bool = False) -> Property:
        found = self._properties.get(name.lower())
        if found is None or found.is_collection != is_collection:
            known = ", ".join(sorted(self._properties))
            raise self._failed(f"'{name[:64]}' can't be used so; filters here know (in any case) {known}")
        return found

    def _literal(self) -> Literal:
        kind, value = self._next()
        if kind == "text":
            return value
        if kind == "word":
            words: dict[str, Literal] = {"true": True, "false": False, "null": None}
            if value.lower() in words:
                return words[value.lower()]
            if as_id(value):
                return value
        raise self._unquoted()

    def _unquoted(self) -> GraphError:
        return self._failed("a value is a text in quotes, true, false or null")

    def _next(self) -> tuple[str, str]:
        if self._at >= len(self._tokens):
            raise self._failed("it ends too early")
        self._at += 1
        return self._tokens[self._at - 1]

    def _need_word(self) -> str:
        kind, value = self._next()
        if kind != "word":
            raise self._failed(f"a name should stand where '{value[:20]}' stands")
        return value

    def _need_text(self) -> str:
        kind, value = self._next()
        if kind != "text":
            raise self._unquoted()
        return value

    def _need_mark(self, mark: str) -> None:
        if not self._take_mark(mark):
            raise self._failed(f"a '{mark}' is missing")

    def _take_mark(self, mark: str) -> bool:
        return self._take(("mark", mark))

    def _take_word(self, word: str) -> bool:
        if self._at < len(self._tokens):
            kind, value = self._tokens[self._at]
            if kind == "word" and value.lower() == word:
                self._at += 1
                return True
        return False

    def _take(self, token: tuple[str, str]) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at] == token:
            self._at += 1
            return True
        return False

    def _failed(self, why: str) -> GraphError:
        return unsupported_query(f"The filter '{self._text[:128]}' can't be used: {why}.")


def _text(value: Literal) -> str:
    if not isinstance(value, str):
        raise unsupported_query("The filter compares a text with what is none: write it in quotes.")
    return value


def _flag(value: Literal) -> bool:
    if not isinstance(value, bool):
        raise unsupported_query("The filter compares a flag with what is none: write true or false.")
    return value


def _starts_key(column: Any, value: str) -> Condition:
    beginning: Condition = func.substr(column, 1, len(value)) == _lower_ascii(value)
    return beginning


def _lower_ascii(text: str) -> str:
    return "".join(letter.lower() if letter.isascii() else letter for letter in text)
