"""The engine of the bus: joins the cores, the sockets and one timer, on one loop.

A message comes in, a core says what follows, the bus does it: ``_act`` is the one place where actions become sends,
counters, mailbox entries and outcomes. Everything here runs on the loop's thread; frames over
:data:`~dagrad_bus.bus.framing.INLINE_BYTES` are coded on a thread beside it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from dagrad_bus.blocks import Layout
from dagrad_bus.bus.alarm import Alarm
from dagrad_bus.bus.coding import Bench
from dagrad_bus.bus.framing import INLINE_BYTES, allowed, pack_frame
from dagrad_bus.bus.identity import Identity
from dagrad_bus.bus.intake import Intake
from dagrad_bus.bus.neighbour import Neighbour
from dagrad_bus.bus.reception import Reception
from dagrad_bus.bus.upkeep import Upkeep
from dagrad_bus.errors import LayoutMismatch, RemoteError, UsageError, VersionMismatch
from dagrad_bus.events import LinkState, Outcome, Outgoing, Send
from dagrad_bus.ids import NodeId, Step
from dagrad_bus.link import Action, Assembled, Dropped, Left, LinkUp, Packed, Rejected, Settled, Stalled
from dagrad_bus.log import get_logger
from dagrad_bus.mailbox import Mailbox
from dagrad_bus.membership import Liveness
from dagrad_bus.metrics import Metrics
from dagrad_bus.rendezvous import Address, publish
from dagrad_bus.settings import Settings
from dagrad_bus.topology.live import TopologySpec, neighbours
from dagrad_bus.transport import open_transport
from dagrad_bus.wire import Bye, ByeReason, CorruptPayload, Heartbeat, Hello, parse


class Engine:
    """One worker's end of the message bus, on the running loop; an async context manager.

    Frames of peers wait in :attr:`mailbox`, outcomes of our own in :attr:`outcomes`; :attr:`states` says which links
    take a frame now. :class:`~dagrad_bus.bus.endpoint.Bus` wraps this for coroutines, ``dagrad_bus.attach`` for training loops.

    Args:
        settings: who this worker is and whom it talks to.
        layout: what is exchanged; peers with another one are refused.
    """

    def __init__(self, settings: Settings, layout: Layout) -> None:
        self.settings = settings
        self.layout = layout
        self.metrics = Metrics()
        self.mailbox = Mailbox(settings.link)
        self.outcomes: deque[Outcome] = deque()
        self.states: tuple[LinkState, ...] = ()
        self.failure: Exception | None = None
        self.on_change: Callable[[], None] | None = None
        """Called after frames, outcomes or link states changed; for owners on the same loop."""
        self.progress: tuple[Step, float, float] = (Step(0), 0.0, 0.0)
        """Step, steps a second and ``time.monotonic()`` of the training thread's last step."""
        self.identity = Identity(settings, layout, time.time_ns())
        self.by_peer: dict[NodeId, Neighbour] = {}
        self.log = get_logger(worker=settings.name)
        self._moved: dict[NodeId, Neighbour] = {}
        self._ended = False
        self._stack = AsyncExitStack()

    @property
    def self_id(self) -> NodeId:
        """This worker's id."""
        return self.identity.node

    @property
    def neighbours(self) -> tuple[NodeId, ...]:
        """Neighbours in the graph."""
        return tuple(self.by_peer)

    async def __aenter__(self) -> Self:
        """Bind, tell the others the address, start.

        Raises:
            StartError: an address cannot be bound, or the run folder cannot be written.
        """
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def _start(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._broken: asyncio.Future[None] = self.loop.create_future()
        self._alarm = Alarm(self.loop, self._tick, self.fail)
        self._stack.callback(self._alarm.disarm)  # first in, last out: until then something may arm it again
        self.transport = self._stack.enter_context(open_transport(self.self_id, self.settings.transport))
        self.threads = self._stack.enter_context(ThreadPoolExecutor(2, thread_name_prefix="dagrad-coder"))
        hello = self.identity.hello(self.transport.inbox, self.transport.beat)
        self._reception = Reception(self.identity, hello, self.settings.link, self.mailbox.has_room)
        members = self.identity.members
        graph = neighbours(self.self_id, members, TopologySpec(degree=self.settings.degree)) if members else ()
        for peer in graph:
            self.by_peer[peer] = Neighbour(peer, members[peer], hello, self.settings.link, self.transport)
        self.liveness = Liveness(graph, self.settings.beat, self.loop.time())
        self._encoder = Bench(self.threads, self._pack, self._submit)
        self._intake = Intake(self)
        self.transport.start(self, self.fail)
        await self._announce()
        self.refresh()
        group = await self._stack.enter_async_context(asyncio.TaskGroup())
        upkeep = Upkeep(self)
        jobs = (self._watch, upkeep.beat, upkeep.judge, upkeep.find_peers, self._encoder.run, self._intake.run)
        self._tasks = [group.create_task(job(), name=f"dagrad.{job.__qualname__}") for job in jobs]
        self._stack.push_async_exit(self._leave)

    async def _announce(self) -> None:
        folder = self.settings.directory
        if folder is None:
            return
        inbox, beat = self.transport.inbox, self.transport.beat
        mine = Address(name=self.settings.name, pid=os.getpid(), epoch=self.identity.epoch, inbox=inbox, beat=beat)
        await self.loop.run_in_executor(self.threads, publish, folder, mine)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Say goodbye, flush until the deadline, stop every task, close every socket.

        What the block raised comes out as it is; what tasks died of, as a group.
        """
        try:
            return await self._stack.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            if group.exceptions == (error,):
                return None
            raise

    async def _leave(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say goodbye if all is well, and stop the tasks. On the stack, so that whatever happens here all is closed."""
        try:
            if kind is None:
                await self._say_goodbye()
        finally:
            self._ended = True
            for task in self._tasks:
                task.cancel()

    async def _say_goodbye(self) -> None:
        """Tell the neighbours, and let what is queued out, as far as the flush time allows."""
        for neighbour in self.by_peer.values():
            neighbour.queue(Bye(reason=ByeReason.LEAVE))
            neighbour.pump(self.loop.time())
        deadline = self.loop.time() + self.settings.transport.flush
        while any(not neighbour.idle for neighbour in self.by_peer.values()):
            if self.loop.time() >= deadline:
                self.metrics.count("unflushed")
                return
            await asyncio.sleep(0.005)

    def fail(self, error: Exception) -> None:
        """Take an exception out of a callback: it ends the bus, like that of a task."""
        if not self._broken.done():
            self._broken.set_exception(error)

    async def _watch(self) -> None:
        await self._broken

    # What the owner hands over ---------------------------------------------------------------------------------

    def publish(self, outgoing: Outgoing) -> None:
        """Send one frame; each of its links gets exactly one outcome, now or later."""
        addressed = [self.by_peer[peer] for peer in outgoing.links if peer in self.by_peer]
        small = outgoing.selection.values.nbytes <= INLINE_BYTES
        if small and not any(neighbour.encoding for neighbour in addressed):
            self._submit(outgoing, self._pack(outgoing))
        elif self._encoder.put(outgoing):
            for neighbour in addressed:
                neighbour.encoding = True
            self.refresh()
        else:
            self._settle(outgoing, outgoing.links, accepted=False)

    def _pack(self, outgoing: Outgoing) -> Packed:
        """Encode; on the loop or beside it."""
        takers = [self.by_peer[peer].codecs for peer in outgoing.links if peer in self.by_peer]
        return pack_frame(outgoing, self.layout, allowed(self.settings.transport.codec, takers))

    def _settle(self, outgoing: Outgoing, links: Sequence[NodeId], *, accepted: bool) -> None:
        self.act(None, [Settled(Outcome(outgoing.job, peer, accepted)) for peer in links])

    def _submit(self, outgoing: Outgoing, packed: Packed) -> None:
        now = self.loop.time()
        self.metrics.count("payload_bytes_encoded", len(packed.payload))
        for peer in outgoing.links:
            neighbour = self.by_peer.get(peer)
            if neighbour is None:
                self._settle(outgoing, (peer,), accepted=False)
                continue
            neighbour.encoding = False
            self.metrics.count("frames_sent")
            self.metrics.count("payload_bytes_sent", len(packed.payload))
            self.act(neighbour, neighbour.out.submit(packed, now))
        self.refresh()

    def drained(self) -> None:
        """Take note that the owner emptied the mailbox: credit that had stopped returns."""
        now = self.loop.time()
        for neighbour in self.by_peer.values():
            if neighbour.incoming is not None:
                self.act(neighbour, neighbour.incoming.drained(now))

    def connect(self, peer: NodeId, inbox: str, beat: str) -> None:
        """Open the connection to a neighbour whose address the owner knows (without a run folder).

        Raises:
            UsageError: ``peer`` is no neighbour in the graph.
        """
        if peer not in self.by_peer:
            raise UsageError(f"{peer.hex()} is no neighbour of {self.settings.name}")
        neighbour = self.by_peer[peer]
        self.act(neighbour, neighbour.broken())
        self.transport.connect(peer, inbox, beat)

    # What the sockets tell -------------------------------------------------------------------------------------

    def received(self, routing: bytes, parts: list[bytes]) -> None:
        """Take one message of the inbox."""
        now = self.loop.time()
        admission = self._reception.admission
        if admission.is_banned(routing, now):
            self.metrics.count("frames_dropped.banned")
            return
        try:
            message = parse(parts)
            if isinstance(message, Hello):
                self._greeted(routing, message, now)
                return
            neighbour = self.by_peer.get(admission.peer_of(routing))
        except RemoteError as error:
            self.metrics.count(f"frames_dropped.{error.code}")
            admission.strike(routing, now)
            if isinstance(error, CorruptPayload):
                self._refuse_by_name(routing, error, now)
            return
        if neighbour is None:
            self.metrics.count("frames_dropped.no_neighbour")
            return
        self.metrics.count("bytes_received", sum(map(len, parts)))
        self._heard(neighbour, now)
        self.act(neighbour, self._reception.handle(neighbour, routing, message, now))

    def _refuse_by_name(self, routing: bytes, error: CorruptPayload, now: float) -> None:
        """Tell the sender of a chunk whose payload was damaged, so that it need not wait for the next receipt."""
        for neighbour in self.by_peer.values():
            incoming = neighbour.incoming
            if incoming is not None and (incoming.routing, incoming.edge) == (routing, error.edge):
                self.act(neighbour, incoming.corrupt(error.seq, now))

    def _heard(self, neighbour: Neighbour, now: float) -> None:
        for action in self.liveness.heard(neighbour.peer, now):
            self.metrics.count("recovered")
            self.log.info("peer_heard_again", peer=self._name_of(action.peer))

    def _greeted(self, routing: bytes, message: Hello, now: float) -> None:
        neighbour = self.by_peer.get(message.node)
        try:
            self.identity.admit(message)
        except RemoteError as error:
            if neighbour is not None and isinstance(error, LayoutMismatch | VersionMismatch):
                neighbour.refusal = str(error)
                self.act(neighbour, [Send(neighbour.peer, self.identity.refusal(error))])
                self._judge_refusals()
            raise
        self._reception.admission.bind(routing, message.node)
        if neighbour is None:
            self.metrics.count("frames_dropped.no_neighbour")
            return
        inbox = f"tcp://{message.host}:{message.inbox_port}"
        if self.transport.address_of(neighbour.peer) != inbox:  # the peer was restarted, or was quicker than its file
            self.connect(neighbour.peer, inbox, f"tcp://{message.host}:{message.beat_port}")
        self.liveness.returned(neighbour.peer)
        self._heard(neighbour, now)
        self.act(neighbour, self._reception.greeted(neighbour, routing, message, now))

    def _judge_refusals(self) -> None:
        """A worker whose neighbours all train another model is the one that is wrong: its owner must hear of it."""
        refusals = [neighbour.refusal for neighbour in self.by_peer.values()]
        if refusals and all(refusals) and self.failure is None:
            self.failure = LayoutMismatch(f"no neighbour trains the same model: {refusals[0]}")

    def beaten(self, peer: NodeId, parts: list[bytes]) -> None:
        """Take a heartbeat from the socket that hears ``peer``."""
        try:
            message = parse(parts)
        except RemoteError as error:
            self.metrics.count(f"frames_dropped.{error.code}")
            return
        self.metrics.count("bytes_received", sum(map(len, parts)))
        if isinstance(message, Heartbeat) and message.node == peer:
            self._heard(self.by_peer[peer], self.loop.time())

    def connection(self, peer: NodeId, *, up: bool) -> None:
        """Take note of a connection made or broken."""
        neighbour = self.by_peer[peer]
        self.metrics.count("connections_made" if up else "connections_broken")
        self.act(neighbour, neighbour.connected(self.loop.time()) if up else neighbour.broken())

    def writable(self, peer: NodeId) -> None:
        """Take note that ``peer``'s socket has room again."""
        self.act(self.by_peer[peer], [])

    # What follows ----------------------------------------------------------------------------------------------

    def act(self, neighbour: Neighbour | None, actions: Sequence[Action]) -> None:
        """Do what the cores said; what follows for the link (sends, timer, view) comes at the end of the burst."""
        for action in actions:
            match action:
                case Send():
                    if neighbour is None:
                        raise AssertionError("a message is always for somebody")
                    neighbour.queue(action.message)
                case Settled():
                    self.metrics.count("frames_accepted" if action.outcome.accepted else "frames_lost")
                    self.outcomes.append(action.outcome)
                case Assembled():
                    self._intake.decode(action)
                case _:
                    self._note(action)
        if neighbour is None:
            self.refresh()
            return
        if not self._moved:  # one look at each link and one view for the owner a burst, not one a message
            self.loop.call_soon(self._settle_moved)
        self._moved[neighbour.peer] = neighbour

    def _note(self, action: LinkUp | Left | Rejected | Stalled | Dropped) -> None:
        """Count what needs nothing else done, and log what is rare."""
        match action:
            case Rejected():
                self.log.warning("link_refused", peer=self._name_of(action.peer), why=action.text)
                self._judge_refusals()
            case LinkUp():
                self.metrics.count("links_up")
                self.log.info("link_up", peer=self._name_of(action.peer))
            case Stalled():
                self.metrics.count("link_stalled")
            case Left():
                self.metrics.count("peers_left")
                self.liveness.left(action.peer)
            case Dropped():
                self.metrics.count(f"frames_dropped.{action.reason}")

    def _name_of(self, peer: NodeId) -> str:
        return self.by_peer[peer].name

    def _settle_moved(self) -> None:
        """Send what the last messages left to be sent, and show the owner what they changed."""
        moved, self._moved = self._moved, {}
        if self._ended:
            return
        try:
            for neighbour in moved.values():
                self._pump(neighbour)
            self.refresh()
        except Exception as error:  # noqa: BLE001  # outermost line of a callback: the bus ends with it
            self.fail(error)

    def _pump(self, neighbour: Neighbour) -> None:
        before = neighbour.sent_bytes
        neighbour.pump(self.loop.time())
        self.metrics.count("bytes_sent", neighbour.sent_bytes - before)
        self._alarm.arm(neighbour.out.next_deadline())
        if neighbour.incoming is not None:
            self._alarm.arm(neighbour.incoming.next_deadline())

    def refresh(self) -> None:
        """Show the owner the links as they are now."""
        self.states = tuple([neighbour.state for neighbour in self.by_peer.values()])
        if self.on_change is not None:
            self.on_change()

    def _tick(self) -> None:
        """Let every core do what is due; acting arms the alarm for what is due next."""
        now = self.loop.time()
        for neighbour in self.by_peer.values():
            incoming = neighbour.incoming.tick(now) if neighbour.incoming is not None else []
            self.act(neighbour, [*neighbour.out.tick(now), *incoming])
