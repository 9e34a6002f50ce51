from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.errors import UsageError
from dagrad_bus.workers.launch.hostfile import (
    Host,
    HostfileError,
    Hosts,
    difference,
    first,
    oversubscribe,
    parse_file,
    parse_list,
    render,
    select,
)

OPEN_MPI = """\
# This is an example hostfile.  Comments begin with #
#
# Since no number is given, one process:
foo.example.com
# The following node is a dual-processor machine:
bar.example.com slots=2
# The following node is a quad-processor machine, and we absolutely
# want to disallow over-subscribing it:
yow.example.com slots=4 max-slots=4
me@192.168.0.7\tslots=2 max_slots=8   # at the end
"""
DEEPSPEED = "\ufeffworker-1 slots=4\r\nworker-2 slots=4\r\n\r\n# worker-3 slots=4\r\n"
HOROVOD = "host-1 slots=2\nhost-2 slots=2"
NODE_FILE = "n1\nn1\nn2\nn2\nn2\n"  # of PBS: a line a slot


DOCUMENT = (Path(__file__).parents[3] / "docs" / "hostfile.md").read_text()


def slots(hosts: Hosts | tuple[Host, ...]) -> dict[str, tuple[int, ...]]:
    return {host.host: host.slot_numbers for host in (hosts.hosts if isinstance(hosts, Hosts) else hosts)}


def counts(text: str) -> dict[str, int]:
    return {host.host: host.slots for host in parse_file(text, "F").hosts}


def faults(content: str | bytes, parse: Callable[[str | bytes], Hosts] = lambda c: parse_file(c, "F")) -> list[str]:
    with pytest.raises(HostfileError) as refused:
        parse(content)
    assert isinstance(refused.value, UsageError)
    return str(refused.value).splitlines()


def test_a_file_of_open_mpi() -> None:
    found = parse_file(OPEN_MPI, "F")
    assert {host.label: host.slots for host in found.hosts} == {"foo": 1, "bar": 2, "yow": 4, "192.168.0.7": 2}
    assert [host.max_slots for host in found.hosts] == [0, 0, 4, 8]
    assert found.hosts[3].user == "me"
    assert found.notes == ("F: no number of slots, so one worker each: foo.example.com (HOST:N says more)",)


def test_a_file_of_deepspeed_made_on_windows() -> None:
    assert counts(DEEPSPEED) == counts(DEEPSPEED.replace("\r", "")) == {"worker-1": 4, "worker-2": 4}
    assert parse_file(DEEPSPEED.encode(), "F") == parse_file(DEEPSPEED, "F")


def test_a_file_and_a_list_of_horovod() -> None:
    assert counts(HOROVOD) == {"host-1": 2, "host-2": 2}
    assert parse_list("host-1:2, host-2:2").hosts == parse_file(HOROVOD, "F").hosts


def test_a_node_file_has_a_line_a_slot_and_needs_no_note() -> None:
    assert counts(NODE_FILE) == {"n1": 2, "n2": 3}
    assert not parse_file(NODE_FILE, "F").notes


def test_a_list() -> None:
    found = parse_list("node1:4,ann@node2,[::1]:2,NODE1")
    assert {host.label: host.slots for host in found.hosts} == {"node1": 5, "node2": 1, "0--1": 2}
    assert found.hosts[1].user == "ann"
    assert found.slots == 8
    with pytest.raises(HostfileError) as refused:
        parse_list("a:0,,b@,c")
    assert str(refused.value).splitlines() == [
        "-H:1:3: slots must be a whole number from 1 to 4096, got '0'",
        "-H:1:5: a host is missing",
        "-H:1:8: a host is missing",
    ]


