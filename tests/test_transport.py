"""Real sockets on loopback: edges, refused sends, failures of handlers, restarts, closing."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import ExitStack

import pytest
import zmq

from dagrad_bus.errors import PortInUse, StartError
from dagrad_bus.ids import NodeId
from dagrad_bus.settings import TransportSettings
from dagrad_bus.transport import MAX_MESSAGE, ZERO_COPY, Outlet, Transport, open_transport

A, B = NodeId(b"a" * 16), NodeId(b"b" * 16)
Until = Callable[[Callable[[], object]], Awaitable[None]]


class Ears:
    """Notes what the sockets tell."""

    def __init__(self) -> None:
        self.got: list[tuple[bytes, list[bytes]]] = []
        self.beats: list[tuple[NodeId, list[bytes]]] = []
        self.connections: list[bool] = []
        self.rooms = 0
        self.refusals = 0
        self.errors: list[Exception] = []
        self.on_room: Callable[[], None] | None = None
        self.bug: Exception | None = None

    def received(self, routing: bytes, parts: list[bytes]) -> None:
        if self.bug is not None:
            raise self.bug
        self.got.append((routing, parts))

    def beaten(self, peer: NodeId, parts: list[bytes]) -> None:
        self.beats.append((peer, parts))

    def connection(self, peer: NodeId, *, up: bool) -> None:
        self.connections.append(up)

    def refused(self, peer: NodeId) -> None:
        self.refusals += 1

    def writable(self, peer: NodeId) -> None:
        self.rooms += 1
        if self.bug is not None:
            raise self.bug
        if self.on_room is not None:
            self.on_room()


class Pair:
    """Two transports, A connected to B."""

    def __init__(self, stack: ExitStack) -> None:
        self.a = stack.enter_context(open_transport(A, TransportSettings()))
        self.b = stack.enter_context(open_transport(B, TransportSettings()))
        self.ears_a, self.ears_b = Ears(), Ears()

    def start(self) -> None:
        self.a.start(self.ears_a, self.ears_a.errors.append)
        self.b.start(self.ears_b, self.ears_b.errors.append)
        self.a.connect(B, self.b.inbox, self.b.beat)

    @property
    def is_up(self) -> bool:
        return self.ears_a.connections[-1:] == [True]


@pytest.fixture
def stack() -> Generator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def raw() -> Generator[Callable[[str], zmq.Socket[bytes]]]:
    """Return what connects a plain DEALER to an endpoint."""
    ctx: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made: list[zmq.Socket[bytes]] = []

    def connect(endpoint: str) -> zmq.Socket[bytes]:
        made.append(sock := ctx.socket(zmq.DEALER))
        sock.set(zmq.LINGER, 0)
        sock.set(zmq.SNDHWM, 0)
        sock.connect(endpoint)
        return sock

    yield connect
    for sock in made:
        sock.close(linger=0)
    ctx.term()


@pytest.mark.asyncio
async def test_a_burst_is_drained_to_its_end(
    until: Until, raw: Callable[[str], zmq.Socket[bytes]], stack: ExitStack
) -> None:
    pair = Pair(stack)
    with stack:
        pair.start()
        sock = raw(pair.b.inbox)
        for number in range(500):
            sock.send_multipart([b"x", number.to_bytes(2, "big")], zmq.NOBLOCK)
        await until(lambda: len(pair.ears_b.got) == 500)
        assert [int.from_bytes(parts[1], "big") for _, parts in pair.ears_b.got] == list(range(500))


@pytest.mark.asyncio
async def test_a_burst_beyond_the_byte_budget_is_drained_too(
    until: Until, raw: Callable[[str], zmq.Socket[bytes]], stack: ExitStack
) -> None:
    pair = Pair(stack)
    with stack:
        pair.start()
        sock = raw(pair.b.inbox)
        for _ in range(20):
            sock.send_multipart([bytes(1 << 18)], zmq.NOBLOCK)
        await until(lambda: len(pair.ears_b.got) == 20)


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [10, ZERO_COPY], ids=["copied", "handed over"])
async def test_a_refused_send_is_told_when_there_is_room_and_nothing_is_lost(
    until: Until, stack: ExitStack, size: int
) -> None:
    pair, left = Pair(stack), list(range(300))

    def push() -> None:
        while left and pair.a.send_parts(B, [left[0].to_bytes(2, "big"), bytes(size)]):
            left.pop(0)

    with stack:
        pair.ears_a.on_room = push
        pair.start()
        await until(lambda: pair.is_up)
        push()
        assert left, "the queue took all of it: no send was refused"
        await until(lambda: len(pair.ears_b.got) == 300)
        assert [int.from_bytes(parts[0], "big") for _, parts in pair.ears_b.got] == list(range(300))
        assert pair.ears_a.rooms > 0
        assert not pair.ears_a.errors


@pytest.mark.asyncio
async def test_nothing_is_taken_for_a_peer_that_is_not_there(until: Until, stack: ExitStack) -> None:
    pair, late, ears = Pair(stack), NodeId(b"l" * 16), Ears()
    with stack:
        pair.start()
        assert not pair.a.send_parts(late, [b"x"])
        with open_transport(late, TransportSettings()) as gone:
            inbox, beat = gone.inbox, gone.beat
        pair.a.connect(late, inbox, beat)
        assert not pair.a.send_parts(late, [b"before the handshake"])
        port = int(inbox.rpartition(":")[2])
        stack.enter_context(open_transport(late, TransportSettings(inbox_port=port))).start(ears, ears.errors.append)
        await until(lambda: pair.ears_a.rooms)  # the refused one is told of the connection
        assert pair.a.send_parts(late, [b"after"])
        await until(lambda: ears.got)
        assert [parts for _, parts in ears.got] == [[b"after"]]


@pytest.mark.asyncio
async def test_an_idle_socket_costs_the_loop_nothing(
    until: Until, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, look = [0], Outlet._look

    def counted(self: Outlet) -> None:
        looks[0] += 1
        look(self)

    monkeypatch.setattr(Outlet, "_look", counted)
    pair = Pair(stack)
    with stack:
        pair.start()
        await until(lambda: pair.is_up)
        assert pair.a.send_parts(B, [b"x"])
        await until(lambda: pair.ears_b.got)
        before = looks[0]
        for _ in range(300):
            await asyncio.sleep(0)
        assert looks[0] - before < 30


@pytest.mark.asyncio
@pytest.mark.parametrize("place", ["received", "writable"])
async def test_what_a_handler_raises_is_reported(until: Until, stack: ExitStack, place: str) -> None:
    pair, bug = Pair(stack), RuntimeError("a bug")
    ears = pair.ears_b if place == "received" else pair.ears_a
    with stack:
        pair.start()
        ears.bug = bug
        await until(lambda: pair.is_up)
        while pair.a.send_parts(B, [bytes(1 << 18)]) and place == "writable":
            pass  # until one is refused
        await until(lambda: ears.errors == [bug])


@pytest.mark.asyncio
async def test_heartbeats_reach_who_is_connected(until: Until, stack: ExitStack) -> None:
    pair = Pair(stack)
    with stack:
        pair.start()

        def heard() -> bool:
            pair.b.broadcast_parts([b"DB\1\x60", b"n"])  # a new subscriber misses some
            pair.b.broadcast_parts([b"DB\1\x10", b"not subscribed"])
            return bool(pair.ears_a.beats)

        await until(heard)
        assert set(map(repr, pair.ears_a.beats)) == {repr((B, [b"DB\1\x60", b"n"]))}


@pytest.mark.asyncio
async def test_the_routing_id_names_the_node_and_is_new_for_each_socket(until: Until, stack: ExitStack) -> None:
    pair = Pair(stack)
    with stack:
        pair.start()
        for _ in range(2):
            await until(lambda: pair.is_up)
            pair.a.send_parts(B, [b"x"])
            pair.ears_a.connections.clear()
            await until(lambda: pair.ears_b.got)
            pair.a.connect(B, pair.b.inbox, pair.b.beat)
            await until(lambda: pair.is_up)
            pair.a.send_parts(B, [b"x"])
            await until(lambda: len(pair.ears_b.got) >= 2)
        routings = {routing for routing, _ in pair.ears_b.got}
        assert len(routings) >= 2
        assert all(routing.startswith(b"\1" + A) and len(routing) == 25 for routing in routings)


@pytest.mark.asyncio
async def test_a_restarted_peer_is_connected_again(until: Until, stack: ExitStack) -> None:
    pair = Pair(stack)
    port = int(pair.b.inbox.rpartition(":")[2])
    with stack:
        pair.start()
        await until(lambda: pair.is_up)
        pair.b.close()
        await until(lambda: pair.ears_a.connections == [True, False])
        ears = Ears()

        def again() -> Transport | None:
            try:
                return stack.enter_context(open_transport(B, TransportSettings(inbox_port=port)))
            except StartError:
                return None

        found: list[Transport] = []
        await until(lambda: found or found.extend(filter(None, [again()])))  # type: ignore[func-returns-value]  # None: again
        found[0].start(ears, ears.errors.append)
        await until(lambda: pair.ears_a.connections == [True, False, True])
        assert pair.a.send_parts(B, [b"x"])
        await until(lambda: ears.got)


@pytest.mark.asyncio
@pytest.mark.parametrize(("field", "what"), [("inbox_port", "inbox"), ("beat_port", "beat")])
async def test_a_port_in_use_is_named_and_nothing_is_left(stack: ExitStack, field: str, what: str) -> None:
    first = stack.enter_context(open_transport(A, TransportSettings()))
    with stack:
        port = int((first.inbox if what == "inbox" else first.beat).rpartition(":")[2])
        with (
            pytest.raises(StartError, match=rf"{what} socket to 127\.0\.0\.1:{port}.*port 0 takes any free one"),
            open_transport(B, TransportSettings(**{field: port})),  # type: ignore[arg-type]  # a port
        ):
            pass


def test_an_address_of_another_host_cannot_be_bound() -> None:
    with pytest.raises(StartError, match=r"192\.0\.2\.1"), open_transport(A, TransportSettings(bind="192.0.2.1")):
        pass


@pytest.mark.parametrize(
    ("settings", "host"),
    [
        (TransportSettings(), "tcp://127.0.0.1:"),
        (TransportSettings(bind="*"), "tcp://127.0.0.1:"),
        (TransportSettings(bind="*", advertise="node7"), "tcp://node7:"),
        (TransportSettings(advertise="fe80::1"), "tcp://[fe80::1]:"),
    ],
)
def test_the_endpoint_told_to_others(settings: TransportSettings, host: str) -> None:
    with open_transport(A, settings) as transport:
        assert transport.inbox.startswith(host)
        assert transport.beat.startswith(host)
        assert transport.inbox != transport.beat


@pytest.mark.asyncio
async def test_a_message_over_the_limit_ends_its_connection_and_nothing_else(
    until: Until, raw: Callable[[str], zmq.Socket[bytes]], stack: ExitStack
) -> None:
    pair = Pair(stack)
    with stack:
        pair.start()
        await until(lambda: pair.is_up)
        sock = raw(pair.b.inbox)
        sock.send_multipart([b"x", bytes(MAX_MESSAGE + 1)], zmq.NOBLOCK)
        assert pair.a.send_parts(B, [b"y"])
        await until(lambda: pair.ears_b.got)
        assert [parts for _, parts in pair.ears_b.got] == [[b"y"]]
        assert not pair.ears_b.errors


@pytest.mark.asyncio
async def test_closing_does_not_wait_for_what_is_unsent(until: Until, stack: ExitStack) -> None:
    pair = Pair(stack)
    with stack:
        pair.start()
        await until(lambda: pair.is_up)
        while pair.a.send_parts(B, [bytes(1 << 18)]):
            pass
        started = time.monotonic()
    assert time.monotonic() - started < 1.0


@pytest.mark.asyncio
async def test_connections_can_be_replaced_at_any_moment(until: Until, stack: ExitStack) -> None:
    pair = Pair(stack)
    with stack:
        pair.start()
        for number in range(40):
            pair.a.connect(B, pair.b.inbox, pair.b.beat)
            pair.a.send_parts(B, [b"x"])
            for _ in range(number % 5):
                await asyncio.sleep(0)
        pair.ears_a.connections.clear()
        pair.a.connect(B, pair.b.inbox, pair.b.beat)
        await until(lambda: pair.is_up)
        assert pair.a.address_of(B) == pair.b.inbox
        pair.a.disconnect(B)
        pair.a.disconnect(B)
        assert pair.a.address_of(B) is None
        assert not pair.ears_a.errors


@pytest.mark.asyncio
async def test_a_refused_connection_is_told(until: Until, stack: ExitStack) -> None:
    pair = Pair(stack)
    with stack:
        pair.start()
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
            nobody = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
            pair.a.connect(NodeId(b"n" * 16), nobody, None)
            await until(lambda: pair.ears_a.refusals >= 2)


@pytest.mark.asyncio
async def test_a_peer_is_heard_from_the_moment_it_is_listened_to(until: Until, stack: ExitStack) -> None:
    pair = Pair(stack)
    with stack:
        pair.start()
        pair.a.connect(B, pair.b.inbox, None)
        await until(lambda: pair.is_up)
        pair.b.broadcast_parts([b"DB\x01\x60", b"unheard"])
        pair.a.listen(B, pair.b.beat)

        def beaten() -> bool:
            pair.b.broadcast_parts([b"DB\x01\x61", b"news"])
            pair.b.broadcast_parts([b"DB\x01\x10", b"no topic of ours"])
            return len(pair.ears_a.beats) > 3

        await until(beaten)
        assert {parts[1] for _, parts in pair.ears_a.beats} == {b"news"}
        pair.a.listen(B, None)
        before = len(pair.ears_a.beats)
        pair.b.broadcast_parts([b"DB\x01\x61", b"too late"])
        await asyncio.sleep(0.05)
        assert len(pair.ears_a.beats) == before


@pytest.mark.asyncio
async def test_what_has_arrived_is_heard_at_once(until: Until, stack: ExitStack) -> None:
    pair = Pair(stack)
    with stack:
        pair.start()
        await until(lambda: pair.is_up)
        assert pair.a.send_parts(B, [b"x"])
        deadline = time.monotonic() + 5
        while not pair.ears_b.got and time.monotonic() < deadline:
            time.sleep(0.01)  # noqa: ASYNC251  # the loop does not run meanwhile
            pair.b.hear_now()
        assert pair.ears_b.got


def free_range(length: int) -> tuple[int, int]:
    """Return ports in a row that were free a moment ago."""
    for first in range(21_000, 32_000, length):
        with ExitStack() as stack:
            try:
                for port in range(first, first + length):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first, first + length - 1
    raise AssertionError("no free ports in a row")


def test_ports_are_drawn_from_the_range_until_it_is_exhausted(stack: ExitStack) -> None:
    first, last = free_range(5)
    settings = TransportSettings(port_range=(first, last))
    opened = [stack.enter_context(open_transport(A, settings)) for _ in range(2)]
    ports = {int(end.rpartition(":")[2]) for one in opened for end in (one.inbox, one.beat)}
    assert len(ports) == 4
    assert all(first <= port <= last for port in ports)
    with pytest.raises(StartError, match=f"beat socket to 127.0.0.1, ports {first} to {last}") as full:
        stack.enter_context(open_transport(A, settings))
    assert not isinstance(full.value, PortInUse)  # asking again in half a second would not help


def test_a_fixed_port_stands_beside_the_range(stack: ExitStack) -> None:
    first, last = free_range(4)
    fixed = TransportSettings(port_range=(first + 1, last), inbox_port=first)
    one = stack.enter_context(open_transport(A, fixed))
    assert one.inbox == f"tcp://127.0.0.1:{first}"
    assert first < int(one.beat.rpartition(":")[2]) <= last
    with pytest.raises(PortInUse, match=f"127.0.0.1:{first}: Address already in use"):
        stack.enter_context(open_transport(A, fixed))
