"""The honest network: connections keep order and lose only by breaking; all else that real ones do, they do too.

As ZeroMQ over TCP, seen from above:

* A :class:`~dagrad_bus.sim.plug.Dialer` is one connecting socket (a DEALER, or with ``ear`` a SUB) and lives until it is closed. It dials until
  somebody answers: *refused* where the host is up and nobody listens, silence where the path is closed or a paused
  process has not yet taken the connection up.
* A :class:`~dagrad_bus.sim.plug.Line` is one connection of it. What it carries arrives in order. When it breaks, a random tail of what is on
  its way is lost, the sender learns of it late, and until then goes on sending into nothing. What the old line still
  delivers may arrive after the head of the new one.
* Where the path is closed for a while, what was sent waits and arrives later, as TCP sends it again; the line breaks
  when its heartbeats have been unanswered for :data:`HEARTBEAT` seconds, whichever direction it is that is closed.
* A line with a rate takes :data:`BUFFER` bytes ahead; then ``send`` answers 0, and ``writable`` follows.
* Broadcasts go to whoever listens and is connected, each copy may be lost alone.
* Single messages of a live line are lost only where bits were flipped in them.
"""

from __future__ import annotations

from dagrad_bus.ids import NodeId
from dagrad_bus.messages import Message
from dagrad_bus.sim.plug import RETRY, Counts, Dialer, Line, Plug, Weather
from dagrad_bus.sim.sizes import size_of
from dagrad_bus.sim.world import World

HEARTBEAT = (10.0, 12.0)
"""Seconds after which a connection whose path is closed ends."""
LONGEST_RETRY = 5.0
"""Seconds between two attempts to connect, at most."""
GIVE_UP = 3.0
"""Seconds until an attempt ends that nobody answers."""
BUFFER = 1 << 18
"""Bytes that a line of limited rate takes ahead: its own queue and the kernel's."""
BACKLOG = 4096
"""Messages kept for a paused process; what would come beyond it stays with the senders, in truth."""


