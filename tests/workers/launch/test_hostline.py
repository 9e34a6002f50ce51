from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.workers.launch.hostline import Entry, Fault, Token, read, split


def words(line: str) -> list[str]:
    return [token.text for token in split(line)]


def entry(line: str) -> Entry:
    target, *rest = split(line)
    found, faults = read(target, rest)
    assert not faults, faults
    assert found is not None
    return found


def faults(line: str) -> list[tuple[int, str]]:
    target, *rest = split(line)
    found, wrong = read(target, rest)
    assert (found is None) == bool(wrong)
    return sorted((fault.column, str(fault)) for fault in wrong)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", []),
        ("   \t ", []),
        ("# all", []),
        ("  # all", []),
        ("a\tslots=2  # rest", ["a", "slots=2"]),
        ("a#b", ["a#b"]),
        ('a cwd="x # y" port=1#', ["a", "cwd=x # y", "port=1#"]),
        (r'a cwd="\"q\" \\ \n"', ["a", 'cwd="q" \\ \\n']),
    ],
)
def test_a_line_falls_into_words(line: str, expected: list[str]) -> None:
    assert words(line) == expected


@pytest.mark.parametrize(
    ("line", "column"), [('a cwd="x', 7), ('a cwd="x"y', 7), ("no\xa0de", 3), ("a\0", 2), ("abc \x1b[0m", 5)]
)
def test_a_line_without_sense_is_refused_where_it_is(line: str, column: int) -> None:
    with pytest.raises(Fault) as refused:
        split(line)
    assert refused.value.column == column


@pytest.mark.parametrize(
    ("line", "host", "slots", "bare"),
    [
        ("node1", "node1", 1, True),
        ("ann@node1:4", "node1", 4, False),
        ("10.0.0.1 slots=2", "10.0.0.1", 2, False),
        ("[2001:DB8:0:0::1]:8", "2001:db8::1", 8, False),
        ("ann@[fe80::1%eth0]", "fe80::1%eth0", 1, True),
        ("my_node-1.lab", "my_node-1.lab", 1, True),
    ],
)
def test_a_target(line: str, host: str, slots: int, bare: bool) -> None:
    found = entry(line)
    assert (found.host, found.slots, found.bare) == (host, slots, bare)


def test_all_pairs() -> None:
    found = entry('ann@n slots=2 max-slots=3 port=22 addr=[::1] device=cpu,cuda:1 python=~/py cwd="/a b"')
    assert {key: value for key, (_, value) in found.values.items()} == {
        "user": "ann",
        "max_slots": 3,
        "port": 22,
        "addr": "::1",
        "python": "~/py",
        "cwd": "/a b",
    }
    assert found.devices == ["cpu", "cuda:1"]


NUMBER = "must be a whole number from 1 to"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("n slot=4", [(3, "unknown key 'slot', did you mean 'slots'?")]),
        ("n cpu=4", [(3, "unknown key 'cpu', did you mean 'slots'?")]),
        ("n username=ann", [(3, "unknown key 'username', did you mean USER@HOST?")]),
        ("n zzz=4", [(3, "unknown key 'zzz'")]),
        ("n slots = 4", [(9, "no blanks around '='")]),
        ("n slots= 4 port=0", [(8, "no blanks around '='"), (17, f"port {NUMBER} 65535, got '0'")]),
        ("n slots =4", [(9, "no blanks around '='")]),
        ("n slots=two", [(9, f"slots {NUMBER} 4096, got 'two'")]),
        ("n slots=0", [(9, f"slots {NUMBER} 4096, got '0'")]),
        ("n slots=", [(9, f"slots {NUMBER} 4096, got ''")]),
        ("n slots=٣", [(9, f"slots {NUMBER} 4096, got '٣'")]),
        ("n:4097", [(3, f"slots {NUMBER} 4096, got '4097'")]),
        ("n:" + "9" * 5000, [(3, f"slots {NUMBER} 4096, got '{'9' * 5000}'")]),
        ("n:4 slots=4", [(5, "slots given twice")]),
        ("n slots=2 slots=3", [(11, "slots given twice")]),
        ("n slots=4 max_slots=2", [(11, "max_slots 2 is below slots 4")]),
        ("n m", [(3, "one host a line, 'm' is not key=value")]),
        ("n[1-4]", [(1, "'n[1-4]': ranges are not expanded (scontrol show hostnames does it)")]),
        ("::1", [(1, "IPv6 needs brackets: [::1]")]),
        ("ann@fe80:0:0:1", [(5, "IPv6 needs brackets: [fe80:0:0:1]")]),
        ("[n]", [(2, "'n' is not an IPv6 address")]),
        ("[::1", [(1, "'[::1' is not [IPv6] or [IPv6]:COUNT")]),
        ("[::1]x", [(1, "'[::1]x' is not [IPv6] or [IPv6]:COUNT")]),
        ("1.2.3.400", [(1, "'1.2.3.400' is not an IPv4 address")]),
        ("-oProxyCommand=x", [(1, "a host or user cannot start with '-' (it would be an option of ssh)")]),
        ("a@-b", [(1, "a host or user cannot start with '-' (it would be an option of ssh)")]),
        ("..", [(1, "unexpected character '.' in a host")]),
        ("no$(x)", [(3, "unexpected character '$' in a host")]),
        ("a;b@n", [(1, "user 'a;b' is none: letters, digits, '.', '_', '+', '-'")]),
        ("slots=4", [(1, "a line begins with a host, 'slots=4' is key=value")]),
        (":4", [(1, "a host is missing")]),
        ("n" * 254, [(1, "a host of 254 characters: at most 253")]),
        ("n device=cuda:0,cuda:1 slots=4", [(3, "2 devices for 4 slots")]),
        ("n device=cuda:0,cuda:1", [(3, "2 devices for 1 slot")]),
        ("n device=0", [(10, "device '0' is none: 'cpu', 'cuda', 'cuda:1', or a comma list of them")]),
        ("n cwd=", [(7, "cwd needs a value")]),
        ("n python=-c", [(10, "python cannot start with '-'")]),
        ("n addr=a/b", [(9, "unexpected character '/' in a host")]),
        ("-n port=x slot=2", [
            (1, "a host or user cannot start with '-' (it would be an option of ssh)"),
            (9, f"port {NUMBER} 65535, got 'x'"),
            (11, "unknown key 'slot', did you mean 'slots'?"),
        ]),
    ],
)  # fmt: skip
def test_faults_have_a_column_and_say_what_to_do(line: str, expected: list[tuple[int, str]]) -> None:
    assert faults(line) == expected


@settings(deadline=None, max_examples=50)
@given(st.text(st.sampled_from(' \t#"\\=:@[],.-_%aé1cwdslotmx'), max_size=40))
def test_any_line_is_read_or_refused(line: str) -> None:
    try:
        tokens = split(line)
    except Fault as fault:
        tokens = [Token(fault.column, "x")]
    for token in tokens:
        assert 1 <= token.column <= len(line) + 1
    if tokens:
        found, wrong = read(tokens[0], tokens[1:])
        assert (found is None) == bool(wrong)
        assert all(1 <= fault.column <= len(line) + 2 for fault in wrong)