def test_all_faults_of_a_file_are_told_at_once_in_order() -> None:
    text = 'a slot=4\n\n  b slots=0 port=x\nc cwd="x\na user=2\n'
    assert faults(text) == [
        "F:1:3: unknown key 'slot', did you mean 'slots'?",
        "F:3:11: slots must be a whole number from 1 to 4096, got '0'",
        "F:3:18: port must be a whole number from 1 to 65535, got 'x'",
        "F:4:7: a quote that is not closed, or something right behind it",
        "F:5:3: unknown key 'user', did you mean USER@HOST?",
    ]


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "\ufeff"])
def test_a_file_without_hosts_is_refused(text: str) -> None:
    assert faults(text) == ["F:1:1: no hosts"]


def test_bytes_that_are_no_utf8_are_told_where_they_are() -> None:
    assert faults("n1\nä ".encode() + b"\xff") == ["F:2:3: not UTF-8"]
    assert faults("n1\n".encode("utf-16")) == ["F:1:1: not UTF-8 (UTF-16?)"]


def test_a_picture_given_by_mistake_does_not_fill_the_screen() -> None:
    lines = faults("\n".join(["\0"] * 500))
    assert len(lines) == 101 and lines[-1] == "and 400 more faults"


def test_lines_of_one_host_add_up_and_may_not_contradict() -> None:
    found = parse_file("Node1 slots=2 port=22 device=cuda\nann@node1:2 device=cpu\nnode1\n", "F")
    assert found.hosts == (
        Host(
            label="node1",
            host="Node1",
            user="ann",
            port=22,
            slot_numbers=(0, 1, 2, 3, 4),
            devices=("cuda:0", "cuda:1", "cpu", "cpu", ""),
        ),
    )
    assert faults("a@n port=1 python=p\nn\nb@n port=2 addr=x\nn addr=y cwd=z python=q") == [
        "F:3:1: user b conflicts with line 1: user a",
        "F:3:5: port 2 conflicts with line 1: port 1",
        "F:4:3: addr y conflicts with line 3: addr x",
        "F:4:16: python q conflicts with line 1: python p",
    ]
    assert faults("n:3 max_slots=4\nn:2") == ["F:2:1: max_slots 4 is below the 5 slots of n"]
    assert faults("n:4096\nn") == ["F:2:1: n has 4097 slots in all: at most 4096"]


def test_one_device_is_for_all_and_cuda_goes_by_the_slot() -> None:
    one, two = parse_file("a:2 device=cpu\nb:3 device=cuda", "F").hosts
    assert [one.device(slot) for slot in range(2)] == ["cpu", "cpu"]
    assert two.environment(2) == {"DAGRAD_DEVICE": "cuda:2"}
    assert parse_file("a", "F").hosts[0].environment(0) == {}


def test_labels_are_kept_when_a_file_is_read_again() -> None:
    before = parse_file("gpu.a:2", "F")
    after = parse_file("gpu.b:2\ngpu.a:2", "F", taken=before.labels)
    assert [host.label for host in after.hosts] == ["gpu.b", "gpu"]


HOSTS = parse_file("node1.x:4 device=cuda\nnode2.x:2 max_slots=3\n[::1]:2\n", "F").hosts


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ("", "", {"node1.x": (0, 1, 2, 3), "node2.x": (0, 1), "::1": (0, 1)}),
        ("node2.x@node1:1,3", "", {"node1.x": (1, 3), "node2.x": (0, 1)}),
        ("node1:3@node1:1,1", "", {"node1.x": (1, 3)}),
        ("[::1]:1", "", {"::1": (1,)}),
        ("", "node1:0@[::1]", {"node1.x": (1, 2, 3), "node2.x": (0, 1)}),
        ("", "NODE2.X:0,1", {"node1.x": (0, 1, 2, 3), "::1": (0, 1)}),
    ],
)
def test_a_filter_keeps_the_numbers_of_slots(include: str, exclude: str, expected: dict[str, tuple[int, ...]]) -> None:
    assert slots(select(HOSTS, include, exclude)) == expected


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ("node2", "node1", ["--include:1:1: give it or --exclude, not both"]),
        ("node3@node1:7", "", [
            "--include:1:1: no host 'node3', did you mean 'node2'?",
            "--include:1:13: no slot '7' on node1.x, which has 0 to 3",
        ]),
        ("", "node1:0,x", ["--exclude:1:9: no slot 'x' on node1.x, which has 0 to 3"]),
        ("node1:", "", ["--include:1:7: no slot '' on node1.x, which has 0 to 3"]),
        ("::1", "", ["--include:1:1: no host ''"]),
        ("", "node1@node2@[::1]", ["--exclude:1:1: no slots left"]),
    ],
)  # fmt: skip
def test_a_filter_that_names_what_is_not_there(include: str, exclude: str, expected: list[str]) -> None:
    with pytest.raises(HostfileError) as refused:
        select(HOSTS, include, exclude)
    assert str(refused.value).splitlines() == expected