class Network:
    """All connections of one world."""

    def __init__(self, world: World, weather: Weather | None = None) -> None:
        self.world = world
        self.weather = weather or Weather()
        self.counts = Counts()
        self.listening: dict[str, Plug] = {}
        self.measure = False
        """Whether to count by kind of message."""
        self._blocked: dict[tuple[int, int], int] = {}
        self._lost: set[int] = set()
        self._latency: dict[tuple[int, int], float] = {}

    def plug_in(self, node: NodeId, name: str, host: int, port: int) -> Plug:
        """Return the port of a new process, which listens from now on."""
        plug = Plug(self, node, name, host, port)
        self._lost.discard(host)
        self.listening[plug.inbox] = self.listening[plug.beat] = plug
        return plug

    # Connections ---------------------------------------------------------------------------------------------

    def dial(self, dialer: Dialer, _: object = None) -> None:
        """Try to connect, and go on trying until the socket is closed."""
        plug, world = dialer.plug, self.world
        if dialer.closed or plug.dead:
            return
        target = self.listening.get(dialer.address)
        host = _host_of(dialer.address) if target is None else target.host
        if plug.paused or host in self._lost or self._is_cut(plug.host, host):
            world.after(GIVE_UP * (1 + world.rng.random()), self.dial, dialer)
            return
        way = self.latency(plug.host, host)
        if target is None:
            world.after(2 * way, self._refuse, dialer)
        elif target.paused:  # its kernel answers, it does not: the handshake ends when it goes on
            world.after(0.5 + world.rng.random(), self.dial, dialer)
        else:
            world.after(4 * way, self._establish, dialer)

    def _refuse(self, dialer: Dialer, _: object) -> None:
        self.counts.refused += 1
        dialer.retry = min(LONGEST_RETRY, dialer.retry * 2)
        self.world.after(dialer.retry * (0.6 + 0.8 * self.world.rng.random()), self.dial, dialer)
        if not dialer.ear and not dialer.closed:
            self._tell(dialer, None)

    def _establish(self, dialer: Dialer, _: object) -> None:
        target, plug = self.listening.get(dialer.address), dialer.plug
        if dialer.closed or plug.dead:
            return
        if target is None or target.paused or plug.paused or self._is_cut(plug.host, target.host):
            self.dial(dialer)
            return
        dialer.retry = RETRY
        weather, rng = self.weather, self.world.rng
        rate = weather.rate if weather.rate and rng.random() < weather.rate_share else 0.0
        source, sink = (target, plug) if dialer.ear else (plug, target)
        line = dialer.line = Line(dialer, source, sink, self.latency(plug.host, target.host), rate)
        if dialer.ear:
            source.audience[line] = None
        else:
            sink.inbound[line] = None
            self._tell(dialer, True)

    def hang_up(self, dialer: Dialer) -> None:
        """Close a socket; most of the time what it was given still arrives."""
        dialer.closed = True
        line, dialer.line = dialer.line, None
        if line is not None:
            self._forget(line)
            if line.stuck or self.world.rng.random() < 0.2:
                self._lose_tail(line)

    def cut(self, line: Line, late: float) -> None:
        """Break a connection: a tail is lost, and the socket learns of it ``late`` seconds from now, and dials again."""
        if line.broken:
            return
        self.counts.broken += 1
        self._forget(line)
        self._lose_tail(line)
        self.world.after(late, self._notice, line)

    def _lose_tail(self, line: Line) -> None:
        flying = line.sent - line.delivered
        kept = 0 if line.stuck else self.world.rng.randrange(flying + 1)
        line.lost_from = line.delivered + kept
        line.broken = True
        line.held.clear()

    def _forget(self, line: Line) -> None:
        line.sink.inbound.pop(line, None)
        line.source.audience.pop(line, None)

    def _notice(self, line: Line, _: object) -> None:
        dialer = line.dialer
        if dialer.line is not line:
            return
        dialer.line = None
        self.world.after(dialer.retry * (0.6 + 0.8 * self.world.rng.random()), self.dial, dialer)
        if not dialer.ear:
            self._tell(dialer, False)

    def _tell(self, dialer: Dialer, up: bool | None) -> None:
        """Tell a process of its own connection: made, broken, or (None) refused."""
        plug = dialer.plug
        if plug.dead or plug.end is None or dialer.closed:
            return
        if plug.paused:
            plug.backlog.append((dialer, up))
        elif up is None:
            plug.end.refused(dialer.peer)
        else:
            plug.end.connection(dialer.peer, up)

    # Messages ------------------------------------------------------------------------------------------------

    def send(self, line: Line, message: Message) -> int:
        """Put a message on a line; 0: no room."""
        world, weather = self.world, self.weather
        now, rng = world.now, world.rng
        size = size_of(message)
        leaves = now
        if line.rate:
            leaves = max(now, line.free_at)
            if (leaves - now) * line.rate > BUFFER or line.sent - line.delivered > BACKLOG:
                return self._refuse_send(line, leaves - now - BUFFER / line.rate / 2)
            leaves = line.free_at = leaves + size / line.rate
        if line.stuck and line.sent - line.delivered > 64:
            return self._refuse_send(line, 0.5)
        if weather.full and rng.random() < weather.full:
            return self._refuse_send(line, 0.02)
        due = leaves + line.latency * (1 + weather.jitter * rng.random())
        due = max(due, line.last_due)
        line.last_due = due
        line.sent += 1
        counts = self.counts
        counts.sent += 1
        counts.bytes += size
        if self.measure:
            self._count_kind(message, size)
        world.at(due, self._arrive, line, message)
        if weather.snap and rng.random() < weather.snap:
            self.cut(line, rng.expovariate(1 / weather.late))
        return size

    def _count_kind(self, message: Message, size: int) -> None:
        kind, counts = type(message).__name__, self.counts
        counts.by_kind[kind] = counts.by_kind.get(kind, 0) + 1
        counts.bytes_by_kind[kind] = counts.bytes_by_kind.get(kind, 0) + size

    def _refuse_send(self, line: Line, wait: float) -> int:
        self.counts.full += 1
        if not line.refused:
            line.refused = True
            self.world.after(max(0.001, wait), self._room, line)
        return 0

    def _room(self, line: Line, _: object) -> None:
        line.refused = False
        plug = line.dialer.plug
        if line.dialer.line is line and not plug.dead and not plug.paused and plug.end is not None:
            plug.end.writable(line.dialer.peer)

    def _arrive(self, line: Line, message: Message) -> None:
        number = line.delivered
        line.delivered = number + 1
        sink = line.sink
        if number >= line.lost_from or sink.dead or sink.end is None:
            self.counts.lost += 1
            return
        if line.stuck:
            line.held.append(message)
            return
        if sink.paused:
            if len(sink.backlog) < BACKLOG:
                sink.backlog.append((line, message))
            return
        self._deliver(line, message)

    def _deliver(self, line: Line, message: Message) -> None:
        end = line.sink.end
        if end is None:
            raise AssertionError("a line ends at a process that was started")
        self.counts.delivered += 1
        flip = self.weather.flip
        if flip and self.world.rng.random() < flip:
            self.counts.damaged += 1
            if not line.dialer.ear:
                end.damaged(line.dialer.routing, message)
        elif line.dialer.ear:
            end.beaten(line.dialer.peer, message)
        else:
            end.received(line.dialer.routing, message)

    def broadcast(self, plug: Plug, message: Message) -> int:
        """Send a copy to each connected listener."""
        world, drop = self.world, self.weather.drop
        now, rng, jitter = world.now, world.rng, self.weather.jitter
        size, counts = size_of(message), self.counts
        for line in plug.audience:
            if line.stuck or (drop and rng.random() < drop):
                continue
            due = now + line.latency * (1 + jitter * rng.random())
            due = max(due, line.last_due)
            line.last_due = due
            line.sent += 1
            counts.broadcasts += 1
            counts.bytes += size
            if self.measure:
                self._count_kind(message, size)
            world.at(due, self._arrive, line, message)
        return size

    # Faults --------------------------------------------------------------------------------------------------

    def latency(self, a: int, b: int) -> float:
        """Return the seconds between two hosts, drawn when first asked for."""
        pair = (a, b) if a < b else (b, a)
        known = self._latency.get(pair)
        if known is None:
            known = self._latency[pair] = self.world.rng.uniform(*self.weather.latency)
        return known

    def _is_cut(self, a: int, b: int) -> bool:
        return bool(self._blocked) and ((a, b) in self._blocked or (b, a) in self._blocked)

    def is_open(self, a: int, b: int) -> bool:
        """Whether packets pass in both directions."""
        return not self._is_cut(a, b)

    def block(self, pairs: list[tuple[int, int]]) -> None:
        """Close directions between hosts; each closing needs its own opening."""
        for pair in pairs:
            self._blocked[pair] = self._blocked.get(pair, 0) + 1
        closed = set(pairs)
        for line in self._lines():
            ends = line.source.host, line.sink.host
            if ends in closed:
                line.stuck += closed_times(pairs, ends)
            if ends in closed or (ends[1], ends[0]) in closed:
                self.world.after(self.world.rng.uniform(*HEARTBEAT), self._time_out, line)

    def unblock(self, pairs: list[tuple[int, int]]) -> None:
        """Open directions again; what waited there arrives within a second or two."""
        for pair in pairs:
            left = self._blocked.pop(pair, 0) - 1
            if left > 0:
                self._blocked[pair] = left
        opened = set(pairs)
        for line in self._lines():
            ends = line.source.host, line.sink.host
            if ends in opened and line.stuck:
                line.stuck = max(1, line.stuck - closed_times(pairs, ends) + 1)
                self.world.after(2 * self.world.rng.random(), self._release, line)

    def _lines(self) -> list[Line]:
        plugs = {id(plug): plug for plug in self.listening.values()}
        return [line for plug in plugs.values() for lines in (plug.inbound, plug.audience) for line in lines]

    def _time_out(self, line: Line, _: object) -> None:
        if not line.broken and self._is_cut(line.source.host, line.sink.host):
            self.cut(line, 0.0)

    def hang(self, line: Line, seconds: float) -> None:
        """Keep a line from delivering for a while; one that hangs too long breaks."""
        line.stuck += 1
        if seconds > HEARTBEAT[0]:
            self.world.after(HEARTBEAT[0], self.cut, line, 0.0)
        self.world.after(seconds, self._release, line)

    def calm(self, hosts: set[int]) -> None:
        """Let every line between these hosts deliver again, whatever held it."""
        for line in self._lines():
            if line.stuck and line.source.host in hosts and line.sink.host in hosts:
                line.stuck = 1
                self._release(line, None)

    def _release(self, line: Line, _: object) -> None:
        line.stuck = max(0, line.stuck - 1)
        if line.stuck or line.broken:
            return
        held, line.held = line.held, []
        for message in held:
            if line.sink.dead:
                return
            if line.sink.paused:
                line.sink.backlog.append((line, message))
            else:
                self._deliver(line, message)

    # Processes -----------------------------------------------------------------------------------------------

    def die(self, plug: Plug, *, host: bool = False) -> None:
        """End a process: its peers are told by its kernel, or, where the ``host`` died with it, by nobody."""
        plug.dead = True
        if host:
            self._lost.add(plug.host)
        for address in (plug.inbox, plug.beat):
            if self.listening.get(address) is plug:
                del self.listening[address]
        for dialer in [*plug.dialers.values(), *plug.ears.values()]:
            self.hang_up(dialer)
        rng = self.world.rng
        for line in [*plug.inbound, *plug.audience]:
            late = rng.uniform(*HEARTBEAT) if host else line.latency + rng.expovariate(1 / self.weather.late)
            self.cut(line, late)
        plug.backlog.clear()

    def pause(self, plug: Plug) -> None:
        """Stop a process; its kernel goes on taking what is sent to it until the senders give up."""
        plug.paused = True
        for line in [*plug.inbound, *plug.audience]:
            self.world.after(self.world.rng.uniform(*HEARTBEAT), self._time_out_paused, line)

    def _time_out_paused(self, line: Line, _: object) -> None:
        if not line.broken and (line.sink.paused or line.source.paused):
            self.cut(line, 0.0)

    def go_on(self, plug: Plug) -> None:
        """Let a paused process run: it reads what has come meanwhile, in order."""
        plug.paused = False
        backlog, plug.backlog = plug.backlog, []
        for what, content in backlog:
            if plug.dead:
                return
            if isinstance(what, Dialer):
                self._tell(what, content if isinstance(content, bool) else None)
            elif content is not None and not isinstance(content, bool):
                self._deliver(what, content)


def closed_times(pairs: list[tuple[int, int]], ends: tuple[int, int]) -> int:
    """Return how often ``ends`` stands in ``pairs``."""
    return sum(pair == ends for pair in pairs)


def _host_of(address: str) -> int:
    a, b, c = address.removeprefix("tcp://10.").partition(":")[0].split(".")
    return int(a) << 16 | int(b) << 8 | int(c)
