"""One line of a host file: its words, its target and its pairs (the grammar: :mod:`hostfile`).

Every fault of a line is found, each with its column; columns count characters from 1.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

MOST_SLOTS = 4096
BLANKS = " \t\f\v"
"""White space within a line."""
_MOST_PORT = 65535
_LONGEST_NAME = 253  # RFC 1035, 2.3.4, as text
_KEYS = ("slots", "max_slots", "port", "addr", "device", "python", "cwd")
_SAME = {"max-slots": "max_slots"}
"""Other spellings of a key: Open MPI has both."""
_ELSEWHERE = {
    **dict.fromkeys(("cpu", "cpus", "count", "gpus", "np", "ntasks", "nproc"), "'slots'"),
    **dict.fromkeys(("max_cpu", "max-cpu", "max_count", "max-count", "slots_max", "slots-max"), "'max_slots'"),
    **dict.fromkeys(("user", "username", "user_name", "user-name", "login"), "USER@HOST"),
}
"""Keys of other tools, and how we say it."""
_TOKEN = re.compile(rf'(?P<key>[^{BLANKS}="]*)="(?P<quoted>(?:[^"\\]|\\.)*)"(?=[{BLANKS}]|\Z)|(?P<plain>[^{BLANKS}]+)')
_BLANK = re.compile(rf"[{BLANKS}]*")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_USER = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.+-]*")
_DEVICE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*(:[0-9]{1,4})?")


class Fault(Exception):
    """Something wrong at a column."""

    def __init__(self, column: int, text: str) -> None:
        super().__init__(text)
        self.column = column


class Token(NamedTuple):
    """One word of a line."""

    column: int
    text: str
    """Without quotes."""
    quoted: bool = False


class Value(NamedTuple):
    """What stands behind a key, and where."""

    column: int
    value: str | int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What one line says of a host."""

    column: int
    host: str
    """Name or address; IPv6 without brackets, in its shortest form."""
    slots: int
    bare: bool
    """Whether the number of slots was left out."""
    devices: list[str]
    """As written: none, one for all slots or one each."""
    values: dict[str, Value]
    """User, port, max_slots, addr, python and cwd, where given."""


def split(line: str) -> list[Token]:
    """Return the words of a line, without its comment.

    Raises:
        Fault: a character that no line has, or a quote that is not closed.
    """
    tokens: list[Token] = []
    at = 0
    while (found := _BLANK.match(line, at)) and found.end() < len(line):
        at = found.end()
        if line[at] == "#":
            break
        word = _TOKEN.match(line, at)
        assert word is not None  # the second form takes any character that is no blank
        column, at, text = at + 1, word.end(), word[0]
        for offset, char in enumerate(text):
            if not char.isprintable() and char not in BLANKS:
                raise Fault(column + offset, f"unexpected character {char!r}")
        if word["quoted"] is None:
            if '="' in text:
                raise Fault(column + text.index('="') + 1, "a quote that is not closed, or something right behind it")
            tokens.append(Token(column, text))
        else:
            value = re.sub(r'\\(["\\])', r"\1", word["quoted"])
            tokens.append(Token(column, f"{word['key']}={value}", quoted=True))
    return tokens


def read(target: Token, tokens: Sequence[Token]) -> tuple[Entry | None, list[Fault]]:
    """Return what a line says, and what is wrong with it; None where anything is.

    Args:
        target: ``user@host:count``.
        tokens: the pairs behind it.
    """
    faults: list[Fault] = []
    pairs = _read_pairs(tokens, faults)
    try:
        user, host, count = _read_target(target.column, target.text)
    except Fault as fault:
        return None, [fault, *faults]
    if count is not None and "slots" in pairs:
        faults.append(Fault(pairs["slots"].column, "slots given twice"))
    if faults:
        return None, faults
    bare = count is None and "slots" not in pairs
    slots = int(pairs.pop("slots", Value(0, count or 1)).value)
    devices = str(pairs["device"].value).split(",") if "device" in pairs else []
    if len(devices) > 1 and len(devices) != slots:
        faults.append(Fault(pairs["device"].column, f"{len(devices)} devices for {slots} slot{'s' * (slots > 1)}"))
    pairs.pop("device", None)
    if "max_slots" in pairs and int(pairs["max_slots"].value) < slots:
        found = pairs["max_slots"]
        faults.append(Fault(found.column, f"max_slots {found.value} is below slots {slots}"))
    if faults:
        return None, faults
    values = ({"user": Value(target.column, user)} if user else {}) | pairs
    entry = Entry(column=target.column, host=host, slots=slots, bare=bare, devices=devices, values=values)
    return entry, []