def test_the_first_slots_fill_host_after_host() -> None:
    assert slots(first(HOSTS, 5)) == {"node1.x": (0, 1, 2, 3), "node2.x": (0,)}
    with pytest.raises(UsageError, match="9 workers, but the hosts have 8 slots"):
        first(HOSTS, 9)


def test_more_workers_than_slots_go_where_there_is_most_room() -> None:
    assert oversubscribe(HOSTS, 8) == oversubscribe(HOSTS, 3) == HOSTS
    assert {h.host: h.slots for h in oversubscribe(HOSTS, 15)} == {"node1.x": 8, "node2.x": 3, "::1": 4}
    with pytest.raises(UsageError, match="9 workers, but max_slots allows 3"):
        oversubscribe(select(HOSTS, "node2"), 9)


def test_further_slots_use_the_devices_in_use_and_none_that_was_filtered_out() -> None:
    (host,) = oversubscribe(select(HOSTS, "node1:1,3"), 5)
    assert host.slot_numbers == (1, 3, 4, 5, 6)
    assert [host.device(slot) for slot in host.slot_numbers] == ["cuda:1", "cuda:3", "cuda:1", "cuda:3", "cuda:1"]


def test_what_came_and_went_between_two_readings() -> None:
    new = parse_file("node1.x:2 device=cuda port=22\nnode3:1\n[::1]:3 device=cpu", "F").hosts
    found = difference(HOSTS, new)
    assert [(host.host, slot) for host, slot in found.added] == [("node3", 0), ("::1", 2)]
    assert [(host.host, slot) for host, slot in found.removed] == [
        ("node1.x", 2),
        ("node1.x", 3),
        ("node2.x", 0),
        ("node2.x", 1),
    ]
    assert found.changed == ("node1.x: port", "::1: device")
    assert difference(HOSTS, HOSTS) == type(found)((), (), ())


NAMES = st.one_of(
    st.from_regex(r"[a-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True).filter(lambda n: n.count(".") != 3),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
)
TEXT = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=10).filter(str.isprintable)


@st.composite
def hosts_of_a_file(draw: st.DrawFn) -> tuple[Host, ...]:
    found: list[Host] = []
    for name in draw(st.lists(NAMES, min_size=1, max_size=5, unique_by=str.lower)):
        number = draw(st.integers(1, 6))
        device = st.sampled_from(["", "cpu", "cuda:0", "cuda:11", "mps"])
        devices = tuple(draw(st.lists(device, min_size=number, max_size=number)))
        host = Host(
            label="",
            host=name,
            user=draw(st.from_regex(r"([A-Za-z0-9_.][A-Za-z0-9_.+-]{0,8})?", fullmatch=True)),
            port=draw(st.integers(0, 65535)),
            slot_numbers=tuple(range(number)),
            max_slots=draw(st.sampled_from([0, number, 4096])),
            addr=draw(st.one_of(st.just(""), NAMES)),
            devices=devices if any(devices) else (),
            python=draw(TEXT.filter(lambda text: not text.startswith("-"))),
            cwd=draw(TEXT),
        )
        found.append(host)
    return tuple(found)


