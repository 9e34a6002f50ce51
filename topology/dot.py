"""The part of Graphviz' language that graphs of workers need: node and edge statements, chains, weights, comments.

Attributes other than an edge's ``weight`` are passed over, subgraphs and ports refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from dagrad_bus.errors import UsageError

Link = tuple[str, str, float | None]
_TOKEN = re.compile(
    r"""(?P<blank>\s+|//[^\n]*|/\*.*?\*/|\#[^\n]*)
    |(?P<edge>->|--)|(?P<mark>[{}\[\];,=])
    |(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<word>-?\d[\w.]*e-\d+|-?[\w.]+)""",
    re.VERBOSE | re.DOTALL,
)
_KEYWORDS = {"node", "edge", "graph"}
_MARKS = frozenset("{}[];,=") | {"->", "--"}


def write_dot(kind: str, names: Sequence[str], links: Sequence[Link], *, directed: bool) -> str:
    """Return the text of a graph; every name is quoted."""
    sign = "->" if directed else "--"
    lines = [f"{'digraph' if directed else 'graph'} {_quote(kind)} {{"]
    lines += [f"  {_quote(name)};" for name in names]
    for a, b, weight in links:
        lines.append(f"  {_quote(a)} {sign} {_quote(b)}{'' if weight is None else f' [weight={weight!r}]'};")
    return "\n".join([*lines, "}"]) + "\n"


def _quote(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _tokens(text: str) -> Iterator[tuple[str, bool]]:
    """Yield (token, whether it is a name)."""
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            line = text.count("\n", 0, place) + 1
            raise UsageError(f"line {line}: {text[place : place + 20].splitlines()[0]!r} is not understood")
        place = match.end()
        if match.lastgroup == "quoted":
            yield re.sub(r"\\(.)", r"\1", match[0][1:-1], flags=re.DOTALL), True
        elif match.lastgroup != "blank":
            yield match[0], match.lastgroup == "word"


class _Reader:
    """Statements one after the other."""

    def __init__(self, text: str) -> None:
        self._tokens = [*_tokens(text), ("", False)]
        self._place = 0
        self.names: dict[str, None] = {}
        self.links: list[Link] = []

    def _next(self) -> tuple[str, bool]:
        token = self._tokens[self._place]
        self._place = min(self._place + 1, len(self._tokens) - 1)
        return token

    def _peek(self) -> str:
        token, is_name = self._tokens[self._place]
        return "" if is_name and token in _MARKS else token  # a quoted "--" is a name

    def _name(self) -> str:
        token, is_name = self._next()
        if not is_name:
            raise UsageError(f"needs a name, not {token or 'the end'!r}")
        return token

    def header(self) -> bool:
        """Return whether the graph is directed."""
        word = self._name().lower()
        if word == "strict":
            word = self._name().lower()
        if word not in ("graph", "digraph"):
            raise UsageError(f"begins with {word[:20]!r}: needs graph or digraph")
        if self._peek() != "{":
            self._name()
        if self._next() != ("{", False):
            raise UsageError("needs { after the name")
        return word == "digraph"

    def statements(self, sign: str) -> None:
        """Read to the closing brace."""
        while self._peek() != "}" or self._tokens[self._place][1]:
            if self._peek() in (";", ","):
                self._next()
                continue
            self._statement(sign)

    def _statement(self, sign: str) -> None:
        chain = [self._name()]
        if chain[0].lower() == "subgraph":
            raise UsageError("subgraphs are not understood")
        if self._peek() == "=":  # a graph's attribute
            self._next()
            self._name()
            return
        while self._peek() in ("--", "->"):
            if self._next()[0] != sign:
                raise UsageError(f"mixes -- and ->: this graph needs {sign}")
            chain.append(self._name())
        weight = self._attributes().get("weight")
        if len(chain) == 1 and chain[0].lower() in _KEYWORDS:
            return
        self.names |= dict.fromkeys(chain)
        for a, b in pairwise(chain):
            self.links.append((a, b, None if weight is None else float(weight)))

    def _attributes(self) -> dict[str, str]:
        found: dict[str, str] = {}
        while self._peek() == "[":
            self._next()
            while self._peek() != "]":
                if self._peek() in (",", ";"):
                    self._next()
                    continue
                key = self._name()
                if self._next() != ("=", False):
                    raise UsageError(f"attribute {key[:20]!r} has no value")
                found[key] = self._name()
            self._next()
        return found


def read_dot(text: str) -> tuple[list[str], list[Link], bool]:
    """Return names in the order of their first mention, links, and whether they are directed.

    Raises:
        UsageError: what is not understood, in one line.
        ValueError: a weight that is no number.
    """
    reader = _Reader(text)
    directed = reader.header()
    reader.statements("->" if directed else "--")
    return list(reader.names), reader.links, directed