def _read_target(column: int, text: str) -> tuple[str, str, int | None]:
    """Return user, host and number of slots of ``user@host:count``."""
    user, at, rest = text.rpartition("@")
    start = column + len(user) + len(at)
    if user.startswith("-") or rest.startswith("-"):
        raise Fault(column, "a host or user cannot start with '-' (it would be an option of ssh)")
    if "=" in text:
        raise Fault(column, f"a line begins with a host, {text!r} is key=value")
    if at and not _USER.fullmatch(user):
        raise Fault(column, f"user {user!r} is none: letters, digits, '.', '_', '+', '-'")
    if rest.startswith("["):
        inner, bracket, behind = rest[1:].partition("]")
        if not bracket or behind[:1] not in {"", ":"}:
            raise Fault(start, f"{rest!r} is not [IPv6] or [IPv6]:COUNT")
        host, count = _check_ipv6(start + 1, inner), behind[1:] if behind else None
        return user, host, None if count is None else _count(start + len(inner) + 3, "slots", count)
    if "[" in rest:
        raise Fault(start, f"{rest!r}: ranges are not expanded (scontrol show hostnames does it)")
    if "::" in rest or rest.count(":") > 2:
        raise Fault(start, f"IPv6 needs brackets: [{rest}]")
    name, colon, number = rest.partition(":")
    host = _check_name(start, name)
    return user, host, _count(start + len(name) + 1, "slots", number) if colon else None


def _check_name(column: int, name: str) -> str:
    """Return ``name`` if it is a host name or an IPv4 address."""
    if not name:
        raise Fault(column, "a host is missing")
    for offset, char in enumerate(name):
        if not _NAME.fullmatch("a" * bool(offset) + char):
            raise Fault(column + offset, f"unexpected character {char!r} in a host")
    if len(name) > _LONGEST_NAME:
        raise Fault(column, f"a host of {len(name)} characters: at most {_LONGEST_NAME}")
    if re.fullmatch(r"[0-9]+(\.[0-9]+){3}", name):
        try:
            ipaddress.IPv4Address(name)
        except ValueError:
            raise Fault(column, f"{name!r} is not an IPv4 address") from None
    return name


def _check_ipv6(column: int, text: str) -> str:
    """Return an IPv6 address in its shortest form."""
    try:
        found = ipaddress.IPv6Address(text)
    except ValueError:
        raise Fault(column, f"{text!r} is not an IPv6 address") from None
    if found.scope_id and not _NAME.fullmatch(found.scope_id):
        raise Fault(column, f"{found.scope_id!r} is no interface")
    return str(found)


def _count(column: int, key: str, text: str, *, most: int = MOST_SLOTS) -> int:
    if re.fullmatch(r"[0-9]{1,9}", text) and 1 <= int(text) <= most:
        return int(text)
    raise Fault(column, f"{key} must be a whole number from 1 to {most}, got {text!r}")


def _read_pairs(tokens: Sequence[Token], faults: list[Fault]) -> dict[str, Value]:
    """Return column and value by key; faults are added to the list."""
    pairs: dict[str, Value] = {}
    rest = list(tokens)
    while rest:
        column, text, quoted = rest.pop(0)
        following = "" if quoted or not rest else rest[0].text
        if following.startswith("=") and "=" not in text:
            faults.append(Fault(rest[0].column, "no blanks around '='"))
            if rest.pop(0).text == "=" and rest:
                rest.pop(0)
        elif text.startswith("=") or (text.find("=") == len(text) - 1 and following and "=" not in following):
            faults.append(Fault(column + text.index("="), "no blanks around '='"))
            if text.endswith("="):
                rest[:1] = []
        else:
            try:
                key, value = _read_pair(column, text)
                if key in pairs:
                    raise Fault(column, f"{key} given twice")
                pairs[key] = Value(column, value)
            except Fault as fault:
                faults.append(fault)
    return pairs


def _read_pair(column: int, text: str) -> tuple[str, str | int]:
    written, equals, value = text.partition("=")
    key = _SAME.get(written, written)
    if not equals:
        raise Fault(column, f"one host a line, {text!r} is not key=value")
    if key not in _KEYS:
        near = difflib.get_close_matches(key, _KEYS, n=1)
        hint = _ELSEWHERE.get(key) or (repr(near[0]) if near else "")
        raise Fault(column, f"unknown key {key!r}" + (f", did you mean {hint}?" if hint else ""))
    at = column + len(written) + 1
    match key:
        case "slots" | "max_slots":
            return key, _count(at, key, value)
        case "port":
            return key, _count(at, key, value, most=_MOST_PORT)
        case _ if not value:
            raise Fault(at, f"{key} needs a value")
        case "addr":
            inner = value[1:-1] if value.startswith("[") and value.endswith("]") else value
            return key, _check_ipv6(at, inner) if ":" in inner else _check_name(at, inner)
        case "device":
            bad = [one for one in value.split(",") if not _DEVICE.fullmatch(one)]
            if bad:
                raise Fault(at, f"device {bad[0]!r} is none: 'cpu', 'cuda', 'cuda:1', or a comma list of them")
        case "python" if value.startswith("-"):
            raise Fault(at, "python cannot start with '-'")
        case _:
            pass
    return key, value