def without_labels(hosts: tuple[Host, ...]) -> list[tuple[object, ...]]:
    names = ("host", "user", "port", "slot_numbers", "max_slots", "addr", "devices", "python", "cwd")
    return [tuple(getattr(host, name) for name in names) for host in hosts]


@settings(deadline=None, max_examples=50)
@given(hosts_of_a_file())
def test_what_is_written_is_read_again(hosts: tuple[Host, ...]) -> None:
    found = parse_file(render(hosts), "F").hosts
    assert without_labels(found) == without_labels(hosts)
    assert parse_file(render(found).replace("\n", " # x\r\n"), "F").hosts == found


def test_gaps_cannot_be_written() -> None:
    with pytest.raises(UsageError, match="no way to say so"):
        render(select(HOSTS, "node1:1"))


def check(content: str | bytes) -> None:
    """Accepted files have workers with distinct names; refused ones say where."""
    wrong: tuple[str, ...] = ()
    try:
        hosts = parse_file(content, "F").hosts
    except HostfileError as error:
        hosts, wrong = (), error.faults
    assert bool(hosts) != bool(wrong)
    assert all(fault.split(":")[0] == "F" and fault.split(":")[1].isdigit() for fault in wrong)
    names = [f"{host.label}.{slot}" for host in hosts for slot in host.slot_numbers]
    assert len(set(names)) == len(names)
    assert not any(host.host.startswith("-") or host.user.startswith("-") for host in hosts)


@settings(deadline=None, max_examples=50)
@given(st.one_of(st.text(max_size=80), st.binary(max_size=80)))
def test_any_text_is_read_or_refused(content: str | bytes) -> None:
    check(content)


@settings(deadline=None, max_examples=50)
@given(
    st.sampled_from([OPEN_MPI, DEEPSPEED, HOROVOD, NODE_FILE, render(HOSTS)]),
    st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 3), st.sampled_from(list(' \t\n"\\=:@[],-#0é\0a'))), max_size=6
    ),
)
def test_a_damaged_file_is_read_or_refused(text: str, edits: list[tuple[int, int, str]]) -> None:
    for at, cut, char in edits:
        text = text[:at] + char + text[at + cut :]
    check(text)


@settings(deadline=None, max_examples=50)
@given(hosts_of_a_file(), st.integers(0, 40))
def test_places_are_as_many_as_asked_for(hosts: tuple[Host, ...], n: int) -> None:
    total = sum(host.slots for host in hosts)
    room = sum(host.max_slots or 4096 for host in hosts)
    if n <= total:
        assert sum(host.slots for host in first(hosts, n)) == n
    if n <= room:
        found = oversubscribe(hosts, n)
        assert sum(host.slots for host in found) == max(n, total)
        assert all(not host.max_slots or host.slots <= host.max_slots for host in found)
        assert all(len(set(host.slot_numbers)) == host.slots for host in found)


def test_the_examples_of_the_document_mean_what_it_says() -> None:
    example = re.findall(r"^```\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)[0]
    found = parse_file(example, "F").hosts
    assert [(host.label, host.slots) for host in found] == [
        ("node1", 4),
        ("node2", 2),
        ("node3", 1),
        ("2001-db8--17", 8),
        ("gpu7", 2),
    ]
    assert found[2].user == "ann" and found[2].port == 2222
    assert found[3].environment(3) == {"DAGRAD_DEVICE": "cuda:3"}
    assert found[4].cwd == "/data/my runs" and found[4].device(1) == "cuda:3"
    text = re.findall(r"`-H ([^`]*)`", DOCUMENT)[0]
    assert slots(parse_list(text)) == slots(found[:4])


def test_the_messages_of_the_document_are_those_of_the_parser() -> None:
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", DOCUMENT.partition("## Errors")[2].partition("\n## ")[0], re.MULTILINE)
    assert len(rows) > 10
    for inputs, message in rows:
        given = re.findall("`([^`]*)`", inputs)
        text = "\n".join(given) if ", later " in inputs else given[0]
        assert faults(text)[-1].partition(": ")[2] == message, text
